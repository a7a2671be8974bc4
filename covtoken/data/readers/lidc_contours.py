"""Read the contours of LIDC-IDRI's readers: their consensus per nodule, for ``covtoken.data.masks`` alone.

A reading session is a radiologist's. Nodules of 3 mm or more are drawn as outlines, slice by slice, through the first
pixels *outside* the nodule (Armato et al. 2011); an outline with ``inclusion`` FALSE is a hole in it. A nodule of
single points is smaller than 3 mm, and a ``nonNodule`` is none: neither is a lesion. Nodules of several sessions that
share a pixel are one; a pixel is lesion where at least half of the sessions mark it, those that saw nothing included.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from covtoken.data.case import MaskRef
from covtoken.data.pictures import reading
from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_labels, refuse_mask_file

NAMESPACE = "{http://www.nih.gov}"
ROOT, XRAY_ROOT = f"{NAMESPACE}LidcReadMessage", f"{NAMESPACE}IdriReadMessage"
WIDE = 1 << 16  # a pixel is row × WIDE + column, whatever its picture's size

Pixels = dict[str, np.ndarray]  # SOP UID → sorted pixels


@dataclass(frozen=True)
class Consensus:
    """What the readers of a CT series agree on.

    Attributes:
        n_sessions: reading sessions.
        nodules: of each lesion, numbered from 1, its pixels by SOP UID.
        n_points, n_other: marks that are no lesions: nodules below 3 mm, as single points, and ``nonNodule`` marks.
    """

    n_sessions: int
    nodules: dict[int, Pixels]
    n_points: int = 0
    n_other: int = 0


def mask_of(ref: MaskRef) -> np.ndarray:
    """Draw the consensus in the slice of a reference, [H, W] bool, uncut. Raises as ``consensus``."""
    return _drawn(consensus(ref.files[0]), ref) > 0


def lesion_ids(ref: MaskRef) -> tuple[dict[int, int], Callable[[MaskRef], np.ndarray]]:
    """Number the lesions of a series: voxels of each, and a function that draws the numbers [H, W] int32 in a slice.

    Raises:
        LabelLeak, CovtokenError: as ``consensus``.
    """
    found = consensus(ref.files[0])
    voxels = {number: sum(map(len, pixels.values())) for number, pixels in found.nodules.items()}
    return voxels, lambda other: _drawn(found, other)


def series_of(file: Path) -> str | None:
    """Read the series that a file of readings is of, from its head; None for readings of an X-ray picture.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: the file cannot be read, or is no LIDC reading.
    """
    refuse_labels(f"the readings {file}")
    with reading(file, "mask file"):
        try:
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                if element.tag == XRAY_ROOT:
                    return None
                if event == "start" and not str(element.tag).startswith(NAMESPACE):
                    raise _another_root(file, element.tag)
                if event == "end" and element.tag.lower() == f"{NAMESPACE}seriesinstanceuid":
                    return (element.text or "").strip()
        except ElementTree.ParseError as error:
            raise _broken(file, error) from error
    raise CovtokenError(f"mask file {file} names no SeriesInstanceUid: fetch the readings of LIDC-IDRI again")


def consensus(file: Path) -> Consensus:
    """Read what at least half of the reading sessions of a series mark.

    Raises:
        LabelLeak: something label-free is being built.
        CovtokenError: the file is missing or damaged, is no LIDC reading, or holds no reading session.
    """
    refuse_labels(f"the readings {file}")
    refuse_mask_file(file)
    with reading(file, "mask file"):
        return _consensus(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _consensus(file: Path, _changed: int) -> Consensus:
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise _broken(file, error) from error
    if root.tag != ROOT:
        raise _another_root(file, root.tag)
    sessions = root.findall(f"{NAMESPACE}readingSession")
    if not sessions:
        raise CovtokenError(f"mask file {file} holds no reading session: fetch the readings of LIDC-IDRI again")
    drawn = [
        (number, pixels)
        for number, session in enumerate(sessions)
        for nodule in session.findall(f"{NAMESPACE}unblindedReadNodule")
        if (pixels := _nodule(nodule, file))
    ]
    agreed = [_agreed(cluster, len(sessions)) for cluster in _clusters(drawn)]
    n_nodules, n_other = (
        sum(len(session.findall(f"{NAMESPACE}{tag}")) for session in sessions)
        for tag in ("unblindedReadNodule", "nonNodule")
    )
    nodules = dict(enumerate(filter(None, agreed), start=1))
    return Consensus(len(sessions), nodules, n_nodules - len(drawn), n_other)


def _nodule(nodule: ElementTree.Element, file: Path) -> Pixels:
    """Give the pixels of a nodule as a reader drew it; none for a nodule of single points."""
    inside: dict[str, list[np.ndarray]] = {}
    holes: dict[str, list[np.ndarray]] = {}
    outlines: dict[str, list[np.ndarray]] = {}
    for roi in nodule.findall(f"{NAMESPACE}roi"):
        try:
            slice_uid = roi.findtext(f"{NAMESPACE}imageSOP_UID").strip()
            points = [
                (int(edge.findtext(f"{NAMESPACE}xCoord")), int(edge.findtext(f"{NAMESPACE}yCoord")))
                for edge in roi.findall(f"{NAMESPACE}edgeMap")
            ]
            included = roi.findtext(f"{NAMESPACE}inclusion").strip().upper() == "TRUE"
        except (AttributeError, TypeError, ValueError) as error:
            raise _broken(file, error) from error
        if len(points) < 2:
            continue
        line, fill = _rasterised(points)
        (inside if included else holes).setdefault(slice_uid, []).append(fill)
        if included:
            outlines.setdefault(slice_uid, []).append(line)
    pixels = {uid: np.setdiff1d(_union(fills), _union(holes.get(uid, []))) for uid, fills in inside.items()}
    if not any(map(len, pixels.values())):  # too small for an outline to hold a pixel: the outline itself
        pixels = {uid: _union(lines) for uid, lines in outlines.items()}
    return {uid: found for uid, found in pixels.items() if len(found)}


def _rasterised(points: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Draw an outline of points (x = column, y = row): the pixels on it, and those strictly inside."""
    left, top = np.min(points, axis=0)
    moved = [(int(x - left), int(y - top)) for x, y in points]
    width, height = np.max(moved, axis=0) + 1
    line, fill = (Image.new("1", (int(width), int(height))) for _ in range(2))
    ImageDraw.Draw(line).line([*moved, moved[0]], fill=1)
    ImageDraw.Draw(fill).polygon(moved, fill=1, outline=1)
    line, fill = (np.asarray(image, dtype=bool) for image in (line, fill))
    return _codes(line, top, left), _codes(fill & ~line, top, left)


