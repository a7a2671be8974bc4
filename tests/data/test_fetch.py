"""Fetching: pinned hashes, broken downloads that go on, full disks, hostile archives, names that are refused."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from covtoken.data.fetch import download as downloading
from covtoken.data.fetch import unpack as unpacking
from covtoken.data.fetch.data_sets import DATA_SETS, PUBLIC
from covtoken.data.fetch.download import download
from covtoken.data.fetch.fetch import fetch, fetchable, folder_for
from covtoken.data.fetch.unpack import unpack
from covtoken.errors import CovtokenError

TOP = "Task06_Lung"
BODY = bytes(range(256)) * 2000


def tar_of(path, members: dict[str, bytes | str]):
    """Write a tar: bytes are a file's content, a text is where a link leads."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def server():
    """Serve ``server.body`` on loopback; ``server.drops`` says after how many bytes each next answer breaks off."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            web.asked.append(asked)
            if web.status != 200:
                return self.send_error(web.status)
            start = int(asked[6:-1]) if asked and web.ranges else 0
            if start >= len(web.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(web.body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            rest = web.body[start:]
            self.send_response(206 if asked and web.ranges else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: web.drops.pop(0)] if web.drops else rest)

        def log_message(self, *_):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.body, web.asked, web.drops, web.ranges, web.status = BODY, [], [], True, 200
    web.url = f"http://127.0.0.1:{web.server_port}/{TOP}.tar"
    thread = threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield web
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(downloading, "CHUNK", 1 << 12)


def md5(body: bytes) -> str:
    return f"md5:{hashlib.md5(body).hexdigest()}"


def test_a_whole_download_is_told_as_it_grows_and_not_repeated(server, tmp_path):
    told = []
    file = download(server.url, tmp_path / "a.tar", md5(BODY), lambda done, total: told.append((done, total)))
    assert file.read_bytes() == BODY and os.listdir(tmp_path) == ["a.tar"]
    assert told[-1] == (len(BODY), len(BODY)) and sorted(told) == told and len(told) > 10
    download(server.url, tmp_path / "a.tar", f"sha256:{hashlib.sha256(BODY).hexdigest()}")
    assert server.asked == [None]


def test_a_broken_download_goes_on_where_it_ended_in_the_same_run(server, tmp_path):
    server.drops = [100_000, 50_000]
    assert download(server.url, tmp_path / "a.tar", md5(BODY)).read_bytes() == BODY
    first, second, third = server.asked
    assert first is None and 90_000 < int(second[6:-1]) <= 100_000 < int(third[6:-1]) <= 150_000
    assert os.listdir(tmp_path) == ["a.tar"]


def test_where_no_byte_comes_the_part_stays_for_the_next_run(server, tmp_path):
    server.drops = [100_000, 0]
    with pytest.raises(CovtokenError, match=r"cannot download from 127\.0\.0\.1 .*bytes are kept.*HTTPS_PROXY") as said:
        download(server.url, tmp_path / "a.tar", md5(BODY))
    assert str(tmp_path / "a.tar") in str(said.value)
    assert os.listdir(tmp_path) == [".a.tar.part"]
    assert download(server.url, tmp_path / "a.tar", md5(BODY)).read_bytes() == BODY
    assert server.asked[-1].startswith("bytes=9")


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.drops, server.ranges = [100_000], False
    assert download(server.url, tmp_path / "a.tar", md5(BODY)).read_bytes() == BODY


@pytest.mark.parametrize("more", [b"", b"of another file"])
def test_a_part_that_is_whole_is_taken_and_one_that_is_longer_is_not(server, tmp_path, more):
    (tmp_path / ".a.tar.part").write_bytes(BODY + more)
    assert download(server.url, tmp_path / "a.tar", md5(BODY)).read_bytes() == BODY
    assert len(server.asked) == (2 if more else 1)


def test_another_hash_is_refused_and_the_file_removed(server, tmp_path):
    wanted = md5(b"other")
    with pytest.raises(CovtokenError, match=rf"the hash is {md5(BODY)[4:]}, and {wanted} was expected.*removed"):
        download(server.url, tmp_path / "a.tar", wanted)
    assert os.listdir(tmp_path) == []


def test_a_refusal_of_the_server_and_a_server_that_is_not_there(server, tmp_path):
    server.status = 403
    with pytest.raises(CovtokenError, match=r"refused it \(403\).*by other means"):
        download(server.url, tmp_path / "a.tar", md5(BODY))
    with pytest.raises(CovtokenError, match=r"Connection refused.*Check the network"):
        download("http://127.0.0.1:9/a.tar", tmp_path / "a.tar", md5(BODY))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(server, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() > 50_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(downloading.Path, "open", lambda path, mode: Full(path, mode.replace("b", "")))
    with pytest.raises(CovtokenError, match=r"cannot write .*No space left on device.*--to"):
        download(server.url, tmp_path / "a.tar", md5(BODY))
    assert os.listdir(tmp_path) == []


def test_a_disk_too_small_for_archive_and_content_is_refused_before_a_byte_is_written(server, tmp_path, monkeypatch):
    free = len(BODY) * 2 - 1
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(CovtokenError, match="GB free, and the archive and what it holds need"):
        download(server.url, tmp_path / "a.tar", md5(BODY))
    assert os.listdir(tmp_path) == []


def test_an_archive_becomes_its_folder_without_the_junk_of_macos(tmp_path):
    members = {f"{TOP}/dataset.json": b"{}", f"./{TOP}/imagesTr/a.nii.gz": b"a", f"{TOP}/imagesTr/._a.nii.gz": b"junk"}
    archive = tar_of(tmp_path / "a.tar", members | {f"._{TOP}": b"junk"})
    told = []
    assert unpack(archive, TOP, tmp_path / "there", told.append) == 2 == told[-1]
    found = sorted(p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*") if p.is_file())
    assert found == ["dataset.json", "imagesTr/a.nii.gz"]


HOSTILE = {
    f"{TOP}/../../escaped": b"x",
    "/absolute": b"x",
    "elsewhere/file": b"x",
    f"{TOP}/link": "/etc/passwd",
    f"{TOP}/inner": "a.txt",
    f"{TOP}\\..\\escaped": b"x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_leaves_the_folder_is_refused_and_nothing_stays(tmp_path, name):
    (tmp_path / "in").mkdir()
    archive = tar_of(tmp_path / "in" / "a.tar", {f"{TOP}/a.txt": b"a", name: HOSTILE[name]})
    with pytest.raises(CovtokenError, match="it is not unpacked"):
        unpack(archive, TOP, tmp_path / "in" / "there")
    assert sorted(os.listdir(tmp_path)) == ["in"] and os.listdir(tmp_path / "in") == ["a.tar"]


@pytest.mark.parametrize("name", ["Top/../../escaped", "/absolute", "Top/link"])
def test_a_zip_is_held_to_the_same(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("Top/benign/a.png", b"a")
        packed.writestr("__MACOSX/Top/._a.png", b"junk")
    assert unpack(tmp_path / "a.zip", "Top", tmp_path / "there") == 1
    assert [p.name for p in (tmp_path / "there").rglob("*")] == ["benign", "a.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as packed:
        member = zipfile.ZipInfo(name)
        member.external_attr = (0o120777 if name.endswith("link") else 0o100644) << 16
        packed.writestr(member, "/etc/passwd")
    with pytest.raises(CovtokenError, match="it is not unpacked"):
        unpack(tmp_path / "a.zip", "Top", tmp_path / "again")
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "there"]


def test_damaged_empty_and_full_while_unpacking(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "a.tar", {f"{TOP}/a.txt": BODY})
    (tmp_path / "cut.tar").write_bytes(archive.read_bytes()[:200_000])
    (tmp_path / "text.tar").write_bytes(b"<html>not found</html>" * 100)
    for name in ("cut.tar", "text.tar"):
        with pytest.raises(CovtokenError, match=r"cannot be unpacked .*fetch it again"):
            unpack(tmp_path / name, TOP, tmp_path / "there")
    with pytest.raises(CovtokenError, match="holds no files in a folder Top"):
        unpack(tar_of(tmp_path / "none.tar", {}), "Top", tmp_path / "there")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unpacking.tarfile.TarFile, "extract", full)
    with pytest.raises(CovtokenError, match=r"No space left on device.*nothing was left there"):
        unpack(archive, TOP, tmp_path / "there")
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "cut.tar", "none.tar", "text.tar"]


def test_fetch_leaves_the_folder_alone_and_no_archive(server, tmp_path):
    server.body = tar_of(tmp_path / "made.tar", {f"{TOP}/dataset.json": b"{}"}).read_bytes()
    known = replace(DATA_SETS["msd-task06"], url=server.url, known_hash=md5(server.body))
    target = folder_for(known, str(tmp_path / "data"))
    assert fetch(known, target) == 1 and os.listdir(tmp_path / "data") == [TOP]
    given = replace(known, known_hash="", folder=TOP)
    with pytest.raises(CovtokenError, match="'12ab' is no sha256"):
        fetch(given, tmp_path / "other" / TOP, sha256="12ab")
    assert fetch(given, tmp_path / "other" / TOP, sha256=hashlib.sha256(server.body).hexdigest().upper()) == 1
    assert not os.path.exists(tmp_path / "third")
    with pytest.raises(CovtokenError, match="was expected"):
        fetch(given, tmp_path / "third" / TOP, sha256="0" * 64)
    assert os.listdir(tmp_path / "third") == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("busbra-external", "kept for one confirmation"),
        ("lidc-external", "kept for one confirmation"),
        ("lits", r"no official download: see data_cards/lits\.md"),
        ("phantom", "is drawn, not fetched"),
        ("msd-task6", "did you mean msd-task06"),
    ],
)
def test_names_that_are_not_fetched(name, said):
    with pytest.raises(CovtokenError, match=said):
        fetchable(name)


def test_without_a_folder_both_ways_out_are_said(monkeypatch):
    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    with pytest.raises(CovtokenError, match=r"COVTOKEN_DATA is not set.*--to FOLDER"):
        folder_for(DATA_SETS["msd-task03"])


def test_every_public_data_set_has_a_pinned_hash_or_steps_and_whom_to_cite():
    for known in DATA_SETS.values():
        if known.kind == PUBLIC:
            assert known.licence and known.citation and fetchable(known.name) is known
            assert bool(known.known_hash) != bool(known.steps), known.name
            assert not known.known_hash or (known.url.startswith("https://") and len(known.known_hash) == 36)
