"""Two sides take turns: cells are timed block by block and judged at the looks of a plan.

`Contest` measures, `told` puts what came out of it into a `Comparison`, `calibrated` compares cells with themselves.
"""

import itertools
import math
import random
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

import fastvit_bench
from fastvit_bench import backends, sweep
from fastvit_bench.errors import UnavailableError
from fastvit_bench.measure import machine as machines
from fastvit_bench.records import Artifact, Device, GpuState, Machine, Measurement, TimingJob, gpu_warnings
from fastvit_bench.report import judge
from fastvit_bench.sides import BaseSide, Entry, Missing, Pair, differences
from fastvit_bench.verdicts import (
    SCHEMA,
    Block,
    Calibration,
    CellResult,
    Comparison,
    Kind,
    Outcome,
    Plan,
    Side,
    Verdict,
)
from fastvit_bench.worker import Opened, OpenJob, Trouble, Turned, TurnJob, Worker

# A block counts as disturbed where other processes used more than this share of one processor while it ran, or the
# hypervisor took more than this share of all. A quiet Linux machine shows 1 to 3 and 0.
OTHERS_PERCENT = 20.0
STEAL_PERCENT = 2.0
SLOWED = 0.05  # by which both sides ran slower at the end of a block than at its beginning
REPEATS = 2  # times that a disturbed block is measured again
NEVER_QUIET = 4  # so many blocks disturbed one after the other show that waiting does not help

# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """Of one cell."""

    blocks: list[Block] = field(default_factory=list[Block])  # all, in order
    base: Side | None = None
    head: Side | None = None
    runs: int = 0  # in a turn; set by the first block and the same ever after
    failed: Missing | None = None

    @property
    def counted(self) -> list[Block]:
        return [block for block in self.blocks if not block.replaced]


Notify = Callable[[str, int, int], None]  # cell, number of its block, blocks at the next look


