"""Every score and baseline behind one signature: features in, a map of T values a picture out. High means lesion.

``raw_maps`` is what costs; Gaussian smoothing and signs are cheap and come after it, so a search loops outside:

    for (block, pooled) in …: maps = raw_maps(scorer, block, pooled, bank, features)
        for σ in …: smooth(maps, rows, cols, σ)

A recipe (score, block, pooling, σ, sign) is chosen on the selection split, on the same grid for all (book/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from covtoken.errors import CovtokenError, unknown
from covtoken.keys import seed_of
from covtoken.leak_guard import construction, refuse_label_arrays, refuse_label_choice
from covtoken.subspace.bank import build_bank, check_alike, need_features
from covtoken.subspace.coreset import greedy_k_center
from covtoken.subspace.density import sparsity
from covtoken.subspace.direction import Direction, direction_moments
from covtoken.subspace.erasure import without_linear
from covtoken.subspace.neighbors import nearest
from covtoken.subspace.pooling import pool3x3, smooth
from covtoken.subspace.rarity import RaritySubspace
from covtoken.subspace.residual import RANK, ResidualSubspace

SIGMAS = (0.0, 0.5, 1.0)
CHUNK = 64  # pictures held at a time
CORESET = 1_000
STUDENT_WEIGHTS = (0.25, 0.5, 1.0, 2.0)  # of the head's student beside A in O
_LOGIT = "saliency logit"


@dataclass(frozen=True)
class Recipe:
    """One score as it is run: ``block`` is None where none is needed; ``extra`` is the score's own (JSON values)."""

    scorer: str
    block: int | str | None = None
    pooled: bool = False
    sigma: float = 0.0
    sign: int = 1
    extra: tuple = ()

    def to_json(self) -> dict:
        return asdict(self) | {"extra": list(self.extra)}

    @classmethod
    def from_json(cls, data: dict) -> Recipe:
        return cls(**(data | {"extra": tuple(data.get("extra", ()))}))


@dataclass(frozen=True)
class Scorer:
    """A score by name.

    Attributes:
        needs: what features must carry, of ``tokens``, ``attention``, ``saliency``, ``pictures``, and ``bank`` where
            the score is fitted on the bank's pictures.
        maps: (block, pooled, bank_features, features, seed, extra) -> [N, T]; see ``raw_maps``.
        grid: n_blocks -> list of {block, pooled[, sign, extra]} that may be chosen; σ is added to each by ``choices``.
    """

    name: str
    needs: frozenset[str]
    maps: Callable[..., np.ndarray]
    grid: Callable[[int], list[dict]]


def raw_maps(
    scorer: str, block, pooled: bool, bank_features, features, seed: int = 0, extra: tuple = (), other_size=False
) -> np.ndarray:
    """Unsmoothed score maps [N, T] float32 of ``features``, fitted on ``bank_features`` where the score needs a bank.

    Args:
        block: 1 … L or ``"norm"``; ignored by scores that need none. pooled: 3 × 3, on tokens where the score reads
            tokens, else on the map. extra: see ``Recipe``.
        other_size: score pictures of another size than the bank's, which is refused otherwise: to measure what it does.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: unknown score, a score that gives NaN, or one that needs a bank and pictures whose features were
            made otherwise than the bank's (``bank.check_alike``).
    """
    refuse_label_arrays(f"score {scorer!r}", bank_features, features)
    refuse_label_choice(f"score {scorer!r}", bank_features)
    needs = find(scorer).needs
    need_features(f"score {scorer!r}", features)
    if "bank" in needs:
        check_alike(bank_features, features, block, other_size)
    maps = np.asarray(find(scorer).maps(block, pooled, bank_features, features, seed, extra), dtype=np.float32)
    if maps.shape != (len(features), features.rows * features.cols) or not np.isfinite(maps).all():
        raise CovtokenError(f"score {scorer!r} at block {block} gave {maps.shape} with NaN or a wrong shape")
    return maps


def score_maps(recipe: Recipe, bank_features, features, seed: int = 0, other_size: bool = False) -> np.ndarray:
    """The maps [N, T] float32 of a recipe: raw, smoothed, signed; arguments and errors as ``raw_maps``."""
    if not isinstance(recipe, Recipe):
        raise CovtokenError(f"score_maps takes a Recipe, such as covtoken.RECOMMENDED, got {recipe!r}")
    place = recipe.scorer, recipe.block, recipe.pooled
    maps = raw_maps(*place, bank_features, features, seed, recipe.extra, other_size)
    return recipe.sign * smooth(maps, features.rows, features.cols, recipe.sigma)


