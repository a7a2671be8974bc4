"""Look a cohort's files over before a gate does: counts, sizes, and whatever is wrong, a line each."""
