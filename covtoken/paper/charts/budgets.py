"""Chart gates 2 and 3. Of three colours, blue is membership, vermilion coverage, grey a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from covtoken.errors import CovtokenError
from covtoken.names import MEASURE_NAMES, MEMBERSHIPS, kind_of
from covtoken.paper.charts.style import (
    COLOURS,
    GREY,
    KINDS,
    PERCENT,
    in_order,
    legends_below_each_other,
    named_legend,
    plain_legend,
    row_axis,
    styled,
    table_of,
    with_bounds,
)

FAMILIES = {"random": "cross", "tilted": "diamond", "spanning": "triangle-down"}
KEEPS = {"0.5": "triangle-up", "0.25": "circle", "0.1": "square"}
KEEP_COLOURS = (COLOURS[2], COLOURS[6], COLOURS[3])  # 0.25 decides: black
DECIDING = "0.25"


def rho_by_measure(rows: Iterable[Mapping], title: str = "Does a set that covers more hold more of the lesion?"):
    """Plot Spearman's ρ of a kept set's coverage with the share of the lesion in it, with 95 % intervals.

    Args:
        rows: mappings with ``measure`` (rankme, coding_rate, energy, control, attention_mass), ``keep`` ("0.5", "0.25",
            "0.1"), ``family`` (all, random, tilted, spanning), ``value``, and ``lo``, ``hi`` (or None). The family
            "all" is drawn with intervals, the others as small grey marks.

    Raises:
        CovtokenError: no row of family "all", or a keep ratio without a mark.
    """
    table = with_bounds(table_of(rows, "measure", "keep", "family", "value", "lo", "hi"))
    table["keep"] = _keeps(table)
    table["name"] = table["measure"].map(lambda name: MEASURE_NAMES.get(name, name))
    overall, families = table[table["family"] == "all"], table[table["family"] != "all"]
    if overall.empty:
        raise CovtokenError("rho_by_measure: no row of family 'all'")
    order = in_order(table["name"], MEASURE_NAMES.values())
    keeps = [keep for keep in KEEPS if keep in set(table["keep"])]
    two_lines = {"test": "indexof(datum.label, ' (') >= 0", "value": "bottom"}
    baseline = {"condition": two_lines, "value": "middle"}
    axis = row_axis(labelExpr="split(replace(datum.label, ' (', '|('), '|')", labelBaseline=baseline)
    y = alt.Y("name:N", sort=order, title=None, axis=axis, scale=alt.Scale(paddingInner=0.1, paddingOuter=0.05))
    lane = alt.YOffset("keep:N", sort=keeps, scale=alt.Scale(paddingOuter=0.5))
    x_title = "Spearman's ρ with the lesion's recall"
    palette = [KEEP_COLOURS[list(KEEPS).index(keep)] for keep in keeps]
    colour = alt.Color("keep:N", scale=alt.Scale(domain=keeps, range=palette), legend=named_legend("share kept"))
    shape = _keep_shape(keeps)
    x_axis = alt.Axis(tickCount=5, format="~g", titleAnchor="end")
    x = alt.X("value:Q", title=x_title, axis=x_axis)
    tips = ["name:N", "keep:N", "family:N", *(alt.Tooltip(f"{c}:Q", format="+.3f") for c in ("value", "lo", "hi"))]
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color="#000", strokeWidth=1)
    base = alt.Chart(overall)
    layers = [zero.encode(x=alt.X("zero:Q", title=x_title, axis=x_axis))]
    if len(families):
        marks = alt.Chart(families).mark_point(filled=False, size=26, strokeWidth=1.1, color=GREY, opacity=0.75)
        shapes = alt.Scale(domain=list(FAMILIES), range=list(FAMILIES.values()))
        family = alt.Shape("family:N", scale=shapes, legend=named_legend("one family", symbolSize=40))
        layers.append(marks.encode(x=x, y=y, yOffset=lane, shape=family, tooltip=tips))
    low = alt.X("lo:Q", title=x_title, axis=x_axis)
    rules = base.mark_rule(strokeWidth=2.2).encode(x=low, x2="hi:Q", y=y, yOffset=lane, color=colour)
    points = base.mark_point(filled=True, size=62, opacity=1)
    layers.append(alt.layer(rules, points.encode(x=x, y=y, yOffset=lane, color=colour, shape=shape, tooltip=tips)))
    subtitle = "95 % intervals over units, all sets of one size."
    subtitle += " Grey: the same inside one family of sets." if len(families) else ""
    # The families have shapes of their own; colour goes with shape, so that the keep ratios have one legend.
    chart = alt.layer(*layers).resolve_scale(shape="independent", color="independent")
    return legends_below_each_other(styled(chart, title, 66 * len(order), subtitle))


def miss_by_method(rows: Iterable[Mapping], title: str = "Small lesions lost at equal budgets"):
    """Plot the share of small lesions that each method loses, with 95 % intervals, best at keep 0.25 first.

    Args:
        rows: mappings with ``method`` (its label), ``keep`` ("0.5", "0.25", "0.1"), ``value``, and ``lo``, ``hi`` (or
            None). ``covtoken.names.kind_of`` gives a method its colour.

    Raises:
        CovtokenError: a method of unknown kind, or a keep ratio without a mark.
    """
    table = with_bounds(table_of(rows, "method", "keep", "value", "lo", "hi"))
    table["keep"] = _keeps(table)
    table["kind"] = table["method"].map(kind_of)
    deciding = table[table["keep"] == DECIDING].set_index("method")["value"]
    order = sorted(dict.fromkeys(table["method"]), key=lambda name: deciding.get(name, np.inf))
    keeps = [keep for keep in KEEPS if keep in set(table["keep"])]
    kinds = [kind for kind in KINDS if kind in set(table["kind"])]
    strong = {"test": f"indexof({list(MEMBERSHIPS)}, datum.value) >= 0", "value": "bold"}
    axis = row_axis(labelPadding=4, labelFontWeight={"condition": strong, "value": "normal"})
    y = alt.Y("method:N", sort=order, title=None, axis=axis, scale=alt.Scale(padding=0.12))
    lane = alt.YOffset("keep:N", sort=keeps, scale=alt.Scale(paddingOuter=0.3))
    x_axis = alt.Axis(labelExpr=PERCENT, tickCount=5)
    scale = alt.Scale(domain=[0, max(float(table["hi"].max()), 0.05)], nice=True)
    legend = plain_legend(70, columns=2, columnPadding=6)
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[KINDS[kind] for kind in kinds]), legend=legend)
    shape = _keep_shape(keeps)
    decides = alt.datum.keep == DECIDING
    tips = ["method:N", "keep:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("value", "lo", "hi"))]
    base = alt.Chart(table)
    stripes = alt.Chart(pd.DataFrame({"method": order[::2]})).mark_bar(color="#f4f4f4")
    low, value = (alt.X(f"{c}:Q", title="Small lesions lost", axis=x_axis, scale=scale) for c in ("lo", "value"))
    size, width, opacity = (
        alt.condition(decides, alt.value(large), alt.value(small)) for large, small in ((62, 30), (2.2, 1), (1, 0.6))
    )
    rules = base.mark_rule().encode(x=low, x2="hi:Q", y=y, yOffset=lane, color=colour)
    points = base.mark_point(filled=True, opacity=1).encode(x=value, y=y, yOffset=lane, color=colour, shape=shape)
    chart = alt.layer(
        stripes.encode(y=y, x=alt.value(0), x2=alt.value("width")),
        rules.encode(strokeWidth=width, opacity=opacity),
        points.encode(size=size, tooltip=tips),
    )
    chart = styled(chart, title, 30 * len(order), "95 % intervals over units. Sorted at keep 0.25.")
    return legends_below_each_other(chart)


def _keeps(table: pd.DataFrame) -> pd.Series:
    """Write keep ratios as the text of their legend; refuse those without a mark."""
    keeps = table["keep"].map(lambda keep: f"{float(keep):g}")
    unknown = sorted(set(keeps) - set(KEEPS))
    if unknown:
        raise CovtokenError(f"keep ratio {unknown[0]}: expected one of {', '.join(KEEPS)}")
    return keeps


def _keep_shape(keeps: list[str]) -> alt.Shape:
    shapes = alt.Scale(domain=keeps, range=[KEEPS[keep] for keep in keeps])
    return alt.Shape("keep:N", scale=shapes, legend=named_legend("share kept"))
