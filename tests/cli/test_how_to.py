"""The commands of book/how_to.md run as they stand, one after the other, with a tiny random backbone for speed."""

from __future__ import annotations

import re
import shlex

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from covtoken.backbone.weights import load_backbone
from covtoken.cli.app import app
from covtoken.data.masks import read_mask
from covtoken.data.readers import phantom
from covtoken.maps import run
from covtoken.paths import project_root

PAGE = project_root() / "book" / "how_to.md"


def test_the_how_to_runs_as_typed(tmp_path, monkeypatch):
    cohort = phantom.read(n=80)
    cases = [case for case in cohort.cases if case.modality == "ultrasound"]
    withs = [case for case in cases if read_mask(cohort.masks[case.name]).any()]
    for i, case in enumerate(withs[:12]):
        _save(tmp_path / "own/pictures" / f"p{i}.png", case.pixels())
        _save(tmp_path / "own/masks" / f"p{i}_mask.png", read_mask(cohort.masks[case.name]) * 255)
    for folder, some in (("others", withs[12:24]), ("later", withs[24:26])):
        for case in some:
            _save(tmp_path / folder / f"{case.name}.png", case.pixels())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path / "cache"))
    tiny = load_backbone("random:vit_tiny_patch16_224", 96)
    monkeypatch.setattr(run, "load_backbone", lambda name, size: tiny)
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 13
    for line in lines:
        name, *arguments = shlex.split(line)
        done = CliRunner().invoke(app, arguments)
        assert name == "covtoken" and done.exit_code == 0, f"{line}\n{done.stdout}\n{done.stderr}\n{done.exception}"
    assert {"certificate.json", "mine.safetensors", "bank.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    assert [np.load(path).sum() for path in (tmp_path / "quarter").glob("*.kept.npy")] == [9, 9]


def test_the_page_names_every_command_of_the_first_panel():
    """What stands in neither page is not to be found by a person who reads."""
    from covtoken.cli.app import COMMANDS, OWN

    pages = PAGE.read_text() + (PAGE.parent / "own_pictures.md").read_text()
    assert not [name for panel, name, *_ in COMMANDS if panel == OWN and f"covtoken {name} " not in pages]


def _save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(path)
