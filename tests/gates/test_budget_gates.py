"""Gates 2 to 4 and the negative result: defects turn verdicts, records give the reported numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from stub_lesions import lesion_pictures

from covtoken.economy.keep import retained
from covtoken.errors import CovtokenError
from covtoken.evaluation.measure import N_DRAWS
from covtoken.evaluation.records import Records, load_records, records_path, save_records
from covtoken.gates import gate2, gate3, gate4, headlines, negative_result, runs
from covtoken.gates.budgets import kept_by_method as budget_rows
from covtoken.keys import smallest
from covtoken.names import METHOD_NAMES
from covtoken.paper import summary
from covtoken.paths import project_root
from covtoken.protocol.report import committed_reports
from covtoken.protocol.scoring import shuffled_masks

GATES = {"2": gate2, "3": gate3, "4": gate4, "negative_result": negative_result}
COMMITTED = [report for report in committed_reports() if str(report.gate) in GATES]
THRESHOLD = {"value": 0.2, "reason": "stub", "locked": True}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Fewer steps and permutations than a run from pixels has."""
    shorter = {name: replace(schedule, steps=60) for name, schedule in budget_rows.SCHEDULES.items()}
    monkeypatch.setattr(budget_rows, "SCHEDULES", shorter)
    monkeypatch.setattr(gate2, "N_PERMUTATIONS", 500)


def run(gate, pictures=None, **options):
    """A gate on pictures in memory."""
    pictures = pictures or lesion_pictures()
    if gate == "2":
        return gate2.evaluate(pictures, lambda own: THRESHOLD, **options)
    if gate == "3":
        return gate3.evaluate(pictures, lambda own: THRESHOLD, {"whole": {"all": 1.0}}, **options)
    if gate == "4":
        return gate4.evaluate(pictures, 2, 24, **options)
    return negative_result.evaluate(pictures, **options)


def leaked():
    pictures = lesion_pictures()
    return replace(pictures, maps=pictures.maps | {"recommended": pictures.labels.lesion.astype(float)})


@pytest.mark.parametrize("gate", GATES)
def test_records_give_the_numbers_of_the_report(gate, tmp_path):
    done = run(gate)
    path = save_records(done.records, tmp_path / "records.safetensors")
    again = GATES[gate].headline(load_records(path)).entries()
    assert again == done.report.metrics
    missing = [name for name in headlines.HEADLINES[gate] if name not in done.report.metrics]
    assert missing == (["miss_small.merging.keep0.25"] if gate == "3" else [])  # the stub has no model
    json.dumps(done.report.chart_data, allow_nan=False)


@pytest.mark.parametrize("report", COMMITTED, ids=lambda r: f"{r.cohort}-{r.gate}")
def test_committed_records_give_the_committed_numbers(report):
    gate = str(report.gate)
    found = GATES[gate].headline(load_records(records_path(project_root(), report.cohort, gate))).entries()
    assert found.keys() == report.metrics.keys()
    for name, entry in found.items():
        assert entry["value"] == pytest.approx(report.metrics[name]["value"], abs=1e-9, nan_ok=True), name
        assert entry["ci95"] == pytest.approx(report.metrics[name]["ci95"], abs=1e-9), name


@pytest.mark.parametrize(
    ("gate", "planted", "honest", "broken"),
    [
        ("2", {"leaked": True}, "NO-GO", "GO"),
        ("2", {"mixed": True}, "NO-GO", "NO-VERDICT"),
        ("3", {"mixed": True}, "GO", "NO-GO"),
        ("4", {"stuck": True}, "NO-GO", "GO"),
        ("negative_result", {"fake": True}, "GO", "NO-GO"),
    ],
)
def test_a_planted_defect_turns_the_verdict(gate, planted, honest, broken):
    assert run(gate).report.decision == honest
    pictures = lesion_pictures(mixed=planted.pop("mixed", False))
    assert run(gate, pictures, **planted).report.decision == broken


@pytest.mark.parametrize("gate", GATES)
def test_an_unknown_defect_is_refused_by_name(gate):
    pictures = lesion_pictures(n=2)
    with pytest.raises(CovtokenError, match="unknown defect 'x'"):
        GATES[gate].run(pictures.setting, pictures.plan, defect="x")


def test_gate3_leaked_label_lets_nothing_be_missed():
    metrics = run("3", leaked()).report.metrics
    assert metrics["miss_small.recommended.keep0.25"]["value"] == 0


