"""Show what is fixed: ``{recipe-table}``, every setting of C− and its kin, and ``{middle-note}``, the middle blocks."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from covtoken.bank.token_bank import REFERENCE_SIZE
from covtoken.errors import CovtokenError
from covtoken.names import LABELS
from covtoken.paper.numbers import MISSING
from covtoken.paper.pages.base import Reader, make_note, make_table
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
    """Lay out the fixed recipes: a row a setting, a column a score; each value is the code's."""

    def run(self) -> list[nodes.Node]:
        words = (
            f"For {BLOCKS} blocks; at another depth the same shares of it. The same for every cohort and backbone. The "
            "code's own values, which every lock and report repeats."
        )
        return [make_table(["setting", *(LABELS[name] for name in FIXED)], recipe_rows()), make_note(words)]


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
    """Say which block is each cohort's middle block, and where it is the last that the range allows."""

    def run(self) -> list[nodes.Node]:
        reports = self.reports("1")
        if not reports:
            return self.refused(CovtokenError(f"gate 1: {MISSING}"))
        return [nodes.paragraph(text=middle_text({c: report["parameters"]["middle"] for c, report in reports.items()}))]


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
    app.add_directive("middle-note", MiddleNote)
