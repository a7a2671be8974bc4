"""What gates 2 to 4 and the negative result share: lesion pictures, and what a method keeps of them."""
