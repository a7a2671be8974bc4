"""Make the pictures of the tutorial: what ``covtoken map`` gives for a folder of the phantom's ultrasound pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from covtoken.data.readers import phantom
from covtoken.maps.run import Options, planned, run
from covtoken.paths import write_then_rename

FOLDER = Path("book/_static/own_pictures")
MADE_OF, SHOWN = 14, 3  # pictures of the folder, and of the page: the first by name


def write_pictures(folder: Path) -> list[Path]:
    """Write the tutorial's pictures as a person would have them: PNG files, no masks."""
    cases = [case for case in phantom.read(n=2 * MADE_OF + 4).cases if case.modality == "ultrasound"][:MADE_OF]
    paths = [folder / f"{case.name}.png" for case in cases]
    for case, path in zip(cases, paths, strict=True):
        Image.fromarray(np.clip(case.pixels(), 0, 255).astype(np.uint8)).save(path)
    return paths


def write_overlays(root: Path) -> list[Path]:
    """Map them, the folder being its own bank, and keep the first overlays for the page, as JPEG to keep it light.

    Args:
        root: of the checkout.
    """
    with tempfile.TemporaryDirectory() as made:
        pictures, maps = Path(made, "pictures"), Path(made, "maps")
        pictures.mkdir()
        shown = [path.stem for path in write_pictures(pictures)[:SHOWN]]
        with planned(Options(pictures, maps)) as plan:
            run(plan)
        targets = [root / FOLDER / f"{name}.jpg" for name in shown]
        for name, target in zip(shown, targets, strict=True):
            with write_then_rename(target) as temporary:
                overlay = Image.open(maps / name / "overlay.png").convert("RGB")
                overlay.save(temporary, format="jpeg", quality=85, optimize=True)
    return targets
