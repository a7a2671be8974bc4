"""Read DICOM: group files into series, unpack a zip of them, give pixels and the place in the body.

pydicom is an extra. Slices that have a place in the body and share a series are one volume; other files, such as
ultrasound pictures, are a case each.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from covtoken.data.pictures import MOST_PIXELS, reading
from covtoken.errors import CovtokenError

TAGS = (
    *("Modality", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "ImagePositionPatient"),
    *("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "ImageType"),
    *("SequenceOfUltrasoundRegions", "ImagerPixelSpacing", "BitsStored", "SamplesPerPixel"),
)
UNEVEN = 0.1  # share of the distance between slices by which distances may differ
MOST_BYTES, MOST_FILES, MOST_RATIO = 8 * 2**30, 20_000, 200  # of a zip: unpacked bytes, files, unpacked over packed


@dataclass(frozen=True)
class Series:
    """Files that make one case, from the feet up, or why they make none."""

    name: str
    where: str
    files: tuple[Path, ...]
    patient: str
    modality: str
    fault: str = ""


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself.

    Attributes:
        place: ImagePositionPatient in mm, or None where the picture has no place in the body.
        directions: ImageOrientationPatient.
        spacing_mm: (row, column), or None.
        frames: pictures in the file.
        bits: of stored values.
    """

    file: Path
    modality: str
    series: str
    patient: str
    place: tuple[float, ...] | None
    directions: tuple[float, ...] | None
    spacing_mm: tuple[float, float] | None
    size: tuple[int, int]
    frames: int
    bits: int

    @property
    def height_mm(self) -> float:
        """Place along the normal of the slice."""
        return float(np.dot(np.cross(self.directions[:3], self.directions[3:]), self.place))


def is_dicom(file: Path) -> bool:
    """Tell by a file's first bytes whether it is DICOM."""
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def group(files: Sequence[Path], root: Path) -> list[Series]:
    """Group files into series by their headers; a file that cannot be read is a case with a fault."""
    singles, series = [], {}
    if files:
        pydicom()
    for file in files:
        where = file.relative_to(root).as_posix()
        try:
            header = read_header(file)
        except CovtokenError as error:
            singles.append(Series(file.stem, where, (file,), "", "", str(error)))
            continue
        if header.place is None or header.directions is None:
            fault = "" if header.frames == 1 else _frames(header)
            singles.append(Series(file.stem, where, (file,), header.patient, header.modality, fault))
        else:
            series.setdefault((file.parent, header.series), []).append(header)
    several = len({parent for parent, _ in series}) < len(series)
    for (parent, uid), headers in series.items():
        headers.sort(key=lambda header: (header.height_mm, header.file.name))
        first = headers[0]
        lone = len(headers) == 1
        name = first.file.stem if lone else _folder_name(parent, root)
        name += f"_{uid[-8:]}" if several and not lone else ""
        where = (first.file if lone else parent).relative_to(root).as_posix()
        where = root.resolve().name if where == "." else where
        files_in_order = tuple(header.file for header in headers)
        singles.append(Series(name, where, files_in_order, first.patient, first.modality, _fault(headers)))
    return singles


def read_header(file: Path) -> Header:
    """Read a file's header. Raises CovtokenError where it is missing, damaged or no picture."""
    with reading(file, "picture"):
        found = pydicom().dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
        if "Rows" not in found or "Columns" not in found:
            raise CovtokenError(f"picture {file} is DICOM without a picture in it: leave it out")

        def numbers(tag: str) -> tuple[float, ...] | None:
            value = found.get(tag)
            return tuple(map(float, value)) if value is not None and len(value) else None

        return Header(
            file=file,
            modality=str(found.get("Modality", "")),
            series=str(found.get("SeriesInstanceUID", "")),
            patient=str(found.get("PatientID", "") or ""),
            place=numbers("ImagePositionPatient"),
            directions=numbers("ImageOrientationPatient"),
            spacing_mm=numbers("PixelSpacing") or numbers("ImagerPixelSpacing") or _of_regions(found),
            size=(int(found.Rows), int(found.Columns)),
            frames=int(found.get("NumberOfFrames", 1) or 1),
            bits=int(found.get("BitsStored", 8) or 8),
        )


