"""Regions cover what they promise, seen in the picture alone."""

from __future__ import annotations

import numpy as np
import pytest

from covtoken.data.regions import BodyBox, Cutting, body_box, cut, read_cut
from covtoken.errors import CovtokenError


@pytest.mark.parametrize("size", [(512, 512), (100, 130), (64, 64), (40, 200)])
@pytest.mark.parametrize("side", [64, 50, 1000])
def test_windows_of_one_size_cover_the_slice(size, side):
    windows = Cutting(region="windows", window_px=side).windows(size, (1, 1), ())
    seen = np.zeros(size, int)
    for window in windows:
        part = cut(seen, window)
        assert part.shape == tuple(min(side, length) for length in size)
        part += 1
    assert seen.min() == 1 and len(windows) == np.prod([-(-length // side) for length in size])


def test_windows_in_mm_are_as_wide_in_the_body_whatever_the_pixel():
    for spacing in ((0.5, 0.5), (1.0, 0.5), (0.7, 0.7)):
        windows = Cutting(region="windows", window_mm=50).windows((200, 200), spacing, ())
        height, width = windows[0][2:]
        assert (height, width) == (round(50 / spacing[0]), round(50 / spacing[1]))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"region": "window"}, "unknown region 'window': did you mean windows"),
        ({"region": "windows"}, "takes the side"),
        ({"region": "windows", "window_mm": 50, "window_px": 64}, "takes the side"),
        ({"region": "windows", "window_px": 0}, "takes the side"),
        ({"region": "windows", "window_mm": float("nan")}, "takes the side"),
        ({"region": "body", "window_px": 64}, "no other region does"),
        ({"every": 0}, "every=0"),
        ({"every": 1.5}, r"every=1\.5"),
    ],
)
def test_cuttings_that_mean_nothing_are_refused(how, words):
    with pytest.raises(CovtokenError, match=words):
        Cutting(**how)


def test_the_body_is_the_largest_tissue():
    pixels = np.full((60, 70), -1000.0)
    pixels[10:40, 15:55] = 40
    pixels[20:30, 20:30] = -800  # lung
    pixels[50:58, 5:20] = pixels[1:7, 5:20] = 100  # an arm below, one above
    assert body_box(pixels) == (slice(10, 40), slice(15, 55))
    assert body_box(np.full((20, 20), -1000.0)) is None


def test_a_volume_has_one_box_looked_for_once():
    read = []

    def slice_at(left):
        def load():
            read.append(left)
            pixels = np.full((60, 70), -1000.0)
            pixels[20:40, left : left + 20] = 0
            return pixels

        return load

    box = BodyBox((slice_at(20), slice_at(30), lambda: np.full((60, 70), -1000.0)))
    assert box.window() == (12, 12, 36, 46)
    assert read_cut(slice_at(30), box).shape == (36, 46) and read == [20, 30, 30]
    assert BodyBox((lambda: np.full((60, 70), -1000.0),)).window() == (0, 0, 60, 70)


def test_the_body_is_looked_for_all_through_the_volume():
    slices = tuple(range(100))
    (box,) = Cutting(region="body").windows((60, 70), (1, 1), slices)
    assert len(box.samples) <= 12 and box.samples[0] < 10 and box.samples[-1] >= 90
