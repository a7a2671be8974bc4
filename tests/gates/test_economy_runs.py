"""Gate 6 from pixels on a narrow model: locks, the test split that chooses nothing, and ways through the model."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
from stub_economy import in_order, narrow, plan, small_cohort

from covtoken.data.splits import load_splits
from covtoken.economy.certificate import (
    lesion_needs,
    lesion_thresholds,
    load_certificate,
    rank_bound,
    threshold_bound,
)
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.evaluation.probe_metrics import FULL
from covtoken.evaluation.records import load_records, save_records
from covtoken.gates import gate6, runs
from covtoken.gates.economy import probing
from covtoken.gates.economy.merged import MergedLesions
from covtoken.gates.economy.taps import OURS, RIVALS
from covtoken.leak_guard import LabelLeak
from covtoken.protocol import locks, thresholds
from covtoken.protocol.setting import Setting

CHECKS = ("route_is_the_masked_pass", "all_work_is_counted", "certificate_fits")


@contextmanager
def patched():
    """A monkeypatch that ends with the block, for fixtures of a module."""
    patch = pytest.MonkeyPatch()
    try:
        yield patch
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("masks"), 110)


@pytest.fixture(scope="module")
def settings(cohort):
    selection = Setting(cohort, "selection", narrow(), cache=False, progress=False)
    return selection, replace(selection, split="test")


@pytest.fixture(scope="module")
def selected(settings):
    return gate6.run(settings[0], plan())


@pytest.fixture(scope="module")
def locked(selected, tmp_path_factory):
    """The folder of a lock that was made from the selection run."""
    root = tmp_path_factory.mktemp("root")
    with patched() as patch:
        patch.setattr(locks, "project_root", lambda: root)
        patch.setattr(thresholds, "cohort_name", lambda name: name)
        patch.setattr(thresholds, "read_report", lambda path: selected.report)
        thresholds.lock_threshold("synthetic", 6)
    return root


@pytest.fixture(scope="module")
def tested(settings, locked):
    """A test run under the lock, in which every way to choose fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("chosen on the test split")

    with patched() as patch:
        patch.setattr(locks, "project_root", lambda: locked)
        for name in ("choose", "choose_each", "smallest_k", "_selected"):
            patch.setattr(gate6, name, refuse)
        patch.setattr(MergedLesions, "choose", refuse)
        patch.setattr(probing, "REPEATS", 1)
        return gate6.run(settings[1], plan())


def test_selection_locks_the_setting_and_the_best_rival(selected, locked):
    report, entry = selected.report, locks.entry(locks.THRESHOLDS, "synthetic", 6, locked)
    assert report.decision == "NO-VERDICT" and selected.pictures.route is None
    assert entry["setting"] == report.thresholds["setting"]
    setting = entry["setting"]
    assert setting["chosen"]["score"] in OURS
    rivals = [one["speedup"] for one in setting["each"] if one["score"] in RIVALS]
    assert len(rivals) == 3  # without a saliency head it has no student
    best = max([*rivals, *([setting["merging"]["speedup"]] if setting["merging"] else [])])
    assert entry["threshold"] == round(best, 4) == report.thresholds["value"]
    side = selected.pictures.evaluated
    assert setting["k_whole"] == gate6.smallest_k(lesion_needs(side.maps["recommended.block3"], side.labels.lesions))


def test_a_test_run_takes_the_setting_from_the_lock(tested, locked):
    setting = locks.entry(locks.THRESHOLDS, "synthetic", 6, locked)["setting"]
    assert tested.report.parameters["setting"] == setting and tested.report.thresholds["locked"]
    assert tested.report.thresholds["speedup_flops_net"] == tested.report.thresholds["value"]
    assert tested.pictures.choice.to_json() == setting["chosen"]
    header = tested.records.header
    assert header["chosen"].items() >= setting["chosen"].items()
    equal = {name: one["key"] for name, one in header["equal"].items()}
    every = {one["score"]: f"{one['score']}.block{one['block']}" for one in setting["each"]}
    assert equal.items() <= every.items() and min(one["k"] for one in header["equal"].values()) >= 1
    assert set(header["out_of_reach"]) == every.keys() - equal.keys()
    assert all(tested.report.checks[name] for name in CHECKS)


def test_records_of_a_run_give_its_numbers(tested, tmp_path):
    again = load_records(save_records(tested.records, tmp_path / "gate6.safetensors"))
    measured = gate6.headline(again)
    found, report = measured.entries(), tested.report
    probes = {name: entry for name, entry in report.metrics.items() if name.startswith(("probe.", "probe_gain."))}
    assert found | probes == report.metrics and any(name.startswith("probe.malignancy") for name in probes)
    decision, checks = gate6.decide(again, measured, report.thresholds["value"])
    assert decision == report.decision and checks.items() <= report.checks.items()
    for name, rows in gate6.chart_data(again).items():  # records hold a header's keys in the order of the alphabet
        assert in_order(rows) == in_order(report.chart_data[name]), name


def test_a_report_carries_its_certificate(tested, tmp_path):
    content = tested.report.parameters["certificate"]
    (tmp_path / "certificate.json").write_text(json.dumps(content))
    certificate = load_certificate(tmp_path / "certificate.json")
    assert certificate.alpha == 0.1 and certificate.made_by.block == tested.pictures.choice.block
    assert certificate.k / certificate.n_tokens == tested.report.metrics["certified_keep.rank.alpha0.1"]["value"]


