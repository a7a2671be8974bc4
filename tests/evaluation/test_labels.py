"""Token labels: exact area, every lesion owns a token, touched tokens are left out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.data.masks import read_mask
from covtoken.data.readers import phantom
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label, mark_small, patch_shares, small_cuts, token_labels


def test_shares_are_exact_areas_at_any_size():
    mask = np.zeros((7, 10), bool)
    mask[0:3, 2:5] = True
    fine = np.kron(mask, np.ones((12, 12)))  # 84×120 is divisible by 4×6
    expected = fine.reshape(4, 21, 6, 20).mean(axis=(1, 3))
    np.testing.assert_allclose(patch_shares(mask, 4, 6), expected, atol=1e-12)


def test_threshold_ownership_and_left_out_tokens():
    mask = np.zeros((40, 40), bool)
    mask[0:10, 0:12] = True  # token 0 whole, token 1 by a fifth: left out
    mask[31, 31] = True  # one pixel: owns token 15 all the same
    labels = token_labels(mask, 4, 4)
    assert np.flatnonzero(labels.lesion).tolist() == [0, 15]
    assert np.flatnonzero(labels.ignore).tolist() == [1]
    assert [lesion.tokens.tolist() for lesion in labels.lesions] == [[0], [15]]
    assert [lesion.area for lesion in labels.lesions] == [120 / 1600, 1 / 1600]
    loose = token_labels(mask, 4, 4, threshold=0.2, spacing_mm=(0.5, 2.0))
    assert np.flatnonzero(loose.lesion).tolist() == [0, 1, 15] and loose.lesions[0].area == 120.0


def test_exactly_the_threshold_counts_and_diagonals_connect():
    mask = np.zeros((40, 40), bool)
    mask[0:5, 0:5] = True
    mask[5:10, 5:10] = True  # touches the first only at a corner
    labels = token_labels(mask, 4, 4, threshold=0.5)
    assert len(labels.lesions) == 1 and labels.lesion[0]


def test_token_that_two_lesions_fill_together_goes_to_the_larger_part():
    mask = np.zeros((40, 40), bool)
    mask[0:20, 0:4] = True  # the first lesion; token 0 by 40 %, token 4 by 40 %
    mask[0:2, 6:10] = True  # the second: 8 % of token 0, its only token
    labels = token_labels(mask, 4, 4, threshold=0.45)
    assert labels.lesion[0] and not labels.lesion[5]
    owners = [lesion.tokens.tolist() for lesion in labels.lesions]
    assert owners[0] == [0] and owners[1] == [0]
    assert labels.ignore[4]


@pytest.mark.filterwarnings("ignore:the mask covers more than nine tenths")
@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(3, 33), st.integers(3, 33))), st.integers(1, 6), st.integers(1, 6))
def test_laws(mask, rows, cols):
    labels = token_labels(mask, rows, cols)
    assert not (labels.lesion & labels.ignore).any()
    assert all(len(lesion.tokens) for lesion in labels.lesions)
    owned = np.zeros(rows * cols, bool)
    for lesion in labels.lesions:
        owned[lesion.tokens] = True
    np.testing.assert_array_equal(owned, labels.lesion)
    assert np.isclose(sum(lesion.share for lesion in labels.lesions), mask.mean())
    assert np.isclose(patch_shares(mask, rows, cols).mean(), mask.mean())
    np.testing.assert_array_equal(patch_shares(mask, rows, cols).ravel() > 1e-9, labels.lesion | labels.ignore)


def test_labels_of_a_cohort_follow_the_cases():
    cohort = phantom.read(8)
    cases = cohort.cases[::-1]
    labels = label(cases, cohort, 16, 16)
    assert labels.lesion.shape == labels.organ.shape == (8, 256)
    assert [labels.unit_names[unit] for unit in labels.unit] == [case.unit for case in cases]
    for lesion in labels.lesions:
        assert labels.lesion[lesion.picture, lesion.tokens].all()
    one = cases[3]
    alone = token_labels(read_mask(cohort.masks[one.name]), 16, 16)
    np.testing.assert_array_equal(labels.lesion[3], alone.lesion)
    # Transposing grid axes must show: a case is not its mirror.
    assert any((labels.lesion[i].reshape(16, 16).T.ravel() != labels.lesion[i]).any() for i in range(8))


def test_small_is_the_lowest_tercile_within_each_modality():
    cohort = phantom.read(24)
    labels = label(cohort.cases, cohort, 16, 16)
    cuts = small_cuts(labels, cohort.cases)
    assert set(cuts) == {"ct", "ultrasound"} and cuts["ct"] > 2 * cuts["ultrasound"]  # mm² of other pixel sizes
    marked = mark_small(labels, cohort.cases, cuts)
    for modality, cut in cuts.items():
        flags = [
            (lesion.area, lesion.small)
            for lesion in marked.lesions
            if cohort.cases[lesion.picture].modality == modality
        ]
        assert cut == np.quantile([area for area, _ in flags], 1 / 3)
        assert all(small == (area <= cut) for area, small in flags) and any(small for _, small in flags)
    edge = replace(labels.lesions[0], area=cuts[cohort.cases[labels.lesions[0].picture].modality])
    assert mark_small(replace(labels, lesions=(edge,)), cohort.cases, cuts).lesions[0].small  # the cut itself is small
    with pytest.raises(CovtokenError, match="lesions of ultrasound"):
        mark_small(labels, cohort.cases, {"ct": 1.0})


def test_bad_input_is_named():
    with pytest.raises(CovtokenError, match="threshold 0"):
        token_labels(np.eye(4, dtype=bool), 2, 2, threshold=0)
    with pytest.raises(CovtokenError, match="no lesion"):
        small_cuts(SplitLabels(*np.zeros((2, 1, 4), bool), None, np.zeros(1, int), (), (), (), 2, 2), [])
    with pytest.raises(CovtokenError, match="no case"):
        label([], phantom.read(2), 4, 4)


def test_a_token_is_in_the_organ_from_half_of_it_on(tmp_path):
    """An organ that covers 49, 50 and 51 hundredths of three tokens, and nothing of the fourth."""
    organ = np.zeros((10, 40), np.uint8)
    for token, n_pixels in enumerate((49, 50, 51)):
        block = np.zeros(100, np.uint8)
        block[:n_pixels] = 255
        organ[:, token * 10 : token * 10 + 10] = block.reshape(10, 10)
    lesion = np.zeros_like(organ)
    lesion[0, 0] = 255
    for name, mask in {"organ": organ, "lesion": lesion}.items():
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    case = Case("c", "c", "ct8", partial(np.zeros, (10, 40), np.float32))
    masks, organs = ({"c": MaskRef("png", (tmp_path / f"{name}.png",))} for name in ("lesion", "organ"))
    labels = label((case,), Cohort("mine", "ct8", (case,), masks, organs), 1, 4)
    assert labels.organ.tolist() == [[False, True, True, False]]
