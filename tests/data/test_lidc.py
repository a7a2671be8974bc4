"""LIDC-IDRI: a real patient with four readers, and small trees with the traps of the full set."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")  # an extra of the package
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian  # noqa: E402

from covtoken.data.cohorts import open_cohort  # noqa: E402
from covtoken.data.masks import check_masks, read_lesion_ids, read_mask  # noqa: E402
from covtoken.data.readers import dicom_headers, lidc, lidc_contours  # noqa: E402
from covtoken.errors import CovtokenError  # noqa: E402
from covtoken.leak_guard import LabelLeak, construction  # noqa: E402

SIDE, N = 32, 6
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://www.nih.gov">'


def square(left: int, top: int, side: int = 6) -> list[tuple[int, int]]:
    """The outline of a square, (x, y) by pixel; side - 1 pixels lie strictly inside, each way."""
    right, bottom = left + side, top + side
    along = range(side)
    return (
        [(left + i, top) for i in along]
        + [(right, top + i) for i in along]
        + [(right - i, bottom) for i in along]
        + [(left, bottom - i) for i in along]
    )


def nodule(*rois) -> str:
    """A nodule of (slice UID, points) or (slice UID, points, inclusion)."""
    text = "<unblindedReadNodule><noduleID>n</noduleID>"
    for uid, points, *included in rois:
        edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
        inclusion = included[0] if included else "TRUE"
        text += f"<roi><imageSOP_UID>{uid}</imageSOP_UID><inclusion>{inclusion}</inclusion>{edges}</roi>"
    return text + "</unblindedReadNodule>"


def readings(file, series: str, *sessions: str, root: str = "LidcReadMessage"):
    """A file of readings; each session is the nodules of a radiologist."""
    read = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    header = f"<ResponseHeader><SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{HEAD.format(root=root)}{header}{read}</{root}>")
    return file


def dicom(file, uid: str, series: str, z: float, value: int = 0, patient: str = "LIDC-IDRI-0001", **tags):
    """A CT slice of stored values 1000 + column, or of one value; slope 2, intercept -3000."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, uid, series
    data.PatientID, data.Modality, data.ImageType = patient, "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.Rows, data.Columns = [0.5, 0.75], SIDE, SIDE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = 2, -3000
    stored = (
        np.full((SIDE, SIDE), value, np.int16) if value else 1000 + np.tile(np.arange(SIDE, dtype=np.int16), (SIDE, 1))
    )
    data.PixelData = stored.tobytes()
    for name, given in tags.items():
        delattr(data, name) if given is None else setattr(data, name, given)
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file)


def series(folder, series_uid: str = "1.2", step: float = 1.5, n: int = N, **tags) -> list[str]:
    """A series whose file names run against the positions; give the slices' UIDs from the feet up."""
    uids = [f"{series_uid}.{index}" for index in range(n)]
    for index, uid in enumerate(uids):
        dicom(folder / f"1-{n - index:03}.dcm", uid, series_uid, -100 + step * index, **tags)
    return uids


@pytest.fixture
def patient(tmp_path):
    """A patient with a series and readings of four radiologists: three agree on a nodule in two slices."""
    uids = series(tmp_path / "LIDC-IDRI-0001" / "study" / "ct")
    drawn = nodule((uids[2], square(4, 10)), (uids[3], square(4, 10)))
    readings(tmp_path / "LIDC-IDRI-0001" / "study" / "ct" / "069.xml", "1.2", drawn, drawn, drawn, "")
    return tmp_path


def of_sessions(tmp_path, *sessions: str) -> np.ndarray:
    """The consensus of sessions in the slice ``"s"``, as lesion numbers [H, W]."""
    file = readings(tmp_path / "a.xml", "1.2", *sessions)
    lidc_contours._consensus.cache_clear()
    return lidc_contours._drawn(
        lidc_contours.consensus(file), lidc_contours.MaskRef("lidc", (file,), "s", size=(40, 40))
    )


def test_slices_are_hounsfield_units_in_order_of_position(patient):
    cohort = lidc.read(patient)
    assert cohort.units == ("LIDC-IDRI-0001",) and len(cohort.cases) == N and cohort.left_out == ()
    for index, case in enumerate(cohort.cases):
        assert (case.slice_index, case.spacing_mm, case.slice_mm, case.organ) == (index, (0.5, 0.75), 1.5, "lung")
        assert case.source.endswith(f"1-{N - index:03}.dcm"), "by position, not by file name"
        assert np.array_equal(case.pixels()[7], 2 * (1000.0 + np.arange(SIDE)) - 3000)
        assert np.array_equal(pickle.loads(pickle.dumps(case.load))(), case.pixels())
    check_masks(cohort)


def test_contours_meet_slices_by_uid_with_x_as_the_column(patient):
    cohort = lidc.read(patient)
    masks = [read_mask(cohort.masks[case.name]) for case in cohort.cases]
    assert [mask.any() for mask in masks] == [False, False, True, True, False, False]
    rows, columns = np.nonzero(masks[2])
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (5, 9, 11, 15), "strictly inside the outline"
    assert masks[2].sum() == 25


