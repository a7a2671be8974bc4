"""Charts and tables of gate 6 draw offline, come out equal for equal input, and say who wins and who loses."""

from __future__ import annotations

import copy

import pytest

from covtoken.errors import CovtokenError
from covtoken.paper.charts import economy as charts
from covtoken.paper.charts.offline_renderer import mime_bundle, to_svg
from covtoken.paper.charts_by_name import CHARTS
from covtoken.paper.numbers import as_text, readable
from covtoken.paper.pages.economy import cells_of, frame_of
from covtoken.paper.tables import economy
from covtoken.protocol.report import GateReport, metric

CURVES = [
    {
        "score": score,
        "block": block,
        "speedup": speedup,
        "keep": 1 / speedup,
        "small": small,
        "all": 1.2 - 0.2 * speedup,
    }
    for score, top in (("recommended", 3.0), ("density", 1.5), ("attention_best", 3.0))
    for block in (3, 6)
    for speedup, small in ((1.2, 0.9), (1.5, 0.8), (2.0, None), (3.0, 0.3))
    if speedup <= top
]
MARKS = [
    {"name": "chosen: 80 of 256", "block": 3, "speedup": 2.0, "small": 0.9, "all": 0.8},
    {"name": "published", "block": 3, "speedup": 1.6, "small": None, "all": 0.4},
]
MADE = {"n": 40, "m": 50, "vacuous": False, "setting": 70.0, "retained": 46, "coverage": 0.92, "law": [0.8, 0.98]}
MADE |= {"expected": [0.81, 0.97], "resplit_mean": 0.91, "resplit": [0.82, 0.97], "keep": 0.27}
CERTIFICATES = [
    {"score": "recommended.block3", "form": "rank", "alpha": 0.01, "n": 40, "m": 50, "vacuous": True},
    {"score": "recommended.block3", "form": "rank", "alpha": 0.1} | MADE | {"resplit_keep": [0.2, 0.3]},
    {"score": "attention_best.block3", "form": "rank", "alpha": 0.1} | MADE | {"keep": 0.6, "resplit_keep": [0.5, 0.7]},
    {"score": "recommended.block3", "form": "threshold", "alpha": 0.1} | MADE | {"pictures": [0.1, 0.5]},
]
PROBES = [
    {
        "route": route,
        "label": route,
        "speedup": speedup,
        "task": task,
        "value": value,
        "lo": value - 0.1,
        "hi": value + 0.1,
    }
    | {"gain": value - 0.7, "gain_lo": value - 0.8, "gain_hi": value - 0.6}
    for task in ("segmentation_ap", "malignancy")
    for route, speedup, value in (
        ("full", 1.0, 0.7),
        ("chosen", 2.0, 0.66),
        ("chosen@1.3", 1.3, 0.69),
        ("chosen_mixed", 2.0, 0.68),
        ("merging_tuned", 2.0, 0.69),
        ("attention_best", 2.0, 0.5),
        ("stop_early", 1.9, 0.4),
    )
]
ROWS = {"retention_curves": CURVES, "certificate_coverage": CERTIFICATES, "probe_pareto": PROBES}
NEEDED = {
    "retention_curves": ("score", "block", "speedup", "all"),
    "certificate_coverage": ("score", "form", "alpha", "n", "m", "vacuous"),
    "probe_pareto": ("route", "speedup", "task", "value"),
}


def svg(name: str, rows: list[dict] | None = None, **options) -> str:
    return to_svg(CHARTS[name](ROWS[name] if rows is None else rows, **options).to_dict())


@pytest.mark.parametrize("name", ROWS)
def test_equal_charts_give_equal_output(name):
    first, second = (mime_bundle(CHARTS[name](ROWS[name], title="a title").to_dict()) for _ in range(2))
    assert first == second
    assert first["image/svg+xml"].startswith("<svg") and "a title" in first["text/plain"]
    assert "NaN" not in first["image/svg+xml"] and "cdn." not in first["text/html"]


