"""Passes that are compared at equal FLOPs: against the plain pass, PyTorch's counter, slow loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from stub_vit import cases, first_channel, lively
from timm.models.vision_transformer import VisionTransformer

from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case
from covtoken.economy.exit_maps import RIDGE, fit_exit_maps
from covtoken.economy.flops import counted_flops, route_flops
from covtoken.economy.merge_passes import merging_pass, tuned_merging
from covtoken.economy.merge_schedules import at_once, merging_flops, schedule, schedules_for
from covtoken.economy.merging import match, merge_planned, merge_through
from covtoken.economy.passes import plain_pass, route_pass, stop_early_block_for, stop_early_pass
from covtoken.economy.routing import batches, route_through
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, register_mask_files
from covtoken.subspace.direction import Direction


@pytest.fixture(scope="module")
def vit():
    """A model of 4 blocks, CLS, one register and 8 × 8 patches, 24 wide."""
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 0, "reg_tokens": 1, "init_values": 1.0}
    return FrozenViT(lively(VisionTransformer(32, 4, **options)), "narrow", 32, "a" * 64, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def bank():
    return cases(0, 16)


@pytest.fixture(scope="module")
def unseen(vit):
    return images_of(vit, cases(100, 108))


@pytest.fixture(scope="module")
def protect(vit):
    weight, mean = torch.randn(2, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    header = {"kind": "direction", "block": 1, "pooled": True, "backbone": "narrow", "cohort_fingerprint": "bank"}
    header |= {"weights_sha256": "a" * 64, "preprocessing": vit.preprocessing, "content_sha256": "0" * 64}
    return Stage(1, Direction(weight, mean, header), k=9, sigma=0.5)


def images_of(vit, some):
    return torch.cat([images for _, images, _ in batches(some, vit)])


def error(found, full):
    return ((found - full) ** 2).mean().item()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_the_plain_pass_is_the_models_own(name):
    vit = load_backbone(f"random:{name}", 28 if "14" in name else 32)
    images = torch.randn(2, 3, vit.picture_size, vit.picture_size)
    plain = plain_pass(vit)
    found, own = plain.run(images), vit.model.forward_features(images)
    torch.testing.assert_close(torch.cat([found.prefix, found.tokens], dim=1), own, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.tokens, vit.extract(images, ["norm"]).tokens["norm"])
    assert plain.flops == counted_flops(lambda: plain.run(images[:1]))


def test_a_route_is_a_pass(vit, bank, unseen):
    stages = [Stage(1, first_channel, ratio=0.25, n_compared=7), Stage(2, first_channel, k=40, n_compared=0)]
    maps = fit_exit_maps(bank, vit, stages)
    found, routed = route_pass(vit, stages, maps, "route"), route_through(vit, unseen, stages, maps)
    assert torch.equal(found.run(unseen).tokens, routed.tokens) and torch.equal(found.run(unseen).prefix, routed.prefix)
    assert routed.counts(stages) == [[16, 16]] * len(unseen)
    assert found.name == "route" and found.flops == route_flops(vit, stages, [16, 16], maps=True).total
    searched = 2 * 64 * 7 * 24  # done by no one here: the score reads a channel
    assert found.flops == searched + counted_flops(lambda: found.run(unseen[:1]))
    assert route_pass(vit, stages, None, "").flops == route_flops(vit, stages, [16, 16]).total
    for bad in (Stage(1, first_channel, threshold=0.0, n_compared=0), Stage(1, first_channel, k=[3, 4], n_compared=0)):
        with pytest.raises(CovtokenError, match="another number of tokens in each picture"):
            route_pass(vit, [bad], None, "")
    with pytest.raises(CovtokenError, match="expected 0 … 64"):
        route_pass(vit, [Stage(1, first_channel, k=65, n_compared=0)], None, "")


def test_stopping_early_shows_what_scikit_learns_ridges_predict(vit, bank, unseen):
    found = stop_early_pass(vit, bank, 2, batch=3)
    assert found.flops == counted_flops(lambda: found.run(unseen[:1]))
    seen, output = images_of(vit, bank), found.run(unseen)
    stopped, full = (vit.extract(images, [2, "norm"]) for images in (seen, unseen))
    for given, targets, mapped in (
        (stopped.tokens, full.tokens, output.tokens),
        (stopped.prefix, full.prefix, output.prefix),
    ):
        oracle = ridge(given[2], given["norm"])
        expected = oracle.predict(targets[2].flatten(0, 1).double().numpy()).reshape(mapped.shape)
        np.testing.assert_allclose(mapped, expected, rtol=1e-3, atol=1e-3)
        assert error(mapped, targets["norm"]) < 0.7 * error(vit.model.norm(targets[2]), targets["norm"])


def ridge(x, y):
    x, y = x.flatten(0, 1).double().numpy(), y.flatten(0, 1).double().numpy()
    return Ridge(alpha=RIDGE * ((x - x.mean(0)) ** 2).sum() / x.shape[1], solver="cholesky").fit(x, y)


def test_a_model_without_prefix_stops_early(bank):
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0, "class_token": False}
    vit = FrozenViT(
        VisionTransformer(32, 8, global_pool="avg", fc_norm=False, **options), "bare", 32, "", (0.5,) * 3, (0.5,) * 3
    )
    assert stop_early_pass(vit, bank, 1).run(images_of(vit, bank[:2])).prefix.shape == (2, 0, 24)


def test_the_block_to_stop_at(vit):
    costs = [2 * 64 * 48 * 24 + block * (2 * 66 * 12 * 24**2 + 4 * 66**2 * 24) + 2 * 66 * 24**2 for block in (1, 2, 3)]
    for block, cost in enumerate(costs, start=1):
        assert stop_early_block_for(vit, cost) == block
    assert stop_early_block_for(vit, costs[1] - 1) == 1 and stop_early_block_for(vit, 10**12) == 3
    with pytest.raises(CovtokenError, match="out of reach of narrow"):
        stop_early_block_for(vit, costs[0] - 1)
    for block in (0, 4):
        with pytest.raises(CovtokenError, match="block"):
            stop_early_pass(vit, cases(0, 2), block)


def every_plan(n_blocks, n_tokens, protected_from=None):
    """Every kind of schedule for every number of clusters that it reaches, most clusters first."""

    def halved(blocks, n):
        planned, left = [], n_tokens
        for _ in range(blocks):
            planned.append(min(-(-left // 2), left - n))
            left -= planned[-1]
        return None if left > n else tuple(planned)

    def even(blocks, n):
        return None if halved(blocks, n) is None else schedule(n_tokens, n, blocks)

    counts = range(n_tokens, 0, -1)
    kinds = [] if protected_from else [[even(n_blocks, n) for n in counts]]
    for start in [protected_from] if protected_from else range(1, n_blocks):
        for plan in (even, halved):
            inner = [plan(n_blocks - start, n) for n in counts]
            kinds.append([p and (0,) * (start - 1) + p + (0,) for p in inner])
    return [[planned for planned in kind if planned] for kind in kinds]


@pytest.mark.parametrize("share", [0.35, 0.5, 0.75, 0.97, 1.0])
@pytest.mark.parametrize("guarded", [False, True])
def test_schedules_come_nearest_to_the_budget(vit, protect, share, guarded):
    flops = int(share * plain_pass(vit).flops)
    protect = protect if guarded else None
    expected = set()
    for kind in every_plan(4, 64 - 9, 1) if guarded else every_plan(4, 64):
        costs = [merging_flops(vit, planned, protect) for planned in kind]
        expected.update(next(([p] for p, cost in zip(kind, costs, strict=True) if cost <= flops), []))
    if not expected:
        with pytest.raises(CovtokenError, match="raise the budget"):
            schedules_for(vit, flops, protect)
        return
    found = schedules_for(vit, flops, protect)
    assert set(found.values()) == expected and len(found) == len(expected)
    assert all(merging_flops(vit, planned, protect) <= flops for planned in found.values())
    assert share < 1 or list(found.values()) == [(0, 0, 0, 0)]


def test_names_of_schedules(vit):
    found = schedules_for(vit, int(0.8 * plain_pass(vit).flops))
    start = found["from 2"], found["at once after 1"], found["equal"]
    assert start[0][0] == start[0][3] == 0 < start[0][1] and start[0][1] - start[0][2] in (0, 1)
    assert start[1][0] == sum(start[1]) and start[2][3] > 0
    assert at_once(64, 10, 3) == (32, 16, 6) and at_once(64, 60, 2) == (4, 0)
    with pytest.raises(CovtokenError, match="out of reach of 2 blocks and 64"):
        at_once(64, 15, 2)


@pytest.mark.parametrize("planned", [(20, 0, 10, 0), (0, 32, 16, 8), (9, 9, 9, 9)])
def test_flops_of_merging_are_those_of_torchs_counter(vit, bank, unseen, planned):
    found = merging_pass(vit, bank[:3], planned)
    assert found.flops == counted_flops(lambda: found.run(unseen[:1]))


def test_flops_of_protected_merging(vit, bank, unseen, protect):
    found = merging_pass(vit, bank[:3], (20, 0, 10, 0), protect)
    assert found.flops == pytest.approx(counted_flops(lambda: found.run(unseen[:1])), abs=2 * 64 * 24)
    assert found.flops != merging_flops(vit, (20, 0, 10, 0))


def test_merging_nothing_is_the_plain_pass(vit, bank, unseen):
    nothing, plain = merging_pass(vit, bank, (0, 0, 0, 0)), plain_pass(vit)
    found, full = nothing.run(unseen), plain.run(unseen)
    torch.testing.assert_close(found.tokens, full.tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.prefix, full.prefix, rtol=1e-5, atol=1e-5)
    assert nothing.flops == plain.flops
    tuned = tuned_merging(vit, bank, plain.flops)
    torch.testing.assert_close(tuned.best.run(unseen).tokens, full.tokens, rtol=1e-5, atol=1e-5)
    assert [(one.name, one.error) for one in tuned.tried] == [("equal", 0.0)]


def test_an_equal_schedule_is_merging_as_before(vit, unseen):
    one, other = merge_planned(vit, unseen, schedule(64, 20, 4)), merge_through(vit, unseen, 20)
    assert torch.equal(one.cluster, other.cluster) and torch.equal(one.tokens, other.tokens)


def test_merging_shows_what_scikit_learns_ridge_predicts(vit, bank, unseen):
    planned = (0, 32, 16, 0)
    found = merging_pass(vit, bank, planned, batch=3)

    def reads(images):
        merged = merge_planned(vit, images, planned)
        normed = vit.model.norm(merged.tokens)
        own = torch.stack([tokens[cluster] for tokens, cluster in zip(normed, merged.cluster, strict=True)])
        return own, torch.cat([own, vit.extract(images, [2]).tokens[2]], dim=-1)

    seen = images_of(vit, bank)
    oracle = ridge(reads(seen)[1], plain_pass(vit).run(seen).tokens)
    raw, both = reads(unseen)
    output, full = found.run(unseen), plain_pass(vit).run(unseen)
    expected = oracle.predict(both.flatten(0, 1).double().numpy()).reshape(8, 64, 24)
    np.testing.assert_allclose(output.tokens, expected, rtol=1e-3, atol=1e-3)
    assert error(output.tokens, full.tokens) < 0.8 * error(raw, full.tokens)
    merged = merge_planned(vit, unseen, planned)
    torch.testing.assert_close(output.prefix, vit.model.norm(merged.prefix))


def test_protected_tokens_never_merge(vit, unseen, protect):
    planned = (27, 14, 7, 0)  # all of A, three times
    merged = merge_planned(vit, unseen, [28, 13, 7, 0], protect)
    scores = protect.scores(vit.extract(unseen, [1]).tokens[1], 8, 8)
    free = merge_planned(vit, unseen, planned)
    for picture, cluster, unguarded in zip(scores, merged.cluster, free.cluster, strict=True):
        best = np.argsort(-picture, kind="stable")[:9]
        sizes = cluster.bincount(minlength=64 - 48)
        assert (sizes[cluster[best]] == 1).all() and sizes.sum() == 64 and (sizes > 0).all()
        assert (unguarded.bincount()[unguarded[best]] > 1).any()
    assert merged.tokens.shape == (8, 16, 24)
    with pytest.raises(CovtokenError, match="expected 0 … 28, half of 55"):
        merge_planned(vit, unseen, (29, 0, 0, 0), protect)


def test_protected_merging_by_hand(vit, unseen, protect):
    image = unseen[:1]
    held = []
    handle = vit.model.blocks[0].attn.k_norm.register_forward_hook(lambda module, args, out: held.append(out))
    stream = vit.run(*vit.embed(image), 1, 1)
    handle.remove()
    best = np.argsort(-protect.scores(stream[:, 2:], 8, 8)[0], kind="stable")[:9]
    rest = [i for i in range(64) if i not in best]
    into = match(held[0].mean(dim=1)[:, 2:][:, rest], 20)[0]
    groups = [[i] for i in sorted(best)] + [[rest[j] for j in (into == g).nonzero()[:, 0]] for g in range(35)]
    means = torch.stack([stream[0, 2:][group].mean(dim=0) for group in groups])
    sizes = torch.tensor([1.0, 1.0, *map(len, groups)])
    stream = torch.cat([stream[0, :2], means])[None]
    stream = vit.run(stream, None, 2, 4, attn_mask=sizes.log()[None, None, None])
    merged = merge_planned(vit, image, (20, 0, 0, 0), protect)
    torch.testing.assert_close(merged.tokens, stream[:, 2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged.prefix, stream[:, :2], rtol=1e-4, atol=1e-4)
    for place, group in enumerate(groups):
        assert (merged.cluster[0] == place).nonzero()[:, 0].tolist() == group


@pytest.mark.parametrize("guarded", [False, True])
def test_the_tuned_schedule_is_the_best_of_its_table(vit, unseen, protect, guarded):
    bank, protect, plain = cases(0, 17), protect if guarded else None, plain_pass(vit)
    flops = int(0.8 * plain.flops)
    tuned = tuned_merging(vit, bank, flops, protect, batch=4)
    apart = [case for i, case in enumerate(bank) if i in (4, 9, 14)]
    others = [case for case in bank if case not in apart]
    judged = images_of(vit, apart)
    for one in tuned.tried:
        alone = merging_pass(vit, others, one.planned, protect)
        assert one.flops == alone.flops <= flops
        assert one.error == pytest.approx(error(alone.run(judged).tokens, plain.run(judged).tokens), rel=1e-3)
    errors = [one.error for one in tuned.tried]
    assert len(set(errors)) == len(errors) == (2 if guarded else 5)
    best = tuned.tried[int(np.argmin(errors))]
    again = merging_pass(vit, bank, best.planned, protect).run(unseen)  # fitted on all of the bank
    torch.testing.assert_close(tuned.best.run(unseen).tokens, again.tokens, rtol=1e-4, atol=1e-4)
    assert tuned.best.flops == best.flops
    assert tuned.best.name == ("merging, 9 protected, " if guarded else "merging, ") + best.name
    assert [one.name for one in tuned.tried] == list(schedules_for(vit, flops, protect))


def test_a_mask_among_the_banks_pictures_is_a_leak(vit, tmp_path):
    path = tmp_path / "mask.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (48, 48)).astype(np.float32))
    leaky = [*cases(0, 5), Case("mask", "unit", "ultrasound", lambda: np.load(path))]
    register_mask_files([path])
    for make in (
        lambda: stop_early_pass(vit, leaky, 2),
        lambda: merging_pass(vit, leaky, (9, 0, 0, 0)),
        lambda: tuned_merging(vit, leaky, 10**6 * 3),
    ):
        with pytest.raises(LabelLeak, match="mask file"):
            make()


def test_refusals(vit, bank, protect):
    rotary = load_backbone("random:vit_small_patch16_dinov3", 32)
    for make in (
        lambda: schedules_for(rotary, 10**12),
        lambda: merging_pass(rotary, bank, (1,) * 12),
        lambda: tuned_merging(rotary, bank, 10**12),
    ):
        with pytest.raises(CovtokenError, match="rotary"):
            make()
    flops = plain_pass(vit).flops
    with pytest.raises(CovtokenError, match="no merging of narrow costs at most"):
        tuned_merging(vit, bank, flops // 5)
    with pytest.raises(CovtokenError, match="more than the budget"):
        tuned_merging(vit, bank, flops // 2, schedules={"mine": (1, 0, 0, 0)})
    with pytest.raises(CovtokenError, match="4 pictures"):
        tuned_merging(vit, bank[:4], flops // 2)
    with pytest.raises(CovtokenError, match="no cases"):
        stop_early_pass(vit, [], 1)
    with pytest.raises(CovtokenError, match="3 numbers of merged tokens"):
        merging_pass(vit, bank, (1, 0, 0))
    with pytest.raises(CovtokenError, match="merging starts after block 2, but protects by a score at block 1"):
        merging_pass(vit, bank, (0, 1, 0, 0), protect)
    with pytest.raises(CovtokenError, match="all 64 tokens are protected"):
        schedules_for(vit, flops, Stage(1, first_channel, k=64))
