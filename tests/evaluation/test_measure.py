"""In-organ numbers against their definitions, each with the n that it stands on, fresh and from recorded scores."""

import numpy as np
import pytest

from covtoken.errors import CovtokenError
from covtoken.evaluation.froc import froc
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.evaluation.measure import Measured, measure
from covtoken.evaluation.records import RecordedScores, load_scores, save_scores, to_float16
from covtoken.evaluation.stats import aupr, auroc
from covtoken.paper.numbers import as_text

ROWS, COLS, N = 5, 6, 8
KINDS = ("organ_auroc", "organ_aupr", "organ_image_auroc", "organ_froc.fp1", "organ_froc.fp4")


@pytest.fixture(autouse=True)
def intervals_of_few_units(monkeypatch):
    """The stubs here have fewer than five units, whose numbers would have no interval."""
    monkeypatch.setattr("covtoken.evaluation.measure.FEWEST_FOR_INTERVAL", 0)


def _labels(organ: bool = True) -> SplitLabels:
    """Two pictures a unit; an organ in pictures 0, 1, 2 and 5: its left four columns. Picture 5 has no lesion."""
    lesion, ignore, inside = np.zeros((3, N, ROWS * COLS), dtype=bool)
    for picture in (0, 1, 2, 5):
        inside[picture].reshape(ROWS, COLS)[:, :4] = True
    tokens = {0: [[7, 8], [28]], 1: [[9, 10]], 2: [[0, 1]], 3: [[14]], 6: [[20, 21]]}  # 10 and 28 lie outside
    lesions = []
    for picture, owned in tokens.items():
        for own in owned:
            lesion[picture, own] = True
            lesions.append(Lesion(np.array(own), float(len(own)), 0.01 * len(own), picture))
    ignore[0, 13], ignore[4, 3] = True, True
    names = tuple("abcd")
    unit = np.arange(N) // 2
    return SplitLabels(lesion, ignore, inside if organ else None, unit, tuple(lesions), names, (), ROWS, COLS)


@pytest.fixture(scope="module")
def scores():
    labels = _labels()
    maps = np.random.default_rng(3).random((N, ROWS * COLS)) + 0.4 * labels.lesion
    maps[:, 5::6] += 2  # loud outside the organ, where no in-organ number may see it
    return to_float16(maps)


@pytest.fixture(scope="module")
def measured(scores):
    return measure({"s": scores}, _labels(), ROWS, COLS, n_draws=60)


def test_values_are_those_of_the_organ_alone(scores, measured):
    labels, values = _labels(), scores.astype(np.float64)
    inside = labels.organ & ~labels.ignore
    assert measured.values["organ_auroc.s"] == pytest.approx(auroc(values[inside], labels.lesion[inside]))
    assert measured.values["organ_aupr.s"] == pytest.approx(aupr(values[inside], labels.lesion[inside]))
    each = [auroc(values[i][inside[i]], labels.lesion[i][inside[i]]) for i in (0, 1, 2)]
    assert measured.values["organ_image_auroc.s"] == pytest.approx(np.mean(each))
    assert measured.values["organ_auroc.s"] > measured.values["auroc.s"] + 0.05


def test_froc_is_that_of_the_organ_cut_out(scores, measured):
    """The organ is a rectangle here, so its FROC is the plain one of pictures that show nothing else."""
    labels, rows = _labels(), [0, 1, 2, 5]
    column = np.arange(ROWS * COLS) % COLS
    cut = {}
    for name in ("lesion", "ignore"):
        cut[name] = getattr(labels, name)[rows][:, column < 4]
    number = np.cumsum(column < 4) - 1
    lesions = [(0, [7, 8]), (1, [9]), (2, [0, 1])]
    cut["lesions"] = [Lesion(number[own], 1.0, 0.1, picture) for picture, own in lesions]
    plain = froc(
        scores[rows][:, column < 4].reshape(4, ROWS, 4).astype(np.float64), type("Cut", (), cut), fp_rates=(1, 4)
    )
    for rate in (1, 4):
        assert measured.values[f"organ_froc.fp{rate}.s"] == pytest.approx(plain[rate].sensitivity)


