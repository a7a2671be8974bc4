"""The promise itself, by simulation: 1,000 calibration sets against the laws that coverage must follow.

Needs are uniform on (0, 1), so that the certified need of a calibration set is its coverage. Seeds are fixed; the
bands are wide enough (four standard errors, or p > .001) that only a wrong index or form leaves them.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from covtoken.economy.certificate.bounds import (
    allowed_misses,
    expected_risk_bound,
    rank_bound,
    threshold_bound,
)
from covtoken.economy.certificate.correction import learn_then_test, ratio_grid
from covtoken.economy.certificate.law import (
    coverage_interval,
    coverage_law,
    resplits,
    retained_law,
    share_interval,
)
from covtoken.errors import CovtokenError

DRAWS, M = 1000, 100
GRID = [(n, alpha) for n in (20, 50, 100, 500) for alpha in (0.05, 0.1, 0.2)]


def drawn(n, alpha, form="rank", seed=0):
    """Coverage of each of 1,000 calibration sets [draws], exact, for continuous needs."""
    needs = np.random.default_rng([n, int(100 * alpha), seed]).random((DRAWS, n))
    return rank_bound(needs, alpha) if form == "rank" else -threshold_bound(-needs, alpha)


@pytest.mark.parametrize("form", ["rank", "threshold"])
@pytest.mark.parametrize(("n", "alpha"), GRID)
def test_coverage_follows_its_beta(n, alpha, form):
    coverage, law = drawn(n, alpha, form), coverage_law(n, alpha)
    assert kstest(coverage, law.cdf).pvalue > 1e-3
    assert law.mean() >= 1 - alpha - 1e-12  # the promise, exactly
    assert abs(coverage.mean() - law.mean()) < 4 * law.std() / np.sqrt(DRAWS)


@pytest.mark.parametrize(("n", "alpha"), [(n, alpha) for n, alpha in GRID if n < 500])
def test_one_index_off_leaves_the_law(n, alpha):
    """The test above can fail: the neighbouring order statistics, which a wrong rounding would take, are told apart."""
    needs = np.sort(np.random.default_rng(n).random((DRAWS, n)), axis=1)
    place = n - allowed_misses(n, alpha)
    for other in {max(place - 1, 0), min(place + 1, n - 1)} - {place}:
        assert kstest(needs[:, other], coverage_law(n, alpha).cdf).pvalue < 1e-3


@pytest.mark.parametrize(("n", "alpha"), GRID)
def test_the_retained_share_of_new_units_follows_its_beta_binomial(n, alpha):
    rng = np.random.default_rng([n, 7])
    kept = (rng.random((DRAWS, M)) <= drawn(n, alpha, seed=1)[:, None]).sum(axis=1)
    law = retained_law(n, alpha, M)
    assert abs(kept.mean() - law.mean()) < 4 * law.std() / np.sqrt(DRAWS)
    edges = np.unique(law.ppf(np.arange(1, 8) / 8))
    edges = edges[edges < M]  # cells (−1, e₁], (e₁, e₂], …, of about an eighth each
    expected = np.diff(np.concatenate([[0], law.cdf(edges), [1]])) * DRAWS
    assert chisquare(np.bincount(np.searchsorted(edges, kept), minlength=len(edges) + 1), expected).pvalue > 1e-3
    low, high = share_interval(n, alpha, M)
    assert ((kept / M >= low) & (kept / M <= high)).mean() > 0.95 - 4 * np.sqrt(0.95 * 0.05 / DRAWS)


@pytest.mark.parametrize("levels", [3, 8])
@pytest.mark.parametrize(("n", "alpha"), GRID)
def test_ties_can_only_raise_coverage(n, alpha, levels):
    needs = np.random.default_rng([n, levels]).integers(1, levels + 1, (DRAWS, n))
    for bound in (rank_bound(needs, alpha), -threshold_bound(-needs, alpha)):
        coverage = np.round(bound) / levels
        error = 4 * np.sqrt(0.25 / DRAWS)
        assert coverage.mean() >= 1 - alpha
        for level in np.unique(coverage):  # stochastically above the Beta, at every level
            assert (coverage <= level).mean() <= coverage_law(n, alpha).cdf(level) + error
        low, _ = coverage_interval(n, alpha)
        assert (coverage < low).mean() <= 0.025 + 4 * np.sqrt(0.025 * 0.975 / DRAWS)


def test_expected_laws_by_hand():
    law = coverage_law(19, 0.1)  # l = 2
    assert law.mean() == pytest.approx(18 / 20) and law.args == (18, 2)
    assert coverage_law(9, 0.1).cdf(0.5) == pytest.approx(0.5**9)  # the largest of nine
    low, high = coverage_interval(9, 0.1)
    assert (low, high) == pytest.approx((0.025 ** (1 / 9), 0.975 ** (1 / 9)))
    assert retained_law(9, 0.1, 1).pmf(1) == pytest.approx(0.9)
    assert share_interval(500, 0.1, 50)[0] < 0.9 < share_interval(500, 0.1, 50)[1]
    with pytest.raises(CovtokenError, match="honest answer"):
        coverage_law(8, 0.1)
    with pytest.raises(CovtokenError, match="m = 0"):
        retained_law(9, 0.1, 0)


def lesion_losses(rng, n_tokens=100, n=100, size=6):
    """1 − recall [draws, n, K] at ``ratio_grid``, of units whose tokens rank as T·uᵍ, g of each unit 1, 2 or 4."""
    ks = ratio_grid(n_tokens)
    power = rng.choice([1, 2, 4], (300, n, 1))
    ranks = np.sort(np.ceil(n_tokens * rng.random((300, n, size)) ** power), axis=2)
    lost = np.zeros((300, n, len(ks)))
    for i in range(size):
        lost += ranks[:, :, i, None] > ks
    risk = 1 - np.mean([(ks / n_tokens) ** (1 / g) for g in (1, 2, 4)], axis=0)
    return lost / size, risk


def test_risk_control_keeps_its_promises():
    losses, risk = lesion_losses(np.random.default_rng(0))
    for alpha in (0.1, 0.2, 0.4):
        expected = risk[expected_risk_bound(losses, alpha)]
        assert expected.mean() <= alpha + 4 * expected.std() / np.sqrt(len(losses))
        assert expected.mean() > alpha - 0.03, "not by keeping all"
        shown = risk[learn_then_test(losses, alpha, 0.1)]
        assert (shown > alpha).mean() <= 0.1 + 4 * np.sqrt(0.09 / len(losses))
        assert shown.mean() > alpha - 0.15 and shown.mean() < expected.mean()


def test_new_units_of_another_kind_are_not_covered():
    """Exchangeability broken on purpose: new lesions are harder than those that calibrated."""
    n, alpha = 100, 0.1
    coverage = drawn(n, alpha) ** 2  # new needs √u: P(√u ≤ q) = q²
    assert coverage.mean() < 1 - alpha - 0.05
    assert (coverage < coverage_interval(n, alpha)[0]).mean() > 0.5


def test_calibrating_by_picture_does_not_cover_patients():
    """A patient of five pictures is retained only if all are; pictures as units promise a picture, not a patient."""
    n, alpha = 100, 0.1
    rng = np.random.default_rng(3)
    patients = rng.random((DRAWS, n, 5))
    by_picture = rank_bound(patients.reshape(DRAWS, -1), alpha) ** 5
    by_patient = rank_bound(patients.max(axis=2), alpha) ** 5
    assert by_picture.mean() < 0.7 and by_patient.mean() >= 1 - alpha
    assert kstest(by_patient, coverage_law(n, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("form", ["rank", "threshold"])
def test_resplits(form):
    rng = np.random.default_rng(0)
    values, names = rng.random(120), [f"unit {i}" for i in range(120)]
    found = resplits(values, names, 0.1, 60, form)
    assert found.coverage.shape == found.setting.shape == (200,)
    assert abs(found.coverage.mean() - 0.9) < 0.03 and found.coverage.std() > 0.01
    assert len(set(found.setting.tolist())) > 5 and set(found.setting) <= set(values)
    order = rng.permutation(120)
    again = resplits(values[order], [names[i] for i in order], 0.1, 60, form)
    assert (again.coverage == found.coverage).all() and (again.setting == found.setting).all()
    held = values <= found.setting[0] if form == "rank" else values >= found.setting[0]
    assert held.sum() - 60 * found.coverage[0] == pytest.approx(55)  # of the 60 that calibrate, 61 − 6 are retained


def test_resplits_refuse():
    with pytest.raises(CovtokenError, match="honest answer"):
        resplits(np.ones(20), [str(i) for i in range(20)], 0.1, 5)
    with pytest.raises(CovtokenError, match="1 distinct names of 20"):
        resplits(np.ones(20), ["a"] * 20, 0.1, 10)
    with pytest.raises(CovtokenError, match="fewer calibration units"):
        resplits(np.ones(10), [str(i) for i in range(10)], 0.1, 10)
