"""Say what a backbone must be, so that features, banks, directions and maps can be made with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from covtoken.backbone.vit import Block, Extraction


@runtime_checkable
class TokenModel(Protocol):
    """A frozen model that gives tokens on a grid. ``FrozenViT`` is one, what ``from_module`` gives another.

    Banks, directions and cached features are held against its name, weights and preprocessing. A route needs more than
    this, blocks that take any choice of tokens, and so a ``FrozenViT``.

    Attributes:
        name, label: for files, and in prose.
        weights_sha256: differs wherever tokens may differ.
        preprocessing: name of all that is done to a picture.
        input: ``"unit"``, pictures in 0…1, or ``"hu"``.
        picture_size: S, pixels, a multiple of rows and of cols.
        rows, cols: of the grid; T = rows · cols tokens, row-major.
        n_blocks: L; blocks are numbered 1…L.
        dim: D, values a token, the same for all blocks.
        has_saliency_head: whether ``extract`` can give saliency.
        device: where the weights lie.
    """

    name: str
    label: str
    weights_sha256: str
    input: str
    picture_size: int
    rows: int
    cols: int
    n_blocks: int
    dim: int

    @property
    def preprocessing(self) -> str: ...

    @property
    def has_saliency_head(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...

    def squash(self, pixels: np.ndarray) -> Tensor:
        """Squash a picture [H, W] of ``input``'s range to [S, S] float32."""

    def brightness(self, squashed: Tensor) -> Tensor:
        """Scale squashed pictures to 0…1."""

    def normalise(self, squashed: Tensor) -> Tensor:
        """Give the model's input [..., 3, S, S] of squashed pictures [..., S, S]."""

    def extract(
        self,
        images: Tensor,
        blocks: Sequence[Block],
        attention: Sequence[int] = (),
        saliency: bool = False,
        precision: str = "fp32",
    ) -> Extraction:
        """Give tokens [N, T, D] of blocks, as ``FrozenViT.extract``."""

    def check_block(self, block: Block, allow_norm: bool = True) -> None:
        """Raise CovtokenError on a block that the model does not have."""

    def check_request(
        self, images: Tensor, blocks: Sequence[Block], attention: Sequence[int], saliency: bool, precision: str
    ) -> None:
        """Raise CovtokenError on arguments that ``extract`` cannot serve."""
