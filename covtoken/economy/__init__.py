"""Keep or merge tokens within a budget, and count what that saves."""
