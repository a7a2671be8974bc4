"""Shards give what one run gives, whatever is killed, reordered or mixed up."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from covtoken.backbone.cache import features
from covtoken.backbone.weights import load_backbone
from covtoken.bank.token_bank import build_bank
from covtoken.data.cohorts import open_cohort
from covtoken.errors import CovtokenError
from covtoken.maps.banks import fit_bank
from covtoken.maps.prepare import of_file
from covtoken.scores.recipe import recommended
from covtoken.scores.recommended import direction_maps, direction_of
from covtoken.shards.fit import (
    Waiting,
    bank_of,
    fit_shards,
    merge_moments,
    merge_reference,
    moments_part,
    reference_part,
)
from covtoken.shards.pictures import open_pictures, write_pictures
from covtoken.shards.tokens import Asked, extract_shard, open_tokens
from covtoken.subspace.direction import direction_moments

VIT = "random:vit_tiny_patch16_224"
N = 26  # pictures of 36 tokens
RECIPE = recommended(12)
ASKED = Asked((RECIPE.block, RECIPE.settings.target_block))


@pytest.fixture(scope="module")
def vit():
    return load_backbone(VIT, 96)


@pytest.fixture(scope="module")
def cases():
    return open_cohort("phantom", n=N).cases


def made(folder: Path, cases, vit, n: int, order=None) -> Path:
    """Pictures and tokens in n shards, made in an order."""
    for i in order or range(1, n + 1):
        assert write_pictures(cases, folder / "pictures", i, n)
    for i in order or range(1, n + 1):
        assert extract_shard(folder / "pictures", folder / "tokens", i, vit, ASKED)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, cases, vit):
    return made(tmp_path_factory.mktemp("three"), cases, vit, 3, order=(2, 3, 1))


@pytest.fixture(scope="module")
def single(cases, vit):
    return features(cases, vit, ASKED.blocks, batch=1, progress=False, cache=False)


def test_pictures_come_back_as_they_were(sharded, cases):
    came, digests, n = open_pictures(sharded / "pictures")
    assert n == 3 and came == list(cases) and len(set(digests)) == N
    assert all((a.pixels() == b.pixels()).all() for a, b in zip(came, cases))


def test_tokens_of_any_number_of_shards_are_those_of_one_run(sharded, single, tmp_path, cases, vit):
    one = made(tmp_path, cases, vit, 1)
    for folder in (sharded, one):
        whole = open_tokens(folder / "tokens")
        assert (whole.names, whole.units, whole.digests) == (single.names, single.units, single.digests)
        for block in ASKED.blocks:
            assert torch.equal(whole.tokens(block), single.tokens(block))
    path = next((sharded / "tokens").glob("*.safetensors"))
    before = path.read_bytes()
    path.unlink()
    for i in (1, 2, 3):
        extract_shard(sharded / "pictures", sharded / "tokens", i, vit, ASKED)
    assert path.read_bytes() == before


def test_the_reference_merges_in_any_order_to_the_bank_of_one_run(sharded, single):
    block, size = RECIPE.settings.target_block, 200
    expected = build_bank(single, block, size, pooled=True)
    shards = [open_tokens(sharded / "tokens", i) for i in (1, 2, 3)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        chosen = [shards[i] for i in order]
        bank = merge_reference([reference_part(s, block, size) for s in chosen], chosen, block, size)
        assert torch.equal(bank.tokens, expected.tokens) and bank.header == expected.header


def test_sums_merge_to_one_run_within_rounding(sharded, single):
    target = torch.rand(N, 36, generator=torch.Generator().manual_seed(0))
    expected = direction_moments(single, 6, target)
    parts = [
        moments_part(direction_moments(open_tokens(sharded / "tokens", i), 6, target[i - 1 :: 3])) for i in (1, 2, 3)
    ]
    for name in ("n", "x", "xx", "t", "xt", "tt"):
        came = torch.as_tensor(getattr(merge_moments(parts), name), dtype=torch.float64)
        wanted = torch.as_tensor(getattr(expected, name), dtype=torch.float64)
        assert torch.allclose(came, wanted, rtol=1e-12, atol=1e-12 * wanted.abs().max().item())


def test_one_shard_gives_the_direction_of_one_run_and_many_give_it_to_1e_12(sharded, single, tmp_path, cases, vit):
    expected = direction_of(RECIPE, single)
    one = fit_shards(made(tmp_path, cases, vit, 1) / "tokens", tmp_path / "fit", RECIPE, threshold=False)
    assert one.header == expected.header and torch.equal(one.weight, expected.weight)
    three = fit_shards(sharded / "tokens", tmp_path / "fit3", RECIPE, threshold=False)
    close = dict(rtol=1e-12, atol=1e-12 * expected.weight.abs().max().item())
    assert torch.allclose(three.weight, expected.weight, **close) and three.header["cut"] == expected.header["cut"]
    bank = build_bank(single, RECIPE.settings.target_block, pooled=True)
    assert bank_of(tmp_path / "fit3").header == bank.header


def test_a_direction_of_shards_holds_the_threshold_of_one_run_and_maps_by_it(sharded, tmp_path, cases, vit):
    expected = fit_bank(cases, vit, {}, whole=True)
    for turn in range(40):  # two machines in turns
        try:
            fit_shards(sharded / "tokens", tmp_path, RECIPE, part=(turn % 2 + 1, 2))
            break
        except Waiting as waits:
            assert re.search(r"\(so do [45] of the threshold\)", str(waits)), "every fold goes on as far as it can"
    scorer = of_file(str(tmp_path / "direction.safetensors")).fit(vit, False)
    assert scorer.scores.n == expected.scores.n == N * 36
    np.testing.assert_allclose(scorer.scores.scores, expected.scores.scores, rtol=1e-4, atol=1e-6)  # batch 1 and 8
    np.testing.assert_allclose(scorer.maps(cases[:2], vit), direction_maps(RECIPE, expected.directions[None], features(
        cases[:2], vit, ASKED.blocks, progress=False, cache=False)), rtol=1e-3, atol=1e-5)  # fmt: skip


def test_machines_that_take_turns_in_any_order_give_the_same_bytes(sharded, tmp_path):
    expected = fit_shards(sharded / "tokens", tmp_path / "alone", RECIPE, threshold=False)
    order, finished = random.Random(0), None
    for _ in range(60):
        try:
            finished = fit_shards(
                sharded / "tokens", tmp_path / "fit", RECIPE, part=(order.randint(1, 3), 3), threshold=False
            )
            break
        except Waiting as waits:
            assert "waits for shards" in str(waits)
    assert finished is not None and finished.header == expected.header
    for path in (tmp_path / "alone").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "fit" / path.relative_to(tmp_path / "alone")).read_bytes()


def test_a_fit_killed_at_any_write_resumes_to_the_same_bytes(sharded, tmp_path, monkeypatch):
    expected = fit_shards(sharded / "tokens", tmp_path / "alone", RECIPE, threshold=False)
    rename, kills = Path.replace, 0
    for at in (1, 2, 5, 9, 14, 20, 24):
        left = iter([None] * at)

        def replace(self, target, left=left):
            if next(left, "killed") == "killed":
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        try:
            fit_shards(sharded / "tokens", tmp_path / "fit", RECIPE, threshold=False)
        except KeyboardInterrupt:
            kills += 1
        monkeypatch.setattr(Path, "replace", rename)
    assert kills >= 4
    assert fit_shards(sharded / "tokens", tmp_path / "fit", RECIPE, threshold=False).header == expected.header
    assert not list(tmp_path.rglob(".*"))


def test_what_does_not_belong_is_refused_by_name(sharded, tmp_path, cases, vit):
    pictures, tokens = sharded / "pictures", sharded / "tokens"
    with pytest.raises(CovtokenError, match=r"made of something else \(cases_sha256: expected .* it has"):
        write_pictures(cases[:-1], pictures, 1, 3)
    with pytest.raises(CovtokenError, match="weights_sha256: expected"):
        extract_shard(pictures, tokens, 1, load_backbone("random:vit_tiny_patch16_384", 96), ASKED)
    with pytest.raises(CovtokenError, match=r"preprocessing: expected|picture_size: expected"):
        extract_shard(pictures, tokens, 1, load_backbone(VIT, 64), ASKED)
    other = open_cohort("phantom", n=N, seed=1).cases
    for i in (1, 2, 3):
        write_pictures(other, tmp_path / "pictures", i, 3)
    with pytest.raises(CovtokenError, match="cohort_fingerprint: expected"):
        extract_shard(tmp_path / "pictures", tokens, 1, vit, ASKED)
    with pytest.raises(CovtokenError, match=r"4 of 3: .* has 3 shards"):
        extract_shard(pictures, tokens, 4, vit, ASKED)
    (tmp_path / "pictures" / "pictures.00002-of-00003.json").unlink()
    with pytest.raises(CovtokenError, match="pictures shards 2/3 are missing"):
        open_pictures(tmp_path / "pictures")
    write_pictures(other, tmp_path / "pictures", 1, 2)
    with pytest.raises(CovtokenError, match="shards of 2 and of 3"):
        open_pictures(tmp_path / "pictures")
    fit_shards(tokens, tmp_path / "fit", RECIPE, size=200, threshold=False)
    with pytest.raises(CovtokenError, match="size: expected 300, it has 200; threshold: expected True, it has False"):
        fit_shards(tokens, tmp_path / "fit", RECIPE, size=300)


def test_a_flipped_bit_is_made_again(sharded, vit):
    path = sharded / "tokens" / "tokens.00002-of-00003.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-9] + bytes([before[-9] ^ 4]) + before[-8:])
    assert extract_shard(sharded / "pictures", sharded / "tokens", 2, vit, ASKED)
    assert path.read_bytes() == before
    assert not extract_shard(sharded / "pictures", sharded / "tokens", 2, vit, ASKED)