def read_pixels(file: Path) -> np.ndarray:
    """Read a file's picture as [H, W] float32: rescaled (HU for CT), black is low, colours as luminance."""
    with reading(file, "picture"):
        found = pydicom().dcmread(file)
        if int(found.Rows) * int(found.Columns) > MOST_PIXELS:
            raise CovtokenError(f"picture {file} is {found.Rows}×{found.Columns} pixels: {MOST_PIXELS} are the most")
        try:
            stored = found.pixel_array
        except (NotImplementedError, RuntimeError, AttributeError) as error:
            line = " ".join(str(error).split())[:200]
            raise CovtokenError(
                f"picture {file} cannot be decoded ({line}): save it uncompressed (`gdcmconv --raw in.dcm out.dcm`)"
            ) from error
        kind = str(found.get("PhotometricInterpretation", ""))
        if stored.ndim == 3 and int(found.get("SamplesPerPixel", 1)) == 3:
            if kind.startswith("YBR"):
                return stored[..., 0].astype(np.float32)
            return (stored[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)
        if stored.ndim != 2:
            raise CovtokenError(f"picture {file}: expected one slice [H, W], got shape {stored.shape}")
        values = stored.astype(np.float32)
        if kind == "MONOCHROME1":
            values = (2 ** int(found.BitsStored) - 1) - values
        return values * np.float32(found.get("RescaleSlope", 1) or 1) + np.float32(
            found.get("RescaleIntercept", 0) or 0
        )


def affine_of(first: Header, step_mm: float) -> np.ndarray:
    """Give the affine (column, row, slice) → mm, right-anterior-superior as NIfTI has it, [4, 4]."""
    along, down = np.array(first.directions[:3]), np.array(first.directions[3:])
    affine = np.eye(4)
    affine[:3, 0] = along * first.spacing_mm[1]
    affine[:3, 1] = down * first.spacing_mm[0]
    affine[:3, 2] = np.cross(along, down) * step_mm
    affine[:3, 3] = first.place
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def step_of(headers: Sequence[Header]) -> float:
    """Give the distance between slices in mm; 1 where there is a single one."""
    heights = [header.height_mm for header in headers]
    return float(np.median(np.diff(heights))) if len(heights) > 1 else 1.0


@contextmanager
def unpacked(file: Path) -> Iterator[Path]:
    """Unpack a zip into a temporary folder for as long as the block lasts.

    Raises:
        CovtokenError: no zip, encrypted, a name that leads out, a link, or more than ``MOST_…``.
    """
    if not zipfile.is_zipfile(file):
        raise CovtokenError(f"{file} is no zip archive, or is cut short: fetch it again, or give its folder")
    with reading(file, "archive"), zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        total, packed = (sum(getattr(member, size) for member in members) for size in ("file_size", "compress_size"))
        if len(members) > MOST_FILES or total > MOST_BYTES or total > MOST_RATIO * max(packed, 1) + 2**20:
            raise CovtokenError(
                f"{file} would unpack to {len(members)} files of {total} bytes from {packed}: at most {MOST_FILES} "
                f"files, {MOST_BYTES} bytes and {MOST_RATIO} times its size; unpack it yourself if you trust it"
            )
        for member in members:
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            out = PurePosixPath(member.filename).is_absolute() or PureWindowsPath(member.filename).drive
            if ".." in parts or out or stat.S_ISLNK(member.external_attr >> 16):
                named = member.filename[:80]
                raise CovtokenError(f"{file}: its member {named!r} leads out of the archive: make it anew")
            if member.flag_bits & 1:
                raise CovtokenError(f"{file} is encrypted: unpack it yourself and give the folder")
        with tempfile.TemporaryDirectory(prefix="covtoken-") as folder:
            root = Path(folder) / file.stem
            for member in members:
                if PurePosixPath(member.filename).name.startswith("."):
                    continue
                target = root / PurePosixPath(member.filename.replace("\\", "/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
            if not root.is_dir():
                raise CovtokenError(f"{file} holds no file: expected the slices of a DICOM series")
            yield root


def pydicom():
    """Import pydicom, which is an extra. Raises CovtokenError where it is not installed."""
    try:
        import pydicom
    except ImportError as error:
        raise CovtokenError("DICOM needs pydicom: run `pip install 'covtoken[dicom]'`") from error
    return pydicom


def _folder_name(folder: Path, root: Path) -> str:
    """Give the name of the nearest folder that is no UID, as archives call theirs.

    >>> _folder_name(Path("in/LIDC-7/1.3.6.1/1.3.6.2"), Path("in"))
    'LIDC-7'
    """
    inside = [root.resolve().name, *folder.relative_to(root).parts]
    return next((name for name in reversed(inside) if name.strip("0123456789.")), inside[-1])


def _fault(headers: list[Header]) -> str:
    """Say why slices of a series are no volume, or ""."""
    first = headers[0]
    if any(header.frames > 1 for header in headers):
        return _frames(first)
    if first.spacing_mm is None:
        return f"{first.file}: has a place in the body and no PixelSpacing; mend the header"
    if len({(header.size, header.spacing_mm, header.directions) for header in headers}) > 1:
        return f"{first.file.parent}: slices of one series have several sizes, spacings or directions; split them"
    gaps = np.diff([header.height_mm for header in headers])
    if len(gaps) and gaps.min() < 1e-3:
        return f"{first.file.parent}: two slices of one series lie at one place; keep one of them"
    if len(gaps) and gaps.max() > (1 + UNEVEN) * np.median(gaps):
        at = headers[int(gaps.argmax())].file.name
        return (
            f"{first.file.parent}: slices lie {np.median(gaps):.3g} mm apart, and {gaps.max():.3g} mm after {at}: "
            "slices are missing; fetch them"
        )
    return ""


def _frames(header: Header) -> str:
    return f"{header.file} holds {header.frames} frames, and one picture is expected: export the frame that is meant"


def _of_regions(found) -> tuple[float, float] | None:
    """Read the pixel spacing of an ultrasound picture that has one calibrated region in cm."""
    regions = found.get("SequenceOfUltrasoundRegions") or []
    if len(regions) != 1 or regions[0].get("PhysicalUnitsXDirection") != 3:
        return None
    return abs(float(regions[0].PhysicalDeltaY)) * 10, abs(float(regions[0].PhysicalDeltaX)) * 10
