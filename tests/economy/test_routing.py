"""Routes against the plain pass, against a loop over pictures and against a pass that hides what a route drops."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_vit import lively
from timm.models.vision_transformer import VisionTransformer

from covtoken.backbone.vit import FrozenViT
from covtoken.bank.pooling import pool3x3, smooth
from covtoken.data.case import Case
from covtoken.data.intensity import to_input
from covtoken.economy import routing
from covtoken.economy.keep import budget, kept_tokens
from covtoken.economy.route_check import check_route, route_error
from covtoken.economy.routing import route_cases, route_through
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError
from covtoken.leak_guard import under_construction
from covtoken.subspace.direction import Direction

# Learned positions and registers (DINOv2); RoPE and four registers (DINOv3); RoPE that differs by block; no CLS.
MODELS = {
    "vit_small_patch14_reg4_dinov2": 56,
    "vit_small_patch16_dinov3": 64,
    "vit_small_patch16_rope_mixed_ape_224": 64,
    "no prefix": 32,
}


@pytest.fixture(scope="module", params=MODELS)
def vit(request):
    """Models as timm makes them, but for width and depth."""
    size = MODELS[request.param]
    options = {"img_size": size, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 0}
    torch.manual_seed(0)
    if request.param == "no prefix":
        model = VisionTransformer(patch_size=8, class_token=False, global_pool="avg", fc_norm=False, **options)
    else:
        model = timm.create_model(request.param, **options)
    return FrozenViT(lively(model), request.param, size, "", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def narrow():
    """A model of 6 blocks, CLS, two registers and 8 × 8 patches, 24 wide."""
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 6, "num_heads": 3, "num_classes": 0, "reg_tokens": 2, "init_values": 1.0}
    return FrozenViT(lively(VisionTransformer(32, 4, **options)), "narrow", 32, "", (0.5,) * 3, (0.5,) * 3)


def pictures(vit, n=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, vit.picture_size, vit.picture_size, generator=generator)


def first_channel(tokens):
    return tokens[..., 0]


first_channel.reads_neighbours = False


def direction(vit, block, pooled=True, **about):
    generator = torch.Generator().manual_seed(block)
    weight, mean = torch.randn(2, vit.dim, generator=generator, dtype=torch.float64)
    header = {"kind": "direction", "block": block, "pooled": pooled, "backbone": vit.name, "cohort_fingerprint": "bank"}
    header |= {"weights_sha256": vit.weights_sha256, "preprocessing": vit.preprocessing, "content_sha256": "0" * 64}
    return Direction(weight, mean, header | about)


@pytest.mark.parametrize("budgets", [{"ratio": 1.0}, {"threshold": -1e9}])
def test_keeping_all_is_the_plain_pass(vit, budgets):
    images = pictures(vit)
    plain = vit.extract(images, ["norm"])
    found = route_through(vit, images, [Stage(2, first_channel, **budgets), Stage(3, first_channel, ratio=1.0)])
    torch.testing.assert_close(found.tokens, plain.tokens["norm"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.prefix, plain.prefix["norm"], rtol=1e-5, atol=1e-5)
    assert found.kept.all() and (found.exits == vit.n_blocks).all()
    none = route_through(vit, images, [])
    torch.testing.assert_close(none.tokens, plain.tokens["norm"], rtol=1e-5, atol=1e-5)


def test_gathering_all_tokens_in_another_order_is_the_plain_pass(vit):
    """The order of tokens in a sequence is irrelevant, if each takes its rotary row with it."""
    images = pictures(vit)
    stream, rope = vit.embed(images)
    patches, prefix = stream[:, vit.n_prefix :], stream[:, : vit.n_prefix]
    places = torch.stack([torch.randperm(vit.rows * vit.cols) for _ in images])
    group = routing._Group(torch.arange(len(images)), places)
    sequence, rows = routing._gather(patches, prefix, rope, group)
    ran = vit.run(sequence, rows, 1, vit.n_blocks)
    back, prefix = routing._scatter(patches, prefix, [group], [ran])
    plain = vit.extract(images, [vit.n_blocks])
    torch.testing.assert_close(back, plain.tokens[vit.n_blocks], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prefix, plain.prefix[vit.n_blocks], rtol=1e-4, atol=1e-5)


def slow_route(vit, image, block, kept):
    """One picture: the kept tokens and the prefix through the rest, one sequence; rows of RoPE by hand."""
    model, prefix = vit.model, vit.n_prefix
    embedded = model._pos_embed(model.patch_embed(image[None]))
    stream, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
    stream = model.norm_pre(stream)
    chosen = torch.from_numpy(np.flatnonzero(kept))
    for i, layer in enumerate(model.blocks):
        if i == block:
            raw = stream[0, prefix:].clone()
            stream = torch.cat([stream[:, :prefix], stream[:, prefix:][:, chosen]], dim=1)
            rope = rope if rope is None else rope[..., chosen, :]
        mine = rope[i] if rope is not None and rope.ndim > 2 else rope
        stream = layer(stream) if rope is None else layer(stream, rope=mine)
    normed = model.norm(stream)[0]
    out = raw.clone()
    out[chosen] = normed[prefix:]
    return out, normed[:prefix]


def test_mixed_counts_equal_the_loop_over_pictures(vit):
    images = pictures(vit, n=5)
    block, counts = 2, [1, 7, 7, vit.rows * vit.cols, 0 if vit.n_prefix else 2]
    found = route_through(vit, images, [Stage(block, first_channel, k=counts)])
    raw = vit.extract(images, [block]).tokens[block]
    kept = kept_tokens(raw[..., 0].numpy(), k=counts)
    np.testing.assert_array_equal(found.kept.numpy(), kept)
    assert found.counts([Stage(block, first_channel, k=1)]) == [[n] for n in counts]
    for i in range(5):
        with torch.no_grad():
            tokens, prefix = slow_route(vit, images[i], block, kept[i])
        torch.testing.assert_close(found.tokens[i], tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.prefix[i], prefix, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.tokens[~found.kept], raw[~found.kept])  # a dropped token shows its raw value
    torch.testing.assert_close(found.taps[0], raw)


def test_two_stages_pass_the_check_and_planted_defects_do_not(vit, monkeypatch):
    images = pictures(vit)
    stages = [Stage(1, first_channel, ratio=0.6), Stage(3, first_channel, k=[3, 5, 3])]
    assert route_error(vit, images, stages) < 1e-5
    check_route(vit, images, stages)
    gather = routing._gather
    for defect in _defects(vit, gather):
        monkeypatch.setattr(routing, "_gather", defect)
        with pytest.raises(CovtokenError, match="loses CLS or registers, or mixes up"):
            check_route(vit, images, stages)


def _defects(vit, gather):
    def other_rows(patches, prefix, rope, group):
        sequence, rows = gather(patches, prefix, rope, group)
        return sequence, rows if group.places is None else rows.flip(-2)

    def other_tokens(patches, prefix, rope, group):
        sequence, rows = gather(patches, prefix, rope, group)
        return (sequence if group.places is None else sequence.roll(1, dims=0)), rows

    def no_cls(patches, prefix, rope, group):
        return gather(patches, torch.zeros_like(prefix) if group.places is not None else prefix, rope, group)

    yield other_tokens
    if vit.n_prefix:
        yield no_cls
    if vit.embed(pictures(vit))[1] is not None:
        yield other_rows


def test_a_route_without_cls_is_noticed(narrow):
    """CLS is left out of the sequence altogether, and shows the value it had at the tap."""
    stages = [Stage(2, first_channel, ratio=0.25)]

    def without_cls(vit, images, stages):
        found = route_through(vit, images, stages)
        raw = vit.extract(images, [2])
        for i, kept in enumerate(found.kept):
            chosen = torch.cat([raw.prefix[2][i, 1:], raw.tokens[2][i, kept]])[None]
            ran = vit.model.norm(vit.run(chosen, None, 3, vit.n_blocks))[0]
            found.tokens[i, kept] = ran[vit.n_prefix - 1 :]
            found.prefix[i] = torch.cat([vit.model.norm(raw.prefix[2][i, :1]), ran[: vit.n_prefix - 1]])
        return found

    check_route(narrow, pictures(narrow), stages)
    with pytest.raises(CovtokenError, match="loses CLS"):
        check_route(narrow, pictures(narrow), stages, without_cls)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)), ratio=st.floats(0.02, 1.0))
def test_pictures_do_not_see_each_other(narrow, order, ratio):
    images, stages = pictures(narrow, n=4), [Stage(2, first_channel, ratio=ratio)]
    whole = route_through(narrow, images, stages)
    other = route_through(narrow, images[list(order)], stages)
    torch.testing.assert_close(other.tokens, whole.tokens[list(order)], rtol=1e-4, atol=1e-5)
    assert torch.equal(other.kept, whole.kept[list(order)])
    assert (whole.kept.sum(1) == budget(64, ratio)).all()


@settings(max_examples=15, deadline=None)
@given(cut=st.floats(-3, 3), second=st.integers(0, 64), where=st.tuples(st.integers(1, 3), st.integers(4, 5)))
def test_later_stages_only_drop(narrow, cut, second, where):
    images = pictures(narrow)
    stages = [Stage(where[0], first_channel, threshold=cut), Stage(where[1], first_channel, k=second)]
    found = route_through(narrow, images, stages)
    counts = np.array(found.counts(stages))
    first = found.taps[0][..., 0] >= np.float32(cut)
    np.testing.assert_array_equal(counts[:, 0], first.sum(1))
    np.testing.assert_array_equal(counts[:, 1], np.minimum(counts[:, 0], second))
    assert not (found.kept & ~first).any()
    torch.testing.assert_close(found.tokens[~first], found.taps[0][~first])  # their last value is that of their tap
    assert route_error(narrow, images, stages) < 1e-5


def test_a_direction_scores_pooled_tokens_at_one_dot_product(narrow):
    tokens = narrow.extract(pictures(narrow), [2]).tokens[2]
    found = direction(narrow, 2)
    expected = found.score(pool3x3(tokens, 8, 8)).numpy()
    np.testing.assert_allclose(Stage(2, found, ratio=0.5).scores(tokens, 8, 8), expected, rtol=1e-4, atol=1e-4)
    smoothed = Stage(2, found, ratio=0.5, sigma=0.5).scores(tokens, 8, 8)
    np.testing.assert_allclose(smoothed, smooth(expected, 8, 8, 0.5), rtol=1e-4, atol=1e-4)
    alone = direction(narrow, 2, pooled=False)
    np.testing.assert_allclose(Stage(2, alone, ratio=0.5).scores(tokens, 8, 8), alone.score(tokens).numpy(), rtol=1e-5)


def test_stale_neighbours_are_refused_or_read_by_name(narrow):
    images, first = pictures(narrow), Stage(2, first_channel, ratio=0.5)
    for late in (
        Stage(4, direction(narrow, 4), ratio=0.25),
        Stage(4, first_channel, ratio=0.25, sigma=0.5),
        Stage(4, lambda tokens: tokens[..., 1], ratio=0.25),  # nobody knows what it looks at
    ):
        with pytest.raises(CovtokenError, match="dropped after block 2 and are stale"):
            route_through(narrow, images, [first, late])
        with pytest.raises(CovtokenError, match="stale"):
            route_through(narrow, images, [Stage(1, first_channel, ratio=1.0), late])
    route_through(narrow, images, [first, Stage(4, direction(narrow, 4, pooled=False), ratio=0.25)])
    late = Stage(4, direction(narrow, 4), ratio=0.25, dropped_neighbours="last")
    found = route_through(narrow, images, [first, late])
    gone = found.exits == 2
    torch.testing.assert_close(found.taps[1][gone], found.taps[0][gone])  # what a neighbour reads there
    scores = late.score.score(pool3x3(found.taps[1], 8, 8)).masked_fill(gone, float("-inf")).numpy()
    np.testing.assert_array_equal(found.kept.numpy(), kept_tokens(scores, ratio=0.25))
    torch.testing.assert_close(found.tokens[gone], found.taps[0][gone])


def test_bf16_is_close_and_comes_back_as_float32(narrow):
    images, stages = pictures(narrow), [Stage(2, first_channel, ratio=0.25)]
    full, half = (route_through(narrow, images, stages, precision=p) for p in ("fp32", "bf16"))
    assert half.tokens.dtype == half.prefix.dtype == torch.float32
    both = full.kept & half.kept
    assert 0 < (half.tokens[both] - full.tokens[both]).norm() / full.tokens[both].norm() < 0.03


def test_the_model_is_left_as_it_was(narrow):
    before = {name: value.clone() for name, value in narrow.model.state_dict().items()}
    route_through(narrow, pictures(narrow), [Stage(2, first_channel, ratio=0.25)])
    assert all(torch.equal(value, before[name]) for name, value in narrow.model.state_dict().items())
    assert not any(module._forward_hooks for module in narrow.model.modules())


def cases(n):
    def draw(seed):
        assert under_construction()  # no label can be read meanwhile
        return np.random.default_rng(seed).integers(0, 256, size=(40 + seed, 50)).astype(np.float32)

    return [Case(f"case{i}", f"unit{i}", "ultrasound", lambda i=i: draw(i)) for i in range(n)]


def test_route_cases(narrow):
    stages, seen = [Stage(2, first_channel, k=[3, 9, 9, 1, 64])], 0
    for part, routed in route_cases(cases(5), narrow, stages, batch=2):
        assert not under_construction()  # a reader may open labels between batches
        for i, tokens in zip(range(part.start, part.stop), routed.tokens, strict=True):
            pixels = np.random.default_rng(i).integers(0, 256, size=(40 + i, 50)).astype(np.float32)
            image = narrow.prepare(to_input(pixels, cases(5)[i], narrow.input))[None]
            one = route_through(narrow, image, [Stage(2, first_channel, k=stages[0].k[i])])
            torch.testing.assert_close(tokens, one.tokens[0], rtol=1e-4, atol=1e-5)
            seen += 1
    assert seen == 5
    for bad in ({"batch": 0}, {"batch": True}):
        with pytest.raises(CovtokenError, match="at least 1 picture"):
            next(route_cases(cases(1), narrow, stages, **bad))
    with pytest.raises(CovtokenError, match="no cases"):
        next(route_cases([], narrow, stages))


def test_refusals(narrow):
    images = pictures(narrow)

    def refused(match, *stages, **options):
        with pytest.raises(CovtokenError, match=match):
            route_through(narrow, options.pop("images", images), list(stages), **options)

    refused("nothing is left to skip", Stage(6, first_channel, ratio=0.5))
    refused("block 0 is out of range", Stage(0, first_channel, ratio=0.5))
    refused("rising block", Stage(3, first_channel, ratio=0.5), Stage(3, first_channel, ratio=0.2))
    refused("ratio grows from 0.2 to 0.5", Stage(2, first_channel, ratio=0.2), Stage(3, first_channel, ratio=0.5))
    refused("k grows from 4 to 9", Stage(2, first_channel, k=4), Stage(3, first_channel, k=9))
    refused("keep ratio 1.5", Stage(2, first_channel, ratio=1.5))
    refused("k = 65", Stage(2, first_channel, k=65))
    refused("expected a list of Stage", "block 2")
    refused("images", Stage(2, first_channel, ratio=0.5), images=torch.zeros(1, 3, 16, 16))
    refused("precision", Stage(2, first_channel, ratio=0.5), precision="fp16")
    refused("expected .3, 64.", Stage(2, lambda tokens: tokens, ratio=0.5))
    refused("NaN or infinite", Stage(2, lambda tokens: tokens[..., 0] * float("nan"), ratio=0.5))
    refused("block: expected 3, the direction has 2", Stage(3, direction(narrow, 2), ratio=0.5))
    refused("weights_sha256", Stage(2, direction(narrow, 2, weights_sha256="other"), ratio=0.5))
    for budgets in ({}, {"ratio": 0.5, "k": 3}):
        with pytest.raises(CovtokenError, match="exactly one of"):
            Stage(2, first_channel, **budgets)
    with pytest.raises(CovtokenError, match="by a direction or a function"):
        Stage(2, "attention", ratio=0.5)
    with pytest.raises(CovtokenError, match="unknown rule for dropped neighbours"):
        Stage(2, first_channel, ratio=0.5, dropped_neighbours="fresh")
    with pytest.raises(CovtokenError, match="expected a list of Stage"):
        route_through(narrow, images, Stage(2, first_channel, ratio=0.5))
