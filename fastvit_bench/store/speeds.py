"""Speeds of machines, recorded by hardware in results/machine-speeds.json.

A machine's record has times of the reference workload, and by how much processes of one file differ.
"""

import contextlib
import math
from pathlib import Path
from typing import Annotated

import msgspec

from fastvit_bench import files
from fastvit_bench.records import Machine, Record
from fastvit_bench.records.measurement import Nanoseconds
from fastvit_bench.stats import intervals

FILE_NAME = "machine-speeds.json"
NEWEST_TIMES = 400  # times that are stored of a machine
BEST = 0.05  # quantile that counts as the best time: the quickest of hundreds is luck
FEWEST = 8  # times, or figures, that a machine's own range and scatter need at least
SCATTERS = 100  # newest figures whose processes' scatter is stored


class Speeds(Record, frozen=True):
    """Times of the reference workload on one machine, in nanoseconds, and variances of processes; the oldest first."""

    times_ns: tuple[Nanoseconds, ...] = ()
    # of each figure: variance of the logarithms of its processes' medians, over the median that one has
    variances: tuple[Annotated[float, msgspec.Meta(ge=0, lt=1e3)], ...] = ()

    @property
    def best_ns(self) -> int | None:
        """The best usual time in nanoseconds; None before anything was timed."""
        return _quantile(self.times_ns, BEST)

    @property
    def slowest_ns(self) -> int | None:
        """The worst usual time in nanoseconds; None before anything was timed."""
        return _quantile(self.times_ns, 1 - BEST)

    @property
    def factors(self) -> tuple[float, float] | None:
        """The smallest and the largest ratio of two usual times; None where too few are known."""
        if len(self.times_ns) < FEWEST or self.best_ns is None or self.slowest_ns is None:
            return None
        return self.best_ns / self.slowest_ns, self.slowest_ns / self.best_ns

    @property
    def scatter(self) -> float | None:
        """The usual standard deviation of the logarithms of processes' medians; None where too few are known."""
        if len(self.variances) < FEWEST:
            return None
        return math.sqrt(intervals.median(self.variances)) or None


def _quantile(times_ns: tuple[int, ...], share: float) -> int | None:
    """Return the order statistic at that share of the sorted times; of few times the first or the last."""
    if not times_ns:
        return None
    ordered = sorted(times_ns)
    return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))]


def load(results: Path, machine: Machine) -> Speeds:
    """Return the recorded speeds of a machine; an empty record where the file is absent or cannot be read."""
    return _read(results).get(_key(machine), Speeds())


def add(results: Path, machine: Machine, times_ns: list[int]) -> Speeds:
    """Record times of the reference workload and return all recorded speeds of the machine.

    A disk that refuses raises nothing: only the record is lost.
    """
    known = _read(results)
    speeds = known.get(_key(machine), Speeds())
    speeds = msgspec.structs.replace(speeds, times_ns=(*speeds.times_ns, *times_ns)[-NEWEST_TIMES:])
    _write(results, {**known, _key(machine): speeds})
    return speeds


def add_scatter(results: Path, machine: Machine, medians: list[float]) -> None:
    """Record how much the medians of a figure's processes differ; a disk that refuses raises nothing."""
    variance = intervals.log_variance(medians) / intervals.median_of_variance(len(medians) - 1)
    known = _read(results)
    speeds = known.get(_key(machine), Speeds())
    speeds = msgspec.structs.replace(speeds, variances=(*speeds.variances, variance)[-SCATTERS:])
    _write(results, {**known, _key(machine): speeds})


def _write(results: Path, known: dict[str, Speeds]) -> None:
    with contextlib.suppress(OSError):
        results.mkdir(parents=True, exist_ok=True)
        files.write(results / FILE_NAME, msgspec.json.format(msgspec.json.encode(known)) + b"\n")


def _read(results: Path) -> dict[str, Speeds]:
    try:
        return msgspec.json.decode(files.read_bytes(results / FILE_NAME), type=dict[str, Speeds])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _key(machine: Machine) -> str:
    """Return the key of a machine: the hardware and the library that the reference workload runs on."""
    quota = f" | quota {machine.quota:g}" if machine.quota else ""
    return f"{machine.processor} | {machine.cores} processors{quota} | numpy {machine.packages.get('numpy', '?')}"
