"""Every scorer on small features, against its definition; the grid; and what the module may not import."""

from __future__ import annotations

import ast
import inspect
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from stub_features import StubFeatures

from covtoken.bank.coreset import greedy_k_center
from covtoken.bank.pooling import pool3x3, smooth
from covtoken.bank.prototypes import prototype_bank
from covtoken.bank.token_bank import build_bank
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label, token_labels
from covtoken.keys import smallest
from covtoken.paths import PACKAGE
from covtoken.protocol.plan import METHOD_PARAMETERS
from covtoken.scores import baselines, memberships
from covtoken.scores.alarm import statistics
from covtoken.scores.grids import middle_blocks
from covtoken.scores.recipe import PatchCoreSettings, Recipe
from covtoken.scores.scorers import SCORERS, choices, raw_maps, score_maps
from covtoken.subspace.consensus import ConsensusSettings
from covtoken.subspace.density import DensitySubspace, sparsity
from covtoken.subspace.direction import Direction, DirectionSettings, fit_many
from covtoken.subspace.rarity import RaritySubspace
from covtoken.subspace.residual import ResidualSubspace

OURS = (
    "density residual centre_prior attention attention_last token_norm token_norm_centred intensity variance "
    "patchcore random rarity direction"
)


@pytest.fixture
def both():
    return StubFeatures.of(6, 2), StubFeatures.of(3, 2, prefix="v")


@pytest.mark.parametrize("name", [*OURS.split(), "saliency_head", "head_student", "without_head", "in_organ"])
def test_maps_have_one_form_and_do_not_depend_on_order(both, name):
    bank, features = both
    recipe = choices(name, 4)[-1]
    maps = score_maps(recipe, bank, features)
    assert maps.shape == (6, 20) and maps.dtype == np.float32
    order = [4, 0, 5, 2, 1, 3]
    again = score_maps(recipe, bank.subset(range(len(bank) - 1, -1, -1)), features.subset(order))
    np.testing.assert_allclose(again, maps[order], atol=1e-5)


def test_values_follow_the_definitions(both):
    bank, features = both
    z = features.tokens(2)
    np.testing.assert_allclose(raw_maps("token_norm", 2, False, bank, features), z.norm(dim=2), atol=1e-5)
    pooled, mean = pool3x3(z, 4, 5), pool3x3(bank.tokens(2), 4, 5).mean((0, 1))
    np.testing.assert_allclose(
        raw_maps("token_norm_centred", 2, True, bank, features), (pooled - mean).norm(dim=2), atol=1e-5
    )
    np.testing.assert_allclose(
        raw_maps("attention", 3, True, bank, features), pool3x3(features.attention(3)[..., None], 4, 5)[..., 0]
    )
    fitted = DensitySubspace.fit(build_bank(bank, 2), rank=8)
    np.testing.assert_allclose(raw_maps("density", 2, False, bank, features), fitted.score(z), atol=1e-5)
    centre = raw_maps("centre_prior", None, False, bank, features).reshape(-1, 4, 5)[0]
    assert centre.argmax() in (7, 12) and centre[0, 0] == pytest.approx(-np.hypot(1.5, 2) / (np.hypot(4, 5) / 2))


def test_smoothing_and_sign_come_after_the_raw_map(both):
    recipe = Recipe("intensity", None, False, 1.0, -1)
    np.testing.assert_allclose(score_maps(recipe, *both), -smooth(both[1].intensity().numpy(), 4, 5, 1.0), atol=1e-6)


def test_a_pictures_own_unit_never_counts(both):
    bank, _ = both
    inside = raw_maps("density", 2, False, bank, bank.subset([0]))
    others = bank.subset(range(2, len(bank)))  # without unit u0
    np.testing.assert_allclose(inside, raw_maps("density", 2, False, others, bank.subset([0])), atol=1e-5)
    assert raw_maps("patchcore", 1, True, bank, bank.subset([0]), settings=PatchCoreSettings(3)).min() > 0


def test_patchcore_with_the_whole_bank_is_plain_nearest_neighbour(both):
    bank, features = both
    side = [torch.cat([pool3x3(f.tokens(b), 4, 5) for b in (1, 3)], 2).reshape(-1, 16) for f in (features, bank)]
    expected = torch.cdist(*(x.double() for x in side)).min(1).values.reshape(6, 20)
    np.testing.assert_allclose(
        raw_maps("patchcore", 1, True, bank, features, settings=PatchCoreSettings(3)), expected, atol=1e-5
    )


def test_random_depends_on_seed(both):
    a, b = (raw_maps("random", None, False, *both, seed=s) for s in (0, 1))
    assert np.abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.3 and a.std() > 0.2


