"""FLOPs in closed form against PyTorch's own counter and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.economy.exit_maps import AffineMap, ExitMaps
from covtoken.economy.flops import (
    counted_flops,
    macs,
    matching_flops,
    prune_flops,
    route_flops,
    search_flops,
    vit_flops,
)
from covtoken.economy.merging import merge_through
from covtoken.economy.routing import route_through
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError


def shapes_only(name, picture_size):
    """A random backbone without its weights: shapes are all that counting reads."""
    with torch.device("meta"):
        model = timm.create_model(name, img_size=picture_size, num_classes=0)
    return FrozenViT(model, name, picture_size, "", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("random:vit_tiny_patch16_224", 96)


# Plain; registers and layer scale; Eva with RoPE; a packed SwiGLU on a narrow ViT.
@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "packed SwiGLU"],
)
def test_equals_the_counter_of_torch(name):
    if name == "packed SwiGLU":
        options = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, "mlp_layer": SwiGLUPacked}
        vit = FrozenViT(VisionTransformer(64, 16, **options), name, 64, "", (0.5,) * 3, (0.5,) * 3)
    else:
        vit = load_backbone(f"random:{name}", {14: 112, 16: 96}[14 if "14" in name else 16])
    image = torch.zeros(1, 3, vit.picture_size, vit.picture_size)
    n = vit.rows * vit.cols + vit.model.num_prefix_tokens
    theirs = counted_flops(lambda: vit.model.forward_features(image))
    assert vit_flops(vit, [n] * vit.n_blocks) == pytest.approx(theirs, rel=0.01)


def test_pruned_equals_the_counter_of_torch(tiny):
    block, kept = 4, 9
    image = torch.zeros(1, 3, 96, 96)
    model = tiny.model

    def run():
        stream = model.norm_pre(model._pos_embed(model.patch_embed(image)))
        for i, layer in enumerate(model.blocks):
            stream = layer(stream if i < block else stream[:, : 1 + kept])

    assert prune_flops(tiny, block, kept) == pytest.approx(counted_flops(run), rel=0.01)


def test_merged_equals_the_counter_of_torch(tiny):
    image, held = torch.zeros(1, 3, 96, 96), []
    theirs = counted_flops(lambda: held.append(merge_through(tiny, image, 12)))
    counts = held[0].counts
    ours = vit_flops(tiny, counts) + matching_flops(counts, head_dim=64, n_prefix=1)
    assert ours == pytest.approx(theirs, rel=0.01)
    assert ours < vit_flops(tiny, [37] * 12)


def first_channel(tokens):
    return tokens[..., 0]


first_channel.reads_neighbours = False


def some_maps(vit, stages):
    """Exit maps of a route as ``ExitMaps.of`` makes them, but of random numbers."""
    shapes = [(vit.dim, vit.dim)] * len(stages) + [(2 * vit.dim, vit.dim)]
    maps = [AffineMap(torch.randn(shape) / 10, torch.randn(vit.dim)) for shape in shapes]
    header = {"weights_sha256": vit.weights_sha256, "backbone": vit.name, "preprocessing": vit.preprocessing}
    return ExitMaps(tuple(maps[:-1]), maps[-1], header | {"blocks": [stage.block for stage in stages]})


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
@pytest.mark.parametrize("with_maps", [False, True])
def test_a_route_of_two_stages_equals_the_counter_of_torch(name, with_maps):
    torch.manual_seed(0)
    size = 56 if "14" in name else 64
    model = timm.create_model(name, img_size=size, embed_dim=48, depth=5, num_heads=3, num_classes=0)
    vit = FrozenViT(model, name, size, "", (0.5,) * 3, (0.5,) * 3)
    stages = [Stage(b, first_channel, k=k, n_compared=0) for b, k in ((1, 9), (3, 4))]
    maps = some_maps(vit, stages) if with_maps else None
    image, held = torch.zeros(1, 3, size, size), []
    theirs = counted_flops(lambda: held.append(route_through(vit, image, stages, maps)))
    ours = route_flops(vit, stages, held[0].counts(stages)[0], maps=with_maps)
    assert ours.total == theirs == ours.blocks + ours.maps
    assert (ours.maps > 0) == with_maps and macs(theirs) == theirs / 2
    assert ours.plain == counted_flops(lambda: model.forward_features(image))
    assert route_flops(vit, stages, [16, 16], maps=True).maps == 0  # nothing dropped, nothing corrected


def test_one_stage_is_pruning(tiny):
    stage = Stage(4, first_channel, k=9, n_compared=0)
    assert route_flops(tiny, [stage], [9]).total == prune_flops(tiny, 4, 9)
    assert route_flops(tiny, [], []).total == route_flops(tiny, [], []).plain == vit_flops(tiny, [37] * 12)


# From book/method.md: speed-up of 25 % of the tokens, by model, picture, block and what each token is compared with.
SMALL, BASE, BASE16 = "vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_base_patch16_224"


@pytest.mark.parametrize(
    "name, size, block, n_compared, speedup",
    [
        (BASE16, 224, 6, 0, 1.60),
        (BASE, 518, 6, 0, 1.65),
        (SMALL, 224, 6, 0, 1.61),
        (SMALL, 518, 6, 0, 1.69),
        (SMALL, 224, 4, 0, 2.02),
        (SMALL, 518, 4, 0, 2.19),
        (SMALL, 224, 6, 12_000, 1.23),
        (SMALL, 224, 6, 1_000, 1.57),
        (SMALL, 224, 6, 1, 1.61),
    ],
)
def test_a_quarter_of_the_tokens(name, size, block, n_compared, speedup):
    vit = shapes_only(name, size)
    kept = math.ceil(vit.rows * vit.cols / 4)
    stage = Stage(block, first_channel, ratio=0.25, n_compared=n_compared)
    found = route_flops(vit, [stage], [kept])
    assert found.speedup == pytest.approx(speedup, abs=0.005)
    assert found.scores == search_flops(vit.rows * vit.cols, n_compared, vit.dim)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 1 / 3, 0.5])
@pytest.mark.parametrize("size", [224, 518])
def test_exit_maps_cost_under_one_per_cent_of_a_pass(ratio, size):
    vit = shapes_only(SMALL, size)
    kept = math.ceil(vit.rows * vit.cols * ratio)
    found = route_flops(vit, [Stage(3, first_channel, ratio=ratio, n_compared=1)], [kept], maps=True)
    assert 0 < found.maps < 0.01 * found.plain
    assert 0 < found.scores < 1e-4 * found.plain  # a dot product a token


def test_no_search_goes_uncounted(tiny):
    with pytest.raises(CovtokenError, match="does not say what it costs: give the stage n_compared"):
        route_flops(tiny, [Stage(4, first_channel, k=9)], [9])
    with pytest.raises(CovtokenError, match="n_compared"):
        route_flops(tiny, [Stage(4, first_channel, k=9, n_compared=-1)], [9])
    searched, free = (route_flops(tiny, [Stage(4, first_channel, k=9, n_compared=n)], [9]) for n in (5_000, 0))
    assert searched.total - free.total == searched.scores == 2 * 36 * 5_000 * 192
    assert searched.speedup < free.speedup


def test_by_hand(tiny):
    # ViT-Ti/16: D = 192, MLP 768, 12 blocks, 36 patches and CLS; per token 12 D² weights.
    block = 2 * 37 * 12 * 192**2 + 2 * 2 * 37**2 * 192
    embedding = 2 * 36 * (3 * 16 * 16) * 192
    assert vit_flops(tiny, [37] * 12) == embedding + 12 * block
    assert prune_flops(tiny, 12, 5) == prune_flops(tiny, 1, 36) == embedding + 12 * block
    assert prune_flops(tiny, 6, 0) == embedding + 6 * block + 6 * (2 * 12 * 192**2 + 4 * 192)


def test_matching_by_hand():
    assert matching_flops([5, 4, 2], head_dim=8, n_prefix=1) == 2 * 8 * (2 * 2 + 2 * 1 + 1 * 0)
    assert matching_flops([], head_dim=8, n_prefix=1) == 0


def test_search_by_hand():
    assert search_flops(256, 20_000, 384) == 2 * 256 * 20_000 * 384


def test_refusals(tiny):
    for bad, words in [([37] * 11, "12 blocks"), ([37] * 11 + [-1], "block 12"), ([37.0] * 12, "whole number")]:
        with pytest.raises(CovtokenError, match=words):
            vit_flops(tiny, bad)
    for block, kept in [(0, 9), (13, 9), ("norm", 9), (6, 37), (6, -1), (6, 9.5)]:
        with pytest.raises(CovtokenError):
            prune_flops(tiny, block, kept)
    with pytest.raises(CovtokenError, match="prefix"):
        matching_flops([5, 1], head_dim=8, n_prefix=2)
    with pytest.raises(CovtokenError, match="n_bank"):
        search_flops(4, -1, 8)
    stages = [Stage(b, first_channel, ratio=0.5, n_compared=0) for b in (2, 4)]
    for counts in ([9, 10], [37, 9]):
        with pytest.raises(CovtokenError, match="none larger than the one before"):
            route_flops(tiny, stages, counts)


def test_unknown_blocks_are_refused():
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, "block_fn": ParallelScalingBlock}
    vit = FrozenViT(VisionTransformer(64, 16, **options), "parallel", 64, "", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(CovtokenError, match="ParallelScalingBlock"):
        vit_flops(vit, [17, 17])


def test_unknown_layers_are_refused():
    options = {"embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 0}
    vit = FrozenViT(VisionTransformer(64, 16, **options), "odd", 64, "", (0.5,) * 3, (0.5,) * 3)
    vit.model.blocks[0].mlp = torch.nn.Conv2d(48, 48, 1)
    with pytest.raises(CovtokenError, match="Conv2d"):
        vit_flops(vit, [17])
