"""Ablations: each operator does what its name says, and what a label chose cannot reach construction."""

import ast
from functools import partial

import numpy as np
import pytest
import torch
from stub_features import StubFeatures, stub_labels

from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import build_bank
from covtoken.cli.studies import ablate
from covtoken.data.case import Case
from covtoken.data.masks import read_mask
from covtoken.data.readers import phantom
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.evaluation.measure import measure
from covtoken.evaluation.stats import auroc
from covtoken.leak_guard import LabelLeak, construction, refuse_labels
from covtoken.paper.charts.ablations import ablation_chart
from covtoken.paper.charts.offline_renderer import to_svg
from covtoken.paper.pages.studies import AblationsFollow
from covtoken.paper.tables import ablations as words
from covtoken.paths import PACKAGE
from covtoken.protocol.setting import open_setting
from covtoken.scores.recipe import FIXED, Recipe, scaled
from covtoken.scores.scorers import score_maps
from covtoken.studies.ablations import bank_makeup, picture_forms, run, score_settings
from covtoken.studies.ablations.ground import Trial
from covtoken.studies.ablations.searched import DIRECTIONS, Searched
from covtoken.studies.banks import Solver

COHORT = phantom.read(24)


@pytest.fixture(autouse=True)
def intervals_of_few_units(monkeypatch):
    """The stubs here have fewer than five units, whose numbers would have no interval."""
    monkeypatch.setattr("covtoken.evaluation.measure.FEWEST_FOR_INTERVAL", 0)


@pytest.fixture(scope="module")
def bank():
    return StubFeatures.of(12, 2, prefix="b").made(attention={3: StubFeatures.of(12, 2, prefix="b").attention(3)})


@pytest.fixture(scope="module")
def pictures():
    return StubFeatures.of(4, 2, prefix="q").made()


@pytest.fixture(scope="module")
def searched(bank):
    return Searched(bank, 4, size=300, most=10)


def _full(bank):
    return Searched(bank, 4)


def test_defaults_are_the_scorers(bank, pictures):
    whole = _full(bank)
    plain = {"density": whole.density(pictures)[10], "residual": whole.residual(pictures, [4])[4]}
    for name, maps in plain.items():
        np.testing.assert_allclose(maps, score_maps(Recipe(name, 3), bank, pictures), atol=1e-5, err_msg=name)
    np.testing.assert_allclose(whole.rarity(pictures), score_maps(Recipe("rarity", 3, True), bank, pictures), atol=1e-5)
    for name, fixed in DIRECTIONS.items():
        recipe = scaled(FIXED[fixed], 4)
        ours, theirs = whole.direction(name, pictures), score_maps(recipe, bank, pictures)
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99999, name  # up to the mean, which moves no rank


def _by_brute_force(tokens, units, bank, k):
    apart = torch.cdist(tokens.double(), bank.tokens.double())
    apart[torch.as_tensor(units)[:, None] == torch.as_tensor(bank.units)[None]] = torch.inf
    return apart.sort(1).values[:, :k].mean(1)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_k_is_that_of_brute_force(searched, bank, pictures, k):
    plain, flat = searched.bank(3, False), pictures.tokens(3).flatten(0, 1)
    expected = _by_brute_force(flat, [-1] * len(flat), plain, k)
    found = searched.density(pictures, (1, 3, 10))[k]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)
    pooled = searched.bank(3, True)
    own = _by_brute_force(pooled.tokens, pooled.units, pooled, k)
    tokens = pool3x3(bank.tokens(3), bank.rows, bank.cols).flatten(0, 1)
    units = np.repeat(pooled.unit_ids(bank.units), 20)
    apart = torch.cdist(tokens.double(), pooled.tokens.double())
    apart[torch.as_tensor(units)[:, None] == torch.as_tensor(pooled.units)[None]] = torch.inf
    expected = own[apart.argsort(1)[:, :30]].mean(1)
    np.testing.assert_allclose(searched.bank_rarity(k).ravel(), expected, atol=1e-5)


def test_rank_block_and_alpha_change_what_they_name(searched, bank, pictures):
    plain = searched.bank(3, False)
    z = pictures.tokens(3).double().flatten(0, 1) - plain.tokens.double().mean(0)
    _, _, v = torch.linalg.svd(plain.tokens.double() - plain.tokens.double().mean(0), full_matrices=False)
    for rank, maps in searched.residual(pictures, [1, 3]).items():
        left = z - z @ v[:rank].T @ v[:rank]
        np.testing.assert_allclose(maps.ravel(), left.norm(dim=1), atol=1e-4)
    few, many = (searched.subspace(pictures, [0.1], [rank])[0.1, rank] for rank in (1, 8))
    assert (few <= many + 1e-5).all()
    np.testing.assert_allclose(many.ravel(), z.norm(dim=1), atol=1e-4)  # all directions: nothing is left out
    assert not np.allclose(
        searched.subspace(pictures, [0.02], [2])[0.02, 2], searched.subspace(pictures, [0.5], [2])[0.5, 2]
    )
    fifth = searched.direction("C−", pictures, alpha=0.2)
    assert not np.allclose(fifth, searched.direction("C−", pictures))
    at_one = _full(bank).density(pictures, block=1)[10]
    np.testing.assert_allclose(at_one, score_maps(Recipe("density", 1), bank, pictures), atol=1e-5)
    assert not np.allclose(at_one, searched.density(pictures)[10])


