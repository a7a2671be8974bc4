"""What methods and measures are called in tables and charts of gates 2 and 3."""

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
