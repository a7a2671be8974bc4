"""Tables of what was tried on a selection split: made from the same two splits, in one form beside the gate reports."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import Block
from covtoken.data.cohorts import RECIPE_COHORTS
from covtoken.data.splits import SMALL_COHORT
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.keys import smallest
from covtoken.paths import write_then_rename
from covtoken.protocol.report import provenance, report_path
from covtoken.protocol.scoring import need_lesions
from covtoken.protocol.setting import Setting, open_setting

NOTE = "selection split alone, fitted on the bank split; no test split was looked at"


def open_study(cohort: str, backbone: str = "embedded", **inputs) -> Setting:
    """Open a large cohort and a backbone for a study on its selection split.

    Args:
        cohort: a committed name, or a folder.
        backbone: by name.
        inputs: ``data``, ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: a small cohort has no selection split of its own: all of it is evaluated, by cross-fitting.
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
    """Name the large cohorts whose selection splits choose, each once."""
    return tuple(dict.fromkeys(RECIPE_COHORTS.values()))


def split_features(
    setting: Setting, blocks: Sequence[Block], saliency: bool
) -> tuple[FeatureSet, FeatureSet, SplitLabels]:
    """Extract the bank and selection splits of a large cohort, then read the labels of the latter.

    Raises:
        CovtokenError: one of the splits has no case, or the selection split no lesion.
    """
    cases = setting.cases_of("selection")
    bank, selection = (
        setting.features(each, blocks, attention=(), saliency=saliency) for each in (setting.cases_of("bank"), cases)
    )
    labels = label(cases, setting.cohort, selection.rows, selection.cols)
    need_lesions(labels, setting.cohort, "selection")
    return bank, selection, labels


def content_of(
    schema: str,
    setting: Setting,
    splits: tuple[FeatureSet, FeatureSet, SplitLabels],
    started: float,
    note: str = NOTE,
    **more,
) -> dict[str, Any]:
    """Write a study down as JSON content: cohort, backbone, counts, provenance, and the study's own fields.

    Args:
        schema: name of the form.
        setting: as ``open_study`` gives.
        splits: as ``split_features`` gives.
        started: ``time.perf_counter`` before the work.
        note: what a reader should know of how it was made.
        more: the study's own fields.
    """
    cohort, vit = setting.cohort, setting.vit
    bank, selection, labels = splits
    return {
        "schema": schema,
        "cohort": cohort.name,
        "split": "selection",
        "note": note,
        "backbone": vit.name,
        "n_blocks": vit.n_blocks,
        "picture_size": vit.picture_size,
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
        "provenance": provenance(
            data_fingerprint=setting.fingerprint,
            weights_sha256=vit.weights_sha256,
            seed=0,
            wall_seconds=time.perf_counter() - started,
            threads=torch.get_num_threads(),
        ),
    }


def write_table(content: dict[str, Any], stem: str, *, recorded: bool, root: Path | None = None) -> Path:
    """Write to ``gate_reports/<cohort>/<stem>.json``, or to the ignored ``_run`` folder."""
    path = report_path(content["cohort"], stem, recorded=recorded, root=root)
    with write_then_rename(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def read_table(cohort: str, stem: str, schema: str, command: str, root: Path | None = None) -> dict[str, Any]:
    """A committed table.

    Args:
        schema: that its content must name. command: that records it, for the errors.

    Raises:
        CovtokenError: none is recorded, it is not readable, or of another schema or split.
    """
    path = report_path(cohort, stem, recorded=True, root=root)
    again = f"run `{command} --cohort {cohort} --record`"
    if not path.is_file():
        raise CovtokenError(f"no table at {path}: {again}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CovtokenError(f"{path}: not readable as JSON ({error}); restore it from git") from error
    known = content if isinstance(content, dict) else {}
    if known.get("schema") != schema or known.get("split") != "selection":
        raise CovtokenError(f"{path}: expected schema {schema!r} on the selection split; {again}")
    return content


def read_variants(cohort: str, stem: str, schema: str, command: str, root: Path | None = None) -> dict[str, Any]:
    """A committed table with ``variants``; arguments and errors as ``read_table``, and it must hold some."""
    content = read_table(cohort, stem, schema, command, root)
    if not content.get("variants"):
        raise CovtokenError(f"the table {stem}.json of {cohort} holds no variants: restore it from git")
    return content


def share_of(bank: FeatureSet, n_units: int, key: str) -> FeatureSet:
    """The pictures of the ``n_units`` units with the smallest keyed hashes: blind to everything but their names."""
    wanted = set(smallest(set(bank.units), n_units, key))
    return bank.subset([i for i, unit in enumerate(bank.units) if unit in wanted])
