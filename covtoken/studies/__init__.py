"""Trials on selection splits or by simulation, which decide no gate."""
