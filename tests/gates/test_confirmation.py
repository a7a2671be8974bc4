"""The confirmation, on a stand-in for an external cohort: locked before, run once, recomputed from its records."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from covtoken.backbone.feature_set import FeatureSet
from covtoken.data import cohorts
from covtoken.data.cohorts import EXTERNAL
from covtoken.data.external import External, index_sha256
from covtoken.errors import CovtokenError
from covtoken.evaluation.measure import Measured, measure
from covtoken.evaluation.records import MAX_BYTES, MAX_SCORERS, load_scores, records_path
from covtoken.gates import confirmation
from covtoken.gates.budgets import lesion_numbers
from covtoken.names import COLUMNS, cohort_name
from covtoken.paper.confirmation_rows import brief, confirmation_lines
from covtoken.paths import project_root
from covtoken.protocol import history, locks, looks, report, setting, thresholds
from covtoken.protocol.history import Change, append_change
from covtoken.protocol.plan import BASELINES, FEW_UNITS, Plan, binding
from covtoken.protocol.report import committed_reports, read_report, report_path
from covtoken.scores.recipe import Recipe, fixed_recipes

NAME, SIDE, DIM, N_DRAWS = "busbra-external", 6, 16, 100
PIXELS = 4 * SIDE
VIT = SimpleNamespace(
    name="stub", input="unit", weights_sha256="0", picture_size=24, rows=SIDE, cols=SIDE, n_blocks=12,
    has_saliency_head=True,
)  # fmt: skip
COMMITTED = [each for each in committed_reports() if str(each.gate) == "confirmation"]
ROOT = project_root()


def pictures(folder, n, seed):
    """Grey pictures of 24 × 24 pixels; in most, a bright square of two or three patches a side is the lesion."""
    folder.mkdir()
    rng, rows = np.random.default_rng(seed), ["image,mask,patient"]
    for i in range(n):
        picture, mask = rng.normal(80, 8, (PIXELS, PIXELS)), np.zeros((PIXELS, PIXELS), np.uint8)
        if i % 6:
            row, col = rng.integers(0, SIDE - 2, 2) * 4
            place = np.s_[row : row + 4 * (2 + i % 2), col : col + 8]
            picture[place] += 60
            mask[place] = 255
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / f"{folder.name}{i}.png")
        Image.fromarray(mask).save(folder / f"m{i}.png")
        rows.append(f"{folder.name}{i}.png,m{i}.png,{folder.name}-p{i}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")


def features(self, cases, *_, **__):
    """Tokens that point one way where the picture is bright; attention, saliency and the rest see less or nothing."""
    values = np.array([case.pixels().reshape(SIDE, 4, SIDE, 4).mean((1, 3)).ravel() for case in cases])
    bright = torch.tensor((values - 80) / 60).float()
    noise = [np.random.default_rng(list(case.name.encode())).normal(size=(SIDE**2, DIM + 3)) for case in cases]
    noise = torch.tensor(np.array(noise)).float()
    tokens = noise[..., :DIM].clone()
    tokens[..., 0] += 9 * bright
    return FeatureSet.from_arrays(
        {block: tokens for block in (*range(1, 13), "norm")}, SIDE, SIDE,
        [case.unit for case in cases], [case.name for case in cases],
        attention={block: (0.3 * bright + noise[..., DIM]).softmax(1) for block in range(1, 13)},
        saliency=0.2 * bright + noise[..., DIM + 1], intensity=bright, variance=noise[..., DIM + 2].abs(),
        digests=[self.digests.get(case, case.name.encode().hex().ljust(64, "0")[:64]) for case in cases],
    )  # fmt: skip


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A checkout of its own with a locked recipe cohort, and a small cohort that is registered as external."""
    root = tmp_path / "checkout"
    for folder in ("covtoken", "configs"):
        (root / folder).mkdir(parents=True)
    (root / "configs" / "alarm.lock.json").write_text((ROOT / "configs" / "alarm.lock.json").read_text())
    for module in (locks, looks, report, history, confirmation):
        monkeypatch.setattr(module, "project_root", lambda: root)
    monkeypatch.setenv("COVTOKEN_DATA", str(tmp_path))
    pictures(tmp_path / "big", 104, 1)
    pictures(tmp_path / "stand_in", FEW_UNITS + 2, 2)
    monkeypatch.setitem(cohorts._READERS, "big", partial(cohorts._listed, "big", "big", modality="ultrasound"))
    monkeypatch.setitem(cohorts._CURATED, "big", "")
    monkeypatch.setitem(EXTERNAL, NAME, External("stand_in", "big", index_sha256(tmp_path / "stand_in")))
    monkeypatch.setattr(setting, "load_backbone", lambda *_, **__: VIT)
    monkeypatch.setattr(setting, "check_backbone_name", lambda name: None)
    monkeypatch.setattr(setting.Setting, "features", features)
    monkeypatch.setattr(confirmation, "measure", partial(measure, n_draws=N_DRAWS))
    monkeypatch.setattr(lesion_numbers, "N_DRAWS", N_DRAWS)
    # Scores that see as much as C− does would leave the toy's verdict open.
    monkeypatch.setattr(thresholds, "CONFIRMING", ("attention_best", "saliency_head"))
    locked = json.loads((ROOT / "configs" / locks.THRESHOLDS).read_text())["entries"]["phantom"]["gate1"]["recipes"]
    locked.setdefault("musc", Recipe("musc", 9).to_json())
    recipes = {name: Recipe.from_json(locked[name]) for name in (*BASELINES, "density")}
    recipes |= fixed_recipes(12, True) | {"attention_best": Recipe("attention", 9)}
    plan = Plan(recipes, 9, 0.7, "made up", {"ultrasound": 0.05})
    opened = setting.open_setting("big", "selection", progress=False)
    locks.write_entry(locks.THRESHOLDS, "big", 1, plan.to_json() | {"backbone": "stub"} | binding(opened))
    git(root, "init", "-q")
    commit(root)
    return root


