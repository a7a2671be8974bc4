"""Where things lie: never by the working directory, and nothing half-written where a folder refuses."""

import os

import pytest

from covtoken.errors import CovtokenError
from covtoken.paths import cache_root, data_root, project_root, write_then_rename


@pytest.mark.parametrize(("variable", "root"), [("COVTOKEN_DATA", data_root), ("COVTOKEN_CACHE", cache_root)])
def test_a_relative_folder_is_taken_from_the_projects_root(tmp_path, monkeypatch, variable, root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "here/../there")
    assert root() == project_root() / "there"
    monkeypatch.setenv(variable, str(tmp_path))
    assert root() == tmp_path
    monkeypatch.setenv(variable, " ")
    assert root() != tmp_path


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "file" / "x.json", tmp_path / "file" / "deeper" / "x.json"):
        with (
            pytest.raises(CovtokenError, match=r"cannot write .*x.json: .*write permission"),
            write_then_rename(target),
        ):
            raise AssertionError("nothing may be computed for a file that cannot be made")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(CovtokenError, match="nothing was changed"), write_then_rename(target) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"] and target.read_text() == "old"


@pytest.mark.parametrize(("variable", "root"), [("COVTOKEN_DATA", data_root), ("COVTOKEN_CACHE", cache_root)])
def test_a_home_folder_that_is_not_known_is_one_clear_error(monkeypatch, variable, root):
    monkeypatch.setenv(variable, "~nosuchuser/x")
    with pytest.raises(CovtokenError, match=f"{variable}: no home folder is known for ~nosuchuser/x; write the path"):
        root()


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    target, steps = tmp_path / "x.json", []
    fsync, replace = os.fsync, type(target).replace

    def synced(handle):
        inode = os.fstat(handle).st_ino
        steps.append("folder" if inode == tmp_path.stat().st_ino else os.pread(handle, 10, 0).decode())
        fsync(handle)

    def renamed(path, to):
        steps.append("rename")
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(type(target), "replace", renamed)
    with write_then_rename(target) as temporary:
        temporary.write_text("new")
    assert steps == ["new", "rename", "folder"] and target.read_text() == "new"


def test_a_disk_that_fails_while_syncing_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    target.write_text("old")

    def failing(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with (
        pytest.raises(CovtokenError, match="Input/output error; nothing was changed"),
        write_then_rename(target) as new,
    ):
        new.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"] and target.read_text() == "old"
