"""Show the study of volumes from its committed tables: one token budget for a volume against one per slice.

``{volumes-table} phantom`` lays out a cohort (``:small:``: its small lesions), ``{volumes-chart} phantom`` draws it for
a ``:sigma:``, and ``{volumes-sentence} phantom`` says what the comparison that was named before gave. They warn where
a table is not recorded.
"""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.names import METHOD_NAMES
from covtoken.paper.drawn import draw_volumes
from covtoken.paper.pages.base import Reader, make_note, make_table
from covtoken.paper.tables import volumes as words
from covtoken.studies.volumes import STUDY


class _OfVolumes(Reader, SphinxDirective):
    """Read a cohort's committed table, or warn that there is none."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        cohort, root = self.arguments[0], self.root()
        self.depends_on(root / "gate_reports" / cohort / f"{STUDY.stem}.json")
        try:
            return self.show(STUDY.read(cohort, root))
        except CovtokenError as error:
            return self.refused(CovtokenError(str(error).replace(f"{root}/", "")))


class VolumesTable(_OfVolumes):
    """Lay out retained lesions: a row a score and smoothing, a column a keep ratio, both budgets in a cell."""

    option_spec: ClassVar = {"small": directives.flag}

    def show(self, content: dict[str, Any]) -> list[nodes.Node]:
        found, (scores, sigmas, keeps, spends) = words.by_place(content["rows"]), words.axes_of(content)
        rows = []
        for score in scores:
            for sigma in sigmas:
                name = METHOD_NAMES[score] if sigma == sigmas[0] else ""
                cells = [_stacked([found[score, sigma, keep, spend] for spend in spends], self.small) for keep in keeps]
                rows.append([name, words.smoothing_text(sigma), *cells])
        head = ["", "smoothed along z", *(f"{100 * keep:g} % kept" for keep in keeps)]
        few = "" if content["rows"][0]["ci95"] else " Fewer than five units: no intervals."
        table = make_table(head, rows)
        table["classes"].append("covtoken-cards")
        return [table, make_note(f"{WORDS}{few} {words.note(content)}")]

    @property
    def small(self) -> bool:
        return "small" in self.options


WORDS = (
    "Lesions of three dimensions that keep at least half of their tokens; r: share of all lesion tokens kept. Exact "
    "95 % intervals over lesions; those of one unit are taken for independent."
)


def _stacked(rows: list[dict[str, Any]], small: bool) -> nodes.Node:
    lines = []
    for row in rows:
        if small:
            lines.append(f"{words.SPEND_WORDS[row['spend']]}: {row['retained_small']} of {row['n_small']}")
        else:
            lines.append(f"{words.SPEND_WORDS[row['spend']]}: {words.share_text(row)}, r {row['recall']:.2f}")
    parts = [nodes.inline(text=line, classes=["covtoken-interval"] if i else []) for i, line in enumerate(lines)]
    return nodes.inline("", "", *parts, classes=["covtoken-number"])


class VolumesChart(_OfVolumes):
    """Draw lesions retained against tokens kept."""

    option_spec: ClassVar = {"sigma": directives.unchanged_required, "title": directives.unchanged_required}

    def show(self, content: dict[str, Any]) -> list[nodes.Node]:
        return self.figure(draw_volumes(self.root(), self.arguments[0], self.options))


class VolumesSentence(_OfVolumes):
    """Say what the comparison that was named before gave."""

    def show(self, content: dict[str, Any]) -> list[nodes.Node]:
        return [nodes.paragraph(text=words.volumes_text(content))]


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("volumes-table", VolumesTable)
    app.add_directive("volumes-chart", VolumesChart)
    app.add_directive("volumes-sentence", VolumesSentence)
