"""On an NVIDIA GPU, CUDA events tell what PyTorch's own timer tells, graphs do not cost, and looking on is free.

One network on one GPU, timed in turn: by this tool with a CUDA graph and without, with NVML asked between runs and not,
and by `torch.utils.benchmark.Timer` around the same captured graph. Where TensorRT is installed, its engine is timed
through both CUDA bindings as well.

Goals: events / PyTorch's timer within 2 % of 1, or below by what the host's launch and wait take, which that timer
includes; graph / no graph not above 1 beyond noise; looking / not looking within 0.5 %; the two bindings within 2 %.
Exits with 1 when a goal is missed, and with 6 where there is no GPU.
"""

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from _interleave import SETTLE, Blocks, Ratio, Side, compare, images, interleave
from _report import Goal, add_networks, bracket, finish, parser, report, say, say_ratio, ticker

from fastvit_bench import backends
from fastvit_bench.backends import Session
from fastvit_bench.errors import FastViTBenchError, UnavailableError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.measuring import latency
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.records import Device, Fuse, Method, ModelSpec, Shape

EVENTS, EAGER, BLIND, TIMER = "events, graph", "events, no graph", "events, graph, not looked at", "PyTorch's timer"
PYTHON, PYCUDA = "TensorRT by cuda-python", "TensorRT by pycuda"

HOST_MS = 0.06  # a launch of a graph and the wait for it; 0.03 to 0.04 ms were seen on an H200

# side, base, how far their ratio's interval may lie from 1 below and above, and the host's ms that only the base has
GOALS = (
    (EVENTS, TIMER, 0.02, 0.02, HOST_MS),
    (EVENTS, EAGER, 1.0, 0.0, 0.0),
    (EVENTS, BLIND, 1.0, 0.005, 0.0),
    (PYTHON, PYCUDA, 0.02, 0.02, 0.0),
)


def judge(ratio: Ratio, below: float, above: float, host_ms: float = 0.0) -> Goal:
    """Return whether the interval lies where it may; one that may not be above 1 must not lie above it as a whole."""
    interval = ratio.interval
    below = max(below, host_ms / ratio.base_ms)
    if interval is None:
        met = False
    elif above:
        met = interval.low >= 1 - below and interval.high <= 1 + above
    else:
        met = interval.low <= 1
    return Goal(claim=f"{ratio.side} / {ratio.base}", met=met, reason=bracket(ratio))


def exported(variant: str, device: Device, shape: Shape, folder: Path) -> tuple[Path, Device]:
    """A variant with random weights for a device, its engine built where it has one; what is there is not made anew."""
    backend = backends.get(device.backend)
    spec = ModelSpec(name=variant, variant=variant)
    asked = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=folder)
    if pipeline.cached(asked) is None:
        pipeline.export(asked)
    if backend.engines is not None:
        pipeline.build_engine(asked)
    return Path(asked.path), asked.device


def timed(session: Session, runs: int) -> Side:
    """A side: blocks of runs under the package's stopwatch; the session has been fed."""
    method = Method(warmup=SETTLE, runs=runs)

    def block() -> float:
        (samples,) = latency.measure(session, method).samples_ns
        return statistics.median(samples) / 1e6

    return block


def unseen(session: Any) -> Any:
    """The same session, which nobody looks at; shares its timer and its memory."""
    import copy

    found = copy.copy(session)
    found.sample_telemetry = lambda: None
    return found


def by_torch(session: Session, runs: int) -> Side:
    """A side: PyTorch's own timer around a run, which ends with a wait for the GPU."""
    from torch.utils.benchmark import Timer

    def once() -> None:
        session.run()
        session.wait()

    def block() -> float:
        for _ in range(SETTLE):
            once()
        timer = Timer("once()", globals={"once": once})
        return statistics.median(timer.timeit(1).mean for _ in range(runs)) * 1e3

    return block


def main() -> int:
    """Time every pair of sides that this machine has; returns the exit code."""
    options = parser(__doc__, blocks=60, runs=20)
    add_networks(options, ["fastvit_t8"])
    options.add_argument("--files", type=Path, metavar="DIR", help="keep exported files there, and take them from it")
    options.set_defaults(batch=8)
    asked = options.parse_args()
    shape = Shape(batch=asked.batch, height=asked.res, width=asked.res)
    watch = Watch()
    found: list[Blocks] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = asked.files or Path(name)

        def opened(backend: str, **changes: str | bool) -> Session:
            bare = Device(name="gpu", backend=backend, precision="fp16", batch=shape.batch, options=changes)
            device = msgspec.structs.replace(bare, options=backends.get(backend).options(bare))
            lacking = backends.unavailable_reason(backend) or backends.get(backend).device_unavailable_reason(device)
            if lacking:
                raise UnavailableError(lacking)
            path, device = exported(asked.models[0], device, shape, folder)
            session = stack.enter_context(backends.get(backend).open(path, device))
            session.set_input(images(shape))
            return session

        try:
            graph = opened("pytorch")
        except UnavailableError as error:
            say(f"nothing to time here: {error}")
            return error.exit_code
        sides = {
            EVENTS: timed(graph, asked.runs),
            BLIND: timed(unseen(graph), asked.runs),
            TIMER: by_torch(graph, asked.runs),
            EAGER: timed(opened("pytorch", graph=False), asked.runs),
        }
        found.append(
            interleave(f"PyTorch {shape.size} b{shape.batch}", sides, asked.blocks, asked.seed, ticker("PyTorch"))
        )
        try:
            engines = {
                PYTHON: timed(opened("tensorrt", graph=False), asked.runs),
                PYCUDA: timed(opened("tensorrt", graph=False, cuda_binding="pycuda"), asked.runs),
            }
            what = f"TensorRT {shape.size} b{shape.batch}"
            found.append(interleave(what, engines, asked.blocks, asked.seed, ticker("TensorRT")))
        except FastViTBenchError as error:
            say(f"the two bindings are not compared: {error}")
    ratios: list[Ratio] = []
    goals: list[Goal] = []
    for side, base, below, above, host_ms in GOALS:
        for blocks in found:
            if {side, base} <= blocks.values_ms.keys():
                ratios.append(compare(blocks, side, base))
                say_ratio(ratios[-1])
                goals.append(judge(ratios[-1], below, above, host_ms))
    settings = {"runs per block": asked.runs, "seed": asked.seed}
    return finish(report("cuda_window", watch, settings, ratios, found, goals), asked)


if __name__ == "__main__":
    sys.exit(main())
