"""The clock of gate 6: passes take turns, ratios are taken within a round, and FLOPs are those that the gate counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from stub_economy import narrow

from covtoken.economy.merge_schedules import merging_flops, schedules_for
from covtoken.economy.timing import medians, ratios, seconds_of
from covtoken.gates.economy import clock
from covtoken.gates.economy.choice import SPEEDUPS, Costs

N_TOKENS = 64


def test_runs_take_turns_and_the_first_round_does_not_count():
    order = []
    runs = [lambda name=name: order.append(name) for name in "ab"]
    seconds = seconds_of(runs, 3)
    assert order == list("abababab") and [len(each) for each in seconds] == [3, 3]
    assert len(medians(runs, 1)) == 2


def test_a_ratio_is_taken_within_a_round():
    """A round in which the machine is ten times slower moves both runs, and no ratio."""
    assert ratios([4.0, 40.0, 4.0], [2.0, 20.0, 2.0]) == (2.0, 2.0, 2.0)
    assert ratios([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5) == (3.0, 2.0, 4.0)
    assert ratios([3.0], [2.0]) == (1.5, 1.5, 1.5)


def test_flops_of_timed_passes_are_those_of_the_gate():
    vit = narrow()
    costs = Costs(vit, {"recommended.block1": 1, "density.block1": clock.BANK})
    passes = {each.name: each for each in clock.passes_of(vit, 1, 40, "chosen", ("equal", "at once after 1"))}
    assert passes["full"].flops == costs.plain
    assert passes["chosen"].flops == costs.flops("recommended.block1", 40)
    assert passes["chosen_search"].flops == costs.flops("density.block1", 40)
    assert passes["chosen_without_maps"].flops < passes["chosen"].flops
    assert passes["stop_early"].flops <= passes["chosen"].flops
    planned = schedules_for(vit, passes["chosen"].flops)["equal"]
    assert passes["merging, equal"].flops == merging_flops(vit, planned) <= passes["chosen"].flops
    images = torch.randn(2, 3, 32, 32)
    for name, each in passes.items():
        each.run(images)  # every pass runs
        assert each.flops > 0, name


def test_a_report_is_timed_at_its_setting_and_along_its_curve(monkeypatch):
    vit = narrow()
    monkeypatch.setattr(clock, "load_backbone", lambda name: vit)
    chosen = {"score": "recommended", "block": 1, "k": 40, "n_tokens": N_TOKENS}
    setting = {"chosen": chosen, "merging": {"schedule": "from 1"}}
    report = SimpleNamespace(cohort="mine", backbone="narrow", parameters={"setting": setting})
    told = []
    content = clock.time_settings(report, repeats=2, progress=told.append)
    assert len(told) == 3 and content["repeats"] == 2
    assert content["chosen"] == {"block": 1, "k": 40, "n_tokens": N_TOKENS}
    names = {(row["pass"], row["batch"]) for row in content["passes"]}
    assert {("full", 1), ("chosen", 8), ("published", 1), ("merging, equal", 8)} <= names
    costs = Costs(vit, {"recommended.block1": 1})
    for row in content["passes"]:
        assert 0 < row["low"] <= row["speedup_wall"] <= row["high"] and row["ms"] > 0
        if row["pass"] == "full":
            assert row["speedup_wall"] == row["speedup_flops"] == 1
        if row["pass"] == "chosen":
            assert row["speedup_flops"] == costs.speedup("recommended.block1", 40)
    for row in content["curve"]:
        k = costs.within("recommended.block1", costs.plain / row["speedup"])
        assert row["speedup_flops"] == pytest.approx(costs.speedup("recommended.block1", k))
    reached = [s for s in SPEEDUPS if costs.within("recommended.block1", costs.plain / s)]
    assert [row["speedup"] for row in content["curve"]] == reached
