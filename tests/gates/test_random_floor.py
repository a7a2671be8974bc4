"""A backbone of random weights is a floor for every gate, and no report may let it pass for a trained one."""

from __future__ import annotations

import pytest

from covtoken.backbone.weights import load_backbone
from covtoken.gates import gate1
from covtoken.protocol.planning import make_plan
from covtoken.protocol.setting import open_setting

NAME = "random:vit_tiny_patch16_224"


@pytest.mark.slow
def test_reports_and_recorded_scores_name_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path))
    vit = load_backbone(NAME, 64)
    setting = open_setting("phantom", "selection", vit, progress=False).limited(12)
    run = gate1.run(setting, make_plan(setting))
    assert run.report.backbone == NAME
    assert run.records.header["backbone"] == NAME
    assert run.records.header["weights_sha256"] == vit.weights_sha256
    assert vit.label == "vit_tiny_patch16_224, random weights"