@pytest.mark.parametrize("name", ROWS)
def test_every_chart_is_as_wide_as_its_page_and_leaves_its_rows_alone(name):
    before = copy.deepcopy(ROWS[name])
    assert CHARTS[name](ROWS[name]).to_dict()["width"] == "container"
    assert before == ROWS[name]


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in NEEDED.items() for key in keys])
def test_missing_columns_are_named(name, key):
    rows = [{k: v for k, v in row.items() if k != key} for row in ROWS[name]]
    with pytest.raises(CovtokenError, match=rf"expected columns .*{key}.*, got"):
        CHARTS[name](rows)


@pytest.mark.parametrize("name", ROWS)
def test_no_rows_are_an_error(name):
    with pytest.raises(CovtokenError, match="no rows"):
        CHARTS[name]([])


@pytest.mark.parametrize("name", ROWS)
def test_a_single_row_is_drawn(name):
    assert "NaN" not in svg(name, ROWS[name][:1]) + svg(name, ROWS[name][1:2])


def test_curves_name_every_score_once_and_mark_both_settings():
    drawn = svg("retention_curves", marks=MARKS)
    for name in ("C−", "A, search counted", "attention, tuned", "published"):
        assert drawn.count(f">{name}</text>") >= 1, name
    assert "chosen: 80 of 256" in drawn and "NaN" not in drawn
    assert "chosen: 80 of 256" in (small := svg("retention_curves", size="small", marks=MARKS))
    assert ">published</text>" not in small, "it retained no known share of small lesions"


def test_curves_are_those_of_the_chosen_tap_unless_another_is_named():
    for options, expected in (({"marks": MARKS}, {3}), ({"block": 6, "marks": MARKS}, {6}), ({}, {3})):
        data = charts.retention_curves(CURVES, **options).to_dict()["datasets"].values()
        assert {row["block"] for rows in data for row in rows if "score" in row} == expected
    with pytest.raises(CovtokenError, match="no row of all lesions at block 9"):
        charts.retention_curves(CURVES, block=9)
    with pytest.raises(CovtokenError, match="size 'large': expected one of small, all"):
        charts.retention_curves(CURVES, size="large")


def test_shares_of_no_lesion_are_an_error_and_not_a_blank():
    with pytest.raises(CovtokenError, match="no row of small lesions"):
        charts.retention_curves([row | {"small": None} for row in CURVES], size="small")


def test_certificates_are_the_chosen_scores_and_say_where_they_are_vacuous():
    drawn = svg("certificate_coverage")
    assert ">vacuous: n = 40</text>" in drawn
    assert ">α = 0.1, tokens</text>" in drawn and ">α = 0.1, threshold</text>" in drawn
    data = charts.certificate_coverage(CERTIFICATES, score="attention_best").to_dict()["datasets"].values()
    assert {row["score"] for rows in data for row in rows if "score" in row} == {"attention_best.block3"}
    with pytest.raises(CovtokenError, match="no row of score 'patchcore'"):
        charts.certificate_coverage(CERTIFICATES, score="patchcore")


def test_certificates_that_are_all_vacuous_are_drawn():
    assert "vacuous" in svg("certificate_coverage", [CERTIFICATES[0]])


def test_probes_draw_the_full_pass_as_a_rule_and_name_other_routes_once():
    drawn = svg("probe_pareto")
    for name in ("full pass", "chosen route", "chosen, both", "merging, tuned", "attention, tuned", "stop early"):
        assert drawn.count(f">{name}</text>") == 1, name
    assert "1.3 ×</text>" not in drawn.replace(">1.3 ×</text>", ""), "other speed-ups of the route have a line, no name"
    with pytest.raises(CovtokenError, match="no row of task 'grading'"):
        charts.probe_pareto(PROBES, task="grading")


def test_probes_without_an_interval_are_drawn():
    assert "NaN" not in svg("probe_pareto", [row | {"lo": None, "hi": None} for row in PROBES])


def test_routes_of_one_cost_stand_side_by_side_and_the_chosen_one_in_its_place():
    data = charts.probe_pareto(PROBES).to_dict()["datasets"].values()
    rows = {row["route"]: row for rows in data for row in rows if "drawn" in row}
    assert rows["chosen"]["drawn"] == rows["chosen"]["speedup"] == 2.0
    places = [row["drawn"] for row in rows.values()]
    assert len(set(places)) == len(places)
    assert all(abs(row["drawn"] - row["speedup"]) < 0.1 for row in rows.values())


