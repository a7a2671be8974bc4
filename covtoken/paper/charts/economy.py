"""Chart gate 6: lesions retained against FLOPs, certificates beside their law, and what probes still read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from covtoken.errors import CovtokenError
from covtoken.names import METHOD_NAMES, TASK_NAMES, route_name
from covtoken.paper.charts.style import (
    COLOURS,
    GREY,
    PERCENT,
    end_labels,
    in_order,
    row_axis,
    styled,
    table_of,
    with_bounds,
)

DARK = "#3d3d3d"
SOLID, DASHED, DOTTED = [1, 0], [6, 3], [2, 3]
STYLES = {  # score: colour, dashes, width, mark, name at the line's end
    "recommended": (COLOURS[0], SOLID, 3.2, "circle", "C−"),
    "direction": ("#2a8fc9", SOLID, 2.4, "square", "D"),
    "density": (COLOURS[2], SOLID, 2, "diamond", "A, search counted"),
    "density_1000": (COLOURS[2], DASHED, 2, "triangle-up", "A, 1,000 tokens"),
    "attention_fit": (DARK, DASHED, 1.3, "square", "fit on attention"),
    "attention_head_fit": (DARK, DOTTED, 1.3, "diamond", "fit on att. + head"),
    "attention_best": (GREY, SOLID, 1.3, "triangle-down", "attention, tuned"),
    "head_student": (DARK, SOLID, 1.3, "cross", "head's student"),
    "centre_prior": (GREY, DASHED, 1.3, "circle", "centre prior"),
    "random": (GREY, DOTTED, 1.3, "triangle-up", "random"),
    "merging": (COLOURS[1], DASHED, 1.8, "square", "token merging"),
}
OTHER = (GREY, SOLID, 1, "circle")
SIZES = {"small": "Small lesions retained", "all": "Lesions retained"}
SPEEDUP = "Times fewer FLOPs, net"  # short: a title wider than the plot is cut on a phone
CLOCK = "Times faster by the clock, net"
COSTLY = ("density", "density_1000", "merging")  # their cost is not that of one dot product a token
TIMES = "format(datum.value, '~g') + ' ×'"


def retention_curves(
    rows: Iterable[Mapping],
    title: str = "Lesions that stay, by the work that is saved",
    size: str = "all",
    block: int | None = None,
    marks: Iterable[Mapping] = (),
    x_title: str = SPEEDUP,
):
    """Plot the share of lesions retained against net speed-up in FLOPs, a line a score, all dropping at one tap.

    Args:
        rows: mappings with ``score`` (its key), ``block``, ``speedup``, ``small`` and ``all`` (or None).
        size: which lesions: ``small`` or ``all``.
        block: the tap; None: that of the first mark, else of the first row.
        marks: settings to mark, the chosen one first, with ``name``, ``block``, ``speedup``, ``small`` and ``all``.
        x_title: what the speed-up counts.

    Raises:
        CovtokenError: another size, a tap without rows, no lesion of that size.
    """
    if size not in SIZES:
        raise CovtokenError(f"size {size!r}: expected one of {', '.join(SIZES)}")
    table, marks = table_of(rows, "score", "block", "speedup", size), [dict(mark) for mark in marks]
    block = int(block or (marks or [table.iloc[0]])[0]["block"])
    table = table[table["block"] == block].assign(value=lambda t: pd.to_numeric(t[size]), name="")
    table = table[table["value"].notna()]
    if table.empty:
        raise CovtokenError(f"retention_curves: no row of {size} lesions at block {block}")
    names = in_order(table["score"], STYLES)
    styles = {name: STYLES.get(name, (*OTHER, METHOD_NAMES.get(name, name))) for name in names}
    table["name"] = [METHOD_NAMES.get(name, name) for name in table["score"]]
    table["width"] = [styles[name][2] for name in table["score"]]
    marks = pd.DataFrame([m | {"value": m[size]} for m in marks if m.get(size) is not None])
    low = min(table["value"].min(), marks["value"].min() if len(marks) else 1.0)
    floor = float(np.floor(low * 10) / 10)
    y_scale = alt.Scale(domain=[floor, 1.005], nice=False)
    first, last = float(table["speedup"].min()), float(table["speedup"].max())
    x_scale = alt.Scale(domain=[first, last if last > first else first + 1], nice=False)
    x_axis = alt.Axis(labelExpr=TIMES, tickCount=6, grid=False)
    x = alt.X("speedup:Q", title=x_title, scale=x_scale, axis=x_axis)
    y_axis = alt.Axis(labelExpr=PERCENT, tickCount=6)
    y = alt.Y("value:Q", title=SIZES[size], scale=y_scale, axis=y_axis)
    by = {"domain": names}
    colour = alt.Color("score:N", scale=alt.Scale(**by, range=[s[0] for s in styles.values()]), legend=None)
    dash = alt.StrokeDash("score:N", scale=alt.Scale(**by, range=[s[1] for s in styles.values()]), legend=None)
    width = alt.StrokeWidth("width:Q", scale=None, legend=None)
    shape = alt.Shape("score:N", scale=alt.Scale(**by, range=[s[3] for s in styles.values()]), legend=None)
    shares = [alt.Tooltip(f"{c}:Q", format=".3f") for c in ("value", "keep") if c in table]
    tips = ["name:N", alt.Tooltip("speedup:Q", format=".2f"), *shares]
    order = {name: place for place, name in enumerate(reversed(names))}  # ours are drawn last, on top
    table = table.assign(order=table["score"].map(order)).sort_values(["order", "speedup"], kind="stable")
    base = alt.Chart(table)
    ends = table.groupby("score", sort=False).tail(1)
    early = ends[ends["speedup"] < last - 1e-9].assign(edge=last)
    layers = [
        base.mark_line().encode(x=x, y=y, color=colour, strokeDash=dash, strokeWidth=width, detail="order:O"),
        base.mark_point(filled=True, size=34, opacity=1).encode(x=x, y=y, color=colour, shape=shape, tooltip=tips),
    ]
    if len(early):  # a score too dear for the highest speed-ups: a thread leads to its name
        thread = alt.Chart(early).mark_rule(strokeWidth=0.7, strokeDash=[1, 2], color=GREY)
        layers.insert(0, thread.encode(x=x, x2="edge:Q", y=y))
    height = 380
    labels = [(styles[r.score][4], float(r.value), styles[r.score][0]) for r in ends.itertuples()]
    layers.append(end_labels(labels, floor, 1.005, height, y_scale))
    if len(marks):
        layers += _marked(marks, x, y)
    words = f"All drop once, after block {block}; scores and exit maps counted."
    words += " Ringed: the chosen setting; diamond: the published one." if len(marks) else ""
    return styled(alt.layer(*layers), title, height, words)


def retention_by_clock(
    rows: Iterable[Mapping],
    clock: Iterable[Mapping],
    block: int,
    title: str = "Lesions that stay, by the time that is saved",
    size: str = "all",
):
    """Plot lesions retained against the speed-up by the clock, for the scores that cost one dot product a token.

    Args:
        rows: as for ``retention_curves``.
        clock: what the route at that tap takes: rows with ``speedup`` in FLOPs and ``speedup_wall``.
        block: the tap that was timed.
        title, size: as for ``retention_curves``.
    """
    seconds = {row["speedup"]: row["speedup_wall"] for row in clock}
    timed = [
        {**row, "speedup": seconds[row["speedup"]]}
        for row in rows
        if row["block"] == block and row["score"] not in COSTLY and row["speedup"] in seconds
    ]
    return retention_curves(timed, title, size, block, x_title=CLOCK)


def _marked(marks: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Ring the first setting, put an open diamond on the others, and name them on a white ground."""
    marks = marks.assign(first=[i == 0 for i in range(len(marks))])
    tips = ["name:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("speedup", "value"))]
    layers = []
    for is_first, mark, size in ((False, "diamond", 150), (True, "circle", 230)):
        some = marks[marks["first"] == is_first]
        if some.empty:
            continue
        base = alt.Chart(some)
        ring = base.mark_point(shape=mark, size=size, filled=False, strokeWidth=2.2, color="#000", opacity=1)
        place = {"align": "left", "baseline": "bottom", "dx": 9, "dy": -6, "fontSize": 12}
        if not is_first:
            place |= {"align": "right", "baseline": "top", "dx": -9, "dy": 5}
        halo = base.mark_text(**place, stroke="#fff", strokeWidth=4, strokeJoin="round", fontWeight="bold")
        text = base.mark_text(**place, color="#000", fontWeight="bold")
        layers += [ring.encode(x=x, y=y, tooltip=tips), *(t.encode(x=x, y=y, text="name:N") for t in (halo, text))]
    return layers


FORMS = {"rank": "tokens", "threshold": "threshold"}


def certificate_coverage(
    rows: Iterable[Mapping], title: str = "Does the certificate keep its promise?", score: str | None = None
):
    """Plot each certificate's coverage of test units beside what it promises and what its law allows.

    Args:
        rows: mappings with ``score`` (its key at a tap), ``form``, ``alpha``, ``n``, ``m``, ``vacuous``, and where that
            is false ``coverage``, ``law`` and ``resplit`` (low, high) and ``resplit_mean``.
        score: the score's key, with or without its tap; None: the one that has both forms.

    Raises:
        CovtokenError: no row of the score.
    """
    table = table_of(rows, "score", "form", "alpha", "n", "m", "vacuous")
    both = table.loc[table["form"] == "threshold", "score"]
    wanted = score or (both.iloc[0] if len(both) else table["score"].iloc[0])
    names = table["score"].map(lambda key: wanted in (key, key.partition(".block")[0]))
    table = table[names].copy()
    if table.empty:
        raise CovtokenError(f"certificate_coverage: no row of score {wanted!r}")
    table["row"] = [f"α = {r.alpha:g}, {FORMS.get(r.form, r.form)}" for r in table.itertuples()]
    table["promised"] = 1 - table["alpha"]
    order = list(dict.fromkeys(table["row"]))
    made = table[~table["vacuous"].astype(bool)].copy()
    for name, source in (("law", "law"), ("again", "resplit")):
        for i, end in enumerate(("lo", "hi")):
            made[f"{name}_{end}"] = [float(pair[i]) for pair in made[source]] if len(made) else []
    low = min(
        [float(table["promised"].min()), *(made[c].min() for c in ("law_lo", "again_lo", "coverage") if len(made))]
    )
    scale = alt.Scale(domain=[float(np.floor(low * 20 - 1e-9) / 20), 1.0], nice=False)
    axis = alt.Axis(labelExpr=PERCENT, tickCount=5)
    x_title = "Test units that keep every lesion"
    y = alt.Y("row:N", sort=order, title=None, axis=row_axis(), scale=alt.Scale(padding=0.3))

    def at(column: str) -> alt.X:
        return alt.X(f"{column}:Q", title=x_title, scale=scale, axis=axis)

    tips = [
        "row:N",
        "n:Q",
        "m:Q",
        *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("promised", "coverage") if c in made),
    ]
    layers = []
    if len(made):
        base = alt.Chart(
            made.drop(columns=[c for c in ("law", "resplit", "expected", "resplit_keep", "pictures") if c in made])
        )
        layers += [
            base.mark_bar(color="#bcdcf0", height=22).encode(x=at("law_lo"), x2="law_hi:Q", y=y),
            base.mark_rule(color=DARK, strokeWidth=1.6).encode(x=at("again_lo"), x2="again_hi:Q", y=y),
            *(
                base.mark_tick(color=DARK, thickness=1.6, size=9, opacity=1).encode(x=at(c), y=y)
                for c in ("again_lo", "again_hi")
            ),
        ]
    promised = alt.Chart(table[["row", "promised"]])
    layers.append(promised.mark_tick(color=COLOURS[1], thickness=3, size=28, opacity=1).encode(x=at("promised"), y=y))
    if len(made):
        point = base.mark_point(filled=True, size=95, opacity=1, color=COLOURS[0], stroke="#fff", strokeWidth=1)
        layers.append(point.encode(x=at("coverage"), y=y, tooltip=tips))
    void = table[table["vacuous"].astype(bool)]
    if len(void):
        words = void.assign(text=[f"vacuous: n = {n}" for n in void["n"]])[["row", "text"]]
        text = alt.Chart(words).mark_text(align="left", dx=6, fontSize=12, color=DARK)
        layers.append(text.encode(x=alt.value(0), y=y, text="text:N"))
    words = "Tick: promised. Dot: this split. Band: what theory allows, 95\u00a0%. Line: 95\u00a0% of 200 re-splits."
    return styled(alt.layer(*layers), title, 42 * len(order), words)


