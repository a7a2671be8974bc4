"""Fit C− and C, the consensus directions: D's ridge on a target that keeps one component a picture (book/method.md).

C− has the one source that rarity gives; C joins the logit of the saliency head. Each source is ranked over the bank
and inside its picture (``direction.two_views``), their sum is ranked again, and what lies above a quantile is called.
Of the called tokens of a picture only the component that holds its highest token stays: a picture has one thing that is
odd, and what else is rare in it is mostly its own noise. The target is made again from the direction's score, as often
as ``rounds`` says.

Over shards, rarity, ranks inside pictures, components and the sums of the ridge are local or add up. Ranks over the
bank and the quantile need one number of every bank token at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import label as connected
from scipy.stats import rankdata

from covtoken.bank.features import Block, Features
from covtoken.bank.token_bank import origin
from covtoken.errors import CovtokenError, unknown
from covtoken.leak_guard import construction, refuse_label_arrays
from covtoken.subspace.direction import Direction, bank_scores, direction_moments, rarity_cut, two_views
from covtoken.subspace.ridge import Moments

COMPONENTS = ("none", "peak", "mass")  # from which the rule chooses
RULES = (*COMPONENTS, "two")
TAP_RIDGE = 0.01  # λ of a tap at an earlier block


@dataclass(frozen=True)
class ConsensusSettings:
    """Settings of C− and C.

    Attributes:
        sources: names of the maps that make the target, joined by ``+``: ``rarity``, ``head``, ``attention``.
        target_block: whose rarity is a source, 1 … L.
        quantile: of the ranked target, above which a token is called; in (0, 1).
        ridge: λ, see ``ridge.solve``.
        rounds: how often the target is made again with the last direction's score.
        inside: weight in [0, 1] of a token's rank inside its picture.
        component: which called tokens of a picture stay: ``none`` (all), ``peak`` (the component of its highest
            token), ``two`` (the two whose highest tokens are highest) or ``mass`` (the component with the largest sum
            above the quantile).
        attention_block: whose attention is a source, 1 … L.

    Raises:
        CovtokenError: a quantile, a weight or a component rule out of range.
    """

    sources: str = "rarity"
    target_block: Block = 9
    quantile: float = 0.93
    ridge: float = 1.0
    rounds: int = 2
    inside: float = 0.75
    component: str = "peak"
    attention_block: Block = 11

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise CovtokenError(f"quantile must lie inside (0, 1), got {self.quantile}: tokens above it are called")
        if not 0 <= self.inside <= 1:
            raise CovtokenError(f"inside must lie in [0, 1], got {self.inside}: it weighs a rank inside a picture")
        if self.component not in RULES:
            raise unknown("component rule", self.component, list(RULES))


@dataclass(frozen=True)
class Passes:
    """The two passes over the bank's pictures that a round makes, which shards run apart and merge.

    Attributes:
        moments: target [N, T] and cut → sums over all tokens, as ``direction_moments``.
        scores: direction → scores [N, T] of all tokens, as ``bank_scores``.
    """

    moments: Callable[[torch.Tensor, float], Moments]
    scores: Callable[[Direction], torch.Tensor]


def fit_consensus(
    features: Features,
    block: Block,
    sources: Sequence[torch.Tensor],
    settings: ConsensusSettings | None = None,
    about: dict | None = None,
    progress: bool = False,
    passes: Passes | None = None,
) -> Direction:
    """Fit a consensus direction at one block.

    Args:
        features: the bank's pictures.
        block: where the direction is read, on pooled tokens.
        sources: label-free maps [N, T] of those pictures, one for each name in ``settings.sources``.
        about: header fields that describe the sources (the reference of a rarity).
        passes: how tokens are read (None: here, one chunk after the other).

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: no source or another number of them, maps of another shape, no called token in the whole bank.
    """
    settings = settings or ConsensusSettings()
    names = settings.sources.split("+")
    if len(sources) != len(names):
        raise CovtokenError(f"a consensus of {settings.sources} needs {len(names)} maps, got {len(sources)}")
    passes = passes or Passes(
        lambda kept, cut: direction_moments(features, block, kept, cut, progress=progress),
        lambda direction: bank_scores(direction, features, progress),
    )
    with construction("a direction"):
        target = agreement = agreed_sources(sources, settings.inside)
        for made in range(settings.rounds + 1):
            kept, cut = called(target, settings.quantile, settings.component, features.rows, features.cols)
            moments = passes.moments(kept, cut)
            told = (about or {}) | {"target": "consensus", "sources": settings.sources, "rounds": made, "cut": cut}
            told |= {name: getattr(settings, name) for name in ("quantile", "inside", "component")}
            direction = Direction.from_moments(moments, origin(features), block, settings.ridge, **told)
            if made < settings.rounds:
                target = ranked(agreement + ranked(passes.scores(direction)))
    return direction


def taught(direction: Direction, features: Features, block: Block, progress: bool = False) -> Direction:
    """Fit a direction at another block to the score of one that is fitted: the tap of a routed network.

    Args:
        direction: the teacher, fitted on these pictures.
        features: the bank's pictures.
        block: of the tap, earlier than the teacher's.
    """
    scores = bank_scores(direction, features, progress)
    target = f"score at block {direction.header['block']}"
    return Direction.fit_target(features, block, scores, ridge=TAP_RIDGE, target=target, progress=progress)


def agreed_sources(sources: Sequence[torch.Tensor], inside: float) -> torch.Tensor:
    """Rank the sum of the sources' two views over the bank: c [N, T] in (0, 1].

    Raises:
        LabelLeak: something like a label was handed in.
    """
    refuse_label_arrays("the target of a direction", *sources)  # here: ranks of a mask no longer look like one
    views = (two_views(source, inside) if inside else ranked(source) for source in sources)
    return ranked(sum(views))


def ranked(values: torch.Tensor) -> torch.Tensor:
    """Rank tokens over the whole bank, in (0, 1], ties averaged, float64 of the same shape."""
    values = torch.as_tensor(values).numpy()
    return torch.as_tensor(rankdata(values, axis=None).reshape(values.shape) / values.size)


def called(target: torch.Tensor, quantile: float, component: str, rows: int, cols: int) -> tuple[torch.Tensor, float]:
    """Call the tokens above a quantile, and keep those of one component a picture.

    Args:
        target: [N, T] in (0, 1], T = rows × cols.
        component: of ``RULES``.

    Returns:
        the target, lowered to the cut where a called token does not stay (what is handed on is no mask); the cut.

    Raises:
        CovtokenError: no token of the bank lies above the quantile, as where all are equal.
    """
    cut = rarity_cut(target, quantile)
    values = target.double().numpy().copy()
    above = values > cut
    if not above.any():
        raise CovtokenError(
            f"no token of the bank lies above the {quantile} quantile of the target: give other pictures"
        )
    if component != "none":
        for picture in np.flatnonzero(above.any(axis=1)):
            parts, _ = connected(above[picture].reshape(rows, cols), structure=np.ones((3, 3)))
            parts = parts.ravel()
            if component == "mass":
                chosen = [np.bincount(parts, values[picture] - quantile + 0.01)[1:].argmax() + 1]
            else:  # the first in row-major order, where several are as high
                order = parts[np.argsort(-values[picture], kind="stable")[: above[picture].sum()]]
                chosen = list(dict.fromkeys(order))[: 2 if component == "two" else 1]
            above[picture] &= np.isin(parts, chosen)
    return torch.as_tensor(np.where(above, values, np.minimum(values, cut))), cut
