"""FLOPs in closed form against PyTorch's own counter and against numbers worked out by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.economy.flops import matching_flops, prune_flops, search_flops, vit_flops
from covtoken.economy.merging import merge_through
from covtoken.errors import CovtokenError


def shapes_only(name, picture_size):
    """A random backbone without its weights: shapes are all that counting reads."""
    with torch.device("meta"):
        model = timm.create_model(name, img_size=picture_size, num_classes=0)
    return FrozenViT(model, name, picture_size, "", (0.5,) * 3, (0.5,) * 3)


def counted(run):
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


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
    theirs = counted(lambda: vit.model.forward_features(image))
    assert vit_flops(vit, [n] * vit.n_blocks) == pytest.approx(theirs, rel=0.01)


def test_pruned_equals_the_counter_of_torch(tiny):
    block, kept = 4, 9
    image = torch.zeros(1, 3, 96, 96)
    model = tiny.model

    def run():
        stream = model.norm_pre(model._pos_embed(model.patch_embed(image)))
        for i, layer in enumerate(model.blocks):
            stream = layer(stream if i < block else stream[:, : 1 + kept])

    assert prune_flops(tiny, block, kept) == pytest.approx(counted(run), rel=0.01)


def test_merged_equals_the_counter_of_torch(tiny):
    image, held = torch.zeros(1, 3, 96, 96), []
    theirs = counted(lambda: held.append(merge_through(tiny, image, 12)))
    counts = held[0].counts
    ours = vit_flops(tiny, counts) + matching_flops(counts, head_dim=64, n_prefix=1)
    assert ours == pytest.approx(theirs, rel=0.01)
    assert ours < vit_flops(tiny, [37] * 12)


@pytest.mark.parametrize("name, ratio", [("vit_small_patch14_dinov2", 1.61), ("vit_base_patch16_224", 1.60)])
def test_a_quarter_after_block_6(name, ratio):
    vit = shapes_only(name, 224)
    n = vit.rows * vit.cols
    whole = vit_flops(vit, [n + 1] * 12)
    assert whole / prune_flops(vit, 6, n // 4) == pytest.approx(ratio, abs=0.005)


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
