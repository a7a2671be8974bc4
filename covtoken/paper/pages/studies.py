"""Sphinx extension of the working paper: what was tried of D on selection splits, from the committed files.

Directives: ``{ablation-table}``, one setting at a time, and ``{bank-table}``, banks of many sizes, both with columns of
each recipe cohort; like ``reports`` they warn where one is not recorded.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.paper.pages.base import Reader, make_table
from covtoken.paper.tables.studies import WORDS, value_text
from covtoken.scores.recipe import RECOMMENDED
from covtoken.studies import ablation, banks
from covtoken.studies.ablation import settings as settings_of
from covtoken.studies.banks import FIELDS, mean_over_banks
from covtoken.studies.study import Study, recipe_cohorts


class AblationTable(Reader, SphinxDirective):
    """A row a value of a setting; pooled and image AUROC of each recipe cohort; the default is marked."""

    def run(self) -> list[nodes.Node]:
        contents, warnings = _contents(self, ablation.STUDY)
        if not contents:
            return warnings
        head = ["setting", "value", *(f"{c}, {k}" for c in contents for k in ("token AUROC", "AUROC in one image"))]
        found = table_rows(contents)
        again = [i > 0 and row[0] == found[i - 1][0] for i, row in enumerate(found)]  # a setting is named once
        rows = [["" if a else row[0], row[1], *map(_number, row[2:])] for a, row in zip(again, found, strict=True)]
        return [make_table(head, rows), nodes.paragraph(text=note(contents), classes=["covtoken-note"]), *warnings]


class BankTable(Reader, SphinxDirective):
    """A row a share of the bank's units; of each recipe cohort the recommended recipe and two to hold it to."""

    def run(self) -> list[nodes.Node]:
        contents, warnings = _contents(self, banks.STUDY)
        if not contents:
            return warnings
        head = ["share of the bank's units", *(f"{c}, {name}" for c in contents for name in compared(contents))]
        rows = [[row[0], *map(_number, row[1:])] for row in bank_rows(contents)]
        parts = [
            f"{name}: {c['split']} split, {c['n']['units']} units, {c['n']['images']} images, bank of up to "
            f"{max(r['bank_units'] for r in c['variants'])} units, {len(mean_over_banks(c))} variants looked at."
            for name, c in contents.items()
        ]
        words = "Token AUROC / AUROC in one image, the mean where there are several banks of a share. "
        note = nodes.paragraph(text=words + " ".join(parts), classes=["covtoken-note"])
        return [make_table(head, rows), note, *warnings]


def compared(contents: dict[str, dict[str, Any]]) -> dict[str, tuple]:
    """{name: variant}: the recommended recipe, the best without a view inside by the rule's mean, plain D."""
    settings = RECOMMENDED.settings
    means = [mean_over_banks(content) for content in contents.values()]
    alone = [variant for variant in means[0] if variant[0] == 0]
    best = max(alone, key=lambda variant: sum(m[variant]["auroc"] + m[variant]["image_auroc"] for m in means))
    return {
        "recommended": (*(getattr(settings, name) for name in FIELDS[:-1]), RECOMMENDED.sigma),
        "without a view inside": best,
        "plain D": (0.0, 0.9, 1.0, 0, 0.5),
    }


def bank_rows(contents: dict[str, dict[str, Any]]) -> list[list[str]]:
    """[share, then pooled / image AUROC of each cohort's compared variants], the smallest banks first."""
    found: dict[tuple, list[dict]] = {}
    for cohort, content in contents.items():
        for row in content["variants"]:
            found.setdefault((cohort, tuple(row[k] for k in FIELDS), row["share"]), []).append(row)
    shares, variants = sorted({share for _, _, share in found}), compared(contents).values()

    def cell(cohort: str, variant: tuple, share: float) -> str:
        rows = found.get((cohort, variant, share), [])
        means = (sum(row[k] for row in rows) / len(rows) for k in ("auroc", "image_auroc")) if rows else ()
        return " / ".join(f"{mean:.3f}" for mean in means) or "–"

    return [
        [value_text("share", share), *(cell(c, variant, share) for c in contents for variant in variants)]
        for share in shares
    ]


def _contents(directive: Reader, study: Study) -> tuple[dict[str, dict[str, Any]], list[nodes.Node]]:
    """The committed table of each recipe cohort, and a warning for each that is not there."""
    root, contents, warnings = directive.root(), {}, []
    for cohort in recipe_cohorts():
        directive.depends_on(root / "gate_reports" / cohort / f"{study.stem}.json")
        try:
            contents[cohort] = study.read(cohort, root)
        except CovtokenError as error:
            # The error names the file by its full path, which is no business of a page.
            short = CovtokenError(str(error).replace(f"{root}/", ""))
            warnings.append(nodes.paragraph("", "", directive.missing(short, directive.lineno)))
    return contents, warnings


def table_rows(contents: dict[str, dict[str, Any]]) -> list[list[str]]:
    """[setting, value, then pooled and image AUROC of each cohort]; a dash where a cohort lacks the value."""
    found: dict[tuple, dict[str, dict]] = {}
    for cohort, content in contents.items():
        for name, rows in settings_of(content):
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


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("ablation-table", AblationTable)
    app.add_directive("bank-table", BankTable)
