"""The study of volumes: counts by hand, no interval under five units, scores before masks, and words from numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
from docutils import nodes

from covtoken.cli import studies as commands
from covtoken.economy.volume import BUDGETS, SIGMAS_MM, LesionTokens
from covtoken.errors import CovtokenError
from covtoken.evaluation.stats import clopper_pearson
from covtoken.paper.charts.offline_renderer import to_html
from covtoken.paper.charts.volumes import volume_retention
from covtoken.paper.pages.volumes import VolumesChart, VolumesSentence, VolumesTable
from covtoken.paper.tables import volumes as words
from covtoken.protocol.looks import read_looks
from covtoken.studies import volume_sources
from covtoken.studies import volumes as study
from covtoken.studies.volumes import KEEPS, PRIMARY, SCORES, Scored, compare, decide

T = 40


def _scored(units, lift=10.0):
    """A volume a unit: of four slices one holds a lesion of eight tokens above all else, and another a faint one."""
    volumes = []
    for place, unit in enumerate(units):
        maps = np.random.default_rng(place).normal(size=(4, T))
        maps[1, :8] += lift
        lesions = [
            LesionTokens(np.ones(8, int), np.arange(8), 900.0, place),
            LesionTokens(np.full(2, 2), np.array([5, 6]), 100.0, place),
        ]
        maps[2, 5:7] = -9.0  # the worst of all: never kept
        volumes.append(Scored(unit, (0.0, 5.0, 10.0, 15.0), dict.fromkeys(SCORES, maps), lesions))
    return volumes


@pytest.fixture(scope="module")
def content():
    rows, primary = compare(_scored([f"u{i}" for i in range(6)]))
    n = {"units": 6, "volumes": 6, "slices": 24, "images": 24, "tokens": 960, "lesions": 12, "lesion_tokens": 60}
    about = {"schema": study.STUDY.schema, "cohort": "phantom", "split": "test", "curated": "", "region": "all of it"}
    about |= {"bank": {"cohort": "phantom", "units": 7, "images": 9}, "backbone": "stub", "n": n}
    return about | {"rows": rows, "primary": primary, "decision": decide(primary, 6), "provenance": {}}


def test_rows_count_lesions_by_hand(content):
    found = words.by_place(content["rows"])
    assert set(found) == {(a, b, c, d) for a in SCORES for b in SIGMAS_MM for c in KEEPS for d in BUDGETS}
    even, whole = (found["recommended", 0.0, 0.05, spend] for spend in BUDGETS)  # two tokens a slice, eight in all
    assert (even["retained"], whole["retained"], whole["n_lesions"]) == (0, 6, 12)
    assert (even["recall"], whole["recall"]) == (0.2, 0.8)
    assert (whole["gained"], whole["lost"], whole["retained_small"], whole["n_small"]) == (6, 0, 0, 6)
    assert whole["ci95"] == [round(bound, 4) for bound in clopper_pearson(6, 12)]
    even, whole = (found["recommended", 0.0, 0.1, spend] for spend in BUDGETS)  # four a slice: half of the lesion
    assert even["retained"] == whole["retained"] == 6 and even["recall"] == 0.4


def test_smoothing_moves_counts_and_is_held_against_no_smoothing():
    """A lesion's slice alone is bright; smoothed widely, its neighbours' tokens stand beside it."""
    rows, _ = compare(_scored(["a"] * 3, lift=3.0))
    found = words.by_place(rows)
    plain, smoothed = (found["density", sigma, 0.05, "global"] for sigma in (0.0, 5.0))
    assert smoothed["recall"] < plain["recall"]
    baseline = found["density", 0.0, 0.05, "uniform"]
    assert smoothed["retained"] == baseline["retained"] + smoothed["gained"] - smoothed["lost"]


def test_no_interval_under_five_units():
    for units, few in ((["a", "b", "c", "d", "d", "d"], True), (list("abcde"), False)):
        rows, primary = compare(_scored(units))
        assert all((row["ci95"] is None) == few for row in rows) and primary["n_units"] == len(set(units))


def test_the_named_comparison_counts_units():
    _, primary = compare(_scored(["a", "a", "b", "c"]))
    assert {key: primary[key] for key in PRIMARY} == PRIMARY
    assert primary["units_won"] == primary["units_lost"] == 0 and primary["p"] == 1.0  # keep 0.1 retains them both ways
    scored = _scored(["a", "a", "b", "c"])
    for each in scored:  # ten tokens: four a slice are fewer than half
        each.lesions[0] = LesionTokens(np.ones(10, int), np.arange(10), 900.0)
        each.maps["recommended"][1, 8:10] += 10
    _, primary = compare(scored)
    assert (primary["uniform"], primary["global"], primary["n_lesions"]) == (0, 4, 8)
    assert (primary["units_won"], primary["units_lost"], primary["p"]) == (3, 0, 0.25)


@pytest.mark.parametrize(
    ("p", "won", "n", "decision"),
    [(0.01, 9, 19, "NO-VERDICT"), (0.01, 9, 20, "GO"), (0.06, 9, 20, "NO-GO"), (0.01, 1, 20, "NO-GO")],
)
def test_the_decision_needs_twenty_units_and_a_win(p, won, n, decision):
    assert decide({"p": p, "units_won": won, "units_lost": 3}, n) == decision


def test_volumes_without_lesions_are_refused():
    (scored,) = _scored(["a"])
    with pytest.raises(CovtokenError, match="holds a lesion"):
        compare([Scored(scored.unit, scored.z_mm, scored.maps, [])])
    with pytest.raises(CovtokenError, match="phantm"):
        volume_sources.open_source("phantm")
    with pytest.raises(CovtokenError, match="drawn, not read"):
        volume_sources.open_source("phantom", "somewhere")


def test_masks_are_opened_when_all_scores_exist(monkeypatch):
    order = []
    volumes = [SimpleNamespace(unit=f"u{i}", z_mm=(0.0,), cases=(), n_windows=1, name=f"v{i}") for i in range(2)]
    setting = SimpleNamespace(
        grid=(2, 2),
        features=lambda *a, **b: SimpleNamespace(units=["b"]),
        provenance=lambda started: {},
        fingerprint="bank",
        vit=None,
    )
    recipe = SimpleNamespace(to_json=dict, block=6, settings=SimpleNamespace(target_block=9))
    plan = SimpleNamespace(recipes=dict.fromkeys(SCORES, recipe))
    monkeypatch.setattr(study, "open_source", lambda *a: volume_sources.Source(tuple(volumes), "phantom"))
    monkeypatch.setattr(study, "open_setting", lambda *a, **b: setting)
    monkeypatch.setattr(study, "plan_for", lambda setting, need_lock: plan)
    monkeypatch.setattr(study, "replace", lambda setting, split: setting)
    banned = []
    monkeypatch.setattr(study, "not_scored", lambda setting, units: banned.extend(units))
    monkeypatch.setattr(study, "score_volumes", lambda *a: order.append("scores") or ([{}, {}], {}))
    monkeypatch.setattr(study, "volume_lesions", lambda *a: order.append("lesions") or [])
    monkeypatch.setattr(study, "_content", lambda *a: {})
    study.run_volumes("phantom", progress=False)
    assert order == ["scores", "lesions", "lesions"] and banned == ["u0", "u1"]


def test_the_command_logs_its_look_and_writes(monkeypatch, tmp_path, content):
    monkeypatch.setattr(study, "run_volumes", lambda cohort, data: content | {"provenance": {}})
    monkeypatch.setattr("covtoken.protocol.looks.project_root", lambda: tmp_path)
    monkeypatch.setattr("covtoken.protocol.report.project_root", lambda: tmp_path)
    commands.volumes("phantom")
    (look,) = read_looks(tmp_path, recorded=False)
    assert (look["cohort"], look["gate"], look["split"], look["decision"]) == (
        "phantom",
        "volumes",
        "test",
        "NO-VERDICT",
    )
    written = tmp_path / "gate_reports" / "_run" / "phantom" / "volumes.json"
    assert look["chain"] in written.read_text() and not (tmp_path / "gate_reports" / "phantom").exists()


def test_words_follow_from_counts(content):
    even, whole = content["primary"]["uniform"], content["primary"]["global"]
    assert f"retains as many lesions as one per slice, {whole} against {even} of 12" in words.volumes_text(content)
    for counts, verb in (({"global": 9}, "more lesions than"), ({"global": 2}, "fewer lesions than")):
        assert verb in words.volumes_text(content | {"primary": content["primary"] | counts})
    rows = [row | {"retained": 11} if row["score"] == "density" else row for row in content["rows"]]
    assert "retained by membership A: 11 of 12." in words.volumes_text(content | {"rows": rows})
    of = {key: row["retained"] for key, row in words.by_place(rows).items()}
    pairs = [
        f"{of['recommended', s, 0.1, 'uniform']} / {of['recommended', s, 0.1, 'global']} by {s:g} mm" for s in (2.5, 5)
    ]
    assert f"it retains {' and '.join(pairs)} (per slice / whole volume)" in words.volumes_text(content)
    assert words.volumes_table(content).row_count == len(SCORES) * len(SIGMAS_MM) * len(BUDGETS)
    row = content["rows"][0]
    assert words.share_text(row) == f"{row['retained']} of 12 [{row['ci95'][0]:.2f}, {row['ci95'][1]:.2f}]"
    assert words.share_text(row | {"ci95": None}) == f"{row['retained']} of 12"


def test_the_chart_draws_one_smoothing():
    rows, _ = compare(_scored(list("abcde")))
    spec = volume_retention(rows, sigma=2.5).to_dict()
    drawn = next(iter(spec["datasets"].values()))
    assert len(drawn) == len(SCORES) * len(KEEPS) * len(BUDGETS) and {row["sigma_mm"] for row in drawn} == {2.5}
    assert {row["budget"] for row in drawn} == {"whole volume", "per slice"}
    with pytest.raises(CovtokenError, match="3"):
        volume_retention(rows, sigma=3.0)


def _directive(kind, root, cohort="phantom", **options):
    made = kind.__new__(kind)
    made.root, made.depends_on, made.lineno = lambda: root, lambda path: None, 1
    made.arguments, made.options = [cohort], options
    made.missing = lambda error, line: nodes.strong(text=str(error))
    made.figure = lambda drawn: [nodes.raw("", to_html(drawn.spec), format="html")]
    return made


def test_directives_show_written_tables_and_warn_of_the_others(tmp_path, content):
    study.STUDY.write(content, recorded=True, root=tmp_path)
    table, small_print = _directive(VolumesTable, tmp_path).run()
    assert len(list(table.findall(nodes.row))) == 1 + len(SCORES) * len(SIGMAS_MM)
    assert "whole volume: 6 of 12" in table.astext() and "no intervals" not in small_print.astext()
    small, _ = _directive(VolumesTable, tmp_path, small=None).run()
    assert "per slice: 0 of 6" in small.astext()
    (sentence,) = _directive(VolumesSentence, tmp_path).run()
    assert sentence.astext() == words.volumes_text(content)
    (chart,) = _directive(VolumesChart, tmp_path, sigma=5.0).run()
    assert "vega" in chart.astext()
    (warning,) = _directive(VolumesTable, tmp_path, cohort="lidc-idri").run()
    assert "covtoken volumes --cohort lidc-idri --record" in warning.astext() and str(tmp_path) not in warning.astext()
