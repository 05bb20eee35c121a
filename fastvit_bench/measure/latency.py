"""The only stopwatch: what is timed, how often, and in which order.

feed ─► warm-up × (run, wait) ─►│ clock │ run ─► wait │ clock │ × runs ─► fetch
                                └──── one sample ─────┘
"""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastvit_bench.backends import Session
from fastvit_bench.records import Method, Pacing, Placement, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLOCK = "time.perf_counter_ns"  # monotonic, nanoseconds


@dataclass(frozen=True)
class Reading:
    """What the stopwatch, and the toolkit beside it, had to say."""

    samples_ns: tuple[tuple[int, ...], ...]  # one entry per round, in the order they were taken
    window: Window
    clock: str
    pacing: Pacing
    load_ns: tuple[int, ...]
    placement: Placement | None


def read(
    load: Callable[[], AbstractContextManager[Session]],
    images: "Callable[[Session], NDArray[np.float32] | NDArray[np.uint8]]",
    method: Method,
) -> Reading:
    """Load a file, feed it and time it as the method says: with one session, or with a new one for each round.

    Where the toolkit plans to run what, is asked of the last session after the last round.
    """
    samples: list[tuple[int, ...]] = []
    loads: list[int] = []
    sessions = method.rounds if method.loading == "per-round" else 1
    for number in range(1, sessions + 1):
        with load() as session:
            loads += session.load_ns
            session.feed(images(session))
            samples += measure(session, method, rounds=method.rounds // sessions)
            if number == sessions:
                return Reading(
                    samples_ns=tuple(samples),
                    window=session.window,
                    clock=session.clock or CLOCK,
                    pacing=session.pacing,
                    load_ns=tuple(loads),
                    placement=session.placement(),
                )
    raise ValueError("a method has at least one round")


def measure(session: Session, method: Method, rounds: int | None = None) -> tuple[tuple[int, ...], ...]:
    """Nanoseconds of every run, one tuple per round, in the order they were taken; the session has been fed.

    Warm-up runs come before each round and are dropped. The garbage collector rests meanwhile, so that its pauses
    are not charged to the network. A session with a clock of its own is asked what it read instead.
    """
    timed = _timed if session.clock is None else _told
    found: list[tuple[int, ...]] = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(method.rounds if rounds is None else rounds):
            for _ in range(method.warmup):
                session.run()
                session.wait()
            found.append(timed(session, method.runs))
    finally:
        if collecting:
            gc.enable()
    return tuple(found)


def _timed(session: Session, runs: int) -> tuple[int, ...]:
    clock, run, wait = time.perf_counter_ns, session.run, session.wait
    samples = [0] * runs
    for i in range(runs):
        start = clock()
        run()
        wait()
        samples[i] = clock() - start
    return tuple(samples)


def _told(session: Session, runs: int) -> tuple[int, ...]:
    samples = [0] * runs
    for i in range(runs):
        session.run()
        session.wait()
        samples[i] = session.elapsed_ns()
    return tuple(samples)
