"""What the gate says of real files: of the same one on both sides, and of one with extra work of a known share.

Blocks are measured by `turns.Contest` itself: fresh processes, in turns, on this machine as it is; with `--bursts` a
second process loads one core in bursts of 0.3 to 3 s meanwhile. Of the blocks of each cell thousands of gates are then
drawn (with replacement, judged look by look), because a hundred real gates of six cells take hours. `--gates N` runs N
real ones as well.

The heavier file is the exported one with depthwise convolutions added that hand on what they get: the outputs stay, the
toolkit cannot take them out. How many make the wanted share is found with blocks of their own.

Goals, quiet: at most 1 % false alarms and 5 % inconclusive; +10 % on one of six cells caught in 99 %, +5 % over a
margin of 3 % in 95 %. Under bursts: at most 1 % false alarms, and the slowdowns called passed in at most 1 %.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import onnx
from _report import Goal, say, whole
from onnx import helper, numpy_helper

from fastvit_bench import backends, files
from fastvit_bench.comparing import inputs, interleaved
from fastvit_bench.exporting import metadata
from fastvit_bench.records import Device, Fuse, Machine, ModelSpec, Shape
from fastvit_bench.records.comparison import EXIT_CODES, Block, Outcome, Plan
from fastvit_bench.stats import sequential

CELLS = 6
DRAWN = 1000

BURSTS = """
import os, random, time
draw, parent = random.Random(0), os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + draw.uniform(0.3, 3)
    while time.monotonic() < end:
        pass
    time.sleep(draw.uniform(0.3, 5))
