"""What a device can do at best: measured for real with small probes, kept, found again, and shown by the command."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import onnx
import pytest
from commands import call, refused
from conftest import export_job

from fastvit_bench import backends
from fastvit_bench.backends._onnx import traffic
from fastvit_bench.errors import NotComparableError, UnavailableError
from fastvit_bench.exporting import pipeline
from fastvit_bench.measuring import machine, microbench, worker
from fastvit_bench.records import (
    CellError,
    Device,
    DevicePeak,
    Machine,
    Method,
    Microbenchmark,
    MicrobenchmarkJob,
    MicrobenchmarkTimed,
    MicrobenchmarkTimingJob,
    MicrobenchmarkWritten,
)
from fastvit_bench.records.comparison import Readings
from fastvit_bench.render.rows import Row, collect
from fastvit_bench.roofline import peak as roofline_peak
from fastvit_bench.store import peaks, runs
from fastvit_bench.store.runs import RunFile

SMALL = (("pointwise", 16, 32, 2), ("product", 32, 32, 1))


def cpu(**options: int) -> Device:
    device = Device(name="cpu", backend="onnxruntime", options={"threads": 1, **options})
    return msgspec.structs.replace(device, options=backends.get("onnxruntime").options(device))


@pytest.fixture(scope="session")
def measured() -> tuple[DevicePeak, list[str]]:
    """A peak by probes of which nobody learns how quick this machine is, and what was said meanwhile."""
    said: list[str] = []
    found = roofline_peak.measure(cpu(), machine.collect(), said.append, ladder=SMALL, array_bytes=1 << 20, processes=2)
    return found, said


# --- probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["product", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pointwise", "spatial", "copy"))]
)
def test_a_probe_is_the_work_it_says(kind: Any, tmp_path: Path) -> None:
    """Multiply-accumulates and bytes as counted on the written file, but for what makes the channels."""
    probe = builders.probe(kind=kind, width=3 if kind == "copy" else 64, side=32, depth=1 if kind == "copy" else 3)
    path = tmp_path / "probe.onnx"
    job = MicrobenchmarkJob(probe=probe, device=cpu(), path=str(path))
    assert worker.answer(job) == MicrobenchmarkWritten()
    counted = traffic.count(path, probe.shape)
    if kind == "copy":
        assert counted.macs == probe.macs == 0
        assert counted.read_bytes + counted.written_bytes == probe.moved_bytes
        assert [node.op_type for node in onnx.load(path).graph.node] == ["Mul"]
    else:
        assert counted.macs - probe.macs == 3 * 64 * 32 * 32
    timed = worker.answer(
        MicrobenchmarkTimingJob(probe=probe, device=cpu(), path=str(path), method=Method(warmup=1, runs=3, rounds=2))
    )
    assert isinstance(timed, MicrobenchmarkTimed)
    assert timed.best_ns > 0
    assert timed.clock == "time.perf_counter_ns"


def test_values_keep_their_size_through_a_deep_probe(tmp_path: Path) -> None:
    """In half precision too: infinities would be computed as fast, and prove nothing."""
    probe = builders.probe(kind="pointwise", width=32, depth=12, precision="fp16")
    path = tmp_path / "probe.onnx"
    microbench.write(MicrobenchmarkJob(probe=probe, device=cpu(), path=str(path)))
    with backends.get("onnxruntime").open(path, cpu()) as session:
        session.set_input(np.random.default_rng(0).standard_normal(probe.shape.nchw, np.float32))
        session.run()
        session.wait()
        (outputs,) = session.get_output().values()
    assert np.isfinite(outputs).all()
    assert 1e-4 < np.abs(outputs).max() < 1e3


def test_the_best_is_the_lowest_median_of_a_set() -> None:
    from fastvit_bench.measuring.latency import TimedRuns
    from fastvit_bench.records import CallPattern, Window

    samples = ((1, 9, 9), (7, 5, 6), (8, 8, 8))  # a single quick run is no sustained rate
    reading = TimedRuns(samples, Window.COMPUTE, "clock", CallPattern.BACK_TO_BACK, (), None)
    assert microbench.best_ns(reading) == 6


# --- measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_peak_is_measured(measured: tuple[DevicePeak, list[str]]) -> None:
    peak, said = measured
    assert [each.probe.kind for each in peak.arithmetic] == ["pointwise", "product"]
    assert peak.memory.probe.kind == "copy"
    assert peak.memory.probe.moved_bytes >= 2 << 20
    assert 1e6 < peak.macs_per_s < 1e14
    assert 1e6 < peak.bytes_per_s < 1e14
    assert peak.others_percent is not None
    assert all(1 <= len(each.best_ns) <= 2 for each in (*peak.arithmetic, peak.memory))
    assert len(peak.memory.best_ns) == 2
    assert "1x1 convolutions 16 x 2 at 32 x 32, fp32" in said
    assert "3 x 320 x 320 numbers scaled, fp32, again (2)" in said


class Toolkit:
    """Answers in place of worker processes: each probe takes the next of its times, in nanoseconds."""

    def __init__(self, times: Callable[[Microbenchmark, int], int | str]) -> None:
        self.times = times
        self.asked: list[Microbenchmark] = []

    def __enter__(self) -> "Toolkit":
        return self

    def __exit__(self, *_: object) -> None: ...

    def busy_s(self) -> float:
        return 0.0

    def ask(self, job: MicrobenchmarkJob | MicrobenchmarkTimingJob, timeout_s: float) -> object:
        if isinstance(job, MicrobenchmarkJob):
            return MicrobenchmarkWritten()
        told = self.times(job.probe, self.asked.count(job.probe))
        self.asked.append(job.probe)
        if isinstance(told, str):
            return CellError(stage="timing", reason=told)
        return MicrobenchmarkTimed(best_ns=told, window=builders.measurement().window, clock="clock")


def simulated(
    monkeypatch: pytest.MonkeyPatch, times: Callable[[Microbenchmark, int], int | str], others: float = 0.0
) -> tuple[Toolkit, Any]:
    """What answers, and a measurement by it while other processes take so many percent of a processor."""
    toolkit = Toolkit(times)
    monkeypatch.setattr(roofline_peak, "Worker", lambda: toolkit)
    monkeypatch.setattr(machine.Between, "readings", lambda *_: Readings(others_percent=others))
    return toolkit, lambda: roofline_peak.measure(cpu(), builders.machine())


def test_a_probe_is_repeated_until_two_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    scatter = [1.6, 1.4, 1.2, 1.1, 1.01, 1.0, 9.9, 9.9]

    def at_200_gmacs(probe: Microbenchmark, number: int) -> int:
        return round(probe.macs / 200 * (scatter[number] if probe.depth == 16 else 1.9) or 10**7)

    toolkit, measure = simulated(monkeypatch, at_200_gmacs)
    peak = measure()
    (deep,) = (each for each in peak.arithmetic if each.probe.depth == 16)
    assert deep.best_ns == tuple(round(deep.probe.macs / 200 * factor) for factor in scatter[:6])
    assert peak.macs_per_s == pytest.approx(200e9)
    assert len(peak.memory.best_ns) == roofline_peak.LEAST
    # nothing that would take longer than 50 ms, which a processor's probes of 34 GMAC would
    assert max(probe.macs for probe in toolkit.asked) < 200e9 * roofline_peak.LONGEST_S


def test_two_slow_processes_that_agree_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_first = [1.5, 1.5, 1.5, 1.0, 1.0]
    _, measure = simulated(
        monkeypatch, lambda probe, number: round(10**7 * slow_first[number]) if probe.kind == "copy" else 10**6
    )
    assert min(measure().memory.best_ns) == 10**7


def test_on_a_busy_machine_agreement_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    _, measure = simulated(monkeypatch, lambda probe, _: round(probe.macs / 200) or 10**7, others=120.0)
    peak = measure()
    assert len(peak.best.best_ns) == len(peak.memory.best_ns) == roofline_peak.PROCESSES
    assert peak.warnings == ["other processes took 120 % of a processor meanwhile"]


def test_a_gpu_gets_the_large_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit, measure = simulated(monkeypatch, lambda probe, _: 20_000 + probe.macs // 100_000)
    peak = measure()
    assert len(peak.arithmetic) == len(roofline_peak.LADDER)
    assert peak.best.probe.width == 4096
    assert len(toolkit.asked) > len(roofline_peak.LADDER)


def test_a_probe_that_fails_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    _, measure = simulated(monkeypatch, lambda probe, _: "no kernel" if probe.kind == "spatial" else 10**6)
    assert {each.probe.kind for each in measure().arithmetic} == {"pointwise", "product"}
    _, measure = simulated(monkeypatch, lambda probe, _: "memory ran out.")
    with pytest.raises(UnavailableError, match=r"^The probe of .* failed: memory ran out\.$"):
        measure()
    _, measure = simulated(monkeypatch, lambda probe, _: "memory ran out" if probe.kind == "copy" else 10**6)
    with pytest.raises(UnavailableError, match="numbers scaled failed: memory ran out"):
        measure()


# --- kept and found again ---------------------------------------------------------------------------------------------


def rows_of(*machines: Machine, device: Device | None = None) -> list[Row]:
    lines = [builders.measurement(machine=each, device=device or cpu()) for each in machines]
    return collect([RunFile(path=Path("x.jsonl"), lines=(builders.run(), *lines), torn_bytes=0)])


class Measuring:
    """Counts what is measured, and gives a plausible peak."""

    def __init__(self) -> None:
        self.devices: list[Device] = []

    def __call__(self, device: Device, where: Machine, notify: Callable[[str], None]) -> DevicePeak:
        self.devices.append(device)
        return builders.peak(100.0 + len(self.devices), device=device, machine=where)


def test_a_peak_is_measured_once_and_again_when_asked(tmp_path: Path) -> None:
    measuring, rows = Measuring(), rows_of(machine.collect())
    (first,) = roofline_peak.of_rows(rows, cpu(), tmp_path, measured=measuring)
    assert roofline_peak.of_rows(rows, cpu(), tmp_path, measured=measuring) == (first,)
    assert len(measuring.devices) == 1
    (second,) = roofline_peak.of_rows(rows, cpu(), tmp_path, measured=measuring, again=True)
    assert second.macs_per_s > first.macs_per_s
    assert peaks.load(tmp_path) == (second,)


def test_a_peak_of_other_versions_is_measured_anew_and_both_are_kept(tmp_path: Path) -> None:
    here = machine.collect(device=cpu())
    old = msgspec.structs.replace(here, packages={**here.packages, "onnxruntime": "1.0"})
    peaks.save([builders.peak(device=cpu(), machine=old)], tmp_path)
    found = roofline_peak.of_rows(rows_of(here, old), cpu(), tmp_path, measured=Measuring())
    assert [peak.machine for peak in found] == [old, here]


def test_each_setting_of_the_rows_has_its_peak(tmp_path: Path) -> None:
    measuring, here = Measuring(), machine.collect()
    rows = rows_of(here) + rows_of(here, device=cpu(threads=2)) + rows_of(here, device=cpu(threads=2))
    assert len(roofline_peak.of_rows(rows, cpu(), tmp_path, measured=measuring)) == 2
    assert [device.options["threads"] for device in measuring.devices] == [1, 2]


def test_without_rows_the_profile_is_measured(tmp_path: Path) -> None:
    measuring = Measuring()
    roofline_peak.of_rows([], Device(name="cpu", backend="onnxruntime"), tmp_path, measured=measuring)
    assert measuring.devices[0].options == {"threads": backends.available_cores()}


def test_figures_of_another_machine_take_the_peak_that_was_brought_along(tmp_path: Path) -> None:
    rows, measuring = rows_of(builders.machine()), Measuring()
    with pytest.raises(NotComparableError, match=r"another machine \(Example Processor 9000 .* bring that file along"):
        roofline_peak.of_rows(rows, cpu(), tmp_path, measured=measuring)
    held = (builders.peak(device=cpu()),)
    peaks.save(held, tmp_path)
    assert roofline_peak.of_rows(rows, cpu(), tmp_path, measured=measuring) == held
    absent = Device(name="rtx", backend="onnxruntime", options={"provider": "cuda"})
    assert roofline_peak.of_rows(rows, absent, tmp_path, measured=measuring) == held
    with pytest.raises(UnavailableError, match="its peak cannot be measured"):
        roofline_peak.of_rows(rows, absent, tmp_path, measured=measuring, again=True)
    assert measuring.devices == []


@pytest.mark.slow
def test_files_without_counts_are_counted_where_they_lie(exported: Path) -> None:
    made = pipeline.cached(export_job(exported))
    assert made is not None
    old = builders.measurement(artifact=msgspec.structs.replace(made, traffic=None))
    assert roofline_peak.traffic([old], exported) == {made.sha256: made.traffic}
    assert roofline_peak.traffic([old], exported / "nowhere") == {}
    changed = builders.measurement(artifact=msgspec.structs.replace(made, traffic=None, sha256="00" * 32))
    assert roofline_peak.traffic([changed, builders.measurement(artifact=builders.foreign())], exported) == {}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_network_below_a_peak(zoo: Path) -> None:
    """From the file to the table: share of the peak is MACs over latency over peak."""
    call("latency", "--device", "cpu", "--model", "m00", "--res", "32", "--threads", "1")
    (path,) = runs.all_runs(Path("results"))
    (cell,) = runs.read(path).measurements
    peak = builders.peak(device=cell.device, machine=cell.machine)
    peaks.save([peak], path.parent)
    (line,) = csv.DictReader(io.StringIO(call("roofline", "-f", "csv").stdout))
    made: Any = cell.artifact
    assert int(line["macs"]) == made.macs
    by_hand = made.macs / (cell.median_ms / 1e3) / peak.macs_per_s
    assert float(line["share_of_peak"]) == pytest.approx(by_hand, rel=1e-9)
    moved = sum(int(line[name]) for name in ("weight_bytes", "read_bytes", "written_bytes"))
    assert float(line["flop_per_byte"]) == pytest.approx(2 * made.macs / moved, rel=1e-9)
    assert line["bound"] == ("memory" if 2 * made.macs / moved < peak.ridge else "arithmetic")
    rich = call("roofline", path.stem, "-o", "r.svg")
    assert "Figures below the roofs" in rich.stdout
    assert "picture: r.svg" in rich.stderr
    assert Path("r.svg").read_text(encoding="utf-8").startswith("<svg")
    assert call("roofline", "-f", "markdown").stdout.startswith("**Roofs")
    assert len(json.loads(call("roofline", "-f", "json").stdout)["points"]) == 1


@pytest.mark.slow
def test_wrong_words_are_refused(zoo: Path) -> None:
    assert "There is no device 'x'" in refused("roofline", "--device", "x")
    assert "end its name in one of these" in refused("roofline", "-o", "r.pdf")
    assert "There are no runs" in refused("roofline", "last")
    assert "cannot run here" in refused("roofline", "--device", "elsewhere", expect=6)
    Path("results/cpu").mkdir(parents=True)
    Path("results/cpu/peak.json").write_text("[1]", encoding="utf-8")
    assert "or remove it and measure again" in refused("roofline")
    assert not runs.all_runs(Path("results"))
