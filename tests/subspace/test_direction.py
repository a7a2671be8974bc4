"""D against its definition, its laws over shards and orders, its file, and the ways a label could enter it."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.linear_model import Ridge
from stub_features import StubFeatures

from covtoken.backbone.feature_set import FeatureSet
from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import build_bank, check_fits, origin
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, refuse_labels, under_construction
from covtoken.scores.scorers import choices, raw_maps
from covtoken.subspace import direction as direction_module
from covtoken.subspace.direction import (
    Direction,
    DirectionSettings,
    agreed,
    bank_rarity,
    direction_moments,
    distilled,
    fit_many,
    load_direction,
    moments_at_cuts,
    rarity_cut,
    rarity_target,
    refined,
    target_reference,
    two_views,
)
from covtoken.subspace.rarity import RaritySubspace


@pytest.fixture(scope="module")
def features():
    return StubFeatures.of(8, 2)


@pytest.fixture(scope="module")
def fitted(features):
    return Direction.fit(features, 2, DirectionSettings(3))


def pooled(features, block):
    return pool3x3(features.tokens(block), features.rows, features.cols)


def by_definition(features, block, target_block=3, quantile=0.9, ridge=1.0):
    """(ω, m, t): book/recommended.md line by line, with scikit-learn's ridge; all tokens fit into the reference."""
    z = pooled(features, target_block).reshape(-1, 8).double().numpy()
    unit = np.repeat(features.units, 20)
    apart = np.linalg.norm(z[:, None] - z[None], axis=2)
    apart[unit[:, None] == unit[None]] = np.inf
    order = np.argsort(apart, axis=1)
    sparsity = np.take_along_axis(apart, order[:, :10], 1).mean(1)
    rarity = sparsity[order[:, :30]].mean(1)
    t = (rarity > np.quantile(rarity, quantile)).astype(float)
    x = pooled(features, block).reshape(-1, 8).double().numpy()
    alpha = ridge * ((x - x.mean(0)) ** 2).sum() / 8
    return Ridge(alpha=alpha, solver="cholesky").fit(x, t).coef_, x.mean(0), t


def test_it_is_the_definition(features, fitted):
    weight, mean, t = by_definition(features, 2)
    np.testing.assert_allclose(fitted.weight, weight, rtol=1e-7)
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-7, atol=1e-9)
    assert t.sum() == 32
    z = pooled(features, 2)
    np.testing.assert_allclose(fitted.score(z), (z.double().numpy() - mean) @ weight, atol=1e-6)
    assert fitted.score(z[0, 0]).shape == () and fitted.score(z).dtype == torch.float32
    with pytest.raises(CovtokenError, match="as the bank's"):
        fitted.score(z[..., :5])


def test_other_settings_reach_the_fit(features):
    weight, _, _ = by_definition(features, 4, target_block=1, quantile=0.7, ridge=0.1)
    found = Direction.fit(features, 4, DirectionSettings(1, 0.7, 0.1))
    np.testing.assert_allclose(found.weight, weight, rtol=1e-7)
    assert {k: found.header[k] for k in ("block", "target_block", "quantile", "ridge", "pooled")} == {
        "block": 4,
        "target_block": 1,
        "quantile": 0.7,
        "ridge": 0.1,
        "pooled": True,
    }
    small = Direction.fit(features, 4, DirectionSettings(1), size=100, k=3, neighbours=5, key="another")
    assert [small.header[k] for k in ("size", "k", "neighbours", "key")] == [100, 3, 5, "another"]


def test_many_blocks_share_one_search(features, fitted, monkeypatch):
    searched, real = [], direction_module.bank_rarity
    monkeypatch.setattr(direction_module, "bank_rarity", lambda *a: (searched.append(1), real(*a))[1])
    found = fit_many(features, [1, 2], DirectionSettings(3))
    assert searched == [1] and list(found) == [1, 2]
    assert torch.equal(found[2].weight, fitted.weight) and found[2].header == fitted.header


