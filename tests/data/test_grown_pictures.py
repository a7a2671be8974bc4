"""One lesion that grows in one picture: its size is what is asked for, and nothing else varies."""

from itertools import pairwise

import numpy as np
import pytest

from covtoken.data.masks import read_mask
from covtoken.data.phantoms.grown_pictures import SIZES, grown
from covtoken.data.readers import phantom

COHORT = phantom.read(40)
FREE = [case for case in COHORT.cases if not read_mask(COHORT.masks[case.name]).any()]
KINDS = {case.modality: case for case in FREE}


def test_both_kinds_are_tried():
    assert set(KINDS) == {"ultrasound", "ct"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_has_the_area_that_was_asked_for(kind):
    for size in SIZES:
        _, mask = grown(KINDS[kind], size)
        assert mask.mean() == pytest.approx(size / 256, rel=0.12), size


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_lesion_holds_the_smaller_one_at_the_same_place(kind):
    masks = [grown(KINDS[kind], size)[1] for size in SIZES]
    for small, large in pairwise(masks):
        assert (large | ~small).all()
        centre = np.argwhere(small).mean(axis=0) - np.argwhere(large).mean(axis=0)
        assert np.abs(centre).max() < 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_texture_inside_is_the_same_and_the_picture_far_away_untouched(kind):
    base = KINDS[kind].pixels()
    (small, inside), (large, outer) = (grown(KINDS[kind], size) for size in (8, 32))
    assert not np.array_equal(small.pixels()[inside], base[inside])
    core = np.zeros_like(inside)
    row, col = np.argwhere(inside).mean(axis=0).astype(int)
    core[row - 8 : row + 9, col - 8 : col + 9] = True  # clear of the smaller one's rim
    assert np.abs(small.pixels()[core] - large.pixels()[core]).mean() < 2
    rows, cols = np.argwhere(outer).min(axis=0), np.argwhere(outer).max(axis=0)
    far = np.ones_like(outer)
    far[max(0, rows[0] - 60) : cols[0] + 60, max(0, rows[1] - 60) : cols[1] + 60] = False
    assert np.array_equal(large.pixels()[far], np.rint(base[far]))


def test_it_repeats_and_names_say_which():
    case, mask = grown(FREE[0], 4)
    again, same = grown(FREE[0], 4)
    assert case.name == f"{FREE[0].name}-lesion-4" == again.name
    assert np.array_equal(case.pixels(), again.pixels()) and np.array_equal(mask, same)
