"""Gate 0: the sound substrate passes, and each planted defect turns exactly what it should."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.data.readers import phantom
from covtoken.data.splits import assign
from covtoken.errors import CovtokenError
from covtoken.gates import gate0, runs
from covtoken.gates.substrate import checks as substrate
from covtoken.gates.substrate import geometry
from covtoken.paper.tables.gate0 import locked_text
from covtoken.protocol.report import GateRun, committed_reports, read_report
from covtoken.protocol.setting import Setting

REPORTS = [report for report in committed_reports() if report.gate == 0]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The model is tiny: threads would cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vit():
    return load_backbone("random:vit_tiny_patch16_224", 96)


@pytest.fixture(scope="module")
def cohort():
    return phantom.read(n=24)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sound(vit, cohort, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVTOKEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return gate0.run(Setting(cohort, "all", vit, progress=False)).report


def test_a_sound_substrate_passes(sound):
    assert sound.decision == "GO" and all(value is True for value in sound.checks.values()), sound.checks
    assert sound.split == "all" and sound.gate == 0 and sound.human_signoff is None
    for name in ("agreement.batch_size.middle", "agreement.bf16.final", "geometry.picture", "geometry.offset"):
        assert sound.metrics[name]["value"] is not None, name


@pytest.mark.parametrize("defect", gate0.DEFECTS)
def test_a_planted_defect_turns_the_decision(sound, vit, cohort, defect):
    report = gate0.run(Setting(cohort, "all", vit, progress=False), defect=defect).report
    failed = {name for name, outcome in report.checks.items() if not outcome}
    assert report.decision == "NO-GO" and set(gate0.DEFECTS[defect]) <= failed
    families = {name.split(".")[0] for name in failed}
    assert len(families) == 1, f"{defect} also broke {failed}"
    assert set(report.checks) == set(sound.checks)


def test_an_unknown_defect_is_refused(cohort, vit):
    with pytest.raises(CovtokenError, match="unknown defect 'gremlins': expected one of noisy_extraction"):
        gate0.run(Setting(cohort, "all", vit), defect="gremlins")


def test_any_failed_check_is_no_go():
    assert gate0.decide({"a": True, "b": True}) == "GO"
    assert gate0.decide({"a": True, "b": False}) == "NO-GO"


@pytest.mark.parametrize("shape", [(96, 96), (160, 240), (71, 64), (512, 333)])
@pytest.mark.parametrize("grid", [(16, 16), (7, 12)])
def test_marks_lie_inside_their_token(shape, grid):
    for place in geometry.PLACES:
        mark = geometry.mark_at(place, shape, *grid)
        top, bottom, left, right = mark.box
        middle = ((top + bottom) / 2 * grid[0] / shape[0], (left + right) / 2 * grid[1] / shape[1])
        assert (int(middle[0]), int(middle[1])) == (mark.row, mark.col)
        assert 0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]


def test_a_token_thick_offset_would_be_seen():
    a = np.zeros((5, 5))
    a[2, 2] = 1
    assert geometry._distance(a, np.roll(a, 1, axis=1)) == pytest.approx(1)
    assert geometry._distance(a, a) == 0


def test_an_edited_split_file_fails_its_check(monkeypatch, cohort):
    def refuse(*arguments):
        raise CovtokenError("edited")

    monkeypatch.setattr(substrate, "parts", refuse)
    checks, pairs = substrate.split_checks(cohort)
    assert not any(checks.values()) and pairs == []


def _pictures(n: int, kind: str) -> Cohort:
    """``n`` units with one picture each; the last is the first with a little noise, in another split."""
    rng = np.random.default_rng(0)
    noise = [rng.uniform(0, 255, (40, 40)).astype(np.float32) for _ in range(n)]
    noise[-1] = np.clip(noise[0] + rng.normal(0, 8, (40, 40)), 0, 255).astype(np.float32)
    names = [f"u{i}" for i in range(200)]
    first, rest = names[0], [name for name in names[1:] if assign(name) != assign(names[0])]
    units = [first, *rest[: n - 1]]
    cases = tuple(Case(u, u, "ultrasound", lambda i=i: noise[i]) for i, u in enumerate(units))
    return Cohort("mine", "ultrasound", cases, {u: MaskRef(kind, key="0:1") for u in units})


def test_look_alikes_fail_unless_their_seeds_are_known_to_differ():
    checks, pairs = substrate.split_checks(_pictures(8, "png"))
    assert not checks["splits.no_near_duplicates"] and len(pairs) == 1
    checks, pairs = substrate.split_checks(_pictures(8, "phantom"))
    assert checks["splits.no_near_duplicates"] and len(pairs) == 1, "counted all the same"


def test_a_small_cohort_is_checked_fold_by_fold():
    cohort = _pictures(20, "png")
    assert set(substrate.parts(cohort).values()) == {f"fold {i}" for i in range(5)}
    assert set(substrate.parts(replace(cohort, cases=cohort.cases[:11])).values()) <= {
        "bank",
        "selection",
        "calibration",
        "test",
    }


def test_the_report_is_written_and_no_look_is_logged(monkeypatch, tmp_path, sound):
    monkeypatch.setitem(runs.GATES, "0", lambda setting: GateRun(sound))
    monkeypatch.setattr(runs, "refuse_uncommitted", lambda: None)
    monkeypatch.setattr(runs, "report_path", lambda cohort, gate, recorded: tmp_path / f"gate{gate}-{recorded}.json")
    run, path = runs.run_and_write(0, "phantom", record=True)
    assert read_report(path) == run.report and [p.name for p in tmp_path.glob("*.jsonl")] == []


def test_the_locked_text_has_booleans_alone(sound):
    others = [replace(sound, cohort="busi")]
    text = locked_text(sound, others)
    assert text.count("GO\n") == 2 and "busi, gate 0, committed report: GO" in text
    assert text.count("True") == 2 * len(sound.checks) and "e-0" not in text
    lying = replace(sound, checks=sound.checks | {"bank.loads_intact": False})
    assert "DECISION DOES NOT FIT" in locked_text(lying, others)


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: r.cohort)
def test_committed_decisions_follow_from_their_checks(report):
    assert report.decision == gate0.decide(report.checks) and report.split == "all"
    for name, bound in report.thresholds.items():
        for place in ("middle", "final"):
            if f"{name}.{place}" in report.metrics and report.checks[name]:
                assert report.metrics[f"{name}.{place}"]["value"] <= bound
