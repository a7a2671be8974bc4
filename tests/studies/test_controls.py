"""Controls of C−: each row is what it names, its differences are paired, and the sentence follows from the numbers."""

import re
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from docutils import nodes
from stub_features import StubFeatures

from covtoken.bank.pooling import pool3x3, smooth
from covtoken.bank.token_bank import KEY
from covtoken.cli.studies import ablate
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.evaluation.measure import measure
from covtoken.leak_guard import LabelLeak, guard
from covtoken.paper.pages.studies import ControlsSentence, ControlsTable
from covtoken.paper.tables import controls as words
from covtoken.scores.recipe import RECOMMENDED, recommended
from covtoken.scores.scorers import score_maps
from covtoken.studies import controls as study
from covtoken.subspace.consensus import RULES, fit_consensus
from covtoken.subspace.direction import bank_rarity, target_reference

ROWS, COLS = 6, 7
OURS = recommended(4)


@pytest.fixture(autouse=True, scope="module")
def intervals_of_few_units():
    """The stubs here have fewer than five units, whose numbers would have no interval."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("covtoken.evaluation.measure.FEWEST_FOR_INTERVAL", 0)
        yield


def _stub(n_units, per_unit, prefix):
    return StubFeatures.of(n_units, per_unit, prefix=prefix, rows=ROWS, cols=COLS)


def _labels(shift=0):
    """Of 8 pictures, two a unit: a lesion of two tokens in each of the first six, and tokens that do not count."""
    lesion, ignore = np.zeros((2, 8, ROWS * COLS), dtype=bool)
    lesion[:6, 15 + shift : 17 + shift] = ignore[:, 3] = True
    lesions = tuple(Lesion(np.array([15, 16]) + shift, 1.0, 0.1, i) for i in range(6))
    return SplitLabels(lesion, ignore, None, np.arange(8) // 2, lesions, tuple("abcd"), (), ROWS, COLS)


@pytest.fixture(scope="module")
def splits():
    return _stub(12, 2, "b"), _stub(4, 2, "q"), _labels()


@pytest.fixture(scope="module")
def found(splits):
    bank, selection, _ = splits
    few, normal = study.study.share_of(bank, 4, "key"), bank.subset(range(0, 24, 2))
    banks = (("few", few, "hashed"), (study.WITHOUT_LESIONS, normal, study.CHOSEN_BY_LABEL))
    return list(study.controls(bank, selection, study.recipes_on_the_whole_bank(4, True), banks))


@pytest.fixture(scope="module")
def content(splits, found):
    about = {"schema": study.STUDY.schema, "cohort": "busi", "split": "selection", "backbone": "stub", "curated": ""}
    n = {"bank_units": 12, "units": 4, "images": 8}
    return about | {"n": n} | study.measured(found, splits[2], ROWS, COLS)


def _maps(found, key):
    (row,) = [control for control in found if control.key == key]
    return row.maps


def _refitted(splits, *sources, **changes):
    """C−'s fit by hand: its maps [N, T], of sources [N, T] and changed settings."""
    bank, selection, _ = splits
    settings = replace(OURS.settings, **changes)
    fitted = fit_consensus(bank, OURS.block, sources, settings)
    tokens = pool3x3(selection.tokens(OURS.block), ROWS, COLS)
    return smooth(fitted.score(tokens).numpy(), ROWS, COLS, OURS.sigma)


def test_rows_that_a_recipe_names_are_the_recipe(splits, found):
    bank, selection, _ = splits
    recipes = study.recipes_on_the_whole_bank(4, True)
    assert recipes[study.OURS] == OURS and recipes["score/with_head"].settings.sources == "rarity+head"
    assert recipes["score/head_student"].block == OURS.block and recipes["score/density"].scorer == "density"
    for key, recipe in recipes.items():
        np.testing.assert_allclose(_maps(found, key), score_maps(recipe, bank, selection), atol=1e-6, err_msg=key)
    assert [c.key for c in found if c.key.startswith("component/")] == [f"component/{rule}" for rule in RULES]