@pytest.mark.parametrize(
    ("readers", "of", "is_lesion"),
    [(1, 1, True), (1, 2, True), (1, 3, False), (2, 3, True), (1, 4, False), (2, 4, True)],
)
def test_at_least_half_of_the_sessions_agree(tmp_path, readers, of, is_lesion):
    sessions = [nodule(("s", square(4, 10)))] * readers + [""] * (of - readers)
    assert (of_sessions(tmp_path, *sessions).sum() == 25) == is_lesion


def test_pixels_are_counted_not_nodules(tmp_path):
    """Two readers draw one nodule two columns apart: of two sessions either pixel counts, of four the overlap alone."""
    two = [nodule(("s", square(4, 10))), nodule(("s", square(6, 10)))]
    assert (of_sessions(tmp_path, *two) > 0).sum() == 7 * 5
    overlap = of_sessions(tmp_path, *two, "", "")
    assert (overlap > 0).sum() == 3 * 5 and overlap.max() == 1


def test_a_reader_counts_once_however_many_nodules_he_drew(tmp_path):
    twice = nodule(("s", square(4, 10))) + nodule(("s", square(5, 10)))
    assert not of_sessions(tmp_path, twice, "", "").any()


def test_a_hole_is_no_lesion(tmp_path):
    drawn = nodule(("s", square(4, 4, 12)), ("s", square(8, 8, 4), "FALSE"))
    found = of_sessions(tmp_path, drawn)
    assert found.sum() == 11 * 11 - 3 * 3 and found[10, 10] == 0 and found[8, 8] == 1


def test_small_nodules_and_non_nodules_are_no_lesions(tmp_path):
    small = nodule(("s", [(20, 20)]))
    other = "<nonNodule><imageSOP_UID>s</imageSOP_UID><locus><xCoord>9</xCoord><yCoord>9</yCoord></locus></nonNodule>"
    assert not of_sessions(tmp_path, small + other).any()


def test_an_outline_too_small_to_hold_a_pixel_is_the_nodule(tmp_path):
    tiny = [(10, 20), (11, 20), (11, 21), (10, 21)]
    found = of_sessions(tmp_path, nodule(("s", tiny)))
    assert np.array_equal(np.argwhere(found), [[20, 10], [20, 11], [21, 10], [21, 11]])
    beside = nodule(("s", tiny), ("t", square(4, 10)))  # its end, above a slice with pixels inside
    assert not of_sessions(tmp_path, beside).any()


def test_nodules_are_told_apart_by_overlap_through_any_slice(tmp_path):
    """Nodules that touch in one slice only through others are one; those that never meet are two."""
    a = nodule(("s", square(2, 2)), ("t", square(2, 2)))
    b = nodule(("s", square(20, 20)), ("t", square(4, 4)))
    c = nodule(("s", square(20, 2)))
    found = of_sessions(tmp_path, a + c, b + c)
    assert found[5, 5] == found[23, 23] != 0 and found[5, 23] not in (0, found[5, 5])
    assert set(np.unique(found)) == {0, 1, 2}


def test_a_patient_with_several_series_and_x_rays(patient):
    """An X-ray study with readings of its own, a second CT with readings, a third without, and an overview."""
    root = patient / "LIDC-IDRI-0001"
    dicom(root / "xray" / "1-001.dcm", "9.1", "9", 0, Modality="DX", ImagePositionPatient=None)
    readings(root / "xray" / "070.xml", "9", "", root="IdriReadMessage")
    uids = series(root / "second", "1.777777", n=3)
    readings(patient / "tcia-lidc-xml" / "157" / "071.xml", "1.777777", nodule((uids[1], square(8, 8))))
    series(root / "third", "1.4", n=2)
    dicom(root / "study" / "ct" / "1-900.dcm", "1.2.900", "1.2", 0, ImageType=["DERIVED", "SECONDARY", "LOCALIZER"])
    (root / "study" / "ct" / "._1-001.dcm").write_bytes(b"\0\5\26\7")
    (root / "study" / "ct" / "._069.xml").write_bytes(b"\0\5\26\7")
    cohort = lidc.read(patient)
    assert cohort.units == ("LIDC-IDRI-0001",)
    volumes = sorted({case.volume for case in cohort.cases})
    assert volumes == ["LIDC-IDRI-0001_1.2", "LIDC-IDRI-0001_777777"] and len(cohort.cases) == N + 3
    second = [case for case in cohort.cases if case.volume == volumes[1]]
    assert [read_mask(cohort.masks[case.name]).any() for case in second] == [False, True, False]
    reasons = {why for _, why in cohort.left_out}
    assert reasons == {
        "pictures of modality DX, no CT",
        "readings of an X-ray picture",
        "a CT series that no file of readings names",
        "overview pictures without a place in the body",
    }


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"z": -100.0}, "two slices at one place"),
        ({"z": 50.0, "Columns": 16, "Rows": 64}, "slices of several sizes, spacings or directions"),
        ({"z": 50.0, "uid": "1.2.0"}, "a slice lies there twice"),
    ],
)
def test_series_that_are_no_volume_are_left_out(patient, tags, why):
    series(patient / "LIDC-IDRI-0002", "1.5", patient="LIDC-IDRI-0002")
    readings(patient / "LIDC-IDRI-0002" / "a.xml", "1.5", "")
    dicom(patient / "LIDC-IDRI-0001" / "more.dcm", tags.pop("uid", "1.2.99"), "1.2", tags.pop("z"), **tags)
    cohort = lidc.read(patient)
    assert cohort.units == ("LIDC-IDRI-0002",) and [reason for _, reason in cohort.left_out] == [why]


