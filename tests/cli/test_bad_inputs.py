"""Every input of ``bad_inputs.py`` gets its answer and exit code, and never a traceback; the page says the same."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings

import pytest
from bad_inputs import BEGIN, END, PAGE, TABLE, Bad, block, every

from covtoken.backbone.weights import load_backbone
from covtoken.cli.app import COMMANDS, main
from covtoken.maps import run
from covtoken.paths import project_root

AS_A_COMMAND = ("The input does not exist", "A pickle in place of a bank", "A backbone misspelt")
WAY_OUT = re.compile(  # what is expected, or a thing to do
    r"expected|must be|paths are relative|has blocks|Name the|export|but not a|is not one or two"
    r"|Known|Did you mean|did you mean|--\w|Try|known|needs|cohorts with|have thresholds"
    r"|\b(add|build|calibrate|check|choose|convert|fetch|get|give|keep|leave|makes?|mend|name|names|open|opens|rename"
    r"|repair|restore|run|save|say|Say|scale|set|take|unpack|use|write|writes|build|repeat|stay)\b|is a quotation mark"
)


@pytest.fixture(scope="module")
def models():
    """Backbones by name and size, each loaded once for all inputs."""
    return {}


def answer(bad: Bad, here, capsys, monkeypatch) -> tuple[int, str, str]:
    """Run ``main`` in the folder: exit code, standard error in one line without boxes, standard output."""
    monkeypatch.chdir(here)
    for name, value in bad.environment:
        monkeypatch.setenv(name, value.format(here=here))
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr(sys, "argv", ["covtoken", *shlex.split(bad.command)])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit) as ended:  # any other exception would be a traceback
        main()
    out, err = capsys.readouterr()
    lines = (line.strip("│ ") for line in err.splitlines() if line[:1] not in "╭╰")
    return ended.value.code or 0, "\n".join(lines).replace(str(project_root()), "…").replace(str(here), "…"), out


def pattern(says: str) -> str:
    return ".*".join(re.escape(part).replace("\\ ", r"\s+") for part in says.split("…"))


@pytest.mark.parametrize("bad", every(), ids=lambda bad: bad.wrong)
def test_a_bad_input_gets_its_answer(bad, tmp_path, capsys, monkeypatch, models):
    def loaded(name: str, size: int = 224, **how):
        if how:
            return load_backbone(name, size, **how)
        return models.get((name, size)) or models.setdefault((name, size), load_backbone(name, size))

    monkeypatch.setattr(run, "load_backbone", loaded)
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path / "cache-of-all"))
    bad.make(tmp_path)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts[len(tmp_path.parts)]}
    code, said, _ = answer(bad, tmp_path, capsys, monkeypatch)
    assert re.search(pattern(bad.says), said), said
    assert code == bad.exit and "Traceback" not in said
    after = {path for path in tmp_path.rglob("*") if "cache" not in path.parts[len(tmp_path.parts)]}
    assert bad.exit == 1 or not [path for path in after - before if path.is_file()], "a refusal leaves no file"
    assert not (tmp_path / "ran").exists(), "a pickle ran"


@pytest.mark.parametrize("name", AS_A_COMMAND)
def test_the_real_command_says_the_same(name, tmp_path):
    (bad,) = (bad for bad in every() if bad.wrong == name)
    bad.make(tmp_path)
    command = [sys.executable, "-c", "from covtoken.cli.app import main; main()", *shlex.split(bad.command)]
    environment = os.environ | {"PYTHONPATH": str(project_root())}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == bad.exit and done.stdout == ""
    assert re.fullmatch("covtoken: " + pattern(bad.says) + "\n", done.stderr)


def test_the_table_covers_the_commands_and_every_answer_has_a_way_out():
    rows = every()
    assert len(rows) >= 60 and len({bad.wrong for bad in rows}) == len(rows)
    tried = {shlex.split(bad.command)[0] for bad in rows}
    assert not {name for _, name, *_ in COMMANDS} - tried - {"report", "doctor", "info"}  # which take no input
    assert not [bad.says for bad in rows if bad.says and not WAY_OUT.search(bad.says)]
    assert len(TABLE) == block().count("\n## ") + 1


def test_the_page_is_the_table():
    text = PAGE.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == block(), "run: python tests/bad_inputs.py"
