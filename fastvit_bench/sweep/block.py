"""Measure one block of a comparison on this machine: both sides loaded, and taking turns in processes of their own."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from fastvit_bench import backends
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.jobs import Opened, OpenJob, TurnJob, WarmUpJob
from fastvit_bench.measuring.processes import timed
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import (
    Answer,
    Artifact,
    CellError,
    Device,
    GpuState,
    Job,
    Machine,
    Measurement,
    Record,
    Stage,
    TimingJob,
)
from fastvit_bench.records.comparison import Block, InterleavePlan, Side


class BlockSide(Record, frozen=True, tag="side", tag_field="kind"):
    """A side of a block: an exported file, and the device that runs it."""

    label: str  # for people
    artifact: Artifact
    path: str  # of the exported file
    device: Device  # options filled in
    command: tuple[str, ...] = ()  # that starts its process; empty: the Python of this process


class Reach(Record, frozen=True):
    """The least that a comparison measures, and the time that it has."""

    blocks: int  # of each cell
    cells: int
    work: float  # of all cells, as a multiple of this cell's, each at most once
    limit_s: float


class BlockJob(Record, frozen=True, tag="block", tag_field="job"):
    """A block to be measured on one machine; its outcome depends on nothing else but the machine."""

    name: str  # of its cell
    number: int
    order: str  # of the turns, such as "ABBA"
    turns: InterleavePlan
    base: BlockSide | Measurement  # a measurement is one of another day
    head: BlockSide
    machine: Machine
    timeout_s: float  # for each answer of a process
    runs: int = 0  # in a turn; 0: as many as fit one
    reach: Reach | None = None  # of the first block


class BlockTimed(Record, frozen=True, tag="block-timed", tag_field="kind"):
    """Reply to `BlockJob`: the block, and the sides as their processes describe them."""

    block: Block
    base: Side
    head: Side
    runs: int = 0  # in a turn
    reference_ns: tuple[int, ...] = ()  # against a figure of another day: times of the reference workload


class BlockFailed(Record, frozen=True, tag="block-failed", tag_field="kind"):
    """Reply to `BlockJob`: the reason why the two sides have no block."""

    reason: str
    stage: Stage | None = None  # at which one failed; None where they are not comparable


class OutOfReach(Record, frozen=True, tag="out-of-reach", tag_field="kind"):
    """Reply to `BlockJob`: the least that the comparison measures would take too long, so no turn was taken."""

    needed_s: float


BlockReply = BlockTimed | BlockFailed | OutOfReach
Start = Callable[[BlockSide], Worker]


def process_of(side: BlockSide) -> Worker:
    """Return the process that runs a side."""
    return Worker(side.command) if side.command else Worker()


def measure(job: BlockJob, start: Start | None = None) -> BlockReply:
    """Return a block, disturbed or not, or the reason why there is none; `start` makes the processes of the sides."""
    start = start or process_of
    if isinstance(job.base, Measurement):
        return _against_stored(job, job.base, start)
    since = machines.monotonic_s()
    with start(job.base) as base, start(job.head) as head:
        pair = _Pair(job, [job.base, job.head], [base, head])
        opened = pair.open()
        if isinstance(opened, BlockFailed):
            return opened
        runs_ns = pair.warm_up()
        if isinstance(runs_ns, BlockFailed):
            return runs_ns
        sides = [_side(side, reply, job.machine) for side, reply in zip(pair.sides, opened, strict=True)]
        if difference := _first_difference(sides[0], sides[1], ("window", "clock", "pacing")):
            return BlockFailed(reason=difference)
        runs = job.runs or max(1, min(job.turns.runs, 1_000_000 * job.turns.turn_ms // max(1, *runs_ns)))
        needed_s = _needed_s(job, runs, machines.monotonic_s() - since, runs_ns)
        if job.reach is not None and needed_s > job.reach.limit_s:
            return OutOfReach(needed_s=needed_s)
        block = pair.turns(runs)
        if isinstance(block, BlockFailed):
            return block
        return BlockTimed(block=block, base=sides[0], head=sides[1], runs=runs)


def _needed_s(job: BlockJob, runs: int, loading_s: float, runs_ns: Sequence[int]) -> float:
    """Return about how many seconds the least takes that a comparison measures, judged by one cell of it."""
    if job.reach is None:
        return 0.0
    turns = job.turns
    calls_s = turns.turns * (turns.settle + runs) * sum(runs_ns) / 1e9
    fixed_s = loading_s + 2 * turns.turns * turns.pause_ms / 1e3
    return job.reach.blocks * (job.reach.cells * fixed_s + calls_s * job.reach.work)


@dataclass
class _Pair:
    """The two sides of a block and their processes, the base first."""

    job: BlockJob
    sides: Sequence[BlockSide]
    workers: Sequence[Worker]
    stops: bool = field(init=False)  # whether one side is halted while its opponent runs, as those on a processor need

    def __post_init__(self) -> None:
        self.stops = self.job.turns.idle == "stopped" and not _on_gpu(self.job.head)

    def open(self) -> list[Opened] | BlockFailed:
        """Have both sides load their files, at the same time, since nothing is timed yet."""
        jobs = [
            OpenJob(artifact=side.artifact, path=side.path, device=side.device, machine=self.job.machine)
            for side in self.sides
        ]
        for worker, job in zip(self.workers, jobs, strict=True):
            worker.send(job)
        opened: list[Opened] = []
        for side, worker, job in zip(self.sides, self.workers, jobs, strict=True):
            reply = worker.receive(job, self.job.timeout_s)
            if isinstance(reply, CellError):
                return _broken(side, reply)
            opened.append(reply)
        for worker in self.workers if self.stops else ():
            worker.stop()
        return opened

    def warm_up(self) -> list[int] | BlockFailed:
        """Warm both sides up, one after the other; return the nanoseconds of a run of each."""
        runs_ns: list[int] = []
        for side, worker in zip(self.sides, self.workers, strict=True):
            warm = self._alone(worker, WarmUpJob(turns=self.job.turns))
            if isinstance(warm, CellError):
                return _broken(side, warm)
            runs_ns.append(warm.run_ns)
        return runs_ns

    def turns(self, runs: int) -> Block | BlockFailed:
        """Measure the turns of the block, of so many runs each."""
        plan = self.job.turns
        samples_ns: dict[str, list[tuple[int, ...]]] = {"A": [], "B": []}
        looks: list[GpuState] = []
        watch = machines.Between(self._busy_s())
        on_gpu = _on_gpu(self.job.head)
        for letter in self.job.order:
            if not on_gpu:  # where nothing spins on the processor, a pause would only let the clocks drop
                machines.pause(plan.pause_ms / 1e3)
            at = "AB".index(letter)
            reply = self._alone(self.workers[at], TurnJob(runs=runs, untimed=plan.settle))
            if isinstance(reply, CellError):
                return _broken(self.sides[at], reply)
            samples_ns[letter].append(reply.samples_ns)
            looks += [_without_counterpart(reply.gpu)] if reply.gpu else []
        return Block(
            number=self.job.number,
            order=self.job.order,
            base_ns=tuple(samples_ns["A"]),
            head_ns=tuple(samples_ns["B"]),
            readings=watch.readings(self._busy_s(), looks),
        )

    def _busy_s(self) -> float:
        return sum(worker.busy_s() for worker in self.workers)

    def _alone(self, worker: Worker, job: Job[Answer]) -> Answer | CellError:
        """Send a job to one side and return its reply, while its opponent is halted if `stops`."""
        if self.stops:
            worker.go_on()
        reply = worker.ask(job, self.job.timeout_s)
        if self.stops:
            worker.stop()
        return reply


def _against_stored(job: BlockJob, base: Measurement, start: Start) -> BlockReply:
    """Time one new process of the new side, as a block against a figure of another day."""
    timing = TimingJob(
        artifact=job.head.artifact,
        path=job.head.path,
        device=job.head.device,
        method=base.method,
        machine=job.machine,
    )
    watch = machines.Between(0.0)
    reply, busy_s = timed(timing, job.timeout_s, start=lambda: start(job.head))
    readings = watch.readings(busy_s)
    if not isinstance(reply, Measurement):
        return _broken(job.head, reply)
    if difference := _first_difference(base, reply, ("window", "clock", "pacing", "method")):
        return BlockFailed(reason=difference)
    old_reference, reference = base.reference_median_ns, reply.reference_median_ns
    block = Block(
        number=job.number,
        order="B",
        base_ns=(tuple(itertools.chain(*base.samples_ns)),),
        head_ns=(tuple(itertools.chain(*reply.samples_ns)),),
        # of the timed runs alone, as counted by their process; loading may use the quota up too
        readings=msgspec.structs.replace(readings, quota_periods=reply.state.quota_periods),
        reference=reference / old_reference if old_reference and reference else None,
    )
    return BlockTimed(
        block=block,
        base=_side_of(base, "stored"),
        head=_side_of(reply, job.head.label),
        reference_ns=reply.reference_samples_ns,
    )


def _broken(side: BlockSide, error: CellError) -> BlockFailed:
    return BlockFailed(reason=f"{side.label}: {error.reason}", stage=error.stage)


def _first_difference(base: Side | Measurement, new: Side | Measurement, names: Sequence[str]) -> str:
    """Return a sentence on the first of the named attributes in which two sides differ, empty if there is none."""
    for name in names:
        old_value, new_value = getattr(base, name), getattr(new, name)
        if old_value != new_value:
            return f"not comparable: {name}: {old_value} there, {new_value} here"
    return ""


def _on_gpu(side: BlockSide) -> bool:
    """Return whether a side computes on a GPU; only such devices have a warm-up policy."""
    return bool(backends.get(side.device.backend).warmup_policy(side.device))


def _without_counterpart(look: GpuState) -> GpuState:
    """Return a GPU state without the process of the opposite side, which is loaded too but does not disturb."""
    disturbing = max(0, (look.other_processes or 0) - 1)
    return msgspec.structs.replace(
        look,
        other_processes=None if look.other_processes is None else disturbing,
        other_memory_mib=look.other_memory_mib if disturbing else None,
    )


def _side(side: BlockSide, opened: Opened, machine: Machine) -> Side:
    return Side(
        label=side.label,
        artifact=side.artifact,
        device=side.device,
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
