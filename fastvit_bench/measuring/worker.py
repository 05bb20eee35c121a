"""Worker processes: a fresh one for each measurement, and one for the exports of a sweep."""

import contextlib
import io
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import IO, Any, Self, cast

import msgspec

from fastvit_bench import backends, files
from fastvit_bench.errors import FastViTBenchError, ParityError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.measuring import children, microbench
from fastvit_bench.measuring.jobs import (
    AnyJob,
    Described,
    DescribeJob,
    OpenJob,
    ReferenceJob,
    ReferenceTimed,
    Reply,
    TurnJob,
    WarmUpJob,
)
from fastvit_bench.measuring.timing import evaluate_artifact, open_artifact, take_turn, time_artifact, warm_up
from fastvit_bench.records import (
    AccuracyChunk,
    Answer,
    CellError,
    EngineJob,
    EvaluationJob,
    ExportJob,
    Job,
    MicrobenchmarkJob,
    MicrobenchmarkTimed,
    MicrobenchmarkTimingJob,
    MicrobenchmarkWritten,
    Stage,
    TimingJob,
)

LOG_LINES = 20


_COMMAND = (sys.executable, "-m", "fastvit_bench.worker")


class Worker:
    """The parent's end of a worker process, started by the first job. Use it as a context manager."""

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._folder = contextlib.ExitStack()  # of what toolkits leave in the folder for temporary files
        self._environment: dict[str, str] = {}
        # a thread for each direction, so that a time limit covers sending as well as waiting
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="worker-job")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="worker-reply")
        self._sent: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        self._writer.shutdown()
        self._reader.shutdown()
        self._stderr.close()
        self._folder.close()

    def ask(self, job: Job[Answer], timeout_s: float) -> Answer | CellError:
        """Do a job in the worker and return its answer; failures there never raise, but are returned as `CellError`."""
        self.send(job)
        return self.receive(job, timeout_s)

    def send(self, job: Job[Answer]) -> None:
        """Send a job to the process, which is started if need be; `receive` waits for the answer."""
        self._write(msgspec.json.encode(job) + b"\n")

    def receive(self, job: Job[Answer], timeout_s: float) -> Answer | CellError:
        """Wait for the answer to the job that was sent; failures in the process are returned as `CellError`."""
        return cast(
            "Answer | CellError", self._read(_STAGES[type(job)], timeout_s)
        )  # a worker replies to the job it was sent

    def evaluate(self, job: EvaluationJob, timeout_s: float) -> "Generator[AccuracyChunk | CellError]":
        """Yield the tallies of all pictures, each within `timeout_s`; the first failure is yielded and ends them."""
        self.send(job)
        counted = job.first
        while counted < len(job.pictures):
            reply = self.receive(job, timeout_s)
            yield reply
            if isinstance(reply, CellError):
                return
            counted += reply.pictures

    def _write(self, line: bytes) -> None:
        """Begin to send a line to the process, which is started if need be; `_read` notices one that has ended."""
        process = self._process
        if process is None:
            self._stderr.seek(0)  # the output of an earlier process does not belong to this one
            self._stderr.truncate()
            process = self._process = subprocess.Popen(
                children.ending_with_parent(self._command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **self._temporary()},
            )
        assert process.stdin is not None
        self._sent = self._writer.submit(_send, process.stdin, line)

    def _temporary(self) -> dict[str, str]:
        """Return the variables that name the folder for temporary files; it is removed with the worker."""
        if not self._environment:
            try:
                folder = str(self._folder.enter_context(files.temporary_folder()))
            except OSError:  # then the toolkits say what they miss, if they miss it
                return {}
            self._environment = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
        return self._environment

    def _read(self, stage: Stage, timeout_s: float) -> Reply:
        """Wait until the line is sent and the reply is there, and return it."""
        process, since = self._process, time.monotonic()
        assert process is not None
        assert process.stdout is not None
        assert self._sent is not None
        try:
            self._sent.result(timeout_s)
            line = self._reader.submit(process.stdout.readline).result(timeout_s - (time.monotonic() - since))
        except FutureTimeout:
            self._kill()
            return CellError(stage=stage, reason=f"took longer than {timeout_s:g} s and was stopped")
        if line.endswith(b"\n"):
            return msgspec.json.decode(line, type=Reply)
        code = process.wait()
        self._kill()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
        return CellError(stage=stage, reason=_exit_reason(code, lines), log="\n".join(lines))

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
        """Return the processor time in seconds that the process has used since its start; 0 where there is none."""
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
                with contextlib.suppress(OSError):  # of what was not sent
                    pipe.close()
            self._process = None


