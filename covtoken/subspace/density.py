"""Subspace A, density: a token is a member of the lesion subspace if it is far from the bank's (book/method.md)."""

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


@dataclass(frozen=True)
class DensitySubspace:
    """The fitted subspace.

    Attributes:
        bank: the reference. k: neighbours averaged.
        sparsity: [n] of the bank's own tokens, each against tokens of other units.
        mean: [D], the bank mean, which every direction is centred by.
        directions: [D, rank] orthonormal, the lesion subspace.
    """

    bank: TokenBank
    k: int
    sparsity: torch.Tensor = field(repr=False)
    mean: torch.Tensor = field(repr=False)
    directions: torch.Tensor = field(repr=False)

    @classmethod
    def fit(cls, bank: TokenBank, k: int = K_NEIGHBOURS, alpha: float = 0.1, rank: int = 64) -> DensitySubspace:
        """Sparsity of the bank itself, then the principal directions of its sparsest ⌈αn⌉ tokens.

        Directions are taken about the *bank* mean, not the mean of the sparse tokens: how the sparse tokens as a group
        differ from normal ones is then itself a direction, as it should be for a lesion subspace.

        Raises:
            CovtokenError: α outside (0, 1], rank below 1 or above D, or fewer than k tokens of other units.
        """
        need_bank("the density subspace", bank)
        if not 0 < alpha <= 1:
            raise CovtokenError(f"alpha must lie in (0, 1], got {alpha}: it is the share of bank tokens called sparse")
        if not 1 <= rank <= bank.tokens.shape[1]:
            raise CovtokenError(f"rank must lie in 1 … {bank.tokens.shape[1]} (the token width), got {rank}")
        refuse_label_arrays("the density subspace", bank, bank.tokens)
        with construction("the density subspace"):
            sparsity = mean_distance(bank.tokens, bank.tokens, k, bank.units, bank.units)
            mean = bank.tokens.double().mean(0)
            n_sparse = math.ceil(alpha * len(bank) - 1e-9)
            sparse = bank.tokens[sparsity.topk(n_sparse).indices].double() - mean
            directions = torch.linalg.eigh(sparse.T @ sparse).eigenvectors.flip(1)[:, :rank]
        return cls(bank, k, sparsity, mean.float(), directions.float().contiguous())

    def score(self, tokens: torch.Tensor, units=None) -> torch.Tensor:
        """Membership [...] of tokens [..., D]: the mean Euclidean distance to the k nearest reference tokens.

        Args:
            units: int, the bank's numbers (``bank.unit_ids``), of shape [...] or one per leading item; reference tokens
                of a token's own unit are left out.
        """
        return sparsity(tokens, self.bank, units, self.k)


def sparsity(tokens: torch.Tensor, bank: TokenBank, units=None, k: int = K_NEIGHBOURS) -> torch.Tensor:
    """Mean Euclidean distance [...] of tokens [..., D] to their k nearest reference tokens, own units left out.

    Args:
        units: int, the bank's numbers (``bank.unit_ids``), of shape [...] or one per leading item; None: no token's
            unit is in the bank.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    return mean_distance(flat, bank.tokens, k, *own_units(tokens, bank, units)).reshape(tokens.shape[:-1])


def own_units(tokens: torch.Tensor, bank: TokenBank, units) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Units of tokens [..., D], one a token, and the bank's, as ``nearest`` takes them; see ``sparsity``."""
    if units is None:
        return None, None
    units, shape = np.asarray(units), tokens.shape[:-1]
    units = np.broadcast_to(units.reshape(units.shape + (1,) * (len(shape) - units.ndim)), shape)
    return units.reshape(-1), bank.units