def test_directions_are_fitted_inside_the_leak_guard(bank, pictures, monkeypatch):
    def reads_a_label(self, agreement, settings):
        refuse_labels("a mask")
        yield None

    monkeypatch.setattr(Solver, "fits", reads_a_label)
    with pytest.raises(LabelLeak):
        _full(bank).direction("C−", pictures)


def test_reference_sizes_go_as_far_as_there_are_tokens():
    assert score_settings.sizes_up_to(17_152, 3_000) == [1_000, 3_000, 12_000]
    assert score_settings.sizes_up_to(69_120, 12_000) == [1_000, 3_000, 12_000, 30_000, 69_120]
    assert score_settings.sizes_up_to(500, 3_000) == [500]


def test_smaller_banks_have_so_many_units_under_each_key(bank):
    found = dict(bank_makeup.smaller_banks(bank, (2, 5, 10), ("a", "b")))
    assert {n: [len(set(part.units)) for part in parts] for n, parts in found.items()} == {
        2: [2, 2],
        5: [5, 5],
        12: [12],
    }
    assert set(found[5][0].units) != set(found[5][1].units) and found[12][0] is bank


def test_pure_banks_are_alike_in_size_and_no_construction_takes_them(bank, pictures):
    with_lesions = {f"b{i}" for i in range(7)}
    found = bank_makeup.pure_banks(bank, with_lesions)
    assert {len(set(part.units)) for part in found.values()} == {5} and tuple(found) == bank_makeup.PURITIES
    assert not set(found["no lesions"].units) & with_lesions and set(found["only lesions"].units) <= with_lesions
    for marked in found.values():
        with pytest.raises(LabelLeak, match="boolean mask"):
            build_bank(marked, 3)
        for scorer in ("density", "residual"):  # as every plan is made
            with pytest.raises(LabelLeak):
                score_maps(Recipe(scorer, 3), marked, pictures)
        with pytest.raises(LabelLeak):
            Searched(marked, 4).density(pictures)
        assert len(build_bank(bank_makeup.for_this_ablation(marked), 3)) and marked.chosen_by_mask
    assert tuple(bank_makeup.pure_banks(bank, {"b0"})) == ("no lesions", "natural"), "too few units with lesions"


def test_masks_choose_no_bank_inside_construction(bank):
    setting = open_setting(COHORT, None, "random:vit_tiny_patch16_224", cache=False, progress=False)
    cases = setting.cohort.cases[:6]
    expected = {case.unit for case in cases if read_mask(COHORT.masks[case.name]).any()}
    assert bank_makeup.units_with_lesions(setting, cases) == expected
    with construction("a bank"):
        with pytest.raises(LabelLeak):
            bank_makeup.units_with_lesions(setting, cases)
        with pytest.raises(LabelLeak):
            bank_makeup.pure_banks(bank, {"b0"})


def test_only_the_ablation_lifts_the_mark_and_nothing_reads_its_table():
    """A plan lies below the studies and cannot import them; the studies that choose do not know the ablations."""
    users = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if "for_this_ablation" in p.read_text()}
    assert users == {"studies/ablations/bank_makeup.py", "studies/ablations/bank_trials.py"}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(("studies/ablations/", "paper/", "cli/")):
            continue
        modules = [
            n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module
        ]
        assert not [name for name in modules if name.startswith("covtoken.studies.ablations")], place


def test_the_planted_share_is_exact_nested_and_blind_to_order():
    units = [f"u{i}" for i in range(60)]
    found = [bank_makeup.planted_units(units, share) for share in (0, 0.01, 0.05, 0.2, 1)]
    assert [len(each) for each in found] == [0, 1, 3, 12, 60]
    assert set(found[1]) < set(found[2]) < set(found[3])
    assert found[2] == bank_makeup.planted_units(units[::-1], 0.05)
    with pytest.raises(CovtokenError, match="share of planted units"):
        bank_makeup.planted_units(units, 1.5)


