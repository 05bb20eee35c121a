"""Records of a comparison: its two sides, the blocks in which they took turns, and the verdicts.

Ratios are new over base, so that 1.05 is 5 % slower; fields of the new side are called `head`. Verdicts are computed
from the blocks by `stats.sequential`. They are stored together with the plan, so that a reader can repeat the test.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from fastvit_bench.errors import ExitCode
from fastvit_bench.records import (
    Artifact,
    CallPattern,
    Device,
    GpuState,
    Interval,
    Machine,
    Record,
    Samples,
    Stage,
    Window,
)
from fastvit_bench.stats.intervals import median as _median

SCHEMA = 1  # of a written comparison

# Interim looks: numbers of blocks at which a cell may be decided. Six are the fewest that can show "not slower", since
# 2^-6 < 5 %.
LOOKS = (6, 10, 14, 20, 28, 40)


Milliseconds = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]
LARGEST_RATIO = 1e18  # of two latencies
Ratio = Annotated[float, msgspec.Meta(gt=1 / LARGEST_RATIO, lt=LARGEST_RATIO)]
Margin = Annotated[float, msgspec.Meta(ge=0, lt=1e3)]  # a share
Probability = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Outcome(StrEnum):
    """The conclusion about a cell, or about all cells together."""

    PASS = "pass"  # slower by less than the margin, if at all
    IMPROVED = "improved"  # quicker by more than the margin
    REGRESSED = "regressed"  # slower by more than the margin
    INCONCLUSIVE = "inconclusive"  # no boundary was crossed
    INCOMPARABLE = "incomparable"  # there are no two figures that may be compared
    NO_BASELINE = "no-baseline"  # the base does not have this model, so there is nothing to compare with


# The worst first. A cell without a baseline ranks here unless `Plan.no_baseline` lets it pass.
EXIT_CODES = {
    Outcome.REGRESSED: ExitCode.REGRESSION,
    Outcome.INCOMPARABLE: ExitCode.NOT_COMPARABLE,
    Outcome.NO_BASELINE: ExitCode.NOT_COMPARABLE,
    Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Outcome.PASS: ExitCode.DONE,
    Outcome.IMPROVED: ExitCode.DONE,
}


class NoBaseline(StrEnum):
    """The gate's result for a model that the base does not have."""

    FAIL = "fail"  # exit code 4: nothing to compare is no pass
    PASS = "pass"  # for the first gate of a new model


class BaselineKind(StrEnum):
    """The origin of the base's figures, which determines the strength of a comparison."""

    PAIRED = "paired"  # both sides ran on this machine, in turns
    STORED = "stored"  # the base is a figure from another day: weaker


class InterleavePlan(Record, frozen=True):
    """Settings by which two loaded sides take turns within a block."""

    turns: int = 10  # of each side; the order within each pair of turns is random, balanced within a block
    runs: int = 10  # timed runs in a turn, at most
    turn_ms: int = 250  # a turn has fewer runs, at least one, where it would take longer than this
    settle: int = 1  # untimed runs at the beginning of a turn
    pause_ms: int = 60  # before each turn: threads of the side that ran last spin for some 50 ms
    idle: Literal["running", "stopped"] = "running"  # state of the process that waits; no thread of a stopped one spins
    steady: float = 0.02  # warm-up ends once the medians of two sets of a turn's runs differ by less


class Plan(Record, frozen=True):
    """The design of the sequential test and its blocks, fixed before the first block."""

    margin: Margin = 0.05  # a slowdown up to this is accepted: a share, 0.05 is 5 %
    pooled_margin: Margin = 0.025  # accepted slowdown of all cells together
    alpha: Probability = 0.01  # largest probability that any cell is called regressed while none is
    beta: Probability = 0.05  # largest probability that a given regressed cell passes
    looks: tuple[int, ...] = LOOKS  # interim looks, in blocks of a cell; the last one is the final look
    max_time_s: float = 1200
    seed: int = 0  # of the order of turns and cells
    turns: InterleavePlan = InterleavePlan()
    no_baseline: NoBaseline = NoBaseline.FAIL
    allowed: tuple[str, ...] = ()  # properties in which the sides of a gate may differ, of `ALLOWABLE`


