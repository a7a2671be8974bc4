"""Make tables, pictures of kept tokens and verdicts in words of gate 6, for its notebook and its page.

Every table takes the part of a report that it shows, so that pages can give it what a committed file holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from covtoken.economy.keep import kept_tokens
from covtoken.names import METHOD_NAMES, TASK_NAMES, route_name
from covtoken.paper.numbers import as_text, cell
from covtoken.paper.tables.gate1 import panels_by_size
from covtoken.protocol.report import GateReport

FORMS = {"rank": "tokens", "threshold": "threshold"}
NONE = "–"


def certificate_table(
    rows: Iterable[Mapping[str, Any]], score: str | None = None, alpha: float | None = None
) -> pd.DataFrame:
    """Lay out certificates: promised and found coverage, its law, n, tokens kept and re-splits, a row a certificate.

    Args:
        rows: of a report's ``chart_data["certificates"]``.
        score: only this score, at its tap; None: all.
        alpha: only this level; None: all.
    """
    table = []
    for row in rows:
        if score is not None and score not in (row["score"], row["score"].partition(".")[0]):
            continue
        if alpha is not None and row["alpha"] != alpha:
            continue
        place = {"score": score_at_tap(row["score"]), "form": FORMS[row["form"]], "α": f"{row['alpha']:g}"}
        shown = {"promised": f"{1 - row['alpha']:.2f}", "n": str(row["n"])}
        if row["vacuous"]:
            table.append(place | shown | {"retained": "vacuous", "kept": "100 %"})
            continue
        kept, spread = f"{row['keep']:.1%}".replace("%", " %"), row.get("pictures")
        kept += f" ({_to(spread, '.0%')})" if spread else ""
        shown |= {"retained": f"{row['retained']} of {row['m']}", "found": f"{row['coverage']:.3f}"}
        shown |= {"law, 95 %": _to(row["law"]), "kept": kept}
        table.append(place | shown | {"200 re-splits": f"{row['resplit_mean']:.3f} ({_to(row['resplit'])})"})
    columns = ["score", "form", "α", "promised", "retained", "found", "law, 95 %", "n", "kept", "200 re-splits"]
    return pd.DataFrame(table, columns=columns).fillna(NONE).set_index(["score", "form", "α"])


def _to(pair: Iterable[float], style: str = ".3f") -> str:
    """Write a range without brackets, which are kept for intervals over units."""
    return " to ".join(format(value, style) for value in pair).replace("%", " %")


def score_at_tap(key: str) -> str:
    """Write a score's key in words: ``recommended.block3`` → C− after block 3."""
    name, _, block = key.partition(".block")
    words = METHOD_NAMES.get(name, name.replace("_", " "))
    return f"{words} after block {block}" if block else words