def test_what_cannot_be_read_is_named(patient, tmp_path):
    xml = patient / "LIDC-IDRI-0001" / "study" / "ct" / "069.xml"
    whole = xml.read_text()
    name = lidc.read(patient).cases[2].name
    for text, words in (
        (whole[:-60], "is damaged"),
        (whole.replace("<xCoord>4", "<xCoord>four"), "is damaged"),
        (whole.replace("readingSession", "session"), "no reading session"),
        (whole.replace("<xCoord>10", "<xCoord>4000"), r"reaches pixel .* another series"),
    ):
        xml.write_text(text)
        lidc_contours._consensus.cache_clear()
        with pytest.raises(CovtokenError, match=rf"069\.xml.*{words}"):
            read_mask(lidc.read(patient).masks[name])
    for text, words in (
        (whole.replace("http://www.nih.gov", "http://example.org"), "begins with {http://example.org}LidcReadMessage"),
        (whole.replace("SeriesInstanceUid", "Series"), "names no SeriesInstanceUid"),
        ("", "0 bytes|damaged"),
    ):
        xml.write_text(text)
        with pytest.raises(CovtokenError, match=rf"069\.xml.*({words})"):
            lidc.read(patient)
    xml.unlink()
    with pytest.raises(CovtokenError, match=r"holds no readings of a CT series.*TCIA"):
        lidc.read(patient)
    xml.write_text(whole.replace("<SeriesInstanceUid>1.2<", "<SeriesInstanceUid>8.8<"))
    with pytest.raises(CovtokenError, match="6 CT slices, and no whole series that its 1 files of readings name"):
        lidc.read(patient)


def test_readings_stay_shut_in_construction(patient):
    with construction("a bank"), pytest.raises(LabelLeak, match="readings"):
        lidc.read(patient)
    cohort = lidc.read(patient)
    name = cohort.cases[2].name
    read_mask(cohort.masks[name])  # so that the contours are in memory
    file = patient / "LIDC-IDRI-0001" / "study" / "ct" / "069.xml"
    with construction("a bank"):
        cohort.cases[2].pixels()
        for read in (lambda: read_mask(cohort.masks[name]), lambda: lidc_contours.consensus(file), file.read_bytes):
            with pytest.raises(LabelLeak):
                read()


def test_headers_of_large_trees_are_kept(patient, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(dicom_headers, "WORTH_KEEPING", N)
    read, opened = dicom_headers._read, []
    monkeypatch.setattr(dicom_headers, "_read", lambda file: opened.append(file) or read(file))
    first = lidc.read(patient)
    assert len(opened) == N
    assert lidc.read(patient) == first and len(opened) == N
    folder = patient / "LIDC-IDRI-0001" / "study" / "ct"
    dicom(folder / "1-001.dcm", "1.2.5", "1.2", 500.0, SeriesDescription="a header that grew")
    assert len(lidc.read(patient).cases) == N and len(opened) == N + 1, "a changed file is read again, and it alone"


def test_the_real_patient(covtoken_data):
    """Four readers, one nodule of 3 mm or more, a non-nodule and a single point."""
    if not (covtoken_data / "LIDC-IDRI" / "LIDC-IDRI-0314").is_dir():
        pytest.skip("no LIDC-IDRI-0314 under COVTOKEN_DATA")
    cohort = open_cohort("lidc-idri")
    cases = cohort.subset(["LIDC-IDRI-0314"])
    assert len(cases) == 59 and cases[0].slice_mm == pytest.approx(1.0)
    masks = [read_mask(cohort.masks[case.name]) for case in cases]
    inside = np.concatenate([case.pixels()[mask] for case, mask in zip(cases, masks)])
    assert 20 < np.median(inside) < 80 and np.mean(inside > -300) > 0.85, "soft tissue, without the lung round it"
    moved = np.concatenate([case.pixels()[mask.T] for case, mask in zip(cases, masks)])
    assert np.median(moved) < 0, "x is the column"
    found = [index for index, mask in enumerate(masks) if mask.any()]
    assert found == list(range(found[0], found[-1] + 1)), "by UID, neighbouring slices hold the nodule"
    voxels, numbers = read_lesion_ids(cohort.masks[cases[0].name])
    assert list(voxels) == [1] and voxels[1] == sum(mask.sum() for mask in masks)
    assert np.array_equal(numbers(cohort.masks[cases[found[0]].name]) > 0, masks[found[0]])
