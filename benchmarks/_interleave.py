"""The instrument the scripts share: sides timed turn by turn in one process, and what their paired blocks say.

    block 1        block 2        block 3        block 4
    A ─► B         B ─► A         B ─► A         A ─► B        every side in every place equally often, order drawn
    └─ratio─┘      └─ratio─┘      └─ratio─┘      └─ratio─┘     from a recorded seed

A machine drifts: its clock changes, others use it. Two sides timed one after the other differ by that drift; two sides
timed within the same half second share it, and their ratio does not have it. So the ratio is taken block by block, and
only ratios are summed up. A block's value is the median of its runs, which a single interruption does not move.
"""

import gc
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastvit_bench.backends._onnx.session import OnnxSession
from fastvit_bench.backends.onnxruntime import BACKEND
from fastvit_bench.exporting import verification
from fastvit_bench.measuring import latency
from fastvit_bench.records import Device, ExportJob, Fuse, Head, Interval, Method, Record, Shape, Weights
from fastvit_bench.stats import intervals

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

Side = Callable[[], float]  # does one block of runs and returns their median in milliseconds

SETTLE = 2  # untimed runs at the start of a block: the other side has had the caches since this one's last run
RESAMPLES = 10_000
CONFIDENCE = 0.95


class Blocks(Record, frozen=True):
    """Every block of one comparison, as timed."""

    what: str  # the sides have this in common
    seed: int  # of the order
    orders: tuple[tuple[str, ...], ...]  # block by block, the sides in the order they ran
    values_ms: dict[str, tuple[float, ...]]  # side -> block by block, the median of its runs

    def ratios(self, side: str, base: str) -> list[float]:
        """Block by block, the time of `side` over the time of `base`."""
        return [a / b for a, b in zip(self.values_ms[side], self.values_ms[base], strict=True)]


class Ratio(Record, frozen=True):
    """How long one side takes over another; below 1 it is the faster one."""

    what: str
    side: str
    base: str
    side_ms: float | None  # median over the blocks; None of a mean over several comparisons
    base_ms: float | None
    ratio: float
    interval: Interval | None  # None where there are too few blocks for one
    blocks: int


# --- timing -----------------------------------------------------------------------------------------------------------


def orders(sides: Sequence[str], blocks: int, seed: int) -> list[tuple[str, ...]]:
    """Who goes first, second, … in each block; deterministic in `seed`.

    As many consecutive blocks as there are sides form a Latin square: each side has each place once. Of two sides that
    is AB and BA; which of them comes first is drawn for every square, so that no rhythm of the machine can favour one.
    """
    draw = random.Random(seed)
    found: list[tuple[str, ...]] = []
    while len(found) < blocks:
        first = draw.sample(list(sides), len(sides))
        square = [(*first[i:], *first[:i]) for i in range(len(first))]
        draw.shuffle(square)
        found += square
    return found[:blocks]


def interleave(
    what: str,
    sides: Mapping[str, Side],
    blocks: int,
    seed: int,
    notify: Callable[[int, int], None] = lambda done, total: None,
) -> Blocks:
    """Time every side `blocks` times, turn by turn, after one block of each that is dropped.

    `notify` is told the blocks done and their total, between two blocks.
    """
    plan = orders(list(sides), blocks, seed)
    values: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.freeze()  # the stopwatch collects garbage before each block: without the modules of torch that takes no time
    try:
        for side in sides.values():
            side()
        for done, order in enumerate(plan):
            notify(done, blocks)
            for name in order:
                values[name].append(sides[name]())
        notify(blocks, blocks)
    finally:
        gc.unfreeze()
    return Blocks(
        what=what,
        seed=seed,
        orders=tuple(plan),
        values_ms={name: tuple(found) for name, found in values.items()},
    )


# --- what is timed ----------------------------------------------------------------------------------------------------


def share_threads(threads: int) -> None:
    """Give the process one pool of threads for all its sessions; to be called before the first session is opened.

    With a pool of its own each session's threads keep spinning for a while after a run, on the cores that the other
    side is being timed on.
    """
    import onnxruntime as ort

    ort.set_global_thread_pool_sizes(threads, 1)


def open_session(path: Path) -> Any:
    """An ONNX Runtime session on the shared threads, with the options that `fastvit-bench latency` uses otherwise."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def export(network: "nn.Module", shape: Shape, path: Path) -> Path:
    """Write `network` as ONNX the way `fastvit-bench export` does, whoever made it."""
    asked = ExportJob(
        model="benchmark",
        variant="fastvit_t8",
        head=Head.CLASSIFIER,
        classes=1000,
        checkpoint=None,
        weights=Weights(origin="random", seed=0),
        backend=BACKEND.name,
        precision="fp32",
        shape=shape,
        fused=Fuse.FOLDED,
        device=Device(name="cpu", backend=BACKEND.name),
        toolchain={},
        path=str(path),
    )
    BACKEND.export(network, asked, path, {})
    return path


def images(shape: Shape) -> "NDArray[np.float32]":
    """The batch (N, 3, H, W) that every side gets."""
    return verification.images(shape)[0]


def timed(session: Any, batch: "NDArray[np.float32]", runs: int) -> Side:
    """A side: one ONNX Runtime session under the package's stopwatch."""
    ours = OnnxSession(session)
    ours.set_input(batch)
    method = Method(warmup=SETTLE, runs=runs)

    def block() -> float:
        (samples,) = latency.measure(ours, method).samples_ns
        return intervals.median(samples) / 1e6

    return block


