"""The only stopwatch: what is timed, how often, and in which order.

feed ─► warm-up × (run, wait) ─►│ clock │ run ─► wait │ clock │ × runs ─► fetch
                                └──── one sample ─────┘
"""

import gc
import time

from fastvit_bench.backends import Session
from fastvit_bench.records import Method

CLOCK = "time.perf_counter_ns"  # monotonic, nanoseconds


def measure(session: Session, method: Method) -> tuple[tuple[int, ...], ...]:
    """Nanoseconds of every run, one tuple per round, in the order they were taken; the session has been fed.

    Warm-up runs come before each round and are dropped. The garbage collector rests meanwhile, so that its pauses
    are not charged to the network.
    """
    rounds: list[tuple[int, ...]] = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(method.rounds):
            for _ in range(method.warmup):
                session.run()
                session.wait()
            rounds.append(_timed(session, method.runs))
    finally:
        if collecting:
            gc.enable()
    return tuple(rounds)


def _timed(session: Session, runs: int) -> tuple[int, ...]:
    clock, run, wait = time.perf_counter_ns, session.run, session.wait
    samples = [0] * runs
    for i in range(runs):
        start = clock()
        run()
        wait()
        samples[i] = clock() - start
    return tuple(samples)
