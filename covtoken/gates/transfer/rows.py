"""Measure the ways of cohorts without a report of gate 5, from committed scores: external and tiny cohorts.

No picture and no mask is opened: an external cohort's maps are those of its one confirmation, a tiny cohort's those of
its gate 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from covtoken.data.external import EXTERNAL
from covtoken.data.readers.volume_cohorts import VOLUMES
from covtoken.evaluation.measure import measure
from covtoken.evaluation.records import RecordedScores, load_scores, records_path, scores_path
from covtoken.paths import project_root

SCORES = ("recommended", "with_head", "density")
WAY_OF = {"carried": "carried", "crossfit": "refitted"}  # column of the confirmation → way of gate 5


def joined_paths(root: Path | None = None) -> dict[str, Path]:
    """Give the committed scores, by cohort, that ``joined_metrics`` reads."""
    root = root or project_root()
    paths = {cohort: records_path(root, cohort, "confirmation") for cohort in EXTERNAL}
    paths |= {cohort: scores_path(root, cohort) for cohort in VOLUMES}
    return {cohort: path for cohort, path in paths.items() if path.exists()}


def joined_metrics(root: Path | None = None) -> dict[str, dict[str, dict]]:
    """Measure both kinds of AUROC, pooled and inside one picture, of C−, C and A, by cohort and metric name.

    Metrics are named as in gate 5's reports. C− has none where membership A stood in for it, as an alarm asked.
    """
    found = {}
    for cohort, path in joined_paths(root).items():
        recorded = load_scores(path)
        if cohort in EXTERNAL:
            names = {f"{score}.{column}": f"{score}.{way}" for score in SCORES for column, way in WAY_OF.items()}
        elif recorded.header["split"] == "carried":
            kept = SCORES[1:] if recorded.header.get("recommended_is") == "A" else SCORES
            names = {score: f"{score}.carried" for score in kept}
        else:
            continue
        found[cohort] = _measured(recorded, names)
    return found


def _measured(recorded: RecordedScores, names: Mapping[str, str]) -> dict[str, dict]:
    maps = {new: recorded.scores[old] for old, new in names.items() if old in recorded.scores}
    return measure(maps, recorded.labels, *recorded.grid, full=(), image=maps).entries()
