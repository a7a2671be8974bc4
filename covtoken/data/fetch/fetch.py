"""Get a data set: download its archive, hold it against the pinned hash, unpack it where readers look for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from covtoken.data.external import refuse_external
from covtoken.data.fetch.data_sets import PUBLIC, DataSet, data_set
from covtoken.data.fetch.download import download
from covtoken.data.fetch.unpack import unpack
from covtoken.errors import CovtokenError
from covtoken.paths import data_root, user_path

LENGTHS = {"md5": 32, "sha256": 64}


def fetchable(name: str) -> DataSet:
    """Give the data set of a name that a person can get.

    Raises:
        CovtokenError: an unknown name, an external cohort, or one that no official download gives.
    """
    refuse_external(name)
    known = data_set(name)
    if known.kind != PUBLIC:
        why = "is drawn, not fetched" if not known.folder else f"has no official download: see data_cards/{name}.md"
        raise CovtokenError(f"{name!r} {why}; next: covtoken data check {name}")
    return known


def folder_for(known: DataSet, to: str | None = None) -> Path:
    """Say where a data set's folder belongs: under ``to``, else under ``COVTOKEN_DATA``.

    Raises:
        CovtokenError: neither is given.
    """
    root = user_path(to, "--to") if to else data_root()
    if root is None:
        raise CovtokenError(
            f"COVTOKEN_DATA is not set, so there is no folder for {known.name}: set it to the folder that holds your "
            f"data sets, or say `covtoken data fetch {known.name} --to FOLDER`"
        )
    return root.absolute() / known.folder


def fetch(
    known: DataSet,
    target: Path,
    sha256: str = "",
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
    on_files: Callable[[int], None] = lambda n: None,
) -> int:
    """Download and unpack a data set to ``target``; count its files. The archive is removed once it is unpacked.

    Args:
        sha256: of the archive, where no hash is pinned.
        on_bytes: told the bytes there and in all.
        on_files: told the number of files unpacked.

    Raises:
        CovtokenError: as ``download`` and ``unpack``; no hash is known, or the one given is none.
    """
    known_hash = known.known_hash or (f"sha256:{sha256.lower()}" if sha256 else "")
    kind, _, digits = known_hash.partition(":")
    if not known.url or not re.fullmatch(rf"[0-9a-f]{{{LENGTHS.get(kind, 0)}}}", digits):
        raise CovtokenError(f"{known.name}: {sha256!r} is no sha256, which has {LENGTHS['sha256']} hex digits")
    archive = target.parent / Path(urlsplit(known.url).path).name
    download(known.url, archive, known_hash, on_bytes)
    n = unpack(archive, known.folder, target, on_files)
    archive.unlink()
    return n
