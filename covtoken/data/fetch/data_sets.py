"""List the cohorts and data sets that covtoken knows: where they lie, whose they are, how to get them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from covtoken.data.external import EXTERNAL
from covtoken.errors import unknown

DRAWN, COHORT, KEPT, PUBLIC = "drawn", "cohort", "external", "data set"
VOLUME_FOLDERS = {
    "lidc-idri": ("LIDC-IDRI",),
    "kits23": ("KiTS23", "kits23"),
    "msd-task03": ("Task03_Liver*",),
    "msd-task06": ("Task06_Lung*",),
    "msd-task07": ("Task07_Pancreas*",),
}
"""Patterns of folder names of volume cohorts, tried in order."""


@dataclass(frozen=True)
class DataSet:
    """A cohort or data set.

    Attributes:
        kind: ``"drawn"`` (by covtoken), ``"cohort"`` (cut from a public data set), ``"external"`` (never opened here)
            or ``"data set"`` (as its authors publish it).
        folder: under ``COVTOKEN_DATA``; "" where nothing is read.
        licence: in a word or two.
        citation: the reference that its licence or its authors ask for.
        url: of the one archive that holds ``folder`` at its top; "" where there is no plain download.
        known_hash: ``"md5:…"`` or ``"sha256:…"`` of that archive, as a public source gives it; "" where none does.
        steps: how a person gets it where no verified download can be made, a line each.
    """

    name: str
    kind: str
    modality: str
    folder: str
    licence: str
    citation: str = ""
    url: str = ""
    known_hash: str = ""
    steps: tuple[str, ...] = ()

    def next_command(self, found: bool) -> str:
        """Say what to type next, by whether the folder was found."""
        if self.kind == KEPT:
            return f"covtoken confirm --cohort {self.name}"
        if found:
            return f"covtoken data check {self.name}"
        return f"covtoken data fetch {self.name}" if self.kind == PUBLIC else f"see data_cards/{self.name}.md"


def data_set(name: str) -> DataSet:
    """Give the data set of a name. Raises CovtokenError, with the closest names, where there is none."""
    if name not in DATA_SETS:
        raise unknown("data set", name, list(DATA_SETS))
    return DATA_SETS[name]


def place_of(known: DataSet, root: Path | None) -> Path | None:
    """Find the folder of a data set under ``root`` as its reader would, unopened; None where it is not there."""
    if root is not None and known.name in VOLUME_FOLDERS:
        return next(iter(folders_of(known.name, root)), None)
    folder = None if root is None or not known.folder else root / known.folder
    return folder if folder is not None and folder.is_dir() else None


def folders_of(name: str, root: Path) -> list[Path]:
    """List the folders that bear a volume cohort's name under ``root``, unopened, the preferred one first."""
    found = [path for pattern in VOLUME_FOLDERS[name] for path in sorted(root.glob(pattern))]
    return [path for path in found if path.is_dir()]


def _decathlon(task: str, number: str, md5: str) -> DataSet:
    return DataSet(
        f"msd-task{number}",
        PUBLIC,
        "ct",
        task,
        "CC BY-SA 4.0",
        "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13:4128 (2022)",
        # The bucket and the md5 sums are those of MONAI's DecathlonDataset (monai/apps/datasets.py).
        url=f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar",
        known_hash=f"md5:{md5}",
    )


_ULTRASOUND = "Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 28:104863 (2020)"
_LIDC = (
    "Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI), Medical "
    "Physics 38:915-931 (2011)"
)
_ALL = (
    DataSet("phantom", DRAWN, "both", "", "MIT"),
    DataSet(
        "busi",
        PUBLIC,
        "ultrasound",
        "Dataset_BUSI_with_GT",
        "CC0 or CC BY",
        _ULTRASOUND,
        url="https://scholar.cu.edu.eg/Dataset_BUSI.zip",
        steps=(
            "No public source gives a hash of BUSI's archive, so nothing is downloaded unverified.",
            "1. Get it by hand, from its authors: https://scholar.cu.edu.eg/?q=afahmy/pages/dataset (Dataset_BUSI.zip)",
            "   or, with an account, from https://www.kaggle.com/datasets/aryashah2k/breast-ultrasound-images-dataset",
            "2. Unpack it, so that the folder of COVTOKEN_DATA holds Dataset_BUSI_with_GT/benign, malignant, normal.",
            "3. covtoken data check busi",
            "Who knows the sha256 of Dataset_BUSI.zip: covtoken data fetch busi --sha256 HASH",
        ),
    ),
    DataSet("lits", COHORT, "ct8", "lits", "CC BY-NC-ND"),
    DataSet("kits19", COHORT, "ct8", "kits19_slices", "CC BY-NC-SA"),
    DataSet("lidc-crops", COHORT, "ct8", "lidc_crops", "CC BY"),
    DataSet("busbra-external", KEPT, "ultrasound", EXTERNAL["busbra-external"].folder, "free, cite"),
    DataSet("lidc-external", KEPT, "ct8", EXTERNAL["lidc-external"].folder, "CC BY"),
    DataSet(
        "lidc-idri",
        PUBLIC,
        "ct",
        "LIDC-IDRI",
        "CC BY 3.0",
        f"{_LIDC}; data: The Cancer Imaging Archive, doi 10.7937/K9/TCIA.2015.LO9QL9SX",
        steps=(
            "LIDC-IDRI comes from The Cancer Imaging Archive through its own program, the NBIA Data Retriever.",
            "1. Open https://www.cancerimagingarchive.net/collection/lidc-idri/ and download, under Data Access,",
            "   the manifest of the images (a .tcia file) and the radiologists' annotations (XML, a zip).",
            "2. Install the NBIA Data Retriever (https://wiki.cancerimagingarchive.net/display/NBIA) and open the",
            "   manifest with it; choose 'Classic Directory Name' for the folders.",
            "3. Put the patients' folders (LIDC-IDRI-0001, …) and the XML files under LIDC-IDRI in the folder of",
            "   COVTOKEN_DATA.",
            "4. covtoken data check lidc-idri",
        ),
    ),
    DataSet(
        "kits23",
        PUBLIC,
        "ct",
        "kits23",
        "CC BY-NC-SA 4.0",
        "Heller et al., The KiTS21 Challenge, arXiv 2307.01984 (2023)",
        steps=(
            "KiTS23 comes through its authors' own program, which fetches the images one by one.",
            "1. In the folder of COVTOKEN_DATA: git clone https://github.com/neheller/kits23",
            "2. cd kits23",
            "3. pip install -e .",
            "4. kits23_download_data",
            "5. covtoken data check kits23",
        ),
    ),
    _decathlon("Task03_Liver", "03", "a90ec6c4aa7f6a3d087205e23d4e6397"),
    _decathlon("Task06_Lung", "06", "8afd997733c7fc0432f71255ba4e52dc"),
    _decathlon("Task07_Pancreas", "07", "4f7080cfca169fa8066d17ce6eb061e4"),
)
DATA_SETS: dict[str, DataSet] = {known.name: known for known in _ALL}
