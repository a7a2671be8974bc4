"""FrozenViT against timm's own forward passes and against attention computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.errors import CovtokenError

# Plain; registers with learned positions; Eva with RoPE and four registers (DINOv3); RoPE that differs by block.
MODELS = {
    "random:vit_tiny_patch16_224": 64,
    "random:vit_small_patch14_reg4_dinov2": 56,
    "random:vit_small_patch16_dinov3": 64,
    "random:vit_small_patch16_rope_mixed_ape_224": 64,
    "query and key norm": 64,
}


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name.removeprefix("random:"))
def vit(request):
    if request.param == "query and key norm":
        torch.manual_seed(0)
        model = VisionTransformer(64, 16, embed_dim=48, depth=4, num_heads=3, num_classes=0, qk_norm=True)
        return FrozenViT(model, request.param, 64, "", (0.5,) * 3, (0.5,) * 3)
    return load_backbone(request.param, MODELS[request.param])


@pytest.fixture(scope="module")
def plain():
    return load_backbone("random:vit_tiny_patch16_224", 64)


def pictures(vit, n=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, vit.picture_size, vit.picture_size, generator=generator)


def test_tokens_equal_timm(vit):
    images = pictures(vit)
    ours = vit.extract(images, [2, vit.n_blocks, "norm"])
    final, streams = vit.model.forward_intermediates(images, indices=[1, vit.n_blocks - 1], output_fmt="NLC")
    prefix = vit.model.num_prefix_tokens
    torch.testing.assert_close(ours.tokens[2], streams[0])
    torch.testing.assert_close(ours.tokens[vit.n_blocks], streams[1])
    torch.testing.assert_close(ours.tokens["norm"], vit.model.forward_features(images)[:, prefix:])
    torch.testing.assert_close(ours.tokens["norm"], final[:, prefix:])
    assert ours.tokens[2].shape == (3, vit.rows * vit.cols, vit.dim)
    assert list(ours.tokens) == [2, vit.n_blocks, "norm"]


def test_prefix_equals_timm_and_holds_no_patches(vit):
    images = pictures(vit)
    ours = vit.extract(images, ["norm", 2]).prefix
    prefix = vit.model.num_prefix_tokens
    torch.testing.assert_close(ours["norm"], vit.model.forward_features(images)[:, :prefix])
    streams = vit.model.forward_intermediates(
        images, indices=[1], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )
    torch.testing.assert_close(ours[2], streams[0][1])
    assert list(ours) == ["norm", 2] and ours[2].shape == (3, vit.n_prefix, vit.dim)
    assert ours[2].untyped_storage().nbytes() == ours[2].numel() * 4  # no view that keeps the whole stream alive


def test_blocks_run_in_pieces_equal_one_pass(vit):
    images = pictures(vit)
    stream, rope = vit.embed(images)
    for first, last in ((1, 2), (3, 2), (3, vit.n_blocks)):  # the second pair runs nothing
        stream = vit.run(stream, rope, first, last)
    torch.testing.assert_close(vit.model.norm(stream), vit.model.forward_features(images))


def test_attention_equals_the_unfused_softmax(vit):
    images, block = pictures(vit), 3
    ours = vit.extract(images, [], attention=[block, 1]).attention[block]
    attn = vit.model.blocks[block - 1].attn
    seen = []
    hook = attn.attn_drop.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    fused, attn.fused_attn = attn.fused_attn, False
    try:
        with torch.no_grad():
            vit.model.forward_features(images)
    finally:
        attn.fused_attn = fused
        hook.remove()
    patches = seen[0][:, :, 0, vit.model.num_prefix_tokens :]
    naive = (patches / patches.sum(dim=-1, keepdim=True)).mean(dim=1)  # softmax over the patch keys, head by head
    torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(ours.sum(dim=1), torch.ones(len(ours)))


def test_hooks_leave_the_model_unchanged(plain):
    images = pictures(plain)
    before = plain.extract(images, [4]).tokens[4]
    with_attention = plain.extract(images, [4], attention=[2, 4]).tokens[4]
    assert torch.equal(before, with_attention)
    assert not any(module._forward_hooks for module in plain.model.modules())


def test_stops_after_the_deepest_block(plain):
    ran = []
    hooks = [
        block.register_forward_hook(lambda module, args, out, i=i: ran.append(i))
        for i, block in enumerate(plain.model.blocks, start=1)
    ]
    plain.extract(pictures(plain), [2], attention=[5])
    for hook in hooks:
        hook.remove()
    assert ran == [1, 2, 3, 4, 5]


def test_batch_size_changes_nothing(plain):
    images = pictures(plain, n=5)
    whole = plain.extract(images, [12], attention=[12])
    for i in range(5):
        single = plain.extract(images[i : i + 1], [12], attention=[12])
        torch.testing.assert_close(single.tokens[12][0], whole.tokens[12][i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(single.attention[12][0], whole.attention[12][i], rtol=1e-4, atol=1e-6)
    assert torch.equal(plain.extract(images, [12]).tokens[12], whole.tokens[12])


def test_bf16_is_close_and_comes_back_as_float32(plain):
    images = pictures(plain)
    full = plain.extract(images, [6], attention=[6])
    half = plain.extract(images, [6], attention=[6], precision="bf16")
    assert half.tokens[6].dtype == half.attention[6].dtype == torch.float32
    error = (half.tokens[6] - full.tokens[6]).norm() / full.tokens[6].norm()
    assert 0 < error < 0.02
    torch.testing.assert_close(half.attention[6], full.attention[6], rtol=0.05, atol=1e-4)


def test_prepare_squashes_clips_and_normalises(plain):
    stripes = np.zeros((50, 90), dtype=np.float32)
    stripes[:, 45:] = 1
    image = plain.prepare(stripes)
    assert image.shape == (3, 64, 64)
    back = image * torch.tensor(plain.std).view(3, 1, 1) + torch.tensor(plain.mean).view(3, 1, 1)
    assert torch.allclose(back[0], back[2], atol=1e-6)
    assert back.min() >= -1e-6 and back.max() <= 1 + 1e-6  # bicubic alone overshoots at the step
    assert torch.allclose(back[0][:, :28], torch.zeros(64, 28), atol=1e-6)
    assert torch.allclose(back[0][:, 36:], torch.ones(64, 28), atol=1e-6)


@pytest.mark.parametrize("pixels", [np.full((8, 8), 255.0), np.full((8, 8), np.nan), np.zeros((8, 8, 3))])
def test_prepare_refuses(plain, pixels):
    with pytest.raises(CovtokenError, match="0…1"):
        plain.prepare(pixels)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"blocks": [13]}, r"block 13 is out of range: random:vit_tiny_patch16_224 has blocks 1…12 or 'norm'"),
        ({"blocks": [0]}, "block 0 is out of range"),
        ({"blocks": ["final"]}, "block 'final' is out of range"),
        ({"blocks": [1], "attention": ["norm"]}, "block 'norm' is out of range"),
        ({"blocks": [1], "saliency": True}, "no saliency head"),
        ({"blocks": [1], "precision": "fp16"}, "expected one of fp32, bf16"),
        ({"blocks": []}, "nothing to extract"),
        ({"blocks": "norm"}, r"blocks: expected a list of blocks, such as \[6, 'norm'\], got 'norm'"),
        ({"blocks": 6}, "blocks: expected a list of blocks.* got 6"),
        ({"blocks": None}, "blocks: expected a list of blocks.* got None"),
        ({"blocks": [1], "attention": 6}, "attention: expected a list of blocks.* got 6"),
        ({"blocks": [[1]]}, r"block \[1\] is out of range"),
        ({"blocks": [True]}, "block True is out of range"),
    ],
)
def test_extract_refuses(plain, request_, message):
    with pytest.raises(CovtokenError, match=message):
        plain.extract(pictures(plain, 1), **request_)


def test_extract_refuses_other_shapes(plain):
    with pytest.raises(CovtokenError, match=r"expected \[N, 3, 64, 64\], got \[1, 3, 32, 64\]"):
        plain.extract(torch.zeros(1, 3, 32, 64), [1])
    with pytest.raises(CovtokenError, match=r"expected \[N, 3, 64, 64\], got list"):
        plain.extract([torch.zeros(3, 64, 64)], [1])


def test_blocks_may_be_any_iterable_of_whole_numbers(plain):
    images = pictures(plain, 1)
    expected = plain.extract(images, [2, 5]).tokens
    for blocks in (np.array([2, 5]), iter((2, 5, 2)), {2: None, 5: None}):
        found = plain.extract(images, blocks).tokens
        assert list(found) == [2, 5] and torch.equal(found[5], expected[5])


def test_attention_needs_a_cls_token():
    vit = load_backbone("random:vit_base_patch16_siglip_224", 32)
    with pytest.raises(CovtokenError, match="no CLS token"):
        vit.extract(pictures(vit, 1), [1], attention=[1])
    assert vit.extract(pictures(vit, 1), [1]).tokens[1].shape == (1, 4, 768)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        *((size, "expected a whole number of pixels, such as 224") for size in ("224", 224.0, np.nan, True, 1e6, None)),
        (1_000_000, "3906250000 tokens, .* at most 16384, 2048 px"),
    ],
)
def test_sizes_that_cannot_be_served(size, message):
    with torch.device("meta"):
        model = VisionTransformer(224, 16, embed_dim=48, depth=1, num_heads=3, num_classes=0)
    with pytest.raises(CovtokenError, match=f"picture size {size!r} .*{message}"):
        FrozenViT(model, "meta", size, "", (0.5,) * 3, (0.5,) * 3)


def test_no_plain_vit_is_refused():
    with pytest.raises(CovtokenError, match="Linear"):
        FrozenViT(torch.nn.Linear(2, 2), "linear", 32, "", (0.5,) * 3, (0.5,) * 3)
