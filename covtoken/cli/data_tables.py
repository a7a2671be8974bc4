"""Lay out what ``covtoken data`` prints for people: data sets, a cohort's numbers, its problems."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from covtoken.data.check.run import MOST_COMPARED, Checked


def list_table(rows: Sequence[dict]) -> Table:
    """Lay out the data sets, a row each, in 80 columns; folders and kinds are in the JSON alone."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "here", "modality", "licence", "next"):
        table.add_column(column, no_wrap=column != "next")
    for row in rows:
        here = "drawn" if row["folder"] is None else "yes" if row["found"] else "no"
        licence = re.sub(r" [\d.]+$", "", row["licence"])  # without its version
        table.add_row(row["name"], here, row["modality"], licence, escape(row["next"]))
    return table


def numbers_table(checked: Checked) -> Table:
    """Lay out what a cohort holds, a row a quantity."""
    table = Table(title=escape(f"{checked.name}: what it holds"), show_header=False)
    table.add_column("quantity", overflow="fold")
    table.add_column("value", overflow="fold")
    for name, text in _rows(checked):
        table.add_row(escape(name), escape(text))
    return table


def problem_lines(checked: Checked, most: int | None) -> Iterator[str]:
    """Say each problem in a line, those that stop a gate first, and at last whether a gate would take the cohort.

    Args:
        most: of a kind; None: all.
    """
    said: Counter = Counter()
    for finding in checked.findings:
        kind = (finding.kind, finding.stops)
        said[kind] += 1
        if most is None or said[kind] <= most:
            at = "" if finding.file in finding.what else f" {finding.file}:"
            yield f"{'PROBLEM' if finding.stops else 'note'}, {finding.kind}:{at} {' '.join(finding.what.split())}"
    for (kind, stops), n in said.items():
        if most is not None and n > most:
            yield f"{'PROBLEM' if stops else 'note'}, {kind}: {n - most} more; --all prints them, --json too"
    n_stop = sum(finding.stops for finding in checked.findings)
    n_notes = len(checked.findings) - n_stop
    end = f"{n_stop} problems that stop a gate" if n_stop else "nothing here stops a gate"
    yield f"{checked.name}: {end}; {n_notes} notes"


def _rows(checked: Checked) -> Iterator[tuple[str, str]]:
    n = checked.numbers
    several = n["units_of_several"]
    yield "cases, units", f"{n['cases']}, {n['units']}"
    if several["units"]:
        yield "units of several cases", f"{several['units']}, with {several['cases']} cases"
    yield "modality", n["modality"]
    yield "with a lesion, without", f"{n['with_lesion']}, {n['without_lesion']}"
    if n["with_several_mask_files"]:
        yield "with several mask files", f"{n['with_several_mask_files']}"
    if n["with_organ_mask"]:
        yield "with an organ mask", f"{n['with_organ_mask']}"
    yield "height, px: smallest, median, largest", _spread(n["height_px"])
    yield "width, px: smallest, median, largest", _spread(n["width_px"])
    yield "values", "unknown" if n["values"] is None else "{:g} to {:g}".format(*n["values"])
    if n["spacing_row_mm"] is None:
        yield "spacing, mm", "unknown"
    else:
        yield "row spacing, mm: smallest, median, largest", _spread(n["spacing_row_mm"])
        yield "column spacing, mm: smallest, median, largest", _spread(n["spacing_column_mm"])
    yield "lesions (connected)", f"{n['lesions']}"
    for name, key in (("area, px", "lesion_area_px"), ("area, mm²", "lesion_area_mm2")):
        if n[key] is not None:
            yield f"lesion {name}: {', '.join(n[key])}", ", ".join(f"{value:.5g}" for value in n[key].values())
    if n["lesion_share"] is not None:
        shares = n["lesion_share"]
        yield f"share of its picture: {', '.join(shares)}", ", ".join(f"{value:.4f}" for value in shares.values())
    if n["curated"]:
        yield "curated upstream", n["curated"]
    yield from _split_rows(n["splits"])
    compared = "all" if n["cases"] <= MOST_COMPARED else f"{checked.n_compared}, spread evenly"
    yield "pictures compared for look-alikes", compared


def _split_rows(splits: dict | None) -> Iterator[tuple[str, str]]:
    if splits is None:
        yield "splits", "their file was edited"
        return
    for name, split in splits.items():
        if isinstance(split, dict):
            yield f"{name} split: units, cases", f"{split['units']}, {split['cases']}"
    yield "splits come from", f"{splits['file'] or 'a hash of the unit: none is committed'}; disjoint by unit"
    if splits["cross_fitted"]:
        yield "small cohort", f"cross-fitted over {splits['cross_fitted']} folds"


def _spread(values: dict | None) -> str:
    return "unknown" if values is None else ", ".join(f"{value:g}" for value in values.values())
