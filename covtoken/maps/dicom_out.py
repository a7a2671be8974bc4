"""Write a series' map and mask as DICOM that points back to the series: a Parametric Map and a Segmentation.

highdicom writes both, and takes patient and study from the source, so they belong to the same study and name the same
patient. UIDs and times follow from the source and the settings: the same run gives the same bytes. highdicom stores
frames by position, not in the order of the input; a reader must go by positions, as ``highdicom.imread`` does.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from covtoken.errors import CovtokenError
from covtoken.maps.inputs.dicom import pydicom

MAP, MASK = "map.dcm", "mask.dcm"
MAKER = "covtoken"
MOST_FLOATS = 2**26  # pixels, 256 slices of 512 × 512; larger maps are stored in steps, for highdicom holds them thrice
STEPS = 65_535  # of 16 bit
_EMPTY = ("StudyID", "AccessionNumber", "StudyDate", "StudyTime", "PatientName", "PatientBirthDate", "PatientSex")
_EMPTY += ("ReferringPhysicianName",)  # must stand in every file, if only empty; sources leave them out


def write_map_and_mask(
    folder: Path, files: Sequence[Path], values: np.ndarray, threshold: float, slice_mm: float, sha256: str
) -> dict[str, str]:
    """Write ``map.dcm``, a Parametric Map of scores, and ``mask.dcm``, a Segmentation of what is flagged.

    Args:
        folder: to write into.
        files: of the series, in the order of the map's slices.
        values: scores [columns, rows, slices] float32.
        threshold: scores above it are flagged.
        slice_mm: distance of slices, for sources that do not say how thick they are.
        sha256: of input and settings; UIDs follow from it and from the source's.

    Returns:
        file names by what they are: ``parametric_map`` and ``segmentation``.

    Raises:
        CovtokenError: highdicom is not installed, or the series lacks what it asks for; nothing is left in the folder.
    """
    highdicom = _highdicom()
    sources = [_source(file, slice_mm) for file in files]
    frames = values.transpose(2, 1, 0)  # [slices, rows, columns]
    paths = folder / MAP, folder / MASK
    try:
        for path, kind in zip(paths, (_parametric_map, _segmentation), strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a mask that is empty, and of sources with odd names
                made = kind(highdicom, sources, frames, threshold, _about(sources, sha256, path.name))
                _fix_times_and_uids(made, sources[0])
                made.save_as(path)
                del made  # a large map is as much memory
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        for path in paths:
            path.unlink(missing_ok=True)
        line = " ".join(str(error).split())[:200]
        raise CovtokenError(f"no DICOM was written, for the series lacks something: {line}") from error
    return {"parametric_map": MAP, "segmentation": MASK}


def _parametric_map(highdicom, sources, frames: np.ndarray, threshold: float, about: dict[str, Any]):
    low, high = float(frames.min()), float(frames.max())
    slope, intercept, stored = 1.0, 0.0, (low, high)
    if frames.size > MOST_FLOATS:
        slope, intercept, stored = (high - low) / STEPS or 1.0, low, (0, STEPS)
        steps = np.empty(frames.shape, np.uint16)
        for step, frame in zip(steps, frames, strict=True):
            step[...] = np.rint((frame - np.float32(intercept)) / np.float32(slope)).clip(0, STEPS)
        _let_go(frames)
        frames = steps
    scale = highdicom.pm.RealWorldValueMapping(
        lut_label="score",
        lut_explanation=f"rarity against a bank; above {threshold:.6g} is flagged",
        unit=pydicom().sr.codedict.codes.UCUM.NoUnits,
        value_range=stored,
        slope=slope,
        intercept=intercept,
    )
    return highdicom.pm.ParametricMap(
        sources,
        frames,
        real_world_value_mappings=[scale],
        contains_recognizable_visual_features=False,
        window_center=(low + high) / 2,
        window_width=max(high - low, 1e-6),
        content_label="LESION_MAP",
        content_description="Label-free lesion map, research only",
        **about,
    )


def _segmentation(highdicom, sources, frames: np.ndarray, threshold: float, about: dict[str, Any]):
    codes = pydicom().sr.codedict.codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER,
        family=codes.DCM.ArtificialIntelligence,
        version=about["software_versions"],
    )
    flagged = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="rare against the bank",
        # A place that a program selected: nobody has said that it is a lesion.
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=codes.DCM.SelectedRegion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    return highdicom.seg.Segmentation(
        sources,
        (frames > threshold).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[flagged],
        omit_empty_frames=False,
        content_label="LESION_MASK",
        content_description="What a label-free map flags, research only",
        **about,
    )


def _about(sources, sha256: str, name: str) -> dict[str, Any]:
    """Give what both objects say of their making."""
    series = str(sources[0].SeriesInstanceUID)
    uid = pydicom().uid.generate_uid
    return {
        "series_instance_uid": uid(entropy_srcs=[MAKER, series, sha256, name, "series"]),
        "sop_instance_uid": uid(entropy_srcs=[MAKER, series, sha256, name, "instance"]),
        "series_number": 9001 if name == MAP else 9002,
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": version(MAKER),
        "device_serial_number": sha256[:16],
    }


def _source(file: Path, slice_mm: float):
    """Read a source file without its pixels, and add what must stand in the files that are written."""
    found = pydicom().dcmread(file, stop_before_pixels=True)
    for tag in _EMPTY:
        if tag not in found:
            setattr(found, tag, "")
    if found.get("SliceThickness") is None:
        found.SliceThickness = slice_mm
    return found


def _fix_times_and_uids(made, source) -> None:
    """Set dates and times of making to those of the source, and random UIDs to ones that follow from our own."""
    day = source.get("AcquisitionDate") or source.get("SeriesDate") or source.get("StudyDate") or "19000101"
    time = source.get("AcquisitionTime") or source.get("SeriesTime") or source.get("StudyTime") or "000000"
    for tag in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        if tag in made:
            setattr(made, tag, day)
    for tag in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        if tag in made:
            setattr(made, tag, time)
    organised = pydicom().uid.generate_uid(entropy_srcs=[str(made.SOPInstanceUID), "dimensions"])
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organised
    for item in made.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = day


def _let_go(values: np.ndarray) -> None:
    """Drop the pages of a mapped file from memory; they are read anew where they are asked for."""
    mapped = getattr(values, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.flush()
        mapped.madvise(mmap.MADV_DONTNEED)


def _highdicom():
    """Import highdicom, which is an extra. Raises CovtokenError where it is not installed."""
    try:
        import highdicom
        import highdicom.pm
        import highdicom.seg
        import pydicom.sr.codedict  # noqa: F401 - so that the codes are there
    except ImportError as error:
        raise CovtokenError("no DICOM was written: it needs highdicom; `pip install 'covtoken[dicom]'`") from error
    return highdicom
