"""Chart transfer: gate 5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt

from covtoken.names import BACKBONE_NAMES, WAYS, cohort_name, in_page_order
from covtoken.paper.charts.style import styled, table_of

HEADS = {  # short enough for four beside each other on a phone; a bar ends a line
    "refitted": "usual|recipe,|own bank",
    "elsewhere": "recipe|from|elsewhere",
    "carried": "bank of|the same|modality",
    "foreign": "bank of|another|modality",
}
# A name of two words takes two lines, so that a phone has room for the cells.
_LINES = "split(replace(datum.label, /^([^ |]+) /, '$1|'), '|')"
LOWEST = 0.4  # of the colour scale; below chance nothing is to be told apart


def transfer_heatmap(rows: Iterable[Mapping], title: str = "The same recipe elsewhere", score: str = "recommended"):
    """Plot token AUROC by cohort and way: pooled over all tokens, large and as colour; inside one picture, small.

    Args:
        rows: mappings with ``cohort``, ``way``, ``score``, ``kind`` (auroc, image_auroc) and ``value``; where they name
            a ``backbone``, each has lines of its own.
        score: the score whose rows are drawn.
    """
    rows = [dict(row) for row in rows]
    names = {name: cohort_name(name) for name in in_page_order({row["cohort"] for row in rows})}
    for row in rows:
        backbone = row.get("backbone")
        row["cohort"] = names[row["cohort"]] + (f"|{BACKBONE_NAMES.get(backbone, backbone)}" if backbone else "")
    table = table_of(rows, "cohort", "way", "score", "kind", "value")
    table = table[table["score"] == score].pivot_table(index=["cohort", "way"], columns="kind", values="value")
    table = table.reset_index()
    table["title"], table["head"] = table["way"].map(WAYS), table["way"].map(HEADS)
    table["pooled"] = table["auroc"].map("{:.3f}".format)
    table["inside"] = table["image_auroc"].map("{:.3f}".format)
    places = list(names.values())
    cohorts = sorted(set(table["cohort"]), key=lambda name: (places.index(name.split("|")[0]), name))
    lines = alt.Axis(
        labelExpr="split(datum.label, '|')", labelAngle=0, labelPadding=36, labelLineHeight=14, labelFontSize=12,
        orient="top", title=None, ticks=False, domain=False,
    )  # fmt: skip
    sides = alt.Axis(labelExpr=_LINES, labelLimit=110, labelLineHeight=13, title=None, ticks=False, domain=False)
    x = alt.X("head:N", sort=list(HEADS.values()), axis=lines)
    y = alt.Y("cohort:N", sort=cohorts, axis=sides)
    base = alt.Chart(table).encode(x=x, y=y)
    colour = alt.Color(
        "auroc:Q", scale=alt.Scale(domain=[LOWEST, 1], scheme="cividis", clamp=True), title="pooled AUROC"
    )
    ink = alt.condition(alt.datum.auroc > 0.75, alt.value("#000"), alt.value("#fff"))
    tips = ["cohort:N", "title:N", *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("auroc", "image_auroc"))]
    chart = alt.layer(
        base.mark_rect(stroke="#fff", strokeWidth=2).encode(
            color=colour.legend(orient="bottom", gradientLength=160), tooltip=tips
        ),
        base.mark_text(fontSize=15, dy=-7).encode(text="pooled:N", color=ink),
        base.mark_text(fontSize=12, dy=10).encode(text="inside:N", color=ink),
    )
    return styled(
        chart,
        title,
        54 * len(cohorts),
        "Large: all tokens pooled; small: inside one picture. No cell: that cohort has no such way.",
    )
