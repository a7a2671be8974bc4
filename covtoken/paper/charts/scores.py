"""Chart scores: AUROC by block, densities, gains over baselines.

Colours have the hues of Okabe and Ito, told apart with any colour vision; scores without a block are grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from covtoken.paper.charts.style import (
    COLOURS,
    FONT,
    GREY,
    KINDS,
    block_axis,
    cycle,
    end_labels,
    legend_inside,
    plain_legend,
    row_axis,
    styled,
    table_of,
    ticks_around_zero,
    with_bounds,
)


def auroc_by_block(rows: Iterable[Mapping], title: str = "Where lesions live", threshold: float | None = None):
    """Plot AUROC of every score at every block, with 95 % bands; scores without a block are horizontal rules.

    Args:
        rows: mappings with ``scorer`` (its label), ``block`` (1…L, ``"norm"`` for the final block through the final
            norm, None for a score that reads no block), ``value``, and ``lo``, ``hi`` (or None).
        threshold: a locked threshold, drawn as a dotted rule.
    """
    table = with_bounds(table_of(rows, "scorer", "block", "value"))
    numbers = pd.to_numeric(table["block"], errors="coerce")
    last = int(numbers.max()) if numbers.notna().any() else 1
    table["position"] = numbers.where(table["block"] != "norm", last + 2)
    lines, rules = table[table["position"].notna()], table[table["position"].isna()]
    names = list(dict.fromkeys(lines["scorer"]))
    colour = alt.Color("scorer:N", scale=alt.Scale(domain=names, range=cycle(len(names))), legend=None)
    floor, ceiling = np.floor(min(0.5, float(table["lo"].min())) * 20) / 20, max(1.0, float(table["hi"].max()))
    y_scale = alt.Scale(domain=[floor, ceiling], nice=False)
    ticks = list(range(1, last + 1)) + ([last + 2] if (table["block"] == "norm").any() else [])
    axis = block_axis(ticks, last + 2, labelFlush=False)
    x = alt.X("position:Q", title="Block", scale=alt.Scale(domain=[1, max(ticks)], nice=False), axis=axis)
    y = alt.Y("value:Q", title="Token AUROC", scale=y_scale)
    tips = ["scorer:N", "block:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("value", "lo", "hi"))]
    base = alt.Chart(lines)
    layers = [
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("lo:Q", scale=y_scale), y2="hi:Q", color=colour),
        base.mark_line(strokeWidth=2.2).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=34, opacity=1).encode(x=x, y=y, color=colour, tooltip=tips),
    ]
    if len(rules):
        rule = alt.Chart(rules).mark_rule(color=GREY, strokeDash=[5, 3], strokeWidth=1.3)
        layers.insert(0, rule.encode(y=alt.Y("value:Q", scale=y_scale), tooltip=tips))
    ends = lines.sort_values("position").groupby("scorer", sort=False).tail(1)
    marks = [(r.scorer, float(r.value), COLOURS[names.index(r.scorer) % len(COLOURS)]) for r in ends.itertuples()]
    marks += [(r.scorer, float(r.value), GREY) for r in rules.itertuples()]
    if threshold is not None:
        line = alt.Chart(pd.DataFrame({"value": [threshold]}))
        layers.append(line.mark_rule(color="#000", strokeDash=[1, 3]).encode(y=alt.Y("value:Q", scale=y_scale)))
        marks.append(("threshold", float(threshold), "#000000"))
    height = max(300, 17 * len(marks) + 40)
    layers.append(end_labels(marks, floor, ceiling, height, y_scale))
    dashed = " Dashed: other scores, tuned." if len(rules) else ""
    subtitle = f"Curves: plain tokens, neither pooled nor smoothed.{dashed} Bands: 95 % over units."
    return styled(alt.layer(*layers), title, height, subtitle)


def score_densities(rows: Iterable[Mapping], title: str = "Scores of lesion tokens and of the others"):
    """Plot densities of a score for lesion tokens and other tokens.

    Args:
        rows: mappings with ``group`` (two or three names), ``score`` and ``density``; optionally ``panel``.
    """
    table = table_of(rows, "group", "score", "density")
    names = list(dict.fromkeys(table["group"]))
    legend = alt.Legend(title=None, orient="top", labelFontSize=13)
    colour = alt.Color("group:N", scale=alt.Scale(domain=names, range=cycle(len(names))), legend=legend)
    if "panel" in table:
        return _panels(table, colour, title)
    return styled(_density(table, colour), title, 240)


def gain_forest(rows: Iterable[Mapping], title: str = "Gain over each baseline", unit: str = "AUROC"):
    """Plot differences with 95 % intervals beside a zero line; colour and mark tell wins from losses.

    Args:
        rows: mappings with ``label``, ``value``, ``lo``, ``hi``; optionally ``cohort``, the heading that a row stands
            under. Positive favours the score that the rows are about. Without rows the chart says why: fewer than
            five units have no intervals.
        unit: what differs, as the axis names it.
    """
    rows = list(rows)
    if not rows:
        words = "No differences are drawn: fewer than five units have no intervals."
        return styled(
            alt.Chart(pd.DataFrame({"words": [words]})).mark_text(fontSize=13).encode(text="words:N"), title, 60
        )
    table, order, y = _rows_under_heads(rows)
    table["reading"] = np.select([table["lo"] > 0, table["hi"] < 0], ["wins", "loses"], "undecided")
    readings = ["wins", "undecided", "loses"]
    scale = alt.Scale(domain=readings, range=[COLOURS[0], GREY, COLOURS[1]])
    colour = alt.Color("reading:N", scale=scale, legend=plain_legend(columns=3))
    shapes = alt.Scale(domain=readings, range=["circle", "diamond", "triangle-left"])
    shape = alt.Shape("reading:N", scale=shapes, legend=plain_legend(columns=3))
    tips = ["row:N", "reading:N", *(alt.Tooltip(f"{c}:Q", format="+.3f") for c in ("value", "lo", "hi"))]
    ticks = ticks_around_zero(table["lo"].min(), table["hi"].max())
    axis = alt.Axis(values=ticks, format="~g", labelOverlap=False, titleAnchor="end")
    low, value, nothing = (alt.X(f"{c}:Q", title=f"Difference in {unit}", axis=axis) for c in ("lo", "value", "zero"))
    base = alt.Chart(table)
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color="#000", strokeWidth=1).encode(x=nothing)
    rules = base.mark_rule(strokeWidth=2.5).encode(x=low, x2="hi:Q", y=y, color=colour)
    points = base.mark_point(filled=True, size=70, opacity=1)
    chart = alt.layer(zero, rules, points.encode(x=value, y=y, color=colour, shape=shape, tooltip=tips))
    words = "95 % intervals over units, paired. Right of 0 it wins; undecided: the interval holds 0."
    return legend_inside(styled(chart, title, _height(order), words))


def value_forest(rows: Iterable[Mapping], title: str = "Score beside score", unit: str = "token AUROC"):
    """Plot values with 95 % intervals; where an AUROC comes near one half, a dashed rule says that this is chance.

    Args:
        rows: mappings with ``label``, ``value``, ``lo``, ``hi`` and ``of`` (membership, coverage or baseline, which
            gives the colour); optionally ``cohort``, the heading that a row stands under.
        unit: what is measured, as the axis names it.
    """
    table, order, y = _rows_under_heads(rows, "of")
    kinds = [kind for kind in KINDS if kind in set(table["of"])]
    scale = alt.Scale(domain=kinds, range=[KINDS[kind] for kind in kinds])
    colour = alt.Color("of:N", scale=scale, legend=plain_legend(columns=2))
    span = alt.Scale(domain=[min(0.5, np.floor(table["lo"].min() * 10) / 10), 1.0], nice=False)
    axis = alt.Axis(format="~g", tickCount=5, titleAnchor="end")
    tips = ["row:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("value", "lo", "hi"))]
    low, value, chance = (
        alt.X(f"{c}:Q", title=unit[0].upper() + unit[1:], scale=span, axis=axis) for c in ("lo", "value", "chance")
    )
    base = alt.Chart(table)
    layers = [
        base.mark_rule(strokeWidth=2.5).encode(x=low, x2="hi:Q", y=y, color=colour),
        base.mark_point(filled=True, size=70, opacity=1).encode(x=value, y=y, color=colour, tooltip=tips),
    ]
    words = "95 % intervals over units."
    if "AUROC" in unit and table["lo"].min() < 0.5:
        half = alt.Chart(pd.DataFrame({"chance": [0.5]})).mark_rule(color="#000", strokeDash=[2, 3])
        layers.insert(0, half.encode(x=chance))
        words += " Dashed: chance."
    return legend_inside(styled(alt.layer(*layers), title, _height(order), words))


def _rows_under_heads(rows: Iterable[Mapping], *needed: str) -> tuple[pd.DataFrame, list[str], alt.Y]:
    """Give the table, its rows' keys from top to bottom, and their axis; a cohort's name stands bold over its rows."""
    table = table_of(rows, "label", "value", "lo", "hi", *needed)
    if "cohort" not in table:
        table["row"] = table["label"]
        order = list(dict.fromkeys(table["row"]))
        return table, order, alt.Y("row:N", sort=order, title=None, axis=row_axis())
    table["row"] = table["cohort"] + ": " + table["label"]
    order = [row for cohort, part in table.groupby("cohort", sort=False) for row in (cohort, *part["row"])]
    bold = {"test": "indexof(datum.value, ': ') < 0", "value": "bold"}
    # Short: a phone is narrow.
    name = "replace(slice(datum.label, indexof(datum.label, ': ') + 2), 'C−\\'s fit', 'fit')"
    axis = row_axis(
        labelExpr=f"indexof(datum.label, ': ') < 0 ? datum.label : {name}",
        labelFontWeight={"condition": bold, "value": "normal"},
    )
    return table, order, alt.Y("row:N", sort=order, title=None, axis=axis, scale=alt.Scale(domain=order))


def _height(order: list[str]) -> int:
    return max(120, (22 if len(order) > 16 else 30) * len(order))


def _density(table: pd.DataFrame, colour: alt.Color) -> alt.Chart:
    chart = alt.Chart(table).mark_area(opacity=0.35, line={"strokeWidth": 2}, interpolate="monotone")
    return chart.encode(
        x=alt.X("score:Q", title="Score"),
        y=alt.Y("density:Q", title="Density", stack=None, axis=alt.Axis(grid=False)),
        color=colour,
    )


def _panels(table: pd.DataFrame, colour: alt.Color, title: str):
    """Draw a density chart a panel, each on its own axes: scores of different methods have different units."""
    parts = []
    for name, rows in table.groupby("panel", sort=False):
        head = alt.TitleParams(str(name), anchor="start", fontSize=14, fontWeight="normal")
        parts.append(_density(rows, colour).properties(width=430, height=130, title=head))
    text = alt.TitleParams(title, anchor="start", fontSize=17)
    chart = alt.concat(*parts, columns=1, title=text).resolve_scale(x="independent", y="independent")
    chart = chart.properties(description=title).configure(font=FONT).configure_view(strokeWidth=0)
    return chart.configure_axis(labelFontSize=13, titleFontSize=14, titleFontWeight="normal", gridColor="#e6e6e6")
