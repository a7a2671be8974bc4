"""A map lies where its picture lies: shape, affine, qform and sform come back, and a landmark at the same mm."""

import json

import nibabel
import numpy as np
import pytest
from stub_dicom import OBLIQUE, write_series, write_slice
from stub_scorer import mapped

import covtoken
from covtoken.errors import CovtokenError

CT = {"modality": "ct", "window": (-1000.0, 1000.0)}
AFFINES = {
    "neutral": np.diag([0.7, 0.7, 2.5, 1]),
    "flipped": np.diag([-0.7, -0.8, 2.5, 1]),
    "upside down": np.diag([0.7, 0.8, -2.5, 1]),
    "oblique": np.block([[OBLIQUE @ np.diag([0.7, 0.8, 2.5]), np.array([[30.0], [-20], [7]])], [np.zeros((1, 3)), 1]]),
    "sagittal": np.array([[0, 0, 2.5, -40.0], [-0.7, 0, 0, 12], [0, 0.8, 0, 5], [0, 0, 0, 1]]),
}


def _volume(shape=(64, 48, 9), at=(45, 13, 6)):
    """Dark, with a bright block about a voxel: the brightest token lies there."""
    values = np.full(shape, -900, np.int16)
    values[at[0] - 4 : at[0] + 5, at[1] - 4 : at[1] + 5, at[2]] = 900
    return values


def _save(file, values, affine, qform=1, sform=2, slope=None):
    image = nibabel.Nifti1Image(values, affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, file)
    return nibabel.load(file)


