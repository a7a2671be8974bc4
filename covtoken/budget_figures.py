"""Charts of budgets and coverage: gates 2 to 4 and the negative result. Rows in, an Altair chart out.

Membership is blue, coverage vermilion, baselines grey, wherever a chart has room for only these three. Panels share one
view, and only its height is divided between them: a concatenation of views would not take the width of its page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from covtoken.errors import CovtokenError
from covtoken.figures import COLOURS, GREY, cycle, styled, table_of
from covtoken.gates.method_names import MEASURE_NAMES

__all__ = [
    "CHARTS",
    "miss_by_method",
    "mu_by_slack",
    "mu_paths",
    "objective_optimiser",
    "rarity_curve",
    "rho_by_measure",
]

FAMILIES = {"random": "cross", "tilted": "diamond", "spanning": "triangle-down"}
MEMBERSHIPS = ("recommended", "membership A", "membership B")
COVERAGES = ("coverage", "energy", "RankMe", "coding rate")  # what labels of coverage methods begin with
KINDS = {"membership": COLOURS[0], "coverage": COLOURS[1], "baseline": GREY}
KEEPS = {"0.5": "triangle-up", "0.25": "circle", "0.1": "square"}
KEEP_COLOURS = (COLOURS[2], COLOURS[6], COLOURS[3])  # 0.25 decides: black
SCHEDULES = {"as specified": COLOURS[1], "repaired": COLOURS[2]}
SLACK_COLOURS = ("#00365a", COLOURS[0], COLOURS[5], COLOURS[4], COLOURS[1])  # tight to loose
CURVE_COLOURS = (COLOURS[1], COLOURS[6], COLOURS[2], COLOURS[3], COLOURS[4])  # of methods that are not membership
DECIDING = "0.25"
CHANCE = 0.25
MOST_DECADES = 5  # of a logarithmic axis of μ
PERCENT = "format(100 * datum.value, '.0f') + ' %'"


def rho_by_measure(rows: Iterable[Mapping], title: str = "Does a set that covers more hold more of the lesion?"):
    """Spearman's ρ between what a set of kept tokens covers and the share of the lesion in it, with 95 % intervals.

    Args:
        rows: mappings with ``measure`` (rankme, coding_rate, energy, control, attention_mass), ``keep`` ("0.5", "0.25",
            "0.1"), ``family`` (all, random, tilted, spanning), ``value``, and ``lo``, ``hi`` (or None). The family
            "all" is drawn with intervals, the others as small grey marks.
    """
    table = _with_bounds(table_of(rows, "measure", "keep", "family", "value", "lo", "hi"))
    table["keep"] = _keeps(table)
    table["name"] = table["measure"].map(lambda name: MEASURE_NAMES.get(name, name))
    overall, families = table[table["family"] == "all"], table[table["family"] != "all"]
    if overall.empty:
        raise CovtokenError("rho_by_measure: no row of family 'all'")
    order = [name for name in MEASURE_NAMES.values() if name in set(table["name"])]
    order += [name for name in dict.fromkeys(table["name"]) if name not in order]
    keeps = [keep for keep in KEEPS if keep in set(table["keep"])]
    two_lines = {"test": "indexof(datum.label, ' (') >= 0", "value": "bottom"}
    axis = alt.Axis(
        grid=False,
        ticks=False,
        labelFontSize=12,
        labelLimit=170,
        labelExpr="split(replace(datum.label, ' (', '|('), '|')",
        labelBaseline={"condition": two_lines, "value": "middle"},
    )
    y = alt.Y("name:N", sort=order, title=None, axis=axis, scale=alt.Scale(paddingInner=0.1, paddingOuter=0.05))
    lane = alt.YOffset("keep:N", sort=keeps, scale=alt.Scale(paddingOuter=0.5))
    x_title = "Spearman's ρ with the lesion's recall"
    palette = [KEEP_COLOURS[list(KEEPS).index(keep)] for keep in keeps]
    colour = alt.Color("keep:N", scale=alt.Scale(domain=keeps, range=palette), legend=_named_legend("share kept"))
    shape = alt.Shape(
        "keep:N",
        scale=alt.Scale(domain=keeps, range=[KEEPS[keep] for keep in keeps]),
        legend=_named_legend("share kept"),
    )
    x_axis = alt.Axis(tickCount=5, format="~g")
    x = alt.X("value:Q", title=x_title, axis=x_axis)
    tips = ["name:N", "keep:N", "family:N", *(alt.Tooltip(f"{c}:Q", format="+.3f") for c in ("value", "lo", "hi"))]
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color="#000", strokeWidth=1)
    base = alt.Chart(overall)
    layers = [zero.encode(x=alt.X("zero:Q", title=x_title, axis=x_axis))]
    if len(families):
        layers.append(
            alt.Chart(families)
            .mark_point(filled=False, size=26, strokeWidth=1.1, color=GREY, opacity=0.75)
            .encode(x=x, y=y, yOffset=lane, shape=_family_shape(), tooltip=tips)
        )
    rules = base.mark_rule(strokeWidth=2.2).encode(
        x=alt.X("lo:Q", title=x_title, axis=x_axis), x2="hi:Q", y=y, yOffset=lane, color=colour
    )
    points = base.mark_point(filled=True, size=62, opacity=1)
    layers.append(alt.layer(rules, points.encode(x=x, y=y, yOffset=lane, color=colour, shape=shape, tooltip=tips)))
    subtitle = "95 % intervals over units, all sets of one size."
    subtitle += " Grey: the same inside one family of sets." if len(families) else ""
    # The families have shapes of their own; colour goes with shape, so that the keep ratios have one legend.
    chart = styled(
        alt.layer(*layers).resolve_scale(shape="independent", color="independent"), title, 66 * len(order), subtitle
    )
    return _legends_below_each_other(chart)


def miss_by_method(rows: Iterable[Mapping], title: str = "Small lesions lost at equal budgets"):
    """Share of small lesions that a method loses, with 95 % intervals, best at keep 0.25 first.

    Args:
        rows: mappings with ``method`` (its label), ``keep`` ("0.5", "0.25", "0.1"), ``value``, and ``lo``, ``hi`` (or
            None). Membership methods, coverage methods and baselines are told apart by the label.
    """
    table = _with_bounds(table_of(rows, "method", "keep", "value", "lo", "hi"))
    table["keep"] = _keeps(table)
    table["kind"] = table["method"].map(_kind)
    deciding = table[table["keep"] == DECIDING].set_index("method")["value"]
    order = sorted(dict.fromkeys(table["method"]), key=lambda name: deciding.get(name, np.inf))
    keeps = [keep for keep in KEEPS if keep in set(table["keep"])]
    kinds = [kind for kind in KINDS if kind in set(table["kind"])]
    strong = {"test": f"indexof({list(MEMBERSHIPS)}, datum.value) >= 0", "value": "bold"}
    axis = alt.Axis(
        grid=False,
        ticks=False,
        labelFontSize=12,
        labelLimit=170,
        labelPadding=4,
        labelFontWeight={"condition": strong, "value": "normal"},
    )
    y = alt.Y("method:N", sort=order, title=None, axis=axis, scale=alt.Scale(padding=0.12))
    lane = alt.YOffset("keep:N", sort=keeps, scale=alt.Scale(paddingOuter=0.3))
    x_title = "Small lesions lost"
    x_axis = alt.Axis(labelExpr=PERCENT, tickCount=5)
    scale = alt.Scale(domain=[0, max(float(table["hi"].max()), 0.05)], nice=True)
    legend = alt.Legend(title=None, orient="top", columns=2, columnPadding=6, labelFontSize=12, symbolSize=70)
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[KINDS[kind] for kind in kinds]), legend=legend)
    shape = alt.Shape(
        "keep:N",
        scale=alt.Scale(domain=keeps, range=[KEEPS[keep] for keep in keeps]),
        legend=_named_legend("share kept"),
    )
    decides = alt.datum.keep == DECIDING
    tips = ["method:N", "keep:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("value", "lo", "hi"))]
    base = alt.Chart(table)
    stripes = alt.Chart(pd.DataFrame({"method": order[::2]})).mark_bar(color="#f4f4f4")
    chart = alt.layer(
        stripes.encode(y=y, x=alt.value(0), x2=alt.value("width")),
        base.mark_rule().encode(
            x=alt.X("lo:Q", title=x_title, axis=x_axis, scale=scale),
            x2="hi:Q",
            y=y,
            yOffset=lane,
            color=colour,
            strokeWidth=alt.condition(decides, alt.value(2.2), alt.value(1)),
            opacity=alt.condition(decides, alt.value(1), alt.value(0.6)),
        ),
        base.mark_point(filled=True, opacity=1).encode(
            x=alt.X("value:Q", title=x_title, axis=x_axis, scale=scale),
            y=y,
            yOffset=lane,
            color=colour,
            shape=shape,
            size=alt.condition(decides, alt.value(62), alt.value(30)),
            tooltip=tips,
        ),
    )
    chart = styled(chart, title, 30 * len(order), "95 % intervals over units. Sorted at keep 0.25.")
    return _legends_below_each_other(chart)


def mu_paths(rows: Iterable[Mapping], title: str = "The price of coverage, step by step"):
    """Price μ (logarithmic) and tokens kept along the descent, a line a slack, a panel a schedule.

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
    legend = _named_legend("slack", symbolStrokeWidth=3)
    colour = alt.Color("floor_at:N", scale=alt.Scale(domain=names, range=list(colours[: len(names)])), legend=legend)
    x = alt.X("step:Q", title="Step", axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(nice=False, zero=False))
    tips = ["schedule:N", alt.Tooltip("floor_at:N", title="slack"), "step:Q", alt.Tooltip("mu:Q", format=".3g"), "k:Q"]
    schedules = _in_order(table["schedule"], SCHEDULES)
    places = _places(2 * len(schedules), 118)
    parts = []
    for index, (kind, schedule) in enumerate((kind, name) for kind in ("price", "k") for name in schedules):
        span = places[index]
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
    """Price μ with 95 % intervals, and the share of pictures that meet the coverage floor, against the slack.

    Args:
        rows: mappings with ``slack``, ``schedule`` ("as specified", "repaired"), ``mu``, ``lo``, ``hi`` (or None),
            ``met`` (0…1) and ``cv`` (of μ over seeds).
    """
    table = _with_bounds(table_of(rows, "slack", "schedule", "mu", "lo", "hi", "met", "cv"), "mu")
    floor, ceiling, ticks = _decades(pd.concat([table["mu"], table["lo"], table["hi"]]))
    for name in ("mu", "lo", "hi"):
        table[f"{name}_drawn"] = table[name].clip(lower=floor)
    schedules = _in_order(table["schedule"], SCHEDULES)
    slacks = sorted(set(table["slack"]))
    # Side by side: equal values would hide each other.
    shift = table["schedule"].map({name: i - (len(schedules) - 1) / 2 for i, name in enumerate(schedules)})
    table["place"] = table["slack"] * 1.08**shift
    x = alt.X(
        "place:Q",
        title="Slack (share of coverage given up)",
        scale=alt.Scale(type="log", domain=[slacks[0] / 1.25, slacks[-1] * 1.25], nice=False),
        axis=alt.Axis(values=slacks, grid=False, labelExpr="format(100 * datum.value, '~g') + ' %'"),
    )
    legend = alt.Legend(title=None, orient="top", labelFontSize=12, symbolSize=80)
    palette = cycle(len(schedules))
    colours = [SCHEDULES.get(name, palette[i]) for i, name in enumerate(schedules)]
    colour = alt.Color("schedule:N", scale=alt.Scale(domain=schedules, range=colours), legend=legend)
    shapes = ["circle", "square", "triangle-up", "diamond", "cross"][: len(schedules)]
    shape = alt.Shape("schedule:N", scale=alt.Scale(domain=schedules, range=shapes), legend=legend)
    tips = [
        "schedule:N",
        "slack:Q",
        *(alt.Tooltip(f"{name}:Q", format=".3g") for name in ("mu", "lo", "hi")),
        alt.Tooltip("met:Q", format=".0%"),
        alt.Tooltip("cv:Q", title="cv over seeds", format=".2f"),
    ]
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
    bounds = base.mark_rule(strokeWidth=2.2).encode(
        x=x, y=alt.Y("lo_drawn:Q", title=None, scale=price, axis=axis), y2="hi_drawn:Q", color=colour
    )
    chart = alt.layer(
        alt.layer(
            bounds,
            *points(alt.Y("mu_drawn:Q", title=None, scale=price, axis=axis)),
            _heading("Price μ, in tokens a unit of coverage", top),
        ),
        alt.layer(
            *points(alt.Y("met:Q", title=None, scale=share, axis=met_axis)),
            _heading("Pictures that meet their floor", bottom),
        ),
    ).resolve_scale(y="independent")
    return styled(chart, title, bottom[0], "95 % intervals over units, means over seeds.")


