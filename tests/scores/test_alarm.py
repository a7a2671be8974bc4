"""The alarm: few units fire, order changes nothing, no mask is read, limits are locked."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from stub_features import StubFeatures

from covtoken.backbone.cache import digest_key
from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.weights import load_backbone
from covtoken.cli.app import app
from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.data.cohorts import open_cohort
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.leak_guard import LabelLeak, register_mask_files
from covtoken.protocol import alarm_limits
from covtoken.protocol import looks as looks_log
from covtoken.protocol.report import GateReport
from covtoken.protocol.setting import Setting
from covtoken.scores.alarm import Alarm, Limits, backing, check_bank, judge, statistics
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import score_maps
from covtoken.studies import alarm as gate
from covtoken.studies import alarm_conditions as conditions
from covtoken.studies.study import share_of
from covtoken.subspace.direction import DirectionSettings

TINY = "random:vit_tiny_patch16_224"
D = Recipe("direction", 2, True, 0.5, settings=DirectionSettings(3, 0.9, 1.0))
A = Recipe("density", 3, False, 0.5)
LIMITS = Limits(units_min=4, agreement_min=-1.0, drift_max=10.0)
FOUND = {"units": 50.0, "agreement": 0.6, "backing": 0.9, "drift": 1.0}


@pytest.fixture(scope="module")
def bank():
    return StubFeatures.of(8, 3)


@pytest.fixture(scope="module")
def pictures():
    return StubFeatures.of(5, 2, prefix="q")


@pytest.mark.parametrize(("n_units", "fires"), [(1, True), (2, True), (3, True), (4, False), (8, False)])
def test_few_units_fire_whatever_the_rest_says(pictures, n_units, fires):
    alarm = check_bank(StubFeatures.of(n_units, 4), pictures, D, A, LIMITS)
    assert alarm.fired == fires and alarm.recommended == ("A" if fires else "C−")
    assert not fires or f"the bank has {n_units} units, fewer than 4" in str(alarm)


def test_the_order_of_pictures_changes_nothing(bank, pictures):
    def shuffled(features, seed):
        return features.subset(np.random.default_rng(seed).permutation(len(features)).tolist())

    one = statistics(bank, pictures, D, A)
    assert statistics(shuffled(bank, 1), shuffled(pictures, 2), D, A) == pytest.approx(one, abs=1e-5)
    assert None not in one.values()


def test_agreement_and_backing_are_those_of_the_two_maps(bank, pictures):
    ours = score_maps(D, bank, pictures)
    for theirs, rho, backed in ((ours**3, 1.0, 1.0), (-ours, -1.0, 0.0)):
        found = statistics(bank, pictures, D, A, maps=ours, fallback_maps=theirs)
        assert (found["agreement"], found["backing"]) == (pytest.approx(rho), pytest.approx(backed))
    given = statistics(bank, pictures, D, A, ours, score_maps(A, bank, pictures))
    assert given == pytest.approx(statistics(bank, pictures, D, A), abs=1e-5)


def test_equal_halves_of_a_bank_back_each_other_fully_and_disjoint_ones_do_not(bank, pictures):
    halves = [bank.subset([i for i, unit in enumerate(bank.units) if int(unit[1:]) % 2 == side]) for side in (0, 1)]
    one, other = (score_maps(D, half, pictures) for half in halves)
    assert backing(one, one) == 1.0
    assert backing(one, other) < 0.95  # noise: two halves learn two directions


def test_backing_is_the_auroc_of_the_top_tenth():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5, 40))
    theirs = theirs.round(1)  # ties
    assert backing(ours, theirs) == pytest.approx(roc_auc_score(ours.ravel() > np.quantile(ours, 0.9), theirs.ravel()))
    assert backing(ours, np.exp(theirs)) == backing(ours, theirs)
    assert backing(np.ones(10), np.arange(10)) is None  # a constant map has no top


def test_drift_is_one_for_pictures_like_the_banks_and_grows_with_distance(bank, pictures):
    near = statistics(bank, pictures, D, A)["drift"]
    assert near == pytest.approx(1.0, abs=0.15)
    tokens = {b: pictures.tokens(b) + 5 for b in (2, 3)}
    moved = FeatureSet.from_arrays(tokens, 4, 5, pictures.units, digests=pictures.digests)
    assert statistics(bank, moved, D, A)["drift"] > 3 * near


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"units": 3.0}, "the bank has 3 units, fewer than 4"),
        ({"agreement": 0.4}, "C− and A agree by ρ = 0.40, less than 0.50"),
        ({"agreement": None}, "C− and A agree by ρ = nothing"),
        ({"backing": 0.7}, "A backs what C− points to by AUROC = 0.70, less than 0.85"),
        ({"drift": 1.3}, "1.30 times as far"),
        ({"drift": None}, "nothing times as far"),
    ],
)
def test_each_statistic_that_decides_can_fire_and_says_why(changed, reason):
    alarm = judge(FOUND | changed, Limits(4, 0.5, 0.85, 1.2))
    assert alarm.fired == (reason is not None)
    assert reason is None or reason in alarm.reasons[0]
    assert not judge({"units": 9.0, "agreement": None, "backing": None, "drift": None}, Limits()).fired  # none decides


def test_limits_survive_json_and_refuse_other_names():
    limits = Limits(5, None, 0.85, 1.2)
    assert Limits.from_json(json.loads(json.dumps(limits.to_json()))) == limits
    with pytest.raises(CovtokenError, match=r"expected agreement_min, .* got threshold"):
        Limits.from_json({"threshold": 1})
    assert str(Alarm({}, False, ())).startswith("no alarm")


def test_no_pictures_are_refused(bank, pictures):
    for one, other in ((bank.subset([]), pictures), (bank, pictures.subset([]))):
        with pytest.raises(CovtokenError, match="an alarm needs pictures"):
            check_bank(one, other, D, A, LIMITS)


def test_a_mask_that_is_opened_while_the_alarm_is_computed_raises(tmp_path, bank, pictures):
    mask = tmp_path / "lesion_mask.png"
    mask.write_bytes(b"mask")
    register_mask_files([mask])

    class Peeking(StubFeatures):
        def tokens(self, block):
            mask.read_bytes()
            return super().tokens(block)

    peeking = Peeking(pictures.names)
    peeking.subset = lambda indices: peeking
    with pytest.raises(LabelLeak, match="lesion_mask"):
        check_bank(bank, peeking, D, A, LIMITS)
    mask.read_bytes()  # outside of the construction it may be read


def test_labels_in_place_of_maps_and_banks_chosen_by_a_mask_are_refused(bank, pictures):
    with pytest.raises(LabelLeak):
        check_bank(bank, pictures, D, A, LIMITS, maps=np.zeros((10, 20), dtype=bool))
    tokens = {b: bank.tokens(b) for b in (2, 3)}
    held = FeatureSet.from_arrays(tokens, 4, 5, bank.units, digests=bank.digests)
    with pytest.raises(LabelLeak, match="boolean mask chose"):
        check_bank(held.subset(torch.tensor([True, False] * 12)), pictures, D, A, LIMITS)


# --- conditions and limits


def labels_of(features) -> SplitLabels:
    lesion = np.zeros((len(features), 20), dtype=bool)
    lesion[:, :3] = True
    names, unit = np.unique(features.units, return_inverse=True)
    return SplitLabels(lesion, np.zeros_like(lesion), None, unit, (), tuple(names), tuple(features.names), 4, 5)


def test_shares_are_nested_under_a_key_and_blind_to_order(bank):
    small, large = share_of(bank, 2, "k"), share_of(bank, 5, "k")
    assert len(set(small.units)) == 2 and set(small.units) < set(large.units)
    turned = bank.subset(list(range(len(bank)))[::-1])
    assert set(share_of(turned, 2, "k").units) == set(small.units)
    assert len({frozenset(share_of(bank, 2, f"k{i}").units) for i in range(6)}) > 1


def test_shares_that_say_nothing_new_are_left_out(bank, pictures):
    found = list(conditions.bank_shares(bank, pictures, labels_of(pictures), (0.02, 0.05, 0.5, 1.0), ("t-0", "t-1")))
    assert [c.name for c in found] == [
        "2% of units, 0",
        "50% of units, 0",
        "whole bank",
        "2% of units, 1",
        "50% of units, 1",
    ]
    assert [len(set(c.bank.units)) for c in found] == [2, 4, 8, 2, 4]


def test_defining_and_testing_share_no_key():
    assert not set(conditions.DEFINE_KEYS) & set(conditions.TEST_KEYS)
    assert "selection" not in conditions.TEST_SPLIT.values()


@pytest.mark.parametrize(
    ("d", "a", "failed"), [(0.9, 0.8, False), (0.8, 0.805, False), (0.8, 0.82, True), (0.74, 0.5, True)]
)
def test_failure_is_falling_behind_or_being_of_no_use(d, a, failed):
    assert conditions.has_failed(d, a) is failed


def test_a_condition_gives_a_row_that_the_alarm_is_judged_from(bank, pictures):
    recipes = conditions.Recipes(D, A)
    assert recipes.blocks == [2, 3] and conditions.Recipes.from_json(recipes.to_json()) == recipes
    condition = conditions.Condition("all", "fraction", bank, pictures, labels_of(pictures))
    row = conditions.run_condition(condition, recipes, LIMITS)
    assert row["failed"] == conditions.has_failed(row["auroc_d"], row["auroc_a"])
    assert row["right"] == (row["failed"] == row["fired"]) and row["units"] == 8 and row["units_scored"] == 5
    assert {name: row[name] for name in ("fired", "reasons", "right", "recommended")} == gate.judged(row, LIMITS)
    assert gate.judged(row, Limits(units_min=9))["fired"]


def test_a_shared_anomaly_shows_as_a_jump_of_the_distance_to_the_next_picture(bank, pictures):
    recipe = Recipe("direction", 2, True, 0.5, settings=DirectionSettings(3, 0.9, 1.0))
    n, tokens = len(bank), bank.tokens(2).shape[1]
    maps = np.zeros((len(pictures), tokens), dtype=np.float32)
    maps[:, :2] = 1  # the top tenth of 20 tokens

    class Shared(type(bank)):
        """A thing of its own kind in the first two tokens of some pictures."""

        def tokens(self, block):
            out = super().tokens(block).clone()
            out[self.held, :2] = 50.0
            return out

    def with_thing(features, held):
        out = copy.copy(features)
        out.__class__, out.held = Shared, held
        out.subset = lambda rows: with_thing(features.subset(rows), [i for i, r in enumerate(rows) if r in held])
        return out

    everyone = list(range(len(pictures)))
    some = conditions.jump(with_thing(bank, list(range(n // 4))), with_thing(pictures, everyone), recipe, maps)
    none = conditions.jump(bank, pictures, recipe, maps)
    assert some > none + 0.5


def test_only_the_condition_of_another_size_crosses_sizes(bank, pictures):
    other = copy.copy(pictures)
    other.preprocessing = "280 px"
    recipes = conditions.Recipes(D, A)
    condition = conditions.Condition("280 px", "size", bank, other, labels_of(pictures))
    assert np.isfinite(conditions.run_condition(condition, recipes, LIMITS)["auroc_d"])
    with pytest.raises(CovtokenError, match="preprocessing: the bank's have '', these '280 px'"):
        conditions.run_condition(replace(condition, kind="fraction"), recipes, LIMITS)


def test_noise_follows_from_the_picture_and_stays_in_range():
    case = open_cohort("phantom", n=12).cases[0]
    one, again = (conditions.noisy(case).pixels() for _ in range(2))
    clean = case.pixels()
    assert (one == again).all() and one.shape == clean.shape and one.min() >= 0 and one.max() <= max(255, clean.max())
    inner = (clean > 80) & (clean < 170)
    assert np.std((one - clean)[inner]) == pytest.approx(255 * conditions.NOISE, rel=0.1)


def rows_like(agreement, failed, **more):
    one = {"units": 9.0, "drift": 1.0, "backing": 0.5, "cohort": "busi", "condition": "c", "fired": False}
    return [
        one | {"agreement": a, "failed": f} | {k: v[i] for k, v in more.items()}
        for i, (a, f) in enumerate(zip(agreement, failed))
    ]


def test_one_statistic_decides_where_it_is_enough_and_a_second_only_if_it_is_worth_it():
    rows = rows_like(
        [0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [True, True, True, False, False, False], drift=[3, 1, 1, 1.1, 1, 1]
    )
    limits, looked_at = gate.choose_limits(rows)
    assert limits == Limits(4, 0.5)  # the widest gap's middle; drift does not decide
    assert looked_at["agreement"]["right"] == 1 and len(looked_at) == 7
    assert gate.right_counts(rows, limits) == {
        "fired_failed": 3, "fired_worked": 0, "silent_failed": 0, "silent_worked": 3
    }  # fmt: skip
    units = [9, 9, 9, 9, 9, 2.0, 2, 2]
    rows = rows_like(
        [0.1, 0.2, 0.6, 0.7, 0.8, 0.9, 0.8, 0.7], [True, True, False, False, False, True, True, True], units=units
    )
    limits, looked_at = gate.choose_limits(rows)
    assert looked_at["agreement"]["right"] == 0.7 and looked_at["units+agreement"]["right"] == 1
    assert limits.units_min == 6 and limits.agreement_min == pytest.approx(0.4) and limits.backing_min is None


def test_one_that_never_fires_is_no_alarm_however_rare_failures_are():
    rows = rows_like([0.3] + [0.2, 0.4] * 20, [True] + [False] * 40)
    limits, looked_at = gate.choose_limits(rows)
    assert looked_at["agreement"]["right"] == 0.75 and 0.3 < limits.agreement_min < 0.4
    with pytest.raises(CovtokenError, match="in every condition, or in none"):
        gate.choose_limits(rows[1:])


def test_limits_are_locked_changed_with_a_reason_and_refused_when_edited(tmp_path):
    (tmp_path / "configs").mkdir()
    with pytest.raises(CovtokenError, match="covtoken alarm --define"):
        alarm_limits.read_limits(tmp_path)
    rows = rows_like([0.1, 0.2, 0.7, 0.8], [True, True, False, False])
    limits, _ = gate.fix_limits(["phantom"], backbone=TINY, rows=rows, root=tmp_path)
    assert alarm_limits.read_limits(tmp_path)[:2] == (limits, conditions.Recipes())
    with pytest.raises(CovtokenError, match="Say why"):
        worse = rows_like([0.1, 0.2, 0.3, 0.8], [True, True, True, False])
        gate.fix_limits(["phantom"], backbone=TINY, rows=worse, root=tmp_path)
    path = tmp_path / "configs" / alarm_limits.LOCK
    path.write_text(path.read_text().replace(str(limits.agreement_min), "0.1"))
    with pytest.raises(CovtokenError, match=r"alarm\.lock\.json: edited by hand"):
        alarm_limits.read_limits(tmp_path)


def test_the_line_counts_both_kinds():
    counts = {"fired_failed": 4, "fired_worked": 1, "silent_failed": 2, "silent_worked": 5}
    line = gate.agreement_line(counts)
    assert "agree in 9 of 12" in line and "4 of 6 that failed" in line and "5 of 6 that worked" in line


def test_an_unknown_cohort_is_refused_before_anything_is_read():
    with pytest.raises(CovtokenError, match="did you mean busi"):
        gate.try_limits("bussi")
    assert any(command.callback.__name__ == "alarm" for command in app.registered_commands)


def test_a_run_reports_every_condition_and_counts_both_kinds(bank, pictures):
    whole = conditions.Condition("whole bank", "fraction", bank, pictures, labels_of(pictures))
    poor = conditions.Condition("poor bank", "fraction", share_of(bank, 2, "k"), pictures, labels_of(pictures))
    vit = SimpleNamespace(name="stub", input="unit", weights_sha256="0" * 64)
    case = Case("c", "u", "ultrasound", lambda: np.zeros((8, 8)))
    cohort = Cohort("mine", "ultrasound", (case,), {"c": MaskRef("empty", key="8x8")})
    setting = Setting(cohort, "test", vit, progress=False, digests={digest_key(case, vit): ("0", "0")})
    report = gate.try_conditions(setting, [whole, poor], conditions.Recipes(D, A), LIMITS)
    rows = {row["condition"]: row for row in report.chart_data["conditions"]}
    assert rows["poor bank"]["fired"] and rows["poor bank"]["recommended"] == "A" and not rows["whole bank"]["fired"]
    assert sum(report.checks[name] for name in gate.right_counts([])) == 2
    followed = (rows["poor bank"]["auroc_a"] + rows["whole bank"]["auroc_d"]) / 2
    assert report.metrics["mean_auroc.recommended"]["value"] == pytest.approx(followed, abs=1e-3)
    right = [row["right"] for row in rows.values()]
    assert report.decision == ("GO" if np.mean(right) >= 0.9 else "NO-GO")


def test_a_look_at_a_test_split_is_logged_and_the_calibration_split_is_none(monkeypatch):
    looks, written = [], []
    entry = {"backbone": TINY, "weights_sha256": load_backbone(TINY, 224).weights_sha256}
    monkeypatch.setattr(gate, "read_limits", lambda: (LIMITS, conditions.Recipes(D, A), entry))
    report = GateReport("alarm", "", "", "phantom", "", TINY, {}, {}, {}, {}, "NO-GO", {}, {})
    monkeypatch.setattr(gate, "try_conditions", lambda setting, *rest: replace(report, split=setting.split))
    monkeypatch.setattr(looks_log, "append_look", lambda line, **where: looks.append((line["split"], where)) or "link")
    monkeypatch.setattr(gate, "write_report", lambda report, path: written.append(path) or path)
    _, path = gate.try_limits("phantom", progress=False)
    assert looks == [("test", {"recorded": False, "root": None})] and "_run" in path.parts and written == [path]
    monkeypatch.setitem(gate.TEST_SPLIT, "phantom", "calibration")
    gate.try_limits("phantom", progress=False)
    assert len(looks) == 1
    entry["weights_sha256"] = "f" * 64
    with pytest.raises(CovtokenError, match="fixed with weights ffffffffffff, these are "):
        gate.try_limits("phantom", progress=False)


def test_the_locked_recipes_follow_the_depth_and_say_whose_limits_they_are(monkeypatch):
    entry = {"weights_sha256": "w", "backbone": "embedded"}
    locked = conditions.Recipes(
        Recipe("direction", 6, True, 0.0, settings=DirectionSettings(9, 0.9, 1.0)), Recipe("density", 9)
    )
    monkeypatch.setattr(alarm_limits, "read_limits", lambda root: (Limits(9), locked, entry))
    assert alarm_limits.scaled_alarm(SimpleNamespace(n_blocks=12, weights_sha256="w")) == (Limits(9), locked, None)
    limits, recipes, limits_of = alarm_limits.scaled_alarm(SimpleNamespace(n_blocks=24, weights_sha256="other"))
    assert (recipes.direction.block, recipes.direction.settings.target_block, recipes.fallback.block) == (12, 18, 18)
    assert limits == Limits(9) and limits_of == "embedded"
    quiet = {"fired": False, "reasons": [], "limits_of": limits_of}
    assert alarm_limits.alarm_sentence([quiet]).endswith("(limits fixed on embedded, not on this backbone)")
