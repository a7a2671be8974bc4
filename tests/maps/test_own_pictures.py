"""The commands of book/own_pictures.md run as they stand; the real path, with the embedded weights."""

import json
import os
import re
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

import covtoken
from covtoken.paper.site import overlays
from covtoken.paths import project_root

PAGE = project_root() / "book" / "own_pictures.md"


def _commands():
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def _run(line, folder):
    name, *arguments = line.split()
    assert name == "covtoken"
    command = [sys.executable, "-c", "from covtoken.cli.app import main; main()", *arguments]
    environment = os.environ | {"PYTHONPATH": str(project_root())}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=environment)


@pytest.mark.slow
def test_the_tutorial_runs_as_typed(tmp_path):
    for folder in ("pictures", "later"):
        (tmp_path / folder).mkdir()
    for path in overlays.write_pictures(tmp_path / "pictures")[:2]:
        shutil.copy(path, tmp_path / "later")
    assert len(_commands()) == 3
    for line in _commands():
        done = _run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    first = json.loads((tmp_path / "maps/run.json").read_text())
    assert first["settings"]["bank"] == "the folder itself" and len(first["cases"]) == 14
    later = json.loads((tmp_path / "later-maps/run.json").read_text())
    assert (
        later["settings"]["direction"] == "mine.safetensors"
        and len(list(tmp_path.glob("later-maps/*/overlay.png"))) == 2
    )
    shown = re.findall(r"_static/own_pictures/(.+)\.jpg", PAGE.read_text())
    assert len(shown) == overlays.SHOWN
    for name in shown:  # the page's pictures are what the command makes, but for JPEG
        ours, made = (
            np.asarray(Image.open(path).convert("RGB"), int)
            for path in (project_root() / overlays.FOLDER / f"{name}.jpg", tmp_path / "maps" / name / "overlay.png")
        )
        assert ours.shape == made.shape and np.abs(ours - made).mean() < 4, name
    told = set(re.findall(r"`((?:map|mask|overlay|case|cases|run)\.[a-z.]+)`", PAGE.read_text()))
    written = {path.name for path in (tmp_path / "maps").rglob("*") if path.is_file()}
    assert written <= told


def test_real_pictures_by_the_shipped_direction(covtoken_data, tmp_path):
    """The lesion of a plain benign picture is what the map points to; array, image and command agree."""
    source = covtoken_data / "Dataset_BUSI_with_GT" / "benign" / "benign (3).png"
    if not source.is_file():
        pytest.skip("BUSI is not there")
    (tmp_path / "in").mkdir()
    shutil.copy(source, tmp_path / "in/one.png")
    done = _run("covtoken map -i in -o out --modality ultrasound --json", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["source"]["kind"] == "shipped direction" and record["alarm"]["fired"] is None
    found = np.load(tmp_path / "out/one/map.npy")
    pixels = np.asarray(Image.open(source).convert("L"))
    vit, direction = covtoken.load_backbone("embedded"), covtoken.shipped_direction("ultrasound")
    ours = covtoken.lesion_map(pixels, vit, direction)
    np.testing.assert_allclose(ours, found, atol=1e-3)
    image = covtoken.lesion_map(nibabel.Nifti1Image(pixels[..., None], np.diag([-1.0, -1, 1, 1])), vit, direction)
    assert image.shape == (*pixels.shape, 1) and image.get_data_dtype() == np.float32
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert pixels[row, column] < 60 and 120 < row < 170 and 270 < column < 340  # inside the dark lesion
