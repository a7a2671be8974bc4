"""Show what was tried of D on selection splits, from the committed tables of each recipe cohort.

Directives: ``{ablation-table}``, one setting at a time, ``{bank-table}``, banks of many sizes, ``{controls-table}`` and
``{controls-sentence}``, what carries C−'s gain; they warn where a table is not recorded. ``{ablations-follow}`` says
what follows from each ablation, of the cohorts that are recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.errors import CovtokenError
from covtoken.names import LABELS, cohort_name, split_name
from covtoken.paper.pages.base import Reader, make_note, make_number, make_table
from covtoken.paper.tables import ablations as ablation_words
from covtoken.paper.tables import controls as controls_words
from covtoken.paper.tables.studies import WORDS, value_text
from covtoken.scores.recipe import FIXED, Recipe
from covtoken.studies import ablation, banks, controls
from covtoken.studies.ablation import settings as settings_of
from covtoken.studies.ablations import run as ablations
from covtoken.studies.banks import FIELDS, MEASURES, mean_over_banks
from covtoken.studies.study import Study, recipe_cohorts


class AblationTable(Reader, SphinxDirective):
    """Lay out pooled and image AUROC of each recipe cohort: a row a value of a setting, the default marked."""

    def run(self) -> list[nodes.Node]:
        contents, warnings = _contents(self, ablation.STUDY)
        if not contents:
            return warnings
        head = [
            "setting",
            "value",
            *(f"{cohort_name(c)}, {k}" for c in contents for k in ("token AUROC", "AUROC in one picture")),
        ]
        rows = table_rows(contents)
        names = ["" if i and row[0] == rows[i - 1][0] else row[0] for i, row in enumerate(rows)]  # each setting once
        rows = [[name, row[1], *map(make_number, row[2:])] for name, row in zip(names, rows, strict=True)]
        return [make_table(head, rows), make_note(note(contents)), *warnings]


class BankTable(Reader, SphinxDirective):
    """Lay out the fixed recipes in each recipe cohort: a row a share of the bank's units."""

    def run(self) -> list[nodes.Node]:
        contents, warnings = _contents(self, banks.STUDY)
        if not contents:
            return warnings
        head = [
            "share of the bank's units",
            *(f"{cohort_name(c)}, {name}" for c in contents for name in compared(contents)),
        ]
        rows = [[row[0], *map(make_number, row[1:])] for row in bank_rows(contents)]
        parts = [
            f"{cohort_name(name)}: {split_name(c['split'])}, {c['n']['units']} units, {c['n']['images']} pictures, "
            f"bank of up to {max(bank['units'] for bank in c['banks'])} units, "
            f"{len(mean_over_banks(c))} variants looked at."
            for name, c in contents.items()
        ]
        words = "Token AUROC / AUROC in one picture, the mean where there are several banks of a share. "
        return [make_table(head, rows), make_note(words + " ".join(parts)), *warnings]


class ControlsTable(Reader, SphinxDirective):
    """Lay out C− and its controls: a row a control, and for each cohort its numbers and C− minus it."""

    def run(self) -> list[nodes.Node]:
        contents, warnings = _contents(self, controls.STUDY, tuple(controls.FOREIGN))
        if not contents:
            return warnings
        titles = ("pooled / in one picture / AUPR", "C− minus it, pooled")
        head = ["", "control", *(f"{cohort_name(cohort)}: {title}" for cohort in contents for title in titles)]
        rows = controls_words.control_rows(contents)
        kinds = ["" if i and row[0] == rows[i - 1][0] else row[0] for i, row in enumerate(rows)]  # each kind once
        rows = [[kind, row[1], *map(make_number, row[2:])] for kind, row in zip(kinds, rows, strict=True)]
        words = "95 % intervals over units, paired. " + " ".join(map(controls_words.note, contents.values()))
        return [make_table(head, rows), make_note(words), *warnings]


class ControlsSentence(Reader, SphinxDirective):
    """Say for each cohort how much of C−'s gain over A is rarity, and how much is the fit."""

    def run(self) -> list[nodes.Node]:
        contents, warnings = _contents(self, controls.STUDY, tuple(controls.FOREIGN))
        return [*(nodes.paragraph(text=controls_words.gain_text(c)) for c in contents.values()), *warnings]


