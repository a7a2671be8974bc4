"""Lay out the controls of C−, and say in a computed sentence what carries its gain over membership A."""

from __future__ import annotations

from typing import Any

from rich.table import Column, Table

from covtoken.names import METHOD_NAMES, cohort_name, split_name
from covtoken.paper.numbers import as_text
from covtoken.paper.tables.studies import value_text
from covtoken.studies.controls import DENSITY_ROW, MEASURES, RANDOM_ROW, RARITY_ROW, fit_without_rarity

KIND_WORDS = {
    "score": "a score",
    "source": "C−'s fit on",
    "head": "erased",
    "bank": "C−, bank of",
    "reference": "C−, reference key",
    "component": "C−, called tokens that stay",
}
NAMES = {
    "head": {"without_head": "all that predicts the saliency head"},
    "bank": {
        "without lesions": "pictures without lesions (chosen by a label, for evaluation alone)",
        "another modality": "another modality",
    },
    "source": {
        "head": "the saliency head",
        "attention": "CLS attention",
        "attention+head": "attention + head",
        "rarity+head": "rarity + head",
        "random": "random numbers",
        "dark": "darkness",
    },
    "component": {
        "none": "all",
        "peak": "the component of the highest",
        "two": "the two components of the highest",
        "mass": "the heaviest component",
    },
}


def label_of(row: dict[str, Any]) -> tuple[str, str]:
    """Write a row's kind and control in words."""
    kind, name = row["kind"], row["control"]
    names = METHOD_NAMES if kind == "score" else NAMES.get(kind, {})
    words = value_text("key", name) if kind == "reference" else names.get(name, name.replace("%", " %"))
    return KIND_WORDS[kind], words


def triple(numbers: dict[str, Any]) -> str:
    """Write pooled AUROC, AUROC inside one picture and AUPR beside each other."""
    return " / ".join(as_text(numbers[kind], interval=False) for kind in MEASURES)


def gain_cell(row: dict[str, Any]) -> str:
    """Write C− minus a control, pooled; or that the control is C− itself, as its key or rule are those of C−."""
    entry = row["recommended_minus"]["auroc"]
    return "the same" if entry["ci95"] == [0.0, 0.0] else as_text(entry, signed=True)


def controls_table(content: dict[str, Any]) -> Table:
    """Lay out a cohort's controls for the terminal."""
    n, columns = content["n"], ("", "control", "bank units", "pooled / in one picture / AUPR", "C− minus it, pooled")
    title = f"controls of C−, {content['cohort']}, selection split, {n['units']} units, {n['images']} images"
    table = Table(*(Column(name, justify="left" if i < 2 else "right") for i, name in enumerate(columns)), title=title)
    for row in sorted(content["controls"], key=_place):
        table.add_row(*label_of(row), str(row["bank_units"]), triple(row), gain_cell(row))
    table.caption = spread_text(content)
    return table


def spread_text(content: dict[str, Any]) -> str:
    """Write how far the numbers of C− spread over the keys of the reference, which no interval holds."""
    n = sum(row["kind"] == "reference" for row in content["controls"])
    spread = " / ".join(f"{content['reference_spread'][kind]:.3f}" for kind in MEASURES)
    return f"Spread of C− over {n} keys of the reference: {spread}"


