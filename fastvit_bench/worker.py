"""A process of its own for each measurement, and one for the exports of a sweep.

The parent sends a job as a line of JSON and gets a line back; between the two it sleeps. Sides of a comparison stay
open between jobs, so that they can take turns; an evaluation of images gives line after line. A worker that crashes, is
killed or takes too long costs its cell and nothing else. A worker whose parent is gone ends itself at once, so that it
cannot disturb the sweep that resumes.
"""

import contextlib
import ctypes
import io
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec

from fastvit_bench import backends, build, probing
from fastvit_bench.backends import Session
from fastvit_bench.errors import FastViTBenchError, ParityError
from fastvit_bench.records import (
    Answer,
    Artifact,
    CellError,
    Device,
    EngineBuilt,
    EngineJob,
    EvaluationJob,
    ExportJob,
    GpuState,
    Job,
    LayerTime,
    Machine,
    Measurement,
    Method,
    Pacing,
    Parity,
    ProbeJob,
    ProbeTimed,
    ProbeTimingJob,
    ProbeWritten,
    Record,
    Samples,
    SpeedCheck,
    Stage,
    Tally,
    TimingJob,
    Window,
)
from fastvit_bench.verdicts import Turns


class Opened(Record, frozen=True, tag="opened", tag_field="kind"):
    """A side that is loaded and right."""

    window: Window
    clock: str
    pacing: Pacing
    parity: Parity
    python: str  # versions of the process it runs in
    packages: dict[str, str]


class WarmedUp(Record, frozen=True, tag="warmed-up", tag_field="kind"):
    """A side that is ready to take turns."""

    run_ns: int  # of a run, once warm


class ReferenceTimed(Record, frozen=True, tag="reference-timed", tag_field="kind"):
    """The reference workload's times."""

    samples_ns: Samples


class Turned(Record, frozen=True, tag="turned", tag_field="kind"):
    """One turn."""

    samples_ns: Samples
    gpu: GpuState | None = None  # a look after it


class OpenJob(Record, Job[Opened], frozen=True, tag="open", tag_field="job"):
    """Load an artifact, see that it computes what it should, and keep it for the turns to come."""

    artifact: Artifact
    path: str  # of the exported file
    device: Device
    machine: Machine


class WarmUpJob(Record, Job[WarmedUp], frozen=True, tag="warm-up", tag_field="job"):
    """Warm up what was opened, until it is steady."""

    turns: Turns


class TurnJob(Record, Job[Turned], frozen=True, tag="turn", tag_field="job"):
    """Some runs of what was opened."""

    runs: int
    untimed: int  # in front


class ReferenceJob(Record, Job[ReferenceTimed], frozen=True, tag="reference", tag_field="job"):
    """Time the reference workload."""


AnyJob = (
    ExportJob
    | EngineJob
    | TimingJob
    | EvaluationJob
    | ProbeJob
    | ProbeTimingJob
    | OpenJob
    | WarmUpJob
    | TurnJob
    | ReferenceJob
)
Reply = (
    Artifact
    | EngineBuilt
    | Measurement
    | ProbeWritten
    | ProbeTimed
    | Opened
    | WarmedUp
    | Turned
    | ReferenceTimed
    | Tally
    | CellError
)

LOG_LINES = 20

_COMMAND = (sys.executable, "-m", "fastvit_bench.worker")


