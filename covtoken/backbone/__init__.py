"""Frozen vision transformers: pictures in, token grids out."""
