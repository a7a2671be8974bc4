"""Chart the study of volumes: lesions of three dimensions retained by one budget for the volume and one per slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt

from covtoken.errors import CovtokenError
from covtoken.names import METHOD_NAMES
from covtoken.paper.charts.economy import OTHER, STYLES
from covtoken.paper.charts.style import PERCENT, end_labels, in_order, styled, table_of

WHOLE, EVEN = "whole volume", "per slice"
SPENDS = {"global": WHOLE, "uniform": EVEN}
HEIGHT = 340


def volume_retention(
    rows: Iterable[Mapping], title: str = "Lesions that stay in a volume, by the tokens kept", sigma: float = 0.0
):
    """Plot the share of 3-D lesions retained against the keep ratio: a colour a score, a line a way to spend.

    Args:
        rows: mappings with ``score``, ``sigma_mm``, ``keep``, ``spend``, ``retained`` and ``n_lesions``.
        sigma: smoothing along z in mm, of the rows to draw.

    Raises:
        CovtokenError: no rows, or none of this smoothing.
    """
    table = table_of(rows, "score", "sigma_mm", "keep", "spend", "retained", "n_lesions")
    table = table[table["sigma_mm"] == float(sigma)].copy()
    if table.empty:
        raise CovtokenError(f"volume_retention: no row is smoothed by {sigma} mm")
    table["value"] = table["retained"] / table["n_lesions"]
    table["name"] = table["score"].map(METHOD_NAMES)
    table["budget"] = table["spend"].map(SPENDS)
    scores = in_order(table["score"], STYLES)
    colour = alt.Color(
        "score:N", scale=alt.Scale(domain=scores, range=[STYLES.get(s, OTHER)[0] for s in scores]), legend=None
    )
    dash = alt.StrokeDash(
        "budget:N",
        scale=alt.Scale(domain=[WHOLE, EVEN], range=[[1, 0], [5, 3]]),
        legend=alt.Legend(title="Budget", orient="top", titleFontWeight="normal", labelFontSize=12, titleFontSize=12),
    )
    keeps = sorted(table["keep"].unique().tolist())
    x_axis = alt.Axis(values=keeps, labelExpr="format(100 * datum.value, '~g') + ' %'", grid=False, labelOverlap=False)
    x_scale = alt.Scale(type="log", domain=[keeps[-1], keeps[0]])  # fewer tokens to the right
    x = alt.X("keep:Q", scale=x_scale, axis=x_axis, title="Tokens kept")
    y_scale = alt.Scale(domain=[0, 1], nice=False)
    y = alt.Y("value:Q", title="Lesions retained", scale=y_scale, axis=alt.Axis(labelExpr=PERCENT, tickCount=5))
    tips = ["name:N", "budget:N", *(alt.Tooltip(f"{name}:Q") for name in ("keep", "retained", "n_lesions"))]
    base = alt.Chart(table).encode(x=x, y=y, color=colour, detail="budget:N")
    fewest = table[(table["keep"] == keeps[0]) & (table["spend"] == "global")]
    names = [(_short(row.score), float(row.value), STYLES.get(row.score, OTHER)[0]) for row in fewest.itertuples()]
    layers = [
        base.mark_line(strokeWidth=2).encode(strokeDash=dash),
        base.mark_point(filled=True, size=42, opacity=1).encode(tooltip=tips),
    ]
    smoothing = f"scores smoothed by σ = {sigma:g} mm" if sigma else "no smoothing"
    words = f"{int(table['n_lesions'].iloc[0])} lesions; along z: {smoothing}. Names stand at the fewest tokens."
    layers.append(end_labels(names, 0.0, 1.0, HEIGHT, y_scale))
    return styled(alt.layer(*layers), title, HEIGHT, words)


def _short(score: str) -> str:
    return STYLES[score][4].partition(",")[0] if score in STYLES else METHOD_NAMES.get(score, score)
