"""Charts of budgets draw offline, come out equal for equal input, refuse rows that lack a column, show what is so."""

from __future__ import annotations

import pytest

from covtoken.errors import CovtokenError
from covtoken.paper.charts import budgets, coverage
from covtoken.paper.charts.offline_renderer import mime_bundle, to_svg
from covtoken.paper.charts_by_name import CHARTS

KEEPS = ("0.5", "0.25", "0.1")
SCHEDULES = ("as specified", "repaired")
ROWS = {
    "rho_by_measure": [
        {"measure": measure, "keep": keep, "family": family, "value": value, "lo": value - 0.1, "hi": value + 0.1}
        for measure, value in (("rankme", -0.3), ("control", 0.8))
        for keep in KEEPS
        for family in ("all", "random", "tilted", "spanning")
    ],
    "miss_by_method": [
        {"method": method, "keep": keep, "value": value, "lo": value - 0.02, "hi": value + 0.02}
        for method, value in (("random", 0.5), ("coverage, spanning choice", 0.7), ("C−", 0.1))
        for keep in KEEPS
    ]
    + [{"method": "RankMe, greedy", "keep": "0.25", "value": 0.6, "lo": None, "hi": None}],
    "mu_paths": [
        {"step": step, "mu": (step - 1) * 0.3, "k": 100 - step, "slack": slack, "schedule": schedule}
        for step in (1, 5, 10)
        for slack in (0.05, 0.4)
        for schedule in SCHEDULES
    ],
    "mu_by_slack": [
        {"slack": slack, "schedule": schedule, "mu": 0.1 / slack, "lo": 0, "hi": 1 / slack, "met": 0.5, "cv": 0.1}
        for slack in (0.05, 0.4)
        for schedule in SCHEDULES
    ],
    "objective_optimiser": [
        {"objective": "RankMe", "optimiser": optimiser, "miss": 0.6, "lo": 0.5, "hi": 0.7, "membership_miss": 0.1}
        | {"met": met, "k": 63.6}
        for optimiser, met in (("dual, as specified", 0.45), ("greedy", 1.0))
    ],
    "growing_lesion_curve": [
        {"method": method, "tokens": tokens, "recall": 0.5, "lo": 0.4, "hi": 0.6}
        for method in ("spanning choice", "C−")
        for tokens in (1, 8, 64)
    ],
}
KEYS = {name: sorted(rows[0]) for name, rows in ROWS.items()}


def data_of(name: str, rows: list[dict] | None = None) -> list[dict]:
    datasets = CHARTS[name](ROWS[name] if rows is None else rows).to_dict()["datasets"].values()
    return [row for data in datasets for row in data]


def svg_of(name: str) -> str:
    return to_svg(CHARTS[name](ROWS[name]).to_dict())


def test_every_chart_is_tried_and_none_hides_another():
    assert set(ROWS) < set(CHARTS)


@pytest.mark.parametrize("name", ROWS)
def test_equal_charts_give_equal_output(name):
    first, second = (mime_bundle(CHARTS[name](ROWS[name], title="a title").to_dict()) for _ in range(2))
    assert first == second
    assert first["image/svg+xml"].startswith("<svg") and "a title" in first["text/plain"]
    assert "NaN" not in first["image/svg+xml"]
    assert "cdn." not in first["text/html"]


@pytest.mark.parametrize("name", ROWS)
def test_every_chart_is_as_wide_as_its_page(name):
    spec = CHARTS[name](ROWS[name]).to_dict()
    assert spec["width"] == "container"


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in KEYS.items() for key in keys])
def test_missing_columns_are_named(name, key):
    rows = [{k: v for k, v in row.items() if k != key} for row in ROWS[name]]
    with pytest.raises(CovtokenError, match=rf"expected columns .*{key}.*, got"):
        CHARTS[name](rows)


@pytest.mark.parametrize("name", ROWS)
def test_no_rows_are_an_error(name):
    with pytest.raises(CovtokenError, match="no rows"):
        CHARTS[name]([])


@pytest.mark.parametrize("name", [name for name in ROWS if "lo" in KEYS[name]])
def test_rows_without_an_interval_are_drawn(name):
    rows = [row | {"lo": None, "hi": None} for row in ROWS[name]]
    assert "NaN" not in to_svg(CHARTS[name](rows).to_dict())