"""


def heavier(entry: inputs.Candidate, layers: int, folder: Path) -> inputs.Candidate:
    """A copy of an exported file with so many depthwise convolutions more, which change nothing."""
    model = onnx.shape_inference.infer_shapes(onnx.load(entry.path))
    graph = model.graph
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in graph.value_info}
    wanted = entry.artifact.shape.height // 8  # a map small enough for fine steps
    at = next(
        index
        for index, node in enumerate(graph.node)
        if node.op_type == "Conv" and len(shapes.get(node.output[0], [])) == 4 and shapes[node.output[0]][2] == wanted
    )
    node = graph.node[at]
    channels, through = shapes[node.output[0]][1], node.output[0]
    kernel = np.zeros((channels, 1, 3, 3), np.float32)
    kernel[:, :, 1, 1] = 1
    graph.initializer.append(numpy_helper.from_array(kernel, "extra.weight"))
    node.output[0] = f"{through}.before"
    names = [node.output[0], *(f"{through}.extra{number}" for number in range(layers - 1)), through]
    added = [
        helper.make_node(
            "Conv", [names[number], "extra.weight"], [names[number + 1]], pads=[1, 1, 1, 1], group=channels
        )
        for number in range(layers)
    ]
    for number, each in enumerate(added):
        graph.node.insert(at + 1 + number, each)
    path = folder / f"{layers}-{entry.path.name}"
    onnx.save(model, path)
    artifact = msgspec.structs.replace(entry.artifact, path=path.name, sha256=files.sha256(path))
    metadata.metadata_path(path).write_bytes(msgspec.json.encode(artifact))
    metadata.reference_outputs_path(path).write_bytes(metadata.reference_outputs_path(entry.path).read_bytes())
    return inputs.Candidate(f"+{layers} convolutions", artifact, path, entry.device)


def with_share(entry: inputs.Candidate, wanted: float, folder: Path, machine: Machine, seed: int) -> inputs.Candidate:
    """A heavier copy whose extra share is about the wanted one.

    Looked for with blocks in fresh processes: two sessions of one process may differ by some per cent for good.
    """
    layers = 32
    for attempt in range(4):
        head = heavier(entry, layers, folder)
        pair = inputs.ComparisonPair(f"looking for +{100 * wanted:.0f} %", entry, head)
        (blocks,) = measured([pair], 6, machine, seed + attempt).values()
        real = math.expm1(statistics.median(block.log_ratio for block in blocks))
        say(f"{head.label}: {100 * real:+.1f} %")
        if abs(real - wanted) < 0.1 * wanted:
            break
        layers = max(1, min(512, round(layers * wanted / max(real, wanted / 8))))
    return head


def measured(
    pairs: Sequence[inputs.ComparisonPair], blocks: int, machine: Machine, seed: int
) -> dict[str, list[Block]]:
    """So many blocks of each pair."""
    plan = Plan(looks=(blocks,), seed=seed, max_time_s=36_000, alpha=0.01, beta=0.05)
    contest = interleaved.InterleavedRun(
        pairs,
        plan,
        machine,
        timeout_s=600,
        same=inputs.allow_any,
        notify=lambda cell, block, look: say(f"{cell}: block {block} of {look}"),
    )
    contest.run()
    for name, cell in contest.cells.items():
        if cell.failed:
            raise SystemExit(f"error: {name} cannot be timed: {cell.failed.reason}")
    return {name: cell.counted for name, cell in contest.cells.items()}


def drawn(blocks: Mapping[str, Sequence[Block]], plan: Plan, gates: int, seed: int) -> list[dict[str, Outcome]]:
    """Verdicts of gates whose blocks are drawn from those that were measured."""
    draw = random.Random(seed)
    found: list[dict[str, Outcome]] = []
    for _ in range(gates):
        rows = {name: draw.choices(series, k=plan.looks[-1]) for name, series in blocks.items()}
        verdicts: dict[str, sequential.Verdict] = {}
        for look in plan.looks:
            verdicts = sequential.judge({name: row[:look] for name, row in rows.items()}, plan, verdicts)
            if all(verdict.outcome in sequential.DECIDED for verdict in verdicts.values()):
                break
        found.append({name: verdict.outcome for name, verdict in verdicts.items()})
    return found


def covered(series: Sequence[Block], count: int = 6) -> tuple[int, int]:
    """Of the intervals of so many blocks in a row of an unchanged cell: how many hold 1, and how many there are."""
    rows = [series[at : at + count] for at in range(0, len(series) - count + 1, count)]
    intervals = [sequential.judge({"cell": row}, Plan())["cell"].interval for row in rows]
    return sum(found is not None and found.low <= 1 <= found.high for found in intervals), len(intervals)


def rate(verdicts: Sequence[Mapping[str, Outcome]], outcome: Outcome, cell: str | None = None) -> float:
    """Share of gates with that outcome, in a cell or in any."""
    return sum(
        (gate[cell] is outcome) if cell is not None else any(found is outcome for found in gate.values())
        for gate in verdicts
    ) / len(verdicts)


def main() -> int:
    """Measure, draw, print; returns the exit code, 1 when a goal was missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="fastvit_t8", help="(%(default)s)")
    options.add_argument("--res", type=whole, nargs="+", default=[64, 96, 128, 160, 192, 224], help="pixels, per cell")
    options.add_argument("--blocks", type=whole, default=20, help="measured per cell (%(default)s)")
    options.add_argument("--gates", type=int, default=0, help="real gates to run as well (%(default)s)")
    options.add_argument("--bursts", action="store_true", help="a second process loads one core meanwhile")
    options.add_argument("--seed", type=int, default=0, help="of the order and of what is drawn (%(default)s)")
    written = options.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print every block as JSON")
    written.add_argument(
        "--markdown", action="store_true", help="print the tables for benchmarks/README.md, as without"
    )
    asked = options.parse_args()
    machine = interleaved.machines.collect()
    device = Device(name="cpu", backend="onnxruntime")
    device = msgspec.structs.replace(device, options=backends.get(device.backend).options(device))
    shapes = [Shape(batch=1, height=size, width=size) for size in asked.res]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as held:
        folder = Path(temporary)
        entries = inputs.export_missing(
            [ModelSpec(name=asked.model, variant=asked.model)], shapes, Fuse.FOLDED, device,
            label="base", seed=0, models=folder, timeout_s=600, notify=say,
        )  # fmt: skip
        entries = [entry for entry in entries if isinstance(entry, inputs.Candidate)]
        middle = entries[len(entries) // 2]
        slow = {wanted: with_share(middle, wanted, folder, machine, asked.seed) for wanted in (0.10, 0.05)}
        if asked.bursts:
            loader = subprocess.Popen([sys.executable, "-c", BURSTS])
            held.callback(loader.wait)
            held.callback(loader.kill)
        pairs = [inputs.ComparisonPair(inputs.name_of(entry.artifact), entry, entry) for entry in entries]
        heavy = [inputs.ComparisonPair(f"+{100 * wanted:.0f} %", middle, head) for wanted, head in slow.items()]
        real_gates = [_gate(pairs, machine, asked.seed + number) for number in range(asked.gates)]
        blocks = measured([*pairs, *heavy], asked.blocks, machine, asked.seed)
    goals = judged(blocks, [pair.name for pair in pairs], inputs.name_of(middle.artifact), real_gates, asked)
    return 0 if all(goal.met for goal in goals) else 1


def _gate(pairs: Sequence[inputs.ComparisonPair], machine: Machine, seed: int) -> dict[str, Outcome]:
    """One whole gate of unchanged cells."""
    begun = interleaved.machines.monotonic_s()
    found = interleaved.InterleavedRun(pairs, Plan(seed=seed), machine, timeout_s=600).run()
    outcomes = ", ".join(verdict.outcome for verdict in found.values())
    say(f"gate {seed}: {outcomes}; {interleaved.machines.monotonic_s() - begun:.0f} s")
    return {name: verdict.outcome for name, verdict in found.items()}


def judged(
    blocks: Mapping[str, list[Block]],
    cells: Sequence[str],
    slow: str,
    gates: Sequence[Mapping[str, Outcome]],
    asked: argparse.Namespace,
) -> list[Goal]:
    """Draw gates, print what came out of them, and say which goals are met; `slow` is the cell with heavier copies."""
    plan, narrow = Plan(), Plan(margin=0.03)
    same = {name: blocks[name] for name in cells}
    quiet = drawn(same, plan, DRAWN, asked.seed)
    ten = drawn({**same, slow: blocks["+10 %"]}, plan, DRAWN, asked.seed)
    five = drawn({"+5 %": blocks["+5 %"]}, narrow, DRAWN, asked.seed)
    rates = {
        "false alarms": rate(quiet, Outcome.REGRESSED),
        "inconclusive": rate(quiet, Outcome.INCONCLUSIVE),
        "+10 % on one of the cells: caught": rate(ten, Outcome.REGRESSED, slow),
        "+10 %: passed": rate(ten, Outcome.PASS, slow),
        "+5 % over a margin of 3 %: caught": rate(five, Outcome.REGRESSED, "+5 %"),
        "+5 %: passed": rate(five, Outcome.PASS, "+5 %"),
    }
    held, intervals = map(sum, zip(*(covered(series) for series in same.values()), strict=True))
    if asked.json:
        told = {
            name: [
                {"base_ms": block.base_ms, "head_ms": block.head_ms, "log_ratio": block.log_ratio}
                | {"disturbed": block.disturbed}
                for block in series
            ]
            for name, series in blocks.items()
        }
        print(json.dumps({"blocks": told, "rates": rates, "covered": held, "intervals": intervals}, indent=1))
    else:
        print("| cell | ms | change | scatter | worst block | disturbed | noise floor | detectable |")
        print("| --- | --: | --: | --: | --: | --: | --: | --: |")
        for name, series in blocks.items():
            logs = [block.log_ratio for block in series]
            middle_ = statistics.median(logs)
            told = sequential.judge({"cell": series}, plan)["cell"]
            worst = max(abs(log - middle_) for log in logs)
            shares = (math.expm1(middle_), sequential.scatter(logs) or 0, worst, told.floor or 0, told.detectable or 0)
            change, scatter, worst, floor, detectable = (f"{100 * each:.2f} %" for each in shares)
            disturbed = f"{sum(bool(block.disturbed) for block in series)} of {len(series)}"
            ms = statistics.median(block.head_ms for block in series)
            print(f"| {name} | {ms:.2f} | {change} | {scatter} | {worst} | {disturbed} | {floor} | {detectable} |")
        print(f"\n| of {DRAWN} gates drawn from these blocks | |\n| --- | --: |")
        for what, value in rates.items():
            print(f"| {what} | {100 * value:.1f} % |")
        print()
        print(f"{held} of {intervals} intervals of six blocks in a row of unchanged cells hold 1")
        if gates:
            print(f"real gates: {Counter(_word(gate) for gate in gates)}")
    goals = [
        Goal(
            claim="at most 1 % false alarms", met=rates["false alarms"] <= 0.01, reason=f"{rates['false alarms']:.3f}"
        ),
        Goal(claim="slowdowns never passed", met=max(rates["+10 %: passed"], rates["+5 %: passed"]) <= 0.01, reason=""),
    ]
    if not asked.bursts:
        goals += [
            Goal(claim="at most 5 % inconclusive", met=rates["inconclusive"] <= 0.05, reason=""),
            Goal(claim="+10 % caught", met=rates["+10 % on one of the cells: caught"] >= 0.99, reason=""),
            Goal(claim="+5 % caught", met=rates["+5 % over a margin of 3 %: caught"] >= 0.95, reason=""),
        ]
    for goal in goals:
        print(f"- Goal: {goal.claim}: {'met' if goal.met else 'MISSED'}.", file=sys.stderr)
    return goals


def _word(gate: Mapping[str, Outcome]) -> str:
    """What a gate ends with: the worst of its verdicts."""
    return next(str(outcome) for outcome in EXIT_CODES if outcome in gate.values())


if __name__ == "__main__":
    sys.exit(main())
