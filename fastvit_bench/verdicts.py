"""The nouns of comparing: two sides, the blocks in which they took turns, and what was concluded of them.

Ratios are head over base, so that 1.05 is 5 % slower. Whatever follows from the blocks is computed by `report.judge`
and kept here as it was concluded, with the plan it was concluded by, so that a reader can repeat it.
"""

import math
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from fastvit_bench.errors import ExitCode
from fastvit_bench.records import (
    Artifact,
    Device,
    GpuState,
    Interval,
    Machine,
    Pacing,
    Record,
    Stage,
    Window,
)
from fastvit_bench.stats.intervals import median as _median

SCHEMA = 1  # of a written comparison

# Numbers of blocks after which a verdict may fall. The first is the fewest that can show "not slower" (2^-6 < 5 %).
LOOKS = (6, 10, 14, 20, 28, 40)


class Outcome(StrEnum):
    """What is concluded of a cell, or of all of them together."""

    PASS = "pass"  # slower by less than the margin, if at all
    IMPROVED = "improved"  # quicker by more than the margin
    REGRESSED = "regressed"  # slower by more than the margin
    INCONCLUSIVE = "inconclusive"  # the blocks do not tell
    INCOMPARABLE = "incomparable"  # there are no two figures that may be compared
    NO_BASELINE = "no-baseline"  # the base does not have this model at all, so there is nothing to compare with


# the worst first; of a cell without a baseline, where `Plan.no_baseline` does not let it pass
EXIT_CODES = {
    Outcome.REGRESSED: ExitCode.REGRESSION,
    Outcome.INCOMPARABLE: ExitCode.NOT_COMPARABLE,
    Outcome.NO_BASELINE: ExitCode.NOT_COMPARABLE,
    Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Outcome.PASS: ExitCode.DONE,
    Outcome.IMPROVED: ExitCode.DONE,
}


class NoBaseline(StrEnum):
    """What a gate makes of a model that its base does not have."""

    FAIL = "fail"  # exit code 4: nothing to compare is no pass
    PASS = "pass"  # for the first gate of a new model


class Kind(StrEnum):
    """How strong a comparison is."""

    PAIRED = "paired"  # both sides ran here, in turns
    STORED = "stored"  # the base is a figure from another day: weaker


class Turns(Record, frozen=True):
    """How two loaded sides take turns within a block."""

    turns: int = 10  # of each side; which goes first is drawn anew for each, balanced within a block
    runs: int = 10  # timed runs in a turn at most
    turn_ms: int = 250  # a turn has fewer runs, at least one, where it would take longer than this
    settle: int = 1  # untimed runs at the beginning of a turn
    pause_ms: int = 60  # before each turn: threads of the side that has just run spin for some 50 ms
    idle: Literal["running", "stopped"] = "running"  # what a side's process is meanwhile; stopped, nothing spins
    steady: float = 0.02  # warming up goes on until the medians of two sets of 20 runs (or of a turn) differ by less


class Plan(Record, frozen=True):
    """By what a verdict is reached; all of it is fixed before the first block."""

    margin: float = 0.05  # a slowdown up to this is accepted: a share, 0.05 is 5 %
    pooled_margin: float = 0.025  # likewise, of all cells together
    alpha: float = 0.01  # chance, at most, that any cell is called regressed while none is
    beta: float = 0.05  # chance, at most, that one regressed cell is called passed
    looks: tuple[int, ...] = LOOKS
    max_time_s: float = 1200
    seed: int = 0  # of the order of turns and cells
    turns: Turns = Turns()
    no_baseline: NoBaseline = NoBaseline.FAIL


class Side(Record, frozen=True):
    """One of the two that are compared, in one cell."""

    label: str  # what a person calls it
    artifact: Artifact
    device: Device  # options resolved
    window: Window
    clock: str
    pacing: Pacing
    machine: Machine  # whose packages are those of the Python it ran in
    parity: float | None = None  # relative error of what it computed here, against the reference network


class Readings(Record, frozen=True):
    """What the machine was doing while a block was measured."""

    load: float | None = None  # 1-minute load average at its end
    others_percent: float | None = None  # processor time of all other processes, of one core, while sides ran
    steal_percent: float | None = None  # processor time taken by the hypervisor
    clock_mhz: float | None = None
    temperature_c: float | None = None  # of the processor, where the system tells
    throttled: int | None = None  # how often the processor says it slowed itself down, during the block
    gpu: tuple[GpuState, ...] = ()
    quota_periods: int | None = None  # in which the CPU quota was used up, during the block; None: there is none


Positive = Annotated[int, msgspec.Meta(gt=0)]


