"""Decode saliency as the embedded model does: a standing baseline, not part of the method (book/method.md)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class SaliencyHead(nn.Module):
    """Final-norm patch tokens → 3 × [ConvTranspose 4 × 4 stride 2, BatchNorm, ReLU] → 1 × 1 convolution.

    Names of parameters follow the published graph (``decoder.*``), so that its state loads strictly.
    """

    upscale = 8  # logit pixels per token and axis

    def __init__(self, dim: int = 384):
        super().__init__()
        widths = (dim, 256, 128, 64)
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            self.add_module(f"upconv{i}", nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(after))
        self.final_conv = nn.Conv2d(widths[-1], 1, kernel_size=1)

    def forward(self, tokens: Tensor, rows: int, cols: int) -> Tensor:
        """Decode final-norm patch tokens [N, T, D] to a logit map [N, 1, 8·rows, 8·cols]."""
        x = tokens.transpose(1, 2).reshape(len(tokens), -1, rows, cols)
        for i in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"upconv{i}")(x)))
        return self.final_conv(x)

    def token_logits(self, tokens: Tensor, rows: int, cols: int) -> Tensor:
        """Average the logit map over each token, [N, T, D] → [N, T]; a mean of sigmoids would lose the order."""
        return F.avg_pool2d(self(tokens, rows, cols), self.upscale).flatten(1)
