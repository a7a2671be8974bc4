"""What a label looks like when it is handed in as a feature: by type, by dtype and by value."""

from __future__ import annotations

from collections.abc import Mapping

_MARKS = ("lesion", "lesions", "at_least", "share")  # attributes of TokenLabels, SplitLabels, MaskRef and Lesion
_PROBE = 4096  # values looked at before all are


def looks_like_a_label(argument: object, depth: int = 2) -> str:
    """What makes an argument look like a label, or "".

    Arrays must be floating point and take more than the values 0 and v: a mask cast to float still has only those.
    Containers and attributes are searched ``depth`` deep. A mask resampled to shades of grey passes for a feature.
    """
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
    return next((reason for value in inside if (reason := looks_like_a_label(value, depth - 1))), "")


def _array(values) -> str:
    if _is_boolean(values):
        return "a boolean array, as masks and labels are"
    if "float" not in str(values.dtype):
        return f"{values.dtype} values, as label maps have: features are floating point"
    flat = values.reshape(-1)
    if not _more_than_two(flat[:_PROBE]) and not _more_than_two(flat) and bool((flat != flat[0]).any()):
        return "only zeros and one other value, as a mask cast to numbers does"
    return ""


def _more_than_two(flat) -> bool:
    """Whether values other than 0 and one v occur (a constant is within 0 and v)."""
    if len(flat) == 0:
        return True
    low, top = flat.min(), flat.max()
    other = top if bool(low == 0) else low
    return not bool(((flat == 0) | (flat == other)).all())


def _is_boolean(values) -> bool:
    return str(getattr(values, "dtype", "")) in ("bool", "torch.bool")