def objective_optimiser(rows: Iterable[Mapping], title: str = "Is it the objective or its optimiser?"):
    """Small lesions that coverage loses, with 95 % intervals, and membership at the same number of tokens.

    Args:
        rows: mappings with ``objective`` (RankMe, coding rate, energy), ``optimiser`` (its label), ``miss``, ``lo``,
            ``hi`` (or None), ``membership_miss``, ``met`` (share of pictures on which the floor held) and ``k`` (mean
            tokens kept).
    """
    table = table_of(rows, "objective", "optimiser", "miss", "lo", "hi", "membership_miss", "met", "k")
    table = _with_bounds(table, "miss")
    table["row"] = table["objective"] + "|" + table["optimiser"]
    table["note"] = [
        f"floor met {100 * met:.0f} %, {k:.0f} tokens" for met, k in zip(table["met"], table["k"], strict=True)
    ]
    order = list(dict.fromkeys(table["row"]))
    y = alt.Y(
        "row:N",
        sort=order,
        title=None,
        scale=alt.Scale(padding=0),
        axis=alt.Axis(
            grid=False,
            ticks=False,
            labelFontSize=12,
            labelLimit=150,
            labelPadding=8,
            labelExpr="split(datum.label, '|')",
            labelBaseline="bottom",
        ),
    )
    x_title = "Small lesions lost"
    highest = float(max(table["hi"].max(), table["membership_miss"].max(), 0.05))
    scale = alt.Scale(domain=[0, highest], nice=True)
    x_axis = alt.Axis(labelExpr=PERCENT, tickCount=5)

    def x(name: str) -> alt.X:
        return alt.X(f"{name}:Q", title=x_title, scale=scale, axis=x_axis)

    long = table.melt(["row", "note"], ["miss", "membership_miss"], "which", "lost")
    long["which"] = long["which"].map({"miss": "coverage", "membership_miss": "membership, as many tokens"})
    names = ["coverage", "membership, as many tokens"]
    legend = alt.Legend(title=None, orient="top", columns=1, labelFontSize=12, symbolSize=80, labelLimit=200)
    colour = alt.Color("which:N", scale=alt.Scale(domain=names, range=[COLOURS[1], COLOURS[0]]), legend=legend)
    shape = alt.Shape("which:N", scale=alt.Scale(domain=names, range=["circle", "diamond"]), legend=legend)
    fill = alt.Fill("which:N", scale=alt.Scale(domain=names, range=[COLOURS[1], "#ffffff"]), legend=legend)
    base, up = alt.Chart(table), -8
    stripes = alt.Chart(pd.DataFrame({"row": order[::2]})).mark_bar(color="#f4f4f4")
    tips = ["objective:N", "optimiser:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("miss", "lo", "hi"))]
    chart = alt.layer(
        stripes.encode(y=y, x=alt.value(0), x2=alt.value("width")),
        base.mark_rule(yOffset=up, strokeWidth=1, color=GREY).encode(x=x("membership_miss"), x2="miss:Q", y=y),
        base.mark_rule(yOffset=up, strokeWidth=2.5, color=COLOURS[1]).encode(x=x("lo"), x2="hi:Q", y=y, tooltip=tips),
        alt.Chart(long)
        .mark_point(yOffset=up, size=70, opacity=1, strokeWidth=2)
        .encode(
            x=x("lost"),
            y=y,
            color=colour,
            shape=shape,
            fill=fill,
            tooltip=["which:N", alt.Tooltip("lost:Q", format=".3f"), "note:N"],
        ),
        base.mark_text(align="left", dx=6, dy=10, fontSize=11, color=GREY).encode(x=alt.value(0), y=y, text="note:N"),
    )
    subtitle = "95 % intervals over units. Floor met: share of pictures. Tokens: mean kept."
    return styled(chart, title, 42 * len(order), subtitle)


def rarity_curve(rows: Iterable[Mapping], title: str = "Recall as a lesion gets rarer"):
    """Recall of lesion tokens at keep 0.25 against the lesion's size in tokens (logarithmic), with 95 % bands.

    Args:
        rows: mappings with ``method`` (its label), ``tokens`` (1, 2, 4…64), ``recall``, and ``lo``, ``hi`` (or None).
    """
    table = _with_bounds(table_of(rows, "method", "tokens", "recall", "lo", "hi"), "recall")
    names = _in_order(table["method"], MEMBERSHIPS)
    sizes = sorted(int(size) for size in set(table["tokens"]))
    table["strong"] = table["method"].isin(MEMBERSHIPS)
    blues = iter((COLOURS[0], COLOURS[5], "#00365a"))
    others = iter([CURVE_COLOURS[i % len(CURVE_COLOURS)] for i in range(len(names))])
    palette = [next(blues) if name in MEMBERSHIPS else next(others) for name in names]
    legend = alt.Legend(
        title=None, orient="top", columns=2, labelFontSize=12, symbolSize=70, labelLimit=150, symbolOpacity=1
    )
    colour = alt.Color("method:N", scale=alt.Scale(domain=names, range=palette), legend=legend)
    shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
    shapes = [shapes[i % len(shapes)] for i in range(len(names))]
    shape = alt.Shape("method:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    x = alt.X(
        "tokens:Q",
        title="Lesion's size in tokens",
        scale=alt.Scale(type="log", base=2, domain=[sizes[0], max(sizes[-1], sizes[0] + 1)], nice=False),
        axis=alt.Axis(values=sizes, grid=False, labelFlush=False, labelExpr="format(datum.value, 'd')"),
    )
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
        chance.mark_text(align="right", dx=-4, dy=9, fontSize=11, color="#000").encode(
            x=alt.value("width"), y=y("chance"), text="text:N"
        ),
    )
    return styled(chart, title, 320, "A quarter of the tokens is kept. Bands: 95 % intervals over pictures.")


