"""Prepare a run: open every input by its header, decide what grey levels mean, and choose what scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from covtoken.backbone.vit import FrozenViT
from covtoken.data.splits import FEWEST_UNITS
from covtoken.errors import CovtokenError
from covtoken.keys import hash_unit
from covtoken.maps.banks import BANK_SLICES, Scorer, bank_cases, fit_bank, grouped, of_direction
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.listing import Input, Listing, list_inputs
from covtoken.maps.inputs.planes import Opened, open_input, stored_as
from covtoken.maps.inputs.tiles import pieces, windows
from covtoken.maps.record import input_sha256, sha256_of
from covtoken.maps.shipped import SHIPPED, shipped_direction
from covtoken.subspace.direction import load_direction

ITSELF, OTHER = "the folder itself", "another folder"


@dataclass(frozen=True)
class Prepared:
    """Inputs as they will be read.

    Attributes:
        grey: what stored values mean, for all.
        opened: by name, of the inputs that can be opened.
        sha256: by name, of the inputs that can be read.
        faults: by name, why the others cannot.
    """

    inputs: tuple[Input, ...]
    grey: Grey
    opened: dict[str, Opened]
    sha256: dict[str, str]
    faults: dict[str, str]


@dataclass(frozen=True)
class Source:
    """What scores a run, not fitted yet.

    Attributes:
        bank: ``ITSELF``, ``OTHER`` or None.
        direction: name of a shipped direction or file, or None.
        key: hash of all that decides it beside the backbone.
        words: a sentence for a person.
        units: by name of an input, the unit that its slices are scored as.
        fit: (backbone, progress) → Scorer.
    """

    bank: str | None
    direction: str | None
    key: str
    words: str
    units: Mapping[str, str]
    fit: Callable[[FrozenViT, bool], Scorer]


def prepare(listing: Listing, grey: Grey) -> Prepared:
    """Open the inputs of a listing.

    Args:
        grey: as the user gave it; what lists and DICOM files say is added.

    Raises:
        CovtokenError: modalities or organs are mixed, or none of the inputs can be opened.
    """
    grey = _one_grey(listing.inputs, grey)
    faults = {item.name: item.fault for item in listing.inputs if item.fault}
    grey = _with_tops([item for item in listing.inputs if item.name not in faults], grey, faults)
    opened, sha256 = {}, {}
    for item in listing.inputs:
        if item.name in faults:
            continue
        try:
            opened[item.name] = open_input(item, grey)
            sha256[item.name] = input_sha256(item)
        except (CovtokenError, OSError) as error:
            opened.pop(item.name, None)
            faults[item.name] = _line(error)
    if not opened:
        more = f" (and {len(faults) - 1} more that cannot be opened)" if len(faults) > 1 else ""
        raise CovtokenError(f"{next(iter(faults.values()))}{more}")
    return Prepared(listing.inputs, grey, opened, sha256, faults)


def choose(
    prepared: Prepared, bank: Path | None, direction: str | None, tile: int | None = None, precision: str = "fp32"
) -> Source:
    """Choose what scores a run: the bank or direction that is named, the folder itself, or a shipped direction.

    Args:
        tile: side of the windows that slices are cut into; those of a bank too.
        precision: that a bank is read in.

    Raises:
        CovtokenError: both are named, one does not exist, or nothing says which shipped direction is near.
    """
    if bank is not None and direction is not None:
        raise CovtokenError("--bank and --direction are given, and one of them scores: leave one out")
    if direction is not None:
        return of_file(direction, tile) if direction not in SHIPPED else of_shipped(direction, "as asked", tile)
    if bank is not None:
        return of_bank(prepared, bank, tile, precision)
    patients = {item.patient or item.name for item in prepared.inputs if item.name in prepared.opened}
    if len(patients) >= FEWEST_UNITS:
        units = units_of(prepared)
        cases = bank_of(prepared, units, tile)
        n = len({case.unit for case in cases})
        if n >= FEWEST_UNITS:
            about = {"kind": "bank", "name": ITSELF}

            def fit(vit: FrozenViT, progress: bool) -> Scorer:
                return fit_bank(cases, vit, about, progress=progress, precision=precision)

            words = f"the folder itself is the bank: {n} units, cross-fitted, so that no picture meets its own tokens"
            return Source(ITSELF, None, _bank_key(prepared, units), words, units, fit)
        patients = {case.unit for case in cases}
    few = f"{len(patients)} unit{'' if len(patients) == 1 else 's'}, fewer than {FEWEST_UNITS} that make a bank"
    modality = prepared.grey.modality
    if not modality:
        raise CovtokenError(
            f"the input has {few}, and nothing says which shipped direction is near: add --modality ultrasound or "
            "--modality ct, or a bank of your own with --bank FOLDER"
        )
    return of_shipped(modality, few, tile)


def of_shipped(name: str, why: str, tile: int | None = None) -> Source:
    """Score by a shipped direction."""
    direction = shipped_direction(name)
    words = f"shipped direction {name!r} ({SHIPPED[name]}); {why}"
    return _of(direction, name, words, {"kind": "shipped direction", "name": name}, f"shipped direction {name!r}", tile)


def of_file(path: str, tile: int | None = None) -> Source:
    """Score by a direction file that ``covtoken fit`` made."""
    file = Path(path).expanduser()
    if "/" not in path and not file.exists():
        raise CovtokenError(f"direction {path!r}: expected {', '.join(SHIPPED)} or a file of `covtoken fit`; none such")
    about = {"kind": "direction file", "name": file.name}
    return _of(load_direction(file), file.name, f"direction {file}", about, str(file), tile)


def of_bank(prepared: Prepared, folder: Path, tile: int | None = None, precision: str = "fp32") -> Source:
    """Score by the pictures of another folder; inputs that are among them are scored by a fold they did not feed."""
    theirs = prepare(list_inputs(folder), prepared.grey)
    units = units_of(theirs)
    cases = bank_of(theirs, units, tile)
    known = {theirs.sha256[name]: units[name] for name in theirs.opened}
    scored_as = {name: known.get(sha, f"input {name}") for name, sha in prepared.sha256.items()}
    n = len({case.unit for case in cases})
    about = {"kind": "bank", "name": OTHER}

    def fit(vit: FrozenViT, progress: bool) -> Scorer:
        scorer = fit_bank(cases, vit, about, whole=True, progress=progress, precision=precision)
        return replace(scorer, held=None)  # a picture of the bank's may have the name of another one here

    return Source(OTHER, None, _bank_key(theirs, units), f"bank {folder}: {n} units", scored_as, fit)


def units_of(prepared: Prepared) -> dict[str, str]:
    """Give each opened input its unit: the patient where one is named, else its group of near-duplicates.

    A volume without a patient is a unit of its own.
    """
    by_name = {item.name: item for item in prepared.inputs}
    alike = grouped(
        {
            name: found.cases[0]
            for name, found in prepared.opened.items()
            if len(found.cases) == 1 and not by_name[name].patient
        }
    )
    return {name: by_name[name].patient or alike.get(name, name) for name in prepared.opened}


def bank_of(prepared: Prepared, units: Mapping[str, str], tile: int | None = None) -> list:
    """Choose the slices of the bank that a folder makes, or windows of them, each with its unit."""
    by_unit: dict[str, list] = {}
    for name in sorted(prepared.opened):
        opened = prepared.opened[name]
        found = chain.from_iterable(pieces(c, opened.grid.size, tile) for c in as_unit(opened, units[name]))
        if len(windows(opened.grid.size, tile)) > 1:  # even steps through rows of windows could meet one column alone
            found = nsmallest(BANK_SLICES, found, key=lambda case: hash_unit(case.name))
        by_unit.setdefault(units[name], []).extend(found)
    return bank_cases(by_unit)


def as_unit(opened: Opened, unit: str) -> list:
    """Give an input's slices as Cases of a unit."""
    return [replace(case, unit=unit) for case in opened.cases]


