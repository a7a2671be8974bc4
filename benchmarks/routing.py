"""Routed passes against the plain pass and token merging: python benchmarks/routing.py

Batch 1 and 8, 224 and 518 px; for each pass milliseconds a picture, speed-up on the clock (median over rounds in which
the passes take turns, and quartiles) and in FLOPs, GFLOPs and GMACs, all net of scores, searches and exit maps.
Weights, direction, bank and exit maps are random: they cost what fitted ones cost. On a GPU, if there is one, in bf16,
timed by CUDA events; else in fp32 on the CPU. `covtoken clock` times the settings that gate 6 chose.
"""

from __future__ import annotations

import argparse

import timm
import torch

from covtoken.backbone.weights import load_backbone
from covtoken.economy.flops import macs
from covtoken.economy.keep import budget
from covtoken.gates.economy.clock import passes_of, time_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="random:vit_small_patch14_dinov2")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 518])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--block", type=int, default=3, help="block after which tokens are dropped")
    parser.add_argument("--ratio", type=float, default=1 / 3, help="share of the tokens that goes on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gpu = torch.cuda.is_available()
    precision = "bf16" if gpu else "fp32"
    where = torch.cuda.get_device_name() if gpu else f"{args.threads} CPU threads"
    print(f"{args.backbone}, {where}, {precision}, torch {torch.__version__}, timm {timm.__version__}")
    for size in args.sizes:
        vit = load_backbone(args.backbone, size)
        vit.model.to("cuda" if gpu else "cpu")
        k = budget(vit.rows * vit.cols, args.ratio)
        schedules = ("equal", f"at once after {args.block}")
        passes = passes_of(vit, args.block, k, f"{args.ratio:.0%} after block {args.block}", schedules, precision)
        for batch in args.batches:
            print_table(
                f"{size} px, batch {batch}, {args.repeats} rounds", time_rows(vit, passes, batch, args.repeats, gpu)
            )


def print_table(title: str, rows: list[dict]) -> None:
    width = max(len(row["pass"]) for row in rows)
    heads = f"{'ms/picture':>12}{'× clock':>9}{'quartiles':>14}{'× FLOPs':>9}{'share':>7}{'GFLOPs':>9}{'GMACs':>8}"
    print(f"\n{title}\n{'':{width}}{heads}")
    for row in rows:
        clock, work = row["speedup_wall"], row["speedup_flops"]
        quartiles = f"{row['low']:.2f} … {row['high']:.2f}"
        numbers = f"{row['ms']:12.2f}{clock:9.2f}{quartiles:>14}{work:9.2f}{clock / work:7.2f}"
        print(f"{row['pass']:{width}}{numbers}{row['flops'] / 1e9:9.2f}{macs(row['flops']) / 1e9:8.2f}")


if __name__ == "__main__":
    main()
