"""Fit subspace B, residual: a token is a member if the directions of normal tokens do not explain it (book/method.md).

PCA of the bank gives the normal basis U; membership is the length of a token outside of it. B is fitted on the same
bank as A, so that the two differ in how they look and not in what they look at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from covtoken.bank.token_bank import TokenBank, need_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_label_arrays

RANK = 64
CHUNK = 16_384  # tokens held in float64 at a time


@dataclass(frozen=True)
class ResidualSubspace:
    """The fitted subspace."""

    bank: TokenBank
    mean: torch.Tensor = field(repr=False)  # [D] float64, of the bank's tokens
    basis: torch.Tensor = field(repr=False)  # U [D, rank] float64, orthonormal: the normal directions, widest first

    @classmethod
    def fit(cls, bank: TokenBank, rank: int = RANK) -> ResidualSubspace:
        """Take the top ``rank`` principal directions of the bank.

        Unlike A, B leaves no unit out: a token moves a mean and a covariance of thousands only a little. Still, score
        no picture that fed the bank.

        Raises:
            LabelLeak: something like a label was handed in.
            CovtokenError: a rank that leaves nothing over (D or more, or all that n tokens span), tokens that are
                NaN or infinite.
        """
        need_bank("the residual subspace", bank)
        refuse_label_arrays("the residual subspace", bank, bank.tokens)
        n, width = bank.tokens.shape
        most = min(width, n - 1) - 1
        if not 1 <= rank <= most:
            raise CovtokenError(
                f"rank must lie in 1 … {most}, got {rank}: {n} tokens of width {width} have residuals only below that"
            )
        with construction("the residual subspace"):
            mean, covariance = _moments(bank.tokens)
            if not torch.isfinite(covariance).all():
                raise CovtokenError("the bank holds NaN or infinite tokens: build it again from sound features")
            basis = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :rank].contiguous()
        return cls(bank, mean, basis)

    def score(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the membership [...] of tokens [..., D]: ‖(I − UUᵀ)(z − mean)‖, float32, where the tokens lie."""
        if tokens.shape[-1] != len(self.mean):
            raise CovtokenError(f"tokens must be [..., {len(self.mean)}] as the bank's, got {tuple(tokens.shape)}")
        mean, basis = self.mean.to(tokens.device), self.basis.to(tokens.device)
        flat = _residual(tokens.reshape(-1, tokens.shape[-1]), mean, basis)
        return flat.to(torch.float32).reshape(tokens.shape[:-1])


def _moments(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean [D] and covariance [D, D] (÷ n) in float64; centred before squaring, so that nothing cancels."""
    mean = sum(part.double().sum(0) for part in tokens.split(CHUNK)) / len(tokens)
    covariance = sum(_gram(part.double() - mean) for part in tokens.split(CHUNK)) / len(tokens)
    return mean, covariance


def _gram(x: torch.Tensor) -> torch.Tensor:
    return x.T @ x


def _residual(tokens: torch.Tensor, mean: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Measure residuals [n] float64 themselves: ‖x‖² − ‖Uᵀx‖² would lose residuals that are small beside x."""
    parts = []
    for part in tokens.split(CHUNK):
        x = part.double() - mean
        parts.append(torch.linalg.vector_norm(x - (x @ basis) @ basis.T, dim=1))
    return torch.cat(parts) if parts else mean.new_zeros(0)
