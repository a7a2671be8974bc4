"""Overlays and regions: what is drawn and listed lies where the map says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covtoken.maps import overlay
from covtoken.maps.inputs.planes import picture_grid
from covtoken.maps.lesion_map import upsampled
from covtoken.maps.regions import regions
from covtoken.scores.threshold import BankScores

SCORES = BankScores.of(np.linspace(0, 1, 10_001))


def _tokens(*spots, shape=(1, 16, 16)):
    tokens = np.zeros(shape, np.float32)
    for spot, value in spots:
        tokens[spot] = value
    return tokens


def test_regions_come_highest_first_with_their_rank_and_place():
    tokens = _tokens(((0, 2, 3), 0.995), ((0, 2, 4), 0.992), ((0, 10, 12), 0.9995), ((0, 8, 1), 0.98))
    found = regions(tokens, 0.99, SCORES, picture_grid((160, 320), (0.5, 0.25)))
    assert [region["rank"] for region in found] == [0.9995, 0.995] and [region["tokens"] for region in found] == [1, 2]
    assert found[0]["peak"]["px"] == {"row": 104.5, "column": 249.5}  # centre of a patch of 10 × 20 pixels
    assert found[0]["peak"]["mm"] == [52.25, 62.38]
    assert found[1]["area_mm2"] == pytest.approx(2 * 10 * 0.5 * 20 * 0.25)
    assert 69.5 < found[1]["centre"]["px"]["column"] < 79  # of 69.5 and 89.5, nearer to the higher token


def test_without_a_region_the_peak_is_named_and_not_flagged():
    (only,) = regions(_tokens(((0, 5, 5), 0.7)), 0.99, SCORES, picture_grid((160, 160)))
    assert not only["flagged"] and only["rank"] == pytest.approx(0.7, abs=1e-3) and only["peak"]["mm"] is None
    assert only["area_mm2"] is None and only["area_mm2_reason"]


def test_a_region_goes_through_slices():
    tokens = _tokens(((2, 5, 5), 0.999), ((3, 6, 6), 0.999), shape=(6, 16, 16))
    (only,) = regions(tokens, 0.99, SCORES, picture_grid((6, 160, 160)))
    assert only["slices"] == [2, 3] and only["centre"]["px"]["slice"] == 2.5


@settings(max_examples=30, deadline=None)
@given(st.integers(9, 90), st.integers(9, 90), st.integers(0, 15), st.integers(0, 15))
def test_upsampling_keeps_the_range_and_the_place(height, width, row, column):
    tokens = np.zeros((16, 16), np.float32)
    tokens[row, column] = 1
    found = upsampled(tokens, (height, width))
    assert found.shape == (height, width) and found.min() >= 0 and found.max() <= 1 + 1e-6
    if min(height, width) >= 16 and 0 < row < 15 and 0 < column < 15:  # at the rim the highest value is a plateau
        at = np.unravel_index(found.argmax(), found.shape)
        assert abs(at[0] - ((row + 0.5) * height / 16 - 0.5)) <= 0.75
        assert abs(at[1] - ((column + 0.5) * width / 16 - 0.5)) <= 0.75


def _sheet(found, threshold=0.99, **options):
    return np.asarray(overlay.draw(np.full(found.shape, 0.3), found, threshold, 0.99, SCORES, "case", **options))


def test_colours_hang_on_the_score_alone():
    """The same score has one colour beside any other: no picture is stretched to its own range."""
    low, high = np.full((500, 500), 0.4, np.float32), np.full((500, 500), 0.4, np.float32)
    low[:250, :250], high[:250, :250] = 0.9, 0.9
    high[300:400, 300:400] = 1.0
    ours, theirs = _sheet(low), _sheet(high)
    left, top = overlay.MARGIN + 500 + overlay.GAP, overlay.HEAD
    assert np.array_equal(ours[top : top + 250, left : left + 250], theirs[top : top + 250, left : left + 250])
    assert not np.array_equal(ours[top + 350, left + 350], theirs[top + 350, left + 350])
    clear = ours[top + 400, left + 400]  # below the bank's median: the picture itself
    assert np.ptp(clear.astype(int)) == 0


def test_the_contour_stands_round_what_is_flagged_and_nowhere_else():
    found = np.zeros((500, 500), np.float32)
    assert not (_sheet(found)[overlay.HEAD : overlay.HEAD + 500, 530:1030] == 255).all(-1).any()
    found[100:200, 100:200] = 1
    white = (_sheet(found)[overlay.HEAD : overlay.HEAD + 500, 530:1030] == 255).all(-1)
    rows, columns = np.nonzero(white)
    assert abs(rows.min() - 100) <= 2 and abs(columns.max() - 199) <= 2 and not white[150, 150]


def test_spacing_gives_true_proportions_and_a_bar():
    flat = np.zeros((100, 100), np.float32)
    square, wide = _sheet(flat), _sheet(flat, spacing_mm=(1.0, 2.0))
    assert (
        square.shape[1] < 2 * square.shape[0] + 400
        and wide.shape[1] / wide.shape[0] > 1.4 * square.shape[1] / square.shape[0]
    )
    assert (
        wide[overlay.HEAD + 200 :] != _sheet(flat, spacing_mm=(10.0, 20.0))[overlay.HEAD + 200 :]
    ).any()  # its length in words
