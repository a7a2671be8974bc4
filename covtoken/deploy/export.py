"""Export pictures → tokens → direction → map as one program, for machines without covtoken: torch.export or ONNX.

export_map(vit, direction, "map.onnx")   # onnxruntime.InferenceSession("map.onnx").run(None, {"images": images})
export_map(vit, direction, "map.pt2")    # torch.export.load("map.pt2").module()(images)
"""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from covtoken.backbone.vit import FrozenViT
from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import check_fits
from covtoken.errors import CovtokenError
from covtoken.paths import write_then_rename
from covtoken.subspace.direction import Direction

ABOUT = "covtoken.json"
"""Name of the description: a file beside the program in .pt2, a key of the model's metadata in ONNX."""


class MapProgram(nn.Module):
    """Score the tokens of pictures by a direction, and upsample the scores: what is exported."""

    weight: Tensor

    def __init__(self, vit: FrozenViT, direction: Direction):
        super().__init__()
        check_fits(direction, vit)
        self.normed, self.pooled = direction.header["block"] == "norm", bool(direction.header["pooled"])
        self.vit = vit if self.normed else _shortened(vit, direction.header["block"])
        self.model = self.vit.model  # registered: its weights go into the file, and no others
        self.norm = self.model.get_submodule("norm")
        self.register_buffer("weight", direction.weight.float().to(vit.device))
        self.offset = float(direction.weight @ direction.mean)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures [N, 3, S, S], as ``FrozenViT.prepare`` gives them.

        Returns:
            scores [N, rows, cols] of the tokens; map [N, S, S], the same upsampled between the centres of patches.
        """
        vit = self.vit
        stream, rope = vit.embed(images)
        stream = vit.run(stream, rope, 1, vit.n_blocks)
        tokens = (self.norm(stream) if self.normed else stream)[:, vit.n_prefix :]
        scores = (tokens @ self.weight - self.offset).unsqueeze(-1)
        # Pooling commutes with the dot product: one number a token is pooled, not D.
        scores = torch.as_tensor(pool3x3(scores, vit.rows, vit.cols)) if self.pooled else scores
        scores = scores.reshape(-1, 1, vit.rows, vit.cols)
        size = (vit.picture_size, vit.picture_size)
        return scores[:, 0], interpolate(scores, size=size, mode="bilinear", align_corners=False)[:, 0]


def export_map(vit: FrozenViT, direction: Direction, path: str | Path) -> Path:
    """Export the way from pictures to maps as one file, for any number of pictures.

    >>> from covtoken import RECOMMENDED, direction_of, features, load_backbone, open_cohort
    >>> vit = load_backbone("random:vit_tiny_patch16_224", 96)
    >>> bank = features(open_cohort("phantom", n=40).cases[:12], vit, blocks=[6, 9], cache=False)
    >>> export_map(vit, direction_of(RECOMMENDED, bank), "map.pt2").name
    'map.pt2'

    Input ``images`` [N, 3, S, S] float32, squashed and normalised as ``FrozenViT.prepare`` does; outputs ``scores``
    [N, rows, cols] and ``map`` [N, S, S] float32. The file says of itself, under ``covtoken.json``: mean, std, picture
    size, weights, direction, and the quantiles of the bank's scores where the direction knows them.

    Args:
        vit: the backbone; its weights go into the file.
        direction: fitted to it.
        path: ends in ``.onnx`` (ONNX, for ONNX Runtime and others) or ``.pt2`` (torch.export).

    Returns:
        the path.

    Raises:
        CovtokenError: another ending, a direction that does not fit, no onnxscript, or a model that cannot be traced.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise CovtokenError(f"{path}: expected a name that ends in .onnx or .pt2")
    if not isinstance(vit, FrozenViT):
        raise CovtokenError(f"export takes a FrozenViT, got {type(vit).__name__}: its blocks are what is exported")
    if path.suffix == ".onnx":
        _need_onnxscript()
    program = MapProgram(vit, direction).eval()
    images = torch.zeros(2, 3, vit.picture_size, vit.picture_size, device=vit.device)
    shapes = {"images": {0: torch.export.Dim("pictures", min=1)}}
    about = json.dumps(_about(vit, direction), sort_keys=True)
    try:
        with torch.no_grad():
            traced = torch.export.export(program, (images,), dynamic_shapes=shapes, strict=False)
            content = _pt2(traced, about) if path.suffix == ".pt2" else _onnx(traced, about)
    except Exception as error:  # the exporters raise a dozen kinds
        line = " ".join(str(error).split())[:200]
        raise CovtokenError(f"{vit.name} cannot be exported as {path.suffix} ({line}): try the other ending") from error
    with write_then_rename(path) as temporary:
        temporary.write_bytes(content)
    return path


def _pt2(traced: torch.export.ExportedProgram, about: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(traced, buffer, extra_files={ABOUT: about})
    return buffer.getvalue()


def _onnx(traced: torch.export.ExportedProgram, about: str) -> bytes:
    names = ["scores", "map"]
    made = torch.onnx.export(traced, (), dynamo=True, verbose=False, input_names=["images"], output_names=names)
    if made is None:
        raise RuntimeError("the exporter gave nothing")
    made.model.metadata_props[ABOUT] = about
    return made.model_proto.SerializeToString()


def _shortened(vit: FrozenViT, block: int) -> FrozenViT:
    """Give a backbone of the first blocks alone, which shares its weights with the whole one."""
    model = copy.copy(vit.model)
    model._modules = dict(model._modules)
    model.blocks = nn.Sequential(*list(vit.model.get_submodule("blocks").children())[:block])
    return replace(vit, model=model, saliency_head=None)


def _about(vit: FrozenViT, direction: Direction) -> dict[str, Any]:
    header = direction.header
    return {
        "backbone": vit.name,
        "weights_sha256": vit.weights_sha256,
        "preprocessing": vit.preprocessing,
        "input": vit.input,
        "mean": list(vit.mean),
        "std": list(vit.std),
        "picture_size": vit.picture_size,
        "block": header["block"],
        "direction_sha256": header["content_sha256"],
        "heldout": header.get("heldout"),
    }


def _need_onnxscript() -> None:
    try:
        import onnxscript  # noqa: F401 - torch's exporter asks for it late, in words of its own
    except ImportError as error:
        raise CovtokenError("ONNX export needs onnxscript: run `pip install 'covtoken[export]'`") from error
