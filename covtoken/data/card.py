"""Write a cohort's sizes into its data card: ``python -m covtoken.data.card busi``."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from covtoken.data.case import Cohort
from covtoken.data.cohorts import data_fingerprint, open_cohort
from covtoken.data.masks import read_lesion_ids, read_mask
from covtoken.data.splits import SPLITS, load_splits
from covtoken.errors import CovtokenError
from covtoken.paths import project_root, write_then_rename


def describe(cohort: Cohort) -> str:
    """Count pictures, units, splits and lesion area in a markdown table. Opens every mask: for cards only."""
    splits = load_splits(cohort)
    shapes = np.array([case.pixels().shape for case in cohort.cases])
    areas = [read_mask(cohort.masks[case.name]).mean() for case in cohort.cases if case.name in cohort.masks]
    with_lesion = [area for area in areas if area > 0]
    pictures = Counter(splits.get(case.unit, "left out") for case in cohort.cases)
    units = Counter(splits.values())
    low, middle, high = np.percentile(with_lesion, [5, 50, 95]) if with_lesion else (np.nan,) * 3
    rows = [
        ("pictures", len(cohort.cases)),
        ("units", len(cohort.units)),
        ("pictures with a lesion", len(with_lesion)),
        ("lesion area in them, share of the picture: median (5 % to 95 %)", f"{middle:.4f} ({low:.4f} to {high:.4f})"),
        ("height × width, smallest to largest", "{} × {} to {} × {}".format(*shapes.min(0), *shapes.max(0))),
        *(_lesions_3d(cohort) if any(case.volume for case in cohort.cases) else ()),
        *((f"{split} split: units, pictures", f"{units[split]}, {pictures[split]}") for split in SPLITS),
        ("files left out by the reader", len(cohort.left_out)),
        ("fingerprint of the data", f"`{data_fingerprint(cohort)[:16]}`"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _lesions_3d(cohort: Cohort) -> list[tuple[str, object]]:
    """Count the volumes of a cohort and the 3-D lesions in them, with their sizes."""
    first = {case.volume: case for case in cohort.cases}
    voxels = {name: read_lesion_ids(cohort.masks[case.name])[0] for name, case in first.items()}
    diameters = [
        (6 * n * math.prod(first[name].spacing_mm) * first[name].slice_mm / math.pi) ** (1 / 3)
        for name, of_volume in voxels.items()
        for n in of_volume.values()
    ]
    low, middle, high = np.percentile(diameters, [5, 50, 95]) if diameters else (np.nan,) * 3
    slices = sorted(case.slice_mm for case in first.values())
    return [
        ("volumes", len(first)),
        ("distance of slices in mm, smallest to largest", f"{slices[0]:.2f} to {slices[-1]:.2f}"),
        ("volumes with a lesion", sum(map(bool, voxels.values()))),
        ("lesions of three dimensions", len(diameters)),
        (
            "their diameter in mm (of a ball of their volume): median (5 % to 95 %)",
            f"{middle:.1f} ({low:.1f} to {high:.1f})",
        ),
    ]


def write_card(name: str, root: Path | None = None) -> Path:
    """Rewrite the marked block of ``data_cards/<name>.md``.

    Raises:
        CovtokenError: no such card, or its markers are missing.
    """
    path = (root or project_root()) / "data_cards" / f"{name}.md"
    if not path.exists():
        raise CovtokenError(f"no data card at {path}: write one with the markers that data_cards/phantom.md has")
    begin, end = f"<!-- card:begin (written by `python -m covtoken.data.card {name}`) -->", "<!-- card:end -->"
    head, begun, rest = path.read_text().partition(begin)
    _, ended, tail = rest.partition(end)
    if not (begun and ended):
        raise CovtokenError(f"{path}: the markers {begin!r} … {end!r} are missing; put them where the table belongs")
    table = describe(open_cohort(name))
    with write_then_rename(path) as temporary:
        temporary.write_text(f"{head}{begin}\n\n{table}\n\n{end}{tail}")
    return path


def main() -> None:
    """Write the cards named on the command line."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m covtoken.data.card COHORT …")
    try:
        for name in sys.argv[1:]:
            print(f"wrote {write_card(name)}")
    except CovtokenError as error:
        print(f"covtoken: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
