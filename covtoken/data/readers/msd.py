"""Read a CT task of the Medical Segmentation Decathlon by its ``dataset.json`` (Antonelli et al. 2022).

Files are those that ``dataset.json`` lists: the official archives also carry AppleDouble files (``._*``), which are no
pictures. Test cases have no labels, and some liver cases hold no tumour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from covtoken.data.case import Cohort
from covtoken.data.external import refuse_external_folder
from covtoken.data.readers.stream import Task, Volume, nifti_volume, stream
from covtoken.data.regions import Cutting
from covtoken.errors import CovtokenError

LESION = re.compile("cancer|tumou?r|lesion", re.IGNORECASE)
# The first word of the data set's name → the organ that names its HU window.
ORGANS = {"liver": "liver", "lung": "lung", "pancreas": "pancreas", "hepaticvessel": "liver"}


def read(
    folder: str | Path,
    name: str = "",
    organ: str = "",
    with_test: bool = False,
    unit_names: Mapping[str, str] | None = None,
    **cutting,
) -> Cohort:
    """List the slices of a task's training cases, a case a patient; headers alone are read.

    Args:
        folder: holds ``dataset.json``.
        name: the cohort's; the folder's name if empty.
        organ: names the HU window; by the data set's name if empty, else the abdomen's.
        with_test: list the test cases too, without masks: they may feed a bank, and cannot be evaluated.
        unit_names: beginning of case names → beginning of the patients' names in another cohort of the same patients.
        cutting: options of ``covtoken.data.regions.Cutting``.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: no or a broken ``dataset.json``, a task that is not CT or has no lesion, a file that is missing
            or damaged, or a mask that does not lie on its picture.
    """
    root = Path(folder).expanduser()
    refuse_external_folder(root, name)
    index, about = root / "dataset.json", _about(root / "dataset.json")
    task = _task(about, index)
    volumes: list[Volume] = []
    left_out: list[tuple[str, str]] = []
    pairs = [(entry["image"], entry["label"]) for entry in about["training"]]
    pairs += [(entry, None) for entry in about.get("test", []) if with_test]
    for image, label in pairs:
        picture, labels = root / image, root / label if label else None
        if picture.name.startswith("._"):
            left_out.append((str(picture), "AppleDouble file, no picture"))
            continue
        for file in (picture, labels):
            if file is not None and not file.is_file():
                raise CovtokenError(f"{index} lists {file}, which is missing: unpack the task again")
        case = re.sub(r"\.nii(\.gz)?$", "", picture.name)
        volumes.append(nifti_volume(case, _renamed(case, unit_names or {}), picture, labels, task))
    if not volumes:
        raise CovtokenError(f"{index} lists no case: unpack the task again")
    return stream(name or root.resolve().name, volumes, organ or _organ(about), Cutting(**cutting), left_out)


def _about(index: Path) -> dict:
    try:
        about = json.loads(index.read_text(encoding="utf-8-sig"))
        for entry in about["training"]:
            entry["image"], entry["label"]
        {int(value): str(word) for value, word in about["labels"].items()}
        about["modality"].values()
    except FileNotFoundError:
        raise CovtokenError(f"{index} is missing: give the folder of one task, as its archive unpacks") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CovtokenError(
            f"{index} is no list of a decathlon task ({type(error).__name__}: {error}): it has modality, labels and "
            "training, each entry with image and label; unpack the task again"
        ) from error
    return about


def _task(about: dict, index: Path) -> Task:
    if [str(kind).upper() for kind in about["modality"].values()] != ["CT"]:
        raise CovtokenError(
            f"{index} is of modality {', '.join(map(str, about['modality'].values()))}: this reader takes CT alone, in "
            "Hounsfield units"
        )
    words = {int(value): str(word) for value, word in about["labels"].items()}
    lesion = tuple(sorted(value for value, word in words.items() if LESION.search(word)))
    if not lesion:
        raise CovtokenError(
            f"{index} names no lesion among its labels ({', '.join(words.values())}): choose a task with a cancer or "
            "tumour, such as Task03_Liver, Task06_Lung or Task07_Pancreas"
        )
    known = tuple(sorted(words))
    organ = tuple(value for value in known if value)
    return Task(lesion, () if organ == lesion else organ, known)


def _organ(about: dict) -> str:
    word = re.match("[A-Za-z]*", str(about.get("name", "")))[0].lower()
    return ORGANS.get(word, "abdomen")


def _renamed(case: str, unit_names: Mapping[str, str]) -> str:
    for old, new in unit_names.items():
        if case.startswith(old):
            return new + case.removeprefix(old)
    return case
