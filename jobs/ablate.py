# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "numpy==2.4.6", "scipy==1.17.1", "statsmodels==0.15.0",
#   "nibabel==5.4.2", "altair==6.3.0", "vl-convert-python==1.9.0.post1", "faiss-cpu==1.15.1", "safetensors==0.8.0",
#   "typer==0.29.2", "rich==15.0.0", "pooch==1.9.0", "pydicom==3.0.2", "onnx==1.23.2",
# ]
# ///
r"""Change one thing at a time on the selection split of a cohort, a table each.

A shard takes every N-th of the ablations. Nothing is chosen. Needs the checkout, where splits and locks lie.

Here:          PYTHONPATH=. uv run jobs/ablate.py phantom shards/ablations
On HF Jobs:    hf jobs uv run --flavor cpu-upgrade -v .:/covtoken -e PYTHONPATH=/covtoken \
                 -v hf://buckets/OWNER/NAME:/data jobs/ablate.py \
                 busi /data/ablations --data /data/busi --shard 1/8
"""

from __future__ import annotations

from covtoken.shards.job import mine, parser_of, results, run_job, told
from covtoken.studies.ablations.run import ABLATIONS, run_ablations
from covtoken.studies.study import open_study


def run(args) -> None:
    names = args.only.split(",") if args.only else list(ABLATIONS)
    options = {"data": args.data, "cache": not args.no_cache, "progress": False}
    setting = open_study(args.input, args.backbone, **options).limited(args.max_cases)
    key = {"cohort": setting.cohort.name, "data_fingerprint": setting.fingerprint, "backbone": setting.vit.name}
    key |= {"weights_sha256": setting.vit.weights_sha256, "max_cases": args.max_cases}

    def table(name: str) -> dict:
        return run_ablations(args.input, args.backbone, only=[name], most_units=args.max_cases, **options)

    for name, made in results(
        args.output, key, {name: lambda name=name: table(name) for name in mine(names, args.part)}
    ):
        told(name, made)


parser = parser_of(__doc__, "a large cohort's name")
parser.add_argument("--only", help="such as pooling,block (default: all)")
parser.add_argument("--backbone", default="embedded")
parser.add_argument("--data", help="folder of a named cohort outside COVTOKEN_DATA")
parser.add_argument("--no-cache", action="store_true", help="hold features in memory")

if __name__ == "__main__":
    run_job(parser, run)
