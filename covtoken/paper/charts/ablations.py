"""Chart an ablation: AUROC of each score against the value that was changed, a panel a cohort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import pandas as pd

from covtoken.paper.charts.style import COLOURS, cycle, named_legend, panel_title, side_by_side, table_of

SCORES = ("A", "B", "lesion subspace", "PN", "D", "C", "C−")  # each has its colour in every chart, C− black
SUBTITLE = (
    "Bars: 95 % intervals over scored units. Rings: the default, from which differences are taken. Each panel's name "
    "ends with the units scored and the units of the bank."
)


def ablation_chart(rows: Iterable[Mapping], title: str, x_title: str, width: int = 210, height: int = 190):
    """Plot token AUROC of each score at each value, joined by lines; the default is ringed.

    Args:
        rows: mappings with ``panel`` (its heading), ``value`` (text, in the order of the axis), ``score``, ``auroc``,
            ``lo``, ``hi`` and ``default``.
        x_title: of the axis of values.
        width: of a panel's plot, px, as ``height``.
    """
    table = table_of(rows, "panel", "value", "score", "auroc", "lo", "hi", "default")
    shown = [score for score in SCORES if score in set(table["score"])]
    colours = dict(zip(SCORES, cycle(len(SCORES)), strict=True))
    scale = alt.Scale(domain=shown, range=[colours[score] for score in shown])
    colour = alt.Color("score:N", scale=scale, legend=named_legend("", columns=4, symbolType="stroke", symbolOpacity=1))
    low, high = float(table["lo"].min()), float(table["hi"].max())
    y_scale = alt.Scale(domain=[max(0.0, low - 0.02), min(1.0, high + 0.02)], nice=False)
    parts = [
        _panel(part, colour, y_scale, x_title).properties(width=width, height=height, title=panel_title(str(name)))
        for name, part in table.groupby("panel", sort=False)
    ]
    chart = side_by_side(parts, title, SUBTITLE, columns=3)
    return chart.configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridColor="#e6e6e6")


def _panel(table: pd.DataFrame, colour: alt.Color, y_scale: alt.Scale, x_title: str) -> alt.LayerChart:
    order = list(dict.fromkeys(table["value"]))
    axis = alt.Axis(labelAngle=-40 if max(map(len, order)) > 3 else 0, grid=False, labelOverlap=False)
    x = alt.X("value:N", sort=order, title=x_title, axis=axis)
    y = alt.Y("auroc:Q", title="Token AUROC", scale=y_scale)
    tips = ["score:N", "value:N", *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("auroc", "lo", "hi"))]
    base, usual = alt.Chart(table), alt.Chart(table[table["default"]])
    bars = base.mark_rule(strokeWidth=1, opacity=0.45)
    return alt.layer(
        bars.encode(x=x, y=alt.Y("lo:Q", scale=y_scale, title="Token AUROC"), y2="hi:Q", color=colour),
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=30, opacity=1).encode(x=x, y=y, color=colour, tooltip=tips),
        usual.mark_point(filled=False, size=110, strokeWidth=1.5, color=COLOURS[-1]).encode(x=x, y=y),
    )
