"""Near-duplicate groups: likeness under brightness and contrast, chains, order."""

from __future__ import annotations

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.data.near_duplicates import groups, pairs_across_units, thumbnail
from covtoken.data.splits import assign


def smooth(seed: int, shape=(96, 120)) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 8)
    return (field - field.min()) / np.ptp(field) * 255


def test_thumbnail_is_the_box_mean_without_brightness_and_contrast():
    picture = smooth(0, (64, 96))
    boxes = picture.reshape(32, 2, 32, 3).mean(axis=(1, 3)).ravel()
    expected = boxes - boxes.mean()
    np.testing.assert_allclose(thumbnail(picture), expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(thumbnail(0.5 * picture + 20), thumbnail(picture), atol=1e-6)
    assert not thumbnail(np.full((40, 40), 7.0)).any()


def test_groups_are_components_named_by_first_file_whatever_the_order():
    a, b = smooth(1), smooth(2)
    # a and c correlate below the threshold; both are near the middle one, which chains them.
    pictures = {"z": a, "m": a + 0.24 * b, "k": a + 0.48 * b, "other": smooth(5)}
    vectors = {name: thumbnail(picture) for name, picture in pictures.items()}
    assert vectors["z"] @ vectors["k"] < 0.95 < min(vectors["z"] @ vectors["m"], vectors["m"] @ vectors["k"])
    for names in (list(pictures), list(pictures)[::-1]):
        got = groups(names, (vectors[name] for name in names))
        assert got == {"z": "k", "m": "k", "k": "k", "other": "other"}


def test_flat_pictures_are_alike():
    flat = thumbnail(np.zeros((32, 32)))
    assert groups(["a", "b", "c"], [flat, thumbnail(smooth(1)), flat]) == {"a": "a", "b": "b", "c": "a"}


def test_same_picture_under_two_patients_is_found():
    patients = [f"p{i}" for i in range(30)]
    bank = next(unit for unit in patients if assign(unit) == "bank")
    test = next(unit for unit in patients if assign(unit) == "test")
    picture = smooth(3)
    cases = (
        Case("one", bank, "ultrasound", lambda: picture),
        Case("two", test, "ultrasound", lambda: picture * 0.9),
        Case("three", test, "ultrasound", lambda: smooth(4)),
    )
    found = pairs_across_units(Cohort("toy", "ultrasound", cases, {}))
    assert [pair[:2] for pair in found] == [("one", "two")] and found[0][2] > 0.999