@pytest.mark.parametrize("pool", [True, False])
def test_many_cuts_share_one_pass(features, pool):
    rarity = torch.from_numpy(np.random.default_rng(1).random((16, 20)))
    cuts = [0.5, 0.9, 0.95]
    for cut, found in zip(cuts, moments_at_cuts(features, 2, rarity, cuts, pooled=pool), strict=True):
        wanted = direction_moments(features, 2, rarity, cut, pooled=pool)
        for name in ("n", "x", "xx", "t", "xt", "tt"):
            torch.testing.assert_close(torch.as_tensor(getattr(found, name)), torch.as_tensor(getattr(wanted, name)))
    with pytest.raises(LabelLeak):
        moments_at_cuts(features, 2, rarity > 0.5, cuts)


def test_the_cut_is_the_exact_quantile():
    values = torch.from_numpy(np.random.default_rng(0).random((30, 20)).astype(np.float32))
    assert rarity_cut(values) == np.quantile(values.double().numpy(), 0.9)
    assert rarity_cut(torch.cat([values[20:], values[:20]])) == rarity_cut(values)
    assert (values.double() > rarity_cut(values)).sum() == 60
    with pytest.raises(CovtokenError, match="inside"):
        rarity_cut(values, 90)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 15), max_size=4, unique=True), order=st.randoms())
def test_shards_in_any_order_give_the_direction_of_the_whole(cuts, order):
    features = StubFeatures.of(8, 2)
    whole = Direction.fit(features, 2, DirectionSettings(3))
    edges = [0, *sorted(cuts), 16]
    shards = [features.subset(range(a, b)) for a, b in pairwise(edges)]
    order.shuffle(shards)
    reference = pickle.loads(pickle.dumps(RaritySubspace.fit(build_bank(features, 3, pooled=True))))
    rarity = [bank_rarity(shard, reference) for shard in shards]
    cut = rarity_cut(torch.cat(rarity))
    sums = [pickle.loads(pickle.dumps(direction_moments(s, 2, r, cut))) for s, r in zip(shards, rarity)]
    about = rarity_target(reference, 0.9, cut)
    merged = Direction.from_moments(sum(sums[1:], sums[0]), reference.bank.header, 2, **about)
    assert _but_rounding(merged.header) == _but_rounding(whole.header)
    assert torch.linalg.vector_norm(merged.weight - whole.weight) <= 1e-9 * torch.linalg.vector_norm(whole.weight)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-9, atol=1e-12)
    check_fits(merged, features, block=2, pooled=True, pictures=features)


def _but_rounding(header: dict) -> dict:
    assert 0 < header["explained"] < 1
    return {name: value for name, value in header.items() if name not in ("explained", "content_sha256")}


def test_the_order_of_pictures_and_the_chunk_change_nothing(features, fitted, monkeypatch):
    shuffled = features.subset(np.random.default_rng(1).permutation(16))
    monkeypatch.setattr(direction_module, "CHUNK", 3)
    again = Direction.fit(shuffled, 2, DirectionSettings(3))
    assert torch.linalg.vector_norm(again.weight - fitted.weight) <= 1e-9 * torch.linalg.vector_norm(fitted.weight)
    assert again.header["cut"] == fitted.header["cut"] and again.header["units"] == fitted.header["units"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), inside=st.floats(0, 1))
def test_two_views_are_ranks_over_the_bank_and_inside_pictures(seed, inside):
    rarity = np.random.default_rng(seed).choice([0.1, 0.5, 0.7, 2.0], (4, 6))
    rarity[0, :4] = [0.1, 0.5, 0.7, 2.0]  # fewer values would look like a mask
    rarity = torch.from_numpy(rarity)
    found = two_views(rarity, inside)
    stretched = two_views(rarity**3 + 5, inside)
    if inside == 0:
        assert found is rarity
        return
    torch.testing.assert_close(found, stretched)  # ranks alone
    assert found.min() > 0 and found.max() <= 1
    order = np.random.default_rng(seed).permutation(4)
    torch.testing.assert_close(two_views(rarity[order], inside), found[order])
    for row, view in zip(rarity, found, strict=True):
        assert (torch.sign(row[:, None] - row[None]) * torch.sign(view[:, None] - view[None]) >= 0).all()


