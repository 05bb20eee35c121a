"""Two sides take turns: cells are timed block by block and judged at the looks of a plan.

`Contest` measures, `told` puts what came out of it into a `Comparison`, `calibrated` compares cells with themselves.
"""

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

import fastvit_bench
from fastvit_bench import backends, revisions
from fastvit_bench.errors import UnavailableError
from fastvit_bench.measure import machine as machines
from fastvit_bench.records import (
    Answer,
    Artifact,
    CellError,
    Device,
    GpuState,
    Job,
    Machine,
    Measurement,
    TimingJob,
    gpu_warnings,
)
from fastvit_bench.report import judge
from fastvit_bench.sides import BaseSide, Entry, Pair, Unavailable, differences
from fastvit_bench.stats.intervals import median
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
    Turns,
    Verdict,
)
from fastvit_bench.worker import Opened, OpenJob, TurnJob, WarmUpJob, Worker, can_stop, timed

# A block counts as disturbed where other processes used more than this share of one processor while it ran, or the
# hypervisor took more than this share of all. A quiet Linux machine shows 1 to 3 and 0.
OTHERS_PERCENT = 20.0
STEAL_PERCENT = 2.0
SLOWED = 0.05  # by which both sides ran slower at the end of a block than at its beginning
REPEATS = 2  # times that a disturbed block is measured again
NEVER_QUIET = 4  # so many blocks disturbed one after the other show that waiting does not help

# How sides take turns on this system: a process that is halted needs no pause for its threads to come to rest, and
# eight runs a turn scatter no more than ten (benchmarks/turns.py).
TURNS = Turns(idle="stopped", pause_ms=0, runs=8) if can_stop else Turns()

# By what the reference workload may differ between two days, on a machine of which no speeds are known.
FACTORS = (0.8, 1.25)