def test_other_sources_stand_in_the_place_of_rarity_with_the_same_fit(splits, found):
    bank = splits[0]
    rarity = bank_rarity(bank, target_reference(bank, OURS.settings.target_block))
    np.testing.assert_allclose(_refitted(splits, rarity), _maps(found, study.OURS), atol=1e-6)
    smoothed = {
        "brightness": smooth(bank.intensity().numpy(), ROWS, COLS, 1.0),
        "dark": smooth(-bank.intensity().numpy(), ROWS, COLS, 1.0),
        "patch variance": smooth(bank.variance().numpy(), ROWS, COLS, 1.0),
        "attention": smooth(bank.attention(OURS.settings.attention_block).numpy(), ROWS, COLS, 1.0),
        "head": smooth(bank.saliency().numpy(), ROWS, COLS, 1.0),
    }
    for name, source in {**smoothed, "minus rarity": -rarity}.items():
        by_hand = _refitted(splits, torch.as_tensor(source), sources=name)
        np.testing.assert_allclose(_maps(found, f"source/{name}"), by_hand, atol=1e-6, err_msg=name)
    others = ("attention+head", "rarity+head", "random", "centre prior", "minus rarity")
    assert {c.key for c in found if c.key.startswith("source/")} == {f"source/{name}" for name in (*smoothed, *others)}


def test_random_numbers_and_rarity_are_not_smoothed(splits):
    bank = splits[0]
    rarity = torch.rand(24, ROWS * COLS)
    made = study.other_sources(bank, rarity)
    assert torch.equal(made["minus rarity"], -rarity)
    assert np.corrcoef(made["random"][:, :-1].ravel(), made["random"][:, 1:].ravel())[0, 1] < 0.1
    assert made["centre prior"][0].reshape(ROWS, COLS)[0, 0] == made["centre prior"].min()


def test_each_bank_and_each_reference_gives_a_direction_of_its_own(splits, found, content):
    bank, selection, _ = splits
    few = study.study.share_of(bank, 4, "key")
    np.testing.assert_allclose(_maps(found, "bank/few"), score_maps(OURS, few, selection), atol=1e-6)
    ours, *others = (_maps(found, f"reference/{key}") for key in study.REFERENCE_KEYS)
    assert study.REFERENCE_KEYS[0] == KEY and np.array_equal(ours, _maps(found, study.OURS))
    rows = {row["control"]: row for row in content["controls"]}
    assert (rows["few"]["bank_units"], rows["few"]["bank_images"]) == (4, 8)
    assert rows[study.WITHOUT_LESIONS]["note"] == "chosen by a label, for evaluation alone"
    assert [name for name, row in rows.items() if "label" in row["note"]] == [study.WITHOUT_LESIONS]
    assert len(others) == 3


def test_another_key_chooses_another_reference(monkeypatch, splits):
    """The stub's bank fits whole into a reference, so a smaller one shows what the key does."""
    bank = splits[0]
    monkeypatch.setattr(study, "target_reference", lambda *a, **more: target_reference(*a, size=400, **more))
    rarities = [study._rarity_under(bank, key, OURS.settings.target_block)[1] for key in study.REFERENCE_KEYS]
    assert len({tuple(rarity[0].tolist()) for rarity in rarities}) == 4


def test_differences_are_paired_and_the_spread_is_max_minus_min(splits, found, content):
    _, _, labels = splits
    ours, other = _maps(found, study.OURS), _maps(found, "source/random")
    by_hand = measure({"ours": ours, "other": other, "a": _maps(found, "score/density")}, labels, ROWS, COLS)
    rows = {f"{row['kind']}/{row['control']}": row for row in content["controls"]}
    for kind in study.MEASURES:
        by_hand.difference(f"gain.{kind}", f"{kind}.ours", f"{kind}.other")
        entries = by_hand.entries()
        assert rows["source/random"][kind] == entries[f"{kind}.other"]
        assert rows["source/random"]["recommended_minus"][kind] == entries[f"gain.{kind}"]
        of_kind = [row[kind]["value"] for row in content["controls"] if row["kind"] == "reference"]
        assert content["reference_spread"][kind] == max(of_kind) - min(of_kind)
        assert rows[study.OURS]["recommended_minus"][kind]["ci95"] == [0, 0]
    by_hand.difference("over", "auroc.other", "auroc.a")
    assert content["over_density"]["source/random"] == by_hand.entries()["over"]
    assert rows[study.OURS]["auroc"]["n_units"] == 4 and rows[study.OURS]["image_auroc"]["n_images"] == 6


