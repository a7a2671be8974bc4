"""Every job on the phantom, offline: killed, resumed, and equal to a run that nothing disturbed."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covtoken.paths import PACKAGE
from covtoken.shards.pictures import open_pictures
from covtoken.shards.rates import filled, read_rates

JOBS = PACKAGE.parent / "jobs"
SCRIPTS = sorted(JOBS.glob("*.py"))
VIT = ["--backbone", "random:vit_tiny_patch16_224"]
SMALL = [*VIT, "--picture-size", "64"]


def job(name: str, *argv) -> None:
    """Run a script in this process."""
    script = runpy.run_path(str(JOBS / f"{name}.py"))
    sys.modules["covtoken.shards.job"].run_job(script["parser"], script["run"], [str(arg) for arg in argv])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def killed(monkeypatch):
    """Run a job and interrupt it at its n-th rename into OUTPUT; say whether it came so far."""
    rename = Path.replace

    def run(n: int, name: str, *argv) -> bool:
        left, folder = iter(range(n - 1)), Path(argv[1])

        def replace(self, target):
            if folder in Path(target).parents and next(left, None) is None:
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            try:
                job(name, *argv)
            except KeyboardInterrupt:
                return True
        return False

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "pictures"
    job("materialize", "phantom", folder, "--max-cases", 26, "--shards", 3)
    return folder


@pytest.fixture(scope="module")
def tokens(pictures):
    job("extract_tokens", pictures, pictures.with_name("tokens"), *SMALL)
    return pictures.with_name("tokens")


def test_materialize_killed_and_sharded_writes_the_same(pictures, tmp_path, killed):
    argv = ("phantom", tmp_path, "--max-cases", 26, "--shards", 3)
    assert killed(2, "materialize", *argv) and killed(4, "materialize", *argv)
    for i in (3, 1, 2):
        job("materialize", *argv, "--shard", f"{i}/3")
    assert files(tmp_path) == files(pictures)


def test_extract_tokens_killed_by_a_signal_writes_the_same(pictures, tokens, tmp_path):
    """The process itself is killed, as soon as there is a shard."""
    command = [sys.executable, JOBS / "extract_tokens.py", pictures, tmp_path, *SMALL]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)})
    while run.poll() is None and not list(tmp_path.glob("*.safetensors")):
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    job("extract_tokens", pictures, tmp_path, *SMALL)
    assert files(tmp_path) == files(tokens)


def test_a_folder_without_masks_becomes_shards_of_its_pictures(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"own/p{i}.png")
    (tmp_path / "own/broken.png").write_bytes(b"no picture")
    job("materialize", tmp_path / "own", tmp_path / "shards", "--shards", 2)
    cases, _, n = open_pictures(tmp_path / "shards")
    assert n == 2 and [case.name for case in cases] == ["p0", "p1", "p2"] and "broken.png" in capsys.readouterr().err
    assert all(
        (case.pixels() == np.asarray(Image.open(tmp_path / f"own/{case.name}.png"), np.float32)).all() for case in cases
    )


def test_build_bank_killed_and_sharded_writes_the_same(tokens, tmp_path, killed, capsys):
    job("build_bank", tokens, tmp_path / "alone", "--depth", 12)
    argv = (tokens, tmp_path / "killed", "--depth", 12)
    assert killed(3, "build_bank", *argv) and killed(8, "build_bank", *argv)
    with pytest.raises(SystemExit) as waits:
        job("build_bank", tokens, tmp_path / "parts", "--depth", 12, "--shard", "2/3")
    assert waits.value.code == 3 and "waits for shards 1, 3 of 3" in capsys.readouterr().err
    job("build_bank", *argv)
    job("build_bank", *argv)
    assert files(tmp_path / "killed") == files(tmp_path / "alone")


def test_run_gate_killed_makes_the_rest_and_keeps_what_is_there(tmp_path, killed, capsys):
    argv = ("phantom", tmp_path, *VIT, "--gates", "0,2", "--no-cache", "--shard", "1/2")
    assert killed(1, "run_gate", *argv, "--max-cases", 12) and not files(tmp_path)
    job("run_gate", *argv, "--max-cases", 12)
    assert "gate0: made" in capsys.readouterr().err
    before = files(tmp_path)
    assert list(before) == ["gate0.json"] and json.loads(before["gate0.json"])["content"]["decision"]
    job("run_gate", *argv, "--max-cases", 12)
    assert "gate0: was there" in capsys.readouterr().err and files(tmp_path) == before
    with pytest.raises(SystemExit) as refused:
        job("run_gate", *argv, "--max-cases", 13)
    assert refused.value.code == 2 and "max_cases: expected 13, it has 12" in capsys.readouterr().err


def test_ablate_killed_makes_the_rest(tmp_path, killed):
    argv = ("phantom", tmp_path, *VIT, "--max-cases", 12, "--only", "pooling,rank", "--no-cache")
    assert killed(1, "ablate", *argv, "--shard", "1/2") and not files(tmp_path)
    job("ablate", *argv, "--shard", "1/2")
    assert list(files(tmp_path)) == ["pooling.json"]
    assert json.loads(files(tmp_path)["pooling.json"])["content"]["rows"]


def test_route_benchmark_killed_makes_the_rest(pictures, tmp_path, killed):
    argv = (pictures, tmp_path, *SMALL, "--blocks", "3,6", "--ratios", "0.5", "--batch", 2, "--repeats", 1)
    assert killed(2, "route_benchmark", *argv)
    before = files(tmp_path)
    job("route_benchmark", *argv)
    after = files(tmp_path)
    assert list(after) == ["route-3-0.5.json", "route-6-0.5.json"] and before.items() <= after.items()
    assert json.loads(after["route-6-0.5.json"])["content"][0]["pass"] == "full"


def test_launch_tells_the_measured_from_arithmetic(tmp_path, pictures, capsys):
    rates = tmp_path / "measured.json"
    job("extract_tokens", pictures, tmp_path / "tokens", *SMALL, "--measured", rates, "--shard", "1/3")
    (row,) = read_rates(rates)
    assert row["cases"] == 9 and "load" in row and row["cases_per_second"] > 0
    capsys.readouterr()
    argv = ["extract_tokens", "/in", "/out", "--shards", 4, "--cases", 7200, "--dry-run"]
    rates.write_text(json.dumps([row | {"cases_per_second": 0.5}]))
    job("launch", *argv, "--measured", rates)
    said = capsys.readouterr().out
    assert said.count("--shard ") == 4 and "/in /out --shard 4/4" in said
    assert "0.5 cases a second (9 cases of extract_tokens" in said and "on 4 machines: 1 hours" in said
    assert "assumption:" in said
    job("launch", *argv, "--measured", tmp_path / "none.json", "--on", "l4x1", "--bucket", "me/mine")
    said = capsys.readouterr().out
    assert "hf jobs uv run" in said and "hf://buckets/me/mine:/data" in said and "no time can be told" in said


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_headers_pin_what_the_constraints_pin(path):
    header = re.match(r"# /// script\n((?:# .*\n|#\n)+)# ///\n", path.read_text())
    told = tomllib.loads("\n".join(line[2:] for line in header[1].splitlines()))
    constraints = (PACKAGE.parent / "constraints.txt").read_text().split()
    assert set(told["dependencies"]) <= set(constraints)
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert told["requires-python"] == project["requires-python"]
    needed = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    pinned = {line.split("==")[0] for line in constraints}
    assert {line.split("==")[0] for line in told["dependencies"]} >= (needed & pinned) - {"papermill"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_docstrings_show_the_lines_to_type(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert f"PYTHONPATH=. uv run jobs/{path.stem}.py" in doc and "hf jobs uv run" in doc
    flat = re.sub(r"\s*\\\n\s*", " ", doc)
    for line in re.findall(rf"jobs/{path.stem}\.py (.*)", flat):
        runpy.run_path(str(path))["parser"].parse_args(line.split())


def test_the_readme_shows_what_was_measured_and_every_script():
    text = (JOBS / "README.md").read_text()
    rows = read_rates(JOBS / "measured.json")
    assert rows and text == filled(text, rows)
    assert all(f"`{path.name}`" in text for path in SCRIPTS)
