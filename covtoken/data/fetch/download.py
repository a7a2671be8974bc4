"""Download an archive and hold it against a pinned hash, going on where a broken download ended.

pooch does the request, the hash and the renaming. It begins anew after every break, which on archives of tens of
gigabytes may never end; so the request here names the bytes still missing (HTTP Range) and adds them to a hidden part.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from covtoken.errors import CovtokenError

CHUNK = 1 << 20  # bytes
Report = Callable[[int, int], None]


def download(url: str, file: Path, known_hash: str, report: Report = lambda done, total: None) -> Path:
    """Download ``url`` to ``file``, unless a file of the right hash lies there already.

    A broken download goes on by itself as long as bytes arrive, and at the next call where none did.

    Args:
        known_hash: ``"md5:…"`` or ``"sha256:…"``.
        report: told the bytes there and in all, as they arrive.

    Raises:
        CovtokenError: no network, a server's refusal, another hash (the file is removed), or no space (likewise).
    """
    import pooch
    from requests import exceptions

    pooch.get_logger().setLevel("WARNING")
    part = file.with_name(f".{file.name}.part")
    by_hand = f"or download {url} by other means, put it at {file} and run the same command"
    while True:
        had = _size(part)
        try:
            pooch.retrieve(url, known_hash, file.name, file.parent, downloader=_Resuming(part, report))
            return file
        except exceptions.HTTPError as error:
            code = error.response.status_code
            raise CovtokenError(f"{url}: the server refused it ({code}); try later, {by_hand}") from None
        except exceptions.RequestException as error:
            if _size(part) > had:
                continue
            kept = f"; {_size(part)} bytes are kept, and the next run goes on from there" if _size(part) else ""
            raise CovtokenError(
                f"cannot download from {urlsplit(url).hostname} ({_cause(error)}){kept}. Check the network, and "
                f"HTTPS_PROXY behind a proxy, {by_hand}"
            ) from None
        except ValueError as error:  # pooch has removed the file
            found = re.search(r"but got (\w+)", str(error))
            raise CovtokenError(
                f"{url}: the hash is {found[1] if found else 'another'}, and {known_hash} was expected: the download "
                "was damaged or the file was changed, so it was removed. Run the same command once more"
            ) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                part.unlink(missing_ok=True)
            raise CovtokenError(
                f"cannot write {file} ({error.strerror or error}); give another folder by --to"
            ) from None
        finally:
            if not _size(part):
                part.unlink(missing_ok=True)


class _Resuming:
    """Download in pooch's stead, from the end of a part on; the part becomes the file once it is whole."""

    def __init__(self, part: Path, report: Report) -> None:
        self.part, self.report, self.total = part, report, 0

    def __call__(self, url: str, output_file: str, _pooch, check_only: bool = False) -> None:
        from pooch import HTTPDownloader
        from requests import HTTPError

        start = _size(self.part)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with self.part.open("ab") as stream:
            ask = {"headers": headers, "hooks": {"response": lambda answer, *_, **__: self._judge(answer, stream)}}
            try:
                HTTPDownloader(progressbar=_Bar(self, stream), chunk_size=CHUNK, **ask)(url, stream, None)
            except HTTPError as error:
                if error.response.status_code != 416 or not start:
                    raise
                if error.response.headers.get("content-range", "").rpartition("/")[2] != str(start):
                    self.part.unlink()  # it is no beginning of this file
                    return self(url, output_file, _pooch)
        os.replace(self.part, output_file)

    def _judge(self, answer, stream) -> None:
        """Begin anew where the server sends all of the file; refuse it where the disk cannot hold it."""
        if answer.status_code not in (200, 206):
            return
        if answer.status_code == 200:
            stream.truncate(0)
        missing = int(answer.headers.get("content-length", 0))
        self.total = stream.seek(0, os.SEEK_END) + missing
        free = shutil.disk_usage(self.part.parent).free
        if missing + self.total > free:  # unpacked, an archive needs about its size again
            raise CovtokenError(
                f"{self.part.parent} has {free / 1e9:.1f} GB free, and the archive and what it holds need "
                f"{(missing + self.total) / 1e9:.1f} GB: give another folder by --to"
            )


class _Bar:
    """Tell how much is there; pooch moves it as it would a bar of tqdm."""

    def __init__(self, resuming: _Resuming, stream) -> None:
        self.resuming, self.stream, self.total = resuming, stream, 0

    def update(self, _n: int) -> None:
        self.resuming.report(self.stream.tell(), self.resuming.total)

    def reset(self) -> None: ...

    def close(self) -> None: ...


def _cause(error: BaseException) -> str:
    """Give the innermost reason of an error: the libraries' own wrap it several times."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:200] or type(error).__name__


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
