"""MedDINOv3 ViT-B/16: its published checkpoint → a timm state dict, checked name by name; no code in it is run.

The checkpoint is a pickle of a whole training teacher: the backbone is ``teacher`` → ``backbone.*``, beside two heads
of pretraining that features do not need. The network is DINOv3's (CLS and four storage tokens, axial RoPE of base 100,
LayerScale, no qkv bias) with LayerNorm eps 1e-6, and takes CT in Hounsfield units (Li et al. 2025, arXiv 2509.02379).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import timm
import torch
from timm.layers import LayerNorm
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor, nn

from covtoken.errors import CovtokenError
from covtoken.paths import project_root

NAME = "meddinov3"
LABEL = "MedDINOv3 ViT-B/16"
TIMM_NAME = "vit_base_patch16_dinov3"
TIMM_OPTIONS = {"norm_layer": partial(LayerNorm, eps=1e-6)}
MEAN_HU, STD_HU = (65.1084,) * 3, (178.0167,) * 3
ROPE_BASE = 100.0

HUB_ID, HUB_FILE = "ricklisz123/MedDINOv3-ViTB-16-CT-3M", "model.pth"
VARIABLE = "COVTOKEN_MEDDINOV3"
HOW_TO_GET = (
    f"on a machine with network run `hf download {HUB_ID} {HUB_FILE} --local-dir .`, copy the file here and name it by "
    f"weights_file=… or by the environment variable {VARIABLE}=/path/to/{HUB_FILE} (which the command line reads too)"
)

HEADS = ("dino_head", "ibot")
"""Parts of the teacher that belong to pretraining losses."""
UNUSED = ("mask_token", "rope_embed.periods")
"""Tensors of the published backbone without a place in a forward pass of whole pictures; the periods are checked."""


def meddinov3_state(file: Path) -> dict[str, Tensor]:
    """The backbone of a published checkpoint under timm's names, float32.

    Raises:
        CovtokenError: the file is damaged, holds more than tensors and plain containers, or its tensors are not exactly
            those of MedDINOv3 ViT-B/16.
    """
    published = _strip(_teacher(_load(file), file), file)
    with torch.device("meta"):
        model = timm.create_model(TIMM_NAME, pretrained=False, num_classes=0, **TIMM_OPTIONS)
    _check_tensors(published, model, file)
    _check_periods(published, file)
    state = checkpoint_filter_fn({key: value.float() for key, value in published.items()}, model)
    return {key: value.contiguous() for key, value in state.items()}


def file_from_environment() -> Path | None:
    """The checkpoint that ``COVTOKEN_MEDDINOV3`` names (relative: to the project's root), or None."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    path = Path(value).expanduser()
    path = path if path.is_absolute() else project_root() / path
    if not path.is_file():
        raise CovtokenError(f"{VARIABLE} names {path}, which is no file: to get the weights, {HOW_TO_GET}")
    return path


def published_name(timm_name: str) -> str:
    """A tensor's name in the published backbone, the inverse of timm's filter for DINOv3.

    >>> published_name("blocks.3.gamma_1"), published_name("reg_token")
    ('blocks.3.ls1.gamma', 'storage_tokens')
    """
    for ours, theirs in (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"), ("reg_token", "storage_tokens")):
        timm_name = timm_name.replace(ours, theirs)
    return timm_name


def _load(file: Path):
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to load with code allowed: the one thing not to do.
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            found = str(error).split("Unsupported", 1)[1].split("was not", 1)[0].strip()
            raise CovtokenError(
                f"{file} is refused: it asks to run code ({found[:80]}), and weights need tensors only; nothing was "
                f"run. Expected {HUB_FILE} of {HUB_ID}; {HOW_TO_GET}"
            ) from None
        raise _damaged(file, error) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> CovtokenError:
    first = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return CovtokenError(
        f"{file} is truncated, damaged or no PyTorch checkpoint ({first}); expected {HUB_FILE} of {HUB_ID}: to get it, "
        f"{HOW_TO_GET}"
    )


def _teacher(checkpoint, file: Path) -> dict[str, Tensor]:
    teacher = checkpoint.get("teacher") if isinstance(checkpoint, dict) else None
    if not isinstance(teacher, dict) or not teacher:
        found = _some(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise CovtokenError(
            f"{file} is no MedDINOv3 checkpoint: expected the backbone under the key 'teacher', found {found}; "
            f"expected {HUB_FILE} of {HUB_ID}"
        )
    strange = [str(key) for key, value in teacher.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange:
        raise CovtokenError(f"{file}: the teacher holds more than named tensors: {_some(strange)}")
    return teacher


def _strip(teacher: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The backbone's tensors without their prefix; the heads are left out."""
    kept = [key for key in teacher if not any(head in key for head in HEADS)]
    backbone = {key.removeprefix("backbone."): teacher[key] for key in kept}
    if len(backbone) < len(kept):
        raise CovtokenError(f"{file}: tensors occur twice, with and without the prefix 'backbone.'")
    return backbone


def _check_tensors(published: dict[str, Tensor], model: nn.Module, file: Path) -> None:
    """Names and shapes, before timm's filter: it would drop qkv biases and resample another patch size silently."""
    expected = {published_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    missing = [name for name in expected if name not in published]
    extra = [name for name in published if name not in expected and name not in UNUSED]
    shapes = [
        f"{name} {list(published[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in published and tuple(published[name].shape) != shape
    ]
    for found, what in ((missing, "lacks"), (extra, "holds unknown"), (shapes, "has other shapes:")):
        if found:
            raise CovtokenError(
                f"{file} does not hold the weights of {LABEL}: it {what} {_some(found)} "
                f"({len(found)} of {len(expected)} tensors); expected {HUB_FILE} of {HUB_ID}"
            )
    broken = [name for name in expected if not torch.isfinite(published[name]).all()]
    if broken:
        raise CovtokenError(f"{file}: NaN or infinite weights in {_some(broken)}; get the file again: {HOW_TO_GET}")


def _check_periods(published: dict[str, Tensor], file: Path) -> None:
    """timm computes the RoPE periods itself, so those of the file must be the same. They may be stored in bf16."""
    if "rope_embed.periods" not in published:
        return
    found = published["rope_embed.periods"].float()
    expected = ROPE_BASE ** (torch.arange(16) / 16)  # a quarter of the head dimension, 64, for each axis
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0.01):
        raise CovtokenError(
            f"{file}: RoPE periods {[round(v, 3) for v in found.flatten().tolist()[:3]]}… are not those of base "
            f"{ROPE_BASE:g}, {[round(v, 3) for v in expected.tolist()[:3]]}…: this is another model"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
