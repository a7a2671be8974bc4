"""Records: the per-picture and per-lesion numbers behind a gate's headlines, small enough to commit, without pictures.

From them a notebook recomputes the headline numbers on any machine (book/repeat.md).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_mask_file
from covtoken.paths import write_then_rename

MAX_BYTES = 2_000_000


@dataclass(frozen=True)
class Records:
    """Arrays by name, and how they were made.

    Attributes:
        arrays: numbers only. header: JSON values; holds at least cohort, gate, split and hashed units.
    """

    arrays: dict[str, np.ndarray]
    header: dict[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise CovtokenError(f"the records hold no {name!r}: they have {', '.join(sorted(self.arrays))}")
        return self.arrays[name]


def records_path(root: Path, cohort: str, gate: int | str) -> Path:
    """Where a cohort keeps the committed records of a gate."""
    stem = f"gate{gate}" if str(gate).isdigit() else str(gate)
    stem = "gate5_scores" if stem == "gate5" else stem  # maps beside those of scores.safetensors, not counts
    return root / "gate_reports" / cohort / f"{stem}.safetensors"


def save_records(records: Records, path: Path) -> Path:
    """Write the file, whole or not at all.

    Raises:
        CovtokenError: more than 2 MB, or an array that is no array of numbers.
    """
    for name, array in records.arrays.items():
        if array.dtype.kind not in "biuf":
            raise CovtokenError(f"records: {name} is {array.dtype}, expected numbers")
    return write_arrays(records.arrays, records.header, path, "columns")


def write_arrays(arrays: dict[str, np.ndarray], header: dict[str, Any], path: Path, what: str) -> Path:
    """Write arrays, a header and their digest, whole or not at all, at most 2 MB; ``what``: to record fewer of."""
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    tensors = {name: np.asarray(array, array.dtype.newbyteorder("="), order="C") for name, array in arrays.items()}
    with write_then_rename(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"header": text, "sha256": _digest(tensors, text)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error
        if temporary.stat().st_size > MAX_BYTES:
            raise CovtokenError(f"{path}: {temporary.stat().st_size} bytes, at most {MAX_BYTES}: record fewer {what}")
    return path


def load_records(path: Path) -> Records:
    """Read records.

    Raises:
        CovtokenError: the file is missing, truncated or edited.
    """
    if not path.exists():
        raise CovtokenError(
            f"no records at {path}: write them with `covtoken gate {path.stem.removeprefix('gate')} … --record`"
        )
    return Records(*read_arrays(path))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and header of a file that ``write_arrays`` wrote.

    Raises:
        CovtokenError: the file is truncated or edited.
        LabelLeak: during construction, the file is a mask.
    """
    refuse_mask_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CovtokenError(f"{path}: truncated or no safetensors file ({error}); restore it from git") from error
    if meta.get("sha256") != _digest(arrays, meta.get("header", "")):
        raise CovtokenError(f"{path}: its content does not fit its digest; restore it from git")
    return arrays, json.loads(meta["header"])


def _digest(arrays: dict[str, np.ndarray], header: str) -> str:
    """sha256 over a header and arrays with their names, types and shapes."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()