def test_probes_are_paired_with_rivals(tested):
    metrics = tested.report.metrics
    for rival in ("random", "stop_early"):
        found = metrics[f"probe_gain.segmentation_ap.chosen_minus_{rival}"]["value"]
        expected = [metrics[f"probe.segmentation_ap.{route}"]["value"] for route in ("chosen", rival)]
        assert found == pytest.approx(expected[0] - expected[1])


def test_a_probe_that_cannot_be_fitted_leaves_its_reason_and_a_leak_ends_the_run(monkeypatch):
    for raised, expected in ((CovtokenError("too few"), None), (LabelLeak("planted"), LabelLeak)):
        monkeypatch.setattr(probing, "_probed", lambda *args, raised=raised: (_ for _ in ()).throw(raised))
        if expected is None:
            assert probing.probe(None, [], None, None) == ({}, [], ["too few"])
        else:
            with pytest.raises(expected):
                probing.probe(None, [], None, None)


def test_both_sides_are_scored_on_one_scale(settings, tested):
    """Certificates from the scores themselves, unrounded: of a threshold too, which another scale would shift."""
    setting, choice = settings[1], tested.pictures.choice
    tap, found = tested.pictures.taps[choice.key], {}
    for side in ("calibration", "test"):
        cases = setting.cases_of(side)
        shown = setting.features(cases, [choice.block], [], False)
        labels = label(cases, setting.cohort, 8, 8)
        maps = tap.raw_maps(None, shown)
        found[side] = [worst(maps, labels.lesions) for worst in (lesion_needs, lesion_thresholds)]
    (needs, cuts), (test_needs, test_cuts) = found["calibration"], found["test"]
    rows = {(row["score"], row["form"], row["alpha"]): row for row in tested.report.chart_data["certificates"]}
    rank, threshold = (rows[choice.key, form, 0.1] for form in ("rank", "threshold"))
    assert abs(rank["setting"] - rank_bound(needs, 0.1)) <= 1  # rounding ties two tokens
    assert rank["retained"] == pytest.approx((test_needs <= rank_bound(needs, 0.1)).sum(), abs=1)
    assert threshold["retained"] == pytest.approx((test_cuts >= threshold_bound(cuts, 0.1)).sum(), abs=1)
    low, high = tested.pictures.evaluated.spans[choice.key]
    assert tested.records.header["span"] == [low, high]
    calibrated = tap.raw_maps(None, setting.features(setting.cases_of("calibration"), [choice.block], [], False))
    assert (low, high) == (float(calibrated.min()), float(calibrated.max()))  # no test picture sets the scale
    assert threshold["setting"] == pytest.approx((threshold_bound(cuts, 0.1) - low) / (high - low), abs=1e-3)


def test_an_unlocked_small_cohort_is_refused_before_extraction(tmp_path, monkeypatch):
    small = small_cohort(tmp_path, 14, "few")
    monkeypatch.setattr(locks, "project_root", lambda: tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("extracted before a threshold was looked for")

    for name in ("features", "read_pictures"):
        monkeypatch.setattr(Setting, name, refuse)
    with pytest.raises(CovtokenError, match="few: no threshold of gate 6 is locked for busi and backbone 'narrow'"):
        runs.run_and_write(6, small, "test", backbone=narrow())


def test_a_small_cohort_runs_the_locked_setting_of_its_recipe_cohort(settings, locked, tmp_path, monkeypatch):
    small = small_cohort(tmp_path, 26, "few")
    entry = locks.entry(locks.THRESHOLDS, "synthetic", 6, locked)
    monkeypatch.setattr(locks, "entry", lambda name, cohort, gate: entry if (cohort, gate) == ("busi", 6) else None)
    monkeypatch.setattr(gate6, "open_setting", lambda *args, **how: settings[1])
    setting = Setting(small, "crossfit", narrow(), cache=False, progress=False)
    monkeypatch.setattr(probing, "REPEATS", 1)
    done = gate6.run(setting, plan())
    header, report = done.records.header, done.report
    assert report.parameters["bank"] == "busi" and report.parameters["setting"] == entry["setting"]
    assert len(header["units"]) == len(header["calibration_units"]) == 13
    assert not set(header["units"]) & set(header["calibration_units"])
    assert report.decision == "NO-VERDICT" and "probes" not in report.chart_data
    bank = {case.unit for case in settings[1].cases_of("bank")}
    assert {row["route"] for row in report.chart_data["wall"]} == {FULL, probing.CHOSEN}
    assert bank == {unit for unit, split in load_splits(settings[1].cohort).items() if split == "bank"}


def test_gains_of_probes_are_against_the_full_pass(tested):
    rows = {(row["route"], row["task"]): row for row in tested.report.chart_data["probes"]}
    for (route, task), row in rows.items():
        full = rows[FULL, task]["value"]
        assert ("gain" in row) == (route != FULL)
        if route != FULL:
            assert row["gain"] == pytest.approx(row["value"] - full) and row["gain_lo"] <= row["gain_hi"]
    assert rows[probing.MIXED, "malignancy"]["speedup"] == rows[probing.CHOSEN, "malignancy"]["speedup"]
    assert rows[FULL, "malignancy"]["speedup"] == 1
