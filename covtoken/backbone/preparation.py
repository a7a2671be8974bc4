"""Prepare pictures for a backbone: squash to its square, repeat the channel, normalise as its weights ask."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from covtoken.data.intensity import INPUT_RANGE
from covtoken.errors import CovtokenError


class Preparation:
    """What backbones share: how a picture becomes their input.

    Attributes:
        picture_size: S, pixels; pictures are squashed to S × S.
        mean, std: per channel, on the input's scale.
        input: ``"unit"`` (pictures in 0…1) or ``"hu"`` (Hounsfield units within ±1000).
    """

    picture_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: str

    @property
    def preprocessing(self) -> str:
        """Name of all that is done to a picture of this backbone's input; part of cache keys and bank headers."""
        numbers = [",".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std)]
        low, high = INPUT_RANGE[self.input]
        # The unit range goes unnamed, as it did before there was another: a name would orphan every stored feature.
        scale = "" if self.input == "unit" else f"{self.input}={low:g}..{high:g};"
        return f"{scale}squash-bicubic;size={self.picture_size};mean={numbers[0]};std={numbers[1]}"

    def squash(self, pixels: np.ndarray) -> Tensor:
        """Squash a picture to the model's square: [H, W] → [S, S] float32, both of ``input``'s range (PIL bicubic)."""
        pixels = np.asarray(pixels, dtype=np.float32)
        low, high = INPUT_RANGE[self.input]
        expected = f"{low:g}…{high:g}" + (" HU" if self.input == "hu" else "")
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise CovtokenError(f"expected one picture [H, W] in {expected}, got shape {list(pixels.shape)}")
        slack = 1e-3 * (high - low)
        if not (pixels.min() >= low - slack and pixels.max() <= high + slack):  # also false for NaN
            raise CovtokenError(
                f"expected a picture in {expected}, got values {pixels.min():.4g}…{pixels.max():.4g}: "
                "pass it through covtoken.data.intensity.to_input first"
            )
        size = (self.picture_size, self.picture_size)
        squashed = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(squashed, dtype=np.float32)).clamp_(low, high)  # bicubic overshoots at edges

    def brightness(self, squashed: Tensor) -> Tensor:
        """Scale squashed pictures to the unit range, whatever the input, for patch intensity and variance."""
        low, high = INPUT_RANGE[self.input]
        return squashed if self.input == "unit" else (squashed - low) / (high - low)

    def normalise(self, squashed: Tensor) -> Tensor:
        """Repeat the channel of squashed pictures [..., S, S] → [..., 3, S, S] and normalise as the weights ask."""
        mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (self.mean, self.std))
        return (squashed.unsqueeze(-3) - mean) / std

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Squash and normalise a picture [H, W] of ``input``'s range → [3, S, S]."""
        return self.normalise(self.squash(pixels))
