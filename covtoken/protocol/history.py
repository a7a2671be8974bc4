"""The history keeps every rule, recipe or functional that changed after a test split was looked at.

``configs/history.json`` is its one source: what changed, when, why, and each verdict before and after. Lines are
chained and only ever appended.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.paths import project_root, write_then_rename
from covtoken.protocol.chain import KEY, head_of, linked
from covtoken.protocol.report import DECISIONS

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"  # of a fixed width, so that times compare as text
GATES = ("0", "1", "2", "3", "4", "5", "6", "alarm", "negative_result", "confirmation")


@dataclass(frozen=True)
class Verdict:
    """The decision of a gate on a cohort, before and after a change."""

    cohort: str
    gate: str
    before: str  # GO, NO-GO or NO-VERDICT
    after: str

    def __post_init__(self) -> None:
        for decision in (self.before, self.after):
            if decision not in DECISIONS:
                raise CovtokenError(f"history: verdict {decision!r}, expected one of {', '.join(DECISIONS)}")


@dataclass(frozen=True)
class Change:
    """A change that was made after a look.

    Attributes:
        when: date and time, UTC, as in the log of looks.
        commit: the commit that made it, abbreviated, or "" where none holds it.
        gates: gates that it concerns.
        change: what was changed.
        reason: why.
        verdicts: verdicts that moved; none: it moved none.
        numbers: what moved beside verdicts, in words, or "".
        forms_tried: how many forms were looked at before this one was taken, in words, or "".
    """

    when: str
    commit: str
    gates: tuple[str, ...]
    change: str
    reason: str
    verdicts: tuple[Verdict, ...] = ()
    numbers: str = ""
    forms_tried: str = ""


def history_path(root: Path | None = None) -> Path:
    """Give the path of the history."""
    return (root or project_root()) / "configs" / "history.json"


def read_history(root: Path | None = None) -> list[Change]:
    """Read the history, oldest first.

    Raises:
        CovtokenError: the file is no JSON, a line was removed or changed, or holds what a change does not.
    """
    return [change_from(line, history_path(root)) for line in _lines(root)]


def append_change(change: Change, root: Path | None = None) -> None:
    """Append a change to the history.

    Raises:
        CovtokenError: it is older than the last one, lies in the future, or is no change.
    """
    lines, path = _lines(root), history_path(root)
    change_from(json.loads(json.dumps(asdict(change))), path)
    if change.when > now():
        raise CovtokenError(f"{path}: the change of {change.when} lies in the future, it is {now()}: give its own time")
    if lines and change.when < lines[-1]["when"]:
        raise CovtokenError(f"{path}: the change of {change.when} is older than the last one, of {lines[-1]['when']}")
    lines.append(linked(lines, json.loads(json.dumps(asdict(change))), str(path)))
    with write_then_rename(path) as temporary:
        temporary.write_text(json.dumps(lines, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def now() -> str:
    """Give the time, UTC, as lines of the history and of the log of looks hold it."""
    return datetime.now(UTC).strftime(TIME_FORMAT)


def _lines(root: Path | None) -> list[dict[str, Any]]:
    path = history_path(root)
    if not path.exists():
        return []
    try:
        lines = json.loads(path.read_text())
    except ValueError as error:
        raise CovtokenError(f"{path}: not readable as JSON ({error}); restore it from git") from error
    head_of(lines, str(path), linked_before=True)
    return lines


def change_from(line: dict[str, Any], path: Path) -> Change:
    """Make a change from its JSON form; ``path`` names the file in the error."""
    try:
        fields = {key: value for key, value in line.items() if key != KEY}
        verdicts = tuple(Verdict(**verdict) for verdict in fields.pop("verdicts", ()))
        if datetime.strptime(fields["when"], TIME_FORMAT).strftime(TIME_FORMAT) != fields["when"]:
            raise ValueError(f"when is {fields['when']!r}, expected as 2026-01-31T09:00:00Z")
        if wrong := sorted({*fields["gates"], *(v.gate for v in verdicts)} - set(GATES)):
            raise CovtokenError(f"{path}: unknown gate {wrong[0]!r}, known: {', '.join(GATES)}")
        return Change(**fields | {"gates": tuple(fields["gates"]), "verdicts": verdicts})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CovtokenError(
            f"{path}: a change holds {', '.join(Change.__dataclass_fields__)}; this one does not fit ({error})"
        ) from error
