"""What gate 5 is made of: ways to score the same pictures, rows of its heat maps, and other backbones."""