class Worker:
    """The parent's end of a worker process, started by the first job. Use it as a context manager."""

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="worker-reply")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        self._reader.shutdown()
        self._stderr.close()

    def ask(self, job: Job[Answer], timeout_s: float) -> Answer | CellError:
        """Do a job in the worker; never raises for what happens there, but answers with `CellError`."""
        self.send(job)
        return self.receive(job, timeout_s)

    def send(self, job: Job[Answer]) -> None:
        """Hand a job over, to a process that is started for it if need be; `receive` waits for what comes of it."""
        self._write(msgspec.json.encode(job) + b"\n")

    def receive(self, job: Job[Answer], timeout_s: float) -> Answer | CellError:
        """Wait for the answer to the job that was sent; never raises for what happens there."""
        return cast("Answer | CellError", self._read(_STAGES[type(job)], timeout_s))  # a worker answers what was asked

    def evaluate(self, job: EvaluationJob, timeout_s: float) -> "Generator[Tally | CellError]":
        """The tallies of all pictures as they come, each within that time; ends early with what went wrong."""
        self.send(job)
        seen = job.first
        while seen < len(job.pictures):
            reply = self.receive(job, timeout_s)
            yield reply
            if isinstance(reply, CellError):
                return
            seen += reply.pictures

    def _write(self, line: bytes) -> None:
        """Send a line; a process that is gone by then is noticed by who reads."""
        process = self._process
        if process is None:
            self._stderr.seek(0)  # what the one before it said is not this one's
            self._stderr.truncate()
            process = self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line)
            process.stdin.flush()

    def _read(self, stage: Stage, timeout_s: float) -> Reply:
        """Wait for a line."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            line = self._reader.submit(process.stdout.readline).result(timeout_s)
        except FutureTimeout:
            self._kill()
            return CellError(stage=stage, reason=f"took longer than {timeout_s:g} s and was stopped")
        if line.endswith(b"\n"):
            return msgspec.json.decode(line, type=Reply)
        code = process.wait()
        self._kill()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
        return CellError(stage=stage, reason=_exit_reason(code, said), log="\n".join(said))

    def stop(self) -> None:
        """Halt the process, threads that spin included, until `go_on`; only where `can_stop`."""
        self._signal("SIGSTOP")

    def go_on(self) -> None:
        """Let a halted process run again."""
        self._signal("SIGCONT")

    def _signal(self, name: str) -> None:
        if self._process is not None:
            self._process.send_signal(getattr(signal, name))

    def busy_s(self) -> float:
        """Processor time that the process has used since it was started; 0 where there is none."""
        import psutil

        if self._process is None:
            return 0.0
        try:
            used = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return used.user + used.system

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None


_STAGES: dict[type[Job[Any]], Stage] = {
    ExportJob: "export",
    EngineJob: "engine",
    TimingJob: "timing",
    ProbeJob: "export",
    ProbeTimingJob: "timing",
    OpenJob: "timing",
    WarmUpJob: "timing",
    TurnJob: "timing",
    ReferenceJob: "timing",
    EvaluationJob: "accuracy",
}


def _exit_reason(code: int, said: Sequence[str]) -> str:
    """Why a process that gave no answer is gone."""
    if code == -9:  # by number, because not every system has the name
        return "the process was killed (signal 9), most often because memory ran out"
    last = f": {said[-1].strip()}" if said else ""
    if code < 0:
        return f"the process crashed ({signal.Signals(-code).name}){last}"
    return f"the process ended with exit code {code}{last}"


def main() -> None:
    """The worker's end: jobs from standard input, replies to standard output, everything else to standard error."""
    _end_with_parent()
    backends.bound_openmp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    for stream in (sys.stdout, sys.stderr):  # toolkits print signs that an ASCII or Latin-1 console lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # toolkits print: that must not end up among the replies
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        job = msgspec.json.decode(jobs.get(), type=AnyJob)
        for reply in answers(job) if isinstance(job, EvaluationJob) else [answer(job)]:
            replies.write(msgspec.json.encode(reply) + b"\n")