def test_the_grid_is_the_same_for_all():
    assert list(middle_blocks(12)) == [3, 4, 5, 6, 7, 8, 9, 10] and list(middle_blocks(24)) == list(range(6, 20))
    assert len(choices("density", 12)) == len(choices("residual", 12)) == len(choices("token_norm", 12)) == 8 * 2 * 3
    assert {r.block for r in choices("attention", 12)} == set(range(3, 13))
    assert {r.block for r in choices("attention_last", 12)} == {12}
    assert {(r.block, r.sign) for r in choices("intensity", 12)} == {(None, 1), (None, -1)}
    assert {(r.block, r.settings.second_block) for r in choices("patchcore", 12)} >= {(3, 5), (8, 10)}
    assert len(choices("rarity", 12)) == 8 * 2 * 3
    assert {(r.block, r.pooled, r.settings) for r in choices("consensus", 12)} == {
        (block, True, ConsensusSettings()) for block in range(4, 11)
    }
    assert {r.settings for r in choices("direction", 12)} == {DirectionSettings(9)}
    assert {r.block for r in choices("head_student", 12)} == set(range(4, 11))
    assert [r.settings for r in choices("without_head", 12)] == [r.settings for r in choices("consensus", 12)]


def test_recipes_survive_json():
    for name in SCORERS:
        for recipe in choices(name, 12):
            assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_unknown_scores_and_nan_are_refused(both, monkeypatch):
    with pytest.raises(CovtokenError, match="did you mean density"):
        raw_maps("densty", 2, False, *both)
    monkeypatch.setattr(StubFeatures, "variance", lambda self: torch.full((len(self), 20), torch.nan))
    with pytest.raises(CovtokenError, match="variance"):
        raw_maps("variance", None, False, *both)


OTHERWISE = {
    "backbone": ({"backbone": "vit_b"}, r"backbone: the bank's have 'arrays', these 'vit_b'"),
    "weights": ({"weights_sha256": "ab"}, r"weights_sha256: the bank's have '', these 'ab'"),
    "picture size": ({"preprocessing": "size=98"}, r"preprocessing: the bank's have '', these 'size=98'"),
    "precision": ({"precision": "bf16"}, r"precision: the bank's have 'fp32', these 'bf16'"),
    "grid": ({"rows": 5, "cols": 4}, r"grid: the bank's have '4 × 5 tokens', these '5 × 4 tokens'"),
    "width": ({"width": 6}, r"width: the bank's have '8 values a token of block 2', these '6 values"),
}


@pytest.mark.parametrize("what", OTHERWISE)
@pytest.mark.parametrize("name", [name for name in SCORERS if "bank" in SCORERS[name].needs])
def test_pictures_made_otherwise_than_the_bank_are_refused_by_name(both, what, name, monkeypatch):
    """Same widths or not, numbers would come out: they would mean nothing."""
    monkeypatch.setattr(memberships, "build_bank", None)  # before any work
    monkeypatch.setattr(baselines, "build_bank", None)
    monkeypatch.setattr(Direction, "fit", None)
    about, message = OTHERWISE[what]
    recipe = replace(choices(name, 4)[-1], block=2)
    bank, pictures = both[0].made(), both[1].made(**about)
    with pytest.raises(CovtokenError, match=message):
        score_maps(recipe, bank, pictures)
    with pytest.raises(CovtokenError, match="extract both alike"):
        raw_maps(name, 2, recipe.pooled, pictures, bank, settings=recipe.settings)


def test_pictures_of_another_size_are_scored_on_request_only(both):
    bank, small = both[0].made(), both[1].made(rows=5, cols=4, preprocessing="size=98")
    recipe = Recipe("density", 2)
    assert score_maps(recipe, bank, small, other_size=True).shape == (6, 20)
    with pytest.raises(CovtokenError, match="backbone"):
        score_maps(recipe, bank, replace(small, backbone="other"), other_size=True)


def test_a_score_without_a_bank_asks_nothing_of_one(both):
    blank = both[0].made(backbone="other")
    np.testing.assert_array_equal(raw_maps("variance", None, False, blank, both[1]), both[1].variance())


@pytest.mark.parametrize("given", ["pictures.npy", None, np.zeros((2, 20, 8), np.float32), ["a", "b"]])
def test_what_is_no_features_is_refused_by_its_type(both, given):
    for bank, pictures in ((given, both[1]), (both[0], given)):
        with pytest.raises(CovtokenError, match=f"takes a FeatureSet .*, got {type(given).__name__}"):
            score_maps(Recipe("density", 2), bank, pictures)
    with pytest.raises(CovtokenError, match="a bank takes a FeatureSet"):
        build_bank(given, 2)
    for fit in (DensitySubspace.fit, ResidualSubspace.fit, RaritySubspace.fit, lambda bank: prototype_bank(bank, 3)):
        with pytest.raises(CovtokenError, match=f"takes a TokenBank .*, got {type(given).__name__}"):
            fit(given)
    with pytest.raises(CovtokenError, match=f"points, a tensor .*, got {type(given).__name__}"):
        greedy_k_center(given, 3)
    with pytest.raises(CovtokenError, match=r"takes a Recipe, such as .*, got 'density'"):
        score_maps("density", *both)


