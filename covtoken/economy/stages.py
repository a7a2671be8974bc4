"""Say where a route drops tokens, by what score and how many: the stages of a route, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from covtoken.backbone.vit import FrozenViT
from covtoken.bank.pooling import pool3x3, smooth
from covtoken.bank.token_bank import check_fits
from covtoken.economy.keep import budget, kept_tokens
from covtoken.errors import CovtokenError, unknown
from covtoken.subspace.direction import Direction

Score = Direction | Callable[[Tensor], Tensor]
"""A direction, or any function of the tap's tokens [n, T, D] that gives scores [n, T]; high scores stay."""

NEIGHBOURS = ("refuse", "last")


@dataclass(frozen=True)
class Stage:
    """A tap: where tokens are scored, and how many go on: by exactly one of ratio, threshold and k (``kept_tokens``).

    Attributes:
        block: 1 … L − 1, whose output is scored, as it is (not normed); what is dropped there runs no later block.
        score: of the complete map. A direction is applied to pooled tokens if it was fitted on them.
        ratio: share of all T tokens that goes on, at a later stage too.
        threshold: scores at or above it go on; counts differ by picture.
        k: tokens that go on, one number or one a picture. Fewer go on where an earlier stage left fewer.
        sigma: of the Gaussian that smooths the score map, tokens.
        dropped_neighbours: what a score that looks at neighbours reads at a later stage where a neighbour was dropped:
            ``"refuse"``, or ``"last"``, the neighbour's value at the tap where it was dropped.
        n_compared: vectors that a token is compared with, for the FLOPs of the score: 1 for a direction (known by
            itself), the bank's size for a search, 0 for what the pass gives anyway.
    """

    block: int
    score: Score = field(repr=False)
    ratio: float | None = None
    threshold: float | None = None
    k: int | Sequence[int] | None = None
    sigma: float = 0.0
    dropped_neighbours: str = "refuse"
    n_compared: int | None = None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.ratio, self.threshold, self.k)) != 1:
            raise CovtokenError("a stage takes exactly one of ratio, threshold and k")
        if not callable(self.score) and not isinstance(self.score, Direction):
            raise CovtokenError(f"a stage scores by a direction or a function, got {self.score!r:.60}")
        if self.dropped_neighbours not in NEIGHBOURS:
            raise unknown("rule for dropped neighbours", self.dropped_neighbours, list(NEIGHBOURS))

    @property
    def reads_neighbours(self) -> bool:
        """Tell whether a token's score depends on other tokens; of a function True, unless it says otherwise.

        A function says so by an attribute of this name.
        """
        if self.sigma > 0:
            return True
        if isinstance(self.score, Direction):
            return bool(self.score.header["pooled"])
        return bool(getattr(self.score, "reads_neighbours", True))

    def scores(self, tokens: Tensor, rows: int, cols: int) -> np.ndarray:
        """Score the complete map of a tap, tokens [n, T, D]: [n, T] float32, pooled and smoothed where asked.

        Pooling commutes with a dot product, so it is the score that is pooled: one number a token, not D.

        Raises:
            CovtokenError: scores of another shape, NaN or infinite.
        """
        with torch.no_grad():
            if isinstance(self.score, Direction):
                found = self.score.score(tokens)
                if self.score.header["pooled"]:
                    found = pool3x3(found.unsqueeze(-1), rows, cols).squeeze(-1)
            else:
                found = self.score(tokens)
        found = np.asarray(found.float().cpu() if isinstance(found, Tensor) else found, dtype=np.float32)
        if found.shape != tuple(tokens.shape[:2]):
            raise CovtokenError(
                f"the score at block {self.block} gave {found.shape}, expected {tuple(tokens.shape[:2])}"
            )
        if not np.isfinite(found).all():
            raise CovtokenError(f"the score at block {self.block} gave NaN or infinite values")
        return smooth(found, rows, cols, self.sigma)

    def goes_on(self, scores: np.ndarray, here: np.ndarray) -> np.ndarray:
        """Mark the tokens that go on, [n, T] bool, by scores [n, T], among those that came ``here``, [n, T] bool."""
        among = np.where(here, scores, -np.inf)
        return kept_tokens(among, ratio=self.ratio, threshold=self.threshold, k=self.k) & here

    def count(self, n_tokens: int) -> int:
        """Count the tokens of T that go on in every picture. Raises CovtokenError where pictures differ."""
        if self.ratio is not None:
            return budget(n_tokens, self.ratio)
        if self.k is None or np.ndim(self.k):
            raise CovtokenError(
                f"the stage at block {self.block} keeps another number of tokens in each picture: give it ratio, or "
                "one k for all"
            )
        if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer) or not 0 <= self.k <= n_tokens:
            raise CovtokenError(f"k = {self.k!r} at block {self.block}: expected 0 … {n_tokens}, a picture's tokens")
        return int(self.k)

    def at(self, pictures: slice) -> Stage:
        """Give the stage for some of the pictures: it differs only where counts ``k`` are given one a picture."""
        by_picture = self.k is not None and np.ndim(self.k) == 1
        return replace(self, k=self.k[pictures]) if by_picture else self


def check_stages(vit: FrozenViT, stages: Sequence[Stage]) -> None:
    """Refuse stages that this model cannot run or whose directions were fitted on other features.

    Raises:
        CovtokenError: no list of stages, blocks that do not rise or are not 1 … L − 1, a direction of another backbone
            or block, a share or count that grows, or a later stage whose score looks at neighbours that were dropped
            without saying what it reads there.
    """
    if isinstance(stages, Stage) or not all(isinstance(stage, Stage) for stage in stages):
        raise CovtokenError(f"stages: expected a list of Stage, got {stages!r:.60}")
    for i, stage in enumerate(stages):
        vit.check_block(stage.block, allow_norm=False)
        if stage.block == vit.n_blocks:
            raise CovtokenError(f"a stage after block {stage.block}, the last of {vit.name}: nothing is left to skip")
        if isinstance(stage.score, Direction):
            check_fits(stage.score, vit, block=stage.block)
        if i and stage.reads_neighbours and stage.dropped_neighbours == "refuse":
            raise CovtokenError(
                f"the score at block {stage.block} looks at neighbours, some of which were dropped after block "
                f"{stages[i - 1].block} and are stale: fit it without pooling and use sigma 0, give a function the "
                "attribute reads_neighbours = False if it looks at one token at a time, or let it read the last value "
                "of dropped neighbours (dropped_neighbours='last')"
            )
    for one, after in pairwise(stages):
        if after.block <= one.block:
            raise CovtokenError(f"stages must go by rising block, got {one.block}, then {after.block}")
        for name in ("ratio", "k"):
            values = getattr(one, name), getattr(after, name)
            if all(np.ndim(v) == 0 and v is not None for v in values) and values[1] > values[0]:
                raise CovtokenError(f"{name} grows from {values[0]} to {values[1]}: what is dropped does not come back")