def test_inside_pictures_a_unit_that_is_odd_as_a_whole_counts_no_more_than_another():
    rarity = torch.from_numpy(np.random.default_rng(0).random((10, 20)))
    rarity[3] += 5
    over_bank, within = (two_views(rarity, share) for share in (0.0, 1.0))
    called = [(x.double() > rarity_cut(x, 0.9)).sum(1) for x in (over_bank, within)]
    assert called[0][3] == 20 and called[0].sum() == 20
    assert set(called[1].tolist()) <= {1, 2}
    with pytest.raises(CovtokenError, match=r"inside must lie in \[0, 1\], got 1.5"):
        two_views(rarity, 1.5)
    with pytest.raises(CovtokenError, match="rank inside its picture"):
        Direction.fit(StubFeatures.of(4), 2, DirectionSettings(3, inside=-0.1))


def test_the_view_inside_pictures_enters_the_call_the_rounds_and_the_header(features):
    plain, mixed = (Direction.fit(features, 2, DirectionSettings(3, rounds=1, inside=share)) for share in (0.0, 0.5))
    assert (plain.header["inside"], mixed.header["inside"]) == (0.0, 0.5)
    assert torch.linalg.vector_norm(plain.weight - mixed.weight) > 1e-3 * torch.linalg.vector_norm(plain.weight)
    reference = target_reference(features, 3)
    target = two_views(bank_rarity(features, reference), 0.5)
    first = Direction.fit(features, 2, DirectionSettings(3, inside=0.5))
    assert torch.equal(refined(first, features, target).weight, mixed.weight)
    with pytest.raises(CovtokenError, match=r"weighs ranks inside pictures by 0\.5: give `two_views`"):
        refined(first, features, bank_rarity(features, reference))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("inside", [0.0, 0.75, 1.0])
def test_ranks_do_not_hide_a_mask(features, kind, inside):
    mask = torch.zeros(16, 20, dtype=kind)
    mask[:, 3:6] = 1
    reference = target_reference(features, 3)
    with pytest.raises(LabelLeak):
        two_views(mask, inside)
    with pytest.raises(LabelLeak):
        distilled(features, 2, reference, mask, DirectionSettings(inside=inside))


def test_rarity_of_the_bank_leaves_the_own_unit_out(features):
    reference = RaritySubspace.fit(build_bank(features, 3, pooled=True))
    tokens, units = pooled(features, 3), reference.bank.unit_ids(features.units)
    assert torch.equal(bank_rarity(features, reference), reference.score(tokens, units))
    assert (bank_rarity(features, reference) != reference.score(tokens)).any()


