"""What is fixed before a look at a test split, how it is kept, and how a look is written down."""
