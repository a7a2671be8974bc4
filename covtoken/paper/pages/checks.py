"""Show a gate's checks, a column a cohort: ``{checks-table}``, and ``{bounds-table}`` with measured values.

Both directives take ``:gate:`` and warn where no report is recorded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.names import COLUMNS, METHOD_NAMES, WAYS, cohort_name
from covtoken.paper import numbers
from covtoken.paper.numbers import MISSING
from covtoken.paper.pages.base import Reader, make_number, make_table

READABLE = {
    "agreement.same": "extraction: the same again",
    "agreement.batch_size": "extraction: other batch size",
    "agreement.threads": "extraction: other thread count",
    "agreement.cache": "extraction: from the cache",
    "agreement.bf16": "extraction: bf16 against fp32",
    "geometry.mask": "geometry: masks, square grid",
    "geometry.mask_other_grid": "geometry: masks, other grid",
    "geometry.picture": "geometry: pictures",
    "geometry.paths_agree": "geometry: both paths, one token",
    "geometry.offset": "geometry: both paths, one centre",
    "geometry.first_block": "geometry: through the first block",
    "splits.file_unedited": "splits: file unedited",
    "splits.disjoint_by_unit": "splits: disjoint by unit",
    "splits.no_near_duplicates": "splits: no near-duplicates",
    "bank.loads_intact": "bank: loads as it was saved",
    "bank.flipped_byte_refused": "bank: a flipped byte is refused",
    "bank.order_of_pictures_is_nothing": "bank: order of pictures is nothing",
    "bank.units_of_the_bank_split": "bank: units of the bank split alone",
    "guard.registered_mask_refused": "guard: mask files",
    "guard.labels_refused": "guard: token labels",
    "guard.peeking_features_refused": "guard: features that peek",
    "guard.boolean_array_refused": "guard: arrays that look like labels",
    "guard.labels_open_outside": "guard: open outside construction",
}


KINDS = {name: numbers.READABLE[name] for name in ("auroc", "image_auroc", "aupr")}
VERBS = {"miss": "missed", "retention": "retained, for the same FLOPs"}


class _GateTable(Reader, SphinxDirective, ABC):
    """Read a gate's reports for a table, or warn that there are none."""

    option_spec: ClassVar = {"gate": directives.unchanged, "without": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        gate = self.options.get("gate", "0")
        reports = self.reports(gate)
        return [self.table(reports)] if reports else self.refused(CovtokenError(f"gate {gate}: {MISSING}"))

    @abstractmethod
    def table(self, reports: dict[str, dict]) -> nodes.Node:
        """Lay out the gate's reports, {cohort: content}."""


class ChecksTable(_GateTable):
    """Lay out whether each check holds, and the decision below; ``:without:`` names prefixes to leave out."""

    def table(self, reports: dict[str, dict]) -> nodes.Node:
        left_out = tuple(self.options.get("without", "").split())
        names = dict.fromkeys(name for report in reports.values() for name in report["checks"])
        names = [name for name in names if not (left_out and name.startswith(left_out))]
        names.sort(key=lambda name: list(READABLE).index(name) if name in READABLE else len(READABLE))
        rows, last = [], ""
        heads = Counter(in_words(name).partition(" against ")[0] for name in names)
        for name in names:
            label = in_words(name)
            head, against, other = label.partition(" against ")
            if against and heads[head] > 1:
                if head != last:
                    rows.append([f"{head[0].upper()}{head[1:]} against"])
                label, last = other, head
            said = [word(report["checks"].get(name)) for report in reports.values()]
            rows.append([label, *(nodes.inline(text=text, classes=[f"reads-{text}"]) for text in said)])
        return make_table(
            ["check", *map(cohort_name, reports)], [*rows, ["decision", *(r["decision"] for r in reports.values())]]
        )


class BoundsTable(_GateTable):
    """Lay out what was measured beside each bound, at the worst block where there are several."""

    def table(self, reports: dict[str, dict]) -> nodes.Node:
        names = dict.fromkeys(
            name for report in reports.values() for name in report["thresholds"] if name in report["checks"]
        )
        rows = []
        for name in names:
            bounds = {report["thresholds"][name] for report in reports.values() if name in report["thresholds"]}
            texts = [", ".join(map(scientific, sorted(bounds)))]
            texts += [scientific(worst(report, name)) for report in reports.values()]
            rows.append([READABLE.get(name, name), *map(make_number, texts)])
        return make_table(["quantity", "bound", *map(cohort_name, reports)], rows)


def in_words(check: str) -> str:
    """Write a check's name in words: ``miss.density_against_random`` → missed: membership A against random."""
    if check in READABLE:
        return READABLE[check]
    start, against, rest = check.partition("_against_")
    other, _, column = rest.rpartition(".")
    if rest in WAYS and start.rpartition(".")[2] in WAYS:
        kind, ours, way = start.split(".")
        return f"{KINDS.get(kind, kind)}, {METHOD_NAMES[ours]}: {WAYS[way]} against {WAYS[rest]}"
    if against and column in COLUMNS | WAYS:
        kind, _, ours = start.rpartition(".")
        words = (WAYS | COLUMNS)[column]
        return f"{KINDS.get(kind, kind)}, {words}: {METHOD_NAMES[ours]} against {METHOD_NAMES[other]}"
    kind, _, pair = check.partition(".")
    ours, against, other = pair.partition("_against_")
    if kind in VERBS and against:
        return f"{VERBS[kind]}: {METHOD_NAMES.get(ours, ours)} against {METHOD_NAMES.get(other, other)}"
    what, keep, ratio = check.partition(".keep")
    return what.replace("_", " ").replace(".", ": ") + (f", keep {ratio}" if keep else "")


def word(outcome: Any) -> str:
    """Write a check's outcome: ``holds``, ``FAILS``, or a dash where a report has no such check."""
    return "–" if outcome is None else "holds" if outcome is True else "FAILS" if outcome is False else str(outcome)


def worst(report: dict[str, Any], name: str) -> float | None:
    """Give the largest measured value behind a check: over all blocks where the report has them, else its metric."""
    rows = report["chart_data"].get("agreement", [])
    by_block = [row["value"] for row in rows if f"agreement.{row['comparison']}" == name]
    values = by_block or [report["metrics"].get(name, {}).get("value")]
    return None if None in values else max(values)


def scientific(value: float | None) -> str:
    """Write ``1.4 · 10⁻²``; ``equal`` for zero, a dash for None."""
    if value is None:
        return "–"
    if value == 0:
        return "equal"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')} · 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("checks-table", ChecksTable)
    app.add_directive("bounds-table", BoundsTable)
