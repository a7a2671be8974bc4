"""Token merging against slow loops and against the plain forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from covtoken.backbone.vit import FrozenViT
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case
from covtoken.data.intensity import to_input
from covtoken.economy.merging import match, merge, merge_cases, merge_through, most, schedule, survives
from covtoken.errors import CovtokenError
from covtoken.leak_guard import under_construction


@pytest.fixture(scope="module")
def vit():
    return load_backbone("random:vit_tiny_patch16_224", 96)  # 36 patches


@pytest.fixture(scope="module")
def large():
    """A narrow model of 12 blocks with 16 × 16 patches, CLS and two registers."""
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 12, "num_heads": 3, "num_classes": 0, "reg_tokens": 2, "init_values": 1.0}
    return FrozenViT(VisionTransformer(64, 4, **options), "narrow", 64, "", (0.5,) * 3, (0.5,) * 3)


def pictures(vit, n=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, vit.picture_size, vit.picture_size, generator=generator)


def slow_match(keys, r):
    """One picture's keys [N, dim] → where each token goes, by loops."""
    n = len(keys)
    a, b = list(range(0, n, 2)), list(range(1, n, 2))
    proposals = []
    for i in a:
        cosines = [float(np.dot(keys[i], keys[j]) / np.linalg.norm(keys[i]) / np.linalg.norm(keys[j])) for j in b]
        best = max(range(len(b)), key=lambda j: (cosines[j], -j))
        proposals.append((-cosines[best], i, b[best]))
    merged = {i: j for _, i, j in sorted(proposals)[:r]}
    order = [i for i in a if i not in merged] + b
    place = {token: position for position, token in enumerate(order)}
    return [place[merged.get(token, token)] for token in range(n)]


def slow_merge(tokens, sizes, into, n):
    means, summed = [], []
    for group in range(n):
        members = [i for i in range(len(into)) if into[i] == group]
        total = sum(sizes[i] for i in members)
        means.append(sum(sizes[i] * tokens[i] for i in members) / total)
        summed.append(total)
    return np.array(means), np.array(summed)


@pytest.mark.parametrize("n, r", [(2, 1), (7, 0), (7, 1), (7, 4), (12, 5), (12, 6), (13, 7)])
def test_match_and_merge_equal_the_loops(n, r):
    rng = np.random.default_rng(n + r)
    keys, tokens = rng.normal(size=(3, n, 5)), rng.normal(size=(3, n, 4))
    sizes = rng.integers(1, 6, size=(3, n)).astype(float)
    into = match(torch.from_numpy(keys), r)
    means, summed = merge(torch.from_numpy(tokens), torch.from_numpy(sizes), into, n - r)
    for i in range(3):
        if r:
            assert into[i].tolist() == slow_match(keys[i], r)
        assert sorted(set(into[i].tolist())) == list(range(n - r))
        expected = slow_merge(tokens[i], sizes[i], into[i].tolist(), n - r)
        np.testing.assert_allclose(means[i], expected[0], atol=1e-12)
        np.testing.assert_allclose(summed[i], expected[1])


def test_nothing_to_merge_keeps_the_order():
    assert match(torch.randn(2, 5, 3), 0).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_ties_go_to_the_earlier_token():
    keys = torch.tensor([[1.0, 0.0]]).repeat(8, 1)[None]
    # All alike: tokens 0 and 2 of A go first, both into token 1. Left: 4, 6 of A, then 1, 3, 5, 7.
    assert match(keys, 2).tolist() == [[2, 2, 2, 3, 0, 4, 1, 5]]
    keys[0, 6] = torch.tensor([0.0, 1.0])  # alike to none
    keys[0, 3] = torch.tensor([0.0, 2.0])  # but to this one, whatever its length
    # 0, 2 and 4 tie with 6 at a cosine of 1; order decides, and 6 is the one left over.
    assert match(keys, 3).tolist() == [[1, 1, 1, 2, 1, 3, 0, 4]]


def test_length_of_keys_is_no_matter():
    keys = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.5, 2, 4, 1, 8, 0.25, 1, 2, 16])[None, :, None]  # powers of two: no rounding
    assert torch.equal(match(keys, 4), match(keys * scale, 4))