class Block(Record, frozen=True):
    """One block of one cell: both sides in processes of their own, in turns."""

    number: int  # from 1, in the order they were measured
    order: str  # of the turns: A is the base's, B the head's, such as "ABBA"
    base_ns: Annotated[tuple[tuple[Positive, ...], ...], msgspec.Meta(min_length=1)]  # samples of each of its turns
    head_ns: Annotated[tuple[tuple[Positive, ...], ...], msgspec.Meta(min_length=1)]
    readings: Readings = Readings()
    disturbed: tuple[str, ...] = ()  # by what; such a block is measured again, and counts if that did not help either
    replaced: bool = False  # it does not count, because another was measured in its place
    reference: float | None = None  # of a stored baseline: reference workload here over there

    @property
    def log_ratio(self) -> float:
        """Natural logarithm of head over base: the median over turns of the ratio of the turns' medians.

        Taken turn by turn, what slows down a stretch of time slows down both halves of the pairs in it.
        """
        pairs = zip(self.base_ns, self.head_ns, strict=True)
        return _median([math.log(_median(head) / _median(base)) for base, head in pairs]) - math.log(
            self.reference or 1.0
        )

    @property
    def base_ms(self) -> float:
        """Median of the base's samples."""
        return _median([sample for turn in self.base_ns for sample in turn]) / 1e6

    @property
    def head_ms(self) -> float:
        """Median of the head's samples."""
        return _median([sample for turn in self.head_ns for sample in turn]) / 1e6


class Verdict(Record, frozen=True):
    """What is concluded, and from what."""

    outcome: Outcome
    margin: float
    reason: str  # one sentence for a person
    blocks: int = 0  # that counted
    above: int = 0  # of them, with a ratio above the margin
    ratio: float | None = None  # head over base: the median over blocks
    interval: Interval | None = None  # 95 %, of the ratio (not milliseconds)
    bounds: tuple[float, float] | None = None  # of the ratio, by which the outcome was decided; 0 and inf are open ends
    detectable: float | None = None  # smallest slowdown that these blocks' scatter lets be caught in 95 % of gates
    floor: float | None = None  # smallest margin within which an unchanged cell passes in 95 % of gates


class CellCalibration(Record, frozen=True):
    """What the gate does to one cell here, or to all of them together, while nothing changes."""

    name: str  # empty for all cells together
    margin: float
    blocks: int  # of all repetitions
    scatter: float | None  # standard deviation of a block's log ratio, by its median absolute deviation
    false_alarms: int  # repetitions that called it regressed
    inconclusive: int  # repetitions that left it open
    drawn_false_alarms: float  # share of gates that would call it regressed, of blocks drawn from a repetition anew
    drawn_inconclusive: float  # share of those that would leave it open
    detectable: float | None  # as in `Verdict`, from the scatter over all repetitions
    floor: float | None


class Calibration(Record, frozen=True):
    """What the gate does here while nothing changes: repetitions with the same file on both sides."""

    plan: Plan
    repetitions: int
    false_alarms: int  # of them, with any verdict of regressed
    inconclusive: int  # of the others, with any that was left open
    cells: tuple[CellCalibration, ...]
    pooled: CellCalibration | None  # None for a single cell
    machine: Machine | None = None  # None of calibrations from before it was kept


class CellResult(Record, frozen=True):
    """One cell: a model at a shape, on both sides."""

    name: str  # such as ``fastvit_t8 256 b1``
    verdict: Verdict
    base: Side | None = None  # None where that side is missing
    head: Side | None = None
    blocks: tuple[Block, ...] = ()
    base_ms: float | None = None  # median over the blocks that counted
    head_ms: float | None = None  # base_ms times the verdict's ratio, so that figures and change are one estimate
    speed_factor: float | None = None  # of a stored base: the reference workload here over there
    failed: Stage | None = None  # where a side broke down


class Comparison(Record, frozen=True, tag="comparison", tag_field="document"):
    """Everything one `compare` or `gate` did; what its outputs are written from."""

    schema: int
    kind: Kind
    started: str  # UTC, ISO 8601
    finished: str
    tool: str  # version of fastvit-bench
    commit: str | None
    dirty: bool
    device: Device
    machine: Machine
    base: str  # what a person calls the sides
    head: str
    plan: Plan
    cells: tuple[CellResult, ...]
    pooled: Verdict | None  # of all cells together; None for a single one
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst of all verdicts; incomparable without any cell.

        Regressed comes before incomparable: both are red, and the first is what was asked. A cell without a baseline
        that may pass hides no other that did not.
        """
        found = [cell.verdict.outcome for cell in self.cells] + ([self.pooled.outcome] if self.pooled else [])
        order = list(EXIT_CODES)
        if self.plan.no_baseline is NoBaseline.PASS:
            order.remove(Outcome.NO_BASELINE)
            order.insert(order.index(Outcome.PASS), Outcome.NO_BASELINE)
        return next((outcome for outcome in order if outcome in found and self.cells), Outcome.INCOMPARABLE)

    @property
    def exit_code(self) -> ExitCode:
        """What the command line ends with; a side that computes something else comes before any verdict."""
        if any(cell.failed == "parity" for cell in self.cells):
            return ExitCode.PROOF_FAILED
        if self.outcome is Outcome.NO_BASELINE and self.plan.no_baseline is NoBaseline.PASS:
            return ExitCode.DONE
        return EXIT_CODES[self.outcome]
