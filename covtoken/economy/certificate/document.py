"""Hold a certificate of lesion retention, and save, load and refuse it like the bank or direction it was made with."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from covtoken.economy.certificate.label_free import is_vacuous
from covtoken.economy.certificate.strata import Stratum
from covtoken.errors import CovtokenError
from covtoken.keys import hash_unit
from covtoken.paths import write_then_rename

FORMS = ("rank", "threshold", "expected risk", "learn-then-test", "route")


@dataclass(frozen=True)
class MadeBy:
    """What made the scores; a certificate holds for no other."""

    score: str  # name, with pooling and smoothing where it has any
    backbone: str
    weights_sha256: str
    preprocessing: str
    precision: str
    block: int | str  # that is scored, 1 … L or "norm"
    bank: str  # content_sha256 of the bank or direction

    @classmethod
    def from_header(cls, header: Mapping[str, Any], score: str) -> MadeBy:
        """Read the header of a TokenBank or a Direction. Raises CovtokenError if a field is missing."""
        names = {field.name: field.name for field in fields(cls)} | {"bank": "content_sha256"}
        del names["score"]
        if missing := sorted(set(names.values()) - header.keys()):
            raise CovtokenError(f"the header lacks {', '.join(missing)}: give that of a TokenBank or a Direction")
        return cls(score, **{name: header[key] for name, key in names.items()})


@dataclass(frozen=True)
class Certificate:
    """A promise about the lesions of a new unit, at one setting.

    Attributes:
        alpha: share of units that may be lost, or the bound of the expected loss.
        n: calibration units.
        form: one of ``FORMS``; "threshold" fixes a score threshold, the others a number of tokens.
        n_tokens: T of a picture.
        k: tokens kept of each picture, 1 … T; None in threshold form.
        threshold: scores ≥ it are kept; None in all other forms.
        strata: the bounds by organ, modality or size.
        made_by: what scored the tokens.
        calibration: ``calibration_fingerprint``.
        about: JSON values of a form's own: delta and n_ratios; or both alphas, k_whole, share_lost of a route.

    Raises:
        CovtokenError: a field out of range.
    """

    alpha: float
    n: int
    form: str
    n_tokens: int
    k: int | None
    threshold: float | None
    strata: tuple[Stratum, ...]
    made_by: MadeBy
    calibration: str
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise CovtokenError(f"form {self.form!r}: expected one of {', '.join(FORMS)}")
        if not 0 < self.alpha < 1 or self.n < 1:
            raise CovtokenError(f"alpha = {self.alpha}, n = {self.n}: expected alpha in (0, 1) and n ≥ 1")
        by_threshold = self.form == "threshold"
        if (self.k is None) != by_threshold or (self.threshold is None) == by_threshold:
            raise CovtokenError(f"k = {self.k}, threshold = {self.threshold}: form {self.form!r} has the other one")
        if self.k is not None and not 1 <= self.k <= self.n_tokens:
            raise CovtokenError(f"k = {self.k}: expected 1 … {self.n_tokens}, the tokens of a picture")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise CovtokenError(f"threshold = {self.threshold}: expected a finite score, so that keeping can be strict")

    @property
    def rho(self) -> float | None:
        """Give the keep ratio k/T; None in threshold form."""
        return None if self.k is None else self.k / self.n_tokens

    @property
    def vacuous(self) -> bool:
        """Say whether a route keeps so many tokens that nothing is gained by its promise."""
        return self.form == "route" and is_vacuous(self.k, self.n_tokens)

    @property
    def digest(self) -> str:
        """Compute the sha256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, allow_nan=False).encode()).hexdigest()

    @property
    def content(self) -> dict[str, Any]:
        """Give the JSON content of a file that ``load_certificate`` reads, digest included."""
        return json.loads(json.dumps(asdict(self), allow_nan=False)) | {"digest": self.digest}

    def check_fits(self, made_by: MadeBy) -> None:
        """Refuse scores of another bank, backbone or block, naming each field that differs."""
        came = asdict(made_by)
        wrong = [
            f"{name}: expected {value!r}, found {came[name]!r}"
            for name, value in asdict(self.made_by).items()
            if came[name] != value
        ]
        if wrong:
            raise CovtokenError(
                f"this certificate does not fit ({'; '.join(wrong)}): score with what it was calibrated on, or "
                "calibrate a new certificate"
            )

    def statement(self, n_kept: int | None = None) -> str:
        """Say in one line what is promised of a picture, and in a second one what is not.

        Args:
            n_kept: tokens of this picture that reach the threshold; needed in threshold form only.
        """
        kept = self.k if n_kept is None else n_kept
        if kept is None:
            raise CovtokenError("give n_kept: in threshold form each picture keeps its own number of tokens")
        sure, held = f"{1 - self.alpha:.6g}", f"marginal, n = {self.n}"
        every = f"every lesion retained with probability ≥ {sure}"
        promise = {
            "expected risk": f"expected share of a unit's lesion tokens that is lost ≤ {self.alpha:.6g} ({held})",
            "learn-then-test": f"expected share of a unit's lesion tokens that is lost ≤ {self.alpha:.6g}, with "
            f"confidence {1 - self.about.get('delta', 0):.6g} over calibration sets (n = {self.n})",
            "route": f"{every}, over units with and without lesions ({held})",
        }.get(self.form, f"{every} ({held})")
        empty = "vacuous, nearly all tokens stay: " if self.vacuous else ""
        return f"{empty}{kept} of {self.n_tokens} tokens kept; {promise}\n{self.limits}"

    @property
    def limits(self) -> str:
        """Give the sentence on what holds and what does not."""
        over = "calibration sets and new units" if self.form != "learn-then-test" else "new units"
        of = "" if self.form == "route" else " with a lesion"
        return (
            f"This holds on average over {over}{of} that are exchangeable with the calibration units, not for a chosen "
            "picture, patient or kind of lesion; calibration used labels, the score did not."
        )

    def save(self, path: Path) -> Path:
        """Write the certificate to one JSON file, or nothing."""
        path = Path(path)
        with write_then_rename(path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        return path


def load_certificate(path: Path) -> Certificate:
    """Read a certificate. Raises CovtokenError, with the path, if missing, damaged, edited or no certificate."""
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CovtokenError(f"{path}: no such certificate; `covtoken certify FOLDER` makes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CovtokenError(f"{path}: not a certificate ({error}); calibrate it again") from error
    expected = {field.name for field in fields(Certificate)} | {"digest"}
    if not isinstance(content, dict) or content.keys() != expected:
        came = ", ".join(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise CovtokenError(
            f"{path}: not a certificate: expected the fields {', '.join(sorted(expected))}, came {came}; calibrate it "
            "again"
        )
    digest = content.pop("digest")
    try:
        strata = tuple(Stratum(**stratum) for stratum in content["strata"])
        certificate = Certificate(**content | {"strata": strata, "made_by": MadeBy(**content["made_by"])})
        found = certificate.digest
    except (CovtokenError, TypeError, ValueError) as error:
        raise CovtokenError(f"{path}: edited or damaged: {error}; restore it or calibrate it again") from error
    if found != digest:
        raise CovtokenError(
            f"{path}: edited or damaged: content is {found[:12]}, its digest says {str(digest)[:12]}; restore it or "
            "calibrate it again"
        )
    return certificate


def calibration_fingerprint(units: Iterable[str], values: Iterable[float]) -> str:
    """Compute the sha256 over hashed units and their values, the same for any order of units."""
    pairs = sorted([hash_unit(str(unit)), float(value)] for unit, value in zip(units, values, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