def _of(direction, name: str, words: str, about: dict[str, Any], source: str, tile: int | None) -> Source:
    key = direction.header["content_sha256"]

    def fit(vit: FrozenViT, progress: bool) -> Scorer:
        made = about | {"direction_sha256": key, "units": len(direction.header["units"])}
        return of_direction(direction, vit, made, source, tile)

    return Source(None, name, key, words, {}, fit)


def _one_grey(inputs: tuple[Input, ...], grey: Grey) -> Grey:
    """Add modality and organ as inputs name them; the user's word wins."""
    for what in ("modality", "organ"):
        if getattr(grey, what):
            continue
        named = {getattr(item, what) for item in inputs if not item.fault}
        named = {"ct" if word == "ct8" else word for word in named}
        if len(named) > 1:
            words = " and ".join(sorted(word or f"no {what}" for word in named))
            raise CovtokenError(f"the input mixes {words}: map them in runs of their own, or say --{what}")
        grey = replace(grey, **{what: next(iter(named), "")})
    if grey.organ and not grey.modality and grey.window is None:
        grey = replace(grey, modality="ct")
    return grey


def _with_tops(inputs: list[Input], grey: Grey, faults: dict[str, str]) -> Grey:
    """Look for the highest value of 16-bit and of float pictures where the meaning of values hangs on it."""
    if grey.window is not None or grey.modality == "ct":
        return grey
    highest: dict[str, float] = {}
    lowest: dict[str, float] = {}
    for item in inputs:
        try:
            if (stored := stored_as(item)) not in ("16 bit", "float"):
                continue
            for case in open_input(item, replace(grey, window=(0.0, 255.0))).cases:
                values = np.asarray(case.load.args[0](), dtype=np.float32)  # before the window
                if not np.isfinite(values).all():
                    raise CovtokenError(f"{case.source}: the picture holds NaN or infinite values; repair it first")
                highest[stored] = max(highest.get(stored, -np.inf), float(values.max()))
                lowest[stored] = min(lowest.get(stored, np.inf), float(values.min()))
        except (CovtokenError, OSError) as error:
            faults[item.name] = _line(error)
    return grey.with_tops(highest, lowest)


def _bank_key(prepared: Prepared, units: Mapping[str, str]) -> str:
    return sha256_of(sorted([prepared.sha256[name], units[name]] for name in prepared.opened))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
