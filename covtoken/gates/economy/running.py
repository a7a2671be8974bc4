"""Run the chosen route: its exit maps, its clock, the checks that it is what it says, and its certificates."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from covtoken.bank.token_bank import REFERENCE_SIZE
from covtoken.data.case import Case
from covtoken.economy.certificate import Certificate, MadeBy, certify, certify_route
from covtoken.economy.certificate.losses import unit_losses
from covtoken.economy.exit_maps import ExitMaps, ExitSums, sums_of
from covtoken.economy.flops import counted_flops, route_flops, search_flops
from covtoken.economy.passes import PassOutput
from covtoken.economy.route_check import TOLERANCE, route_error
from covtoken.economy.routing import Routed, batches, route_through
from covtoken.economy.stages import Stage
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.gates.economy.taps import Tap
from covtoken.leak_guard import LabelLeak, construction
from covtoken.protocol.setting import Setting

ALPHA = 0.1
COUNTED_WITHIN = 0.02  # of PyTorch's own count: norms and activations are not counted in closed form


Full = Callable[[torch.Tensor, str, slice], PassOutput]
"""Gives the plain pass of images, the pictures ``part`` of a side: "bank", "train" or "test"."""


def exit_maps_of(
    setting: Setting, bank_cases: Sequence[Case], stage_of: Callable[[slice], Stage], full: Full
) -> ExitMaps:
    """Fit exit maps on the bank's pictures where each batch may have a stage of its own."""
    vit, total = setting.vit, None
    bar = {"console": Console(stderr=True), "disable": not (setting.progress and sys.stderr.isatty())}
    parts = track(batches(bank_cases, vit), "exit maps", -(-len(bank_cases) // 8), **bar)
    with construction("exit maps"):
        for part, images, digests in parts:
            dropped, kept = sums_of(vit, images, [stage_of(part)], full(images, "bank", part).tokens)
            summed = ExitSums(dropped, kept, digests, tuple(case.unit for case in bank_cases[part]))
            total = summed if total is None else total + summed
    return ExitMaps.of(total, vit, [stage_of(slice(0, 1))])


@dataclass(frozen=True)
class Route:
    """The chosen route on a backbone: its one stage and its exit maps."""

    setting: Setting
    tap: Tap
    stage: Stage
    maps: ExitMaps

    @classmethod
    def of(cls, setting: Setting, tap: Tap, k: int, bank_cases: Sequence[Case], full: Full) -> Route:
        """Fit the exit maps of a drop to k tokens on the bank's pictures."""
        stage = Stage(tap.block, tap.score, k=k, sigma=tap.recipe.sigma, n_compared=tap.n_compared)
        return cls(setting, tap, stage, exit_maps_of(setting, bank_cases, lambda part: stage, full))

    def checks(self, cases: Sequence[Case], made_by: MadeBy, certificate, defect: str | None) -> dict[str, bool]:
        """Check that the route is the masked pass, that its FLOPs are all counted, and that its certificate is its own.

        Args:
            certificate: ``certificate_of`` the calibration side; None: none could be made.
            defect: plants what each check must find.
        """
        vit, stage = self.setting.vit, self.stage
        _, images, _ = next(batches(cases[:2], vit))
        route = route_through if defect != "dropped_cls" else _without_prefix
        checks = {"route_is_the_masked_pass": bool(route_error(vit, images, [stage], route) <= TOLERANCE)}
        if defect == "uncounted_search":
            stage = replace(stage, score=_search(vit.dim), n_compared=0)
        counted = counted_flops(lambda: route_through(vit, images[:1], [stage], self.maps))
        if self.tap.bank is not None:  # searched by faiss, which no counter sees
            counted += search_flops(vit.rows * vit.cols, len(self.tap.bank), vit.dim)
        closed = route_flops(vit, [stage], [stage.k], maps=True).total
        checks["all_work_is_counted"] = bool(abs(closed / counted - 1) <= COUNTED_WITHIN)
        checks["certificate_fits"] = certificate is not None and _fits(certificate, made_by, defect)
        return checks


def _fits(certificate: Certificate, made_by: MadeBy, defect: str | None) -> bool:
    if defect == "foreign_certificate":
        certificate = replace(certificate, made_by=replace(made_by, bank="another bank"))
    try:
        certificate.check_fits(made_by)
    except CovtokenError:
        return False
    return True


def certificate_of(scores: np.ndarray, labels: SplitLabels, made_by: MadeBy) -> Certificate | None:
    """Calibrate the chosen score's certificate in rank form at α = ``ALPHA``; None where n is too small."""
    try:
        return certify(scores, labels, ALPHA, made_by)
    except LabelLeak:
        raise
    except CovtokenError:
        return None


def risks(
    calibration_scores: np.ndarray,
    calibration_labels: SplitLabels,
    test_scores: np.ndarray,
    test_labels: SplitLabels,
    made_by: MadeBy,
) -> dict[str, np.ndarray]:
    """Control the expected share of lost lesion tokens in both forms: each test unit's loss at the certified k."""
    found = {}
    for form in ("expected risk", "learn-then-test"):
        try:
            k = certify(calibration_scores, calibration_labels, ALPHA, made_by, form).k
        except LabelLeak:
            raise
        except CovtokenError:  # too few units for this form at this level
            continue
        losses = unit_losses(test_scores, test_labels.lesions, test_labels.unit, [k])[:, 0]
        name = f"loss/{form.replace(' ', '_').replace('-', '_')}.alpha{ALPHA:g}"
        found[name] = losses.astype(np.float32)
        found[name.replace("loss/", "certified_k/")] = np.array([k], dtype=np.int32)
    return found


def label_free(
    whole: np.ndarray, tapped: np.ndarray, labels: SplitLabels, k_whole: int, made_by: MadeBy
) -> dict[str, Any]:
    """Certify the route by its disagreement with the whole pass, or say why it cannot be.

    Args:
        whole: [N, T] of the calibration pictures, C− at its own block.
        tapped: [N, T], scores at the tap.
        labels: of those pictures.
        k_whole: tokens that the whole pass would keep, from the selection split.
    """
    about = {"alpha_label_free": ALPHA, "alpha_labelled": ALPHA, "k_whole": k_whole}
    try:
        made = certify_route(whole, tapped, labels, k_whole, ALPHA, ALPHA, made_by)
    except LabelLeak:
        raise
    except CovtokenError as error:
        return about | {"refused": str(error)}
    return about | made.about | {"k": made.k, "n": made.n, "n_tokens": made.n_tokens, "vacuous": made.vacuous}


def _without_prefix(*args) -> Routed:
    routed = route_through(*args)
    return replace(routed, prefix=torch.zeros_like(routed.prefix))


def _search(width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    bank = torch.randn(REFERENCE_SIZE, width, generator=torch.Generator().manual_seed(0))
    return lambda tokens: (tokens @ bank.T.to(tokens)).amax(dim=-1)
