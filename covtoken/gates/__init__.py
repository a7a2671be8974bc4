"""Questions with a number, a threshold and a decision."""