def test_the_spread_follows_the_references(splits, found):
    moved = [replace(c, maps=-c.maps) if c.key.endswith("controls-2") else c for c in found]
    more = study.measured(moved, splits[2], ROWS, COLS)
    value = _row(more, study.OURS)["auroc"]["value"]
    assert more["reference_spread"]["auroc"] == pytest.approx(abs(1 - 2 * value))


def _row(content, key):
    (row,) = [row for row in content["controls"] if f"{row['kind']}/{row['control']}" == key]
    return row


def test_no_label_reaches_construction(monkeypatch, splits):
    bank, selection, _ = splits
    chosen = bank.made().subset(np.arange(24) % 2 == 0)
    recipes = {study.OURS: OURS}
    with pytest.raises(LabelLeak, match="chose"):
        list(study.controls(chosen, selection, recipes, ()))
    with pytest.raises(LabelLeak, match="chose"):
        list(study.controls(bank, selection, recipes, [("chosen", chosen, "")]))
    during = []
    monkeypatch.setattr(study, "fit", lambda *a: during.append(guard.under_construction()) or _stop())
    with pytest.raises(StopIteration):
        study._linear_maps(OURS, bank, selection)
    assert during == ["a control"]


def _stop():
    raise StopIteration


def test_a_backbone_without_a_head_leaves_its_rows_out(splits):
    bank, selection, labels = splits
    recipes = study.recipes_on_the_whole_bank(4, False)
    assert not [key for key in recipes if "head" in key]
    wanted = {key: recipes[key] for key in (study.OURS, "score/density", "score/rarity", "score/attention_fit")}
    found = list(study.controls(bank, selection, wanted, ()))
    more = study.measured(found, labels, ROWS, COLS)
    assert set(more["over_density"]) == {"score/rarity", "source/random", "score/attention_fit"}
    about = {"cohort": "busi", "split": "selection", "n": {"units": 4, "images": 8}}
    assert "The fit without rarity, on attention:" in words.gain_text(about | more)


def test_other_banks_of_a_cohort(monkeypatch, splits):
    names = [f"{'normal' if i % 4 == 0 else 'benign'}{i}/0" for i in range(40)]
    bank = StubFeatures(names)
    foreign = SimpleNamespace(cases_of=lambda split: (split,), features=lambda cases, blocks, **_: (cases, blocks))
    monkeypatch.setattr(study, "open_setting", lambda name, *a, **_: foreign)
    setting = SimpleNamespace(cohort=SimpleNamespace(name="busi"), vit=None, cache=True, progress=False)
    banks = {name: (part, note) for name, part, note in study.other_banks(setting, bank, [6])}
    assert [len(banks[f"{share}% of the units"][0]) for share in (5, 10, 20)] == [2, 4, 8]
    normal, note = banks[study.WITHOUT_LESIONS]
    assert len(normal) == 10 and all(name.startswith("normal") for name in normal.names)
    assert note == study.CHOSEN_BY_LABEL
    assert banks["another modality"] == ((("bank",), [6]), "bank split of lidc-crops")
    setting.cohort.name = "lidc-crops"
    banks = {name: note for name, _, note in study.other_banks(setting, bank, [6])}
    assert study.WITHOUT_LESIONS not in banks and banks["another modality"] == "bank split of busi"


SIGNS = {"above": (0.02, 0.01, 0.03), "below": (-0.02, -0.03, -0.01), "undecided": (0.001, -0.01, 0.02)}
FIT = "score/attention_head_fit"


def _entry(sign):
    value, low, high = SIGNS[sign]
    return {"value": value, "ci95": [low, high], "n_units": 4, "n_images": 8, "n_tokens": 9}


