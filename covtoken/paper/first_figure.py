"""Draw the first figure from the explorer's pictures: the picture with its lesion, the score, a quarter kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

import numpy as np

from covtoken.economy.keep import budget
from covtoken.paper.charts.pictures import RAMP
from covtoken.paper.explorer.content import NAMES, ranks_of, tokens_kept
from covtoken.studies.explorer import FIRST, RATIO, SIZE

VIEWS = {"picture": "picture and lesion", "map": "C−, first is yellow", "kept": "a quarter kept"}
SCORE = "recommended"
LEVELS = 16  # colours of a map: one path each, not one for every token


def panels_of(cohorts: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give the cases of the figure with the numbers of their captions, the retained one of a cohort first.

    Args:
        cohorts: of ``explorer.content.read_explorer``.
    """
    for cohort in cohorts:
        k, total = budget(cohort["grid"][0] * cohort["grid"][1], RATIO), cohort["lesions_in_the_split"]
        cases = [case for case in cohort["cases"] if case["why"] == FIRST]
        counts = [tokens_kept(case, SCORE, k) for case in cases]
        for case, (n, stays) in sorted(zip(cases, counts, strict=True), key=lambda pair: not pair[1][1]):
            yield case | {
                **{name: cohort[name] for name in ("cohort", "grid", "credit", "pictures_with_one_lesion")},
                "k": k,
                "lesion_tokens_kept": n,
                "retained": stays,
                "lesions_in_the_split": total,
                "lesions_kept_in_the_split": total - cohort["missed_by_tokens_kept"][SCORE][k - 1],
            }


def views(panel: dict[str, Any], pictures: str) -> dict[str, str]:
    """Draw a panel three times as SVG.

    Args:
        pictures: where the pictures lie, seen from the page, with a slash at its end.
    """
    ranks, caption = ranks_of(panel, SCORE).reshape(panel["grid"]), escape(caption_of(panel))
    image = f'<image href="{pictures}{panel["file"]}" width="{SIZE}" height="{SIZE}"/>'
    outline = f'<path d="{panel["outline"]}" fill="none" stroke="#ffd60a" stroke-width="2"/>'
    levels = (ranks.size - 1 - ranks.astype(int)) * LEVELS // ranks.size  # the last is the best
    colours = RAMP[np.linspace(0, len(RAMP) - 1, LEVELS).round().astype(int)]
    heat = "".join(
        f'<path d="{_squares(levels == level)}" fill="rgb{tuple(map(int, colours[level]))}" '
        f'fill-opacity="{0.3 + 0.4 * level / (LEVELS - 1):.2f}" shape-rendering="crispEdges"/>'
        for level in range(LEVELS)
    )
    dark = f'<path d="{_squares(ranks >= panel["k"])}" fill-opacity="0.75" shape-rendering="crispEdges"/>'
    drawn = {"picture": outline, "map": heat + outline, "kept": dark + outline}
    return {
        view: f'<svg viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="{escape(VIEWS[view])}. {caption}">'
        f"{image}{marks}</svg>"
        for view, marks in drawn.items()
    }


def caption_of(panel: dict[str, Any]) -> str:
    """Say in words what a panel shows, from its numbers."""
    tokens = f"{panel['lesion_tokens_kept']} of {len(panel['lesion_tokens'])} lesion tokens kept"
    outcome = "retained" if panel["retained"] else "missed"
    return (
        f"{NAMES[panel['cohort']]}: {outcome}, {tokens}, AUROC in this picture "
        f"{panel['auroc_in_this_picture'][SCORE]:.3f}. Lesion {panel['lesion_share_of_the_picture']:.1%} of the "
        f"picture, {panel['place_by_size']} of {panel['pictures_with_one_lesion']} by size. Case {panel['case']}."
    )


def _squares(marked: np.ndarray) -> str:
    """Write a path of a square for each marked token of a grid."""
    side = SIZE // len(marked)
    return "".join(f"M{col * side} {row * side}h{side}v{side}h-{side}z" for row, col in np.argwhere(marked))
