"""A folder of one's own: ``index.csv`` with the columns image, mask and, optionally, organ, patient, slice, spacing, …

Paths are relative to the folder of ``index.csv``. An empty mask means: this case holds no lesion. An empty patient
means that the patient is unknown: such cases are grouped by near-duplicates. Columns that describe the lesion
(``lesion_px``, ``lesion_frac``, ``note``) are never read, so that no label can reach a case.
"""

from __future__ import annotations

import csv
import hashlib
import math
from functools import partial
from pathlib import Path

from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.data.near_duplicates import groups, thumbnail
from covtoken.data.pictures import Window, is_array, read_picture, size_of
from covtoken.data.splits import KEY, listed_files, settle_groups
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels, register_mask_files

READ_COLUMNS = ("image", "mask", "organ", "patient", "slice", "spacing", "modality", "organ_name")


def read(
    folder: str | Path,
    name: str = "",
    modality: str = "",
    channel: str = "",
    organ: str = "",
    votes_at_least: int = 0,
    window_sides: tuple[int, int] | None = None,
    curated: str = "",
    splits_folder: Path | None = None,
) -> Cohort:
    """The cohort listed in ``folder/index.csv``.

    Args:
        name: of the cohort; the folder's name if empty.
        modality: of all cases; a ``modality`` column wins. Without either: ``"ct"`` for .npy and NIfTI, else
            ``"ultrasound"``.
        channel: R, G or B of colour pictures.
        organ: names the HU window; an ``organ_name`` column wins.
        votes_at_least: masks are vote counts, and this many votes make a lesion (0: masks are black and white).
        window_sides: (smallest, largest) side of one square window cut from every picture, its size and place decided
            by a keyed hash of the picture's file name, blind to the mask.

    Raises:
        CovtokenError: no index, a missing column or file, two rows for one image.
    """
    root = Path(folder).expanduser()
    rows = _rows(root)
    files = {Path(row["image"]).with_suffix("").name: row for row in rows}
    if len(files) < len(rows):  # the same file name in two subfolders: use whole relative paths
        files = {Path(row["image"]).with_suffix("").as_posix(): row for row in rows}
    if len(files) < len(rows):
        seen: set[str] = set()
        twice = next(s for row in rows if (s := Path(row["image"]).with_suffix("").as_posix()) in seen or seen.add(s))
        raise CovtokenError(
            f"{root / 'index.csv'} lists the image {twice} twice: keep one row an image (a mask may hold many lesions)"
        )
    name = name or root.resolve().name
    organ_files = {case: _organ_file(root, row) for case, row in files.items()}
    register_mask_files(root / row["mask"] for row in rows if row["mask"])
    register_mask_files(file for file in organ_files.values() if file)
    register_mask_files([root / "index.csv"])  # its other columns tell which slices hold lesions, and how large

    windows = {case: _window(root / row["image"], window_sides) for case, row in files.items()}
    unknown = sorted(case for case, row in files.items() if not row.get("patient"))
    units, left_out = _groups_of(name, unknown, files, root, channel, splits_folder)
    cases, masks, organs = [], {}, {}
    for case, row in sorted(files.items()):
        unit = row.get("patient") or units.get(case)
        if unit is None:
            continue  # left out: it would tie two splits together
        file, window = root / row["image"], windows[case]
        kind = row.get("modality") or modality or _modality_of(file)
        cases.append(
            Case(
                case,
                unit,
                kind,
                partial(read_picture, file, channel, window),
                source=str(file),
                spacing_mm=_spacing(row.get("spacing", ""), root),
                slice_index=int(row["slice"]) if row.get("slice", "").isdecimal() else None,
                organ=row.get("organ_name") or organ,
            )
        )
        size = size_of(file)
        masks[case] = _mask(root, row["mask"], size, window, file, votes_at_least)
        if organ_files[case]:
            organs[case] = MaskRef("png", (organ_files[case],), window=window, size=size, picture=str(file))
    modality = modality or (cases[0].modality if cases else "ultrasound")
    return Cohort(name, modality, tuple(cases), masks, organs, curated, left_out)