CHARTS = {
    "rho_by_measure": rho_by_measure,
    "miss_by_method": miss_by_method,
    "mu_paths": mu_paths,
    "mu_by_slack": mu_by_slack,
    "objective_optimiser": objective_optimiser,
    "rarity_curve": rarity_curve,
}


def _with_bounds(table: pd.DataFrame, value: str = "value") -> pd.DataFrame:
    """Without an interval, bounds lie on the value."""
    for bound in ("lo", "hi"):
        table[bound] = pd.to_numeric(table[bound]).fillna(table[value])
    return table


def _keeps(table: pd.DataFrame) -> pd.Series:
    """Keep ratios as the text they are drawn under; others than 0.5, 0.25 and 0.1 have no mark."""
    found = table["keep"].map(lambda keep: f"{float(keep):g}")
    unknown = sorted(set(found) - set(KEEPS))
    if unknown:
        raise CovtokenError(f"keep ratio {unknown[0]}: expected one of {', '.join(KEEPS)}")
    return found


def _kind(method: str) -> str:
    return "membership" if method in MEMBERSHIPS else "coverage" if method.startswith(COVERAGES) else "baseline"


def _in_order(values: pd.Series, first: Iterable[str]) -> list[str]:
    """Distinct values, the named ones first."""
    found = list(dict.fromkeys(values))
    return [name for name in first if name in found] + [name for name in found if name not in first]


