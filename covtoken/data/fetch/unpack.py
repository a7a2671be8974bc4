"""Unpack the one folder that an archive holds, with care: what leaves it is refused, what macOS left is passed over."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from covtoken.errors import CovtokenError

Report = Callable[[int], None]


def unpack(archive: Path, top: str, target: Path, report: Report = lambda n: None) -> int:
    """Unpack folder ``top`` of a .tar or .zip as ``target``, which appears only once it is whole; count its files.

    Args:
        target: must not exist yet.
        report: told the number of files so far.

    Raises:
        CovtokenError: the archive is damaged, holds links, devices or anything beside ``top``, or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    room, n = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)), 0
    try:
        files = _from_zip(archive, room, top) if zipfile.is_zipfile(archive) else _from_tar(archive, room, top)
        for n, _ in enumerate(files, 1):
            report(n)
        if not n:
            raise CovtokenError(f"{archive} holds no files in a folder {top}")
        (room / top).rename(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        reason = " ".join(str(error).split())
        raise CovtokenError(f"{archive} cannot be unpacked ({reason}): remove it and fetch it again") from error
    except OSError as error:
        raise CovtokenError(
            f"{archive} cannot be unpacked to {target} ({error.strerror or error}); nothing was left there. Make room, "
            "or give another folder by --to, and run the same command"
        ) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return n


def _from_tar(archive: Path, room: Path, top: str) -> Iterator[str]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if _wanted(archive, member.name, top):
                if not (member.isfile() or member.isdir()):
                    raise CovtokenError(f"{archive} holds {member.name!r}, a link or a device: it is not unpacked")
                tar.extract(member, room, filter="data")
                if member.isfile():
                    yield member.name


def _from_zip(archive: Path, room: Path, top: str) -> Iterator[str]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if _wanted(archive, member.filename, top):
                if member.external_attr >> 28 == 0xA:  # Unix mode of a symbolic link
                    raise CovtokenError(f"{archive} holds {member.filename!r}, a link: it is not unpacked")
                packed.extract(member, room)
                if not member.is_dir():
                    yield member.filename


def _wanted(archive: Path, name: str, top: str) -> bool:
    """Pass over what macOS left; refuse a name that leads out of the folder ``top``."""
    path = PurePosixPath(name)
    if path.name.startswith("._") or path.name == ".DS_Store" or "__MACOSX" in path.parts:
        return False
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or path.parts[:1] not in ((top,), ()):
        raise CovtokenError(f"{archive} holds {name!r}, which lies outside its folder {top}: it is not unpacked")
    return bool(path.parts)
