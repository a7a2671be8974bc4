"""No label is read while a subspace or a bank is built (METHOD.md, section 8). The threat is accident, not malice.

Three nets, from polite to blunt:

1. Our own doors (``covtoken.data.masks``, ``covtoken.evaluation.labels``) call ``refuse_labels``.
2. Files registered as masks are refused at ``open`` and ``os.open`` by an audit hook, whoever calls: PIL, ``np.load``,
   nibabel, gzip. Paths are resolved (relative, symbolic links) and compared by inode too (hard links, ``dir_fd``).
3. Builders hand their arguments to ``refuse_label_arrays``, which knows what a label looks like.

The mark is process-wide: while any thread constructs, every thread is refused. Forked workers inherit it, and spawned
ones through the environment. What the hook cannot see: readers that open files in C or Rust themselves (OpenCV,
torchvision's ``read_file``, safetensors) and copies of a mask under another inode; no part of covtoken reads masks so.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from covtoken.errors import CovtokenError

_ENVIRONMENT = "COVTOKEN_UNDER_CONSTRUCTION"

_lock = threading.RLock()
_running: list[str] = []  # what is being built now, in this process, innermost last
_inherited = os.environ.get(_ENVIRONMENT, "")  # set where a constructing process started this one
_paths: set[str] = set()
_inodes: dict[tuple[int, int], str] = {}
_hooked = False


class LabelLeak(CovtokenError):
    """A label was asked for while something label-free was being built."""


@contextmanager
def construction(what: str) -> Iterator[None]:
    """Mark that ``what`` is being built: until the block ends, no label can be read in this process.

    Nests; holds for all threads and for workers started inside. A worker that outlives the block stays refused.

    >>> with construction("a bank"):
    ...     refuse_labels("the mask of case 7")
    Traceback (most recent call last):
        ...
    covtoken.leak_guard.LabelLeak: the mask of case 7 was asked for while a bank was being built...
    """
    with _lock:
        _install_hook()
        before = os.environ.get(_ENVIRONMENT)
        _running.append(what)
        os.environ[_ENVIRONMENT] = what
    try:
        yield
    finally:
        with _lock:
            _running.remove(what)
            if _running:
                os.environ[_ENVIRONMENT] = _running[-1]
            elif _inherited and before is not None:
                os.environ[_ENVIRONMENT] = _inherited
            else:
                os.environ.pop(_ENVIRONMENT, None)


def under_construction() -> str:
    """What is being built now (by any thread, or by the process that started this one), or ``""``."""
    with _lock:
        return _running[-1] if _running else _inherited


def refuse_labels(what: str) -> None:
    """Raise ``LabelLeak`` inside construction; outside do nothing. Every door to labels calls it first."""
    built = under_construction()
    if built:
        raise LabelLeak(
            f"{what} was asked for while {built} was being built: what is label-free must not read labels; "
            "read them before or after `construction`"
        )


def refuse_label_arrays(what: str, *arguments: object) -> None:
    """Raise ``LabelLeak`` if an argument looks like a label: a boolean array, token labels, a mask reference.

    Builders call it on what they are given, inside construction or not: features are floating point, never boolean.
    """
    for argument in arguments:
        boolean = str(getattr(argument, "dtype", "")) in ("bool", "torch.bool")
        labels = any(hasattr(argument, name) for name in ("lesion", "lesions", "at_least"))
        if boolean or labels:
            raise LabelLeak(
                f"{what} was given a {type(argument).__name__} that looks like a label (boolean array, token labels "
                "or mask reference): it takes features only"
            )


def register_mask_files(paths: Iterable[str | os.PathLike]) -> None:
    """Make the audit hook refuse these files inside construction. Readers call it for every mask they list."""
    with _lock:
        _install_hook()
        for path in paths:
            resolved = os.path.realpath(os.fspath(path))
            _paths.add(resolved)
            try:
                status = os.stat(resolved)
            except OSError:
                continue  # a missing mask is the mask door's error, with the case's name
            _inodes[(status.st_dev, status.st_ino)] = resolved


def _renew_lock() -> None:
    """In a forked child the lock may be held by a thread that is not there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _install_hook() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_refuse_registered)


def _refuse_registered(event: str, arguments: tuple) -> None:
    if event != "open" or not (_running or _inherited):
        return
    path = arguments[0]
    if isinstance(path, (str, bytes, os.PathLike)) and _is_registered(path):
        refuse_labels(f"the mask file {Path(os.fsdecode(path))}")


def _is_registered(path: str | bytes | os.PathLike) -> bool:
    name = os.fsdecode(path)
    try:
        if os.path.realpath(name) in _paths:
            return True
        status = os.stat(name)
    except (OSError, ValueError):
        # Not visible from here: a name relative to a `dir_fd`, which the audit event does not carry.
        return not os.path.isabs(name) and any(known.endswith(os.sep + name) for known in _paths)
    known = _inodes.get((status.st_dev, status.st_ino))
    if known is None:
        return False
    try:  # an inode number is reused once its file is gone: trust it only while the mask still has it
        return os.path.samestat(os.stat(known), status)
    except OSError:
        return False
