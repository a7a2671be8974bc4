"""A FeatureSet in memory, with no more than what ``covtoken.subspace`` may use of one."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from covtoken.backbone.feature_set import FeatureSet
from covtoken.evaluation.labels import Lesion, SplitLabels


class StubFeatures:
    """``n_units`` × ``per_unit`` pictures of rows × cols tokens; values follow from the picture's name alone."""

    # As of ``FeatureSet.from_arrays`` where nothing is said, so that the two can be scored against each other.
    backbone, weights_sha256, preprocessing, precision = "arrays", "", "", "fp32"

    def __init__(self, names, rows=4, cols=5, dim=8, blocks=(1, 2, 3, 4)):
        self.names, self.rows, self.cols, self.dim, self.blocks = list(names), rows, cols, dim, blocks
        self.units = [name.split("/")[0] for name in self.names]
        self.digests = [hashlib.sha256(name.encode()).hexdigest() for name in self.names]

    @classmethod
    def of(cls, n_units=6, per_unit=3, prefix="u", **options):
        return cls([f"{prefix}{u}/{i}" for u in range(n_units) for i in range(per_unit)], **options)

    def __len__(self):
        return len(self.names)

    def _draw(self, what, *shape):
        rows = [
            np.random.default_rng(int(hashlib.sha256(f"{what}{d}".encode()).hexdigest()[:12], 16)).normal(size=shape)
            for d in self.digests
        ]
        return torch.tensor(np.array(rows).reshape(len(self), *shape), dtype=torch.float32)

    def made(self, rows=None, cols=None, width=None, **about) -> FeatureSet:
        """The same features as a FeatureSet, or on another grid, of another width, or said to be made otherwise."""
        tokens = {b: self.tokens(b)[..., : width or self.dim] for b in self.blocks}
        about = {"digests": self.digests, "saliency": self.saliency(), "variance": self.variance()} | about
        return FeatureSet.from_arrays(tokens, rows or self.rows, cols or self.cols, self.units, self.names, **about)

    def tokens(self, block):
        return self._draw(f"tokens{block}", self.rows * self.cols, self.dim)

    def chunks(self, block, size=64):
        tokens = self.tokens(block)
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self))), tokens[start : start + size]

    def attention(self, block):
        return self._draw(f"attention{block}", self.rows * self.cols).softmax(1)

    def saliency(self):
        return self._draw("saliency", self.rows * self.cols)

    def intensity(self):
        return self._draw("intensity", self.rows * self.cols)

    def variance(self):
        return self._draw("variance", self.rows * self.cols).abs()

    def subset(self, indices):
        return StubFeatures([self.names[i] for i in indices], self.rows, self.cols, self.dim, self.blocks)


def stub_labels() -> SplitLabels:
    """Of 8 pictures of 4 × 5 tokens, two a unit: a lesion of two tokens in each of the first six."""
    lesion = np.zeros((8, 20), dtype=bool)
    lesion[:6, 7:9] = True
    lesions = tuple(Lesion(np.array([7, 8]), 1.0, 0.1, i) for i in range(6))
    return SplitLabels(lesion, ~lesion & False, None, np.arange(8) // 2, lesions, tuple("abcd"), (), 4, 5)
