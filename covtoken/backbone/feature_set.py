"""Hold features of many pictures in a FeatureSet, streamed from disk or in memory; it holds no label."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from covtoken.backbone.vit import Block
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, refuse_label_arrays, refuse_labels, refuse_mask_file

ALLOWED = re.compile(r"block([1-9]\d*|norm)|attention[1-9]\d*|saliency|intensity|variance")
"""The only tensors a feature file may hold: a label could otherwise ride along under any name."""


def tensor_name(kind: str, block: Block | None = None) -> str:
    """Name a tensor: ``block3``, ``blocknorm``, ``attention3``, ``saliency``, ``intensity`` or ``variance``."""
    name = kind if block is None else f"{kind}{block}"
    if not ALLOWED.fullmatch(name):
        raise CovtokenError(f"{name!r} names no feature: blocks are 1 … L or 'norm', kinds are those of FeatureSet")
    return name


def check_allowed(name: str, where: str | Path) -> None:
    """Refuse as a label a stored tensor whose name is no feature's."""
    if not ALLOWED.fullmatch(name):
        raise LabelLeak(
            f"{where} holds a tensor {name!r}: only block<b>, attention<b>, saliency, intensity and variance are "
            "features, and labels have no place beside them; remove it"
        )


@dataclass(frozen=True)
class FeatureSet:
    """Features of N pictures, T tokens each, row-major on (rows, cols); float32 throughout.

    Attributes:
        names, units, digests: case name, unit and ``picture_digest`` of the physical pixels, a picture each.
        weights_sha256, backbone, preprocessing, precision: how features were made; banks are checked against it.
        available: names of the tensors that can be read.
        read: (tensor name, picture indices) → [n, …]; not for callers.
        chosen_by_mask: a boolean array chose the pictures: they may be scored but feed no bank.
    """

    names: list[str]
    units: list[str]
    digests: list[str]
    rows: int
    cols: int
    weights_sha256: str = ""
    backbone: str = ""
    preprocessing: str = ""
    precision: str = "fp32"
    available: frozenset[str] = frozenset()
    read: Callable[[str, Sequence[int]], Tensor] = field(default=None, repr=False, compare=False)
    chosen_by_mask: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def blocks(self) -> list[Block]:
        """Blocks with tokens, in order, ``"norm"`` last."""
        blocks = [name.removeprefix("block") for name in self.available if name.startswith("block")]
        return [*sorted(int(b) for b in blocks if b != "norm"), *(["norm"] if "norm" in blocks else [])]

    def tokens(self, block: Block) -> Tensor:
        """Read patch tokens [N, T, D] of a block, all pictures at once: see ``chunks`` for large cohorts."""
        return self._get(tensor_name("block", block))

    def chunks(self, block: Block, size: int = 64) -> Iterator[tuple[slice, Tensor]]:
        """Yield (slice of pictures, tokens [n, T, D]), ``size`` pictures at a time, for cohorts larger than memory."""
        if size < 1:
            raise CovtokenError(f"chunk size {size}: expected at least 1 picture")
        for start in range(0, len(self), size):
            part = range(start, min(start + size, len(self)))
            yield slice(part.start, part.stop), self._get(tensor_name("block", block), part)

    def attention(self, block: int) -> Tensor:
        """Read a block's CLS attention over the patches, [N, T]."""
        return self._get(tensor_name("attention", block))

    def saliency(self) -> Tensor:
        """Read the embedded model's own saliency logits, [N, T]."""
        return self._get("saliency")

    def intensity(self) -> Tensor:
        """Read the mean of the squashed unit-range picture in each patch, [N, T] in 0…1."""
        return self._get("intensity")

    def variance(self) -> Tensor:
        """Read the variance of the squashed unit-range picture in each patch, [N, T]."""
        return self._get("variance")

    def subset(self, indices: Sequence[int]) -> FeatureSet:
        """Choose the pictures at ``indices`` (or where a boolean mask [N] is true), in that order, in the same storage.

        Raises:
            LabelLeak: a boolean mask during construction, or a mask cast to 0 and 1.
            CovtokenError: no whole numbers, an index out of range or given twice.
        """
        chosen = as_tensor("the choice of pictures", indices)
        by_mask = chosen.dtype == torch.bool
        if by_mask:
            refuse_labels("a choice of pictures by a boolean mask")
            if chosen.shape != (len(self),):
                raise CovtokenError(f"mask of pictures: expected [{len(self)}], got {list(chosen.shape)}")
            chosen = chosen.nonzero().squeeze(1)
        if chosen.ndim != 1 or (chosen.is_floating_point() and len(chosen)):
            raise CovtokenError(
                f"picture indices: expected whole numbers [n], got {list(chosen.shape)} of {chosen.dtype}"
            )
        indices = [int(i) for i in chosen]
        outside = [i for i in indices if not 0 <= i < len(self)]
        if outside:
            raise CovtokenError(f"picture index {outside[0]} is out of range: there are {len(self)} pictures")
        twice = [i for i, after in pairwise(sorted(indices)) if i == after]
        if twice and len(indices) == len(self) and set(indices) <= {0, 1}:
            raise LabelLeak(
                f"the choice of pictures is a mask cast to 0 and 1: {len(self)} of them for {len(self)} pictures; "
                "choose by split, unit or index, label-free"
            )
        if twice:
            raise CovtokenError(f"picture index {twice[0]} comes twice: give each picture once")
        pick = {key: [getattr(self, key)[i] for i in indices] for key in ("names", "units", "digests")}
        chosen_by_mask = self.chosen_by_mask or by_mask
        return replace(self, **pick, read=_Picked(self.read, indices), chosen_by_mask=chosen_by_mask)

    def _get(self, name: str, indices: Sequence[int] | None = None) -> Tensor:
        if name not in self.available:
            have = ", ".join(sorted(self.available)) or "nothing"
            raise CovtokenError(f"features hold no {name!r}: they have {have}; ask for it when extracting")
        indices = range(len(self)) if indices is None else indices
        if not len(indices):
            raise CovtokenError(f"no pictures to read {name!r} from: the feature set is empty")
        return self.read(name, indices)

    @classmethod
    def from_arrays(
        cls,
        tokens: Mapping[Block, Tensor],
        rows: int,
        cols: int,
        units: Sequence[str],
        names: Sequence[str] | None = None,
        attention: Mapping[int, Tensor] | None = None,
        saliency: Tensor | None = None,
        intensity: Tensor | None = None,
        variance: Tensor | None = None,
        digests: Sequence[str] | None = None,
        weights_sha256: str = "",
        backbone: str = "arrays",
        preprocessing: str = "",
        precision: str = "fp32",
    ) -> FeatureSet:
        """Wrap features in memory: tokens [N, T, D] and attention [N, T] by block; the other maps [N, T].

        Raises:
            LabelLeak: an array looks like a label, or tokens like tokens under a mask.
            CovtokenError: no numbers, or shapes that do not agree with the number of units and the grid.
        """
        units = [str(unit) for unit in units]
        arrays = {tensor_name("block", block): value for block, value in tokens.items()}
        arrays |= {tensor_name("attention", block): value for block, value in (attention or {}).items()}
        maps = {"saliency": saliency, "intensity": intensity, "variance": variance}
        arrays |= {name: value for name, value in maps.items() if value is not None}
        refuse_label_arrays("a feature set", *arrays.values())
        arrays = {name: as_tensor(name, value).to(torch.float32) for name, value in arrays.items()}
        for name, value in arrays.items():
            n_axes = 3 if name.startswith("block") else 2
            if value.ndim != n_axes or tuple(value.shape[:2]) != (len(units), rows * cols):
                expected = f"[{len(units)}, {rows * cols}{', D' if n_axes == 3 else ''}]"
                raise CovtokenError(f"{name}: expected {expected}, got {list(value.shape)}")
        names = list(names) if names is not None else [f"picture{i:05d}" for i in range(len(units))]
        digests = list(digests) if digests is not None else list(names)
        if not len(names) == len(digests) == len(units):
            raise CovtokenError(f"{len(units)} units, but {len(names)} names and {len(digests)} digests")
        return cls(
            *(names, units, digests, rows, cols, weights_sha256, backbone, preprocessing, precision),
            available=frozenset(arrays),
            read=Memory(arrays),
        )


