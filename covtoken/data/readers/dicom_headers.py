"""Read the headers of DICOM files, and keep those of large trees: a hundred thousand files take minutes to open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from covtoken.data.pictures import reading
from covtoken.errors import CovtokenError
from covtoken.keys import hash_of
from covtoken.paths import cache_root, write_then_rename

TAGS = (
    *("SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "ImageType"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
)
WORTH_KEEPING = 1000  # files; fewer are read anew within seconds


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of its picture.

    Attributes:
        other: why the file is no CT slice, or ""; what follows is then empty.
        uid, series: of the slice (SOP) and of its series.
        place: of the first pixel in mm.
        directions: of a row, then of a column.
        size: (H, W).
        spacing_mm: (row, column).
    """

    other: str = ""
    uid: str = ""
    series: str = ""
    patient: str = ""
    place: tuple[float, ...] = ()
    directions: tuple[float, ...] = ()
    size: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()

    @property
    def height_mm(self) -> float:
        """Place along the normal of the slice, which points to the head where rows run to the left and back."""
        return float(np.dot(np.cross(self.directions[:3], self.directions[3:]), self.place))


def read_headers(files: Iterable[Path], root: Path) -> dict[Path, Header]:
    """Read the headers of files below a folder; those of a large tree are read again only where a file changed.

    Raises:
        CovtokenError: a file is missing or no DICOM, or pydicom is not installed.
    """
    files = list(files)
    if len(files) < WORTH_KEEPING:
        return {file: _read(file) for file in files}
    kept = cache_root() / "dicom" / f"{hash_of(str(root.resolve()), 'dicom-headers')}.json"
    known: dict = {}
    with suppress(OSError, ValueError):  # none yet, or a damaged one: read anew
        known = json.loads(kept.read_text())
    found, entries = {}, {}
    for file in files:
        with reading(file, "picture"):
            status = file.stat()
        name, state = file.relative_to(root).as_posix(), [status.st_size, status.st_mtime_ns]
        entry = known.get(name)
        header = _restored(entry[1]) if entry and entry[0] == state else _read(file)
        found[file], entries[name] = header, [state, asdict(header)]
    if entries != known:
        with write_then_rename(kept) as temporary:
            temporary.write_text(json.dumps(entries))
    return found


def _restored(entry: dict) -> Header:
    return Header(**{name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()})


def _read(file: Path) -> Header:
    with reading(file, "picture"):
        found = pydicom().dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
        if found.get("Modality") != "CT":
            return Header(f"pictures of modality {found.get('Modality')}, no CT")
        if "LOCALIZER" in found.get("ImageType", ()) or "ImagePositionPatient" not in found:
            return Header("overview pictures without a place in the body")
        return Header(
            uid=str(found.SOPInstanceUID),
            series=str(found.SeriesInstanceUID),
            patient=str(found.PatientID),
            place=tuple(map(float, found.ImagePositionPatient)),
            directions=tuple(map(float, found.ImageOrientationPatient)),
            size=(int(found.Rows), int(found.Columns)),
            spacing_mm=tuple(map(float, found.PixelSpacing)),
        )


def pydicom():
    """Import pydicom, which is an extra. Raises CovtokenError where it is not installed."""
    try:
        import pydicom
    except ImportError as error:
        raise CovtokenError(
            "LIDC-IDRI is DICOM, which needs pydicom: run `pip install 'covtoken[dicom]'` (or `pip install pydicom`)"
        ) from error
    return pydicom
