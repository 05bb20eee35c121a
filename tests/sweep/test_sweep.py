"""The sweep: what is planned, what is kept, and that nothing is lost or done twice, however it ends."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import builders
import msgspec
import pytest
from conftest import export_job
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import backends, config
from fastvit_bench.errors import NotComparableError
from fastvit_bench.exporting import pipeline
from fastvit_bench.measuring import machine
from fastvit_bench.network import registry
from fastvit_bench.records import Failure, Fuse, Measurement, Method, Request, Shape
from fastvit_bench.store import runs as store_runs
from fastvit_bench.sweep import estimate, plan
from fastvit_bench.sweep import run as sweep_run

LATENCY = (sys.executable, "-m", "fastvit_bench.cli", "latency", "--device", "cpu", "--any-speed")


def request(models: str = "m0*", sizes: tuple[int, ...] = (32,), **changes: object) -> Request:
    settings = config.load(None, backends=backends.implemented())
    device = settings.device("cpu")
    asked = Request(
        device=msgspec.structs.replace(device, options=backends.get("onnxruntime").options(device)),
        models=tuple(settings.select([models])),
        shapes=tuple(Shape(batch=1, height=size, width=size) for size in sizes),
        fused=Fuse.FOLDED,
        method=Method(warmup=1, runs=6),
        seed=0,
        timeout_s=60,
    )
    return msgspec.structs.replace(asked, **changes)


def begun(asked: Request) -> tuple[list[plan.Step], Path]:
    steps = plan.plan(asked, Path("models"))
    return steps, sweep_run.begin(asked, steps, machine.collect(), Path("results"))


def program(body: str) -> list[str]:
    """A worker that answers by `body`, with the true `worker` at hand."""
    return [
        sys.executable,
        "-c",
        "import os, signal, sys, time\nfrom fastvit_bench.measuring import worker\nhonest = worker.answer\n"
        f"def answer(job):\n    {body}\n    return honest(job)\nworker.answer = answer\nworker.main()",
    ]


def test_the_plan_knows_what_is_there(zoo: Path) -> None:
    steps = plan.plan(request("m0[0-2]", (32, 64)), Path("models"))
    assert [(step.cell.model, step.cell.shape.size, step.cached is not None) for step in steps] == [
        (model, size, size == "32") for model in ("m00", "m01", "m02") for size in ("32", "64")
    ]
    assert steps[0].macs == steps[0].cached.macs  # type: ignore[union-attr]
    assert steps[1].macs == registry.macs("fastvit_t8", 64 * 64)  # from the variant's table
    outline = estimate.outline(request(), steps, estimate.RunTimes(1e9))
    assert "cpu: 6 cells · 3 exported already · 3 to export · 1 + 6 runs each · about" in outline


def test_the_estimate_follows_what_was_measured(zoo: Path) -> None:
    asked = request("m00")
    steps = plan.plan(asked, Path("models"))
    quick, slow = (estimate.seconds(steps, asked, estimate.RunTimes(rate)) for rate in (1e12, 1e5))
    assert quick < 2 < 60 < slow
    assert not estimate.run_times(asked.device, Path("results")).measured
    _, path = begun(asked)
    (measurement,) = sweep_run.run(asked, steps, machine.collect(), path)
    assert isinstance(measurement, Measurement)
    times = estimate.run_times(asked.device, Path("results"))
    assert times.measured == ((measurement.artifact.macs, measurement.median_ms / 1e3),)
    assert times.seconds(measurement.artifact.macs) == pytest.approx(measurement.median_ms / 1e3)
    (path.parent / "99999999-000000-ffffff.jsonl").write_text("damaged", encoding="utf-8")
    assert estimate.run_times(asked.device, Path("results")) == times


@given(
    rate=st.floats(1e9, 1e13),
    factor=st.floats(0.5, 2.0),
    share=st.floats(0.3, 3.0),
    small=st.integers(10**5, 10**6),
    large=st.integers(10**9, 10**11),
)
def test_tiny_networks_do_not_spoil_the_estimate_of_large_ones(
    rate: float, factor: float, share: float, small: int, large: int
) -> None:
    """A run of a network of 32 pixels is all overhead; an hour was once estimated to be five."""
    times = estimate.RunTimes(rate, ((small, 1e-3),))
    assert times.seconds(large) <= large / rate
    times = estimate.RunTimes(rate, ((small, 1e-3), (large, factor * large / rate)))
    assert times.seconds(share * large) == pytest.approx(share * factor * large / rate)


def test_devices_of_other_kinds_are_guessed_apart() -> None:
    rates = [estimate.guessed_rate(builders.device(backend=name)) for name in ("onnxruntime", "coreml", "tensorrt")]
    assert rates == sorted(rates)


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (5500, "1.5 h")])
def test_durations_are_as_precise_as_an_estimate(seconds: float, text: str) -> None:
    assert estimate.duration(seconds) == text


@pytest.mark.slow
def test_every_result_is_in_the_file_before_it_is_yielded(zoo: Path) -> None:
    asked = request("m0[0-1]", (32, 64))
    steps, path = begun(asked)
    told: list[tuple[str, str]] = []
    for done, result in enumerate(
        sweep_run.run(asked, steps, machine.collect(), path, lambda step, what: told.append((step.cell.label, what))), 1
    ):
        assert isinstance(result, Measurement), result
        assert store_runs.read(path).measurements[-1] == result
        assert len(store_runs.read(path).measurements) == done
    assert told == [
        ("m00 32 b1", "timing"),
        ("m00 64 b1", "exporting"),
        ("m00 64 b1", "timing"),
        ("m01 32 b1", "timing"),
        ("m01 64 b1", "exporting"),
        ("m01 64 b1", "timing"),
    ]
    assert all(step.cached for step in plan.plan(asked, Path("models")))
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        document = json.loads(line)
        assert {"samples_ns", "method", "window", "machine", "artifact", "device", "state"} <= set(document)
        assert len(document["samples_ns"][0]) == 6


@pytest.mark.parametrize(
    ("body", "stage", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL) if 'm01' in repr(job) else 0", "timing", "memory ran out"),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGABRT) if 'm01' in repr(job) else 0",
            "timing",
            "SIGABRT",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "time.sleep(200) if 'm01' in repr(job) else 0", "timing", "longer than 20 s", marks=pytest.mark.slow
        ),
        pytest.param(
            "bytearray(1 << 62) if 'm01' in repr(job) else 0", "timing", "MemoryError", marks=pytest.mark.slow
        ),
    ],
)
def test_a_bad_cell_costs_itself_only(zoo: Path, body: str, stage: str, reason: str) -> None:
    asked = request("m0[0-2]", timeout_s=20.0 if "sleep" in body else 60.0)
    steps, path = begun(asked)
    results = list(sweep_run.run(asked, steps, machine.collect(), path, command=program(body)))
    assert [type(result) for result in results] == [Measurement, Failure, Measurement]
    failure = results[1]
    assert isinstance(failure, Failure)
    assert failure.stage == stage
    assert reason in failure.reason
    assert failure.cell.model == "m01"
    assert store_runs.read(path).failures == [failure]


@pytest.mark.slow
def test_a_failed_export_is_told_and_the_exporter_starts_again(zoo: Path) -> None:
    asked = request("m0[0-1]", (64,))
    steps, path = begun(asked)
    body = "os._exit(9) if 'm00' in repr(job) else 0"
    results = list(sweep_run.run(asked, steps, machine.collect(), path, command=program(body)))
    assert [type(result) for result in results] == [Failure, Measurement]
    assert isinstance(results[0], Failure)
    assert results[0].stage == "export"


def test_resume_does_what_is_left_and_tries_failures_again(zoo: Path) -> None:
    asked = request("m0[0-3]")
    steps, path = begun(asked)
    broken = program("os._exit(9) if 'm01' in repr(job) else 0")
    results = sweep_run.run(asked, steps, machine.collect(), path, command=broken)
    next(results), next(results), next(results)
    results.close()
    again, left = sweep_run.resume(path, Path("models"), machine.collect())
    assert again == asked
    assert [step.cell.model for step in left] == ["m01", "m03"]
    assert all(isinstance(result, Measurement) for result in sweep_run.run(again, left, machine.collect(), path))
    _, left = sweep_run.resume(path, Path("models"), machine.collect())
    assert left == []
    file = store_runs.read(path)
    assert Counter(plan.cell_of(m).model for m in file.measurements) == dict.fromkeys(["m00", "m01", "m02", "m03"], 1)
    assert len(file.runs) == 3


def test_resume_refuses_another_machine_and_other_weights(zoo: Path) -> None:
    asked = request("m00")
    _, path = begun(asked)
    here = machine.collect()
    other = msgspec.structs.replace(here, packages={**here.packages, "onnxruntime": "1.0"})
    with pytest.raises(NotComparableError, match=r"onnxruntime: .* then, 1.0 now") as caught:
        sweep_run.resume(path, Path("models"), other)
    assert caught.value.exit_code == 4
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b'"seed":0', b'"seed":1', 1))
    with pytest.raises(NotComparableError, match="checkpoint of it has changed"):
        sweep_run.resume(path, Path("models"), here)


def finished(path: Path) -> list[str]:
    return [plan.cell_of(m).model for m in store_runs.read(path).measurements]


def kill_after(seconds: float, command: list[str], number: int) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        process.wait()


@pytest.mark.slow
def test_killed_at_twenty_points_nothing_is_lost_and_nothing_is_done_twice(zoo: Path) -> None:
    """One sweep of twelve cells, killed twenty times at random moments and resumed each time."""
    moments = random.Random(2303)
    path, kills, seen = None, 0, 0
    while kills < 20 or path is None:
        if path is None or len(finished(path)) == 12:  # begin (again)
            command = [*LATENCY, "--model", "m*"]
        else:
            command = [*LATENCY, "--resume", path.stem]
        kill_after(moments.uniform(0.25, 1.6), command, signal.SIGKILL)
        kills += 1
        runs = store_runs.all_runs(Path("results"))
        if runs and path != runs[-1]:
            path, seen = runs[-1], 0
        if path is not None:
            done = finished(path)
            assert len(done) >= seen, "a finished cell was lost"
            assert max(Counter(done).values(), default=1) == 1, "a cell was done twice"
            seen = len(done)
    if len(finished(path)) < 12:
        subprocess.run([*LATENCY, "--resume", path.stem], check=True, capture_output=True)
    assert sorted(finished(path)) == [f"m{i:02d}" for i in range(12)]


@pytest.mark.slow
def test_interrupted_by_ctrl_c_it_says_how_to_go_on(zoo: Path) -> None:
    asked = [*LATENCY, "--model", "m0[0-4]"]
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240  # a machine busy with other work takes its time
    while not any(finished(run) for run in store_runs.all_runs(Path("results"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    (path,) = store_runs.all_runs(Path("results"))
    assert f"fastvit-bench latency --device cpu --resume {path.stem}" in said
    assert "Traceback" not in said
    kept = finished(path)  # a line that was interrupted before it was safe on the disk is taken back
    done = subprocess.run([*LATENCY, "--resume", "last"], capture_output=True, text=True, check=True)
    assert sorted(finished(path)) == [f"m{i:02d}" for i in range(5)]
    remaining = 5 - len(kept)
    assert f"cpu: {remaining} cell{'s' * (remaining != 1)} · " in done.stderr


def test_two_sweeps_at_once_on_one_device_do_not_happen(zoo: Path) -> None:
    with store_runs.lock(Path("results"), "cpu"):
        done = subprocess.run([*LATENCY, "--model", "m00"], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_export_jobs_of_a_plan_are_those_of_the_command(zoo: Path) -> None:
    (step,) = plan.plan(request("m00"), Path("models"))
    assert step.job == export_job(Path("models"), "m00")
    assert step.cached == pipeline.cached(step.job)