class AblationsFollow(Reader, SphinxDirective):
    """Say of every ablation what follows from it, a line a recorded cohort."""

    def run(self) -> list[nodes.Node]:
        root, found = self.root(), []
        contents = ablation_words.committed(root=root)
        for cohort in contents:
            self.depends_on(root / "gate_reports" / cohort / f"{ablations.STUDY.stem}.json")
        for name, (title, _) in ablation_words.TITLES.items():
            told = (ablation_words.follows(name, content) for content in contents.values())
            items = [nodes.list_item("", nodes.paragraph(text=text)) for text in told if text]
            if items:
                found += [nodes.paragraph("", "", nodes.strong(text=title)), nodes.bullet_list("", *items)]
        sizes = (
            f"{cohort_name(cohort)}: {c['n']['units']} units scored, a bank of {c['n']['bank_units']}, a reference of "
            f"{c['reference']} tokens, {c['large_units']} units of each split at other sizes."
            for cohort, c in contents.items()
        )
        return [*found, make_note(" ".join(sizes) or "No cohort is recorded yet.")]


def compared(contents: dict[str, dict[str, Any]]) -> dict[str, tuple]:
    """Name the variants compared: C−, C, D, the rivals, as their recipes stand, and plain D."""

    def variant(recipe: Recipe) -> tuple:
        about = {"sources": "rarity", "component": "none", "sigma": recipe.sigma} | asdict(recipe.settings)
        return tuple(about[name] for name in FIELDS)

    return {LABELS[name]: variant(recipe) for name, recipe in FIXED.items()} | {
        "plain D": ("rarity", 0.0, 0.9, 1.0, 0, "none", 0.5)
    }


def bank_rows(contents: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Give rows of [share, then pooled / image AUROC of each cohort's compared variants], the smallest banks first."""
    found = {
        (cohort, tuple(row[name] for name in FIELDS)): row for cohort, c in contents.items() for row in c["variants"]
    }
    banks = next(iter(contents.values()))["banks"]
    variants = compared(contents).values()

    def cell(cohort: str, variant: tuple, share: float) -> str:
        row = found.get((cohort, variant))
        at = [i for i, bank in enumerate(contents[cohort]["banks"]) if bank["share"] == share]
        means = (sum(row[k][i] for i in at) / len(at) for k in MEASURES) if row and at else ()
        return " / ".join(f"{mean:.3f}" for mean in means) or "–"

    return [
        [value_text("share", share), *(cell(c, variant, share) for c in contents for variant in variants)]
        for share in sorted({bank["share"] for bank in banks})
    ]


def _contents(
    directive: Reader, study: Study, cohorts: Sequence[str] = ()
) -> tuple[dict[str, dict[str, Any]], list[nodes.Node]]:
    """Read the committed table of each cohort (none named: each recipe cohort), and warn of each that is missing."""
    root, contents, warnings = directive.root(), {}, []
    for cohort in cohorts or recipe_cohorts():
        directive.depends_on(root / "gate_reports" / cohort / f"{study.stem}.json")
        try:
            contents[cohort] = study.read(cohort, root)
        except CovtokenError as error:
            # The error names the file by its full path, which is no business of a page.
            short = CovtokenError(str(error).replace(f"{root}/", ""))
            warnings += directive.refused(short)
    return contents, warnings


def table_rows(contents: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Give rows of [setting, value, then pooled and image AUROC of each cohort]; a dash where there is none."""
    by_setting: dict[tuple, dict[str, dict]] = {}
    for cohort, content in contents.items():
        for name, rows in settings_of(content):
            for row in rows:
                text = value_text(name, row["value"]) + (" (default)" if row["default"] else "")
                by_setting.setdefault((WORDS[name], text), {})[cohort] = row
    return [
        [*key, *(f"{by[c][k]:.3f}" if c in by else "–" for c in contents for k in ("auroc", "image_auroc"))]
        for key, by in by_setting.items()
    ]


def note(contents: dict[str, dict[str, Any]]) -> str:
    """Write which split, how many units and pictures, and how many variants were looked at."""
    parts = []
    for cohort, content in contents.items():
        n = content["n"]
        parts.append(
            f"{cohort_name(cohort)}: {split_name(content['split'])}, {n['units']} units, {n['images']} pictures, bank "
            f"of {n['bank_units']} units, {content['n_variants']} variants looked at."
        )
    return " ".join(parts)


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("ablation-table", AblationTable)
    app.add_directive("bank-table", BankTable)
    app.add_directive("controls-table", ControlsTable)
    app.add_directive("controls-sentence", ControlsSentence)
    app.add_directive("ablations-follow", AblationsFollow)
