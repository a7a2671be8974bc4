"""Which files are masks: known by resolved path, by inode and by content. Bytes are read to digest them."""

from __future__ import annotations

import hashlib
import os
import stat
import threading

_digesting = threading.local()


class MaskFiles:
    """The mask files registered in this process (``covtoken.leak_guard.register_mask_files``)."""

    def __init__(self) -> None:
        self._paths: dict[str, os.stat_result | None] = {}
        self._inodes: dict[tuple[int, int], str] = {}
        self._sizes: dict[int, list[str]] = {}
        self._digests: dict[tuple, bytes] = {}

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
        """Resolved paths, in the order of registration."""
        return list(self._paths)

    def knows(self, named: object) -> bool:
        """Whether a path, or an open descriptor, leads to a registered mask or to a copy of one."""
        if getattr(_digesting, "now", False) or not self._paths:
            return False
        if isinstance(named, int):
            try:
                return self._same_file(os.fstat(named))
            except OSError:
                return False
        if not isinstance(named, (str, bytes, os.PathLike)):
            return False
        name = os.fsdecode(named)
        try:
            if os.path.realpath(name) in self._paths:
                return True
            status = os.stat(name)
        except (OSError, ValueError):
            # Not visible from here: a name relative to a `dir_fd`, which the audit event does not carry.
            if not name or os.path.isabs(name):
                return False
            return any(known.endswith(os.sep + name) for known in list(self._paths))
        return self._same_file(status) or self._same_content(name, status)

    def named_in(self, text: str) -> list[str]:
        """Registered paths that stand in a text, such as a shell line."""
        return [path for path in list(self._paths) if path in text]

    def held_open(self) -> str:
        """A registered mask that this process holds open or mapped now, or ""; only where ``/proc`` tells (Linux)."""
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

    def _same_file(self, status: os.stat_result) -> bool:
        """An inode is trusted while the mask still has it, or if it was moved unchanged: numbers are used again."""
        known = self._inodes.get((status.st_dev, status.st_ino))
        if known is None:
            return False
        then = self._paths[known]
        if then is not None and (then.st_size, then.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
            return True
        try:
            return os.path.samestat(os.stat(known), status)
        except OSError:
            return False

    def _same_content(self, name: str, status: os.stat_result) -> bool:
        """Byte for byte a mask of that size: digests are made when sizes agree, and kept."""
        rivals = self._sizes.get(status.st_size)
        if not rivals or status.st_size == 0 or not stat.S_ISREG(status.st_mode):
            return False
        digest = self._digest(name, status)
        return digest is not None and any(self._digest(path, self._paths[path]) == digest for path in rivals)

    def _digest(self, path: str, status: os.stat_result) -> bytes | None:
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            _digesting.now = True  # our own look at a mask must not trip the hook
            try:
                with open(path, "rb") as stream:
                    self._digests[key] = hashlib.file_digest(stream, "sha256").digest()
            except OSError:
                return None
            finally:
                _digesting.now = False
        return self._digests[key]
