"""Find the project's folders, whatever the working directory: notebooks run from several folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from covtoken.errors import CovtokenError

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """Find the checkout's root: the nearest folder above the package that holds ``pyproject.toml``.

    Raises:
        CovtokenError: the package was installed without its checkout, so there are no configs and reports.
    """
    for folder in PACKAGE.parents:
        if (folder / "pyproject.toml").exists() and (folder / "covtoken").exists():
            return folder
    raise CovtokenError(
        f"no checkout around {PACKAGE}: locks, splits and reports live in the repository. "
        "Clone it and install with `pip install -e .`"
    )


def data_root() -> Path | None:
    """Find the folder of real data that ``COVTOKEN_DATA`` names (relative: to the project's root), or None."""
    return _from_environment("COVTOKEN_DATA")


def cache_root() -> Path:
    """Find the cache: ``COVTOKEN_CACHE`` (relative: to the project's root), else ``~/.cache/covtoken``."""
    return _from_environment("COVTOKEN_CACHE") or user_path("~", "COVTOKEN_CACHE") / ".cache" / "covtoken"


def user_path(value: str | Path, source: str) -> Path:
    """Expand ``~`` in a path that a user gave; ``source``, its variable or argument, begins the error."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise CovtokenError(f"{source}: no home folder is known for {value}; write the path in full") from None


def is_file(path: Path, source: str) -> bool:
    """Say whether a path that a user gave is a file; refuse one that cannot be looked up at all."""
    try:
        return path.is_file()
    except OSError as error:  # a name too long, a folder that may not be entered
        shown = text if len(text := str(path)) <= 200 else f"{text[:200]}…"
        raise CovtokenError(f"{source}: {shown} cannot be looked up: {error.strerror}; check the path") from None


@contextmanager
def write_then_rename(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; rename it on success, remove it on any failure.

    Readers never see half a file. The content reaches the disk before the name does: an interruption, a full disk or a
    power cut leaves the old file or the new one, never zeros under the new name.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise CovtokenError(
            f"cannot write {target}: {error.strerror or error}; give its folder write permission and free space "
            "(COVTOKEN_CACHE moves the cache)"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary, os.O_RDWR)
        temporary.replace(target)
        with suppress(OSError):  # some systems open or sync no folder
            _sync(target.parent, os.O_RDONLY)
    except OSError as error:
        raise CovtokenError(f"could not write {target}: {error.strerror or error}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path, mode: int) -> None:
    """Wait until a file's content, or a folder's list of names, lies on the disk."""
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _from_environment(variable: str) -> Path | None:
    """Find the path that an environment variable names, or None where it is unset or empty."""
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    path = user_path(value, variable)
    return path if path.is_absolute() else (project_root() / path).resolve()