def test_planting_draws_over_the_named_units_alone_and_needs_no_label():
    cases = COHORT.cases[:6]
    units = [cases[1].unit, cases[4].unit]
    with construction("features"):
        planted = bank_makeup.planted_cases(cases, units)
        drawn = [new.pixels() for new in planted]
    for i, (old, new, pixels) in enumerate(zip(cases, planted, drawn, strict=True)):
        assert (new is old) == (i not in (1, 4)) and new.unit == old.unit
        assert np.array_equal(pixels, old.pixels()) == (i not in (1, 4))


def test_planted_labels_are_of_the_planted_type_alone():
    cases = COHORT.cases[:8]
    labels = label(cases, COHORT, 16, 16)
    found = bank_makeup.planted_labels(cases, labels)
    own = labels.lesion & ~found.lesion
    assert own.any() and found.ignore[own].all() and not (found.lesion & found.ignore).any()
    assert (found.lesion.sum(axis=1) >= 4).all() and (found.lesion.sum(axis=1) <= 20).all() and len(found.lesions) == 8
    with construction("a bank"), pytest.raises(LabelLeak):
        bank_makeup.planted_labels(cases, labels)


def test_another_picture_size_gives_another_grid():
    setting = open_setting(COHORT, None, "random:vit_tiny_patch16_224", cache=False, progress=False)
    larger = picture_forms.at_size(setting, 448)
    assert setting.grid == (14, 14) and larger.grid == (28, 28)
    assert larger.features(COHORT.cases[:1], [1], (), False).tokens(1).shape[1] == 784
    assert picture_forms.at_size(setting, 224) is setting


def _case(name, pixels):
    return Case(name, name, "ultrasound", partial(np.copy, pixels))


def test_a_padded_picture_keeps_its_aspect():
    wide, square = _case("wide", np.full((120, 160), 7.0, np.float32)), _case("square", np.ones((64, 64), np.float32))
    assert picture_forms.padded(square) is square
    pixels = picture_forms.padded(wide).pixels()
    assert pixels.shape == (160, 160) and (pixels[:120] == 7).all() and (pixels[120:] == 0).all()
    inside = picture_forms.inside_of([wide, square], 16, 16).reshape(2, 16, 16)
    assert inside[0, :12].all() and not inside[0, 12:].any() and inside[1].all()


def test_padding_enters_no_reference_and_no_direction(bank, pictures):
    inside = np.ones((24, 4, 5), dtype=bool)
    inside[:12, 3:], inside[12:, :, 4:] = False, False
    inside = inside.reshape(24, 20)
    tokens = {b: bank.tokens(b).clone() for b in (2, 3)}
    for each in tokens.values():
        each[torch.as_tensor(~inside)] = 1000 + torch.rand(int((~inside).sum()), 8)  # what padding might look like
    about = {"names": bank.names, "digests": bank.digests}
    raw = type(bank).from_arrays(tokens, 4, 5, bank.units, **about)
    read = picture_forms.mirrored(raw, inside)
    assert read.tokens(3).max() < 100 and torch.equal(read.tokens(3)[torch.as_tensor(inside)], tokens[3][inside])
    np.testing.assert_array_equal(read.tokens(3)[0].reshape(4, 5, 8)[3], tokens[3][0].reshape(4, 5, 8)[2])
    whole = Searched(read, 4, size=10_000, inside=inside)
    reference = whole.bank(3, False)
    assert len(reference) == inside.sum() and reference.tokens.max() < 100, "mirrored tokens would count twice"
    assert len(Searched(read, 4, size=50, inside=inside).bank(3, False)) == 50
    assert whole.density(pictures)[10].max() < 100 and np.abs(whole.direction("C−", pictures)).max() < 100


def test_padded_tokens_do_not_count():
    cases = [case for case in COHORT.cases if len(set(case.pixels().shape)) == 2]
    inside = picture_forms.inside_of(cases, 16, 16)
    labels = picture_forms.padded_labels(cases, COHORT, label(cases, COHORT, 16, 16), inside)
    assert labels.ignore[~inside].all() and not labels.lesion[~inside].any() and labels.lesion.any()
    for i, case in enumerate(cases):  # as many mm² of lesion a token, whatever the axis
        mask = read_mask(COHORT.masks[case.name])
        side = max(mask.shape) / 16
        assert labels.lesion[i].sum() * side**2 < 3 * mask.sum() + 4 * side**2


def _trials(labels):
    rng, bank = np.random.default_rng(0), StubFeatures.of(3, 1)
    usual = rng.normal(size=(8, 20)) + labels.lesion
    better, worse = usual + 2 * labels.lesion, rng.normal(size=(8, 20))
    return [
        Trial(1, "A", [worse], False, bank, labels),
        Trial(10, "A", [usual], True, bank, labels),
        Trial(30, "A", [better, usual], False, bank, labels),
        Trial(1, "C−", [usual], False, bank, labels),
        Trial(10, "C−", [usual], True, bank, labels),
    ]


