"""50 volumes of 512 × 512 × 100 int16, compressed, streamed slice by slice with their masks:

    python benchmarks/volumes.py [number of volumes] [slices a volume]

The volumes are links to one pair of files, in the decathlon's layout. Prints seconds a slice, the peak memory of the
process after the first volume and after all: what a cohort costs must not grow with it. Below 2 GB is asked for.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from covtoken.data.masks import read_mask
from covtoken.data.readers import msd

SIDE = 512


def write(root: Path, n: int, depth: int) -> None:
    """Write a task of ``n`` cases: noise round a body's soft tissue, a ball of lesion in the middle."""
    rng = np.random.default_rng(0)
    where = np.linspace(-1, 1, SIDE)
    radius = np.hypot(where[:, None, None], where[None, :, None]) + np.zeros(depth)
    pixels = np.where(radius < 0.8, 40, -1000).astype(np.int16)
    pixels += rng.integers(-20, 20, pixels.shape, dtype=np.int16)
    for folder, values in (("imagesTr", pixels), ("labelsTr", (radius < 0.1).astype(np.uint8))):
        (root / folder).mkdir()
        first = root / folder / "lung_000.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.8, 2.5, 1])), first)
        for number in range(1, n):
            os.link(first, first.with_name(f"lung_{number:03}.nii.gz"))
    names = [f"lung_{number:03}.nii.gz" for number in range(n)]
    about = {"name": "lung", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "cancer"}}
    about["training"] = [{"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"} for name in names]
    (root / "dataset.json").write_text(json.dumps(about))


def peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    given = [int(value) for value in sys.argv[1:3]]
    n, depth = given + [50, 100][len(given) :]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pid = os.fork()  # what writing takes is not the reader's memory
        if pid == 0:
            write(root, n, depth)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the volumes could not be written")
        started = time.perf_counter()
        cohort = msd.read(root)
        opened, first = time.perf_counter() - started, 0.0
        for number, case in enumerate(cohort.cases, start=1):
            case.pixels()
            read_mask(cohort.masks[case.name])
            if number == depth:
                first = peak_gb()
        seconds = time.perf_counter() - started
    print(
        f"{n} volumes of {SIDE} × {SIDE} × {depth}: opened in {opened:.1f} s, streamed in {seconds:.0f} s "
        f"({1000 * seconds / len(cohort.cases):.0f} ms a slice with its mask)"
    )
    print(f"peak memory: {first:.2f} GB after the first volume, {peak_gb():.2f} GB after all")


if __name__ == "__main__":
    main()
