"""Fit label-free subspaces and directions to a bank. Nothing here can read a mask."""
