"""Make the tables that notebooks and commands print."""
