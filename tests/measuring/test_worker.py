"""The process boundary: replies come back, and a worker that dies costs its job and nothing else."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import builders
import msgspec
import psutil
import pytest
from conftest import export_job

from fastvit_bench.exporting import pipeline
from fastvit_bench.measuring import machine, worker
from fastvit_bench.measuring.processes import timed
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import CellError, MachineState, Measurement, Method, TimingJob


@pytest.fixture
def timing(exported: Path) -> TimingJob:
    job = export_job(exported)
    artifact = pipeline.cached(job)
    assert artifact is not None
    return TimingJob(
        artifact=artifact,
        path=job.path,
        device=job.device,
        method=Method(warmup=1, runs=7),
        machine=machine.collect(),
    )


def program(body: str) -> list[str]:
    """A worker whose jobs are answered by `body` instead."""
    return [
        sys.executable,
        "-c",
        f"import os, signal, sys, time\nfrom fastvit_bench.measuring import worker\ndef answer(job):\n    {body}\n"
        "worker.answer = answer\nworker.main()",
    ]


@pytest.mark.slow
def test_a_measurement_comes_back_whole(timing: TimingJob) -> None:
    with Worker() as process:
        reply = process.ask(timing, 60)
    assert isinstance(reply, Measurement)
    assert [len(samples) for samples in reply.samples_ns] == [7]
    assert min(reply.samples_ns[0]) > 0
    assert reply.artifact == timing.artifact
    assert reply.window == "compute"
    assert reply.clock == "time.perf_counter_ns"


def test_one_worker_answers_many_jobs_and_what_toolkits_print_does_not_matter() -> None:
    body = "print('chatter'); os.write(1, b'more\\n'); return worker.CellError(stage='timing', reason='as asked')"
    with Worker(program(body)) as process:
        job = TimingJob(
            artifact=builders.artifact(),
            path="x",
            device=builders.device(),
            method=Method(),
            machine=builders.machine(),
        )
        assert [process.ask(job, 60) for _ in range(3)] == [CellError(stage="timing", reason="as asked")] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed (signal 9), most often because memory ran out"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("sys.stderr.write('the last words\\n'); os._exit(3)", "exit code 3: the last words"),
        ("time.sleep(60)", "longer than 1 s"),
    ],
)
def test_a_death_is_told_and_the_next_job_gets_a_new_process(timing: TimingJob, body: str, reason: str) -> None:
    with Worker(program(body)) as process:
        for _ in range(2):
            reply = process.ask(timing, 1 if "sleep" in body else 60)
            assert isinstance(reply, CellError)
            assert reason in reply.reason
            assert reply.stage == "timing"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "memory ran out"),
        (RuntimeError("std::bad_alloc"), "memory ran out: RuntimeError: std::bad_alloc"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (KeyError(), "KeyError: KeyError"),
    ],
)
def test_an_error_inside_is_one_line(
    timing: TimingJob, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def broken(job: TimingJob) -> Measurement:
        raise error

    monkeypatch.setattr(worker, "time_artifact", broken)
    assert worker.answer(timing) == CellError(stage="timing", reason=reason)


def test_a_parity_failure_is_its_own_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvit_bench.errors import ParityError

    def rejected(job: object) -> None:
        raise ParityError("it differs")

    monkeypatch.setattr(pipeline, "export", rejected)
    assert worker.answer(export_job(tmp_path)) == CellError(stage="parity", reason="it differs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "halted", [False, pytest.param(True, marks=pytest.mark.skipif(not worker.can_stop, reason=""))]
)
def test_a_worker_without_a_parent_ends_itself(timing: TimingJob, halted: bool) -> None:
    """The parent is killed while its worker is busy or halted; the worker must not live on and disturb others."""
    busy = program("sys.stderr.write('busy\\n'); time.sleep(60)")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, msgspec\nfrom fastvit_bench.measuring import worker\n"
            "from fastvit_bench.records import TimingJob\n"
            f"process = worker.Worker({busy!r})\n"
            "job = msgspec.json.decode(sys.stdin.buffer.readline(), type=TimingJob)\n"
            "process.ask(job, 60)",
        ],
        stdin=subprocess.PIPE,
    )
    assert parent.stdin is not None
    parent.stdin.write(msgspec.json.encode(timing) + b"\n")
    parent.stdin.flush()
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 30
    while not children and time.monotonic() < deadline:
        children = psutil.Process(parent.pid).children()
        time.sleep(0.05)
    assert children
    time.sleep(0.5)  # let it begin
    if halted:
        children[0].suspend()
    parent.kill()
    parent.wait()
    _gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


class Counting:
    """A worker that notes the jobs of all of its kind, and answers with figures of a machine under a CPU quota."""

    def __init__(self, jobs: list[TimingJob]) -> None:
        self.jobs = jobs

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def busy_s(self) -> float:
        return 1.5

    def ask(self, job: TimingJob, timeout_s: float) -> Any:
        self.jobs.append(job)
        return builders.measurement(
            method=job.method,
            samples_ns=((8_000_000 + len(self.jobs),) * job.method.runs,),
            state=MachineState(quota_periods=len(self.jobs)),
        )


def test_runs_are_spread_over_processes_and_what_they_counted_is_added_up(timing: TimingJob) -> None:
    jobs: list[TimingJob] = []
    method = Method(warmup=10, runs=9, processes=4)
    asked = msgspec.structs.replace(timing, method=method, profile=True)
    found, busy_s = timed(asked, 60, start=lambda: Counting(jobs))  # type: ignore[arg-type, return-value]
    assert isinstance(found, Measurement)
    assert found.method == method
    assert [len(samples) for samples in found.samples_ns] == [job.method.runs for job in jobs] == [3, 2, 2, 2]
    assert [job.method.warmup for job in jobs] == [3, 3, 2, 2]
    assert [job.profile for job in jobs] == [False, False, False, True]
    assert found.state.quota_periods == 1 + 2 + 3 + 4
    assert any("quota" in warning for warning in found.warnings)
    assert busy_s == pytest.approx(6.0)


def test_a_time_limit_covers_sending_a_job_too(timing: TimingJob) -> None:
    """A process that does not read takes no more than the pipe holds; what does not fit must not wait for ever."""
    large = msgspec.structs.replace(timing, path="x" * 4_000_000)
    with Worker([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        reply = process.ask(large, 1)
    assert isinstance(reply, CellError)
    assert "longer than 1 s" in reply.reason


def test_what_toolkits_leave_in_the_folder_for_temporary_files_is_gone(
    tmp_path: Path, timing: TimingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = "import tempfile; return worker.CellError(stage='timing', reason=tempfile.mkdtemp(prefix='litter'))"
    with Worker(program(body)) as process:
        reply = process.ask(timing, 60)
        assert isinstance(reply, CellError)
        litter = Path(reply.reason)
        assert litter.is_dir()
        assert litter.is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not worker.can_stop, reason="signals of a parent are ignored on Linux")
def test_signals_that_reach_all_processes_are_for_the_parent(timing: TimingJob) -> None:
    body = (
        "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGHUP); "
        "return worker.CellError(stage='timing', reason='alive')"
    )
    with Worker(program(body)) as process:
        assert process.ask(timing, 60) == CellError(stage="timing", reason="alive")
