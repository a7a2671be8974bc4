"""Tables that notebooks and commands print."""
