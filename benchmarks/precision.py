"""What BF16 is worth on this processor: ONNX Runtime in FP32 against OpenVINO in FP32 and in BF16, turn by turn.

Each side runs its own proved export of one network. A pause before each turn lets the other toolkit's threads stop
spinning. Where the processor has no BF16 arithmetic, that side is left out and the report says so.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from _interleave import SETTLE, Blocks, Ratio, Side, compare, images, interleave
from _report import Goal, add_networks, finish, parser, report, say, say_ratio, ticker

import fastvit_bench
from fastvit_bench import backends
from fastvit_bench.measuring import latency
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.records import Device, Method, Shape
from fastvit_bench.stats import intervals

SIDES = {
    "ONNX Runtime FP32": Device(name="cpu", backend="onnxruntime"),
    "OpenVINO FP32": Device(name="openvino", backend="openvino"),
    "OpenVINO BF16": Device(name="openvino-bf16", backend="openvino", precision="bf16"),
}
BASE, NARROW = "ONNX Runtime FP32", "OpenVINO BF16"
PAUSE_S = 0.1  # ONNX Runtime's threads spin on for some 50 ms after a run
MOST = 0.60  # of FP32's time, in BF16


def timed(session: backends.Session, shape: Shape, runs: int) -> Side:
    """A side: a toolkit's session under the package's stopwatch, after a pause."""
    session.set_input(images(shape))
    method = Method(warmup=SETTLE, runs=runs)

    def block() -> float:
        time.sleep(PAUSE_S)
        (samples,) = latency.measure(session, method).samples_ns
        return intervals.median(samples) / 1e6

    return block


def time_sides(name: str, shape: Shape, devices: dict[str, Device], seed: int, blocks: int, runs: int) -> Blocks:
    """Export a network for each side, which proves the files, and time them."""
    what = f"{name} {shape.size} b{shape.batch}"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        sides: dict[str, Side] = {}
        for side, device in devices.items():
            say(f"{what}: exporting for {side}")
            backend = backends.get(device.backend)
            output = Path(folder, f"{device.name}{backend.suffix}")
            ((path, _),) = fastvit_bench.export(
                name,
                backend.target,
                res=shape.height,
                batch=shape.batch,
                precision=device.precision,
                seed=seed,
                output=output,
            )
            sides[side] = timed(opened.enter_context(backend.open(path, device)), shape, runs)
        return interleave(what, sides, blocks, seed, ticker(what))


def judged(ratios: list[Ratio]) -> list[Goal]:
    """BF16 takes at most `MOST` of FP32's time, by the upper end of each interval."""
    goals: list[Goal] = []
    for ratio in ratios:
        if ratio.side == NARROW:
            most = ratio.interval.high if ratio.interval else ratio.ratio
            reason = f"{ratio.ratio:.3f}, at most {most:.3f}"
            goals.append(Goal(f"{ratio.what}: BF16 takes at most {MOST} of FP32's time", most <= MOST, reason))
    return goals


def main() -> int:
    """Time the chosen variants; returns the exit code."""
    options = parser(__doc__, blocks=21, runs=10)
    add_networks(options, ["fastvit_t8", "fastvit_sa12"])
    asked = options.parse_args()
    shape = Shape(batch=asked.batch, height=asked.res, width=asked.res)
    devices: dict[str, Device] = {}
    remarks: list[str] = []
    for side, device in SIDES.items():
        backend = backends.get(device.backend)
        lacking = backend.unavailable_reason(device) or backend.device_unavailable_reason(device)
        if lacking:
            remarks.append(f"{side} was not timed: {lacking}.")
        else:
            devices[side] = msgspec.structs.replace(device, options={"threads": asked.threads})
    watch = Watch()
    found: list[Blocks] = []
    ratios: list[Ratio] = []
    for name in asked.models:
        found.append(time_sides(name, shape, devices, asked.seed, asked.blocks, asked.runs))
        for side in devices:
            if side != BASE:
                ratios.append(compare(found[-1], side, BASE))
                say_ratio(ratios[-1])
    settings = {"threads": asked.threads, "runs per block": asked.runs, "seed": asked.seed}
    return finish(report("precision", watch, settings, ratios, found, judged(ratios), remarks), asked)


if __name__ == "__main__":
    sys.exit(main())
