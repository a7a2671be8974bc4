"""3-D lesions own tokens over all their slices and windows, by the rule of single pictures."""

from dataclasses import replace

import numpy as np
import pytest

from covtoken.data.case import Case, SlicedVolume
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import token_labels
from covtoken.evaluation.volume_labels import volume_lesions
from covtoken.leak_guard import LabelLeak, construction

IDS = np.zeros((3, 8, 8), dtype=np.int16)
IDS[0, 0:4, 0:4] = 7  # all of the first token, on a 2 × 2 grid
IDS[1, 0:4, 3:6] = 7  # a quarter of the first token, half of the second
IDS[1, 7, 7] = 2  # a dot in the last token
IDS[2, 7, 0] = 2


def _volume(ids=IDS, sizes=None, n_slices=3):
    case = Case("c", "u", "ct", lambda: np.zeros((8, 8)), spacing_mm=(0.5, 2.0), organ="lung")
    cases = tuple(replace(case, name=f"c{i}", slice_index=i) for i in range(len(ids)))
    lesions = sizes or {2: 10.0, 7: 140.0}, lambda case: ids[case.slice_index]
    return SlicedVolume("v", "u", cases, tuple(5.0 * i for i in range(n_slices)), lambda: lesions)


def test_tokens_by_hand():
    large, small = volume_lesions(_volume(), 2, 2, place=4)
    assert large.picture.tolist() == [0, 1, 1] and large.tokens.tolist() == [0, 0, 1]
    assert small.picture.tolist() == [1, 2] and small.tokens.tolist() == [3, 2]
    assert (large.volume_mm3, small.volume_mm3) == (140.0, 10.0)
    assert large.volume == small.volume == 4


def test_windows_are_numbered_one_after_the_other():
    halves = np.stack([half for ids in IDS for half in (ids[:, :4], ids[:, 4:])])
    large, small = volume_lesions(_volume(halves), 2, 2)
    by_hand = [
        *(np.flatnonzero(token_labels(IDS[0, :, :4] == 7, 2, 2).lesion)),
        *(np.flatnonzero(token_labels(IDS[1, :, :4] == 7, 2, 2).lesion)),
        *(np.flatnonzero(token_labels(IDS[1, :, 4:] == 7, 2, 2).lesion) + 4),
    ]
    assert large.tokens.tolist() == by_hand and large.picture.tolist() == [0] * (len(by_hand) - 2) + [1, 1]
    assert small.tokens.tolist() == [7, 2] and small.picture.tolist() == [1, 2]


def test_a_lesion_that_no_picture_shows_is_left_out():
    (alone,) = volume_lesions(_volume(IDS[:1], n_slices=1), 2, 2)
    assert alone.volume_mm3 == 140.0


def test_labels_stay_out_of_construction():
    with construction("a bank"), pytest.raises(LabelLeak, match="lesions of volume 'v'"):
        volume_lesions(_volume(), 2, 2)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (lambda: _volume(IDS.astype(float)), "expected lesion numbers"),
        (lambda: _volume(sizes={7: 1.0}), "lesion 2 has no size"),
        (lambda: _volume(n_slices=2), "as many pictures in each of 2 slices"),
    ],
)
def test_what_does_not_fit_is_refused(volume, message):
    with pytest.raises(CovtokenError, match=message):
        volume_lesions(volume(), 2, 2)