# properties of an exported file that a gate compares, unless it is told to allow a difference -> their value
ALLOWABLE: dict[str, Callable[[Artifact], object]] = {
    "fuse": lambda artifact: artifact.level.value if artifact.level else "unknown",
    "variant": lambda artifact: artifact.variant,
    "classes": lambda artifact: artifact.classes,
    "head": lambda artifact: artifact.head.value,
    "precision": lambda artifact: artifact.precision,
}


class Side(Record, frozen=True):
    """The base or the new side of one cell."""

    label: str  # name of the side for people
    artifact: Artifact
    device: Device  # options resolved
    window: Window
    clock: str
    pacing: CallPattern
    machine: Machine  # its packages are those of the Python environment that ran this side
    parity: float | None = None  # relative error of its outputs on this machine, against the reference network

    def __post_init__(self) -> None:
        """Raise `ValueError` for a shape that no image has."""
        if min(self.artifact.shape.nchw) < 1:
            raise ValueError(f"no image has the shape {self.artifact.shape.nchw}")


class Readings(Record, frozen=True):
    """The machine's load, clock and temperature while a block was measured; None where unknown."""

    load: float | None = None  # 1-minute load average at its end
    others_percent: float | None = None  # processor time of all other processes while sides ran, in percent of one core
    steal_percent: float | None = None  # processor time taken by the hypervisor
    clock_mhz: float | None = None
    temperature_c: float | None = None  # of the processor, where the system reports it
    throttled: int | None = None  # times that the processor reported throttling itself during the block
    gpu: tuple[GpuState, ...] = ()
    quota_periods: int | None = None  # periods of the block in which the CPU quota ran out; None without a quota


class Block(Record, frozen=True):
    """One block of one cell: samples of both sides, which took turns in processes of their own."""

    number: int  # from 1, in the order they were measured
    order: str  # of the turns, such as "ABBA": A is the base, B the new side
    base_ns: Annotated[tuple[Samples, ...], msgspec.Meta(min_length=1)]  # of each of its turns
    head_ns: Annotated[tuple[Samples, ...], msgspec.Meta(min_length=1)]
    readings: Readings = Readings()
    disturbed: tuple[str, ...] = ()  # causes of disturbance; such a block counts only where repeating it did not help
    replaced: bool = False  # True: the block does not count, because it was repeated
    reference: Ratio | None = None  # with a stored base: time of the reference workload now over the base's

    def __post_init__(self) -> None:
        """Raise `ValueError` where a turn of one side has no neighbour of the other side."""
        if len(self.base_ns) != len(self.head_ns):
            raise ValueError(f"{len(self.base_ns)} turns of the base and {len(self.head_ns)} of the new side")

    @property
    def log_ratio(self) -> float:
        """Natural logarithm of new over base: the median over turns of the ratio of the turns' medians.

        Each ratio pairs two neighbouring turns, so a slow period of the machine affects both and mostly cancels.
        """
        pairs = zip(self.base_ns, self.head_ns, strict=True)
        return _median([math.log(_median(head) / _median(base)) for base, head in pairs]) - math.log(
            self.reference or 1.0
        )

    @property
    def base_ms(self) -> float:
        """Median of the base's samples, in milliseconds."""
        return _median([sample for turn in self.base_ns for sample in turn]) / 1e6

    @property
    def head_ms(self) -> float:
        """Median of the new side's samples, in milliseconds."""
        return _median([sample for turn in self.head_ns for sample in turn]) / 1e6


