"""Know the volume cohorts by name: the folder in which each is looked for, its reader, and what gates see of it.

Gates see every n-th slice; which part of it is decided blind to masks. Volumes of lungs are shown as the lung windows
were cut, whose bank scores them: 64 to 80 of the slice's own pixels, with lung in them, and grey from air to bright
bone. One crop is of a patient whose series is at hand: it lies on a slice of that series pixel by pixel, and its greys
are Hounsfield units from the crop's lowest to its highest. One window for all takes the place of that scaling by crop
(``covtoken.data.intensity``): greys agree on average, not crop by crop. Organs of the abdomen have no bank of their
own scale: the body's box is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.data.fetch.data_sets import VOLUME_FOLDERS, folders_of
from covtoken.data.readers import kits23, lidc, msd
from covtoken.data.regions import Read, cut
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction
from covtoken.paths import data_root

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


@dataclass(frozen=True)
class VolumeCohort:
    """A volume cohort.

    Attributes:
        reader: takes the folder, the name and options.
        view: what gates see.
        needs: file that the folder holds; empty: nothing is asked for here.
    """

    reader: Callable[..., Cohort]
    view: View
    needs: str = ""


VOLUMES: dict[str, VolumeCohort] = {
    "lidc-idri": VolumeCohort(lidc.read, View(4, lung=True)),
    "kits23": VolumeCohort(kits23.read, View(8)),
    # Task 3 is LiTS: its patients go by their names there, so that hash and ``shared_units`` know them for the same.
    "msd-task03": VolumeCohort(
        partial(msd.read, organ="liver", unit_names={"liver_": "volume-"}), View(8), "dataset.json"
    ),
    "msd-task06": VolumeCohort(partial(msd.read, organ="lung"), View(9, lung=True), "dataset.json"),
    "msd-task07": VolumeCohort(partial(msd.read, organ="pancreas"), View(8), "dataset.json"),
}


def read(name: str, folder: str | Path | None = None, **options) -> Cohort:
    """Open a volume cohort of ``VOLUMES``.

    Args:
        folder: where its data lie, if not under ``COVTOKEN_DATA``.
        options: of its reader.

    Raises:
        CovtokenError: the data are not there, or as the reader says.
    """
    return VOLUMES[name].reader(_folder(name, folder), name=name, **options)


def _folder(name: str, folder: str | Path | None) -> Path:
    known, root = VOLUMES[name], data_root()
    wanted = " or ".join(VOLUME_FOLDERS[name]) + (f" with {known.needs}" if known.needs else "")
    if folder is not None:
        found, came = [Path(folder).expanduser()], f"{folder} is no such folder"
    elif root is None:
        found, came = [], "COVTOKEN_DATA is not set"
    else:
        found, came = folders_of(name, root), f"there is none in {root}"
    found = [path for path in found if path.is_dir() and (path / known.needs).exists()]
    if not found:
        raise CovtokenError(
            f"cohort {name!r} not found: expected a folder {wanted} under COVTOKEN_DATA, and {came}. Run `covtoken "
            f"data fetch {name}`, or see data_cards/{name}.md"
        )
    return found[0]


def _lung_share(case: Case) -> float:
    read, window = case.load.args  # of ``read_cut``: the slice is read once for all its windows
    pixels = cut(_slice(read), window)
    return float(np.mean((pixels > LUNG_HU[0]) & (pixels < LUNG_HU[1])))


@lru_cache(maxsize=1)
def _slice(read: Read) -> np.ndarray:
    return read()
