"""Ablations: one thing changed at a time, on a selection split."""
