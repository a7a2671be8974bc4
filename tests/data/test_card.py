"""Data cards hold what the cohort holds, and refuse to be written where their markers are missing."""

from __future__ import annotations

import numpy as np
import pytest

from covtoken.data import card
from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.errors import CovtokenError


def toy() -> Cohort:
    cases = tuple(
        Case(f"c{i}", f"u{i % 2}", "ultrasound", load=lambda: np.zeros((8, 10), np.float32), source="toy")
        for i in range(3)
    )
    masks = {case.name: MaskRef("empty", key="8x10") for case in cases}
    return Cohort("toy-of-cards", "ultrasound", cases, masks, left_out=(("x.png", "broken"),))


def test_counts_are_those_of_the_cohort():
    text = card.describe(toy())
    for row in ("| pictures | 3 |", "| units | 2 |", "| pictures with a lesion | 0 |", "8 × 10 to 8 × 10"):
        assert row in text
    assert "| files left out by the reader | 1 |" in text


def test_a_card_without_markers_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "data_cards" / "phantom.md"
    path.parent.mkdir()
    path.write_text("# Phantom\n")
    with pytest.raises(CovtokenError, match="markers"):
        card.write_card("phantom", root=tmp_path)
    assert path.read_text() == "# Phantom\n"
    with pytest.raises(CovtokenError, match="no data card"):
        card.write_card("absent", root=tmp_path)
