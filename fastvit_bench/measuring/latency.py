"""The only stopwatch: it defines the runs that are timed, their number and their order.

feed ─► warm-up × (run, wait) ─►│ clock │ run ─► wait │ clock │ × runs ─► fetch
                                └──── one sample ─────┘
"""

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastvit_bench.backends import Images, Session
from fastvit_bench.exporting.tuning import Instruments
from fastvit_bench.measuring import resources
from fastvit_bench.records import CallPattern, Engine, GpuState, Method, Placement, Window
from fastvit_bench.stats.intervals import median

if TYPE_CHECKING:
    from fastvit_bench.backends import Batch

CLOCK = "time.perf_counter_ns"  # monotonic, nanoseconds

SET = 20  # runs per median while warming up until steady
WARM_LIMIT_NS = 5_000_000_000  # warming up takes no longer than this, steady or not
WARM_LIMIT_RUNS = 100_000
LOOKS = 5  # samples of a GPU's state per round, besides the one before it


@dataclass(frozen=True)
class TimedRuns:
    """The samples of all rounds, with the facts that the session reports about them."""

    samples_ns: tuple[tuple[int, ...], ...]  # one entry per round, in the order they were taken
    window: Window
    clock: str
    pacing: CallPattern
    load_ns: tuple[int, ...]
    placement: Placement | None
    gpu: tuple[GpuState, ...] = ()
    engine: Engine | None = None
    images: Images = Images.TENSOR  # the form of images that the file takes
    energy_mj: float | None = None  # of all timed runs; None where no counter says


@dataclass
class Taken:
    """The samples and GPU states that one session gave."""

    samples_ns: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])  # one entry per round
    gpu: list[GpuState] = field(default_factory=list[GpuState])
    energy_mj: list[float | None] = field(default_factory=list[float | None])  # one entry per round


