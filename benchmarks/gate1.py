"""Wall seconds and peak memory of gate 1: `python benchmarks/gate1.py [cohort] [split]`."""

import resource
import sys
import time

from covtoken.gates.gate1 import run_gate1

cohort, split = (sys.argv[1:] + ["phantom", "selection"][len(sys.argv) - 1 :])[:2]
started = time.perf_counter()
run = run_gate1(cohort, split)
peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"{cohort}, {split}: {time.perf_counter() - started:.0f} s, peak {peak_gb:.2f} GB, {run.report.decision}")
