"""Statistics against definitions and independent libraries."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from covtoken.errors import CovtokenError
from covtoken.evaluation.froc import _births, _peaks
from covtoken.evaluation.stats import (
    UnitWins,
    aupr,
    aupr_draws,
    auroc,
    clopper_pearson,
    delong,
    froc,
    image_auroc,
    interval,
    mean_draws,
    unit_draws,
)


@pytest.fixture
def tokens():
    """12 pictures of 7 units with ties; unit 3 holds no lesion, nor does picture 5; some tokens are masked."""
    rng = np.random.default_rng(1)
    unit = np.array([0, 0, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6])
    positive = rng.random((12, 40)) < 0.15
    positive[unit == 3] = False
    positive[5] = False
    scores = np.round(rng.normal(size=(12, 40)) + positive, 1).astype(np.float32)
    return scores, positive, unit, rng.random((12, 40)) < 0.9


def naive(function, scores, positive, unit, mask, row):
    """What a draw means: the drawn units' tokens, concatenated as often as drawn."""
    pictures = np.concatenate([np.tile(np.flatnonzero(unit == u), int(times)) for u, times in enumerate(row)])
    pictures = pictures.astype(int)
    return function(positive[pictures][mask[pictures]], scores[pictures][mask[pictures]])


def test_auroc_and_aupr_agree_with_scikit_learn(tokens):
    scores, positive, _, mask = tokens
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive.ravel(), scores.ravel()), abs=1e-12)
    assert auroc(scores, positive, mask) == pytest.approx(roc_auc_score(positive[mask], scores[mask]), abs=1e-12)
    assert aupr(scores, positive, mask) == pytest.approx(
        average_precision_score(positive[mask], scores[mask]), abs=1e-12
    )
    assert np.isnan(auroc(scores[5], positive[5]))
    assert auroc(np.zeros(4), np.array([0, 1, 0, 1], bool)) == 0.5


def test_unit_wins_equal_concatenated_draws(tokens):
    scores, positive, unit, mask = tokens
    weights = unit_draws(7, 50, seed=3)
    wins = UnitWins(scores, positive, unit, mask)
    expected = [naive(roc_auc_score, scores, positive, unit, mask, row) for row in weights]
    np.testing.assert_allclose(wins.auroc(weights), expected, atol=1e-12)
    assert wins.auroc() == pytest.approx(auroc(scores, positive, mask), abs=1e-12)
    i, j = 0, 3
    a = scores[unit == i][positive[unit == i] & mask[unit == i]]
    b = scores[unit == j][~positive[unit == j] & mask[unit == j]]
    assert wins.M[i, j] == ((a[:, None] > b).sum() + (a[:, None] == b).sum() / 2)
    assert (wins.M[3] == 0).all() and wins.p[3] == 0


def test_flat_and_gridded_tokens_give_one_matrix(tokens):
    scores, positive, unit, _ = tokens
    flat = UnitWins(scores.ravel(), positive.ravel(), np.repeat(unit, 40), n_units=9)
    np.testing.assert_array_equal(flat.M[:7, :7], UnitWins(scores, positive, unit).M)
    assert flat.M.shape == (9, 9)


def test_a_draw_without_positives_is_nan(tokens):
    scores, positive, unit, _ = tokens
    weights = np.zeros((1, 7))
    weights[0, 3] = 7
    assert np.isnan(UnitWins(scores, positive, unit).auroc(weights)).all()
    assert np.isnan(aupr_draws(scores, positive, unit, weights)).all()
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)


def test_aupr_draws_equal_concatenated_draws(tokens):
    scores, positive, unit, mask = tokens
    weights = unit_draws(7, 40, seed=5)
    expected = [naive(average_precision_score, scores, positive, unit, mask, row) for row in weights]
    np.testing.assert_allclose(aupr_draws(scores, positive, unit, weights, mask), expected, atol=1e-12)


def test_aupr_draws_do_not_depend_on_chunks():
    rng = np.random.default_rng(0)
    positive = rng.random(6000) < 0.5
    scores = rng.normal(size=6000) + positive
    weights = np.ones((2000, 4))  # 2,000 draws: about 1,000 distinct scores a chunk
    values = aupr_draws(scores, positive, np.arange(6000) % 4, weights)
    np.testing.assert_allclose(values, average_precision_score(positive, scores), atol=1e-12)


def test_image_auroc_and_its_draws(tokens):
    scores, positive, unit, mask = tokens
    values = image_auroc(scores, positive, mask)
    assert np.isnan(values[[5, 6, 7]]).all() and np.isfinite(np.delete(values, [5, 6, 7])).all()
    assert values[0] == pytest.approx(roc_auc_score(positive[0][mask[0]], scores[0][mask[0]]))
    weights = unit_draws(7, 30, seed=2)
    for row, value in zip(weights, mean_draws(values, unit, weights)):
        drawn = np.concatenate([np.tile(values[unit == u], int(times)) for u, times in enumerate(row)])
        assert value == pytest.approx(np.nanmean(drawn), abs=1e-12)


