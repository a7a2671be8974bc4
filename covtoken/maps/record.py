"""Record a run: run.json, whose form ``run.schema.json`` fixes, and cases.csv, a line a case.

Times and memory stand here alone, so that the folders of two runs can be compared byte by byte.
"""

from __future__ import annotations

import csv
import hashlib
import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covtoken.maps.inputs.listing import Input
from covtoken.maps.outputs import write_json
from covtoken.paths import PACKAGE, write_then_rename

SCHEMA = PACKAGE / "maps" / "run.schema.json"
VERSION = 1
DONE, KEPT, FAILED, WAITING = "done", "kept", "failed", "not reached"
_COLUMNS = ("case", "input", "status", "reason", "seconds", "peak_memory_mb", "slices", "flagged_share", "top_rank")
_COLUMNS += ("top_flagged", "top_px", "top_mm")


@dataclass
class Outcome:
    """What became of a case.

    Attributes:
        status: ``done``, ``kept`` (mapped by an earlier run with the same settings), ``failed`` or ``not reached``.
        reason: of a failure.
        seconds, peak_memory_mb: of this run; None where it did nothing. Memory is the process's highest so far.
        content: of case.json, or None.
    """

    item: Input
    sha256: str | None
    status: str = WAITING
    reason: str = ""
    seconds: float | None = None
    peak_memory_mb: float | None = None
    content: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the case's entry in run.json."""
        return {
            "case": self.item.name,
            "input": self.item.where,
            "sha256": self.sha256,
            "status": self.status,
            "reason": self.reason or None,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "peak_memory_mb": self.peak_memory_mb,
        }


def write_records(out: Path, suffix: str, run: dict[str, Any], outcomes: list[Outcome]) -> Path:
    """Write cases.csv, then run.json; ``suffix`` goes into both names. Returns the path of run.json."""
    with (
        write_then_rename(out / f"cases{suffix}.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as s,
    ):
        table = csv.DictWriter(s, _COLUMNS)
        table.writeheader()
        table.writerows(_row(outcome) for outcome in outcomes)
    path = out / f"run{suffix}.json"
    with write_then_rename(path) as temporary:
        write_json(temporary, run | {"cases": [outcome.to_json() for outcome in outcomes]})
    return path


def input_sha256(item: Input) -> str:
    """Hash an input's bytes: of its file, or over the hashes of a series' files in order."""
    digests = []
    for file in item.files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def sha256_of(content: Any) -> str:
    """Hash anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def peak_memory_mb() -> float:
    """Give the most memory that this process has held so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _row(outcome: Outcome) -> dict[str, Any]:
    entry, content = outcome.to_json(), outcome.content or {}
    top = (content.get("regions") or [{}])[0]
    px, mm = (top.get("peak") or {}).get("px"), (top.get("peak") or {}).get("mm")
    return {column: entry.get(column) for column in _COLUMNS} | {
        "slices": content.get("slices"),
        "flagged_share": (content.get("flagged") or {}).get("share"),
        "top_rank": top.get("rank"),
        "top_flagged": top.get("flagged"),
        "top_px": "" if px is None else " ".join(f"{axis}={value:g}" for axis, value in px.items()),
        "top_mm": "" if mm is None else " ".join(f"{value:g}" for value in mm),
    }
