"""Map and mask as DICOM: highdicom reads them back in the place of the source series, which they name."""

import hashlib
import json
import shutil

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from stub_dicom import write_series
from stub_scorer import mapped

from covtoken.maps import dicom_out

WINDOW = {"window": (-1000.0, 1000.0)}


def _study():
    return {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), "PatientName": "Doe^Jo"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("dicom")
    left_posterior = write_series(root / "ct", **_study())
    (outcome,) = mapped(root / "ct", root / "out", **WINDOW).outcomes
    return root, root / "out" / outcome.item.name, left_posterior


def _volume(file, dtype=np.float32):
    return highdicom.imread(file).get_volume(dtype=dtype)


def _series_volume(folder):
    return highdicom.get_volume_from_series([pydicom.dcmread(file) for file in folder.glob("*.dcm")])


def _check_place(case, source):
    """Map and mask lie on the series' grid, and hold what NIfTI holds."""
    theirs, found, mask = _series_volume(source), _volume(case / "map.dcm"), _volume(case / "mask.dcm", np.uint8)
    content = json.loads((case / "case.json").read_text())
    assert content["files"]["parametric_map"] == "map.dcm" and content["files"]["segmentation"] == "mask.dcm"
    for ours in (found, mask):
        assert ours.spatial_shape == theirs.spatial_shape
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
        assert ours.frame_of_reference_uid == theirs.frame_of_reference_uid
    nifti = {name: nibabel.load(case / file) for name, file in (("map", "map.nii"), ("mask", "mask.nii.gz"))}
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    for ours, image in ((found, nifti["map"]), (mask.squeeze_channel() if mask.channel_shape else mask, nifti["mask"])):
        # highdicom's axes are slice, row, column, and it may run the slices the other way.
        to_nifti = np.linalg.inv(lps @ image.affine) @ ours.affine
        values, ours_values = np.asarray(image.dataobj), ours.array
        for corner in ((0, 0, 0), tuple(side - 1 for side in ours_values.shape)):
            assert ours_values[corner] == values[tuple(np.rint(to_nifti @ [*corner, 1])[:3].astype(int))]
        peak = np.argwhere(ours_values == ours_values.max()).mean(0)
        theirs_peak = np.argwhere(values == values.max()).mean(0)
        np.testing.assert_allclose((to_nifti @ [*peak, 1])[:3], theirs_peak, atol=1e-3)
        assert ours_values.sum(dtype=float) == pytest.approx(values.sum(dtype=float), rel=1e-6)
    return found


def test_a_landmark_comes_back_through_dicom(done):
    root, case, wanted = done
    found = _check_place(case, root / "ct")
    peak = np.argwhere(found.array == found.array.max()).mean(0)
    assert np.linalg.norm((found.affine @ [*peak, 1])[:3] - wanted) < 4  # mm, left posterior superior


def test_both_name_their_source(done):
    root, case, _ = done
    source = [pydicom.dcmread(file) for file in (root / "ct").glob("*.dcm")]
    for name, kind in (("map.dcm", "Parametric Map Storage"), ("mask.dcm", "Segmentation Storage")):
        found = pydicom.dcmread(case / name)
        assert found.SOPClassUID.name == kind
        assert found.StudyInstanceUID == source[0].StudyInstanceUID and found.PatientName == "Doe^Jo"
        assert found.SeriesInstanceUID != source[0].SeriesInstanceUID
        (referenced,) = found.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == source[0].SeriesInstanceUID
        uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
        assert uids == {one.SOPInstanceUID for one in source}
    assert pydicom.dcmread(case / "map.dcm").ContentQualification == "RESEARCH"
    assert found.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Selected region"


def test_the_same_run_gives_the_same_bytes(done, tmp_path):
    root, case, _ = done
    mapped(root / "ct", tmp_path / "again", **WINDOW)
    for name in ("map.dcm", "mask.dcm"):
        first, again = (hashlib.sha256((at / name).read_bytes()).digest() for at in (case, tmp_path / "again/ct"))
        assert first == again


def test_a_large_map_is_stored_in_steps(done, tmp_path, monkeypatch):
    """Of 16 bit: half the memory; a reader gets scores all the same."""
    root, case, _ = done
    monkeypatch.setattr(dicom_out, "MOST_FLOATS", 100)
    mapped(root / "ct", tmp_path / "out", **WINDOW)
    file = tmp_path / "out/ct/map.dcm"
    assert file.stat().st_size < 0.6 * (case / "map.dcm").stat().st_size
    found, floats = _volume(file), _volume(case / "map.dcm")
    np.testing.assert_allclose(found.affine, floats.affine)
    np.testing.assert_allclose(found.array, floats.array, atol=np.ptp(floats.array) / 65_535)


def test_a_series_that_lacks_a_frame_of_reference_keeps_its_map(tmp_path, monkeypatch):
    write_series(tmp_path / "ct")
    (outcome,) = mapped(tmp_path / "ct", tmp_path / "out", **WINDOW).outcomes
    assert outcome.status == "done" and set(outcome.content["files"]) == {"map", "mask", "overlay"}
    assert "no DICOM was written, for the series lacks something" in outcome.content["notes"][-1]
    assert not list((tmp_path / "out").rglob("*.dcm"))
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(dicom_out.CovtokenError, match=r"covtoken\[dicom\]"):
        dicom_out.write_map_and_mask(tmp_path, [], np.zeros((1, 1, 1)), 0.0, 1.0, "")


def test_a_lidc_series_comes_back_in_its_place(covtoken_data, tmp_path):
    source = covtoken_data / "LIDC-IDRI" / "LIDC-IDRI-0314"
    if not source.is_dir():
        pytest.skip("LIDC-IDRI-0314 is not there")
    files = sorted(source.rglob("*.dcm"))
    (tmp_path / "ct").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "ct" / file.name)
    (outcome,) = mapped(tmp_path / "ct", tmp_path / "out", organ="lung").outcomes
    assert outcome.status == "done", outcome.reason
    found = _check_place(tmp_path / "out/ct", tmp_path / "ct")
    assert found.spatial_shape == (len(files), 512, 512)
