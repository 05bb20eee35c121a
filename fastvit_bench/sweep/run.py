"""Run a sweep: export, prove and time each cell, and write every result to the run file at once."""

import functools
import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import fastvit_bench
from fastvit_bench import backends
from fastvit_bench.errors import NotComparableError, ParityError, UnavailableError, UsageError
from fastvit_bench.exporting import pipeline
from fastvit_bench.measuring import latency
from fastvit_bench.measuring.git import current_commit
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.network import registry
from fastvit_bench.records import (
    SCHEMA,
    Artifact,
    Cell,
    CellError,
    EngineBuilt,
    EngineJob,
    ExportJob,
    Failure,
    Machine,
    Measurement,
    Request,
    Run,
)
from fastvit_bench.store import runs
from fastvit_bench.sweep.executor import Executor, LocalExecutor, Notify, Task
from fastvit_bench.sweep.plan import Step, cell_of, cells_of, check_checkpoints, file_of, plan


def begin(request: Request, steps: Sequence[Step], machine: Machine, results: Path) -> Path:
    """Create the run file of a new sweep and return its path."""
    started = datetime.now(UTC)
    return runs.create(results, header(runs.new_id(started), started, request, cells_of(steps), machine))


def resume(path: Path, models: Path, machine: Machine) -> tuple[Request, list[Step]]:
    """Return the request of an interrupted run and its remaining steps; append a header line for this machine.

    Cells that failed are tried again. Raises `NotComparableError` when the machine, its packages or a checkpoint
    changed since the run began, since new figures could not be compared with the old ones. Raises `UsageError` for a
    run that counted images.
    """
    file, steps = reopen(path, models, machine)
    first = file.runs[0]
    _refuse_accuracy(file)
    done = {cell_of(measurement) for measurement in file.measurements}
    go_on(file, machine)
    return first.request, [step for step in steps if step.cell not in done]


def planned_on_fleet(
    request: Request, machine: Machine, models: Path, results: Path, path: Path | None
) -> "PlannedRun":
    """Return a run whose cells are measured on other machines: a new one, or what remains of the one at `path`.

    `machine` is one of them. Each measurement has its own machine, so a run may go on with others than it began with.
    Raises `NotComparableError` where a checkpoint has changed, and `UsageError` for a run that counted images.
    """
    if path is None:
        steps = plan(request, models)
        check_checkpoints(request, steps)
        return PlannedRun(request, steps, begin(request, steps, machine, results))
    file = runs.reopen(path)
    _refuse_accuracy(file)
    steps = planned_again(file, models)
    go_on(file, machine)
    done = {cell_of(measurement) for measurement in file.measurements}
    return PlannedRun(request, [step for step in steps if step.cell not in done], path)


def reopen(path: Path, models: Path, machine: Machine) -> tuple[runs.RunFile, list[Step]]:
    """Return a run to be continued, and all of its steps; raises `NotComparableError` as `resume` does."""
    file = runs.reopen(path)
    first = file.runs[0]
    changes = machine.differences(first.machine, backends.figure_packages(first.request.device))
    if changes:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because this is not the machine it began on ({'; '.join(changes)}). "
            f"Start a new run; this one stays readable."
        )
    return file, planned_again(file, models)


def planned_again(file: runs.RunFile, models: Path) -> list[Step]:
    """Return all steps of a run; raises `NotComparableError` where a checkpoint has changed."""
    first = file.runs[0]
    steps = plan(first.request, models)
    if cells_of(steps) != first.cells:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because a checkpoint of it has changed since. Start a new run."
        )
    return steps


def _refuse_accuracy(file: runs.RunFile) -> None:
    first = file.runs[0]
    if first.request.evaluation is not None:
        raise UsageError(
            f"Run {first.id} counts right answers instead of timing; go on with: "
            f"fastvit-bench accuracy --device {first.request.device.name} --resume {first.id}."
        )


def go_on(file: runs.RunFile, machine: Machine) -> None:
    """Append the header line that records on which machine, and with which versions, a run is continued."""
    first = file.runs[0]
    runs.append(file.path, header(first.id, datetime.now(UTC), first.request, first.cells, machine))


