"""Pair pictures with their masks by file name, and list the pairs as an index.csv; nothing is opened."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covtoken.data.external import refuse_external_files
from covtoken.errors import CovtokenError
from covtoken.paths import write_then_rename

FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".nii.gz", ".nii")
_WORDS = "masks?|seg|segmentations?|labels?|gt|annotations?|tumou?rs?|roi|lesions?"
MASK_NAME = re.compile(rf"(?P<of>.+?)[ _.-]+(?:{_WORDS})(?:[ _-]?\d+)?$", re.IGNORECASE)
_MASK_FIRST = re.compile(rf"(?:{_WORDS})[ _.-]+(?P<of>.+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pairs:
    """Pictures with their masks.

    Attributes:
        rows: (picture, mask), sorted; the mask is None where a picture has none.
        faults: what does not match, in words.
    """

    rows: tuple[tuple[Path, Path | None], ...]
    faults: tuple[str, ...]


def pair(images: Path, masks: Path) -> Pairs:
    """Pair the pictures of a folder with the masks of another, or of the same.

    A mask goes by its picture's name, with or without a word such as ``_mask`` or ``_seg`` before or after it.

    Raises:
        CovtokenError: a folder is missing or holds no picture, or the data are external.
    """
    same = images.resolve() == masks.resolve()
    pictures, candidates = _files(images), _files(masks)
    if same:
        stems = {_key(file, images) for file in pictures}
        told = {file for file in pictures if (of := _plain(_key(file, images))) and of in stems}
        pictures, candidates = [f for f in pictures if f not in told], sorted(told)
    if not pictures:
        raise CovtokenError(f"{images} holds no picture: expected files of {', '.join(FORMATS)}")
    refuse_external_files([*pictures, *candidates])
    by_key = {_key(file, images): file for file in pictures}
    by_stem = _unique({key: key.rpartition("/")[2] for key in by_key})
    found: dict[str, list[Path]] = {}
    faults = []
    for mask in candidates:
        key = _key(mask, masks)
        keys = [key, _plain(key)]
        keys += [by_stem.get(k.rpartition("/")[2]) for k in keys if k]
        whose = next((k for k in keys if k in by_key), None)
        if whose is None:
            faults.append(f"mask {mask.relative_to(masks)}: no picture of its name in {images}")
        else:
            found.setdefault(whose, []).append(mask)
    rows = []
    for key, picture in sorted(by_key.items()):
        mine = found.get(key, [])
        if len(mine) > 1:
            names = ", ".join(str(mask.relative_to(masks)) for mask in mine)
            faults.append(f"picture {picture.relative_to(images)}: {len(mine)} masks ({names}); join them in one file")
            continue
        if not mine:
            faults.append(f"picture {picture.relative_to(images)}: no mask of its name in {masks}")
        rows.append((picture, mine[0] if mine else None))
    return Pairs(tuple(rows), tuple(faults))


def write_index(rows: Sequence[tuple[Path, Path | None]], index: Path, patient: str = "", modality: str = "") -> int:
    """Write an index.csv, paths relative to its folder; an empty mask says that the picture holds no lesion.

    Args:
        patient: a regular expression whose first group, searched in a picture's stem, names the patient; "": no column.
        modality: of all pictures; "": no column.

    Returns:
        the number of patients; 0 where none are named.

    Raises:
        CovtokenError: the list would lie outside the folder of its files, or the expression names no patient.
    """
    root = index.resolve().parent
    header = ["image", "mask", *(["patient"] if patient else []), *(["modality"] if modality else [])]
    lines, patients = [], set()
    for picture, mask in rows:
        cells = ["" if file is None else _inside(file, root, index) for file in (picture, mask)]
        if patient:
            cells.append(_patient(picture, patient))
            patients.add(cells[-1])
        lines.append([*cells, *([modality] if modality else [])])
    with write_then_rename(index) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *lines])
    return len(patients)


def common_folder(images: Path, masks: Path) -> Path:
    """Give the nearest folder that holds both."""
    return Path(os.path.commonpath([images.resolve(), masks.resolve()]))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CovtokenError(f"{folder} is no folder: give the folder of the pictures, then that of their masks")
    return sorted(
        file
        for file in folder.rglob("*")
        if file.name.lower().endswith(FORMATS) and not file.name.startswith(".") and file.is_file()
    )


def _key(file: Path, root: Path) -> str:
    """Name a file by its path below the folder, without suffix."""
    suffix = next(end for end in FORMATS if file.name.lower().endswith(end))
    return file.relative_to(root).as_posix()[: -len(suffix)]


def _plain(key: str) -> str:
    """Take the word for a mask off a name; "" where there is none."""
    folder, slash, stem = key.rpartition("/")
    match = MASK_NAME.match(stem) or _MASK_FIRST.match(stem)
    return f"{folder}{slash}{match['of']}" if match else ""


def _unique(stems: dict[str, str]) -> dict[str, str]:
    """Turn key → stem round, without stems that occur twice."""
    count = Counter(stems.values())
    return {stem: key for key, stem in stems.items() if count[stem] == 1}


def _inside(file: Path, root: Path, index: Path) -> str:
    try:
        return Path(os.path.abspath(file)).resolve().relative_to(root).as_posix()
    except ValueError:
        raise CovtokenError(
            f"{index}: {file} does not lie below its folder, and paths in a list stay inside: write it to "
            f"{common_folder(file.parent, root) / 'index.csv'}"
        ) from None


def _patient(picture: Path, patient: str) -> str:
    try:
        match = re.search(patient, picture.name)
    except re.error as error:
        raise CovtokenError(
            f"--patient {patient!r} is no regular expression ({error}): give one such as '^([^_]+)_'"
        ) from None
    if match is None or not match.groups() or not match[1]:
        raise CovtokenError(
            f"--patient {patient!r} names no patient in {picture.name}: give an expression with a group, such as "
            "'^([^_]+)_' for what stands before the first underscore"
        )
    return match[1]
