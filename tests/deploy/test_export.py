"""An exported map is the package's, to 1e-4, in ONNX Runtime and in torch, for any number of pictures."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from stub_vit import direction_of, images_of, lively
from timm.models import create_model

import covtoken as ct
from covtoken.bank.pooling import pool3x3
from covtoken.errors import CovtokenError
from covtoken.maps.lesion_map import upsampled

MODELS = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "vit_small_patch16_dinov3": {"img_size": 64, "embed_dim": 48, "num_heads": 3},  # rotary positions, registers
}


@pytest.fixture(scope="module", params=MODELS)
def vit(request):
    torch.manual_seed(0)
    return ct.from_timm(lively(create_model(request.param, depth=3, num_classes=0, **MODELS[request.param])))


def wanted(vit, direction, images):
    tokens = vit.extract(images, [direction.header["block"]]).tokens[direction.header["block"]]
    tokens = pool3x3(tokens, vit.rows, vit.cols) if direction.header["pooled"] else tokens
    scores = direction.score(tokens).reshape(-1, vit.rows, vit.cols).numpy()
    return scores, np.stack([upsampled(one, (vit.picture_size,) * 2) for one in scores])


@pytest.mark.parametrize("n", [1, 5])
def test_onnx_runtime_gives_our_maps(vit, tmp_path_factory, n):
    direction = direction_of(vit)
    path = tmp_path_factory.getbasetemp() / f"{vit.name}.onnx"
    path = path if path.exists() else ct.export_map(vit, direction, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = images_of(vit, n)
    for found, ours in zip(session.run(["scores", "map"], {"images": images.numpy()}), wanted(vit, direction, images)):
        assert found.dtype == np.float32 and found.shape == ours.shape
        np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-4)
    about = json.loads(session.get_modelmeta().custom_metadata_map["covtoken.json"])
    assert about["direction_sha256"] == direction.header["content_sha256"] and about["mean"] == list(vit.mean)


@pytest.mark.parametrize("block", [2, "norm"])
def test_torch_gives_our_maps_without_covtoken(vit, tmp_path, block):
    if (block == "norm") is not ("dinov3" in vit.name):
        pytest.skip("one block a model is enough")
    direction = direction_of(vit, block=block, pooled=block == 2)
    path = ct.export_map(vit, direction, tmp_path / "map.pt2")
    images = images_of(vit, 4)
    code = (
        "import sys, torch; a, b = torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2], weights_only=True));"
        "assert 'covtoken' not in sys.modules; torch.save([a, b], sys.argv[3])"
    )
    torch.save(images, tmp_path / "in.pt")
    command = [sys.executable, "-c", code, path, tmp_path / "in.pt", tmp_path / "out.pt"]
    subprocess.run([str(part) for part in command], check=True, cwd=tmp_path, timeout=300)
    for found, ours in zip(torch.load(tmp_path / "out.pt", weights_only=True), wanted(vit, direction, images)):
        np.testing.assert_allclose(found.numpy(), ours, rtol=1e-4, atol=1e-4)
    held = sum(weight.numel() for weight in torch.export.load(path).state_dict.values())
    whole = sum(weight.numel() for weight in vit.model.parameters())
    assert held < 0.8 * whole if block == 2 else held >= whole  # blocks that do not run are left out


def test_what_cannot_be_exported_is_refused(vit, tmp_path):
    with pytest.raises(CovtokenError, match=r"\.onnx or \.pt2"):
        ct.export_map(vit, direction_of(vit), tmp_path / "map.pth")
    with pytest.raises(CovtokenError, match="does not fit"):
        ct.export_map(vit, ct.shipped_direction("ct"), tmp_path / "map.pt2")
    with pytest.raises(CovtokenError, match="takes a FrozenViT"):
        ct.export_map(vit.model, direction_of(vit), tmp_path / "map.pt2")
    assert not list(tmp_path.iterdir())
