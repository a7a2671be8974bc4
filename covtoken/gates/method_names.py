"""What methods, measures and ways are called in tables and charts, and how a number is written there."""

from __future__ import annotations

from covtoken.gates.gate1_rows import LABELS

METHOD_NAMES = LABELS | {
    "merging": "token merging",
    "coverage_dual": "coverage, dual as specified",
    "coverage_repaired": "coverage, dual repaired",
    "coverage_spanning": "coverage, spanning choice",
    "coverage_energy": "energy, closed form",
    "coverage_greedy": "RankMe, greedy",
    "coverage_greedy_coding_rate": "coding rate, greedy",
}
MEASURE_NAMES = {
    "rankme": "RankMe",
    "coding_rate": "coding rate",
    "energy": "energy",
    "control": "membership mass (control)",
    "attention_mass": "attention mass",
}
# How gate 5 scores the same pictures.
WAYS = {
    "refitted": "own recipe, own bank",
    "elsewhere": "recipe chosen elsewhere, own bank",
    "carried": "bank of another cohort, same modality",
    "foreign": "bank of the other modality",
}


def cell(entry: dict | None, style: str = ".3f", none: str = "", gap: str = " ") -> str:
    """``0.912 [0.897, 0.925]``, or ``none`` where there is no value."""
    if not entry or entry["value"] is None:
        return none
    bounds = f" [{entry['ci95'][0]:{style}},{gap}{entry['ci95'][1]:{style}}]" if entry["ci95"] else ""
    return f"{entry['value']:{style}}{bounds}".replace("-", "−")