def test_rows_are_not_changed():
    before = {name: [dict(row) for row in rows] for name, rows in ROWS.items()}
    for name, rows in ROWS.items():
        CHARTS[name](rows)
    assert before == ROWS


def test_measures_have_readable_names_and_keep_ratios_one_legend():
    svg = svg_of("rho_by_measure")
    for label in ("RankMe", "random", "tilted", "spanning", "one family"):
        assert f">{label}</text>" in svg
    assert svg.count(">share kept</text>") == 1
    with pytest.raises(CovtokenError, match="no row of family 'all'"):
        budgets.rho_by_measure([row for row in ROWS["rho_by_measure"] if row["family"] != "all"])


@pytest.mark.parametrize("name", ["rho_by_measure", "miss_by_method"])
def test_a_keep_ratio_without_a_mark_is_an_error(name):
    with pytest.raises(CovtokenError, match=r"keep ratio 0.3: expected one of 0.5, 0.25, 0.1"):
        CHARTS[name]([ROWS[name][0] | {"keep": "0.3"}])


def test_methods_are_sorted_at_a_quarter_and_told_apart():
    svg = svg_of("miss_by_method")
    order = ["C−", "random", "RankMe, greedy", "coverage, spanning choice"]
    places = [svg.index(f">{label}</text>") for label in order]
    assert places == sorted(places)
    kinds = {row["method"]: row["kind"] for row in data_of("miss_by_method") if "kind" in row}
    assert kinds == dict(zip(order, ["membership", "baseline", "coverage", "coverage"], strict=True))


def test_a_method_without_a_quarter_comes_last():
    rows = [*ROWS["miss_by_method"], {"method": "token merging", "keep": "0.5", "value": 0.0, "lo": 0.0, "hi": 0.1}]
    svg = to_svg(budgets.miss_by_method(rows).to_dict())
    assert svg.index(">token merging</text>") > svg.index(">coverage, spanning choice</text>")


def test_a_price_without_a_logarithm_is_drawn_on_the_floor():
    rows = data_of("mu_paths")
    lowest = min(row["mu"] for row in rows if row.get("mu", 0) > 0)
    floor = {row["price"] for row in rows if row.get("mu") == 0}
    assert len(floor) == 1 and 0 < floor.pop() <= lowest
    assert ">≤ 1</text>" in svg_of("mu_paths")
    flat = [row | {"mu": 0.0} for row in ROWS["mu_paths"]]
    assert "NaN" not in to_svg(coverage.mu_paths(flat).to_dict())


def test_panels_share_a_width_and_divide_the_height():
    svg = svg_of("mu_paths")
    for heading in (f"{what}, {name}" for what in ("Price μ", "Tokens kept") for name in SCHEDULES):
        assert f">{heading}</text>" in svg
    one = to_svg(coverage.mu_paths([r for r in ROWS["mu_paths"] if r["schedule"] == "repaired"]).to_dict())
    assert ">Price μ, repaired</text>" in one and "as specified" not in one


def test_an_interval_that_reaches_zero_ends_on_the_floor():
    rows = [row for row in data_of("mu_by_slack") if "lo" in row]
    assert {row["lo"] for row in rows} == {0}
    assert {row["lo_drawn"] for row in rows} == {0.1}


def test_pairs_say_whether_the_floor_was_met_and_at_how_many_tokens():
    svg = svg_of("objective_optimiser")
    for text in ("floor met 45 %, 64 tokens", "floor met 100 %, 64 tokens", "membership, as many tokens"):
        assert f">{text}</text>" in svg


def test_membership_comes_first_in_the_curve_and_chance_is_ruled():
    svg = svg_of("growing_lesion_curve")
    assert svg.index(">C−</text>") < svg.index(">spanning choice</text>")
    assert ">chance</text>" in svg


def test_a_method_that_no_table_names_is_no_baseline_by_default():
    with pytest.raises(CovtokenError, match="unknown method 'coverage, a new one'"):
        budgets.miss_by_method([ROWS["miss_by_method"][0] | {"method": "coverage, a new one"}])
