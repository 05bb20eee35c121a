"""What `fastvit-bench latency` times is what a bare loop around ONNX Runtime times.

One ONNX Runtime session, timed in turn by the package's stopwatch (input and outputs bound beforehand, run + wait on
the clock) and by the loop anyone would write: `session.run(None, {name: images})` between two readings of
`time.perf_counter`. A second bare loop on the same session shows what the instrument says of two equal things. And the
stopwatch once more, with the readings of load, clocks and temperature around it that the gate takes of each block.

Goals: the interval of stopwatch / bare loop lies within 2 % of 1, that of the stopwatch with readings / without within
0.5 %. Exits with 1 when one is missed.
"""

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _interleave import (
    SETTLE,
    Blocks,
    Ratio,
    Side,
    compare,
    export,
    images,
    interleave,
    open_session,
    share_threads,
    timed,
)
from _report import Goal, add_networks, bracket, finish, parser, report, say, say_ratio, ticker

from fastvit_bench.measuring.machine import Between, Watch
from fastvit_bench.records import Head, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STOPWATCH, BARE, AGAIN, WATCHED = "stopwatch", "bare loop", "bare loop again", "stopwatch with readings"
MARGIN = {STOPWATCH: 0.02, WATCHED: 0.005}


def judge(ratio: Ratio) -> Goal:
    """Whether two sides agree as they must. A ratio without an interval shows nothing."""
    interval, margin = ratio.interval, MARGIN[ratio.side]
    met = interval is not None and interval.low >= 1 - margin and interval.high <= 1 + margin
    return Goal(
        claim=f"{ratio.what}: {ratio.side} and {ratio.base} within {100 * margin:g} %", met=met, reason=bracket(ratio)
    )


def watched(side: Side) -> Side:
    """A side with what the gate reads of the machine, as often as it does: around ten turns of ten runs."""
    open_: list[Between] = []
    turns = itertools.count()

    def block() -> float:
        if next(turns) % 10 == 0:
            if open_:
                open_.pop().readings(0.0)
            open_.append(Between(0.0))
        return side()

    return block


def bare_loop(session: Any, batch: "NDArray[np.float32]", runs: int) -> Side:
    """A side: the loop one would write without this package."""
    inputs = {session.get_inputs()[0].name: batch}

    def block() -> float:
        for _ in range(SETTLE):
            session.run(None, inputs)
        samples: list[float] = []
        for _ in range(runs):
            start = time.perf_counter()
            session.run(None, inputs)
            samples.append(time.perf_counter() - start)
        return statistics.median(samples) * 1e3

    return block


def time_window(name: str, shape: Shape, seed: int, blocks: int, runs: int) -> Blocks:
    """Export a variant and time it both ways."""
    from fastvit_bench.network import checkpoint, reparam

    what = f"{name} {shape.size} b{shape.batch}"
    say(f"{what}: exporting")
    network, _ = checkpoint.randomised(name, Head.CLASSIFIER, 1000, seed)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export(reparam.fold(network.double()), shape, Path(folder) / "folded.onnx"))
    batch = images(shape)
    sides = {
        STOPWATCH: timed(session, batch, runs),
        BARE: bare_loop(session, batch, runs),
        AGAIN: bare_loop(session, batch, runs),
        WATCHED: watched(timed(session, batch, runs)),
    }
    return interleave(what, sides, blocks, seed, ticker(what))


def main() -> int:
    """Time the chosen variants; returns the exit code."""
    options = parser(__doc__, blocks=60, runs=10)
    add_networks(options, ["fastvit_t8"])
    asked = options.parse_args()
    shape = Shape(batch=asked.batch, height=asked.res, width=asked.res)
    share_threads(asked.threads)
    watch = Watch()
    found: list[Blocks] = []
    ratios: list[Ratio] = []
    for name in asked.models:
        blocks = time_window(name, shape, asked.seed, asked.blocks, asked.runs)
        found.append(blocks)
        for side, base in ((STOPWATCH, BARE), (AGAIN, BARE), (WATCHED, STOPWATCH)):
            ratios.append(compare(blocks, side, base))
            say_ratio(ratios[-1])
    goals = [judge(ratio) for ratio in ratios if ratio.side in MARGIN]
    settings = {"threads": asked.threads, "runs per block": asked.runs, "seed": asked.seed}
    return finish(report("window", watch, settings, ratios, found, goals), asked)


if __name__ == "__main__":
    sys.exit(main())
