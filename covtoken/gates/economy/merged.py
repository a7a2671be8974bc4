"""Ask which lesions outlive token merging, by schedule and speed-up: a rival under the same retention rule.

A merged lesion token survives where at least half of its cluster is lesion, a lesion where at least half of its tokens
do (as in gate 3). The schedule is chosen on the selection split at ``WANTED`` times fewer FLOPs, then the speed-up is
raised as long as ``SHARE`` of all lesions survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from covtoken.backbone.vit import FrozenViT
from covtoken.data.case import Case
from covtoken.economy.keep import kept_counts, retained
from covtoken.economy.merge_schedules import check_can_merge, schedules_for
from covtoken.economy.merging import merge_planned, survives
from covtoken.economy.routing import batches
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import SplitLabels
from covtoken.gates.economy.choice import SHARE, WANTED, Costs
from covtoken.leak_guard import construction

SCHEDULES = ("equal", "from 3", "at once after 3")
STEP = 0.05  # between the speed-ups that are tried
HIGHEST = 3.0
MERGED_AT = "merged_at/"  # how the records name the lesions that survive at a net speed-up
CURVE = (1.3, 1.55, 1.85, 2.25, 2.5, 3.0)  # speed-ups of the chart


class MergedLesions:
    """Lesions that outlive merging on one side's pictures; each budget is run once."""

    def __init__(self, vit: FrozenViT, cases: Sequence[Case], labels: SplitLabels, costs: Costs) -> None:
        self.vit, self.labels, self.costs = vit, labels, costs
        with_lesion = sorted({lesion.picture for lesion in labels.lesions})
        self.rows = {picture: row for row, picture in enumerate(with_lesion)}
        self.cases = [cases[picture] for picture in with_lesion]
        self.survive = cache(self._survive)

    def _survive(self, schedule: str, flops: int) -> np.ndarray | None:
        try:
            planned = schedules_for(self.vit, flops).get(schedule)
        except CovtokenError:  # no schedule reaches the budget
            return None
        if planned is None:
            return None
        clusters = []
        for _, images, _ in batches(self.cases, self.vit):
            with construction("merging"):
                clusters.append(merge_planned(self.vit, images, planned).cluster.cpu().numpy())
        alive = np.zeros(self.labels.lesion.shape, dtype=bool)
        held = list(self.rows)
        alive[held] = survives(np.concatenate(clusters), self.labels.lesion[held])
        sizes = np.array([len(lesion.tokens) for lesion in self.labels.lesions])
        return retained(kept_counts(alive, self.labels.lesions), sizes)

    def at(self, schedule: str, speedup: float) -> np.ndarray | None:
        """Mark the lesions [L] that survive at a net speed-up; None where the schedule cannot reach it."""
        return self.survive(schedule, int(self.costs.plain / speedup))

    def curve(self, schedule: str) -> dict[str, np.ndarray]:
        """Mark the lesions [L] that survive at each speed-up of the chart that the schedule reaches, uint8 by name."""
        held = {f"{MERGED_AT}{speedup:g}": self.at(schedule, speedup) for speedup in CURVE}
        return {name: marks.astype(np.uint8) for name, marks in held.items() if marks is not None}

    def choose(self) -> dict[str, Any] | None:
        """Choose a schedule, then the highest speed-up that passes: {schedule, speedup, retained}; 1 where none does.

        None on a model that cannot merge, or by no schedule as much as is wanted.
        """
        try:
            check_can_merge(self.vit)
        except CovtokenError:
            return None
        found = {name: self.at(name, WANTED) for name in SCHEDULES}
        within = [name for name in SCHEDULES if found[name] is not None]
        if not within:
            return None
        best = max(within, key=lambda name: found[name].mean())
        steps = np.arange(1 + STEP, HIGHEST, STEP).round(4)
        low, high = 0, len(steps)  # the first ``low`` speed-ups pass
        while low < high:
            middle = (low + high) // 2
            kept = self.at(best, steps[middle])
            passes = kept is not None and kept.mean() >= SHARE
            low, high = (middle + 1, high) if passes else (low, middle)
        speedup = float(steps[low - 1]) if low else 1.0
        kept = self.at(best, speedup).mean() if low else 1.0
        return {"schedule": best, "speedup": speedup, "retained": float(kept), "at_wanted": float(found[best].mean())}
