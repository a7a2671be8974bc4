"""Images a second of FrozenViT against a plain timm loop, fp32 and bf16. Run: python benchmarks/extraction.py

Both run the same batches of random pictures to the last block; the plain loop calls timm's ``forward_features`` and
keeps nothing. ``middle`` stops after a middle block, ``attention`` reads CLS attention of three blocks on the way.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext

import torch

from covtoken.backbone.weights import load_backbone


def rates(runs, images: torch.Tensor, batch: int, repeats: int) -> list[float]:
    """Images a second of each run: the fastest of ``repeats`` passes, after one to warm up.

    The runs take turns, so that other work on the machine slows all of them alike.
    """
    best = [float("inf")] * len(runs)
    for i in range(repeats + 1):
        for j, run in enumerate(runs):
            start = time.perf_counter()
            for part in images.split(batch):
                run(part)
            best[j] = min(best[j], time.perf_counter() - start) if i else best[j]
    return [len(images) / seconds for seconds in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vit = load_backbone(args.backbone, args.size)
    images = torch.randn(args.images, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    last, middle = vit.n_blocks, vit.n_blocks * 3 // 4
    print(f"{vit.label}, {args.size} px, batch {args.batch}, {args.threads} threads, torch {torch.__version__}")
    print(f"{'':10}{'plain timm':>12}{'FrozenViT':>12}{'ratio':>8}{'middle':>10}{'attention':>11}   images a second")
    for precision in ("fp32", "bf16"):

        def plain(part, precision=precision):
            cast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
            with torch.no_grad(), cast:
                vit.model.forward_features(part)

        def ours(part, block=last, attention=(), precision=precision):
            vit.extract(part, [block], attention, precision=precision)

        runs = [
            plain,
            ours,
            lambda part: ours(part, middle),
            lambda part: ours(part, last, [last - 4, last - 2, last]),
        ]
        plain_rate, our_rate, middle_rate, attention_rate = rates(runs, images, args.batch, args.repeats)
        ratio = our_rate / plain_rate
        print(f"{precision:10}{plain_rate:12.1f}{our_rate:12.1f}{ratio:8.2f}{middle_rate:10.1f}{attention_rate:11.1f}")


if __name__ == "__main__":
    main()
