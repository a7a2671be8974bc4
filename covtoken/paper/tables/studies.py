"""Make the tables that study commands print, and the words for settings."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from covtoken.bank.token_bank import KEY
from covtoken.names import route_name
from covtoken.studies import banks as bank_choice
from covtoken.studies import in_organ as in_organ_choice
from covtoken.studies.ablation import settings
from covtoken.studies.study import TIED

WORDS = {
    "block": "block that is read",
    "target_block": "block of the target",
    "quantile": "quantile of the target",
    "ridge": "ridge λ",
    "pooled": "tokens pooled",
    "sigma": "smoothing σ, tokens",
    "size": "reference tokens",
    "share": "share of the bank's units",
    "key": "hash key of the reference",
    "rounds": "rounds of agreement",
    "head": "the saliency head",
}


def value_text(name: str, value: Any) -> str:
    """Write a setting's value in words."""
    if name == "pooled":
        return "3 × 3" if value else "no"
    if name == "share":
        return f"{value:.0%}".replace("%", " %")
    if name == "key":
        return "the fixed one" if value == KEY else f"another ({value.rpartition('-')[2]})"
    return f"{value:,}".replace(",", " ") if name == "size" else str(value)


def _table(title: str, *columns: str, left: tuple[str, ...] = ()) -> Table:
    return Table(*(Column(name, justify="left" if name in left else "right") for name in columns), title=title)


def single_table(content: dict[str, Any]) -> Table:
    """Lay out one setting at a time around the default, which is marked."""
    title = f"D, one setting at a time, {content['cohort']}, selection split"
    table = _table(title, "setting", "value", "AUROC", "image AUROC", left=("setting", "value"))
    for name, rows in settings(content):
        for i, row in enumerate(rows):
            value = value_text(name, row["value"]) + (" *" if row["default"] else "")
            numbers = (f"{row[k]:.4f}" for k in ("auroc", "image_auroc"))
            table.add_row(WORDS[name] if i == 0 else "", value, *numbers, end_section=i == len(rows) - 1)
    return table


def factorial_table(content: dict[str, Any], n: int = 12) -> Table:
    """Lay out the n best variants of block × quantile × ridge × σ by pooled AUROC."""
    rows = sorted(content["factorial"], key=lambda row: -row["auroc"])
    columns = ("block", "quantile", "ridge", "sigma", "auroc", "image_auroc")
    table = _table(f"best {min(n, len(rows))} of {len(rows)}, {content['cohort']}, selection split", *columns)
    for row in rows[:n]:
        table.add_row(*(f"{row[c]:.4f}" if "auroc" in c else str(row[c]) for c in columns))
    return table


def ranking_table(ranking: list[dict[str, Any]], n: int = 12) -> Table:
    """Lay out the first n variants in the rule's order, then the best by mean alone."""
    tied = sum(row["tied"] for row in ranking)
    best = max(ranking, key=lambda row: row["mean"])
    title = f"With the whole bank: {tied} of {len(ranking)} within {TIED} of the best mean; first {n} by the rule"
    settings = ("block", "sigma", "ridge", "quantile", "rounds")
    cohorts = [name for name in best if name not in (*settings, "mean", "tied")]
    columns = (*settings, "mean", *cohorts)
    table = _table(title, *columns)
    for row in (*ranking[:n], best):
        words = [f"{row[c]:.4f}" if c in ("mean", *cohorts) else str(row[c]) for c in columns]
        table.add_row(*words, style="bold" if row is ranking[0] else "dim" if not row["tied"] else "")
    table.caption = "the first row gives the block alone; last row: the best mean"
    return table


def banks_table(rows: list[dict[str, Any]], n: int = 14) -> Table:
    """Lay out the first n rows of a ranking: means over banks of pooled and image AUROC, and the lowest pooled one."""
    cohorts = [name for name, value in rows[0].items() if isinstance(value, dict)]
    tied = sum(row["tied"] for row in rows)
    about = f"source {rows[0]['sources']}, {len(rows)} variants, {tied} tied within {TIED}"
    title = f"Over banks: {about} in the rule's order, then by mean; pooled / image / lowest"
    fields = bank_choice.FIELDS[1:]
    table = _table(title, *fields, "mean", *cohorts)
    for row in rows[:n]:
        numbers = (" / ".join(f"{row[c][k]:.3f}" for k in ("auroc", "image_auroc", "lowest")) for c in cohorts)
        settings_texts = (str(row[k]) for k in fields)
        table.add_row(*settings_texts, f"{row['mean']:.4f}", *numbers, style="" if row["tied"] else "dim")
    return table


def clock_table(content: dict[str, Any]) -> Table:
    """Lay out what passes take: speed-up by the clock with quartiles, beside that in FLOPs, a row a pass and batch."""
    about, machine = content["chosen"], content["machine"]
    title = f"{content['cohort']}: {about['k']} of {about['n_tokens']} tokens after block {about['block']}, "
    title += f"{machine['threads']} threads, {content['repeats']} rounds"
    table = _table(title, "pass", "pictures at once", "ms a picture", "times faster", "quartiles", "times fewer FLOPs")
    for row in content["passes"]:
        numbers = (f"{row[name]:.2f}" for name in ("ms", "speedup_wall"))
        quartiles = f"{row['low']:.2f} to {row['high']:.2f}"
        table.add_row(route_name(row["pass"]), str(row["batch"]), *numbers, quartiles, f"{row['speedup_flops']:.2f}")
    return table


def in_organ_table(rows: list[dict[str, Any]], n: int = 14) -> Table:
    """Lay out the first n rows of a ranking, or of one cohort's variants by AUROC."""
    ranked = "mean" in rows[0]
    rows = rows if ranked else sorted(rows, key=lambda row: -row["auroc"])
    fields = in_organ_choice.FIELDS
    columns = (*fields, *(name for name, value in rows[0].items() if isinstance(value, float) and name not in fields))
    title = f"{sum(row['tied'] for row in rows)} tied within {TIED}, then by mean" if ranked else "by pooled AUROC"
    table = _table(f"O: {len(rows)} variants (weight 0: A alone), {title}", *columns)
    for row in rows[:n]:
        table.add_row(*(str(row[c]) if c in fields else f"{row[c]:.4f}" for c in columns))
    return table


def alarm_table(rows: list[dict[str, Any]], title: str) -> Table:
    """Lay conditions out: AUROC of C− and A, whether C− failed, the alarm's statistics, whether it fired."""
    columns = ("condition", "units", "C−", "A", "C− failed", "backing", "drift", "alarm")
    table = _table(escape(title), *columns, left=("condition",))
    for row in rows:
        name = " ".join(filter(None, (row.get("cohort"), row["condition"])))
        scores = (f"{row[score]:.3f}" for score in ("auroc_d", "auroc_a"))
        numbers = ("" if row[statistic] is None else f"{row[statistic]:.2f}" for statistic in ("backing", "drift"))
        failed, fired = "failed" * row["failed"], "ALARM" * row["fired"]
        table.add_row(name, f"{row['units']:.0f}", *scores, failed, *numbers, fired)
    return table
