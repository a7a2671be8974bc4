"""Find the direction that scores a person's pictures, and read what says how many tokens stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covtoken.backbone.cache import features
from covtoken.backbone.vit import FrozenViT
from covtoken.economy.certificate import Certificate, MadeBy, load_certificate
from covtoken.economy.keep import budget
from covtoken.errors import CovtokenError
from covtoken.maps import prepare
from covtoken.maps.banks import Scorer
from covtoken.maps.shipped import SHIPPED
from covtoken.scores.recipe import recommended
from covtoken.scores.recommended import direction_of
from covtoken.subspace.direction import Direction

SCORE = "recommended, σ 0"


@dataclass(frozen=True)
class Keep:
    """How many tokens stay: by exactly one of the fields, as ``kept_tokens`` takes them."""

    ratio: float | None = None
    threshold: float | None = None
    k: int | None = None

    @property
    def words(self) -> str:
        """Say it for records and drawings."""
        given = {"keep": self.ratio, "threshold": self.threshold, "k": self.k}
        return ", ".join(f"{name} {value:.6g}" for name, value in given.items() if value is not None)

    def as_budget(self) -> dict[str, Any]:
        """Give the keyword of ``kept_tokens`` and ``Stage``."""
        return {name: value for name, value in vars(self).items() if value is not None}


def keep_of(ratio: float | None, certificate: Path | None) -> tuple[Keep, Certificate | None]:
    """Read a keep ratio or a certificate, one of the two.

    Raises:
        CovtokenError: none or both are given, a ratio out of range, or a file that is no certificate.
    """
    if (ratio is None) == (certificate is None):
        raise CovtokenError("say how many tokens stay: either --keep, such as .25, or --certificate FILE")
    if certificate is None:
        budget(1, ratio)  # refuses what is no ratio
        return Keep(ratio=ratio), None
    document = load_certificate(certificate)
    if document.form == "threshold":
        return Keep(threshold=document.threshold), document
    return Keep(k=document.k), document


def named_direction(name: str, vit: FrozenViT) -> Scorer:
    """Load a shipped direction or a file of ``covtoken fit``. Raises CovtokenError where it does not fit."""
    source = prepare.of_shipped(name, "as asked") if name in SHIPPED else prepare.of_file(name)
    return source.fit(vit, False)


def made_by(direction: Direction) -> MadeBy:
    """Name what makes the scores that a certificate is about."""
    return MadeBy.from_header(direction.header, SCORE)


def check_certificate(certificate: Certificate | None, scorer: Scorer, vit: FrozenViT) -> None:
    """Refuse a certificate of another direction, or scores by several directions, for which none can hold."""
    if certificate is None:
        return
    if set(scorer.directions) != {None}:
        raise CovtokenError(
            "a certificate holds for the direction that it was calibrated with, and here the folder is its own bank: "
            "add --direction, with the direction that covtoken certify was given"
        )
    certificate.check_fits(made_by(scorer.directions[None]))
    n_tokens = vit.rows * vit.cols
    if certificate.n_tokens != n_tokens:
        raise CovtokenError(f"the certificate is of pictures of {certificate.n_tokens} tokens, these have {n_tokens}")


def one_direction(source: prepare.Source, prepared: prepare.Prepared, vit: FrozenViT, progress: bool) -> Direction:
    """Give one direction for all pictures; of a folder that is its own bank, that of the whole folder."""
    if source.bank != prepare.ITSELF:
        scorer = source.fit(vit, progress)
        return scorer.directions[None]
    recipe = recommended(vit.n_blocks)
    cases = prepare.bank_of(prepared, prepare.units_of(prepared))
    blocks = list(dict.fromkeys([recipe.block, recipe.settings.target_block]))
    return direction_of(recipe, features(cases, vit, blocks, progress=progress, cache=False))
