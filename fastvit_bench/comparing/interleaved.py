"""Interleaved measurement: two sides take turns, block by block, and cells are judged at the looks of a plan.

`InterleavedRun` measures, `to_comparison` puts its results into a `Comparison`, `calibrated` compares cells with
themselves.
"""

import math
import random
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

import msgspec

import fastvit_bench
from fastvit_bench.comparing.inputs import BaseSide, Candidate, ComparisonPair, Unavailable, incompatibilities, unproved
from fastvit_bench.errors import NotComparableError, UnavailableError
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.git import current_commit
from fastvit_bench.measuring.worker import can_stop
from fastvit_bench.records import (
    Device,
    Machine,
    Measurement,
    gpu_warnings,
)
from fastvit_bench.records.comparison import (
    SCHEMA,
    BaselineKind,
    Block,
    Calibration,
    CellResult,
    Comparison,
    InterleavePlan,
    Outcome,
    Plan,
    Side,
    Verdict,
)
from fastvit_bench.records.unfinished import BlockLine
from fastvit_bench.stats import sequential
from fastvit_bench.stats.intervals import median
from fastvit_bench.sweep.block import BlockFailed, BlockJob, BlockReply, OutOfReach, Reach
from fastvit_bench.sweep.block import measure as measure_block

# A block counts as disturbed where other processes used more than this share of one processor while it ran, or the
# hypervisor took more than this share of all. A quiet Linux machine shows 1 to 3 and 0.
OTHERS_PERCENT = 20.0
STEAL_PERCENT = 2.0
SLOWED = 0.05  # share by which both sides may slow down within an undisturbed block
REPEATS = 2  # at most so many new measurements of a disturbed block
NEVER_QUIET = 4  # so many disturbed blocks in a row show that repeating does not help

# Turns on this system: a halted process needs no pause until its threads are idle, and eight runs a turn scatter no
# more than ten (benchmarks/turns.py).
INTERLEAVE_PLAN = InterleavePlan(idle="stopped", pause_ms=0, runs=8) if can_stop else InterleavePlan()

# Smallest and largest ratio of the reference workload between two days, on a machine without known speeds.
FACTORS = (0.8, 1.25)


class _OutOfReachError(Exception):
    """The allowed time is too short for the fewest blocks that can decide."""


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """The blocks of one cell so far, its two sides, and the reason of a failure."""

    blocks: list[Block] = field(default_factory=list[Block])  # all, in order
    base: Side | None = None
    head: Side | None = None
    runs: int = 0  # in a turn; set by the first block and constant afterwards
    references: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])  # of blocks against a stored base
    failed: Unavailable | None = None

    @property
    def counted(self) -> list[Block]:
        """The blocks that count: those that were not measured again."""
        return [block for block in self.blocks if not block.replaced]


Notify = Callable[[str, int, int], None]  # name of the cell, number of its block, blocks at the next look


