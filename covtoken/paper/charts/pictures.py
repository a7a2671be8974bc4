"""Draw pictures with a score laid over them and the outline of the lesion."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from covtoken.errors import CovtokenError
from covtoken.paper.charts.style import panel_title, side_by_side


def lesion_maps(cases: Iterable[Mapping], title: str = "Score maps", columns: int = 2, size: int = 230):
    """Lay scores and lesion outlines over pictures.

    Args:
        cases: mappings with ``name``, ``picture`` [H, W] in 0…1, ``score`` [rows, cols], ``mask`` [H, W] bool or None;
            optionally ``case``, the picture's name where ``name`` is the score's.
        columns: pictures beside each other; two stay readable on a phone.
        size: width of a picture in px.
    """
    panels = []
    for case in cases:
        url = "data:image/jpeg;base64," + base64.b64encode(_jpeg(overlay(case, size))).decode()
        place = {"name": [str(case["name"])], "case": [str(case.get("case", case["name"]))]}
        pixels = alt.Chart(pd.DataFrame({"url": [url]} | place))
        image = pixels.mark_image(width=size, height=size).encode(
            x=alt.value(size / 2), y=alt.value(size / 2), url="url:N", tooltip=["case:N", "name:N"]
        )
        panels.append(image.properties(width=size, height=size, title=panel_title(str(case["name"]))))
    if not panels:
        raise CovtokenError("lesion_maps: no case to draw; pass at least one")
    subtitle = "Yellow: high score within the picture. White line: the lesion's outline."
    return side_by_side(panels, title, subtitle, columns)


# Seven stops of the cividis-to-yellow ramp that survive grey printing: dark blue is low, yellow is high.
RAMP = np.array(
    [(0, 32, 76), (24, 61, 107), (87, 93, 109), (124, 123, 120), (167, 155, 116), (214, 190, 96), (255, 234, 70)]
)


def overlay(case: Mapping, size: int) -> np.ndarray:
    """Draw the picture in grey, the score as colour over it, the mask's outline in white: [size, size, 3], 0…255."""
    picture = np.clip(np.asarray(case["picture"], dtype=np.float32), 0, 1)
    score = np.asarray(case["score"], dtype=np.float32)
    grey = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
    low, high = np.percentile(score, [2, 98])
    scaled = np.clip((score - low) / max(float(high - low), 1e-9), 0, 1)
    # Nearest: a reader should see the tokens that the score belongs to, not an invented finer map.
    heat = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize((size, size), Image.Resampling.NEAREST))
    position = heat * (len(RAMP) - 1)
    below = np.minimum(position.astype(int), len(RAMP) - 2)
    part = (position - below)[..., None]
    colour = RAMP[below] * (1 - part) + RAMP[below + 1] * part
    alpha = (0.15 + 0.45 * heat)[..., None]
    pixels = grey[..., None] * 255 * (1 - alpha) + colour * alpha
    if case.get("mask") is not None:
        pixels[outline_of(case["mask"], size)] = 255
    return pixels


def outline_of(mask: np.ndarray, size: int) -> np.ndarray:
    """Mark the pixels [size, size] on the inner edge of a mask [H, W]."""
    image = Image.fromarray(np.asarray(mask).astype(np.uint8) * 255).resize((size, size))
    inside = np.pad(np.asarray(image) >= 128, 1, mode="edge")
    core = inside[1:-1, 1:-1].copy()
    for rows, cols in ((0, 1), (2, 1), (1, 0), (1, 2)):
        core &= inside[rows : rows + size, cols : cols + size]
    return inside[1:-1, 1:-1] & ~core


def _jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    # JPEG: speckle makes a PNG three times larger, and notebooks are kept in git.
    Image.fromarray(pixels.round().astype(np.uint8)).save(stream, "JPEG", quality=80, subsampling=0, optimize=True)
    return stream.getvalue()
