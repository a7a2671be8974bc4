"""Transfer beyond gate 5's own reports: folders of any size, tiny and external cohorts, other backbones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from covtoken.backbone.weights import load_backbone
from covtoken.cli import terminal
from covtoken.data import masks
from covtoken.data.case import Case, Cohort, MaskRef
from covtoken.data.cohorts import open_cohort
from covtoken.data.external import EXTERNAL
from covtoken.data.readers.volume_cohorts import VOLUMES
from covtoken.errors import CovtokenError
from covtoken.evaluation.measure import FEWEST_FOR_INTERVAL
from covtoken.gates import gate3, gate5, runs
from covtoken.gates.transfer import backbones, rows, ways
from covtoken.names import METHOD_NAMES
from covtoken.paper.tables import transfer
from covtoken.paths import project_root
from covtoken.protocol import setting as settings
from covtoken.protocol.planning import plan_for
from covtoken.protocol.report import committed_reports
from covtoken.protocol.setting import Setting, open_setting

TINY = "random:vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit():
    return load_backbone(TINY, 96)


def folder(root, n: int):
    """Write a folder of n patients: a bright disc on noise, and its mask."""
    rows_of_index = ["image,mask,patient"]
    for sub in ("images", "masks"):
        (root / sub).mkdir(parents=True)
    y, x = np.mgrid[:64, :64]
    for i in range(n):
        rng = np.random.default_rng(i)
        disc = (y - rng.integers(12, 52)) ** 2 + (x - rng.integers(12, 52)) ** 2 < 60
        picture = rng.integers(20, 90, (64, 64)) + 120 * disc
        Image.fromarray(picture.astype(np.uint8)).save(root / f"images/{i}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(root / f"masks/{i}.png")
        rows_of_index.append(f"images/{i}.png,masks/{i}.png,P{i:03}")
    (root / "index.csv").write_text("\n".join(rows_of_index) + "\n")
    return root


@pytest.fixture
def carried(monkeypatch, tmp_path, vit):
    """Banks that would come from recipe cohorts come from a folder of other patients instead."""
    other = open_setting(str(folder(tmp_path / "other", 13)), None, vit, cache=False, progress=False)
    asked = []

    def bank(name, setting):
        asked.append(name)
        return replace(other, vit=setting.vit).features(other.cohort.cases)

    for module in (settings, ways):
        monkeypatch.setattr(module, "carried_bank", bank)
    return asked


@pytest.mark.parametrize(
    ("n", "split", "decides"), [(104, "test", "elsewhere"), (14, "crossfit", "elsewhere"), (6, "carried", "carried")]
)
def test_a_folder_of_any_size_prints_every_baseline_and_a_verdict(tmp_path, vit, carried, n, split, decides):
    setting = open_setting(str(folder(tmp_path / "mine", n)), "test", vit, cache=False, progress=False)
    assert setting.split == split
    report = gate5.run(setting, plan_for(setting)).report
    said = "\n".join([*terminal.every_way(report), *terminal.brief(report)])
    scores = {name for name in gate5.SHOWN if "head" not in name}  # this backbone has no saliency head
    assert all(METHOD_NAMES[name] in said for name in scores)
    assert f"NO-VERDICT: {'only ' if n < 104 else ''}" in said, "recipes of another backbone, or too few units"
    measured = {name for name in scores if report.metrics.get(f"auroc.{name}.{decides}", {}).get("value") is not None}
    assert measured == scores
    assert "busi" in carried and (split != "carried" or set(carried) == {"busi"})
    assert transfer.verdict(report).startswith("mine")
    if split == "carried":
        assert not any(".refitted" in name or ".elsewhere" in name for name in report.metrics)
        assert report.parameters["bank_of"] == "busi" and report.parameters["blank"].keys() == {"refitted", "elsewhere"}
        with pytest.raises(CovtokenError, match=r"mine has 6 units .*covtoken gate 1 --cohort mine --split carried"):
            gate5.run(setting, plan_for(setting), need_all=True)


def test_fewer_than_five_units_get_numbers_without_interval_and_no_word(tmp_path, vit, carried, monkeypatch):
    monkeypatch.setattr(gate3, "threshold_of", lambda *_, **__: {"value": 0.5, "reason": "", "locked": True})
    setting = open_setting(str(folder(tmp_path / "mine", FEWEST_FOR_INTERVAL - 1)), "test", vit, cache=False)
    for gate in ("1", "3"):
        report = runs.GATES[gate](replace(setting, progress=False), plan_for(setting)).report
        assert report.decision == "NO-VERDICT" and report.split == "carried"
        assert report.parameters["bank_of"] == "busi"
        assert not [name for name, entry in report.metrics.items() if entry["ci95"]]
        assert any(entry["value"] is not None for entry in report.metrics.values())
        assert not {"wins", "loses"} & set(map(str, report.checks.values()))


def test_a_tiny_cohort_takes_the_bank_of_its_modality_and_volumes_in_hu_one_of_volumes():
    def bank_of(n, modality, input="unit"):
        cases = tuple(Case(f"c{i}", f"P{i}", modality, lambda: np.zeros((8, 8))) for i in range(n))
        cohort = Cohort("mine", modality, cases, {case.name: MaskRef("empty", key="8x8") for case in cases})
        vit = SimpleNamespace(input=input)
        return Setting(cohort, settings.resolve_split(cohort, "test"), vit).bank_cohort

    assert bank_of(11, "ultrasound") == "busi" and bank_of(11, "ct") == bank_of(11, "ct8") == "lidc-crops"
    assert bank_of(11, "ct", "hu") == "msd-task06"
    assert bank_of(12, "ct") == bank_of(99, "ct") == "mine", "cross-fitted: the others' units feed the bank"
    with pytest.raises(CovtokenError, match="unknown modality of mine"):
        bank_of(3, "mri")


def test_a_bank_carried_to_a_tiny_cohort_holds_nobody_who_is_scored(vit):
    cohort = open_cohort("phantom", n=40)
    few = Setting(replace(cohort, cases=cohort.cases[:6]), "carried", vit)
    scored = set(cohort.units[:3])
    assert {case.unit for case in settings.not_scored(few, scored)} == set(few.cohort.units) - scored
    with pytest.raises(CovtokenError, match="there is no bank to carry over"):
        settings.not_scored(few, few.cohort.units)


def test_gates_see_lung_windows_of_a_volume_whatever_its_masks_say(covtoken_data, monkeypatch):
    monkeypatch.setattr(masks, "read_mask", lambda ref: pytest.fail("a mask was opened"))
    view = VOLUMES["msd-task06"].view
    whole = open_cohort("msd-task06", **view.options() | {"every": 24})
    seen = view.of(whole)
    assert 0 < len(seen.cases) < len(whole.cases) and seen.units == whole.units
    kept = {case.name for case in seen.cases}
    for case in whole.cases[::7]:
        pixels = case.pixels()
        share = ((pixels > -950) & (pixels < -500)).mean()
        assert pixels.shape == (72, 72) and (share >= 0.3) == (case.name in kept)
    assert {case.organ for case in seen.cases} == {"lung-crops"} and "chosen blind to masks" in seen.curated


def test_rows_of_external_and_tiny_cohorts_come_from_committed_scores_and_open_no_picture(monkeypatch):
    def opened(*arguments, **options):
        pytest.fail("something was opened")

    monkeypatch.delenv("COVTOKEN_DATA", raising=False)
    monkeypatch.setattr("covtoken.data.cohorts.open_cohort", opened)
    monkeypatch.setattr("covtoken.data.masks.read_mask", opened)
    monkeypatch.setattr(Case, "pixels", opened)
    found = rows.joined_metrics()
    assert set(EXTERNAL) <= set(found)
    reports = {report.cohort: report for report in committed_reports() if str(report.gate) == "confirmation"}
    for cohort in EXTERNAL:
        for name, entry in found[cohort].items():
            column = name.replace(".refitted", ".crossfit")
            assert entry["value"] == pytest.approx(reports[cohort].metrics[column]["value"], abs=1e-9), name
        assert {name.rpartition(".")[2] for name in found[cohort]} == {"carried", "refitted"}
    for cohort in set(found) - set(EXTERNAL):
        assert {name.rpartition(".")[2] for name in found[cohort]} == {"carried"}


REPORTS = [report for report in committed_reports() if str(report.gate) == "backbones"]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.cohort)
def test_a_record_of_backbones_decides_nothing_and_says_what_random_weights_reach(report):
    assert report.decision == "NO-VERDICT" and report.split in ("selection", "crossfit", "carried")
    drawn = report.chart_data["cells"]
    for row in drawn:
        name = f"{row['kind']}.{row['score']}.{row['way']}.{row['backbone']}"
        assert row["value"] == report.metrics[name]["value"] and row["n_units"] == report.metrics[name]["n_units"]
    assert {row["backbone"] for row in drawn} >= set(backbones.BACKBONES)
    assert all("weights_sha256" in about or about["blank"] for about in report.parameters["backbones"].values())


def test_backbones_are_scored_in_every_way_that_a_folder_has(tmp_path, monkeypatch, carried, vit):
    monkeypatch.setattr(backbones, "PICTURE_SIZE", 96)
    monkeypatch.setattr(settings, "PICTURE_SIZE", 96)
    monkeypatch.setattr(backbones, "report_path", lambda *_, **__: tmp_path / "backbones.json")
    monkeypatch.setattr(backbones, "log_look", lambda report, lock, recorded: report)
    names = (TINY, "random:vit_small_patch16_224")
    report, path = backbones.run_and_write(
        str(folder(tmp_path / "mine", 14)), names, n_units=12, cache=False, progress=False
    )
    assert path.exists() and report.decision == "NO-VERDICT" and report.parameters["n_units"] == 12
    places = {(row["backbone"], row["way"]) for row in report.chart_data["cells"]}
    assert places == {(name, way) for name in names for way in ("refitted", "elsewhere", "carried", "foreign")}
    table = transfer.backbones_table(report.chart_data["cells"])
    assert set(table.index.get_level_values("backbone")) == set(names)
    assert project_root() not in path.parents


def test_random_weights_of_meddinov3s_form_take_hounsfield_units():
    vit = load_backbone("random:meddinov3", 32)
    assert vit.input == "hu" and vit.n_blocks == 12 and vit.label == "MedDINOv3 ViT-B/16, random weights"
