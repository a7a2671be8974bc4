"""A routed module against the plain pass and the route it is made of, on timm's models as they come."""

import pytest
import timm
import torch
from stub_vit import direction_of, images_of, lively

import covtoken as ct
from covtoken.economy.routing import route_through
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError

MODELS = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "embed_dim": 48, "num_heads": 3},
    "vit_small_patch16_dinov3": {"img_size": 64, "embed_dim": 48, "num_heads": 3},  # rotary positions
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    return lively(timm.create_model(request.param, depth=4, num_classes=0, **MODELS[request.param]))


def test_keeping_all_is_timm_s_own_pass(model):
    vit = ct.from_timm(model)
    images = images_of(vit)
    found = ct.route(model, direction_of(vit), keep=1)(images)
    plain = model.forward_features(images)
    torch.testing.assert_close(found.output_map, plain[:, vit.n_prefix :], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.prefix, plain[:, : vit.n_prefix], rtol=1e-5, atol=1e-5)
    assert torch.equal(found.tokens, found.output_map)
    assert torch.equal(found.indices, torch.arange(vit.rows * vit.cols).expand(3, -1))


@pytest.mark.parametrize(("keep", "budget"), [(0.25, {"ratio": 0.25}), (7, {"k": 7})])
def test_tokens_lie_where_indices_say(model, keep, budget):
    vit = ct.from_timm(model)
    images, direction = images_of(vit), direction_of(vit)
    routed = ct.route(vit, direction, keep=keep).train()
    assert not routed.training and not any(weight.requires_grad for weight in routed.parameters())
    found = routed(images)
    wanted = route_through(vit, images, [Stage(2, direction, **budget)])
    torch.testing.assert_close(found.output_map, wanted.tokens)
    for tokens, indices, kept, whole in zip(found.tokens, found.indices, wanted.kept, found.output_map):
        assert torch.equal(indices, kept.nonzero().squeeze(1)) and torch.equal(tokens, whole[indices])
    assert routed.flops().total < routed.flops().plain
    assert f"{next(iter(budget))}={keep}" in repr(routed)


def test_a_certificate_sets_the_budget_and_holds_for_its_direction_alone(model):
    vit = ct.from_timm(model)
    direction, n_tokens = direction_of(vit), vit.rows * vit.cols
    made_by = ct.MadeBy.from_header(direction.header, "C−")
    certificate = ct.Certificate(0.1, 40, "rank", n_tokens, 5, None, (), made_by, "")
    assert ct.route(vit, direction, keep=certificate)(images_of(vit)).indices.shape == (3, 5)
    scores = Stage(2, direction, ratio=1.0).scores(vit.extract(images_of(vit), [2]).tokens[2], vit.rows, vit.cols)
    threshold = float(torch.tensor(scores).flatten().quantile(0.8))  # pictures keep unlike numbers
    certificate = ct.Certificate(0.1, 40, "threshold", n_tokens, None, threshold, (), made_by, "")
    found = ct.route(vit, direction, keep=certificate)(images_of(vit))
    counts = (scores >= threshold).sum(axis=1)
    assert ((found.indices >= 0).sum(dim=1).numpy() == counts).all() and found.tokens.shape[1] == counts.max()
    assert len(set(counts.tolist())) > 1 and (found.tokens[found.indices < 0] == 0).all()
    with pytest.raises(CovtokenError, match=r"does not fit.*bank"):
        ct.route(vit, direction_of(vit, content_sha256="1" * 64), keep=certificate)
    with pytest.raises(CovtokenError, match="calibrated with"):
        ct.route(vit, lambda tokens: tokens[..., 0], block=2, keep=certificate)
    other = ct.Certificate(0.1, 40, "rank", n_tokens + 1, 5, None, (), made_by, "")
    with pytest.raises(CovtokenError, match=f"of {n_tokens + 1} tokens.*gives {n_tokens}"):
        ct.route(vit, direction, keep=other)


@pytest.mark.parametrize("keep", [0, 0.0, -1, 1.5, 17, True, "half", float("nan")])
def test_budgets_out_of_range_are_refused(keep):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4)
    with pytest.raises(CovtokenError, match=r"keep = .*in \(0, 1\]"):
        ct.route(model, lambda tokens: tokens[..., 0], block=2, keep=keep)


def test_what_is_no_vit_or_does_not_fit_is_refused():
    with pytest.raises(CovtokenError, match="not a plain vision transformer"):
        ct.route(torch.nn.Linear(2, 2), lambda tokens: tokens[..., 0], block=2)
    with pytest.raises(CovtokenError, match="timm ViT, got str"):
        ct.route("embedded", lambda tokens: tokens[..., 0], block=2)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4)
    with pytest.raises(CovtokenError, match="names no block"):
        ct.route(model, lambda tokens: tokens[..., 0])
    with pytest.raises(CovtokenError, match=r"backbone: expected 'vit_tiny_patch16_224'.*'embedded'"):
        ct.route(model, ct.shipped_direction("ultrasound"), block=2)
