"""Probes against scikit-learn, on the same objective; leaks; what is chance; pairs of draws."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.evaluation.logistic import _folds
from covtoken.evaluation.measure import Measured
from covtoken.evaluation.probe_metrics import add_probe_metrics, dice
from covtoken.evaluation.probes import LinearProbe, fit_malignancy, fit_segmentation, picture_features, recordable
from covtoken.leak_guard import LabelLeak, construction

N, T, D = 36, 25, 8


def drawn(seed=0, signal=1.5):
    """Tokens in correlated directions of very different spread, two pictures a unit; lesion tokens in every unit."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(D, D)) * np.logspace(1, -2, D)
    source = rng.normal(size=(N, T, D))
    tokens = source @ mix.T + 5 * rng.normal(size=D)
    lesion = signal * source[..., 0] - source[..., 1] + rng.logistic(size=(N, T)) > 2.5
    ignore = rng.random((N, T)) < 0.1
    return tokens, lesion, ignore, np.arange(N) // 2


def labels_of(lesion, ignore, unit) -> SplitLabels:
    names = tuple(f"u{i}" for i in range(unit.max() + 1))
    return SplitLabels(lesion, ignore, None, unit, (), names, (), 5, 5)


def oracle(x, y, strength) -> np.ndarray:
    """Log odds of scikit-learn's fit, whose penalty stands against the sum of the losses."""
    z = (x - x.mean(0)) / x.std(0)
    return LogisticRegression(C=1 / (len(x) * strength), tol=1e-10, max_iter=10_000).fit(z, y).decision_function(z)


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_a_probe_is_that_of_scikit_learn(strength):
    tokens, lesion, ignore, unit = drawn()
    probe = fit_segmentation(tokens, lesion, ignore, unit, [strength])
    wanted = oracle(tokens[~ignore], lesion[~ignore], strength)
    np.testing.assert_allclose(probe.scores(tokens)[~ignore], wanted, atol=2e-4)
    single = fit_segmentation(torch.from_numpy(tokens).float(), lesion, ignore, unit, [strength])
    np.testing.assert_allclose(single.scores(tokens)[~ignore], wanted, atol=2e-3)

    features, told = tokens.mean(1), np.where(np.arange(N) % 5 == 4, -1, lesion.sum(1) > 4)
    wanted = oracle(features[told >= 0], told[told >= 0], strength)
    found = fit_malignancy(features, told.astype(np.int8), unit, [strength])
    np.testing.assert_allclose(found.scores(features)[told >= 0], wanted, atol=2e-4)
    assert np.isnan(found.threshold) and found.strength == strength