def test_a_direction_planted_in_the_bank_is_found():
    features = StubFeatures.of(10, 3, rows=6, cols=6)
    tokens = {block: features.tokens(block) for block in (1, 3)}
    rows = torch.as_tensor([7, 8, 13, 14])  # one lesion of 2 × 2 tokens a picture, elsewhere in every third picture
    for block in tokens:
        for i in range(0, 30, 3):
            tokens[block][i, rows + i // 3 % 3, 5] += 8 + i / 10
    planted = FeatureSet.from_arrays(tokens, 6, 6, features.units, features.names)
    found = Direction.fit(planted, 1, DirectionSettings(3))
    assert found.weight[5] / torch.linalg.vector_norm(found.weight) > 0.9


def test_a_target_map_is_fitted_by_the_same_ridge(features):
    logits = features.saliency()
    for is_pooled in (False, True):
        x = (pooled(features, 2) if is_pooled else features.tokens(2)).reshape(-1, 8).double()
        alpha = ((x - x.mean(0)) ** 2).sum().item() / 8
        oracle = Ridge(alpha=alpha, solver="cholesky").fit(x, logits.reshape(-1).double())
        found = Direction.fit_target(features, 2, logits, pooled=is_pooled, target="saliency logit")
        np.testing.assert_allclose(found.weight, oracle.coef_, rtol=1e-6)
        assert found.header["pooled"] is is_pooled and found.header["target"] == "saliency logit"
        check_fits(found, features, block=2, pooled=is_pooled, pictures=features)
    with pytest.raises(CovtokenError, match=r"\[16, 20\], got \[15, 20\]"):
        Direction.fit_target(features, 2, logits[:15])


def test_erasing_another_direction_is_projecting_it_out_of_the_tokens(features, fitted):
    other = Direction.fit_target(features, 2, features.saliency(), target="saliency logit")
    erased = fitted.without(other)
    x = pooled(features, 2).double() - fitted.mean
    u = other.weight / other.weight.norm()
    np.testing.assert_allclose(
        erased.score(pooled(features, 2)), (x - (x @ u)[..., None] * u) @ fitted.weight, atol=1e-6
    )
    assert abs(erased.weight @ u) < 1e-15 and torch.equal(erased.mean, fitted.mean)
    torch.testing.assert_close(erased.without(other).weight, erased.weight)
    assert "explained" not in erased.header and erased.header["without"] == [other.header["content_sha256"]]
    assert erased.header["content_sha256"] != fitted.header["content_sha256"]
    with pytest.raises(CovtokenError, match="parallel"):
        fitted.without(fitted)
    with pytest.raises(CovtokenError, match="block: 2 and 1"):
        fitted.without(Direction.fit_target(features, 1, features.saliency()))


# The file


def test_saved_and_loaded_is_the_same(tmp_path, features, fitted):
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    again = load_direction(path)
    assert torch.equal(again.weight, fitted.weight) and torch.equal(again.mean, fitted.mean)
    assert again.header == fitted.header and [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]
    assert b"u0" not in path.read_bytes()[:-128]  # units are hashed
    erased = fitted.without(Direction.fit_target(features, 2, features.saliency()))
    erased.save(path)
    assert load_direction(path).header == erased.header
    wanted = "backbone weights_sha256 preprocessing cohort_fingerprint units key package_version block target_block"
    assert set(wanted.split()) | {"quantile", "ridge", "content_sha256"} <= fitted.header.keys()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, fitted):
    path = tmp_path_factory.mktemp("saved") / "d.safetensors"
    fitted.save(path)
    return path, path.read_bytes()


