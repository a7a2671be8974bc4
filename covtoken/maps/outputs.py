"""Write a case's folder whole or not at all: map, mask, overlay.png and case.json.

Everything is written into a hidden folder beside it, which is renamed at the end. What is written depends on the input,
the settings and the bank alone, not on when, where or in which order a run mapped it.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from covtoken.errors import CovtokenError
from covtoken.maps.inputs.planes import Grid

ABANDONED_S = 3600  # after which a hidden folder is taken for one of a killed run
_HIDDEN = ".covtoken-"
_NIFTI_START = 352  # bytes before the values of a NIfTI file


@contextmanager
def case_folder(out: Path, name: str) -> Iterator[Path]:
    """Give a hidden folder to write a case into; it takes the case's name on success and goes on any failure.

    Raises:
        CovtokenError: something that is no result of ours has the name, or the disk is full or closed.
    """
    target, hidden = out / name, out / f"{_HIDDEN}{name}-{os.getpid()}"
    if (target.exists() or target.is_symlink()) and not (target / "case.json").is_file():
        raise CovtokenError(f"{target} exists and is no result of covtoken: move it away, or give another -o")
    try:
        for left in out.glob(f"{_HIDDEN}{glob.escape(name)}-*"):
            if _ended(left.name.removeprefix(f"{_HIDDEN}{name}-").removesuffix("-old")):
                shutil.rmtree(left, ignore_errors=True)
        hidden.mkdir(parents=True)
        yield hidden
        _replace(hidden, target)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(out)):
            raise
        raise CovtokenError(
            f"could not write {target}: {error.strerror or error}; free some space or give another -o, and run again: "
            "finished cases are kept"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def clean(out: Path) -> None:
    """Remove hidden folders that killed runs left behind, whatever their case."""
    for left in out.glob(f"{_HIDDEN}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)


def new_map(folder: Path, grid: Grid) -> np.ndarray:
    """Make the array [*grid.shape] float32 that a map is written to: a mapped file for a volume, else in memory."""
    if grid.header is None:
        return np.empty(grid.shape, np.float32)
    file = folder / "map.nii"
    with file.open("wb") as stream:
        stream.write(_start(_header(grid, np.float32)))
        stream.truncate(_NIFTI_START + 4 * int(np.prod(grid.shape)))
    return np.memmap(file, np.dtype("<f4"), "r+", offset=_NIFTI_START, shape=grid.shape, order="F")


def save_map_and_mask(folder: Path, values: np.ndarray, threshold: float, grid: Grid) -> tuple[list[str], int]:
    """Finish the map and write the mask of what lies above the threshold: their file names, and flagged pixels."""
    if grid.header is None:
        mask = (values > threshold).astype(np.uint8)
        np.save(folder / "map.npy", values, allow_pickle=False)
        np.save(folder / "mask.npy", mask, allow_pickle=False)
        return ["map.npy", "mask.npy"], int(mask.sum())
    values.flush()
    flagged = 0
    # gzip keeps a time and a name in its head unless told not to, and the same run must give the same bytes.
    with (
        (folder / "mask.nii.gz").open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
    ):
        packed.write(_start(_header(grid, np.uint8)))
        for index in range(grid.shape[-1]):
            plane = values[..., index] > threshold
            flagged += int(plane.sum())
            packed.write(plane.astype(np.uint8).tobytes(order="F"))
    return ["map.nii", "mask.nii.gz"], flagged


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, in text that does not depend on the machine. Not finite numbers are refused by ValueError."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_case(out: Path, name: str) -> dict[str, Any] | None:
    """Read the case.json of a case that is there with all its files; None otherwise."""
    try:
        content = json.loads((out / name / "case.json").read_text(encoding="utf-8"))
        files = content["files"]
        whole = all((out / name / file).is_file() for file in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return content if whole else None


def _replace(hidden: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one."""
    if target.exists():
        old = hidden.with_name(f"{hidden.name}-old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        hidden.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        hidden.rename(target)


def _ended(process: str) -> bool:
    """Say whether a process, named by its number, has ended; so has an earlier one that had this one's number."""
    if not process.isdecimal() or int(process) == os.getpid():
        return process.isdecimal()
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # somebody else's
        return False
    return False


def _start(header: nibabel.Nifti1Header) -> bytes:
    return header.binaryblock + bytes(_NIFTI_START - len(header.binaryblock))


def _header(grid: Grid, kind: type) -> nibabel.Nifti1Header:
    """Make a NIfTI header with the input's place and nothing else of it: other fields may name a patient."""
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(kind)
    header.set_data_shape(grid.shape)
    for name, value in grid.header.items():
        header[name] = value
    header["magic"], header["vox_offset"] = b"n+1", _NIFTI_START
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header
