"""Score with baselines: attention, brightness, norms, PatchCore, the centre prior, random numbers, the head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from covtoken.bank.coreset import greedy_k_center
from covtoken.bank.features import Block, Features
from covtoken.bank.neighbors import nearest
from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import build_bank
from covtoken.errors import CovtokenError
from covtoken.keys import seed_of, smallest
from covtoken.leak_guard import construction, refuse_label_arrays
from covtoken.scores.memberships import CHUNK, token_maps
from covtoken.scores.recipe import Settings

CORESET = 1_000
MUTUAL_PICTURES, MUTUAL_SHARE = 64, 0.3  # of MuSc: bank pictures at most, and the share of them that comes nearest


def map_like(values: Callable[[Block, Features, int], torch.Tensor | np.ndarray]) -> Callable[..., np.ndarray]:
    """Make a scorer's ``maps`` from ``values(block, features, seed) -> [N, T]``: pooling acts on the map itself."""

    def maps(block: Block, pooled, bank_features: Features, features: Features, seed, settings):
        raw = np.asarray(values(block, features, seed), dtype=np.float32)
        return pool3x3(raw[..., None], features.rows, features.cols)[..., 0] if pooled else raw

    return maps


def attention(block: int, features: Features, seed: int) -> torch.Tensor:
    """Score by the attention of the class token to each patch."""
    return features.attention(block)


def intensity(block: None, features: Features, seed: int) -> torch.Tensor:
    """Score by the mean brightness of each patch."""
    return features.intensity()


def variance(block: None, features: Features, seed: int) -> torch.Tensor:
    """Score by the variance of brightness inside each patch."""
    return features.variance()


def saliency_head(block: None, features: Features, seed: int) -> torch.Tensor:
    """Score by the logits of the model's own saliency head."""
    return features.saliency()


def token_norm(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score by the length of a token."""
    return token_maps(lambda z, part: z.norm(dim=2), block, pooled, features)


def token_norm_centred(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score by the distance of a token from the bank's mean."""
    total, count = 0, 0
    with construction("the mean of the bank"):
        for _, tokens in bank_features.chunks(block, size=CHUNK):
            refuse_label_arrays("the mean of the bank", tokens)
            tokens = pool3x3(tokens, features.rows, features.cols) if pooled else tokens
            total, count = total + tokens.double().sum((0, 1)), count + tokens.shape[0] * tokens.shape[1]
    mean = (total / count).float()
    return token_maps(lambda z, part: (z - mean).norm(dim=2), block, pooled, features)


def patchcore(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score by the distance to a coreset of the tokens of two blocks side by side, 3 × 3 pooled."""
    second = settings.second_block if settings else block
    banks = [build_bank(bank_features, b, pooled=pooled) for b in (block, second)]  # the same tokens of both
    reference = torch.cat([bank.tokens for bank in banks], dim=1)
    with construction("a coreset"):
        core = greedy_k_center(reference, CORESET, seed=seed)
    reference, core_units = reference[core], banks[0].units[core.numpy()]
    units = banks[0].unit_ids(features.units)
    parts = []
    for (part, a), (_, b) in zip(features.chunks(block, size=CHUNK), features.chunks(second, size=CHUNK), strict=True):
        z = torch.cat([pool3x3(x, features.rows, features.cols) if pooled else x for x in (a, b)], dim=2)
        own = np.repeat(units[part], z.shape[1])
        parts.append(nearest(z.reshape(-1, z.shape[2]), reference, 1, own, core_units)[0].reshape(z.shape[:2]))
    return torch.cat(parts).numpy()


def musc(
    block: Block, pooled: bool, bank_features: Features, features: Features, seed: int, settings: Settings | None
) -> np.ndarray:
    """Score by how far a token lies from the nearest token of each of many other pictures, MuSc-style.

    A token that has something alike in a third of the pictures is common. The mean is over the ``MUTUAL_SHARE`` of the
    pictures that come nearest (Li et al., ICLR 2024), of at most ``MUTUAL_PICTURES`` of the bank by keyed hash of their
    content; pictures of the token's own unit count neither.
    """
    near = pictures_apart(block, pooled, bank_features, features)
    return np.stack([apart[:, : math.ceil(MUTUAL_SHARE * apart.shape[1] - 1e-9)].mean(1) for apart in near])


def pictures_apart(block: Block, pooled: bool, bank_features: Features, features: Features) -> Iterator[torch.Tensor]:
    """Yield, for each picture, how far its tokens lie from each of P bank pictures of other units: [T, P], ascending.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: no bank picture of another unit.
    """
    digests = bank_features.digests
    wanted = set(smallest(set(digests), MUTUAL_PICTURES))
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}  # a picture that stands twice: once
    chosen = sorted(index for digest, index in first.items() if digest in wanted)
    bank = bank_features.subset(chosen)
    with construction("the pictures of MuSc"):
        parts = []
        for _, tokens in bank.chunks(block, size=CHUNK):
            refuse_label_arrays("the pictures of MuSc", tokens)
            parts.append(pool3x3(tokens, bank.rows, bank.cols) if pooled else tokens)
        others = torch.cat(parts).float()  # [P, T, D]
    units, flat = np.asarray(bank.units), others.flatten(0, 1)
    for part, tokens in features.chunks(block, size=CHUNK):
        tokens = pool3x3(tokens, features.rows, features.cols) if pooled else tokens
        for unit, z in zip(np.asarray(features.units)[part], tokens.float(), strict=True):
            apart = torch.cdist(z, flat).unflatten(1, others.shape[:2]).amin(-1)  # [T, P]
            apart = apart[:, torch.from_numpy(units != unit)]
            if not apart.shape[1]:
                raise CovtokenError(f"MuSc needs bank pictures of other units than {unit!r}, and there are none")
            yield apart.sort(dim=1).values


def centre_prior(block: None, features: Features, seed: int) -> np.ndarray:
    """Score by minus the distance from the grid's centre over the half diagonal, at patch centres (book/method.md)."""
    r = np.arange(features.rows) - (features.rows - 1) / 2
    c = np.arange(features.cols) - (features.cols - 1) / 2
    distance = np.hypot(r[:, None], c[None]) / (math.hypot(features.rows, features.cols) / 2)
    return np.broadcast_to(-distance.reshape(1, -1), (len(features), distance.size))


def random(block: None, features: Features, seed: int) -> np.ndarray:
    """Draw uniform values that follow from the picture and the seed alone, whatever the order of pictures."""
    n_tokens = features.rows * features.cols
    seeds = (seed_of(f"{seed}\0{digest}") for digest in features.digests)
    return np.array([np.random.default_rng(each).random(n_tokens) for each in seeds])