def as_tensor(what: str, values) -> Tensor:
    """Turn ``values`` into a tensor, or refuse what is no array of numbers."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CovtokenError(f"{what}: expected an array of numbers, got {values!r:.60} ({error})") from error


@dataclass(frozen=True)
class Memory:
    """Read from tensors [N, …] in memory."""

    arrays: dict[str, Tensor] = field(repr=False)

    def __call__(self, name: str, indices: Sequence[int]) -> Tensor:
        return self.arrays[name][list(indices)]


@dataclass(frozen=True)
class Disk:
    """Read from a safetensors file a picture."""

    paths: list[Path] = field(repr=False)

    def __call__(self, name: str, indices: Sequence[int]) -> Tensor:
        out: Tensor | None = None
        for place, path in enumerate(self.paths[i] for i in indices):
            refuse_mask_file(path)
            try:
                with safe_open(path, framework="pt") as handle:
                    for held in handle.keys():  # noqa: SIM118 - not a dict
                        check_allowed(held, path)
                    tensor = handle.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise CovtokenError(f"{path}: {name} cannot be read ({error}); run the extraction again") from error
            probe = tensor if name.startswith("block") else tensor[:1]  # a dull picture's map may hold two values
            refuse_label_arrays(f"{name} of {path}", probe)
            if out is None:  # filled in place: a stack of a list would need twice the memory
                out = torch.empty((len(indices), *tensor.shape), dtype=torch.float32)
            if tensor.shape != out.shape[1:]:
                raise CovtokenError(f"{path}: {name} has shape {list(tensor.shape)}, expected {out.shape[1:]}")
            out[place] = tensor
        return out


@dataclass(frozen=True)
class _Picked:
    """Read from a choice of another reader's pictures."""

    inner: Callable[[str, Sequence[int]], Tensor] = field(repr=False)
    indices: list[int] = field(repr=False)

    def __call__(self, name: str, indices: Sequence[int]) -> Tensor:
        return self.inner(name, [self.indices[i] for i in indices])
