"""Hold scores against masks, which enter here, after scores exist."""
