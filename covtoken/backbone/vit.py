"""Extract tokens of any block and CLS attention from pictures, through an unmodified timm ViT.

The model's own ``forward_intermediates`` runs the blocks; hooks on the query and key normalisations that every timm
attention calls read the attention: no copy of the ViT, no second pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from numbers import Integral

import torch
from timm.layers import PatchEmbed, apply_rot_embed_cat
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from covtoken.backbone.preparation import Preparation
from covtoken.backbone.saliency_head import SaliencyHead
from covtoken.data.intensity import INPUT_RANGE
from covtoken.errors import CovtokenError, unknown

Block = int | str
"""1…L: the residual stream after that block. ``"norm"``: the final block through the model's final norm."""

PRECISIONS = ("fp32", "bf16")

MAX_TOKENS = 128 * 128
"""Patches of the largest picture: one head's attention among so many takes 1 GiB."""


@dataclass
class Extraction:
    """Features of one pass: patch tokens alone, float32, row-major on (rows, cols)."""

    tokens: dict[Block, Tensor]  # [N, T, D] by block
    attention: dict[int, Tensor]  # [N, T] by block
    saliency: Tensor | None  # [N, T] logits
    rows: int
    cols: int
    prefix: dict[Block, Tensor] = field(default_factory=dict)  # [N, P, D] by block: CLS, then registers; P may be 0


