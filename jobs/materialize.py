# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "numpy==2.4.6", "scipy==1.17.1", "statsmodels==0.15.0",
#   "nibabel==5.4.2", "altair==6.3.0", "vl-convert-python==1.9.0.post1", "faiss-cpu==1.15.1", "safetensors==0.8.0",
#   "typer==0.29.2", "rich==15.0.0", "pooch==1.9.0", "pydicom==3.0.2", "onnx==1.23.2",
# ]
# ///
r"""Write a cohort's pictures into shards, which the other jobs read.

No mask goes in. Write the bank's pictures alone by ``--split bank``. Names and units go in as they are: keep the shards
where the data may be kept.

Here:          PYTHONPATH=. uv run jobs/materialize.py phantom shards/pictures --split bank --shards 8
On HF Jobs:    hf jobs uv run --flavor cpu-upgrade -v .:/covtoken -e PYTHONPATH=/covtoken \
                 -v hf://buckets/OWNER/NAME:/data jobs/materialize.py \
                 /data/busi /data/pictures --shards 64 --shard 1/8
"""

from __future__ import annotations

import sys
from pathlib import Path

from covtoken.data.cohorts import open_cohort
from covtoken.data.splits import load_splits
from covtoken.errors import CovtokenError
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.listing import list_inputs
from covtoken.maps.prepare import as_unit, prepare, units_of
from covtoken.shards.job import mine, parser_of, run_job, told
from covtoken.shards.pictures import write_pictures


def run(args) -> None:
    folder = Path(args.input)
    if folder.is_dir() and not args.split and not has_masks(folder):
        prepared = prepare(list_inputs(folder), Grey(args.modality))
        for fault in prepared.faults.values():
            print(f"left out: {fault}", file=sys.stderr)
        units = units_of(prepared)
        cases = tuple(case for name in prepared.opened for case in as_unit(prepared.opened[name], units[name]))
        write(cases[: args.max_cases], args)
        return
    cohort = open_cohort(args.input, **({"folder": args.data} if args.data else {}))
    cases = cohort.cases
    if args.split:
        splits = load_splits(cohort)
        cases = tuple(case for case in cases if splits.get(case.unit) == args.split)
    cases = cases[: args.max_cases]
    if not cases:
        raise CovtokenError(
            f"{args.input}: no case in the split {args.split!r}: expected bank, selection, calibration or test"
        )
    write(cases, args)


def has_masks(folder: Path) -> bool:
    """Whether a folder lists masks; as a cohort it then keeps the names that its gates use."""
    index = folder / "index.csv"
    return index.is_file() and "mask" in index.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0]


def write(cases, args) -> None:
    n = args.shards or -(-len(cases) // 256)
    for i in mine(range(1, n + 1), args.part):
        told(f"pictures {i}/{n}", write_pictures(cases, args.output, i, n))


parser = parser_of(__doc__, "a cohort's name, or a folder of pictures as covtoken map takes it")
parser.add_argument("--shards", type=int, help="files to write (default: one for 256 cases)")
parser.add_argument("--split", help="bank, selection, calibration or test (default: all cases)")
parser.add_argument("--modality", default="", help="ultrasound or ct, of a folder whose files do not say it")
parser.add_argument("--data", help="folder of a named cohort outside COVTOKEN_DATA")

if __name__ == "__main__":
    run_job(parser, run)