KINDS = {"ours": COLOURS[0], "merging": COLOURS[1], "other": DARK}


def probe_pareto(
    rows: Iterable[Mapping], title: str = "What a probe still reads from the features", task: str = "segmentation_ap"
):
    """Plot what a probe reads from each route's features against net speed-up, with 95 % intervals over units.

    Routes of one cost are set beside each other, so that their intervals can be told apart.

    Args:
        rows: mappings with ``route``, ``speedup``, ``task``, ``value``, and ``lo``, ``hi`` (or None); the route
            ``full`` is a rule, ``chosen@…`` the chosen score at other speed-ups, joined by a line.
        task: whose rows are drawn.

    Raises:
        CovtokenError: no row of the task.
    """
    table = with_bounds(table_of(rows, "route", "speedup", "task", "value"))
    table = table[(table["task"] == task) & table["value"].notna()].copy()
    if table.empty:
        raise CovtokenError(f"probe_pareto: no row of task {task!r}")
    full, routes = table[table["route"] == "full"], table[table["route"] != "full"].copy()
    routes["start"] = [route.partition("@")[0] for route in routes["route"]]
    routes["kind"] = [
        "ours" if s.startswith("chosen") else "merging" if "merging" in s else "other" for s in routes["start"]
    ]
    routes["name"] = routes["route"].map(route_name)
    routes = _beside_each_other(routes)
    low, high = float(table["lo"].min()), float(table["hi"].max())
    margin = max(high - low, 1e-3) * 0.06
    floor, ceiling = low - margin, high + margin
    y_scale = alt.Scale(domain=[floor, ceiling], nice=False)
    y = alt.Y("value:Q", title=_sentence(TASK_NAMES.get(task, task)), scale=y_scale, axis=alt.Axis(tickCount=6))
    layers, labels, height = [], [], 400
    if len(full):
        rule = alt.Chart(full.head(1))
        layers += [
            rule.mark_rect(color="#e8e8e8").encode(y=alt.Y("lo:Q", scale=y_scale), y2="hi:Q"),
            rule.mark_rule(color="#000", strokeWidth=1.4, strokeDash=[5, 3]).encode(y=y),
        ]
        labels.append(("full pass", float(full["value"].iloc[0]), "#000000"))
    if len(routes):
        layers += _routes(routes, y, y_scale)
        alone = routes[~routes["route"].str.contains("@")]
        labels += [(_short(r.route), float(r.value), KINDS[r.kind]) for r in alone.itertuples()]
    layers.append(end_labels(labels, floor, ceiling, max(height, 17 * len(labels)), y_scale))
    words = "Dashed: the full pass, its interval in grey. Bars: 95\u00a0% intervals over units."
    words += " Routes of one cost stand side by side; threads lead to names." if len(routes) else ""
    return styled(alt.layer(*layers), title, max(height, 17 * len(labels)), words)