@dataclass
class FrozenViT(Preparation):
    """A frozen timm ViT with its preprocessing, as ``covtoken.backbone.weights.load_backbone`` makes it.

    One instance serves one thread at a time: attention is read by hooks on its modules.

    Attributes:
        model: the unmodified timm model in eval mode, no gradients, created for ``picture_size``.
        name: as asked for.
        picture_size: S, pixels; pictures are squashed to S × S.
        weights_sha256: of the file the weights came from.
        mean, std: per channel, on the input's scale.
        label: the name in prose.
        saliency_head: the embedded model's own decoder, else None.
        input: ``"unit"`` (pictures in 0…1) or ``"hu"`` (Hounsfield units within ±1000), as
            ``covtoken.data.intensity.to_input`` makes them.
        patch: pixels a side.
        n_blocks, dim: L and D.
        rows, cols: of the token grid.
    """

    model: nn.Module = field(repr=False)
    name: str
    picture_size: int
    weights_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label: str = ""
    saliency_head: SaliencyHead | None = field(default=None, repr=False)
    input: str = "unit"
    patch: int = field(init=False, repr=False)
    n_blocks: int = field(init=False, repr=False)
    dim: int = field(init=False, repr=False)
    rows: int = field(init=False, repr=False)
    cols: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_is_vit(self.model, self.name)
        if self.input not in INPUT_RANGE:
            raise unknown("kind of backbone input", self.input, list(INPUT_RANGE))
        self.label = self.label or self.name
        self.patch = int(self.model.patch_embed.patch_size[0])
        if isinstance(self.picture_size, bool) or not isinstance(self.picture_size, Integral):
            raise CovtokenError(
                f"picture size {self.picture_size!r} of {self.name}: expected a whole number of pixels, such as "
                f"{14 * self.patch}"
            )
        self.picture_size = int(self.picture_size)
        if self.picture_size < self.patch or self.picture_size % self.patch:
            near = max(1, round(self.picture_size / self.patch)) * self.patch
            raise CovtokenError(
                f"picture size {self.picture_size} does not fit {self.name}: it must be a multiple of its "
                f"patch, {self.patch} px; {near} is the nearest"
            )
        self.n_blocks = len(self.model.blocks)
        self.dim = int(self.model.embed_dim)
        self.rows = self.cols = self.picture_size // self.patch
        if self.rows * self.cols > MAX_TOKENS:
            raise CovtokenError(
                f"picture size {self.picture_size} gives {self.name} {self.rows * self.cols} tokens, whose attention "
                f"takes more than 1 GiB a head: at most {MAX_TOKENS}, {int(MAX_TOKENS**0.5) * self.patch} px"
            )
        for module in (self.model, self.saliency_head):
            if module is not None:
                module.eval().requires_grad_(False)

    @property
    def has_saliency_head(self) -> bool:
        return self.saliency_head is not None

    @property
    def has_cls(self) -> bool:
        return getattr(self.model, "cls_token", None) is not None

    @property
    def n_prefix(self) -> int:
        """Count CLS and registers, P: the first tokens of every sequence."""
        return int(self.model.num_prefix_tokens)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def extract(
        self,
        images: Tensor,
        blocks: Sequence[Block],
        attention: Sequence[int] = (),
        saliency: bool = False,
        precision: str = "fp32",
    ) -> Extraction:
        """Extract features in one pass that stops after the deepest block asked for.

        Args:
            images: [N, 3, S, S] from ``prepare``.
            blocks: 1…L and ``"norm"``, to give tokens of.
            attention: blocks 1…L, to give CLS attention of: softmax of the CLS query over the *patch* keys (a head that
                looks mostly at CLS or registers counts as much as the others), mean over heads; sums to 1.
            saliency: also the saliency head's logits, averaged over each patch (embedded weights only).
            precision: ``"fp32"``, or ``"bf16"`` for autocast. Results are float32 either way.

        Raises:
            CovtokenError: shape, block, precision or saliency cannot be served.
        """
        blocks, attention = _listed(blocks, "blocks"), _listed(attention, "attention")
        self.check_request(images, blocks, attention, saliency, precision)
        blocks, attention = list(dict.fromkeys(blocks)), list(dict.fromkeys(attention))
        final = "norm" in blocks or saliency
        depths = sorted({b for b in blocks if b != "norm"} | set(attention) | ({self.n_blocks} if final else set()))
        if not depths:
            raise CovtokenError("nothing to extract: ask for at least one block, attention or saliency")
        cast = torch.autocast(images.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        rows_of_attention: dict[int, Tensor] = {}
        options = {"stop_early": True, "output_fmt": "NLC", "intermediates_only": True}
        options["return_prefix_tokens"] = self.n_prefix > 0
        with torch.no_grad(), cast, ExitStack() as hooks:
            for block in attention:
                hooks.enter_context(_cls_attention(self.model, block, rows_of_attention))
            indices = [depth - 1 for depth in depths]
            found = self.model.forward_intermediates(images, indices=indices, **options)
            parts = found if self.n_prefix else [(patches, patches[:, :0]) for patches in found]
            streams = dict(zip(depths, parts))  # (patches, prefix) by depth
            if final:
                streams["norm"] = tuple(self.model.norm(part) for part in streams[self.n_blocks])
            tokens = {block: streams[block][0].float().contiguous() for block in blocks}
            prefix = {block: streams[block][1].float().clone() for block in blocks}  # a view would hold all tokens
            normed = streams["norm"][0].float().contiguous() if final else None
        # The head runs in float32 even under bf16: it costs little, and its logits are a baseline.
        with torch.no_grad():
            logits = self.saliency_head.token_logits(normed, self.rows, self.cols) if saliency else None
        return Extraction(tokens, {b: rows_of_attention[b] for b in attention}, logits, self.rows, self.cols, prefix)

    @torch.no_grad()
    def embed(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed pictures [N, 3, S, S]: what enters block 1, [N, P + T, D], and the rotary rows of the T patches.

        Rotary rows are [T, R], or [L, heads, T, R] where they differ by block, or None without rotary positions.
        """
        placed = self.model._pos_embed(self.model.patch_embed(images))
        if isinstance(self.model, Eva):
            stream, rope = placed
        else:
            stream, rope = self.model.patch_drop(placed), None
        return self.model.norm_pre(stream), rope

    @torch.no_grad()
    def run(
        self, stream: Tensor, rope: Tensor | None, first: int, last: int, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Run blocks first … last on a stream of CLS, registers and any choice of patch tokens.

        Args:
            stream: [n, P + k, D], as ``embed`` or an earlier ``run`` gives it, tokens left out or not.
            rope: the rotary rows of these k patches: as ``embed`` gives them, or with a picture's axis, [n, 1, k, R] or
                [L, n, heads, k, R].
            first, last: 1 … L; none run where last < first.
            attn_mask: float, added to the logits of attention, [n, 1, 1, P + k].
        """
        by_block = rope is not None and bool(getattr(self.model, "rope_mixed", False))
        options = {} if attn_mask is None else {"attn_mask": attn_mask}
        for block in range(first, last + 1):
            if rope is not None:
                options["rope"] = rope[block - 1] if by_block else rope
            stream = self.model.blocks[block - 1](stream, **options)
        return stream

    def check_block(self, block: Block, allow_norm: bool = True) -> None:
        """Refuse a block that this model does not have."""
        if isinstance(block, str) and block == "norm" and allow_norm:
            return
        if isinstance(block, bool) or not isinstance(block, Integral) or not 1 <= block <= self.n_blocks:
            also = " or 'norm'" if allow_norm else ""
            raise CovtokenError(f"block {block!r} is out of range: {self.name} has blocks 1…{self.n_blocks}{also}")

    def check_request(
        self, images: Tensor, blocks: Sequence[Block], attention: Sequence[int], saliency: bool, precision: str
    ) -> None:
        """Refuse arguments of ``extract`` that this backbone cannot serve."""
        expected = (3, self.picture_size, self.picture_size)
        if not isinstance(images, Tensor) or images.ndim != 4 or tuple(images.shape[1:]) != expected:
            came = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise CovtokenError(f"images: expected [N, {', '.join(map(str, expected))}], got {came}")
        for block in _listed(blocks, "blocks"):
            self.check_block(block)
        for block in _listed(attention, "attention"):
            self.check_block(block, allow_norm=False)
        if attention and not self.has_cls:
            raise CovtokenError(f"{self.name} has no CLS token, so no CLS attention: take a ViT that has one")
        if saliency and self.saliency_head is None:
            raise CovtokenError(f"{self.name} has no saliency head: only the embedded weights bring one")
        if precision not in PRECISIONS:
            raise CovtokenError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")


def check_is_vit(model: nn.Module, name: str) -> None:
    """Refuse a model that is no plain ViT: a flat sequence of patch tokens on a square-patch grid."""
    plain = isinstance(model, VisionTransformer | Eva) and isinstance(model.patch_embed, PatchEmbed)  # no CNN before
    if not plain or model.patch_embed.patch_size[0] != model.patch_embed.patch_size[1]:
        raise CovtokenError(
            f"{name} ({type(model).__name__}) is not a plain vision transformer: expected a timm VisionTransformer "
            "or Eva (DINOv3) with square patches, such as vit_small_patch14_dinov2"
        )


def _listed(blocks: Sequence[Block], argument: str) -> list[Block]:
    """List blocks; refuse a string or a lone number."""
    if isinstance(blocks, str) or not isinstance(blocks, Iterable):
        raise CovtokenError(f"{argument}: expected a list of blocks, such as [6, 'norm'], got {blocks!r}")
    return list(blocks)


@contextmanager
def _cls_attention(model: nn.Module, block: int, into: dict[int, Tensor]) -> Iterator[None]:
    """Inside the context, put the CLS attention [N, T] of a block into ``into`` whenever the model runs."""
    attn, prefix = model.blocks[block - 1].attn, int(model.num_prefix_tokens)
    if not (hasattr(attn, "q_norm") and hasattr(attn, "k_norm")):
        raise CovtokenError(f"cannot read attention of {type(attn).__name__}: it has no q_norm and k_norm")
    held: dict[str, Tensor] = {}  # query and key, [N, heads, sequence, head_dim]

    def finish(attn, args, kwargs, out) -> None:
        query, key, rope = held.pop("query")[:, :, :1].float(), held.pop("key").float(), kwargs.get("rope")
        if rope is not None:  # prefix tokens, CLS among them, carry no rotation
            half = getattr(attn, "rotate_half", False)
            patches = apply_rot_embed_cat(key[:, :, prefix:], rope.float(), half=half)
            key = torch.cat([key[:, :, :prefix], patches], dim=2)
        if key.shape[1] != query.shape[1]:  # grouped-query attention
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        with torch.autocast(query.device.type, enabled=False):
            row = (query @ key[:, :, prefix:].transpose(-2, -1) * attn.scale).softmax(dim=-1)
        into[block] = row[:, :, 0].mean(dim=1)

    with (
        attn.q_norm.register_forward_hook(lambda module, args, out: held.update(query=out)),
        attn.k_norm.register_forward_hook(lambda module, args, out: held.update(key=out)),
        attn.register_forward_hook(finish, with_kwargs=True),
    ):
        yield