@pytest.mark.parametrize("n_clusters", [1, 2, 26, 64, 128, 250, 255, 256])
@pytest.mark.parametrize("n_blocks", [8, 12])
def test_schedule(n_clusters, n_blocks):
    planned, n = schedule(256, n_clusters, n_blocks), 256
    assert len(planned) == n_blocks
    for r in planned:
        assert 0 <= r <= most(n)
        n -= r
    assert n == n_clusters
    assert list(planned) == sorted(planned, reverse=True)
    if n_clusters >= 26 and n_blocks == 12:  # 8 blocks would need more than half of the last one's tokens
        assert max(planned) - min(planned) <= 1


def test_schedule_halves_where_it_must():
    assert schedule(256, 26, 8) == (29, 29, 29, 29, 29, 29, 29, 27)  # 27 of 53 is the most
    assert schedule(9, 1, 3) == (3, 3, 2)
    assert schedule(15, 1, 3) == (8, 4, 2)
    with pytest.raises(CovtokenError, match="leave 2 or more of 16"):
        schedule(16, 1, 3)


@pytest.mark.parametrize("n_clusters", [26, 64, 128])
def test_clusters_partition_the_tokens(large, n_clusters):
    images = pictures(large)
    result = merge_through(large, images, n_clusters)
    assert result.cluster.shape == (2, 256) and result.cluster.dtype == torch.int64
    assert result.tokens.shape == (2, n_clusters, 24)
    for cluster in result.cluster:
        assert torch.equal(cluster.unique(), torch.arange(n_clusters))
    entering = 256 - np.cumsum([0, *schedule(256, n_clusters, 12)])
    assert result.counts == tuple(entering[:-1] + 3)
    again = merge_through(large, images, n_clusters)
    assert torch.equal(result.cluster, again.cluster) and torch.equal(result.tokens, again.tokens)
    assert not any(module._forward_hooks for module in large.model.modules())


@pytest.mark.parametrize("name", ["vit", "large"])
def test_no_merging_is_the_plain_pass(name, request):
    vit = request.getfixturevalue(name)
    images, n_tokens = pictures(vit), vit.rows * vit.cols
    result = merge_through(vit, images, n_tokens)
    plain = vit.extract(images, [vit.n_blocks]).tokens[vit.n_blocks]
    torch.testing.assert_close(result.tokens, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(result.cluster, torch.arange(n_tokens).repeat(2, 1))
    assert result.counts == (n_tokens + vit.model.num_prefix_tokens,) * vit.n_blocks


@pytest.mark.parametrize("fused", [True, False])
def test_equals_attention_by_hand(large, fused, monkeypatch):
    """Every block in full: attention weighted by sizes, keys of that block, merging by the loops."""
    images, n_clusters, prefix, heads = pictures(large, n=1), 40, 3, 3
    model = large.model
    for block in model.blocks:
        monkeypatch.setattr(block.attn, "fused_attn", fused)
    ours = merge_through(large, images, n_clusters)
    stream = model.norm_pre(model._pos_embed(model.patch_embed(images)))[0]
    sizes, cluster = np.ones(256), np.arange(256)
    for block, r in zip(model.blocks, schedule(256, n_clusters, 12)):
        attn, n = block.attn, len(stream)
        query, key, value = attn.qkv(block.norm1(stream)).view(n, 3, heads, 8).unbind(1)  # [n, heads, 8]
        size = torch.cat([torch.ones(prefix), torch.from_numpy(sizes).float()])
        mixed = []
        for head in range(heads):
            share = size * torch.exp(query[:, head] @ key[:, head].T * 8**-0.5)  # log size in the logits, written out
            mixed.append(share / share.sum(dim=1, keepdim=True) @ value[:, head])
        stream = stream + block.ls1(attn.proj(torch.cat(mixed, dim=1)))
        stream = stream + block.ls2(block.mlp(block.norm2(stream)))
        into = slow_match(key.mean(dim=1)[prefix:].numpy().astype(np.float64), r)
        means, sizes = slow_merge(stream[prefix:].numpy(), sizes, into, n - prefix - r)
        stream = torch.cat([stream[:prefix], torch.from_numpy(means).float()])
        cluster = np.array(into)[cluster]
    np.testing.assert_array_equal(ours.cluster[0], cluster)
    torch.testing.assert_close(ours.tokens[0], stream[prefix:], rtol=1e-4, atol=1e-4)


def test_keys_are_the_normed_ones_where_the_model_norms_them():
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0, "qk_norm": True}
    vit = FrozenViT(VisionTransformer(32, 4, **options), "normed", 32, "", (0.5,) * 3, (0.5,) * 3)
    vit.model.blocks[0].attn.k_norm.weight.copy_(torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 1]))
    images, seen = pictures(vit, n=1), []
    handle = vit.model.blocks[0].attn.k_norm.register_forward_hook(lambda module, args, out: seen.append(out))
    result = merge_through(vit, images, 63)  # one merge, in the first block
    handle.remove()
    assert torch.equal(result.cluster, match(seen[0].mean(dim=1)[:, 1:], 1))


