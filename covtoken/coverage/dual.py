"""Prune each picture to as few tokens as a coverage floor allows, with a dual variable (book/method.md).

Minimise the number kept subject to C* − C(S) ≤ δ, by the Lagrangian Σm + μ(C* − C(S) − δ): descent on the logits of a
straight-through Gumbel-sigmoid mask, ascent on μ, the price in tokens of a unit of coverage. ``SPECIFIED`` may miss the
floor and ``REPAIRED`` meets it: a negative result from the first alone could be a bad optimiser, not a bad objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from covtoken.coverage.functionals import coverage
from covtoken.coverage.greedy import repaired, streams_of
from covtoken.errors import CovtokenError

SLACKS = (0.01, 0.05, 0.1, 0.2, 0.4)  # δ as shares of C*
SLACK = 0.05


@dataclass(frozen=True)
class Schedule:
    """Settings of the search for the saddle point. SGD, not Adam, which would undo what the dual variable scales.

    Attributes:
        rows: the mask multiplies the tokens, Z_S = m ⊙ Z (the literal form): its square is in the Gram matrix, and a
            dropped token has no slope. Else it enters the Gram linearly (``functionals``).
        scaled: measure coverage and size as shares, and divide each picture's gradient by its root mean square, so
            that μ weighs the two terms but cannot set the length of a step.
    """

    steps: int = 200
    logit: float = 2.0  # of every token at the start
    rate: float = 0.5
    momentum: float = 0.9
    mu: float = 1.0  # the dual variable at the start
    mu_rate: float = 0.2
    mu_cap: float = 1e4
    temperature: float = 0.5  # of the mask: geometric from the first step
    last_temperature: float = 0.5  # to the last
    rows: bool = True
    scaled: bool = False
    repair: bool = False  # at the end, add the best tokens until the floor is met


SPECIFIED = Schedule()
REPAIRED = replace(SPECIFIED, rate=0.05, temperature=1.0, last_temperature=0.1, rows=False, scaled=True, repair=True)


@dataclass(frozen=True)
class Pruned:
    """The pruner's result for B pictures of T tokens."""

    mask: Tensor  # [B, T] bool, deterministic: logit > 0, then repaired where asked
    logits: Tensor  # [B, T]
    mu: Tensor  # [B], the last dual value
    mu_path: Tensor  # [steps, B]
    k_path: Tensor  # [steps, B], tokens kept by the sampled masks
    full: Tensor  # [B], C*
    covered: Tensor  # [B], C(S)
    drop: Tensor  # [B], C* − C(S)
    delta: Tensor  # [B], the allowed drop
    met: Tensor  # [B] bool, drop ≤ delta
    met_before_repair: Tensor  # [B] bool, the same before tokens were added
    k: Tensor  # [B], tokens kept


@dataclass(frozen=True)
class CoverageCertificate:
    """The coverage certificate of one picture; it says nothing about lesions."""

    delta: float  # allowed drop
    n_tokens: int  # before pruning
    k: int  # tokens kept
    retention: float  # k / n_tokens
    full: float  # C*
    covered: float  # C(S)
    drop: float  # C* − C(S)
    met: bool  # drop ≤ delta
    mu: float  # price in tokens of one unit of coverage, at the last step
    directions_retained: tuple[float, ...]  # kept share of the energy along each of the first directions of P_L


def prune(
    name: str,
    y: Tensor,
    *,
    width: int,
    slack: float = SLACK,
    seed: int | Sequence[int] = 0,
    schedule: Schedule = SPECIFIED,
) -> Pruned:
    """Run the constrained pruner on every picture at once.

    Args:
        name: the coverage functional.
        y: projected tokens [B, T, r].
        width: D of the unprojected tokens.
        slack: δ as a share of C*, in [0, 1).
        seed: one a picture, so that no result depends on the rest of the batch; a number gives all the same noise.

    Raises:
        CovtokenError: tokens of another shape, NaN, a slack outside [0, 1).
    """
    y = y.double()
    if y.ndim != 3 or not len(y):
        raise CovtokenError(f"projected tokens must be [pictures, tokens, directions], got {list(y.shape)}")
    if not torch.isfinite(y).all():
        raise CovtokenError("projected tokens hold NaN or infinity: check the features and the subspace")
    if not 0 <= slack < 1:
        raise CovtokenError(f"slack {slack}: the allowed drop as a share of C*, in [0, 1)")
    n, n_tokens, _ = y.shape
    full = coverage(name, y, width=width)
    delta = slack * full
    unit = full.clamp(min=1e-12) if schedule.scaled else torch.ones_like(full)  # coverage is measured in it
    size = n_tokens if schedule.scaled else 1
    logits = torch.full((n, n_tokens), schedule.logit, dtype=torch.float64)
    velocity = torch.zeros_like(logits)
    mu = torch.full((n,), schedule.mu, dtype=torch.float64)
    streams, mu_path, k_path = streams_of(seed, n), [], []
    torch.set_flush_denormal(True)  # masks that are certain, and Grams of few tokens, otherwise cost minutes
    try:
        for step in range(schedule.steps):
            share = step / max(1, schedule.steps - 1)
            temperature = schedule.temperature * (schedule.last_temperature / schedule.temperature) ** share
            uniform = torch.stack([torch.rand(n_tokens, generator=g, dtype=torch.float64) for g in streams])
            soft = torch.sigmoid((logits + torch.logit(uniform, eps=1e-12)) / temperature)
            mask = (soft > 0.5).double().requires_grad_(True)
            covered = coverage(name, y, mask, width=width, rows=schedule.rows)
            # d/dm of Σm + μ(C* − C), straight through the threshold, then through the sigmoid.
            by_mask = 1 / size - (mu / unit)[:, None] * torch.autograd.grad(covered.sum(), mask)[0]
            step_by = by_mask * soft * (1 - soft) / temperature
            if schedule.scaled:
                step_by = step_by / step_by.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
            velocity = schedule.momentum * velocity + step_by
            logits = logits - schedule.rate * velocity
            excess = (full - covered.detach() - delta) / unit
            mu = (mu + schedule.mu_rate * excess).clamp(0, schedule.mu_cap)
            mu_path.append(mu)
            k_path.append(mask.detach().sum(1))
    finally:
        torch.set_flush_denormal(False)
    mask = logits > 0
    tolerance = 1e-9 * full
    met_before = full - coverage(name, y, mask.double(), width=width) <= delta + tolerance
    if schedule.repair:
        mask = repaired(name, y, mask, full - delta - tolerance, width=width)
    covered = coverage(name, y, mask.double(), width=width)
    drop = full - covered
    return Pruned(
        *(mask, logits, mu, torch.stack(mu_path), torch.stack(k_path), full, covered, drop, delta),
        *(drop <= delta + tolerance, met_before, mask.sum(1)),
    )


def certificate(pruned: Pruned, y: Tensor, index: int, n_directions: int = 8) -> CoverageCertificate:
    """Certify the picture at ``index`` of the batch; y: the tokens [B, T, r] that were pruned."""
    energy = y[index].double().square()[:, :n_directions]
    total = energy.sum(0)
    kept = energy[pruned.mask[index]].sum(0) / torch.where(total > 0, total, torch.ones_like(total))
    n_tokens, k = pruned.mask.shape[1], int(pruned.k[index])
    numbers = (float(getattr(pruned, key)[index]) for key in ("full", "covered", "drop"))
    return CoverageCertificate(
        *(float(pruned.delta[index]), n_tokens, k, k / n_tokens, *numbers),
        *(bool(pruned.met[index]), float(pruned.mu[index]), tuple(kept.tolist())),
    )
