"""Tell measured rates from arithmetic: what was timed, and what that would come to elsewhere, with its assumption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError

ASSUMPTION = (
    "every machine is like the measured one and as free, cases are as large, and shards are equal; starting a machine, "
    "loading the weights and reading from far away are not counted"
)
BEGIN, END = "<!-- rates:begin (written by launch.py readme) -->", "<!-- rates:end -->"
_SHOWN = ("job", "backbone", "picture_size", "batch", "precision", "device", "cpus", "threads", "load")
_SHOWN += ("cases", "cases_per_second")


def read_rates(file: Path, job: str | None = None) -> list[dict[str, Any]]:
    """Read measured rates, of one job or of all. Raises CovtokenError where the file is no list of them."""
    if not file.is_file():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [row for row in rows if job in (None, row["job"]) and row["cases_per_second"] > 0]
    except (ValueError, KeyError, TypeError) as error:
        raise CovtokenError(f"{file}: expected a list of rates as jobs write them ({error}); remove it") from error


def hours(cases: int, machines: int, row: dict[str, Any]) -> float:
    """Extrapolate the hours that cases take on several machines, under ``ASSUMPTION``: the largest shard decides."""
    return -(-cases // machines) / row["cases_per_second"] / 3600


def words(cases: int, machines: int, row: dict[str, Any]) -> str:
    """Write a measured rate, what it comes to, and the assumption."""
    told = ", ".join(f"{name} {row.get(name, '?')}" for name in ("threads", "load", "batch"))
    return (
        f"measured:    {row['cases_per_second']:g} cases a second ({row['cases']} cases of {row['job']}, "
        f"{row.get('backbone', '?')}, {row.get('picture_size', '?')} px, {row['device']}, {told})\n"
        f"arithmetic:  {cases} cases on {machines} machines: {hours(cases, machines, row):.2g} hours\n"
        f"assumption:  {ASSUMPTION}"
    )


def table(rows: Sequence[dict[str, Any]], cases: int = 240_000, machines: Sequence[int] = (1, 8, 64)) -> str:
    """Write the table of a README: measured columns, then those that are arithmetic alone."""
    heads = [name.replace("_", " ") for name in _SHOWN] + [f"*{cases} cases on {n}: hours*" for n in machines]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        values = [str(row.get(name, "–")) for name in _SHOWN]
        lines.append(f"| {' | '.join([*values, *(f'*{hours(cases, n, row):.2g}*' for n in machines)])} |")
    return "\n".join(lines)


def filled(readme: str, rows: Sequence[dict[str, Any]]) -> str:
    """Put the table between the marks of a README."""
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n{table(rows)}\n\nIn italics: arithmetic. It assumes that {ASSUMPTION}.\n{END}{after}"
