"""Write the history of changes made after a look, for the summary, the pages and the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from covtoken.names import cohort_name
from covtoken.paper.numbers import gate_name
from covtoken.protocol.history import Change

HEAD = ["when (UTC)", "gates", "change", "verdicts", "why"]


def history_rows(changes: Iterable[Change]) -> list[list[str]]:
    """Write a row a change: when, gates, what changed and after how many forms, verdicts before → after, why."""
    rows = []
    for change in changes:
        when = change.when[:16].replace("T", " ") + (f", {change.commit}" if change.commit else "")
        forms = f" Forms looked at before: {change.forms_tried}." if change.forms_tried else ""
        moved = [f"{cohort_name(v.cohort)}, {gate_name(v.gate)}: {v.before} → {v.after}" for v in change.verdicts]
        outcome = "; ".join(moved) or "no decision moved"
        numbers = f". {change.numbers}" if change.numbers else ""
        gates = ", ".join(gate_name(gate).removeprefix("gate ") for gate in change.gates)
        rows.append([when, gates, change.change + forms, outcome + numbers, change.reason])
    return rows