class Contest:
    """Measures pairs until each is decided, the looks are used up, or the time is."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        plan: Plan,
        machine: Machine,
        *,
        timeout_s: float,
        same: Callable[[BaseSide, Entry], list[str]] = differences,
        notify: Notify = lambda cell, block, look: None,
        start: Callable[[Entry], Worker] | None = None,
    ) -> None:
        """`same` names what forbids comparing two sides, for the kind of comparison at hand.

        `start` gives the process of a side instead of one with this package's worker.
        """
        self._start = start or _worker
        self.plan, self.machine = plan, machine
        self._pairs = {pair.name: pair for pair in pairs}
        self._timeout_s, self.notify = timeout_s, notify
        self.cells = {pair.name: _Progress() for pair in pairs}
        self._random = random.Random(f"{plan.seed}")  # of the order of cells
        self._disturbed_in_a_row = 0
        for pair in pairs:
            self.cells[pair.name].failed = _unable(pair, same)

    def run(self) -> dict[str, Verdict]:
        """Measure and judge; verdicts by cell, and under `judge.POOLED` that of all together."""
        begun = machines.now_s()
        settled: dict[str, Verdict] = {}
        slowest: dict[str, float] = {}
        for look in self.plan.looks:
            while wanted := [name for name in self._open(settled) if len(self.cells[name].counted) < look]:
                self._random.shuffle(wanted)
                for name in wanted:
                    since = machines.now_s()
                    if since - begun + slowest.get(name, 0.0) > self.plan.max_time_s:
                        return judge.judge(self._blocks(), self.plan, settled)
                    self.notify(name, len(self.cells[name].counted) + 1, look)
                    self._block(name)
                    slowest[name] = max(slowest.get(name, 0.0), machines.now_s() - since)
            settled = judge.judge(self._blocks(), self.plan, settled)
            if not self._open(settled):
                break
        return settled

    def _open(self, settled: Mapping[str, Verdict]) -> list[str]:
        """Cells of which more blocks are needed: those undecided, and all of them while the pooled verdict is."""

        def undecided(name: str) -> bool:
            return name not in settled or settled[name].outcome is Outcome.INCONCLUSIVE

        alive = [name for name, cell in self.cells.items() if cell.failed is None]
        return alive if len(alive) > 1 and undecided(judge.POOLED) else [name for name in alive if undecided(name)]

    def _blocks(self) -> dict[str, list[Block]]:
        return {name: cell.blocks for name, cell in self.cells.items() if cell.failed is None}

    def _block(self, name: str) -> None:
        """One block of a cell; measured again where something disturbed it, unless this machine is always like that."""
        cell = self.cells[name]
        for attempt in range(REPEATS + 1):
            found = self.measure(name)
            if isinstance(found, Missing):
                cell.failed = found
                return
            self._disturbed_in_a_row = self._disturbed_in_a_row + 1 if found.disturbed else 0
            again = bool(found.disturbed) and attempt < REPEATS and self._disturbed_in_a_row < NEVER_QUIET
            cell.blocks.append(msgspec.structs.replace(found, replaced=again))
            if not again:
                return

    def measure(self, name: str) -> Block | Missing:
        """One block of a cell, whatever disturbs it; not kept."""
        cell, pair = self.cells[name], self._pairs[name]
        assert isinstance(pair.head, Entry)
        assert not isinstance(pair.base, Missing)
        if isinstance(pair.base, Measurement):
            return self._against_stored(pair, cell)
        with self._start(pair.base) as base, self._start(pair.head) as head:
            opened: list[Opened] = []
            for entry, worker in ((pair.base, base), (pair.head, head)):
                job = OpenJob(
                    artifact=entry.artifact,
                    path=str(entry.path),
                    device=entry.device,
                    machine=self.machine,
                    turns=self.plan.turns,
                )
                reply = worker.ask(job, self._timeout_s)
                if not isinstance(reply, Opened):
                    return _broken(pair.name, entry, reply)
                opened.append(reply)
            problem = self._introduced(pair, cell, opened)
            if problem:
                return problem
            return self._turns(pair, cell, base, head)

    def _introduced(self, pair: Pair, cell: _Progress, opened: Sequence[Opened]) -> Missing | None:
        """Note what the sides turned out to be; returns why their times must not be compared, if so."""
        assert isinstance(pair.base, Entry)
        assert isinstance(pair.head, Entry)
        base, head = (
            _side(entry, found, self.machine) for entry, found in zip((pair.base, pair.head), opened, strict=True)
        )
        for what in ("window", "clock", "pacing"):
            there, here = getattr(base, what), getattr(head, what)
            if there != here:
                return Missing(pair.name, f"not comparable: {what}: {there} there, {here} here")
        if cell.base is None:
            cell.base, cell.head = base, head
            slower = max(found.run_ns for found in opened)
            turns = self.plan.turns
            cell.runs = max(1, min(turns.runs, 1_000_000 * turns.turn_ms // max(1, slower)))
        return None

    def _turns(self, pair: Pair, cell: _Progress, base: Worker, head: Worker) -> Block | Missing:
        """The turns of one block, both sides loaded."""
        plan, number = self.plan.turns, len(cell.blocks) + 1
        order = judge.block_order(self.plan, pair.name, number)
        taken: dict[str, list[tuple[int, ...]]] = {"A": [], "B": []}
        looks: list[GpuState] = []
        watch = machines.Between(base.busy_s() + head.busy_s())
        assert isinstance(pair.base, Entry)
        assert isinstance(pair.head, Entry)
        gpu = bool(backends.get(pair.head.device.backend).settling(pair.head.device))
        for letter in order:
            if not gpu:  # where nothing spins on the processor, a pause would only let the clocks drop
                machines.rest(plan.pause_ms / 1e3)
            worker, entry = (base, pair.base) if letter == "A" else (head, pair.head)
            reply = worker.ask(TurnJob(runs=cell.runs, untimed=plan.settle), self._timeout_s)
            if not isinstance(reply, Turned):
                return _broken(pair.name, entry, reply)
            taken[letter].append(reply.samples_ns)
            looks += [_without_counterpart(reply.gpu)] if reply.gpu else []
        readings = watch.readings(base.busy_s() + head.busy_s(), looks)
        block = Block(
            number=number, order=order, base_ns=tuple(taken["A"]), head_ns=tuple(taken["B"]), readings=readings
        )
        return msgspec.structs.replace(block, disturbed=tuple(disturbances(block)))

    def _against_stored(self, pair: Pair, cell: _Progress) -> Block | Missing:
        """One fresh process of the head, set against a figure of another day."""
        base, entry = pair.base, pair.head
        assert isinstance(base, Measurement)
        assert isinstance(entry, Entry)
        job = TimingJob(
            artifact=entry.artifact,
            path=str(entry.path),
            device=entry.device,
            method=base.method,
            machine=self.machine,
        )
        with self._start(entry) as worker:
            watch = machines.Between(0.0)
            reply = worker.ask(job, self._timeout_s)
            readings = watch.readings(worker.busy_s())
        if not isinstance(reply, Measurement):
            return _broken(pair.name, entry, reply)
        for what in ("window", "clock", "pacing", "method"):
            there, here = getattr(base, what), getattr(reply, what)
            if there != here:
                return Missing(pair.name, f"not comparable: {what}: {there} there, {here} here")
        if cell.head is None:
            cell.base, cell.head = _side_of(base, "stored"), _side_of(reply, entry.label)
        there, here = (median_ns(found.reference_ns) for found in (base, reply))
        block = Block(
            number=len(cell.blocks) + 1,
            order="B",
            base_ns=(tuple(itertools.chain(*base.samples_ns)),),
            head_ns=(tuple(itertools.chain(*reply.samples_ns)),),
            # of the timed runs alone, as the process that made them counted; loading may use the quota up too
            readings=msgspec.structs.replace(readings, quota_periods=reply.state.quota_periods),
            reference=here / there if there and here else None,
        )
        return msgspec.structs.replace(block, disturbed=tuple(disturbances(block)))


def _without_counterpart(look: GpuState) -> GpuState:
    """A look at a GPU on which the other side is loaded too: that process is none that disturbs."""
    others = max(0, (look.other_processes or 0) - 1)
    return msgspec.structs.replace(
        look,
        other_processes=None if look.other_processes is None else others,
        other_memory_mib=look.other_memory_mib if others else None,
    )


def median_ns(samples: Sequence[int]) -> float | None:
    """Of samples that may be none."""
    return statistics.median(samples) if samples else None


def disturbances(block: Block) -> list[str]:
    """What went on beside a block that may have moved its figures."""
    readings, found = block.readings, list[str]()
    if (readings.others_percent or 0) > OTHERS_PERCENT:
        found.append(f"other processes used {readings.others_percent:.0f} % of a processor")
    if (readings.steal_percent or 0) > STEAL_PERCENT:
        found.append(f"the hypervisor took {readings.steal_percent:.0f} % of the processors")
    if readings.throttled:
        found.append("the processor slowed down by heat")
    if periods := readings.quota_periods:
        found.append(f"the CPU quota stopped it {periods}x")
    if (slower := _slowing(block)) > SLOWED:
        found.append(f"both sides became {100 * slower:.0f} % slower within the block")
    return found + gpu_warnings(readings.gpu)


def _slowing(block: Block) -> float:
    """By how much both sides' last turns were slower than their first ones; 0 where there are too few to tell."""
    third = len(block.base_ns) // 3
    if not third:
        return 0.0
    ends = [
        math.log(statistics.median(side[-1 - at]) / statistics.median(side[at]))
        for side in (block.base_ns, block.head_ns)
        for at in range(third)
    ]
    return math.expm1(statistics.median(ends))


