"""Gate 0 checks the substrate of every later number. It chooses nothing and scores no label.

Two extractions agree, pixels land in their tokens, splits are disjoint, a bank is intact, the leak guard trips. Each
can be broken on purpose (``DEFECTS``), and the decision must then be NO-GO: a check that cannot fail proves nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from covtoken.backbone.cache import features
from covtoken.data.case import Case, Cohort
from covtoken.data.near_duplicates import CORRELATION, drawn
from covtoken.data.splits import parts
from covtoken.gates.substrate.agreement import BATCH, BOUNDS, OTHER_BATCH, agreement_rows
from covtoken.gates.substrate.checks import BANK_TOKENS, bank_checks, guard_checks, split_checks
from covtoken.gates.substrate.geometry import OFFSET_BOUND, PLACES, SEED, SHAPES, Geometry, follow_marks
from covtoken.protocol.report import GateRun, check_defect, metric
from covtoken.protocol.setting import Setting

TITLE = "The substrate"
QUESTION = (
    "Do two extractions agree, is the pixel–token geometry right, are splits disjoint, is the bank intact, and does "
    "the leak guard trip?"
)
N_PICTURES = 8  # compared between extractions; as many feed the bank and the guard
OWN_PICTURES = 2  # of the cohort, in which marks are planted too
# Planted defect → the checks that must turn.
DEFECTS = {
    "noisy_extraction": ("agreement.same", "agreement.batch_size", "agreement.threads"),
    "transposed_tokens": ("geometry.picture", "geometry.paths_agree", "geometry.first_block"),
    "shifted_mask": ("geometry.offset",),
    "unit_in_two_splits": ("splits.disjoint_by_unit",),
    "duplicate_across_splits": ("splits.no_near_duplicates",),
    "corrupted_bank": ("bank.loads_intact",),
    "guard_off": ("guard.registered_mask_refused", "guard.labels_refused"),
}


def run(setting: Setting, plan: None = None, *, defect: str | None = None) -> GateRun:
    """Run gate 0 from pixels.

    Args:
        setting: cohort and backbone; every split is looked at.
        plan: unused, for nothing is chosen or scored.
        defect: plant one of ``DEFECTS``, to test that the decision turns.

    Raises:
        CovtokenError: an unknown defect, a picture that cannot be read.
    """
    check_defect(defect, DEFECTS)
    started = time.perf_counter()
    opened, vit, progress = setting.cohort, setting.vit, setting.progress
    middle = vit.n_blocks // 2
    checks, pairs = split_checks(opened, defect)  # before minutes of work
    cases = sample(opened.cases, N_PICTURES)
    agreement = agreement_rows(cases, vit, noisy=defect == "noisy_extraction", progress=progress)
    for name, bound in BOUNDS.items():
        checks[f"agreement.{name}"] = all(r["value"] <= bound for r in agreement if r["comparison"] == name)
    planted = {"transposed": defect == "transposed_tokens", "shifted": defect == "shifted_mask"}
    geometry = follow_marks(vit, middle, cases[:OWN_PICTURES], **planted, progress=progress)
    decisive = ("mask", "mask_other_grid", "picture", "paths_agree", "first_block")
    checks |= {f"geometry.{name}": geometry.right[name] == 1 for name in decisive}
    checks["geometry.offset"] = geometry.offset <= OFFSET_BOUND
    bank_cases, bank_units = _bank_part(opened)
    bank_features = features(sample(bank_cases, N_PICTURES), vit, [middle], progress=progress)
    checks |= bank_checks(bank_features, middle, bank_units, corrupted=defect == "corrupted_bank")
    checks |= guard_checks(opened, bank_features, middle, guard_off=defect == "guard_off")
    same = "the same picture twice (pictures drawn from independent seeds)"
    alike = same if drawn(opened) else f"thumbnail correlation > {CORRELATION}"
    report = setting.report(
        *(0, TITLE, QUESTION),
        started=started,
        parameters={
            **{"picture_size": vit.picture_size, "middle": middle, "seed": SEED},
            **{"batch": BATCH, "other_batch": OTHER_BATCH, "shapes": [list(shape) for shape in SHAPES]},
            "marks_per_picture": len(PLACES),
            "bank_tokens": BANK_TOKENS,
            "near_duplicate": alike,
            "look_alike_pairs": len(pairs),
            "parts": sorted(set(parts(opened).values())) if checks["splits.file_unedited"] else [],
            "curated": opened.curated,
        },
        thresholds={
            **{f"agreement.{name}": bound for name, bound in BOUNDS.items()},
            "geometry.offset": OFFSET_BOUND,
            "reason": "fixed by floating-point precision and by what a token is; nothing is chosen on data",
        },
        metrics=_metrics(agreement, geometry, pairs, cases, setting),
        checks=checks,
        decision=decide(checks),
        chart_data={
            "agreement": agreement,
            "marks": geometry.panels,
            "look_alikes": [{"a": a, "b": b, "correlation": round(r, 4)} for a, b, r in pairs[:20]],
        },
    )
    return GateRun(report)


def decide(checks: dict[str, bool]) -> str:
    """Decide GO if every check holds, else NO-GO."""
    return "GO" if all(checks.values()) else "NO-GO"


def sample(cases: Sequence[Case], n: int) -> list[Case]:
    """Take the ``n`` cases with the smallest hash of their name: seeded, and blind to everything else."""
    return sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).hexdigest())[:n]


def _bank_part(cohort: Cohort) -> tuple[tuple[Case, ...], set[str]]:
    """Give the cases and units that may feed the first bank: the bank split, or all folds but the first."""
    part_of = parts(cohort)
    has_bank = "bank" in part_of.values()
    units = {unit for unit, part in part_of.items() if (part == "bank" if has_bank else part != "fold 0")}
    return cohort.subset(units), units


def _metrics(
    agreement: list[dict], geometry: Geometry, pairs: list, cases: list[Case], setting: Setting
) -> dict[str, dict]:
    cohort, vit = setting.cohort, setting.vit
    middle, n_tokens = vit.n_blocks // 2, vit.rows * vit.cols
    metrics = {}
    for row in agreement:
        place = {middle: "middle", vit.n_blocks: "final"}.get(row["block"])
        if place:
            n = row["n"]
            units = len({case.unit for case in cases[:n]})
            metrics[f"agreement.{row['comparison']}.{place}"] = metric(row["value"], None, units, n, n * n_tokens)
    marks = (geometry.n_marks, geometry.n_pictures, geometry.n_pictures * n_tokens)
    metrics |= {f"geometry.{name}": metric(share, None, *marks) for name, share in geometry.right.items()}
    metrics["geometry.offset"] = metric(geometry.offset, None, *marks)
    strongest = pairs[0][2] if pairs else float("nan")
    metrics["splits.strongest_look_alike"] = metric(strongest, None, len(cohort.units), len(cohort.cases), 0)
    return metrics