def git(root, *arguments):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=root, check=True)


def commit(root):
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all", "--allow-empty")


def lock(root, reason=""):
    changes = thresholds.lock_confirmation(NAME, reason, progress=False)
    commit(root)
    return changes


def opened_external(entry):
    opened = replace(setting.open_setting(NAME, None, open_external=True, progress=False), split="crossfit")
    return opened, confirmation.locked_plan(opened, entry)


@pytest.mark.slow
def test_the_whole_path_from_lock_to_records_and_back_and_a_defect(stand_in, monkeypatch):
    monkeypatch.setattr(confirmation, "score", cache_of(confirmation.score))
    assert lock(stand_in) and not thresholds.lock_confirmation(NAME, progress=False), "locked again, nothing changes"
    entry = thresholds.confirmation_entry(NAME)
    assert entry["primary"] == f"auroc_gain.recommended_minus_{entry['rival']}.crossfit"
    assert set(entry["selection"]) == {"attention_best", "saliency_head"}
    assert entry["selection"][entry["rival"]] == max(entry["selection"].values())

    run, path = confirmation.confirm(NAME, record=True, progress=False)
    found = read_report(path)
    assert asdict(found) == json.loads(json.dumps(asdict(run.report))) and found.decision == "GO"
    assert found.thresholds["rival"] == entry["rival"] and found.thresholds["selection"] == entry["selection"]
    (look,) = looks.read_looks(stand_in)
    assert (look["cohort"], look["gate"], look["split"]) == (NAME, "confirmation", "external")
    assert look["chain"] == found.provenance["look"] and look["report"] == looks.report_digest(found)[:16]

    records = load_scores(records_path(stand_in, NAME, "confirmation"))
    check_recomputed(found, records)
    for column in COLUMNS:
        for name in (*BASELINES, "density", "direction", "recommended", "with_head", *confirmation.OURS):
            assert f"auroc.{name}.{column}" in found.metrics and f"miss_small.{name}.{column}" in found.metrics
        for kind in confirmation.KINDS:
            gain = f"{kind}_gain.recommended_minus_density.{column}"
            ours, other = (found.metrics[f"{kind}.{name}.{column}"]["value"] for name in ("recommended", "density"))
            assert found.metrics[gain]["value"] == pytest.approx(ours - other)
            assert f"{kind}_gain.with_head_minus_attention_fit.{column}" in found.metrics
            assert found.checks[f"{kind}.recommended_against_density.{column}"] in ("wins", "loses", "undecided")
        assert len(found.parameters["alarm"][column]) == {"carried": 1, "crossfit": 5}[column]
        assert {answer["score"] for answer in found.parameters["alarm"][column]} == {"C−"}
    assert not any("stand_in" in unit for unit in records.header["units"]), "units are hashed"

    lines = confirmation_lines([found])
    head = next(line for line in lines if line.startswith("|"))
    assert sum("**GO**" in line for line in lines) == 1 and head.count(cohort_name(NAME)) == len(COLUMNS)
    assert brief(found)[-1].startswith("GO: auroc_gain.recommended_minus_")

    opened, plan = opened_external(entry)
    mixed = confirmation.evaluate(opened, plan, entry, defect="shuffled_masks").report
    assert mixed.decision == "NO-GO" and mixed.checks.keys() == found.checks.keys()
    with pytest.raises(CovtokenError, match="unknown defect 'made_up'"):
        confirmation.evaluate(opened, plan, entry, defect="made_up")


