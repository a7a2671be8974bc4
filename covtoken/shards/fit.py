"""Fit a bank and a consensus direction over shards of tokens: each pass leaves a file a shard, and the files merge.

    reference    a shard's tokens of smallest keyed hash: merged by choosing again, bit for bit the bank of one run
    rarity       of a shard's tokens: gathered, one float a token; ranks and the quantile are taken over all at once
    moments 0…   a shard's sums of the ridge, added in the order of the shards, whatever the order they came in
    scores 0…    of a shard's tokens by the last direction: gathered as rarity is
    fold 0…4     the same passes without a fold's units, whose tokens are then scored: the threshold's quantiles

From one shard the direction is the single run's, bit for bit. From several its sums are rounded elsewhere: equal to
1e-12. Machines need no contact: each makes the files of its shards as far as those of the others let it, and is run
again when they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from covtoken.backbone.feature_set import FeatureSet
from covtoken.bank.features import Block
from covtoken.bank.pooling import pool3x3
from covtoken.bank.tensor_file import content_digest
from covtoken.bank.token_bank import KEY, REFERENCE_SIZE, TokenBank, check_fits, choose_tokens, load_bank, origin
from covtoken.data.splits import FEWEST_UNITS, N_FOLDS, folds
from covtoken.errors import CovtokenError
from covtoken.keys import hash_unit
from covtoken.leak_guard import construction
from covtoken.scores.memberships import fit
from covtoken.scores.recipe import Recipe
from covtoken.scores.recommended import direction_maps
from covtoken.scores.threshold import BankScores
from covtoken.shards.store import digest_of, read_shard, shard_path, write_shard
from covtoken.shards.tokens import open_tokens, token_key
from covtoken.subspace.consensus import Passes
from covtoken.subspace.direction import Direction, bank_rarity, bank_scores, direction_moments, load_direction
from covtoken.subspace.rarity import RaritySubspace
from covtoken.subspace.ridge import Moments

Tensors = dict[str, torch.Tensor]
FITTED_BY = ("sources", "quantile", "ridge", "rounds", "inside", "component")
SUMS = ("n", "x", "xx", "t", "xt", "tt")


class Waiting(Exception):
    """Other machines have not yet made their files of a pass."""


def fit_shards(
    tokens: Path,
    out: Path,
    recipe: Recipe,
    part: tuple[int, int] = (1, 1),
    size: int = REFERENCE_SIZE,
    threshold: bool = True,
) -> Direction:
    """Fit the direction of a consensus recipe over shards, as far as the files of other machines let it.

    Args:
        tokens: a folder of token shards, all of them.
        out: gets ``bank.safetensors`` (the reference), ``direction.safetensors`` and ``parts/``.
        part: (i, N): make the files of every N-th shard, from the i-th on.
        size: tokens of the reference.
        threshold: also fit each fold's direction, of the units outside it, and keep quantiles of the scores that it
            gives the fold's: ``covtoken map`` sets its threshold by them. Five more searches; 12 units at least.

    Raises:
        Waiting: a pass of other shards is missing; run again when it is there.
        LabelLeak: a mask was opened meanwhile.
        CovtokenError: a recipe of another score, shards that do not belong together, or files of another fit.
    """
    if recipe.scorer != "consensus" or not recipe.pooled:
        raise CovtokenError(f"shards fit C− and C on pooled tokens, got {recipe.scorer!r}: take a consensus recipe")
    work = _Work(Path(tokens), Path(out), recipe, part, size)
    threshold = threshold and len(set(work.everything.units)) >= FEWEST_UNITS
    finished = work.out / "direction.safetensors"
    if finished.exists():
        return _checked(finished, work, threshold)
    needs = {recipe.settings.target_block, recipe.block} - set(work.everything.blocks)
    if needs:
        raise CovtokenError(f"{tokens} holds blocks {work.everything.blocks}: extract {sorted(needs, key=str)} too")
    fold_of = folds(work.everything.units, N_FOLDS) if threshold else {}
    fold = np.array([fold_of.get(unit, -1) for unit in work.everything.units])
    direction, heldout, waits = None, [], []
    with construction("a direction"):
        for number in [None, *(range(N_FOLDS) if threshold else [])]:
            try:
                fitted = _fit(work, "" if number is None else f"fold{number}-", np.flatnonzero(fold != number))
                if number is None:
                    direction = fitted
                else:
                    heldout.append(_heldout(work, number, fitted, np.flatnonzero(fold == number)))
            except Waiting as waiting:
                waits.append(str(waiting))  # other folds may go on meanwhile
    if waits:
        others = f" (so do {len(waits) - 1} of the threshold)" if len(waits) > 1 else ""
        raise Waiting(f"{waits[0]}{others}")
    if heldout:
        scores = BankScores.of(np.concatenate([maps.ravel() for maps in heldout]))
        direction = direction.replaced(direction.weight, heldout=scores.to_json())
    direction.save(finished)
    return direction


class _Work:
    """Hold what a fit is made of, and make and gather the files of its passes."""

    def __init__(self, tokens: Path, out: Path, recipe: Recipe, part: tuple[int, int], size: int):
        (made_of, self.n), self.everything = token_key(tokens), open_tokens(tokens)
        self.out, self.recipe, self.size = out, recipe, size
        self.key = made_of | {"recipe": recipe.to_json(), "size": size}
        self.mine = range(part[0], self.n + 1, part[1])
        self.opened = cache(lambda i: open_tokens(tokens, i))

    def places(self, i: int, chosen: np.ndarray) -> np.ndarray:
        """Find which of the chosen pictures lie in the i-th shard."""
        return np.flatnonzero(chosen % self.n == i - 1)

    def features(self, i: int, chosen: np.ndarray) -> FeatureSet:
        """Open the chosen pictures of the i-th shard."""
        return self.opened(i).subset((chosen[self.places(i, chosen)] // self.n).tolist())

    def gathered(self, name: str, after: str, chosen: np.ndarray, make: Callable[[int], Tensors]) -> list[Tensors]:
        """Make this machine's files of a pass, then read those of all shards that hold a chosen picture, in order."""
        told, holding = self.key | {"after": after}, [i for i in range(1, self.n + 1) if len(self.places(i, chosen))]
        paths = {i: shard_path(self.out / "parts", name, i, self.n) for i in holding}
        for i in set(self.mine) & set(holding):
            if read_shard(paths[i], told) is None:
                write_shard(paths[i], told, make(i))
        parts = {i: read_shard(path, told) for i, path in paths.items()}
        missing = [str(i) for i, each in parts.items() if each is None]
        if missing:
            raise Waiting(
                f"pass {name}: waits for shards {', '.join(missing[:8])} of {self.n}; run again when they are made"
            )
        return list(parts.values())

    def maps(self, name: str, after: str, chosen: np.ndarray, make: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Gather a pass that gives maps: [N chosen, T] in the cohort's order."""
        parts = iter(self.gathered(name, after, chosen, lambda i: {"map": make(i)}))
        whole = torch.empty(len(chosen), self.everything.rows * self.everything.cols)
        for i in range(1, self.n + 1):
            if len(places := self.places(i, chosen)):
                whole[places] = next(parts)["map"]
        return whole


def _fit(work: _Work, prefix: str, chosen: np.ndarray) -> Direction:
    """Fit a direction to the chosen pictures; ``prefix`` begins the names of its passes."""
    recipe, rounds = work.recipe, []
    everything = work.everything.subset(chosen.tolist())
    holding = [i for i in range(1, work.n + 1) if len(work.places(i, chosen))]

    def rarity_at(block: Block) -> tuple[RaritySubspace, torch.Tensor]:
        candidates = work.gathered(
            *(f"{prefix}reference", "", chosen),
            lambda i: reference_part(work.features(i, chosen), block, work.size),
        )
        bank = merge_reference(candidates, [work.features(i, chosen) for i in holding], block, work.size)
        if not prefix:
            bank.save(work.out / "bank.safetensors")
        reference, after = RaritySubspace.fit(bank), bank.header["content_sha256"]

        def make(i: int) -> torch.Tensor:
            return bank_rarity(work.features(i, chosen), reference)

        return reference, work.maps(f"{prefix}rarity", after, chosen, make)

    def moments(kept: torch.Tensor, cut: float) -> Moments:
        rounds.append(len(rounds))
        after = digest_of([cut, content_digest(kept, np.zeros(0, np.int64), {})])

        def part_of(i: int) -> Tensors:
            target = kept[work.places(i, chosen)]
            return moments_part(direction_moments(work.features(i, chosen), recipe.block, target, cut))

        return merge_moments(work.gathered(f"{prefix}moments{rounds[-1]}", after, chosen, part_of))

    def scores(direction: Direction) -> torch.Tensor:
        after = direction.header["content_sha256"]

        def make(i: int) -> torch.Tensor:
            return bank_scores(direction, work.features(i, chosen))

        return work.maps(f"{prefix}scores{rounds[-1]}", after, chosen, make)

    passes = Passes(moments, scores)
    return fit(recipe.scorer, recipe.block, everything, recipe.settings, rarity_at=rarity_at, passes=passes)


def _heldout(work: _Work, number: int, fitted: Direction, left: np.ndarray) -> np.ndarray:
    """Score the pictures of a fold by the direction that they did not feed: maps [n, T]."""

    def make(i: int) -> torch.Tensor:
        return torch.as_tensor(direction_maps(work.recipe, fitted, work.features(i, left)))

    return work.maps(f"fold{number}-heldout", fitted.header["content_sha256"], left, make).numpy()


def _checked(finished: Path, work: _Work, threshold: bool) -> Direction:
    """Read a direction that is there. Raises CovtokenError where it was fitted otherwise."""
    direction, settings = load_direction(finished), work.recipe.settings
    check_fits(direction, work.everything, work.recipe.block, True, work.everything)
    wanted = {name: getattr(settings, name) for name in FITTED_BY}
    wanted |= {"size": work.size} if "rarity" in settings.sources else {}
    found = {k: direction.header.get(k) for k in wanted}
    if threshold:
        wanted, found = wanted | {"threshold": True}, found | {"threshold": "heldout" in direction.header}
    wrong = [f"{k}: expected {v}, it has {found[k]}" for k, v in wanted.items() if found[k] != v]
    if wrong:
        raise CovtokenError(f"{finished} was fitted otherwise ({'; '.join(wrong)}): give another folder")
    return direction


def reference_part(features, block: Block, size: int, key: str = KEY) -> Tensors:
    """Choose a shard's pooled tokens of smallest keyed hash: their pictures, token numbers and values."""
    picture, token = choose_tokens(features.digests, features.units, features.rows * features.cols, size, key)
    values = None
    for part, chunk in features.chunks(block, size=64):
        pooled = pool3x3(chunk, features.rows, features.cols)
        rows = np.flatnonzero((picture >= part.start) & (picture < part.stop))
        values = torch.empty(len(picture), pooled.shape[-1]) if values is None else values
        values[rows] = pooled[picture[rows] - part.start, token[rows]]
    return {"picture": torch.as_tensor(picture), "token": torch.as_tensor(token), "values": values}


def merge_reference(parts: Iterable[Mapping], shards: Iterable, block: Block, size: int, key: str = KEY) -> TokenBank:
    """Choose the bank from what shards chose: ``build_bank`` of all pictures, bit for bit, in any order of shards.

    A token that is among the smallest hashes of all is among those of its shard, so nothing is missed.

    Args:
        parts: of ``reference_part``, a shard each.
        shards: the features that they were chosen from, in the same order.
    """
    parts, shards = list(parts), list(shards)
    found = sorted(  # a picture is known by its digest, its unit, and by its place where both occur twice
        (features.digests[p], features.units[p], features.names[p], s, p)
        for s, (part, features) in enumerate(zip(parts, shards, strict=True))
        for p in np.unique(part["picture"].numpy()).tolist()
    )
    digests, units = [f[0] for f in found], [f[1] for f in found]
    n_tokens = shards[0].rows * shards[0].cols
    picture, token = choose_tokens(digests, units, n_tokens, size, key)
    at = [
        {(p, t): row for row, (p, t) in enumerate(zip(part["picture"].tolist(), part["token"].tolist()))}
        for part in parts
    ]
    chosen = [(found[p][3], at[found[p][3]][found[p][4], t]) for p, t in zip(picture.tolist(), token.tolist())]
    tokens = torch.stack([parts[s]["values"][row] for s, row in chosen])
    if not torch.isfinite(tokens).all():
        raise CovtokenError(f"block {block} gave NaN or infinite tokens: check the weights and the pictures")
    header = _origin_of(shards) | {"block": block, "pooled": True, "size": int(size), "key": key}
    number = {name: i for i, name in enumerate(header["units"])}
    rows = np.array([number[hash_unit(units[p])] for p in picture], dtype=np.int64)
    return TokenBank(tokens, rows, header | {"content_sha256": content_digest(tokens, rows, header)})


def moments_part(moments: Moments) -> Tensors:
    """Give sums as tensors, to be kept."""
    return {name: torch.as_tensor(getattr(moments, name), dtype=torch.float64) for name in SUMS}


def merge_moments(parts: Iterable[Mapping]) -> Moments:
    """Add the sums of shards, given in the shards' order, so that the order of arrival changes no bit."""
    total = None
    for part in parts:
        each = Moments(int(part["n"]), part["x"], part["xx"], part["t"].item(), part["xt"], part["tt"].item())
        total = each if total is None else total + each
    return total


def bank_of(out: Path) -> TokenBank:
    """Read the reference that a fit left."""
    return load_bank(Path(out) / "bank.safetensors")


def _origin_of(shards: list) -> dict:
    """Name what all shards came from, as ``origin`` does of one set."""

    about = {name: getattr(shards[0], name) for name in ("backbone", "weights_sha256", "preprocessing", "precision")}
    for name in ("digests", "units"):
        about[name] = [value for features in shards for value in getattr(features, name)]
    return origin(SimpleNamespace(**about))
