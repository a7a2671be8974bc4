"""Choose, search, save and condense banks: the tokens kept of unlabelled pictures."""
