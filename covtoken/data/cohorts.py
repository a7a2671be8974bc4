"""Open a cohort by name or folder; list the cohorts with committed reports."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from covtoken.data.case import Cohort, picture_digest
from covtoken.data.external import EXTERNAL, check_index, refuse_external, refuse_external_folder
from covtoken.data.masks import check_mask_files
from covtoken.data.readers import busi, phantom
from covtoken.data.readers.folder import read as read_folder
from covtoken.data.readers.volume_cohorts import VOLUMES
from covtoken.data.readers.volume_cohorts import read as read_volumes
from covtoken.errors import CovtokenError, unknown
from covtoken.paths import data_root

COMMITTED = ("phantom", "busi", "lits", "kits19", "lidc-crops")
# The large cohort of each modality, whose recipe small cohorts take unchanged.
RECIPE_COHORTS = {"ultrasound": "busi", "ct": "lidc-crops", "ct8": "lidc-crops"}
PICTURE_SIZE = 224  # side in pixels to which pictures are squashed (518 is an ablation)


def open_cohort(
    name_or_folder: str | Path, folder: str | Path | None = None, *, open_external: bool = False, **options: Any
) -> Cohort:
    """Open the cohort of a committed name, of a volume cohort's name, or of a folder with ``index.csv``.

    >>> cohort = open_cohort("phantom", n=40)
    >>> len(cohort.cases), cohort.cases[0].modality
    (40, 'ultrasound')

    Args:
        name_or_folder: one of ``COMMITTED`` or ``VOLUMES``, or a folder.
        folder: where a named cohort's data lie, if not under ``COVTOKEN_DATA``.
        open_external: open one of ``EXTERNAL`` by its name; the confirmation alone says so.
        options: of the reader, for instance ``n`` and ``seed`` (phantom), ``modality`` and ``organ`` (a folder), or
            ``every`` and ``region`` (volumes); ``faults``, a list, makes readers of folders note a faulty file there,
            with the reason, and go on.

    Raises:
        LabelLeak: a folder is opened while something label-free is being built: its masks are checked at once.
        CovtokenError: no such name or folder, the data are not there, a folder's mask cannot be read, or the cohort is
            external.
    """
    name = str(name_or_folder)
    if open_external:
        if name not in EXTERNAL:
            raise unknown("external cohort", name, list(EXTERNAL))
        check_index(name, external_folder(name, folder))
        options["open_external"] = True
    else:
        refuse_external(name)
        if folder is not None:
            refuse_external_folder(Path(folder))
    if folder is not None and (name == "phantom" or name not in _READERS):
        kind = "is drawn, not read" if name == "phantom" else "is no committed name, and a folder is itself the data"
        raise CovtokenError(f"cohort {name!r} {kind}: leave the data folder ({folder}) out")
    try:
        if name in _READERS:
            return _READERS[name](**options, **({} if folder is None else {"folder": folder}))
        path = _folder_of(name)
        if path is not None:
            taken = options.get("name") or path.resolve().name
            if taken in COMMITTED or taken in VOLUMES:  # its reports and locks must not mix with that cohort's
                which = "committed" if taken in COMMITTED else "volume"
                raise CovtokenError(
                    f"the folder {path} bears the name of the {which} cohort {taken!r}: open it as {taken!r} with "
                    "`folder` (--data), rename it, or give it a `name` of its own"
                )
            opened = read_folder(path, **options)
            if options.get("faults") is None:  # who collects them reads every mask himself
                check_mask_files(opened)  # committed cohorts are bound by their locks
            return opened
    except TypeError as error:  # an option that the reader does not have
        if "argument" not in str(error):
            raise
        raise CovtokenError(f"cohort {name!r}: {error}; see the reader's docstring") from error
    if "/" in name:
        raise CovtokenError(
            f"{name} is no folder: give a folder that holds index.csv, or one of {', '.join([*COMMITTED, *VOLUMES])}"
        )
    raise CovtokenError(f"{unknown('cohort', name, [*COMMITTED, *VOLUMES])}, or a folder that holds index.csv")


def cohort_name(name_or_folder: str | Path) -> str:
    """Give the name under which a cohort's splits, locks and reports lie: a folder goes by its own name."""
    name = str(name_or_folder)
    path = None if name in _READERS else _folder_of(name)
    if path is None:
        return os.path.basename(os.path.abspath(name)) if "/" in name else name
    return path.resolve().name


