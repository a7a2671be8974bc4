"""The paper keeps its form (each result: claim, figure, limit), its references have ids, its words are borne out."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from covtoken.errors import CovtokenError
from covtoken.paper.across import draw_across
from covtoken.paper.charts.scores import value_forest
from covtoken.paper.numbers import read_metric
from covtoken.paper.pages.recipes import cohort_row
from covtoken.paths import project_root

ROOT = project_root()
CHAPTERS = [chapter["file"] for chapter in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"][0]["chapters"]]
TEXTS = {name: (ROOT / "book" / f"{name}.md").read_text() for name in CHAPTERS}
SECTIONS = [
    (name, section)
    for name, text in TEXTS.items()
    if name.startswith("results_")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]
]
FIGURE = re.compile(r"^```\{(?:report-chart|across-chart|figure)\}", re.MULTILINE)
FOUR = ("busi", "lidc-crops", "lits", "kits19")
ENTRY = {"value": 0.75, "ci95": [0.7, 0.8], "n_units": 3, "n_images": 4}


@pytest.mark.parametrize(("name", "section"), SECTIONS, ids=[section.splitlines()[0] for _, section in SECTIONS])
def test_a_result_has_one_figure_and_says_its_limit(name, section):
    assert len(FIGURE.findall(section)) == 1
    assert section.count("**Limit.**") == 1


def test_the_paper_has_nine_results_ten_figures_and_four_tables():
    joined = "\n".join(TEXTS.values())
    assert len(SECTIONS) == 9
    assert len(FIGURE.findall(joined)) == 10
    assert len(re.findall(r"^:caption: ", joined, re.MULTILINE)) == 4
    prose = re.sub(r"^```.*?^```|\{[\w-]+\}`[^`]*`", "", joined, flags=re.MULTILINE | re.DOTALL)
    assert 3500 < len(prose.split()) < 4450


def test_every_reference_can_be_looked_up():
    entries = re.split(r"^@", (ROOT / "book" / "references.bib").read_text(), flags=re.MULTILINE)[1:]
    without = [entry.split(",")[0] for entry in entries if not re.search(r"^\s*(doi|eprint)\s*=", entry, re.MULTILINE)]
    assert len(entries) > 30 and not without


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        *((f"{cohort}/gate1 auroc_gain.middle_minus_final", 1) for cohort in FOUR),
        ("lits/gate1 auroc_gain.recommended_minus_direction", -1),
        ("kits19/gate1 auroc_gain.recommended_minus_patchcore", -1),
        ("lits/gate1 organ_auroc_gain.in_organ_minus_density", 1),
        ("lits/gate1 auroc_gain.recommended_minus_attention_head_fit", 1),
        ("kits19/gate1 auroc_gain.recommended_minus_attention_head_fit", 1),
        ("busi/gate1 auroc_gain.recommended_minus_with_head", 0),
        ("lidc-crops/gate1 auroc_gain.recommended_minus_with_head", 0),
        ("busi/gate1 image_auroc_gain.recommended_minus_saliency_head", 0),
        ("busi/gate3 miss_gain.recommended_minus_merging.keep0.25", 0),
        ("lits/gate3 miss_gain.recommended_minus_head_student.keep0.25", -1),
        ("lits/gate3 miss_gain.recommended_minus_attention_last.keep0.25", -1),
        ("busi/gate6 probe_gain.segmentation_auroc.chosen_minus_full", -1),
        ("lidc-crops/gate6 probe_gain.segmentation_auroc.chosen_minus_full", -1),
        ("busi/gate6 probe_gain.malignancy.chosen_minus_full", 0),
        ("busi/gate5 auroc_gain.recommended.elsewhere_minus_refitted", -1),
        ("lidc-crops/gate5 auroc_gain.recommended.elsewhere_minus_refitted", -1),
        ("lits/gate5 auroc_gain.recommended.carried_minus_refitted", 0),
        ("kits19/gate5 auroc_gain.recommended.carried_minus_refitted", 0),
        ("lidc-crops/negative_result recall_gain.membership_minus_coverage_repaired", 0),
        ("lits/negative_result likeness.inside_minus_outside", 1),
        ("busi/negative_result likeness.inside_minus_outside", -1),
        ("lidc-crops/negative_result likeness.inside_minus_outside", 0),
        ("kits19/negative_result likeness.inside_minus_outside", 0),
        ("lidc-external/confirmation auroc_gain.recommended_minus_direction.crossfit", -1),
        ("busbra-external/confirmation auroc_gain.recommended_minus_attention_head_fit.crossfit", -1),
    ],
)
def test_words_of_the_paper_are_borne_out(where, expected):
    low, high = read_metric(ROOT, where)["ci95"]
    assert int(low > 0) - int(high < 0) == expected


def _toy(tmp_path, metrics: dict) -> None:
    for cohort in FOUR[:2]:
        path = tmp_path / "gate_reports" / cohort / "gate1.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"metrics": metrics, "split": "test", "chart_data": {"blocks": []}}))


def test_a_chart_across_cohorts_names_them_and_counts_their_units(tmp_path):
    loss = {"value": -0.1, "ci95": [-0.2, -0.05], "n_units": 3}
    _toy(tmp_path, {"auroc_gain.recommended_minus_density": loss, "auroc.random": ENTRY | {"n_units": 99}})
    options = {"gate": "1", "title": "A title", "metrics": "auroc_gain.recommended_minus_density"}
    drawn = draw_across(tmp_path, "gains", "cohorts-name", options | {"cohorts": "busi lidc-crops"})
    assert [(row["cohort"], row["label"]) for row in drawn.rows] == [
        (c, "membership A") for c in ("BUSI", "LIDC windows")
    ]
    assert "2 lost (to BUSI: membership A, LIDC windows: membership A)" in drawn.words
    assert "BUSI, test split, 3 units" in drawn.words
    for wrong in ({"metrics": "auroc_gain.recommended_minus_musc"}, {"cohorts": "lits"}):
        with pytest.raises(CovtokenError, match="not recorded yet"):
            draw_across(tmp_path, "gains", "cohorts-name", options | {"cohorts": "busi lidc-crops"} | wrong)
    with pytest.raises(CovtokenError, match="unknown kind of chart"):
        draw_across(tmp_path, "pie", "cohorts-name", options)


def test_values_say_chance_only_where_they_come_near_it():
    rows = [{"cohort": "BUSI", "label": "C−", "value": 0.6, "lo": 0.55, "hi": 0.7, "of": "membership"}]
    high = value_forest(rows).to_dict()
    near = value_forest([rows[0] | {"lo": 0.45}]).to_dict()
    assert ["chance" in " ".join(spec["title"]["subtitle"]) for spec in (high, near)] == [False, True]
    assert high["layer"][0]["encoding"]["y"]["scale"]["domain"] == ["BUSI", "BUSI: C−"]


def test_a_row_of_the_cohort_table_counts_what_was_evaluated():
    parameters = {"n_lesion_images": 3, "n_lesions": 5, "small_cuts": {"ct8": 0.0113}}
    report = {"metrics": {"auroc.recommended": ENTRY}, "parameters": parameters, "split": "crossfit"}
    row = cohort_row("kidney CT", "KiTS19 slices", report)
    assert row[:6] == ["KiTS19 slices", "kidney CT", "3", "4 (3)", "5", "1.1 % of the picture"]
    assert row[6].startswith("chooses nothing")
