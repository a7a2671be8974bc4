"""Find what is wrong with a cohort as a whole: look-alikes and patients across splits, files that nothing names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from covtoken.data.case import Case, Cohort
from covtoken.data.check.look import Finding
from covtoken.data.masks import refuse_swapped
from covtoken.data.near_duplicates import SAME_PICTURE, alike_pairs, drawn
from covtoken.data.readers.lidc_contours import consensus
from covtoken.data.splits import FEWEST_UNITS, listed_files, parts
from covtoken.errors import CovtokenError

_PICTURE = re.compile(r"(.*\.(?:png|jpe?g|tiff?|bmp|npy|nii\.gz|nii))(?![^/\\]*\.)", re.IGNORECASE)


def whole_findings(cohort: Cohort, n_with: int, n_without: int) -> Iterator[Finding]:
    """Find what stops any gate: splits that were edited, too few units, masks in which nothing can be measured.

    Args:
        n_with, n_without: pictures with and without a lesion, among the masks that could be read.
    """
    for file, reason in cohort.left_out:
        yield Finding("left out", file, reason)
    for file in dict.fromkeys(ref.files[0] for ref in cohort.masks.values() if ref.kind == "lidc"):
        found = consensus(file)
        if found.n_points or found.n_other:
            marks = f"{found.n_points} × a nodule below 3 mm, {found.n_other} × no nodule"
            what = f"{found.n_sessions} readings mark what is no lesion here: {marks}"
            yield Finding("no lesions", str(file), what)
    if len(cohort.units) < FEWEST_UNITS:
        yield Finding("few units", cohort.name, f"{len(cohort.units)} units, and a gate takes {FEWEST_UNITS}", True)
    if not n_with and n_without:
        yield Finding("no lesion", cohort.name, f"all {n_without} masks are empty: nothing can be measured", True)
    try:
        refuse_swapped(cohort)
    except CovtokenError as error:
        if "swapped" in str(error):  # a file that cannot be read has its own finding
            yield Finding("swapped", cohort.name, str(error), True)
    try:
        part_of = parts(cohort)
        listed = set(listed_files(cohort.name).values())
    except CovtokenError as error:
        yield Finding("splits", cohort.name, str(error), True)
        return
    missing = sorted(listed - set(cohort.units))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        what = f"unit {missing[0]}{more} of configs/splits/{cohort.name}.json is not among the pictures: fetch it again"
        yield Finding("missing unit", missing[0], what, True)
    alike: dict[str, list[str]] = {}
    for unit in cohort.units:
        alike.setdefault(re.sub(r"[\s_.-]+", "-", unit.strip().casefold()), []).append(unit)
    for units in (units for units in alike.values() if len(units) > 1):
        across = len({part_of[unit] for unit in units}) > 1
        where = "in several splits" if across else "counted apart"
        names = " and ".join(map(repr, units))
        yield Finding("unit", units[0], f"{names} look like one patient, {where}: write the name one way", across)


def look_alikes(cohort: Cohort, cases: Sequence[Case], vectors: np.ndarray) -> Iterator[Finding]:
    """Find pictures that look alike but belong to different units, or are one picture under two diagnoses.

    Args:
        cases: those looked at.
        vectors: their thumbnails, [N, SIDE·SIDE].
    """
    try:
        part_of = parts(cohort)
    except CovtokenError:
        return
    found = alike_pairs(vectors)
    alike = np.einsum("ij,ij->i", vectors[found[:, 0]], vectors[found[:, 1]])
    least = SAME_PICTURE if drawn(cohort) else -np.inf
    for (i, j), correlation in sorted(zip(found.tolist(), alike.tolist()), key=lambda row: -row[1]):
        a, b = cases[i], cases[j]
        flat = not vectors[i].any()
        names = f"{a.source or a.name} and {b.source or b.name}"
        told = {cohort.masks[case.name].diagnosis for case in (a, b) if case.name in cohort.masks} - {""}
        if correlation >= SAME_PICTURE and len(told) > 1:
            yield Finding("two diagnoses", a.name, f"{names} are one picture, {' and '.join(sorted(told))}")
        if a.unit == b.unit or correlation < least or flat:
            continue
        across = part_of[a.unit] != part_of[b.unit]
        what = "are one picture" if correlation >= SAME_PICTURE else f"look alike (correlation {correlation:.3f})"
        where = "in two splits: put them in one unit, or leave one out" if across else "in two units of one split"
        yield Finding("near-duplicate", a.name, f"{names} {what}, {where}", across)


def folder_findings(cohort: Cohort | None, folder: Path, known: set[str]) -> Iterator[Finding]:
    """Find junk of macOS, and picture files that no case names, in a cohort's folder.

    Args:
        cohort: None where it could not be opened: orphans are then unknown.
        known: files that other findings name.
    """
    used = {os.path.realpath(file) for file in known if "\0" not in file}
    if cohort is not None:
        used |= {os.path.realpath(_file_of(case.source)) for case in cohort.cases}
        refs = (*cohort.masks.values(), *cohort.organs.values())
        used |= {os.path.realpath(file) for ref in refs for file in ref.files}
        used |= {os.path.realpath(file) for file, _ in cohort.left_out}
    inside = os.path.realpath(folder) + os.sep
    readable = cohort is not None and any(file.startswith(inside) for file in used)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__MACOSX" and not name.startswith(".git"))
        for name in sorted(files):
            file = os.path.join(place, name)
            if name.startswith("._") or name == ".DS_Store":
                yield Finding("junk", file, "left by macOS; it is never read and may be removed")
            elif readable and _PICTURE.fullmatch(name) and os.path.realpath(file) not in used:
                yield Finding("orphan", file, "a picture or mask that no case names: its partner is missing, or a row")


def _file_of(source: str) -> str:
    """Cut a case's source down to the file that it begins with: a volume's slices may carry a number behind it."""
    match = _PICTURE.match(source)
    return match[1] if match else source
