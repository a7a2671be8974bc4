"""Exit maps: what they are fitted on, that they help on pictures they have not seen, and what refuses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from stub_vit import cases, first_channel, lively
from timm.models.vision_transformer import VisionTransformer

from covtoken.backbone.cache import features
from covtoken.backbone.vit import FrozenViT
from covtoken.economy.exit_maps import RIDGE, ExitMaps, exit_sums, fit_exit_maps, load_exit_maps
from covtoken.economy.routing import batches, route_through
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError
from covtoken.subspace.direction import Direction


def model(seed=0, name="narrow", sha="a" * 64):
    torch.manual_seed(seed)
    options = {"embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 0, "init_values": 1.0}
    return FrozenViT(lively(VisionTransformer(32, 4, **options)), name, 32, sha, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def vit():
    return model()


@pytest.fixture(scope="module")
def stages():
    return [Stage(1, first_channel, ratio=0.5), Stage(2, first_channel, ratio=0.25)]


@pytest.fixture(scope="module")
def maps(vit, stages):
    return fit_exit_maps(cases(0, 24), vit, stages)


@pytest.fixture(scope="module")
def unseen(vit):
    return torch.cat([images for _, images, _ in batches(cases(100, 110), vit)])


def test_they_are_scikit_learns_ridge(vit, stages, maps):
    images = torch.cat([part for _, part, _ in batches(cases(0, 24), vit)])
    full, routed = vit.extract(images, ["norm"]).tokens["norm"], route_through(vit, images, stages)
    came = [torch.ones_like(routed.kept), routed.exits >= 2]
    pairs = [(tap[rows], full[rows], found) for tap, rows, found in zip(routed.taps, came, maps.dropped, strict=True)]
    both = torch.cat([routed.tokens, routed.taps[0]], dim=-1)[routed.kept]
    pairs.append((both, full[routed.kept], maps.kept))
    for (x, y, found), share, n in zip(pairs, maps.header["explained"], maps.header["n_tokens"], strict=True):
        x, y = x.double().numpy(), y.double().numpy()
        alpha = RIDGE * ((x - x.mean(0)) ** 2).sum() / x.shape[1]
        oracle = Ridge(alpha=alpha, solver="cholesky").fit(x, y)
        np.testing.assert_allclose(found.weight.T, oracle.coef_, rtol=1e-3, atol=1e-4)
        left = ((y - oracle.predict(x)) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
        assert share == pytest.approx(1 - left, abs=1e-6) and n == len(x)


def test_they_bring_unseen_pictures_nearer_to_the_full_pass(vit, stages, maps, unseen):
    full = vit.extract(unseen, ["norm"]).tokens["norm"]
    raw, mapped = route_through(vit, unseen, stages), route_through(vit, unseen, stages, maps)
    assert torch.equal(raw.exits, mapped.exits)
    for block in (1, 2, 4):
        those = raw.exits == block
        before, after = (((found.tokens - full)[those] ** 2).mean() for found in (raw, mapped))
        assert after < 0.8 * before, f"tokens that left after block {block}"


def test_dropped_tokens_show_the_exit_value_and_kept_ones_the_corrected(vit, stages, maps, unseen):
    raw, mapped = route_through(vit, unseen, stages), route_through(vit, unseen, stages, maps)
    for i, block in enumerate((1, 2)):
        left = raw.exits == block
        torch.testing.assert_close(mapped.tokens[left], maps.dropped[i](raw.taps[i][left]))
    both = torch.cat([raw.tokens, raw.taps[0]], dim=-1)
    torch.testing.assert_close(mapped.tokens[raw.kept], maps.kept(both)[raw.kept])
    assert torch.equal(raw.prefix, mapped.prefix)


def test_a_picture_that_keeps_all_is_the_plain_pass(vit, maps, unseen):
    full = vit.extract(unseen, ["norm"]).tokens["norm"]
    counts = [64, *[9] * (len(unseen) - 1)]
    mixed = [Stage(1, first_channel, k=counts), Stage(2, first_channel, k=counts)]
    found = route_through(vit, unseen, mixed, maps).tokens
    torch.testing.assert_close(found[0], full[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[1], full[1], atol=1e-2)
    all_kept = [Stage(1, first_channel, ratio=1.0), Stage(2, first_channel, ratio=1.0)]
    torch.testing.assert_close(route_through(vit, unseen, all_kept, maps).tokens, full, rtol=1e-5, atol=1e-5)
    with pytest.raises(CovtokenError, match="there is no map to fit"):
        fit_exit_maps(cases(0, 2), vit, all_kept)


def test_shards_in_any_order_give_the_same_maps(vit, stages, maps):
    shards = [exit_sums(cases(a, b), vit, stages, batch=5) for a, b in ((16, 24), (0, 3), (3, 16))]
    again = ExitMaps.of(sum(shards[1:], shards[0]), vit, stages)
    for one, other in zip([*again.dropped, again.kept], [*maps.dropped, maps.kept], strict=True):
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.bias, other.bias, rtol=1e-3, atol=1e-4)
    assert again.header["cohort_fingerprint"] == maps.header["cohort_fingerprint"]
    assert again.header["units"] == maps.header["units"]
    with pytest.raises(CovtokenError, match="do not add up"):
        shards[0] + exit_sums(cases(0, 1), vit, stages[:1])
    with pytest.raises(CovtokenError, match="of 2 stages do not fit a route of 1"):
        ExitMaps.of(shards[0], vit, stages[:1])


def test_counts_by_picture_are_those_of_all_cases(vit):
    counts = [5, 30, 9, 64, 2]
    one = exit_sums(cases(0, 5), vit, [Stage(1, first_channel, k=counts)], batch=2)
    assert one.kept.n == 5 + 30 + 9 + 2  # the fourth picture keeps all: it needs no correction
    assert one.dropped[0].n == 5 * 64


def test_they_are_saved_and_loaded(vit, stages, maps, unseen, tmp_path):
    maps.save(tmp_path / "maps.safetensors")
    loaded = load_exit_maps(tmp_path / "maps.safetensors")
    assert loaded.header == maps.header
    first, second = (route_through(vit, unseen, stages, m).tokens for m in (maps, loaded))
    assert torch.equal(first, second)
    assert maps.header["stages"] == [f"block {b}, first_channel, sigma 0, ratio {r}" for b, r in ((1, 0.5), (2, 0.25))]


def test_edited_and_foreign_files_are_refused(maps, tmp_path):
    path = tmp_path / "maps.safetensors"
    maps.save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CovtokenError, match="edited or damaged: content is"):
        load_exit_maps(path)
    path.write_bytes(data[:-40])
    with pytest.raises(CovtokenError, match="truncated"):
        load_exit_maps(path)
    with pytest.raises(CovtokenError, match="no such exit maps"):
        load_exit_maps(tmp_path / "none.safetensors")
    direction(model(), 1, "bank").save(path)
    with pytest.raises(CovtokenError, match="not a set of exit maps"):
        load_exit_maps(path)


def direction(vit, block, bank):
    header = {"kind": "direction", "block": block, "pooled": False, "backbone": vit.name, "cohort_fingerprint": bank}
    header |= {"weights_sha256": vit.weights_sha256, "preprocessing": vit.preprocessing, "content_sha256": "0" * 64}
    return Direction(torch.ones(24, dtype=torch.float64), torch.zeros(24, dtype=torch.float64), header)


def test_another_backbone_block_or_bank_is_refused(vit, stages, maps, unseen):
    for other in (model(name="another"), model(seed=1, sha="b" * 64)):
        with pytest.raises(CovtokenError, match="this set of exit maps does not fit"):
            route_through(other, unseen, stages, maps)
    for wrong in (stages[:1], [stages[0], Stage(3, first_channel, ratio=0.25)]):
        with pytest.raises(CovtokenError, match=r"are of stages after blocks \[1, 2\], not"):
            route_through(vit, unseen, wrong, maps)
    own = features(cases(0, 24), vit, [1], cache=False, progress=False)
    fitted = Direction.fit_target(own, 1, own.tokens(1)[..., 0])
    route_through(vit, unseen, [Stage(1, fitted, ratio=0.5), stages[1]], maps)  # of the same pictures
    with pytest.raises(CovtokenError, match="fit both on the pictures of one bank"):
        route_through(vit, unseen, [Stage(1, direction(vit, 1, "another bank"), ratio=0.5), stages[1]], maps)
