"""The ``covtoken`` command."""
