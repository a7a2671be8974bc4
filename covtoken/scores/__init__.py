"""Scores by name: recipes, what may be chosen, memberships, baselines, the label-free alarm."""
