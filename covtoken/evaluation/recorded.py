"""Recorded scores: the token scores behind the headline numbers, small enough to commit, for anyone to recompute.

No picture is in the file: scores rounded to float16 *before* any report is computed from them, lesion and ignore
flags of tokens, lesions with their areas, and units as hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.evaluation.records import read_arrays, write_arrays

MAX_SCORERS = 10


@dataclass(frozen=True)
class RecordedScores:
    """Scores [N, T] by scorer name (float16 values), the labels they are held against, and how they were made.

    Attributes:
        header: cohort, split, backbone, rows, cols, recipes and middle block, data fingerprint, weights sha256.
    """

    scores: dict[str, np.ndarray]
    labels: SplitLabels
    header: dict[str, Any]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of the token grid."""
        return self.header["rows"], self.header["cols"]

    def path(self, root: Path) -> Path:
        """Where the cohort keeps its committed scores."""
        return scores_path(root, self.header["cohort"])


def scores_path(root: Path, cohort: str) -> Path:
    """Where a cohort keeps its committed scores."""
    return root / "gate_reports" / cohort / "scores.safetensors"


def to_float16(maps: np.ndarray) -> np.ndarray:
    """Round scores [N, T] to float16 after a monotone shift and scale into [0, 1], which keeps AUROC meaningful.

    A distance of 60 with differences of 0.01 would drown in float16; centred on the scorer's own range it does not.
    """
    low, high = float(maps.min()), float(maps.max())
    return ((maps - low) / (high - low if high > low else 1.0)).astype(np.float16)


def save_scores(recorded: RecordedScores, path: Path) -> Path:
    """Write the file, whole or not at all.

    Raises:
        CovtokenError: more than ten scorers, or more than 2 MB.
    """
    if len(recorded.scores) > MAX_SCORERS:
        raise CovtokenError(
            f"{len(recorded.scores)} scorers to record, at most {MAX_SCORERS}: {sorted(recorded.scores)}"
        )
    labels = recorded.labels
    flat = [lesion.tokens for lesion in labels.lesions]
    tensors = {f"scores/{name}": maps.astype(np.float16) for name, maps in recorded.scores.items()}
    tensors |= {
        "lesion": np.packbits(labels.lesion, axis=1),
        "ignore": np.packbits(labels.ignore, axis=1),
        "unit": labels.unit.astype(np.int32),
        "lesions/picture": np.array([lesion.picture for lesion in labels.lesions], dtype=np.int32),
        "lesions/area": np.array([lesion.area for lesion in labels.lesions], dtype=np.float32),
        "lesions/share": np.array([lesion.share for lesion in labels.lesions], dtype=np.float32),
        "lesions/size": np.array([len(tokens) for tokens in flat], dtype=np.int32),
        "lesions/tokens": (np.concatenate(flat) if flat else np.zeros(0)).astype(np.int32),
    }
    if labels.organ is not None:
        tensors["organ"] = np.packbits(labels.organ, axis=1)
    header = recorded.header | {"n_tokens": int(labels.lesion.shape[1])}
    return write_arrays(tensors, header, path, "scorers")


def load_scores(path: Path) -> RecordedScores:
    """Read recorded scores.

    Raises:
        CovtokenError: the file is missing, truncated or edited.
    """
    if not path.exists():
        raise CovtokenError(f"no recorded scores at {path}: record them with `covtoken gate 1 --split test --record`")
    tensors, header = read_arrays(path)
    n_tokens = header["n_tokens"]

    def bits(name: str) -> np.ndarray:
        return np.unpackbits(tensors[name], axis=1, count=n_tokens).astype(bool)

    tokens = np.split(tensors["lesions/tokens"], np.cumsum(tensors["lesions/size"])[:-1])
    lesions = tuple(
        Lesion(tokens=t.astype(np.int64), area=float(area), share=float(share), picture=int(picture))
        for t, area, share, picture in zip(
            tokens, tensors["lesions/area"], tensors["lesions/share"], tensors["lesions/picture"], strict=False
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
