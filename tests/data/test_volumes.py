"""NIfTI volumes: whatever the file's axes, scale and compression, slices are the same and memory is bounded."""

from __future__ import annotations

import gzip
import pickle

import nibabel
import numpy as np
import pytest
from stub_volumes import SHAPE, SPACING, canonical, write

from covtoken.data import volumes
from covtoken.data.volumes import VolumeSlice, check_same_space, read_volume, space_of
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, construction, register_mask_files


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr(volumes, "_held", type(volumes._held)())


@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL", "SRA", "ALI"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_slice_is_the_same_however_its_axes_are_stored(tmp_path, axes, suffix):
    """Rows run to the back and columns to the patient's left, as radiologists look from the feet."""
    pixels, _ = canonical()
    file = write(tmp_path / f"a{suffix}", pixels, axes)
    for index in range(SHAPE[2]):
        seen = VolumeSlice(file, index)()
        assert seen.dtype == np.float32 and seen.shape == (SHAPE[1], SHAPE[0])
        for right, front in ((0, 0), (SHAPE[0] - 1, 0), (2, 5)):
            assert seen[SHAPE[1] - 1 - front, SHAPE[0] - 1 - right] == pixels[right, front, index]


@pytest.mark.parametrize("axes", ["LPS", "IPL"])
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_the_turn_is_nibabels(tmp_path, axes, tilt):
    pixels, _ = canonical()
    file = write(tmp_path / "a.nii.gz", pixels, axes, tilt)
    oracle = nibabel.as_closest_canonical(nibabel.load(file))
    assert np.array_equal(read_volume(file), np.asarray(oracle.dataobj))
    space = space_of(file)
    assert np.allclose(space.affine, oracle.affine)
    assert space.shape == SHAPE and np.allclose(space.spacing_mm, SPACING)


def test_values_stay_small_in_memory_and_right(tmp_path, monkeypatch):
    """Whole numbers are held as int16 whatever the file's type; scaled ones and fractions as float32."""
    monkeypatch.setattr(volumes, "SLAB", 2)
    whole = canonical()[0]
    assert read_volume(write(tmp_path / "a.nii", whole.astype(np.float64))).dtype == np.int16
    scaled = write(tmp_path / "b.nii.gz", whole * 2 - 1024, scale=(2.0, -1024.0))
    assert nibabel.load(scaled).get_data_dtype() == np.int16
    assert np.array_equal(nibabel.load(scaled).get_fdata(), whole * 2 - 1024)
    assert np.array_equal(read_volume(scaled), whole * 2 - 1024)
    halves = whole.astype(np.float32)
    halves[..., 3:] += 0.5  # seen late: what was read before must not be lost
    held = read_volume(write(tmp_path / "c.nii", halves))
    assert held.dtype == np.float32 and np.array_equal(held, halves)
    large = whole.astype(np.int32)
    large[0, 0, 4] = 40_000
    assert np.array_equal(read_volume(write(tmp_path / "d.nii", large)), large)


def test_a_volume_is_decompressed_once_and_let_go(tmp_path, monkeypatch):
    pixels, _ = canonical()
    files = [write(tmp_path / f"{name}.nii.gz", pixels) for name in "abcd"]
    loaded = []
    load = volumes._load
    monkeypatch.setattr(volumes, "_load", lambda file, what: loaded.append(file) or load(file, what))
    monkeypatch.setattr(volumes, "HELD_BYTES", 2 * pixels.nbytes)
    for file in files:
        for index in range(SHAPE[2]):
            VolumeSlice(file, index)()
        assert sum(held.nbytes for held in volumes._held.values()) <= 2 * pixels.nbytes
    assert loaded == files
    VolumeSlice(files[-2], 0)()
    assert loaded == files, "the volume asked for last but one is still held"
    write(files[-1], pixels + 1)
    assert VolumeSlice(files[-1], 0)()[-1, -1] == pixels[0, 0, 0] + 1, "a changed file is read again"


def test_a_slice_travels_to_another_process(tmp_path):
    seen = VolumeSlice(write(tmp_path / "a.nii.gz", canonical()[0]), 2)
    assert len(pickle.dumps(seen)) < 2000
    assert np.array_equal(pickle.loads(pickle.dumps(seen))(), seen())


def test_a_mask_held_in_memory_stays_behind_the_guard(tmp_path):
    """The hook sees files being opened; this volume was opened before."""
    file = write(tmp_path / "labels.nii.gz", canonical()[1])
    read_volume(file, "mask file")
    register_mask_files([file])
    with construction("a bank"), pytest.raises(LabelLeak, match=r"labels\.nii"):
        VolumeSlice(file, 0)()


def test_picture_and_mask_must_lie_on_each_other(tmp_path):
    pixels, labels = canonical()
    picture = write(tmp_path / "picture.nii.gz", pixels, "LPS")
    assert check_same_space(picture, write(tmp_path / "same.nii.gz", labels, "RAS")).shape == SHAPE
    assert check_same_space(picture, write(tmp_path / "rounded.nii.gz", labels, origin=(1e-4, 0, 0)))
    for name, values, how in (
        ("shifted", labels, {"origin": (0, 0, 2.0)}),
        ("tilted", labels, {"tilt": 0.1}),
        ("cropped", labels[:-1], {}),
    ):
        mask = write(tmp_path / f"{name}.nii.gz", values, **how)
        with pytest.raises(CovtokenError, match="export it") as error:
            check_same_space(picture, mask)
        assert str(picture) in str(error.value) and str(mask) in str(error.value)


def test_what_is_no_volume_is_refused_by_name(tmp_path):
    pixels, _ = canonical()
    affine = np.diag([*SPACING, 1])
    four = tmp_path / "four.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.stack([pixels] * 2, -1), affine), four)
    for read in (read_volume, space_of):
        with pytest.raises(CovtokenError, match=r"four\.nii\.gz: expected a volume of three axes, got shape 6×8×5×2"):
            read(four)
    flat = tmp_path / "flat.nii"
    header = nibabel.Nifti1Header()
    header["sform_code"], header["srow_x"], header["srow_y"] = 1, (1, 0, 0, 0), (0, 1, 0, 0)  # and no third direction
    nibabel.save(nibabel.Nifti1Image(pixels, None, header), flat)
    with pytest.raises(CovtokenError, match=r"flat\.nii: its affine"):
        space_of(flat)
    whole = write(tmp_path / "whole.nii.gz", pixels).read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(gzip.compress(gzip.decompress(whole)[:-40])[:-8])
    assert space_of(cut).shape == SHAPE, "the header is whole"
    with pytest.raises(CovtokenError, match=r"cut\.nii\.gz cannot be read .*truncated"):
        read_volume(cut)
    junk = tmp_path / "._junk.nii.gz"
    junk.write_bytes(b"\0\5\26\7" + bytes(400))
    with pytest.raises(CovtokenError, match=r"_junk\.nii\.gz"):
        space_of(junk)
    with pytest.raises(CovtokenError, match=r"absent\.nii\.gz is missing"):
        read_volume(tmp_path / "absent.nii.gz")
