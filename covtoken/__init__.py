"""covtoken: label-free lesion subspaces in frozen vision transformers."""

__version__ = "0.1.0"