def _family_shape() -> alt.Shape:
    shapes = alt.Scale(domain=list(FAMILIES), range=list(FAMILIES.values()))
    return alt.Shape("family:N", scale=shapes, legend=_named_legend("one family", symbolSize=40))


def _named_legend(title: str, **options) -> alt.Legend:
    return alt.Legend(
        title=title, orient="top", labelFontSize=12, titleFontSize=12, titleFontWeight="normal", **options
    )


def _legends_below_each_other(chart):
    """Beside each other, two legends are wider than a phone."""
    layout = "{top: {anchor: 'start', direction: 'vertical', margin: 8}}"
    return chart.configure_legend(layout=alt.ExprRef(layout))


def _places(count: int, height: int, gap: int = 34) -> list[list[int]]:
    """(bottom, top) in px of panels below each other in one view, each with room for its heading."""
    return [[i * (height + gap) + 20 + height, i * (height + gap) + 20] for i in range(count)]


def _heading(text: str, span: list[int]) -> alt.Chart:
    mark = alt.Chart(pd.DataFrame({"text": [text]})).mark_text(align="left", baseline="bottom", fontSize=13)
    return mark.encode(x=alt.value(0), y=alt.value(span[1] - 7), text="text:N")


def _decades(values: pd.Series) -> tuple[float, float, list[float]]:
    """Floor, ceiling and ticks of a logarithmic axis: whole decades, at most ``MOST_DECADES`` of them."""
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
