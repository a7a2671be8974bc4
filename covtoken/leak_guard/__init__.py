"""No label is read while a subspace or a bank is built: the guard, the files it knows, what labels look like."""

from covtoken.leak_guard.guard import (
    LabelLeak,
    construction,
    refuse_label_arrays,
    refuse_label_choice,
    refuse_labels,
    refuse_mask_file,
    register_mask_files,
    under_construction,
)

__all__ = [
    "LabelLeak",
    "construction",
    "refuse_label_arrays",
    "refuse_label_choice",
    "refuse_labels",
    "refuse_mask_file",
    "register_mask_files",
    "under_construction",
]