def choices(scorer: str, n_blocks: int) -> list[Recipe]:
    """Every recipe of a score that may be chosen on the selection split of a backbone with L = ``n_blocks``."""
    return [Recipe(scorer, sigma=sigma, **place) for place in find(scorer).grid(n_blocks) for sigma in SIGMAS]


def find(scorer: str) -> Scorer:
    """The score of that name, or an error with the closest names."""
    if scorer not in SCORERS:
        raise unknown("score", scorer, sorted(SCORERS))
    return SCORERS[scorer]


def middle_blocks(n_blocks: int) -> range:
    """⌈L/4⌉ … ⌊3L/4⌋ + 1 (3 … 10 of 12), book/method.md; never beyond L."""
    return range(math.ceil(n_blocks / 4), min(3 * n_blocks // 4 + 1, n_blocks) + 1)


def token_maps(score, block, pooled: bool, features) -> np.ndarray:
    """Apply ``score(tokens [n, T, D], slice) -> [n, T]`` picture chunk by picture chunk, after pooling."""
    parts = []
    for part, tokens in features.chunks(block, size=CHUNK):
        tokens = pool3x3(tokens, features.rows, features.cols) if pooled else tokens
        parts.append(np.asarray(score(tokens, part), dtype=np.float32))
    return np.concatenate(parts)


def _map_like(values) -> Callable[..., np.ndarray]:
    """A scorer's ``maps`` from ``values(block, features, seed) -> [N, T]``: pooling acts on the map itself."""

    def maps(block, pooled, bank_features, features, seed, extra):
        found = np.asarray(values(block, features, seed), dtype=np.float32)
        return pool3x3(found[..., None], features.rows, features.cols)[..., 0] if pooled else found

    return maps


_attention = _map_like(lambda block, features, seed: features.attention(block))


def _density(block, pooled, bank_features, features, seed, extra):
    """Membership A needs the reference alone, not its own sparsity and directions (``DensitySubspace.fit``)."""
    bank = build_bank(bank_features, block, pooled=pooled)
    units = bank.unit_ids(features.units)
    return token_maps(lambda z, part: sparsity(z, bank, units[part]), block, pooled, features)


def _residual(block, pooled, bank_features, features, seed, extra):
    """Membership B, on A's reference. Tokens of fewer than 128 values keep half of their directions as normal."""
    bank = build_bank(bank_features, block, pooled=pooled)
    fitted = ResidualSubspace.fit(bank, min(RANK, bank.tokens.shape[1] // 2))
    return token_maps(lambda z, part: fitted.score(z), block, pooled, features)


def _rarity(block, pooled, bank_features, features, seed, extra):
    """N, and PN where pooled."""
    bank = build_bank(bank_features, block, pooled=pooled)
    fitted, units = RaritySubspace.fit(bank), bank.unit_ids(features.units)
    return token_maps(lambda z, part: fitted.score(z, units[part]), block, pooled, features)


def _direction(block, pooled, bank_features, features, seed, extra):
    """D, on pooled tokens alone. ``extra`` holds its target block, quantile, ridge, rounds and ``inside``."""
    if not pooled:
        raise CovtokenError("the distilled direction reads pooled tokens: give pooled=True")
    fitted = Direction.fit(bank_features, block, *extra)
    return token_maps(lambda z, part: fitted.score(z), block, True, features)


def _direction_without_head(block, pooled, bank_features, features, seed, extra):
    """D read off tokens that say nothing linear about the head's logit: does D only find the head back?"""
    if not pooled:
        raise CovtokenError("the distilled direction reads pooled tokens: give pooled=True")
    head = direction_moments(bank_features, block, bank_features.saliency())
    fitted = without_linear(Direction.fit(bank_features, block, *extra), head, target=_LOGIT)
    return token_maps(lambda z, part: fitted.score(z), block, True, features)


def _head_student(block, pooled, bank_features, features, seed, extra):
    """What of the saliency head's logit a linear map can read off the tokens of one block (book/method.md)."""
    logits = bank_features.saliency()
    fitted = Direction.fit_target(bank_features, block, logits, pooled, target=_LOGIT)
    return token_maps(lambda z, part: fitted.score(z), block, pooled, features)


def in_organ_parts(
    block, student_block, pooled: bool, bank_features, features, density: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The two maps [N, T] whose weighted sum is O: membership A, and the head's student, unsmoothed.

    Each in standard deviations of what the bank's own tokens score (of A, the reference's, own unit left out), so that
    a weight means the same with every bank. Both read tokens as they are, or both pooled ones.

    Args:
        density: A's raw maps [N, T] where they exist already.
    """
    bank = build_bank(bank_features, block, pooled=pooled)
    far = raw_maps("density", block, pooled, bank_features, features) if density is None else density
    student = Direction.fit_target(bank_features, student_block, bank_features.saliency(), pooled, target=_LOGIT)
    said, own = (
        token_maps(lambda z, part: student.score(z), student_block, pooled, f) for f in (features, bank_features)
    )
    return _standardised(far, sparsity(bank.tokens, bank, bank.units).numpy()), _standardised(said, own)


def _standardised(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    spread = float(np.std(of, dtype=np.float64))
    if not spread > 0:
        raise CovtokenError("every token of the bank scores the same: give pictures that differ")
    return (values - float(np.mean(of, dtype=np.float64))) / spread


def _in_organ(block, pooled, bank_features, features, seed, extra):
    """O. ``extra`` holds the student's block and its weight."""
    if len(extra) != 2:
        raise CovtokenError(f"score 'in_organ' takes extra=(block of the student, its weight), got {tuple(extra)}")
    student_block, weight = extra
    density, student = in_organ_parts(block, student_block, pooled, bank_features, features)
    return density + weight * student


def _token_norm(block, pooled, bank_features, features, seed, extra):
    return token_maps(lambda z, part: z.norm(dim=2), block, pooled, features)


def _token_norm_centred(block, pooled, bank_features, features, seed, extra):
    total, count = 0, 0
    with construction("the mean of the bank"):
        for _, tokens in bank_features.chunks(block, size=CHUNK):
            refuse_label_arrays("the mean of the bank", tokens)
            tokens = pool3x3(tokens, features.rows, features.cols) if pooled else tokens
            total, count = total + tokens.double().sum((0, 1)), count + tokens.shape[0] * tokens.shape[1]
    mean = (total / count).float()
    return token_maps(lambda z, part: (z - mean).norm(dim=2), block, pooled, features)


def _patchcore(block, pooled, bank_features, features, seed, extra):
    """1-NN to a coreset of the tokens of two blocks side by side, 3 × 3 pooled. ``extra`` holds the second block."""
    second = extra[0] if extra else block
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


def _centre_prior(block, features, seed):
    """Minus the distance from the grid's centre over the half diagonal (between patch centres; book/method.md)."""
    r = np.arange(features.rows) - (features.rows - 1) / 2
    c = np.arange(features.cols) - (features.cols - 1) / 2
    distance = np.hypot(r[:, None], c[None]) / (math.hypot(features.rows, features.cols) / 2)
    return np.broadcast_to(-distance.reshape(1, -1), (len(features), distance.size))


def _random(block, features, seed):
    """Uniform values that follow from the picture and the seed alone, whatever the order of pictures."""
    rows = []
    for digest in features.digests:
        rows.append(np.random.default_rng(seed_of(f"{seed}\0{digest}")).random(features.rows * features.cols))
    return np.array(rows)


def _places(blocks, **more) -> list[dict]:
    return [{"block": block, "pooled": pooled} | more for block in blocks for pooled in (False, True)]


def _middle(n_blocks: int) -> list[dict]:
    return _places(middle_blocks(n_blocks))


def _middle_to_last(n_blocks: int) -> list[dict]:
    """Attention is also looked for behind the middle: there it is known to be strong, and a baseline gets its best."""
    return _places(range(middle_blocks(n_blocks)[0], n_blocks + 1))


def _from_a_third(n_blocks: int) -> list[dict]:
    """⌈L/3⌉ … the last middle block: before that, tokens know too little of the picture for one direction."""
    return _places(range(math.ceil(n_blocks / 3), middle_blocks(n_blocks)[-1] + 1))


def _directions(n_blocks: int) -> list[dict]:
    """D's target is made at 0.75 L (block 9 of 12), whichever block reads it."""
    about = (max(1, round(0.75 * n_blocks)), 0.9, 1.0)
    return [place | {"extra": about} for place in _from_a_third(n_blocks) if place["pooled"]]


def _last(n_blocks: int) -> list[dict]:
    return _places([n_blocks])


def _blockless(n_blocks: int) -> list[dict]:
    return _places([None])


def _both_signs(n_blocks: int) -> list[dict]:
    return [place for sign in (1, -1) for place in _places([None], sign=sign)]


def _pairs(n_blocks: int) -> list[dict]:
    """Two middle blocks two apart, always pooled: that is what PatchCore's locally aware patch features are."""
    middle = middle_blocks(n_blocks)
    return [{"block": b, "pooled": True, "extra": (min(b + 2, middle[-1]),)} for b in middle if b < middle[-1]] or [
        {"block": middle[-1], "pooled": True, "extra": (middle[-1],)}
    ]


def _in_organ_places(n_blocks: int) -> list[dict]:
    """A at and beside 0.75 L, the student where D reads, each weight."""
    about, student = max(1, round(0.75 * n_blocks)), max(1, n_blocks // 2)
    blocks = [b for b in (about - 1, about, about + 1) if 1 <= b <= n_blocks]
    return [{"block": b, "pooled": False, "extra": (student, w)} for b in blocks for w in STUDENT_WEIGHTS]


def _scorer(name: str, needs: str, maps, grid) -> tuple[str, Scorer]:
    return name, Scorer(name, frozenset(needs.split()), maps, grid)


SCORERS: dict[str, Scorer] = dict(
    [
        _scorer("density", "tokens bank", _density, _middle),
        _scorer("residual", "tokens bank", _residual, _middle),
        _scorer("rarity", "tokens bank", _rarity, _middle),
        _scorer("direction", "tokens bank", _direction, _directions),
        _scorer("direction_without_head", "tokens bank saliency", _direction_without_head, _directions),
        _scorer("centre_prior", "", _map_like(_centre_prior), _blockless),
        _scorer("attention", "attention", _attention, _middle_to_last),
        _scorer("attention_last", "attention", _attention, _last),
        _scorer("token_norm", "tokens", _token_norm, _middle),
        _scorer("token_norm_centred", "tokens bank", _token_norm_centred, _middle),
        _scorer("intensity", "pictures", _map_like(lambda block, features, seed: features.intensity()), _both_signs),
        _scorer("variance", "pictures", _map_like(lambda block, features, seed: features.variance()), _blockless),
        _scorer("patchcore", "tokens bank", _patchcore, _pairs),
        _scorer("random", "", _map_like(_random), _blockless),
        _scorer("saliency_head", "saliency", _map_like(lambda block, features, seed: features.saliency()), _blockless),
        _scorer("head_student", "tokens bank saliency", _head_student, _from_a_third),
        _scorer("in_organ", "tokens bank saliency", _in_organ, _in_organ_places),
    ]
)


def recommended(n_blocks: int) -> Recipe:
    """The recommended recipe; on a backbone of another depth, read and aimed at the same shares of it."""
    return scaled(RECOMMENDED, n_blocks)


def in_organ(n_blocks: int) -> Recipe:
    """O's recipe; on a backbone of another depth, at the same shares of it."""
    student, weight = IN_ORGAN.extra
    return replace(IN_ORGAN, block=at_depth(IN_ORGAN.block, n_blocks), extra=(at_depth(student, n_blocks), weight))


def scaled(recipe: Recipe, n_blocks: int) -> Recipe:
    """A recipe of D for 12 blocks, at the same shares of a backbone of another depth."""
    target = at_depth(recipe.extra[0], n_blocks)
    return replace(recipe, block=at_depth(recipe.block, n_blocks), extra=(target, *recipe.extra[1:]))


def at_depth(block: int, n_blocks: int, of: int = 12) -> int:
    """The block that lies as deep among ``n_blocks`` as ``block`` among ``of``, rounded down."""
    return max(1, block * n_blocks // of)


# What `covtoken ablate --choose` gives from the recipe cohorts' committed ablations and banks; a test holds it to that.
RECOMMENDED = Recipe("direction", 6, True, 0.0, extra=(9, 0.93, 3.0, 2, 0.75))
# What `covtoken ablate --in-organ --choose` gives from the committed tables of the recipe cohorts; tested alike.
IN_ORGAN = Recipe("in_organ", 9, False, 0.5, extra=(6, 0.5))
