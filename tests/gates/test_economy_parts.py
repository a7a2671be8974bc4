"""The parts of gate 6: scores at taps, certificates against a direct computation, and the checks of a route."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from stub_economy import N_TOKENS, narrow, plan, records, small_cohort
from stub_features import StubFeatures

from covtoken.bank.pooling import smooth
from covtoken.economy.certificate import MadeBy
from covtoken.economy.passes import plain_pass
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.evaluation.records import to_float16
from covtoken.gates import gate6
from covtoken.gates.economy import certificates, running
from covtoken.gates.economy.taps import FITS, OURS, RIVALS, SCORES, blocks_of, fit_taps, needed_blocks
from covtoken.leak_guard import LabelLeak
from covtoken.protocol.setting import Setting
from covtoken.scores.memberships import density, fit
from covtoken.scores.recipe import Recipe, at_depth, fixed_recipes
from covtoken.scores.scorers import score_maps
from covtoken.subspace.consensus import taught

TAPS = (1, 2, 3)  # of 6 blocks, at a quarter, a third and half of the depth


@pytest.fixture(scope="module")
def bank():
    return StubFeatures.of(12, prefix="b", blocks=range(1, 7))


@pytest.fixture(scope="module")
def shown():
    return StubFeatures.of(4, prefix="q", blocks=range(1, 7))


@pytest.fixture(scope="module")
def with_head():
    recipes = plan().recipes | fixed_recipes(6, has_head=True) | {"head_student": Recipe("head_student", 3, True, 0.5)}
    return replace(plan(), recipes=recipes)


@pytest.fixture(scope="module")
def taps(bank, with_head):
    return fit_taps(with_head, bank, 6)


def same(found, wanted) -> bool:
    return torch.equal(found.weight, wanted.weight) and torch.equal(found.mean, wanted.mean)


def test_every_score_stands_at_every_tap(taps):
    assert blocks_of(6) == list(TAPS) and blocks_of(12) == [3, 4, 6] and blocks_of(24) == [6, 8, 12]
    assert (*OURS, *FITS, *RIVALS) == SCORES
    assert taps.keys() == {f"{name}.block{block}" for name in SCORES for block in TAPS}
    assert all(tap.key == key for key, tap in taps.items())
    assert not {"direction", "recommended", "density", "density_1000"} & set(RIVALS), "a search sets no threshold"


def test_a_taught_score_is_the_teachers_own_at_its_block(taps, bank, with_head):
    for name in ("recommended", "attention_fit", "attention_head_fit"):
        recipe = with_head.recipes[name]
        teacher = fit(recipe.scorer, recipe.block, bank, recipe.settings)
        assert recipe.block == 3 and same(taps[f"{name}.block3"].direction, teacher)
        assert taps[f"{name}.block3"].recipe == recipe
        for block in (1, 2):
            tap = taps[f"{name}.block{block}"]
            assert same(tap.direction, taught(teacher, bank, block))
            assert tap.recipe == replace(recipe, block=block, sigma=0.5)


def test_the_direction_is_fitted_anew_and_the_student_pools_at_each_tap(taps, bank, with_head):
    recipe = with_head.recipes["direction"]
    for block in TAPS:
        tap = taps[f"direction.block{block}"]
        assert same(tap.direction, fit("direction", block, bank, recipe.settings))
        assert tap.recipe == replace(recipe, block=block)
        student = taps[f"head_student.block{block}"]
        assert student.recipe == Recipe("head_student", block, True, 0.5) and student.direction.header["pooled"]
        assert student.direction.header["target"] == "saliency logit"


def test_maps_are_float16_values_of_the_score(taps, bank, shown, with_head):
    for name in ("attention_best", "centre_prior", "random"):
        recipe = with_head.recipes[name]
        recipe = recipe if recipe.block is None else replace(recipe, block=2)
        wanted = to_float16(score_maps(recipe, bank, shown))
        np.testing.assert_array_equal(taps[f"{name}.block2"].maps(bank, shown), wanted.astype(np.float32))
    found = taps["density.block2"].maps(bank, shown)
    wanted = smooth(density(2, False, bank, shown, 0, None), 4, 5, 0.5)
    np.testing.assert_array_equal(found, to_float16(wanted).astype(np.float32))
    for tap in taps.values():
        maps = tap.maps(bank, shown)
        assert maps.dtype == np.float32 and maps.shape == (12, 20)
        np.testing.assert_array_equal(maps, maps.astype(np.float16))


def test_costs_are_one_vector_a_direction_the_bank_a_search_and_nothing_a_given_map(taps):
    for key, tap in taps.items():
        if tap.name in ("attention_best", "centre_prior", "random"):
            assert tap.n_compared == 0
            with pytest.raises(CovtokenError, match="no function of the tap's tokens"):
                _ = tap.score
        else:
            assert tap.n_compared == (len(tap.bank) if "density" in key else 1)


def test_a_search_compares_with_12000_or_1000_tokens():
    bank = StubFeatures.of(13, prefix="b", rows=20, cols=20, dim=4, blocks=range(1, 4))  # 15,600 tokens
    found = fit_taps(plan(), bank, 6, ("density", "density_1000"))
    for block in TAPS:
        for name, n in (("density", 12_000), ("density_1000", 1_000)):
            tap = found[f"{name}.block{block}"]
            assert tap.n_compared == len(tap.bank) == n and tap.header["block"] == block


def test_a_route_searches_what_the_maps_searched(taps, bank):
    """On the square grid of a model the score of a stage, smoothed, is the map of pictures outside the bank."""
    square = StubFeatures.of(4, prefix="q", rows=4, cols=4, blocks=range(1, 4))
    for pooled in (False, True):
        tap = taps["density.block2"]
        tap = replace(tap, recipe=replace(tap.recipe, pooled=pooled))
        scores = smooth(tap.score(square.tokens(2)).numpy(), 4, 4, tap.recipe.sigma)
        np.testing.assert_allclose(tap.maps(bank, square), to_float16(scores), atol=2e-3)


def test_needed_blocks_hold_taps_teachers_and_targets():
    tokens, attention = needed_blocks(plan(), 6)
    assert tokens == [1, 2, 3, 4] and attention == [1, 2, 3, at_depth(11, 6)]


def test_labels_and_pictures_that_a_mask_chose_are_refused(bank, with_head):
    made, lesion = bank.made(), torch.zeros(36, 20)
    lesion[:, 7:9] = 1
    chosen = made.subset(np.arange(36) % 3 > 0)
    for name in ("recommended", "direction", "density", "head_student"):
        with pytest.raises(LabelLeak, match="mask chose"):
            fit_taps(with_head, chosen, 6, [name])

    class Leaking(StubFeatures):
        def tokens(self, block):
            return lesion[: len(self), :, None].repeat(1, 1, 8)

        def saliency(self):
            return lesion[: len(self)]

        def subset(self, indices):
            return Leaking([self.names[i] for i in indices], blocks=self.blocks)

    leaking = Leaking(bank.names, blocks=bank.blocks)
    for name in ("recommended", "direction", "head_student", "density_1000"):
        with pytest.raises(LabelLeak):
            fit_taps(with_head, leaking, 6, [name])


@pytest.mark.parametrize("alpha", certificates.ALPHAS)
def test_a_certificate_is_what_a_direct_computation_gives(alpha):
    rng = np.random.default_rng(3)
    needs, calibration = rng.integers(1, 65, 30), rng.integers(1, 65, 39)
    made = records(needs, calibration)
    n, m = 39, 30
    k = np.sort(calibration)[int(np.ceil((n + 1) * (1 - alpha) - 1e-9)) - 1]
    row = certificates.certificate_row(made, "recommended.block1", "rank", alpha)
    assert (row["n"], row["m"], row["vacuous"], row["setting"]) == (n, m, False, k)
    assert row["retained"] == (needs <= k).sum() and row["coverage"] == row["retained"] / m
    assert row["keep"] == k / N_TOKENS
    misses = int(np.floor((n + 1) * alpha + 1e-9))
    law = betabinom(m, n + 1 - misses, misses)
    assert row["law"] == [law.ppf(0.025) / m, law.ppf(0.975) / m]
    cut = np.sort(made["calibration/threshold/recommended.block1"])[misses - 1]
    row = certificates.certificate_row(made, "recommended.block1", "threshold", alpha)
    assert row["setting"] == cut
    assert row["coverage"] == (made["threshold/recommended.block1"] >= cut).mean()
    assert row["keep"] == (made["scores"] >= cut).mean()


def test_a_unit_needs_what_its_worst_lesion_needs():
    made = records(needs=(5, 9, 7), calibration=range(1, 20))
    arrays = made.arrays | {"lesion/picture": np.array([0, 1, 1]), "threshold/recommended.block1": np.array([3, 1, 2])}
    made = replace(made, arrays=arrays)
    assert certificates.sides(made, "recommended.block1", "rank")[1].tolist() == [5, 9]
    assert certificates.sides(made, "recommended.block1", "threshold")[1].tolist() == [3, 1]


def test_too_few_units_certify_nothing():
    for n, vacuous in ((8, True), (9, False)):  # 1 ÷ 0.1 − 1
        row = certificates.certificate_row(records(calibration=range(1, n + 1)), "recommended.block1", "rank", 0.1)
        assert row["vacuous"] is vacuous and ("coverage" in row) is not vacuous
    rows = certificates.certificate_rows(records(calibration=range(1, 20)))
    assert [(row["form"], row["alpha"], row["vacuous"]) for row in rows] == [
        (form, alpha, False) for form in ("rank", "threshold") for alpha in (0.05, 0.1, 0.2)
    ]


def test_strata_have_their_own_bounds():
    found = {row["stratum"]: row for row in certificates.strata_rows(records(calibration=range(1, 36)))}
    small, other = np.arange(1, 36, 2), np.arange(2, 36, 2)  # 18 and 17 units
    for name, needs in (("small", small), ("other", other)):
        wanted = np.sort(needs)[int(np.ceil((len(needs) + 1) * 0.9 - 1e-9)) - 1]
        assert (found[name]["n"], found[name]["setting"]) == (len(needs), wanted)
    few = certificates.strata_rows(records(calibration=range(1, 18)))
    assert [(row["n"], row["setting"] is None) for row in few] == [(8, True), (9, False)]


@pytest.fixture(scope="module")
def route(tmp_path_factory):
    """A route by C−, on a narrow model, with the certificate of twelve units."""
    cohort = small_cohort(tmp_path_factory.mktemp("masks"), 24)
    setting = Setting(cohort, "all", narrow(), cache=False, progress=False)
    bank = setting.features(cohort.cases[:12], *needed_blocks(plan(), 6), False)
    taps = fit_taps(plan(), bank, 6, ("recommended", "density_1000"))
    return SimpleNamespace(setting=setting, taps=taps, bank=bank, cases=cohort.cases)


CHECKS = {
    "dropped_cls": "route_is_the_masked_pass",
    "uncounted_search": "all_work_is_counted",
    "foreign_certificate": "certificate_fits",
}


@pytest.mark.parametrize("key", ["recommended.block1", "density_1000.block2"])
def test_each_planted_defect_turns_its_own_check_and_no_other(route, key):
    tap, plain = route.taps[key], plain_pass(route.setting.vit)
    made = running.Route.of(route.setting, tap, 20, route.cases[:12], lambda images, *_: plain.run(images))
    assert made.maps.header["blocks"] == [tap.block] and made.stage.k == 20
    made_by = MadeBy.from_header(tap.header, key)
    cases = route.cases[12:]
    features = route.setting.features(cases, [tap.block], [], False)
    certificate = running.certificate_of(
        tap.maps(route.bank, features), label(cases, route.setting.cohort, 8, 8), made_by
    )
    assert set(gate6.DEFECTS) == set(CHECKS)
    assert made.checks(cases[:2], made_by, certificate, None) == dict.fromkeys(CHECKS.values(), True)
    for defect, check in CHECKS.items():
        found = made.checks(cases[:2], made_by, certificate, defect)
        assert found == {name: name != check for name in CHECKS.values()}, defect
    if tap.bank is not None:
        made = replace(made, stage=replace(made.stage, n_compared=0))
    assert made.checks(cases[:2], made_by, None, None) == {
        "route_is_the_masked_pass": True,
        "all_work_is_counted": tap.bank is None,  # a search that its stage hides
        "certificate_fits": False,
    }
