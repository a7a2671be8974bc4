"""Keep, merge or route tokens within a budget, and count what that saves."""
