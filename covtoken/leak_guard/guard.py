"""Refuse labels while a subspace or a bank is built (book/method.md). The threat is accident, not malice.

Three nets, from polite to blunt:

1. covtoken's doors (``covtoken.data.masks``, ``covtoken.evaluation.labels``, boolean ``FeatureSet.subset``) call
   ``refuse_labels``; files read by safetensors pass ``refuse_mask_file`` first, for the hook cannot see them.
2. An audit hook refuses registered mask files, whoever calls. It knows a file by its resolved path (relative, symbolic
   links), its inode (hard links, ``dir_fd``, descriptors, moved files) and its content (copies; not of a mask that is
   the same everywhere, as a black picture is too). Commands are refused by their words. A mask that is open or mapped
   when a construction begins is refused there.
3. Builders hand their arguments to ``refuse_label_arrays``, which knows labels by their look.

The mark is process-wide: while any thread constructs, every thread is refused. Workers forked inside inherit it, and
workers spawned inside take mark and files from the environment as soon as they import this module. Workers started
before know of nothing.

What the hook sees, measured in ``tests/leak_guard/test_audit_hook.py``:

    seen      ``open``, ``os.open``, pathlib, gzip, mmap, shutil, PIL, nibabel (.nii, .nii.gz), pydicom, ``np.load``
              (also mapped), ``np.fromfile``, ``np.memmap``, ``np.loadtxt``, pandas, ``torch.load`` (also mapped)
    not seen  safetensors (``safe_open``, ``load_file``), ``torch.from_file``, ``torchvision.io.read_file``; so too any
              reader that opens its files in C or Rust

book/limitations.md has a table of reads that no net sees. The bank's header names its pictures and units, so that a
choice can be checked afterwards.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from covtoken.errors import CovtokenError
from covtoken.leak_guard.label_like import looks_like_a_label
from covtoken.leak_guard.mask_files import MaskFiles

_ENVIRONMENT = "COVTOKEN_UNDER_CONSTRUCTION"
_LIST = "COVTOKEN_REGISTERED_MASKS"  # names a file that lists them, for spawned workers

_lock = threading.RLock()
_running: list[str] = []  # constructions running in this process, innermost last
_inherited = os.environ.get(_ENVIRONMENT, "")  # set where a constructing process started this one
_files = MaskFiles()
_listed: tuple[int, str] = (0, "")  # how many files the list for workers holds, and where it lies
_hooked = False


class LabelLeak(CovtokenError):
    """Raised where a label is asked for while something label-free is being built."""


@contextmanager
def construction(what: str) -> Iterator[None]:
    """Mark that ``what`` is being built: until the block ends, no label can be read in this process.

    Nests; holds for all threads and for workers started inside. A worker that outlives the block stays refused.

    >>> with construction("a bank"):
    ...     refuse_labels("the mask of case 7")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
        ...
    covtoken.leak_guard.LabelLeak: the mask of case 7 was asked for while a bank was being built...

    Raises:
        LabelLeak: a registered mask file is open or mapped already, so that it could be read without being opened.
    """
    with _lock:
        _install_hook()
        still_open = _files.held_open()
        if still_open:
            gc.collect()  # a reader in a reference cycle holds its file until then
            still_open = _files.held_open()
        if still_open:
            raise LabelLeak(
                f"{what} was to be built while the mask file {still_open} is open in this process: close it, and copy "
                "what is memory-mapped (np.array(...)), before `construction`"
            )
        before = os.environ.get(_ENVIRONMENT)
        _running.append(what)
        os.environ[_ENVIRONMENT] = what
        os.environ[_LIST] = _list_for_workers()
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
                os.environ.pop(_LIST, None)


def under_construction() -> str:
    """Name the construction running now, in any thread or in the process that started this process, or give ``""``."""
    with _lock:
        return _running[-1] if _running else _inherited


def refuse_labels(what: str, way_out: str = "read them before or after `construction`") -> None:
    """Raise ``LabelLeak`` inside construction; outside do nothing. Every door to labels calls it first."""
    built = under_construction()
    if built:
        raise LabelLeak(
            f"{what} was asked for while {built} was being built: what is label-free must not read labels; {way_out}"
        )


def refuse_label_arrays(what: str, *arguments: object) -> None:
    """Raise ``LabelLeak`` if an argument of a builder looks like a label (``label_like``), in construction or not."""
    for argument in arguments:
        reason = looks_like_a_label(argument)
        if reason:
            raise LabelLeak(f"{what} was given a {type(argument).__name__} that holds {reason}: it takes features only")


def refuse_label_choice(what: str, features: object) -> None:
    """Raise ``LabelLeak`` if the pictures of ``features`` were chosen by a boolean mask.

    Pictures for a bank are chosen by unit, split or position: a boolean array over pictures looks like a label, and its
    origin cannot be told. Pictures to be *scored* may be chosen by it.
    """
    if getattr(features, "chosen_by_mask", False):
        raise LabelLeak(
            f"{what} was given pictures that a boolean mask chose: choose them by split, unit or index, label-free"
        )


def refuse_mask_file(path: str | os.PathLike) -> None:
    """Raise ``LabelLeak`` for a registered mask file inside construction: for readers that the hook cannot see."""
    if under_construction():
        _refuse_if_mask(path)


def register_mask_files(paths: Iterable[str | os.PathLike]) -> None:
    """Make the audit hook refuse these files inside construction: masks, and lists or tables that describe lesions."""
    with _lock:
        _install_hook()
        for path in paths:
            _files.add(path)


def _renew_lock() -> None:
    """Replace the lock in a forked child, where a thread that is not there may hold it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _list_for_workers() -> str:
    """List the registered files in a file, written again only when they have grown; "" where there are none."""
    global _listed
    known = _files.paths()
    if not known:
        return ""
    if len(known) != _listed[0] or not os.path.exists(_listed[1]):
        try:
            handle, name = tempfile.mkstemp(prefix="covtoken-", suffix=".json")
            with os.fdopen(handle, "w") as stream:
                json.dump(known, stream)
        except OSError:
            return ""  # workers then have the doors alone
        atexit.register(_remove, name, os.getpid())
        _listed = (len(known), name)
    return _listed[1]


