"""Studies: tables of variants in one form beside the gate reports, tried on a selection split, or seen by a test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import Block
from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.data.splits import SMALL_COHORT
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.keys import smallest
from covtoken.paths import write_then_rename
from covtoken.protocol.chain import digest_of
from covtoken.protocol.report import report_path
from covtoken.protocol.scoring import need_lesions
from covtoken.protocol.setting import Setting, open_setting

TIED = 0.002  # of the mean AUROC
NOTE = "selection split alone, fitted on the bank split; no test split was looked at"
Splits = tuple[FeatureSet, FeatureSet, SplitLabels]  # bank, selection, and the latter's labels


@dataclass(frozen=True)
class Study:
    """A table of variants beside the gate reports.

    Attributes:
        stem: of the table's file.
        schema: named by the content.
        command: records the table; named by errors.
        rows: key of the content that must hold rows.
        split: that the table is about.
    """

    stem: str
    schema: str
    command: str
    rows: str = "variants"
    split: str = "selection"

    def write(self, content: dict[str, Any], *, recorded: bool, root: Path | None = None) -> Path:
        """Write to ``gate_reports/<cohort>/<stem>.json`` with a digest, or to the ignored ``_run`` folder."""
        path = report_path(content["cohort"], self.stem, recorded=recorded, root=root)
        content = content | {"digest": _digest(content)}
        with write_then_rename(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
        return path

    def read(self, cohort: str, root: Path | None = None) -> dict[str, Any]:
        """Read a committed table.

        Raises:
            CovtokenError: a table that is missing, not readable, empty, edited, or of another schema or split.
        """
        path = report_path(cohort, self.stem, recorded=True, root=root)
        again = f"run `{self.command} --cohort {cohort} --record`"
        if not path.is_file():
            raise CovtokenError(f"no table at {path}: {again}")
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise CovtokenError(f"{path}: not readable as JSON ({error}); restore it from git") from error
        known = content if isinstance(content, dict) else {}
        if known.get("schema") != self.schema or known.get("split") != self.split:
            raise CovtokenError(f"{path}: expected schema {self.schema!r} on the {self.split} split; {again}")
        if not content.get(self.rows):
            raise CovtokenError(f"the table {self.stem}.json of {cohort} holds no {self.rows}: restore it from git")
        if "digest" in content and content["digest"] != _digest(content):
            raise CovtokenError(f"{path}: edited by hand, its digest does not fit; restore it from git, or {again}")
        return content


def _digest(content: dict[str, Any]) -> str:
    return digest_of({name: value for name, value in content.items() if name != "digest"})


def open_study(cohort: str, backbone: str = "embedded", **inputs) -> Setting:
    """Open a large cohort and a backbone for a study on its selection split.

    Args:
        inputs: ``data``, ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: a small cohort, which is cross-fitted as a whole and has no selection split.
    """
    setting = open_setting(cohort, None, backbone, **inputs)
    n_units = len(setting.cohort.units)
    if n_units < SMALL_COHORT:
        raise CovtokenError(
            f"{setting.cohort.name} has {n_units} units, fewer than {SMALL_COHORT}: it is evaluated as a whole and "
            f"chooses nothing. Choose on {' or '.join(recipe_cohorts())}"
        )
    return setting


def recipe_cohorts() -> tuple[str, ...]:
    """Name the large cohorts whose selection splits choose recipes."""
    return tuple(dict.fromkeys(RECIPE_COHORTS.values()))


def split_features(setting: Setting, blocks: Sequence[Block], saliency: bool, attention: Sequence[int] = ()) -> Splits:
    """Extract the bank and selection splits of a large cohort, then read the labels of the latter.

    Raises:
        CovtokenError: a split without cases, or a selection split without lesions.
    """
    bank_cases, cases = setting.cases_of("bank"), setting.cases_of("selection")
    options = {"attention": attention, "saliency": saliency}
    bank, selection = (setting.features(each, blocks, **options) for each in (bank_cases, cases))
    labels = label(cases, setting.cohort, selection.rows, selection.cols)
    need_lesions(labels, setting.cohort, "selection")
    return bank, selection, labels


def content_of(
    study: Study, setting: Setting, splits: Splits, started: float, note: str = NOTE, **more
) -> dict[str, Any]:
    """Write a study down as JSON content: cohort, backbone, counts, provenance, and the study's own fields ``more``.

    Args:
        splits: see ``split_features``.
        started: ``time.perf_counter`` before the work.
        note: tells a reader how the table was made.
    """
    cohort, vit = setting.cohort, setting.vit
    bank, selection, labels = splits
    about = {"schema": study.schema, "cohort": cohort.name, "split": "selection", "note": note}
    model = {"backbone": vit.name, "n_blocks": vit.n_blocks, "picture_size": vit.picture_size}
    return {
        **about,
        **model,
        "curated": cohort.curated,
        "n": {
            "bank_units": len(set(bank.units)),
            "bank_images": len(bank),
            "units": len(labels.unit_names),
            "images": len(selection),
            "tokens": int((~labels.ignore).sum()),
            "lesions": len(labels.lesions),
        },
        **more,
        "provenance": setting.provenance(started),
    }


def ranked(
    rows: list[dict[str, Any]],
    order: Callable[[dict[str, Any]], tuple],
    may_win: Callable[[dict[str, Any]], bool] = lambda row: True,
) -> list[dict[str, Any]]:
    """Rank variants: ties with the best by ``order``, then the rest by mean; each row gets ``tied``.

    Args:
        rows: variants, each with ``mean``.
        order: sorts tied variants, the cheapest first.
        may_win: false for variants that are there for comparison alone.
    """
    best = max(row["mean"] for row in rows if may_win(row))
    rows = [row | {"tied": bool(may_win(row)) and row["mean"] >= best - TIED} for row in rows]
    return sorted(rows, key=lambda row: (0, *order(row)) if row["tied"] else (1, -row["mean"]))


def from_the_usual(row: dict[str, Any]) -> tuple[float, float]:
    """Measure how far a variant's ridge lies from 1, in ratio, and its quantile from 0.9."""
    return round(abs(math.log(row["ridge"])), 9), round(abs(row["quantile"] - 0.9), 9)


def share_of(bank: FeatureSet, n_units: int, key: str) -> FeatureSet:
    """Keep the bank's pictures of the ``n_units`` units with the smallest keyed hashes: blind to all but names."""
    wanted = set(smallest(set(bank.units), n_units, key))
    return bank.subset([i for i, unit in enumerate(bank.units) if unit in wanted])