@settings(max_examples=300, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_refused(saved, share, bit):
    path, whole = saved
    damaged = bytearray(whole)
    damaged[int(share * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(CovtokenError):
        load_direction(path)


def test_truncated_edited_and_foreign_files_are_refused(tmp_path, features, fitted):
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(CovtokenError, match="truncated"):
        load_direction(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CovtokenError, match="edited"):
        load_direction(path)
    path.write_bytes(whole.replace(b'\\"block\\": 2', b'\\"block\\": 3'))
    with pytest.raises(CovtokenError, match="edited"):
        load_direction(path)
    Direction(fitted.weight, fitted.mean, {"kind": "direction"}).save(path)
    with pytest.raises(CovtokenError, match="its header says nothing"):
        load_direction(path)
    Direction(fitted.weight.float(), fitted.mean, fitted.header).save(path)
    with pytest.raises(CovtokenError, match=r"expected weight .* float64, came mean .*float32"):
        load_direction(path)
    build_bank(features, 2, target=path)
    with pytest.raises(CovtokenError, match="not a direction of covtoken"):
        load_direction(path)
    save_file({"weight": fitted.weight, "mean": fitted.mean}, path)
    with pytest.raises(CovtokenError, match="not a direction of covtoken"):
        load_direction(path)
    with pytest.raises(CovtokenError, match="no such direction"):
        load_direction(tmp_path / "none.safetensors")


def test_a_full_disk_leaves_the_old_file(tmp_path, fitted, monkeypatch):
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    before = path.read_bytes()

    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("covtoken.bank.tensor_file.save_file", full)
    with pytest.raises(CovtokenError, match="No space left"):
        fitted.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


@pytest.mark.parametrize("what", ["backbone", "weights_sha256", "preprocessing", "precision"])
def test_another_source_is_refused_by_name(fitted, what):
    features = StubFeatures.of(8, 2)
    check_fits(fitted, features, block=2, pooled=True, pictures=features)
    setattr(features, what, "other")
    with pytest.raises(
        CovtokenError, match=rf"this direction does not fit \({what}: expected 'other', the direction has"
    ):
        check_fits(fitted, features)
    reference = RaritySubspace.fit(build_bank(StubFeatures.of(8, 2), 3))
    with pytest.raises(CovtokenError, match=what):
        bank_rarity(features, reference)


def test_another_block_or_cohort_is_refused_by_name(features, fitted):
    with pytest.raises(CovtokenError, match="block: expected 6, the direction has 2"):
        check_fits(fitted, features, block=6)
    with pytest.raises(CovtokenError, match="pooled"):
        check_fits(fitted, features, pooled=False)
    with pytest.raises(CovtokenError, match="cohort_fingerprint"):
        check_fits(fitted, features, pictures=features.subset(range(8)))


# Labels


def test_labels_as_targets_are_refused(features):
    lesion = torch.zeros(16, 20)
    lesion[:, 5] = 1
    for leak in (lesion.bool(), lesion.int(), lesion, 255 * lesion, lesion.numpy()):
        with pytest.raises(LabelLeak, match="the target of a direction"):
            Direction.fit_target(features, 2, leak)
        with pytest.raises(LabelLeak, match="the target of a direction"):
            direction_moments(features, 2, leak, cut=0.5)
    assert direction_moments(features, 2, lesion + 0.1 * features.saliency(), cut=0.5).t > 0  # not a mask: a map


@pytest.mark.parametrize("cut", [lambda z: z > 0, lambda z: (z > 0).float()])
def test_labels_streamed_as_tokens_are_refused(cut, monkeypatch):
    features, real = StubFeatures.of(8, 2), StubFeatures.chunks
    reference = RaritySubspace.fit(build_bank(features, 3, pooled=True))
    monkeypatch.setattr(StubFeatures, "chunks", lambda *a, **k: ((s, cut(z)) for s, z in real(*a, **k)))
    for attack in (
        lambda: bank_rarity(features, reference),
        lambda: direction_moments(features, 2, features.saliency()),
        lambda: Direction.fit(features, 2, DirectionSettings(3)),
    ):
        with pytest.raises(LabelLeak):
            attack()
        assert not under_construction()


def test_no_pass_can_read_a_label(monkeypatch):
    features, real = StubFeatures.of(8, 2), StubFeatures.chunks
    reference = RaritySubspace.fit(build_bank(features, 3, pooled=True))
    passes = []

    def peeking(self, block, size=64):
        for part, tokens in real(self, block, size):
            if len(passes) == at:
                refuse_labels("a mask")
            passes.append(under_construction())
            yield part, tokens

    monkeypatch.setattr(StubFeatures, "chunks", peeking)
    for at in range(3):
        passes.clear()
        with pytest.raises(LabelLeak, match="a mask was asked for while"):
            Direction.fit(features, 2, DirectionSettings(3))
        assert len(passes) == at and not under_construction()
    at = 0
    for one_pass in (
        lambda: bank_rarity(features, reference),
        lambda: direction_moments(features, 2, features.saliency()),
    ):
        passes.clear()
        with pytest.raises(LabelLeak, match="was being built"):
            one_pass()
        assert not under_construction()


def test_labels_and_choices_riding_on_features_are_refused():
    tokens = {b: torch.randn(6, 20, 8, generator=torch.Generator().manual_seed(b)) for b in (2, 3)}
    features = FeatureSet.from_arrays(tokens, 4, 5, [f"u{i}" for i in range(6)], saliency=tokens[2][..., 0])
    reference = RaritySubspace.fit(build_bank(features, 3, pooled=True))
    chosen = features.subset(np.array([True, False, True, True, True, True]))
    riding = StubFeatures.of(8, 2)
    riding.hint = np.zeros(3, bool)
    for source, words in ((chosen, "boolean mask"), (riding, "boolean array")):
        for attack in (
            lambda s=source: Direction.fit(s, 2, DirectionSettings(3)),
            lambda s=source: Direction.fit_target(s, 2, s.saliency()),
            lambda s=source: direction_moments(s, 2, s.saliency()),
        ):
            with pytest.raises(LabelLeak, match=words):
                attack()
    with pytest.raises(LabelLeak, match="boolean mask"):
        bank_rarity(chosen, reference)
    assert Direction.fit(features.subset([0, 2, 3, 4, 5]), 2, DirectionSettings(3)).header["n_tokens"] == 100


def test_what_cannot_be_fitted_is_refused(features, monkeypatch):
    for bad in (0, 1, 90):
        with pytest.raises(CovtokenError, match="inside"):
            Direction.fit(features, 2, DirectionSettings(3, bad))
    with pytest.raises(CovtokenError, match="empty"):
        direction_moments(features.subset([]), 2, torch.zeros(0, 20))
    real = StubFeatures.tokens
    monkeypatch.setattr(StubFeatures, "tokens", lambda self, b: real(self, b) * (torch.nan if b == 2 else 1))
    with pytest.raises(CovtokenError, match="NaN"):
        Direction.fit(features, 2, DirectionSettings(3))
    assert not under_construction()
    monkeypatch.setattr(StubFeatures, "tokens", lambda self, b: real(self, b) * 0 + torch.arange(1.0, 9.0))
    with pytest.raises(CovtokenError, match="nothing to fit"):
        Direction.fit(features, 2, DirectionSettings(3))


# Scorers


def test_the_scorers_are_these_directions(features, fitted):
    pictures = StubFeatures.of(3, 2, prefix="v")
    maps = raw_maps("direction", 2, True, features, pictures, settings=DirectionSettings(3))
    np.testing.assert_array_equal(maps, fitted.score(pooled(pictures, 2)))
    with pytest.raises(CovtokenError, match="pooled=True"):
        raw_maps("direction", 2, False, features, pictures, settings=DirectionSettings(3))
    student = Direction.fit_target(features, 2, features.saliency(), pooled=False)
    np.testing.assert_array_equal(
        raw_maps("head_student", 2, False, features, pictures), student.score(pictures.tokens(2))
    )


def test_the_grids_scale_with_depth():
    grid = choices("direction", 12)
    assert {r.block for r in grid} == set(range(4, 11)) and {r.settings for r in grid} == {DirectionSettings(9)}
    assert {r.pooled for r in grid} == {True} and len(grid) == 7 * 3
    deep = choices("direction", 24)
    assert {r.block for r in deep} == set(range(8, 20)) and {r.settings.target_block for r in deep} == {18}
    student = choices("head_student", 12)
    assert {(r.block, r.pooled) for r in student} == {(b, p) for b in range(4, 11) for p in (False, True)}


def test_the_origin_is_the_banks(features, fitted):
    assert origin(features).items() <= fitted.header.items()
    assert origin(features).items() <= build_bank(features, 3).header.items()


def test_agreement_weighs_rarity_and_score_alike():
    rarity, score = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    both = agreed(rarity, score)
    assert both.tolist() == [[5 / 8, 3 / 8, 6 / 8, 6 / 8]]
    assert torch.equal(both, agreed(score, rarity))
    assert not torch.equal(both, agreed(score, score)) and not torch.equal(both, agreed(rarity, rarity))
