"""Turn a volume's lesion numbers into 3-D lesions, each with the tokens that it owns over all its slices."""

from __future__ import annotations

import numpy as np

from covtoken.data.case import Case, SlicedVolume
from covtoken.economy.volume import LesionTokens
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import token_labels
from covtoken.leak_guard import refuse_labels


def volume_lesions(volume: SlicedVolume, rows: int, cols: int, place: int = 0) -> list[LesionTokens]:
    """Read a volume's lesions, the largest first; pictures are read one at a time.

    In each picture a lesion owns the tokens that ``token_labels`` gives it alone: those it covers by a quarter, and for
    each of its parts the token that holds most of it. A token may belong to two lesions. A lesion that no picture shows
    can neither be kept nor lost, and is left out.

    Args:
        rows, cols: of the token grid of a picture; tokens of a slice are numbered picture by picture.
        place: index to give the lesions as ``volume``.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: numbers that are none, or a lesion without a size.
    """
    refuse_labels(f"the lesions of volume {volume.name!r}")
    sizes, numbers = volume.lesions()
    owned: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {number: [] for number in sizes}
    for index, case in enumerate(volume.cases):
        at, window = divmod(index, volume.n_windows)
        ids = np.asarray(numbers(case))
        for number in _present(ids, sizes, case):
            tokens = np.flatnonzero(token_labels(ids == number, rows, cols).lesion)
            owned[number].append((np.full(len(tokens), at), tokens + window * rows * cols))
    return [
        LesionTokens(*map(np.concatenate, zip(*owned[number], strict=True)), sizes[number], place)
        for number in sorted(sizes, key=lambda number: (-sizes[number], number))
        if owned[number]
    ]


def _present(ids: np.ndarray, sizes: dict[int, float], case: Case) -> list[int]:
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.size == 0:
        raise CovtokenError(f"{case.name}: expected lesion numbers [H, W], got {ids.shape} of {ids.dtype}")
    present = [int(number) for number in np.unique(ids) if number]
    if unknown := [number for number in present if number not in sizes]:
        raise CovtokenError(f"{case.name}: lesion {unknown[0]} has no size; its volume knows {sorted(sizes)}")
    return present
