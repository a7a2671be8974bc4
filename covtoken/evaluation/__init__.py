"""Where masks enter, after scores exist."""