# A process may be halted only where the system ends it with its parent: halted, it would not notice by itself.
can_stop = sys.platform == "linux"

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent ends


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent ends, whatever it is doing then, spinning or halted."""
    if can_stop:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it ended in between
            os._exit(0)


def _listen(jobs: "queue.SimpleQueue[bytes]") -> None:
    """Hand jobs over as they come; when the parent is gone, end the process whatever it is doing."""
    # not sys.stdin: the interpreter waits for its lock when it ends, and this thread holds it while it reads
    with open(0, "rb", closefd=False) as stdin:
        for line in stdin:
            jobs.put(line)
    os._exit(0)


def answer(
    job: ExportJob | EngineJob | TimingJob | ProbeJob | ProbeTimingJob | OpenJob | WarmUpJob | TurnJob | ReferenceJob,
) -> Reply:
    """Do a job in this process."""
    try:
        match job:
            case ExportJob():
                return build.build(job)
            case EngineJob():
                return EngineBuilt(parity=build.build_engine(job.export))
            case TimingJob():
                return time_artifact(job)
            case ProbeJob():
                probing.write(job)
                return ProbeWritten()
            case ProbeTimingJob():
                reading = probing.read(job)
                return ProbeTimed(best_ns=probing.best_ns(reading), window=reading.window, clock=reading.clock)
            case OpenJob():
                return _open(job)
            case WarmUpJob():
                return _warm_up(job)
            case TurnJob():
                return _turn(job)
            case ReferenceJob():
                from fastvit_bench.measure import reference

                return ReferenceTimed(samples_ns=reference.time_ns())
    except Exception as error:  # whatever a toolkit raises costs this cell only
        return _error(_STAGES[type(job)], error)


def answers(job: EvaluationJob) -> Iterable[Reply]:
    """Do a job in this process that has many answers."""
    try:
        yield from evaluate_artifact(job)
    except Exception as error:  # likewise
        yield _error(_STAGES[type(job)], error)


def _error(stage: Stage, error: Exception) -> CellError:
    """An exception as an answer."""
    if isinstance(error, ParityError):
        return CellError(stage="parity", reason=str(error))
    if isinstance(error, FastViTBenchError):
        return CellError(stage=stage, reason=str(error))
    if isinstance(error, MemoryError):
        return CellError(stage=stage, reason="memory ran out")
    text = " ".join(str(error).split()) or type(error).__name__
    memory = "memory ran out: " if "alloc" in text.lower() else ""
    return CellError(stage=stage, reason=f"{memory}{type(error).__name__}: {text[:300]}")


AGAIN = 3  # times that the runs of one process are repeated at most


def timed(
    job: TimingJob,
    timeout_s: float,
    start: Callable[[], Worker] = Worker,
    again: Callable[[Measurement], bool] = lambda process: False,
) -> tuple[Measurement | CellError, float]:
    """Measure an artifact in fresh processes, as many as the method asks for; the first that fails ends it.

    Returns what came of it and the processor time in seconds that the processes used. Warm-up and timed runs are
    spread over the processes evenly, so that their sums stay those of the method. Where `again` says so of a process's
    measurement, another process repeats it, `AGAIN` times at most; the one whose reference was the quickest counts.
    """
    method = job.method
    parts: list[Measurement] = []
    busy_s = 0.0

    def measured(part: TimingJob) -> Measurement | CellError:
        nonlocal busy_s
        with start() as worker:
            reply = worker.ask(part, timeout_s)
            busy_s += worker.busy_s()
        return reply

    for number in range(method.processes):
        share = msgspec.structs.replace(
            method,
            processes=1,
            warmup=_share(method.warmup, method.processes, number),
            runs=_share(method.runs, method.processes, number),
        )
        last = number == method.processes - 1
        part = msgspec.structs.replace(job, method=share, profile=job.profile and last)
        reply = measured(part)
        if isinstance(reply, CellError):
            return reply, busy_s
        latest = reply
        while reply.remeasured < AGAIN and again(latest):
            repeated = measured(part)
            if isinstance(repeated, CellError):
                break  # the figure at hand is worth more than the failure
            latest = repeated
            quicker = min(
                reply, latest, key=lambda process: max((c.slower_ns for c in process.speed_checks), default=0)
            )
            reply = msgspec.structs.replace(quicker, remeasured=reply.remeasured + 1)
        parts.append(reply)
    return _merged(parts, method), busy_s


def _share(total: int, parts: int, number: int) -> int:
    """How many of `total` runs fall to one of so many parts; at least one of any."""
    share = total // parts + (number < total % parts)
    return max(share, 1) if total else 0


def _merged(parts: Sequence[Measurement], method: Method) -> Measurement:
    """One measurement of several processes' samples, each a round; the state spans all of them."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return last
    steal = [part.state.steal_percent for part in parts if part.state.steal_percent is not None]
    periods = [part.state.quota_periods for part in parts if part.state.quota_periods is not None]
    state = msgspec.structs.replace(
        last.state,
        load_before=first.state.load_before,
        clock_mhz_before=first.state.clock_mhz_before,
        steal_percent=max(steal, default=None),
        quota_periods=sum(periods) if periods else None,
    )
    return msgspec.structs.replace(
        last,
        method=method,
        samples_ns=tuple(samples for part in parts for samples in part.samples_ns),
        load_ns=tuple(ns for part in parts for ns in part.load_ns),
        gpu=tuple(sample for part in parts for sample in part.gpu),
        speed_checks=tuple(check for part in parts for check in part.speed_checks),
        parity=max((part.parity for part in parts if part.parity), key=lambda proof: proof.spent, default=None),
        state=state,
        remeasured=sum(part.remeasured for part in parts),
    )


