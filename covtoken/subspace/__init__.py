"""Label-free subspaces, scores and baselines. Nothing here can read a mask."""