def _remove(name: str, owner: int) -> None:
    if os.getpid() == owner:
        with suppress(OSError):
            os.unlink(name)


def _install_hook() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_refuse_registered)


def _refuse_registered(event: str, arguments: tuple) -> None:
    if event not in _WATCHED or not (_running or _inherited):
        return
    for named in _WATCHED[event](arguments):
        _refuse_if_mask(named)


def _refuse_if_mask(named: object) -> None:
    mask, copied = _files.mask_of(named)
    if copied and mask:
        refuse_labels(
            f"the file {Path(os.fsdecode(named))}, which is byte for byte the mask {mask},",
            "if it is a picture, the two were mixed up: mend the list or take its case out; if it is a copy of the "
            "mask, read it before or after `construction`",
        )
    elif mask:
        refuse_labels(f"the mask file {mask if isinstance(named, int) else Path(os.fsdecode(named))}")


def _first(arguments: tuple) -> list:
    """Give the file or descriptor that an event names first."""
    return [arguments[0]]


def _words(arguments: tuple) -> list:
    """Give a command's words, and the registered files named in a shell line or program among them."""
    words = []
    for argument in arguments[:2]:
        for word in argument if isinstance(argument, (list, tuple)) else [argument]:
            if isinstance(word, (str, bytes, os.PathLike)):
                words += [word, *_files.named_in(os.fsdecode(word))]
    return words


_WATCHED = {
    "open": _first,
    "mmap.__new__": _first,
    "os.rename": _first,
    "os.link": _first,
    "os.system": _words,
    "subprocess.Popen": _words,
    "os.posix_spawn": _words,
    "os.exec": _words,
}

if _inherited and os.environ.get(_LIST):
    with suppress(OSError, ValueError):
        register_mask_files(json.loads(Path(os.environ[_LIST]).read_text()))
