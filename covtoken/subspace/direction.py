"""Fit D, the distilled direction: one dot product a token in place of a search (book/recommended.md).

Rare tokens of the bank's pictures (PN above a high quantile, at a late middle block) are called positive, and a ridge
direction is fitted to that call on the pooled tokens of another block, often an earlier one. Three passes over the
bank's pictures, each a map over shards whose results merge in any order:

    reference = target_reference(features, 9)                              # the smallest hashes of all shards
    rarity = bank_rarity(features, reference)                              # [N, T]: rows of all shards
    cut = rarity_cut(rarity, 0.9)
    moments = direction_moments(features, 6, rarity, cut)                  # sums of all shards, at one cut
    direction = Direction.from_moments(moments, reference.bank.header, 6, **rarity_target(reference, 0.9, cut))

``Direction.fit`` is these lines; ``inside`` puts ``two_views`` between the second and the third. No label enters:
passes hand on rarity, not the 0 and 1 that it becomes, so that each can refuse what looks like a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from scipy.stats import rankdata

from covtoken.bank.features import Block, Features
from covtoken.bank.pooling import pool3x3
from covtoken.bank.tensor_file import content_digest, read_tensors, write_tensors
from covtoken.bank.token_bank import KEY, REFERENCE_SIZE, build_bank, check_fits, need_features, origin
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays, refuse_label_choice
from covtoken.subspace.density import K_NEIGHBOURS
from covtoken.subspace.rarity import NEIGHBOURS, RaritySubspace
from covtoken.subspace.ridge import Moments, explained, solve

CHUNK = 64  # pictures held at a time
_MADE_BY = ("backbone", "weights_sha256", "preprocessing", "precision")
_ORIGIN = (*_MADE_BY, "cohort_fingerprint", "units", "package_version")


@dataclass(frozen=True)
class DirectionSettings:
    """Settings of D's target and fit; the defaults are D without rounds and without ranks inside pictures.

    Attributes:
        rounds: how often the target is made again from rarity and the last direction's score (``agreed``). Each round
            reads the bank's pictures twice more and searches nothing.

    Raises:
        CovtokenError: a quantile or a weight out of range.
    """

    target_block: Block = 9  # whose rarity is the target, 1 … L
    quantile: float = 0.9  # of PN, or of its ``two_views``, above which a token is called positive; in (0, 1)
    ridge: float = 1.0  # λ, see ``ridge.solve``
    rounds: int = 0
    inside: float = 0.0  # weight in [0, 1] of a token's rank inside its picture (``two_views``)

    def __post_init__(self) -> None:
        _check_quantile(self.quantile)
        _check_inside(self.inside)


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in token space.

    Attributes:
        header: kind, block, pooled, ridge, n_tokens, explained (R² on the fitted tokens), content_sha256; the origin
            (``token_bank.origin``); the target (for D: target_block, quantile, inside, cut in the target's units, size,
            k, neighbours, key, and rounds where there were any).
    """

    weight: torch.Tensor = field(repr=False)  # ω [D] float64
    mean: torch.Tensor = field(repr=False)  # m [D] float64, of the fitted tokens
    header: dict

    @classmethod
    def fit(
        cls, bank_features: Features, block: Block, settings: DirectionSettings | None = None, **options: Any
    ) -> Direction:
        """Fit D at one block; arguments (``options``: the keywords) and errors as ``fit_many``."""
        return fit_many(bank_features, [block], settings, **options)[block]

    @classmethod
    def fit_target(
        cls,
        bank_features: Features,
        block: Block,
        targets: torch.Tensor | np.ndarray,
        pooled: bool = True,
        ridge: float = 1.0,
        target: str = "map",
        progress: bool = False,
    ) -> Direction:
        """Fit a direction to any label-free map of the bank's pictures, such as the logit of the saliency head.

        Args:
            targets: [N, T] float, not only 0 and 1.
            target: its name, for the header.

        Raises:
            LabelLeak: something like a label was handed in.
            CovtokenError: as ``fit_many``, or another shape.
        """
        moments = direction_moments(bank_features, block, targets, pooled=pooled, progress=progress)
        return cls.from_moments(moments, origin(bank_features), block, ridge, pooled=bool(pooled), target=target)

    @classmethod
    def from_moments(cls, moments: Moments, source: dict, block: Block, ridge: float = 1.0, **about: Any) -> Direction:
        """Solve for a direction from the sums over all shards.

        Args:
            source: the header of the reference bank, or ``token_bank.origin`` of all the bank's pictures.
            about: header fields that describe the target (``rarity_target``).
        """
        weight, mean = solve(moments, ridge)
        header = {key: source[key] for key in _ORIGIN} | {"kind": "direction", "block": block, "pooled": True}
        fitted = {"ridge": float(ridge), "n_tokens": moments.n, "explained": explained(moments, weight)}
        return cls(weight, mean, _sealed(weight, mean, header | fitted | about))

    def score(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute ω·(x − m) [...] float32 of tokens [..., D], already pooled where ``header["pooled"]``."""
        if tokens.shape[-1] != len(self.weight):
            raise CovtokenError(f"tokens must be [..., {len(self.weight)}] as the bank's, got {tuple(tokens.shape)}")
        weight = self.weight.to(tokens.device, torch.float32)
        return tokens.to(torch.float32) @ weight - (self.weight @ self.mean).item()

    def without(self, other: Direction) -> Direction:
        """Erase ``other`` from token space: ω′ = ω − (ω·u)u, u = other's ω ÷ ‖ω‖, at the same mean, without a new fit.

        ω′·(x − m) = ω·(I − uuᵀ)(x − m). Tokens are projected, not scores: where tokens vary in a correlated way, the
        two scores can still correlate (``erasure.without_linear`` sees to that). Pooling may differ, for it commutes
        with the projection.

        Raises:
            CovtokenError: directions of unlike blocks, weights, preprocessing or precision, or parallel ones.
        """
        mine, its = ({k: d.header.get(k, "nothing") for k in (*_MADE_BY, "block")} for d in (self, other))
        wrong = [f"{k}: {v!r} and {its[k]!r}" for k, v in mine.items() if v != its[k]]
        if wrong:
            raise CovtokenError(f"the two directions do not live in one token space ({'; '.join(wrong)})")
        u = other.weight / torch.linalg.vector_norm(other.weight)
        left = self.weight - (self.weight @ u) * u
        if not torch.linalg.vector_norm(left) > 1e-9 * torch.linalg.vector_norm(self.weight):
            raise CovtokenError("the two directions are parallel: nothing is left of one without the other")
        return self.replaced(left, without=[*self.header.get("without", []), other.header["content_sha256"]])

    def replaced(self, weight: torch.Tensor, **about: Any) -> Direction:
        """Give this direction another ω at the same mean; ``about``: header fields that describe the change."""
        header = {name: value for name, value in self.header.items() if name != "explained"}  # no longer true
        return Direction(weight, self.mean, _sealed(weight, self.mean, header | about))

    def save(self, path: Path) -> None:
        """Write the direction to one safetensors file, or nothing."""
        write_tensors(Path(path), {"weight": self.weight, "mean": self.mean}, self.header, kind="direction")


def fit_many(
    bank_features: Features,
    blocks: Sequence[Block],
    settings: DirectionSettings | None = None,
    *,
    size: int = REFERENCE_SIZE,
    k: int = K_NEIGHBOURS,
    neighbours: int = NEIGHBOURS,
    key: str = KEY,
    progress: bool = False,
) -> dict[Block, Direction]:
    """Fit D at several blocks from one target: the search, which is what costs, runs once.

    Args:
        bank_features: the bank's pictures, with the tokens of ``blocks`` and of the target block.
        blocks: where D is read.
        settings: of target and fit (None: ``DirectionSettings()``).
        size: tokens of the reference.
        k: neighbours behind each sparsity.
        neighbours: reference tokens that a rarity is the mean over.
        key: hash key of the reference.

    Raises:
        LabelLeak: something like a label was handed in, or a mask was opened meanwhile.
        CovtokenError: settings out of range, no pictures, NaN tokens, too few units, no token above the quantile.
    """
    settings = settings or DirectionSettings()
    with construction("a direction"):
        reference = target_reference(bank_features, settings.target_block, size, k, neighbours, key, progress)
        rarity = bank_rarity(bank_features, reference, progress)
        return {block: distilled(bank_features, block, reference, rarity, settings, progress) for block in blocks}


def target_reference(
    features: Features,
    target_block: Block,
    size: int = REFERENCE_SIZE,
    k: int = K_NEIGHBOURS,
    neighbours: int = NEIGHBOURS,
    key: str = KEY,
    progress: bool = False,
) -> RaritySubspace:
    """Build the pooled reference of rarity (pass 1); arguments as ``fit_many``."""
    bank = build_bank(features, target_block, size, pooled=True, key=key, progress=progress)
    return RaritySubspace.fit(bank, k, neighbours)


def distilled(
    features: Features,
    block: Block,
    reference: RaritySubspace,
    rarity: torch.Tensor,
    settings: DirectionSettings | None = None,
    progress: bool = False,
) -> Direction:
    """Fit D at one block after passes 1 and 2.

    Args:
        features: the bank's pictures.
        rarity: [N, T] of those pictures (``bank_rarity``).
        settings: of target and fit; its target block is the reference's.
    """
    settings = settings or DirectionSettings()
    target = two_views(_checked_target(features, rarity), settings.inside)
    cut = rarity_cut(target, settings.quantile)
    moments = direction_moments(features, block, target, cut, progress=progress)
    about = rarity_target(reference, settings.quantile, cut, settings.inside)
    direction = Direction.from_moments(moments, reference.bank.header, block, settings.ridge, **about)
    for _ in range(settings.rounds):
        direction = refined(direction, features, target, progress=progress)
    return direction


def two_views(rarity: torch.Tensor, inside: float) -> torch.Tensor:
    """Mix two ranks of each token into one target: (1 − inside) · rank over the bank + inside · rank in its picture.

    With few units, the rarest tokens of the bank all come from one or two pictures, and a cut over the bank would mark
    only those. Ranking inside each picture spreads the positives. At ``inside`` = 1, as in the recommended recipe,
    every picture, also one without a lesion, gives the same number of called tokens at first (ties aside); only the
    rounds, which rank the direction's score over the bank, compare pictures.

    Args:
        rarity: [N, T], a row a picture.
        inside: 0 … 1; 0 gives ``rarity`` back as it is.

    Returns:
        [N, T] float64 in (0, 1], ranks over their number, ties shared.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: ``inside`` outside [0, 1].
    """
    _check_inside(inside)
    refuse_label_arrays("the target of a direction", rarity)  # here: ranks of a mask no longer look like one
    if inside == 0:
        return rarity
    values = torch.as_tensor(rarity).numpy()
    over_bank = rankdata(values, axis=None).reshape(values.shape) / values.size
    return torch.as_tensor((1 - inside) * over_bank + inside * rankdata(values, axis=1) / values.shape[1])


def refined(direction: Direction, features: Features, rarity, progress: bool = False) -> Direction:
    """Fit a direction anew to the tokens that are high in rarity *and* in its score (one round).

    A rare token that no direction explains is an oddity of its own picture; a token that both name shows what rare
    tokens have in common. The share of positives stays that of the first target.

    Args:
        features: the pictures that ``direction`` was fitted on.
        rarity: [N, T] of those pictures (``bank_rarity``), in ``two_views`` if the direction's own target was.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: another target than the direction's own.
    """
    head = direction.header
    check_fits(direction, features, pictures=features)
    rarity = _checked_target(features, rarity)
    if "cut" in head and rarity_cut(rarity, head["quantile"]) != head["cut"]:
        raise CovtokenError(
            f"this target was not the direction's own, which weighs ranks inside pictures by {head.get('inside', 0)}: "
            "give `two_views` of the same rarity"
        )
    with construction("a direction"):
        target = agreed(rarity, bank_scores(direction, features, progress))
        cut = rarity_cut(target, head["quantile"])
        moments = direction_moments(features, head["block"], target, cut, head["pooled"], progress)
    kept = ("target", "target_block", "quantile", "inside", "cut", "size", "k", "neighbours", "key", "pooled")
    about = {name: head[name] for name in kept if name in head} | {"rounds": head.get("rounds", 0) + 1}
    return Direction.from_moments(moments, head, head["block"], head["ridge"], **about)


def agreed(rarity: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Average each token's two ranks over the whole bank, in (0, 1], float64, the shape of ``rarity``."""
    ranks = [rankdata(torch.as_tensor(x).numpy(), axis=None).reshape(tuple(x.shape)) for x in (rarity, score)]
    return torch.as_tensor((ranks[0] + ranks[1]) / (2 * ranks[0].size))


def bank_scores(direction: Direction, features: Features, progress: bool = False) -> torch.Tensor:
    """Score the bank's own pictures, or a shard of them: ω·(x − m) [N, T] float32, unsmoothed."""
    head = direction.header
    with construction("a direction"):
        parts = _streamed(features, head["block"], head["pooled"], "a direction's own bank", progress)
        return torch.cat([direction.score(tokens) for _, tokens in parts])


def bank_rarity(features: Features, reference: RaritySubspace, progress: bool = False) -> torch.Tensor:
    """Score the rarity [N, T] float32 of the bank's pictures, or of a shard of them, own unit left out (pass 2).

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: a reference of other features, NaN tokens.
    """
    bank = reference.bank
    check_fits(bank, features)
    _refuse(features)
    parts, units = [], bank.unit_ids(features.units)
    with construction("the rarity of a bank"):
        for part, tokens in _streamed(features, bank.header["block"], bank.header["pooled"], "rarity", progress):
            parts.append(reference.score(tokens, units[part]))
    return torch.cat(parts)


def rarity_cut(rarity: torch.Tensor, quantile: float = 0.9) -> float:
    """Take the exact quantile of the rarity of *all* the bank's pictures, linear between order statistics."""
    _check_quantile(quantile)
    return float(np.quantile(torch.as_tensor(rarity).double().numpy(), quantile))


def rarity_target(reference: RaritySubspace, quantile: float, cut: float, inside: float = 0.0) -> dict:
    """Describe a rarity target for a header: reference, block, quantile, cut, weight of within-picture ranks."""
    bank = reference.bank.header
    made = {"target": "rarity", "target_block": bank["block"], "quantile": quantile, "cut": cut, "inside": inside}
    return made | {"size": bank["size"], "k": reference.k, "neighbours": reference.neighbours, "key": bank["key"]}


def direction_moments(
    features: Features, block: Block, target, cut: float | None = None, pooled: bool = True, progress: bool = False
) -> Moments:
    """Sum the tokens of one block over the bank's pictures, or over a shard of them (pass 3).

    Args:
        target: [N, T] float, of the same pictures.
        cut: where given, t = 1 where the target is above it, else 0.

    Raises:
        LabelLeak: something like a label was handed in (0 and 1 come from ``cut``, never from outside).
        CovtokenError: another shape than the features'.
    """
    target = _checked_target(features, target)
    target = target.double() if cut is None else (target.double() > cut).double()
    moments = None
    with construction("a direction"):
        for part, tokens in _streamed(features, block, pooled, f"direction, block {block}", progress):
            summed = Moments.of(tokens, target[part])
            moments = summed if moments is None else moments + summed
    return moments


def moments_at_cuts(
    features: Features, block: Block, target, cuts: Sequence[float], pooled: bool = True, progress: bool = False
) -> list[Moments]:
    """Compute ``direction_moments`` at several cuts in one pass; Σx and Σxxᵀ, which cost, are the same at all cuts."""
    target = _checked_target(features, target).double()
    shared, cross, counts = None, 0, [0.0] * len(cuts)
    with construction("a direction"):
        for part, tokens in _streamed(features, block, pooled, f"direction, block {block}", progress):
            calls = torch.stack([(target[part] > cut).double() for cut in cuts])  # [cuts, n, T]
            summed = Moments.of(tokens, calls[0])
            shared = summed if shared is None else shared + summed
            cross = cross + calls.flatten(1) @ tokens.flatten(0, 1).double()
            counts = [count + call.sum().item() for count, call in zip(counts, calls, strict=True)]
    return [Moments(shared.n, shared.x, shared.xx, t, xt, t) for t, xt in zip(counts, cross, strict=True)]  # t² = t


def load_direction(path: Path) -> Direction:
    """Read a direction. Raises CovtokenError, with the path, if missing, damaged, edited or no direction."""
    path = Path(path)
    tensors, header = read_tensors(path, kind="direction")
    weight, mean = tensors.get("weight"), tensors.get("mean")
    sound = tensors.keys() == {"weight", "mean"} and weight.dtype == mean.dtype == torch.float64
    if not sound or weight.ndim != 1 or weight.shape != mean.shape:
        came = ", ".join(f"{name} {list(x.shape)} {x.dtype}" for name, x in sorted(tensors.items())) or "none"
        raise CovtokenError(
            f"{path}: edited or damaged: expected weight [D] and mean [D] float64, came {came}; build it again"
        )
    sealed, digest = header.get("content_sha256", "nothing"), _sealed(weight, mean, header)["content_sha256"]
    if digest != sealed:
        raise CovtokenError(
            f"{path}: edited or damaged: content is {digest[:12]}, its header says {str(sealed)[:12]}; build it again"
        )
    return Direction(weight, mean, header)


def _refuse(features: Features) -> None:
    refuse_label_arrays("a direction", features)
    need_features("a direction", features)
    refuse_label_choice("a direction", features)
    if len(features) == 0:
        raise CovtokenError("a direction needs pictures: the bank is empty")


def _checked_target(features: Features, target) -> torch.Tensor:
    refuse_label_arrays("the target of a direction", target)
    _refuse(features)
    expected = [len(features), features.rows * features.cols]
    try:
        target = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CovtokenError(f"the target of a direction must be {expected} numbers, got {target!r:.60}") from error
    if list(target.shape) != expected:
        raise CovtokenError(f"the target of a direction must be {expected}, got {list(target.shape)}")
    return target


def _streamed(features: Features, block: Block, pooled: bool, what: str, progress: bool):
    """Yield (slice, tokens [n, T, D], pooled where asked) chunk by chunk; to be read under ``construction``."""
    total = -(-len(features) // CHUNK)
    for part, chunk in track(features.chunks(block, size=CHUNK), what, total, disable=not progress):
        refuse_label_arrays("a direction", chunk)
        yield part, pool3x3(chunk, features.rows, features.cols) if pooled else chunk


def _sealed(weight: torch.Tensor, mean: torch.Tensor, header: dict) -> dict:
    header = {k: v for k, v in header.items() if k != "content_sha256"}
    return header | {"content_sha256": content_digest(torch.stack([weight, mean]), np.zeros(0, np.int64), header)}


def _check_quantile(quantile: float) -> None:
    if not 0 < quantile < 1:
        raise CovtokenError(f"quantile must lie inside (0, 1), got {quantile}: tokens above it are called positive")


def _check_inside(inside: float) -> None:
    if not 0 <= inside <= 1:
        raise CovtokenError(f"inside must lie in [0, 1], got {inside}: it weighs a token's rank inside its picture")
