"""Load the directions that come with the package, one a modality: C− of a recipe cohort's bank split.

Each is a file of a few kB under ``covtoken/maps/directions``, fitted by

    covtoken fit busi -o covtoken/maps/directions/ultrasound.safetensors
    covtoken fit lidc-crops -o covtoken/maps/directions/ct.safetensors

to the embedded weights; its header names their hash, so that another backbone is refused by name.
"""

from __future__ import annotations

from covtoken.errors import unknown
from covtoken.paths import PACKAGE
from covtoken.subspace.direction import Direction, load_direction

FOLDER = PACKAGE / "maps" / "directions"
SHIPPED = {
    "ultrasound": "BUSI breast ultrasound, bank split",
    "ct": "LIDC-IDRI: windows of 64 to 80 pixels of lung CT, bank split",
}


def shipped_direction(name: str) -> Direction:
    """Load a shipped direction: ``ultrasound`` or ``ct``. Raises CovtokenError on another name.

    >>> shipped_direction("ultrasound").header["block"]
    6
    """
    if name not in SHIPPED:
        raise unknown("shipped direction", name, list(SHIPPED))
    return load_direction(FOLDER / f"{name}.safetensors")
