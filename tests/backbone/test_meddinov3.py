"""MedDINOv3: a checkpoint written in the published format, against DINOv3 computed by hand, and every refusal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from covtoken.backbone import meddinov3, weights
from covtoken.backbone.cache import cache_key, features
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case
from covtoken.data.cohorts import open_cohort
from covtoken.errors import CovtokenError

SIZE = 64  # 4 × 4 patches


def shapes() -> dict[str, tuple[int, ...]]:
    """Published names and shapes of the backbone."""
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_dinov3", num_classes=0)
    return {meddinov3.published_name(name): tuple(value.shape) for name, value in model.state_dict().items()}


def write(file: Path, backbone: dict[str, torch.Tensor], **others) -> Path:
    """A checkpoint as published: the teacher's backbone with unused tensors, beside its two heads."""
    periods = 100.0 ** (torch.arange(16) / 16)
    teacher = {f"backbone.{name}": value for name, value in backbone.items()}
    teacher["backbone.mask_token"] = torch.zeros(1, 768)
    teacher["backbone.rope_embed.periods"] = periods.bfloat16()
    teacher["dino_head.mlp.0.weight"] = teacher["ibot_head.last_layer.weight"] = torch.zeros(4, 4)
    torch.save({"teacher": teacher | others, "iteration": 7}, file)
    return file


