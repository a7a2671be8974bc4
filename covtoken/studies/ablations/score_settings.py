"""Ablate what a score fixes: k, the share of rare tokens, ranks, the reference's size, block and pooling."""

from __future__ import annotations

from collections.abc import Iterator

from covtoken.bank.token_bank import REFERENCE_SIZE
from covtoken.scores.recipe import recommended
from covtoken.studies.ablations.ground import C_MINUS, PN, SUBSPACE, A, B, D, Ground, Trial
from covtoken.subspace.density import ALPHA, K_NEIGHBOURS, RANK

KS = (1, 3, K_NEIGHBOURS, 30, 100)
MOST_OWN = 30  # neighbours of the reference's own tokens that are kept, for C−
ALPHAS = (0.01, 0.03, 0.07, ALPHA, 0.2, 0.4)
D_ALPHA = 0.07  # of D's recipe
RANKS = (1, 4, 16, RANK, 128, 256)
SIZES = (1_000, 3_000, REFERENCE_SIZE, 30_000, 100_000)


def k_trials(ground: Ground) -> Iterator[Trial]:
    """Change how many neighbours a sparsity averages."""
    for k, maps in ground.whole.density(ground.selection, KS).items():
        yield ground.trial(k, A, maps, k == K_NEIGHBOURS)
    for k in (k for k in KS if k <= MOST_OWN):
        yield ground.trial(k, C_MINUS, ground.whole.direction("C−", ground.selection, k=k), k == K_NEIGHBOURS)


def alpha_trials(ground: Ground) -> Iterator[Trial]:
    """Change the share of tokens that are called rare."""
    for (alpha, _), maps in ground.whole.subspace(ground.selection, ALPHAS).items():
        yield ground.trial(alpha, SUBSPACE, maps, alpha == ALPHA)
    for alpha in ALPHAS:
        for score, usual in ((C_MINUS, ALPHA), (D, D_ALPHA)):
            maps = ground.whole.direction(score, ground.selection, alpha=alpha)
            yield ground.trial(alpha, score, maps, alpha == usual)


def rank_trials(ground: Ground) -> Iterator[Trial]:
    """Change the rank of B's normal directions and of the lesion subspace."""
    ranks = [rank for rank in RANKS if rank < ground.setting.vit.dim - 1]
    for rank, maps in ground.whole.residual(ground.selection, ranks).items():
        yield ground.trial(rank, B, maps, rank == RANK)
    for (_, rank), maps in ground.whole.subspace(ground.selection, ranks=ranks).items():
        yield ground.trial(rank, SUBSPACE, maps, rank == RANK)


def reference_trials(ground: Ground) -> Iterator[Trial]:
    """Change the number of reference tokens, up to all that the bank has."""
    for size in sizes_up_to(len(ground.bank) * ground.bank.rows * ground.bank.cols, ground.limits.size):
        usual = size == ground.limits.size
        searched = ground.whole if usual else ground.searched(ground.bank, size=size)
        yield ground.trial(size, A, searched.density(ground.selection)[K_NEIGHBOURS], usual)
        yield ground.trial(size, B, searched.residual(ground.selection)[RANK], usual)
        if size <= ground.limits.searched:
            yield ground.trial(size, C_MINUS, searched.direction("C−", ground.selection), usual)


def sizes_up_to(n_tokens: int, usual: int) -> list[int]:
    """List reference sizes for a bank of ``n_tokens``; all of them too where that is half again the last size."""
    sizes = sorted({size for size in (*SIZES, usual) if size <= n_tokens})
    return [*sizes, n_tokens] if not sizes or n_tokens >= 1.5 * sizes[-1] else sizes


def block_trials(ground: Ground) -> Iterator[Trial]:
    """Change the block that A and C− read; the rarity that C− is fitted to stays at its own block."""
    n_blocks, whole = ground.setting.vit.n_blocks, ground.whole
    for block in range(1, n_blocks + 1):
        maps = whole.density(ground.selection, block=block)[K_NEIGHBOURS]
        yield ground.trial(block, A, maps, block == whole.target)
        maps = whole.direction("C−", ground.selection, block=block)
        yield ground.trial(block, C_MINUS, maps, block == recommended(n_blocks).block)


def pooling_trials(ground: Ground) -> Iterator[Trial]:
    """Pool tokens with their neighbours, or not: A, B, N or PN, and C− with its target."""
    for pooled, value in ((False, "none"), (True, "3 × 3")):
        yield ground.trial(value, A, ground.whole.density(ground.selection, pooled=pooled)[K_NEIGHBOURS], not pooled)
        yield ground.trial(value, B, ground.whole.residual(ground.selection, pooled=pooled)[RANK], not pooled)
        yield ground.trial(value, PN, ground.whole.rarity(ground.selection, pooled=pooled), pooled)
        yield ground.trial(value, C_MINUS, ground.whole.direction("C−", ground.selection, pooled=pooled), pooled)