def command(words: Sequence[str], folder: Path, runs: int = 1) -> Side:
    """A side: a whole process from its start to its end, in a working directory, its output dropped."""

    def block() -> float:
        samples: list[float] = []
        for _ in range(runs):
            start = time.perf_counter()
            subprocess.run(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            samples.append(time.perf_counter() - start)
        return intervals.median(samples) * 1e3

    return block


def disagreement(session: Any, reference: Any, batch: "NDArray[np.float32]") -> float:
    """Largest difference of two sessions' first outputs over the standard deviation of the reference's."""
    ours, theirs = (
        one.run(None, {one.get_inputs()[0].name: batch})[0].astype(np.float64) for one in (session, reference)
    )
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / theirs.std())


def check_equal(sessions: Mapping[str, Any], base: str, batch: "NDArray[np.float32]") -> float:
    """The largest `disagreement` with the session called `base`.

    Ends the program where it is more than the proof of an export allows: the times of two networks that compute
    different things are no comparison.
    """
    found = {name: disagreement(one, sessions[base], batch) for name, one in sessions.items() if name != base}
    worst = max(found, key=lambda name: found[name])
    tolerance = verification.LIMITS["fp32", Head.CLASSIFIER].tolerance
    if not found[worst] <= tolerance:
        raise SystemExit(
            f"error: {worst} and {base} do not compute the same: their outputs differ by {found[worst]:.1e} of "
            f"their standard deviation, allowed is {tolerance:.0e}. Nothing was timed."
        )
    return found[worst]


def time_files(
    what: str,
    files: Mapping[str, Path],
    base: str,
    shape: Shape,
    seed: int,
    blocks: int,
    runs: int,
    notify: Callable[[int, int], None],
) -> tuple[Blocks, float]:
    """Open a file per side, see that they compute the same, and time them; also how far their outputs are apart."""
    batch = images(shape)
    sessions = {side: open_session(path) for side, path in files.items()}
    difference = check_equal(sessions, base, batch)
    sides = {side: timed(session, batch, runs) for side, session in sessions.items()}
    return interleave(what, sides, blocks, seed, notify), difference


# --- statistics -------------------------------------------------------------------------------------------------------


def median_interval(values: Sequence[float]) -> Interval | None:
    """Distribution-free interval of the median with at least 95 % confidence; None of fewer than six values."""
    bounds = intervals.quantile_interval(values, 0.5, CONFIDENCE)
    return Interval(*bounds) if bounds else None


def compare(blocks: Blocks, side: str, base: str) -> Ratio:
    """The median of the paired ratios of two sides."""
    ratios = blocks.ratios(side, base)
    return Ratio(
        what=blocks.what,
        side=side,
        base=base,
        side_ms=intervals.median(blocks.values_ms[side]),
        base_ms=intervals.median(blocks.values_ms[base]),
        ratio=intervals.median(ratios),
        interval=median_interval(ratios),
        blocks=len(ratios),
    )


def geometric_mean(comparisons: Sequence[Blocks], side: str, base: str, seed: int) -> Ratio:
    """The geometric mean of several comparisons' median ratios.

    Its interval is the middle 95 % of the means that come out when the blocks of every comparison are drawn anew,
    with replacement (percentile bootstrap; Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13). The
    comparisons themselves are not drawn: the mean is about these models and no others.
    """
    draw = np.random.default_rng(seed)
    mean, means = 0.0, np.zeros(RESAMPLES)
    total = 0
    for blocks in comparisons:
        ratios = np.array(blocks.ratios(side, base))
        drawn = ratios[draw.integers(0, len(ratios), (RESAMPLES, len(ratios)))]
        mean += float(np.log(np.median(ratios)))
        means += np.log(np.median(drawn, axis=1))
        total += len(ratios)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.exp(np.percentile(means / len(comparisons), [tail, 100 - tail]))
    enough = all(median_interval(blocks.ratios(side, base)) is not None for blocks in comparisons)
    return Ratio(
        what=f"geometric mean of {len(comparisons)}",
        side=side,
        base=base,
        side_ms=None,
        base_ms=None,
        ratio=float(np.exp(mean / len(comparisons))),
        # a handful of blocks, drawn anew, gives an interval that is too narrow and looks like any other
        interval=Interval(low=float(low), high=float(high), confidence=CONFIDENCE) if enough else None,
        blocks=total,
    )
