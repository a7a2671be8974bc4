"""What a bank, a subspace or a score may ask of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

Block = int | str
"""A block's number, 1 … L, or ``"norm"``: the final norm."""


class Features(Protocol):
    """Features of N pictures with T patches each: ``covtoken.backbone.feature_set.FeatureSet`` is one.

    Attributes:
        rows, cols: of the token grid; T = rows × cols.
        units, names, digests: N, of the pictures.
        backbone, weights_sha256, preprocessing, precision: how the features were made.
    """

    rows: int
    cols: int
    units: Sequence[str]
    names: Sequence[str]
    digests: Sequence[str]
    backbone: str
    weights_sha256: str
    preprocessing: str
    precision: str

    def __len__(self) -> int:
        """N."""
        ...

    def tokens(self, block: Block) -> torch.Tensor:
        """Patch tokens of a block, [N, T, D] float32."""
        ...

    def chunks(self, block: Block, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """The same, ``size`` pictures at a time: (which, [n, T, D])."""
        ...

    def attention(self, block: int) -> torch.Tensor:
        """Attention of the class token to each patch, [N, T]."""
        ...

    def saliency(self) -> torch.Tensor:
        """Logits of the saliency head, [N, T]."""
        ...

    def intensity(self) -> torch.Tensor:
        """Mean brightness of each patch, [N, T]."""
        ...

    def variance(self) -> torch.Tensor:
        """Variance of brightness inside each patch, [N, T]."""
        ...

    def subset(self, chosen: Sequence[int] | np.ndarray) -> Features:
        """Features of the pictures at these indices."""
        ...
