"""Read BUSI breast ultrasound (Al-Dhabyani et al., Data in Brief 2020) as downloaded, ``<class>/<class> (i).png``.

There are no patient ids and many near-duplicates, even across classes: units are near-duplicate groups.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from covtoken.data.case import DIAGNOSES, Case, Cohort, MaskRef, noting
from covtoken.data.near_duplicates import groups, thumbnail
from covtoken.data.pictures import read_picture, size_of
from covtoken.data.splits import listed_files, settle_groups
from covtoken.errors import CovtokenError
from covtoken.leak_guard import register_mask_files
from covtoken.paths import data_root

FOLDER = "Dataset_BUSI_with_GT"


def read(
    folder: str | Path | None = None, splits_folder: Path | None = None, faults: list[tuple[str, str]] | None = None
) -> Cohort:
    """List the cohort. Case names are file names without suffix; the class in a name is never used as an input.

    Args:
        folder: where the class folders lie; without it ``Dataset_BUSI_with_GT`` under ``COVTOKEN_DATA``.
        splits_folder: for tests.
        faults: takes (file, reason) of pictures without a mask or that cannot be read, which are then left out.

    Raises:
        CovtokenError: the folder is not there, or a picture has no mask.
    """
    root = _root(folder)
    pictures: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    for kind in DIAGNOSES:
        for file in sorted((root / kind).glob("*.png")):
            if match := re.fullmatch(r"(.+?)_mask(_\d+)?", file.stem):
                masks.setdefault(match[1], []).append(file)
            elif not file.name.startswith("._"):
                pictures[file.stem] = file
    if not pictures:
        raise CovtokenError(
            f"{root} holds no pictures '<class>/<class> (i).png' for the classes {', '.join(DIAGNOSES)}"
        )
    register_mask_files(file for files in masks.values() for file in files)
    bare, sizes = set(pictures) - set(masks), {}
    for name, file in sorted(pictures.items()):
        with noting(faults, file):
            if name in bare:
                raise CovtokenError(f"{file} has no mask file beside it ({len(bare)} such): unpack BUSI again")
            sizes[name] = size_of(file)
    names = sorted(sizes)
    if set(names) <= set(listed_files("busi", splits_folder)):
        grouped = {name: name for name in names}  # every file's unit is committed: no need to look at the pictures
    else:
        thumbnails = {}
        for name in names:
            with noting(faults, pictures[name]):
                thumbnails[name] = thumbnail(read_picture(pictures[name]))
        grouped = groups(list(thumbnails), thumbnails.values())
    units, left_out = settle_groups("busi", grouped, splits_folder)
    cases, refs = [], {}
    for name in (name for name in names if name in units):
        file = pictures[name]
        cases.append(Case(name, units[name], "ultrasound", partial(read_picture, file), str(file), organ="breast"))
        diagnosis = masks[name][0].parent.name  # by folder: a file's name may say something else
        refs[name] = MaskRef("png", tuple(masks[name]), size=sizes[name], picture=str(file), diagnosis=diagnosis)
    return Cohort("busi", "ultrasound", tuple(cases), refs, left_out=left_out)


def _root(folder: str | Path | None) -> Path:
    if folder is None:
        base = data_root()
        folder = base / FOLDER if base is not None else None
    if folder is None or not Path(folder).is_dir():
        where = f"{folder} is not a folder" if folder is not None else "COVTOKEN_DATA is not set"
        raise CovtokenError(
            f"BUSI not found: {where}. Download 'Breast Ultrasound Images Dataset' (Kaggle, "
            f"aryashah2k/breast-ultrasound-images-dataset), unpack it, and set COVTOKEN_DATA to the folder that holds "
            f"{FOLDER}"
        )
    return Path(folder)
