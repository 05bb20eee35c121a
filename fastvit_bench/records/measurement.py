"""A cell's samples and the facts needed to judge them, with the records of cells and their failures."""

import functools
import itertools
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

import msgspec

from fastvit_bench.records.artifact import Artifact, Count, ExternalModel, Job
from fastvit_bench.records.engine import Engine
from fastvit_bench.records.gpu import GpuState, gpu_warnings
from fastvit_bench.records.machine import Machine, MachineState
from fastvit_bench.records.parity import Parity
from fastvit_bench.records.spec import CallPattern, Device, Fuse, Method, Record, Shape, Statistic, Weights, Window
from fastvit_bench.stats import intervals
from fastvit_bench.stats.intervals import median, order_statistic_ranks, trimmed_mean

# no run is shorter than a nanosecond, which would be a broken clock, or as long as eleven days
Nanoseconds = Annotated[int, msgspec.Meta(gt=0, lt=10**15)]
Samples = Annotated[tuple[Nanoseconds, ...], msgspec.Meta(min_length=1)]  # in order of measurement


class LayerTime(Record, frozen=True):
    """Time of one layer in the running network, from a separate profiling pass."""

    name: str  # the toolkit's name; several names for fused layers
    kind: str  # such as Conv; empty where the toolkit does not report it
    block: str  # of the network, such as stages.2.blocks.1; empty where the name does not show it
    median_ns: int


class ResourceUsage(Record, frozen=True):
    """Memory and energy of one process and its timed runs; None where no counter says."""

    peak_resident_bytes: Count | None = None  # largest resident set, from the process's start to its last timed run
    device_bytes: Count | None = None  # most that the process held of the GPU's memory
    energy_mj: Annotated[float, msgspec.Meta(ge=0, lt=1e15)] | None = (
        None  # of whole packages or the GPU, timed runs only
    )
    runs: Count = 0  # timed runs that the energy is of


class Interval(Record, frozen=True):
    """A confidence interval, in milliseconds."""

    low: float
    high: float
    confidence: float  # the one reached: at least the requested one


class Unit(StrEnum):
    """The compute unit on which a toolkit plans to run an operation."""

    NEURAL_ENGINE = "neural-engine"
    GPU = "gpu"
    CPU = "cpu"


class PlannedOperation(Record, frozen=True):
    """One operation of a compute plan."""

    kind: str  # such as ios16.conv
    output: str  # name of its first output
    unit: Unit  # the planned one
    supported: tuple[Unit, ...]  # those that could run it
    cost: float | None = None  # the toolkit's estimate, as a share of the whole program's


