"""Share among all charts: colours, type, legends, and how rows become a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from textwrap import wrap

import altair as alt
import numpy as np
import pandas as pd

from covtoken.errors import CovtokenError

# Hues of Okabe and Ito, darker: names at a line's end have its colour, and text needs a contrast of 4.5 to 1 on white.
COLOURS = ("#0072B2", "#B84E00", "#007A59", "#A8437C", "#866100", "#6E6E6E", "#000000")
GREY = "#6b6b6b"
KINDS = {"membership": COLOURS[0], "coverage": COLOURS[1], "baseline": GREY}  # of methods
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def table_of(rows: Iterable[Mapping], *needed: str) -> pd.DataFrame:
    """Copy rows into a table; refuse no rows, and rows that lack a needed column."""
    table = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    missing = [name for name in needed if name not in table]
    if missing or table.empty:
        raise CovtokenError(f"chart rows: expected columns {', '.join(needed)}, got {', '.join(table) or 'no rows'}")
    return table.reset_index(drop=True)


def cycle(n: int) -> list[str]:
    """Give n colours, the first ones again where there are not enough."""
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def styled(chart, title: str, height: int, subtitle: str = ""):
    """Make a chart as wide as its page, with a left-aligned title broken into lines that fit a phone."""
    head = {"anchor": "start", "fontSize": 16, "subtitleFontSize": 12, "subtitleColor": GREY, "offset": 10}
    text = alt.TitleParams(wrap(title, 33), **head, **({"subtitle": wrap(subtitle, 54)} if subtitle else {}))
    chart = chart.properties(width="container", height=height, title=text, description=title)
    padding = {"left": 4, "top": 4, "bottom": 4, "right": 8}
    chart = chart.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"), padding=padding)
    chart = chart.configure(font=FONT).configure_view(strokeWidth=0)
    return chart.configure_axis(labelFontSize=12, titleFontSize=13, titleFontWeight="normal", gridColor="#e6e6e6")


def side_by_side(panels: list[alt.Chart], title: str, subtitle: str, columns: int = 2) -> alt.ConcatChart:
    """Join panels of fixed sizes under one title."""
    text = alt.TitleParams(title, subtitle=wrap(subtitle, 60), anchor="start", fontSize=16, subtitleFontSize=12)
    chart = alt.concat(*panels, columns=columns, spacing=14, title=text).properties(description=title)
    return chart.configure(font=FONT).configure_view(strokeWidth=0)


def panel_title(text: str) -> alt.TitleParams:
    """Give a panel its own small title."""
    return alt.TitleParams(text, fontSize=13, fontWeight="normal", anchor="start", offset=4)


PERCENT = "format(100 * datum.value, '.0f') + ' %'"


def with_bounds(table: pd.DataFrame, value: str = "value") -> pd.DataFrame:
    """Put bounds on the value where there is no interval."""
    for bound in ("lo", "hi"):
        table[bound] = pd.to_numeric(table[bound]).fillna(table[value]) if bound in table else table[value]
    return table


def ticks_around_zero(low: float, high: float) -> list[float]:
    """Give three to six round ticks from ``low`` to ``high``, 0 among them: as many as a phone has room for."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    size = 10.0 ** np.floor(np.log10((high - low) or 1.0))
    step = next(s * size for s in (0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / (s * size) <= 4)
    return [round(i * step, 10) for i in range(int(np.floor(low / step)), int(np.ceil(high / step)) + 1)]


def in_order(values: pd.Series, first: Iterable[str]) -> list[str]:
    """List distinct values, the named ones first."""
    names = list(dict.fromkeys(values))
    return [name for name in first if name in names] + [name for name in names if name not in first]


def plain_legend(size: int = 80, **options) -> alt.Legend:
    """Make a legend above the chart, without a title."""
    return alt.Legend(title=None, orient="top", labelFontSize=12, symbolSize=size, **options)


def named_legend(title: str, **options) -> alt.Legend:
    """Make a legend above the chart, with a title."""
    fonts = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return alt.Legend(title=title, orient="top", **fonts, **options)


def row_axis(limit: int = 200, **options) -> alt.Axis:
    """Make the axis of named rows; names end at ``limit`` px."""
    return alt.Axis(grid=False, ticks=False, labelFontSize=12, labelLimit=limit, **options)


def block_axis(blocks: list[int], norm: int, **options) -> alt.Axis:
    """Make an axis of blocks that names the first, every third, and ``norm``."""
    label = f"datum.value == {norm} ? 'norm' : datum.value % 3 && datum.value > 1 ? '' : datum.label"
    return alt.Axis(values=blocks, grid=False, labelOverlap=False, labelExpr=label, **options)


_ANCHOR = "(containerSize()[0] < 480 ? 'end' : 'start')"  # legends begun at a narrow plot's left would leave a phone


def legends_below_each_other(chart):
    """Stack the legends: beside each other, two are wider than a phone."""
    place = f"{{top: {{anchor: {_ANCHOR}, direction: 'vertical', margin: 8}}}}"
    return chart.configure_legend(layout=alt.ExprRef(place))


def legend_inside(chart):
    """Move the legends to the right where the plot is narrow."""
    return chart.configure_legend(layout=alt.ExprRef(f"{{top: {{anchor: {_ANCHOR}}}}}"))


def end_labels(marks: list[tuple[str, float, str]], floor: float, ceiling: float, height: int, y_scale: alt.Scale):
    """Write names at the right edge, moved apart where values lie too close to read.

    Args:
        marks: (name, value, colour).
        floor: lower end of the y axis, as ``ceiling`` the upper one.
        height: of the plot, px.
    """
    gap = 15 * (ceiling - floor) / height
    marks = sorted(marks, key=lambda mark: mark[1])
    stacks: list[list[float]] = []  # values whose names touch: spread evenly around their mean
    limits = (gap, floor, ceiling)
    for _, value, _ in marks:
        stacks.append([value])
        while len(stacks) > 1 and _edges(stacks[-2], *limits)[1] > _edges(stacks[-1], *limits)[0]:
            stacks[-2:] = [stacks[-2] + stacks[-1]]
    places = [_edges(stack, *limits)[0] + gap * (i + 0.5) for stack in stacks for i in range(len(stack))]
    table = pd.DataFrame({"text": [m[0] for m in marks], "place": places, "colour": [m[2] for m in marks]})
    table["at"] = [value for _, value, _ in marks]
    base = alt.Chart(table).encode(color=alt.Color("colour:N", scale=None))
    # A thin line leads from a value to a name that was moved away from it.
    lead = base.mark_rule(strokeWidth=0.8, opacity=0.7, clip=False)
    ends = {"y": alt.Y("at:Q", scale=y_scale), "y2": "place:Q", "x2": alt.value({"expr": "width + 9"})}
    names = base.mark_text(align="left", baseline="middle", dx=12, fontSize=12, limit=126)
    place = alt.Y("place:Q", scale=y_scale)
    return lead.encode(x=alt.value("width"), **ends) + names.encode(x=alt.value("width"), y=place, text="text:N")


def _edges(values: list[float], gap: float, floor: float, ceiling: float) -> tuple[float, float]:
    """Give lower and upper edge of a stack of names, centred on its values but inside the plot."""
    extent = gap * len(values)
    low = min(max(sum(values) / len(values) - extent / 2, floor), ceiling - extent + gap / 2)
    return low, low + extent
