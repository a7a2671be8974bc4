"""Tell of a number on a page where it comes from: interval, n, split, date, weights, and the commands that give it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.names import cohort_name, counted, split_name
from covtoken.paper.numbers import MISSING, as_text, is_signed, read_content, readable
from covtoken.protocol.chain import KEY
from covtoken.protocol.looks import log_path, read_looks

NO_LOOK = "no look at a test split, so no date is logged"
COMMANDS = {"alarm": "alarm", "backbones": "transfer-backbones", "confirmation": "confirm"}  # of other reports: gate


@dataclass(frozen=True)
class Door:
    """What stands behind a number: see ``open_door``."""

    where: str  # "<cohort>/gate<N> <metric>"
    words: str
    value: str  # with its interval
    n: str
    split: str
    backbone: str
    when: str  # day of the logged look
    weights: str  # sha256
    prints: str  # the command that prints this
    makes: str  # the command that recorded it

    @property
    def anchor(self) -> str:
        """Name of its row on the page of numbers."""
        return anchor_of(self.where)

    @property
    def line(self) -> str:
        """All of it in one line, for a tooltip."""
        parts = (self.words, self.value, self.n, split_name(self.split), self.when, f"weights {self.weights[:10]}")
        return " · ".join((*parts, self.prints))

    def rows(self) -> dict[str, str]:
        """Give the lines that ``covtoken number`` prints, by their names."""
        return {
            "number": self.words,
            "value": self.value,
            "n": self.n,
            "split": self.split,
            "backbone": self.backbone,
            "date": self.when,
            "weights": self.weights,
            "printed by": self.prints,
            "recorded by": self.makes,
        }


def open_door(root: Path, where: str) -> Door:
    """Look a number up in the committed reports.

    Args:
        root: the checkout.
        where: ``"<cohort>/gate<N> <metric>"``, as pages name it.

    Raises:
        CovtokenError: no such report, no such metric (with the nearest names), or no value.
    """
    place, _, name = " ".join(where.split()).partition(" ")
    return door_of(root, place, read_content(root, place), name)


def door_of(root: Path, place: str, report: dict[str, Any], name: str) -> Door:
    """Tell of a number of a report that was read already; the rest as in ``open_door``."""
    entry = report["metrics"].get(name)
    if not entry or entry["value"] is None:
        close = get_close_matches(name, report["metrics"], n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close and not entry else ""
        raise CovtokenError(f"{place} {name}: {MISSING}{hint}")
    return Door(
        where=f"{place} {name}",
        words=f"{cohort_name(report['cohort'])}: {readable(name)}",
        value=as_text(entry, signed=is_signed(name)),
        n=n_text(entry),
        split=report["split"],
        backbone=report["backbone"],
        when=date_of(root, report),
        weights=report["provenance"]["weights_sha256"],
        prints=f'covtoken number "{place} {name}"',
        makes=command_of(report),
    )


def texts_of(reports: Mapping[str, dict[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """Index the metrics of reports, {place: content}, by the text that a page writes for them: [(place, name)]."""
    found: dict[str, list[tuple[str, str]]] = {}
    for place, report in reports.items():
        for name, entry in report["metrics"].items():
            found.setdefault(as_text(entry, signed=is_signed(name)), []).append((place, name))
    return found


def split_at_numbers(text: str, texts: Mapping[str, list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    """Cut a text at its numbers with an interval, each named by the only metric that reads so.

    Args:
        texts: of ``texts_of``.

    Returns:
        (part of the text, place, name of the metric); both empty where a part is no number, or several read the same.
    """
    parts, at = [], 0
    for match in re.finditer(r"[+−]?\d+\.\d+ \[[^\]]*\]", text):
        named = texts.get(match.group().replace("\u00a0", " "), ())
        if len(named) == 1:
            parts += [(text[at : match.start()], "", ""), (match.group(), *named[0])]
            at = match.end()
    return [part for part in (*parts, (text[at:], "", "")) if part[0]]


def anchor_of(where: str) -> str:
    """Name the row of a number on the page of numbers."""
    return "n-" + re.sub(r"[^\w.+@]+", "-", where, flags=re.ASCII)


def n_text(entry: dict[str, Any]) -> str:
    """Write the counts of a metric: units, pictures, and lesions where they are counted."""
    lesions = f", {counted(entry['n_lesions'], 'lesion')}" if entry.get("n_lesions") else ""
    return f"{counted(entry['n_units'], 'unit')}, {counted(entry['n_images'], 'picture')}{lesions}"


def date_of(root: Path, report: dict[str, Any]) -> str:
    """Give the day on which the log has the report's look at a test split; in words where there was none."""
    path = log_path(recorded=True, root=root)
    days = _days(root, path.stat().st_mtime_ns) if path.is_file() else {}
    return days.get(report["provenance"].get("look"), NO_LOOK)


@lru_cache(maxsize=4)
def _days(root: Path, changed: int) -> dict[str, str]:
    """Read the log's days by their links; once, since a page asks for hundreds."""
    return {line[KEY]: line["when"][:10] for line in read_looks(root) if KEY in line}


def command_of(report: dict[str, Any]) -> str:
    """Write the command that recorded a report."""
    gate, cohort = str(report["gate"]), report["cohort"]
    if gate in COMMANDS:
        return f"covtoken {COMMANDS[gate]} --cohort {cohort} --record"
    split = "" if report["split"] == "all" else f" --split {report['split']}"
    return f"covtoken gate {gate} --cohort {cohort}{split} --record"
