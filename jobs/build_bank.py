# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "numpy==2.4.6", "scipy==1.17.1", "statsmodels==0.15.0",
#   "nibabel==5.4.2", "altair==6.3.0", "vl-convert-python==1.9.0.post1", "faiss-cpu==1.15.1", "safetensors==0.8.0",
#   "typer==0.29.2", "rich==15.0.0", "pooch==1.9.0", "pydicom==3.0.2", "onnx==1.23.2",
# ]
# ///
r"""Fit the bank and the direction of C− over shards of tokens.

Every pass leaves a file a shard in OUTPUT/parts. With ``--shard i/N`` on several machines, each goes as far as the
files of the others let it and ends with exit code 3 while it waits: run it again. The results are
OUTPUT/direction.safetensors, which ``covtoken map --direction`` takes, and OUTPUT/bank.safetensors; parts/ may go then.

Here:          PYTHONPATH=. uv run jobs/build_bank.py shards/tokens shards/bank
On HF Jobs:    hf jobs uv run --flavor cpu-upgrade -v .:/covtoken -e PYTHONPATH=/covtoken \
                 -v hf://buckets/OWNER/NAME:/data jobs/build_bank.py \
                 /data/tokens /data/bank --shard 1/8
"""

from __future__ import annotations

import sys
from pathlib import Path

from covtoken.backbone.weights import load_backbone
from covtoken.bank.token_bank import REFERENCE_SIZE
from covtoken.errors import CovtokenError
from covtoken.scores.recipe import fixed_recipes
from covtoken.shards.fit import Waiting, fit_shards
from covtoken.shards.job import parser_of, run_job
from covtoken.shards.tokens import token_key

WAITS = 3


def run(args) -> None:
    tokens = Path(args.input)
    key, _ = token_key(tokens)
    if args.max_cases is not None and args.max_cases != key["cases"]:
        raise CovtokenError(
            f"{tokens} holds {key['cases']} cases: extract other shards with --max-cases {args.max_cases}"
        )
    recipe = fixed_recipes(args.depth or load_backbone(key["backbone"], key["picture_size"]).n_blocks, True)[
        args.recipe
    ]
    if args.ray:
        from covtoken.shards.on_ray import fit_on_ray

        fit_on_ray(tokens, args.output, recipe, args.ray, args.size, args.threshold)
        return
    try:
        fit_shards(tokens, args.output, recipe, args.part, args.size, args.threshold)
    except Waiting as waits:
        print(waits, file=sys.stderr)
        raise SystemExit(WAITS) from None
    direction = args.output / "direction.safetensors"
    size = f" --size {key['picture_size']}" * (key["picture_size"] != 224)
    then = f"covtoken map -i PICTURES -o MAPS --direction {direction}{size}"
    print(f"written: {direction}; next: {then}", file=sys.stderr)


parser = parser_of(__doc__, "folder of shards of tokens (extract_tokens.py)")
parser.add_argument("--recipe", choices=("recommended", "with_head"), default="recommended", help="C− or C")
parser.add_argument("--size", type=int, default=REFERENCE_SIZE, help="tokens of the reference")
parser.add_argument(
    "--no-threshold", dest="threshold", action="store_false", help="leave out what covtoken map sets its threshold by"
)
parser.add_argument("--depth", type=int, help="blocks of the backbone (default: it is loaded to be asked)")
parser.add_argument(
    "--ray", type=int, metavar="WORKERS", help="on Ray (covtoken[ray]); all shards, whatever --shard says"
)

if __name__ == "__main__":
    run_job(parser, run)
