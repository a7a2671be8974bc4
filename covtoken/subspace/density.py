"""Fit subspace A, density: a token is a member of the lesion subspace if it is far from the bank (book/method.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from covtoken.bank.neighbors import mean_distance
from covtoken.bank.token_bank import TokenBank, need_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays

K_NEIGHBOURS = 10  # reference tokens whose distances a sparsity averages
ALPHA, RANK = 0.1, 64  # share of bank tokens called sparse, and directions that span them
NOTHING = 1e-12  # of the largest eigenvalue: directions below it are spanned by no token, and rounding chooses them


@dataclass(frozen=True)
class DensitySubspace:
    """The fitted subspace."""

    bank: TokenBank
    k: int  # neighbours averaged
    sparsity: torch.Tensor = field(repr=False)  # [n] of the bank's own tokens, each against tokens of other units
    mean: torch.Tensor = field(repr=False)  # [D], of the bank's tokens
    directions: torch.Tensor = field(repr=False)  # [D, ≤ rank] orthonormal, about ``mean``: the lesion subspace

    @classmethod
    def fit(cls, bank: TokenBank, k: int = K_NEIGHBOURS, alpha: float = ALPHA, rank: int = RANK) -> DensitySubspace:
        """Compute the bank's own sparsity, then the principal directions of its sparsest ⌈αn⌉ tokens.

        Directions are taken about the *bank* mean, not the mean of the sparse tokens: how the sparse tokens as a group
        differ from normal ones is then itself a direction. Fewer sparse tokens than ``rank`` span fewer directions.

        Raises:
            CovtokenError: α outside (0, 1], rank below 1 or above D, or fewer than k tokens of other units.
        """
        need_bank("the density subspace", bank)
        _check_share(alpha, rank, bank)
        refuse_label_arrays("the density subspace", bank, bank.tokens)
        with construction("the density subspace"):
            sparsity = mean_distance(bank.tokens, bank.tokens, k, bank.units, bank.units)
        return cls.of_sparsity(bank, k, sparsity, alpha, rank)

    @classmethod
    def of_sparsity(
        cls, bank: TokenBank, k: int, sparsity: torch.Tensor, alpha: float = ALPHA, rank: int = RANK
    ) -> DensitySubspace:
        """Find the directions of the sparsest tokens where the bank's own sparsity [n], which costs, is known."""
        _check_share(alpha, rank, bank)
        refuse_label_arrays("the density subspace", bank, bank.tokens, sparsity)
        with construction("the density subspace"):
            mean = bank.tokens.double().mean(0)
            n_sparse = math.ceil(alpha * len(bank) - 1e-9)
            sparse = bank.tokens[sparsity.topk(n_sparse).indices].double() - mean
            values, vectors = torch.linalg.eigh(sparse.T @ sparse)
            spanned = int((values > NOTHING * values[-1]).sum())
            directions = vectors.flip(1)[:, : min(rank, spanned)]
        return cls(bank, k, sparsity, mean.float(), directions.float().contiguous())

    def score(self, tokens: torch.Tensor, units: np.ndarray | None = None) -> torch.Tensor:
        """Compute the membership [...] of tokens [..., D]; arguments as ``sparsity``."""
        return sparsity(tokens, self.bank, units, self.k)


def _check_share(alpha: float, rank: int, bank: TokenBank) -> None:
    """Refuse a share of sparse tokens or a rank out of range."""
    if not 0 < alpha <= 1:
        raise CovtokenError(f"alpha must lie in (0, 1], got {alpha}: it is the share of bank tokens called sparse")
    if not 1 <= rank <= bank.tokens.shape[1]:
        raise CovtokenError(f"rank must lie in 1 … {bank.tokens.shape[1]} (the token width), got {rank}")


def sparsity(tokens: torch.Tensor, bank: TokenBank, units=None, k: int = K_NEIGHBOURS) -> torch.Tensor:
    """Average the Euclidean distances [...] of tokens [..., D] to their k nearest bank tokens, own units left out.

    Args:
        units: int, the bank's numbers (``unit_ids``), [...] or one a leading item; None: no token is of a unit in it.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    return mean_distance(flat, bank.tokens, k, *own_units(tokens, bank, units)).reshape(tokens.shape[:-1])


def own_units(tokens: torch.Tensor, bank: TokenBank, units) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Give the units of tokens [..., D], one a token, and the bank's, as ``nearest`` takes them; see ``sparsity``."""
    if units is None:
        return None, None
    units, shape = np.asarray(units), tokens.shape[:-1]
    units = np.broadcast_to(units.reshape(units.shape + (1,) * (len(shape) - units.ndim)), shape)
    return units.reshape(-1), bank.units
