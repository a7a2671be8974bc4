"""Gate 1 end to end: planted defects turn the verdict, recorded numbers are the reported ones, pixels give them too."""

import numpy as np
import pytest

from covtoken.evaluation.recorded import load_scores
from covtoken.gates import gate1
from covtoken.gates.report import committed_reports
from covtoken.paths import project_root

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
@pytest.mark.parametrize("report", REPORTS, ids=lambda r: r.cohort)
def test_a_planted_defect_turns_the_verdict(report, defect):
    recorded = _scores(report.cohort)
    plan = gate1.Plan.from_json(recorded.header["plan"])
    honest = gate1.headline(recorded)
    _, checks = gate1.decide(honest, plan.threshold, honest.n[0])
    labels, planted = gate1.plant(defect, recorded.labels, plan, recorded.header["n_blocks"], recorded.grid)
    header = recorded.header | {"plan": planted.to_json()}
    broken = gate1.headline(type(recorded)(recorded.scores, labels, header))
    decision, broken_checks = gate1.decide(broken, plan.threshold, broken.n[0])
    assert decision != "GO"
    if defect == "final_as_middle":
        assert checks["middle_beats_final"] and not broken_checks["middle_beats_final"]
    else:
        below = honest.values["auroc.density"] - broken.values["auroc.density"]
        assert below > 0.05, "the defect did not even move the number"


def test_every_baseline_has_a_verdict():
    for report in REPORTS:
        for baseline in gate1.BASELINES:
            outcome = report.checks.get(f"auroc.density_against_{baseline}")
            assert outcome in ("wins", "loses", "undecided") or baseline in gate1.PIXELS_ONLY


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


@pytest.mark.slow
def test_phantom_from_pixels_repeats_the_committed_report():
    report = next(r for r in REPORTS if r.cohort == "phantom")
    run = gate1.run_gate1("phantom", "test", progress=False)
    assert run.report.decision == report.decision
    for name in ("auroc.density", "auroc.attention_best", "auroc_gain.middle_minus_final"):
        assert run.report.metrics[name]["value"] == pytest.approx(report.metrics[name]["value"], abs=0.01)
    assert np.isfinite(run.recorded.scores["density"].astype(float)).all()
