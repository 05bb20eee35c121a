"""Memory and energy: what the system's counters say, and nothing where they do not."""

import sys
from pathlib import Path

import builders
import msgspec
import pytest

from fastvit_bench.measuring import latency, resources
from fastvit_bench.records import GpuState, Measurement, Method, ResourceUsage


def package(root: Path, number: int, energy_uj: str, name: str = "package-0", limit_uj: int = 262_143_328_850) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(energy_uj)
    (folder / "max_energy_range_uj").write_text(f"{limit_uj}\n")
    return folder


def test_the_peak_is_that_of_this_process() -> None:
    before = resources.peak_resident_bytes()
    assert before is not None
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])  # touched, so that it is resident
    after = resources.peak_resident_bytes()
    assert after is not None
    assert after >= before
    assert after >= len(block)
    del block
    assert resources.peak_resident_bytes() >= after - (1 << 20)  # type: ignore[operator]


@pytest.mark.skipif(sys.platform != "linux", reason="the file is Linux's")
@pytest.mark.parametrize("text", ["", "VmHWM:\n", "VmHWM: many kB\n", "Name: x\n"])
def test_a_status_without_a_peak_gives_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "status").write_text(text)
    assert resources.peak_resident_bytes(tmp_path / "status") is None
    assert resources.peak_resident_bytes(tmp_path / "absent") is None


def test_energy_is_that_of_all_packages(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, "1000000\n"), package(tmp_path, 1, "5000\n", "package-1")
    package(tmp_path, 2, "77\n", "psys")  # the whole system, which holds the packages
    before = resources.package_energy_uj(tmp_path)
    assert before == {"intel-rapl:0": 1_000_000, "intel-rapl:1": 5000}
    (first / "energy_uj").write_text("1250000\n")
    (second / "energy_uj").write_text("105000\n")
    assert resources.energy_between_mj(before, resources.package_energy_uj(tmp_path), tmp_path) == 350.0


def test_a_counter_that_began_anew_had_reached_its_range(tmp_path: Path) -> None:
    folder = package(tmp_path, 0, "900000\n", limit_uj=1_000_000)
    before = resources.package_energy_uj(tmp_path)
    (folder / "energy_uj").write_text("100000\n")
    after = resources.package_energy_uj(tmp_path)
    assert resources.energy_between_mj(before, after, tmp_path) == 200.0
    (folder / "max_energy_range_uj").write_text("1\n")
    assert resources.energy_between_mj(before, after, tmp_path) is None
    (folder / "max_energy_range_uj").unlink()
    assert resources.energy_between_mj(before, after, tmp_path) is None


def test_without_a_readable_counter_there_is_no_energy(tmp_path: Path) -> None:
    assert resources.package_energy_uj(tmp_path) is None
    assert resources.package_energy_uj(tmp_path / "absent") is None
    package(tmp_path, 0, "1000\n")
    second = package(tmp_path, 1, "not a number\n", "package-1")
    assert resources.package_energy_uj(tmp_path) is None
    (second / "energy_uj").unlink()
    assert resources.package_energy_uj(tmp_path) is None
    assert resources.energy_between_mj(None, {"intel-rapl:0": 1}, tmp_path) is None
    assert resources.energy_between_mj({"intel-rapl:0": 1}, {"intel-rapl:1": 2}, tmp_path) is None


class Session:
    """A session whose GPU, if it has one, counts two joules a run."""

    clock = None

    def __init__(self, *, gpu: bool, energy: bool = True) -> None:
        self.gpu, self.energy, self.runs = gpu, energy, 0

    def run(self) -> None:
        self.runs += 1

    def wait(self) -> None:
        pass

    def sample_telemetry(self) -> GpuState | None:
        if not self.gpu:
            return None
        return GpuState(own_memory_mib=100 + self.runs, energy_mj=2000 * self.runs if self.energy else None)


METHOD = Method(warmup=5, runs=10, rounds=2)


def test_a_gpu_counts_the_timed_runs_and_not_the_warm_up() -> None:
    taken = latency.measure(Session(gpu=True), METHOD)  # type: ignore[arg-type]
    assert taken.energy_mj == [20_000.0, 20_000.0]


def test_a_gpu_without_a_counter_has_no_energy() -> None:
    taken = latency.measure(Session(gpu=True, energy=False), METHOD)  # type: ignore[arg-type]
    assert taken.energy_mj == [None, None]


def test_a_processor_counts_by_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(gpu=False)
    monkeypatch.setattr(resources, "package_energy_uj", lambda: {"intel-rapl:0": 3_000_000 * session.runs})
    assert latency.measure(session, METHOD).energy_mj == [30_000.0, 30_000.0]  # type: ignore[arg-type]


def measured(*usage: ResourceUsage) -> Measurement:
    return msgspec.structs.replace(builders.measurement(), usage=usage)


def test_a_figure_is_of_all_processes_or_of_none() -> None:
    one = ResourceUsage(peak_resident_bytes=100, device_bytes=10, energy_mj=300.0, runs=3)
    two = ResourceUsage(peak_resident_bytes=200, device_bytes=30, energy_mj=500.0, runs=1)
    both = measured(one, two)
    assert (both.peak_resident_bytes, both.device_bytes, both.energy_mj) == (200, 30, 200.0)
    for lacking in (measured(), measured(one, ResourceUsage(runs=3))):
        assert (lacking.peak_resident_bytes, lacking.device_bytes, lacking.energy_mj) == (None, None, None)