def test_gate3_counts_small_lesions_by_hand():
    done = run("3")
    pictures, records = done.pictures, done.records
    kept = np.argsort(-pictures.maps["attention_best"], axis=1, kind="stable")[:, :16]  # a quarter of 64
    lost = [
        np.isin(one.tokens, kept[one.picture]).sum() < len(one.tokens) / 2
        for one, small in zip(pictures.labels.lesions, pictures.small)
        if small
    ]
    assert done.report.metrics["miss_small.attention_best.keep0.25"]["value"] == pytest.approx(np.mean(lost))
    assert (records["lesion/size"] == pictures.sizes).all()


def test_a_pruners_own_budget_is_everyones():
    """At ``krepaired`` membership keeps, picture by picture, as many tokens as the repaired dual."""
    done = run("3")
    k = done.records["repaired/k"].astype(int)
    pictures = done.pictures
    order = np.argsort(-pictures.maps["density"], axis=1, kind="stable")
    counts = [np.isin(one.tokens, order[one.picture][: k[one.picture]]).sum() for one in pictures.labels.lesions]
    assert (done.records["kept/density.krepaired"] == counts).all()
    assert (k > 1).all() and done.report.metrics["constraint_met.repaired"]["value"] == 1


def test_gate3_difference_is_the_other_minus_ours():
    metrics = run("3").report.metrics
    for other in ("attention_best", "random", "coverage_spanning"):
        gain = metrics[f"miss_gain.density_minus_{other}.keep0.25"]
        theirs, ours = (metrics[f"miss_small.{name}.keep0.25"]["value"] for name in (other, "density"))
        assert gain["value"] == pytest.approx(theirs - ours)
        assert gain["p"] <= gain["p_holm"]


def test_a_family_can_reach_significance():
    """Gate 3's largest family of comparisons must be small enough that the least bootstrapped p survives Holm."""
    n = len(METHOD_NAMES) + 1  # both signs of brightness are among the names
    assert n * 2 / (N_DRAWS + 1) < 0.05


def test_no_small_lesion_gives_no_verdict():
    for gate in ("3", "negative_result"):
        done = run(gate, without_small())
        assert done.report.decision == "NO-VERDICT"
        assert summary.summary([done.report], [])
    assert "–" in summary.negative_result([done.report])


def without_small():
    pictures = lesion_pictures(n=24)
    lesions = tuple(replace(lesion, small=False) for lesion in pictures.labels.lesions)
    return replace(pictures, labels=replace(pictures.labels, lesions=lesions))


def test_few_units_with_small_lesions_give_no_verdict():
    for gate in ("3", "negative_result"):
        assert run(gate, lesion_pictures(n=30)).report.decision == "NO-VERDICT"


def test_a_cross_fitted_cohort_prints_both_signs_of_brightness():
    metrics = run("3", lesion_pictures(n=24, split="crossfit")).report.metrics
    assert "miss_small.intensity_flipped.keep0.25" in metrics


def test_noise_is_the_pictures_own():
    pictures = lesion_pictures(n=6)
    seeds = pictures.seeds(0)
    assert len(set(seeds)) == 6 and seeds != pictures.seeds(1)
    assert pictures.only(np.array([2, 4])).seeds(0) == [seeds[2], seeds[4]]


def test_the_control_patch_has_the_lesions_shape_and_no_lesion():
    pictures = lesion_pictures(n=12)
    for one in pictures.labels.lesions:
        moved = negative_result._moved(one.tokens, pictures.labels, one.picture, np.random.default_rng(0))
        assert moved is not None and not pictures.labels.lesion[one.picture][moved].any()
        shift = {tuple(np.subtract(divmod(b, 8), divmod(a, 8))) for a, b in zip(one.tokens, np.sort(moved))}
        assert len(shift) == 1


def test_the_greedy_rows_say_on_how_many_pictures_they_stand():
    done = run("3", n_greedy=10)
    assert done.report.metrics["miss.coverage_greedy.keep0.25"]["n_images"] == 10
    assert done.report.metrics["miss.density.keep0.25"]["n_images"] == 60
    gain = done.report.metrics["miss_gain.density_minus_coverage_greedy.keep0.25"]
    assert gain["n_lesions"] == done.report.metrics["miss_small.coverage_greedy.keep0.25"]["n_lesions"]


@pytest.mark.parametrize("draws", [np.linspace(0.1, 1, 99), np.linspace(-1, -0.1, 99)])
def test_p_of_draws_on_one_side_is_the_least(draws):
    assert gate3.p_of(draws) == pytest.approx(2 / 100)
    assert gate3.p_of(np.concatenate([draws, -draws])) == pytest.approx(1.0, abs=0.02)


