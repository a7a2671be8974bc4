"""Keep tokens of a person's own pictures: certify how many, say which, and time the pass that skips the others."""