def _rows(root: Path) -> list[dict[str, str]]:
    index = root / "index.csv"
    refuse_labels(f"the list {index}")
    if not index.is_file():
        raise CovtokenError(f"{index} is missing: a cohort folder needs one, with at least the columns image and mask")
    try:
        with index.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            rows = [{key: (row.get(key) or "").strip() for key in READ_COLUMNS if key in row} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CovtokenError(f"{index} cannot be read ({error}): save it as comma-separated text in UTF-8") from error
    lacking = [column for column in ("image", "mask") if column not in columns]
    if lacking:
        raise CovtokenError(
            f"{index} lacks the column {lacking[0]!r}; it has: {', '.join(columns) or 'none'}. Name the columns in "
            "the first line, separated by commas"
        )
    for number, row in enumerate(rows, start=2):
        if not row["image"]:
            raise CovtokenError(f"{index}, line {number}: no image; take the line out")
        for column in ("image", "mask", "organ"):
            if row.get(column) and not (root / row[column]).is_file():
                raise CovtokenError(
                    f"{index}, line {number}: {column} file {root / row[column]} does not exist; restore it or "
                    "take the line out"
                )
        if row["mask"] and (root / row["mask"]).samefile(root / row["image"]):
            raise CovtokenError(f"{index}, line {number}: image and mask are one file, {row['image']}: name the mask")
    return rows


def _organ_file(root: Path, row: dict[str, str]) -> Path | None:
    """The organ mask: its own column, or the file of the mask's name in a sibling folder ``organ/``."""
    if row.get("organ"):
        return root / row["organ"]
    beside = root / "organ" / Path(row["mask"] or row["image"]).with_suffix(".png").name
    return beside if beside.is_file() else None


def _groups_of(name, unknown, files, root, channel, splits_folder) -> tuple[dict[str, str], tuple]:
    if not unknown:
        return {}, ()
    if set(unknown) <= set(listed_files(name, splits_folder)):
        grouped = {case: case for case in unknown}
    else:
        pictures = (read_picture(root / files[case]["image"], channel) for case in unknown)
        grouped = groups(unknown, (thumbnail(picture) for picture in pictures))
    return settle_groups(name, grouped, splits_folder)


def _mask(root: Path, mask: str, size, window: Window | None, picture: Path, votes_at_least: int) -> MaskRef:
    if not mask:
        return MaskRef("empty", key=f"{size[0]}x{size[1]}", window=window)
    file = root / mask
    if votes_at_least:
        return MaskRef("votes", (file,), at_least=votes_at_least, window=window, size=size, picture=str(picture))
    lossy = file.suffix.lower() in (".jpg", ".jpeg")  # compression leaves faint ghosts beside the edge
    return MaskRef("png", (file,), at_least=128 if lossy else 1, window=window, size=size, picture=str(picture))


def _window(file: Path, sides: tuple[int, int] | None) -> Window | None:
    if sides is None:
        return None
    height, width = size_of(file)
    digest = hashlib.blake2b(f"window:{file.name}".encode(), key=KEY.encode(), digest_size=12).digest()
    size, down, across = (int.from_bytes(digest[i : i + 4], "big") for i in (0, 4, 8))
    side = min(sides[0] + size % (sides[1] - sides[0] + 1), height, width)
    return down % (height - side + 1), across % (width - side + 1), side, side


def _modality_of(file: Path) -> str:
    return "ct" if is_array(file) else "ultrasound"


def _spacing(text: str, root: Path) -> tuple[float, float] | None:
    """``"0.7"`` or ``"0.7 0.7"`` (row, column) in mm."""
    if not text:
        return None
    try:
        values = [float(part) for part in text.replace("x", " ").replace(";", " ").split()]
        if len(values) not in (1, 2) or not all(0 < value < math.inf for value in values):
            raise ValueError(text)
    except ValueError as error:
        raise CovtokenError(
            f"{root / 'index.csv'}: spacing {text!r} is not one or two positive numbers in mm"
        ) from error
    return values[0], values[-1]
