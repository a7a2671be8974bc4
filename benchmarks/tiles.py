"""Whether windows help: pixel AUROC of maps of CT slices by the shipped direction, whole and cut into windows:

    python benchmarks/tiles.py --tile 72 --tile 128 --tile 256 [--cohort msd-task06] [--slices 8]

Of each patient, ``slices`` slices with lesion are scored, spread evenly; masks choose and judge them, and feed no map.
Prints, for each patient, the mean over slices of the AUROC of lesion pixels in the slice and inside the body (above
−500 HU, or lung within it), the share of pixels above the direction's .99 threshold, and seconds a slice. A patient who
fed the direction is marked by * and left out of the means.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from scipy.ndimage import binary_fill_holes

import covtoken
from covtoken.data.masks import read_mask
from covtoken.data.readers import volume_cohorts
from covtoken.data.regions import BODY_HU, body_box
from covtoken.evaluation.stats import auroc
from covtoken.keys import hash_unit
from covtoken.maps.banks import of_direction
from covtoken.maps.inputs.planes import picture_grid
from covtoken.maps.lesion_map import fill


def body(pixels: np.ndarray) -> np.ndarray:
    """The body [H, W] bool of a slice in HU, lungs included."""
    inside = np.zeros(pixels.shape, bool)
    if (box := body_box(pixels)) is not None:
        inside[box] = binary_fill_holes(pixels[box] > BODY_HU)
    return inside


def spread(cases: list, n: int) -> list:
    """n of the cases, evenly."""
    return [cases[round(i)] for i in np.unique(np.linspace(0, len(cases) - 1, min(n, len(cases))).round())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", action="append")
    parser.add_argument("--tile", type=int, action="append")
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--organ", default="lung", help="names the HU window: lung, or lung-crops as the bank's")
    args = parser.parse_args()
    vit = covtoken.load_backbone("embedded")
    scorer = of_direction(covtoken.shipped_direction("ct"), vit, {}, "ct")
    threshold = scorer.scores.at(0.99)
    print(f"{'patient':28}{'slices':>7}{'tile':>7}{'in slice':>10}{'in body':>9}{'flagged':>9}{'s a slice':>11}")
    means: dict = {}
    for name in args.cohort or ["lidc-idri", "msd-task06"]:
        cohort = volume_cohorts.read(name)
        for unit in cohort.units:
            fed = hash_unit(unit) in scorer.directions[None].header["units"]
            lesions = [
                replace(case, organ=args.organ)
                for case in cohort.subset([unit])
                if read_mask(cohort.masks[case.name]).any()
            ]
            chosen = spread(lesions, args.slices)
            for tile in (None, *(args.tile or [72, 128, 256])):
                found, started = [], time.perf_counter()
                for case in chosen:
                    grid = picture_grid(case.pixels().shape)
                    out = np.empty(grid.shape, np.float32)
                    fill(out, grid, [case], scorer, vit, tile=tile)
                    found.append(out)
                seconds = (time.perf_counter() - started) / len(chosen)
                rows = []
                for case, out in zip(chosen, found):
                    lesion, where = read_mask(cohort.masks[case.name]), body(case.pixels())
                    where |= lesion
                    rows.append((auroc(out.ravel(), lesion.ravel()), auroc(out[where], lesion[where])))
                    rows[-1] += ((out > threshold).mean(),)
                whole, inside, flagged = np.mean(rows, axis=0)
                if not fed:
                    means.setdefault(tile, []).append((whole, inside, flagged))
                words = f"{name} {unit}{'*' if fed else ''}"[:27]
                line = f"{words:28}{len(chosen):7}{tile or 'whole':>7}{whole:10.3f}{inside:9.3f}{flagged:9.4f}"
                print(f"{line}{seconds:11.2f}", flush=True)
    for tile, rows in means.items():
        whole, inside, flagged = np.mean(rows, axis=0)
        print(f"{f'mean of {len(rows)} patients':28}{'':7}{tile or 'whole':>7}{whole:10.3f}{inside:9.3f}{flagged:9.4f}")


if __name__ == "__main__":
    main()
