"""Does a pixel land in its token? Marks at known pixels, followed through masks, pictures and the transformer.

Two paths lead from pixels to tokens: masks are averaged by exact area (``evaluation.labels``), pictures are squashed to
the model's square and cut into patches (``backbone``). A transposed, mirrored or shifted grid on either path would make
every number of the other gates wrong while looking like a bad score.
"""

from __future__ import annotations

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
PLACES = ((0, 0), (0, 0.99), (0.99, 0), (0.2, 0.75), (0.6, 0.1), (0.45, 0.9))  # share of rows, of columns
OFFSET_BOUND = 0.05  # tokens, between the centres that the two paths give one blob
SEED = 0


@dataclass(frozen=True)
class Mark:
    """Pixels ``box`` (top, bottom, left, right) of a picture, and the token (row, col) whose middle they fill."""

    box: tuple[int, int, int, int]
    row: int
    col: int

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(shape, dtype=bool)
        mask[self.box[0] : self.box[1], self.box[2] : self.box[3]] = True
        return mask


@dataclass(frozen=True)
class Geometry:
    """What the marks showed.

    Attributes:
        right: path → share of marks in their token; ``mask``, ``mask_other_grid``, ``picture``, ``paths_agree``,
            ``first_block``, ``middle_block``.
        offset: largest distance, in tokens, between the centres of one blob on the mask path and the picture path.
        n_marks, n_pictures: how many.
        panels: for ``figures.token_marks``.
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
        middle: a middle block, whose response is reported but not decided on: attention has spread by then.
        cases: marks are also planted in these pictures of the cohort, at their own shape.
        transposed, shifted: plant a defect, in the tokens of the backbone or (half a token) in the masks.
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
    found = features(listed, vit, [1, middle], cache=False, progress=progress)
    turn = np.arange(rows * cols).reshape(rows, cols).T.ravel() if transposed else np.arange(rows * cols)
    light = found.intensity().numpy()[:, turn]
    tokens = {name: found.tokens(block)[:, turn] for name, block in (("first", 1), ("middle", middle))}

    hits: dict[str, list[bool]] = {}
    offsets, panels, start = [], [], 0
    for ground, planted, blob in zip(grounds, marks, blobs):
        responses = []
        for i, mark in enumerate(planted, start + 1):
            mask = _shift(mark.mask(ground.shape), rows) if shifted else mark.mask(ground.shape)
            token = mark.row * cols + mark.col
            by_mask = int(patch_shares(mask, rows, cols).argmax())
            by_light = int(np.abs(light[i] - light[start]).argmax())
            owned = np.flatnonzero(token_labels(mask, rows, cols).lesion)
            hits.setdefault("mask", []).append(by_mask == token and owned.tolist() == [token])
            hits.setdefault("mask_other_grid", []).append(_on_other_grid(mask, mark, rows, cols))
            hits.setdefault("picture", []).append(by_light == token)
            hits.setdefault("paths_agree", []).append(by_light == by_mask)
            for name, values in tokens.items():
                response = (values[i] - values[start]).norm(dim=-1)
                hits.setdefault(f"{name}_block", []).append(int(response.argmax()) == token)
                if name == "first":
                    responses.append(response / response.max())
        mask = _shift(blob, rows) if shifted else blob
        offsets.append(_distance(patch_shares(mask, rows, cols), light[start + len(planted) + 1].reshape(rows, cols)))
        panels.append(_panel(ground.shape, rows, cols, planted, torch.stack(responses)))
        start += len(planted) + 2
    right = {name: float(np.mean(values)) for name, values in hits.items()}
    n_marks = len(grounds) * len(PLACES)
    return Geometry(right, float(max(offsets)), n_marks, len(listed), panels[: len(SHAPES)])


def mark_at(place: tuple[float, float], shape: tuple[int, int], rows: int, cols: int) -> Mark:
    """A mark that fills the middle three fifths of the token at ``place`` (shares of rows and columns)."""
    row, col = int(place[0] * rows), int(place[1] * cols)
    top, bottom = _middle(row, shape[0] / rows)
    left, right = _middle(col, shape[1] / cols)
    return Mark((top, bottom, left, right), row, col)


def _middle(index: int, side: float) -> tuple[int, int]:
    """First and last + 1 of the whole pixels nearest to the middle three fifths of a patch ``side`` pixels long."""
    first = round((index + 0.2) * side)
    return first, max(first + 1, round((index + 0.8) * side))


def _on_other_grid(mask: np.ndarray, mark: Mark, rows: int, cols: int) -> bool:
    """The same on a grid that is not square: the picture beside an empty one, on twice the columns."""
    wide = np.concatenate([mask, np.zeros_like(mask)], axis=1)
    return int(patch_shares(wide, rows, 2 * cols).argmax()) == mark.row * 2 * cols + mark.col


def _texture(shape: tuple[int, int]) -> np.ndarray:
    """Smooth seeded texture [H, W] float32 around mid-grey, 0…255."""
    noise = gaussian_filter(np.random.default_rng(SEED).standard_normal(shape), 6)
    return (110 + 25 * noise / noise.std()).clip(0, 255).astype(np.float32)


def _blob(shape: tuple[int, int]) -> np.ndarray:
    """An ellipse off the centre, [H, W] bool."""
    y, x = ((np.arange(n) + 0.5) / n for n in shape)
    return ((y[:, None] - 0.35) / 0.2) ** 2 + ((x[None, :] - 0.6) / 0.13) ** 2 < 1


def _with_mark(ground: np.ndarray, mark: Mark) -> np.ndarray:
    """The picture with the mark's pixels black where they were bright, else white."""
    top, bottom, left, right = mark.box
    marked = np.array(ground, dtype=np.float32)
    marked[top:bottom, left:right] = 0 if marked[top:bottom, left:right].mean() > 128 else 255
    return marked


def _shift(mask: np.ndarray, rows: int) -> np.ndarray:
    """Planted defect: the mask half a token lower."""
    return np.roll(mask, max(1, round(mask.shape[0] / rows / 2)), axis=0)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance in tokens between the centres of mass of two maps [rows, cols]."""
    places = np.indices(a.shape)
    centre_a, centre_b = ((places * m).sum(axis=(1, 2)) / m.sum() for m in (a, np.asarray(b, np.float64)))
    return float(np.hypot(*(centre_a - centre_b)))


def _case(index: int, pixels: np.ndarray) -> Case:
    return Case(f"mark{index:03d}", f"mark{index:03d}", "ultrasound", partial(np.asarray, pixels), source="a mark")


def _panel(shape, rows, cols, planted: Sequence[Mark], responses: torch.Tensor) -> dict:
    """Rows of one panel: strongest first-block response of each token over the marks, and the marks' pixels."""
    strongest = responses.max(dim=0).values
    return {
        "height": shape[0],
        "width": shape[1],
        "rows": rows,
        "cols": cols,
        "response": [round(float(value), 2) for value in strongest],
        "boxes": [list(mark.box) for mark in planted],
    }
