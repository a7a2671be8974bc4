"""Turn volumes into streams of slices: a Case a slice and region, each with its mask and organ references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from covtoken.data.case import Case, Cohort, LabelSlice, MaskRef
from covtoken.data.regions import Cutting, read_cut
from covtoken.data.volumes import VolumeSlice, check_same_space, space_of
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels, register_mask_files


@dataclass(frozen=True)
class Volume:
    """A volume as its slices, from the feet up.

    Attributes:
        name: unique within the cohort.
        unit: the patient.
        slices: [H, W] float32 in HU, each read when called; picklable.
        sources: where each slice lies, for errors.
        size: (H, W) of every slice.
        spacing_mm: (row, column) of their pixels.
        slice_mm: distance between neighbouring slices; None: there is a single one.
        mask, organ: reference of the slice at a position, without size, picture and window; None where there is none.
    """

    name: str
    unit: str
    slices: tuple[Callable[[], np.ndarray], ...]
    sources: tuple[str, ...]
    size: tuple[int, int]
    spacing_mm: tuple[float, float]
    slice_mm: float | None
    mask: Callable[[int], MaskRef] | None = None
    organ: Callable[[int], MaskRef] | None = None


@dataclass(frozen=True)
class Task:
    """What the values of a label volume mean.

    Attributes:
        lesion: values inside the lesion mask.
        organ: values inside the organ mask, lesions included; empty: there is no organ mask.
        known: all values that may occur, background included.
    """

    lesion: tuple[int, ...]
    organ: tuple[int, ...]
    known: tuple[int, ...]


def stream(
    name: str,
    volumes: Sequence[Volume],
    organ: str,
    cutting: Cutting,
    left_out: Sequence[tuple[str, str]] = (),
) -> Cohort:
    """Make the cohort of volumes; no picture and no mask is opened.

    Args:
        name: the cohort's.
        organ: names the HU window.
        cutting: which slices and what part of each.
        left_out: (file, reason) of what the reader skipped.

    Raises:
        CovtokenError: there is no volume, or two have the same name.
    """
    if len({volume.name for volume in volumes}) < len(volumes):
        names = [volume.name for volume in volumes]
        raise CovtokenError(f"cohort {name!r}: two volumes are called {max(names, key=names.count)!r}: rename one")
    cases, masks, organs = [], {}, {}
    for volume in volumes:
        digits = len(str(len(volume.slices) - 1))
        windows = cutting.windows(volume.size, volume.spacing_mm, volume.slices)
        for index in range(0, len(volume.slices), cutting.every):
            for window in windows:
                place = "" if not isinstance(window, tuple) else "_r{:04}c{:04}".format(*window)
                case = Case(
                    f"{volume.name}_z{index:0{digits}}{place}",
                    volume.unit,
                    "ct",
                    partial(read_cut, volume.slices[index], window),
                    source=volume.sources[index],
                    spacing_mm=volume.spacing_mm,
                    slice_index=index,
                    organ=organ,
                    volume=volume.name,
                    slice_mm=volume.slice_mm,
                )
                cases.append(case)
                for refs, make in ((masks, volume.mask), (organs, volume.organ)):
                    if make is not None:
                        refs[case.name] = make(index, window=window, size=volume.size, picture=case.source)
    return Cohort(name, "ct", tuple(sorted(cases, key=lambda case: case.name)), masks, organs, left_out=tuple(left_out))


def nifti_volume(
    name: str, unit: str, picture: Path, labels: Path | None, task: Task, disk_axis: int | None = None
) -> Volume:
    """Describe a NIfTI volume and its label volume by their headers alone; the label volume is registered as a mask.

    Args:
        labels: None: nobody drew any.
        disk_axis: axis of the file that is cut across; None: the axis that runs up the body.

    Raises:
        LabelLeak: there are labels, and something label-free is being built.
        CovtokenError: a file is missing, damaged or no volume, or the two do not lie on each other.
    """
    if labels is None:
        space = space_of(picture)
    else:
        refuse_labels(f"the header of the mask file {labels}")
        space = check_same_space(picture, labels)
        register_mask_files([labels])
    axis = 2 if disk_axis is None else space.axes[disk_axis]
    columns, rows = (other for other in range(3) if other != axis)
    count = space.shape[axis]

    def refs(inside: tuple[int, ...]) -> Callable[..., MaskRef] | None:
        if labels is None or not inside:
            return None
        return lambda index, **about: MaskRef(
            "nifti", (labels,), labels=LabelSlice(index, axis, inside, task.known), **about
        )

    return Volume(
        name,
        unit,
        slices=tuple(VolumeSlice(picture, index, axis) for index in range(count)),
        sources=tuple(f"{picture}, slice {index}" for index in range(count)),
        size=(space.shape[rows], space.shape[columns]),
        spacing_mm=(space.spacing_mm[rows], space.spacing_mm[columns]),
        slice_mm=space.spacing_mm[axis],
        mask=refs(task.lesion),
        organ=refs(task.organ),
    )
