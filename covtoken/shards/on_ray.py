"""Run shards on a Ray cluster, or on a Ray of this machine: the extra ``covtoken[ray]``.

The unit is the shard, and finished shards are the checkpoint: Ray Data's own lost rows when it resumed, so it is not
used. A killed run is started again and makes what is missing. Every worker must see the same folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from covtoken.backbone.weights import load_backbone
from covtoken.bank.token_bank import REFERENCE_SIZE
from covtoken.errors import CovtokenError
from covtoken.scores.recipe import Recipe
from covtoken.shards.fit import Waiting, fit_shards
from covtoken.shards.pictures import open_pictures
from covtoken.shards.tokens import Asked, extract_shard, open_tokens, token_key
from covtoken.subspace.direction import Direction

SPARE_CPUS = 2  # that Ray Data's reading and writing take; with fewer, a run can wait for ever
Work = Callable[[int], object]


@dataclass(frozen=True)
class Backbone:
    """Name a backbone, to be loaded by each worker; as ``load_backbone``."""

    name: str
    picture_size: int = 224
    weights_file: str | None = None
    device: str = "cpu"


def extract_on_ray(pictures: Path, out: Path, backbone: Backbone, asked: Asked, workers: int, gpus: float = 0) -> None:
    """Extract the tokens of all shards of pictures, each worker with a backbone of its own.

    Args:
        workers: backbones at a time.
        gpus: of each, for a device ``cuda``.

    Raises:
        CovtokenError: Ray is absent or has too few CPUs, or as ``extract_shard``.
    """
    n = open_pictures(pictures, asked.most)[2]
    made = partial(_extractor, Path(pictures).resolve(), Path(out).resolve(), backbone, asked)
    over_shards(made, range(1, n + 1), workers, gpus)
    open_tokens(out)  # all of them, each case once


def fit_on_ray(
    tokens: Path, out: Path, recipe: Recipe, workers: int, size: int = REFERENCE_SIZE, threshold: bool = True
) -> Direction:
    """Fit a direction over shards of tokens: the passes of ``fit_shards``, one after the other, each on all workers.

    Raises:
        CovtokenError: Ray is absent or has too few CPUs, or as ``fit_shards``.
    """
    ray, n = _started(workers), token_key(tokens)[1]
    work = ray.remote(num_cpus=1, num_gpus=0)(_fit_part)  # tasks find their worker, and its imports, warm
    folders, parts = (Path(tokens).resolve(), Path(out).resolve()), min(workers, n)
    while True:
        with _own_errors(ray):
            ended = ray.get([work.remote(*folders, recipe, (i, parts), size, threshold) for i in range(1, parts + 1)])
        if all(ended):
            return fit_shards(tokens, out, recipe, size=size, threshold=threshold)


def over_shards(make: Callable[[], Work], shards: Sequence[int], workers: int, gpus: float = 0) -> list[int]:
    """Call ``make()`` once in each worker, and what it gives on every shard; return the shards, sorted."""
    ray = _started(workers)
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"shard": int(i)} for i in shards], override_num_blocks=len(shards))
    done = rows.map_batches(
        _Worker,
        **{"fn_constructor_args": (make,), "batch_size": 1, "num_cpus": 1, "num_gpus": gpus or None},
        compute=ActorPoolStrategy(size=min(workers, len(shards))),
    )
    with _own_errors(ray):
        return sorted(row["shard"] for row in done.take_all())


class _Worker:
    """Do one shard a call."""

    def __init__(self, make: Callable[[], Work]):
        torch.set_num_threads(1)  # a CPU each; the bytes of a token also depend on the number of threads
        self.work = make()

    def __call__(self, batch: dict) -> dict:
        for shard in batch["shard"]:
            self.work(int(shard))
        return batch


def _extractor(pictures: Path, out: Path, backbone: Backbone, asked: Asked) -> Work:
    vit = load_backbone(backbone.name, backbone.picture_size, backbone.weights_file)
    vit.model.to(backbone.device)
    return lambda i: extract_shard(pictures, out, i, vit, asked)


def _fit_part(tokens: Path, out: Path, recipe: Recipe, part: tuple[int, int], size: int, threshold: bool) -> bool:
    """Go on with a fit; say whether it came to its end."""
    torch.set_num_threads(1)
    try:
        return fit_shards(tokens, out, recipe, part, size, threshold) is not None
    except Waiting:
        return False


def _started(workers: int) -> Any:
    """Start Ray where it was not; give it, if it has CPUs enough."""
    try:
        import ray
    except ImportError as error:
        raise CovtokenError(f"Ray is not installed ({error}): pip install 'covtoken[ray]'") from error
    if not ray.is_initialized():
        local = None if os.environ.get("RAY_ADDRESS") else workers + SPARE_CPUS  # a cluster has its own number
        ray.init(num_cpus=local, include_dashboard=False, log_to_driver=False)
    cpus = ray.cluster_resources().get("CPU", 0)
    if workers < 1 or cpus < workers + SPARE_CPUS:
        raise CovtokenError(
            f"Ray has {cpus:g} logical CPUs, and {workers} workers need {workers + SPARE_CPUS}: give fewer workers, or "
            f"start it with `ray start --head --num-cpus {workers + SPARE_CPUS}`"
        )
    return ray


@contextmanager
def _own_errors(ray: Any) -> Iterator[None]:
    """Raise a worker's CovtokenError as such, out of what Ray wraps around it."""
    try:
        yield
    except ray.exceptions.RayError as error:
        found = re.findall(r"CovtokenError: (.+)", str(error))
        if not found:
            raise
        raise CovtokenError(found[-1]) from error
