"""A Ray of two workers gives what one process gives; killed, it leaves every row once."""

from __future__ import annotations

import pytest
import torch

from covtoken.backbone.cache import features
from covtoken.backbone.weights import load_backbone
from covtoken.data.cohorts import open_cohort
from covtoken.errors import CovtokenError
from covtoken.scores.recipe import recommended
from covtoken.scores.recommended import direction_of
from covtoken.shards.on_ray import Backbone, extract_on_ray, fit_on_ray, over_shards
from covtoken.shards.pictures import write_pictures
from covtoken.shards.tokens import Asked, open_tokens

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'covtoken[ray]'")
N, SHARDS, BACKBONE = 24, 6, Backbone("random:vit_tiny_patch16_224", 96)
RECIPE = recommended(12)
ASKED = Asked((RECIPE.block, RECIPE.settings.target_block))
KILLED = """
import sys
from covtoken.shards.on_ray import extract_on_ray
from tests_of_ray import ASKED, BACKBONE
extract_on_ray(sys.argv[1], sys.argv[2], BACKBONE, ASKED, workers=2)
"""


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


def same(tokens, single) -> None:
    whole = open_tokens(tokens)
    assert (whole.names, whole.digests) == (single.names, single.digests) and len(set(whole.names)) == N
    for block in ASKED.blocks:
        assert torch.equal(whole.tokens(block), single.tokens(block))


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives(pictures, single, tmp_path):
    extract_on_ray(pictures, tmp_path / "tokens", BACKBONE, ASKED, workers=2)
    same(tmp_path / "tokens", single)
    direction, expected = (
        fit_on_ray(tmp_path / "tokens", tmp_path / "fit", RECIPE, 2, 300),
        direction_of(RECIPE, single),
    )
    assert expected.header["size"] != 300 or torch.allclose(direction.weight, expected.weight)


def test_too_few_cpus_are_refused_before_the_start():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    with pytest.raises(CovtokenError, match="3 logical CPUs, and 2 workers need 4"):
        over_shards(lambda: print, [1, 2], workers=2)