class Verdict(Record, frozen=True):
    """The outcome for one cell or for all together, with the estimates behind it."""

    outcome: Outcome
    margin: Margin
    reason: str  # one sentence for people
    blocks: int = 0  # that count
    above: int = 0  # blocks with a ratio above the margin
    ratio: Ratio | None = None  # new over base: the median over blocks
    interval: Interval | None = None  # 95 %, of the ratio (not milliseconds)
    bounds: tuple[float, float] | None = None  # of the ratio, from the look's boundaries; 0 and inf: open
    detectable: float | None = None  # smallest slowdown that 95 % of gates detect, given these blocks' scatter
    floor: float | None = None  # smallest margin within which an unchanged cell passes in 95 % of gates

    def __post_init__(self) -> None:
        """Raise `ValueError` for an interval that no ratio has; its high end may be open."""
        if self.interval is None:
            return
        low, high = self.interval.low, self.interval.high
        if not (1 / LARGEST_RATIO < low <= high and (high < LARGEST_RATIO or math.isinf(high)) and math.isfinite(low)):
            raise ValueError(f"no ratio has the interval from {low} to {high}")


class CellCalibration(Record, frozen=True):
    """Error rates of the gate for one unchanged cell, or for all cells together, on this machine."""

    name: str  # empty for all cells together
    margin: Margin
    blocks: int  # of all repetitions
    scatter: float | None  # standard deviation of a block's log ratio, by its median absolute deviation
    false_alarms: int  # repetitions that called it regressed
    inconclusive: int  # repetitions that left it inconclusive
    drawn_false_alarms: float  # share of gates calling it regressed, of blocks resampled from a repetition
    drawn_inconclusive: float  # share of the same gates that leave it inconclusive
    detectable: float | None  # as in `Verdict`, from the scatter over all repetitions
    floor: float | None


class Calibration(Record, frozen=True):
    """Error rates of the gate on this machine, from repetitions with the same file on both sides."""

    plan: Plan
    repetitions: int
    false_alarms: int  # repetitions with any verdict of regressed
    inconclusive: int  # repetitions without one, but with an inconclusive verdict
    cells: tuple[CellCalibration, ...]
    pooled: CellCalibration | None  # None for a single cell
    machine: Machine | None = None  # None in old calibrations, which did not record it


class CellResult(Record, frozen=True):
    """The comparison of one cell: a model at a shape, on both sides."""

    name: str  # such as ``fastvit_t8 256 b1``
    verdict: Verdict
    base: Side | None = None  # None: the side is missing
    head: Side | None = None
    blocks: tuple[Block, ...] = ()
    base_ms: Milliseconds | None = None  # median over the blocks that count
    head_ms: Milliseconds | None = None  # base_ms times the verdict's ratio, so that figures and change agree
    speed_factor: Ratio | None = None  # with a stored base: time of the reference workload now over the base's
    failed: Stage | None = None  # the stage at which a side failed


class Comparison(Record, frozen=True, tag="comparison", tag_field="document"):
    """The complete result of one `compare` or `gate`, from which every output is written."""

    schema: int
    kind: BaselineKind
    started: str  # UTC, ISO 8601
    finished: str
    tool: str  # version of fastvit-bench
    commit: str | None
    dirty: bool
    device: Device
    machine: Machine
    base: str  # names of the sides for people
    head: str
    plan: Plan
    cells: tuple[CellResult, ...]
    pooled: Verdict | None  # of all cells together; None for a single one
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of all verdicts; incomparable without any cell.

        Regressed comes before incomparable: both fail a build, and the first answers the question that was asked. A
        cell without a baseline that may pass hides no cell that failed.
        """
        outcomes = [cell.verdict.outcome for cell in self.cells] + ([self.pooled.outcome] if self.pooled else [])
        order = list(EXIT_CODES)
        if self.plan.no_baseline is NoBaseline.PASS:
            order.remove(Outcome.NO_BASELINE)
            order.insert(order.index(Outcome.PASS), Outcome.NO_BASELINE)
        return next((outcome for outcome in order if outcome in outcomes and self.cells), Outcome.INCOMPARABLE)

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command; a side with wrong outputs comes before any verdict."""
        if any(cell.failed == "parity" for cell in self.cells):
            return ExitCode.PROOF_FAILED
        if self.outcome is Outcome.NO_BASELINE and self.plan.no_baseline is NoBaseline.PASS:
            return ExitCode.DONE
        return EXIT_CODES[self.outcome]