def external_folder(name: str, folder: str | Path | None = None) -> Path:
    """Find the folder of an external cohort, which this does not open.

    Raises:
        CovtokenError: an unknown name, or no such folder.
    """
    if name not in EXTERNAL:
        raise unknown("external cohort", name, list(EXTERNAL))
    return _place(name, EXTERNAL[name].folder, folder)


def data_fingerprint(cohort: Cohort) -> str:
    """Read every picture of a cohort and name the data of a lock or a report by them, blind to labels."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # reading a picture leaves the interpreter lock
        digests = pool.map(lambda case: picture_digest(case.pixels()), cohort.cases)
        return fingerprint_of(dict(zip((case.name for case in cohort.cases), digests, strict=True)))


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """Hash the sorted names of cases and their pictures' digests (sha256)."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name}\0{digests[name]}\n".encode())
    return total.hexdigest()


def _folder_of(name: str) -> Path | None:
    """Find the folder that a name or the path of an ``index.csv`` leads to, or None."""
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
    except (OSError, RuntimeError) as error:  # a user that does not exist, a loop of links, no permission
        raise CovtokenError(
            f"{name[:200]} cannot be opened ({getattr(error, 'strerror', None) or error}): give a folder that holds "
            "index.csv"
        ) from error
    return path.parent if path.name == "index.csv" else None


def _listed(name: str, place: str, *, folder: str | Path | None = None, **options) -> Cohort:
    where = _place(name, place, folder)
    return read_folder(where, name=name, **{"curated": _CURATED[name]} | options)


def _external(name: str, **options) -> Cohort:
    return _listed(name, EXTERNAL[name].folder, **options)


def _place(name: str, place: str, folder: str | Path | None) -> Path:
    """Find the folder of a cohort's data: the one that was given, else ``place`` under ``COVTOKEN_DATA``."""
    root = data_root()
    where = Path(folder) if folder is not None else (root / place if root is not None else None)
    if where is None or not where.is_dir():
        came = "COVTOKEN_DATA is not set" if where is None else f"{where} is not a folder"
        raise CovtokenError(
            f"cohort {name!r} not found: {came}. Set COVTOKEN_DATA to the folder that holds {place}/index.csv; "
            "data_cards/ says where to get it"
        )
    return where


_CURATED = {
    "lits": "slices chosen by lesion upstream: up to six a volume with tumour ≥ 64 px, and slices without",
    "kits19": "slices chosen by lesion upstream: nearly every slice holds a kidney tumour",
    "lidc-crops": "crops centred on a nodule upstream (≥ 3 of 4 readers, ≥ 20 px), re-cut to one random window placed "
    "blind to the mask",
    "busbra-external": "pictures with a lesion alone",
    "lidc-external": "crops of further patients, centred on a nodule upstream without the condition of three readers: "
    "a harder population; re-cut to one random window placed blind to the mask",
}
_READERS: dict[str, Callable[..., Cohort]] = {
    "phantom": phantom.read,
    "busi": busi.read,
    "lits": partial(_listed, "lits", "lits", modality="ct8", channel="G", organ="liver"),
    "kits19": partial(_listed, "kits19", "kits19_slices", modality="ct8", organ="kidney"),
    "lidc-crops": partial(
        _listed, "lidc-crops", "lidc_crops", modality="ct8", organ="lung", mask_at_least=2, window_sides=(64, 80)
    ),
    "busbra-external": partial(_external, "busbra-external", modality="ultrasound", organ="breast"),
    "lidc-external": partial(
        _external, "lidc-external", modality="ct8", organ="lung", mask_at_least=2, window_sides=(64, 80)
    ),
    **{name: partial(read_volumes, name) for name in VOLUMES},
}
