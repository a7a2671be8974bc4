# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "numpy==2.4.6", "scipy==1.17.1", "statsmodels==0.15.0",
#   "nibabel==5.4.2", "altair==6.3.0", "vl-convert-python==1.9.0.post1", "faiss-cpu==1.15.1", "safetensors==0.8.0",
#   "typer==0.29.2", "rich==15.0.0", "pooch==1.9.0", "pydicom==3.0.2", "onnx==1.23.2",
# ]
# ///
r"""Print the lines that run a job on N machines, how long that may take, and run them one by one if so asked.

Prints what was measured (measured.json, beside this file), what that comes to, and under which assumption; the two are
not the same thing. Without ``--dry-run`` the lines are run, one after the other; on HF Jobs each returns at once.

Here:          PYTHONPATH=. uv run jobs/launch.py extract_tokens shards/pictures shards/tokens --shards 4 --dry-run
On HF Jobs:    PYTHONPATH=. uv run jobs/launch.py extract_tokens /data/pictures /data/tokens --shards 8 --on l4x1 \
                 --bucket OWNER/NAME --cases 240000 --dry-run
(This one runs here: it starts the others by `hf jobs uv run`.)
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from covtoken.errors import CovtokenError, unknown
from covtoken.paths import write_then_rename
from covtoken.shards.job import run_job
from covtoken.shards.rates import filled, read_rates, words

JOBS = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in JOBS.glob("*.py") if path.stem != "launch")


def run(args) -> None:
    if args.job == "readme":
        text = filled((JOBS / "README.md").read_text(), read_rates(args.measured))
        with write_then_rename(JOBS / "README.md") as temporary:
            temporary.write_text(text)
        return
    if args.job not in NAMES:
        raise unknown("job", args.job, NAMES)
    if args.input is None or args.output is None:
        raise CovtokenError(f"{args.job}: give its INPUT and OUTPUT")
    if args.shards < 1:
        raise CovtokenError(f"{args.shards} shards: expected 1 or more")
    for line in (lines := lines_of(args)):
        print(shlex.join(line))
    rates = read_rates(args.measured, args.job)
    if args.cases and rates:
        print(*(words(args.cases, args.shards, row) for row in rates), sep="\n\n")
    elif args.cases:
        print(f"measured:    nothing of {args.job}: no time can be told (extract_tokens has --measured)")
    if args.dry_run:
        return
    for line in lines:
        if code := subprocess.run(line, check=False).returncode:
            print(f"ended with {code}: {shlex.join(line)}", file=sys.stderr)
            raise SystemExit(code)


def lines_of(args) -> list[list[str]]:
    script, more = str(JOBS / f"{args.job}.py"), shlex.split(args.more)
    if args.max_cases:
        more += ["--max-cases", str(args.max_cases)]
    start = [sys.executable, script]
    if args.on:
        root = JOBS.parent
        start = ["hf", "jobs", "uv", "run", "--detach", "--flavor", args.on, "-v", f"{root}:/covtoken"]
        start += ["-e", "PYTHONPATH=/covtoken", "-v", f"hf://buckets/{args.bucket}:/data", script]
    parts = [f"{i}/{args.shards}" for i in range(1, args.shards + 1)]
    return [[*start, args.input, args.output, "--shard", part, *more] for part in parts]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("job", metavar="JOB", help=f"{', '.join(NAMES)}; or `readme`, which writes the table of README.md")
parser.add_argument("input", metavar="INPUT", nargs="?", help="of the job")
parser.add_argument("output", metavar="OUTPUT", nargs="?", help="of the job")
parser.add_argument("--with", dest="more", default="", help="further arguments of the job, in quotes")
parser.add_argument("--max-cases", type=int, help="of the job")
parser.add_argument("--shards", type=int, default=1, help="machines")
parser.add_argument("--on", metavar="FLAVOR", help="on HF Jobs, on this hardware (default: here)")
parser.add_argument("--bucket", default="OWNER/NAME", help="of HF, seen as /data")
parser.add_argument("--cases", type=int, help="of which to tell the time")
parser.add_argument("--measured", type=Path, default=JOBS / "measured.json")
parser.add_argument("--dry-run", action="store_true", help="print alone")

if __name__ == "__main__":
    run_job(parser, run)