@pytest.mark.parametrize("constant", ["maps", "fallback_maps", "both"])
def test_an_alarm_over_constant_maps_knows_no_agreement_and_says_so_without_warnings(both, constant):
    given = {name: np.random.default_rng(0).random((6, 20)) for name in ("maps", "fallback_maps")}
    given |= {name: np.full((6, 20), 0.25) for name in given if constant in (name, "both")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = statistics(
            *both, Recipe("direction", 2, True, settings=DirectionSettings(3, 0.9, 1.0)), Recipe("density", 3), **given
        )
    assert found["agreement"] is None and found["drift"] > 0


def test_greedy_k_center_takes_the_farthest_each_time():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    chosen = greedy_k_center(x, 12).tolist()
    assert len(set(chosen)) == 12
    for i in range(1, 12):
        assert chosen[i] == torch.cdist(x, x[chosen[:i]]).min(1).values.argmax()
    twice = torch.cat([x[:5], x[:5]])
    assert sorted(greedy_k_center(twice, 20).tolist()) == list(range(10))
    wide = torch.from_numpy(np.random.default_rng(1).normal(size=(500, 300)).astype(np.float32))
    wide[3] += 30
    assert 3 in greedy_k_center(wide, 2, dims=16)


def test_nothing_here_imports_what_can_read_a_mask():
    own = ("bank", "subspace", "scores")
    allowed = tuple(f"covtoken.{name}" for name in ("errors", "paths", "keys", "leak_guard", *own))
    for file in (file for folder in own for file in (PACKAGE / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                ours = module.split(".")[0] == "covtoken"
                assert not ours or module.startswith(allowed), f"{file.name} imports {module}"


@pytest.mark.parametrize(
    ("scorer", "extra", "message"),
    [
        ("density", [1], "score 'density' has 0 settings"),
        ("nope", [1], "score 'nope' has 0 settings"),
        ("direction", [9, 0.9], "score 'direction' has 5 settings"),
        ("direction", [], "'direction' takes DirectionSettings, got None"),
    ],
)
def test_a_recipe_with_the_wrong_settings_is_refused_by_name(scorer, extra, message):
    with pytest.raises(CovtokenError, match=message):
        Recipe.from_json({"scorer": scorer, "block": 3, "pooled": True, "sigma": 0.0, "sign": 1, "extra": extra})


def test_what_a_lock_binds_is_what_runs():
    def default(function, name):
        return inspect.signature(function).parameters[name].default

    assert default(build_bank, "size") == default(fit_many, "size") == METHOD_PARAMETERS["reference_size"]
    for function in (sparsity, fit_many, DensitySubspace.fit, RaritySubspace.fit):
        assert default(function, "k") == METHOD_PARAMETERS["k"]
    for function in (token_labels, label):
        assert default(function, "threshold") == METHOD_PARAMETERS["label_threshold"]


@pytest.mark.parametrize("pooled", [False, True])
def test_musc_is_the_mean_over_the_pictures_that_come_nearest(monkeypatch, pooled):
    monkeypatch.setattr(baselines, "MUTUAL_PICTURES", 7)
    bank, pictures = StubFeatures.of(6, 2), StubFeatures.of(8, 1)  # u0 … u5 stand in both
    maps = raw_maps("musc", 2, pooled, bank, pictures)

    def tokens(features):
        z = features.tokens(2)
        return (pool3x3(z, 4, 5) if pooled else z).double().numpy()

    order = smallest(bank.digests, 7)
    chosen = [bank.digests.index(digest) for digest in order]
    theirs = tokens(bank)
    for i, z in enumerate(tokens(pictures)):
        others = [theirs[j] for j in chosen if bank.units[j] != pictures.units[i]]
        apart = np.array([np.linalg.norm(z[:, None] - other[None], axis=2).min(axis=1) for other in others])
        n = int(np.ceil(0.3 * len(others)))
        np.testing.assert_allclose(maps[i], np.sort(apart, axis=0)[:n].mean(axis=0), rtol=1e-5)
    with pytest.raises(CovtokenError, match="MuSc needs bank pictures of other units"):
        raw_maps("musc", 2, pooled, StubFeatures.of(1, 2), StubFeatures.of(1, 1))
