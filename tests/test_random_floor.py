"""A backbone of random weights is a floor for every gate, and no report may let it pass for a trained one."""

from __future__ import annotations

import pytest

from covtoken.backbone.weights import load_backbone
from covtoken.gates import gate1

NAME = "random:vit_tiny_patch16_224"


@pytest.mark.slow
def test_reports_and_recorded_scores_name_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path))
    vit = load_backbone(NAME, 64)
    run = gate1.run_gate1("phantom", "selection", backbone=vit, limit_units=12, progress=False)
    assert run.report.backbone == NAME
    assert run.recorded.header["backbone"] == NAME
    assert run.recorded.header["weights_sha256"] == vit.weights_sha256
    assert vit.label == "vit_tiny_patch16_224, random weights"
