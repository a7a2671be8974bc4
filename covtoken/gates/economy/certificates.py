"""Certify scores at a tap on the calibration units, and hold each certificate against the test units and re-splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from covtoken.economy.certificate import (
    by_stratum,
    coverage_interval,
    fewest_units,
    rank_bound,
    resplits,
    share_interval,
    threshold_bound,
    unit_needs,
    unit_thresholds,
)
from covtoken.evaluation.records import Records

ALPHAS = (0.05, 0.1, 0.2)
FORMS = ("rank", "threshold")
DECIDING = "rank.alpha0.1"
CALIBRATION = "calibration/"
SIDES = (CALIBRATION, "")  # how the records' arrays of the calibration and of the test pictures begin


def sides(records: Records, key: str, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Give what each unit with a lesion needs, of the calibration and of the test units: k, or a score threshold."""
    worst = unit_needs if form == "rank" else unit_thresholds
    found = [
        worst(records[f"{side}{form}/{key}"], lesions_of(records, side), records[f"{side}unit"])[1] for side in SIDES
    ]
    return found[0], found[1]


def lesions_of(records: Records, side: str) -> list:
    """List the lesions of a side as the certificate's functions read them."""
    return [_Lesion(int(picture)) for picture in records[f"{side}lesion/picture"]]


def owners_of(records: Records, side: str) -> np.ndarray:
    """List the units of a side that have a lesion, as indices, sorted."""
    return np.unique(records[f"{side}unit"][records[f"{side}lesion/picture"]])


class _Lesion:
    def __init__(self, picture: int) -> None:
        self.picture = picture


def certificate_row(records: Records, key: str, form: str, alpha: float) -> dict[str, Any]:
    """Certify by one form and level: {score, form, alpha, n, m, setting, keep, coverage, law, spread over re-splits}.

    Where n is too small for α the row says so (``vacuous``) and certifies nothing.
    """
    calibration, test = sides(records, key, form)
    n, m = len(calibration), len(test)
    row = {"score": key, "form": form, "alpha": alpha, "n": n, "m": m, "vacuous": n < fewest_units(alpha) or m == 0}
    if row["vacuous"]:
        return row
    by_rank = form == "rank"
    setting = float((rank_bound if by_rank else threshold_bound)(calibration, alpha))
    held = test <= setting if by_rank else test >= setting
    low, high = share_interval(n, alpha, m)
    names = _names(records)
    again = resplits(np.concatenate([calibration, test]), names, alpha, n, form)
    kept = again.setting / records.header["n_tokens"]
    row |= {"setting": setting, "retained": int(held.sum()), "coverage": float(held.mean()), "law": [low, high]}
    row |= {"expected": list(coverage_interval(n, alpha)), "resplit_mean": float(again.coverage.mean())}
    row["resplit"] = [float(np.quantile(again.coverage, q)) for q in (0.025, 0.975)]
    if by_rank:
        row |= {"keep": setting / records.header["n_tokens"], "resplit_keep": [float(kept.min()), float(kept.max())]}
    else:
        shares = (records["scores"].astype(np.float64) >= setting).mean(axis=1)
        row |= {"keep": float(shares.mean()), "pictures": [float(np.quantile(shares, q)) for q in (0.05, 0.95)]}
    return row


def certificate_rows(records: Records) -> list[dict[str, Any]]:
    """Certify every recorded score at its tap in rank form, and the chosen one in threshold form, at all levels."""
    chosen = records.header["chosen"]["key"]
    start = f"{CALIBRATION}rank/"
    keys = sorted(name.removeprefix(start) for name in records.arrays if name.startswith(start))
    rows = [certificate_row(records, key, "rank", alpha) for key, alpha in product(keys, ALPHAS)]
    return rows + [certificate_row(records, chosen, "threshold", alpha) for alpha in ALPHAS]


def strata_rows(records: Records, alpha: float = 0.1) -> list[dict[str, Any]]:
    """Bound small and other lesions apart, in rank form at the chosen tap: {stratum, n, setting or None: vacuous}."""
    key = records.header["chosen"]["key"]
    small = ["small" if flag else "other" for flag in records[f"{CALIBRATION}lesion/small"]]
    lesions, unit = lesions_of(records, CALIBRATION), records[f"{CALIBRATION}unit"]
    found = by_stratum(records[f"{CALIBRATION}rank/{key}"], lesions, unit, small, alpha)
    return [{"stratum": each.name, "n": each.n, "setting": each.setting} for each in found]


def _names(records: Records) -> Sequence[str]:
    """Name the units with a lesion, calibration before test, as hashed in the records."""
    header: Mapping[str, Any] = records.header
    names = []
    for side in SIDES:
        units = header["calibration_units" if side == CALIBRATION else "units"]
        names += [units[int(i)] for i in owners_of(records, side)]
    return names
