"""Sphinx extension of the working paper: D's ablation, one setting at a time, from the committed files.

Directive: ``{ablation-table}``, a column a recipe cohort; like ``covtoken.paper`` it warns where one is not recorded.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.gates.ablation import read_ablation, recipe_cohorts, settings
from covtoken.gates.show_ablation import WORDS, value_text
from covtoken.paper import _Reader, _table


class AblationTable(_Reader, SphinxDirective):
    """A row a value of a setting; pooled and image AUROC of each recipe cohort; the default is marked."""

    def run(self) -> list[nodes.Node]:
        root, contents, warnings = self.root(), {}, []
        for cohort in recipe_cohorts():
            self.depends_on(root / "gate_reports" / cohort / "ablation.json")
            try:
                contents[cohort] = read_ablation(cohort, root)
            except CovtokenError as error:
                # The error names the file by its full path, which is no business of a page.
                short = CovtokenError(str(error).replace(f"{root}/", ""))
                warnings.append(nodes.paragraph("", "", self.missing(short, self.lineno)))
        if not contents:
            return warnings
        head = ["setting", "value", *(f"{c}, {k}" for c in contents for k in ("token AUROC", "AUROC in one image"))]
        found = table_rows(contents)
        again = [i > 0 and row[0] == found[i - 1][0] for i, row in enumerate(found)]  # a setting is named once
        rows = [["" if a else row[0], row[1], *map(_number, row[2:])] for a, row in zip(again, found, strict=True)]
        return [_table(head, rows), nodes.paragraph(text=note(contents), classes=["covtoken-note"]), *warnings]


def table_rows(contents: dict[str, dict[str, Any]]) -> list[list[str]]:
    """[setting, value, then pooled and image AUROC of each cohort]; a dash where a cohort lacks the value."""
    found: dict[tuple, dict[str, dict]] = {}
    for cohort, content in contents.items():
        for name, rows in settings(content):
            for row in rows:
                text = value_text(name, row["value"]) + (" (default)" if row["default"] else "")
                found.setdefault((WORDS[name], text), {})[cohort] = row
    return [
        [*key, *(f"{by[c][k]:.3f}" if c in by else "–" for c in contents for k in ("auroc", "image_auroc"))]
        for key, by in found.items()
    ]


def note(contents: dict[str, dict[str, Any]]) -> str:
    """Which split, how many units and pictures, and how many variants were looked at."""
    parts = []
    for cohort, content in contents.items():
        n = content["n"]
        parts.append(
            f"{cohort}: {content['split']} split, {n['units']} units, {n['images']} images, bank of {n['bank_units']} "
            f"units, {content['n_variants']} variants looked at, {content['backbone']}."
        )
    return " ".join(parts)


def _number(text: str) -> nodes.inline:
    return nodes.inline(text=text, classes=["covtoken-number"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("ablation-table", AblationTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