def regimes(blocks: Sequence[Block]) -> str | None:
    """Whether the device ran quickly first and then more slowly for good: ``8.2 ms in 3 blocks, then 9.8 ms``."""
    times = [block.base_ms for block in blocks]
    for at in range(2, len(times) - 1):
        before, after = times[:at], times[at:]
        if min(after) > max(before) and statistics.median(after) > (1 + SLOWED) * statistics.median(before):
            return (
                f"{statistics.median(before):.4g} ms in the first {at} blocks (burst), "
                f"{statistics.median(after):.4g} ms in the {len(after)} after them (sustained)"
            )
    return None


def _worker(entry: Entry) -> Worker:
    return Worker(entry.command) if entry.command else Worker()


def _unable(pair: Pair, same: Callable[[BaseSide, Entry], list[str]]) -> Missing | None:
    """Why a pair cannot be compared, before anything is measured."""
    for side in (pair.base, pair.head):
        if isinstance(side, Missing):
            return side
    assert isinstance(pair.head, Entry)
    apart = same(pair.base, pair.head)
    return Missing(pair.name, "not comparable: " + "; ".join(apart)) if apart else None


def _broken(name: str, entry: Entry, reply: object) -> Missing:
    assert isinstance(reply, Trouble)
    return Missing(name, f"{entry.label}: {reply.reason}", reply.stage)


def _side(entry: Entry, opened: Opened, machine: Machine) -> Side:
    return Side(
        label=entry.label,
        artifact=entry.artifact,
        device=entry.device,
        window=opened.window,
        clock=opened.clock,
        pacing=opened.pacing,
        machine=msgspec.structs.replace(machine, python=opened.python, packages=opened.packages),
        parity=opened.parity.relative_error,
    )


