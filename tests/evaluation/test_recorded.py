"""Recorded scores: what goes in comes out, damage is refused, and measuring does not change."""

import numpy as np
import pytest

from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import Lesion, SplitLabels
from covtoken.evaluation.measure import measure
from covtoken.evaluation.records import RecordedScores, load_scores, save_scores, to_float16


@pytest.fixture
def recorded():
    rng = np.random.default_rng(0)
    n, tokens = 12, 25
    lesion = np.zeros((n, tokens), bool)
    lesions = []
    for i in range(0, n, 2):
        where = np.array([i, i + 1])
        lesion[i, where] = True
        lesions.append(Lesion(tokens=where, area=float(i + 1), share=0.01 * (i + 1), picture=i))
    ignore = np.zeros_like(lesion)
    ignore[:, 24] = True
    labels = SplitLabels(
        lesion=lesion, ignore=ignore, organ=None, unit=np.arange(n) // 2, lesions=tuple(lesions),
        unit_names=tuple("abcdef"), names=(), rows=5, cols=5,
    )  # fmt: skip
    scores = {"density": to_float16(rng.random((n, tokens)) + lesion)}
    return RecordedScores(scores, labels, {"cohort": "toy", "rows": 5, "cols": 5})


def test_round_trip(recorded, tmp_path):
    back = load_scores(save_scores(recorded, tmp_path / "scores.safetensors"))
    assert (back.scores["density"] == recorded.scores["density"]).all()
    for name in ("lesion", "ignore", "unit"):
        assert (getattr(back.labels, name) == getattr(recorded.labels, name)).all()
    for found, wanted in zip(back.labels.lesions, recorded.labels.lesions, strict=True):
        assert (found.picture, found.area) == (wanted.picture, wanted.area)
        assert found.tokens.tolist() == wanted.tokens.tolist() and found.share == pytest.approx(wanted.share)
    assert back.header == recorded.header | {"n_tokens": 25}
    fresh = measure(recorded.scores, recorded.labels, 5, 5, n_draws=50).entries()
    assert measure(back.scores, back.labels, 5, 5, n_draws=50).entries() == fresh


def test_damage_is_refused(recorded, tmp_path):
    path = save_scores(recorded, tmp_path / "scores.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(CovtokenError, match=r"scores\.safetensors: truncated"):
        load_scores(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CovtokenError, match="does not fit its digest"):
        load_scores(path)
    path.write_bytes(whole.replace(b'\\"rows\\": 5', b'\\"rows\\": 4'))
    with pytest.raises(CovtokenError, match="does not fit its digest"):
        load_scores(path)
    with pytest.raises(CovtokenError, match="no recorded scores"):
        load_scores(tmp_path / "absent.safetensors")


def test_at_most_thirteen_scorers_a_column(recorded, tmp_path):
    many = RecordedScores({f"s{i}": recorded.scores["density"] for i in range(14)}, recorded.labels, recorded.header)
    with pytest.raises(CovtokenError, match="at most 13"):
        save_scores(many, tmp_path / "scores.safetensors")
    assert save_scores(many, tmp_path / "scores.safetensors", n_columns=2).is_file()


def test_float16_keeps_the_order_of_close_distances():
    values = np.linspace(60, 61, 500).reshape(1, -1)
    assert len(np.unique(to_float16(values))) > 450
    assert len(np.unique(values.astype(np.float16))) < 50


def test_paired_difference_uses_the_same_draws(recorded):
    twice = {"a": recorded.scores["density"], "b": recorded.scores["density"]}
    measured = measure(twice, recorded.labels, 5, 5, n_draws=50)
    measured.difference("gain", "auroc.a", "auroc.b")
    assert measured.interval("gain") == (0, 0)
    assert measured.values["auroc.a"] > 0.9 and measured.n == (6, 12, 12 * 24)