def test_gate2_leaves_constant_recall_out_and_counts_it():
    pictures = lesion_pictures()
    pictures.labels.lesion[0] = True  # whatever is kept, recall is the keep ratio
    rho, _ = gate2.correlations(pictures)
    assert np.isnan(rho[:, :, 0, 0]).all() and not np.isnan(rho[:, :, 0, 1]).any()
    records = Records({"rho": rho, "p": np.ones(rho.shape[:2]), "unit": pictures.labels.unit}, pictures.header(2))
    entry = gate2.headline(records).entries()["spearman.control.keep0.25"]
    assert entry["n_constant"] == 1 and entry["n_images"] == 59


def test_gate2_control_is_membership_and_follows_recall():
    metrics = run("2").report.metrics
    assert metrics["spearman.control.keep0.25"]["ci95"][0] > metrics["spearman.rankme.keep0.25"]["ci95"][1]
    tested = [name for name, entry in metrics.items() if "p_holm" in entry]
    assert len(tested) == 9  # three functionals at three sizes


def test_gate4_cv_and_monotony_by_hand():
    done = run("4")
    mu = done.records["dual/mu"].astype(np.float64)  # [slack, seed, picture]
    cv = (mu.std(axis=1, ddof=1) / mu.mean(axis=1)).mean()
    assert done.report.metrics["dual.mu_cv"]["value"] == pytest.approx(cv)
    falls = (np.diff(mu.mean(axis=1), axis=0) <= 0).all(axis=0).mean()
    assert done.report.metrics["dual.mu_falls"]["value"] == pytest.approx(falls)
    assert {row["slack"] for row in done.report.chart_data["paths"]} == {0.01, 0.05, 0.1, 0.2, 0.4}


def test_alike_tokens_are_why_coverage_loses_them():
    """Lesion tokens made unlike each other are kept by coverage as by membership."""
    alike = run("negative_result").report.metrics
    assert alike["likeness.inside"]["value"] > alike["likeness.outside"]["value"] + 0.3
    assert alike["rank.half.membership"]["value"] < alike["rank.half.spanning"]["value"]
    pictures = lesion_pictures(alike=3.0)
    columns = negative_result._order(pictures)
    assert columns["half/spanning"].mean() < alike["rank.half.spanning"]["value"]


def test_the_spectrum_interval_holds_the_value():
    metrics = run("negative_result").report.metrics
    for name in ("spectrum.lesion", "spectrum.background", "spectrum.lesion_minus_background"):
        low, high = metrics[name]["ci95"]
        assert low <= metrics[name]["value"] <= high


def test_shuffled_masks_leave_no_picture_its_own():
    labels = lesion_pictures(n=12, seed=3).labels
    assert len(np.unique(labels.lesion, axis=0)) == 12
    mixed = shuffled_masks(labels)
    for one in mixed.lesions:
        assert mixed.lesion[one.picture][one.tokens].all()
    assert sum(len(one.tokens) for one in mixed.lesions) == labels.lesion.sum()
    assert (mixed.lesion != labels.lesion).any(axis=1).all()
    rows = sorted(row.tobytes() for row in labels.lesion)
    assert sorted(row.tobytes() for row in mixed.lesion) == rows


def test_few_pictures_are_the_same_whatever_else_is_evaluated():
    pictures = lesion_pictures()
    few = pictures.only(pictures.few(6))
    assert [case.name for case in few.cases] == [pictures.cases[i].name for i in pictures.few(6)]
    half = pictures.only(np.arange(0, 60, 2))
    chosen = {half.cases[i].name for i in half.few(3)}
    assert chosen == set(smallest([case.name for case in half.cases], 3))


def test_recording_needs_a_locked_threshold(monkeypatch):
    monkeypatch.setattr(runs, "refuse_uncommitted", lambda: None)
    with pytest.raises(CovtokenError, match="no threshold of gate 2 is locked"):
        runs.run_and_write("2", "phantom", "test", backbone="random:vit_tiny_patch16_224", record=True)


@pytest.mark.parametrize("gate", ["2", "4"])
def test_selection_runs_are_never_committed(gate):
    with pytest.raises(CovtokenError, match="selection runs are never committed"):
        runs.run_and_write(gate, "phantom", "selection", record=True)


def test_an_unknown_gate_is_named():
    with pytest.raises(CovtokenError, match="unknown gate '7'"):
        runs.run_and_write("7", "phantom", "test")


def test_negative_result_in_words_follows_the_numbers():
    report = run("negative_result").report
    text = summary.negative_result([report])
    assert "keeps less of small lesions than membership A" in text and "repeat each other more than" in text
    for name in ("floor met", "RankMe | dual, as specified", "energy | closed form", "small lesions"):
        assert name in text
    fake = run("negative_result", fake=True).report
    assert "does not keep less of small lesions" in summary.mechanism(fake)


