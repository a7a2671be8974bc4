# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.14.1", "torchvision==0.29.1", "timm==1.0.31", "numpy==2.4.6", "scipy==1.17.1", "statsmodels==0.15.0",
#   "nibabel==5.4.2", "altair==6.3.0", "vl-convert-python==1.9.0.post1", "faiss-cpu==1.15.1", "safetensors==0.8.0",
#   "typer==0.29.2", "rich==15.0.0", "pooch==1.9.0", "pydicom==3.0.2", "onnx==1.23.2",
# ]
# ///
r"""Run gates on the selection split of a cohort, a report each.

A shard takes every N-th of the gates. Test splits are not opened here: `covtoken gate --split test --record` does that,
under a lock and with a line in the log. Needs the checkout, where splits and locks lie.

Here:          PYTHONPATH=. uv run jobs/run_gate.py phantom shards/gates --gates 0,1
On HF Jobs:    hf jobs uv run --flavor cpu-upgrade -v .:/covtoken -e PYTHONPATH=/covtoken \
                 -v hf://buckets/OWNER/NAME:/data jobs/run_gate.py \
                 busi /data/gates --data /data/busi --backbone dinov2-base --shard 1/8
"""

from __future__ import annotations

from dataclasses import asdict

from covtoken.errors import unknown
from covtoken.gates.runs import CHOOSING, GATES
from covtoken.protocol.planning import plan_for
from covtoken.protocol.setting import open_setting
from covtoken.shards.job import mine, parser_of, results, run_job, told


def run(args) -> None:
    gates = args.gates.split(",")
    for gate in gates:
        if gate not in GATES:
            raise unknown("gate", gate, list(GATES))
    options = {"data": args.data, "cache": not args.no_cache, "progress": False}
    setting = open_setting(args.input, "selection", args.backbone, **options).limited(args.max_cases)
    key = {"cohort": setting.cohort.name, "split": "selection", "data_fingerprint": setting.fingerprint}
    key |= {"backbone": setting.vit.name, "weights_sha256": setting.vit.weights_sha256, "max_cases": args.max_cases}

    def report(gate: str) -> dict:
        if gate == "0":
            every = open_setting(args.input, None, setting.vit, **options).limited(args.max_cases)
            return asdict(GATES[gate](every).report)
        return asdict(GATES[gate](setting, plan_for(setting, need_lock=False, may_choose=gate in CHOOSING)).report)

    works = {f"gate{gate}": lambda gate=gate: report(gate) for gate in mine(gates, args.part)}
    for name, made in results(args.output, key, works):
        told(name, made)


parser = parser_of(__doc__, "a cohort's name, or a folder with index.csv")
parser.add_argument("--gates", default="0,1,2,3,4,5,6,negative_result", help="such as 0,1")
parser.add_argument("--backbone", default="embedded")
parser.add_argument("--data", help="folder of a named cohort outside COVTOKEN_DATA")
parser.add_argument("--no-cache", action="store_true", help="hold features in memory")

if __name__ == "__main__":
    run_job(parser, run)
