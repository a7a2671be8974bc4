"""Gate 1 end to end: planted defects turn the verdict, recorded numbers are the reported ones, pixels give them too."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from stub_features import StubFeatures

from covtoken.backbone.cache import digest_key
from covtoken.bank.pooling import smooth
from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.data.splits import FEWEST_UNITS
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.evaluation.records import load_scores
from covtoken.gates import gate1, runs
from covtoken.paths import project_root
from covtoken.protocol import locks, planning, scoring
from covtoken.protocol.alarm_limits import Recipes, alarm_sentence
from covtoken.protocol.plan import binding
from covtoken.protocol.report import GateRun, committed_reports
from covtoken.protocol.setting import Setting
from covtoken.scores.alarm import Limits
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import raw_maps, score_maps
from covtoken.subspace.direction import DirectionSettings

REPORTS = [report for report in committed_reports() if report.gate == 1]


def _scores(cohort):
    return load_scores(project_root() / "gate_reports" / cohort / "scores.safetensors")


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: r.cohort)
def test_recorded_scores_give_the_reported_numbers(report):
    found = gate1.headline(_scores(report.cohort)).entries()
    for name, entry in found.items():
        wanted = report.metrics[name]
        assert entry["value"] == pytest.approx(wanted["value"], abs=1e-9), name
        assert entry["ci95"] == pytest.approx(wanted["ci95"], abs=1e-9), name
        assert [entry[k] for k in ("n_units", "n_images", "n_tokens")] == [
            wanted[k] for k in ("n_units", "n_images", "n_tokens")
        ]


@pytest.mark.parametrize("defect", ["shuffled_masks", "transposed_grid", "final_as_middle"])
@pytest.mark.parametrize("report", [r for r in REPORTS if r.split != "carried"], ids=lambda r: r.cohort)
def test_a_planted_defect_turns_the_verdict(report, defect):
    recorded = _scores(report.cohort)
    plan = gate1.Plan.from_json(recorded.header["plan"])
    honest = gate1.headline(recorded)
    honest_decision, checks = gate1.decide(honest, plan.threshold, honest.n[0])
    labels, planted = gate1.plant(defect, recorded.labels, plan, recorded.header["n_blocks"], recorded.grid)
    header = recorded.header | {"plan": planted.to_json()}
    broken = gate1.headline(type(recorded)(recorded.scores, labels, header))
    decision, broken_checks = gate1.decide(broken, plan.threshold, broken.n[0])
    assert decision != "GO"
    if defect == "final_as_middle":
        assert checks["middle_beats_final"] and not broken_checks["middle_beats_final"]
    elif honest_decision == "GO":
        assert checks["lower_bound_beats_threshold"] and not broken_checks["lower_bound_beats_threshold"]
    else:  # its verdict cannot turn, but membership no longer beats the mere place in the picture
        against = "auroc.density_against_centre_prior"
        assert checks[against] == "wins" and broken_checks[against] != "wins"
    if defect != "final_as_middle":
        # On whole CT slices much of a score is where the body lies: that survives a transposed grid, and another
        # slice's mask lies in the same organ.
        for name, least in (("auroc.density", 0.04), ("auroc.recommended", 0.015)):
            assert honest.values[name] - broken.values[name] > least, f"the defect did not even move {name}"


def test_every_baseline_has_a_verdict():
    for report in REPORTS:
        # The gain inside an organ exists where the cohort's masks hold one.
        kinds = [kind for kind in gate1.GAINS if kind != "organ_auroc" or f"{kind}.density" in report.metrics]
        for ours, baseline in product(gate1.OURS, (*gate1.BASELINES, *gate1.RIVALS, "direction")):
            for kind in kinds:
                outcome = report.checks.get(f"{kind}.{ours}_against_{baseline}")
                assert outcome in ("wins", "loses", "undecided"), (report.cohort, kind, ours, baseline)


def test_where_the_alarm_fires_a_stands_in():
    bank, pictures = StubFeatures.of(12, prefix="b"), StubFeatures.of(3, prefix="q")
    recipes = Recipes(
        Recipe("direction", 2, True, 0.0, settings=DirectionSettings(3, 0.9, 1.0)), Recipe("density", 3, False, 0.5)
    )
    plan = gate1.Plan({"recommended": recipes.direction}, 3, 0.8, "", {"ultrasound": 0.1})
    poorer = bank.subset(range(30))  # ten units
    pairs = [(bank, pictures), (poorer, pictures)]
    for fewest, fired in ((2, 0), (11, 1), (20, 2)):
        limits = Limits(units_min=fewest)
        raw = [raw_maps("density", 3, False, one, pictures) for one, _ in pairs]
        ours = [score_maps(recipes.direction, one, pictures) for one, _ in pairs]
        parts = [{"density.block3": a, "recommended": d} for a, d in zip(raw, ours)]
        said = scoring.heed_alarms(parts, pairs, plan, SimpleNamespace(n_blocks=4), (limits, recipes, None))
        assert [alarm["fired"] for alarm in said].count(True) == fired
        assert {alarm["score"] for alarm in said} == {"A" if fired else "C−"}, "folds of two scales cannot be pooled"
        for part, a, d in zip(parts, raw, ours):
            wanted = smooth(a, pictures.rows, pictures.cols, 0.5) if fired else d
            np.testing.assert_array_equal(part["recommended"], wanted)
        starts = ("no alarm: the recommended score is C−", "ALARM of 1 of 2 banks", "ALARM of 2 of 2 banks")
        assert alarm_sentence(said).startswith(starts[fired])


def test_few_units_of_a_small_cohort_can_still_be_cross_fitted():
    def limited(cohort, n_units):
        return Setting(cohort, "crossfit", None).limited(n_units).cohort.units

    assert len(limited(_folder(30), 4)) == FEWEST_UNITS
    assert len(limited(_folder(30), 20)) == 20
    large = limited(_folder(130), 4)
    assert len(large) == 4 * 4 and set(large) <= set(_folder(130).units)


def test_transposing_twice_is_the_identity():
    recorded = _scores("phantom")
    plan, n = gate1.Plan.from_json(recorded.header["plan"]), recorded.header["n_blocks"]
    once, _ = gate1.plant("transposed_grid", recorded.labels, plan, n, recorded.grid)
    twice, _ = gate1.plant("transposed_grid", once, plan, n, recorded.grid)
    assert (twice.lesion == recorded.labels.lesion).all() and (once.lesion != recorded.labels.lesion).any()
    for lesion in once.lesions:
        assert once.lesion[lesion.picture][lesion.tokens].mean() > 0.5


def test_shuffled_masks_keep_every_lesion_once():
    recorded = _scores("phantom")
    plan = gate1.Plan.from_json(recorded.header["plan"])
    moved, _ = gate1.plant("shuffled_masks", recorded.labels, plan, 12, recorded.grid)
    assert sorted(moved.lesion.sum(1)) == sorted(recorded.labels.lesion.sum(1))
    for lesion in moved.lesions:
        assert moved.lesion[lesion.picture][lesion.tokens].all() or moved.ignore[lesion.picture][lesion.tokens].any()


def _folder(n: int, modality: str = "ultrasound") -> Cohort:
    cases = tuple(Case(f"c{i:03}", f"P{i:03}", modality, lambda: np.zeros((8, 8))) for i in range(n))
    return Cohort("mine", modality, cases, {case.name: MaskRef("empty", key="8x8") for case in cases})


def _setting(cohort: Cohort, split: str = "crossfit", **vit) -> Setting:
    vit = SimpleNamespace(**{"input": "unit"} | vit)
    return Setting(cohort, split, vit, digests={digest_key(case, vit): ("0", "0") for case in cohort.cases})


def test_a_small_cohort_takes_a_recipe_of_its_own_weights_or_says_what_to_run(monkeypatch):
    weights = {"name": "embedded", "weights_sha256": "w", "picture_size": 224}
    found = binding(_setting(_folder(30), **weights))
    plan = {"recipes": {}, "middle": 6, "threshold": 0.7, "threshold_reason": "best baseline"}
    plan |= {"small_cuts": {"ultrasound": 0.1}}
    entry = plan | found | {"backbone": "embedded", "data_fingerprint": "of busi"}
    monkeypatch.setattr(locks, "entry", lambda name, cohort, gate: entry if cohort == "busi" else None)
    made = planning.recipe_plan(_setting(_folder(30), **weights))
    assert made.reason == "recipe and threshold of busi: best baseline" and made.locked
    for cohort, backbone, changed, message in (
        (_folder(30), "embedded", {"weights_sha256": "other"}, "busi gate 1, as the recipe of mine: .*weights_sha256"),
        (
            _folder(30),
            "dinov2-base",
            {},
            "Run without --record.*`covtoken gate 1 --cohort busi --backbone dinov2-base`",
        ),
        (_folder(30, "mri"), "embedded", {}, "unknown modality of mine .*'mri'.*Known: ultrasound"),
    ):
        with pytest.raises(CovtokenError, match=message):
            planning.recipe_plan(_setting(cohort, **weights | {"name": backbone} | changed), need_lock=True)


def test_a_threshold_of_another_backbone_decides_nothing_but_every_check_is_printed():
    recorded = _scores("busi")
    measured, threshold = gate1.headline(recorded), gate1.Plan.from_json(recorded.header["plan"]).threshold
    decision, checks = gate1.decide(measured, threshold, measured.n[0])
    assert decision == "GO"
    assert gate1.decide(measured, threshold, measured.n[0], own_threshold=False) == ("NO-VERDICT", checks)


def test_a_small_cohort_on_another_backbone_takes_the_recipe_at_the_same_depth_unlocked():
    locked = gate1.Plan.from_json(locks.entry(locks.THRESHOLDS, "busi", 1))
    plan = planning.recipe_plan(_setting(_folder(30), name="vit-large", n_blocks=24, has_saliency_head=False))
    assert not plan.locked and plan.middle == 2 * locked.middle and plan.threshold == locked.threshold
    assert plan.reason.startswith("recipe and threshold of busi on embedded, not tuned on this backbone: best")
    heads = {"saliency_head", "head_student", "without_head", "with_head", "attention_head_fit"}
    assert set(locked.recipes) - set(plan.recipes) == heads
    for name, recipe in plan.recipes.items():
        first = locked.recipes[name]
        assert recipe.block == (None if first.block is None else 2 * first.block)
        assert (recipe.pooled, recipe.sigma, recipe.sign) == (first.pooled, first.sigma, first.sign)
    assert plan.recipes["patchcore"].settings.second_block == 2 * locked.recipes["patchcore"].settings.second_block
    deeper = replace(locked.recipes["recommended"].settings, target_block=18, attention_block=22)
    assert plan.recipes["recommended"].settings == deeper


def test_recording_without_a_lock_is_refused_before_anything_is_extracted():
    with pytest.raises(CovtokenError, match="mine: no lock for backbone 'embedded', nothing is recorded"):
        planning.plan_for(_setting(_folder(3), "test", name="embedded"), need_lock=True)


def test_a_split_without_lesions_is_refused_by_name():
    cohort = _folder(3)
    with pytest.raises(CovtokenError, match="mine: none of the 3 pictures of the test split holds a lesion"):
        scoring.need_lesions(label(cohort.cases, cohort, 2, 2), cohort, "test")


def test_scores_that_cannot_be_saved_leave_no_report(monkeypatch, tmp_path):
    run = GateRun(SimpleNamespace(cohort="mine", split="test", gate=1))
    written = []
    monkeypatch.setitem(runs.GATES, "1", lambda *a, **k: run)
    monkeypatch.setattr(runs, "write_report", lambda *a: written.append(a))
    monkeypatch.setattr(runs, "log_look", lambda report, lock, recorded: report)
    monkeypatch.setattr(runs, "refuse_uncommitted", lambda: None)

    def too_large(*arguments):
        raise CovtokenError("at most 2000000")

    monkeypatch.setattr(runs, "save", too_large)
    with pytest.raises(CovtokenError, match="at most 2000000"):
        runs.run_and_write(1, "phantom", "test", record=True)
    assert not written
