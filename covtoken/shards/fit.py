"""Fit a bank and a consensus direction over shards of tokens: each pass leaves a file a shard, and the files merge.

    reference    a shard's tokens of smallest keyed hash: merged by choosing again, bit for bit the bank of one run
    rarity       of a shard's tokens: gathered, one float a token; ranks and the quantile are taken over all at once
    moments 0…   a shard's sums of the ridge, added in the order of the shards, whatever the order they came in
    scores 0…    of a shard's tokens by the last direction: gathered as rarity is

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

from covtoken.bank.features import Block
from covtoken.bank.pooling import pool3x3
from covtoken.bank.tensor_file import content_digest
from covtoken.bank.token_bank import KEY, REFERENCE_SIZE, TokenBank, check_fits, choose_tokens, load_bank, origin
from covtoken.errors import CovtokenError
from covtoken.keys import hash_unit
from covtoken.leak_guard import construction
from covtoken.scores.memberships import fit
from covtoken.scores.recipe import Recipe
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
    tokens: Path, out: Path, recipe: Recipe, part: tuple[int, int] = (1, 1), size: int = REFERENCE_SIZE
) -> Direction:
    """Fit the direction of a consensus recipe over shards, as far as the files of other machines let it.

    Args:
        tokens: a folder of token shards, all of them.
        out: gets ``bank.safetensors`` (the reference), ``direction.safetensors`` and ``parts/``.
        part: (i, N): make the files of every N-th shard, from the i-th on.
        size: tokens of the reference.

    Raises:
        Waiting: a pass of other shards is missing; run again when it is there.
        LabelLeak: a mask was opened meanwhile.
        CovtokenError: a recipe of another score, shards that do not belong together, or files of another fit.
    """
    if recipe.scorer != "consensus" or not recipe.pooled:
        raise CovtokenError(f"shards fit C− and C on pooled tokens, got {recipe.scorer!r}: take a consensus recipe")
    out, (made_of, n), everything = Path(out), token_key(tokens), open_tokens(tokens)
    key = made_of | {"recipe": recipe.to_json(), "size": size}
    finished = out / "direction.safetensors"
    if finished.exists():
        direction = load_direction(finished)
        check_fits(direction, everything, recipe.block, True, everything)
        wanted = {name: getattr(recipe.settings, name) for name in FITTED_BY}
        wanted |= {"size": size} if "rarity" in recipe.settings.sources else {}
        wrong = [f"{k}: expected {v}, it has {direction.header.get(k)}" for k, v in wanted.items()]
        wrong = [words for words, (k, v) in zip(wrong, wanted.items()) if direction.header.get(k) != v]
        if wrong:
            raise CovtokenError(f"{finished} was fitted otherwise ({'; '.join(wrong)}): give another folder")
        return direction
    mine = range(part[0], n + 1, part[1])
    opened = cache(lambda i: open_tokens(tokens, i))

    def gathered(name: str, after: str, make: Callable[[int], Tensors]) -> list[Tensors]:
        """Make this machine's files of a pass, then read those of all shards, in their order."""
        told = key | {"after": after}
        for i in mine:
            path = shard_path(out / "parts", name, i, n)
            if read_shard(path, told) is None:
                write_shard(path, told, make(i))
        parts = [read_shard(shard_path(out / "parts", name, i, n), told) for i in range(1, n + 1)]
        missing = [str(i) for i, each in enumerate(parts, 1) if each is None]
        if missing:
            raise Waiting(
                f"pass {name}: waits for shards {', '.join(missing[:8])} of {n}; run again when they are made"
            )
        return parts

    def maps(name: str, after: str, make: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Gather a pass that gives maps: [N, T] in the cohort's order."""
        parts = [each["map"] for each in gathered(name, after, lambda i: {"map": make(i)})]
        whole = torch.empty(len(everything), parts[0].shape[1])
        for first, rows in enumerate(parts):
            whole[first::n] = rows
        return whole

    rounds: list[int] = []

    def rarity_at(block: Block) -> tuple[RaritySubspace, torch.Tensor]:
        candidates = gathered("reference", "", lambda i: reference_part(opened(i), block, size))
        bank = merge_reference(candidates, [opened(i) for i in range(1, n + 1)], block, size)
        bank.save(out / "bank.safetensors")
        reference = RaritySubspace.fit(bank)
        return reference, maps("rarity", bank.header["content_sha256"], lambda i: bank_rarity(opened(i), reference))

    def moments(kept: torch.Tensor, cut: float) -> Moments:
        rounds.append(len(rounds))
        after = digest_of([cut, content_digest(kept, np.zeros(0, np.int64), {})])

        def part_of(i: int) -> Tensors:
            return moments_part(direction_moments(opened(i), recipe.block, kept[i - 1 :: n], cut))

        return merge_moments(gathered(f"moments{rounds[-1]}", after, part_of))

    def scores(direction: Direction) -> torch.Tensor:
        after = direction.header["content_sha256"]
        return maps(f"scores{rounds[-1]}", after, lambda i: bank_scores(direction, opened(i)))

    with construction("a direction"):
        needs = {recipe.settings.target_block, recipe.block} - set(everything.blocks)
        if needs:
            raise CovtokenError(f"{tokens} holds blocks {everything.blocks}: extract {sorted(needs, key=str)} too")
        direction = fit(
            *(recipe.scorer, recipe.block, everything, recipe.settings),
            rarity_at=rarity_at,
            passes=Passes(moments, scores),
        )
    direction.save(finished)
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
