"""What BF16 and INT8 are worth on this processor: ONNX Runtime and OpenVINO, each against ONNX Runtime in FP32.

The sides take turns. Each runs its own proved export of one network; INT8 is calibrated on squares of scikit-learn's
photographs, which decide the errors and not the time. A pause before each turn lets the other toolkit's threads stop
spinning. Where the processor has no BF16 arithmetic, that side is left out and the report says so.
"""

import random
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
    "ONNX Runtime INT8": Device(name="cpu-int8", backend="onnxruntime", precision="int8"),
    "OpenVINO INT8": Device(name="openvino-int8", backend="openvino", precision="int8"),
}
BASE = "ONNX Runtime FP32"
PAUSE_S = 0.1  # ONNX Runtime's threads spin on for some 50 ms after a run
MOST = {"bf16": 0.60, "int8": 0.50}  # of FP32's time, on the best runtime
CALIBRATION_IMAGES = 16


def timed(session: backends.Session, shape: Shape, runs: int) -> Side:
    """A side: a toolkit's session under the package's stopwatch, after a pause."""
    session.set_input(images(shape))
    method = Method(warmup=SETTLE, runs=runs)

    def block() -> float:
        time.sleep(PAUSE_S)
        (samples,) = latency.measure(session, method).samples_ns
        return intervals.median(samples) / 1e6

    return block


def draw_calibration(folder: Path) -> Path:
    """Write squares of scikit-learn's two photographs into a folder, and return it."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    draw = random.Random(0)
    folder.mkdir()
    for number in range(CALIBRATION_IMAGES):
        picture = Image.fromarray(draw.choice(load_sample_images().images))
        side = draw.randint(200, min(picture.size))
        x, y = (draw.randint(0, length - side) for length in picture.size)
        picture.crop((x, y, x + side, y + side)).save(folder / f"{number}.png")
    return folder


def time_sides(name: str, shape: Shape, devices: dict[str, Device], seed: int, blocks: int, runs: int) -> Blocks:
    """Export a network for each side, which proves the files, and time them."""
    what = f"{name} {shape.size} b{shape.batch}"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        calibration = draw_calibration(Path(folder, "images"))
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
                calibration=calibration if device.precision == "int8" else None,
                calibration_images=CALIBRATION_IMAGES if device.precision == "int8" else None,
                seed=seed,
                output=output,
            )
            sides[side] = timed(opened.enter_context(backend.open(path, device)), shape, runs)
        return interleave(what, sides, blocks, seed, ticker(what))


def judged(ratios: list[Ratio]) -> list[Goal]:
    """The best runtime takes at most `MOST` of FP32's time in a precision, by the upper end of the interval."""
    goals: list[Goal] = []
    for what in dict.fromkeys(ratio.what for ratio in ratios):
        for precision, most in MOST.items():
            sides = [one for one in ratios if one.what == what and SIDES[one.side].precision == precision]
            if sides:
                best = min(sides, key=lambda ratio: ratio.ratio)
                high = best.interval.high if best.interval else best.ratio
                reason = f"{best.side} {best.ratio:.3f}, at most {high:.3f}"
                claim = f"{what}: {precision.upper()} takes at most {most:.2f} of FP32's time"
                goals.append(Goal(claim, high <= most, reason))
    return goals


def main() -> int:
    """Time the chosen variants; returns the exit code."""
    options = parser(__doc__, blocks=21, runs=10)
    add_networks(options, ["fastvit_t8", "fastvit_sa12", "fastvit_ma36"])
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