def test_summary_lists_every_gate_and_cohort():
    reports = [run(gate).report for gate in GATES]
    text = summary.summary(reports, [])
    for words in ("gate 2, coverage as a proxy", "gate 3, matched budgets", "negative result", "stub", "NO-GO"):
        assert words in text


def test_retained_is_at_least_half():
    assert retained(np.array([1, 0, 2]), np.array([2, 1, 5])).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("gate", "defect", "decision"),
    [
        ("2", "leaked_label", "GO"),
        ("2", "shuffled_masks", "NO-VERDICT"),
        ("3", "shuffled_masks", "NO-GO"),
        ("3", "leaked_label", "GO"),
        ("4", "stuck", "GO"),
        ("negative_result", "coverage_is_membership", "NO-GO"),
    ],
)
def test_a_run_plants_the_defect_that_it_is_asked_for(monkeypatch, gate, defect, decision):
    def prepared(setting, plan, scorers=None, shuffled=False):
        return lesion_pictures(mixed=shuffled, split="selection")

    monkeypatch.setattr(GATES[gate], "prepare", prepared)
    monkeypatch.setattr(gate3, "flops_of", lambda pictures: {"whole": {"all": 1.0}})
    own, small = lesion_pictures(split="selection"), {"4": {"n_seeds": 2, "n_pictures": 24}}
    report = GATES[gate].run(own.setting, own.plan, defect=defect, **small.get(gate, {})).report
    assert report.decision == decision


def test_the_strong_optimiser_runs_where_small_lesions_are_and_spreads_over_units():
    pictures = lesion_pictures(n=60)
    with_small = set(pictures.lesion_picture[pictures.small])
    assert set(pictures.few_with_small(100)) == with_small
    units = np.arange(60) // 3  # three pictures a unit
    pictures = replace(pictures, labels=replace(pictures.labels, unit=units))
    held = {units[i] for i in with_small}
    few = pictures.few_with_small(len(held))
    assert set(few) <= with_small and {units[i] for i in few} == held  # each unit before a second picture of any
    assert list(few) == sorted(few)
    few, _ = budget_rows.greedy_sets(pictures, "rankme", 5)
    assert set(few) <= with_small and len(few) == 5
    none = without_small()
    assert list(none.few_with_small(4)) == list(none.few(4))


def test_seeds_of_the_repaired_dual_are_recorded_and_told():
    done = run("negative_result", lesion_pictures(n=24))
    assert done.records["seeds/rankme.repaired"].shape == (negative_result.MORE_SEEDS, len(done.pictures.small))
    entry = done.report.metrics["recall_small.coverage_repaired"]
    assert len(entry["by_seed"]) == 1 + negative_result.MORE_SEEDS and len(set(entry["by_seed"])) > 1
    assert entry["value"] == pytest.approx(np.mean(entry["by_seed"])), "the mean over seeds decides, not one of them"
    small, size = done.pictures.small, done.pictures.sizes
    counts = [done.records["density_at/rankme.repaired"], *done.records["seeds_density_at/rankme.repaired"]]
    beside = np.mean([each[small].sum() / size[small].sum() for each in counts])
    gain = done.report.metrics["recall_gain.membership_minus_coverage_repaired"]["value"]
    assert gain == pytest.approx(beside - entry["value"])
    before = done.report.metrics["met_before_repair.rankme.repaired"]
    assert 0 <= before["value"] <= 1 and "met_before_repair.rankme.dual" in done.report.metrics


def test_where_coverage_loses_fewer_is_told_with_counts():
    report = run("negative_result", lesion_pictures(n=24)).report
    metrics = json.loads(json.dumps(report.metrics))
    for functional, optimiser in negative_result.PAIRS:
        for name, value in (("coverage", 0.5), ("membership", 0.5)):
            metrics[f"miss_small.{functional}.{optimiser}.{name}"] |= {"value": value, "n_lesions": 8}
    assert "In no row" in summary.counter_findings(replace(report, metrics=metrics))
    metrics["miss_small.rankme.greedy.coverage"]["value"] = 0.25
    text = summary.counter_findings(replace(report, metrics=metrics))
    assert text.endswith("RankMe, greedy: 2 against 4 of 8.")


@pytest.mark.parametrize(
    ("interval", "word"), [((0.1, 0.2), "more than"), ((-0.2, 0.1), "more or less than"), ((-0.2, -0.1), "less than")]
)
def test_the_mechanism_has_a_word_for_each_sign(interval, word):
    report = run("negative_result", lesion_pictures(n=24)).report
    metrics = report.metrics | {"likeness.inside_minus_outside": {"value": 0.0, "ci95": list(interval)}}
    text = summary.mechanism(replace(report, metrics=metrics))
    assert f"{word} those of a patch of the same shape" in text and "small; mean squared cosine" in text