def _send(pipe: IO[bytes], line: bytes) -> None:
    """Write a line to a process; one that has ended is noticed when its reply is read."""
    with contextlib.suppress(OSError, ValueError):
        pipe.write(line)
        pipe.flush()


_STAGES: dict[type[Job[Any]], Stage] = {
    ExportJob: "export",
    DescribeJob: "export",
    EngineJob: "engine",
    TimingJob: "timing",
    MicrobenchmarkJob: "export",
    MicrobenchmarkTimingJob: "timing",
    OpenJob: "timing",
    WarmUpJob: "timing",
    TurnJob: "timing",
    ReferenceJob: "timing",
    EvaluationJob: "accuracy",
}


def _exit_reason(code: int, lines: Sequence[str]) -> str:
    """Return why a process ended without an answer, from its exit code and the last lines of its error output."""
    if code == -9:  # by number, because not every system has the name
        return "the process was killed (signal 9), most often because memory ran out"
    last = f": {lines[-1].strip()}" if lines else ""
    if code < 0:
        return f"the process crashed ({signal.Signals(-code).name}){last}"
    return f"the process ended with exit code {code}{last}"


def main() -> None:
    """Run the worker: jobs from standard input, replies to standard output, all further output to standard error."""
    backends.bound_openmp()
    for name in _PARENTS_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):  # toolkits print signs that an ASCII or Latin-1 console lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # the output of toolkits must not end up among the replies
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        job = msgspec.json.decode(jobs.get(), type=AnyJob)
        for reply in answers(job) if isinstance(job, EvaluationJob) else [answer(job)]:
            replies.write(msgspec.json.encode(reply) + b"\n")


# A process may be halted only where the system ends it with its parent: halted, it would not notice by itself.
can_stop = children.can_end_with_parent


# Terminals and service managers signal all processes at once; the parent tidies up, and ends this process.
_PARENTS_SIGNALS = ("SIGINT", "SIGHUP", "SIGTERM") if can_stop else ("SIGINT",)


def _listen(jobs: "queue.SimpleQueue[bytes]") -> None:
    """Put jobs into the queue as they come; end the process as soon as the parent is gone."""
    # not sys.stdin: the interpreter waits for its lock when it ends, and this thread holds it while it reads
    with open(0, "rb", closefd=False) as stdin:
        for line in stdin:
            jobs.put(line)
    os._exit(0)


def answer(
    job: ExportJob
    | DescribeJob
    | EngineJob
    | TimingJob
    | MicrobenchmarkJob
    | MicrobenchmarkTimingJob
    | OpenJob
    | WarmUpJob
    | TurnJob
    | ReferenceJob,
) -> Reply:
    """Do a job in this process and return its reply; exceptions become a `CellError`."""
    try:
        match job:
            case ExportJob():
                return pipeline.export(job)
            case DescribeJob():
                head, classes = checkpoints.answers_of(job.spec, job.shape)
                return Described(head=head, classes=classes)
            case EngineJob():
                return pipeline.build_engine(job.export)
            case TimingJob():
                return time_artifact(job)
            case MicrobenchmarkJob():
                microbench.write(job)
                return MicrobenchmarkWritten()
            case MicrobenchmarkTimingJob():
                reading = microbench.read(job)
                return MicrobenchmarkTimed(
                    best_ns=microbench.best_ns(reading), window=reading.window, clock=reading.clock
                )
            case OpenJob():
                return open_artifact(job)
            case WarmUpJob():
                return warm_up(job)
            case TurnJob():
                return take_turn(job)
            case ReferenceJob():
                from fastvit_bench.measuring import reference

                return ReferenceTimed(samples_ns=reference.time_ns())
    except Exception as error:  # whatever a toolkit raises costs this cell only
        return _error(_STAGES[type(job)], error)


def answers(job: EvaluationJob) -> Iterable[Reply]:
    """Do a job with many replies in this process and yield them; exceptions become a `CellError`."""
    try:
        yield from evaluate_artifact(job)
    except Exception as error:  # as in `answer`
        yield _error(_STAGES[type(job)], error)


def _error(stage: Stage, error: Exception) -> CellError:
    """Return an exception as a reply."""
    if isinstance(error, ParityError):
        return CellError(stage="parity", reason=str(error))
    if isinstance(error, FastViTBenchError):
        return CellError(stage=stage, reason=str(error))
    if isinstance(error, MemoryError):
        return CellError(stage=stage, reason="memory ran out")
    text = " ".join(str(error).split()) or type(error).__name__
    memory = "memory ran out: " if "alloc" in text.lower() else ""
    return CellError(stage=stage, reason=f"{memory}{type(error).__name__}: {text[:300]}")
