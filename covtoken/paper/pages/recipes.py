"""Show what is fixed: recipes (``{recipe-table}``), middle blocks (``{middle-note}``), cohorts (``{cohort-table}``)."""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.bank.token_bank import REFERENCE_SIZE
from covtoken.errors import CovtokenError
from covtoken.names import LABELS, cohort_name
from covtoken.paper.across import REAL
from covtoken.paper.explorer.content import FOLDER, read_explorer
from covtoken.paper.first_figure import panels_of, views
from covtoken.paper.numbers import MISSING
from covtoken.paper.pages.base import Reader, make_note, make_table, number_table
from covtoken.paper.verdict_grid import COHORTS
from covtoken.scores.grids import middle_blocks
from covtoken.scores.memberships import SOURCE_SIGMA
from covtoken.scores.recipe import FIXED, Recipe
from covtoken.subspace.consensus import TAP_RIDGE
from covtoken.subspace.density import K_NEIGHBOURS
from covtoken.subspace.rarity import NEIGHBOURS

BLOCKS = 12  # of the backbone that the recipes are written for
SOURCES = {"rarity": "rarity PN", "head": "saliency head's logit", "attention": "CLS attention"}
COMPONENT = {"peak": "the one with its highest token", "none": "all called tokens stay", None: "all called tokens stay"}


class RecipeTable(SphinxDirective):
    """Lay out the fixed recipes: a row a setting, a column a score; each value is the code's.

    ``:scores:`` names some of them, and rows that say nothing of those are left out; ``:caption:`` numbers the table.
    """

    option_spec: ClassVar = {name: directives.unchanged_required for name in ("scores", "caption")}

    def run(self) -> list[nodes.Node]:
        names = self.options.get("scores", " ".join(FIXED)).split()
        wanted = [list(FIXED).index(name) for name in names]
        rows = [[row[0], *(row[1 + i] for i in wanted)] for row in recipe_rows()]
        rows = [row for row in rows if set(row[1:]) != {"–"}]
        words = (
            f"For {BLOCKS} blocks; at another depth the same shares of it. The same for every cohort and backbone. The "
            "code's own values, which every lock and report repeats."
        )
        table = make_table(["setting", *(LABELS[name] for name in names)], rows)
        return [number_table(self.env, table, self.options.get("caption", "")), make_note(words)]


def recipe_rows() -> list[list[str]]:
    """Give rows of [setting, then its value in each fixed recipe]; a dash where a recipe has no such setting."""
    columns = [_settings(recipe) for recipe in FIXED.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "–") for column in columns)] for name in names]


def _settings(recipe: Recipe) -> dict[str, str]:
    own = recipe.settings
    sources = getattr(own, "sources", "rarity").split("+")
    rows = {
        "what is called (sources)": " + ".join(SOURCES[name] for name in sources),
        "block whose tokens are read": str(recipe.block),
        "those tokens": "pooled 3 × 3" if recipe.pooled else "plain",
    }
    if "rarity" in sources:
        rows |= {
            "block whose rarity is taken": str(own.target_block),
            "tokens of the reference": f"{REFERENCE_SIZE:,}",
            "neighbours behind a sparsity": str(K_NEIGHBOURS),
            "neighbours behind a rarity": str(NEIGHBOURS),
        }
    if "attention" in sources:
        rows["block whose attention is taken"] = str(own.attention_block)
    if {"attention", "head"} & set(sources):
        rows["smoothing of a saliency map, σ in tokens"] = f"{SOURCE_SIGMA:g}"
    return rows | {
        "weight v of the view inside the picture": f"{own.inside:g}",
        "quantile above which a token is called": f"{own.quantile:g}",
        "component kept in a picture": COMPONENT[getattr(own, "component", None)],
        "ridge λ": f"{own.ridge:g}",
        "rounds of agreement": str(own.rounds),
        "smoothing of the score, σ in tokens": f"{recipe.sigma:g}",
        "ridge λ of a direction taught at an earlier block": f"{TAP_RIDGE:g}",
    }


