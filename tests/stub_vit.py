"""Small models whose tokens notice each other, pictures of waves to run them on, and a score that reads one channel."""

from __future__ import annotations

import numpy as np
import torch

from covtoken.data.case import Case
from covtoken.leak_guard import under_construction
from covtoken.subspace.direction import Direction


def lively(model):
    """Scale up the weights of a timm ViT's blocks, and open its layer scale (1e-5 in DINOv2 and DINOv3), in place."""
    with torch.no_grad():
        for name, weight in model.blocks.named_parameters():
            if "gamma" in name:
                weight.fill_(1.0)
            elif weight.ndim == 2:
                weight.mul_(5)
    return model


def cases(first, last):
    def draw(seed):
        assert under_construction()  # no label can be read meanwhile
        rng = np.random.default_rng(seed)
        waves = np.sin(np.arange(48)[:, None] * rng.uniform(0.1, 1) + np.arange(48) * rng.uniform(0.1, 1))
        return (100 + 60 * waves + 10 * rng.standard_normal((48, 48))).clip(0, 255).astype(np.float32)

    return [Case(f"case{i}", f"unit{i}", "ultrasound", lambda i=i: draw(i)) for i in range(first, last)]


def first_channel(tokens):
    return tokens[..., 0]


first_channel.reads_neighbours = False


def direction_of(vit, block=2, **about):
    """Give a random direction that fits a backbone."""
    generator = torch.Generator().manual_seed(3)
    weight, mean = torch.randn(2, vit.dim, generator=generator, dtype=torch.float64)
    header = {"kind": "direction", "block": block, "pooled": True, "backbone": vit.name, "content_sha256": "0" * 64}
    header |= {
        "weights_sha256": vit.weights_sha256,
        "preprocessing": vit.preprocessing,
        "precision": "fp32",
        "units": [],
    }
    return Direction(weight, mean, header | about)


def images_of(vit, n=3):
    return torch.randn(n, 3, vit.picture_size, vit.picture_size, generator=torch.Generator().manual_seed(1))