def cache_of(score):
    """Score once: the pictures are the same in every run."""
    made = []

    def scored(*arguments):
        if not made:
            made.append(score(*arguments))
        return made[0]

    return scored


def check_recomputed(found, records):
    """The recorded scores give the report's numbers, its checks and its decision."""
    measured = confirmation.headline(records)
    entries = confirmation.without_few(measured.entries())
    assert records.header["primary"] == found.thresholds["primary"] in entries
    for name, entry in entries.items():
        assert entry["value"] == pytest.approx(found.metrics[name]["value"], abs=1e-9, nan_ok=True), name
        assert entry["ci95"] == pytest.approx(found.metrics[name]["ci95"], abs=1e-9), name
    decision, checks = confirmation.decide(measured, found.thresholds["primary"])
    assert decision == found.decision and checks.items() <= found.checks.items()


def test_an_alarm_does_not_put_another_score_in_the_place_of_the_recommended(stand_in, monkeypatch):
    lock(stand_in)
    entry = thresholds.confirmation_entry(NAME)
    opened, plan = opened_external(entry)
    names = {name: i for i, name in enumerate(plan.recipes)}

    def all_maps(plan, bank, pictures, vit):
        return {name: np.random.default_rng(i).random((len(pictures), SIDE**2)) for name, i in names.items()}

    monkeypatch.setattr(confirmation, "all_maps", all_maps)
    monkeypatch.setattr(confirmation, "heed_alarms", lambda parts, pairs, *_: [{"fired": False} for _ in pairs])
    quiet, _, _ = confirmation.score(opened, plan, "big")

    def alarmed(parts, pairs, *_):
        for part in parts:
            part["recommended"] = part["density"]
        return [{"fired": True, "score": "A"} for _ in pairs]

    monkeypatch.setattr(confirmation, "heed_alarms", alarmed)
    loud, _, alarms = confirmation.score(opened, plan, "big")
    assert all((loud[name] == quiet[name]).all() for name in quiet)
    assert alarms["carried"] == [{"fired": True, "score": "C−"}]


@pytest.fixture
def shut(monkeypatch):
    """Whatever opens the cohort fails the test."""
    monkeypatch.setattr(confirmation, "open_setting", lambda *_, **__: pytest.fail("the cohort was opened"))


def test_nobody_peeks_and_nothing_runs_without_a_whole_lock(stand_in, shut):
    with pytest.raises(CovtokenError, match="nobody peeks"):
        confirmation.confirm(NAME)
    with pytest.raises(CovtokenError, match="no comparison is locked; run `covtoken lock confirmation"):
        confirmation.confirm(NAME, record=True)
    with pytest.raises(CovtokenError, match="unknown external cohort 'busi'"):
        confirmation.confirm("busi", record=True)
    lock(stand_in)
    path = stand_in / "configs" / locks.CONFIRMATION
    whole = path.read_text()
    path.write_text(whole.replace(".crossfit", ".carried"))
    commit(stand_in)
    with pytest.raises(CovtokenError, match="edited by hand"):
        confirmation.confirm(NAME, record=True)
    path.write_text(whole + "\n")
    with pytest.raises(CovtokenError, match=r"committed code and locks, and these are not: configs/confirmation\.lock"):
        confirmation.confirm(NAME, record=True)


def test_recipes_or_an_index_other_than_the_locked_are_refused(stand_in, shut, tmp_path, monkeypatch):
    lock(stand_in)
    index = tmp_path / "stand_in" / "index.csv"
    whole = index.read_text()
    index.write_text(whole + "\n")
    with pytest.raises(CovtokenError, match="has the sha256"):
        confirmation.confirm(NAME, record=True)
    monkeypatch.setitem(EXTERNAL, NAME, External("stand_in", "big", index_sha256(index.parent)))
    with pytest.raises(CovtokenError, match=r"its index\.csv is not the one that was locked"):
        confirmation.confirm(NAME, record=True)
    changed = locks.entry(locks.THRESHOLDS, "big", 1) | {"middle": 8}
    locks.write_entry(locks.THRESHOLDS, "big", 1, changed, reason="a test")
    commit(stand_in)
    with pytest.raises(CovtokenError, match="the plan of big was locked anew after this confirmation"):
        confirmation.confirm(NAME, record=True)


def test_a_second_look_needs_a_later_line_of_the_history_and_so_does_the_third(stand_in, shut):
    def look(year):
        looks.append_look({"when": f"{year}-01-01T00:00:00Z", "cohort": NAME, "gate": "confirmation"}, recorded=True)

    def add(year, gate="confirmation"):
        append_change(Change(f"{year}-01-01T00:00:00Z", "", (gate,), "a bug", "why"))
        commit(stand_in)

    def refused():
        with pytest.raises(CovtokenError, match="the first look is the one that counts"):
            confirmation.confirm(NAME, record=True)

    lock(stand_in)
    look(2010)
    refused()
    for line in ((2000,), (2010,), (2011, "1")):  # before the look, no later than it, of another gate
        add(*line)
        refused()
    add(2012)
    confirmation.refuse_second_look(NAME)
    confirmation.refuse_second_look("lidc-external")
    look(2013)  # the line of 2012 is spent
    refused()
    add(2014)
    confirmation.refuse_second_look(NAME)


