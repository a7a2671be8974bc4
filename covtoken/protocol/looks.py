"""The log of looks at test splits: a line for every run on one, chained, with what was decided and by which commit."""

from __future__ import annotations

import fcntl
import json
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.paths import project_root
from covtoken.protocol.chain import KEY, digest_of, head_of, linked
from covtoken.protocol.report import GateReport, source_digest


def log_path(*, recorded: bool, root: Path | None = None) -> Path:
    """Give the path of the log: the committed one, or the ignored one of runs that are not recorded."""
    folder = (root or project_root()) / "gate_reports"
    return folder / "test_log.jsonl" if recorded else folder / "_run" / "test_log.jsonl"


def read_looks(root: Path | None = None, *, recorded: bool = True) -> list[dict[str, Any]]:
    """Read the log, oldest look first.

    Raises:
        CovtokenError: a line is no JSON, or was removed or changed.
    """
    path = log_path(recorded=recorded, root=root)
    if not path.exists():
        return []
    try:
        looks = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except ValueError as error:
        raise CovtokenError(f"{path}: not readable as JSON lines ({error}); restore it from git") from error
    head_of(looks, str(path))
    return looks


def append_look(line: dict[str, Any], *, recorded: bool, root: Path | None = None) -> str:
    """Append a line to the log; return its link.

    Raises:
        CovtokenError: the log cannot be written, or one of its lines was removed or changed.
    """
    path = log_path(recorded=recorded, root=root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            fcntl.flock(log, fcntl.LOCK_EX)  # gates may run side by side; closing the file lets go
            line = {"when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **line}
            line = linked(read_looks(root, recorded=recorded), line, str(path))
            log.write(json.dumps(line, sort_keys=True) + "\n")
    except OSError as error:
        raise CovtokenError(
            f"cannot append to {path}: {error.strerror or error}; a look that is not logged does not count, so make it "
            "writable and run again"
        ) from error
    return line[KEY]


def log_look(report: GateReport, lock: str, *, recorded: bool, root: Path | None = None) -> GateReport:
    """Log a look at a test split, before anything else is written: the look has happened even if a write fails.

    Args:
        lock: digest of the lock under which the run was made.

    Returns:
        the report; its provenance names the line of the log. A selection run is no look.
    """
    if report.split in ("selection", "calibration"):
        return report
    gate = report.gate if report.gate == 1 else str(report.gate)
    about = (report.cohort, gate, report.split, report.decision, report_digest(report)[:16], lock)
    link = log_content(*about, recorded=recorded, root=root)
    return replace(report, provenance=report.provenance | {"look": link})


def log_content(
    cohort: str,
    gate: int | str,
    split: str,
    decision: str,
    digest: str,
    lock: str,
    *,
    recorded: bool,
    root: Path | None = None,
) -> str:
    """Log a look of a gate, or of a study on a test split; return the link of its line.

    Args:
        digest: of what the report or table says.
        lock: as in ``log_look``.
    """
    look = {"cohort": cohort, "gate": gate, "split": split, "source_digest": source_digest()[:16], "lock": lock}
    look |= {"decision": decision, "report": digest}
    if recorded:
        look["commit"] = _git("rev-parse", "--short=12", "HEAD", root=root).strip()
    return append_look(look, recorded=recorded, root=root)


def report_digest(report: GateReport) -> str:
    """Hash what a report says, so that the log shows an edit: all but its provenance and a person's sign-off."""
    return digest_of({k: v for k, v in asdict(report).items() if k not in ("provenance", "human_signoff")})


def refuse_uncommitted(root: Path | None = None) -> None:
    """Refuse to record with code or locks that no commit holds: nobody could make those numbers again.

    Raises:
        CovtokenError: a changed file under ``covtoken`` or ``configs``, or a root that is no git checkout.
    """
    if changed := [
        line[3:] for line in _git("status", "--porcelain", "--", "covtoken", "configs", root=root).splitlines()
    ]:
        raise CovtokenError(
            f"--record needs committed code and locks, and these are not: {', '.join(changed[:5])}. Commit them first, "
            "or run without --record"
        )


def _git(*arguments: str, root: Path | None) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=root or project_root(), capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CovtokenError(f"--record needs a git checkout, to say which commit made the numbers: {error}") from error
