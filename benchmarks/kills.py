"""Kill bank build, map and gate by SIGKILL at random moments and run them again: python benchmarks/kills.py --kills 20

Each kill has a folder and a cache of its own. Every other one waits, from its random moment on, for a temporary file,
so that it lands inside a write. The second run must give what an uninterrupted one gives, byte for byte: the bank,
every file of the maps, and the gate's report but for its time and the folder's name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from covtoken.cli.app import main as covtoken
from covtoken.paths import project_root

TINY = "--backbone random:vit_tiny_patch16_224"
COMMANDS = {
    "bank": f"bank build pictures -o made/bank.safetensors {TINY} --size 96",
    "map": f"map -i pictures -o made {TINY} --size 96",
    "gate": f"gate 1 --cohort pictures --split crossfit --name {{name}} {TINY} --json",
}
# Of run.json and its cases. A second run that finds every case done loads no backbone, and names none.
TIMES = ("seconds", "peak_memory_mb", "input", "notes", "backbone", "device")
OF_A_RUN = ("wall_seconds", "created", "cohort", "command", "provenance")  # of a report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS, help="one of the commands")
    args = parser.parse_args()
    dice, which = random.Random(args.seed), [args.only] if args.only else list(COMMANDS)
    counts = {name: args.kills // len(which) + (i < args.kills % len(which)) for i, name in enumerate(which)}
    outcomes = [each for name, kills in counts.items() for each in kill(name, kills, dice)]
    landed, inside = (sum(outcome[i] for outcome in outcomes) for i in range(2))
    print(f"{len(outcomes)} runs: {landed} killed, {inside} of these inside a write; every second run equals")


def kill(name: str, kills: int, dice: random.Random) -> list[tuple[bool, bool]]:
    """Kill a command so often before its end, in fresh folders, and run it again; (killed so, inside a write) each.

    Raises:
        AssertionError: a second run fails, or gives other files than the uninterrupted one.
    """
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        expected = finished(name, fresh(Path(folder, "whole")))
        lasts = time.monotonic() - started
        i = -1
        while sum(landed for landed, _ in outcomes) < kills:
            i += 1
            here = fresh(Path(folder, f"killed{i}"))
            moment = dice.uniform(0, lasts)
            landed = killed(start(name, here), here, moment, wait=i % 2 == 1)
            inside = landed and bool(temporaries(here))
            found = finished(name, here)
            differ = sorted(file for file in {*found, *expected} if found.get(file) != expected.get(file))
            assert not differ, f"{name}: killed after {moment:.2f} s, and run again: {differ} are not the same"
            where = "inside a write" if inside else "between writes" if landed else "never: it had ended"
            print(f"{name}: after {moment:.2f} of {lasts:.2f} s, killed {where}; run again: the same", flush=True)
            outcomes.append((landed, inside))
    return outcomes


def fresh(here: Path) -> Path:
    """Make a folder with twelve pictures and their masks."""
    for part in ("i", "m"):
        (here / "pictures" / part).mkdir(parents=True)
    rows = ["image,mask,patient"]
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64)).astype(np.uint8)
        Image.fromarray(pixels).save(here / f"pictures/i/p{i}.png")
        mask = np.zeros((64, 64), np.uint8)
        mask[8:40, 8:40] = 255
        Image.fromarray(mask).save(here / f"pictures/m/p{i}.png")
        rows.append(f"i/p{i}.png,m/p{i}.png,a{i}")
    (here / "pictures/index.csv").write_text("\n".join(rows) + "\n")
    (here / "made").mkdir()
    return here


def start(name: str, here: Path) -> int:
    """Start a command in a fork, which has the imports done; give its process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(here)
        os.environ["COVTOKEN_CACHE"] = str(here / "cache")
        log = os.open(here / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["covtoken", *shlex.split(COMMANDS[name].format(name=report_name(here)))]
        covtoken()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        os._exit(code if isinstance(code, int) else 1)


def killed(process: int, here: Path, moment: float, wait: bool) -> bool:
    """Kill after ``moment`` seconds, or at the next temporary file after it; tell whether it still ran."""
    until, again = time.monotonic() + moment, 0
    while time.monotonic() < until or (wait and not temporaries(here)):
        again, _ = os.waitpid(process, os.WNOHANG)
        if again:
            return False
        time.sleep(0 if time.monotonic() >= until else 0.002)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def finished(name: str, here: Path) -> dict[str, bytes]:
    """Run a command to its end, and read what it made."""
    _, status = os.waitpid(start(name, here), 0)
    assert status == 0, (here / "log").read_text()[-2000:]
    if name == "gate":
        path = project_root() / "gate_reports/_run" / report_name(here) / "gate1.json"
        report = {key: value for key, value in json.loads(path.read_text()).items() if key not in OF_A_RUN}
        path.unlink()
        return {"report": json.dumps(report, sort_keys=True).encode()}
    made = {str(path.relative_to(here)): path.read_bytes() for path in (here / "made").rglob("*") if path.is_file()}
    made.pop("made/cases.csv", None)  # seconds and memory of each case
    if "made/run.json" in made:
        made["made/run.json"] = json.dumps(without_times(json.loads(made["made/run.json"])), sort_keys=True).encode()
    return made


def without_times(content):
    """Take from run.json what a second run may change: times, memory, and whether a case was kept from before."""
    if isinstance(content, list):
        return [without_times(each) for each in content]
    if not isinstance(content, dict):
        return "done" if content == "kept" else content
    return {key: without_times(value) for key, value in content.items() if key not in TIMES}


def temporaries(here: Path) -> list[Path]:
    """List the temporary files and folders of writes that have begun and not ended."""
    return [path for part in ("made", "cache") for path in (here / part).rglob(".*")]


def report_name(here: Path) -> str:
    """Name the report of a folder."""
    return f"kills-{here.parent.name}-{here.name}"


if __name__ == "__main__":
    main()
