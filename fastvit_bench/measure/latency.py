"""The only stopwatch: what is timed, how often, and in which order.

feed ─► warm-up × (run, wait) ─►│ clock │ run ─► wait │ clock │ × runs ─► fetch
                                └──── one sample ─────┘
"""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastvit_bench.backends import Images, Session
from fastvit_bench.records import Engine, GpuState, Method, Pacing, Placement, Window
from fastvit_bench.stats.intervals import median

if TYPE_CHECKING:
    from fastvit_bench.backends import Batch

CLOCK = "time.perf_counter_ns"  # monotonic, nanoseconds

SET = 20  # runs of which one median is taken while warming up until steady
WARM_LIMIT_NS = 5_000_000_000  # warming up takes no longer than this, steady or not
WARM_LIMIT_RUNS = 100_000
LOOKS = 5  # times that a GPU is looked at in a round, besides the one before it


@dataclass(frozen=True)
class Reading:
    """What the stopwatch, and the toolkit beside it, had to say."""

    samples_ns: tuple[tuple[int, ...], ...]  # one entry per round, in the order they were taken
    window: Window
    clock: str
    pacing: Pacing
    load_ns: tuple[int, ...]
    placement: Placement | None
    gpu: tuple[GpuState, ...] = ()
    engine: Engine | None = None
    images: Images = Images.TENSOR  # the form the file takes them in


@dataclass
class Taken:
    """What one session gave."""

    samples_ns: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])  # one entry per round
    gpu: list[GpuState] = field(default_factory=list[GpuState])


def read(
    load: Callable[[], AbstractContextManager[Session]],
    images: "Callable[[Session], Batch]",
    method: Method,
    check: Callable[[Session], None] = lambda session: None,
) -> Reading:
    """Load a file, feed it and time it as the method says: with one session, or with a new one for each round.

    `check` may run a session before it is fed, such as to see that it computes what it should. Where the toolkit plans
    to run what, is asked of the last session after the last round.
    """
    samples: list[tuple[int, ...]] = []
    looks: list[GpuState] = []
    loads: list[int] = []
    sessions = method.rounds if method.loading == "per-round" else 1
    for number in range(1, sessions + 1):
        with load() as session:
            loads += session.load_ns
            check(session)
            session.feed(images(session))
            taken = measure(session, method, rounds=method.rounds // sessions)
            samples += taken.samples_ns
            looks += taken.gpu
            if number == sessions:
                return Reading(
                    samples_ns=tuple(samples),
                    window=session.window,
                    clock=session.clock or CLOCK,
                    pacing=session.pacing,
                    load_ns=tuple(loads),
                    placement=session.placement(),
                    gpu=tuple(looks),
                    engine=session.engine,
                    images=session.images,
                )
    raise ValueError("a method has at least one round")


def measure(session: Session, method: Method, rounds: int | None = None) -> Taken:
    """Nanoseconds of every run, one tuple per round, in the order they were taken; the session has been fed.

    Warm-up runs come before each round and are dropped. The garbage collector rests meanwhile, so that its pauses
    are not charged to the network. A session with a clock of its own is asked what it read instead. A GPU is looked at
    between runs.
    """
    timed = _timed if session.clock is None else _told
    found = Taken()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(method.rounds if rounds is None else rounds):
            _warm_up(session, method, timed)
            found.samples_ns.append(_round(session, method, timed, found.gpu))
    finally:
        if collecting:
            gc.enable()
    return found


_Timed = Callable[[Session, int], tuple[int, ...]]


def settle(session: Session, turn_ns: int, steady: float) -> int:
    """Warm up a session that will take turns, until it is steady; returns the nanoseconds of a run by then.

    Sets of runs are compared as in every warming up, but a set is a turn: ten runs, or about `turn_ns` where those
    would take longer.
    """
    timed = _timed if session.clock is None else _told
    first = median(timed(session, 3))
    length = max(3, min(SET // 2, round(turn_ns / first)))
    return round(_warm_up(session, Method(warmup=length, steady=steady), timed, length))


def turn(session: Session, untimed: int, runs: int) -> tuple[int, ...]:
    """Nanoseconds of the runs of one turn, after some that are not timed; the session has been fed and warmed up."""
    timed = _timed if session.clock is None else _told
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(untimed):
            session.run()
            session.wait()
        return timed(session, runs)
    finally:
        if collecting:
            gc.enable()


def _warm_up(session: Session, method: Method, timed: _Timed, length: int = SET) -> float:
    """So many runs, for so long, and until sets of them are steady, as far as the method asks for each of them.

    Returns the median of the last set in nanoseconds, 0 where nothing was timed.
    """
    if not method.warmup_ms and not method.steady:
        for _ in range(method.warmup):
            session.run()
            session.wait()
        return 0.0
    runs, total, before = 0, 0, 0.0
    while runs < WARM_LIMIT_RUNS and total < WARM_LIMIT_NS:
        samples = timed(session, length)
        runs, total, middle = runs + length, total + sum(samples), median(samples)
        steady = not method.steady or (before > 0 and abs(middle / before - 1) < method.steady)
        before = middle
        if runs >= method.warmup and total >= 1e6 * method.warmup_ms and steady:
            break
    return before


def _round(session: Session, method: Method, timed: _Timed, looks: list[GpuState]) -> tuple[int, ...]:
    """The timed runs of one round, in blocks between which a GPU is looked at."""
    first = session.look()
    if first is None and not method.duration_ms:
        return timed(session, method.runs)
    looks += [] if first is None else [first]
    block = -(-method.runs // LOOKS)
    samples: list[int] = []
    while len(samples) < method.runs or sum(samples) < 1e6 * method.duration_ms:
        left = method.runs - len(samples)
        samples += timed(session, min(block, left) if left > 0 else block)
        seen = session.look()
        looks += [] if seen is None else [seen]
    return tuple(samples)


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