@pytest.mark.parametrize(("gain", "fit", "beyond"), list(product(SIGNS, repeat=3)))
def test_the_sentence_turns_with_the_numbers(content, gain, fit, beyond):
    rows = [row | {"recommended_minus": dict(row["recommended_minus"])} for row in content["controls"]]
    changed = content | {"controls": rows, "over_density": dict(content["over_density"])}
    changed["over_density"] |= {FIT: _entry(fit), study.RARITY_ROW: _entry("above"), study.RANDOM_ROW: _entry("below")}
    for key, sign in ((study.DENSITY_ROW, gain), (study.RARITY_ROW, "below"), (FIT, beyond)):
        _row(changed, key)["recommended_minus"]["auroc"] = _entry(sign)
    text = words.gain_text(changed)
    for a, b, sign in (("C−", "A", gain), ("it", "A", fit), ("C−", "it", beyond), ("PN", "A", "above")):
        value, low, high = (f"{x:+.3f}".replace("-", "−") for x in SIGNS[sign])
        verb = f"{a} against {b} is undecided" if sign == "undecided" else f"{a} is {sign} {b}"
        assert f"{verb}, {value} [{low}, {high}]" in text
    assert "4 units, 8 pictures" in text and "C− is below PN" in text
    assert text.count("of C−'s gain") == (gain == "above") * (1 + (fit == "above"))
    last = re.split(r"\. (?=So )", text)[-1]
    assert ("no gain" in last) == (gain != "above")
    assert ("the fit carries" in last) == (gain == fit == "above")
    assert ("rarity is the better source" in last) == (gain == fit == beyond == "above")
    assert ("poorer source" in last) == (gain == fit == "above" and beyond == "below")
    assert ("rarity carries" in last) == (gain == beyond == "above" and fit != "above")


def test_the_sentence_weighs_the_reference_against_the_difference(content):
    assert (
        words.gain_text(content | {"reference_spread": {"auroc": 0.9}}).count("0.900, more than that difference") == 1
    )
    assert "0.000, no more than that difference" in words.gain_text(content | {"reference_spread": {"auroc": 0.0}})


def test_tables_hold_every_row(content):
    assert words.controls_table(content).row_count == len(content["controls"])
    rows = words.control_rows({"busi": content, "phantom": content | {"controls": content["controls"][:3]}})
    assert len(rows) == len(content["controls"]) and rows[0][-1] == "the same" and rows[-1][-1] == "–"
    assert len({tuple(row[:2]) for row in rows}) == len(rows)
    (marked,) = [row for row in rows if "without lesions" in row[1]]
    assert "chosen by a label" in marked[1]
    (recommended,) = [row for row in rows if row[1] == words.METHOD_NAMES["recommended"]]
    value = _row(content, study.OURS)["auroc"]["value"]
    assert recommended[2].startswith(f"{value:.3f} / ")


def _directive(kind, root):
    made = kind.__new__(kind)
    made.root, made.depends_on, made.lineno = lambda: root, lambda path: None, 1
    made.missing = lambda error, line: nodes.strong(text=str(error))
    return made


def test_the_directives_show_written_tables_and_warn_of_the_others(tmp_path, content):
    study.STUDY.write(content, recorded=True, root=tmp_path)
    table, small, *warnings = _directive(ControlsTable, tmp_path).run()
    assert len(list(table.findall(nodes.row))) == 1 + len(content["controls"]) and len(warnings) == 2
    assert "4 units, 8 pictures" in small.astext() and "over 4 keys" in small.astext()
    assert "covtoken ablate --controls --cohort lidc-crops --record" in warnings[0].astext()
    assert str(tmp_path) not in warnings[0].astext()
    sentence, *warnings = _directive(ControlsSentence, tmp_path).run()
    assert sentence.astext() == words.gain_text(content) and len(warnings) == 2
    with pytest.raises(CovtokenError, match="edited by hand"):
        path = tmp_path / "gate_reports" / "busi" / "controls.json"
        path.write_text(path.read_text().replace('"image_auroc"', '"image_aurok"'))
        study.STUDY.read("busi", tmp_path)


def test_the_command_runs_controls_alone(monkeypatch, content):
    written = []
    monkeypatch.setattr(study, "run_controls", lambda cohort, backbone, data=None: content)
    monkeypatch.setattr(study.Study, "write", lambda self, content, recorded: written.append((self.stem, recorded)))
    ablate("busi", "embedded", None, False, True, False, False)
    assert written == [("controls", False)]
    with pytest.raises(CovtokenError, match="leave --choose and --banks out"):
        ablate("busi", "embedded", None, True, True, False, False)


def test_the_recommended_settings_are_what_is_varied():
    varied = study.recipes_on_the_whole_bank(12, True)
    assert varied[study.OURS] == RECOMMENDED == varied[f"component/{RECOMMENDED.settings.component}"]
    assert varied["source/head"] == replace(RECOMMENDED, settings=replace(RECOMMENDED.settings, sources="head"))
