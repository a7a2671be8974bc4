"""Offer the package as the ``covtoken`` command."""