def _peak(found):
    values = np.asarray(found.dataobj)
    best = np.argwhere(values == values.max()).mean(0)  # a plateau is as wide as the block
    return (found.affine @ [*best, *[0] * (3 - len(best)), 1])[:3]


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_a_landmark_comes_back_at_the_same_mm(tmp_path, name, end):
    affine, at = AFFINES[name], (45, 13, 6)
    shape = (64, 48, 9)
    if name == "sagittal":  # the file's second axis runs up the body
        at, shape = (45, 6, 13), (64, 9, 48)
    values = np.full(shape, -900, np.int16)
    window = tuple(slice(i - 4, i + 5) if side > 9 else slice(i, i + 1) for i, side in zip(at, shape))
    values[window] = 900
    source = _save(tmp_path / f"v{end}", values, affine, slope=(1, -10))
    mapped(tmp_path / f"v{end}", tmp_path / "out", **CT)
    found, mask = (nibabel.load(tmp_path / "out" / "v" / file) for file in ("map.nii", "mask.nii.gz"))
    assert found.shape == mask.shape == source.shape and found.get_data_dtype() == np.float32
    for ours in (found, mask):
        assert np.array_equal(ours.affine, source.affine)
        for place in (ours.get_qform, ours.get_sform):
            theirs = getattr(source, place.__name__)
            assert np.array_equal(place(), theirs()) and place(coded=True)[1] == theirs(coded=True)[1]
        assert np.array_equal(ours.header.get_zooms(), source.header.get_zooms())
    packed = (tmp_path / "out" / "v" / "mask.nii.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # neither a name nor a time: the same run gives the same bytes
    wanted = (affine @ [*at, 1])[:3]
    patch = max(side * np.linalg.norm(affine[:3, i]) / 16 for i, side in enumerate(shape) if side > 9)
    assert np.abs(np.linalg.inv(affine[:3, :3]) @ (_peak(found) - wanted))[shape.index(9)] < 1e-3  # its very slice
    assert np.linalg.norm(_peak(found) - wanted) <= patch
    top = json.loads((tmp_path / "out" / "v" / "case.json").read_text())["regions"][0]
    assert np.linalg.norm(np.array(top["centre"]["mm"]) - wanted) <= patch and top["flagged"]
    index = [top["peak"]["px"][axis] for axis in "ijk"]
    assert np.allclose((affine @ [*index, 1])[:3], top["peak"]["mm"], atol=0.02)
    assert np.asarray(mask.dataobj)[tuple(at)] == 1 and np.asarray(mask.dataobj).max() == 1


def test_scaled_integers_are_read_as_what_they_stand_for(tmp_path):
    """Stored 0 … 4095 with slope ½ and intercept −1000: black and white are HU, not stored values."""
    values = np.zeros((40, 40, 3), np.int16)
    values[10:30, 10:30, 1] = 3600
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header.set_slope_inter(0.5, -1000)
    image.header.set_data_dtype(np.int16)
    header = image.header.copy()
    header.set_slope_inter(0.5, -1000)
    with (tmp_path / "s.nii").open("wb") as stream:
        header["magic"], header["vox_offset"] = b"n+1", 352
        stream.write(header.binaryblock + bytes(4) + values.tobytes(order="F"))
    assert np.asarray(nibabel.load(tmp_path / "s.nii").dataobj).max() == 800
    mapped(tmp_path / "s.nii", tmp_path / "out", **CT)
    found = np.asarray(nibabel.load(tmp_path / "out/s/map.nii").dataobj)
    assert found.max() == pytest.approx(0.9, abs=0.01) and found[0, 0, 1] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("shape", [(50, 40), (50, 40, 1), (50, 1, 40)])
def test_a_flat_nifti_keeps_its_axes(tmp_path, shape):
    values = np.zeros(shape, np.uint8)
    values.reshape(50, 40)[30:40, 5:12] = 255
    _save(tmp_path / "f.nii", values, np.diag([-1.0, 1.0, 1.0, 1]))
    mapped(tmp_path / "f.nii", tmp_path / "out")
    found = nibabel.load(tmp_path / "out/f/map.nii")
    assert found.shape == shape
    flat = np.asarray(found.dataobj).reshape(50, 40)
    assert flat[35, 8] == flat.max() and flat[35, 35] < 0.1 and flat[5, 8] < 0.1


def test_a_volume_of_four_axes_is_refused_by_name(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9, 2), np.int16), np.eye(4)), tmp_path / "phases.nii.gz")
    with pytest.raises(CovtokenError, match=r"phases\.nii\.gz has 4 axes, 9×9×9×2"):
        mapped(tmp_path / "phases.nii.gz", tmp_path / "out", **CT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_dicom_series_lands_in_the_patient(tmp_path, zipped):
    left_posterior = write_series(tmp_path / "ct")
    path = tmp_path / "ct"
    if zipped:
        import shutil

        path = tmp_path / "ct.zip"
        shutil.make_archive(str(tmp_path / "ct"), "zip", tmp_path, "ct")
    finished = mapped(path, tmp_path / "out", window=(-1000.0, 1000.0))
    (outcome,) = finished.outcomes
    assert outcome.status == "done", outcome.reason
    found = nibabel.load(tmp_path / "out" / outcome.item.name / "map.nii")
    assert found.shape == (64, 48, 9)
    wanted = left_posterior * [-1, -1, 1]
    assert np.linalg.norm(_peak(found) - wanted) < 4  # a patch is 64 × 0.7 / 16 = 2.8 mm wide, 2.4 mm high
    top = outcome.content["regions"][0]["centre"]
    assert np.linalg.norm(np.array(top["mm"]) - wanted) < 4 and top["px"]["slice"] == 6


def test_a_series_with_a_slice_missing_is_refused_by_name(tmp_path):
    write_series(tmp_path / "ct", skip=(4,))
    with pytest.raises(CovtokenError, match=r"slices lie 2\.5 mm apart, and 5 mm after .*slices are missing"):
        mapped(tmp_path / "ct", tmp_path / "out", window=(-1000.0, 1000.0))


def test_an_ultrasound_dicom_is_a_case_without_a_place(tmp_path):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[5:15, 40:55] = 250
    for number in (1, 2):  # of one series, as scanners store single pictures
        write_slice(tmp_path / f"u{number}.dcm", pixels, number, "1.2.3", Modality="US")
    finished = mapped(tmp_path, tmp_path / "out")
    assert [outcome.status for outcome in finished.outcomes] == ["done", "done"]
    found = nibabel.load(tmp_path / "out/u1/map.nii")
    assert found.shape == (60, 40, 1) and found.get_sform(coded=True)[1] == 0
    values = np.asarray(found.dataobj)
    assert values[48, 9, 0] > 0.97 and values[5, 30, 0] < 0.1
    peak = finished.outcomes[0].content["regions"][0]["peak"]
    assert peak["mm"] is None and peak["mm_reason"] == "spacing is unknown"


def test_bright_is_bright_in_an_inverted_dicom(tmp_path):
    pixels = np.full((40, 60), 255, np.uint8)
    pixels[5:15, 40:55] = 0
    write_slice(tmp_path / "u.dcm", pixels, 1, "1.2.3", Modality="US", PhotometricInterpretation="MONOCHROME1")
    mapped(tmp_path / "u.dcm", tmp_path / "out")
    values = np.asarray(nibabel.load(tmp_path / "out/u/map.nii").dataobj)
    assert values[48, 9, 0] == values.max() > 0.9


@pytest.mark.parametrize("name", ["flipped", "upside down", "oblique"])
def test_a_reader_of_its_own_agrees(tmp_path, name):
    """SimpleITK, which counts mm to the left and the back."""
    simpleitk = pytest.importorskip("SimpleITK")
    _save(tmp_path / "v.nii.gz", _volume(), AFFINES[name])
    mapped(tmp_path / "v.nii.gz", tmp_path / "out", **CT)
    theirs, ours, mask = (
        simpleitk.ReadImage(str(tmp_path / file)) for file in ("v.nii.gz", "out/v/map.nii", "out/v/mask.nii.gz")
    )
    assert ours.GetSize() == theirs.GetSize() == mask.GetSize()
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(ours, what)(), getattr(theirs, what)(), atol=1e-5)
        assert np.allclose(getattr(mask, what)(), getattr(theirs, what)(), atol=1e-5)
    planted = (AFFINES[name] @ [45, 13, 6, 1])[:3] * [-1, -1, 1]
    values = simpleitk.GetArrayFromImage(ours)  # slices, rows, columns
    peak = np.argwhere(values == values.max()).mean(0)[::-1]
    assert np.linalg.norm(ours.TransformContinuousIndexToPhysicalPoint(list(map(float, peak))) - planted) <= 4
    assert mask[mask.TransformPhysicalPointToIndex(list(map(float, planted)))] == 1


def test_the_array_and_the_image_give_one_map():
    """The public function, on the embedded weights where they are installed."""
    vit = covtoken.load_backbone("random:vit_tiny_patch16_224")
    direction = covtoken.shipped_direction("ultrasound")
    with pytest.raises(CovtokenError, match=r"backbone: expected 'random:vit_tiny_patch16_224'.*'embedded'"):
        covtoken.lesion_map(np.zeros((30, 30), np.uint8), vit, direction)
