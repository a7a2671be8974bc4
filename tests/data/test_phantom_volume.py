"""Phantom volumes: lesions have the size in mm that was planted, slices go on into each other, and labels are kept."""

import hashlib

import numpy as np
import pytest
from scipy.ndimage import label as connected
from sklearn.metrics import roc_auc_score

from covtoken.data.intensity import to_unit_range
from covtoken.data.phantoms import phantom_volume
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import _overlap
from covtoken.evaluation.volume_labels import volume_lesions
from covtoken.leak_guard import LabelLeak, construction

PINNED = "d97360bb7155b510f6459477743a577e928265c670b909db57b63fd943fd25e2"
KEYS = ("0:4", "3:2")


@pytest.fixture(scope="module")
def drawn():
    volumes = {"0:4": phantom_volume.read(4)[3], "3:2": phantom_volume.read(2, seed=3)[1]}
    return {key: (volume, _ids(volume)) for key, volume in volumes.items()}


def _ids(volume):
    _, numbers = volume.lesions()
    return np.stack([numbers(case) for case in volume.cases])


def test_generator_is_frozen(drawn):
    """A change here needs a new VERSION, and the records of the volumes anew."""
    total = hashlib.sha256()
    for key in KEYS:
        total.update(phantom_volume.pixels_of(f"{key}:11").astype("<i2").tobytes())
        total.update(drawn[key][1].tobytes())
    assert phantom_volume.VERSION == 1 and total.hexdigest() == PINNED


@pytest.mark.parametrize("key", KEYS)
def test_lesions_are_as_large_as_planted(drawn, key):
    volume, ids = drawn[key]
    lesions, (sizes, _) = phantom_volume.planted(key), volume.lesions()
    assert len(lesions) >= 2 and set(np.unique(ids)) == set(range(len(lesions) + 1))
    z = np.array(volume.z_mm)
    for number, lesion in enumerate(lesions, start=1):
        mask = ids == number
        assert connected(mask, np.ones((3, 3, 3)))[1] == 1
        assert sizes[number] == pytest.approx(mask.sum() * 5 * 1.4**2) == pytest.approx(lesion.volume_mm3, rel=0.1)
        held = np.flatnonzero(mask.any((1, 2)))
        assert len(held) >= 2  # it goes on over slices
        extent = phantom_volume.SLICE_MM * len(held)
        assert abs(extent - 2 * lesion.along_z_mm) <= phantom_volume.SLICE_MM
        areas = mask.sum((1, 2)) * phantom_volume.PIXEL_MM**2
        centre = (areas * z).sum() / areas.sum(), *(phantom_volume.PIXEL_MM * m.mean() for m in np.nonzero(mask)[1:])
        np.testing.assert_allclose(centre, lesion.centre_mm, atol=phantom_volume.SLICE_MM / 2)
        half, (long, short) = lesion.along_z_mm, lesion.semi_axes_mm
        by_hand = np.pi * long * short * np.clip(1 - ((z - lesion.centre_mm[0]) / half) ** 2, 0, None)
        np.testing.assert_allclose(areas, by_hand, atol=0.1 * by_hand.max())


def test_slices_are_cases_in_order_with_physical_units(drawn):
    volume, ids = drawn["0:4"]
    assert phantom_volume.SLICES[0] <= len(volume.cases) == len(ids) <= phantom_volume.SLICES[1]
    assert [case.slice_index for case in volume.cases] == list(range(len(volume.cases)))
    assert set(np.diff(volume.z_mm)) == {5.0} and volume.cases[0].spacing_mm == (1.4, 1.4)
    for case in volume.cases[::7]:
        pixels = case.pixels()
        assert case.unit == volume.unit and (pixels == np.rint(pixels)).all()
        assert pixels.min() >= -1024 and pixels.max() <= 1500 and pixels.std() > 100


def test_neighbouring_slices_are_more_alike_than_far_ones(drawn):
    volume, _ = drawn["0:4"]
    first, next_one, far = (volume.cases[i].pixels().ravel() for i in (8, 9, 18))
    assert np.corrcoef(first, next_one)[0, 1] > np.corrcoef(first, far)[0, 1] + 0.05


@pytest.mark.slow
def test_brightness_and_position_do_not_give_lesions_away():
    """The rule of the phantom's pictures holds over all volumes, whichever sign brightness has."""
    rows, cols = np.mgrid[:16, :16] - 7.5
    brightness, truth = [], []
    for volume in phantom_volume.read():
        for case in volume.cases:
            pixels = to_unit_range(case.pixels(), case)
            brightness.append((_overlap(pixels.shape[0], 16) @ pixels @ _overlap(pixels.shape[1], 16).T).ravel())
        lesion = np.zeros((len(volume.cases), 256), dtype=bool)
        for each in volume_lesions(volume, 16, 16):
            lesion[each.picture, each.tokens] = True
        truth.append(lesion)
    truth = np.concatenate(truth)
    auroc = roc_auc_score(truth.ravel(), np.ravel(brightness))
    centre = roc_auc_score(truth.ravel(), np.tile(-np.hypot(rows, cols).ravel(), len(truth)))
    assert max(auroc, 1 - auroc) <= 0.75 and max(centre, 1 - centre) <= 0.60
    assert 0.4 < truth.any(axis=1).mean() < 0.8


def test_growing_and_seeds(drawn):
    small, large = phantom_volume.read(2), phantom_volume.read(3)
    assert large[:2] == small and len({volume.unit for volume in large}) == 3
    (other, _), (volume, _) = drawn["3:2"], drawn["0:4"]
    assert other.name != phantom_volume.read(2)[1].name
    assert (other.cases[5].pixels() != volume.cases[5].pixels()).any()
    for n in (0, phantom_volume.MOST + 1):
        with pytest.raises(CovtokenError, match=f"n = {n}"):
            phantom_volume.read(n)


def test_no_lesion_is_read_during_construction(drawn):
    volume = drawn["0:4"][0]
    with construction("a bank"):
        volume.cases[0].pixels()
        for label in (volume.lesions, lambda: phantom_volume.planted("0:4")):
            with pytest.raises(LabelLeak, match="phantom volume"):
                label()
