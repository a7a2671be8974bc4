"""Refuse labels while a subspace or a bank is built: the guard, the mask files it knows, the look of labels."""

from covtoken.leak_guard.guard import (  # noqa: F401 - the package's face
    LabelLeak,
    construction,
    refuse_label_arrays,
    refuse_label_choice,
    refuse_labels,
    refuse_mask_file,
    register_mask_files,
    under_construction,
)
