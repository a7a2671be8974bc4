"""Coverage functionals and the pruners that obey them."""
