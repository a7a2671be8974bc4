"""Where things lie. Nothing here depends on the working directory: notebooks run from several folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from covtoken.errors import CovtokenError

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """The checkout's root: the nearest folder at or above the package that holds ``pyproject.toml``.

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
    """The folder of real data named by ``COVTOKEN_DATA`` (relative: to the project's root), or None."""
    return _from_environment("COVTOKEN_DATA")


def cache_root() -> Path:
    """Features and weights: ``COVTOKEN_CACHE`` (relative: to the project's root), else ``~/.cache/covtoken``."""
    return _from_environment("COVTOKEN_CACHE") or Path.home() / ".cache" / "covtoken"


@contextmanager
def write_then_rename(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; rename it on success, remove it on any failure.

    Readers never see half a file, and an interrupted or full disk leaves the old file as it was.
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
        temporary.replace(target)
    except OSError as error:
        raise CovtokenError(f"could not write {target}: {error.strerror or error}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)


def _from_environment(variable: str) -> Path | None:
    """The folder that an environment variable names, or None where it is unset or empty."""
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    path = Path(value).expanduser()
    return path if path.is_absolute() else (project_root() / path).resolve()
