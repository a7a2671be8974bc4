"""Read a folder with ``index.csv``: the columns image, mask and, optionally, organ, patient, slice, spacing, …

Commas, semicolons or tabs separate columns; capitals and blanks in their names do not matter. Paths are relative to the
folder and stay inside it (a link inside it may point anywhere); backslashes are read as slashes. An empty mask means
that the case holds no lesion. Cases with an empty patient are grouped by near-duplicates. The column ``diagnosis``
(benign, malignant, normal or empty) goes to the mask reference, where the leak guard keeps it. Other columns that
describe the lesion (``lesion_px``, ``lesion_frac``, ``note``) are never read, so that no label can reach a case.

A mask is black (0) with one other value where the lesion is, the same value in all masks; a JPEG mask is read from 128
on, a palette and colours by their brightest channel. Other masks need one of two columns, the same in every row:

    lesion_value     the value that is lesion: 2 where 1 is the organ and 2 the tumour, 0 where the lesion is black
    mask_at_least    the value from which on it is lesion: 0.5 for probabilities, 128 for grey edges, 2 for votes
    organ_at_least   the same for organ masks, which are black with one other value too: 1 where 2 is a tumour in it
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import warnings
from functools import partial
from pathlib import Path, PureWindowsPath

from covtoken.data.case import DIAGNOSES, MODALITIES, Case, Cohort, MaskRef, noting
from covtoken.data.external import refuse_external_files, refuse_external_folder
from covtoken.data.near_duplicates import groups, thumbnail
from covtoken.data.pictures import Window, is_array, read_picture, size_of
from covtoken.data.splits import KEY, listed_files, settle_groups
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels, register_mask_files

FILES = ("image", "mask", "organ")
OPTIONS = ("lesion_value", "mask_at_least", "organ_at_least")
READ_COLUMNS = (*FILES, "patient", "slice", "spacing", "modality", "organ_name", "diagnosis", *OPTIONS)
SMALLEST = 8  # pixels a side


def read(
    folder: str | Path,
    name: str = "",
    modality: str = "",
    channel: str = "",
    organ: str = "",
    lesion_value: float | None = None,
    mask_at_least: float | None = None,
    organ_at_least: float | None = None,
    window_sides: tuple[int, int] | None = None,
    curated: str = "",
    splits_folder: Path | None = None,
    open_external: bool = False,
    faults: list[tuple[str, str]] | None = None,
) -> Cohort:
    """List the cohort of ``folder/index.csv``; masks are registered, and none is opened.

    Args:
        name: the cohort's; the folder's name if empty.
        modality: a ``modality`` column wins; without either ``"ct"`` for .npy and NIfTI, else ``"ultrasound"``.
        channel: R, G or B of colour pictures.
        organ: names the HU window; an ``organ_name`` column wins.
        lesion_value, mask_at_least, organ_at_least: as the columns of these names, above.
        window_sides: smallest and largest side, in pixels, of a square window to cut from every picture; a keyed hash
            of the picture's file name decides size and place, blind to the mask.
        curated: upstream curation that a table must mention.
        splits_folder: for tests.
        open_external: open a folder that is kept for the confirmation.
        faults: takes (file, reason) of rows whose files are missing, unreadable or tiny, which are then left out.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: no index, a missing column or file, a path that leaves the folder, two rows for one image, a
            picture that is tiny or unreadable, an unknown diagnosis, a modality that no other case has and nobody
            knows, or external data.
    """
    root = Path(folder).expanduser()
    if not open_external:
        refuse_external_folder(root, name)
    index = root / "index.csv"
    rows = _rows(root, faults)
    files = _named(rows, index)
    name = name or root.resolve().name
    given = {"lesion_value": lesion_value, "mask_at_least": mask_at_least, "organ_at_least": organ_at_least}
    lesion_value, mask_at_least, organ_at_least = (_option(column, given[column], rows, index) for column in OPTIONS)
    if lesion_value is not None and mask_at_least is not None:
        raise CovtokenError(f"{index}: lesion_value and mask_at_least are given, and a mask is read by one of them")
    organ_files = {case: _organ_file(root, row) for case, row in files.items()}
    if not open_external:
        listed = [root / row[column] for row in rows for column in ("image", "mask") if row[column]]
        refuse_external_files([*listed, *filter(None, organ_files.values())])
    register_mask_files(root / row["mask"] for row in rows if row["mask"])
    register_mask_files(file for file in organ_files.values() if file)
    register_mask_files([index])  # its other columns tell which slices hold lesions, and how large

    sizes = {}
    for case, row in files.items():
        with noting(faults, root / row["image"]):
            sizes[case] = _size(root / row["image"])
    files = {case: row for case, row in files.items() if case in sizes}
    unknown = sorted(case for case, row in files.items() if not row.get("patient"))
    units, left_out = _groups_of(name, unknown, files, root, channel, splits_folder, faults)
    if unknown and not any("patient" in row for row in rows):
        n = len(set(units.values()))
        warnings.warn(
            f"{index} has no column patient: its {len(rows)} pictures are grouped by likeness into {n} units; name the "
            "patients if one has several pictures",
            stacklevel=3,
        )
    elif unknown and faults is not None:
        warnings.warn(
            f"{index} names no patient for {len(unknown)} of its {len(rows)} pictures, which are grouped by likeness",
            stacklevel=3,
        )
    cases, masks, organs = [], {}, {}
    for case, row in sorted(files.items()):
        unit = row.get("patient") or units.get(case)
        if unit is None:
            continue  # left out: it would tie two splits together
        file = root / row["image"]
        window = _window(file, sizes[case], window_sides)
        cases.append(
            Case(
                case,
                unit,
                row.get("modality", "").lower() or modality or ("ct" if is_array(file) else "ultrasound"),
                partial(read_picture, file, channel, window),
                source=str(file),
                spacing_mm=_spacing(row.get("spacing", ""), root),
                slice_index=int(at) if (at := row.get("slice", "")).isdecimal() and len(at) < 10 else None,
                organ=row.get("organ_name") or organ,
            )
        )
        ref = partial(MaskRef, window=window, size=sizes[case], picture=str(file))
        diagnosis = row.get("diagnosis", "").lower()
        how = {"at_least": mask_at_least, "lesion_value": lesion_value}  # of all cases, so that it tells none apart
        if row["mask"]:
            masks[case] = ref("png", (root / row["mask"],), diagnosis=diagnosis, **how)
        else:
            masks[case] = ref("empty", key="{}x{}".format(*sizes[case]), diagnosis=diagnosis, **how)
        if organ_files[case]:
            organs[case] = ref("png", (organ_files[case],), at_least=organ_at_least)
    odd = [case for case in cases if case.modality not in MODALITIES]
    if odd and len({case.modality for case in cases}) > 1:  # where all cases have it, their gates say what is known
        raise CovtokenError(
            f"{index}: case {odd[0].name!r} has the modality {odd[0].modality!r}. Known: {', '.join(MODALITIES)}"
        )
    modality = modality or (cases[0].modality if cases else "ultrasound")
    return Cohort(name, modality, tuple(cases), masks, organs, curated, left_out)


def _rows(root: Path, faults: list[tuple[str, str]] | None = None) -> list[dict[str, str]]:
    index = root / "index.csv"
    refuse_labels(f"the list {index}")
    rows = []
    for line, row in _cells(index):
        with noting(faults, root / row["image"]):
            _check_row(root, f"{index}, line {line}", row)
            rows.append(row)
    return rows


def _check_row(root: Path, line: str, row: dict[str, str]) -> None:
    """Refuse a row by its cells and by what its paths lead to; ``line`` begins the error."""
    if not row["image"]:
        raise CovtokenError(f"{line}: no image; take the line out")
    for column, text in row.items():
        if any(ord(letter) < 32 for letter in text):
            raise CovtokenError(f"{line}: {column} {text[:40]!r} holds a control character; mend it")
    if row.get("diagnosis", "").lower() not in ("", *DIAGNOSES):
        raise CovtokenError(f"{line}: diagnosis {row['diagnosis'][:40]!r}: expected {', '.join(DIAGNOSES)} or nothing")
    try:
        for column in FILES:
            if row.get(column):
                row[column] = _relative(root, row[column])
                if not (root / row[column]).is_file():
                    raise CovtokenError(
                        f"{line}: {column} file {root / row[column]} does not exist; restore it or take the line out"
                    )
        same = row["mask"] and (root / row["mask"]).samefile(root / row["image"])
    except OSError as error:
        raise CovtokenError(
            f"{line}: {str(error.filename)[:200]} cannot be opened ({error.strerror}); mend the line or the file's "
            "permissions"
        ) from error
    except ValueError as error:
        raise CovtokenError(f"{line}: {error}; paths are relative to the folder") from error
    if same:
        raise CovtokenError(f"{line}: image and mask are one file, {row['image']}: name the mask")


def _cells(index: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the list's lines, each with its number and the cells of ``READ_COLUMNS``."""
    try:
        text = index.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CovtokenError(f"{index} cannot be read as UTF-8 ({error}): save it as comma-separated UTF-8") from error
    except PermissionError as error:
        raise CovtokenError(
            f"{index} may not be read (permission denied): give yourself the right to read it"
        ) from error
    except OSError as error:
        raise CovtokenError(
            f"{index} is missing ({error.strerror}): a cohort folder needs one, with at least the columns image and "
            "mask; `covtoken index PICTURES MASKS` writes it"
        ) from error
    head = text.partition("\n")[0]
    separator = max(",;\t", key=lambda mark: len({"image", "mask"} & set(_names(head.split(mark)))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns, lines = _names(next(reader, [])), [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise CovtokenError(
            f"{index}, line {reader.line_num}: no comma-separated text ({error}); is a quotation mark left open?"
        ) from error
    for column in READ_COLUMNS:
        if column in ("image", "mask") and column not in columns:
            raise CovtokenError(
                f"{index} lacks the column {column!r}; it has: {', '.join(columns) or 'none'}. Name the columns in "
                "the first line, separated by commas"
            )
        if columns.count(column) > 1:
            raise CovtokenError(f"{index} has the column {column!r} twice: keep one")
    at = {column: columns.index(column) for column in READ_COLUMNS if column in columns}
    return [
        (number, {column: cells[i].strip() if i < len(cells) else "" for column, i in at.items()})
        for number, cells in lines
    ]


def _names(header: list[str]) -> list[str]:
    return [column.strip(' "\r').lower() for column in header]


def _relative(root: Path, text: str) -> str:
    """Give a path inside the folder, with slashes. Raises ValueError where it leads out."""
    if "\\" in text and not (root / text).exists():
        text = text.replace("\\", "/")
    if os.path.isabs(text) or PureWindowsPath(text).drive:
        raise ValueError(f"{text} is an absolute path")
    if os.path.normpath(text).split("/")[0] == "..":
        raise ValueError(f"{text} leads out of the folder")
    return text


def _named(rows: list[dict[str, str]], index: Path) -> dict[str, dict[str, str]]:
    """Name the rows by their image's file name without suffix, or by its whole path where a file name occurs twice."""
    paths = [Path(row["image"]).with_suffix("") for row in rows]
    files = dict(zip((path.name for path in paths), rows))
    if len(files) < len(rows):
        files = dict(zip((path.as_posix() for path in paths), rows))
    if len(files) == len(rows):
        return files
    first: dict[str, str] = {}
    for path, row in zip(paths, rows):
        other = first.setdefault(path.as_posix(), row["image"])
        if other is not row["image"]:
            break
    if other == row["image"]:
        raise CovtokenError(
            f"{index} lists the image {path.as_posix()} twice: keep one row an image (a mask may hold many lesions)"
        )
    raise CovtokenError(
        f"{index} lists {other} and {row['image']}, two files of one stem, and a case goes by its stem: rename one"
    )


def _option(column: str, given: float | None, rows: list[dict[str, str]], index: Path) -> float | None:
    """Take an option's value from its argument or its column."""
    told = {row[column] for row in rows if row.get(column)} | (set() if given is None else {given})
    try:
        values = {float(value) for value in told}
    except (TypeError, ValueError):
        values = {math.nan}
    least, words = (0, "0 or more") if column == "lesion_value" else (math.ulp(0), "above 0")
    if not all(least <= value < math.inf for value in values):
        raise CovtokenError(f"{index}: {column} {', '.join(sorted(map(str, told)))}: expected a pixel value, {words}")
    if len(values) > 1:
        each = ", ".join(f"{value:g}" for value in sorted(values))
        raise CovtokenError(f"{index}: {column} {each}: expected the same in all rows that give it")
    return next(iter(values), None)


def _organ_file(root: Path, row: dict[str, str]) -> Path | None:
    """Find the organ mask: its own column, or the file of the mask's name in a sibling folder ``organ/``."""
    if row.get("organ"):
        return root / row["organ"]
    beside = root / "organ" / Path(row["mask"] or row["image"]).with_suffix(".png").name
    return beside if os.path.isfile(beside) else None


def _size(file: Path) -> tuple[int, int]:
    size = size_of(file)
    if min(size) < SMALLEST:
        raise CovtokenError(
            f"picture {file} is {size[0]}×{size[1]} pixels: expected at least {SMALLEST} a side; leave it out"
        )
    return size


def _groups_of(name, unknown, files, root, channel, splits_folder, faults) -> tuple[dict[str, str], tuple]:
    if not unknown:
        return {}, ()
    if set(unknown) <= set(listed_files(name, splits_folder)):
        grouped = {case: case for case in unknown}
    else:
        thumbnails = {}
        for case in unknown:
            with noting(faults, root / files[case]["image"]):
                thumbnails[case] = thumbnail(read_picture(root / files[case]["image"], channel))
        grouped = groups(list(thumbnails), thumbnails.values())
    return settle_groups(name, grouped, splits_folder)


def _window(file: Path, size: tuple[int, int], sides: tuple[int, int] | None) -> Window | None:
    if sides is None:
        return None
    height, width = size
    digest = hashlib.blake2b(f"window:{file.name}".encode(), key=KEY.encode(), digest_size=12).digest()
    which, down, across = (int.from_bytes(digest[i : i + 4], "big") for i in (0, 4, 8))
    side = min(sides[0] + which % (sides[1] - sides[0] + 1), height, width)
    return down % (height - side + 1), across % (width - side + 1), side, side


def _spacing(text: str, root: Path) -> tuple[float, float] | None:
    """Read ``"0.7"`` or ``"0.7 0.7"`` (row, column) in mm."""
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
