"""Any module that yields tokens goes the whole way: features, a direction, a map; and says what is wrong with it."""

import numpy as np
import pytest
import torch
from stub_vit import cases, lively
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import covtoken as ct
from covtoken.backbone.vit import FrozenViT
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction
from covtoken.maps.banks import fit_bank, with_scores


class Convolutions(nn.Module):
    """Twelve blocks of convolutions on a 6 × 6 grid: [N, 3, 48, 48] → [N, 16, 6, 6]."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.layers = nn.ModuleList([nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GELU()) for _ in range(12)])
        self.unused = nn.Identity()

    def forward(self, images):
        x = self.stem(images)
        for layer in self.layers:
            x = x + layer(x)
        return {"map": x}


def flat(x):
    return x.flatten(2).transpose(1, 2)


PARTS = [f"layers.{i}" for i in range(12)]


def convolutions(**changed):
    torch.manual_seed(0)
    settings = {"blocks": PARTS, "tokens": flat, "grid": (6, 6), "picture_size": 48, "name": "convolutions"}
    return ct.from_module(Convolutions(), **settings | changed)


def test_a_convolutional_net_makes_a_map(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path / "cache"))
    model = convolutions()
    assert isinstance(model, ct.TokenModel) and (model.n_blocks, model.dim, model.rows) == (12, 16, 6)
    found = ct.features(cases(0, 3), model, [6, 9], progress=False)
    with construction("a test"):  # where these pictures can be drawn
        images = torch.stack([model.prepare(case.pixels() / 255) for case in cases(0, 3)])
    torch.testing.assert_close(found.tokens(6), model.extract(images, [6]).tokens[6])
    assert found.intensity().shape == (3, 36)
    scorer = fit_bank(cases(0, 20), model, {}, whole=True)
    direction = with_scores(scorer, fitted_on="waves")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50)).astype(np.uint8)
    shown = ct.lesion_map(pixels, model, direction)
    assert shown.shape == pixels.shape and np.isfinite(shown).all() and shown.std() > 0
    for other in (convolutions(name="other"), convolutions(blocks=PARTS[::-1])):
        with pytest.raises(CovtokenError, match="does not fit"):
            ct.lesion_map(pixels, other, direction)


def test_a_vit_by_hooks_is_the_vit():
    torch.manual_seed(0)
    model = lively(VisionTransformer(48, 8, embed_dim=24, depth=4, num_heads=3, num_classes=0))
    vit = FrozenViT(model, "vit", 48, "", (0.5,) * 3, (0.5,) * 3)
    hooked = ct.from_module(
        model,
        blocks=[f"blocks.{i}" for i in range(4)],
        tokens=lambda x: x[:, 1:],
        norm="norm",
        grid=(6, 6),
        picture_size=48,
        name="hooked",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    images = torch.randn(2, 3, 48, 48)
    found, wanted = (one.extract(images, [4, 2, "norm"]).tokens for one in (hooked, vit))
    for block in (2, 4, "norm"):
        torch.testing.assert_close(found[block], wanted[block], rtol=1e-5, atol=1e-5)
    pixels = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    assert torch.equal(hooked.prepare(pixels), vit.prepare(pixels))
    assert not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks": ["layers.0", "layers.12"]}, r"convolutions has no part 'layers.12': did you mean layers"),
        ({"blocks": []}, "blocks: expected a list of names"),
        ({"blocks": "layers.0"}, "blocks: expected a list of names"),
        ({"blocks": ["unused"]}, "unused did not run in a forward pass"),
        ({"grid": (5, 6)}, "grid 5 × 6 of convolutions: expected divisors of the picture size, 48"),
        ({"grid": (8, 8)}, r"tokens of layers.0: expected \[1, 8 × 8, D\], got \[1, 36, 16\]"),
        ({"tokens": lambda x: x}, r"expected \[1, 6 × 6, D\], got \[1, 16, 6, 6\]; leave CLS"),
        ({"tokens": lambda x: x["map"]}, r"tokens failed on the output of layers.0, a Tensor"),
        ({"input": "rgb"}, "unknown kind of backbone input 'rgb'"),
    ],
)
def test_what_gives_no_tokens_is_refused(changed, message):
    with pytest.raises(CovtokenError, match=message):
        convolutions(**changed)


def test_requests_it_cannot_serve_are_refused():
    model, images = convolutions(), torch.zeros(1, 3, 48, 48)
    for asked, message in (
        (([13],), r"block 13 is out of range: convolutions has blocks 1…12$"),
        ((["norm"],), "block 'norm' is out of range"),
        (([1], [1]), "gives tokens alone"),
        (([1], (), True), "gives tokens alone"),
        (([1], (), False, "fp16"), "precision 'fp16'"),
    ):
        with pytest.raises(CovtokenError, match=message):
            model.extract(images, *asked)
    with pytest.raises(CovtokenError, match=r"expected \[N, 3, 48, 48\], got \[1, 3, 50, 48\]"):
        model.extract(torch.zeros(1, 3, 50, 48), [1])
    with pytest.raises(CovtokenError, match="a route runs the blocks of a timm ViT, got ModuleTokens"):
        ct.route(model, lambda tokens: tokens[..., 0], block=2)
