"""Word the ablations: headings, rows of charts, the sentence that follows, and whether a record came out again.

The best and the worst of several values are named with the interval of that value alone, unadjusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.names import cohort_name
from covtoken.paper.numbers import as_text
from covtoken.studies.ablations.run import STUDY

TITLES = {  # ablation → title, axis
    "k": ("Neighbours of A", "k"),
    "alpha": ("Share of rare tokens", "α, percent"),
    "rank": ("Rank of the residual and of the lesion subspace", "rank"),
    "reference": ("Size of the reference", "tokens"),
    "units": ("Size of the bank", "units of the bank"),
    "purity": ("What the bank's units hold", "units, as many in each bank"),
    "block": ("Block that is read", "block"),
    "pooling": ("Tokens pooled, or not", "neighbourhood"),
    "picture": ("Size of the picture", "pixels a side"),
    "aspect": ("Aspect of the picture", "aspect"),
    "planted": ("A bank that has seen the lesion type", "units with it, percent"),
}
EXTREMES = ("units", "purity", "planted")  # worded by what the outer values cost, not by what might be better
TOLERANCE = 0.005  # of a token AUROC that is to come out again
LABELLED = "its outer banks are chosen by a label, for evaluation alone: they feed no recipe"


def value_text(name: str, value: Any) -> str:
    """Write a value for an axis or a sentence."""
    if name in ("alpha", "planted"):
        return f"{100 * value:.0f}" if name == "alpha" else f"{100 * value:.1f}".removesuffix(".0")
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


def chart_rows(name: str, contents: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give an ablation's rows for ``ablation_chart``, of each cohort that has any; ``contents``: by cohort."""
    out = []
    for cohort, content in contents.items():
        rows = rows_of(content, name)
        for row in sorted(rows, key=lambda row: row["group"]):  # one panel a group
            panel = f"{cohort_name(cohort)}: {_counts([each for each in rows if each['group'] == row['group']])}"
            entry = row["auroc"]
            out.append(
                {"panel": panel, "value": value_text(name, row["value"]), "score": row["score"]}
                | {"auroc": entry["value"], "lo": entry["ci95"][0], "hi": entry["ci95"][1], "default": row["default"]}
            )
    return out


def rows_of(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Give the rows of one ablation, in the order of their values."""
    return [row for row in content["rows"] if row["ablation"] == name]


def follows(name: str, content: Mapping[str, Any]) -> str:
    """Write in one sentence what follows from an ablation of one cohort; "" where it has no rows."""
    rows = rows_of(content, name)
    if not rows:
        return ""
    words = _extremes(name, rows) if name in EXTREMES else _default(name, rows)
    head = f"{content['cohort']} ({_counts(rows)})"
    return f"{head}: {words}" + (f" ({LABELLED})." if name == "purity" else ".")


def _counts(rows: list[dict[str, Any]]) -> str:
    """Count the scored units and the units of the largest bank."""
    return f"n = {rows[0]['units']}, bank {max(row['bank_units'] for row in rows)}"


def sentences(name: str, contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Write what follows from an ablation, a line a cohort."""
    lines = (follows(name, content) for content in contents.values())
    return "\n".join(line for line in lines if line)


def _default(name: str, rows: list[dict[str, Any]]) -> str:
    """Say for which scores the default stands, what another value would gain, and where most is lost."""
    stands, gains, losses = [], [], []
    for score in dict.fromkeys(row["score"] for row in rows):
        others = [row for row in rows if row["score"] == score and row["minus_default"]]
        usual = next(row["value"] for row in rows if row["score"] == score and row["default"])
        best = max(others, key=lambda row: row["minus_default"]["value"], default=None)
        if best is not None and best["minus_default"]["ci95"][0] > 0:
            gains.append(f"{score} gains {_gain(best)} at {value_text(name, best['value'])}")
        else:
            stands.append(f"{score} ({value_text(name, usual)})")
        losses += [row for row in others if row["minus_default"]["ci95"][1] < 0]
    parts = [f"no value is surely better than the default of {_listed(stands)}"] if stands else []
    parts += gains
    if losses:
        worst = min(losses, key=lambda row: row["minus_default"]["value"])
        parts.append(f"{worst['score']} loses most, {_gain(worst)}, at {value_text(name, worst['value'])}")
    else:
        parts.append("no value is surely worse")
    return "; ".join(parts)


def _extremes(name: str, rows: list[dict[str, Any]]) -> str:
    """Say of each outer value which score it leaves steadiest and which it changes most."""
    parts = []
    for group, values in _outer(name, rows):
        for value in values:
            here = [r for r in rows if r["group"] == group and r["value"] == value and r["minus_default"]]
            here.sort(key=lambda row: row["minus_default"]["value"])
            where = {"planted": here[0]["note"], "purity": value}.get(name, f"{value} units")
            least = min(here, key=lambda row: abs(row["minus_default"]["value"]))
            told = [f"{here[0]['score']} changes by {_gain(here[0])}"]
            if here[-1] is not here[0]:
                told.append(f"{here[-1]['score']} by {_gain(here[-1])}")
            if least not in (here[0], here[-1]):
                told.append(f"{least['score']} least, by {_gain(least)}")
            parts.append(f"{where}: " + ", ".join(told))
    return "; ".join(parts)


def _outer(name: str, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each group with its fewest units, its most planted units, or all kinds of bank but the default."""
    for group in dict.fromkeys(row["group"] for row in rows):
        values = list(dict.fromkeys(row["value"] for row in rows if row["group"] == group and not row["default"]))
        yield group, values if name == "purity" else [(max if name == "planted" else min)(values)]


def _gain(row: Mapping[str, Any]) -> str:
    return as_text(row["minus_default"], signed=True)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def committed(but: str = "", root: Path | None = None) -> dict[str, dict[str, Any]]:
    """Read the committed ablations by cohort, the phantom first; ``but``: a cohort to leave out."""
    found = {}
    for cohort in ("phantom", "busi", "lidc-crops"):
        try:
            found |= {cohort: STUDY.read(cohort, root)} if cohort != but else {}
        except CovtokenError as error:
            if "no table at" not in str(error):
                raise
    return found


def reproduction(content: Mapping[str, Any], root: Path | None = None) -> str:
    """Write how many of the committed AUROCs of each ablation this run gives again: the same text wherever it does."""
    cohort = content["cohort"]
    recorded = committed(root=root).get(cohort)
    if recorded is None:
        return f"{cohort}: no ablations are recorded, nothing to compare with"
    lines = [f"{cohort}, ablations (token AUROC within {TOLERANCE})"]
    for name in dict.fromkeys(row["ablation"] for row in recorded["rows"]):
        now, then = ({_key(row): row["auroc"]["value"] for row in rows_of(c, name)} for c in (content, recorded))
        same = sum(key in now and abs(now[key] - value) <= TOLERANCE for key, value in then.items())
        lines.append(f"  {name}: {same} of {len(then)}" + ("" if same == len(then) == len(now) else " NOT REPRODUCED"))
    return "\n".join(lines)


def _key(row: Mapping[str, Any]) -> tuple:
    return row["group"], row["score"], row["value"]
