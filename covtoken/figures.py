"""The paper's charts. Plain rows in, an Altair chart out; colours and labels hold for every page.

Colours are Okabe and Ito's, told apart with any colour vision; the proposed scores are drawn strong, baselines grey.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import wrap

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from covtoken.errors import CovtokenError
from covtoken.offline_renderer import install_renderer, write_bundle

__all__ = [
    "CHARTS",
    "agreement_by_block",
    "alarm_against_failure",
    "auroc_by_block",
    "cycle",
    "gain_forest",
    "install_renderer",
    "lesion_maps",
    "score_densities",
    "styled",
    "table_of",
    "token_marks",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6b6b6b"
EQUAL = 1e-8  # floor of a logarithmic axis of distances, on which equal tokens are drawn
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def auroc_by_block(rows: Iterable[Mapping], title: str = "Where lesions live", threshold: float | None = None):
    """AUROC of every score at every block, with 95 % bands; scores without a block are horizontal rules.

    Args:
        rows: mappings with ``scorer`` (its label), ``block`` (1…L, ``"norm"`` for the final block through the final
            norm, None for a score that reads no block), ``value``, and ``lo``, ``hi`` (or None).
        threshold: a locked threshold, drawn as a dotted rule.
    """
    table = table_of(rows, "scorer", "block", "value")
    for bound in ("lo", "hi"):
        table[bound] = table[bound].fillna(table["value"]) if bound in table else table["value"]
    numbers = pd.to_numeric(table["block"], errors="coerce")
    last = int(numbers.max()) if numbers.notna().any() else 1
    table["position"] = numbers.where(table["block"] != "norm", last + 2)
    lines, rules = table[table["position"].notna()], table[table["position"].isna()]
    names = list(dict.fromkeys(lines["scorer"]))
    colour = alt.Color("scorer:N", scale=alt.Scale(domain=names, range=cycle(len(names))), legend=None)
    floor, ceiling = min(0.5, float(table["lo"].min())), max(1.0, float(table["hi"].max()))
    floor = np.floor(floor * 20) / 20
    y_scale = alt.Scale(domain=[floor, ceiling], nice=False)
    ticks = list(range(1, last + 1)) + ([last + 2] if (table["block"] == "norm").any() else [])
    x = alt.X(
        "position:Q",
        title="Block",
        scale=alt.Scale(domain=[1, max(ticks)], nice=False),
        axis=alt.Axis(
            values=ticks,
            grid=False,
            labelOverlap=False,
            labelFlush=False,
            labelExpr=f"datum.value == {last + 2} ? 'norm' : datum.value % 3 && datum.value > 1 ? '' : datum.label",
        ),
    )
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
    layers.append(_end_labels(marks, floor, ceiling, height, y_scale))
    return styled(
        alt.layer(*layers), title, height, "Bands: 95 % intervals over units. Dashed: scores without a block."
    )


def score_densities(rows: Iterable[Mapping], title: str = "Scores of lesion tokens and of the others"):
    """Densities of a score for lesion tokens and other tokens.

    Args:
        rows: mappings with ``group`` (two or three names), ``score`` and ``density``; optionally ``panel``.
    """
    table = table_of(rows, "group", "score", "density")
    names = list(dict.fromkeys(table["group"]))
    colour = alt.Color(
        "group:N",
        scale=alt.Scale(domain=names, range=cycle(len(names))),
        legend=alt.Legend(title=None, orient="top", labelFontSize=13),
    )
    if "panel" in table:
        return _panels(table, colour, title)
    return styled(_density(table, colour), title, 240)


def gain_forest(rows: Iterable[Mapping], title: str = "Gain over each baseline", unit: str = "AUROC"):
    """Differences with their 95 % intervals beside a zero line: right of it favours the proposed score.

    Args:
        rows: mappings with ``label``, ``value``, ``lo``, ``hi``; optionally ``cohort``.
    """
    table = table_of(rows, "label", "value", "lo", "hi")
    table["row"] = table["label"] if "cohort" not in table else table["cohort"] + ": " + table["label"]
    excludes = (table["lo"] > 0) | (table["hi"] < 0)
    table["reading"] = np.where(excludes, "excludes 0", "includes 0")
    order = list(dict.fromkeys(table["row"]))
    y = alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=170, grid=False, labelFontSize=12))
    readings = ["excludes 0", "includes 0"]
    colour = alt.Color(
        "reading:N",
        scale=alt.Scale(domain=readings, range=[COLOURS[0], GREY]),
        legend=alt.Legend(title="95 % interval", orient="top", labelFontSize=12, titleFontSize=12),
    )
    tips = ["row:N", *(alt.Tooltip(f"{c}:Q", format="+.3f") for c in ("value", "lo", "hi"))]
    x_title = f"Difference in {unit}"
    base = alt.Chart(table)
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color="#000", strokeWidth=1).encode(x="zero:Q")
    chart = alt.layer(
        zero,
        base.mark_rule(strokeWidth=2.5).encode(x=alt.X("lo:Q", title=x_title), x2="hi:Q", y=y, color=colour),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x="value:Q", y=y, color=colour, shape=alt.Shape("reading:N", legend=None), tooltip=tips
        ),
    )
    return styled(chart, title, max(120, 30 * len(order)), "95 % intervals over units, paired.")


def lesion_maps(cases: Iterable[Mapping], title: str = "Score maps", columns: int = 2, size: int = 230):
    """Pictures with the score laid over them and the lesion's outline.

    Args:
        cases: mappings with ``name``, ``picture`` [H, W] in 0…1, ``score`` [rows, cols], ``mask`` [H, W] bool or None;
            optionally ``case``, the picture's name where ``name`` is the score's.
        columns: pictures beside each other; two stay readable on a phone.
        size: width of a picture in px.
    """
    panels = []
    for case in cases:
        url = "data:image/jpeg;base64," + base64.b64encode(_overlay(case, size)).decode()
        place = {"name": [str(case["name"])], "case": [str(case.get("case", case["name"]))]}
        pixels = alt.Chart(pd.DataFrame({"url": [url]} | place))
        image = pixels.mark_image(width=size, height=size).encode(
            x=alt.value(size / 2), y=alt.value(size / 2), url="url:N", tooltip=["case:N", "name:N"]
        )
        head = alt.TitleParams(str(case["name"]), fontSize=13, fontWeight="normal", anchor="start", offset=4)
        panels.append(image.properties(width=size, height=size, title=head))
    if not panels:
        raise CovtokenError("lesion_maps: no case to draw; pass at least one")
    subtitle = "Yellow: high score within the picture. White line: the lesion's outline."
    text = alt.TitleParams(title, subtitle=wrap(subtitle, 60), anchor="start", fontSize=16, subtitleFontSize=12)
    chart = alt.concat(*panels, columns=columns, spacing=14, title=text).properties(description=title)
    return chart.configure(font=FONT).configure_view(strokeWidth=0)


def agreement_by_block(rows: Iterable[Mapping], title: str = "Two extractions, block by block"):
    """Relative L2 distance between two extractions at every block, logarithmic; equal tokens sit on the floor.

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
    legend = alt.Legend(title=None, orient="top", columns=3, labelFontSize=12, symbolSize=80)
    scale = alt.Scale(domain=names, range=cycle(len(names)))
    shapes = alt.Scale(domain=names, range=["circle", "square", "triangle-up", "diamond", "cross"][: len(names)])
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=42, opacity=1)
        .encode(
            x=alt.X(
                "position:Q",
                title="Block",
                scale=alt.Scale(domain=[0.5, last + 1.5], nice=False),
                axis=alt.Axis(
                    values=list(range(1, last + 2)),
                    grid=False,
                    labelOverlap=False,
                    labelExpr=f"datum.value == {last + 1} ? 'norm' : datum.value % 3 && datum.value > 1 ? '' "
                    ": datum.label",
                ),
            ),
            y=alt.Y(
                "drawn:Q",
                title="Relative distance",
                scale=alt.Scale(type="log", domain=[EQUAL, 0.1]),
                axis=alt.Axis(
                    values=[10.0**power for power in range(-8, 0)],
                    labelExpr=f"datum.value < {1.5 * EQUAL} ? 'equal' : format(datum.value, '.0e')",
                ),
            ),
            color=alt.Color("comparison:N", scale=scale, legend=legend),
            shape=alt.Shape("comparison:N", scale=shapes, legend=legend),
            tooltip=["comparison:N", "block:N", alt.Tooltip("value:Q", format=".2e")],
        )
    )
    return styled(chart, title, 300, "Mean over pictures of ‖difference‖ / ‖tokens‖.")