def setting_table(setting: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out what each score, and merging, was given on the selection split by one rule, the chosen setting first.

    The column *part* says which rows could be chosen, which are rivals, the fastest of which sets the threshold, and
    which are fits on saliency, shown beside.

    Args:
        setting: of a report's parameters: ``chosen``, ``each`` score's own, and ``merging`` or None.
    """
    chosen, rows = setting["chosen"], []
    rivals = {one["score"]: one["speedup"] for one in setting["each"] if part_of(one["score"]) == RIVAL}
    merging = setting["merging"]
    rivals |= {"merging": merging["speedup"]} if merging else {}
    fastest = max(rivals, key=rivals.get)
    each = sorted(setting["each"], key=lambda one: (one["score"] != chosen["score"], -one["speedup"]))
    for one in each:
        words = METHOD_NAMES.get(one["score"], one["score"])
        row = {"score": words + (" (chosen)" if one["score"] == chosen["score"] else ""), "after block": one["block"]}
        row |= {"tokens kept": f"{one['k']} of {one['n_tokens']}", "share": f"{one['k'] / one['n_tokens']:.0%}"}
        rows.append(row | {"part": part_of(one["score"])} | _on_selection(one))
    if merging:
        row = {
            "score": f"token merging, {merging['schedule']}",
            "after block": NONE,
            "tokens kept": NONE,
            "share": NONE,
        }
        rows.append(row | {"part": RIVAL} | _on_selection(merging))
    for row, name in zip(rows, [*(one["score"] for one in each), "merging"], strict=False):
        row["part"] += ", sets the threshold" if name == fastest else ""
    return pd.DataFrame(rows).set_index("score")


RIVAL = "rival"


def part_of(score: str) -> str:
    """Say which part a score has in gate 6's choice: ``ours``, ``rival`` or ``shown beside``."""
    from covtoken.gates.economy.taps import OURS, RIVALS

    return "ours" if score in OURS else RIVAL if score in RIVALS else "shown beside"


def _on_selection(one: Mapping[str, Any]) -> dict[str, str]:
    found = {"net speed-up": f"{one['speedup']:.2f} ×", "retained on selection": f"{one['retained']:.3f}"}
    return found | {"retained at 2 ×": f"{one['at_wanted']:.3f}"}


BEYOND = "out of reach: it costs more before any token is kept"


def equal_table(metrics: Mapping[str, dict], each: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """Lay out lesions retained for the same FLOPs, small and all, as a count and a share with exact bounds.

    The last columns are what the chosen score retains more of all lesions, paired, with the interval over units, and
    the exact sign test over units, adjusted by Holm.

    Args:
        each: score's setting, of a report's parameters: those that keep no token for these FLOPs are named at the end.
    """
    gains = [name.partition(".")[2].partition("_minus_")[0] for name in metrics if name.startswith("retention_gain.")]
    ours = gains[0] if gains else ""
    names = {"published": "published setting", **METHOD_NAMES}
    found = {name: metrics.get(f"retention_all.{name}") for name in names}
    order = sorted((name for name, entry in found.items() if entry), key=lambda name: -found[name]["value"])
    rows = []
    for name, words in [("", "chosen setting"), *((name, names[name]) for name in order)]:
        place = f".{name}" if name else ""
        small, every = (metrics.get(f"retention_{kind}{place}") for kind in ("small", "all"))
        if not every or name == ours:
            continue
        row = {"score": words, "small": _counted(small), "small, share": cell(small)}
        row |= {"all": _counted(every), "all, share": cell(every)}
        gain = metrics.get(f"retention_gain.{ours}_minus_{name}")
        row |= {"chosen retains more": as_text(gain, signed=True).replace(", ", ",\u00a0")}
        rows.append(row | {"p, Holm": format(gain["p_holm"], ".3f") if gain and "p_holm" in gain else ""})
    for name in (one["score"] for one in each if rows and not found.get(one["score"])):
        rows.append(dict.fromkeys(rows[0], "") | {"score": names[name], "small": BEYOND, "all": BEYOND})
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["score"]).set_index("score")


def _counted(entry: dict | None) -> str:
    return f"{entry['count']} of {entry['of']}" if entry and "of" in entry else ""


AIMS = {  # metric: (what it is, aim, whether more is better)
    "speedup_flops_net": ("times fewer FLOPs, net", 2.0, True),
    "retention_small": ("small lesions that stay", 0.98, True),
    "retention_all": ("lesions that stay", 0.97, True),
    "certified_keep.rank.alpha0.1": ("share of tokens certified at α = 0.1", 0.30, False),
    "probe_gain.malignancy.chosen_minus_full": ("malignancy probe minus full pass: interval reaches 0", 0.0, True),
}


def aims_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """Hold the chosen setting against what was aimed at; where the speed-up falls short, say what costs it.

    Args:
        report: content of a report of gate 6.
    """
    metrics, chosen, rows = report["metrics"], report["parameters"]["setting"]["chosen"], []
    for name, (words, aim, more_is_better) in AIMS.items():
        entry = metrics.get(name)
        if not entry or entry["value"] is None:
            continue
        found = entry["value"] if not name.startswith("probe_gain") else entry["ci95"][1]
        reached = found >= aim if more_is_better else found <= aim
        bound = f"{'≥' if more_is_better else '≤'} {aim:g}" if aim else NONE
        shown = as_text(entry, signed=name.startswith("probe_gain"))
        why = ""
        if name == "speedup_flops_net" and not reached:
            why = f"; {chosen['k']} tokens are what the rule asks for: at {aim:g} × it kept {chosen['at_wanted']:.3f} "
            why += "of the selection lesions"
        rows.append({"aim": words, "wanted": bound, "found": shown, "reached": ("yes" if reached else "no") + why})
    return pd.DataFrame(rows).set_index("aim")


def missed_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Count lesions that the chosen setting misses, by size and place."""
    table = [
        {"lesions": f"{row['size']}, {row['place']}", "missed": f"{row['missed']} of {row['lesions']}"} for row in rows
    ]
    return pd.DataFrame(table).set_index("lesions")


def strata_table(rows: Iterable[Mapping[str, Any]], n_tokens: int) -> pd.DataFrame:
    """Lay out what small and other lesions need apart, at α = 0.1; a new lesion's size is unknown, so take the most."""
    table = []
    for row in rows:
        bound = row["setting"]
        kept = "vacuous: too few units" if bound is None else f"{bound:g} of {n_tokens} ({bound / n_tokens:.0%})"
        table.append({"lesions": row["stratum"], "n": row["n"], "tokens that are certified": kept})
    return pd.DataFrame(table).set_index("lesions")


def probe_table(metrics: Mapping[str, dict], rows: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """Lay out what probes read from each route, and what that is more than from the full pass: a row a route.

    Args:
        metrics: with ``probe.<task>.<route>``, ``probe_gain.<task>.<route>_minus_full`` and, of rivals,
            ``probe_gain.<task>.chosen_minus_<route>``.
        rows: of a report's ``chart_data["probes"]``, for the speed-ups.
    """
    speedups = {row["route"]: row["speedup"] for row in rows}
    parts = [name.split(".", 2) for name in metrics if name.startswith("probe.")]
    routes, tasks = (list(dict.fromkeys(part[place] for part in parts)) for place in (2, 1))
    tasks = [task for task in TASK_NAMES if task in tasks] + [task for task in tasks if task not in TASK_NAMES]
    first = ("full", "chosen", "chosen_mixed")
    routes.sort(key=lambda route: (first.index(route) if route in first else len(first), "@" in route))
    table = []
    for route in routes:
        row = {"route": route_name(route)}
        row |= {"net speed-up": f"{speedups[route]:.2f} ×" if route in speedups else ""} if speedups else {}
        for task in tasks:
            words = TASK_NAMES.get(task, task)
            row[words] = cell(metrics.get(f"probe.{task}.{route}"))
            gain = metrics.get(f"probe_gain.{task}.{route}_minus_full")
            row[f"{words}, minus full pass"] = as_text(gain, signed=True).replace(", ", ",\u00a0")
            ours = metrics.get(f"probe_gain.{task}.chosen_minus_{route}") if route != "full" else None
            row[f"{words}, chosen minus it"] = as_text(ours, signed=True).replace(", ", ",\u00a0")
        table.append(row)
    return pd.DataFrame(table, columns=list(table[0]) if table else ["route"]).fillna("").set_index("route")


def task_table(probes: pd.DataFrame, task: str) -> pd.DataFrame:
    """Take one task's columns of ``probe_table``, under short names, beside the speed-up."""
    words = TASK_NAMES.get(task, task)
    names = {words: "probe", f"{words}, minus full pass": "minus full pass"}
    names |= {f"{words}, chosen minus it": "chosen minus it"}
    wanted = [column for column in probes if column in names or column == "net speed-up"]
    return probes[wanted].rename(columns=names)


def setting_marks(metrics: Mapping[str, dict], parameters: Mapping[str, Any]) -> list[dict]:
    """Give the settings that the chart of retention marks: the chosen one, then the published one."""
    chosen = parameters["setting"]["chosen"]
    names = {"": f"chosen: {chosen['k']} of {chosen['n_tokens']}", ".published": "published"}
    marks = []
    for place, name in names.items():
        speedup = metrics.get(f"speedup_flops_net{place}")
        shares = {kind: metrics.get(f"retention_{kind}{place}", {}).get("value") for kind in ("small", "all")}
        if speedup and speedup["value"] is not None:
            marks.append({"name": name, "block": chosen["block"], "speedup": speedup["value"], **shares})
    return marks


def wall_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Lay out speed-up in FLOPs beside that of the clock, a row a pass and batch size."""
    table = []
    for row in rows:
        place = {"pass": route_name(row["route"]), "pictures at once": row["batch"]}
        flops, wall = (f"{row[f'speedup_{kind}']:.2f} ×" for kind in ("flops", "wall"))
        table.append(place | {"fewer FLOPs, net": flops, "faster by the clock, net": wall})
    return pd.DataFrame(table).set_index(["pass", "pictures at once"])


def clock_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out what ``covtoken clock`` recorded: times faster with quartiles beside times fewer FLOPs, a row a pass."""
    table = []
    for row in content["passes"]:
        place = {"pass": route_name(row["pass"]), "pictures at once": row["batch"]}
        clock = f"{row['speedup_wall']:.2f} × ({row['low']:.2f} to {row['high']:.2f})"
        table.append(place | {"fewer FLOPs, net": f"{row['speedup_flops']:.2f} ×", "faster by the clock, net": clock})
    return pd.DataFrame(table).set_index(["pass", "pictures at once"])


def kept_panels(economy, n: int = 6) -> list[dict]:
    """Make panels for ``charts.pictures.lesion_maps`` of the tokens that the chosen setting keeps, 1, and drops, 0.

    Cases are evenly spread over lesion size, not chosen by result.

    Args:
        economy: what a run of gate 6 worked on (``gates.gate6.Economy``).
    """
    side, choice = economy.evaluated, economy.choice
    kept = kept_tokens(side.maps[choice.key], k=choice.k)
    pictures = _Pictures(side.cases, economy.setting)
    among = np.unique([lesion.picture for lesion in side.labels.lesions])
    panels = panels_by_size(pictures, side.labels, {score_at_tap(choice.key): kept}, n, among)
    return [panel | {"name": panel["case"]} for panel in panels]


class _Pictures:
    def __init__(self, cases, setting) -> None:
        self.cases, self.setting = cases, setting


def route_table(about: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out the label-free half of the certificate in one row; arguments as ``route_line``."""
    row = {"α of each half": f"{about['alpha_label_free']:g}", "whole pass keeps": str(about["k_whole"])}
    if "refused" in about:
        row |= {"route must keep": f"not certified: {about['refused'].partition(';')[0]}", "n": "", "lost": ""}
    else:
        empty = " (vacuous)" if about["vacuous"] else ""
        row |= {"route must keep": f"{about['k']} of {about['n_tokens']}{empty}", "n": str(about["n"])}
        row["lost"] = f"{about['share_lost']:.2%}".replace("%", " %")
    return pd.DataFrame([row]).set_index("α of each half")


def route_line(about: Mapping[str, Any]) -> str:
    """Say in a sentence what the label-free half of the certificate gives.

    Args:
        about: of a report's ``chart_data["route_certificate"]``.
    """
    start = (
        f"Label-free half, α = {about['alpha_label_free']:g}, of {about['k_whole']} tokens that the whole pass keeps: "
    )
    if "refused" in about:
        return f"{start}none, {about['refused']}"
    kept = f"{about['k']} of {about['n_tokens']} tokens (n = {about['n']})"
    vacuous = ", which is vacuous" if about["vacuous"] else ""
    return f"{start}{kept}{vacuous}; on average {about['share_lost']:.2%} of them are lost".replace("%", " %")


OUTCOMES = {
    "wins": "retains more lesions than",
    "loses": "retains fewer lesions than",
    "undecided": "is not told apart from",
}


def verdict_lines(report: GateReport) -> str:
    """Write decision, threshold, wins and losses against every score, and checks, a line each."""
    bound, chosen = report.thresholds["speedup_flops_net"], report.parameters["setting"]["chosen"]
    ours = METHOD_NAMES.get(chosen["score"], chosen["score"])
    lines = [
        f"{report.cohort}, {report.split}: {report.decision}",
        f"  net speed-up in FLOPs {chosen['speedup']:.3f} against {bound:.3f}: {report.thresholds['reason']}",
    ]
    for outcome, words in OUTCOMES.items():
        others = [
            METHOD_NAMES.get(name.partition("_against_")[2], name.partition("_against_")[2])
            for name, found in sorted(report.checks.items())
            if name.startswith("retention.") and found == outcome
        ]
        if others:
            lines.append(f"  for the same FLOPs {ours} {words}: {', '.join(others)}")
    return "\n".join([*lines, *(f"  {name}: {outcome}" for name, outcome in sorted(report.checks.items()))])
