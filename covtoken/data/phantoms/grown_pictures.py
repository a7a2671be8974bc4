"""Grow a lesion in a lesion-free phantom picture: same picture, place and texture, 1 to 64 tokens.

Nothing here feeds a choice, or a bank that a recipe or a gate uses. The negative result scores the pictures; the
ablation of impure banks (``covtoken.studies.ablations``) also puts some into a bank, which has then seen the lesion.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from covtoken.data.case import Case
from covtoken.data.readers.phantom import blob_level, inside_of, noise_field
from covtoken.keys import seed_of

SIZES = (1, 2, 4, 8, 16, 32, 64)  # tokens of a 16 × 16 grid
GRID = 16


def grown(case: Case, n_tokens: int) -> tuple[Case, np.ndarray]:
    """Plant a lesion of ``n_tokens`` tokens, of the picture's 256, in a lesion-free phantom picture.

    Returns:
        the new case, and its mask [H, W] bool. Place and texture follow from the picture's name, not from the size.
    """
    name, source = f"{case.name}-lesion-{n_tokens}", f"{case.source}, a lesion of {n_tokens} tokens"
    load = partial(_pixels, case, n_tokens)
    new = Case(name, case.unit, case.modality, load, source, case.spacing_mm, organ=case.organ)
    return new, _lesion(case, n_tokens)[1] < 1


def _pixels(case: Case, n_tokens: int) -> np.ndarray:
    pixels = case.pixels()
    texture, level = _lesion(case, n_tokens)
    weight = inside_of(level, 0.06)
    rim = np.exp(-(((level - 1.05) / 0.1) ** 2))
    # Grey levels: darker, coarse clumps, a brighter rim. HU: below the organs, an enhancing rim.
    mean, clumps, *limits = (62, 26, 0, 255) if case.modality == "ultrasound" else (58, 20, -1024, 1500)
    drawn = pixels * (1 - weight) + (mean + clumps * texture) * weight + 30 * rim
    return np.rint(np.clip(drawn, *limits)).astype(np.float32)


def _lesion(case: Case, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw texture [H, W] of unit standard deviation and the level function [H, W] of the outline (< 1 inside)."""
    shape = case.pixels().shape
    rng = np.random.default_rng(seed_of(case.name))
    texture = noise_field(rng, shape, 3.0)
    # The largest disc of 64 tokens still lies inside the picture.
    row, column = (side * rng.uniform(0.34, 0.66) for side in shape)
    radius = math.sqrt(n_tokens / GRID**2 * shape[0] * shape[1] / math.pi)
    return texture, blob_level(rng, shape, row, column, radius)
