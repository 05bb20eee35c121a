"""Measure one exported cell on this machine: build its engine, time it or count, wait for the machine's usual speed."""

import functools
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec

from fastvit_bench import backends
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.jobs import ReferenceJob, ReferenceTimed
from fastvit_bench.measuring.processes import timed
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import (
    SLOW,
    AccuracyChunk,
    Artifact,
    CellError,
    EngineJob,
    EvaluationJob,
    ExportJob,
    Machine,
    Measurement,
    Method,
    Record,
    TimingJob,
)
from fastvit_bench.stats.intervals import median
from fastvit_bench.store import speeds


class CellJob(Record, frozen=True, tag="cell", tag_field="job"):
    """An exported cell to be measured; its outcome depends on nothing else but the machine."""

    export: ExportJob  # its path is that of the exported file, and its device the one to measure on
    artifact: Artifact
    method: Method
    timeout_s: float  # for each process
    wait_s: float = 0.0  # that may be waited for the machine's usual speed; 0 accepts figures of any speed
    profile: bool = False


class CountJob(Record, frozen=True, tag="count", tag_field="job"):
    """An exported cell whose right answers are to be counted."""

    evaluation: EvaluationJob
    timeout_s: float  # for each process, and for each chunk


class CountEnd(Record, frozen=True, tag="count-end", tag_field="kind"):
    """The end of a count whose chunks are complete."""

    machine: Machine  # that counted
    tool: str = ""  # version of fastvit-bench that counted; empty: that of the run


def count(
    job: CountJob, announce: Callable[[str], None] = lambda stage: None, start: Callable[[], Worker] = Worker
) -> Generator[AccuracyChunk | CountEnd | CellError]:
    """Yield the chunks of a count as they are complete, and then its end, or the failure that ends it.

    `announce` gets each stage as it begins.
    """
    export = job.evaluation.export
    if job.evaluation.on_device:
        failure = _built(export, job.timeout_s, announce, start)
        if failure is not None:
            yield failure
            return
    announce("counting")
    with start() as counter:
        for reply in counter.evaluate(job.evaluation, job.timeout_s):
            yield reply
            if isinstance(reply, CellError):
                return
    yield CountEnd(machine=job.evaluation.machine)


def _built(
    export: ExportJob, timeout_s: float, announce: Callable[[str], None], start: Callable[[], Worker]
) -> CellError | None:
    """Build the engine of an exported file where its toolkit runs engines; return why that failed."""
    if backends.get(export.backend).engines is None:
        return None
    announce("building")
    with start() as builder:
        reply = builder.ask(EngineJob(export=export), timeout_s)
    return reply if isinstance(reply, CellError) else None


def measure(
    job: CellJob,
    machine: Machine,
    results: Path,
    announce: Callable[[str], None] = lambda stage: None,
    start: Callable[[], Worker] = Worker,
) -> tuple[Measurement | CellError, float]:
    """Return the measurement of a cell, or why there is none, and the seconds that were waited.

    `machine` is the record of this machine, whose speeds are stored in `results`. `announce` gets each stage as it
    begins. Runs that a process timed while the machine was slow are timed again once it is quick.
    """
    failure = _built(job.export, job.timeout_s, announce, start)
    if failure is not None:
        return failure, 0.0
    announce("timing")
    timing = TimingJob(
        artifact=job.artifact,
        path=job.export.path,
        device=job.export.device,
        method=job.method,
        machine=machine,
        profile=job.profile,
    )
    patience = _Patience(results, job.wait_s, job.timeout_s, start)
    reply, _ = timed(timing, job.timeout_s, start, functools.partial(patience.waited, announce))
    if isinstance(reply, Measurement):
        reply = patience.with_usual(reply)
    return reply, patience.waited_s


POLL_S = 3.0  # between two checks of whether the machine is quick again


class _Patience:
    """Speed checks of a cell: they record the machine's speed and wait for the usual one, `seconds` at most."""

    def __init__(self, results: Path, seconds: float, timeout_s: float, start: Callable[[], Worker]) -> None:
        self._results, self._seconds, self._timeout_s, self._start = results, seconds, timeout_s, start
        self.waited_s = 0.0

    def waited(self, announce: Callable[[str], None], process: Measurement) -> bool:
        """Record the speed of one process's runs; return whether they were slow and the machine is quick again."""
        checks = process.speed_checks
        if not checks:
            return False
        times = [round(check.median_ns) for check in checks]
        best_ns = speeds.add(self._results, process.machine, times).best_ns
        if best_ns is None or self._left_s <= 0 or not any(check.is_slow(best_ns) for check in checks):
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

    @property
    def _left_s(self) -> float:
        return self._seconds - self.waited_s

    def _until_quick(self, best_ns: int) -> bool:
        """Wait until the reference workload runs at its usual speed; return whether it did before the time was up."""
        while self._left_s > 0:
            since = machines.monotonic_s()
            machines.pause(min(POLL_S, self._left_s))
            with self._start() as worker:
                reply = worker.ask(ReferenceJob(), self._timeout_s)
            self.waited_s += machines.monotonic_s() - since
            if not isinstance(reply, ReferenceTimed):
                return False
            if best_ns / median(reply.samples_ns) >= SLOW:
                return True
        return False