def test_the_strength_has_the_lowest_loss_on_held_out_units():
    """A feature that names the unit fits every training unit and no other: only a strong penalty withstands it."""
    tokens, lesion, ignore, unit = drawn(signal=0.0)
    lesion = (
        np.random.default_rng(1).random(N // 2)[unit][:, None] + 0.2 * np.random.default_rng(2).random((N, T)) > 0.7
    )
    names = np.eye(N // 2)[unit][:, None] + np.zeros((N, T, 1))
    rng = np.random.default_rng(3)
    assert (
        fit_segmentation(names + 0.1 * rng.normal(size=names.shape), lesion, ignore, unit, [1e-4, 10.0]).strength == 10
    )
    tokens, lesion, ignore, unit = drawn(signal=4.0)
    assert fit_segmentation(tokens, lesion, ignore, unit, [1e-4, 10.0]).strength == 1e-4


def test_scale_and_shift_of_features_change_nothing_and_constants_are_harmless():
    tokens, lesion, ignore, unit = drawn()
    plain = fit_segmentation(tokens, lesion, ignore, unit)
    moved = np.concatenate([1e3 * tokens - 7, np.full((N, T, 1), 0.1), np.zeros((N, T, 1))], axis=2)
    again = fit_segmentation(moved, lesion, ignore, unit)
    np.testing.assert_allclose(again.scores(moved), plain.scores(tokens), atol=1e-4)


def test_the_threshold_has_the_best_dice_of_all():
    tokens, lesion, ignore, unit = drawn()
    probe = fit_segmentation(tokens, lesion, ignore, unit)
    scores, truth = recordable(probe.scores(tokens))[~ignore], lesion[~ignore]
    best = max(f1_score(truth, scores >= level) for level in np.unique(scores))
    assert f1_score(truth, scores >= np.float16(probe.threshold)) == pytest.approx(best)
    measured = Measured((N // 2, N, 0))
    labels = labels_of(lesion, ignore, unit)
    add_probe_metrics(measured, {"full": {"segmentation": probe.scores(tokens)}}, {"full": probe.threshold}, labels)
    assert measured.values["probe.segmentation_dice.full"] == pytest.approx(best)


def test_few_tokens_have_the_threshold_of_best_dice_too():
    """Six tokens: a miscount by one token moves the threshold."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        tokens, lesion = rng.integers(-3, 4, (6, 1, 2)).astype(float), np.array([True, False] * 3)[:, None]
        probe = fit_segmentation(tokens, lesion, np.zeros_like(lesion), np.arange(6), [0.1])
        scores = recordable(probe.scores(tokens))
        best = max(f1_score(lesion.ravel(), (scores >= level).ravel()) for level in np.unique(scores))
        assert f1_score(lesion.ravel(), (scores >= np.float16(probe.threshold)).ravel()) == pytest.approx(best)


def test_every_fold_holds_both_classes_and_no_unit_is_torn():
    """Three units of 11 hold a class, the least there may be, beside some of the other class or not."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        unit = np.repeat(rng.permutation(11), rng.integers(2, 12, 11))
        y = np.zeros(len(unit), bool)
        rare = np.isin(unit, rng.choice(11, 3, replace=False))
        y[rare] = rng.random(rare.sum()) < 0.6
        first = np.unique(unit, return_index=True)[1]
        y[first] |= rare[first]
        for target in (y, ~y):
            fold = _folds(target, unit)
            assert all(target[fold == k].any() and not target[fold == k].all() for k in range(3))
            assert all(len(set(fold[unit == one])) == 1 for one in unit)


def test_shuffled_labels_give_chance():
    tokens, lesion, ignore, unit = drawn()
    half, rng = unit < N // 4, np.random.default_rng(5)

    def held_out(labels) -> float:
        probe = fit_segmentation(tokens[half], labels[half], ignore[half], unit[half], [1e-2])
        return roc_auc_score(lesion[~half].ravel(), probe.scores(tokens[~half]).ravel())

    assert held_out(lesion) > 0.75
    chance = [held_out(rng.permutation(lesion.ravel()).reshape(lesion.shape)) for _ in range(40)]
    assert abs(np.mean(chance) - 0.5) < 3 * np.std(chance) / 40**0.5  # a random direction, either way


def test_nothing_of_a_probe_works_inside_construction():
    tokens, lesion, ignore, unit = drawn()
    probe = fit_segmentation(tokens, lesion, ignore, unit)
    features, malignant = tokens.mean(1), lesion.sum(1) > 4
    attacks = [
        lambda: fit_segmentation(tokens, lesion, ignore, unit),
        lambda: fit_malignancy(features, malignant, unit),
        lambda: probe.scores(tokens),
    ]
    for attack in attacks:
        attack()
        with construction("a bank"), pytest.raises(LabelLeak, match="a probe was asked for while a bank"):
            attack()


def test_picture_features_are_class_token_and_mean_patch():
    tokens, prefix = torch.randn(3, 7, 4), torch.randn(3, 5, 4)
    wanted = np.concatenate([prefix[:, 0].numpy(), tokens.numpy().mean(1)], axis=1)
    np.testing.assert_allclose(picture_features(tokens, prefix), wanted, atol=1e-6)
    with pytest.raises(CovtokenError, match=r"prefix \[N, P, D\], got \[3, 7, 4\], \[3, 4\]"):
        picture_features(tokens, prefix[:, 0])


@pytest.fixture(scope="module")
def measured():
    _, lesion, ignore, unit = drawn()
    rng = np.random.default_rng(9)
    malignant = np.array([0, 1, -1, 1, 0, 0] * (N // 6), dtype=np.int8)
    full = {"segmentation": 9 * lesion + rng.normal(0, 8, (N, T)), "malignancy": 2 * malignant + rng.normal(size=N)}
    routed = {"segmentation": full["segmentation"] + rng.normal(0, 4, (N, T)), "malignancy": rng.normal(size=N)}
    scores = {"routed": routed, "full": full, "same": {name: values.copy() for name, values in full.items()}}
    out, labels = Measured((N // 2, N, int((~ignore).sum()))), labels_of(lesion, ignore, unit)
    add_probe_metrics(out, scores, dict.fromkeys(scores, 4.0), labels, malignant, n_draws=200)
    return out, scores, labels, malignant


def test_metrics_are_those_of_scikit_learn(measured):
    out, scores, labels, malignant = measured
    keep, held = ~labels.ignore, malignant >= 0
    truth = labels.lesion[keep]
    for route in scores:
        tokens = scores[route]["segmentation"].astype(np.float16)[keep].astype(float)
        pictures = scores[route]["malignancy"].astype(np.float16)[held].astype(float)
        assert out.values[f"probe.segmentation_auroc.{route}"] == pytest.approx(roc_auc_score(truth, tokens))
        assert out.values[f"probe.segmentation_ap.{route}"] == pytest.approx(average_precision_score(truth, tokens))
        assert out.values[f"probe.segmentation_dice.{route}"] == pytest.approx(f1_score(truth, tokens >= 4))
        assert out.values[f"probe.malignancy.{route}"] == pytest.approx(roc_auc_score(malignant[held], pictures))
    assert out.own_n["probe.malignancy.full"] == (18, 30, 30 * T)
    assert out.own_n["probe.segmentation_dice.full"] == (18, 36, int(keep.sum()))


def test_a_draw_is_the_metric_of_the_drawn_units(measured):
    from covtoken.evaluation.stats import unit_draws

    out, scores, labels, malignant = measured
    counts = unit_draws(N // 2, 200, 0)[7].astype(int)
    rows = np.repeat(np.arange(N), counts[labels.unit])
    keep = ~labels.ignore[rows]
    truth, tokens = labels.lesion[rows][keep], scores["routed"]["segmentation"].astype(np.float16)[rows][keep]
    assert out.draws["probe.segmentation_dice.routed"][7] == pytest.approx(f1_score(truth, tokens >= 4))
    assert out.draws["probe.segmentation_ap.routed"][7] == pytest.approx(average_precision_score(truth, tokens))
    held = rows[malignant[rows] >= 0]
    pictures = scores["routed"]["malignancy"].astype(np.float16)[held]
    assert out.draws["probe.malignancy.routed"][7] == pytest.approx(roc_auc_score(malignant[held], pictures))


def test_differences_are_paired_with_the_full_pass(measured):
    out, *_ = measured
    tasks = ("segmentation_auroc", "segmentation_ap", "segmentation_dice", "malignancy")
    for task in tasks:
        same, routed = (f"probe_gain.{task}.{route}_minus_full" for route in ("same", "routed"))
        assert out.values[same] == 0 and not out.draws[same].any() and out.interval(same) == (0, 0)
        full, own = (f"probe.{task}.{route}" for route in ("full", "routed"))
        assert out.values[routed] == out.values[own] - out.values[full] < 0
        np.testing.assert_array_equal(out.draws[routed], out.draws[own] - out.draws[full])
    assert len(out.values) == 3 * 4 + 2 * 4


def test_recorded_scores_give_the_same_numbers(measured):
    out, scores, labels, malignant = measured
    recorded = {route: {name: recordable(values) for name, values in by.items()} for route, by in scores.items()}
    again = Measured(out.n)
    add_probe_metrics(again, recorded, dict.fromkeys(scores, 4.0), labels, malignant, n_draws=200)
    assert again.entries() == out.entries()


def test_without_diagnoses_there_is_no_malignancy(measured):
    _, scores, labels, malignant = measured
    for told in (None, np.full(N, -1, np.int8), np.minimum(malignant, 0)):
        out = Measured((N // 2, N, 0))
        add_probe_metrics(out, scores, dict.fromkeys(scores, 4.0), labels, told, n_draws=5)
        assert not [name for name in out.values if "malignancy" in name]


def test_dice_of_nothing_is_not_defined():
    np.testing.assert_array_equal(dice([[0, 0, 0], [0, 3, 0], [2, 2, 2]]), [np.nan, 0, 1])


def test_what_cannot_be_fitted_or_measured_is_refused(measured):
    tokens, lesion, ignore, unit = drawn()
    with pytest.raises(CovtokenError, match=r"at least 3 units, got positives in 2"):
        fit_segmentation(tokens, lesion & (unit < 2)[:, None], ignore, unit)
    with pytest.raises(CovtokenError, match=r"units \[N\], got \[36, 25, 8\], \[36, 25\], \[36, 25\] and \[35\]"):
        fit_segmentation(tokens, lesion, ignore, unit[:-1])
    with pytest.raises(CovtokenError, match="finite"):
        fit_segmentation(np.where(tokens == tokens[0, 0, 0], np.nan, tokens), lesion, ignore & False, unit)
    with pytest.raises(CovtokenError, match=r"takes features \[..., 8\], got \[3, 9\]"):
        LinearProbe(np.zeros(8), 0.0, 1.0).scores(np.zeros((3, 9)))
    _, scores, labels, _ = measured
    for given, thresholds in (({"routed": scores["routed"]}, {"routed": 0.0}), (scores, {"full": 0.0})):
        with pytest.raises(CovtokenError, match="scores of the pass 'full' and a threshold of every route"):
            add_probe_metrics(Measured((1, 1, 1)), given, thresholds, labels)
    with pytest.raises(CovtokenError, match=r"segmentation scores of 'full': expected \[36, 25\], .* got \[36, 24\]"):
        add_probe_metrics(Measured((1, 1, 1)), {"full": {"segmentation": np.zeros((36, 24))}}, {"full": 0.0}, labels)
