"""The constrained pruner against a literal reading of METHOD §5, its promises, and its certificate by hand."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covtoken.coverage import dual
from covtoken.coverage.dual import (
    REPAIRED,
    SLACK,
    SLACKS,
    SPECIFIED,
    CoverageCertificate,
    Pruned,
    Schedule,
    certificate,
    prune,
)
from covtoken.coverage.functionals import FUNCTIONALS, coverage
from covtoken.errors import CovtokenError

WIDTH = 24
QUICK = replace(REPAIRED, steps=12)


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)


def test_specified_is_section_5():
    wanted = {
        "temperature": 0.5, "last_temperature": 0.5, "logit": 2.0, "momentum": 0.9, "rate": 0.5, "mu": 1.0,
        "mu_rate": 0.2, "mu_cap": 1e4, "steps": 200, "rows": True, "scaled": False, "repair": False,
    }  # fmt: skip
    assert asdict(SPECIFIED) == wanted and Schedule() == SPECIFIED
    assert SLACKS == (0.01, 0.05, 0.1, 0.2, 0.4) and SLACK == 0.05


def test_repaired_differs_only_in_how_it_descends():
    assert REPAIRED.repair and not SPECIFIED.repair
    for key in ("steps", "logit", "momentum", "mu", "mu_rate", "mu_cap"):
        assert getattr(REPAIRED, key) == getattr(SPECIFIED, key)


def by_definition(name: str, z: torch.Tensor, mask: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """METHOD §4 of one picture with a mask that autograd can follow; z: [T, r]."""
    if schedule.rows:
        kept = mask[:, None] * z
        inside = kept.T @ kept
        singular = torch.linalg.svdvals(kept)
    else:
        inside = z.T @ torch.diag(mask) @ z
        singular = torch.linalg.eigvalsh(inside).sqrt()
    if name == "energy":
        return inside.trace() / z.square().sum()
    if name == "coding_rate":
        return torch.slogdet(torch.eye(z.shape[1]) + WIDTH / (mask.sum() * 0.5**2) * inside)[1] / 2
    assert singular.min() > 0.012 * singular.max(), "another seed: held slopes would not be exact ones"
    share = singular / singular.sum() + 1e-7
    return torch.exp(-(share * share.log()).sum())


def literally(name: str, z: torch.Tensor, slack: float, seed: int, schedule: Schedule):
    """METHOD §5 for one picture, with torch's own SGD. Paths: logits, μ, k after each step."""
    n_tokens = len(z)
    logits = torch.full((n_tokens,), schedule.logit, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([logits], lr=schedule.rate, momentum=schedule.momentum)
    noise = torch.Generator().manual_seed(seed)
    mu, paths = schedule.mu, ([], [], [])
    full = by_definition(name, z, torch.ones(n_tokens, dtype=torch.float64), schedule).item()
    unit, size = (full, n_tokens) if schedule.scaled else (1, 1)
    for step in range(schedule.steps):
        first, last = schedule.temperature, schedule.last_temperature
        temperature = first * (last / first) ** (step / (schedule.steps - 1))
        uniform = torch.rand(n_tokens, generator=noise, dtype=torch.float64)
        soft = torch.sigmoid((logits + torch.log(uniform) - torch.log(1 - uniform)) / temperature)
        hard = (soft > 0.5).double()
        mask = hard + soft - soft.detach()
        covered = by_definition(name, z, mask, schedule)
        excess = (full - covered - slack * full) / unit
        sgd.zero_grad()
        (mask.sum() / size + mu * excess).backward()
        if schedule.scaled:
            logits.grad /= logits.grad.square().mean().sqrt()
        sgd.step()
        mu = min(max(0.0, mu + schedule.mu_rate * excess.item()), schedule.mu_cap)
        for path, value in zip(paths, (logits.detach().clone(), mu, int(hard.sum()))):
            path.append(value)
    return paths


@pytest.mark.parametrize("schedule", [SPECIFIED, REPAIRED], ids=["specified", "repaired"])
@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("seed", range(3))
def test_the_loop_is_the_literal_one(name, schedule, seed):
    """Ten steps of 12 tokens in 6 directions: each logit, μ and number kept on the way."""
    schedule = replace(schedule, steps=10, repair=False, rate=min(schedule.rate, 0.1))
    z = 0.7 * tokens(40 + seed, 12, 6)
    logits, mu, k = literally(name, z, 0.05, seed, schedule)
    found = prune(name, z[None], width=WIDTH, slack=0.05, seed=seed, schedule=schedule)
    assert len(set(k)) > 1 and max(mu) > 0
    assert found.k_path[:, 0].tolist() == k
    torch.testing.assert_close(found.mu_path[:, 0], torch.tensor(mu, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.logits[0], logits[-1], rtol=1e-6, atol=1e-7)
    assert torch.equal(found.mask[0], logits[-1] > 0)


@pytest.mark.parametrize("name", ["energy", "coding_rate"])
def test_the_loop_is_the_literal_one_at_its_own_rate(name):
    schedule = replace(SPECIFIED, steps=10)
    z = tokens(50, 12, 6)
    logits, mu, k = literally(name, z, 0.1, 4, schedule)
    found = prune(name, z[None], width=WIDTH, slack=0.1, seed=4, schedule=schedule)
    assert found.k_path[:, 0].tolist() == k and min(k) >= 1
    torch.testing.assert_close(found.mu_path[:, 0], torch.tensor(mu, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.logits[0], logits[-1], rtol=1e-6, atol=1e-7)


def test_the_first_step_by_hand():
    """Energy on rows: slope of a kept token 1 − 2 μ ‖z‖²/Σ‖z‖², of a dropped one 1; times σ'(·)/temperature."""
    z, schedule = tokens(51, 9, 3), replace(SPECIFIED, steps=1)
    found = prune("energy", z[None], width=WIDTH, slack=0.2, seed=7, schedule=schedule)
    u = torch.rand(9, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    soft = torch.sigmoid((2 + torch.logit(u)) / 0.5)
    share, kept = z.square().sum(1) / z.square().sum(), (soft > 0.5).double()
    slope = (1 - 2 * kept * share) * soft * (1 - soft) / 0.5
    torch.testing.assert_close(found.logits[0], 2 - 0.5 * slope)
    assert float(found.mu[0]) == pytest.approx(max(0, 1 + 0.2 * (1 - float((kept * share).sum()) - 0.2)))
    assert found.k_path.tolist() == [[kept.sum()]]


def awkward() -> dict[str, torch.Tensor]:
    y = tokens(52, 3, 14, 5)
    return {
        "random": y,
        "rank 2": y[..., :2] @ tokens(53, 2, 5),
        "fewer tokens than directions": tokens(54, 3, 4, 9),
        "one token": y[:, :1],
        "equal": y[:, :1].expand(-1, 14, -1),
        "zero": 0 * y,
        "one picture zero": y * torch.tensor([1.0, 0, 1])[:, None, None],
        "one token outweighs": y * torch.cat([torch.tensor([1e4]), torch.ones(13)])[:, None],
        "small": 1e-8 * y,
    }


@pytest.mark.parametrize("slack", [0.0, 0.01, 0.05, 0.4, 0.99])
@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("case", awkward())
def test_repaired_meets_its_constraint(case, name, slack):
    y = awkward()[case]
    found = prune(name, y, width=WIDTH, slack=slack, schedule=QUICK)
    check_consistent(found, name, y, slack)
    assert found.met.all(), (found.drop, found.delta)
    assert ((found.logits > 0) <= found.mask).all(), "repair only adds"
    plainly = found.full - coverage(name, y, found.logits > 0, width=WIDTH) < found.delta - 1e-6 * found.full
    assert torch.equal(found.mask[plainly], (found.logits > 0)[plainly]), "nothing was to be repaired"


def check_consistent(found: Pruned, name: str, y: torch.Tensor, slack: float):
    n, n_tokens, _ = y.shape
    assert found.mask.shape == (n, n_tokens) and found.mask.dtype == found.met.dtype == torch.bool
    torch.testing.assert_close(found.full, coverage(name, y, width=WIDTH))
    torch.testing.assert_close(found.covered, coverage(name, y, found.mask, width=WIDTH))
    assert torch.equal(found.drop, found.full - found.covered) and torch.equal(found.delta, slack * found.full)
    sure = (found.drop - found.delta).abs() > 1e-8 * found.full.clamp(min=1)  # all but rounding
    assert torch.equal(found.met[sure], (found.drop <= found.delta)[sure])
    before = found.full - coverage(name, y, found.logits > 0, width=WIDTH)
    sure = (before - found.delta).abs() > 1e-6
    assert torch.equal(found.met_before_repair[sure], (before <= found.delta)[sure])
    assert torch.equal(found.k, found.mask.sum(1)) and torch.equal(found.mu, found.mu_path[-1])
    assert (found.mu_path >= 0).all() and torch.isfinite(found.logits).all()
    assert found.mu_path.shape == found.k_path.shape and found.mu_path.shape[1] == n


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), name=st.sampled_from(FUNCTIONALS), slack=st.sampled_from([0.0, *SLACKS]),
    n_tokens=st.integers(1, 16), r=st.integers(1, 6), specified=st.booleans(),
)  # fmt: skip
def test_any_tokens(seed, name, slack, n_tokens, r, specified):
    y = tokens(seed, 2, n_tokens, r)
    schedule = replace(SPECIFIED, steps=12) if specified else QUICK
    found = prune(name, y, width=WIDTH, slack=slack, seed=seed, schedule=schedule)
    check_consistent(found, name, y, slack)
    assert found.met.all() or specified
    if specified:
        assert torch.equal(found.mask, found.logits > 0)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_at_full_length(name):
    y = tokens(55, 2, 24, 6)
    for schedule in (SPECIFIED, REPAIRED):
        found = prune(name, y, width=WIDTH, slack=SLACK, schedule=schedule)
        check_consistent(found, name, y, SLACK)
        assert len(found.mu_path) == 200
        if schedule.repair:
            assert found.met.all() and (found.k < 24).any(), "a floor below C* lets some token go"


def test_mu_rises_while_the_constraint_is_broken_and_stops_at_its_cap_and_at_zero():
    y = tokens(56, 2, 10, 4)
    dropped = replace(SPECIFIED, steps=8, logit=-30.0, rate=0.0)  # nothing kept: the drop is all of C*
    found = prune("energy", y, width=WIDTH, slack=0.25, schedule=dropped)
    torch.testing.assert_close(found.mu_path[:, 0], 1 + 0.2 * 0.75 * torch.arange(1, 9, dtype=torch.float64))
    assert not found.met.any() and (found.k == 0).all()
    capped = prune("energy", y, width=WIDTH, slack=0.25, schedule=replace(dropped, mu_cap=1.5))
    assert capped.mu_path[2:].max() == 1.5 == capped.mu_path[-1].min()
    kept = prune("energy", y, width=WIDTH, slack=0.25, schedule=replace(dropped, logit=30.0, mu_rate=3.0))
    torch.testing.assert_close(kept.mu_path[:, 0], torch.tensor([0.25] + [0.0] * 7, dtype=torch.float64))
    assert kept.met.all() and (kept.k == 10).all()


def test_a_free_constraint_is_met_by_fewer_tokens():
    """Energy with repair from nothing: the fewest tokens that can meet the floor."""
    y = tokens(57, 4, 20, 5)
    schedule = replace(QUICK, logit=-30.0, rate=0.0)
    for slack in (0.4, 0.05):
        found = prune("energy", y, width=WIDTH, slack=slack, schedule=schedule)
        share = (y.square().sum(-1) / y.square().sum((1, 2))[:, None]).sort(dim=1, descending=True).values.cumsum(1)
        assert torch.equal(found.k, (share < 1 - slack).sum(1) + 1)
        assert not found.met_before_repair.any() and found.met.all()


@pytest.mark.parametrize("schedule", [replace(SPECIFIED, steps=30), replace(REPAIRED, steps=30)], ids=["spec", "rep"])
@pytest.mark.parametrize("name", FUNCTIONALS)
def test_neighbours_do_not_matter(name, schedule):
    y = tokens(58, 4, 16, 3) * torch.tensor([1.0, 1e-2, 1, 30])[:, None, None]
    y[2] = 0
    together = prune(name, y, width=WIDTH, seed=3, schedule=schedule)
    for i in range(4):
        alone = prune(name, y[i : i + 1], width=WIDTH, seed=3, schedule=schedule)
        assert torch.equal(alone.mask[0], together.mask[i]), i
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(alone.mu_path[:, 0], together.mu_path[:, i], rtol=1e-6, atol=1e-6)
    assert torch.equal(prune(name, y.flip(0), width=WIDTH, seed=3, schedule=schedule).mask.flip(0), together.mask)


def test_neighbours_do_not_matter_where_fewer_tokens_than_directions_are_kept():
    y, schedule = tokens(58, 4, 12, 5), replace(REPAIRED, steps=30)
    y[2] = 0
    together = prune("rankme", y, width=WIDTH, seed=3, schedule=schedule)
    assert together.k_path.min() < 4, "some masks leave two directions empty"
    for i in range(4):
        alone = prune("rankme", y[i : i + 1], width=WIDTH, seed=3, schedule=schedule)
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-6, atol=1e-6)


def test_rankme_of_rows_does_not_depend_on_the_neighbours():
    y = tokens(68, 2, 20, 12)
    weight = torch.zeros(2, 20, dtype=torch.float64)
    weight[0, :2] = weight[1, :9] = 1
    together, alone = (
        coverage("rankme", a, w, width=WIDTH, rows=True)[0] for a, w in ((y, weight), (y[:1], weight[:1]))
    )
    torch.testing.assert_close(together, alone, rtol=1e-7, atol=0)


def test_repaired_meets_its_constraint_where_every_token_stands_twice():
    """One of each pair covers as much as both: the constraint holds with equality, or fails by rounding alone."""
    for seed in range(12):
        y = tokens(seed, 4, 6, 16).repeat(1, 2, 1)
        assert prune("rankme", y, width=WIDTH, slack=0.0, schedule=replace(REPAIRED, steps=30)).met.all()


def test_nothing_kept_never_meets_a_floor():
    schedule = replace(SPECIFIED, steps=2, logit=-30.0, rate=0.0)
    found = prune("coding_rate", 1e-7 * tokens(67, 2, 14, 5), width=WIDTH, slack=0.05, schedule=schedule)
    assert (found.full > 0).all() and not found.mask.any() and not found.met.any()


def test_seeds_reproduce_and_differ():
    y, short = tokens(59, 2, 12, 4), replace(SPECIFIED, steps=6)
    first = prune("rankme", y, width=WIDTH, seed=1, schedule=short)
    state = torch.get_rng_state()
    again = prune("rankme", y, width=WIDTH, seed=1, schedule=short)
    assert torch.equal(torch.get_rng_state(), state), "the global stream was used"
    assert torch.equal(first.logits, again.logits) and torch.equal(first.mu_path, again.mu_path)
    assert not torch.equal(prune("rankme", y, width=WIDTH, seed=2, schedule=short).logits, first.logits)


def test_tokens_are_not_changed_and_paths_have_a_row_a_step():
    y = tokens(60, 2, 8, 3)
    before = y.clone()
    found = prune("rankme", y, width=WIDTH, schedule=QUICK)
    assert torch.equal(y, before) and len(found.k_path) == 12 == len(found.mu_path)
    assert prune("rankme", y.float(), width=WIDTH, schedule=QUICK).covered.dtype == torch.float64


def denormals_are_kept() -> bool:
    return bool(torch.tensor([1e-310], dtype=torch.float64).mul(0.5).item() > 0)


@pytest.fixture
def at_each_step(monkeypatch):
    """Have ``prune`` call a function as it takes the slope of a sampled mask, once a step."""

    def install(call):
        def observed(name, y, weight=None, **options):
            if weight is not None and weight.requires_grad:
                call()
            return coverage(name, y, weight, **options)

        monkeypatch.setattr(dual, "coverage", observed)

    return install


def test_denormals_are_flushed_only_within(at_each_step):
    can_flush, within = torch.set_flush_denormal(False), []
    assert denormals_are_kept()
    y = tokens(61, 1, 6, 3)
    at_each_step(lambda: within.append(denormals_are_kept()))
    prune("energy", y, width=WIDTH, schedule=QUICK)
    assert denormals_are_kept() and within == [not can_flush] * 12


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_denormals_are_kept_again_after_an_error(at_each_step, error):
    def fail():
        raise error("stop")

    at_each_step(fail)
    try:
        with pytest.raises(error):
            prune("energy", tokens(62, 1, 6, 3), width=WIDTH, schedule=QUICK)
        assert denormals_are_kept()
    finally:
        torch.set_flush_denormal(False)


def test_the_certificate_by_hand():
    y = torch.zeros(2, 4, 9)
    y[1, :, 0] = torch.tensor([1.0, 2, 3, 4])  # energies 1, 4, 9, 16: kept 1 and 16 of 30
    y[1, 2, 1] = 5  # dropped
    y[1, 3, 7] = -5  # kept
    y[1, 0, 8] = 1  # the ninth direction: not told
    pruned = Pruned(
        mask=torch.tensor([[True] * 4, [True, False, False, True]]),
        logits=torch.zeros(2, 4),
        mu=torch.tensor([0.0, 3.25]),
        mu_path=torch.zeros(1, 2),
        k_path=torch.zeros(1, 2),
        full=torch.tensor([1.0, 8.0]),
        covered=torch.tensor([1.0, 6.5]),
        drop=torch.tensor([0.0, 1.5]),
        delta=torch.tensor([0.5, 1.25]),
        met=torch.tensor([True, False]),
        met_before_repair=torch.tensor([True, False]),
        k=torch.tensor([4, 2]),
    )
    expected = CoverageCertificate(
        delta=1.25, n_tokens=4, k=2, retention=0.5, full=8.0, covered=6.5, drop=1.5, met=False, mu=3.25,
        directions_retained=(17 / 30, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    )  # fmt: skip
    found = certificate(pruned, y, 1)
    assert asdict(found) | {"directions_retained": ()} == asdict(expected) | {"directions_retained": ()}
    assert found.directions_retained == pytest.approx(expected.directions_retained)
    assert type(found.met) is bool and type(found.k) is int and type(found.mu) is float
    zero = certificate(pruned, y, 0)
    assert (zero.retention, zero.met, zero.directions_retained) == (1.0, True, (0.0,) * 8)
    assert len(certificate(pruned, y[..., :3], 1).directions_retained) == 3
    assert certificate(pruned, y, 1, n_directions=9).directions_retained[8] == 1


def test_the_certificate_of_a_pruned_picture():
    y = tokens(63, 3, 15, 6)
    found = prune("energy", y, width=WIDTH, slack=0.1, schedule=QUICK)
    for i in range(3):
        one = certificate(found, y, i)
        assert one.met and one.k == found.mask[i].sum() and one.retention == pytest.approx(one.k / 15)
        assert one.drop == pytest.approx(one.full - one.covered) and one.drop <= one.delta == pytest.approx(0.1)
        weight = y[i].square().sum(0) / y[i].square().sum()
        mean = float((torch.tensor(one.directions_retained, dtype=torch.float64) * weight).sum())
        assert mean == pytest.approx(one.covered), "energy is the weighted mean of the directions'"


@pytest.mark.parametrize("slack", [1.0, 1.5, -1e-9, -0.1, float("nan"), float("inf")])
def test_slacks_outside_are_refused(slack):
    with pytest.raises(CovtokenError, match="slack"):
        prune("energy", tokens(64, 1, 5, 3), width=WIDTH, slack=slack, schedule=QUICK)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_tokens_that_are_no_numbers_are_refused(bad):
    y = tokens(65, 2, 5, 3)
    y[1, 4, 2] = bad
    with pytest.raises(CovtokenError, match="NaN or infinity"):
        prune("energy", y, width=WIDTH, schedule=QUICK)


@pytest.mark.parametrize("shape", [(5, 3), (0, 5, 3), (1, 2, 5, 3), (3,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(CovtokenError, match="pictures, tokens, directions"):
        prune("energy", torch.zeros(shape), width=WIDTH, schedule=QUICK)


def test_unknown_names_are_refused():
    with pytest.raises(CovtokenError, match="unknown coverage functional 'enrgy': did you mean energy"):
        prune("enrgy", tokens(66, 1, 5, 3), width=WIDTH, schedule=QUICK)