def held(count: int, of: int) -> dict:
    entry = metric(count / of, (count / of - 0.1, min(count / of + 0.1, 1)), 30, 30, 9)
    return entry | {"count": count, "of": of, "exact95": [count / of - 0.12, min(count / of + 0.12, 1)]}


METRICS = {
    "retention_all": held(61, 64),
    "retention_small": held(20, 21),
    "retention_all.recommended": held(61, 64),
    "retention_small.recommended": held(20, 21),
    "retention_all.published": held(48, 64),
    "retention_all.random": held(42, 64),
    "retention_small.random": held(11, 21),
    "retention_all.head_student": held(62, 64),
    "retention_small.head_student": held(21, 21),
    "retention_gain.recommended_minus_random": metric(0.297, (0.18, 0.414), 30, 30, 9),
    "retention_gain.recommended_minus_head_student": metric(-0.016, (-0.083, -0.001), 30, 30, 9),
    "speedup_flops_net": metric(1.553, None, 30, 30, 9),
    "speedup_flops_net.published": metric(1.592, None, 30, 30, 9),
    "probe.segmentation_ap.full": metric(0.7, (0.6, 0.8), 30, 30, 9),
    "probe.segmentation_ap.chosen": metric(0.66, (0.55, 0.77), 30, 30, 9),
    "probe_gain.segmentation_ap.chosen_minus_full": metric(-0.04, (-0.06, -0.02), 30, 30, 9),
    "probe.segmentation_ap.chosen@1.3": metric(0.69, (0.6, 0.78), 30, 30, 9),
}
CHOSEN = {"score": "recommended", "block": 3, "k": 136, "n_tokens": 256, "speedup": 1.553}
CHOSEN |= {"retained": 0.983, "at_wanted": 0.879}
SETTING = {"chosen": CHOSEN, "each": [CHOSEN | {"score": "random", "k": 250, "speedup": 1.0}, CHOSEN], "k_whole": 132}
SETTING["merging"] = {"schedule": "from 3", "speedup": 1.6, "retained": 0.98, "at_wanted": 0.7}


def report(decision: str = "NO-GO", **checks) -> GateReport:
    checks = {
        "faster_than_rivals": False,
        "coverage_within_its_law": True,
        "retention.recommended_against_random": "wins",
        "retention.recommended_against_head_student": "loses",
        "retention.recommended_against_direction": "undecided",
    } | checks
    thresholds = {"speedup_flops_net": 1.658, "reason": "that of the head's student"}
    return GateReport(
        *(6, "t", "q", "mine", "test", "b", {"setting": SETTING}, thresholds, METRICS, checks, decision),
        chart_data={},
        provenance={},
    )


def test_verdicts_say_in_words_where_a_rival_wins():
    said = economy.verdict_lines(report())
    assert "for the same FLOPs C− retains more lesions than: random" in said
    assert "for the same FLOPs C− retains fewer lesions than: head's student" in said
    assert "for the same FLOPs C− is not told apart from: D" in said
    assert "mine, test: NO-GO" in said and "  faster_than_rivals: False" in said


def test_the_table_of_equal_flops_counts_and_puts_the_best_rival_first():
    table = economy.equal_table(METRICS)
    assert list(table.index) == ["chosen setting", "head's student", "published setting", "random"]
    assert table.loc["random", "small"] == "11 of 21" and table.loc["published setting", "small"] == ""
    assert "exact" in table.loc["chosen setting", "all, share"]
    assert table.loc["head's student", "chosen retains more"].startswith("−0.016 [−0.083")
    assert economy.equal_table({}).empty


