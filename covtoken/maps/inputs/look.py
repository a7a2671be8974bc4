"""Look at a folder of pictures without a list: sizes, values, patients, and what covtoken map could not read."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from covtoken.data.splits import FEWEST_UNITS
from covtoken.errors import CovtokenError
from covtoken.maps.banks import is_constant
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.listing import list_inputs
from covtoken.maps.prepare import prepare, units_of


def look_at_pictures(
    path: Path, modality: str = "", organ: str = "", window: tuple[float, float] | None = None, progress: bool = False
) -> dict[str, Any]:
    """Read every picture of a folder once.

    Args:
        path: a folder, or whatever ``covtoken map`` takes but a zip.
        modality, organ, window: what grey levels mean, as ``covtoken map`` takes it.
        progress: show a bar on stderr where that is a terminal.

    Returns:
        JSON content: ``numbers`` by name in words; ``problems`` and ``notes``, rows {file, what}.

    Raises:
        CovtokenError: the folder holds nothing that can be mapped, or the data are external.
    """
    listing = list_inputs(path)
    prepared = prepare(listing, Grey(modality, organ, window))
    problems = [{"file": name, "what": what} for name, what in prepared.faults.items()]
    notes = [{"file": file, "what": reason} for file, reason in listing.left_out]
    shapes, low, high, slices, blank = Counter(), np.inf, -np.inf, 0, 0
    shown = {"console": Console(stderr=True), "disable": not (progress and sys.stderr.isatty())}
    for name, opened in track(prepared.opened.items(), "pictures", **shown):
        shapes[opened.grid.shape] += 1
        try:
            constant = []
            for case in opened.cases:
                pixels = case.pixels()
                low, high = min(low, float(pixels.min())), max(high, float(pixels.max()))
                constant.append(is_constant(pixels))
        except CovtokenError as error:
            problems.append({"file": name, "what": " ".join(str(error).split())})
            continue
        slices += len(constant)
        if all(constant):
            blank += 1
            notes.append({"file": name, "what": "the same everywhere: nothing in it can be rare"})
    units = units_of(prepared)
    n_units, named = len(set(units.values())), sum(bool(item.patient) for item in listing.inputs)
    spacing = sum(opened.grid.spacing_mm is not None for opened in prepared.opened.values())
    enough = "yes" if n_units >= FEWEST_UNITS else f"no: {FEWEST_UNITS} are the fewest; --bank or --direction scores"
    sizes = sorted(shapes, key=lambda shape: int(np.prod(shape)))
    numbers = {
        "pictures or volumes": len(listing.inputs),
        "of these readable": len(prepared.opened),
        "slices": slices,
        "patients or groups of look-alikes": f"{n_units}" + ("" if named else ", no patient is named"),
        "enough to be their own bank": enough,
        "sizes, px": ", ".join("×".join(map(str, shape)) for shape in dict.fromkeys((sizes[0], sizes[-1])))
        + (f"; {len(sizes)} different" if len(sizes) > 2 else ""),
        "values": "unknown" if not slices else f"{low:g} to {high:g}",
        "modality": prepared.grey.modality or "unknown",
        "with spacing in mm": spacing,
        "blank": blank,
        "masks": f"{sum('mask' in reason for _, reason in listing.left_out)} left shut",
    }
    return {"numbers": numbers, "problems": problems, "notes": notes}
