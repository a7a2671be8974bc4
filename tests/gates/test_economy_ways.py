"""Ways through a narrow model: what they cost, that they read no label, and that a route of all tokens is the pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stub_economy import N_TOKENS, narrow, plan, small_cohort

from covtoken.economy.exit_maps import fit_exit_maps
from covtoken.economy.passes import plain_pass
from covtoken.economy.routing import batches
from covtoken.economy.stages import Stage
from covtoken.evaluation.probe_metrics import FULL
from covtoken.evaluation.probes import fit_malignancy, fit_segmentation
from covtoken.gates.economy import probing
from covtoken.gates.economy.choice import Costs
from covtoken.gates.economy.taps import OURS, RIVALS, fit_taps, needed_blocks
from covtoken.leak_guard import LabelLeak, construction
from covtoken.protocol.setting import Setting


@pytest.fixture(scope="module")
def passes(tmp_path_factory):
    """What ways are made of: C− at block 1, k of T tokens, and every rival at the same FLOPs."""
    cohort, made = small_cohort(tmp_path_factory.mktemp("masks"), 19), plan()
    setting = Setting(cohort, "test", narrow(), cache=False, progress=False)
    cases = {"bank": cohort.cases[:15], "test": cohort.cases[15:]}
    what = (*needed_blocks(made, 6), False)
    features = {side: setting.features(some, *what) for side, some in cases.items()}
    taps = fit_taps(made, features["bank"], 6)
    costs = Costs(setting.vit, {key: tap.n_compared for key, tap in taps.items()})

    def make(k, only=()):
        key, vit = "recommended.block1", setting.vit
        budget, tap = costs.flops(key, k), taps["recommended.block1"]
        names = [name for name in (*OURS, *RIVALS) if f"{name}.block1" in taps]
        equal = {name: {"key": f"{name}.block1", "k": costs.within(f"{name}.block1", budget)} for name in names}
        header = {"chosen": {"key": key, "k": k, "score": "recommended"}, "equal": equal}
        header["published"] = {"key": "recommended.block3", "k": 16}
        fitted = fit_exit_maps(cases["bank"], vit, [Stage(1, tap.score, k=min(k, 40), sigma=tap.recipe.sigma)])
        sides = probing.Sides(cases, features, plain_pass(vit, remember=True))
        spent = {name: costs.flops(one["key"], one["k"]) for name, one in equal.items()}
        return probing.ways(setting, taps, sides, costs, header, fitted, only), budget, spent

    return make, next(batches(cases["test"], setting.vit))[1]


def test_a_route_that_keeps_all_tokens_is_the_full_pass(passes):
    make, images = passes
    found = {way.route: way for way in make(N_TOKENS, (probing.CHOSEN,))[0]}
    assert found.keys() == {FULL, probing.CHOSEN}
    full, chosen = (found[name].run(images, "test", slice(0, 4)) for name in (FULL, probing.CHOSEN))
    torch.testing.assert_close(chosen.tokens, full.tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(chosen.prefix, full.prefix, rtol=0, atol=1e-5)
    torch.testing.assert_close(full.tokens, plain_pass(narrow()).run(images).tokens, rtol=0, atol=0)


def test_every_way_costs_at_most_the_chosen_route_and_reads_no_label(passes, monkeypatch):
    make, images = passes

    def refuse(*args, **kwargs):
        raise AssertionError("a label was read while ways were made")

    for module, name in (("probing", "label"), ("probing", "diagnoses"), ("probing", "fit_segmentation")):
        monkeypatch.setattr(f"covtoken.gates.economy.{module}.{name}", refuse)
    for door in ("covtoken.evaluation.labels.read_marked", "covtoken.data.masks._any_of"):
        monkeypatch.setattr(door, refuse)
    merged, tuned_merging = [], probing.tuned_merging

    def seen(vit, cases, flops, **how):
        merged.append((flops, how))
        return tuned_merging(vit, cases, flops, **how)

    monkeypatch.setattr(probing, "tuned_merging", seen)
    found, budget, spent = make(40)
    by_name = {way.route: way for way in found}
    dear = {FULL, "published", *(f"chosen@{speedup:g}" for speedup in probing.OTHER_SPEEDUPS)}
    expected = {"chosen", "attention_best", "centre_prior", "random", "stop_early", "merging"}
    assert expected | {"merging_tuned", "published", "chosen@1.3", "merging_protected"} <= by_name.keys()
    assert by_name["chosen"].flops == budget
    for name in by_name.keys() - dear:
        assert by_name[name].flops <= budget, name
    for name in ("attention_best", "centre_prior", "random"):
        assert by_name[name].flops == spent[name]
    assert [flops for flops, _ in merged] == [budget] * 2
    tuned, protected = (set(how.get("schedules", ())) for _, how in merged)
    early = {f"{kind} {block}" for kind in ("from", "at once after") for block in probing.STARTS}
    assert {"equal"} < tuned <= {"equal"} | early and not protected
    assert merged[1][1]["protect"].k == 20  # half of what the route keeps
    full = by_name[FULL].run(images, "test", slice(0, 4)).tokens
    for name, way in by_name.items():
        made = way.run(images, "test", slice(0, 4))
        assert made.tokens.shape == full.shape and torch.isfinite(made.tokens).all(), name
        assert name == FULL or not torch.allclose(made.tokens, full, atol=1e-3), name


def test_a_leaked_label_ends_a_run_instead_of_dropping_a_way(passes, monkeypatch):
    def leak(*args, **kwargs):
        raise LabelLeak("planted")

    monkeypatch.setattr(probing, "stop_early_pass", leak)
    with pytest.raises(LabelLeak, match="planted"):
        passes[0](40, ("stop_early",))


def test_no_probe_is_fitted_during_construction():
    tokens, labels, unit = torch.randn(6, 4, 3), np.eye(4, dtype=bool)[[0, 1, 2, 3, 0, 1]], np.arange(6)
    with construction("a way"), pytest.raises(LabelLeak):
        fit_segmentation(tokens, labels, ~labels & False, unit)
    with construction("a way"), pytest.raises(LabelLeak):
        fit_malignancy(tokens[:, 0], np.arange(6) % 2, unit)
