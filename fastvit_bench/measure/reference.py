"""A fixed piece of work that a processor is timed at: it tells at what speed the machine runs just now."""

import time

RUNS = 15
RESTED_S = 0.06  # for which threads that have just computed spin on


def time_ns() -> tuple[int, ...]:
    """Nanoseconds of each of `RUNS` repetitions: matrix products that fit the caches, and a pass over memory.

    It depends on NumPy and its BLAS alone, never on this tool's networks or on the toolkit that is judged.
    """
    import numpy as np

    drawn = np.random.default_rng(0)
    left, right = (drawn.random((384, 384), dtype=np.float32) for _ in range(2))
    product, long = np.empty_like(left), np.ones(1 << 21, dtype=np.float32)  # 8 MiB
    taken: list[int] = []
    for number in range(RUNS + 3):
        start = time.perf_counter_ns()
        for _ in range(4):
            np.matmul(left, right, out=product)
        np.add(long, 1.0, out=long)
        if number >= 3:  # the first ones load libraries and touch memory
            taken.append(time.perf_counter_ns() - start)
    return tuple(taken)
