"""Commands of a person's own pictures and of this installation, a file for each few."""
