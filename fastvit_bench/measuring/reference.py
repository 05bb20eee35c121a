"""A fixed workload whose time shows the speed at which the machine runs at the moment."""

import time

RUNS = 15
RESTED_S = 0.06  # threads spin for so long after they have computed


def time_ns() -> tuple[int, ...]:
    """Time `RUNS` repetitions of matrix products that fit the caches and a pass over memory, in nanoseconds.

    The work depends on NumPy and its BLAS alone, never on this tool's networks or on the toolkit that is measured.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    first, second = (generator.random((384, 384), dtype=np.float32) for _ in range(2))
    product, long = np.empty_like(first), np.ones(1 << 21, dtype=np.float32)  # 8 MiB
    taken: list[int] = []
    for number in range(RUNS + 3):
        start = time.perf_counter_ns()
        for _ in range(4):
            np.matmul(first, second, out=product)
        np.add(long, 1.0, out=long)
        if number >= 3:  # the first ones load libraries and touch memory
            taken.append(time.perf_counter_ns() - start)
    return tuple(taken)