class MiddleNote(Reader, SphinxDirective):
    """Say which block is each cohort's middle block, and where it is the last that the range allows.

    ``:cohorts:`` names some of them.
    """

    option_spec: ClassVar = {"cohorts": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        try:
            reports = self.reports("1", self.options.get("cohorts", "").split())
        except CovtokenError as error:
            return self.refused(error)
        if not reports:
            return self.refused(CovtokenError(f"gate 1: {MISSING}"))
        chosen = {cohort_name(cohort): report["parameters"]["middle"] for cohort, report in reports.items()}
        return [nodes.paragraph(text=middle_text(chosen))]


class CohortTable(Reader, SphinxDirective):
    """Lay out what was evaluated: a row a cohort, from its report, with a picture where the first figure has one.

    ``:caption:`` numbers the table.
    """

    option_spec: ClassVar = {"caption": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        try:
            first = {name: (COHORTS[name], self.report(f"{name}/gate1")) for name in REAL}
            first |= {name: (kind, self.report(f"{name}/confirmation")) for name, kind in EXTERNAL.items()}
            self.depends_on(self.root() / FOLDER / "explorer.json")
            panels = {panel["cohort"]: panel for panel in panels_of(read_explorer(self.root())) if panel["retained"]}
        except CovtokenError as error:
            return self.refused(error)
        rows = [cohort_row(kind, cohort_name(name), report) for name, (kind, report) in first.items()]
        for row, name in zip(rows, first, strict=True):
            if name in panels:
                shown = views(panels[name], f"{FOLDER.removeprefix('book/')}/")["picture"]
                picture = nodes.raw("", f'<span class="covtoken-sample">{shown}</span>', format="html")
                row[1] = nodes.inline("", "", nodes.Text(row[1]), picture)
        head = ["cohort", "what", "units", "pictures (with a lesion)", "lesions", "small is at most", "its part here"]
        return [number_table(self.env, make_table(head, rows), self.options.get("caption", "")), make_note(UNIT_WORDS)]


def cohort_row(kind: str, label: str, report: dict[str, Any]) -> list[str]:
    """Write what was evaluated of one cohort.

    Args:
        kind, label: what it shows, and what it is called.
        report: its report of gate 1, or of the confirmation.
    """
    parameters = report["parameters"]
    entry = report["metrics"].get("auroc.recommended") or report["metrics"]["auroc.recommended.carried"]
    cuts = parameters.get("small_cuts", {}).values()
    small = ", ".join(f"{100 * cut:.2g} % of the picture" for cut in cuts) or "the lowest third"
    pictures = f"{entry['n_images']} ({parameters['n_lesion_images']})"
    part = PARTS["external" if "recipe_cohort" in parameters else report["split"]]
    return [label, kind, str(entry["n_units"]), pictures, str(parameters["n_lesions"]), small, part]


PARTS = {
    "test": "chooses recipes on its selection split; its test split is evaluated",
    "crossfit": "chooses nothing; every patient is scored with a bank of the others",
    "external": "chooses nothing; opened once, to confirm",
}
EXTERNAL = {
    "busbra-external": "breast ultrasound",
    "lidc-external": "lung CT",
}
UNIT_WORDS = (
    "A unit is a patient; in BUSI, which names no patients, a group of near-duplicate pictures. Counts are of the "
    "evaluated part. Slices of liver and kidney, and the crops that LIDC windows are cut from, were chosen by lesion "
    "upstream."
)


def middle_text(chosen: dict[str, int]) -> str:
    """Write the middle block of each cohort, {cohort: block}, beside the range it was chosen from."""
    allowed = middle_blocks(BLOCKS)
    parts = [
        f"{block} on {cohort}" + (", the last one allowed" if block == allowed[-1] else "")
        for cohort, block in chosen.items()
    ]
    at_edge = allowed[-1] in chosen.values()
    end = (
        ' Where the choice is the last one allowed, the best block may lie behind it: read "middle" there as "before '
        'the last block or two".'
    )
    text = f"The middle block is one of {allowed[0]} to {allowed[-1]} of {BLOCKS}: {'; '.join(parts)}."
    return text + (end if at_edge else "")


def register(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("recipe-table", RecipeTable)
    app.add_directive("cohort-table", CohortTable)
    app.add_directive("middle-note", MiddleNote)
