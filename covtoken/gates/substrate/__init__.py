"""Gate 0's parts: agreement of extractions, pixel-token geometry, checks."""
