"""Read LIDC-IDRI as downloaded from TCIA: DICOM series of chest CT, and the readers' contours in XML.

Several series and X-ray studies may lie under one patient. A CT series is taken if an XML file names it, wherever that
file lies below the folder; contours meet slices by their SOP UID, never by name or position.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from covtoken.data.case import Cohort, MaskRef
from covtoken.data.external import refuse_external_folder
from covtoken.data.pictures import reading
from covtoken.data.readers.dicom_headers import Header, pydicom, read_headers
from covtoken.data.readers.lidc_contours import series_of
from covtoken.data.readers.stream import Volume, stream
from covtoken.data.regions import Cutting
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels, register_mask_files

NAME = "lidc-idri"
SAME_MM = 1e-3  # slices that lie nearer are at one place


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
            found = pydicom().dcmread(self.file)
            stored = found.pixel_array.astype(np.float32)
            return stored * np.float32(found.RescaleSlope) + np.float32(found.RescaleIntercept)


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
    left_out: list[tuple[str, str]] = []
    readings = _readings(root, left_out)
    pictures = sorted(file for file in root.rglob("*.dcm") if not file.name.startswith("._"))
    headers = read_headers(pictures, root)
    others = {file.parent: header.other for file, header in headers.items() if header.other}
    left_out += [(str(parent), why) for parent, why in sorted(others.items())]
    slices = [(header, file) for file, header in headers.items() if not header.other]
    slices.sort(key=lambda each: (each[0].patient, each[0].series, each[0].height_mm, each[0].uid))
    annotated: list[list[tuple[Header, Path]]] = []
    for series, group in groupby(slices, key=lambda each: each[0].series):
        of_series = list(group)
        fault = "a CT series that no file of readings names" if series not in readings else _fault(of_series)
        if fault:
            left_out.append((str(of_series[0][1].parent), fault))
        else:
            annotated.append(of_series)
    if not annotated:
        raise CovtokenError(
            f"{root} holds {len(slices)} CT slices, and no whole series that its {len(readings)} files of readings "
            "name: fetch the pictures of LIDC-IDRI from TCIA again"
        )
    count = Counter(of_series[0][0].patient for of_series in annotated)
    volumes = [_volume(of_series, readings[of_series[0][0].series], count) for of_series in annotated]
    return stream(name, volumes, "lung", Cutting(**cutting), left_out)


def _readings(root: Path, left_out: list[tuple[str, str]]) -> dict[str, Path]:
    """Find the file of readings of each CT series, by their heads alone; all are registered as masks."""
    refuse_labels(f"the readings in {root}")
    files = sorted(file for file in root.rglob("*.xml") if not file.name.startswith("._"))
    register_mask_files(files)
    readings: dict[str, Path] = {}
    for file in files:
        series = series_of(file)
        if series is None:
            left_out.append((str(file), "readings of an X-ray picture"))
        elif series in readings:
            left_out.append((str(file), f"its series has readings in {readings[series]} already"))
        else:
            readings[series] = file
    if not readings:
        raise CovtokenError(
            f"{root} holds no readings of a CT series (*.xml): fetch 'Radiologist Annotations/Segmentations (XML)' of "
            "LIDC-IDRI from TCIA and unpack it into that folder"
        )
    return readings


def _fault(slices: list[tuple[Header, Path]]) -> str:
    """Say why slices are no volume, or ""."""
    headers = [header for header, _ in slices]
    if len({header.uid for header in headers}) < len(headers):
        return "a slice lies there twice"
    if len({(header.size, header.spacing_mm, header.directions) for header in headers}) > 1:
        return "slices of several sizes, spacings or directions"
    if np.diff([header.height_mm for header in headers]).min(initial=np.inf) < SAME_MM:
        return "two slices at one place"
    return ""


def _volume(slices: list[tuple[Header, Path]], readings: Path, count: Counter[str]) -> Volume:
    """Describe a series; it goes by its patient, and by the end of its UID too where the patient has several."""
    headers, files = zip(*slices)
    patient, series = headers[0].patient, headers[0].series
    gaps = np.diff([header.height_mm for header in headers])
    return Volume(
        patient if count[patient] == 1 else f"{patient}_{series[-6:]}",
        patient,
        slices=tuple(map(DicomSlice, files)),
        sources=tuple(map(str, files)),
        size=headers[0].size,
        spacing_mm=headers[0].spacing_mm,
        slice_mm=float(np.median(gaps)) if len(gaps) else None,
        mask=lambda index, **about: MaskRef("lidc", (readings,), key=headers[index].uid, **about),
    )
