"""Kept sets of one size for gate 2: random, tilted towards membership, and spanning; seeded by the picture's name."""

from __future__ import annotations

import numpy as np
import torch

from covtoken.coverage.greedy import spanning
from covtoken.keys import seed_of

PER_FAMILY = 20
FAMILIES = ("random", "tilted", "spanning")
TEMPERATURES = np.logspace(-1, 1, PER_FAMILY)  # of standardised membership: nearly its top k … nearly random


def kept_sets(name: str, membership: np.ndarray, y: torch.Tensor, k: int) -> np.ndarray:
    """Draw 60 sets of k different tokens of a picture, int [60, k], family after family.

    Tilted sets are drawn without replacement with chances ∝ exp(standardised membership / temperature). Spanning sets
    are pivoted QR from different first tokens.

    Args:
        name: the picture's; it seeds the draw, so that the sets do not depend on the other evaluated pictures.
        membership: [T].
        y: [T, r] projected tokens.
        k: tokens of a set.
    """
    n_tokens = len(membership)
    rng = np.random.default_rng(seed_of(f"{name}\0{k}"))
    random = rng.random((PER_FAMILY, n_tokens)).argsort(axis=1)[:, :k]
    z = (membership - membership.mean()) / max(float(membership.std()), 1e-12)
    noise = rng.gumbel(size=(PER_FAMILY, n_tokens))  # the k largest of log-chance + Gumbel are such a draw
    tilted = (-(z[None] / TEMPERATURES[:, None] + noise)).argsort(axis=1, kind="stable")[:, :k]
    first = torch.from_numpy(rng.choice(n_tokens, PER_FAMILY, replace=n_tokens < PER_FAMILY))
    spread = spanning(y[None].expand(PER_FAMILY, -1, -1), k, first=first).numpy()
    return np.concatenate([random, tilted, spread])
