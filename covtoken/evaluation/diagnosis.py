"""Read which pictures show a benign and which a malignant lesion: a label, so it passes the leak guard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels

UNKNOWN = -1
_NUMBER = {"malignant": 1, "benign": 0}  # normal: no lesion that could be either


def diagnoses(cohort: Cohort, cases: Sequence[Case]) -> np.ndarray:
    """Give the diagnosis of each case, [N] int8: 1 malignant, 0 benign, −1 normal or unknown.

    It comes from the case's mask reference, where the reader put what the data set says; a name tells nothing.

    Args:
        cohort: holds the mask references.
        cases: of that cohort, in the order of the result.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: a case without an entry in ``cohort.masks``.
    """
    refuse_labels(f"the diagnoses of cohort {cohort.name!r}")
    missing = [case.name for case in cases if case.name not in cohort.masks]
    if missing:
        raise CovtokenError(f"cohort {cohort.name!r}: case {missing[0]!r} has no mask entry; it has no diagnosis")
    return np.array([_NUMBER.get(cohort.masks[case.name].diagnosis, UNKNOWN) for case in cases], dtype=np.int8)
