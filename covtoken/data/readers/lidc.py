"""Read LIDC-IDRI as downloaded from TCIA: DICOM series of chest CT, and the readers' contours in XML.

Several series and X-ray studies may lie under one patient. A CT series is taken if an XML file names it, wherever that
file lies below the folder; contours meet slices by their SOP UID, never by name or position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from covtoken.data.case import Cohort, MaskRef
from covtoken.data.external import refuse_external_folder
from covtoken.data.pictures import reading
from covtoken.data.readers.lidc_contours import series_of
from covtoken.data.readers.stream import Volume, stream
from covtoken.data.regions import Cutting
from covtoken.errors import CovtokenError
from covtoken.leak_guard import register_mask_files

NAME = "lidc-idri"
TAGS = (
    *("SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "ImageType"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
)
SAME_MM = 1e-3  # positions that lie nearer are one place


@dataclass(frozen=True)
class DicomSlice:
    """A slice of a DICOM series: picklable, opens the file when called."""

    file: Path

    def __call__(self) -> np.ndarray:
        """Read the slice in HU, [H, W] float32: stored values by the file's own rescale slope and intercept.

        Raises:
            CovtokenError: the file is missing, damaged, or no CT slice.
        """
        with reading(self.file, "picture"):
            found = _pydicom().dcmread(self.file)
            stored = found.pixel_array.astype(np.float32)
            return stored * np.float32(found.RescaleSlope) + np.float32(found.RescaleIntercept)


@dataclass(frozen=True)
class _Header:
    file: Path
    uid: str
    series: str
    patient: str
    place: tuple[float, float, float]
    rows_to: tuple[float, ...]  # direction of a row, then of a column
    size: tuple[int, int]
    spacing_mm: tuple[float, float]

    @property
    def height_mm(self) -> float:
        """Place along the normal of the slice."""
        return float(np.dot(np.cross(self.rows_to[:3], self.rows_to[3:]), self.place))


def read(folder: str | Path, name: str = NAME, **cutting) -> Cohort:
    """List the slices of every annotated CT series; the patient is the unit. Headers alone are read.

    Args:
        folder: holds ``LIDC-IDRI-0001``, ….
        name: the cohort's.
        cutting: options of ``covtoken.data.regions.Cutting``.

    Raises:
        LabelLeak: something label-free is being built: which series were read by radiologists is in their files.
        CovtokenError: no DICOM file or no XML, a damaged file, or none of the series is annotated.
    """
    root = Path(folder).expanduser()
    refuse_external_folder(root, name)
    files = sorted(file for file in root.rglob("*.xml") if not file.name.startswith("._"))
    register_mask_files(files)
    left_out: list[tuple[str, str]] = []
    readings: dict[str, Path] = {}
    for file in files:
        series = series_of(file)
        if series is None:
            left_out.append((str(file), "readings of an X-ray picture"))
        elif series in readings:
            left_out.append((str(file), f"a second file of readings of the series of {readings[series]}"))
        else:
            readings[series] = file
    if not readings:
        raise CovtokenError(
            f"{root} holds no readings of a CT series (*.xml): fetch 'Radiologist Annotations/Segmentations (XML)' of "
            "LIDC-IDRI from TCIA and unpack it into that folder"
        )
    annotated: list[list[_Header]] = []
    headers = sorted(_headers(root, left_out), key=lambda header: (header.series, header.height_mm, header.uid))
    for series, of_series in groupby(headers, key=lambda header: header.series):
        slices = list(of_series)
        if series not in readings:
            left_out.append((str(slices[0].file.parent), "a CT series that no file of readings names"))
        elif fault := _fault(slices):
            left_out.append((str(slices[0].file.parent), fault))
        else:
            annotated.append(slices)
    if not annotated:
        raise CovtokenError(
            f"{root} holds {len(headers)} CT slices and none of a series that its readings name: fetch the pictures of "
            "LIDC-IDRI from TCIA again"
        )
    count = Counter(slices[0].patient for slices in annotated)
    volumes = [_volume(slices, readings[slices[0].series], count) for slices in annotated]
    return stream(name, volumes, "lung", Cutting(**cutting), left_out)


def _headers(root: Path, left_out: list[tuple[str, str]]) -> Iterator[_Header]:
    """Read the headers of all CT slices; note what else lies there, a line a folder."""
    others: dict[Path, str] = {}
    for file in sorted(root.rglob("*.dcm")):
        if file.name.startswith("._"):
            continue
        with reading(file, "picture"):
            found = _pydicom().dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
            if found.get("Modality") != "CT":
                others[file.parent] = f"pictures of modality {found.get('Modality')}, no CT"
            elif "LOCALIZER" in found.get("ImageType", ()) or "ImagePositionPatient" not in found:
                others[file.parent] = "overview pictures without a place in the body"
            else:
                yield _Header(
                    file,
                    str(found.SOPInstanceUID),
                    str(found.SeriesInstanceUID),
                    str(found.PatientID),
                    tuple(map(float, found.ImagePositionPatient)),
                    tuple(map(float, found.ImageOrientationPatient)),
                    (int(found.Rows), int(found.Columns)),
                    tuple(map(float, found.PixelSpacing)),
                )
    left_out += [(str(folder), why) for folder, why in sorted(others.items())]


def _fault(slices: list[_Header]) -> str:
    """Say why slices are no volume, or ""."""
    if len({header.uid for header in slices}) < len(slices):
        return "a slice lies there twice"
    if len({(header.size, header.spacing_mm, header.rows_to) for header in slices}) > 1:
        return "slices of several sizes, spacings or directions"
    if len(slices) > 1 and np.diff([header.height_mm for header in slices]).min() < SAME_MM:
        return "two slices at one place"
    return ""


def _volume(slices: list[_Header], readings: Path, count: Counter[str]) -> Volume:
    """Describe a series; it goes by its patient, and by the end of its UID where the patient has several."""
    heights = np.array([header.height_mm for header in slices])
    first = slices[0]
    return Volume(
        first.patient if count[first.patient] == 1 else f"{first.patient}_{first.series[-6:]}",
        first.patient,
        slices=tuple(DicomSlice(header.file) for header in slices),
        sources=tuple(str(header.file) for header in slices),
        size=first.size,
        spacing_mm=first.spacing_mm,
        slice_mm=float(np.median(np.diff(heights))) if len(heights) > 1 else None,
        mask=lambda index, **about: MaskRef("lidc", (readings,), key=slices[index].uid, **about),
    )


def _pydicom():
    try:
        import pydicom
    except ImportError as error:
        raise CovtokenError(
            "LIDC-IDRI is DICOM, which needs pydicom: run `pip install 'covtoken[dicom]'` (or `pip install pydicom`)"
        ) from error
    return pydicom
