"""Run a sweep: export, prove and time each cell, and write every result to the run file at once."""

import functools
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import fastvit_bench
from fastvit_bench import backends
from fastvit_bench.errors import NotComparableError, ParityError, UnavailableError, UsageError
from fastvit_bench.exporting import pipeline
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.git import current_commit
from fastvit_bench.measuring.jobs import ReferenceJob, ReferenceTimed
from fastvit_bench.measuring.processes import timed
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.network import registry
from fastvit_bench.records import (
    SCHEMA,
    SLOW,
    Artifact,
    Cell,
    CellError,
    EngineBuilt,
    EngineJob,
    ExportJob,
    Failure,
    Machine,
    Measurement,
    Method,
    Request,
    Run,
    TimingJob,
)
from fastvit_bench.stats.intervals import median
from fastvit_bench.store import runs, speeds
from fastvit_bench.sweep.plan import Step, cell_of, cells_of, file_of, plan


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
    if first.request.evaluation is not None:
        raise UsageError(
            f"Run {first.id} counts right answers instead of timing; go on with: "
            f"fastvit-bench accuracy --device {first.request.device.name} --resume {first.id}."
        )
    done = {cell_of(measurement) for measurement in file.measurements}
    go_on(file, machine)
    return first.request, [step for step in steps if step.cell not in done]


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
    steps = plan(first.request, models)
    if cells_of(steps) != first.cells:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because a checkpoint of it has changed since. Start a new run."
        )
    return file, steps


def go_on(file: runs.RunFile, machine: Machine) -> None:
    """Append the header line that records on which machine, and with which versions, a run is continued."""
    first = file.runs[0]
    runs.append(file.path, header(first.id, datetime.now(UTC), first.request, first.cells, machine))


def run(
    request: Request,
    steps: Sequence[Step],
    machine: Machine,
    path: Path,
    notify: Callable[[Step, str], None] = lambda step, stage: None,
    command: Sequence[str] | None = None,
    wait_s: float | None = None,
) -> Generator[Measurement | Failure]:
    """Export and measure each step, write its line to the run file, then yield it.

    `notify` gets the step and its stage as each stage begins. `command` starts the workers in place of the package's
    own. Runs that a process timed while the machine was slow are timed again once it is quick. The sweep may wait
    `wait_s` seconds for that in all, shared evenly among the remaining steps; None accepts figures of any speed.
    """
    start = Worker if command is None else functools.partial(Worker, command)
    patience = _Patience(path.parent.parent, wait_s, request.timeout_s, start)
    with start() as exporter:
        for number, step in enumerate(steps):
            patience.share(len(steps) - number)
            artifact = ready(step, exporter, request.timeout_s, notify)
            if isinstance(artifact, CellError):
                yield _record(path, failure(step, artifact))
                continue
            notify(step, "timing")
            job = TimingJob(
                artifact=artifact,
                path=file_of(step, artifact),
                device=step.job.device,
                method=request.method,
                machine=machine,
                profile=request.profile,
            )
            announce = functools.partial(notify, step)
            reply, _ = timed(job, request.timeout_s, start, functools.partial(patience.waited, announce))
            yield _record(path, patience.with_usual(reply) if isinstance(reply, Measurement) else failure(step, reply))


POLL_S = 3.0  # between two checks of whether the machine is quick again


class _Patience:
    """Speed checks of a sweep: they record the machine's speed and wait for the usual one.

    `seconds` is the time that may be waited in all; None accepts any speed.
    """

    def __init__(
        self, results: Path, seconds: float | None, timeout_s: float, start: Callable[[], Worker] = Worker
    ) -> None:
        self._results, self._remaining_s, self._timeout_s, self._start = results, seconds or 0.0, timeout_s, start
        self._share_s = self._remaining_s

    def share(self, cells: int) -> None:
        """Begin a cell; grant it an equal share of the remaining wait; `cells` are still to be timed, this one too."""
        self._share_s = self._remaining_s / cells

    def waited(self, announce: Callable[[str], None], process: Measurement) -> bool:
        """Record the speed of one process's runs; return whether they were slow and the machine is quick again."""
        checks = process.speed_checks
        if not checks:
            return False
        times = [round(check.median_ns) for check in checks]
        best_ns = speeds.add(self._results, process.machine, times).best_ns
        if best_ns is None or self._share_s <= 0 or not any(check.is_slow(best_ns) for check in checks):
            return False
        announce("waiting for the machine's usual speed for")
        quick = self._until_quick(best_ns)
        announce("timing")
        return quick

    def with_usual(self, figure: Measurement) -> Measurement:
        """Return a measurement with the machine's best speed and its usual scatter between processes.

        The scatter of this figure is recorded for later ones, unless one of its processes ran slowly.
        """
        checks = figure.speed_checks
        if not checks:
            return figure
        known = speeds.load(self._results, figure.machine)
        best_ns = known.best_ns
        if len(checks) > 1 and best_ns and not any(check.is_slow(best_ns) for check in checks):
            speeds.add_scatter(self._results, figure.machine, figure.process_medians_ns)
        return msgspec.structs.replace(figure, best_reference_ns=best_ns, usual_scatter=known.scatter)

    def _until_quick(self, best_ns: int) -> bool:
        """Wait until the reference workload runs at its usual speed; return whether it did before the time was up."""
        while self._share_s > 0:
            since = machines.monotonic_s()
            machines.pause(min(POLL_S, self._share_s))
            with self._start() as worker:
                reply = worker.ask(ReferenceJob(), self._timeout_s)
            waited_s = machines.monotonic_s() - since
            self._remaining_s, self._share_s = self._remaining_s - waited_s, self._share_s - waited_s
            if not isinstance(reply, ReferenceTimed):
                return False
            if best_ns / median(reply.samples_ns) >= SLOW:
                return True
        return False


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
        return pipeline.export(job)
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


def processes(method: Method, machine: Machine) -> int:
    """Return the number of processes that runs are spread over: one on an accelerator, else at most one per run."""
    return min(method.processes, method.runs) if machine.accelerator is None else 1


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
