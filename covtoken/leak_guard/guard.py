"""No label is read while a subspace or a bank is built (book/method.md). The threat is accident, not malice.

Three nets, from polite to blunt:

1. Our own doors (``covtoken.data.masks``, ``covtoken.evaluation.labels``, boolean ``FeatureSet.subset``) call
   ``refuse_labels``; what we read by safetensors passes ``refuse_mask_file`` first, for the hook cannot see it.
2. Files registered as masks are refused by an audit hook, whoever calls. A file is recognised by its resolved path
   (relative, symbolic links), its inode (hard links, ``dir_fd``, descriptors, moved files) and its content (copies; not
   where it is the same everywhere, as a black picture is too).
   What is open or mapped when a construction begins is refused there. Commands are refused by their words.
3. Builders hand their arguments to ``refuse_label_arrays``, which knows what a label looks like.

The mark is process-wide: while any thread constructs, every thread is refused. Workers forked inside inherit it, and
those spawned inside take mark and files from the environment as soon as they import this module. Workers that were
started before know of nothing.

What the hook sees, measured in ``tests/leak_guard/test_audit_hook.py``:

    seen      ``open``, ``os.open``, pathlib, gzip, mmap, shutil, PIL, nibabel (.nii, .nii.gz), pydicom, ``np.load``
              (also mapped), ``np.fromfile``, ``np.memmap``, ``np.loadtxt``, pandas, ``torch.load`` (also mapped)
    not seen  safetensors (``safe_open``, ``load_file``), ``torch.from_file``, ``torchvision.io.read_file``; so too any
              reader that opens its files in C or Rust

What nothing here sees stands in one table in book/limitations.md. The bank's header names its pictures and units, so
that a choice can be checked afterwards.
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
_running: list[str] = []  # what is being built now, in this process, innermost last
_inherited = os.environ.get(_ENVIRONMENT, "")  # set where a constructing process started this one
_files = MaskFiles()
_listed: tuple[int, str] = (0, "")  # how many files the list for workers holds, and where it lies
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
    """What is being built now (by any thread, or by the process that started this one), or ``""``."""
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
    """Raise ``LabelLeak`` if an argument looks like a label: a boolean array, token labels, a mask, masked tokens.

    Builders call it on what they are given, inside construction or not. ``label_like`` says what it knows.
    """
    for argument in arguments:
        reason = looks_like_a_label(argument)
        if reason:
            raise LabelLeak(f"{what} was given a {type(argument).__name__} that holds {reason}: it takes features only")


def refuse_label_choice(what: str, features: object) -> None:
    """Raise ``LabelLeak`` if the pictures of ``features`` were chosen by a boolean mask.

    Whoever picks pictures for a bank says so by unit, split or position: a boolean array over pictures is what a label
    looks like, and where it came from cannot be told. Which pictures are *scored* may be chosen so.
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
    """Make the audit hook refuse these files inside construction. Readers call it for every mask they list.

    Also for what describes lesions otherwise: the list of a folder cohort, a table of lesion sizes.
    """
    with _lock:
        _install_hook()
        for path in paths:
            _files.add(path)


def _renew_lock() -> None:
    """In a forked child the lock may be held by a thread that is not there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _list_for_workers() -> str:
    """A file that lists what is registered, written again only when that has grown; "" where there is none."""
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
    """The file, or descriptor, that an event names first."""
    return [arguments[0]]


def _words(arguments: tuple) -> list:
    """The words of a command, and those of a shell line or a program inside them."""
    found = []
    for argument in arguments[:2]:
        for word in argument if isinstance(argument, (list, tuple)) else [argument]:
            if isinstance(word, (str, bytes, os.PathLike)):
                found += [word, *_files.named_in(os.fsdecode(word))]
    return found


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
