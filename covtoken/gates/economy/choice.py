"""Choose the setting of a route on a selection split: score and tap first, then the fewest tokens that retain lesions.

Score and tap are those that retain most of all lesions at ``WANTED`` times fewer FLOPs; only then the number of tokens
is lowered as far as ``SHARE`` of all lesions stay. Taking the cheapest passing setting over all scores and taps at once
would be a winner's curse.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from covtoken.backbone.vit import FrozenViT
from covtoken.economy.flops import route_flops, vit_flops
from covtoken.economy.stages import Stage
from covtoken.gates.economy.taps import key_of

WANTED = 2.0  # times fewer FLOPs, net of score and exit maps
SHARE = 0.98  # of all lesions
PUBLISHED = (6, 0.25)  # block of 12, and keep ratio, of the published setting
SPEEDUPS = (1.2, 1.3, 1.4, 1.55, 1.7, 1.85, 2.0, 2.25, 2.5, 3.0)  # of the curves


@dataclass(frozen=True)
class Choice:
    """A score at a tap, the tokens it keeps, and what the selection split says of it."""

    score: str
    block: int
    k: int
    n_tokens: int
    speedup: float  # net FLOPs
    retained: float  # share of all lesions at k
    at_wanted: float  # share of all lesions at ``WANTED``

    @property
    def key(self) -> str:
        return key_of(self.score, self.block)

    def to_json(self) -> dict:
        return asdict(self)


class Costs:
    """Count the net FLOPs of routes with exit maps and one drop.

    Args:
        compared: key → what the score compares a token with (``Tap.n_compared``).
    """

    def __init__(self, vit: FrozenViT, compared: Mapping[str, int]) -> None:
        self.vit, self.compared, self.n_tokens = vit, dict(compared), vit.rows * vit.cols
        self.plain = vit_flops(vit, [self.n_tokens + vit.n_prefix] * vit.n_blocks)
        self.flops = cache(self._flops)

    def _flops(self, key: str, k: int) -> int:
        stage = Stage(int(key.rpartition("block")[2]), _unread, k=int(k), n_compared=self.compared[key])
        return route_flops(self.vit, [stage], [int(k)], maps=True).total

    def speedup(self, key: str, k: int) -> float:
        """Divide the plain pass's FLOPs by the route's."""
        return self.plain / self.flops(key, k)

    def within(self, key: str, flops: float) -> int:
        """Find the largest k < T whose route stays within these FLOPs; 0 if none does."""
        return bisect_right(range(1, self.n_tokens), flops, key=lambda k: self.flops(key, k))


def smallest_k(needs: np.ndarray, share: float = SHARE) -> int:
    """Find the smallest k at which at least ``share`` of the lesions [L], by their needs, are retained."""
    needs = np.sort(np.asarray(needs))
    return int(needs[int(np.ceil(share * len(needs) - 1e-9)) - 1])


def choose(names: Sequence[str], needs: Mapping[str, np.ndarray], costs: Costs) -> Choice:
    """Choose score and tap among ``names``, then k; ties go to the earlier name, then to the earlier tap.

    Args:
        needs: lesion needs [L] by key.
    """
    keys = [key for name in names for key in needs if key.startswith(f"{name}.block")]
    at_wanted = {key: float(np.mean(needs[key] <= costs.within(key, costs.plain / WANTED))) for key in keys}
    key = max(keys, key=at_wanted.get)  # of equals the first
    k = smallest_k(needs[key])
    name, _, block = key.rpartition(".block")
    retained = float(np.mean(needs[key] <= k))
    return Choice(name, int(block), k, costs.n_tokens, costs.speedup(key, k), retained, at_wanted[key])


def choose_each(names: Iterable[str], needs: Mapping[str, np.ndarray], costs: Costs) -> list[Choice]:
    """Choose tap and k for each score alone, by the same rule."""
    present = [name for name in names if any(key.startswith(f"{name}.block") for key in needs)]
    return [choose([name], needs, costs) for name in present]


def _unread(tokens):
    raise AssertionError("costs are counted, no score is read")
