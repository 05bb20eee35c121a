"""What taking turns is worth, and halting or pausing between them: how far blocks of one file lie from 1.

Each block is one of `turns.Contest`, two fresh processes loaded at once; the ways of taking turns are themselves taken
in turn, so that all of them see the same machine. With `--bursts` a second process loads a core in bursts meanwhile.

Goal: the gate's way on this system scatters less than ways without such care. Exits with 1 when it is missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
from _report import Goal, pixels, say, whole
from gate import BURSTS

from fastvit_bench import backends
from fastvit_bench.comparing import inputs, interleaved
from fastvit_bench.records import Device, Fuse, ModelSpec, Shape
from fastvit_bench.records.comparison import InterleavePlan, Plan
from fastvit_bench.stats import sequential

PAUSED = "ten turns of ten runs, with a pause"
STOPPED = "ten turns of eight runs, the other side halted"
WAYS = {
    "one after the other, 100 runs each": InterleavePlan(turns=1, runs=100, turn_ms=60_000),
    "ten turns of ten runs, no pause": InterleavePlan(pause_ms=0),
    PAUSED: InterleavePlan(),
    **({STOPPED: interleaved.INTERLEAVE_PLAN} if interleaved.INTERLEAVE_PLAN.idle == "stopped" else {}),
}
OURS = STOPPED if STOPPED in WAYS else PAUSED


def measured(pair: inputs.ComparisonPair, blocks: int, seed: int) -> dict[str, list[float]]:
    """Log ratios of so many blocks of each way; none is measured again, whatever disturbs it."""
    machine = interleaved.machines.collect()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(blocks):
        for way, how in WAYS.items():
            say(f"block {number + 1} of {blocks}: {way}")
            plan = Plan(looks=(1,), seed=seed + number, turns=how, max_time_s=36_000)
            contest = interleaved.InterleavedRun([pair], plan, machine, timeout_s=600, same=inputs.allow_any)
            block = contest.measure(pair.name)
            if isinstance(block, inputs.Unavailable):
                raise SystemExit(f"error: {pair.name} cannot be timed: {block.reason}")
            found[way].append(block.log_ratio)
    return found


def main() -> int:
    """Measure and print; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="fastvit_t8", help="(%(default)s)")
    options.add_argument("--res", type=pixels, default=256, help="height and width in pixels (%(default)s)")
    options.add_argument("--blocks", type=whole, default=24, help="of each way (%(default)s)")
    options.add_argument("--bursts", action="store_true", help="a second process loads one core meanwhile")
    options.add_argument("--seed", type=int, default=0, help="of the order (%(default)s)")
    written = options.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print every ratio as JSON")
    written.add_argument("--markdown", action="store_true", help="print the table, as without it")
    asked = options.parse_args()
    device = Device(name="cpu", backend="onnxruntime")
    device = msgspec.structs.replace(device, options=backends.get(device.backend).options(device))
    shape = Shape(batch=1, height=asked.res, width=asked.res)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        (entry,) = inputs.export_missing(
            [ModelSpec(name=asked.model, variant=asked.model)], [shape], Fuse.FOLDED, device,
            label="itself", seed=0, models=Path(folder), timeout_s=600, notify=say,
        )  # fmt: skip
        if not isinstance(entry, inputs.Candidate):
            raise SystemExit(f"error: {entry.reason}")
        if asked.bursts:
            loader = subprocess.Popen([sys.executable, "-c", BURSTS])
            held.callback(loader.wait)
            held.callback(loader.kill)
        found = measured(inputs.ComparisonPair(inputs.name_of(entry.artifact), entry, entry), asked.blocks, asked.seed)
    spread = {way: statistics.fmean(abs(log) for log in logs) for way, logs in found.items()}
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        print("| blocks of the same file | mean distance from 1 | scatter (MAD) | worst |\n| --- | --: | --: | --: |")
        for way, logs in found.items():
            scatter = sequential.scatter(logs)
            print(
                f"| {way} | {100 * spread[way]:.2f} % | {'' if scatter is None else f'{100 * scatter:.2f} %'} "
                f"| {100 * max(map(abs, logs)):.1f} % |"
            )
    careless = [way for way in WAYS if way not in (PAUSED, STOPPED)]
    met = all(spread[OURS] < spread[way] for way in careless)
    goal = Goal(claim=f"{OURS}: less scatter than without care", met=met, reason="")
    print(f"- Goal: {goal.claim}: {'met' if goal.met else 'MISSED'}.", file=sys.stderr)
    return 0 if goal.met else 1


if __name__ == "__main__":
    sys.exit(main())
