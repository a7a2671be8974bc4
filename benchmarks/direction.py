"""C−, the recommended score, fitted on a million bank tokens, and its use: python benchmarks/direction.py [share]

3,906 pictures × 256 tokens × 384 (``share`` of the pictures; 1 by default), drawn anew from each picture's seed when
they are read, so that no pass holds more than a chunk: of falling width, around one centre a picture, twelve pictures
a unit. Prints wall seconds (and those that drawing took), the peak memory of the whole process, and one picture's C−
beside a forward pass of ViT-S/14 at 224 pixels (random weights: they cost the same).
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time

import faiss
import torch
from timing import best_of

from covtoken.backbone.weights import load_backbone
from covtoken.bank.pooling import pool3x3
from covtoken.scores import memberships
from covtoken.scores.recipe import RECOMMENDED
from covtoken.subspace.direction import Direction

PICTURES, SIDE, WIDTH, PER_UNIT = 3906, 16, 384, 12
BATCH = 8


class DrawnFeatures:
    """What a fit reads of a FeatureSet, of pictures that are drawn when they are read."""

    backbone, weights_sha256, preprocessing = "drawn", "0" * 64, "none"
    rows = cols = SIDE
    seconds = 0.0  # spent drawing

    def __init__(self, pictures) -> None:
        self.pictures = list(pictures)
        self.units = [f"unit{p // PER_UNIT}" for p in self.pictures]
        self.digests = [hashlib.sha256(str(p).encode()).hexdigest() for p in self.pictures]

    def __len__(self) -> int:
        return len(self.pictures)

    def subset(self, indices) -> DrawnFeatures:
        return DrawnFeatures(self.pictures[i] for i in indices)

    def chunks(self, block: int, size: int = 64):
        for start in range(0, len(self), size):
            began = time.perf_counter()
            some = self.pictures[start : start + size]
            tokens = torch.stack([self._draw(block, picture) for picture in some])
            DrawnFeatures.seconds += time.perf_counter() - began
            yield slice(start, start + len(some)), tokens

    def _draw(self, block: int, picture: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * picture + block)
        noise = torch.randn(SIDE * SIDE + 1, WIDTH, generator=generator)
        return (noise[1:] + 0.5 * noise[:1]) * _WIDTHS


_WIDTHS = torch.logspace(0, -1.5, WIDTH)


def fit(n_pictures: int) -> Direction:
    """Fit C− once and print what that took."""
    start = time.perf_counter()
    block, progress = RECOMMENDED.block, sys.stderr.isatty()
    found = memberships.fit(
        RECOMMENDED.scorer, block, DrawnFeatures(range(n_pictures)), RECOMMENDED.settings, progress=progress
    )
    seconds = time.perf_counter() - start
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"C− on {n_pictures * SIDE * SIDE:,} tokens × {WIDTH}: {seconds:.1f} s (of which drawing "
        f"{DrawnFeatures.seconds:.1f} s), peak {peak_gb:.2f} GB"
    )
    return found


def use(direction: Direction) -> None:
    """Print C−'s cost on one batch beside the backbone's."""
    vit = load_backbone("random:vit_small_patch14_dinov2", picture_size=224)
    images = torch.randn(BATCH, 3, 224, 224)
    tokens = vit.extract(images, [12]).tokens[12]
    forward = best_of(3, lambda: vit.extract(images, [12]))
    dot = best_of(20, lambda: direction.score(tokens))
    both = best_of(20, lambda: direction.score(pool3x3(tokens, SIDE, SIDE)))
    print(f"forward pass       {1e3 * forward / BATCH:8.3f} ms a picture ({BATCH} together)")
    print(f"C−, dot product    {1e3 * dot / BATCH:8.3f} ms ({100 * dot / forward:.2f} % of it)")
    print(f"C−, pooling and dot {1e3 * both / BATCH:8.3f} ms ({100 * both / forward:.2f} % of it)")


def main(share: float = 1.0) -> None:
    print(f"{torch.get_num_threads()} threads of torch, {faiss.omp_get_max_threads()} of faiss")
    use(fit(max(1, round(share * PICTURES))))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