def test_the_table_of_certificates_says_what_is_vacuous_and_can_be_narrowed():
    table = economy.certificate_table(CERTIFICATES)
    assert table.loc[("C− after block 3", "tokens", "0.01"), "retained"] == "vacuous"
    assert table.loc[("C− after block 3", "tokens", "0.01"), "found"] == "–"
    assert table.loc[("C− after block 3", "tokens", "0.1"), "retained"] == "46 of 50"
    assert table.loc[("C− after block 3", "threshold", "0.1"), "kept"] == "27.0 % (10 % to 50 %)"
    assert len(economy.certificate_table(CERTIFICATES, score="recommended")) == 3
    assert len(economy.certificate_table(CERTIFICATES, alpha=0.1)) == 3
    assert economy.certificate_table([]).empty


def test_settings_put_the_chosen_score_first():
    table = economy.setting_table(SETTING)
    assert list(table.index) == ["C− (chosen)", "random", "token merging, from 3"]
    assert table.loc["C− (chosen)", "tokens kept"] == "136 of 256"
    assert list(table["part"]) == ["ours", "rival", "rival, sets the threshold"]
    slower = SETTING | {"merging": None, "each": [*SETTING["each"], CHOSEN | {"score": "attention_fit"}]}
    assert list(economy.setting_table(slower)["part"]) == ["ours", "shown beside", "rival, sets the threshold"]


def test_the_table_of_aims_says_what_was_missed_and_why():
    found = {"speedup_flops_net": 1.553, "retention_all": 0.97, "certified_keep.rank.alpha0.1": 0.31}
    metrics = {name: metric(value, None, 30, 30, 9) for name, value in found.items()}
    metrics["probe_gain.malignancy.chosen_minus_full"] = metric(-0.04, (-0.09, 0.001), 30, 30, 9)
    table = economy.aims_table({"metrics": metrics, "parameters": {"setting": SETTING}})
    assert list(table["reached"].str[:3].str.strip(";")) == ["no", "yes", "no", "yes"]
    assert "136 tokens are what the rule asks for: at 2 × it kept 0.879" in table["reached"].iloc[0]


def test_lesions_of_one_unit_have_the_interval_over_units_beside_the_exact_one():
    entry = metric(0.9, (0.8, 0.95), 8, 9, 9) | {"count": 18, "of": 20, "exact95": [0.68, 0.99]}
    assert as_text(entry) == "0.900 [0.680, 0.990 exact; 0.800, 0.950 over units]"
    assert as_text(entry | {"n_units": 20}) == "0.900 [0.680, 0.990 exact]"


def test_lesions_are_drawn_against_the_clock_where_the_route_was_timed():
    clock = [{"speedup": s, "speedup_wall": 0.9 * s, "k": 1} for s in (1.2, 1.5)]
    drawn = charts.retention_by_clock(CURVES, clock, 3).to_dict()
    values = [row for rows in drawn["datasets"].values() for row in rows if "speedup" in row and "score" in row]
    assert {row["score"] for row in values} == {"recommended", "attention_best"}, "a search costs more"
    assert {round(row["speedup"], 3) for row in values} == {1.08, 1.35}
    with pytest.raises(CovtokenError, match="no row"):
        charts.retention_by_clock(CURVES, [], 3)


def test_the_table_of_probes_puts_the_full_pass_first_and_other_speedups_last():
    table = economy.probe_table(METRICS, [{"route": "chosen", "speedup": 1.553}])
    assert list(table.index) == ["full pass", "chosen route", "chosen route, 1.3 ×"]
    assert table.loc["chosen route", "net speed-up"] == "1.55 ×"
    assert table.loc["chosen route", "lesion tokens, average precision, minus full pass"].startswith("−0.040 [−0.060")
    assert economy.probe_table({}).empty


def test_what_is_missed_and_strata_are_counted():
    missed = economy.missed_table([{"size": "small", "place": "inside", "lesions": 17, "missed": 1}])
    assert missed.loc["small, inside", "missed"] == "1 of 17"
    strata = [{"stratum": "small", "n": 18, "setting": 224}, {"stratum": "other", "n": 5, "setting": None}]
    table = economy.strata_table(strata, 256)
    assert table["tokens that are certified"].to_list() == ["224 of 256 (88%)", "vacuous: too few units"]


def test_marks_are_the_chosen_setting_then_the_published_one():
    marks = economy.setting_marks(METRICS, {"setting": SETTING})
    assert [mark["name"] for mark in marks] == ["chosen: 136 of 256", "published"]
    assert marks[1]["small"] is None and marks[0]["speedup"] == 1.553


