"""Chart gate 4 and the negative result: the dual's path, objective against optimiser, the growing lesion.

Panels share one view and divide its height: a concatenation of views would not take the width of its page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

import altair as alt
import numpy as np
import pandas as pd

from covtoken.names import MEMBERSHIPS
from covtoken.paper.charts.style import (
    COLOURS,
    GREY,
    PERCENT,
    cycle,
    in_order,
    named_legend,
    plain_legend,
    row_axis,
    styled,
    table_of,
    with_bounds,
)

SCHEDULES = {"as specified": COLOURS[1], "repaired": COLOURS[2]}
SLACK_COLOURS = ("#00365a", COLOURS[0], COLOURS[5], COLOURS[4], COLOURS[1])  # tight to loose
CURVE_COLOURS = (COLOURS[1], COLOURS[6], COLOURS[2], COLOURS[3], COLOURS[4])  # of methods that are not membership
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
CHANCE = 0.25
MOST_DECADES = 5  # of a logarithmic axis of μ


def mu_paths(rows: Iterable[Mapping], title: str = "The price of coverage, step by step"):
    """Plot price μ (logarithmic) and tokens kept along the descent, a line a slack, a panel a schedule.

    Args:
        rows: mappings with ``step``, ``mu``, ``k``, ``slack`` and ``schedule`` ("as specified", "repaired"); means over
            pictures and seeds. A μ that has no logarithm is drawn on the axis's floor.
    """
    table = table_of(rows, "step", "mu", "k", "slack", "schedule")
    floor, ceiling, ticks = _decades(table["mu"])
    table["price"] = table["mu"].clip(lower=floor)
    table["floor_at"] = table["slack"].map(lambda slack: f"{100 * slack:g} %")
    slacks = sorted(set(table["slack"]))
    names = [f"{100 * slack:g} %" for slack in slacks]
    colours = SLACK_COLOURS if len(slacks) <= len(SLACK_COLOURS) else cycle(len(slacks))
    legend = named_legend("slack", symbolStrokeWidth=3)
    colour = alt.Color("floor_at:N", scale=alt.Scale(domain=names, range=list(colours[: len(names)])), legend=legend)
    x = alt.X("step:Q", title="Step", axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(nice=False, zero=False))
    tips = ["schedule:N", alt.Tooltip("floor_at:N", title="slack"), "step:Q", alt.Tooltip("mu:Q", format=".3g"), "k:Q"]
    schedules = in_order(table["schedule"], SCHEDULES)
    places = _places(2 * len(schedules), 118)
    parts = []
    for span, (kind, schedule) in zip(places, product(("price", "k"), schedules), strict=True):
        if kind == "price":
            heading = f"Price μ, {schedule}"
            scale = alt.Scale(type="log", domain=[floor, ceiling], range=span, nice=False)
            axis = _price_axis(floor, ticks)
        else:
            heading = f"Tokens kept, {schedule}"
            scale = alt.Scale(domain=[0, float(table["k"].max())], range=span, nice=True)
            axis = alt.Axis(tickCount=4, orient="left", grid=True)
        y = alt.Y(f"{kind}:Q", title=None, scale=scale, axis=axis)
        part = alt.Chart(table[table["schedule"] == schedule]).mark_line(strokeWidth=2)
        parts.append(alt.layer(part.encode(x=x, y=y, color=colour, tooltip=tips), _heading(heading, span)))
    chart = alt.layer(*parts).resolve_scale(y="independent")
    return styled(chart, title, places[-1][0], "Means over pictures and seeds. Slack: share of coverage given up.")


def mu_by_slack(rows: Iterable[Mapping], title: str = "Price and floor as the slack grows"):
    """Plot price μ with 95 % intervals, and the share of pictures that meet the coverage floor, against the slack.

    Args:
        rows: mappings with ``slack``, ``schedule`` ("as specified", "repaired"), ``mu``, ``lo``, ``hi`` (or None),
            ``met`` (0…1) and ``cv`` (of μ over seeds).
    """
    table = with_bounds(table_of(rows, "slack", "schedule", "mu", "lo", "hi", "met", "cv"), "mu")
    floor, ceiling, ticks = _decades(pd.concat([table["mu"], table["lo"], table["hi"]]))
    for name in ("mu", "lo", "hi"):
        table[f"{name}_drawn"] = table[name].clip(lower=floor)
    schedules = in_order(table["schedule"], SCHEDULES)
    slacks = sorted(set(table["slack"]))
    # Side by side: equal values would hide each other.
    shift = table["schedule"].map({name: i - (len(schedules) - 1) / 2 for i, name in enumerate(schedules)})
    table["place"] = table["slack"] * 1.08**shift
    span = alt.Scale(type="log", domain=[slacks[0] / 1.25, slacks[-1] * 1.25], nice=False)
    slack_axis = alt.Axis(values=slacks, grid=False, labelExpr="format(100 * datum.value, '~g') + ' %'")
    x = alt.X("place:Q", title="Slack (share of coverage given up)", scale=span, axis=slack_axis)
    legend = plain_legend()
    palette = cycle(len(schedules))
    colours = [SCHEDULES.get(name, palette[i]) for i, name in enumerate(schedules)]
    colour = alt.Color("schedule:N", scale=alt.Scale(domain=schedules, range=colours), legend=legend)
    shapes = SHAPES[: len(schedules)]
    shape = alt.Shape("schedule:N", scale=alt.Scale(domain=schedules, range=shapes), legend=legend)
    tips = ["schedule:N", "slack:Q", *(alt.Tooltip(f"{name}:Q", format=".3g") for name in ("mu", "lo", "hi"))]
    tips += [alt.Tooltip("met:Q", format=".0%"), alt.Tooltip("cv:Q", title="cv over seeds", format=".2f")]
    top, bottom = _places(2, 170)
    price = alt.Scale(type="log", domain=[floor, ceiling], range=top, nice=False)
    share = alt.Scale(domain=[0, 1], range=bottom, nice=False)
    base = alt.Chart(table)

    def points(y: alt.Y) -> list[alt.Chart]:
        line = base.mark_line(strokeWidth=1.4).encode(x=x, y=y, color=colour)
        mark = base.mark_point(filled=True, size=62, opacity=1)
        return [line, mark.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips)]

    axis = _price_axis(floor, ticks)
    met_axis = alt.Axis(tickCount=5, labelExpr=PERCENT, orient="left", grid=True)
    low, mu = (alt.Y(f"{name}_drawn:Q", title=None, scale=price, axis=axis) for name in ("lo", "mu"))
    met = alt.Y("met:Q", title=None, scale=share, axis=met_axis)
    bounds = base.mark_rule(strokeWidth=2.2).encode(x=x, y=low, y2="hi_drawn:Q", color=colour)
    prices = alt.layer(bounds, *points(mu), _heading("Price μ, in tokens a unit of coverage", top))
    shares = alt.layer(*points(met), _heading("Pictures that meet their floor", bottom))
    chart = alt.layer(prices, shares).resolve_scale(y="independent")
    return styled(chart, title, bottom[0], "95 % intervals over units, means over seeds.")


def objective_optimiser(rows: Iterable[Mapping], title: str = "Is it the objective or its optimiser?"):
    """Plot the small lesions lost by coverage, with 95 % intervals, and by membership at the same number of tokens.

    Args:
        rows: mappings with ``objective`` (RankMe, coding rate, energy), ``optimiser`` (its label), ``miss``, ``lo``,
            ``hi`` (or None), ``membership_miss``, ``met`` (share of pictures on which the floor held) and ``k`` (mean
            tokens kept).
    """
    table = table_of(rows, "objective", "optimiser", "miss", "lo", "hi", "membership_miss", "met", "k")
    table = with_bounds(table, "miss")
    table["row"] = table["objective"] + "|" + table["optimiser"]
    pairs = zip(table["met"], table["k"], strict=True)
    table["note"] = [f"floor met {100 * met:.0f} %, {k:.0f} tokens" for met, k in pairs]
    order = list(dict.fromkeys(table["row"]))
    axis = row_axis(150, labelPadding=8, labelExpr="split(datum.label, '|')", labelBaseline="bottom")
    y = alt.Y("row:N", sort=order, title=None, scale=alt.Scale(padding=0), axis=axis)
    highest = float(max(table["hi"].max(), table["membership_miss"].max(), 0.05))
    scale = alt.Scale(domain=[0, highest], nice=True)
    x_axis = alt.Axis(labelExpr=PERCENT, tickCount=5)

    def x(name: str) -> alt.X:
        return alt.X(f"{name}:Q", title="Small lesions lost", scale=scale, axis=x_axis)

    long = table.melt(["row", "note"], ["miss", "membership_miss"], "which", "lost")
    long["which"] = long["which"].map({"miss": "coverage", "membership_miss": "membership, as many tokens"})
    names = ["coverage", "membership, as many tokens"]
    legend = plain_legend(columns=1, labelLimit=200)
    colour = alt.Color("which:N", scale=alt.Scale(domain=names, range=[COLOURS[1], COLOURS[0]]), legend=legend)
    shape = alt.Shape("which:N", scale=alt.Scale(domain=names, range=["circle", "diamond"]), legend=legend)
    fill = alt.Fill("which:N", scale=alt.Scale(domain=names, range=[COLOURS[1], "#ffffff"]), legend=legend)
    base, up = alt.Chart(table), -8
    points = alt.Chart(long).mark_point(yOffset=up, size=70, opacity=1, strokeWidth=2)
    point_tips = ["which:N", alt.Tooltip("lost:Q", format=".3f"), "note:N"]
    stripes = alt.Chart(pd.DataFrame({"row": order[::2]})).mark_bar(color="#f4f4f4")
    tips = ["objective:N", "optimiser:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("miss", "lo", "hi"))]
    chart = alt.layer(
        stripes.encode(y=y, x=alt.value(0), x2=alt.value("width")),
        base.mark_rule(yOffset=up, strokeWidth=1, color=GREY).encode(x=x("membership_miss"), x2="miss:Q", y=y),
        base.mark_rule(yOffset=up, strokeWidth=2.5, color=COLOURS[1]).encode(x=x("lo"), x2="hi:Q", y=y, tooltip=tips),
        points.encode(x=x("lost"), y=y, color=colour, shape=shape, fill=fill, tooltip=point_tips),
        base.mark_text(align="left", dx=6, dy=10, fontSize=12, color=GREY).encode(x=alt.value(0), y=y, text="note:N"),
    )
    subtitle = "95 % intervals over units. Floor met: share of pictures. Tokens: mean kept."
    return styled(chart, title, 42 * len(order), subtitle)


def growing_lesion_curve(rows: Iterable[Mapping], title: str = "Recall as a lesion gets rarer"):
    """Plot recall of lesion tokens at keep 0.25 against the growing lesion's size (logarithmic), with 95 % bands.

    Args:
        rows: mappings with ``method`` (its label), ``tokens`` (1, 2, 4…64), ``recall``, and ``lo``, ``hi`` (or None).
    """
    table = with_bounds(table_of(rows, "method", "tokens", "recall", "lo", "hi"), "recall")
    names = in_order(table["method"], MEMBERSHIPS)
    sizes = sorted(int(size) for size in set(table["tokens"]))
    table["strong"] = table["method"].isin(MEMBERSHIPS)
    blues = iter((COLOURS[0], COLOURS[5], "#00365a"))
    others = iter([CURVE_COLOURS[i % len(CURVE_COLOURS)] for i in range(len(names))])
    palette = [next(blues) if name in MEMBERSHIPS else next(others) for name in names]
    legend = plain_legend(70, columns=2, labelLimit=150, symbolOpacity=1)
    colour = alt.Color("method:N", scale=alt.Scale(domain=names, range=palette), legend=legend)
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(names))]
    shape = alt.Shape("method:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    span = alt.Scale(type="log", base=2, domain=[sizes[0], max(sizes[-1], sizes[0] + 1)], nice=False)
    axis = alt.Axis(values=sizes, grid=False, labelFlush=False, labelExpr="format(datum.value, 'd')")
    x = alt.X("tokens:Q", title="Lesion's size in tokens", scale=span, axis=axis)
    scale = alt.Scale(domain=[0, 1], nice=False)

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title="Recall of lesion tokens", scale=scale, axis=alt.Axis(tickCount=5))

    tips = ["method:N", "tokens:Q", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("recall", "lo", "hi"))]
    base = alt.Chart(table)
    chance = alt.Chart(pd.DataFrame({"chance": [CHANCE], "text": ["chance"]}))
    width = alt.condition(alt.datum.strong, alt.value(3), alt.value(1.6))
    chart = alt.layer(
        base.mark_area(opacity=0.12).encode(x=x, y=y("lo"), y2="hi:Q", color=colour),
        chance.mark_rule(color="#000", strokeDash=[2, 3]).encode(y=y("chance")),
        base.mark_line().encode(x=x, y=y("recall"), color=colour, strokeWidth=width),
        base.mark_point(filled=True, size=48, opacity=1).encode(
            x=x, y=y("recall"), color=colour, shape=shape, tooltip=tips
        ),
        chance.mark_text(align="right", dx=-4, dy=9, fontSize=12, color="#000").encode(
            x=alt.value("width"), y=y("chance"), text="text:N"
        ),
    )
    return styled(chart, title, 320, "A quarter of the tokens is kept. Bands: 95 % intervals over pictures.")


def _places(count: int, height: int, gap: int = 34) -> list[list[int]]:
    """Place panels below each other in one view, each with room for its heading: [bottom, top] in px."""
    return [[i * (height + gap) + 20 + height, i * (height + gap) + 20] for i in range(count)]


def _heading(text: str, span: list[int]) -> alt.Chart:
    mark = alt.Chart(pd.DataFrame({"text": [text]})).mark_text(align="left", baseline="bottom", fontSize=13)
    return mark.encode(x=alt.value(0), y=alt.value(span[1] - 7), text="text:N")


def _decades(values: pd.Series) -> tuple[float, float, list[float]]:
    """Give floor, ceiling and ticks of a logarithmic axis: whole decades, at most ``MOST_DECADES`` of them."""
    positive = values[values > 0]
    if positive.empty:
        return 0.1, 1.0, [0.1, 1.0]
    high = int(np.ceil(np.log10(float(positive.max()))))
    low = min(high - 1, int(np.floor(np.log10(float(positive.min())))))
    low = max(low, high - MOST_DECADES)
    return 10.0**low, 10.0**high, [10.0**power for power in range(low, high + 1)]


def _price_axis(floor: float, ticks: list[float]) -> alt.Axis:
    label = f"datum.value < {1.5 * floor:g} ? '≤ ' + format(datum.value, '~g') : format(datum.value, ',~g')"
    return alt.Axis(values=ticks, labelExpr=label, orient="left", grid=True)
