"""Tables of what was tried on a selection split: made from the same two splits, in one form beside the gate reports."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from covtoken.backbone.cache import features
from covtoken.backbone.feature_set import FeatureSet
from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Cohort
from covtoken.data.cohorts import data_fingerprint
from covtoken.data.splits import load_splits
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels, label
from covtoken.gates.report import provenance, report_path
from covtoken.gates.scoring import in_split, need_lesions
from covtoken.paths import write_then_rename

NOTE = "selection split alone, fitted on the bank split; no test split was looked at"


def split_features(
    cohort: Cohort, vit: FrozenViT, blocks: Sequence, saliency: bool, cache: bool, progress: bool
) -> tuple[FeatureSet, FeatureSet, SplitLabels]:
    """Features of a large cohort's bank and selection splits, and the labels of the latter.

    Raises:
        CovtokenError: one of the splits has no case, or the selection split no lesion.
    """
    splits = load_splits(cohort)
    cases = in_split(cohort, splits, "selection")
    bank, selection = (
        features(of, vit, blocks, saliency=saliency, cache=cache, progress=progress)
        for of in (in_split(cohort, splits, "bank"), cases)
    )
    labels = label(cases, cohort, selection.rows, selection.cols)
    need_lesions(labels, cohort, "selection")
    return bank, selection, labels


def content_of(
    schema: str, cohort: Cohort, vit: FrozenViT, splits: tuple, started: float, note: str = NOTE, **more
) -> dict[str, Any]:
    """A table ready to be written: what it is of, how much, and where it comes from, with ``more`` of its own.

    Args:
        splits: as ``split_features`` gives. started: ``time.perf_counter`` before the work.
    """
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
            data_fingerprint=data_fingerprint(cohort),
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