@pytest.fixture(scope="module")
def published():
    """Random weights under published names. None is near 0 or 1, so that a tensor left at its start would show."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes().items():
        spread = {"gamma": 0.3, "weight": 0.03, "bias": 0.1}.get(name.rsplit(".", 1)[-1], 0.5)
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.3 if name.endswith("gamma") else 0.0
        state[name] = (centre + spread * torch.randn(shape, generator=generator)).bfloat16()
    return state


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    return write(tmp_path_factory.mktemp("weights") / "model.pth", published)


@pytest.fixture(scope="module")
def vit(file):
    return load_backbone("meddinov3", SIZE, weights_file=file)


@pytest.fixture
def light():
    """Tensors of the right shapes that share one stored number: a checkpoint of kilobytes."""
    return {name: torch.full((1,), 0.5).expand(shape) for name, shape in shapes().items()}


def by_hand(state, images) -> list[torch.Tensor]:
    """DINOv3 as published (Siméoni et al. 2025): the residual stream [N, 1 + 4 + T, 768] after each of 12 blocks."""
    state = {name: value.float() for name, value in state.items()}
    rows = cols = images.shape[-1] // 16
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2)
    prefix = torch.cat([state["cls_token"], state["storage_tokens"]], dim=1).expand(len(x), -1, -1)
    x = torch.cat([prefix, x], dim=1)
    # Axial RoPE: 16 periods for each axis, centres of patches in −1…1, each axis by its own length.
    periods = 100.0 ** (torch.arange(16) / 16)
    angles = []
    for row in range(rows):
        for col in range(cols):
            y, z = 2 * (row + 0.5) / rows - 1, 2 * (col + 0.5) / cols - 1
            half = torch.cat([2 * math.pi * y / periods, 2 * math.pi * z / periods])
            angles.append(torch.cat([half, half]))
    sin, cos = torch.stack(angles).sin(), torch.stack(angles).cos()

    def rotate(heads):
        patches = heads[:, :, 5:]
        first, second = patches.chunk(2, dim=-1)
        return torch.cat([heads[:, :, :5], patches * cos + torch.cat([-second, first], dim=-1) * sin], dim=2)

    streams = []
    for i in range(12):
        own = {k.removeprefix(f"blocks.{i}."): v for k, v in state.items() if k.startswith(f"blocks.{i}.")}
        h = F.layer_norm(x, (768,), own["norm1.weight"], own["norm1.bias"], eps=1e-6)
        q, k, v = (h @ own["attn.qkv.weight"].T).reshape(len(x), -1, 3, 12, 64).permute(2, 0, 3, 1, 4)
        h = (rotate(q) @ rotate(k).transpose(-1, -2) / 8).softmax(-1) @ v
        h = h.transpose(1, 2).flatten(2) @ own["attn.proj.weight"].T + own["attn.proj.bias"]
        x = x + own["ls1.gamma"] * h
        h = F.layer_norm(x, (768,), own["norm2.weight"], own["norm2.bias"], eps=1e-6)
        h = F.gelu(h @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]) @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
        x = x + own["ls2.gamma"] * h
        streams.append(x)
    return streams


def test_every_block_equals_dinov3_by_hand(vit, published):
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found = vit.extract(images, [*range(1, 13), "norm"]).tokens
    streams = by_hand(published, images)
    for block, stream in enumerate(streams, start=1):
        patches = stream[:, 5:]  # CLS and four storage tokens come first
        error = (found[block] - patches).norm() / patches.norm()
        assert error < 1e-5, f"block {block}: relative error {error:.1e}"
    normed = F.layer_norm(
        streams[-1], (768,), published["norm.weight"].float(), published["norm.bias"].float(), eps=1e-6
    )
    torch.testing.assert_close(found["norm"], normed[:, 5:], rtol=1e-4, atol=1e-4)


def test_the_network_is_the_published_one(vit, file):
    assert (vit.n_blocks, vit.dim, vit.patch, vit.model.num_prefix_tokens) == (12, 768, 16, 5)
    norms = [m for name, m in vit.model.named_modules() if "norm" in name.rsplit(".", 1)[-1] and hasattr(m, "eps")]
    assert len(norms) == 25 and {m.eps for m in norms} == {1e-6}
    assert vit.model.blocks[0].attn.qkv.bias is None and vit.model.blocks[0].attn.q_bias is None
    assert vit.weights_sha256 == weights.file_sha256(file)
    assert (vit.name, vit.label, vit.input) == ("meddinov3", "MedDINOv3 ViT-B/16", "hu")


def test_pictures_are_hounsfield_units(vit):
    ramp = np.linspace(-1000, 1000, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    image = vit.prepare(ramp)
    assert image.shape == (3, SIZE, SIZE)
    expected = (torch.from_numpy(ramp) - 65.1084) / 178.0167
    for channel in image:
        torch.testing.assert_close(channel, expected)
    with pytest.raises(CovtokenError, match=r"-1000…1000 HU, got values -1000…3000: .*to_input"):
        vit.prepare(np.array([[-1000.0, 3000.0]]))
    assert vit.preprocessing == (
        "hu=-1000..1000;squash-bicubic;size=64;mean=65.1084,65.1084,65.1084;std=178.017,178.017,178.017"
    )


def test_features_of_ct_come_from_clamped_units(vit, tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path))
    pixels = np.random.default_rng(0).uniform(-2000, 2500, (50, 70)).astype(np.float32)
    cases = [Case(organ, "p", "ct", lambda: pixels, organ=organ) for organ in ("liver", "lung")]
    found = features(cases, vit, [2], progress=False)
    clamped = pixels.clip(-1000, 1000)
    expected = vit.extract(vit.prepare(clamped)[None], [2]).tokens[2][0]
    for tokens in found.tokens(2):  # no organ window comes in between
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 1
    corner = (vit.squash(clamped)[:16, :16].mean() + 1000) / 2000
    assert found.intensity()[0, 0].item() == pytest.approx(corner.item(), abs=1e-5)
    assert found.preprocessing == vit.preprocessing
    assert (tmp_path / "features" / cache_key(vit, "fp32")).is_dir()


def test_8_bit_pictures_are_refused_before_any_is_read(vit):
    def never():
        pytest.fail("no picture may be read")

    cases = [Case("a", "u", "ct", never, organ="liver"), Case("b", "u", "ultrasound", never, source="b.png")]
    with pytest.raises(CovtokenError, match=r"b\.png: this backbone takes CT in Hounsfield units, and ultrasound"):
        features(cases, vit, [1], progress=False, cache=False)


def test_the_command_line_reaches_it_by_a_variable(light, tmp_path, monkeypatch):
    file = write(tmp_path / "model.pth", light)
    monkeypatch.setenv("COVTOKEN_MEDDINOV3", str(file))
    assert load_backbone("meddinov3", 32).weights_sha256 == weights.file_sha256(file)
    monkeypatch.setenv("COVTOKEN_MEDDINOV3", str(tmp_path / "absent.pth"))
    with pytest.raises(CovtokenError, match=r"absent\.pth, which is no file.*hf download ricklisz123/MedDINOv3"):
        load_backbone("meddinov3")
    for value, message in [("~nosuchuser/x.pth", "no home folder is known"), ("a" * 300, "File name too long")]:
        monkeypatch.setenv("COVTOKEN_MEDDINOV3", value)
        with pytest.raises(CovtokenError, match=f"COVTOKEN_MEDDINOV3: .*{message}"):
            load_backbone("meddinov3")


def test_absent_weights_say_how_to_get_them(monkeypatch):
    class Offline:
        def head(self, url, timeout):
            raise ConnectionError("no route to host")

    monkeypatch.delenv("COVTOKEN_MEDDINOV3", raising=False)
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(weights.huggingface_hub, "get_session", Offline)
    with pytest.raises(CovtokenError) as refusal:
        load_backbone("meddinov3")
    for part in ("ricklisz123/MedDINOv3-ViTB-16-CT-3M", "weights_file", "COVTOKEN_MEDDINOV3", "no route to host"):
        assert part in str(refusal.value)


def test_missing_extra_and_misshapen_tensors_are_named(light, tmp_path):
    def refused(message, backbone, **others):
        with pytest.raises(CovtokenError, match=message):
            load_backbone("meddinov3", 32, weights_file=write(tmp_path / "model.pth", backbone, **others))

    less = {name: value for name, value in light.items() if name != "blocks.7.ls2.gamma"}
    refused(r"lacks blocks\.7\.ls2\.gamma \(1 of \d+ tensors\)", less)
    refused(r"holds unknown blocks\.12\.norm1\.weight", light | {"blocks.12.norm1.weight": torch.ones(768)})
    # What timm's filter would drop or resample without a word:
    refused(r"holds unknown blocks\.0\.attn\.qkv\.bias", light | {"blocks.0.attn.qkv.bias": torch.ones(2304)})
    refused(
        r"other shapes: patch_embed\.proj\.weight \[768, 3, 8, 8\] instead of \[768, 3, 16, 16\]",
        light | {"patch_embed.proj.weight": torch.zeros(1).expand(768, 3, 8, 8)},
    )
    refused(r"NaN or infinite weights in norm\.bias", light | {"norm.bias": torch.full((768,), math.nan)})
    refused(r"norm\.bias torch\.int8.* instead of \[768\]", light | {"norm.bias": torch.ones(768, dtype=torch.int8)})
    refused("occur twice", light, **{"norm.bias": torch.ones(768)})
    refused("more than named tensors: step", light, step=3)
    base = {"backbone.rope_embed.periods": 10000.0 ** (torch.arange(16) / 16)}
    refused("RoPE periods .* are not those of base 100", light, **base)


def test_other_checkpoints_are_refused(tmp_path):
    file = tmp_path / "model.pth"
    for content, found in [({"student": {}, "epoch": 3}, "student, epoch"), ([1, 2], "list"), ({"teacher": {}}, "")]:
        torch.save(content, file)
        with pytest.raises(CovtokenError, match=f"under the key 'teacher', found .*{found}"):
            load_backbone("meddinov3", weights_file=file)


@pytest.mark.parametrize("cohort", ["lidc-idri", "msd-task06"])
def test_slices_of_volumes_reach_it_in_hounsfield_units(vit, covtoken_data, monkeypatch, tmp_path, cohort):
    """A DICOM slice and a NIfTI slice: clamped to ±1000 HU and normalised by its own mean and deviation."""
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path))
    try:
        case = open_cohort(cohort, every=20).cases[1]
    except CovtokenError as error:
        pytest.skip(str(error))
    pixels = case.pixels()
    assert pixels.min() <= -1000 and pixels.max() > 300, "air and bone"
    seen = features([case], vit, blocks=[3, 12]).tokens(3)[0]
    normalised = (vit.squash(np.clip(pixels, -1000, 1000)) - 65.1084) / 178.0167
    with torch.no_grad():
        _, layers = vit.model.forward_intermediates(normalised.expand(1, 3, -1, -1), indices=[2], norm=False)
    assert torch.allclose(seen, layers[0][0].flatten(1).T, atol=1e-4) and seen.std() > 0