def control_rows(contents: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Give rows of [kind, control, then for each cohort its numbers and C− minus it]; dashes where there is none."""
    found: dict[tuple, dict[str, list[str]]] = {}
    for cohort, content in contents.items():
        for row in content["controls"]:
            found.setdefault((row["kind"], *label_of(row)), {})[cohort] = [triple(row), gain_cell(row)]
    return [
        [*words, *(text for cohort in contents for text in by.get(cohort, ["–", "–"]))]
        for (_, *words), by in sorted(found.items(), key=lambda item: _place({"kind": item[0][0]}))
    ]


def _place(row: dict[str, Any]) -> int:
    return list(KIND_WORDS).index(row["kind"])


def note(content: dict[str, Any]) -> str:
    """Write the small print of a cohort: split, n, backbone, how it was curated, units of banks, and the spread."""
    n, curated = content["n"], f"; {content['curated']}" if content["curated"] else ""
    banks = [row for row in content["controls"] if row["kind"] == "bank"]
    named = ((f"{row['control']}: {row['bank_units']} units", row["note"]) for row in banks)
    banks_text = "; ".join(", ".join(filter(None, words)) for words in named).replace("%", " %")
    return (
        f"{cohort_name(content['cohort'])}: {split_name(content['split'])}, {n['units']} units, {n['images']} "
        f"pictures, bank of {n['bank_units']} units{curated}. Banks: {banks_text}. {spread_text(content)}."
    )


def sign_of(entry: dict[str, Any]) -> str:
    """Say by its interval where a difference lies: above or below zero, or undecided."""
    low, high = entry["ci95"] or (0.0, 0.0)
    return "above" if low > 0 else "below" if high < 0 else "undecided"


def gain_text(content: dict[str, Any]) -> str:
    """Say how much of C−'s gain over A, pooled, is rarity and how much is the fit; every word follows from intervals.

    Two ways in: rarity without the fit, and the fit without rarity.
    """
    rows = {f"{row['kind']}/{row['control']}": row for row in content["controls"]}
    over = content["over_density"]
    fit = fit_without_rarity(rows)
    gain, beyond_rarity, beyond_fit = (rows[k]["recommended_minus"]["auroc"] for k in (DENSITY_ROW, RARITY_ROW, fit))
    sources = "attention and the head" if "head" in fit else "attention"
    of_gain = {key: _share(entry, gain) for key, entry in over.items()}
    n, spread = content["n"], content["reference_spread"]["auroc"]
    wider = "more" if spread > abs(beyond_fit["value"]) else "no more"
    return (
        f"On {cohort_name(content['cohort'])} ({split_name(content['split'])}, {n['units']} units, {n['images']} "
        f"pictures), pooled: {_compared('C−', 'A', gain)}. Rarity without the fit: "
        f"{_compared('PN', 'A', over[RARITY_ROW])}"
        f"{of_gain[RARITY_ROW]}; {_compared('C−', 'PN', beyond_rarity)}. The fit without rarity, on {sources}: "
        f"{_compared('it', 'A', over[fit])}{of_gain[fit]}; {_compared('C−', 'it', beyond_fit)}; over other keys "
        f"of the reference alone C− spreads by {spread:.3f}, {wider} than that difference. The fit on random "
        f"numbers: {_compared('it', 'A', over[RANDOM_ROW])}. {_verdict(*map(sign_of, (gain, over[fit], beyond_fit)))}"
    )


def _compared(a: str, b: str, entry: dict[str, Any]) -> str:
    sign, text = sign_of(entry), as_text(entry, signed=True)
    return f"{a} against {b} is undecided, {text}" if sign == "undecided" else f"{a} is {sign} {b}, {text}"


def _share(part: dict[str, Any], gain: dict[str, Any]) -> str:
    """Write the share of a gain that a part of it makes, where both are above zero."""
    if {sign_of(part), sign_of(gain)} != {"above"}:
        return ""
    return f", or {part['value'] / gain['value']:.0%} of C−'s gain".replace("%", " %")


def _verdict(gain: str, fit: str, beyond: str) -> str:
    """Draw the conclusion from signs: of C− over A, of the fit without rarity over A, of C− over that fit."""
    if gain != "above":
        return "So there is no gain over A to explain."
    if (fit, beyond) == ("above", "above"):
        return "So the fit carries the gain, and rarity is the better source for it."
    if (fit, beyond) == ("above", "below"):
        return "So the fit carries the gain, and rarity is the poorer source for it."
    if fit == "above":
        return "So the fit carries the gain, with either source; that rarity is the better one is not shown."
    if beyond == "above":
        return "So rarity carries the gain: without it, the fit is not shown to be above A."
    return "So it is undecided which of the two carries the gain."
