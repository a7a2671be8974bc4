"""A certificate is what its calibration gives, survives its file, and is refused where it does not belong."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from covtoken.economy.certificate import (
    Certificate,
    MadeBy,
    certify,
    certify_route,
    lesion_needs,
    lesion_thresholds,
    load_certificate,
    rank_bound,
    threshold_bound,
    unit_disagreements,
    unit_needs,
    unit_thresholds,
)
from covtoken.economy.certificate.correction import ratio_grid
from covtoken.economy.certificate.document import calibration_fingerprint
from covtoken.economy.certificate.losses import unit_losses
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, construction

MADE_BY = MadeBy("C−, σ ½", "vit", "aa", "224 px", "fp32", 3, "bb")
T = 64


def calibration(n=60, seed=0, lesion_free=10):
    """Scores [n, T], labels of one or two lesions a picture but for the last ones, two pictures a unit, and sizes."""
    rng = np.random.default_rng(seed)
    scores, lesions, sizes = rng.normal(size=(n, T)), [], []
    for picture in range(n - lesion_free):
        for _ in range(1 + picture % 2):
            tokens = np.sort(rng.permutation(T)[: rng.integers(1, 7)])
            scores[picture, tokens] += 2
            lesions.append(SimpleNamespace(picture=picture, tokens=tokens))
            sizes.append("small" if len(tokens) < 4 else "large")
    unit = np.arange(n) // 2
    names = tuple(f"unit {i}" for i in range(n // 2))
    return scores, SimpleNamespace(lesions=tuple(lesions), unit=unit, unit_names=names), sizes


def every_form():
    scores, labels, sizes = calibration()
    yield certify(scores, labels, 0.1, MADE_BY)
    yield certify(scores, labels, 0.2, MADE_BY, "threshold", strata={"size": sizes})
    yield certify(scores, labels, 0.1, MADE_BY, "expected risk")
    yield certify(scores, labels, 0.2, MADE_BY, "learn-then-test")
    yield certify_route(scores, scores + 0.1, labels, 40, 0.1, 0.1, MADE_BY)


def test_each_form_is_its_bound():
    scores, labels, _ = calibration()
    lesions, unit = labels.lesions, labels.unit
    needs, heights = lesion_needs(scores, lesions), lesion_thresholds(scores, lesions)
    rank, threshold, expected, learned, route = every_form()
    assert rank.n == 25 and rank.k == rank_bound(unit_needs(needs, lesions, unit)[1], 0.1) and rank.rho == rank.k / T
    assert threshold.k is None and threshold.rho is None
    worst = [threshold_bound(unit_thresholds(heights, lesions, unit)[1], 0.2)]
    worst += [stratum.setting for stratum in threshold.strata]
    assert threshold.threshold == min(worst) and [s.name for s in threshold.strata] == ["size: large", "size: small"]
    lost = [unit_losses(scores, lesions, unit, [k]).sum() for k in range(1, T + 1)]
    assert expected.k == 1 + [(loss + 1) / 26 <= 0.1 for loss in lost].index(True)
    assert (
        learned.k in ratio_grid(T)
        and lost[learned.k - 1] / 25 < 0.2
        and learned.about == {"delta": 0.1, "n_ratios": 200}
    )
    everyone = unit_needs(needs, lesions, unit, lesion_free=True)[1]
    assert route.n == 30 == len(everyone) and route.alpha == 0.2
    assert route.about["k_needed"] == rank_bound(everyone, 0.1) and route.about["k_whole"] == route.k == 40
    assert route.about["share_lost"] == 0 and not route.vacuous


def test_by_size_the_strictest_setting_counts():
    scores, labels, sizes = calibration()
    plain = certify(scores, labels, 0.1, MADE_BY)
    sized = certify(scores, labels, 0.1, MADE_BY, strata={"size": sizes, "organ": ["liver"] * len(sizes)})
    assert sized.k == max(plain.k, *(s.setting for s in sized.strata if s.name.startswith("size")))
    assert [s.name for s in sized.strata] == ["size: large", "size: small", "organ: liver"]
    rare = ["tiny" if i == 0 else "other" for i in range(len(sizes))]
    with pytest.raises(CovtokenError, match=r"size 'tiny': alpha = 0.1 cannot be certified with n = 1"):
        certify(None, labels, 0.1, MADE_BY, strata={"size": rare})
    by_organ = certify(scores, labels, 0.1, MADE_BY, strata={"organ": rare})
    assert by_organ.k == plain.k and [s.says for s in by_organ.strata][1] == "vacuous"


@pytest.mark.parametrize("form", ["rank", "threshold", "expected risk", "learn-then-test"])
def test_too_small_an_alpha_is_refused_before_scores_are_looked_at(form):
    _, labels, _ = calibration()
    with pytest.raises(CovtokenError, match="honest answer is to keep all"):
        certify(None, labels, 0.01, MADE_BY, form)


def test_route_refusals():
    scores, labels, _ = calibration()
    with pytest.raises(CovtokenError, match=r"alpha = 0.01 cannot be certified with n = 30"):
        certify_route(None, None, labels, 40, 0.1, 0.01, MADE_BY)
    with pytest.raises(CovtokenError, match=r"k_whole = 1: alpha = 0.1 needs \d+ tokens"):
        certify_route(scores, scores, labels, 1, 0.1, 0.1, MADE_BY)
    noise = np.random.default_rng(1).normal(size=scores.shape)
    empty = certify_route(scores, noise, labels, 40, 0.1, 0.1, MADE_BY)
    assert empty.k == rank_bound(unit_disagreements(scores, noise, 40, labels.unit)[1], 0.1)
    assert empty.vacuous and empty.statement().startswith("vacuous")


def test_labels_are_refused_inside_construction():
    scores, labels, _ = calibration()
    with construction("a bank"):
        with pytest.raises(LabelLeak):
            certify(scores, labels, 0.1, MADE_BY)
        with pytest.raises(LabelLeak):
            certify_route(scores, scores, labels, 40, 0.1, 0.1, MADE_BY)


def test_unknown_forms():
    scores, labels, sizes = calibration()
    with pytest.raises(CovtokenError, match="did you mean rank"):
        certify(scores, labels, 0.1, MADE_BY, "ranks")
    with pytest.raises(CovtokenError, match="only rank and threshold"):
        certify(scores, labels, 0.1, MADE_BY, "expected risk", strata={"size": sizes})
    with pytest.raises(CovtokenError, match="scores of 59 pictures, labels of 60"):
        certify(scores[1:], labels, 0.1, MADE_BY)


def test_statements():
    rank, threshold, expected, learned, route = every_form()
    first, limits = rank.statement().split("\n")
    assert first == f"{rank.k} of 64 tokens kept; every lesion retained with probability ≥ 0.9 (marginal, n = 25)"
    assert "calibration used labels" in limits and "not for a chosen picture" in limits and "with a lesion" in limits
    assert threshold.statement(17).startswith("17 of 64 tokens kept; every lesion retained with probability ≥ 0.8")
    with pytest.raises(CovtokenError, match="give n_kept"):
        threshold.statement()
    assert "tokens that is lost ≤ 0.1 (marginal" in expected.statement()
    assert "with confidence 0.9 over calibration sets" in learned.statement()
    assert "over units with and without lesions" in route.statement() and "with a lesion " not in route.limits


@pytest.mark.parametrize("form", range(5))
def test_round_trip(form, tmp_path):
    certificate = list(every_form())[form]
    path = certificate.save(tmp_path / "deep" / "certificate.json")
    assert load_certificate(path) == certificate and load_certificate(path).digest == certificate.digest
    assert [file.name for file in path.parent.iterdir()] == [path.name], "a temporary file was left"


@pytest.mark.parametrize("name", ["alpha", "n", "form", "n_tokens", "k", "strata", "made_by", "calibration", "about"])
def test_an_edited_file_is_refused(name, tmp_path):
    path = next(every_form()).save(tmp_path / "certificate.json")
    content = json.loads(path.read_text())
    edits = {"alpha": 0.05, "n": 26, "form": "route", "n_tokens": 65, "k": 1, "calibration": "0", "about": {"delta": 1}}
    edits |= {"strata": [{"name": "a", "n": 9, "setting": 3}], "made_by": content["made_by"] | {"bank": "cc"}}
    path.write_text(json.dumps(content | {name: edits[name]}))
    with pytest.raises(CovtokenError, match=r"certificate.json: edited or damaged: content is"):
        load_certificate(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a certificate"),
        ("[]", "came list"),
        ('{"alpha": 0.1}', "came alpha"),
        (None, "no such certificate"),
    ],
)
def test_what_is_no_certificate(text, words, tmp_path):
    path = tmp_path / "certificate.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CovtokenError, match=words):
        load_certificate(path)


@pytest.mark.parametrize(("name", "value"), [("k", 0), ("k", None), ("alpha", 2), ("strata", [{}]), ("made_by", {})])
def test_a_file_that_makes_no_sense_is_refused(name, value, tmp_path):
    path = next(every_form()).save(tmp_path / "certificate.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(CovtokenError, match=r"certificate.json: edited or damaged: .*calibrate it again"):
        load_certificate(path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bank", "cc", "bank: expected 'bb', found 'cc'"),
        ("backbone", "other", "backbone: expected 'vit', found 'other'"),
        ("block", 4, "block: expected 3, found 4"),
        ("precision", "bf16", "precision: expected 'fp32', found 'bf16'"),
        ("score", "C−", "score: expected 'C−, σ ½', found 'C−'"),
    ],
)
def test_another_bank_backbone_or_block_is_refused(name, value, words):
    certificate = next(every_form())
    certificate.check_fits(MADE_BY)
    with pytest.raises(CovtokenError, match=f"{words}.: score with what it was calibrated on, or calibrate a new"):
        certificate.check_fits(replace(MADE_BY, **{name: value}))


def test_made_by_comes_from_a_header():
    header = {"backbone": "vit", "weights_sha256": "aa", "preprocessing": "224 px", "precision": "fp32", "block": 3}
    assert MadeBy.from_header(header | {"content_sha256": "bb", "units": []}, "C−, σ ½") == MADE_BY
    with pytest.raises(CovtokenError, match="lacks content_sha256"):
        MadeBy.from_header(header, "C−")


@pytest.mark.parametrize(
    "bad", [{"form": "x"}, {"alpha": 0}, {"n": 0}, {"k": 65}, {"k": 0}, {"k": None}, {"threshold": 0.5}]
)
def test_fields_out_of_range(bad):
    good = {"alpha": 0.1, "n": 9, "form": "rank", "n_tokens": 64, "k": 5, "threshold": None, "strata": ()}
    good |= {"made_by": MADE_BY, "calibration": "0"}
    Certificate(**good)
    with pytest.raises(CovtokenError):
        Certificate(**good | bad)
    with pytest.raises(CovtokenError, match="finite"):
        Certificate(**good | {"form": "threshold", "k": None, "threshold": -np.inf})


def test_the_fingerprint_has_no_order_and_sees_every_value():
    one = calibration_fingerprint(["a", "b"], [1, 2])
    assert one == calibration_fingerprint(["b", "a"], [2.0, 1.0])
    assert one != calibration_fingerprint(["a", "b"], [2, 1]) != calibration_fingerprint(["a", "c"], [1, 2])
