"""Physical units to the unit range."""

from __future__ import annotations

import numpy as np
import pytest

from covtoken.data.case import Case
from covtoken.data.intensity import WINDOWS_HU, to_input, to_unit_range
from covtoken.errors import CovtokenError


def case(modality: str, organ: str = "") -> Case:
    return Case("c", "u", modality, lambda: None, organ=organ)


def test_eight_bit_is_a_fixed_scale():
    got = to_unit_range(np.array([[0, 51, 255]]), case("ultrasound", "breast"))
    np.testing.assert_allclose(got, [[0, 0.2, 1]])
    assert got.dtype == np.float32


def test_hounsfield_windows_are_fixed_and_clipped():
    got = to_unit_range(np.array([[-2000, -600, 1000]]), case("ct", "lung"))
    np.testing.assert_allclose(got, [[0, 0.5, 1]])
    for organ, (low, high) in WINDOWS_HU.items():
        np.testing.assert_allclose(to_unit_range(np.array([[low, high]]), case("ct", organ)), [[0, 1]])
    # One tissue is one grey level, whatever else is in the picture.
    alone, beside = (to_unit_range(np.array([[40, x]]), case("ct", "liver"))[0, 0] for x in (40, 3000))
    assert alone == beside


def test_wrong_units_are_refused():
    with pytest.raises(CovtokenError, match="0…255, got -900"):
        to_unit_range(np.array([[-900.0, 30.0]]), case("ct8"))
    with pytest.raises(CovtokenError, match="did you mean liver"):
        to_unit_range(np.zeros((2, 2)), case("ct", "livre"))


def test_hounsfield_input_is_clamped_and_needs_hounsfield_units():
    got = to_input(np.array([[-3000, -1000, 7.5, 2000]]), case("ct", "lung"), "hu")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[-1000, -1000, 7.5, 1000]])
    liver = np.array([[0.0, 100.0]])
    np.testing.assert_array_equal(to_input(liver, case("ct", "liver")), to_unit_range(liver, case("ct", "liver")))
    for modality in ("ct8", "ultrasound"):
        with pytest.raises(CovtokenError, match=f"{modality} pictures are 8 bit"):
            to_input(np.zeros((2, 2)), case(modality), "hu")
    with pytest.raises(CovtokenError, match="did you mean hu"):
        to_input(np.zeros((2, 2)), case("ct", "liver"), "huu")
