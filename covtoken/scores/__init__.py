"""Run scores by name: recipes, places to choose from, memberships, baselines, the label-free alarm."""
