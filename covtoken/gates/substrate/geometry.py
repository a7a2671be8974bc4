"""Does a pixel land in its token? Marks at known pixels are followed through masks, pictures and the transformer.

Two paths lead from pixels to tokens: masks are averaged by exact area (``evaluation.labels``), pictures are squashed to
the model's square and cut into patches (``backbone``). A transposed, mirrored or shifted grid on either path would make
every number of the other gates wrong while looking like a bad score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from covtoken.backbone.cache import features
from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.data.intensity import to_unit_range
from covtoken.evaluation.labels import patch_shares, token_labels

SHAPES = ((224, 224), (160, 240), (300, 180), (96, 96))  # pixels: the model's own square, wide, tall, enlarged
PLACES = ((0, 0), (0, 0.99), (0.99, 0), (0.2, 0.75), (0.6, 0.1), (0.45, 0.9))  # share of grid rows, of columns
OFFSET_BOUND = 0.05  # tokens, between the centres of a blob on the two paths
SEED = 0


@dataclass(frozen=True)
class Mark:
    """A picture's pixels ``box`` (top, bottom, left, right), and the token (row, col) whose middle they fill."""

    box: tuple[int, int, int, int]
    row: int
    col: int

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Draw the mark as a mask, [H, W] bool."""
        mask = np.zeros(shape, dtype=bool)
        mask[self.box[0] : self.box[1], self.box[2] : self.box[3]] = True
        return mask


@dataclass(frozen=True)
class Geometry:
    """Results of ``n_marks`` marks on ``n_pictures`` pictures.

    Attributes:
        right: path → share of marks in their token; ``mask``, ``mask_other_grid``, ``picture``, ``paths_agree``,
            ``first_block``, ``middle_block``.
        offset: largest distance, in tokens, between a blob's centres on the mask path and the picture path.
        panels: for the chart of token marks.
    """

    right: dict[str, float]
    offset: float
    n_marks: int
    n_pictures: int
    panels: list[dict]


def follow_marks(
    vit: FrozenViT,
    middle: int,
    cases: Sequence[Case] = (),
    *,
    transposed: bool = False,
    shifted: bool = False,
    progress: bool = True,
) -> Geometry:
    """Plant marks in pictures of several shapes and look where they come out.

    Args:
        middle: a middle block, whose response is reported but decides nothing: attention has spread by then.
        cases: further pictures, at their own shape, in which marks are planted.
        transposed: plant a defect: swap grid rows and columns of the backbone's tokens.
        shifted: plant a defect: move the masks half a token down.
    """
    rows, cols = vit.rows, vit.cols
    grounds = [_texture(shape) for shape in SHAPES]
    grounds += [255 * to_unit_range(case.pixels(), case) for case in cases]
    marks = [[mark_at(place, ground.shape, rows, cols) for place in PLACES] for ground in grounds]
    blobs = [_blob(ground.shape) for ground in grounds]
    pictures: list[np.ndarray] = []
    for ground, planted, blob in zip(grounds, marks, blobs):
        pictures += [ground, *(_with_mark(ground, mark) for mark in planted), 255 * blob.astype(np.float32)]
    listed = [_case(i, pixels) for i, pixels in enumerate(pictures)]
    extracted = features(listed, vit, [1, middle], cache=False, progress=progress)
    turn = np.arange(rows * cols).reshape(rows, cols).T.ravel() if transposed else np.arange(rows * cols)
    light = extracted.intensity().numpy()[:, turn]
    tokens = {name: extracted.tokens(block)[:, turn] for name, block in (("first", 1), ("middle", middle))}

    hits: dict[str, list[bool]] = defaultdict(list)
    offsets, panels, start = [], [], 0
    for ground, planted, blob in zip(grounds, marks, blobs):
        responses = []
        for i, mark in enumerate(planted, start + 1):
            mask = _shift(mark.mask(ground.shape), rows) if shifted else mark.mask(ground.shape)
            token = mark.row * cols + mark.col
            by_mask = int(patch_shares(mask, rows, cols).argmax())
            by_light = int(np.abs(light[i] - light[start]).argmax())
            owned = np.flatnonzero(token_labels(mask, rows, cols).lesion)
            hits["mask"].append(by_mask == token and owned.tolist() == [token])
            hits["mask_other_grid"].append(_on_other_grid(mask, mark, rows, cols))
            hits["picture"].append(by_light == token)
            hits["paths_agree"].append(by_light == by_mask)
            for name, values in tokens.items():
                response = (values[i] - values[start]).norm(dim=-1)
                hits[f"{name}_block"].append(int(response.argmax()) == token)
                if name == "first":
                    responses.append(response / response.max())
        mask = _shift(blob, rows) if shifted else blob
        offsets.append(_distance(patch_shares(mask, rows, cols), light[start + len(planted) + 1].reshape(rows, cols)))
        panels.append(_panel(ground.shape, rows, cols, planted, torch.stack(responses)))
        start += len(planted) + 2
    right = {name: float(np.mean(values)) for name, values in hits.items()}
    return Geometry(right, max(offsets), len(grounds) * len(PLACES), len(listed), panels[: len(SHAPES)])


def mark_at(place: tuple[float, float], shape: tuple[int, int], rows: int, cols: int) -> Mark:
    """Make a mark that fills the middle three fifths of the token at ``place`` (shares of grid rows and columns)."""
    row, col = int(place[0] * rows), int(place[1] * cols)
    return Mark((*_middle(row, shape[0] / rows), *_middle(col, shape[1] / cols)), row, col)


def _middle(index: int, side: float) -> tuple[int, int]:
    """Give first and last + 1 of the pixels nearest to the middle three fifths of a patch ``side`` pixels long."""
    first = round((index + 0.2) * side)
    return first, max(first + 1, round((index + 0.8) * side))


def _on_other_grid(mask: np.ndarray, mark: Mark, rows: int, cols: int) -> bool:
    """Check the mark on a grid that is not square: the mask beside an empty mask, on twice the columns."""
    wide = np.concatenate([mask, np.zeros_like(mask)], axis=1)
    return int(patch_shares(wide, rows, 2 * cols).argmax()) == mark.row * 2 * cols + mark.col


def _texture(shape: tuple[int, int]) -> np.ndarray:
    """Draw a smooth seeded texture around mid-grey, [H, W] float32, 0…255."""
    noise = gaussian_filter(np.random.default_rng(SEED).standard_normal(shape), 6)
    return (110 + 25 * noise / noise.std()).clip(0, 255).astype(np.float32)


def _blob(shape: tuple[int, int]) -> np.ndarray:
    """Draw an ellipse off the centre, [H, W] bool."""
    y, x = ((np.arange(n) + 0.5) / n for n in shape)
    return ((y[:, None] - 0.35) / 0.2) ** 2 + ((x[None, :] - 0.6) / 0.13) ** 2 < 1


def _with_mark(ground: np.ndarray, mark: Mark) -> np.ndarray:
    """Paint the mark's pixels black where they were bright, else white."""
    top, bottom, left, right = mark.box
    marked = np.array(ground, dtype=np.float32)
    marked[top:bottom, left:right] = 0 if marked[top:bottom, left:right].mean() > 128 else 255
    return marked


def _shift(mask: np.ndarray, rows: int) -> np.ndarray:
    """Plant a defect: move the mask half a token down."""
    return np.roll(mask, max(1, round(mask.shape[0] / rows / 2)), axis=0)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Measure the distance, in tokens, between the centres of mass of two maps [rows, cols]."""
    places = np.indices(a.shape)
    centre_a, centre_b = ((places * m).sum(axis=(1, 2)) / m.sum() for m in (a, np.asarray(b, np.float64)))
    return float(np.hypot(*(centre_a - centre_b)))


def _case(index: int, pixels: np.ndarray) -> Case:
    return Case(f"mark{index:03d}", f"mark{index:03d}", "ultrasound", partial(np.asarray, pixels), source="a mark")


def _panel(shape, rows, cols, planted: Sequence[Mark], responses: torch.Tensor) -> dict:
    """Make a panel: each token's strongest first-block response over the marks, and the marks' pixels."""
    response = [round(float(value), 2) for value in responses.max(dim=0).values]
    sides = {"height": shape[0], "width": shape[1], "rows": rows, "cols": cols}
    return sides | {"response": response, "boxes": [list(mark.box) for mark in planted]}