def _routes(routes: pd.DataFrame, y: alt.Y, y_scale: alt.Scale) -> list[alt.Chart]:
    """Draw points with intervals, the line through the chosen score's speed-ups, and threads to the names."""
    edge = float(routes["drawn"].max())
    span = max(edge - float(routes["drawn"].min()), 0.1)
    scale = alt.Scale(domain=[float(routes["drawn"].min()) - 0.05 * span, edge + 0.08 * span], nice=False)
    axis = alt.Axis(labelExpr=TIMES, tickCount=5, grid=False)
    x = alt.X("drawn:Q", title=SPEEDUP, scale=scale, axis=axis)
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())), legend=None)
    marks = alt.Scale(domain=list(KINDS), range=["circle", "square", "triangle-up"])
    shape = alt.Shape("kind:N", scale=marks, legend=None)
    tips = ["name:N", *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("speedup", "value", "lo", "hi"))]
    base = alt.Chart(routes)
    layers = [
        base.mark_rule(strokeWidth=1.5, opacity=0.75).encode(
            x=x, y=alt.Y("lo:Q", scale=y_scale), y2="hi:Q", color=colour
        ),
        base.mark_point(filled=True, size=58, opacity=1, stroke="#fff", strokeWidth=0.8).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=tips
        ),
    ]
    alone = routes[~routes["route"].str.contains("@")]
    if len(alone):
        thread = alt.Chart(alone).mark_rule(strokeWidth=0.7, strokeDash=[1, 2], color=GREY)
        layers.insert(0, thread.encode(x=x, x2=alt.value("width"), y=y))
    ours = routes[routes["start"] == "chosen"].sort_values("speedup", kind="stable")
    if len(ours) > 1:
        layers.insert(0, alt.Chart(ours).mark_line(color=KINDS["ours"], strokeWidth=2.6).encode(x=x, y=y))
    return layers


def _beside_each_other(routes: pd.DataFrame) -> pd.DataFrame:
    """Give ``drawn``: the speed-up, moved sideways where others cost within a hundredth as much; ours stay in place."""
    span = max(float(routes["speedup"].max() - routes["speedup"].min()), 0.5) if len(routes) else 1.0
    routes = routes.assign(drawn=routes["speedup"].astype(float))
    group = (routes["speedup"].astype(float) * 50).round()
    for _, some in routes.groupby(group, sort=True):
        rest = some[some["start"] != "chosen"].sort_values("value", kind="stable")
        places = np.array([(i // 2 + 1) * (1 if i % 2 else -1) for i in range(len(rest))], dtype=float)
        if len(some) == 1:
            places = np.zeros(1)
        routes.loc[rest.index, "drawn"] += places[: len(rest)] * 0.02 * span
    return routes


SHORT = {"chosen_mixed": "chosen, both", "merging_protected": "merging, protected", "merging_tuned": "merging, tuned"}


def _short(route: str) -> str:
    return SHORT.get(route) or (STYLES[route][4] if route in STYLES else route_name(route))


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
