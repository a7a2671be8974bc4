"""What was tried on selection splits or by simulation. No gate."""
