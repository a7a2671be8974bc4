"""Keep external cohorts shut: their pictures serve a single confirmation, so no other door opens them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from covtoken.errors import CovtokenError


@dataclass(frozen=True)
class External:
    """An external cohort.

    Attributes:
        folder: under ``COVTOKEN_DATA``.
        recipe_cohort: whose locked recipes it takes, and whose bank is carried over to it.
        index_sha256: of its ``index.csv``; "": not known yet.
    """

    folder: str
    recipe_cohort: str
    index_sha256: str = ""


# `covtoken lock confirmation --cohort X` prints the sha256 of an index that is not registered here yet.
EXTERNAL: dict[str, External] = {
    "busbra-external": External(
        "busbra_external", "busi", "5404d71b266059a3095779f0f68c9d2b81ddff27990b8a2182406d4196737283"
    ),
    "lidc-external": External(
        "lidc_external", "lidc-crops", "39a46c7b3a034aa0a82905f693a25c92c4d06a9ab295788c6d2107ba8de8bc8d"
    ),
}


def refuse_external(name: str) -> None:
    """Refuse the name of an external cohort. Raises CovtokenError."""
    if name in EXTERNAL:
        raise _kept(f"cohort {name!r}", name)


def refuse_external_folder(folder: Path, name: str = "") -> None:
    """Refuse a folder that is external by its name, by the name given to it, or by the bytes of its ``index.csv``.

    Raises:
        CovtokenError: the folder is external.
    """
    refuse_external(name)
    for path in (os.path.abspath(folder), os.path.realpath(folder)):
        if known := _external_at(Path(path)):
            raise _kept(f"the folder {folder}", known)


def refuse_external_files(files: Iterable[Path]) -> None:
    """Refuse files that lie in an external folder, at any depth, as they are named or where links lead.

    A folder is external as in ``refuse_external_folder``: by its name, or by the bytes of its ``index.csv``.

    Raises:
        CovtokenError: a file lies in an external folder.
    """
    seen: dict[Path, str] = {}
    for file in files:
        for place in (os.path.abspath(file), os.path.realpath(file)):
            for folder in Path(place).parents:
                if folder not in seen:
                    seen[folder] = _external_at(folder)
                if seen[folder]:
                    raise _kept(f"{file} lies in {folder}, which", seen[folder])


def _external_at(folder: Path) -> str:
    """Name the external cohort whose folder this is, by its own name or its index; "" for any other folder."""
    called, sha256 = folder.name.casefold(), index_sha256(folder)
    for known, external in EXTERNAL.items():
        if called in (known, external.folder) or (sha256 and sha256 == external.index_sha256):
            return known
    return ""


def check_index(name: str, folder: Path) -> str:
    """Compare an external cohort's ``index.csv`` with its registered sha256; return it. No other byte is read.

    Raises:
        CovtokenError: the index is missing, not registered, or another one.
    """
    found, wanted = index_sha256(folder), EXTERNAL[name].index_sha256
    if found is None:
        raise CovtokenError(f"cohort {name!r}: no index.csv in {folder}; data_cards/{name}.md says where to get it")
    if found != wanted:
        is_now = f"registered is {wanted}" if wanted else "none is registered: enter it in covtoken/data/external.py"
        raise CovtokenError(f"cohort {name!r}: {folder / 'index.csv'} has the sha256 {found}, {is_now}")
    return found


def index_sha256(folder: Path) -> str | None:
    """Hash the bytes of a folder's ``index.csv``; None where it cannot be read, which a reader says better."""
    try:
        return hashlib.sha256((folder / "index.csv").read_bytes()).hexdigest()
    except OSError:
        return None


def _kept(what: str, name: str) -> CovtokenError:
    return CovtokenError(
        f"{what} is external, kept for one confirmation: nothing is chosen, tried or drawn on it, and only "
        f"`covtoken confirm --cohort {name}` opens it"
    )
