"""Score the ways of gate 5 with further backbones, in a record of its own that decides nothing.

A large cohort shows its selection split, so that no test split is looked at; a small one has a single split, and the
look is logged. Recipes are the locked ones, moved to the same share of another backbone's depth: none was chosen there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from covtoken.backbone.weights import check_backbone_name, load_backbone
from covtoken.data.case import Cohort
from covtoken.data.cohorts import PICTURE_SIZE, RECIPE_COHORTS
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label
from covtoken.evaluation.measure import measure
from covtoken.gates.transfer.ways import all_maps, sources_of, ways_of, with_the_worse
from covtoken.names import WAYS
from covtoken.protocol import locks
from covtoken.protocol.looks import log_look, refuse_uncommitted
from covtoken.protocol.plan import METHOD_PARAMETERS, Plan
from covtoken.protocol.planning import at_this_depth
from covtoken.protocol.report import GateReport, report_path, with_interval, write_report
from covtoken.protocol.scoring import need_lesions
from covtoken.protocol.setting import SEED, Setting, open_setting

GATE = "backbones"
TITLE = "Transfer by backbone"
QUESTION = "Do the ways of gate 5 say the same on another backbone, and what do random weights reach?"
SCORES = ("recommended", "with_head", "density", "attention_best")
KINDS = ("auroc", "image_auroc")
BACKBONES = ("embedded", "random:vit_small_patch14_dinov2")  # the weights at hand, and their floor
HU_BACKBONES = ("random:meddinov3",)  # of CT in Hounsfield units


def run_and_write(
    cohort: str | Cohort,
    backbones: Sequence[str] = (),
    *,
    n_units: int | None = None,
    record: bool = False,
    **inputs,
) -> tuple[GateReport, Path]:
    """Score a cohort with every backbone, log the look and write the record.

    Args:
        cohort: a committed name, a folder with ``index.csv``, or a Cohort.
        backbones: names (none: ``BACKBONES``, and ``HU_BACKBONES`` where the cohort is CT in Hounsfield units).
        n_units: keep so many units of each split, for untuned backbones alone (None: all).
        record: write the committed file.
        inputs: ``data``, ``name``, ``cache`` and ``progress`` of ``open_setting``.

    Raises:
        CovtokenError: unknown names, data or weights that are missing, code that no commit holds.
    """
    for name in backbones:
        check_backbone_name(name)
    if record:
        refuse_uncommitted()
    started = time.perf_counter()
    lock = locks.lock_digest(locks.THRESHOLDS)[:16]
    first = open_setting(cohort, "selection", (backbones or BACKBONES)[0], **inputs)
    if not backbones:
        backbones = (*BACKBONES, *(HU_BACKBONES if first.cohort.modality == "ct" else ()))
    first.read_pictures()  # what cannot be read is found before a label is looked at
    metrics, about, rows = {}, {}, []
    for name in backbones:
        vit = first.vit if name == first.vit.name else load_backbone(name, PICTURE_SIZE)
        setting = replace(first, vit=vit).limited(None if name == "embedded" else n_units)
        try:
            found, about[name] = score(setting)
        except CovtokenError as error:
            if name in (first.vit.name, *BACKBONES):
                raise
            about[name] = {"label": vit.label, "blank": {"all": str(error)}}
            continue
        metrics |= {f"{metric}.{name}": entry for metric, entry in found.items()}
        rows += cells(first.cohort.name, name, found)
    report = first.report(
        *(GATE, TITLE, QUESTION),
        started=started,
        parameters={
            "picture_size": first.vit.picture_size,
            "seed": SEED,
            **METHOD_PARAMETERS,
            "curated": first.cohort.curated,
            "modality": first.cohort.modality,
            "n_units": n_units,
            "backbones": about,
        },
        thresholds={},
        metrics=metrics,
        checks={},
        decision="NO-VERDICT",
        chart_data={"cells": rows},
    )
    report = replace(report, backbone=", ".join(backbones))
    report = log_look(report, lock, recorded=record)
    return report, write_report(report, report_path(report.cohort, GATE, recorded=record))


def score(setting: Setting) -> tuple[dict[str, dict], dict[str, Any]]:
    """Score a setting in every way that it has; return metrics named as in gate 5, and what was done.

    Raises:
        CovtokenError: no lock to take recipes from, pictures that the backbone cannot read, no lesions.
    """
    sources = sources_of(setting)
    found = ways_of(setting, usual_plan(setting), sources)
    maps = all_maps(found.ways, len(found.cases), SCORES)
    labels = label(found.cases, setting.cohort, *setting.grid)
    need_lesions(labels, setting.cohort, setting.split)
    maps, worse = with_the_worse(maps, labels, sources)
    maps = {name: values for name, values in maps.items() if name.rpartition(".")[2] in WAYS}
    vit = setting.vit
    about = {
        "label": vit.label,
        "weights_sha256": vit.weights_sha256,
        "elsewhere": worse or setting.bank_cohort,
        "banks": {way: origin for way, (origin, _) in found.banks.items()},
        "blank": found.blank,
        "misfits": found.misfits,
    }
    return measure(maps, labels, *setting.grid, full=(), image=maps).entries(), about


def usual_plan(setting: Setting) -> Plan:
    """Take the locked plan of the cohort, else of its modality's recipe cohort, at this backbone's depth.

    Raises:
        CovtokenError: neither is locked.
    """
    names = (setting.cohort.name, RECIPE_COHORTS.get(setting.cohort.modality, "busi"))
    for name in names:
        entry = locks.entry(locks.THRESHOLDS, name, 1)
        if entry is not None:
            plan = Plan.from_json(entry)
            return plan if entry["backbone"] == setting.vit.name else at_this_depth(plan, setting.vit)
    raise CovtokenError(f"no plan of {' or '.join(names)} is locked: run `covtoken lock thresholds` for {names[-1]}")


def cells(cohort: str, backbone: str, metrics: dict[str, dict]) -> list[dict]:
    """List cells of the heat map: {cohort, backbone, way, score, kind, n_units, value, lo, hi}."""
    drawn = []
    for kind, name, way in product(KINDS, SCORES, WAYS):
        entry = metrics.get(f"{kind}.{name}.{way}")
        if entry is not None and entry["value"] is not None:
            place = {"cohort": cohort, "backbone": backbone, "way": way, "score": name, "kind": kind}
            drawn.append(place | {"n_units": entry["n_units"]} | with_interval(entry))
    return drawn
