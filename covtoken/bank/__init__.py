"""Banks: which tokens of unlabelled pictures are kept, how they are searched, saved and condensed."""
