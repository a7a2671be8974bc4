"""The code of book/api.md runs as it stands, top to bottom, and gives what the page says."""

import re

import nibabel
import numpy as np
import onnxruntime
import pytest
import torch

from covtoken.paths import project_root

PAGE = project_root() / "book" / "api.md"


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    scan = nibabel.Nifti1Image(rng.integers(-1000, 400, (40, 32, 3)).astype(np.int16), np.diag([-0.7, 0.8, 2.5, 1]))
    nibabel.save(scan, "scan.nii.gz")
    names = {"pixels": rng.integers(0, 256, (120, 150)).astype(np.uint8)}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    five, ten = ([line for line in blocks[i].splitlines() if line.strip()] for i in (0, 2))
    assert len(five) <= 5 and len(ten) <= 10
    for block in blocks:
        exec(compile(block, "api.md", "exec"), names)
    assert names["found"].shape == (120, 150) and names["found"].dtype == np.float32
    written = nibabel.load("map.nii.gz")
    assert written.shape == scan.shape and np.array_equal(written.affine, nibabel.load("scan.nii.gz").affine)
    certificate = names["certificate"]
    assert 1 <= certificate.k <= 256 and names["tokens"].shape == (1, certificate.k, 384)
    assert names["output_map"].shape == (1, 256, 384) and names["cost"].total <= names["cost"].plain
    scores, _ = onnxruntime.InferenceSession("map.onnx").run(None, {"images": names["images"].numpy()})
    loaded, _ = torch.export.load("map.pt2").module()(names["images"])
    np.testing.assert_allclose(scores, loaded.numpy(), rtol=1e-4, atol=1e-4)
    tap = names["vit"].extract(names["images"], [6]).tokens[6]
    ours = names["routed"].stage.scores(tap, 16, 16)
    np.testing.assert_allclose(scores.reshape(1, 256), ours, rtol=1e-4, atol=1e-4)
