"""Make a backbone of a module: of a timm ViT that is at hand, or of any module some of whose parts yield tokens.

vit = from_timm(timm.create_model("vit_base_patch16_224", pretrained=True))
model = from_module(
    encoder, blocks=[f"layers.{i}" for i in range(12)], tokens=lambda output: output[:, 1:], grid=(14, 14),
    picture_size=224, mean=(0.5,) * 3, std=(0.25,) * 3, name="my-encoder",
)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from covtoken.backbone.preparation import Preparation
from covtoken.backbone.vit import MAX_TOKENS, PRECISIONS, Block, Extraction, FrozenViT, check_is_vit
from covtoken.data.intensity import INPUT_RANGE
from covtoken.errors import CovtokenError, unknown

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Tokens = Callable[[object], Tensor]
"""Gives, of a part's output, its patch tokens [N, T, D], row-major on the grid, without CLS and registers."""


def from_timm(model: nn.Module, name: str = "") -> FrozenViT:
    """Make a backbone of a timm ViT that is at hand, weights and all; its code stays as it is.

    >>> import timm
    >>> vit = from_timm(timm.create_model("vit_tiny_patch16_224", img_size=96))
    >>> vit.name, vit.n_blocks, vit.rows
    ('vit_tiny_patch16_224', 12, 6)

    Args:
        model: made for square pictures; eval mode and no gradients are set on it.
        name: for headers and messages; "": what timm calls it. Mean and std are those of its weights.

    Raises:
        CovtokenError: no plain timm ViT, or made for pictures that are not square.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    name = name or config.get("architecture") or type(model).__name__
    check_is_vit(model, name)
    high, wide = model.get_submodule("patch_embed").img_size  # type: ignore[misc]  # a pair, in timm
    if high != wide:
        raise CovtokenError(f"{name} is made for pictures of {high} × {wide}: create it with a square img_size")
    mean, std = (tuple(config.get(key) or IMAGENET[key]) for key in ("mean", "std"))
    return FrozenViT(model, name, int(high), _digest(model, [name]), mean, std)


def from_module(
    module: nn.Module,
    *,
    blocks: Sequence[str],
    tokens: Tokens,
    grid: tuple[int, int],
    picture_size: int,
    name: str,
    norm: str | None = None,
    mean: Sequence[float] = IMAGENET["mean"],
    std: Sequence[float] = IMAGENET["std"],
    input: str = "unit",
) -> ModuleTokens:
    """Make a backbone of any module: hooks on its parts read their outputs, and ``tokens`` makes tokens of these.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.GELU(), nn.Conv2d(8, 8, 1))
    >>> model = from_module(
    ...     net, blocks=["1", "2"], tokens=lambda x: x.flatten(2).mT, grid=(6, 6), picture_size=96, name="mine"
    ... )
    >>> model.n_blocks, model.extract(torch.zeros(1, 3, 96, 96), [2]).tokens[2].shape
    (2, torch.Size([1, 36, 8]))

    Args:
        module: takes images [N, 3, S, S]; eval mode and no gradients are set on it.
        blocks: names of its parts (``module.named_modules()``), in the order in which they run; part b is block b.
        tokens: output of a part → patch tokens [N, T, D], row-major on the grid.
        grid: (rows, cols), which divide the picture size; T = rows · cols.
        picture_size: S, pixels.
        name: for headers, cached features and messages. Give another one where ``tokens`` changes: nothing else tells.
        norm: name of the part whose output is called block ``"norm"``, or None.
        mean, std: of the three channels, on the input's scale.
        input: ``"unit"`` or ``"hu"``.

    Raises:
        CovtokenError: a part that the module lacks or that does not run, or tokens of another shape than the grid's.
    """
    named = {b: part for b, part in enumerate(blocks, start=1)} | ({} if norm is None else {"norm": norm})
    parts = dict(module.named_modules())
    if isinstance(blocks, str) or not blocks:
        raise CovtokenError(f"blocks: expected a list of names of the module's parts, got {blocks!r:.60}")
    for part in named.values():
        if part not in parts:
            near = " or ".join(get_close_matches(part, [known for known in parts if known])) or "none alike"
            raise CovtokenError(f"{name} has no part {part!r}: did you mean {near}? module.named_modules() lists all")
    rows, cols = grid
    if min(rows, cols) < 1 or picture_size % rows or picture_size % cols or rows * cols > MAX_TOKENS:
        raise CovtokenError(
            f"grid {rows} × {cols} of {name}: expected divisors of the picture size, {picture_size}, and at most "
            f"{MAX_TOKENS} tokens"
        )
    if input not in INPUT_RANGE:
        raise unknown("kind of backbone input", input, list(INPUT_RANGE))
    module.eval().requires_grad_(False)
    about = [name, picture_size, rows, cols, sorted((str(b), part) for b, part in named.items())]
    made = ModuleTokens(
        *(module, name, int(picture_size), _digest(module, about), tuple(mean), tuple(std), input, name),
        *(int(rows), int(cols), len(blocks), 0, named, tokens),
    )
    found = made._read(torch.zeros(1, 3, picture_size, picture_size, device=made.device), list(named))
    widths = {block: one.shape[-1] for block, one in found.items()}
    if len(set(widths.values())) > 1:
        raise CovtokenError(f"tokens of {name} are unlike in width: {widths}; name parts that give equally wide ones")
    made.dim = next(iter(widths.values()))
    return made


@dataclass
class ModuleTokens(Preparation):
    """A module whose parts yield tokens, as ``from_module`` makes it. A ``TokenModel``."""

    model: nn.Module = field(repr=False)
    name: str
    picture_size: int
    weights_sha256: str  # of weights, size, grid and names, not of ``tokens``
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: str
    label: str
    rows: int
    cols: int
    n_blocks: int
    dim: int
    parts: dict[Block, str] = field(repr=False)
    tokens: Tokens = field(repr=False)

    has_cls = has_saliency_head = False

    @property
    def device(self) -> torch.device:
        """Give the device of the first weight, or the CPU where there is none."""
        return next((weight.device for weight in self.model.parameters()), torch.device("cpu"))

    def extract(
        self,
        images: Tensor,
        blocks: Sequence[Block],
        attention: Sequence[int] = (),
        saliency: bool = False,
        precision: str = "fp32",
    ) -> Extraction:
        """Extract tokens in one pass that stops after the deepest part asked for; arguments as ``FrozenViT.extract``.

        Raises:
            CovtokenError: shape, block or precision cannot be served; attention and saliency never can.
        """
        self.check_request(images, blocks, attention, saliency, precision)
        if not blocks:
            raise CovtokenError("nothing to extract: ask for at least one block")
        cast = torch.autocast(images.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        with cast:
            found = self._read(images, list(dict.fromkeys(blocks)))
        return Extraction(found, {}, None, self.rows, self.cols)

    def check_block(self, block: Block, allow_norm: bool = True) -> None:
        """Refuse a block that no part is named for."""
        known = block in self.parts and (allow_norm or block != "norm")
        if isinstance(block, bool) or not known:
            also = " or 'norm'" if allow_norm and "norm" in self.parts else ""
            raise CovtokenError(f"block {block!r} is out of range: {self.name} has blocks 1…{self.n_blocks}{also}")

    def check_request(
        self, images: Tensor, blocks: Sequence[Block], attention: Sequence[int], saliency: bool, precision: str
    ) -> None:
        """Refuse arguments of ``extract`` that this module cannot serve."""
        expected = (3, self.picture_size, self.picture_size)
        if not isinstance(images, Tensor) or images.ndim != 4 or tuple(images.shape[1:]) != expected:
            came = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise CovtokenError(f"images: expected [N, {', '.join(map(str, expected))}], got {came}")
        if isinstance(blocks, str):
            raise CovtokenError(f"blocks: expected a list of blocks, such as [6, 'norm'], got {blocks!r}")
        for block in blocks:
            self.check_block(block)
        if attention or saliency:
            raise CovtokenError(f"{self.name} gives tokens alone: attention and saliency are read from a FrozenViT")
        if precision not in PRECISIONS:
            raise CovtokenError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")

    def _read(self, images: Tensor, blocks: list[Block]) -> dict[Block, Tensor]:
        """Run the module, and read tokens [N, T, D] float32 of each block."""
        waiting, found = set(blocks), dict[Block, Tensor]()

        def read(block: Block, output: object) -> None:
            found[block] = self._tokens(block, output, len(images))
            waiting.discard(block)
            if not waiting:
                raise _AllRead

        with torch.no_grad(), ExitStack() as hooks:
            for block in blocks:
                part = self.model.get_submodule(self.parts[block])
                hooks.enter_context(part.register_forward_hook(lambda m, given, out, block=block: read(block, out)))
            try:
                self.model(images)
            except _AllRead:
                return {block: found[block] for block in blocks}
        missing = ", ".join(self.parts[block] for block in blocks if block in waiting)
        raise CovtokenError(f"{self.name}: {missing} did not run in a forward pass; name parts that do")

    def _tokens(self, block: Block, output: object, n: int) -> Tensor:
        expected = (n, self.rows * self.cols)
        try:
            made = self.tokens(output)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
            line = " ".join(str(error).split())[:200]
            raise CovtokenError(
                f"tokens failed on the output of {self.parts[block]}, a {type(output).__name__}: {line}"
            ) from error
        if not isinstance(made, Tensor) or made.ndim != 3 or tuple(made.shape[:2]) != expected:
            came = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise CovtokenError(
                f"tokens of {self.parts[block]}: expected [{n}, {self.rows} × {self.cols}, D], got {came}; leave CLS "
                "and registers out, and flatten a map [N, D, rows, cols] by x.flatten(2).transpose(1, 2)"
            )
        return made.float().contiguous()


class _AllRead(Exception):
    """Ends a forward pass whose rest nobody reads."""


def _digest(module: nn.Module, about: list[object]) -> str:
    """Hash weights, in the order of their names, and what else decides tokens."""
    state = hashlib.sha256(repr(about).encode())
    for name, weight in sorted(module.state_dict().items()):
        state.update(f"{name};{weight.dtype};{list(weight.shape)};".encode())
        state.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if weight.ndim else b"")
        state.update(repr(weight.item()).encode() if not weight.ndim else b"")
    return state.hexdigest()
