"""Open the volumes of a cohort, with the cohort whose bank they are scored by; no mask is opened here."""

from __future__ import annotations

from dataclasses import dataclass

from covtoken.data.case import Volume
from covtoken.data.readers import phantom_volume
from covtoken.errors import CovtokenError, unknown


@dataclass(frozen=True)
class Source:
    """Volumes to evaluate.

    Attributes:
        volumes: in their order.
        bank: cohort whose bank split feeds the bank, and whose lock names the recipes.
        curated: how the volumes were chosen upstream, or "".
        region: what is shown of each slice.
    """

    volumes: tuple[Volume, ...]
    bank: str
    curated: str = ""
    region: str = "the whole slice"


def open_source(cohort: str, data: str | None = None) -> Source:
    """Open the volumes of a cohort by its name.

    Args:
        data: folder of the cohort, if not under ``COVTOKEN_DATA``.

    Raises:
        CovtokenError: a cohort without volumes, or missing data.
    """
    if cohort not in SOURCES:
        raise unknown("cohort of volumes", cohort, list(SOURCES))
    return SOURCES[cohort](data)


def _phantom(data: str | None) -> Source:
    if data is not None:
        raise CovtokenError(f"phantom volumes are drawn, not read: leave the data folder ({data}) out")
    return Source(phantom_volume.read(), "phantom")


SOURCES = {"phantom": _phantom}
