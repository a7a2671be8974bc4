"""Score rarity, N and PN: a token is rare if its *neighbourhood* in the bank is sparse (book/recommended.md).

A asks how far a token is from the reference; N asks how sparse the reference is where the token lies, which one unlucky
gap around the token moves less. PN is N on tokens pooled 3 × 3, against a bank of pooled tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from covtoken.bank.neighbors import mean_distance, nearest
from covtoken.bank.token_bank import TokenBank, need_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays
from covtoken.subspace.density import K_NEIGHBOURS, own_units

NEIGHBOURS = 30


@dataclass(frozen=True)
class RaritySubspace:
    """A bank and how sparse it is around each of its tokens."""

    bank: TokenBank  # a pooled bank makes N into PN
    k: int  # neighbours behind each sparsity
    neighbours: int  # bank tokens that a rarity is the mean over
    sparsity: torch.Tensor = field(repr=False)  # [n] float32, of the bank's own tokens, each against other units'

    @classmethod
    def fit(cls, bank: TokenBank, k: int = K_NEIGHBOURS, neighbours: int = NEIGHBOURS) -> RaritySubspace:
        """Compute the bank's own sparsity.

        Raises:
            LabelLeak: something like a label was handed in.
            CovtokenError: fewer than 1 neighbour, or a unit that leaves fewer than k tokens of others.
        """
        need_bank("the rarity subspace", bank)
        if neighbours < 1:
            raise CovtokenError(f"neighbours must be at least 1, got {neighbours}: their mean sparsity is the score")
        refuse_label_arrays("the rarity subspace", bank, bank.tokens)
        with construction("the rarity subspace"):
            return cls(bank, k, neighbours, mean_distance(bank.tokens, bank.tokens, k, bank.units, bank.units))

    def score(self, tokens: torch.Tensor, units: np.ndarray | None = None) -> torch.Tensor:
        """Compute the rarity [...] float32 of tokens [..., D], in the tokens' own units of distance.

        Args:
            tokens: pooled by ``pool3x3`` where the bank is.
            units: as for ``sparsity``.

        Raises:
            CovtokenError: NaN tokens, another width, or fewer than ``neighbours`` bank tokens of other units.
        """
        flat = tokens.reshape(-1, tokens.shape[-1])
        _, indices = nearest(flat, self.bank.tokens, self.neighbours, *own_units(tokens, self.bank, units))
        return self.sparsity.to(indices.device)[indices].mean(1).reshape(tokens.shape[:-1])
