"""The phantom is frozen, fair to raw brightness and to position, and grows without changing."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from covtoken.data.intensity import to_unit_range
from covtoken.data.masks import read_mask
from covtoken.data.readers import phantom
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import _overlap, label

PINNED = "f3da719ac18403da06ea479d48a1b16cef81d82837e566cc230d1384bcb23a12"


def test_generator_is_frozen():
    """A change here needs a new VERSION, and voids every lock made on the phantom."""
    total = hashlib.sha256()
    for key in ("0:1", "0:2", "0:7", "0:10", "3:5"):
        total.update(phantom.pixels_of(key).astype("<i2").tobytes())
        total.update(
            np.packbits(phantom.mask_of(key)).tobytes() + np.packbits(phantom.mask_of(f"{key}:organ")).tobytes()
        )
    assert phantom.VERSION == 1 and total.hexdigest() == PINNED


def test_cases_are_pictures_in_physical_units():
    cohort = phantom.read(6)
    for index, case in enumerate(cohort.cases):
        pixels = case.pixels()
        assert pixels.shape == read_mask(cohort.masks[case.name]).shape == read_mask(cohort.organs[case.name]).shape
        assert (pixels == np.rint(pixels)).all()
        low, high = (0, 255) if case.modality == "ultrasound" else (-1024, 1500)
        assert pixels.min() >= low and pixels.max() <= high and pixels.std() > 15
        assert case.name == case.unit == f"phantom-{index + 1:04d}"
    assert [case.modality for case in cohort.cases[:2]] == ["ultrasound", "ct"]


def test_growing_and_seeds():
    small, large = phantom.read(4), phantom.read(9)
    assert large.cases[:4] == small.cases
    other = phantom.read(1, seed=1).cases[0]
    assert (
        other.unit != small.cases[0].unit and (other.pixels()[:200, :200] != small.cases[0].pixels()[:200, :200]).any()
    )
    with ProcessPoolExecutor(1, get_context("fork")) as pool:  # cases travel to workers
        assert (pool.submit(small.cases[0].pixels).result() == small.cases[0].pixels()).all()
    with pytest.raises(CovtokenError, match="n = 0"):
        phantom.read(0)


@pytest.mark.slow
def test_brightness_and_position_do_not_give_lesions_away():
    """Brightness and place give little away, over the whole cohort and within each kind of picture."""
    cohort = phantom.read()
    labels = label(cohort.cases, cohort, 16, 16)
    brightness = []
    for case in cohort.cases:
        pixels = to_unit_range(case.pixels(), case)
        brightness.append((_overlap(pixels.shape[0], 16) @ pixels @ _overlap(pixels.shape[1], 16).T).ravel())
    rows, cols = np.mgrid[:16, :16] - 7.5
    scores = {
        "brightness": np.stack(brightness),
        "centre": np.tile(-np.hypot(rows, cols).ravel(), (len(brightness), 1)),
    }
    for part in (slice(None), slice(0, None, 2), slice(1, None, 2)):
        used = ~labels.ignore[part]
        truth = labels.lesion[part][used]
        auroc = {name: roc_auc_score(truth, score[part][used]) for name, score in scores.items()}
        assert max(auroc["brightness"], 1 - auroc["brightness"]) <= 0.75
        assert max(auroc["centre"], 1 - auroc["centre"]) <= 0.60

    held = labels.lesion.any(axis=1)
    assert 0.65 < held.mean() < 0.85
    counts = np.array([len(lesion.tokens) for lesion in labels.lesions])
    assert (counts == 1).mean() > 0.1 and counts.max() > 20
    inside = [labels.organ[lesion.picture, lesion.tokens].mean() for lesion in labels.lesions]
    assert np.mean(inside) > 0.7
