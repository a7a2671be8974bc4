# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "numpy==2.4.6", "scipy==1.17.1", "statsmodels==0.15.0",
#   "nibabel==5.4.2", "altair==6.3.0", "vl-convert-python==1.9.0.post1", "faiss-cpu==1.15.1", "safetensors==0.8.0",
#   "typer==0.29.2", "rich==15.0.0", "pooch==1.9.0", "pydicom==3.0.2", "onnx==1.23.2",
# ]
# ///
r"""Time routed passes against the whole pass and its rivals on pictures, a table a setting.

Directions, banks and exit maps hold random numbers: they cost what fitted ones cost. All savings are net of them. A
shard takes every N-th of the settings; settings on different machines are not to be compared on the clock.

Here:          PYTHONPATH=. uv run jobs/route_benchmark.py shards/pictures shards/routes
On HF Jobs:    hf jobs uv run --flavor l4x1 -v .:/covtoken -e PYTHONPATH=/covtoken \
                 -v hf://buckets/OWNER/NAME:/data jobs/route_benchmark.py \
                 /data/pictures /data/routes --backbone dinov2-base --device cuda --precision bf16
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch

from covtoken.backbone.weights import load_backbone
from covtoken.data.intensity import to_input
from covtoken.economy.keep import budget
from covtoken.gates.economy.clock import passes_of, time_rows
from covtoken.shards.job import machine_of, mine, parser_of, results, run_job, told
from covtoken.shards.pictures import open_pictures


def run(args) -> None:
    cases, digests, _ = open_pictures(Path(args.input), args.max_cases or args.batch)
    cases = (cases * args.batch)[: args.batch]
    vit = load_backbone(args.backbone, args.picture_size)
    vit.model.to(args.device)
    pictures = [vit.squash(to_input(case.pixels(), case, vit.input)) for case in cases]
    images = vit.normalise(torch.stack(pictures))
    machine = machine_of(args.device)
    key = {"backbone": vit.name, "weights_sha256": vit.weights_sha256, "picture_size": vit.picture_size}
    key |= {"batch": args.batch, "repeats": args.repeats, "precision": args.precision, "digests": digests} | machine

    def table(block: int, ratio: float) -> list[dict]:
        k = budget(vit.rows * vit.cols, ratio)
        passes = passes_of(vit, block, k, f"{ratio:g} after block {block}", ("equal",), args.precision)
        return time_rows(vit, passes, args.batch, args.repeats, args.device == "cuda", images)

    settings = product(map(int, args.blocks.split(",")), map(float, args.ratios.split(",")))
    works = {f"route-{b}-{r:g}": lambda b=b, r=r: table(b, r) for b, r in mine(settings, args.part)}
    for name, made in results(args.output, key, works):
        told(name, made)


parser = parser_of(__doc__, "folder of shards of pictures (materialize.py)")
parser.add_argument("--backbone", default="embedded")
parser.add_argument("--picture-size", type=int, default=224)
parser.add_argument("--blocks", default="3,4,6", help="after which tokens are dropped")
parser.add_argument("--ratios", default="0.25,0.5", help="shares of the tokens that go on")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--repeats", type=int, default=9, help="rounds that count, in which all passes take turns")
parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
parser.add_argument("--device", default="cpu", help="cpu or cuda")

if __name__ == "__main__":
    run_job(parser, run)
