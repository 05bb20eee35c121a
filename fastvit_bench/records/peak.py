"""Records of a device's peak rates: microbenchmarks, their times and the jobs that time them."""

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from fastvit_bench.records.artifact import Job
from fastvit_bench.records.machine import Machine
from fastvit_bench.records.spec import Device, Method, Record, Shape, Window

Positive = Annotated[int, msgspec.Meta(gt=0, lt=2**20)]


class Microbenchmark(Record, frozen=True):
    """A small network that is timed to find a device's peak rate."""

    kind: Literal["pointwise", "spatial", "product", "copy"]  # 1x1 or 3x3 convolutions, matrix products, y = x * c
    width: Positive  # channels; three, as in an image, for a copy
    side: Positive  # pixels, height and width
    depth: Positive  # number of consecutive layers
    precision: str

    @property
    def label(self) -> str:
        """Description for people: ``3x3 convolutions 128 x 4 at 32 x 32``."""
        if self.kind == "copy":
            return f"{self.width} x {self.side} x {self.side} numbers scaled"
        return f"{_PROBES[self.kind]} {self.width} x {self.depth} at {self.side} x {self.side}"

    @property
    def shape(self) -> Shape:
        """Shape of the input: one image."""
        return Shape(batch=1, height=self.side, width=self.side)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layers of equal width, without the first one, which creates the channels."""
        if self.kind == "copy":
            return 0
        return self.depth * self.width**2 * self.side**2 * (9 if self.kind == "spatial" else 1)

    @property
    def moved_bytes(self) -> int:
        """Bytes that a copy reads and writes; meaningful for copies only."""
        return 2 * self.width * self.side**2 * (2 if self.precision == "fp16" else 4)


_PROBES = {"pointwise": "1x1 convolutions", "spatial": "3x3 convolutions", "product": "matrix products"}


class MicrobenchmarkTime(Record, frozen=True):
    """The best time of a microbenchmark in each of the processes that ran it."""

    probe: Microbenchmark
    best_ns: Annotated[tuple[Annotated[int, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]  # medians of a set

    @property
    def per_s(self) -> float:
        """Multiply-accumulates per second of the quickest process; bytes per second for a copy."""
        probe = self.probe
        return (probe.moved_bytes if probe.kind == "copy" else probe.macs) / (min(self.best_ns) / 1e9)


def spread_ratio(times: Sequence[int]) -> float:
    """Return the ratio of the second shortest time to the shortest; infinity for a single time."""
    shortest, *longer = sorted(times)
    return longer[0] / shortest if longer else math.inf


BUSY_PERCENT = 25  # of one processor's time; other processes that take more lower a measured peak


MICROBENCHMARKS_VERSION = 1  # raised when the microbenchmarks or their timing change, because figures then differ


class DevicePeak(Record, frozen=True, dict=True):
    """A device's peak arithmetic rate and memory bandwidth through its toolkit: the two roofs of the roofline."""

    probes: int  # `MICROBENCHMARKS_VERSION` at the time
    finished: str  # UTC, ISO 8601
    device: Device  # options resolved; its batch has no meaning, as microbenchmarks take one image
    machine: Machine
    method: Method
    window: Window
    clock: str
    arithmetic: Annotated[tuple[MicrobenchmarkTime, ...], msgspec.Meta(min_length=1)]
    memory: MicrobenchmarkTime
    others_percent: float | None = None  # processor time of all other processes meanwhile, in percent of one core

    @functools.cached_property
    def best(self) -> MicrobenchmarkTime:
        """The arithmetic microbenchmark with the highest rate."""
        return max(self.arithmetic, key=lambda time: time.per_s)

    @functools.cached_property
    def macs_per_s(self) -> float:
        """Peak multiply-accumulates per second, in the device's precision."""
        return self.best.per_s

    @functools.cached_property
    def bytes_per_s(self) -> float:
        """Peak bytes per second, read and written, of arrays too large for any cache."""
        return self.memory.per_s

    @property
    def ridge(self) -> float:
        """Operational intensity in FLOP per byte above which arithmetic is the bound."""
        return 2 * self.macs_per_s / self.bytes_per_s

    def attainable(self, intensity: float) -> float:
        """Return the highest multiply-accumulates per second at so many FLOP per byte (Williams et al. 2009)."""
        return min(self.macs_per_s, intensity * self.bytes_per_s / 2)

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the roofs, as phrases for people."""
        warnings: list[str] = []
        for roof, timed in (("arithmetic rate", self.best), ("memory bandwidth", self.memory)):
            if len(timed.best_ns) > 1 and (ratio := spread_ratio(timed.best_ns)) > 1.1:
                count = len(timed.best_ns)
                warnings.append(f"{roof}: the two quickest of {count} processes differ by {100 * (ratio - 1):.0f} %")
        if self.machine.accelerator is None and (self.others_percent or 0) > BUSY_PERCENT:
            warnings.append(f"other processes took {self.others_percent:.0f} % of a processor meanwhile")
        return warnings


class MicrobenchmarkWritten(Record, frozen=True, tag="written", tag_field="kind"):
    """The answer to a `MicrobenchmarkJob`: the microbenchmark's file exists."""


class MicrobenchmarkTimed(Record, frozen=True, tag="probed", tag_field="kind"):
    """The answer to a `MicrobenchmarkTimingJob`: the best time in one process."""

    best_ns: int  # the lowest of the medians of the sets of runs
    window: Window
    clock: str


class MicrobenchmarkJob(Record, Job[MicrobenchmarkWritten], frozen=True, tag="probe", tag_field="job"):
    """A request to write a microbenchmark's file in the device's toolkit format, in a worker process."""

    probe: Microbenchmark
    device: Device
    path: str  # target file


class MicrobenchmarkTimingJob(Record, Job[MicrobenchmarkTimed], frozen=True, tag="probe-timing", tag_field="job"):
    """A request to time a microbenchmark's file in a worker process."""

    probe: Microbenchmark
    device: Device
    path: str
    method: Method