@pytest.fixture(scope="module")
def content():
    labels = stub_labels()
    rows = [{"ablation": "k"} | row for row in run.measured(_trials(labels))]
    return {"cohort": "phantom", "rows": rows, "n": {}}


def test_rows_are_paired_with_the_default_of_their_score(content):
    labels, trials = stub_labels(), _trials(stub_labels())
    worse, usual, both, *same = content["rows"]
    assert usual["auroc"]["value"] == pytest.approx(auroc(trials[1].maps[0], labels.lesion), abs=1e-6)
    each = [auroc(maps, labels.lesion) for maps in trials[2].maps]
    assert both["auroc"]["value"] == pytest.approx(np.mean(each), abs=1e-6)
    assert both["spread"] == pytest.approx([min(each), max(each)], abs=1e-6) and usual["spread"] is None
    numbers = measure({"a": trials[0].maps[0], "b": trials[1].maps[0]}, labels, 4, 5, full=())
    numbers.difference("d", "auroc.a", "auroc.b")
    assert worse["minus_default"]["ci95"] == pytest.approx(numbers.interval("d"), abs=1e-6)
    assert usual["minus_default"] is None and same[0]["minus_default"]["ci95"] == [0, 0]
    assert usual["bank_units"] == 3 and usual["units"] == 4


def test_the_sentence_follows_from_the_numbers(content):
    text = words.follows("k", content)
    gain, loss = (words._gain(content["rows"][i]) for i in (2, 0))
    assert text.startswith("phantom (n = 4, bank 3): no value is surely better than the default of C− (10); ")
    assert f"A gains {gain} at 30" in text and f"A loses most, {loss}, at 1." in text
    assert words.follows("rank", content) == ""
    planted = [r | {"ablation": "planted", "note": "2 of 9 units"} for r in content["rows"]]
    text = words.follows("planted", content | {"rows": planted[:2] + planted[4:]})
    assert text == f"phantom (n = 4, bank 3): 2 of 9 units: A changes by {loss}."


def test_a_number_that_moves_is_told(content, tmp_path):
    whole = content | {"schema": run.STUDY.schema, "split": "selection"}
    run.STUDY.write(whole, recorded=True, root=tmp_path)
    text = words.reproduction(content, tmp_path)
    assert "  k: 5 of 5" in text and "NOT REPRODUCED" not in text
    moved = [dict(row) for row in content["rows"]]
    moved[1]["auroc"] = {"value": moved[1]["auroc"]["value"] + 0.01, "ci95": [0, 1]}
    assert "  k: 4 of 5 NOT REPRODUCED" in words.reproduction(content | {"rows": moved}, tmp_path)
    assert "NOT REPRODUCED" in words.reproduction(content | {"rows": moved[:2]}, tmp_path)
    assert "nothing to compare with" in words.reproduction(content | {"cohort": "other"}, tmp_path)


def test_every_ablation_has_a_heading_and_a_chart(content):
    assert list(words.TITLES) == list(run.ABLATIONS)
    rows = words.chart_rows("k", {"phantom": content, "again": content | {"cohort": "again"}})
    assert {row["panel"] for row in rows} == {"phantom: n = 4, bank 3", "again: n = 4, bank 3"}
    assert "Neighbours" in to_svg(ablation_chart(rows, *words.TITLES["k"]).to_dict())


def test_the_directive_shows_what_is_recorded_and_misses_nothing_else(content, tmp_path):
    made = AblationsFollow.__new__(AblationsFollow)
    made.root, made.depends_on = lambda: tmp_path, lambda path: None
    assert [node.astext().strip() for node in made.run()] == ["No cohort is recorded yet."]
    n = {"units": 4, "bank_units": 3}
    whole = content | {"schema": run.STUDY.schema, "split": "selection", "n": n, "reference": 300, "large_units": 2}
    run.STUDY.write(whole, recorded=True, root=tmp_path)
    heading, sentences, note = (node.astext() for node in made.run())
    assert heading == words.TITLES["k"][0] and sentences == words.follows("k", content)
    assert "4 units scored, a bank of 3" in note


def test_the_command_runs_all_and_takes_no_choice_with_it(monkeypatch, content):
    written = []
    monkeypatch.setattr(run, "run_ablations", lambda cohort, backbone, data=None: content)
    monkeypatch.setattr(run.Study, "write", lambda self, content, recorded: written.append((self.stem, recorded)))
    ablate("busi", everything=True)
    assert written == [("ablations", False)]
    with pytest.raises(CovtokenError, match="--all chooses nothing"):
        ablate("busi", everything=True, over_banks=True)
