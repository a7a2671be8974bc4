"""Know the volume cohorts by name: the folder in which each is looked for under ``COVTOKEN_DATA``, and its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from covtoken.data.case import Cohort
from covtoken.data.readers import kits23, lidc, msd
from covtoken.errors import CovtokenError
from covtoken.paths import data_root


@dataclass(frozen=True)
class VolumeCohort:
    """A volume cohort.

    Attributes:
        folders: patterns of folder names, tried in order.
        reader: takes the folder, the name and options.
        needs: file that the folder holds; empty: nothing is asked for here.
    """

    folders: tuple[str, ...]
    reader: Callable[..., Cohort]
    needs: str = ""


VOLUMES: dict[str, VolumeCohort] = {
    "lidc-idri": VolumeCohort(("LIDC-IDRI",), lidc.read),
    "kits23": VolumeCohort(("KiTS23", "kits23"), kits23.read),
    # Task 3 is LiTS: its patients go by their names there, so that hash and ``shared_units`` know them for the same.
    "msd-task03": VolumeCohort(
        ("Task03_Liver*",), partial(msd.read, organ="liver", unit_names={"liver_": "volume-"}), "dataset.json"
    ),
    "msd-task06": VolumeCohort(("Task06_Lung*",), partial(msd.read, organ="lung"), "dataset.json"),
    "msd-task07": VolumeCohort(("Task07_Pancreas*",), partial(msd.read, organ="pancreas"), "dataset.json"),
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
    wanted = " or ".join(known.folders) + (f" with {known.needs}" if known.needs else "")
    if folder is not None:
        found, came = [Path(folder).expanduser()], f"{folder} is no such folder"
    elif root is None:
        found, came = [], "COVTOKEN_DATA is not set"
    else:
        found = [path for pattern in known.folders for path in sorted(root.glob(pattern))]
        came = f"there is none in {root}"
    found = [path for path in found if path.is_dir() and (path / known.needs).exists()]
    if not found:
        raise CovtokenError(
            f"cohort {name!r} not found: expected a folder {wanted} under COVTOKEN_DATA, and {came}. Run `covtoken "
            f"data fetch {name}`, or see data_cards/{name}.md"
        )
    return found[0]
