"""``papermill notebooks/x.ipynb`` as typed: in a terminal, with a pipe on standard input, with redirected output."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from covtoken.papermill_engine import with_output_path
from covtoken.paths import PACKAGE

PAPERMILL = Path(sys.executable).with_name("papermill")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout of its own, with the real engine module and one notebook."""
    root = tmp_path / "mini"
    (root / "covtoken").mkdir(parents=True)
    for name in ("papermill_engine.py", "paths.py", "errors.py"):
        shutil.copy(PACKAGE / name, root / "covtoken" / name)
    (root / "covtoken" / "__init__.py").write_text("")
    (root / "pyproject.toml").write_text("")
    (root / "notebooks").mkdir()
    cell = nbformat.v4.new_code_cell("print('ran' + ' here')", id="one")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), root / "notebooks" / "gate9.ipynb")
    return root


def environment(root: Path) -> dict[str, str]:
    # The package of the small checkout goes first; the entry point by which papermill finds it is the installed one.
    return {**os.environ, "PYTHONPATH": str(root)}


def executed(root: Path) -> bool:
    path = root / "gate_reports" / "_run" / "gate9.ipynb"
    return path.exists() and "ran here" in nbformat.read(path, as_version=4).cells[0].outputs[0]["text"]


def test_in_a_terminal(checkout):
    before = (checkout / "notebooks" / "gate9.ipynb").read_bytes()
    leader, follower = pty.openpty()
    command = [PAPERMILL, "notebooks/gate9.ipynb"]
    process = subprocess.Popen(
        command, cwd=checkout, env=environment(checkout), stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    said = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # Linux says so when the other side has closed
            break
        if not piece:
            break
        said += piece
    os.close(leader)
    assert process.wait(timeout=120) == 0, said.decode()
    assert b"no output path given" in said
    assert executed(checkout)
    assert (checkout / "notebooks" / "gate9.ipynb").read_bytes() == before


def test_with_a_pipe_on_standard_input(checkout):
    before = (checkout / "notebooks" / "gate9.ipynb").read_bytes()
    command = [PAPERMILL, "notebooks/gate9.ipynb"]
    done = subprocess.run(command, cwd=checkout, env=environment(checkout), input=b"", capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert executed(checkout)
    assert (checkout / "notebooks" / "gate9.ipynb").read_bytes() == before


def test_with_redirected_output(checkout):
    command = [PAPERMILL, "notebooks/gate9.ipynb"]
    with (checkout / "log.txt").open("wb") as log:
        done = subprocess.run(
            command, cwd=checkout, env=environment(checkout), stdin=subprocess.DEVNULL, stdout=log, timeout=120
        )
    assert done.returncode == 0
    assert executed(checkout)
    assert (checkout / "log.txt").read_bytes() == b""  # the notebook's JSON did not go there


def test_two_paths_stay_as_typed(checkout):
    command = [PAPERMILL, "notebooks/gate9.ipynb", "mine.ipynb", "-k", "python3"]
    done = subprocess.run(command, cwd=checkout, env=environment(checkout), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert (checkout / "mine.ipynb").exists()
    assert not (checkout / "gate_reports").exists()


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["notebooks/gate9.ipynb"], True),
        (["-p", "cohort", "busi", "notebooks/gate9.ipynb"], True),
        (["notebooks/gate9.ipynb", "--kernel=python3", "--cwd", ".", "--log-output"], True),
        (["--", "notebooks/gate9.ipynb"], True),
        (["notebooks/gate9.ipynb", "out.ipynb"], False),
        (["notebooks/gate9.ipynb", "-"], False),
        (["--help-notebook", "notebooks/gate9.ipynb"], False),
        (["notebooks/absent.ipynb"], False),
        (["elsewhere.ipynb"], False),
        (["--version"], False),
        ([], False),
    ],
)
def test_which_command_lines_are_extended(checkout, monkeypatch, arguments, added):
    monkeypatch.chdir(checkout)
    shutil.copy("notebooks/gate9.ipynb", "elsewhere.ipynb")
    argv = ["papermill", *arguments]
    expected = [str(checkout / "gate_reports" / "_run" / "gate9.ipynb")] if added else []
    assert with_output_path(argv, checkout) == argv + expected


def test_loading_the_engine_stays_light():
    code = (
        "import sys, covtoken.papermill_engine; print([m for m in ('torch', 'pandas', 'altair') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
