"""Each gate's rule at its edges: which bound decides, against what, and how few units decide nothing."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from covtoken.coverage.functionals import FUNCTIONALS
from covtoken.economy.keep import RATIOS
from covtoken.evaluation.measure import Measured
from covtoken.gates import gate1, gate2, gate3, gate4, gate5, negative_result
from covtoken.protocol.plan import FEW_UNITS

MANY = (FEW_UNITS, 50, 1000)
FEW = (FEW_UNITS - 1, 50, 1000)


def measured(intervals, n=MANY, **more):
    """Metrics whose 95 % intervals are those given."""
    out = Measured(n)
    for name, (low, high) in intervals.items():
        out.add(name, (low + high) / 2, np.array([low] * 500 + [high] * 500), n)
        out.more[name] = dict(more)
    return out


GATE1 = {
    "auroc.recommended": (0.81, 0.9),
    "auroc.density": (0.7, 0.8),
    "auroc_gain.middle_minus_final": (0.01, 0.1),
    "auroc_gain.recommended_minus_random": (-0.1, 0.1),
}


@pytest.mark.parametrize(
    ("change", "n", "decision"),
    [
        ({}, MANY, "GO"),
        ({"auroc.recommended": (0.79, 0.9)}, MANY, "NO-GO"),  # the value lies above the threshold, the bound does not
        ({"auroc_gain.middle_minus_final": (-0.01, 0.2)}, MANY, "NO-GO"),
        ({}, FEW, "NO-VERDICT"),
    ],
)
def test_gate_1_decides_on_lower_bounds(change, n, decision):
    found, checks = gate1.decide(measured(GATE1 | change, n), 0.8, n[0])
    assert found == decision and checks["auroc.recommended_against_random"] == "undecided"


GATE2 = {f"spearman.{name}.keep{ratio:g}": (0.1, 0.5) for name, ratio in product(gate2.MEASURES, RATIOS)}
RANKME, CONTROL = (f"spearman.{name}.{gate2.DECIDING}" for name in ("rankme", "control"))


@pytest.mark.parametrize(
    ("change", "n", "decision"),
    [
        ({RANKME: (0.8, 0.9)}, MANY, "GO"),
        ({RANKME: (0.7, 0.9)}, MANY, "NO-GO"),  # the upper bound reaches the threshold, the lower does not
        ({RANKME: (0.8, 0.9), CONTROL: (-0.1, 0.9)}, MANY, "NO-VERDICT"),
        ({RANKME: (0.8, 0.9)}, FEW, "NO-VERDICT"),
    ],
)
def test_gate_2_decides_on_the_lower_bound_of_rankme_where_the_control_holds(change, n, decision):
    found, checks = gate2.decide(measured(GATE2 | change, n, p_holm=0.01), 0.8)
    assert found == decision
    assert {checks[f"{name}.keep{ratio:g}"] for name, ratio in product(FUNCTIONALS, RATIOS)} == {"follows recall"}


@pytest.mark.parametrize(
    ("gain", "p", "n", "decision", "word"),
    [
        ((0.01, 0.2), 0.05, MANY, "GO", "wins"),
        ((0.01, 0.2), 0.0625, MANY, "NO-GO", "undecided"),  # five units of one direction
        ((-0.01, 0.2), 0.01, MANY, "NO-GO", "undecided"),
        ((-0.2, -0.01), 0.01, MANY, "NO-GO", "loses"),
        ((0.01, 0.2), 0.01, FEW, "NO-VERDICT", "wins"),
    ],
)
def test_gate_3_needs_the_interval_and_the_exact_sign_test_and_its_check_says_the_same(gain, p, n, decision, word):
    intervals = {gate3.DECIDES: gain, f"miss_small.recommended.{gate3.DECIDING}": (0.0, 0.1)}
    found, checks = gate3.decide(measured(intervals, n, p_holm=0.2, p_exact=p), 0.2)
    assert found == decision and checks["miss.recommended_against_attention_best"] == word
    assert checks["recommended_beats_attention"] == (word == "wins")


def gate4_metrics(cv, met):
    names = product(("dual", "repaired"), (("mu_cv", cv), ("constraint_met", met), ("mu_falls", 1.0)))
    return measured({f"{schedule}.{name}": (value, value) for schedule, (name, value) in names})


@pytest.mark.parametrize(
    ("cv", "met", "n_units", "decision"),
    [
        (0.2, 0.95, FEW_UNITS, "GO"),
        (0.21, 0.95, FEW_UNITS, "NO-GO"),
        (0.2, 0.94, FEW_UNITS, "NO-GO"),
        (0.2, 0.95, FEW_UNITS - 1, "NO-VERDICT"),
    ],
)
def test_gate_4_asks_for_a_stable_price_and_a_floor_that_holds(cv, met, n_units, decision):
    assert gate4.decide(gate4_metrics(cv, met), n_units)[0] == decision


@pytest.mark.parametrize(
    ("low", "bank_fits", "n", "decision"),
    [
        (0.81, True, MANY, "GO"),
        (0.79, True, MANY, "NO-GO"),
        (0.81, False, MANY, "NO-GO"),
        (0.81, True, FEW, "NO-VERDICT"),
    ],
)
def test_gate_5_asks_for_the_bound_and_for_a_transfer(low, bank_fits, n, decision):
    metrics = measured({f"auroc.recommended.{gate5.DECIDING}": (low, 0.95)}, n)
    checks = {"bank_fits": bank_fits, "recipe_chosen_elsewhere": True}
    assert gate5.decide(metrics, 0.8, checks)[0] == decision


NEGATIVE = {f"recall_gain.membership_minus_{name}": (0.01, 0.2) for name in negative_result.NAMED}
NEGATIVE |= {"spectrum.lesion_minus_background": (-0.1, 0.1)}
NEGATIVE |= {f"constraint_met.rankme.{name}": (1.0, 1.0) for name in ("repaired", "dual")}


@pytest.mark.parametrize(
    ("change", "n", "decision"),
    [
        ({}, MANY, "GO"),
        ({"recall_gain.membership_minus_coverage_greedy": (-0.01, 0.2)}, MANY, "NO-GO"),
        ({"recall_gain.membership_minus_coverage_repaired": (-0.01, 0.2)}, MANY, "NO-GO"),
        ({}, FEW, "NO-VERDICT"),
    ],
)
def test_the_negative_result_needs_both_the_repaired_and_the_greedy_comparison(change, n, decision):
    assert negative_result.decide(measured(NEGATIVE | change, n))[0] == decision
