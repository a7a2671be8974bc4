# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "numpy==2.4.6", "scipy==1.17.1", "statsmodels==0.15.0",
#   "nibabel==5.4.2", "altair==6.3.0", "vl-convert-python==1.9.0.post1", "faiss-cpu==1.15.1", "safetensors==0.8.0",
#   "typer==0.29.2", "rich==15.0.0", "pooch==1.9.0", "pydicom==3.0.2", "onnx==1.23.2",
# ]
# ///
r"""Extract tokens of shards of pictures, a shard of tokens each.

By default the blocks that C− reads, one picture a pass: then tokens do not depend on what shares a batch. On a GPU give
``--batch 64``; the last bits of tokens then depend on their batch, and shards of another batch are refused.

Here:          PYTHONPATH=. uv run jobs/extract_tokens.py shards/pictures shards/tokens
On HF Jobs:    hf jobs uv run --flavor l4x1 -v .:/covtoken -e PYTHONPATH=/covtoken \
                 -v hf://buckets/OWNER/NAME:/data jobs/extract_tokens.py \
                 /data/pictures /data/tokens --shard 1/8 --backbone dinov2-base --device cuda --batch 64
"""

from __future__ import annotations

import time
from pathlib import Path

from covtoken.backbone.weights import load_backbone
from covtoken.scores.recipe import recommended
from covtoken.shards.job import machine_of, mine, note_rate, parser_of, run_job, told
from covtoken.shards.pictures import open_pictures
from covtoken.shards.tokens import Asked, extract_shard


def run(args) -> None:
    cases, _, n = open_pictures(Path(args.input), args.max_cases)
    if args.ray:
        from covtoken.shards.on_ray import Backbone, extract_on_ray

        depth = load_backbone(args.backbone, args.picture_size).n_blocks
        backbone = Backbone(args.backbone, args.picture_size, args.weights, args.device)
        extract_on_ray(Path(args.input), args.output, backbone, asked_of(args, depth), args.ray, args.device == "cuda")
        return
    vit = load_backbone(args.backbone, args.picture_size, args.weights)
    vit.model.to(args.device)
    asked, started, done = asked_of(args, vit.n_blocks), time.perf_counter(), 0
    for i in mine(range(1, n + 1), args.part):
        made = extract_shard(Path(args.input), args.output, i, vit, asked)
        done += made * len(cases[i - 1 :: n])
        told(f"tokens {i}/{n}", made)
    if args.measured and done:
        about = {
            "backbone": vit.label,
            "picture_size": vit.picture_size,
            "batch": args.batch,
            "precision": args.precision,
        }
        note_rate(args.measured, "extract_tokens", done, started, **about, **machine_of(args.device))


def asked_of(args, n_blocks: int) -> Asked:
    recipe = recommended(n_blocks)
    blocks = [int(b) for b in args.blocks.split(",")] if args.blocks else [recipe.block, recipe.settings.target_block]
    return Asked(tuple(blocks), (), args.saliency, args.precision, args.batch, args.max_cases)


parser = parser_of(__doc__, "folder of shards of pictures (materialize.py)")
parser.add_argument("--backbone", default="embedded", help="as `covtoken gate --backbone`")
parser.add_argument("--weights", help="file in place of the backbone's published weights")
parser.add_argument("--picture-size", type=int, default=224)
parser.add_argument("--blocks", help="such as 6,9 (default: those of C−)")
parser.add_argument("--saliency", action="store_true", help="the head's logit too, for C")
parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
parser.add_argument("--batch", type=int, default=1, help="pictures a pass")
parser.add_argument("--device", default="cpu", help="cpu or cuda")
parser.add_argument(
    "--ray", type=int, metavar="WORKERS", help="on Ray (covtoken[ray]); all shards, whatever --shard says"
)
parser.add_argument("--measured", type=Path, help="JSON list to note the rate in, such as jobs/measured.json")

if __name__ == "__main__":
    run_job(parser, run)
