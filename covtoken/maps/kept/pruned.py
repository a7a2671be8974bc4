"""Say which tokens of each picture stay: a mask of tokens, a table of their places, and a picture."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from covtoken.backbone.vit import FrozenViT
from covtoken.data.intensity import to_unit_range
from covtoken.economy.certificate import Certificate
from covtoken.economy.keep import kept_tokens
from covtoken.errors import CovtokenError
from covtoken.maps import prepare
from covtoken.maps.kept.own_direction import Keep, check_certificate
from covtoken.maps.lesion_map import scored
from covtoken.maps.overlay import NOT_A_DEVICE
from covtoken.paths import write_then_rename

TABLE = "tokens.csv"
COLUMNS = ("case", "slice", "token", "row", "col", "top_px", "left_px", "bottom_px", "right_px", "score")
DIM = 0.25  # of its brightness is left of a token that goes
SIDE = 480  # pixels of a drawing's longer side at least


@dataclass(frozen=True)
class Pruned:
    """What became of a case: tokens kept of all its slices, or why it failed."""

    name: str
    n_kept: int = 0
    n_tokens: int = 0
    fault: str = ""


def prune_pictures(
    prepared: prepare.Prepared,
    source: prepare.Source,
    vit: FrozenViT,
    keep: Keep,
    out: Path,
    certificate: Certificate | None = None,
    progress: bool = False,
    tell: Callable[[Pruned], None] = lambda outcome: None,
) -> list[Pruned]:
    """Score every picture and write, of each case, ``NAME.kept.npy`` and ``NAME.kept.png``, and one table of all.

    ``NAME.kept.npy`` is bool: [rows, cols] of a picture's token grid, [slices, rows, cols] of a volume.

    Args:
        prepared, source: as ``covtoken map`` opens and scores pictures.
        keep: how many tokens stay.
        out: folder for the results.
        certificate: that ``keep`` comes from; it must be of the direction that scores.
        tell: called with each case as it ends.

    Raises:
        CovtokenError: no bank can be fitted, or a certificate of another direction.
    """
    scorer = source.fit(vit, progress)
    check_certificate(certificate, scorer, vit)
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with write_then_rename(out / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for item in prepared.inputs:
            try:
                outcome = _prune(item.name, prepared, source, vit, scorer, keep, out, table)
            except (CovtokenError, OSError) as error:
                outcome = Pruned(item.name, fault=" ".join(str(error).split()))
            outcomes.append(outcome)
            tell(outcome)
    return outcomes


def _prune(name, prepared, source, vit, scorer, keep, out, table) -> Pruned:
    if name in prepared.faults:
        return Pruned(name, fault=prepared.faults[name])
    cases = prepare.as_unit(prepared.opened[name], source.units.get(name, name))
    scores = np.stack([found for found, _ in scored(cases, scorer, vit)])
    kept = kept_tokens(scores.reshape(len(scores), -1), **keep.as_budget()).reshape(scores.shape)
    with write_then_rename(out / f"{name}.kept.npy") as temporary, temporary.open("wb") as stream:
        np.save(stream, kept if len(kept) > 1 else kept[0])
    shown = int(scores.max(axis=(1, 2)).argmax())
    pixels = to_unit_range(cases[shown].pixels(), cases[shown])
    title = name if len(cases) == 1 else f"{name}, slice {shown + 1} of {len(cases)}"
    with write_then_rename(out / f"{name}.kept.png") as temporary:
        draw_kept(pixels, kept[shown], title).save(temporary, format="png")
    for number, (case, grid) in enumerate(zip(cases, kept, strict=True)):
        height, width = pixels.shape if number == shown else case.pixels().shape
        for row, col in np.argwhere(grid):
            box = (height * row / vit.rows, width * col / vit.cols)
            box += (height * (row + 1) / vit.rows, width * (col + 1) / vit.cols)
            place = [name, number, row * vit.cols + col, row, col, *(f"{edge:.6g}" for edge in box)]
            table.writerow([*place, f"{scores[number, row, col]:.7g}"])
    return Pruned(name, int(kept.sum()), int(kept.size))


def draw_kept(pixels: np.ndarray, kept: np.ndarray, title: str) -> Image.Image:
    """Draw a picture [H, W] in 0 … 1 with the tokens that go darkened, kept [rows, cols] bool."""
    scale = max(1.0, SIDE / max(pixels.shape))
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    grey = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    stays = np.asarray(Image.fromarray(kept.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 0
    values = np.where(stays, np.asarray(grey, float), DIM * np.asarray(grey, float))
    sheet = Image.new("L", (size[0], size[1] + 44), 16)
    sheet.paste(Image.fromarray(values.astype(np.uint8)), (0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.text((8, size[1] + 6), title[: max(8, size[0] // 7)], fill=235)
    pen.text((8, size[1] + 24), f"{int(kept.sum())} of {kept.size} tokens stay; {NOT_A_DEVICE}", fill=170)
    return sheet
