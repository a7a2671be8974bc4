"""Write the first figure: pictures as small WebP files, and their numbers as JSON, which the page captions from."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from covtoken.errors import CovtokenError
from covtoken.paper.charts.pictures import outline_of, overlay
from covtoken.paths import project_root, write_then_rename
from covtoken.studies.figure import SIZE, Panel

FOLDER = "book/_static/figure1"
VIEWS = {"picture": "picture and lesion", "map": "C−, high is yellow", "kept": "a quarter kept"}
CREDITS = {
    "busi": "BUSI, Al-Dhabyani et al. 2020 (CC0 on Kaggle; CC BY 4.0 in MedMNIST)",
    "lidc-crops": "LIDC-IDRI, Armato et al. 2011 (CC BY 3.0)",
}
NAMES = {"busi": "breast ultrasound", "lidc-crops": "lung CT window"}
MOST_BYTES = 1_000_000
DIMMED = 0.25  # of its brightness: a patch that is not kept


def write_figure(panels: Iterable[Panel], root: Path | None = None) -> Path:
    """Write three views a panel and the numbers of all; return the JSON's path.

    Raises:
        CovtokenError: a cohort without a credit, or more than a megabyte.
    """
    folder, entries, files = (root or project_root()) / FOLDER, [], {}
    for panel in panels:
        cohort = panel.numbers["cohort"]
        if cohort not in CREDITS:
            raise CovtokenError(f"cohort {cohort!r}: no credit and licence in covtoken/paper/first_figure.py")
        stem = f"{cohort}-{panel.numbers['outcome']}"
        drawn = {f"{stem}-{view}.webp": _webp(pixels) for view, pixels in views(panel).items()}
        files |= drawn
        entries.append(panel.numbers | {"credit": CREDITS[cohort], "views": list(drawn)})
    if sum(map(len, files.values())) > MOST_BYTES:
        raise CovtokenError(f"{len(files)} pictures have more than {MOST_BYTES} bytes: draw fewer")
    for name, content in files.items():
        with write_then_rename(folder / name) as temporary:
            temporary.write_bytes(content)
    path = folder / "figure1.json"
    with write_then_rename(path) as temporary:
        temporary.write_text(json.dumps({"panels": entries}, indent=1, sort_keys=True) + "\n")
    return path


def views(panel: Panel) -> dict[str, np.ndarray]:
    """Draw a panel three times: the picture with its lesion, the score, the kept tokens; uint8 [SIZE, SIZE, 3]."""
    case = {"picture": panel.picture, "score": panel.score, "mask": panel.mask}
    outline = outline_of(panel.mask, SIZE)
    plain = np.repeat(panel.picture[..., None] * 255, 3, axis=2)
    kept = Image.fromarray(panel.kept.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    dimmed = plain * np.where(np.asarray(kept)[..., None], 1.0, DIMMED)
    for pixels in (plain, dimmed):
        pixels[outline] = (255, 214, 10)
    drawn = {"picture": plain, "map": overlay(case, SIZE), "kept": dimmed}
    return {view: drawn[view].round().astype(np.uint8) for view in VIEWS}


def read_figure(root: Path) -> list[dict[str, Any]]:
    """Read the committed numbers.

    Raises:
        CovtokenError: no figure was written.
    """
    path = root / FOLDER / "figure1.json"
    if not path.is_file():
        raise CovtokenError(f"{FOLDER}/figure1.json: not recorded yet; run `covtoken figure`")
    return json.loads(path.read_text())["panels"]


def caption_of(numbers: dict[str, Any]) -> str:
    """Say in words what a panel shows, from its numbers."""
    tokens = f"{numbers['lesion_tokens_kept']} of {numbers['lesion_tokens']} lesion tokens kept"
    outcome = "retained" if numbers["outcome"] == "kept" else "missed"
    return (
        f"{NAMES[numbers['cohort']]}: {outcome}, {tokens}, AUROC in this "
        f"picture {numbers['auroc_in_this_picture']:.3f}. Lesion {numbers['lesion_share_of_the_picture']:.1%} of the "
        f"picture, {numbers['place_by_size']} of {numbers['pictures_with_one_lesion']} by size. Case {numbers['case']}."
    )


def _webp(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=82, method=6)
    return stream.getvalue()
