"""Show volume cohorts to gates: which slices, what part of each, and on which HU window, all blind to masks.

Volumes of lungs are shown as the lung windows were cut, whose bank scores them: 64 to 80 of the slice's own pixels,
with lung in them, and grey from air to bright bone. One crop is of a patient whose series is at hand: it lies on a
slice of that series pixel by pixel, and its greys are Hounsfield units from the crop's lowest to its highest. One
window for all takes the place of that scaling by crop (``covtoken.data.intensity``): greys agree on average, not crop
by crop. Organs of the abdomen have no bank of their own scale: the body's box is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.data.regions import Read, cut
from covtoken.leak_guard import construction

WINDOW_PX = 72  # in the middle of 64 and 80
LUNG_HU = (-950.0, -500.0)  # above air, below tissue
LUNG_SHARE = 0.3  # of a window's pixels
CROPS = "lung-crops"  # names the HU window


@dataclass(frozen=True)
class View:
    """What gates see of a volume cohort.

    Attributes:
        every: take every n-th slice; so few that three patients' recorded scores stay small enough to commit.
        lung: show windows with lung in them, as the lung windows are; else the box of the body.
    """

    every: int
    lung: bool = False

    def options(self) -> dict[str, Any]:
        """Give the reader's options."""
        region = {"region": "windows", "window_px": WINDOW_PX} if self.lung else {"region": "body"}
        return {"every": self.every, **region}

    def of(self, cohort: Cohort) -> Cohort:
        """Keep what gates see of a cohort that was opened with ``options``, and say so in ``curated``."""
        if not self.lung:
            return replace(cohort, curated=f"every {self.every}th slice, the body's box")
        with construction("the choice of windows"):
            cases = tuple(replace(case, organ=CROPS) for case in cohort.cases if _lung_share(case) >= LUNG_SHARE)
        shown = (
            f"every {self.every}th slice, windows of {WINDOW_PX} px of which at least {LUNG_SHARE:.0%} is lung by its "
            "HU, chosen blind to masks; shown on the grey scale of the lung windows, whose bank scores them"
        )
        return replace(cohort, cases=cases, curated=shown)


VIEWS = {
    "lidc-idri": View(4, lung=True),
    "msd-task06": View(9, lung=True),
    "kits23": View(8),
    "msd-task03": View(8),
    "msd-task07": View(8),
}


def _lung_share(case: Case) -> float:
    read, window = case.load.args  # of ``read_cut``: the slice is read once for all its windows
    pixels = cut(_slice(read), window)
    return float(np.mean((pixels > LUNG_HU[0]) & (pixels < LUNG_HU[1])))


@lru_cache(maxsize=1)
def _slice(read: Read) -> np.ndarray:
    return read()
