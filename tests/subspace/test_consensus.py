"""C− and C against their definition, written a second time from the text; their laws, edges and refusals."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from sklearn.linear_model import Ridge
from stub_features import StubFeatures

from covtoken.bank.pooling import pool3x3, smooth
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak
from covtoken.scores.memberships import fit
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import score_maps
from covtoken.studies.banks import Solver
from covtoken.subspace.consensus import ConsensusSettings, agreed_sources, called, fit_consensus, taught
from covtoken.subspace.direction import Direction, DirectionSettings, bank_rarity, load_direction, target_reference

ROWS, COLS = 4, 5


@pytest.fixture(scope="module")
def features():
    return StubFeatures.of(8, 2)


@pytest.fixture(scope="module")
def rarity(features):
    return bank_rarity(features, target_reference(features, 3))


def pooled(features, block):
    return pool3x3(features.tokens(block), ROWS, COLS).double().numpy()


def neighbourhood(token):
    row, col = divmod(token, COLS)
    return [
        (row + i) * COLS + col + j
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if 0 <= row + i < ROWS and 0 <= col + j < COLS and (i or j)
    ]


def component_of(above, start):
    seen, queue = {start}, deque([start])
    while queue:
        for token in neighbourhood(queue.popleft()):
            if above[token] and token not in seen:
                seen.add(token)
                queue.append(token)
    return seen


def call(c, quantile=0.93, component="peak"):
    cut, t = np.quantile(c, quantile), np.zeros_like(c)
    for picture, values in enumerate(c):
        above = values > cut
        if component == "none" or not above.any():
            t[picture] = above
            continue
        if component == "peak":
            kept = component_of(above, int(values.argmax()))
        else:
            parts = [component_of(above, token) for token in np.flatnonzero(above)]
            kept = max(parts, key=lambda part: sum(values[i] - quantile + 0.01 for i in part))
        t[picture, sorted(kept)] = 1
    return t


def by_definition(features, block, sources, rounds=2, ridge=1.0, inside=0.75, **rule):
    def over_bank(x):
        return rankdata(x, axis=None).reshape(x.shape) / x.size

    def views(x):
        return (1 - inside) * over_bank(x) + inside * rankdata(x, axis=1) / x.shape[1]

    c = over_bank(sum(views(np.asarray(source)) for source in sources))
    x = pooled(features, block)
    flat = x.reshape(-1, x.shape[-1])
    alpha = ridge * ((flat - flat.mean(0)) ** 2).sum() / flat.shape[1]
    t = call(c, **rule)
    for left in range(rounds, -1, -1):
        weight = Ridge(alpha=alpha, solver="cholesky").fit(flat, t.ravel()).coef_
        if left:
            score = ((x - flat.mean(0)) @ weight).astype(np.float32)
            t = call(over_bank(c + over_bank(score)), **rule)
    return weight, flat.mean(0)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"component": "none"},
        {"component": "mass"},
        {"rounds": 0},
        {"rounds": 1, "quantile": 0.8, "ridge": 0.1},
        {"inside": 0.0},
        {"inside": 1.0, "rounds": 0},
    ],
    ids=str,
)
def test_it_is_the_definition(features, rarity, changed):
    found = fit_consensus(features, 2, [rarity], ConsensusSettings(target_block=3, **changed))
    weight, mean = by_definition(features, 2, [rarity], **changed)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-7, atol=1e-9)
    assert found.header["rounds"] == changed.get("rounds", 2) and found.header["sources"] == "rarity"


def test_two_sources_agree_by_the_sum_of_their_views(features, rarity):
    logits = torch.as_tensor(smooth(features.saliency().numpy(), ROWS, COLS, 1.0))
    found = fit_consensus(features, 2, [rarity, logits], ConsensusSettings("rarity+head", 3))
    weight, _ = by_definition(features, 2, [rarity, logits])
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)


def smoothed(maps):
    """Smooth each map [T] by a Gaussian of one token."""
    grids = [gaussian_filter(each.reshape(ROWS, COLS), 1.0, mode="nearest") for each in maps.double().numpy()]
    return np.array(grids).reshape(len(maps), -1)


@pytest.mark.parametrize("sources", ["rarity", "head", "attention", "rarity+head", "attention+head"])
def test_a_source_is_pooled_rarity_the_heads_logit_or_the_attention_of_block_11(features, sources):
    rarity = bank_rarity(features, target_reference(features, 9))
    maps = {
        "rarity": rarity.numpy(),
        "head": smoothed(features.saliency()),
        "attention": smoothed(features.attention(11)),
    }
    weight, _ = by_definition(features, 2, [maps[name] for name in sources.split("+")])
    for scorer in ("consensus", "attention_fit"):
        found = fit(scorer, 2, features, ConsensusSettings(sources))
        np.testing.assert_allclose(found.weight, weight, rtol=1e-6)


def test_the_block_of_the_attention_is_a_setting(features):
    weight, _ = by_definition(features, 2, [smoothed(features.attention(4))])
    found = fit("consensus", 2, features, ConsensusSettings("attention", attention_block=4))
    np.testing.assert_allclose(found.weight, weight, rtol=1e-6)


def test_without_head_erases_what_pooled_tokens_say_linearly_of_the_heads_logit(features, rarity):
    weight, mean = by_definition(features, 2, [rarity])
    x, logit = pooled(features, 2).reshape(-1, features.dim) - mean, features.saliency().double().numpy().ravel()
    logit = logit - logit.mean()
    sigma, beta = x.T @ logit / len(x), np.linalg.lstsq(x, logit, rcond=None)[0]
    found = fit("without_head", 2, features, ConsensusSettings(target_block=3))
    np.testing.assert_allclose(found.weight, weight - (weight @ sigma) / (beta @ sigma) * beta, rtol=1e-6)
    assert (
        abs(np.corrcoef(x @ found.weight.numpy(), logit)[0, 1])
        < 1e-9
        < 1e-3
        < abs(np.corrcoef(x @ weight, logit)[0, 1])
    )


def test_without_a_component_rule_it_is_d(features, rarity):
    d = Direction.fit(features, 2, DirectionSettings(3, 0.93, 1.0, 2, 0.75))
    c = fit_consensus(features, 2, [rarity], ConsensusSettings(target_block=3, component="none"))
    np.testing.assert_allclose(c.weight, d.weight, rtol=1e-6)


@given(arrays(np.float64, (3, ROWS * COLS), elements=st.floats(0.01, 1)), st.sampled_from(["none", "peak", "mass"]))
@settings(max_examples=60, deadline=None)
def test_a_call_is_one_component_a_picture_and_holds_its_highest_token(values, component):
    try:
        kept, cut = called(torch.as_tensor(values), 0.7, component, ROWS, COLS)
    except CovtokenError:
        assert not (values > np.quantile(values, 0.7)).any()
        return
    kept = kept.numpy()
    np.testing.assert_array_equal(kept > cut, call(values, 0.7, component) > 0)
    for row, picture in zip(kept > cut, values, strict=True):
        if component == "peak" and row.any():
            assert row[picture.argmax()]
        if component != "none" and row.any():
            assert component_of(row, int(np.flatnonzero(row)[0])) == set(np.flatnonzero(row))


def test_a_tie_for_the_highest_goes_to_the_first_token_and_an_uncalled_picture_stays_empty():
    values = np.full((2, ROWS * COLS), 0.1)
    values[0, [3, 16]] = 0.9  # two components of one token, equally high
    kept, cut = called(torch.as_tensor(values), 0.9, "peak", ROWS, COLS)
    assert np.flatnonzero(kept[0] > cut).tolist() == [3] and not (kept[1] > cut).any()
    with pytest.raises(CovtokenError, match="no token of the bank lies above"):
        called(torch.ones(2, ROWS * COLS), 0.9, "peak", ROWS, COLS)


def test_mass_weighs_a_token_by_its_height_above_the_quantile_and_a_hundredth():
    values = np.full((1, ROWS * COLS), 0.82)
    values[0, 0] = 0.95  # 0.95 − 0.8 + 0.01 = 0.160
    values[0, [17, 18, 19]] = 0.846  # 3 × (0.846 − 0.8 + 0.01) = 0.168; the hundredth left out: 0.138 below 0.150
    kept, cut = called(torch.as_tensor(values), 0.8, "mass", ROWS, COLS)
    assert 0.82 < cut < 0.83  # weighed from the cut, in place of the quantile, the high token would stay
    assert np.flatnonzero(kept[0] > cut).tolist() == [17, 18, 19]


def test_two_keeps_the_two_components_whose_highest_tokens_are_highest():
    values = np.full((2, ROWS * COLS), 0.1)
    values[0, [0, 1]] = 0.7, 0.72  # three components, the largest with the lowest peak
    values[0, [4, 19]] = 0.9, 0.8
    values[1, [0, 2, 4, 14]] = 0.9, 0.8, 0.7, 0.6
    kept, cut = called(torch.as_tensor(values), 0.7, "two", ROWS, COLS)
    assert [np.flatnonzero(row > cut).tolist() for row in kept] == [[4, 19], [0, 2]]
    values[0, [4, 19]] = 0.9, 0.71  # the highest token of a component counts, and 0.72 is above 0.71
    kept, cut = called(torch.as_tensor(values), 0.7, "two", ROWS, COLS)
    assert np.flatnonzero(kept[0] > cut).tolist() == [0, 1, 4]


def test_a_tap_is_taught_by_the_real_valued_score(features, rarity):
    teacher = fit_consensus(features, 3, [rarity], ConsensusSettings(target_block=3))
    tap = taught(teacher, features, 1)
    x = pooled(features, 1).reshape(-1, features.dim)
    scores = (pooled(features, 3) @ teacher.weight.numpy()).ravel()
    alpha = 0.01 * ((x - x.mean(0)) ** 2).sum() / features.dim
    np.testing.assert_allclose(tap.weight, Ridge(alpha=alpha, solver="cholesky").fit(x, scores).coef_, rtol=1e-5)
    assert tap.header["target"] == "score at block 3" and tap.header["block"] == 1


def test_it_is_saved_and_loaded_like_a_direction(features, rarity, tmp_path):
    made = fit_consensus(features, 2, [rarity], ConsensusSettings(target_block=3))
    made.save(tmp_path / "c.safetensors")
    loaded = load_direction(tmp_path / "c.safetensors")
    assert loaded.header == made.header and torch.equal(loaded.weight, made.weight)


def test_the_scorer_is_this_direction(features, rarity):
    settings = ConsensusSettings(target_block=3)
    made = fit_consensus(features, 2, [rarity], settings)
    maps = score_maps(Recipe("consensus", 2, True, 0.5, settings=settings), features, features)
    expected = made.score(pool3x3(features.tokens(2), ROWS, COLS)).numpy()
    np.testing.assert_allclose(maps, smooth(expected, ROWS, COLS, 0.5), rtol=1e-4, atol=1e-6)
    for sources in ("rarity+head", "head", "attention", "attention+head"):
        other = score_maps(
            Recipe("consensus", 2, True, 0.5, settings=ConsensusSettings(sources, 3, attention_block=4)),
            features,
            features,
        )
        assert np.isfinite(other).all() and not np.allclose(other, maps)


def test_what_cannot_be_fitted_is_refused(features, rarity):
    with pytest.raises(CovtokenError, match="needs 2 maps, got 1"):
        fit_consensus(features, 2, [rarity], ConsensusSettings("rarity+head", 3))
    wrongs = (({"quantile": 1.0}, "quantile"), ({"inside": 2.0}, "inside"), ({"component": "peek"}, "peak"))
    for wrong, message in wrongs:
        with pytest.raises(CovtokenError, match=message):
            ConsensusSettings(**wrong)
    with pytest.raises(CovtokenError, match="unknown source of a consensus 'masks'"):
        score_maps(Recipe("consensus", 2, True, settings=ConsensusSettings("masks", 3)), features, features)
    with pytest.raises(LabelLeak):
        fit_consensus(features, 2, [(rarity > rarity.median()).float()], ConsensusSettings(target_block=3))


@pytest.mark.parametrize("component", ["none", "peak", "mass"])
def test_the_study_fits_the_same_direction(features, rarity, component):
    made = ConsensusSettings("rarity", 3, 0.9, 3.0, 2, 0.5, component)
    weights = list(Solver.of(features, 2).fits(agreed_sources([rarity], made.inside), made))
    for rounds, weight in enumerate(weights):
        one = fit_consensus(features, 2, [rarity], replace(made, rounds=rounds))
        np.testing.assert_allclose(weight, one.weight, rtol=1e-6)
