"""The reason for the unit bootstrap: on clustered tokens it covers near 95 %, and DeLong on tokens does not."""

from __future__ import annotations

import pytest

from covtoken.errors import CovtokenError
from covtoken.evaluation.stats import clopper_pearson
from covtoken.studies.interval_coverage import simulate

SLACK = 0.999  # level of the binomial intervals: what the number of runs leaves open


@pytest.mark.slow
def test_the_unit_bootstrap_covers_where_delong_does_not():
    found = simulate(500)
    low, high = clopper_pearson(found.bootstrap, found.n_runs, SLACK)
    assert low <= 0.95 and high >= 0.93, f"unit bootstrap covers {found.bootstrap / found.n_runs:.3f}"
    assert 0.9 < found.se_bootstrap / found.se_true < 1.1
    assert clopper_pearson(found.delong, found.n_runs, SLACK)[1] < 0.85
    assert found.se_delong / found.se_true < 0.8


@pytest.mark.slow
def test_both_cover_independent_tokens():
    """The control: without unit effects DeLong is right, so its failure above is the clustering."""
    found = simulate(300, unit_sd=0.0)
    for held in (found.bootstrap, found.delong):
        low, high = clopper_pearson(held, found.n_runs, SLACK)
        assert low <= 0.95 and high >= 0.93
    assert 0.85 < found.se_delong / found.se_true < 1.15


def test_runs_repeat_and_nonsense_is_refused():
    assert simulate(3, 8, 6, n_draws=50) == simulate(3, 8, 6, n_draws=50)
    with pytest.raises(CovtokenError, match="share in 0…1"):
        simulate(3, lesion_share=1.5)