def test_a_line_of_the_future_allows_no_look(stand_in, shut, monkeypatch):
    lock(stand_in)
    looks.append_look({"when": "2010-01-01T00:00:00Z", "cohort": NAME, "gate": "confirmation"}, recorded=True)
    change = Change("2999-01-01T00:00:00Z", "", ("confirmation",), "a bug", "why")
    with pytest.raises(CovtokenError, match="lies in the future"):
        append_change(change)
    with monkeypatch.context() as patched:  # as if written into the file by hand
        patched.setattr(history, "now", lambda: "2999-12-31T00:00:00Z")
        append_change(change)
    commit(stand_in)
    with pytest.raises(CovtokenError, match="the first look is the one that counts"):
        confirmation.confirm(NAME, record=True)


def test_a_lock_reads_no_byte_of_the_cohort_but_its_index(stand_in, tmp_path):
    for file in (tmp_path / "stand_in").glob("*.png"):
        file.unlink()
    assert lock(stand_in)
    assert "stand_in" not in (stand_in / "configs" / locks.CONFIRMATION).read_text()


PRIMARY = "auroc_gain.recommended_minus_direction.carried"


@pytest.mark.parametrize(
    ("low", "high", "n_units", "decision", "word"),
    [
        (0.001, 0.1, FEW_UNITS, "GO", "wins"),
        (-0.001, 0.2, FEW_UNITS, "NO-GO", "undecided"),
        (-0.2, -0.1, 500, "NO-GO", "loses"),
        (0.1, 0.2, FEW_UNITS - 1, "NO-VERDICT", "wins"),
    ],
)
def test_the_lower_bound_of_the_one_comparison_decides(low, high, n_units, decision, word):
    measured = Measured((n_units, 50, 1000))
    for name, bounds in ((PRIMARY, (low, high)), ("auroc_gain.recommended_minus_density.carried", (-1.0, -0.5))):
        measured.add(name, np.mean(bounds), np.array([bounds[0]] * 500 + [bounds[1]] * 500))
    found, checks = confirmation.decide(measured, PRIMARY)
    assert found == decision and checks["auroc.recommended_against_direction.carried"] == word
    assert checks["auroc.recommended_against_density.carried"] == "loses"


def test_fewer_than_five_units_give_no_interval():
    entry = {"value": 1.0, "ci95": [1.0, 1.0], "n_units": 4, "exact95": [0.4, 1.0]}
    few, many = confirmation.without_few({"a": entry, "b": entry | {"n_units": 5}}).values()
    assert few == {"value": 1.0, "ci95": None, "n_units": 4} and many["ci95"] == [1.0, 1.0]


def test_the_column_that_decides_is_fixed_for_every_external_cohort():
    assert thresholds.COLUMN_OF == {"busbra-external": "crossfit", "lidc-external": "carried"}
    assert thresholds.COLUMN_OF.keys() == EXTERNAL.keys() and set(thresholds.COLUMN_OF.values()) == set(COLUMNS)
    assert len(confirmation.RECORDED) <= MAX_SCORERS and set(thresholds.CONFIRMING) <= set(confirmation.RECORDED)


def test_what_is_locked_is_of_the_registered_index_and_recipe_cohort():
    for cohort, entries in locks.read_lock(locks.CONFIRMATION)["entries"].items():
        entry = entries["gateconfirmation"]
        assert entry["index_sha256"] == EXTERNAL[cohort].index_sha256
        assert entry["recipe_cohort"] == EXTERNAL[cohort].recipe_cohort
        assert entry["primary"].endswith(f"_minus_{entry['rival']}.{thresholds.COLUMN_OF[cohort]}")


@pytest.mark.slow
def test_committed_reports_follow_from_their_records():
    if not COMMITTED:
        pytest.skip("no confirmation is recorded yet")
    for found in COMMITTED:
        path = records_path(ROOT, found.cohort, "confirmation")
        assert path.stat().st_size <= MAX_BYTES and report_path(found.cohort, "confirmation", recorded=True).exists()
        check_recomputed(found, load_scores(path))
        entry = locks.entry(locks.CONFIRMATION, found.cohort, "confirmation")
        assert {key: entry[key] for key in ("primary", "rival", "column", "selection")}.items() <= (
            found.thresholds.items()
        )
