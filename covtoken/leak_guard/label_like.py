"""Recognise a label that is handed in as a feature: by type, by dtype and by value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_MARKS = ("lesion", "lesions", "at_least", "share")  # attributes of TokenLabels, SplitLabels, MaskRef and Lesion
_FEW = 3  # distinct values: of a mask, with one more for what is to be ignored
_PROBE = 4096  # values looked at before all are
_ROWS = 64  # tokens looked at for channels of few values before all are
_OFTEN = 8  # tokens off a channel's commonest value that make it a mask; a rare activation has fewer


def looks_like_a_label(argument: object) -> str:
    """Say why an argument looks like a label, or give "".

    Arrays and nested lists of numbers must be floating point and take more than three values (a mask has two, or three
    with an ignored value). Tokens [N, T, D] must also hold no channel of so few values beside channels of many, nor be
    zero at some places alone. Containers and attributes are searched for boolean arrays and label objects. A mask
    resampled to shades of grey passes for a feature.
    """
    if isinstance(argument, (list, tuple)):
        try:
            numbers = np.asarray(argument)
        except (TypeError, ValueError, RuntimeError):  # ragged, or of objects
            numbers = np.empty(0, dtype=object)
        if numbers.size and numbers.dtype.kind in "biuf":
            return _array(numbers)
    return _search(argument, depth=2)


def _search(argument: object, depth: int) -> str:
    if argument is None or isinstance(argument, (str, bytes, int, float)):
        return ""
    if any(hasattr(argument, mark) for mark in _MARKS):
        return "a label (token labels, a lesion or a mask reference)"
    if hasattr(argument, "dtype") and hasattr(argument, "shape"):
        return _array(argument)
    if depth == 0:
        return ""
    if isinstance(argument, Mapping):
        inside = list(argument.values())
    elif isinstance(argument, (list, tuple, set, frozenset)):
        inside = list(argument)
    else:  # an object: its attributes, among which integers (units, positions) are no labels
        held = list(getattr(argument, "__dict__", {}).values())
        inside = [value for value in held if not hasattr(value, "dtype") or _is_boolean(value)]
    return next((reason for value in inside if (reason := _search(value, depth - 1))), "")


def _array(values) -> str:
    if _is_boolean(values):
        return "a boolean array, as masks and labels are"
    if "float" not in str(values.dtype):
        return f"{values.dtype} values, as label maps have: features are floating point"
    flat = values.reshape(-1)
    n = _distinct(flat) if _distinct(flat[:_PROBE]) <= _FEW else _FEW + 1
    if 2 <= n <= _FEW and len(flat) >= 4 * (n - 1):
        return f"only {n} values, as a mask cast to numbers does"
    return _tokens(values.reshape(-1, values.shape[2])) if values.ndim == 3 else ""


def _tokens(rows) -> str:
    """Say whether a mask cut some of the tokens [n, D] out, or rides along as a channel."""
    if 0 in rows.shape:
        return ""
    maybe = rows[rows[:, 0] == 0]
    if len(maybe) and 0 < int((maybe == 0).all(1).sum()) < len(rows):
        return "tokens that are zero beside others that are not, as a mask cuts them out"
    sample = rows[:: len(rows) // _ROWS | 1]  # odd: not the same corner of every picture
    sample = np.sort(sample.float().cpu().numpy() if hasattr(sample, "cpu") else sample, axis=0)
    few = (sample[1:] != sample[:-1]).sum(0) < _FEW
    if few.all():  # pictures that hold nothing: no channel says more than another
        return ""
    for channel in np.flatnonzero(few):
        column = rows[:, int(channel)]
        if 2 <= _distinct(column) <= _FEW and len(column) - _commonest(column) >= _OFTEN:
            return f"a channel ({channel}) of {_distinct(column)} values beside others of many, as an added mask has"
    return ""


def _distinct(flat) -> int:
    """Count distinct values, up to one more than ``_FEW``; NaN counts as many."""
    for n in range(_FEW + 1):
        if not len(flat):
            return n
        flat = flat[flat != flat[0]]
    return _FEW + 1


def _commonest(column) -> int:
    """Count the commonest of a few values."""
    most = 0
    while len(column):
        rest = column[column != column[0]]
        most, column = max(most, len(column) - len(rest)), rest
    return most


def _is_boolean(values) -> bool:
    return str(getattr(values, "dtype", "")) in ("bool", "torch.bool")