def run(
    request: Request,
    steps: Sequence[Step],
    machine: Machine,
    path: Path,
    notify: Notify = lambda step, stage: None,
    command: Sequence[str] | None = None,
    wait_s: float | None = None,
) -> Generator[Measurement | Failure]:
    """Export and measure each step on this machine, write its line to the run file, then yield it.

    `notify` gets the step and its stage as each stage begins. `command` starts the workers in place of the package's
    own. Runs that a process timed while the machine was slow are timed again once it is quick. The sweep may wait
    `wait_s` seconds for that in all, shared evenly among the remaining steps; None accepts figures of any speed.
    """
    start = Worker if command is None else functools.partial(Worker, command)
    yield from run_all([PlannedRun(request, steps, path)], LocalExecutor(machine, wait_s, start), notify, start)


@dataclass(frozen=True)
class PlannedRun:
    """The steps of a request that remain, and the run file that takes their results."""

    request: Request
    steps: Sequence[Step]
    path: Path


def run_all(
    sweeps: Sequence[PlannedRun], executor: Executor, notify: Notify, start: Callable[[], Worker] = Worker
) -> Generator[Measurement | Failure]:
    """Export the steps of sweeps in turns, have an executor measure them, write each line, then yield it.

    Files are exported here, in a process that `start` makes.
    """
    turns = itertools.zip_longest(*([(sweep, step) for step in sweep.steps] for sweep in sweeps))
    pairs = [pair for turn in turns for pair in turn if pair is not None]
    with start() as exporter:
        tasks = (
            Task(sweep.request, step, sweep.path, ready(step, exporter, sweep.request.timeout_s, notify, engine=False))
            for sweep, step in pairs
        )
        for task, reply in executor.outcomes(tasks, len(pairs), notify):
            assert isinstance(reply, Measurement | CellError)  # nothing is counted
            yield _record(task.path, reply if isinstance(reply, Measurement) else failure(task.step, reply))


def ready(
    step: Step, exporter: Worker, timeout_s: float, notify: Callable[[Step, str], None], *, engine: bool = True
) -> Artifact | CellError:
    """Return the step's artifact, exported and proved if need be, with its engine where the toolkit runs engines."""
    artifact = step.cached
    if artifact is None:
        notify(step, "exporting")
        reply = exporter.ask(step.job, timeout_s)
        if isinstance(reply, CellError):
            return reply
        artifact = reply
    if engine and backends.get(step.job.backend).engines is not None:
        notify(step, "building")
        built = msgspec.structs.replace(step.job, path=file_of(step, artifact))
        reply = exporter.ask(EngineJob(export=built), timeout_s)
        if isinstance(reply, CellError):
            return reply
    return artifact


def export(job: ExportJob, timeout_s: float) -> Artifact:
    """Export a file and prove it; a stranger's ONNX file is read in a process that can be stopped.

    Raises what `pipeline.export` raises; for such a file `ParityError` and `UsageError` alone.
    """
    if job.variant != registry.ONNX:
        return pipeline.export(job, latency.INSTRUMENTS)
    pipeline.check_job(job)
    with Worker() as worker:
        reply = worker.ask(job, timeout_s)
    if isinstance(reply, CellError):
        kind = ParityError if reply.stage == "parity" else UsageError
        raise kind(f"{job.checkpoint} was not exported: {reply.reason.rstrip('.')}.")
    return reply


def build_engine(job: ExportJob, worker: Worker, timeout_s: float, context: str) -> EngineBuilt:
    """Have a worker build the missing engine of an exported file, whose toolkit runs engines, and prove it.

    Raises `ParityError` for an engine with other outputs than the network and `UnavailableError` for a failed build;
    `context` begins their sentence.
    """
    reply = worker.ask(EngineJob(export=job), timeout_s)
    if isinstance(reply, CellError):
        kind = ParityError if reply.stage == "parity" else UnavailableError
        raise kind(f"{context}: {reply.reason.rstrip('.')}.")
    return reply


def header(identity: str, started: datetime, request: Request, cells: tuple[Cell, ...], machine: Machine) -> Run:
    """Return the first line of a run file, or the line of a resumption: the request, the cells and the machine."""
    tree = current_commit()
    return Run(
        schema=SCHEMA,
        id=identity,
        started=started.isoformat(timespec="seconds"),
        tool=fastvit_bench.__version__,
        commit=tree.commit,
        dirty=tree.dirty,
        request=request,
        cells=cells,
        machine=machine,
    )


def failure(step: Step, error: CellError) -> Failure:
    """Return the failure of a step as a line of the run file."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return Failure(finished=finished, cell=step.cell, **msgspec.structs.asdict(error))


def _record(path: Path, result: Measurement | Failure) -> Measurement | Failure:
    runs.append(path, result)
    return result
