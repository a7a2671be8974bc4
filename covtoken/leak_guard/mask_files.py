"""Recognise mask files by resolved path, by inode and by content, which is digested.

A mask that is the same everywhere is known by path and inode alone: a black picture of its size may be the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_digesting = threading.local()


class MaskFiles:
    """The mask files registered in this process (``covtoken.leak_guard.register_mask_files``)."""

    def __init__(self) -> None:
        self._paths: dict[str, os.stat_result | None] = {}
        self._inodes: dict[tuple[int, int], str] = {}
        self._sizes: dict[int, list[str]] = {}
        self._digests: dict[tuple, bytes] = {}
        self._constant: dict[bytes, bool] = {}  # by digest

    def add(self, path: str | os.PathLike) -> None:
        """Register a file; one that is missing is known by its path alone."""
        resolved = os.path.realpath(os.fsdecode(path))
        try:
            status = os.stat(resolved)
        except OSError:
            self._paths.setdefault(resolved, None)
            return  # a missing mask is the mask door's error, with the case's name
        if resolved not in self._paths or self._paths[resolved] is None:
            self._sizes.setdefault(status.st_size, []).append(resolved)
        self._paths[resolved] = status
        self._inodes[(status.st_dev, status.st_ino)] = resolved

    def paths(self) -> list[str]:
        """List resolved paths, in the order of registration."""
        return list(self._paths)

    def mask_of(self, named: object) -> tuple[str, bool]:
        """Find the registered mask that a path or an open descriptor leads to ("": none), and say if it is a copy."""
        if getattr(_digesting, "now", False) or not self._paths:
            return "", False
        if isinstance(named, int):
            try:
                return self._same_file(os.fstat(named)), False
            except OSError:
                return "", False
        if not isinstance(named, (str, bytes, os.PathLike)):
            return "", False
        name = os.fsdecode(named)
        try:
            if (resolved := os.path.realpath(name)) in self._paths:
                return resolved, False
            status = os.stat(name)
        except (OSError, ValueError):
            # Not visible from here: a name relative to a `dir_fd`, which the audit event does not carry.
            if not name or os.path.isabs(name):
                return "", False
            return next((known for known in list(self._paths) if known.endswith(os.sep + name)), ""), False
        same = self._same_file(status)
        return (same, False) if same else (self._same_content(name, status), True)

    def named_in(self, text: str) -> list[str]:
        """Find registered paths in a text, such as a shell line."""
        return [path for path in list(self._paths) if path in text]

    def held_open(self) -> str:
        """Find a registered mask that this process holds open or mapped, or ""; only where ``/proc`` tells (Linux)."""
        if not self._paths or not os.path.isdir("/proc/self/fd"):
            return ""
        for name in os.listdir("/proc/self/fd"):
            try:
                if self._same_file(os.fstat(int(name))):
                    return os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue  # closed meanwhile, as the listing's own descriptor is
        with open("/proc/self/maps", errors="surrogateescape") as lines:
            mapped = {fields[5].rstrip("\n") for line in lines if len(fields := line.split(maxsplit=5)) == 6}
        return next((path for path in mapped if path in self._paths), "")

    def _same_file(self, status: os.stat_result) -> str:
        """Find the mask of an inode, or "": numbers are used again, so the mask must still have it or be unchanged."""
        known = self._inodes.get((status.st_dev, status.st_ino))
        if known is None:
            return ""
        then = self._paths[known]
        if then is not None and (then.st_size, then.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
            return known
        try:
            return known if os.path.samestat(os.stat(known), status) else ""
        except OSError:
            return ""

    def _same_content(self, name: str, status: os.stat_result) -> str:
        """Find the mask that a file equals byte for byte, or ""; digests are made where sizes agree, and kept."""
        rivals = self._sizes.get(status.st_size)
        if not rivals or status.st_size == 0 or not stat.S_ISREG(status.st_mode):
            return ""
        digest = self._digest(name, status)
        if digest is None:
            return ""
        same = next((path for path in rivals if self._digest(path, self._paths[path]) == digest), "")
        if same and digest not in self._constant:
            with _own_look():
                self._constant[digest] = _is_constant(name)
        return "" if same and self._constant[digest] else same

    def _digest(self, path: str, status: os.stat_result) -> bytes | None:
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            try:
                with _own_look(), open(path, "rb") as stream:
                    self._digests[key] = hashlib.file_digest(stream, "sha256").digest()
            except OSError:
                return None
        return self._digests[key]


@contextmanager
def _own_look() -> Iterator[None]:
    """Keep the guard's look at a mask from tripping the hook."""
    _digesting.now = True
    try:
        yield
    finally:
        _digesting.now = False


def _is_constant(path: str) -> bool:
    """Say whether a file, of any format that masks come in, decodes and holds one value a channel."""
    import numpy as np  # late: a worker that only asks for the guard needs none of these
    from PIL import Image

    try:
        with open(path, "rb") as stream:
            data = stream.read()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        if data[:6] == b"\x93NUMPY":
            values = np.load(io.BytesIO(data), allow_pickle=False)
        elif data[344:347] in (b"n+1", b"ni1"):
            from nibabel import Nifti1Image

            values = np.asanyarray(Nifti1Image.from_bytes(data).dataobj)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a large picture: its reader warns
                with Image.open(io.BytesIO(data)) as image:
                    if getattr(image, "n_frames", 1) > 1:
                        return False
                    values = np.atleast_2d(image.getextrema()).T  # [2, channels]
                    return bool((values[0] == values[1]).all())
        return bool(values.size and (values == values.flat[0]).all())
    except Exception:  # whatever is wrong with it, it stays known
        return False
