"""Small volumes in the layouts of KiTS23 and the decathlon: a marked corner tells which way a slice was turned."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (6, 8, 5)  # to the right, to the front, upwards
SPACING = (0.5, 0.75, 2.0)
LESION = (slice(1, 3), slice(2, 5), slice(3, 5))  # in right, anterior, superior voxels


def canonical() -> tuple[np.ndarray, np.ndarray]:
    """A picture of HU that differ in every voxel, and labels 0, 1 (organ) and 2 (lesion); axes right, front, up."""
    pixels = (np.arange(np.prod(SHAPE)).reshape(SHAPE) - 100).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:5, 1:6, 1:] = 1
    labels[LESION] = 2
    return pixels, labels


def write(file: Path, values: np.ndarray, axes: str = "RAS", tilt: float = 0.0, origin=(0, 0, 0), scale=None) -> Path:
    """Write a canonical volume with its axes stored in another order or direction, in the same place of the body.

    Args:
        axes: nibabel's codes of the file's axes.
        tilt: radians by which the volume is turned about the first world axis.
        scale: (slope, intercept) of stored int16 values.
    """
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = origin
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    image = nibabel.Nifti1Image(values, turn @ affine)
    wanted = nibabel.orientations.axcodes2ornt(axes)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted))
    if scale:
        stored = np.rint((np.asarray(image.dataobj) - scale[1]) / scale[0]).astype(np.int16)
        image = nibabel.Nifti1Image(stored, image.affine)
    written = bytearray(image.to_bytes())
    if scale:
        struct.pack_into("<2f", written, 112, *scale)  # scl_slope and scl_inter, which nibabel would choose itself
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(written, 1) if file.suffix == ".gz" else written)
    return file


def decathlon(root: Path, words: tuple[str, ...] = ("background", "liver", "cancer"), cases=("liver_0",)) -> Path:
    """A decathlon task with the same picture in every case."""
    pixels, labels = canonical()
    for case in cases:
        write(root / "imagesTr" / f"{case}.nii.gz", pixels)
        write(root / "labelsTr" / f"{case}.nii.gz", np.minimum(labels, len(words) - 1))
    about = {
        "name": words[1],
        "modality": {"0": "CT"},
        "labels": {str(value): word for value, word in enumerate(words)},
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def kits(root: Path, numbers=(0, 3, 7)) -> Path:
    """Cases of KiTS23: slices along the file's first axis, downwards."""
    pixels, labels = canonical()
    for number in numbers:
        case = root / f"case_{number:05}"
        write(case / "imaging.nii.gz", pixels, "IPL")
        write(case / "segmentation.nii.gz", labels, "IPL")
    return root
