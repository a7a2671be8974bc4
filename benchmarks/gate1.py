"""Wall seconds and peak memory of gate 1: `python benchmarks/gate1.py [cohort] [split]`."""

import resource
import sys
import time

from covtoken.gates import gate1
from covtoken.protocol.planning import plan_for
from covtoken.protocol.setting import open_setting

cohort, split = (sys.argv[1:] + ["phantom", "selection"][len(sys.argv) - 1 :])[:2]
started = time.perf_counter()
setting = open_setting(cohort, split)
run = gate1.run(setting, plan_for(setting))
peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"{cohort}, {split}: {time.perf_counter() - started:.0f} s, peak {peak_gb:.2f} GB, {run.report.decision}")
