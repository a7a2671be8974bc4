"""A Ray of two workers gives what one process gives; killed, it leaves every row once."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from covtoken.backbone.cache import features
from covtoken.backbone.weights import load_backbone
from covtoken.data.cohorts import open_cohort
from covtoken.errors import CovtokenError
from covtoken.paths import PACKAGE
from covtoken.scores.recipe import recommended
from covtoken.scores.recommended import direction_of
from covtoken.shards.on_ray import Backbone, extract_on_ray, fit_on_ray, over_shards
from covtoken.shards.pictures import write_pictures
from covtoken.shards.tokens import Asked, open_tokens

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'covtoken[ray]'")
N, SHARDS, BACKBONE = 24, 6, Backbone("random:vit_tiny_patch16_224", 96)
RECIPE = recommended(12)
ASKED = Asked((RECIPE.block, RECIPE.settings.target_block))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(1, SHARDS + 1):
        write_pictures(open_cohort("phantom", n=N).cases, folder, i, SHARDS)
    return folder


@pytest.fixture(scope="module")
def single():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    vit = load_backbone(BACKBONE.name, BACKBONE.picture_size)
    yield features(open_cohort("phantom", n=N).cases, vit, ASKED.blocks, batch=1, progress=False, cache=False)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def stopped():
    yield
    ray.shutdown()


@pytest.mark.slow
def test_two_workers_killed_twice_give_what_one_process_gives(pictures, single, tmp_path):
    tokens = tmp_path / "tokens"
    command = [sys.executable, __file__, str(pictures), str(tokens)]
    for shards in (1, 3):  # `python benchmarks/ray_kills.py` kills twenty times
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)})
        while run.poll() is None and len(list(tokens.glob("*.json"))) < shards:
            time.sleep(0.02)
        run.kill()
        run.wait()
    extract_on_ray(pictures, tokens, BACKBONE, ASKED, workers=2)
    whole = open_tokens(tokens)
    assert (whole.names, whole.digests) == (single.names, single.digests) and len(set(whole.names)) == N
    assert all(torch.equal(whole.tokens(block), single.tokens(block)) for block in ASKED.blocks)
    direction = fit_on_ray(tokens, tmp_path / "fit", RECIPE, workers=2, threshold=False)
    expected = direction_of(RECIPE, single)
    close = dict(rtol=1e-12, atol=1e-12 * expected.weight.abs().max().item())
    assert torch.allclose(direction.weight, expected.weight, **close)
    with pytest.raises(CovtokenError, match=r"weights_sha256: expected"):  # a worker's own error, as it is
        extract_on_ray(pictures, tokens, Backbone("random:vit_tiny_patch16_384", 96), ASKED, workers=2)


def test_too_few_cpus_are_refused_before_the_start():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    with pytest.raises(CovtokenError, match="3 logical CPUs, and 2 workers need 4"):
        over_shards(lambda: print, [1, 2], workers=2)


if __name__ == "__main__":
    extract_on_ray(*sys.argv[1:], BACKBONE, ASKED, workers=2)
