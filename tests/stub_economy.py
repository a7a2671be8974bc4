"""A narrow ViT, a small cohort of pictures with a bright lesion each, and hand-made records of gate 6."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from stub_vit import lively
from timm.models.vision_transformer import VisionTransformer

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.evaluation.records import Records
from covtoken.gates.economy.choice import SPEEDUPS
from covtoken.keys import hash_unit
from covtoken.protocol.plan import Plan
from covtoken.scores.recipe import Recipe, fixed_recipes

SIDE = 40  # pixels of a picture
N_TOKENS = 64


@cache
def narrow(depth: int = 6) -> FrozenViT:
    """Make a model with CLS, two registers and 8 × 8 patches, 24 wide; of 6 blocks its taps lie at 1, 2 and 3."""
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": depth, "num_heads": 3, "num_classes": 0, "reg_tokens": 2, "init_values": 1.0}
    return FrozenViT(lively(VisionTransformer(32, 4, **options)), "narrow", 32, "0" * 64, (0.5,) * 3, (0.5,) * 3)


def picture(i: int) -> np.ndarray:
    """Draw speckle with a bright square of 8 to 13 pixels."""
    rng = np.random.default_rng(i)
    pixels = rng.gamma(4, 20, size=(SIDE, SIDE))
    pixels[_square(i)] += 120
    return pixels.clip(0, 255).astype(np.float32)


def _square(i: int) -> tuple[slice, slice]:
    rng = np.random.default_rng(1000 + i)
    size, (row, column) = 8 + i % 6, rng.integers(0, SIDE - 14, 2)
    return slice(row, row + size), slice(column, column + size)


def small_cohort(folder: Path, n: int, name: str = "synthetic") -> Cohort:
    """Make ``n`` units of one picture, a PNG mask each, benign and malignant by turns."""
    cases, masks = [], {}
    for i in range(n):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[_square(i)] = 255
        path = folder / f"m{i:03}.png"
        Image.fromarray(mask).save(path)
        cases.append(Case(f"c{i:03}", f"{name}{i:03}", "ultrasound", lambda i=i: picture(i)))
        masks[f"c{i:03}"] = MaskRef("png", (path,), at_least=1, diagnosis=("benign", "malignant")[i % 2])
    return Cohort(name, "ultrasound", tuple(cases), masks)


def plan(n_blocks: int = 6) -> Plan:
    """Make a plan with every score that needs no saliency head."""
    recipes = fixed_recipes(n_blocks, has_head=False) | {
        "density": Recipe("density", 4, False, 0.5),
        "attention_best": Recipe("attention", 5),
        "centre_prior": Recipe("centre_prior"),
        "random": Recipe("random"),
    }
    return Plan(recipes, 4, 0.7, "made up", {"ultrasound": 0.06}, locked=True)


def records(
    needs=tuple(range(1, 41)),
    calibration=tuple(range(1, 40)),
    k: int = 36,
    speedup: float = 2.0,
    rivals: dict | None = None,
    small=None,
    border=None,
    checks: dict | None = None,
    **more,
) -> Records:
    """Make records of gate 6 by hand: one picture and lesion a unit, with a need and the threshold 1 − need ÷ T.

    Args:
        needs: of the test lesions at the chosen tap, recommended.block1.
        calibration: needs of the calibration lesions; none on a selection split.
        rivals: score → (needs of the test lesions, k at equal FLOPs), all at block 1.
    """
    arrays, key, rivals = {}, "recommended.block1", rivals or {}
    for side, values in (("", needs), ("calibration/", calibration)):
        values = np.asarray(values)
        if not len(values):
            continue
        flags = np.arange(len(values)) % 2 == 0 if small is None or side else np.asarray(small)
        arrays |= {
            f"{side}unit": np.arange(len(values), dtype=np.int32),
            f"{side}lesion/size": np.ones(len(values), dtype=np.int32),
            f"{side}lesion/small": flags.astype(np.uint8),
            f"{side}lesion/picture": np.arange(len(values), dtype=np.int32),
            f"{side}threshold/{key}": (1 - values / N_TOKENS).astype(np.float32),
            f"{side}rank/{key}": values.astype(np.int16),
        }
    arrays["scores"] = np.tile(1 - np.arange(1, N_TOKENS + 1) / N_TOKENS, (len(needs), 1)).astype(np.float16)
    arrays["lesion/border"] = np.asarray(np.zeros(len(needs)) if border is None else border).astype(np.uint8)
    for name, (own, _) in rivals.items():
        arrays[f"rank/{name}.block1"] = np.asarray(own).astype(np.int16)
    chosen = {"score": "recommended", "block": 1, "key": key, "k": k, "n_tokens": N_TOKENS, "speedup": speedup}
    header = {
        "units": [hash_unit(f"t{i}") for i in range(len(needs))],
        "calibration_units": [hash_unit(f"c{i}") for i in range(len(calibration))],
        "n_tokens": N_TOKENS,
        "chosen": chosen,
        "published": {"key": key, "k": 16, "speedup": 1.6},
        "equal": {"recommended": {"key": key, "k": k}}
        | {name: {"key": f"{name}.block1", "k": at} for name, (_, at) in rivals.items()},
        "curves": {key: [max(0, 60 - 6 * i) for i in range(len(SPEEDUPS))]},
        "route_certificate": {"refused": "made up"},
        "checks": {"route_is_the_masked_pass": True, "all_work_is_counted": True, "certificate_fits": True}
        | (checks or {}),
    }
    if not len(calibration):
        header["checks"] = {}
    return Records(arrays | more.pop("arrays", {}), header | more)


def in_order(rows: list[dict]) -> list[str]:
    """Write rows in an order of their own: that of a header's keys is lost in a file."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows)
