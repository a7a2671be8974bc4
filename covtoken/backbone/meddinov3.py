"""Convert MedDINOv3 ViT-B/16's published checkpoint to a timm state dict, checked name by name; run no code in it.

The checkpoint is a pickle of a whole training teacher: the backbone is ``teacher`` → ``backbone.*``, beside two heads
of pretraining that features do not need. The network is DINOv3's (CLS and four storage tokens, axial RoPE of base 100,
LayerScale, no qkv bias) with LayerNorm eps 1e-6, and takes CT in Hounsfield units (Li et al. 2025, arXiv 2509.02379).
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import timm
import torch
from timm.layers import LayerNorm
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor

from covtoken.backbone.checkpoint import check_finite, misfit, named_tensors, read_checkpoint, some
from covtoken.backbone.places import MEDDINOV3_HUB, MEDDINOV3_VARIABLE
from covtoken.errors import CovtokenError
from covtoken.paths import is_file, project_root, user_path

NAME = "meddinov3"
LABEL = "MedDINOv3 ViT-B/16"
TIMM_NAME = "vit_base_patch16_dinov3"
TIMM_OPTIONS = {"norm_layer": partial(LayerNorm, eps=1e-6)}
MEAN_HU, STD_HU = (65.1084,) * 3, (178.0167,) * 3
ROPE_BASE = 100.0

HUB_ID, HUB_FILE, VARIABLE = MEDDINOV3_HUB, "model.pth", MEDDINOV3_VARIABLE
HOW_TO_GET = (
    f"on a machine with network run `hf download {HUB_ID} {HUB_FILE} --local-dir .`, copy the file here and name it by "
    f"weights_file=… or by the environment variable {VARIABLE}=/path/to/{HUB_FILE} (which the command line reads too)"
)
EXPECTED = f"{HUB_FILE} of {HUB_ID}: to get it, {HOW_TO_GET}"

HEADS = ("dino_head", "ibot")
"""Parts of the teacher that belong to pretraining losses."""
UNUSED = ("mask_token", "rope_embed.periods")
"""Tensors of the published backbone without a place in a forward pass of whole pictures; the periods are checked."""


def meddinov3_state(file: Path) -> dict[str, Tensor]:
    """Load the backbone of a published checkpoint under timm's names, float32.

    Raises:
        CovtokenError: the file is damaged, holds more than tensors and plain containers, or its tensors are not exactly
            those of MedDINOv3 ViT-B/16.
    """
    published = _strip(_teacher(read_checkpoint(file, EXPECTED), file), file)
    with torch.device("meta"):
        model = timm.create_model(TIMM_NAME, pretrained=False, num_classes=0, **TIMM_OPTIONS)
    # Before timm's filter, which would drop qkv biases and resample another patch size silently.
    expected = {published_name(name): value for name, value in model.state_dict().items()}
    if wrong := misfit({name: value for name, value in published.items() if name not in UNUSED}, expected):
        raise CovtokenError(f"{file} does not hold the weights of {LABEL}: it {wrong}; expected {HUB_FILE} of {HUB_ID}")
    check_finite({name: published[name] for name in expected}, file, HOW_TO_GET)
    _check_periods(published, file)
    state = checkpoint_filter_fn({key: value.float() for key, value in published.items()}, model)
    return {key: value.contiguous() for key, value in state.items()}


def file_from_environment() -> Path | None:
    """Find the checkpoint that ``COVTOKEN_MEDDINOV3`` names (relative: to the project's root), or None."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    path = user_path(value, VARIABLE)
    path = path if path.is_absolute() else project_root() / path
    if not is_file(path, VARIABLE):
        raise CovtokenError(f"{VARIABLE} names {path}, which is no file: to get the weights, {HOW_TO_GET}")
    return path


def published_name(timm_name: str) -> str:
    """Give a tensor's name in the published backbone: the inverse of timm's filter for DINOv3.

    >>> published_name("blocks.3.gamma_1"), published_name("reg_token")
    ('blocks.3.ls1.gamma', 'storage_tokens')
    """
    for in_timm, published in (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"), ("reg_token", "storage_tokens")):
        timm_name = timm_name.replace(in_timm, published)
    return timm_name


def _teacher(checkpoint, file: Path) -> dict[str, Tensor]:
    teacher = checkpoint.get("teacher") if isinstance(checkpoint, dict) else None
    if not isinstance(teacher, dict) or not teacher:
        keys = some(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise CovtokenError(
            f"{file} is no MedDINOv3 checkpoint: expected the backbone under the key 'teacher', found {keys}; "
            f"expected {HUB_FILE} of {HUB_ID}"
        )
    return named_tensors(teacher, file)


def _strip(teacher: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Take the backbone's tensors without their prefix, and leave the heads out."""
    kept = [key for key in teacher if not any(head in key for head in HEADS)]
    backbone = {key.removeprefix("backbone."): teacher[key] for key in kept}
    if len(backbone) < len(kept):
        raise CovtokenError(f"{file}: tensors occur twice, with and without the prefix 'backbone.'")
    return backbone


def _check_periods(published: dict[str, Tensor], file: Path) -> None:
    """Refuse RoPE periods, perhaps in bf16, other than those that timm computes itself."""
    if "rope_embed.periods" not in published:
        return
    periods = published["rope_embed.periods"].float()
    expected = ROPE_BASE ** (torch.arange(16) / 16)  # a quarter of the head dimension, 64, for each axis
    if periods.shape != expected.shape or not torch.allclose(periods, expected, rtol=0.01):
        raise CovtokenError(
            f"{file}: RoPE periods {[round(v, 3) for v in periods.flatten().tolist()[:3]]}… are not those of base "
            f"{ROPE_BASE:g}, {[round(v, 3) for v in expected.tolist()[:3]]}…: this is another model"
        )
