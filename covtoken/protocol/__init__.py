"""Plans and thresholds fixed before a look at a test split, their locks, and the reports and log of looks."""
