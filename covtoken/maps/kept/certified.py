"""Certify on a person's folder with masks how many tokens of a picture keep the lesions of a new patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covtoken.backbone.cache import features
from covtoken.backbone.vit import FrozenViT
from covtoken.data.cohorts import open_cohort
from covtoken.data.masks import check_masks
from covtoken.economy.certificate import Certificate, certify, check_level
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.keys import hash_unit
from covtoken.maps.banks import BATCH
from covtoken.maps.kept.own_direction import made_by, named_direction
from covtoken.scores.recommended import direction_maps


@dataclass(frozen=True)
class Certified:
    """A certificate with what it was calibrated on.

    Attributes:
        with_lesion: calibration units that have a lesion; the others say nothing about lesions.
        pictures: of all calibration units.
        fed: units left out since their pictures fed the direction.
        kept: mean share of tokens that stay in the calibration pictures.
    """

    certificate: Certificate
    with_lesion: int
    pictures: int
    fed: tuple[str, ...]
    kept: float


def certify_folder(
    folder: str | Path,
    direction: str,
    vit: FrozenViT,
    alpha: float = 0.1,
    form: str = "rank",
    progress: bool = False,
    **options,
) -> Certified:
    """Calibrate a certificate on the units of a folder that did not feed the direction.

    Args:
        folder: holds index.csv with masks; the name of a committed cohort takes its calibration split.
        direction: ``ultrasound`` or ``ct``, which are shipped, or a file of ``covtoken fit``.
        vit: the backbone that the direction was fitted to.
        alpha, form: as ``economy.certificate.certify`` takes them.
        progress: show a bar on stderr where that is a terminal.
        options: of the folder's reader, such as ``modality``.

    Raises:
        CovtokenError: masks that cannot be read or show nothing, a direction of another backbone, or too few units with
            a lesion for this α, said before any picture is scored.
    """
    scorer = named_direction(direction, vit)
    cohort = open_cohort(folder, **options)
    known = set(scorer.directions[None].header["units"])
    fed = {unit for unit in cohort.units if hash_unit(unit) in known}
    cases = [case for case in cohort.cases if case.unit not in fed and case.name in cohort.masks]
    if not cases:
        raise CovtokenError(
            f"{cohort.name}: all {len(cohort.units)} units fed the direction {direction}, so none can calibrate: "
            "certify on other patients"
        )
    check_masks(cohort, cases)
    labels = label(cases, cohort, vit.rows, vit.cols)
    n = _with_lesion(labels)
    check_level(n, alpha)
    found = features(cases, vit, [scorer.recipe.block], batch=BATCH, progress=progress, cache=False)
    scores = direction_maps(scorer.recipe, scorer.directions[None], found)
    certificate = certify(scores, labels, alpha, made_by(scorer.directions[None]), form)
    kept = certificate.rho if certificate.k is not None else float((scores >= certificate.threshold).mean())
    return Certified(certificate, n, len(cases), tuple(sorted(fed)), kept)


def _with_lesion(labels: SplitLabels) -> int:
    pictures: Sequence[int] = [lesion.picture for lesion in labels.lesions]
    return len(np.unique(labels.unit[pictures])) if len(pictures) else 0