def _side_of(measurement: Measurement, label: str) -> Side:
    assert isinstance(measurement.artifact, Artifact)
    return Side(
        label=label,
        artifact=measurement.artifact,
        device=measurement.device,
        window=measurement.window,
        clock=measurement.clock,
        pacing=measurement.pacing,
        machine=measurement.machine,
        parity=measurement.parity.relative_error if measurement.parity else None,
    )


# --- what came out of it ----------------------------------------------------------------------------------------------


def results(contest: Contest, verdicts: Mapping[str, Verdict]) -> tuple[CellResult, ...]:
    """Every cell of a contest that has ended, with its blocks."""
    found: list[CellResult] = []
    for name, cell in contest.cells.items():
        if cell.failed is not None:
            verdict = Verdict(outcome=Outcome.INCOMPARABLE, margin=contest.plan.margin, reason=cell.failed.reason)
        else:
            verdict = verdicts[name]
        counted = cell.counted
        found.append(
            CellResult(
                name=name,
                verdict=verdict,
                base=cell.base,
                head=cell.head,
                blocks=tuple(cell.blocks),
                base_ms=statistics.median(block.base_ms for block in counted) if counted else None,
                head_ms=statistics.median(block.head_ms for block in counted) if counted else None,
                failed=cell.failed.stage if cell.failed else None,
            )
        )
    return tuple(found)


def told(
    contest: Contest,
    verdicts: Mapping[str, Verdict],
    *,
    kind: Kind,
    device: Device,
    base: str,
    head: str,
    started: datetime,
    warnings: Sequence[str] = (),
) -> Comparison:
    """Everything about a contest that has ended."""
    commit, dirty = sweep.repository()
    cells, found = results(contest, verdicts), list(warnings)
    for name, verdict in ((cell.name, cell.verdict) for cell in cells):
        if (regime := regimes(contest.cells[name].counted)) is not None:
            found.append(f"{name}: {regime}; each ratio is of both sides in the same regime.")
        if verdict.floor is not None and verdict.floor > verdict.margin:
            found.append(
                f"{name}: the margin of {100 * verdict.margin:.3g} % is below what this machine can hold today, "
                f"{100 * verdict.floor:.2g} %."
            )
    blocks = [block for cell in contest.cells.values() for block in cell.blocks]
    if kind is Kind.STORED and any(block.reference is None for block in blocks):
        found.append(
            "The stored run or this device has no reference workload, so a machine that is slower or quicker today "
            "shows as a change of the network."
        )
    disturbed = [block for block in blocks if block.disturbed]
    if disturbed:
        again = sum(block.replaced for block in disturbed)
        causes: dict[str, list[str]] = {}  # without their figures
        for reason in (reason for block in disturbed for reason in block.disturbed):
            causes.setdefault(re.sub(r"[\d.]+", "", reason), []).append(reason)
        often = sorted(causes.values(), key=len, reverse=True)
        found.append(
            f"{len(disturbed)} of {len(blocks)} blocks were disturbed, {again} of them measured again: "
            f"{'; '.join(f'{reasons[0]} ({len(reasons)}x)' for reasons in often[:3])}."
        )
    return Comparison(
        schema=SCHEMA,
        kind=kind,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=fastvit_bench.__version__,
        commit=commit,
        dirty=dirty,
        device=device,
        machine=contest.machine,
        base=base,
        head=head,
        plan=contest.plan,
        cells=cells,
        pooled=verdicts.get(judge.POOLED),
        warnings=tuple(found),
    )


def weaker(plan: Plan, extra: float) -> Plan:
    """The plan for a baseline of another day: both margins wider by `extra`, because a day is not a block."""
    return msgspec.structs.replace(plan, margin=plan.margin + extra, pooled_margin=plan.pooled_margin + extra)


def calibrated(
    pairs: Sequence[Pair], plan: Plan, machine: Machine, *, repeat: int, timeout_s: float, notify: Notify
) -> Calibration:
    """Gates of the same files on both sides, `repeat` times; raises `UnavailableError` where a cell cannot be timed."""
    repetitions: list[dict[str, list[Block]]] = []
    for number in range(repeat):
        again = msgspec.structs.replace(plan, seed=plan.seed + number)
        contest = Contest(pairs, again, machine, timeout_s=timeout_s, notify=notify)
        contest.run()
        for name, cell in contest.cells.items():
            if cell.failed is not None:
                raise UnavailableError(f"{name} cannot be timed: {cell.failed.reason}")
        repetitions.append({name: cell.counted for name, cell in contest.cells.items()})
    return msgspec.structs.replace(judge.calibrate(repetitions, plan), machine=machine)
