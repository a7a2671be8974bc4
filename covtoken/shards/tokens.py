"""Extract tokens shard by shard, and open all shards, or one, as a FeatureSet.

A shard of tokens is a pure function of the cohort's fingerprint, the weights' hash, the preprocessing, i and n, and of
what is asked for (blocks, precision, pictures a pass). With one picture a pass, the default, tokens do not even depend
on which pictures share a shard: any number of shards gives the same bytes a picture, on one kind of machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from covtoken.backbone.cache import features
from covtoken.backbone.feature_set import FeatureSet, check_allowed
from covtoken.backbone.vit import Block, FrozenViT
from covtoken.bank.token_bank import fingerprint
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_label_arrays, refuse_mask_file
from covtoken.shards.pictures import open_pictures
from covtoken.shards.store import read_manifest, shard_path, whole, write_shard

KIND = "tokens"


@dataclass(frozen=True)
class Asked:
    """What is extracted: blocks, attention and saliency as in ``FrozenViT.extract``.

    Attributes:
        batch: pictures a pass; above 1 the last bits of a token depend on its neighbours in the batch.
        most: the first so many cases (None: all).
    """

    blocks: tuple[Block, ...]
    attention: tuple[int, ...] = ()
    saliency: bool = False
    precision: str = "fp32"
    batch: int = 1
    most: int | None = None


def extract_shard(pictures: Path, out: Path, i: int, vit: FrozenViT, asked: Asked) -> bool:
    """Extract the tokens of the i-th shard of pictures, unless they are there and sound.

    Returns:
        whether they were extracted.

    Raises:
        CovtokenError: pictures that are missing or changed, a request that the backbone cannot serve, or a shard in
            ``out`` of other pictures, weights or settings.
    """
    cases, digests, n = open_pictures(pictures, asked.most)
    if not 1 <= i <= n:
        raise CovtokenError(f"shard {i} of {n}: {pictures} has {n} shards, numbered from 1")
    if not cases[i - 1 :: n]:
        raise CovtokenError(f"shard {i} of {n} is empty at {len(cases)} cases at most: ask for {n} cases or more")
    key = {
        "cohort_fingerprint": fingerprint(digests),
        "backbone": vit.name,
        "weights_sha256": vit.weights_sha256,
        "preprocessing": vit.preprocessing,
        "picture_size": vit.picture_size,
        "grid": [vit.rows, vit.cols],
        **{name: getattr(asked, name) for name in ("blocks", "attention", "saliency", "precision", "batch")},
        "cases": len(cases),
    }
    path = shard_path(out, KIND, i, n)
    if read_manifest(path, key, verify=True) is not None:
        return False
    mine = cases[i - 1 :: n]
    made = features(
        *(mine, vit, asked.blocks, asked.attention, asked.saliency, asked.precision, asked.batch),
        progress=False,
        cache=False,
    )
    changed = [case.name for case, was, came in zip(mine, digests[i - 1 :: n], made.digests) if was != came]
    if changed:
        raise CovtokenError(f"{pictures}: shard {i} is damaged: {changed[0]} is another picture; write it again")
    tensors = {name: made.read(name, range(len(made))) for name in sorted(made.available)}
    write_shard(path, key, tensors, {"names": made.names, "units": made.units, "digests": made.digests})
    return True


def open_tokens(folder: Path, shard: int | None = None) -> FeatureSet:
    """Open the tokens of all shards in the cohort's order, or of one shard; nothing is read but the manifests.

    Raises:
        CovtokenError: shards that are missing, or that do not belong together.
    """
    shards = whole(folder, KIND)
    n, key = len(shards), shards[0][1]["key"]
    names, units, digests, places = [], [], [], []
    for place in range(key["cases"]):
        number, row = place % n, place // n
        if shard is not None and number != shard - 1:
            continue
        told = shards[number][1]
        names.append(told["names"][row])
        units.append(told["units"][row])
        digests.append(told["digests"][row])
        places.append((number, row))
    if shard is None and fingerprint(digests) != key["cohort_fingerprint"]:
        raise CovtokenError(f"{folder}: the manifests list other pictures than they were made of: extract them again")
    refuse_mask_file(shards[0][0])
    with safe_open(shards[0][0], framework="pt") as file:
        available = frozenset(file.keys())
    return FeatureSet(
        *(names, units, digests, *key["grid"], key["weights_sha256"], key["backbone"], key["preprocessing"]),
        *(key["precision"], available, _Shards([path for path, _ in shards], places)),
    )


def token_key(folder: Path) -> tuple[dict[str, Any], int]:
    """Give what all shards of tokens were made of, and their number."""
    shards = whole(folder, KIND)
    return shards[0][1]["key"], len(shards)


@dataclass(frozen=True)
class _Shards:
    """Read from shards: the picture at i is a row of one of them."""

    paths: list[Path] = field(repr=False)
    places: list[tuple[int, int]] = field(repr=False)  # (shard from 0, row)

    def __call__(self, name: str, indices: Sequence[int]) -> Tensor:
        out: Tensor | None = None
        with ExitStack() as stack:
            opened: dict[int, Any] = {}
            for place, (shard, row) in enumerate(self.places[i] for i in indices):
                path = self.paths[shard]
                try:
                    if shard not in opened:
                        refuse_mask_file(path)
                        file = stack.enter_context(safe_open(path, framework="pt"))
                        for held in file.keys():  # noqa: SIM118 - not a dict
                            check_allowed(held, path)
                        opened[shard] = file.get_slice(name)
                    tensor = opened[shard][row : row + 1][0]
                except (SafetensorError, OSError) as error:
                    raise CovtokenError(f"{path}: {name} cannot be read ({error}); extract the shard again") from error
                refuse_label_arrays(f"{name} of {path}", tensor if name.startswith("block") else tensor[:1])
                if out is None:
                    out = torch.empty((len(indices), *tensor.shape), dtype=torch.float32)
                out[place] = tensor
        return out
