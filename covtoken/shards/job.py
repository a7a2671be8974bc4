"""Read the command line of a job, keep its results so that it resumes, and note how fast it was."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from covtoken.errors import CovtokenError
from covtoken.paths import write_then_rename
from covtoken.shards.store import refuse_foreign, shard_of

Job = Callable[[argparse.Namespace], object]


def parser_of(doc: str, what: str) -> argparse.ArgumentParser:
    """Make the parser that all jobs share: INPUT, OUTPUT, --max-cases and --shard.

    Args:
        doc: the script's docstring.
        what: INPUT is.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("input", metavar="INPUT", help=what)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder; what it holds already is not made again")
    parser.add_argument(
        "--max-cases", type=_positive, help="the first so many cases; of a cohort with splits: units of each"
    )
    parser.add_argument("--shard", help="i/N: the i-th of N parts of the work (default: all of it)")
    return parser


def run_job(parser: argparse.ArgumentParser, job: Job, argv: list[str] | None = None) -> None:
    """Run a job; print a mistake of its input as one line and exit with 2."""
    args = parser.parse_args(argv)
    try:
        args.part = shard_of(getattr(args, "shard", None))
        job(args)
    except CovtokenError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def mine(works: Iterable[Any], part: tuple[int, int]) -> list[Any]:
    """Take every N-th piece of work, from the i-th on."""
    return list(works)[part[0] - 1 :: part[1]]


def results(folder: Path, key: Mapping[str, Any], works: Mapping[str, Callable[[], Any]]) -> Iterator[tuple[str, bool]]:
    """Make results that are not there: a JSON file each, whole or absent.

    Args:
        key: what all were made of; a file that was made of something else is refused.
        works: makes the content of a file by name; JSON.

    Yields:
        each name, and whether it was made.
    """
    for name, make in works.items():
        path = folder / f"{name}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if found is not None:
            refuse_foreign(path, found, key)
            yield name, False
            continue
        content = make()
        with write_then_rename(path) as temporary:
            text = json.dumps({"key": dict(key), "content": content}, indent=1, sort_keys=True, allow_nan=False)
            temporary.write_text(text + "\n")
        yield name, True


def told(name: str, made: bool) -> None:
    """Say on stderr what became of a piece of work."""
    print(f"{name}: {'made' if made else 'was there'}", file=sys.stderr, flush=True)


def machine_of(device: torch.device | str) -> dict[str, Any]:
    """Say what a rate was measured on."""
    gpu = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU"
    return {"device": name, "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def note_rate(file: Path, job: str, cases: int, started: float, **about: Any) -> dict[str, Any]:
    """Add a measured rate, and the machine's load meanwhile, to a JSON list, in place of one of the same circumstances.

    Args:
        cases: that were done.
        started: ``time.perf_counter()`` when the first began.
        about: circumstances.
    """
    seconds = time.perf_counter() - started
    rows = json.loads(file.read_text()) if file.is_file() else []
    row = {"job": job, **about, "cases": cases, "seconds": round(seconds, 2)}
    row["cases_per_second"] = round(cases / seconds, 2)
    row["load"] = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    rows = [old for old in rows if any(old.get(name) != value for name, value in ({"job": job} | about).items())]
    with write_then_rename(file) as temporary:
        temporary.write_text(json.dumps([*rows, row], indent=1) + "\n")
    return row


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)