def test_hooks_are_gone_after_an_error(vit, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("mlp")

    monkeypatch.setattr(vit.model.blocks[1].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="mlp"):
        merge_through(vit, pictures(vit), 9)
    assert not any(module._forward_hooks for module in vit.model.modules())


def cases(n):
    def draw(seed):
        assert under_construction()  # no label can be read meanwhile
        return np.random.default_rng(seed).integers(0, 256, size=(40 + seed, 50)).astype(np.float32)

    return [Case(f"case{i}", f"unit{i}", "ultrasound", lambda i=i: draw(i)) for i in range(n)]


def test_merge_cases(vit):
    found = merge_cases(cases(5), vit, 9, batch=2, progress=False)
    assert found.shape == (5, 36) and found.dtype == np.int64
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, size=(40 + i, 50)).astype(np.float32)
        image = vit.prepare(to_input(pixels, cases(5)[i], vit.input))[None]
        np.testing.assert_array_equal(found[i], merge_through(vit, image, 9).cluster[0])


def test_survives_by_hand():
    cluster = np.array([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 2]])
    lesion = np.array([[1, 0, 1, 0, 0, 1], [0, 1, 1, 0, 0, 0]], dtype=bool)
    # 1 of 2 is half and stays; 1 of 3 goes; a cluster of its own stays; 2 of 4 is half; pictures do not mix.
    expected = np.array([[1, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(survives(cluster, lesion), expected)
    np.testing.assert_array_equal(survives(cluster.astype(np.uint8), lesion), expected)
    assert survives(np.zeros((0, 6), dtype=int), np.zeros((0, 6), dtype=bool)).shape == (0, 6)


def test_no_merging_keeps_every_lesion_token():
    lesion = np.random.default_rng(0).random((3, 20)) < 0.3
    np.testing.assert_array_equal(survives(np.tile(np.arange(20), (3, 1)), lesion), lesion)


def test_survives_refuses():
    cluster, lesion = np.zeros((2, 3), dtype=int), np.zeros((2, 3), dtype=bool)
    for bad in [(cluster[:1], lesion), (cluster, lesion.astype(int)), (cluster - 1, lesion), (cluster + 0.5, lesion)]:
        with pytest.raises(CovtokenError):
            survives(*bad)


@pytest.mark.parametrize("n_clusters", [0, -1, 37, 9.0, True])
def test_clusters_out_of_range(vit, n_clusters):
    with pytest.raises(CovtokenError, match=r"expected 1 … 36"):
        merge_through(vit, pictures(vit), n_clusters)
    with pytest.raises(CovtokenError, match=r"expected 1 … 36"):
        merge_cases(cases(1), vit, n_clusters, progress=False)


def test_refusals(vit):
    for r in (-1, 4):
        with pytest.raises(CovtokenError, match="half"):
            match(torch.randn(1, 6, 2), r)
    with pytest.raises(CovtokenError, match="0 … 0"):
        match(torch.randn(1, 1, 2), 1)
    with pytest.raises(CovtokenError, match="keys"):
        match(torch.randn(6, 2), 1)
    with pytest.raises(CovtokenError, match="images"):
        merge_through(vit, torch.zeros(1, 3, 80, 80), 9)
    with pytest.raises(CovtokenError, match="no cases"):
        merge_cases([], vit, 9)
    with pytest.raises(CovtokenError, match="batch 0"):
        merge_cases(cases(1), vit, 9, batch=0)


def test_models_that_cannot_merge():
    dinov3 = load_backbone("random:vit_small_patch16_dinov3", 32)
    with pytest.raises(CovtokenError, match="rotary"):
        merge_through(dinov3, pictures(dinov3), 2)
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0, "block_fn": ParallelScalingBlock}
    parallel = FrozenViT(VisionTransformer(64, 16, **options), "parallel", 64, "", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(CovtokenError, match="plain blocks"):
        merge_through(parallel, pictures(parallel), 9)
