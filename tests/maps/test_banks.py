"""What scores a run: no picture meets its own tokens, and neither bank nor threshold hangs on what a run maps."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stub_scorer import BrightScorer
from stub_vit import lively
from timm.models.vision_transformer import VisionTransformer

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.errors import CovtokenError
from covtoken.keys import hash_unit
from covtoken.maps import banks, prepare, run
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.listing import list_inputs
from covtoken.maps.shipped import shipped_direction
from covtoken.scores.threshold import BankScores
from covtoken.subspace.direction import load_direction


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    model = lively(VisionTransformer(64, 16, embed_dim=48, depth=4, num_heads=3, num_classes=0))
    return FrozenViT(model, "stub", 64, "0" * 64, (0.5,) * 3, (0.5,) * 3)


def _waves(seed, size=48):
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(size)[:, None] * rng.uniform(0.1, 1) + np.arange(size) * rng.uniform(0.1, 1))
    return (120 + 60 * waves + 15 * rng.standard_normal((size, size))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for i in range(16):
        Image.fromarray(_waves(i)).save(root / f"c{i:02}.png")
    twin = _waves(3).astype(int) + 2  # brighter by two: a near-duplicate of c03
    Image.fromarray(twin.clip(0, 255).astype(np.uint8)).save(root / "twin.png")
    Image.new("L", (48, 48), 90).save(root / "blank.png")
    return root


def _prepared(root, **grey):
    return prepare.prepare(list_inputs(root), Grey(**grey))


@pytest.fixture(scope="module")
def own(folder, vit):
    prepared = _prepared(folder)
    source = prepare.choose(prepared, None, None)
    return prepared, source, source.fit(vit, False)


def test_no_picture_meets_its_own_tokens(own):
    prepared, source, scorer = own
    assert source.bank == prepare.ITSELF and "16 units" in source.words
    seen = set()
    for name in prepared.opened:
        unit = source.units[name]
        if name == "blank":
            continue
        fitted_on = scorer.directions[scorer.fold_of[unit]].header["units"]
        assert hash_unit(unit) not in fitted_on and 12 <= len(fitted_on) < 16
        seen.add(scorer.fold_of[unit])
    assert seen == set(range(5)) and None not in scorer.directions
    assert source.units["twin"] == source.units["c03"] == "c03"  # near-duplicates share a unit


def test_the_bank_takes_no_blank_picture(own):
    assert "blank" not in own[2].held.names and len(own[2].held) == 17


def test_held_features_and_fresh_ones_give_one_map(own, vit):
    prepared, _, scorer = own
    cases = prepared.opened["c05"].cases
    fresh = banks.Scorer(scorer.recipe, scorer.directions, scorer.scores, {}, scorer.fold_of)
    np.testing.assert_allclose(scorer.maps(cases, vit), fresh.maps(cases, vit), atol=1e-4)


def _bytes(out):
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent != out
    }


def test_shards_share_bank_and_threshold(folder, tmp_path, vit):
    for i in (1, 2):
        with run.planned(run.Options(folder, tmp_path / "parts", shard=f"{i}/2")) as plan:
            run.run(plan, vit=vit)
    with run.planned(run.Options(folder, tmp_path / "whole")) as plan:
        finished = run.run(plan, vit=vit)
    assert _bytes(tmp_path / "parts") == _bytes(tmp_path / "whole")
    assert {outcome.status for outcome in finished.outcomes} == {"done"} and len(finished.outcomes) == 18
    assert finished.record["alarm"]["fired"] in (True, False)
    blank = json.loads((tmp_path / "whole/blank/case.json").read_text())
    assert blank["flagged"]["pixels"] == 0 and blank["regions"] == []


@pytest.fixture(scope="module")
def whole(folder, vit):
    return prepare.choose(_prepared(folder), folder, None).fit(vit, False)


def test_a_direction_fitted_once_serves_later_pictures(whole, tmp_path, vit):
    scorer = whole
    banks.with_scores(scorer, fitted_on="here").save(tmp_path / "d.safetensors")
    again = prepare.of_file(str(tmp_path / "d.safetensors")).fit(vit, False)
    later = [Case("later", "later", "ultrasound", lambda: _waves(99).astype(np.float32))]
    np.testing.assert_allclose(again.maps(later, vit), scorer.maps(later, vit), atol=1e-5)
    assert again.scores.at(0.99) == pytest.approx(scorer.scores.at(0.99), rel=1e-5)
    assert again.alarm == {}  # without its bank nothing can be said


def test_pictures_of_the_named_bank_are_scored_by_a_fold(folder, whole, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/renamed.png").write_bytes((folder / "c07.png").read_bytes())
    Image.fromarray(_waves(50)).save(tmp_path / "in/new.png")
    source = prepare.choose(_prepared(tmp_path / "in"), folder, None)
    assert source.units["renamed"] == "c07" and whole.fold_of["c07"] in range(5)
    assert source.units["new"] not in whole.fold_of and None in whole.directions


def test_few_units_take_the_shipped_direction_of_the_modality(folder, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(14):  # fourteen pictures, all of one kind: a single unit
        Image.fromarray(np.clip(_waves(1).astype(int) + i, 0, 255).astype(np.uint8)).save(tmp_path / f"in/c{i}.png")
    with pytest.raises(CovtokenError, match=r"1 unit, fewer than 12.*--modality ultrasound"):
        prepare.choose(_prepared(tmp_path / "in"), None, None)
    source = prepare.choose(_prepared(tmp_path / "in", modality="ultrasound"), None, None)
    assert source.direction == "ultrasound" and source.key == shipped_direction("ultrasound").header["content_sha256"]


def test_another_backbone_is_refused_by_name(vit):
    for name in ("ultrasound", "ct"):
        with pytest.raises(CovtokenError, match=f"shipped direction '{name}'.*backbone: expected 'stub'.*'embedded'"):
            prepare.of_shipped(name, "asked").fit(vit, False)


@pytest.mark.parametrize("name", ["ultrasound", "ct"])
def test_what_is_shipped_is_small_and_sealed(name, tmp_path):
    file = banks.__file__.replace("banks.py", f"directions/{name}.safetensors")
    data = bytearray(Path(file).read_bytes())
    assert len(data) < 20_000
    header = shipped_direction(name).header
    assert header["backbone"] == "embedded" and len(header["units"]) >= 100 and header["alarm"]["fired"] is False
    data[-5] ^= 1
    (tmp_path / "d.safetensors").write_bytes(data)
    with pytest.raises(CovtokenError, match="edited or damaged"):
        load_direction(tmp_path / "d.safetensors")


def test_a_direction_without_scores_sets_no_threshold(whole, tmp_path, vit):
    whole.directions[None].save(tmp_path / "d.safetensors")
    with pytest.raises(CovtokenError, match=r"no held-out scores.*covtoken fit"):
        prepare.of_file(str(tmp_path / "d.safetensors")).fit(vit, False)


def _drawn(n_units, seed, rows=4, dim=8):
    """Pictures without lesions: tokens of a unit share something, and tails are heavy."""
    rng = np.random.default_rng(seed)
    tokens = {
        b: rng.standard_t(5, (n_units, rows * rows, dim)) + 0.2 * rng.standard_normal((n_units, 1, dim)) for b in (2, 3)
    }
    units = [f"u{seed}-{i}" for i in range(n_units)]
    return FeatureSet.from_arrays({b: torch.tensor(t).float() for b, t in tokens.items()}, rows, rows, units, units)


def test_normal_pictures_are_flagged_at_about_the_stated_share(monkeypatch):
    shares = {0.9: [], 0.99: []}
    for seed in range(3):
        bank, later = _drawn(150, 2 * seed), _drawn(400, 2 * seed + 1)
        monkeypatch.setattr(banks, "_features", lambda cases, *_, bank=bank: bank)
        cases = [SimpleNamespace(unit=unit) for unit in bank.units]
        scorer = banks.fit_bank(cases, SimpleNamespace(n_blocks=4, weights_sha256=""), {}, whole=True)
        found = banks.direction_maps(scorer.recipe, scorer.directions[None], later)
        for quantile, all_shares in shares.items():
            all_shares.append((found > scorer.scores.at(quantile)).mean())
    for quantile, all_shares in shares.items():  # of 3 × 6,400 tokens, against banks of 2,400
        assert 0.6 * (1 - quantile) < np.mean(all_shares) < 1.4 * (1 - quantile), shares


def test_quantiles_keep_what_a_threshold_needs():
    values = np.random.default_rng(0).gamma(2.0, size=100_000)
    scores = BankScores.of(values)
    for quantile in (0.5, 0.95, 0.99, 0.995, 0.999):
        assert (values > scores.at(quantile)).mean() == pytest.approx(1 - quantile, rel=0.02)
    assert BankScores.from_json(json.loads(json.dumps(scores.to_json())), "x").at(0.99) == pytest.approx(
        scores.at(0.99), rel=1e-6
    )
    assert scores.rank(scores.at(0.99)) == pytest.approx(0.99) and scores.rank(1e9) == 1 and scores.rank(-1) == 0
    assert list(scores.scores) == sorted(scores.scores)
    with pytest.raises(CovtokenError, match="so none lies above it"):
        BankScores.of(values[:50]).at(0.99)
    for broken in (None, {}, {"scores": [1.0]}, scores.to_json() | {"scores": scores.to_json()["scores"][::-1]}):
        with pytest.raises(CovtokenError, match="no held-out scores"):
            BankScores.from_json(broken, "this direction")


def test_an_alarm_is_said(monkeypatch):
    words = run.alarm_words({"banks_fired": 2, "banks": 5, "reasons": ["the bank has 3 units, fewer than 4"]})
    assert "2 of 5 banks" in words and "3 units" in words and "--direction" in words
    scorer = BrightScorer()
    scorer.alarm = {"fired": True, "reasons": ["x"], "banks": 5, "banks_fired": 1, "limits_of": None}
    assert run._described(scorer, 0.99)["alarm"]["fired"] is True
