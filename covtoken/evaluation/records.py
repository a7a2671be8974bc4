"""Write and read records: token scores, or numbers a lesion, without pictures and small enough to commit.

From them a notebook recomputes a gate's headline numbers on any machine (book/repeat.md).
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
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.leak_guard import refuse_mask_file
from covtoken.paths import write_then_rename

MAX_BYTES = 2_000_000
MAX_SCORERS = 13  # a column


@dataclass(frozen=True)
class Records:
    """Arrays by name, and how they were made."""

    arrays: dict[str, np.ndarray]  # numbers only
    header: dict[str, Any]  # JSON values; holds at least cohort, gate, split and hashed units

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise CovtokenError(f"the records hold no {name!r}: they have {', '.join(sorted(self.arrays))}")
        return self.arrays[name]


def records_path(root: Path, cohort: str, gate: int | str) -> Path:
    """Give the path of a cohort's committed records for a gate."""
    stem = f"gate{gate}" if str(gate).isdigit() else str(gate)
    stem = "gate5_scores" if stem == "gate5" else stem  # maps beside those of scores.safetensors, not counts
    return root / "gate_reports" / cohort / f"{stem}.safetensors"


def save_records(records: Records, path: Path) -> Path:
    """Write records, whole or not at all. Raises CovtokenError on more than 2 MB or an array that holds no numbers."""
    for name, array in records.arrays.items():
        if array.dtype.kind not in "biuf":
            raise CovtokenError(f"records: {name} is {array.dtype}, expected numbers")
    return write_arrays(records.arrays, records.header, path, "columns")


def write_arrays(arrays: dict[str, np.ndarray], header: dict[str, Any], path: Path, what: str) -> Path:
    """Write arrays and a JSON header, with a digest over both, to one safetensors file of at most 2 MB, or nothing.

    Args:
        what: plural noun for the size error ("record fewer {what}").
    """
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
    """Read records. Raises CovtokenError if the file is missing, truncated or edited."""
    if not path.exists():
        raise CovtokenError(
            f"no records at {path}: write them with `covtoken gate {path.stem.removeprefix('gate')} … --record`"
        )
    return Records(*read_arrays(path))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read arrays and header from a file that ``write_arrays`` wrote.

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
    """Compute the sha256 over a header and arrays with their names, types and shapes."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class RecordedScores:
    """Scores, the labels they are held against, and how they were made.

    The file holds no picture: scores rounded to float16 *before* any report is computed from them, lesion and ignore
    flags of tokens, lesions with their areas and a flag of small ones, and units as hashes.
    """

    scores: dict[str, np.ndarray]  # [N, T] by scorer name, float16 values
    labels: SplitLabels
    header: dict[str, Any]  # cohort, split, backbone, rows, cols, recipes, middle block, data and weights fingerprints

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of the token grid."""
        return self.header["rows"], self.header["cols"]

    def path(self, root: Path) -> Path:
        """Give the path of the cohort's committed scores."""
        return scores_path(root, self.header["cohort"])


def scores_path(root: Path, cohort: str) -> Path:
    """Give the path of a cohort's committed scores."""
    return root / "gate_reports" / cohort / "scores.safetensors"


def to_float16(maps: np.ndarray, span: tuple[float, float] | None = None) -> np.ndarray:
    """Round scores [N, T] to float16 after a monotone shift and scale into [0, 1], which keeps AUROC meaningful.

    Distances near 60 that differ by 0.01 would drown in float16; on the scorer's own range they do not.

    Args:
        span: the lowest and the highest score, which become 0 and 1 (None: of these maps). Thresholds carry over only
            between maps of one span.
    """
    low, high = span or span_of(maps)
    return ((maps - low) / (high - low if high > low else 1.0)).astype(np.float16)


def span_of(maps: np.ndarray) -> tuple[float, float]:
    """Give the lowest and the highest score of maps."""
    return float(maps.min()), float(maps.max())


def save_scores(recorded: RecordedScores, path: Path, n_columns: int = 1) -> Path:
    """Write scores, whole or not at all; ``n_columns``: in how many ways the same pictures are scored.

    Raises:
        CovtokenError: more than thirteen scorers a column, or more than 2 MB.
    """
    scores, labels, most = recorded.scores, recorded.labels, MAX_SCORERS * n_columns
    if len(scores) > most:
        raise CovtokenError(f"{len(scores)} scorers to record, at most {most}: {sorted(scores)}")
    flat = [lesion.tokens for lesion in labels.lesions]
    tensors = {f"scores/{name}": maps.astype(np.float16) for name, maps in scores.items()}
    tensors |= {
        "lesion": np.packbits(labels.lesion, axis=1),
        "ignore": np.packbits(labels.ignore, axis=1),
        "unit": labels.unit.astype(np.int32),
        "lesions/picture": np.array([lesion.picture for lesion in labels.lesions], dtype=np.int32),
        "lesions/area": np.array([lesion.area for lesion in labels.lesions], dtype=np.float32),
        "lesions/share": np.array([lesion.share for lesion in labels.lesions], dtype=np.float32),
        "lesions/small": np.array([lesion.small for lesion in labels.lesions], dtype=np.uint8),
        "lesions/size": np.array([len(tokens) for tokens in flat], dtype=np.int32),
        "lesions/tokens": (np.concatenate(flat) if flat else np.zeros(0)).astype(np.int32),
    }
    if labels.organ is not None:
        tensors["organ"] = np.packbits(labels.organ, axis=1)
    header = recorded.header | {"n_tokens": int(labels.lesion.shape[1])}
    return write_arrays(tensors, header, path, "scorers")


def load_scores(path: Path) -> RecordedScores:
    """Read recorded scores. Raises CovtokenError if the file is missing, truncated or edited."""
    if not path.exists():
        raise CovtokenError(f"no recorded scores at {path}: record them with `covtoken gate 1 --split test --record`")
    tensors, header = read_arrays(path)
    n_tokens = header["n_tokens"]

    def bits(name: str) -> np.ndarray:
        return np.unpackbits(tensors[name], axis=1, count=n_tokens).astype(bool)

    tokens = np.split(tensors["lesions/tokens"], np.cumsum(tensors["lesions/size"])[:-1])
    lesions = tuple(
        Lesion(t.astype(np.int64), float(area), float(share), int(picture), bool(small))
        for t, area, share, picture, small in zip(
            tokens, *(tensors[f"lesions/{key}"] for key in ("area", "share", "picture", "small")), strict=False
        )
    )
    labels = SplitLabels(
        lesion=bits("lesion"),
        ignore=bits("ignore"),
        organ=bits("organ") if "organ" in tensors else None,
        unit=tensors["unit"].astype(np.int64),
        lesions=lesions,
        unit_names=tuple(header.get("units", ())),
        names=(),
        rows=header["rows"],
        cols=header["cols"],
    )
    scores = {name.removeprefix("scores/"): t for name, t in tensors.items() if name.startswith("scores/")}
    return RecordedScores(scores, labels, header)
