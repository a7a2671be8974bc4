"""Chart gate 0: how far two extractions differ, and which tokens answer to a mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from covtoken.errors import CovtokenError
from covtoken.paper.charts.pictures import RAMP
from covtoken.paper.charts.style import (
    COLOURS,
    block_axis,
    cycle,
    panel_title,
    plain_legend,
    side_by_side,
    styled,
    table_of,
)

EQUAL = 1e-8  # floor of a logarithmic axis of distances, on which equal tokens are drawn


def agreement_by_block(rows: Iterable[Mapping], title: str = "Two extractions, block by block"):
    """Plot the relative L2 distance of two extractions at every block, logarithmic; equal tokens sit on the floor.

    Args:
        rows: mappings with ``comparison`` (its name), ``block`` (1…L or ``"norm"``) and ``value``.
    """
    table = table_of(rows, "comparison", "block", "value")
    numbers = pd.to_numeric(table["block"], errors="coerce")
    last = int(numbers.max())
    table["position"] = numbers.fillna(last + 1).astype(int)
    table["drawn"] = table["value"].clip(lower=EQUAL)
    step = 0.7 / table["comparison"].nunique()  # side by side: equal values would hide each other
    table["position"] = table["position"] + step * (pd.factorize(table["comparison"])[0] + 0.5) - 0.35
    table["block"] = table["block"].astype(str)
    table["comparison"] = table["comparison"].str.replace("_", " ")
    names = list(dict.fromkeys(table["comparison"]))
    legend = plain_legend(columns=3)
    scale = alt.Scale(domain=names, range=cycle(len(names)))
    shapes = alt.Scale(domain=names, range=["circle", "square", "triangle-up", "diamond", "cross"][: len(names)])
    label = f"datum.value < {1.5 * EQUAL} ? 'equal' : format(datum.value, '.0e')"
    decades = alt.Axis(values=[10.0**power for power in range(-8, 0)], labelExpr=label)
    distances = alt.Scale(type="log", domain=[EQUAL, 0.1])
    blocks, span = block_axis(list(range(1, last + 2)), last + 1), alt.Scale(domain=[0.5, last + 1.5], nice=False)
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=42, opacity=1)
        .encode(
            x=alt.X("position:Q", title="Block", scale=span, axis=blocks),
            y=alt.Y("drawn:Q", title="Relative distance", scale=distances, axis=decades),
            color=alt.Color("comparison:N", scale=scale, legend=legend),
            shape=alt.Shape("comparison:N", scale=shapes, legend=legend),
            tooltip=["comparison:N", "block:N", alt.Tooltip("value:Q", format=".2e")],
        )
    )
    return styled(chart, title, 300, "Mean over pictures of ‖difference‖ / ‖tokens‖.")


def token_marks(panels: Iterable[Mapping], title: str = "Marks and the tokens that answer", size: int = 230):
    """Draw each token's strongest answer to a planted mark, and the marks' own pixels, on grids of several shapes.

    Args:
        panels: mappings with ``height`` and ``width`` (pixels), ``rows``, ``cols``, ``response`` [rows · cols] in 0…1
            and ``boxes`` (top, bottom, left, right in pixels).
        size: longest side of a panel in px.
    """
    parts = []
    for panel in panels:
        height, width, rows, cols = (panel[key] for key in ("height", "width", "rows", "cols"))
        row, col = np.divmod(np.arange(rows * cols), cols)
        tokens = pd.DataFrame({"row": row, "col": col, "response": panel["response"]})
        tokens = tokens.assign(top=row * height / rows, bottom=(row + 1) * height / rows)
        tokens = tokens.assign(left=col * width / cols, right=(col + 1) * width / cols)
        boxes = pd.DataFrame(panel["boxes"], columns=["top", "bottom", "left", "right"])
        x = alt.X("left:Q", title=None, scale=alt.Scale(domain=[0, width], nice=False), axis=_PIXELS)
        y = alt.Y("top:Q", title=None, scale=alt.Scale(domain=[height, 0], nice=False), axis=_PIXELS)
        ramp = ["#" + bytes(map(int, stop)).hex() for stop in RAMP]
        colour = alt.Color("response:Q", scale=alt.Scale(domain=[0, 1], range=ramp), legend=None)
        grid = alt.Chart(tokens).mark_rect(stroke="#555", strokeWidth=0.4)
        tips = ["row:Q", "col:Q", alt.Tooltip("response:Q", format=".2f")]
        marks = alt.Chart(boxes).mark_rect(filled=False, stroke=COLOURS[1], strokeWidth=2.5)
        part = alt.layer(
            grid.encode(x=x, x2="right:Q", y=y, y2="bottom:Q", color=colour, tooltip=tips),
            marks.encode(x=x, x2="right:Q", y=y, y2="bottom:Q"),
        )
        longest = max(height, width)
        head = panel_title(f"{height} × {width} pixels")
        parts.append(part.properties(width=size * width / longest, height=size * height / longest, title=head))
    if not parts:
        raise CovtokenError("token_marks: no panel to draw; pass at least one")
    subtitle = "Yellow: tokens that change most. Frames: the marks' pixels. Thin lines: the token grid."
    return side_by_side(parts, title, subtitle)


_PIXELS = alt.Axis(grid=False, tickCount=3, labelFontSize=12)
