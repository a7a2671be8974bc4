"""List what a path holds: pictures, arrays, NIfTI files and DICOM series, each of which becomes a case.

A folder with ``index.csv`` gives the pictures listed in the column ``image``; the columns patient, spacing, modality
and organ_name are read where they are there, and no other. Without one, every file below the folder is taken whose name
says what it is, but not files that look like another picture's mask. Masks are registered with the leak guard and never
opened.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from covtoken.data.external import refuse_external_files
from covtoken.errors import CovtokenError
from covtoken.leak_guard import register_mask_files
from covtoken.maps.inputs import dicom

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
KNOWN = "PNG, JPEG, TIFF, BMP, .npy, .nii, .nii.gz, DICOM, a folder of these or a .zip of a DICOM series"
_MASK = re.compile(
    r"(.+?)[ _.-]*(mask|seg|segmentation|label|labels|gt|annotation|tumou?r)([ _-]?\d+)?$", re.IGNORECASE
)
_MASK_FOLDERS = ("mask", "masks", "labels", "labelstr", "segmentations", "annotations", "votes", "organ")
_COLUMNS = ("image", "patient", "spacing", "modality", "organ_name")
_LONGEST = 100  # letters of a case's name


@dataclass(frozen=True)
class Input:
    """A case to be mapped, not opened yet.

    Attributes:
        name: of the case and of its folder in the output; unique.
        kind: ``picture``, ``npy``, ``nifti`` or ``dicom``.
        files: one, or the slices of a DICOM series from the feet up.
        where: the path relative to what was asked for, for records.
        patient: "" where unknown.
        spacing_mm: (row, column) as a list gives it; None: as the file says.
        modality, organ: as a list gives them, or a DICOM file; "" where unknown.
        fault: why it cannot be mapped, or "".
    """

    name: str
    kind: str
    files: tuple[Path, ...]
    where: str
    patient: str = ""
    spacing_mm: tuple[float, float] | None = None
    modality: str = ""
    organ: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Listing:
    """Inputs sorted by name, and (file, reason) of what was left out."""

    inputs: tuple[Input, ...]
    left_out: tuple[tuple[str, str], ...] = field(default=())


def list_inputs(path: Path, besides: Path | None = None, named: Path | None = None) -> Listing:
    """List the inputs of a file or folder.

    Args:
        path: a file or a folder.
        besides: a folder below it that is not read (the output).
        named: what it goes by in an error, where it was unpacked to another place.

    Raises:
        CovtokenError: nothing is there, the format is unknown, the list is wrong, or the data are external.
    """
    try:
        there = path.exists()
        is_folder = path.is_dir()
    except OSError as error:
        raise CovtokenError(f"{str(path)[:200]} cannot be looked up ({error.strerror}); check the path") from None
    if not there:
        raise CovtokenError(f"{path} does not exist: give {KNOWN}")
    left_out: list[tuple[str, str]] = []
    if not is_folder:
        refuse_external_files([path])
        inputs = _of_files([path], path.parent, left_out)
        if not inputs:
            raise CovtokenError(f"{path} is of no known format: expected {KNOWN}; convert it")
    elif (path / "index.csv").is_file():
        inputs = _of_index(path)
    else:
        files = _below(path, besides, left_out)
        refuse_external_files(files)
        inputs = _of_files(files, path, left_out)
        if not inputs:
            found = f" ({len(left_out)} files left out, such as {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
            raise CovtokenError(f"{named or path} holds nothing to map{found}: expected {KNOWN}")
    return Listing(tuple(sorted(_named(inputs), key=lambda item: item.name)), tuple(left_out))


def kind_of(file: Path) -> str:
    """Say what a file's name (for DICOM: its first bytes too) makes of it; "" if nothing."""
    name = file.name.lower()
    if name.endswith(PICTURES):
        return "picture"
    if name.endswith(".npy"):
        return "npy"
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    if name.endswith((".dcm", ".dicom", ".ima")) or ("." not in name.lstrip(".") and dicom.is_dicom(file)):
        return "dicom"
    return ""


def _below(root: Path, besides: Path | None, left_out: list[tuple[str, str]]) -> list[Path]:
    """List the files below a folder, hidden ones aside; folders of masks stay shut."""
    files = []
    skip = None if besides is None else besides.resolve()

    def broken(error: OSError) -> None:
        left_out.append((str(error.filename), f"cannot be read ({error.strerror})"))

    for folder, folders, names in os.walk(root, onerror=broken):
        here = Path(folder)
        for name in sorted(folders):
            if name.lower() in _MASK_FOLDERS:
                left_out.append((str((here / name).relative_to(root)), "a folder of masks by its name"))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name.lower() not in _MASK_FOLDERS and (here / name).resolve() != skip
        )
        files += [here / name for name in sorted(names) if not name.startswith(".")]
    return files