def _clusters(drawn: list[tuple[int, Pixels]]) -> list[list[tuple[int, Pixels]]]:
    """Group nodules that share a pixel, directly or through others, in the order of the first of each group."""
    clusters: list[list[tuple[int, Pixels]]] = []
    for nodule in drawn:
        touched = [cluster for cluster in clusters if any(_overlap(nodule[1], other) for _, other in cluster)]
        merged = [member for cluster in touched for member in cluster] + [nodule]
        at = clusters.index(touched[0]) if touched else len(clusters)
        clusters = [cluster for cluster in clusters if not any(cluster is other for other in touched)]
        clusters.insert(at, merged)
    return clusters


def _overlap(one: Pixels, other: Pixels) -> bool:
    return any(len(np.intersect1d(one[uid], other[uid])) for uid in one.keys() & other.keys())


def _agreed(cluster: list[tuple[int, Pixels]], n_sessions: int) -> Pixels:
    """Keep the pixels that at least half of all sessions mark; a session counts once, however many nodules it drew."""
    agreed = {}
    for uid in {uid for _, pixels in cluster for uid in pixels}:
        by_session: dict[int, list[np.ndarray]] = {}
        for session, pixels in cluster:
            by_session.setdefault(session, []).append(pixels.get(uid, np.empty(0, np.int64)))
        codes, votes = np.unique(np.concatenate([_union(each) for each in by_session.values()]), return_counts=True)
        if len(kept := codes[2 * votes >= n_sessions]):
            agreed[uid] = kept
    return agreed


def _drawn(found: Consensus, ref: MaskRef) -> np.ndarray:
    numbers = np.zeros(ref.size, np.int32)
    for number, pixels in found.nodules.items():
        rows, columns = np.divmod(pixels.get(ref.key, np.empty(0, np.int64)), WIDE)
        if len(rows) and (rows.max() >= ref.size[0] or columns.max() >= ref.size[1]):
            raise CovtokenError(
                f"mask file {ref.files[0]}: a nodule reaches pixel ({rows.max()}, {columns.max()}) of {ref.picture}, "
                f"which is {ref.size[0]}×{ref.size[1]} pixels: these are the readings of another series"
            )
        numbers[rows, columns] = number
    return numbers


def _codes(mask: np.ndarray, top: int, left: int) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return (rows + top).astype(np.int64) * WIDE + columns + left


def _union(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


def _another_root(file: Path, tag: str) -> CovtokenError:
    return CovtokenError(
        f"mask file {file} begins with {tag}, and readings of a CT series begin with {ROOT}: fetch the readings of "
        "LIDC-IDRI again"
    )


def _broken(file: Path, error: Exception) -> CovtokenError:
    return CovtokenError(
        f"mask file {file} holds no readings of LIDC-IDRI that can be read ({error}): it is damaged; fetch it again"
    )
