"""Draw a case: the picture, the map over it with the contour of the mask, a colour bar and a scale bar, by Pillow.

Colours have one scale in all pictures of a run: clear at the bank's median score, full at its .9999 quantile.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from covtoken.scores.threshold import LEVELS, BankScores

SHORTEST, LONGEST = 480, 900  # pixels of the picture's longer side in the drawing
MARGIN, BAR, GAP, HEAD, FOOT = 16, 16, 14, 34, 46
BACKGROUND, INK, FAINT = (16, 18, 22), (235, 238, 242), (150, 156, 166)
CONTOUR = (255, 255, 255)
# Dark violet to pale yellow, rising evenly in lightness.
_COLOURS = np.array(
    [[20, 11, 52], [88, 16, 108], [150, 38, 103], [205, 67, 71], [240, 116, 27], [250, 180, 40], [252, 250, 170]], float
)
NOT_A_DEVICE = "not a medical device"


def draw(
    pixels: np.ndarray,
    found: np.ndarray,
    threshold: float,
    quantile: float,
    scores: BankScores,
    title: str,
    spacing_mm: tuple[float, float] | None = None,
    remark: str = "",
) -> Image.Image:
    """Draw a slice beside itself under its map.

    Args:
        pixels: [H, W] in 0 … 1.
        found: its map, [H, W].
        threshold: contours stand where the map crosses it.
        quantile: that the threshold is of.
        scores: of the bank; they give the colours.
        title: the case's name.
        spacing_mm: (row, column); gives true proportions and a bar in mm.
        remark: a second line under the picture.
    """
    size, mm_per_px = _drawn(pixels.shape, spacing_mm)
    grey = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    heat = np.asarray(Image.fromarray(found.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    width, height = size
    sheet = Image.new("RGB", (2 * MARGIN + 2 * width + 2 * GAP + BAR + 92, HEAD + height + FOOT), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    left, right, bar = MARGIN, MARGIN + width + GAP, MARGIN + 2 * width + 2 * GAP
    sheet.paste(grey.convert("RGB"), (left, HEAD))
    sheet.paste(_under(np.asarray(grey, float), heat, threshold, scores.scale), (right, HEAD))
    pen.text((left, 9), _fitted(pen, title, 2 * width), font=_font(15), fill=INK)
    _colour_bar(sheet, pen, (bar, HEAD, BAR, height), threshold, quantile, scores)
    if mm_per_px is not None:
        _scale_bar(pen, left, HEAD + height, width, mm_per_px)
    pen.text((left, HEAD + height + 7), _fitted(pen, remark, 2 * width, 12), font=_font(12), fill=FAINT)
    pen.text((left, HEAD + height + 25), f"covtoken lesion map, {NOT_A_DEVICE}", font=_font(12), fill=INK)
    return sheet


def _drawn(shape: tuple[int, int], spacing_mm: tuple[float, float] | None) -> tuple[tuple[int, int], float | None]:
    """Give width and height in the drawing, pixels square in mm where spacing is known, and mm a drawn pixel."""
    height, width = shape if spacing_mm is None else (side * step for side, step in zip(shape, spacing_mm))
    stored = max(shape)
    scale = min(max(stored, SHORTEST), LONGEST) / max(height, width)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    return size, None if spacing_mm is None else 1 / scale


def _under(grey: np.ndarray, heat: np.ndarray, threshold: float, scale: tuple[float, float]) -> Image.Image:
    """Blend colours over a grey picture [H, W], and draw the contour of what lies above the threshold."""
    level = np.clip((heat - scale[0]) / (scale[1] - scale[0]), 0, 1)
    colour = _colour(level)
    share = (0.75 * np.sqrt(level))[..., None]
    blended = grey[..., None] * (1 - share) + colour * share
    above = heat > threshold
    inner = np.pad(above, 2, mode="edge")
    core = np.ones_like(above)
    for down in range(5):
        for across in range(5):
            core &= inner[down : down + above.shape[0], across : across + above.shape[1]]
    blended[above & ~core] = CONTOUR
    return Image.fromarray(blended.astype(np.uint8))


def _colour(level: np.ndarray) -> np.ndarray:
    """Give RGB 0 … 255 [..., 3] of levels 0 … 1."""
    steps = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(level, steps, _COLOURS[:, channel]) for channel in range(3)], axis=-1)


def _colour_bar(sheet, pen, box: tuple[int, int, int, int], threshold: float, quantile: float, scores: BankScores):
    """Draw the colours with ticks at ranks among the bank's tokens, and a mark at the threshold."""
    left, top, width, height = box
    low, high = scores.scale
    strip = _colour(np.linspace(1, 0, height))[:, None, :].repeat(width, axis=1)
    sheet.paste(Image.fromarray(strip.astype(np.uint8)), (left, top))
    taken: list[float] = []

    def tick(score: float, words: str, fill) -> None:
        at = _at(score, box, low, high)
        if all(abs(at - other) >= 15 for other in taken):
            taken.append(at)
            pen.line([(left + width, at), (left + width + 5, at)], fill=fill)
            pen.text((left + width + 9, at), words, font=_font(12), fill=fill, anchor="lm")

    pen.line(
        [(left - 3, _at(threshold, box, low, high)), (left + width + 3, _at(threshold, box, low, high))], CONTOUR, 2
    )
    tick(threshold, f"{quantile:.4g} flagged", INK)
    for level in (0.5, 0.9, 0.99, 0.999, 0.9999):
        tick(float(np.interp(level, LEVELS, scores.scores)), f"{level:g}", FAINT)
    pen.text((left + width + 80, top - 12), "rank among bank tokens", font=_font(11), fill=FAINT, anchor="rm")


def _at(score: float, box: tuple[int, int, int, int], low: float, high: float) -> float:
    return box[1] + (1 - min(max((score - low) / (high - low), 0), 1)) * (box[3] - 1)


def _scale_bar(pen, left: int, bottom: int, width: int, mm_per_px: float) -> None:
    """Draw a bar of a round length in mm, about a fifth of the picture, on its lower edge."""
    room = width * mm_per_px / 4
    length = max((v for v in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if v <= room), default=room)
    pixels, at = length / mm_per_px, bottom - 14
    pen.rectangle([left + 11, at - 2, left + 13 + pixels, at + 3], fill=(0, 0, 0))
    pen.rectangle([left + 12, at - 1, left + 12 + pixels, at + 2], fill=INK)
    words = dict(font=_font(12), fill=INK, stroke_width=2, stroke_fill=(0, 0, 0), anchor="ls")
    pen.text((left + 12, at - 5), f"{length:g} mm", **words)


def _fitted(pen, words: str, width: int, size: int = 15) -> str:
    """Shorten words to a width."""
    while words and pen.textlength(words, font=_font(size)) > width:
        words = words[:-2].rstrip() + "…" if not words.endswith("…") else words[:-2] + "…"
    return words


def _font(size: int) -> ImageFont.ImageFont:
    return _fonts.setdefault(size, ImageFont.load_default(size=size))


_fonts: dict[int, ImageFont.ImageFont] = {}
