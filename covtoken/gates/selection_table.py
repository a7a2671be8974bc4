"""Tables of what was tried on a selection split: written and read in one form beside the gate reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.gates.report import report_path
from covtoken.paths import write_then_rename


def write_table(content: dict[str, Any], stem: str, *, recorded: bool, root: Path | None = None) -> Path:
    """Write to ``gate_reports/<cohort>/<stem>.json``, or to the ignored ``_run`` folder."""
    path = report_path(content["cohort"], stem, recorded=recorded, root=root)
    with write_then_rename(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def read_table(cohort: str, stem: str, schema: str, command: str, root: Path | None = None) -> dict[str, Any]:
    """A committed table.

    Args:
        schema: that its content must name. command: that records it, for the errors.

    Raises:
        CovtokenError: none is recorded, it is not readable, or of another schema or split.
    """
    path = report_path(cohort, stem, recorded=True, root=root)
    again = f"run `{command} --cohort {cohort} --record`"
    if not path.is_file():
        raise CovtokenError(f"no table at {path}: {again}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CovtokenError(f"{path}: not readable as JSON ({error}); restore it from git") from error
    known = content if isinstance(content, dict) else {}
    if known.get("schema") != schema or known.get("split") != "selection":
        raise CovtokenError(f"{path}: expected schema {schema!r} on the selection split; {again}")
    return content
