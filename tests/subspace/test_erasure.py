"""What is erased is gone: D's component along the head's direction, or all that tokens say of the head linearly."""

import numpy as np
import pytest
import torch
from stub_features import StubFeatures

from covtoken.bank.pooling import pool3x3
from covtoken.errors import CovtokenError
from covtoken.scores.memberships import fit
from covtoken.scores.scorers import raw_maps
from covtoken.subspace.consensus import ConsensusSettings
from covtoken.subspace.direction import Direction, DirectionSettings, direction_moments, load_direction
from covtoken.subspace.erasure import without_linear

SETTINGS = DirectionSettings(3, 0.8, 10.0)


class Headed(StubFeatures):
    """Stub pictures whose head reads the tokens of block 2, along directions that vary together."""

    def tokens(self, block):
        mix = torch.from_numpy(np.random.default_rng(5).normal(size=(self.dim, self.dim)).astype(np.float32))
        return super().tokens(block) @ mix

    def saliency(self):
        z = pool3x3(self.tokens(2), self.rows, self.cols)
        return z[..., 0] + 0.5 * z[..., 3] + 0.3 * super().saliency()


@pytest.fixture(scope="module")
def bank():
    return Headed.of(8, 2)


@pytest.fixture(scope="module")
def fitted(bank):
    return Direction.fit(bank, 2, SETTINGS)


def correlation(direction, bank):
    scores = direction.score(pool3x3(bank.tokens(2), bank.rows, bank.cols))
    return np.corrcoef(scores.flatten().double(), bank.saliency().flatten().double())[0, 1]


def test_the_scorer_is_the_consensus_without_what_the_head_says_linearly(bank):
    features, settings = Headed.of(3, 2, prefix="v"), ConsensusSettings(target_block=3)
    fitted = fit("consensus", 2, bank, settings)
    left = without_linear(fitted, direction_moments(bank, 2, bank.saliency())).weight
    z = pool3x3(features.tokens(2), 4, 5).double()
    found = raw_maps("without_head", 2, True, bank, features, settings=settings)
    np.testing.assert_allclose(found, (z - fitted.mean) @ left, atol=1e-5)
    other = raw_maps("without_head", 2, True, bank, features, settings=ConsensusSettings(target_block=3, quantile=0.8))
    assert np.abs(other - found).max() > 1e-3
    with pytest.raises(CovtokenError, match="pooled=True"):
        raw_maps("without_head", 2, False, bank, features)


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_no_linear_information_is_left(bank, fitted, ridge):
    moments = direction_moments(bank, 2, bank.saliency())
    erased = without_linear(fitted, moments, ridge, "saliency logit")
    assert abs(correlation(erased, bank)) < 1e-5 < abs(correlation(fitted, bank))
    plain = fitted.without(Direction.fit_target(bank, 2, bank.saliency()))
    assert abs(correlation(plain, bank)) > 0.02, "the plain erasure leaves what correlated tokens still say"
    again = without_linear(erased, moments, ridge)
    torch.testing.assert_close(again.weight, erased.weight)


def test_with_least_squares_it_is_the_residual_of_d_on_the_heads_prediction(bank, fitted):
    """LEACE for one target: D's scores minus what their regression on the predicted logit accounts for."""
    moments = direction_moments(bank, 2, bank.saliency())
    x = pool3x3(bank.tokens(2), 4, 5).reshape(-1, 8).double().numpy()
    x = x - x.mean(0)
    t = bank.saliency().flatten().double().numpy()
    predicted = x @ np.linalg.lstsq(x, t - t.mean(), rcond=None)[0]
    scores = x @ fitted.weight.numpy()
    residual = scores - predicted * (scores @ predicted) / (predicted @ predicted)
    np.testing.assert_allclose(x @ without_linear(fitted, moments).weight.numpy(), residual, atol=1e-9)


def test_the_erased_direction_is_sealed_and_says_so(bank, fitted, tmp_path):
    erased = without_linear(fitted, direction_moments(bank, 2, bank.saliency()), target="saliency logit")
    erased.save(tmp_path / "d.safetensors")
    header = load_direction(tmp_path / "d.safetensors").header
    assert header["without_linear"] == "saliency logit" and "explained" not in header


def test_sums_of_another_width_are_refused(fitted):
    narrow = StubFeatures.of(4, 2, dim=5)
    with pytest.raises(CovtokenError, match="width 8, the sums of the target 5"):
        without_linear(fitted, direction_moments(narrow, 2, narrow.saliency()))
