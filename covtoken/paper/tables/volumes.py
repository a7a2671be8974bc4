"""Lay out the study of volumes, and say its result: one token budget for a volume against one per slice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Column, Table

from covtoken.names import METHOD_NAMES, cohort_name, counted, split_name

SPEND_WORDS = {"uniform": "per slice", "global": "whole volume"}


def share_text(row: dict[str, Any], interval: bool = True) -> str:
    """Write ``12 of 31 [0.22, 0.58]``; no interval where none was recorded."""
    text = f"{row['retained']} of {row['n_lesions']}"
    return f"{text} [{row['ci95'][0]:.2f}, {row['ci95'][1]:.2f}]" if interval and row["ci95"] else text


def smoothing_text(sigma_mm: float) -> str:
    """Name a smoothing along z."""
    return f"σ {sigma_mm:g} mm" if sigma_mm else "none"


def by_place(rows: Iterable[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    """Find rows by (score, σ, keep, spend)."""
    return {(row["score"], row["sigma_mm"], row["keep"], row["spend"]): row for row in rows}


def axes_of(content: dict[str, Any]) -> tuple[list, ...]:
    """List scores, σ, keep ratios and ways to spend, in the order of the rows."""
    keys = ("score", "sigma_mm", "keep", "spend")
    return tuple(list(dict.fromkeys(row[key] for row in content["rows"])) for key in keys)


def volumes_table(content: dict[str, Any]) -> Table:
    """Lay out a cohort's rows for the terminal: retained lesions, and recall of lesion tokens."""
    found, (scores, sigmas, keeps, spends) = by_place(content["rows"]), axes_of(content)
    columns = [f"keep {100 * keep:g} %" for keep in keeps]
    head = (
        Column("score"),
        Column("smoothed along z"),
        Column("budget"),
        *(Column(c, justify="right") for c in columns),
    )
    table = Table(*head, title=note(content))
    for score in scores:
        for sigma in sigmas:
            for spend in spends:
                cells = (found[score, sigma, keep, spend] for keep in keeps)
                texts = [f"{share_text(row, interval=False)}, recall {row['recall']:.2f}" for row in cells]
                table.add_row(METHOD_NAMES[score], smoothing_text(sigma), SPEND_WORDS[spend], *texts)
        table.add_section()
    table.caption = "lesions of three dimensions retained, and share of lesion tokens kept"
    return table


def note(content: dict[str, Any]) -> str:
    """Write the small print of a cohort: n, bank, backbone, what is shown of a slice."""
    n, bank, curated = content["n"], content["bank"], f"; {content['curated']}" if content["curated"] else ""
    return (
        f"{cohort_name(content['cohort'])}: {split_name(content['split'])}, {counted(n['units'], 'unit')}, "
        f"{counted(n['volumes'], 'volume')}, {n['slices']} slices, {counted(n['lesions'], 'lesion')}; bank of "
        f"{counted(bank['units'], 'unit')} of {cohort_name(bank['cohort'])}; {content['region']}{curated}; "
        f"{content['decision']}."
    )


def volumes_text(content: dict[str, Any]) -> str:
    """Say what the comparison that was named before the first run gave; every word follows from its counts."""
    primary = content["primary"]
    even, whole, n = primary["uniform"], primary["global"], primary["n_lesions"]
    verb = "more" if whole > even else "fewer" if whole < even else "as many"
    than = "as" if verb == "as many" else "than"
    return (
        f"On {cohort_name(content['cohort'])}, {METHOD_NAMES[primary['score']]} without smoothing, "
        f"{100 * primary['keep']:g} % of the tokens: one budget for the volume retains {verb} lesions {than} one per "
        f"slice, {whole} against {even} of {n}; it is ahead in {primary['units_won']} and behind in "
        f"{primary['units_lost']} of {counted(primary['n_units'], 'unit')} (exact sign test, p = {primary['p']:.3f}); "
        f"{content['decision']}. {_besides(content)}"
    )


def _besides(content: dict[str, Any]) -> str:
    """Say at the named keep ratio what smoothing along z does to the named score, and which score retains most."""
    found, (scores, sigmas, _, spends), primary = by_place(content["rows"]), axes_of(content), content["primary"]
    ours, keep = primary["score"], primary["keep"]
    smoothed = " and ".join(
        f"{' / '.join(str(found[ours, sigma, keep, spend]['retained']) for spend in spends)} by {sigma:g} mm"
        for sigma in sigmas
        if sigma
    )
    even = {score: found[score, 0.0, keep, "uniform"] for score in scores}
    most = max(row["retained"] for row in even.values())
    best = ", ".join(METHOD_NAMES[score] for score, row in even.items() if row["retained"] == most)
    named = " / ".join(SPEND_WORDS[spend] for spend in spends)
    return (
        f"Smoothed along z it retains {smoothed} ({named}). Without smoothing, per slice, most lesions are retained by "
        f"{best}: {most} of {primary['n_lesions']}."
    )