class _OutOfReachError(Exception):
    """The time allowed does not suffice for the fewest blocks; the message says so."""


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
    """Of one cell."""

    blocks: list[Block] = field(default_factory=list[Block])  # all, in order
    base: Side | None = None
    head: Side | None = None
    runs: int = 0  # in a turn; set by the first block and the same ever after
    references: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])  # of blocks against a stored base
    failed: Unavailable | None = None

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
        factors: tuple[float, float] | None = None,
    ) -> None:
        """`same` names what forbids comparing two sides, for the kind of comparison at hand.

        `start` gives the process of a side instead of one with this package's worker. `factors` are the least and the
        largest by which this machine's speed is known to change, for figures of another day.
        """
        self._factors = factors or FACTORS
        self._checked = False  # whether the plan can be reached
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
        try:
            verdicts = self._judged()
        except _OutOfReachError as error:
            verdicts = {name: self._open_verdict(str(error)) for name in self._blocks()}
        for name, cell in self.cells.items():
            if cell.failed is None and not cell.counted and verdicts[name].outcome is Outcome.INCOMPARABLE:
                verdicts[name] = self._open_verdict("Time ran out before its first block; allow more time.")
        short = [name for name, cell in self.cells.items() if cell.failed is None and not cell.counted]
        if short and judge.POOLED in verdicts:
            verdicts[judge.POOLED] = self._open_verdict("Time ran out before every cell had a block; allow more time.")
        return {name: self._doubted(name, verdict) for name, verdict in verdicts.items()}

    def base_of(self, name: str) -> BaseSide:
        """The base of a cell."""
        return self._pairs[name].base

    def _open_verdict(self, reason: str) -> Verdict:
        return Verdict(outcome=Outcome.INCONCLUSIVE, margin=self.plan.margin, reason=reason)

    def _doubted(self, name: str, verdict: Verdict) -> Verdict:
        """A cell's verdict, left open where its figures contradict one another or a stored base does not bear it."""
        if name not in self._pairs:
            return verdict
        counted, base = self.cells[name].counted, self._pairs[name].base
        if isinstance(base, Measurement) and counted:
            verdict = judge.against_stored(verdict, base, counted, self._factors, self.cells[name].references)
        return judge.without_contradiction(verdict, counted)

    def _judged(self) -> dict[str, Verdict]:
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
            if isinstance(found, Unavailable):
                cell.failed = found
                return
            self._disturbed_in_a_row = self._disturbed_in_a_row + 1 if found.disturbed else 0
            again = bool(found.disturbed) and attempt < REPEATS and self._disturbed_in_a_row < NEVER_QUIET
            cell.blocks.append(msgspec.structs.replace(found, replaced=again))
            if not again:
                return

    def measure(self, name: str) -> Block | Unavailable:
        """One block of a cell, whatever disturbs it; not kept."""
        cell, pair = self.cells[name], self._pairs[name]
        assert isinstance(pair.head, Entry)
        assert not isinstance(pair.base, Unavailable)
        if isinstance(pair.base, Measurement):
            return self._against_stored(pair, cell)
        since = machines.now_s()
        with self._start(pair.base) as base, self._start(pair.head) as head:
            loaded = [(pair.base, base), (pair.head, head)]
            jobs = [
                OpenJob(artifact=entry.artifact, path=str(entry.path), device=entry.device, machine=self.machine)
                for entry, _ in loaded
            ]
            for (_, worker), job in zip(loaded, jobs, strict=True):  # both load at once: nothing is timed yet
                worker.send(job)
            opened: list[Opened] = []
            for (entry, worker), job in zip(loaded, jobs, strict=True):
                reply = worker.receive(job, self._timeout_s)
                if isinstance(reply, CellError):
                    return _broken(pair.name, entry, reply)
                opened.append(reply)
            stops = self._stops(pair.head)
            for _, worker in loaded if stops else ():
                worker.stop()
            runs_ns: list[int] = []
            for entry, worker in loaded:
                warm = self._alone(worker, stops, WarmUpJob(turns=self.plan.turns))
                if isinstance(warm, CellError):
                    return _broken(pair.name, entry, warm)
                runs_ns.append(warm.run_ns)
            problem = self._introduced(pair, cell, opened, max(runs_ns))
            if problem:
                return problem
            self._check_reach(name, machines.now_s() - since, runs_ns)
            return self._turns(pair, cell, base, head)

    def _stops(self, entry: Entry) -> bool:
        """Whether a side is halted while the other runs: where both compute on the processor."""
        return self.plan.turns.idle == "stopped" and not _on_gpu(entry)

    def _alone(self, worker: Worker, stops: bool, job: Job[Answer]) -> Answer | CellError:
        """Ask a side while the other is halted."""
        if stops:
            worker.go_on()
        reply = worker.ask(job, self._timeout_s)
        if stops:
            worker.stop()
        return reply

    def _check_reach(self, name: str, loading_s: float, runs_ns: Sequence[int]) -> None:
        """Raise `_OutOfReachError` before the first block where the fewest blocks of all cells take too long."""
        if self._checked:
            return
        self._checked = True
        turns, runs = self.plan.turns, self.cells[name].runs
        calls_s = turns.turns * (turns.settle + runs) * sum(runs_ns) / 1e9
        fixed_s = loading_s + 2 * turns.turns * turns.pause_ms / 1e3
        alive = [other for other, cell in self.cells.items() if cell.failed is None]
        blocks = self.plan.looks[0]
        needed_s = blocks * sum(fixed_s + calls_s * min(1.0, self._work(other) / self._work(name)) for other in alive)
        if needed_s > self.plan.max_time_s:
            cells = f"{len(alive)} cells" if len(alive) > 1 else "one cell"
            raise _OutOfReachError(
                f"Nothing was measured: {blocks} blocks of {cells}, the fewest that can decide, take about "
                f"{needed_s:.0f} s here, and the time allowed is {self.plan.max_time_s:g} s; allow more."
            )

    def _work(self, name: str) -> int:
        """Multiply-accumulates of a cell's base."""
        base = self._pairs[name].base
        assert isinstance(base, Entry)
        return max(1, base.artifact.macs)

    def _introduced(self, pair: Pair, cell: _Progress, opened: Sequence[Opened], slower: int) -> Unavailable | None:
        """Note what the sides turned out to be; returns why their times must not be compared, if so.

        `slower` is the nanoseconds of a run of the slower side.
        """
        assert isinstance(pair.base, Entry)
        assert isinstance(pair.head, Entry)
        base, head = (
            _side(entry, found, self.machine) for entry, found in zip((pair.base, pair.head), opened, strict=True)
        )
        for what in ("window", "clock", "pacing"):
            there, here = getattr(base, what), getattr(head, what)
            if there != here:
                return Unavailable(pair.name, f"not comparable: {what}: {there} there, {here} here")
        if cell.base is None:
            cell.base, cell.head = base, head
            turns = self.plan.turns
            cell.runs = max(1, min(turns.runs, 1_000_000 * turns.turn_ms // max(1, slower)))
        return None

    def _turns(self, pair: Pair, cell: _Progress, base: Worker, head: Worker) -> Block | Unavailable:
        """The turns of one block, both sides loaded."""
        plan, number = self.plan.turns, len(cell.blocks) + 1
        order = judge.block_order(self.plan, pair.name, number)
        taken: dict[str, list[tuple[int, ...]]] = {"A": [], "B": []}
        looks: list[GpuState] = []
        watch = machines.Between(base.busy_s() + head.busy_s())
        assert isinstance(pair.base, Entry)
        assert isinstance(pair.head, Entry)
        on_gpu, stops = _on_gpu(pair.head), self._stops(pair.head)
        for letter in order:
            if not on_gpu:  # where nothing spins on the processor, a pause would only let the clocks drop
                machines.rest(plan.pause_ms / 1e3)
            worker, entry = (base, pair.base) if letter == "A" else (head, pair.head)
            reply = self._alone(worker, stops, TurnJob(runs=cell.runs, untimed=plan.settle))
            if isinstance(reply, CellError):
                return _broken(pair.name, entry, reply)
            taken[letter].append(reply.samples_ns)
            looks += [_without_counterpart(reply.gpu)] if reply.gpu else []
        readings = watch.readings(base.busy_s() + head.busy_s(), looks)
        block = Block(
            number=number, order=order, base_ns=tuple(taken["A"]), head_ns=tuple(taken["B"]), readings=readings
        )
        return msgspec.structs.replace(block, disturbed=tuple(disturbances(block)))

    def _against_stored(self, pair: Pair, cell: _Progress) -> Block | Unavailable:
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
        watch = machines.Between(0.0)
        reply, busy_s = timed(job, self._timeout_s, start=lambda: self._start(entry))
        readings = watch.readings(busy_s)
        if not isinstance(reply, Measurement):
            return _broken(pair.name, entry, reply)
        for what in ("window", "clock", "pacing", "method"):
            there, here = getattr(base, what), getattr(reply, what)
            if there != here:
                return Unavailable(pair.name, f"not comparable: {what}: {there} there, {here} here")
        if cell.head is None:
            cell.base, cell.head = _side_of(base, "stored"), _side_of(reply, entry.label)
        there, here = base.reference_median_ns, reply.reference_median_ns
        cell.references.append(reply.reference_samples_ns)
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


def _on_gpu(entry: Entry) -> bool:
    """Whether a side computes on a GPU, which is known by how such devices settle."""
    return bool(backends.get(entry.device.backend).settling(entry.device))


def _without_counterpart(look: GpuState) -> GpuState:
    """A look at a GPU on which the other side is loaded too: that process is none that disturbs."""
    others = max(0, (look.other_processes or 0) - 1)
    return msgspec.structs.replace(
        look,
        other_processes=None if look.other_processes is None else others,
        other_memory_mib=look.other_memory_mib if others else None,
    )


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
        math.log(median(side[-1 - at]) / median(side[at]))
        for side in (block.base_ns, block.head_ns)
        for at in range(third)
    ]
    return math.expm1(median(ends))


def regimes(blocks: Sequence[Block]) -> str | None:
    """Whether the device ran quickly first and then more slowly for good: ``8.2 ms in 3 blocks, then 9.8 ms``."""
    times = [block.base_ms for block in blocks]
    for at in range(2, len(times) - 1):
        before, after = times[:at], times[at:]
        if min(after) > max(before) and median(after) > (1 + SLOWED) * median(before):
            return (
                f"{median(before):.4g} ms in the first {at} blocks (burst), "
                f"{median(after):.4g} ms in the {len(after)} after them (sustained)"
            )
    return None


def _worker(entry: Entry) -> Worker:
    return Worker(entry.command) if entry.command else Worker()


def _unable(pair: Pair, same: Callable[[BaseSide, Entry], list[str]]) -> Unavailable | None:
    """Why a pair cannot be compared, before anything is measured."""
    for side in (pair.base, pair.head):
        if isinstance(side, Unavailable):
            return side
    assert isinstance(pair.head, Entry)
    apart = same(pair.base, pair.head)
    return Unavailable(pair.name, "not comparable: " + "; ".join(apart)) if apart else None


def _broken(name: str, entry: Entry, error: CellError) -> Unavailable:
    return Unavailable(name, f"{entry.label}: {error.reason}", error.stage)


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
            verdict = Verdict(outcome=cell.failed.outcome, margin=contest.plan.margin, reason=cell.failed.reason)
        else:
            verdict = verdicts[name]
        counted = cell.counted
        base_ms = median(block.base_ms for block in counted) if counted else None
        factors = [block.reference for block in counted if block.reference is not None]
        found.append(
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
    tree = revisions.head()
    cells, found = results(contest, verdicts), list(warnings)
    if tree.refusal:
        found.append(f"The commit is not recorded: {tree.refusal}.")
    for name, verdict in ((cell.name, cell.verdict) for cell in cells):
        if (regime := regimes(contest.cells[name].counted)) is not None:
            found.append(f"{name}: {regime}; each ratio is of both sides in the same regime.")
        if verdict.floor is not None and verdict.floor > verdict.margin:
            found.append(
                f"{name}: the margin of {100 * verdict.margin:.3g} % is below what this machine can hold today, "
                f"{100 * verdict.floor:.2g} %."
            )
    blocks = [block for cell in contest.cells.values() for block in cell.blocks]
    for cell in cells:
        stored = contest.base_of(cell.name)
        if isinstance(stored, Measurement):
            found += [f"{cell.name}: the stored figure has a warning of its own: {text}." for text in stored.warnings]
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
        commit=tree.commit,
        dirty=tree.dirty,
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