def _of_files(files: list[Path], root: Path, left_out: list[tuple[str, str]]) -> list[Input]:
    inputs, slices = [], []
    stems = {_stem(file) for file in files}
    for file in files:
        kind, where = kind_of(file), file.relative_to(root).as_posix()
        masked = _MASK.match(_stem(file))
        if not kind:
            left_out.append((where, "of no known format by its name"))
        elif masked and masked[1] in stems:
            register_mask_files([file])
            left_out.append((where, f"looks like a mask of {masked[1]} by its name"))
        elif kind == "dicom":
            slices.append(file)
        else:
            inputs.append(Input(_stem(file), kind, (file,), where))
    for series in dicom.group(slices, root):
        modality = {"US": "ultrasound", "CT": "ct"}.get(series.modality, "")
        about = {"patient": series.patient, "modality": modality, "fault": series.fault}
        inputs.append(Input(series.name, "dicom", series.files, series.where, **about))
    return inputs


def _of_index(root: Path) -> list[Input]:
    index = root / "index.csv"
    rows = _rows(index)
    files = [root / row["image"] for row in rows]
    refuse_external_files([index, *files])
    for column in ("mask", "organ"):
        register_mask_files(root / row[column] for row in rows if row.get(column) and (root / row[column]).is_file())
    inputs = []
    for row, file in zip(rows, files):
        kind = kind_of(file)
        if not file.is_file():
            raise CovtokenError(f"{index}: image {file} does not exist; restore it or take its line out")
        if not kind:
            raise CovtokenError(f"{index}: image {file} is of no known format: expected {KNOWN}")
        known = {"patient": row.get("patient", ""), "organ": row.get("organ_name", "").lower()}
        known |= {"modality": row.get("modality", "").lower(), "spacing_mm": _spacing(row.get("spacing", ""), index)}
        if kind == "dicom":
            (series,) = dicom.group([file], root)
            known["fault"] = series.fault
        inputs.append(Input(_stem(file), kind, (file,), row["image"], **known))
    return inputs


def _rows(index: Path) -> list[dict[str, str]]:
    try:
        text = index.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CovtokenError(f"{index} is no UTF-8 text ({error}): save it as UTF-8, separated by commas") from error
    except OSError as error:
        raise CovtokenError(f"{index} may not be read ({error.strerror}): mend its permissions") from error
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    lines = text.splitlines()
    try:
        columns = [name.strip().lower() for name in next(csv.reader(lines[:1], delimiter=separator), [])]
        cells = list(csv.reader(lines[1:], delimiter=separator))
    except csv.Error as error:
        raise CovtokenError(f"{index} is no comma-separated text ({error}); is a quotation mark left open?") from error
    if "image" not in columns:
        raise CovtokenError(
            f"{index} lacks the column 'image'; it has: {', '.join(columns) or 'none'}. Name the columns in the first "
            "line, or take the list away to map every picture of the folder"
        )
    kept = [name for name in (*_COLUMNS, "mask", "organ") if name in columns]
    rows = []
    for line, row in enumerate(cells, start=2):
        if not row:
            continue
        found = {name: row[i].strip() if (i := columns.index(name)) < len(row) else "" for name in kept}
        if not found["image"]:
            raise CovtokenError(f"{index}, line {line}: no image; take the line out")
        for name, text in found.items():
            if any(ord(letter) < 32 for letter in text):
                raise CovtokenError(f"{index}, line {line}: {name} {text[:40]!r} holds a control character; mend it")
        found["image"] = found["image"].replace("\\", "/")
        if os.path.isabs(found["image"]) or os.path.normpath(found["image"]).split("/")[0] == "..":
            raise CovtokenError(
                f"{index}, line {line}: {found['image']} leads out of the folder; paths are relative to it and stay "
                "inside"
            )
        rows.append(found)
    twice = [name for name, count in Counter(row["image"] for row in rows).items() if count > 1]
    if twice:
        raise CovtokenError(f"{index} lists the image {twice[0]} twice: keep one row an image")
    if not rows:
        raise CovtokenError(f"{index} lists no image: add a line a picture, or take the list away")
    return rows


def _spacing(text: str, index: Path) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        values = [float(part) for part in text.replace("x", " ").split()]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(0 < value < 1e4 for value in values):
        raise CovtokenError(f"{index}: spacing {text!r} is not one or two positive numbers in mm")
    return values[0], values[-1]


def _stem(file: Path) -> str:
    name = file.name
    for end in (".nii.gz", *([file.suffix] if file.suffix else [])):
        if name.lower().endswith(end.lower()) and len(name) > len(end):
            return name[: -len(end)]
    return name


def _named(inputs: Iterable[Input]) -> list[Input]:
    """Name cases so that each is a folder's name of its own: by stem, by path where a stem occurs twice."""
    inputs = list(inputs)
    count = Counter(_plain(item.name).casefold() for item in inputs)
    named = [
        item if count[_plain(item.name).casefold()] == 1 else replace(item, name=item.where.replace("/", "__"))
        for item in inputs
    ]
    out, seen = [], set()
    for item in sorted(named, key=lambda item: item.where):
        name = plain = _plain(item.name)
        number = 2
        while name.casefold() in seen:
            name, number = f"{plain}_{number}", number + 1
        seen.add(name.casefold())
        out.append(replace(item, name=name))
    return out


def _plain(name: str) -> str:
    """Make a folder's name: no separator, no control character, no dot in front, not too long.

    >>> _plain("../a:b")
    '_a_b'
    """
    kept = re.sub(r"[^\w .()+@-]", "_", name).strip(" .")[:_LONGEST].rstrip(" .")
    return kept if kept and kept.casefold() not in ("run.json", "cases.csv") else f"case_{kept}"
