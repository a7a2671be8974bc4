"""Run frozen vision transformers: pictures in, token grids out."""
