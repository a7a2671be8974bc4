"""Kill an extraction on a local Ray at random moments, then finish it: python benchmarks/ray_kills.py --kills 20

Each time a shard has come, or after some seconds without one, a worker or the driver is killed by SIGKILL. In the end
every picture must be there once, with the bytes that one process gives.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from covtoken.backbone.cache import features
from covtoken.backbone.weights import load_backbone
from covtoken.data.cohorts import open_cohort
from covtoken.shards.on_ray import Backbone, extract_on_ray
from covtoken.shards.pictures import write_pictures
from covtoken.shards.tokens import Asked, open_tokens

BACKBONE, ASKED = Backbone("random:vit_tiny_patch16_224", 96), Asked((6, 9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--shards", type=int, default=120)
    parser.add_argument("--longest", type=float, default=400.0, help="seconds without a shard after which to kill")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="what Ray says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extract", nargs=2, metavar=("PICTURES", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.extract:
        extract_on_ray(*map(Path, args.extract), BACKBONE, ASKED, workers=2)
        return
    torch.set_num_threads(1)
    cases, dice = open_cohort("phantom", n=args.pictures).cases, random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        pictures, tokens = Path(folder, "pictures"), Path(folder, "tokens")
        for i in range(1, args.shards + 1):
            write_pictures(cases, pictures, i, args.shards)
        command = [sys.executable, __file__, "--extract", str(pictures), str(tokens)]
        killed = 0
        while killed < args.kills:
            with args.log.open("ab") as log:
                run = subprocess.Popen(command, stdout=log, stderr=log)
            killed += wait_and_kill(run, tokens, dice, args.longest, args.kills - killed)
            print(f"{killed} kills, {manifests(tokens)} of {args.shards} shards", flush=True)
            if manifests(tokens) == args.shards:
                print("all shards are there: give more shards to be killed among")
                break
        subprocess.run(command, check=True)
        vit = load_backbone(BACKBONE.name, BACKBONE.picture_size)
        single = features(cases, vit, ASKED.blocks, batch=1, progress=False, cache=False)
        whole = open_tokens(tokens)
        assert whole.names == single.names and len(set(whole.names)) == args.pictures
        assert all(torch.equal(whole.tokens(b), single.tokens(b)) for b in ASKED.blocks)
    print(f"{killed} kills: all {args.pictures} rows once, equal to one process bit for bit")


def wait_and_kill(run: subprocess.Popen, tokens: Path, dice: random.Random, longest: float, left: int) -> int:
    """Kill workers, in the end the driver, each time a moment after a shard came; give the number of kills."""
    kills = 0
    while True:
        before, until = manifests(tokens), time.monotonic() + dice.uniform(0.3, 1.0) * longest
        while run.poll() is None and time.monotonic() < until and manifests(tokens) == before:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.5))
        if run.poll() is not None:
            return kills
        workers = workers_of(run.pid)
        if workers and kills < left - 1 and dice.random() < 0.6:
            os.kill(dice.choice(workers), signal.SIGKILL)  # Ray starts another
            kills += 1
            continue
        run.kill()
        run.wait()
        return kills + 1


def workers_of(driver: int) -> list[int]:
    """List the processes of Ray's workers under a driver."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
    rows = [line.split(None, 2) for line in listing]
    under, grown = {driver}, True
    while grown:
        more = {int(pid) for pid, parent, _ in rows if int(parent) in under} - under
        under, grown = under | more, bool(more)
    return [int(pid) for pid, _, what in rows if int(pid) in under and what.startswith("ray::")]


def manifests(folder: Path) -> int:
    """Count the shards that are there."""
    return len(list(folder.glob("*.json")))


if __name__ == "__main__":
    main()