def test_the_label_free_half_is_said_or_refused():
    about = {"alpha_label_free": 0.1, "k_whole": 132}
    assert "which is vacuous" in economy.route_line(
        about | {"k": 249, "n": 56, "n_tokens": 256, "share_lost": 0.0004, "vacuous": True}
    )
    assert economy.route_line(about | {"refused": "too few"}).endswith("none, too few")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coverage.rank.alpha0.1", "test units that keep every lesion, by rank, α 0.1"),
        ("coverage.rank.alpha0.1.direction", "test units that keep every lesion, by rank, α 0.1, D"),
        ("speedup_wall_net.batch8", "times faster by the clock, net, 8 pictures at once"),
        ("retention_small.published", "small lesions retained, published setting"),
        ("retention_gain.recommended_minus_random", "difference in lesions retained, C− − random"),
        ("probe.malignancy.chosen@1.3", "probe, malignant or benign, AUROC: chosen route, 1.3 ×"),
        (
            "probe_gain.segmentation_ap.merging_minus_full",
            "difference of the probe, lesion tokens, average precision: token merging − full pass",
        ),
    ],
)
def test_metrics_have_words(name, words):
    assert readable(name) == words


PAGE = {"metrics": METRICS, "parameters": {"setting": SETTING}, "chart_data": {"certificates": CERTIFICATES}}


def test_a_page_puts_cohorts_beside_each_other_by_label():
    frame = frame_of("setting", PAGE, {})
    cells = cells_of(frame, {"tokens kept": "kept", "net speed-up": "net"}, {})
    assert cells == {
        "C−": ["136 of 256, chosen", "net: 1.55 ×"],
        "random": ["250 of 256", "net: 1.00 ×"],
        "token merging, from 3": ["–", "net: 1.60 ×"],
    }
    options = {"score": "chosen"}
    cells = cells_of(frame_of("certificates", PAGE, options), {"retained": "retained", "n": "n"}, options)
    assert list(cells) == ["tokens, α = 0.01", "tokens, α = 0.1", "threshold, α = 0.1"]
    assert cells["tokens, α = 0.01"] == ["vacuous", "n: 40"]
    options = {"alpha": "0.1"}
    cells = cells_of(frame_of("certificates", PAGE, options), {"kept": "kept"}, options)
    assert cells["attention, tuned, tokens"] == ["60.0 %"]


def test_a_page_says_which_parts_there_are():
    assert frame_of("strata", PAGE, {}) is None and frame_of("wall", PAGE, {}) is None
    with pytest.raises(CovtokenError, match="economy-table 'pie': expected certificates"):
        frame_of("pie", PAGE, {})


def test_the_clock_stands_beside_the_flops_by_route_and_batch():
    rows = [
        {"route": route, "batch": batch, "speedup_flops": flops, "speedup_wall": wall}
        for route, batch, flops, wall in (("full", 1, 1.0, 1.0), ("chosen", 1, 2.0, 1.75), ("chosen", 8, 2.0, 1.9))
    ]
    table = economy.wall_table(rows)
    assert table["faster by the clock, net"].tolist() == ["1.00 ×", "1.75 ×", "1.90 ×"]
    assert table["fewer FLOPs, net"].tolist() == ["1.00 ×", "2.00 ×", "2.00 ×"]
    assert len(set(table.index.get_level_values("pass"))) == 2


def test_the_label_free_half_is_a_row_also_where_it_is_refused():
    about = {"alpha_label_free": 0.1, "alpha_labelled": 0.1, "k_whole": 90}
    made = about | {"k": 249, "n": 56, "n_tokens": 256, "vacuous": True, "share_lost": 0.004}
    row = economy.route_table(made).iloc[0]
    assert row.tolist() == ["90", "249 of 256 (vacuous)", "56", "0.40 %"]
    refused = economy.route_table(about | {"refused": "k_whole = 90: too few; choose a larger one"}).iloc[0]
    assert refused["route must keep"] == "not certified: k_whole = 90: too few" and refused["n"] == ""