def read(
    load: Callable[[], AbstractContextManager[Session]],
    images: "Callable[[Session], Batch]",
    method: Method,
    check: Callable[[Session], None] = lambda session: None,
) -> TimedRuns:
    """Load a file, feed it and time it as the method says: with one session, or with a new one for each round.

    `check` may run a session before it is fed, such as to prove its outputs. The placement of the operators is asked of
    the last session after the last round.
    """
    samples: list[tuple[int, ...]] = []
    looks: list[GpuState] = []
    energies: list[float | None] = []
    loads: list[int] = []
    sessions = method.rounds if method.loading == "per-round" else 1
    for number in range(1, sessions + 1):
        with load() as session:
            loads += session.load_ns
            check(session)
            session.set_input(images(session))
            taken = measure(session, method, rounds=method.rounds // sessions)
            samples += taken.samples_ns
            looks += taken.gpu
            energies += taken.energy_mj
            if number == sessions:
                return TimedRuns(
                    samples_ns=tuple(samples),
                    window=session.window,
                    clock=session.clock or CLOCK,
                    pacing=session.pacing,
                    load_ns=tuple(loads),
                    placement=session.placement(),
                    gpu=tuple(looks),
                    engine=session.engine,
                    images=session.images,
                    energy_mj=None if None in energies else sum(energy for energy in energies if energy is not None),
                )
    raise ValueError("a method has at least one round")


def measure(session: Session, method: Method, rounds: int | None = None) -> Taken:
    """Time every run in nanoseconds, one tuple per round, in the order they were taken; the session has been fed.

    Warm-up runs come before each round and are dropped. The garbage collector is disabled meanwhile, so that its pauses
    are not charged to the network. A session with a clock of its own reports its times instead. A GPU's state is
    sampled between runs.
    """
    timed = _timer(session)
    taken = Taken()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(method.rounds if rounds is None else rounds):
            _warm_up(session, method, timed)
            taken.samples_ns.append(_round(session, method, timed, taken))
    finally:
        if collecting:
            gc.enable()
    return taken


_Timed = Callable[[Session, int], tuple[int, ...]]


def settle(session: Session, turn_ns: int, steady: float) -> int:
    """Warm up a session that will take turns, until it is steady; returns the nanoseconds of a run by then.

    Sets of runs are compared as in every warm-up, but a set is a turn: ten runs, or about `turn_ns` where those would
    take longer.
    """
    timed = _timer(session)
    first = median(timed(session, 3))
    length = max(3, min(SET // 2, round(turn_ns / first)))
    return round(_warm_up(session, Method(warmup=length, steady=steady), timed, length))


def turn(session: Session, untimed: int, runs: int) -> tuple[int, ...]:
    """Time the runs of one turn in nanoseconds, after some untimed ones; the session has been fed and warmed up."""
    timed = _timer(session)
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


_TURNS, _TURN_NS = 12, 100_000_000  # of sessions in one process, each as many runs as take about so long


def in_turns(sessions: Sequence[Session]) -> tuple[float, ...]:
    """Return the median milliseconds of sessions that take turns in this process, whose inputs are set.

    The machine changes between turns and not within, so only figures of one call are comparable. Every other round goes
    the other way.
    """
    slowest = max(median(turn(session, SET, 3)) for session in sessions)
    length = max(3, min(SET // 2, round(_TURN_NS / slowest)))
    samples: list[list[int]] = [[] for _ in sessions]
    for number in range(_TURNS):
        for place in list(range(len(sessions)))[:: -1 if number % 2 else 1]:
            samples[place] += turn(sessions[place], 2, length)
    return tuple(median(taken) / 1e6 for taken in samples)


INSTRUMENTS = Instruments(seconds=time.monotonic, in_turns=in_turns)


def _warm_up(session: Session, method: Method, timed: _Timed, length: int = SET) -> float:
    """Warm up by runs, by time and until sets of runs are steady, as far as the method asks for each of them.

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


def _round(session: Session, method: Method, timed: _Timed, taken: Taken) -> tuple[int, ...]:
    """Time the runs of one round in nanoseconds, and note their energy.

    A GPU's state is sampled between blocks of the runs. Its counter says the energy where it has one.
    """
    first = session.sample_telemetry()
    begun = len(taken.gpu)
    before = resources.package_energy_uj() if first is None and session.clock is None else None
    samples = _blocks(session, method, timed, first, taken.gpu)
    if first is None:
        taken.energy_mj.append(resources.energy_between_mj(before, before and resources.package_energy_uj()))
    else:
        counters = [state.energy_mj for state in (taken.gpu[begun], taken.gpu[-1])]
        known = [counter for counter in counters if counter is not None]
        counted = len(known) == 2 and known[1] >= known[0]
        timed_share = len(samples) / (len(samples) + len(taken.gpu) - 1 - begun)  # of the runs; one a block is untimed
        taken.energy_mj.append(timed_share * (known[1] - known[0]) if counted else None)
    return samples


def _blocks(
    session: Session, method: Method, timed: _Timed, first: GpuState | None, looks: list[GpuState]
) -> tuple[int, ...]:
    """Time the runs of one round, in blocks if a GPU is sampled in between; the `first` sample was taken before.

    The run after a sample is not timed: the GPU has paused, and on an H200 that run took up to 4 % longer.
    """
    if first is None and not method.duration_ms:
        return timed(session, method.runs)
    looks += [] if first is None else [first]
    block = -(-method.runs // LOOKS)
    samples: list[int] = []
    while len(samples) < method.runs or sum(samples) < 1e6 * method.duration_ms:
        if first is not None:
            session.run()
            session.wait()
        remaining = method.runs - len(samples)
        samples += timed(session, min(block, remaining) if remaining > 0 else block)
        state = session.sample_telemetry()
        looks += [] if state is None else [state]
    return tuple(samples)


def _timer(session: Session) -> _Timed:
    """Return the function that times runs: by this process's clock, or by the clock that the session has."""
    return _timed_by_process if session.clock is None else _timed_by_session


def _timed_by_process(session: Session, runs: int) -> tuple[int, ...]:
    clock, run, wait = time.perf_counter_ns, session.run, session.wait
    samples = [0] * runs
    for i in range(runs):
        start = clock()
        run()
        wait()
        samples[i] = clock() - start
    return tuple(samples)


def _timed_by_session(session: Session, runs: int) -> tuple[int, ...]:
    samples = [0] * runs
    for i in range(runs):
        session.run()
        session.wait()
        samples[i] = session.elapsed_ns()
    return tuple(samples)