def token_marks(panels: Iterable[Mapping], title: str = "Marks and the tokens that answer", size: int = 230):
    """Pictures of several shapes: each token's strongest answer to a planted mark, and the marks' own pixels.

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
        ramp = ["#" + bytes(map(int, stop)).hex() for stop in _RAMP]
        colour = alt.Color("response:Q", scale=alt.Scale(domain=[0, 1], range=ramp), legend=None)
        grid = alt.Chart(tokens).mark_rect(stroke="#555", strokeWidth=0.4)
        tips = ["row:Q", "col:Q", alt.Tooltip("response:Q", format=".2f")]
        marks = alt.Chart(boxes).mark_rect(filled=False, stroke=COLOURS[1], strokeWidth=2.5)
        part = alt.layer(
            grid.encode(x=x, x2="right:Q", y=y, y2="bottom:Q", color=colour, tooltip=tips),
            marks.encode(x=x, x2="right:Q", y=y, y2="bottom:Q"),
        )
        longest = max(height, width)
        head = alt.TitleParams(f"{height} × {width} pixels", fontSize=13, fontWeight="normal", anchor="start", offset=4)
        parts.append(part.properties(width=size * width / longest, height=size * height / longest, title=head))
    if not parts:
        raise CovtokenError("token_marks: no panel to draw; pass at least one")
    subtitle = "Yellow: tokens that change most. Frames: the marks' pixels. Thin lines: the token grid."
    text = alt.TitleParams(title, subtitle=wrap(subtitle, 60), anchor="start", fontSize=16, subtitleFontSize=12)
    chart = alt.concat(*parts, columns=2, spacing=14, title=text).properties(description=title)
    return chart.configure(font=FONT).configure_view(strokeWidth=0)


def alarm_against_failure(
    rows: Iterable[Mapping], title: str = "Does the alarm fire where D fails?", statistic: str = "backing"
):
    """Each condition by a label-free statistic and by what D gains over A; colour: the alarm, shape: what happened.

    Args:
        rows: mappings with ``condition``, the statistic (None: left out), ``gain`` (AUROC of D minus A's), ``fired``
            and ``failed``; optionally ``cohort``.
        statistic: backing, agreement, drift or units.
    """
    if statistic not in _STATISTICS:
        raise CovtokenError(f"statistic {statistic!r}: expected one of {', '.join(_STATISTICS)}")
    table = table_of(rows, "condition", statistic, "gain", "fired", "failed")
    table = table[table[statistic].notna()]
    table = table.assign(
        alarm=np.where(table["fired"].astype(bool), "alarm", "silent"),
        outcome=np.where(table["failed"].astype(bool), "D failed", "D worked"),
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color="#000", strokeWidth=1).encode(y="zero:Q")
    legend = alt.Legend(title=None, orient="top", labelFontSize=12, symbolSize=80)
    named = ["cohort:N"] if "cohort" in table else []
    points = (
        alt.Chart(table)
        .mark_point(size=75, opacity=0.9, strokeWidth=2)
        .encode(
            x=alt.X(f"{statistic}:Q", title=_STATISTICS[statistic], scale=alt.Scale(zero=False)),
            y=alt.Y("gain:Q", title="AUROC of D minus A's"),
            color=alt.Color(
                "alarm:N", scale=alt.Scale(domain=["alarm", "silent"], range=[COLOURS[1], COLOURS[0]]), legend=legend
            ),
            shape=alt.Shape(
                "outcome:N", scale=alt.Scale(domain=["D failed", "D worked"], range=["cross", "circle"]), legend=legend
            ),
            tooltip=[
                *named,
                "condition:N",
                *(alt.Tooltip(f"{name}:Q", format="+.3f") for name in (statistic, "gain")),
                "alarm:N",
                "outcome:N",
            ],
        )
    )
    return styled(alt.layer(zero, points), title, 300, "One mark a condition: a bank and the pictures it is used on.")


CHARTS = {
    "alarm_against_failure": alarm_against_failure,
    "auroc_by_block": auroc_by_block,
    "score_densities": score_densities,
    "gain_forest": gain_forest,
    "agreement_by_block": agreement_by_block,
    "token_marks": token_marks,
}
_STATISTICS = {
    "backing": "How often A backs what D points to (AUROC)",
    "agreement": "Agreement of D and A (Spearman's ρ)",
    "drift": "Drift (1: pictures like the bank's)",
    "units": "Units in the bank",
}
_PIXELS = alt.Axis(grid=False, tickCount=3, labelFontSize=11)


def _density(table: pd.DataFrame, colour: alt.Color) -> alt.Chart:
    chart = alt.Chart(table).mark_area(opacity=0.35, line={"strokeWidth": 2}, interpolate="monotone")
    return chart.encode(
        x=alt.X("score:Q", title="Score"),
        y=alt.Y("density:Q", title="Density", stack=None, axis=alt.Axis(grid=False)),
        color=colour,
    )


def _panels(table: pd.DataFrame, colour: alt.Color, title: str):
    """One density chart a panel, each on its own axes: scores of different methods have different units."""
    parts = []
    for name, rows in table.groupby("panel", sort=False):
        head = alt.TitleParams(str(name), anchor="start", fontSize=14, fontWeight="normal")
        parts.append(_density(rows, colour).properties(width=430, height=130, title=head))
    text = alt.TitleParams(title, anchor="start", fontSize=17)
    chart = alt.concat(*parts, columns=1, title=text).resolve_scale(x="independent", y="independent")
    chart = chart.properties(description=title).configure(font=FONT).configure_view(strokeWidth=0)
    return chart.configure_axis(labelFontSize=13, titleFontSize=14, titleFontWeight="normal", gridColor="#e6e6e6")


def table_of(rows: Iterable[Mapping], *needed: str) -> pd.DataFrame:
    table = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    missing = [name for name in needed if name not in table]
    if missing or table.empty:
        raise CovtokenError(f"chart rows: expected columns {', '.join(needed)}, got {', '.join(table) or 'no rows'}")
    return table.reset_index(drop=True)


def cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _end_labels(marks: list[tuple[str, float, str]], floor: float, ceiling: float, height: int, y_scale: alt.Scale):
    """Names at the right edge, moved apart where values lie too close to read."""
    gap = 15 * (ceiling - floor) / height
    marks = sorted(marks, key=lambda mark: mark[1])
    stacks: list[list[float]] = []  # values whose names touch: spread evenly around their mean
    for _, value, _ in marks:
        stacks.append([value])
        while (
            len(stacks) > 1 and _edges(stacks[-2], gap, floor, ceiling)[1] > _edges(stacks[-1], gap, floor, ceiling)[0]
        ):
            stacks[-2:] = [stacks[-2] + stacks[-1]]
    places = [_edges(s, gap, floor, ceiling)[0] + gap * (i + 0.5) for s in stacks for i in range(len(s))]
    table = pd.DataFrame({"text": [m[0] for m in marks], "place": places, "colour": [m[2] for m in marks]})
    return (
        alt.Chart(table)
        .mark_text(align="left", baseline="middle", dx=8, fontSize=12, limit=128)
        .encode(
            x=alt.value("width"),
            y=alt.Y("place:Q", scale=y_scale),
            text="text:N",
            color=alt.Color("colour:N", scale=None),
        )
    )


def _edges(values: list[float], gap: float, floor: float, ceiling: float) -> tuple[float, float]:
    """Lower and upper edge of a stack of names centred on its values, held inside the plot."""
    extent = gap * len(values)
    low = min(max(sum(values) / len(values) - extent / 2, floor), ceiling - extent + gap / 2)
    return low, low + extent


def styled(chart, title: str, height: int, subtitle: str = ""):
    """As wide as its page, with a left-aligned title broken into lines that fit a phone."""
    head = {"anchor": "start", "fontSize": 16, "subtitleFontSize": 12, "subtitleColor": GREY, "offset": 10}
    text = alt.TitleParams(wrap(title, 36), **head, **({"subtitle": wrap(subtitle, 54)} if subtitle else {}))
    chart = chart.properties(width="container", height=height, title=text, description=title)
    chart = chart.properties(
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        padding={"left": 4, "top": 4, "bottom": 4, "right": 8},
    )
    chart = chart.configure(font=FONT).configure_view(strokeWidth=0)
    return chart.configure_axis(labelFontSize=12, titleFontSize=13, titleFontWeight="normal", gridColor="#e6e6e6")


# Eight stops of the cividis-to-yellow ramp that survive grey printing: dark blue is low, yellow is high.
_RAMP = np.array(
    [(0, 32, 76), (24, 61, 107), (87, 93, 109), (124, 123, 120), (167, 155, 116), (214, 190, 96), (255, 234, 70)]
)


def _overlay(case: Mapping, size: int) -> bytes:
    """The picture in grey, the score as colour over it, the mask's outline in white; JPEG bytes, square."""
    picture = np.clip(np.asarray(case["picture"], dtype=np.float32), 0, 1)
    score = np.asarray(case["score"], dtype=np.float32)
    grey = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
    low, high = np.percentile(score, [2, 98])
    scaled = np.clip((score - low) / max(float(high - low), 1e-9), 0, 1)
    # Nearest: a reader should see the tokens that the score belongs to, not an invented finer map.
    heat = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize((size, size), Image.Resampling.NEAREST))
    position = heat * (len(_RAMP) - 1)
    below = np.minimum(position.astype(int), len(_RAMP) - 2)
    part = (position - below)[..., None]
    colour = _RAMP[below] * (1 - part) + _RAMP[below + 1] * part
    alpha = (0.15 + 0.45 * heat)[..., None]
    pixels = grey[..., None] * 255 * (1 - alpha) + colour * alpha
    if case.get("mask") is not None:
        mask = Image.fromarray(np.asarray(case["mask"]).astype(np.uint8) * 255).resize((size, size))
        inside = np.pad(np.asarray(mask) >= 128, 1, mode="edge")
        core = inside[1:-1, 1:-1].copy()
        for rows, cols in ((0, 1), (2, 1), (1, 0), (1, 2)):
            core &= inside[rows : rows + size, cols : cols + size]
        pixels[inside[1:-1, 1:-1] & ~core] = 255
    stream = io.BytesIO()
    # JPEG: speckle makes a PNG three times larger, and notebooks are kept in git.
    Image.fromarray(pixels.round().astype(np.uint8)).save(stream, "JPEG", quality=80, subsampling=0, optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m covtoken.figures TARGET.js")
    print(write_bundle(Path(sys.argv[1])))