class Placement(Record, frozen=True, dict=True):
    """A toolkit's plan of the compute unit for each operation, in program order; not a measurement."""

    operations: tuple[PlannedOperation, ...]

    @functools.cached_property
    def counts(self) -> dict[Unit, int]:
        """Number of operations planned on each unit."""
        counts = dict.fromkeys(Unit, 0)
        for operation in self.operations:
            counts[operation.unit] += 1
        return counts

    @functools.cached_property
    def shares(self) -> dict[Unit, float]:
        """Share of the operations planned on each unit."""
        return {unit: count / max(1, len(self.operations)) for unit, count in self.counts.items()}

    @functools.cached_property
    def costs(self) -> dict[Unit, float] | None:
        """Share of the planned cost on each unit; None where the plan names no cost."""
        total = sum(operation.cost or 0.0 for operation in self.operations)
        if total <= 0:
            return None
        shares = dict.fromkeys(Unit, 0.0)
        for operation in self.operations:
            shares[operation.unit] += (operation.cost or 0.0) / total
        return shares

    @functools.cached_property
    def eligible(self) -> float:
        """Share of the operations that the Neural Engine could run."""
        able = sum(Unit.NEURAL_ENGINE in operation.supported for operation in self.operations)
        return able / max(1, len(self.operations))

    @functools.cached_property
    def ops_off_neural_engine(self) -> dict[str, int]:
        """Kind -> number of operations not planned on the Neural Engine; the most frequent first."""
        counts: dict[str, int] = {}
        for operation in self.operations:
            if operation.unit is not Unit.NEURAL_ENGINE:
                counts[operation.kind] = counts.get(operation.kind, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @functools.cached_property
    def switches(self) -> int:
        """Number of neighbouring operations that are planned on different units."""
        units = [operation.unit for operation in self.operations]
        return sum(a != b for a, b in itertools.pairwise(units))


def _largest(sizes: Sequence[int | None]) -> int | None:
    """Return the largest size; None where one is unknown, or there is none."""
    known = [size for size in sizes if size is not None]
    return max(known) if known and len(known) == len(sizes) else None


def _enclosing(ordered_ns: Sequence[int], quantile: float, confidence: float) -> Interval | None:
    """Return the two of the sorted samples that enclose a quantile, in milliseconds; None where they are too few."""
    ranks = order_statistic_ranks(len(ordered_ns), quantile, confidence)
    if ranks is None:
        return None
    low, high, reached = ranks
    return Interval(low=ordered_ns[low - 1] / 1e6, high=ordered_ns[high - 1] / 1e6, confidence=reached)


class _Summary(NamedTuple):
    """Statistics of all samples of a measurement."""

    median_ms: float
    bounds_ms: Interval | None  # distribution-free, of the median
    drift: float  # that one half of the samples has at most over the other, as a share


def _drift(samples: Samples) -> float:
    """Return the slowdown of a round's second half over its first, as a share; below 0 where it is quicker."""
    half = len(samples) // 2
    return median(samples[half:]) / median(samples[:half]) - 1


LARGEST_SCATTER = 32.0  # standard deviation of logarithms: times differ by less than a factor of 10**13
SLOW = 0.95  # share of a machine's best speed below which a figure is flagged


SLOW_END = 0.9  # the same limit at one end of a process's runs; the reference itself scatters by a few percent


class SpeedCheck(Record, frozen=True):
    """Times of the reference workload before and after one process's timed runs, in nanoseconds."""

    before_ns: Samples
    after_ns: Samples

    @property
    def median_ns(self) -> float:
        """Quicker of the two medians; a machine that is slow for seconds is slow in both."""
        return min(median(self.before_ns), median(self.after_ns))

    @property
    def slower_ns(self) -> float:
        """Slower of the two medians; the speed may have changed in between."""
        return max(median(self.before_ns), median(self.after_ns))

    def is_slow(self, best_ns: float) -> bool:
        """Return whether the machine was slow at both ends, or clearly slow at one.

        `best_ns` is the shortest known time of the reference workload on this machine.
        """
        return best_ns / self.median_ns < SLOW or best_ns / self.slower_ns < SLOW_END


class Measurement(Record, frozen=True, tag="measurement", tag_field="kind", dict=True):
    """The latency of one artifact: every sample, and the facts needed to judge it."""

    finished: str  # UTC, ISO 8601
    device: Device  # options resolved
    artifact: Artifact | ExternalModel
    method: Method
    window: Window
    clock: str  # name of the clock that was read
    samples_ns: Annotated[tuple[Samples, ...], msgspec.Meta(min_length=1)]  # one entry per round
    machine: Machine
    state: MachineState
    pacing: CallPattern = CallPattern.BACK_TO_BACK
    cold_ns: tuple[int, ...] = ()  # the first run of each round, where a report includes it in the samples
    load_ns: tuple[int, ...] = ()  # times of loading the file; the first may include compilation on the device
    compile_ns: tuple[int, ...] = ()  # times of compiling it, where that is a separate step
    placement: Placement | None = None  # collected after the timed runs
    parity: Parity | None = None  # of the timed session's outputs; None where the figure comes from a report
    engine: Engine | None = None  # what ran in place of the artifact's file
    gpu: tuple[GpuState, ...] = ()  # readings between the timed runs
    usage: tuple[ResourceUsage, ...] = ()  # one per process
    layers: tuple[LayerTime, ...] = ()  # of a separate profiling pass, where it was requested
    reference_ns: tuple[int, ...] = ()  # of `measure.reference`, timed after the runs; processors in older runs only
    speed_checks: tuple[SpeedCheck, ...] = ()  # one per process; processors only
    best_reference_ns: Annotated[int, msgspec.Meta(gt=0)] | None = None  # of this machine, as known then
    usual_scatter: Annotated[float, msgspec.Meta(gt=0)] | None = None  # of processes on this machine, as known then
    remeasured: int = 0  # processes whose runs were dropped because the machine ran slowly
    tool: str = ""  # version of fastvit-bench that measured it on a fleet; empty: that of the run

    def __post_init__(self) -> None:
        """Raise `ValueError` for what no figure can be computed of."""
        if self.method.trim < 0 or (self.method.trim and 2 * self.method.trim >= min(map(len, self.samples_ns))):
            raise ValueError(f"a trim of {self.method.trim} leaves no sample of a round")
        if self.shape is not None and min(self.shape.nchw) < 1:
            raise ValueError(f"no image has the shape {self.shape.nchw}")
        if self.usual_scatter is not None and self.usual_scatter > LARGEST_SCATTER:
            raise ValueError(f"processes scatter by less than {self.usual_scatter:g}")

    @property
    def shape(self) -> Shape | None:
        """Shape of the input; None for an external model without an image input."""
        return self.artifact.shape

    @functools.cached_property
    def round_means_ms(self) -> list[float]:
        """Trimmed mean of each round, by the method's `trim`, in milliseconds."""
        return [trimmed_mean(samples, self.method.trim) / 1e6 for samples in self.samples_ns]

    @functools.cached_property
    def figure_ms(self) -> float:
        """Latency per batch by the method's statistic, in milliseconds; the figure that tables show."""
        if self.method.statistic is Statistic.MEDIAN:
            return self._summary.median_ms
        return intervals.mean(self.round_means_ms)

    @property
    def process_medians_ns(self) -> list[float]:
        """Median of each round, in nanoseconds; each process is a round where runs are spread over several."""
        return [median(samples) for samples in self.samples_ns]

    def _sorted_ns(self) -> list[int]:
        """Return all samples of all rounds, sorted, in nanoseconds; no figure keeps them in memory twice."""
        return sorted(itertools.chain.from_iterable(self.samples_ns))

    @property
    def samples_ms(self) -> list[float]:
        """All samples of all rounds, sorted, in milliseconds."""
        return [ns / 1e6 for ns in self._sorted_ns()]

    @property
    def count(self) -> int:
        """Number of samples in all rounds."""
        return sum(map(len, self.samples_ns))

    @property
    def median_ms(self) -> float:
        """Median latency per batch, in milliseconds."""
        return self._summary.median_ms

    @functools.cached_property
    def _summary(self) -> _Summary:
        """What every table shows of the samples; they are sorted once for all of it."""
        ordered = self._sorted_ns()
        middle, odd = divmod(len(ordered), 2)
        high = ordered[middle] / 1e6
        low = high if odd else ordered[middle - 1] / 1e6
        # the median of either half of n values is one of them, or the mean of two, at least so far from both ends
        least = (len(ordered) // 2 - 1) // 2
        return _Summary(
            median_ms=high if odd else (low + high) / 2,
            bounds_ms=_enclosing(ordered, 0.5, intervals.CONFIDENCE),
            drift=ordered[-1 - least] / ordered[least] - 1 if least >= 0 else 0.0,
        )

    @functools.cached_property
    def interval_ms(self) -> Interval | None:
        """95 % confidence interval of `figure_ms`; None where the samples do not allow one."""
        return self.figure_interval_ms(intervals.CONFIDENCE)

    def figure_interval_ms(self, confidence: float) -> Interval | None:
        """Return the confidence interval of `figure_ms`; None where the samples do not allow one.

        The interval of a median assumes no distribution, and takes six samples or more for 95 %. Where runs are spread
        over processes, it covers the figure of another such run, and not only the median of these. The interval of a
        mean over rounds is Student's t on the rounds' means, from two rounds on. It assumes independent, nearly normal
        rounds. Rounds with an interval that would reach zero give none, because a latency is positive.
        """
        if self.method.statistic is Statistic.MEDIAN and self.method.processes > 1:
            return self._another_run_ms(confidence)
        if self.method.statistic is Statistic.MEDIAN:
            bounds = self._median_bounds_ms(confidence)
        else:
            means = intervals.mean_interval(self.round_means_ms, confidence)
            bounds = Interval(*means) if means else None
        return bounds if bounds and bounds.low > 0 else None

    def _median_bounds_ms(self, confidence: float) -> Interval | None:
        """Return the distribution-free interval of the median; None where the samples are too few."""
        if confidence == intervals.CONFIDENCE:
            return self._summary.bounds_ms
        return _enclosing(self._sorted_ns(), 0.5, confidence)

    def _another_run_ms(self, confidence: float) -> Interval | None:
        """Return the interval of another such run's figure, from the scatter of the processes' medians."""
        within = self._median_bounds_ms(confidence)
        factor = intervals.another_figure(self.process_medians_ns, confidence, self.usual_scatter)
        if within is None or factor is None:
            return None
        low, high = self.figure_ms / factor, self.figure_ms * factor
        return Interval(low=min(low, within.low), high=max(high, within.high), confidence=confidence)

    @property
    def peak_resident_bytes(self) -> int | None:
        """Largest resident set of a process that timed; None unless every process has one."""
        return _largest([process.peak_resident_bytes for process in self.usage])

    @property
    def device_bytes(self) -> int | None:
        """Most that a process held of the GPU's memory; None unless every process has a reading."""
        return _largest([process.device_bytes for process in self.usage])

    @property
    def energy_mj(self) -> float | None:
        """Energy of one batch in millijoules, as the mean over all timed runs; None unless every process has one."""
        energies = [process.energy_mj for process in self.usage]
        runs = sum(process.runs for process in self.usage)
        if not runs or None in energies:
            return None
        return sum(energy for energy in energies if energy is not None) / runs

    @property
    def reference_samples_ns(self) -> tuple[int, ...]:
        """All times of the reference workload; empty where it was not timed."""
        checks = (ns for check in self.speed_checks for ns in (*check.before_ns, *check.after_ns))
        return tuple(checks) or self.reference_ns

    @property
    def reference_median_ns(self) -> float | None:
        """Median time of the reference workload during this measurement; None where it was not timed."""
        if self.speed_checks:
            return median(check.median_ns for check in self.speed_checks)
        return median(self.reference_ns) if self.reference_ns else None

    @property
    def speed(self) -> float | None:
        """Speed of the machine during the measurement, as a share of its best known one; None where unknown."""
        current_ns = self.reference_median_ns
        if current_ns is None or self.best_reference_ns is None:
            return None
        return min(1.0, self.best_reference_ns / current_ns)

    def quantile_interval_ms(self, quantile: float) -> Interval | None:
        """Return the distribution-free 95 % interval of a quantile; None where the samples are too few."""
        if order_statistic_ranks(self.count, quantile) is None:
            return None
        return _enclosing(self._sorted_ns(), quantile, intervals.CONFIDENCE)

    def quantile_ms(self, quantile: float) -> float | None:
        """Return a quantile by linear interpolation; None where the samples are too few for its interval."""
        if order_statistic_ranks(self.count, quantile) is None:
            return None
        return intervals.quantile(self.samples_ms, quantile)

    @functools.cached_property
    def p90_ms(self) -> float | None:
        """90th percentile in milliseconds; None below the 36 samples that its two-sided interval needs."""
        return self.quantile_ms(0.9)

    @functools.cached_property
    def p99_ms(self) -> float | None:
        """99th percentile in milliseconds; None below the 368 samples that its two-sided interval needs."""
        return self.quantile_ms(0.99)

    @functools.cached_property
    def mad_ms(self) -> float:
        """Median absolute deviation from the median, in milliseconds."""
        return intervals.median_absolute_deviation(self.samples_ms)

    @property
    def ms_per_image(self) -> float:
        """Latency per image: the figure over the batch size, in milliseconds."""
        return self.figure_ms / (self.shape.batch if self.shape else 1)

    @functools.cached_property
    def warnings(self) -> list[str]:
        """Reasons to distrust the figure, as phrases for people."""
        warnings: list[str] = []
        figure, interval = self.figure_ms, self.interval_ms
        if interval is None:
            warnings.append(self._missing_interval_reason)
        elif interval.high - interval.low > 0.05 * figure:
            name = "median" if self.method.statistic is Statistic.MEDIAN else "mean"
            width = 100 * (interval.high - interval.low) / figure
            # beyond that the width itself says nothing: of two processes that differ it has no bound
            warnings.append(f"{name} uncertain by {f'{width:.0f}' if width <= 100 else 'more than 100'} %")
        if self.speed is not None and self.speed < SLOW:
            warnings.append(f"the machine ran at {self.speed:.2f} of its best")
        rounds = [samples for samples in self.samples_ns if len(samples) >= 20]  # shorter ones show no drift
        # Where runs are spread over processes, the interval covers their differences, and each has too few runs.
        alone = rounds if self.method.processes == 1 else []
        if len(self.samples_ns) == 1 and self._summary.drift <= 0.05:
            alone = []  # whatever the order of the samples
        drift = max((_drift(samples) for samples in alone), key=abs, default=0.0)
        if abs(drift) > 0.05:
            warnings.append(f"not steady: second half of the runs {100 * drift:+.0f} %")
        middles = [median(samples) for samples in rounds] if len(rounds) > 1 else [1.0]
        if (excess := max(middles) / min(middles) - 1) > 0.05:
            units = "processes" if self.method.processes > 1 else "rounds"
            warnings.append(f"{units} differ: the slowest's median is {100 * excess:.0f} % above the quickest's")
        if (self.state.steal_percent or 0) > 2:
            warnings.append(f"the hypervisor took {self.state.steal_percent:.0f} % of the processor")
        if periods := self.state.quota_periods:
            warnings.append(f"the CPU quota stopped it {periods}x")
        if self.pacing is CallPattern.REMOTE_CALL:
            warnings.append(
                "each run was called over the cable, and the device idled in between: slower than back to back"
            )
        return warnings + gpu_warnings(self.gpu)

    @property
    def _missing_interval_reason(self) -> str:
        if self.method.statistic is Statistic.MEDIAN:
            count = self.count
            return f"only {count} run{'s' * (count != 1)}: no interval"
        if (count := len(self.samples_ns)) == 1:
            return "only 1 round: no interval"
        return f"{count} rounds that differ too much for an interval"


def sample_faults(measurement: Measurement) -> str:
    """Return a clause on samples that are not as many as the method says; empty where they are.

    A round has `runs` samples, and more where it lasts for a duration. Runs that are spread over processes are divided
    among them, at least one each, and each process has the method's rounds.
    """
    method = measurement.method
    lengths = [len(samples) for samples in measurement.samples_ns]
    processes, rounds = max(1, method.processes), max(1, method.rounds)
    if len(lengths) != processes * rounds:
        units = "processes" if processes > 1 else "rounds"
        return f"it has samples of {len(lengths)} {units}, and its method has {processes * rounds}"
    share, larger = divmod(method.runs, processes)
    for number, length in enumerate(lengths):
        runs = max(1, share + (number // rounds < larger))
        if length < runs or (length > runs and not method.duration_ms):
            least = "at least " if method.duration_ms else ""
            return f"round {number + 1} has {length} samples, and its method has {least}{runs}"
    return ""


def cell_name(model: str, shape: Shape) -> str:
    """Return the name of a model at a shape: ``fastvit_t8 256 b1``."""
    return f"{model} {shape.size} b{shape.batch}"


class Cell(Record, frozen=True, order=False):
    """One unit of a sweep: a model at a shape, fused to a level, with its weights."""

    model: str
    shape: Shape
    fused: Fuse | None  # None of a user's file
    weights: Weights

    @property
    def label(self) -> str:
        """Short name for messages: ``fastvit_t8 256 b1``."""
        return cell_name(self.model, self.shape)


Stage = Literal["export", "parity", "engine", "timing", "accuracy"]  # of the work on a cell


class CellError(Record, frozen=True, tag="trouble", tag_field="kind"):
    """The reason why a cell has no result, and the stage that failed."""

    stage: Stage
    reason: str
    log: str = ""  # the end of the process's output, where the process died


class Failure(CellError, frozen=True, kw_only=True, tag="failure", tag_field="kind"):  # noqa: N818 - no exception
    """A cell without a figure, as stored in a run file."""

    finished: str  # UTC, ISO 8601
    cell: Cell


class TimingJob(Record, Job[Measurement], frozen=True, tag="timing", tag_field="job"):
    """A request to time one artifact in a worker process."""

    artifact: Artifact
    path: str  # of the exported file
    device: Device
    method: Method
    machine: Machine
    profile: bool = False  # also time the layers, in a separate pass
