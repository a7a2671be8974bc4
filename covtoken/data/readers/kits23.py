"""Read KiTS23: ``case_00000/imaging.nii.gz`` with ``segmentation.nii.gz`` beside it (Heller et al. 2023).

The repository holds the segmentations alone; a command of its own fetches the pictures. Case numbers have gaps, so
folders are listed, never counted. The file's first axis runs through the slices, whatever its header says.
"""

from __future__ import annotations

from pathlib import Path

from covtoken.data.case import Cohort
from covtoken.data.external import refuse_external_folder
from covtoken.data.readers.stream import Task, nifti_volume, stream
from covtoken.data.regions import Cutting
from covtoken.errors import CovtokenError

NAME = "kits23"
KIDNEY, TUMOUR, CYST = 1, 2, 3
SLICE_AXIS = 0  # of the file
HOW_TO_GET = (
    "in a clone of https://github.com/neheller/kits23 run `pip3 install -e .`, then `kits23_download_data`: it fetches "
    "the pictures into the folder dataset"
)


def read(folder: str | Path, name: str = NAME, cysts: bool = False, **cutting) -> Cohort:
    """List the slices of every case that has a picture; headers alone are read.

    Args:
        folder: holds ``case_00000``, …, or the folder ``dataset`` that does.
        name: the cohort's.
        cysts: count cysts as lesions, beside tumours.
        cutting: options of ``covtoken.data.regions.Cutting``.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: no case, no picture, a damaged file, or a mask that does not lie on its picture.
    """
    root = Path(folder).expanduser()
    refuse_external_folder(root, name)
    root = root / "dataset" if (root / "dataset").is_dir() else root
    task = Task((TUMOUR, CYST) if cysts else (TUMOUR,), (KIDNEY, TUMOUR, CYST), (0, KIDNEY, TUMOUR, CYST))
    cases = sorted(path for path in root.glob("case_*") if path.is_dir())
    if not cases:
        raise CovtokenError(f"{root} holds no folder case_00000, …: {HOW_TO_GET}")
    volumes, left_out = [], []
    for case in cases:
        picture, labels = case / "imaging.nii.gz", case / "segmentation.nii.gz"
        if not picture.is_file():
            left_out.append((str(picture), f"the picture is missing: {HOW_TO_GET}"))
        elif not labels.is_file():
            left_out.append((str(labels), "the segmentation is missing: restore it with `git checkout` in the clone"))
        else:
            volumes.append(nifti_volume(case.name, case.name, picture, labels, task, SLICE_AXIS))
    if not volumes:
        raise CovtokenError(f"none of the {len(cases)} cases in {root} can be read: {left_out[0][0]}: {left_out[0][1]}")
    return stream(name, volumes, "kidney", Cutting(**cutting), left_out)
