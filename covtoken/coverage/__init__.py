"""Measure coverage, and prune within a coverage floor."""