def test_unit_draws_are_seeded_counts():
    weights = unit_draws(30, 500, seed=1)
    assert weights.shape == (500, 30) and (weights.sum(1) == 30).all()
    np.testing.assert_array_equal(weights, unit_draws(30, 500, seed=1))
    assert weights.var() == pytest.approx(1 - 1 / 30, rel=0.1)


def test_bad_input_is_refused_by_name(tokens):
    scores, positive, unit, _ = tokens
    with pytest.raises(CovtokenError, match="NaN"):
        auroc(np.full(3, np.nan), np.ones(3, bool))
    with pytest.raises(CovtokenError, match="one shape"):
        auroc(np.zeros(3), np.ones(4, bool))
    with pytest.raises(CovtokenError, match="integers"):
        UnitWins(scores, positive, unit.astype(str))
    with pytest.raises(CovtokenError, match=r"\[draws, 7\]"):
        UnitWins(scores, positive, unit).auroc(np.ones((3, 6)))


def delong_by_definition(scores, positive):
    """AUROC and standard error from the m × n kernel itself."""
    over, under = scores[positive][:, None], scores[~positive]
    kernel = (over > under) + 0.5 * (over == under)
    m, n = kernel.shape
    return kernel.mean(), np.sqrt(np.var(kernel.mean(1), ddof=1) / m + np.var(kernel.mean(0), ddof=1) / n)


def test_delong_equals_its_definition(tokens):
    scores, positive, _, _ = tokens
    a, labels = scores.ravel(), positive.ravel()
    tied = np.round(a + np.random.default_rng(0).normal(size=len(a)), 1)
    for one in (a, tied):
        area, se = delong_by_definition(one, labels)
        found = delong(one, labels)
        assert found.auroc == pytest.approx(area, abs=1e-12) and found.se == pytest.approx(se, rel=1e-9)
        lo, hi = found.interval()
        assert (lo + hi) / 2 == pytest.approx(area) and hi - lo == pytest.approx(2 * 1.959964 * se, rel=1e-6)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (98, 100)])
def test_clopper_pearson_agrees_with_statsmodels(k, n):
    assert clopper_pearson(k, n) == pytest.approx(proportion_confint(k, n, method="beta"), abs=1e-12)


def births(scores, lesion, ignore):
    """The births of one picture, as ``_births`` returns them."""
    top, tied = _peaks(scores[None])
    return _births(scores, top[0], tied[0], lesion, ignore)


def test_births_are_the_components_that_appear_as_the_threshold_falls():
    """Oracle: label the tokens above every threshold; a component that holds none of an earlier one was just born."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        scores = rng.integers(0, 8, (8, 9)).astype(float)
        nothing = np.zeros(72, bool)
        values, wrong, _ = births(scores, nothing, nothing)
        expected, before = [], np.zeros((8, 9), bool)
        for threshold in np.unique(scores)[::-1]:
            now = scores >= threshold
            parts, n = ndimage.label(now, structure=np.ones((3, 3)))
            expected += [threshold for part in range(1, n + 1) if not before[parts == part].any()]
            before = now
        assert sorted(values) == sorted(expected) and wrong.all()


def test_froc_operating_points():
    maps = np.zeros((2, 5, 5))
    maps[0, [0, 2, 4], [0, 2, 4]] = 5, 4, 3  # a false positive, the lesion, a false positive
    maps[1, [0, 0, 4], [0, 4, 0]] = 4.5, 2, 1  # three false positives in a picture without lesion
    lesion, ignore = np.zeros((2, 2, 25), bool)
    lesion[0, 12] = True
    lesions = [SimpleNamespace(picture=0, tokens=np.array([12, 13]))]
    labels = SimpleNamespace(lesion=lesion, ignore=ignore, lesions=lesions)
    tight, one, many = froc(maps, labels, (0.5, 1, 4)).values()
    assert (tight.fp_per_image, tight.sensitivity) == (0.5, 0.0) and tight.threshold > 4.5
    assert (one.fp_per_image, one.sensitivity) == (1.0, 1.0) and 3 < one.threshold <= 4
    assert (many.fp_per_image, many.sensitivity) == (2.5, 1.0)
    ignore[0, 0] = True  # an ignored token alone is no false positive
    assert froc(maps, labels, (0.5,))[0.5].sensitivity == 1  # 4.5 is now the one that is allowed
    with pytest.raises(CovtokenError, match="rows, cols"):
        froc(maps.reshape(2, 25), labels)


def test_froc_gives_nothing_for_a_smooth_map_that_covers_the_picture():
    maps = np.broadcast_to(-np.hypot(*np.mgrid[-4:5, -4:5])[None], (3, 9, 9)).copy()  # one peak, in the middle
    lesion, ignore = np.zeros((2, 3, 81), bool)
    lesion[:, 0] = True
    lesions = [SimpleNamespace(picture=i, tokens=np.array([0])) for i in range(3)]
    points = froc(maps, SimpleNamespace(lesion=lesion, ignore=ignore, lesions=lesions), (1, 4))
    assert points[4].sensitivity == 0


def test_a_constant_map_is_one_birth():
    values, wrong, _ = births(np.ones((4, 4)), np.zeros(16, bool), np.zeros(16, bool))
    assert values.tolist() == [1.0] and wrong.tolist() == [True]
