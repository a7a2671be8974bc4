"""Declare what a bank, a subspace or a score may ask of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

Block = int | str
"""A block's number, 1 … L, or ``"norm"``: the final norm."""


class Features(Protocol):
    """Features of N pictures with T patches each, such as ``covtoken.backbone.feature_set.FeatureSet``."""

    @property
    def rows(self) -> int: ...  # of the token grid; T = rows × cols

    @property
    def cols(self) -> int: ...

    @property
    def units(self) -> Sequence[str]: ...  # N, like names and digests

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def digests(self) -> Sequence[str]: ...

    @property
    def backbone(self) -> str: ...  # this and the next three: how the features were made

    @property
    def weights_sha256(self) -> str: ...

    @property
    def preprocessing(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def __len__(self) -> int:
        """Count the pictures, N."""

    def tokens(self, block: Block) -> torch.Tensor:
        """Give the patch tokens of a block, [N, T, D] float32."""

    def chunks(self, block: Block, size: int = 64) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield tokens ``size`` pictures at a time: (slice, [n, T, D])."""

    def attention(self, block: int) -> torch.Tensor:
        """Give the attention of the class token to each patch, [N, T]."""

    def saliency(self) -> torch.Tensor:
        """Give the logits of the saliency head, [N, T]."""

    def intensity(self) -> torch.Tensor:
        """Give the mean brightness of each patch, [N, T]."""

    def variance(self) -> torch.Tensor:
        """Give the variance of brightness inside each patch, [N, T]."""

    def subset(self, indices: Sequence[int]) -> Features:
        """Give the features of the pictures at these indices."""