def time_artifact(job: TimingJob) -> Measurement:
    """Load an artifact, see that it computes what it should where it is, and measure it in this process."""
    from fastvit_bench.measure import latency, machine, parity, reference

    backend, path = backends.get(job.device.backend), Path(job.path)
    shape = job.artifact.shape
    proofs: list[Parity] = []
    before = () if job.machine.accelerator else reference.time_ns()
    watch = machine.Watch()

    def check(session: Session) -> None:
        proofs.append(build.check(session, path, job.artifact, f"{backend.name} on {_where(job.machine)}"))
        watch.begin_timing()

    reading = latency.read(
        lambda: backend.open(path, job.device),
        lambda session: parity.images(shape, session.images)[0],
        job.method,
        check,
    )
    state = watch.state()
    layers: tuple[LayerTime, ...] = ()
    if job.profile:
        batch = parity.images(shape, reading.images)[0]
        layers = backend.profile(path, job.device, batch, job.method.runs)
    checks: tuple[SpeedCheck, ...] = ()
    if before and reading.clock == latency.CLOCK:
        machine.rest(reference.RESTED_S)
        checks = (SpeedCheck(before_ns=before, after_ns=reference.time_ns()),)
    return Measurement(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        device=job.device,
        artifact=job.artifact,
        method=job.method,
        window=reading.window,
        clock=reading.clock,
        samples_ns=reading.samples_ns,
        machine=job.machine,
        state=state,
        pacing=reading.pacing,
        load_ns=reading.load_ns,
        placement=reading.placement,
        parity=proofs[-1],
        engine=reading.engine,
        gpu=reading.gpu,
        layers=layers,
        speed_checks=checks,
    )


def evaluate_artifact(job: EvaluationJob) -> Generator[Tally]:
    """Load an artifact on its device, or into what proves such files anywhere, and count its right answers.

    On a device it is seen first to compute there what it should. Where the device computes an image with several
    threads, as many images are computed at a time with one thread each: that wastes less of a processor's time, and
    the decoding threads find their share of it.
    """
    from fastvit_bench.measure import accuracy

    asked, path = job.export, Path(job.export.path)
    backend, device = backends.get(asked.backend), asked.device
    lanes = int(device.options.get("threads", 1))
    if job.on_device:
        alone = {**device.options, "threads": 1} if lanes > 1 else device.options
        opened = backend.open(path, msgspec.structs.replace(device, options=alone))
        how = backend.name
    else:
        look = next(iter(backend.proofs(path, asked)))
        opened, how = look.session, look.how
    seen = accuracy.Seen(Path(job.folder), job.pictures, job.preprocessing, job.workers)
    with opened as session:
        twins: list[backends.Session | None] = []
        if job.on_device:
            build.check(session, path, job.artifact, f"{how} on {_where(job.machine)}")
            twins = [session.twin() for _ in range(lanes - 1)]
        sessions = [session, *(twin for twin in twins if twin is not None)]
        yield from accuracy.tallies(sessions, job.artifact, seen, job.first, how)


# The session that takes turns. The process is ended when its block is over, and the session with it.
_held: list[Session] = []
_kept = contextlib.ExitStack()


def _open(job: OpenJob) -> Opened:
    from fastvit_bench.measure import latency, parity

    backend, path = backends.get(job.device.backend), Path(job.path)
    session = _kept.enter_context(backend.open(path, job.device))
    proof = build.check(session, path, job.artifact, f"{backend.name} on {_where(job.machine)}")
    session.feed(parity.images(job.artifact.shape, session.images)[0])
    _held[:] = [session]
    return Opened(
        window=session.window,
        clock=session.clock or latency.CLOCK,
        pacing=session.pacing,
        parity=proof,
        python=platform.python_version(),
        packages=backends.figure_versions(job.device),
    )


def _warm_up(job: WarmUpJob) -> WarmedUp:
    from fastvit_bench.measure import latency

    (session,) = _held
    return WarmedUp(run_ns=latency.settle(session, 1_000_000 * job.turns.turn_ms, job.turns.steady))


def _turn(job: TurnJob) -> Turned:
    from fastvit_bench.measure import latency

    (session,) = _held
    samples = latency.turn(session, job.untimed, job.runs)
    return Turned(samples_ns=samples, gpu=session.look())


def _where(machine: Machine) -> str:
    return machine.accelerator or "this processor"


if __name__ == "__main__":
    main()
