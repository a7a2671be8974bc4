"""Write pictures into shards and open them as cases, so that machines without the data's own layout can read them.

The i-th of n shards holds every n-th case, from the i-th on. No mask goes in. Names and units go in as they are: keep
the files where the data may be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from covtoken.data.case import Case, picture_digest
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_mask_file
from covtoken.shards.store import digest_of, read_manifest, shard_path, whole, write_shard

KIND = "pictures"
_FIELDS = ("name", "unit", "modality", "source", "spacing_mm", "slice_index", "organ", "volume", "slice_mm")


def write_pictures(cases: Sequence[Case], folder: Path, i: int, n: int) -> bool:
    """Write the i-th of n shards of the cases, unless it is there.

    Args:
        cases: of the whole cohort, in order; of another shard's nothing but the name is read.

    Returns:
        whether it was written.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: a picture that cannot be read, more shards than cases, or a shard of another cohort is there.
    """
    if not 1 <= i <= n <= len(cases):
        raise CovtokenError(f"shard {i} of {n}: expected 1 ≤ i ≤ n ≤ {len(cases)}, the number of cases")
    key = {"cases_sha256": digest_of([[case.name, case.unit] for case in cases]), "cases": len(cases)}
    path = shard_path(folder, KIND, i, n)
    if read_manifest(path, key, verify=True) is not None:
        return False
    tensors, told = {}, []
    with construction("a shard of pictures"):
        for row, case in enumerate(cases[i - 1 :: n]):
            pixels = case.pixels()
            tensors[f"picture{row:06d}"] = torch.from_numpy(_small(pixels))
            told.append({name: getattr(case, name) for name in _FIELDS} | {"digest": picture_digest(pixels)})
    write_shard(path, key, tensors, {"rows": told})
    return True


def open_pictures(folder: Path, most: int | None = None) -> tuple[list[Case], list[str], int]:
    """Open the cases of all shards from their manifests.

    Args:
        most: the first so many cases (None: all).

    Returns:
        the cases in the cohort's order; the digests of their pictures; the number of shards.

    Raises:
        CovtokenError: shards that are missing, or of different cohorts.
    """
    if most is not None and most < 1:
        raise CovtokenError(f"{most} cases at most: expected 1 or more")
    shards = whole(folder, KIND)
    n = len(shards)
    placed = {}
    for first, (path, told) in enumerate(shards):
        for row, entry in enumerate(told["rows"]):
            about = {name: entry[name] for name in _FIELDS}
            about["spacing_mm"] = tuple(about["spacing_mm"]) if about["spacing_mm"] else None
            placed[first + row * n] = Case(load=Stored(path, f"picture{row:06d}"), **about), entry["digest"]
    ordered = [placed[place] for place in sorted(placed)][:most]
    return [case for case, _ in ordered], [digest for _, digest in ordered], n


@dataclass(frozen=True)
class Stored:
    """Load a picture from its shard, [H, W] float32."""

    path: Path
    name: str

    def __call__(self) -> np.ndarray:
        refuse_mask_file(self.path)
        try:
            with safe_open(self.path, framework="np") as file:
                return file.get_tensor(self.name).astype(np.float32)
        except (SafetensorError, OSError) as error:
            raise CovtokenError(f"{self.path}: {self.name} cannot be read ({error}); write the shard again") from error


def _small(pixels: np.ndarray) -> np.ndarray:
    """Keep whole numbers in the smallest type that gives them back exactly."""
    for kind in (np.uint8, np.int16):
        info = np.iinfo(kind)
        if info.min <= pixels.min() and pixels.max() <= info.max and (pixels == np.rint(pixels)).all():
            return pixels.astype(kind)
    return np.ascontiguousarray(pixels)