def test_every_entry_carries_its_own_n(measured):
    entries = measured.entries()
    n = {name: tuple(entry[f"n_{k}"] for k in ("units", "images", "tokens")) for name, entry in entries.items()}
    assert n["auroc.s"] == measured.n == (4, 8, 8 * 30 - 2)
    assert n["image_auroc.s"] == (3, 5, 149), "the mean is over lesion pictures"
    assert n["organ_auroc.s"] == n["organ_aupr.s"] == n["organ_froc.fp1.s"] == (3, 4, 4 * 20 - 1)
    assert n["organ_image_auroc.s"] == (2, 3, 3 * 20 - 1)
    for rate in (1, 4):  # lesions of pictures without an organ mask, and the one beside the organ
        entry = entries[f"organ_froc.fp{rate}.s"]
        assert (entry["n_lesions"], entry["n_lesions_outside"]) == (3, 3)
    assert all(entries[f"{kind}.s"]["ci95"] is not None for kind in KINDS)


def test_differences_pair_only_what_stands_on_the_same_tokens(scores):
    measured = measure({"a": scores, "b": -scores}, _labels(), ROWS, COLS, n_draws=20)
    measured.difference("organ_gain", "organ_auroc.a", "organ_auroc.b")
    assert measured.entries()["organ_gain"]["n_images"] == 4
    with pytest.raises(CovtokenError, match="not paired"):
        measured.difference("gain", "organ_auroc.a", "auroc.b")


def test_recorded_scores_give_the_same_numbers(scores, measured, tmp_path):
    header = {"cohort": "toy", "rows": ROWS, "cols": COLS}
    back = load_scores(save_scores(RecordedScores({"s": scores}, _labels(), header), tmp_path / "s.safetensors"))
    assert (back.labels.organ == _labels().organ).all()
    assert measure(back.scores, back.labels, ROWS, COLS, n_draws=60).entries() == measured.entries()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"maps": np.zeros((N, 30))}, r"maps by name, .* got ndarray"),
        ({"maps": {"s": np.zeros((N - 1, 30))}}, r"map 's': expected numbers \[8, 30\], .* got \[7, 30\]"),
        ({"maps": {"s": np.zeros((N, 5, 6))}}, r"map 's': expected numbers \[8, 30\], .* got \[8, 5, 6\]"),
        ({"maps": {"s": np.full((N, 30), np.nan)}}, r"map 's': .* got \[8, 30\] with NaN"),
        ({"maps": {"s": "maps.npy"}}, "map 's': expected numbers .*, got 'maps.npy'"),
        ({"labels": None}, "labels as covtoken.label gives them, got NoneType"),
        ({"labels": np.zeros((N, 30), bool)}, "labels as covtoken.label gives them, got ndarray"),
        ({"rows": 6}, "a grid of 6 × 6 does not hold the labels' 30 tokens"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(changed, message):
    given = {"maps": {"s": np.zeros((N, 30))}, "labels": _labels(), "rows": ROWS, "cols": COLS} | changed
    with pytest.raises(CovtokenError, match=message):
        measure(**given)


def test_without_organ_masks_or_lesions_in_them_there_are_no_such_numbers(scores):
    for labels in (_labels(organ=False), _labels()):
        if labels.organ is not None:
            labels.organ[:5] = False  # what is left has no lesion
        names = measure({"s": scores}, labels, ROWS, COLS, n_draws=20).values
        assert not [name for name in names if name.startswith("organ")]


def test_a_share_of_none_or_all_has_its_exact_bound():
    measured = Measured((59, 59, 100))
    measured.add("miss_small.a.keep0.25", 0.0, np.zeros(50))
    measured.add("dual.constraint_met", 1.0, np.ones(50), (20, 20, 100))
    measured.add("miss_gain.a_minus_b.keep0.25", 0.0, np.zeros(50))
    measured.add("miss_small.b.keep0.25", 0.1, np.full(50, 0.1))
    entries = measured.entries()
    assert entries["miss_small.a.keep0.25"]["exact95"] == pytest.approx([0, 1 - 0.025 ** (1 / 59)])
    assert entries["dual.constraint_met"]["exact95"] == pytest.approx([0.025 ** (1 / 20), 1])
    assert not any("exact95" in entries[name] for name in ("miss_gain.a_minus_b.keep0.25", "miss_small.b.keep0.25"))
    assert as_text(entries["miss_small.a.keep0.25"]) == "0.000 [0.000, 0.061 exact]"