class InterleavedRun:
    """A measurement of pairs, until each is decided, the looks are used up, or the time is."""

    def __init__(
        self,
        pairs: Sequence[ComparisonPair],
        plan: Plan,
        machine: Machine,
        *,
        timeout_s: float,
        same: Callable[[BaseSide, Candidate], list[str]] = incompatibilities,
        notify: Notify = lambda cell, block, look: None,
        measure: Callable[[BlockJob], BlockReply] = measure_block,
        factors: tuple[float, float] | None = None,
        recorded: Sequence[BlockLine] = (),
        record: Callable[[BlockLine], None] = lambda line: None,
    ) -> None:
        """Check which pairs can be compared; nothing is measured yet.

        `same` returns the properties that forbid comparing two sides. `measure` measures a block, by default on this
        machine, and always on the one of `machine`. `factors` are the smallest and the largest known change of this
        machine's speed, for figures of another day. `recorded` are the blocks of an interrupted comparison of the same
        pairs and plan, which count as if they were measured again; every new block is handed to `record` at once.
        """
        self._recorded, self._record = deque(recorded), record
        self._earlier_s = 0.0  # that the recorded blocks took
        self._factors = factors or FACTORS
        self._checked = False  # whether the time allowed is known to be enough
        self._measure = measure
        self.plan, self.machine = plan, machine
        self._pairs = {pair.name: pair for pair in pairs}
        self._timeout_s, self.notify = timeout_s, notify
        self.cells = {pair.name: _Progress() for pair in pairs}
        self._random = random.Random(f"{plan.seed}")  # of the order of cells
        self._disturbed_in_a_row = 0
        self.verdicts: dict[str, Verdict] = {}  # once all is measured
        for pair in pairs:
            self.cells[pair.name].failed = _unable(pair, same)

    def run(self) -> dict[str, Verdict]:
        """Measure and judge; return verdicts by cell, and the one of all cells under `sequential.POOLED`."""
        for _ in self.passes():
            pass
        return self.verdicts

    def passes(self) -> Iterator[None]:
        """Measure and judge; yield after each pass over the cells. After the last, `verdicts` are those of `run`."""
        try:
            self.verdicts = self._finished((yield from self._judged()))
        except _OutOfReachError as error:
            self.verdicts = self._finished({name: self._open_verdict(str(error)) for name in self._blocks()})

    def so_far(self) -> dict[str, Verdict]:
        """Return the verdicts on the blocks that were measured so far, as `run` would end with them."""
        return self._finished(sequential.judge(self._blocks(), self.plan, {}))

    def _finished(self, verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
        """Return the verdicts of a comparison that has ended, with cells left out and doubts on the others."""
        for name, cell in self.cells.items():
            if cell.failed is None and not cell.counted and verdicts[name].outcome is Outcome.INCOMPARABLE:
                verdicts[name] = self._open_verdict("Time ran out before its first block; allow more time.")
        short = [name for name, cell in self.cells.items() if cell.failed is None and not cell.counted]
        if short and sequential.POOLED in verdicts:
            verdicts[sequential.POOLED] = self._open_verdict(
                "Time ran out before every cell had a block; allow more time."
            )
        return {name: self._doubted(name, verdict) for name, verdict in verdicts.items()}

    def base_of(self, name: str) -> BaseSide:
        """Return the base of a cell."""
        return self._pairs[name].base

    def _open_verdict(self, reason: str) -> Verdict:
        return Verdict(outcome=Outcome.INCONCLUSIVE, margin=self.plan.margin, reason=reason)

    def _doubted(self, name: str, verdict: Verdict) -> Verdict:
        """Return a cell's verdict, made inconclusive where its figures or a stored base do not support it."""
        if name not in self._pairs:
            return verdict
        counted, base = self.cells[name].counted, self._pairs[name].base
        if isinstance(base, Measurement) and counted:
            verdict = sequential.against_stored(verdict, base, counted, self._factors, self.cells[name].references)
            if doubt := _beyond_counts(verdict, self.cells[name].base, self.cells[name].head):
                verdict = sequential.inconclusive(verdict, f"{doubt}; measure the base again")
        return sequential.without_contradiction(verdict, counted)

    def _judged(self) -> Generator[None, None, dict[str, Verdict]]:
        begun = machines.monotonic_s()

        def spent_s() -> float:
            return machines.monotonic_s() - begun + self._earlier_s

        settled: dict[str, Verdict] = {}
        slowest: dict[str, float] = {}
        for look in self.plan.looks:
            while wanted := [name for name in self._open(settled) if len(self.cells[name].counted) < look]:
                self._random.shuffle(wanted)
                for name in wanted:
                    since = spent_s()
                    # blocks that were measured are never left out, whatever the clock says of their repetition
                    if not self._recorded and since + slowest.get(name, 0.0) > self.plan.max_time_s:
                        return sequential.judge(self._blocks(), self.plan, settled)
                    if not self._recorded:
                        self.notify(name, len(self.cells[name].counted) + 1, look)
                    self._block(name)
                    slowest[name] = max(slowest.get(name, 0.0), spent_s() - since)
                yield
            settled = sequential.judge(self._blocks(), self.plan, settled)
            if not self._open(settled):
                break
        return settled

    def _open(self, settled: Mapping[str, Verdict]) -> list[str]:
        """Return the cells that need more blocks: the undecided, or all while the pooled verdict is undecided."""

        def undecided(name: str) -> bool:
            return name not in settled or settled[name].outcome is Outcome.INCONCLUSIVE

        alive = [name for name, cell in self.cells.items() if cell.failed is None]
        return alive if len(alive) > 1 and undecided(sequential.POOLED) else [name for name in alive if undecided(name)]

    def _blocks(self) -> dict[str, list[Block]]:
        return {name: cell.blocks for name, cell in self.cells.items() if cell.failed is None}

    def _block(self, name: str) -> None:
        """Measure one block of a cell, and again if it was disturbed, unless every block on this machine is."""
        cell = self.cells[name]
        for attempt in range(REPEATS + 1):
            block = self._repeated(name) if self._recorded else self._new(name)
            if isinstance(block, Unavailable):
                cell.failed = block
                return
            self._disturbed_in_a_row = self._disturbed_in_a_row + 1 if block.disturbed else 0
            again = bool(block.disturbed) and attempt < REPEATS and self._disturbed_in_a_row < NEVER_QUIET
            cell.blocks.append(msgspec.structs.replace(block, replaced=again))
            if not again:
                return

    def _new(self, name: str) -> Block | Unavailable:
        """Measure one block of a cell, and record it."""
        cell, since = self.cells[name], machines.monotonic_s()
        first, references = cell.base is None, len(cell.references)
        block = self.measure(name)
        ended = isinstance(block, Unavailable)
        self._record(
            BlockLine(
                cell=name,
                seconds=machines.monotonic_s() - since,
                block=None if ended else block,
                failed=block.reason if ended else "",
                stage=block.stage if ended else None,
                base=cell.base if first else None,
                head=cell.head if first else None,
                runs=cell.runs if first else 0,
                reference_ns=cell.references[-1] if len(cell.references) > references else (),
            )
        )
        return block

    def _repeated(self, name: str) -> Block | Unavailable:
        """Return the next recorded block, which is one of this cell, because the order follows from the seed.

        Raises `NotComparableError` for one of another cell.
        """
        line, cell = self._recorded.popleft(), self.cells[name]
        if line.cell != name:
            raise NotComparableError(
                f"The recorded blocks are not in the order of their seed: {line.cell} comes where {name} should; the "
                f"file was changed, so begin a new comparison without --resume."
            )
        self._earlier_s += line.seconds
        self._checked = True  # that the time allowed is enough for the fewest blocks
        if line.base is not None:
            cell.base, cell.head, cell.runs = line.base, line.head, line.runs
        if line.reference_ns:
            cell.references.append(line.reference_ns)
        return line.block or Unavailable(name, line.failed, line.stage)

    def measure(self, name: str) -> Block | Unavailable:
        """Measure one block of a cell, disturbed or not, without adding it to the cell."""
        cell = self.cells[name]
        reply = self._measure(self._job(name))
        if isinstance(reply, OutOfReach):
            self._refuse_reach(reply.needed_s)
        if isinstance(reply, BlockFailed):
            return Unavailable(name, reply.reason, reply.stage)
        self._checked = True
        if cell.base is None:
            cell.base, cell.head, cell.runs = reply.base, reply.head, reply.runs
        if isinstance(self._pairs[name].base, Measurement):
            cell.references.append(reply.reference_ns)
        return msgspec.structs.replace(reply.block, disturbed=tuple(disturbances(reply.block)))

    def _job(self, name: str) -> BlockJob:
        """Return the next block of a cell, to be measured wherever."""
        cell, pair = self.cells[name], self._pairs[name]
        number = len(cell.blocks) + 1
        assert isinstance(pair.head, Candidate)
        assert not isinstance(pair.base, Unavailable)
        return BlockJob(
            name=name,
            number=number,
            order=sequential.block_order(self.plan, name, number),
            turns=self.plan.turns,
            base=pair.base if isinstance(pair.base, Measurement) else pair.base.side,
            head=pair.head.side,
            machine=self.machine,
            timeout_s=self._timeout_s,
            runs=cell.runs,
            reach=None if self._checked or isinstance(pair.base, Measurement) else self._reach(name),
        )

    def _reach(self, name: str) -> Reach:
        """Return the fewest blocks of all cells, which must fit the time."""
        alive = [cell_name for cell_name, cell in self.cells.items() if cell.failed is None]
        return Reach(
            blocks=self.plan.looks[0],
            cells=len(alive),
            work=sum(min(1.0, self._work(cell_name) / self._work(name)) for cell_name in alive),
            limit_s=self.plan.max_time_s,
        )

    def _refuse_reach(self, needed_s: float) -> NoReturn:
        count = sum(cell.failed is None for cell in self.cells.values())
        cells = f"{count} cells" if count > 1 else "one cell"
        raise _OutOfReachError(
            f"Nothing was measured: {self.plan.looks[0]} blocks of {cells}, the fewest that can decide, take about "
            f"{needed_s:.0f} s here, and the time allowed is {self.plan.max_time_s:g} s; allow more."
        )

    def _work(self, name: str) -> int:
        """Return the multiply-accumulates of a cell's base, at least 1."""
        base = self._pairs[name].base
        assert isinstance(base, Candidate)
        return max(1, base.artifact.macs)


def disturbances(block: Block) -> list[str]:
    """Return a sentence for each disturbance that may have changed the figures of a block."""
    readings, sentences = block.readings, list[str]()
    if (readings.others_percent or 0) > OTHERS_PERCENT:
        sentences.append(f"other processes used {readings.others_percent:.0f} % of a processor")
    if (readings.steal_percent or 0) > STEAL_PERCENT:
        sentences.append(f"the hypervisor took {readings.steal_percent:.0f} % of the processors")
    if readings.throttled:
        sentences.append("the processor slowed down by heat")
    if periods := readings.quota_periods:
        sentences.append(f"the CPU quota stopped it {periods}x")
    if (slower := _slowing(block)) > SLOWED:
        sentences.append(f"both sides became {100 * slower:.0f} % slower within the block")
    return sentences + gpu_warnings(readings.gpu)


def _slowing(block: Block) -> float:
    """Return the share by which the last third of turns was slower than the first; 0 for fewer than three turns."""
    third = len(block.base_ns) // 3
    if not third:
        return 0.0
    ends = [
        math.log(median(side[-1 - at]) / median(side[at]))
        for side in (block.base_ns, block.head_ns)
        for at in range(third)
    ]
    return math.expm1(median(ends))


def regimes(blocks: Sequence[Block]) -> str | None:
    """Return a phrase on a device that slowed down for good, such as from a burst to sustained speed, else None."""
    times = [block.base_ms for block in blocks]
    for at in range(2, len(times) - 1):
        before, after = times[:at], times[at:]
        if min(after) > max(before) and median(after) > (1 + SLOWED) * median(before):
            return (
                f"{median(before):.4g} ms in the first {at} blocks (burst), "
                f"{median(after):.4g} ms in the {len(after)} after them (sustained)"
            )
    return None


def _unable(pair: ComparisonPair, same: Callable[[BaseSide, Candidate], list[str]]) -> Unavailable | None:
    """Return the reason why a pair cannot be compared, before anything is measured, or None."""
    for side in (pair.base, pair.head):
        if isinstance(side, Unavailable):
            return side
    assert isinstance(pair.head, Candidate)
    assert not isinstance(pair.base, Unavailable)
    for side in (pair.base, pair.head):
        if (problem := unproved(pair.name, side)) is not None:
            return problem
    differences = same(pair.base, pair.head)
    return Unavailable(pair.name, "not comparable: " + "; ".join(differences)) if differences else None


# --- results ----------------------------------------------------------------------------------------------------------


def results(contest: InterleavedRun, verdicts: Mapping[str, Verdict]) -> tuple[CellResult, ...]:
    """Return the result of every cell of a finished run, with its blocks."""
    cells: list[CellResult] = []
    for name, cell in contest.cells.items():
        if cell.failed is not None:
            verdict = Verdict(outcome=cell.failed.outcome, margin=contest.plan.margin, reason=cell.failed.reason)
        else:
            verdict = verdicts[name]
        counted = cell.counted
        base_ms = median(block.base_ms for block in counted) if counted else None
        factors = [block.reference for block in counted if block.reference is not None]
        cells.append(
            CellResult(
                name=name,
                verdict=verdict,
                base=cell.base,
                head=cell.head,
                blocks=tuple(cell.blocks),
                base_ms=base_ms,
                head_ms=base_ms * verdict.ratio if base_ms is not None and verdict.ratio is not None else None,
                speed_factor=median(factors) if factors else None,
                failed=cell.failed.stage if cell.failed else None,
            )
        )
    return tuple(cells)


def to_comparison(
    contest: InterleavedRun,
    verdicts: Mapping[str, Verdict],
    *,
    kind: BaselineKind,
    device: Device,
    base: str,
    head: str,
    started: datetime,
    warnings: Sequence[str] = (),
) -> Comparison:
    """Return the record of a finished run: its cells, conditions and warnings; `warnings` come first."""
    tree = current_commit()
    cells = results(contest, verdicts)
    texts = list(warnings)
    if tree.refusal:
        texts.append(f"The commit is not recorded: {tree.refusal}.")
    texts += _cell_warnings(contest, cells)
    blocks = [block for cell in contest.cells.values() for block in cell.blocks]
    if kind is BaselineKind.STORED and any(block.reference is None for block in blocks):
        texts.append(
            "The stored run or this device has no reference workload, so a machine that is slower or quicker today "
            "shows as a change of the network."
        )
    texts += _disturbance_warnings(blocks)
    return Comparison(
        schema=SCHEMA,
        kind=kind,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=fastvit_bench.__version__,
        commit=tree.commit,
        dirty=tree.dirty,
        device=device,
        machine=contest.machine,
        base=base,
        head=head,
        plan=contest.plan,
        cells=cells,
        pooled=verdicts.get(sequential.POOLED),
        warnings=tuple(texts),
    )


def _cell_warnings(contest: InterleavedRun, cells: Sequence[CellResult]) -> list[str]:
    """Return warnings on single cells: two regimes, a margin below the noise, a stored base with a warning."""
    texts: list[str] = []
    for name, verdict in ((cell.name, cell.verdict) for cell in cells):
        if (regime := regimes(contest.cells[name].counted)) is not None:
            texts.append(f"{name}: {regime}; each ratio is of both sides in the same regime.")
        if verdict.floor is not None and verdict.floor > verdict.margin:
            texts.append(
                f"{name}: the margin of {100 * verdict.margin:.3g} % is below the noise of this machine today, "
                f"{100 * verdict.floor:.2g} %."
            )
    for cell in cells:
        if doubt := _beyond_counts(cell.verdict, cell.base, cell.head):
            texts.append(f"{cell.name}: {doubt}; check what the two sides are before you believe it.")
        stored = contest.base_of(cell.name)
        if isinstance(stored, Measurement):
            texts += [f"{cell.name}: the stored figure has a warning of its own: {text}." for text in stored.warnings]
    return texts


# An improvement is doubted from this share of what the counts explain. Layouts and kernels of one network differ by a
# few per cent (benchmarks/against_timm.py), and fewer nodes explain what fusing saves.
DOUBTED = 0.6


def _beyond_counts(verdict: Verdict, base: Side | None, head: Side | None) -> str:
    """Return a clause on an improvement that the files' own counts do not explain; empty for any other verdict.

    Counts are multiply-accumulates, bytes moved and operations. Sides that run in other ways are not doubted.
    """
    if verdict.outcome is not Outcome.IMPROVED or verdict.ratio is None or base is None or head is None:
        return ""
    if (base.device, base.machine.packages) != (head.device, head.machine.packages):
        return ""
    old, new = base.artifact, head.artifact
    counts = [(old.macs, new.macs), (sum(old.operations.values()), sum(new.operations.values()))]
    if old.traffic is not None and new.traffic is not None:
        counts.append((old.traffic.moved_bytes, new.traffic.moved_bytes))
    explained = min([after / before for before, after in counts if before > 0 and after > 0], default=1.0)
    if verdict.ratio >= DOUBTED * min(explained, 1.0):
        return ""
    return (
        f"it takes {verdict.ratio:.3g} times as long, and fewer operations, arithmetic and bytes explain no less than "
        f"{min(explained, 1.0):.3g}"
    )


def _disturbance_warnings(blocks: Sequence[Block]) -> list[str]:
    """Return a warning with the number of disturbed blocks and the three most frequent causes; none without any."""
    disturbed = [block for block in blocks if block.disturbed]
    if not disturbed:
        return []
    again = sum(block.replaced for block in disturbed)
    causes: dict[str, list[str]] = {}  # a cause without its figures -> its texts
    for cause in (cause for block in disturbed for cause in block.disturbed):
        causes.setdefault(re.sub(r"[\d.]+", "", cause), []).append(cause)
    frequent = sorted(causes.values(), key=len, reverse=True)
    return [
        f"{len(disturbed)} of {len(blocks)} blocks were disturbed, {again} of them measured again: "
        f"{'; '.join(f'{texts[0]} ({len(texts)}x)' for texts in frequent[:3])}."
    ]


def widen_margins(plan: Plan, extra: float) -> Plan:
    """Return the plan for a baseline of another day: both margins wider by `extra`, because a day is not a block."""
    return msgspec.structs.replace(plan, margin=plan.margin + extra, pooled_margin=plan.pooled_margin + extra)


def calibrated(
    pairs: Sequence[ComparisonPair], plan: Plan, machine: Machine, *, repeat: int, timeout_s: float, notify: Notify
) -> Calibration:
    """Calibrate a machine by `repeat` gates with the same files on both sides.

    Raises `UnavailableError` if a cell cannot be timed.
    """
    repetitions: list[dict[str, list[Block]]] = []
    for number in range(repeat):
        again = msgspec.structs.replace(plan, seed=plan.seed + number)
        contest = InterleavedRun(pairs, again, machine, timeout_s=timeout_s, notify=notify)
        contest.run()
        for name, cell in contest.cells.items():
            if cell.failed is not None:
                raise UnavailableError(f"{name} cannot be timed: {cell.failed.reason}")
        repetitions.append({name: cell.counted for name, cell in contest.cells.items()})
    return msgspec.structs.replace(sequential.calibrate(repetitions, plan), machine=machine)
