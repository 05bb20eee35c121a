"""Samples from a stand-in for NVML, and what they say to a person."""

import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fakes import cudagpu
from fakes.cudagpu import process

from fastvit_bench.backends._nvidia.cuda import monitor
from fastvit_bench.backends._nvidia.cuda.monitor import Monitor
from fastvit_bench.records import GpuState, gpu_warnings

UUID = "GPU-00000000-0000-0000-0000-000000000001"


def readings(**changes: Any) -> dict[str, Any]:
    """Of a GPU that works and has nothing to hide."""
    usual: dict[str, Any] = {
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1545, 2: 7000}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 2100, 2: 7000}[kind],
        "nvmlDeviceGetApplicationsClock": lambda handle, kind: {1: 1350, 2: 7000}[kind],
        "nvmlDeviceGetTemperatureV": 61,
        "nvmlDeviceGetPowerUsage": 187_500,
        "nvmlDeviceGetEnforcedPowerLimit": 250_000,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=93, memory=40),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [],
        "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: [],
        "nvmlDeviceGetPersistenceMode": 1,
    }
    return {**usual, **changes}


def install(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    """Readings of None take the call away."""
    module = cudagpu.pynvml({name: value for name, value in readings(**changes).items() if value is not None})
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_look_at_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    module = install(monkeypatch)
    with Monitor(UUID) as watch:
        assert watch.unavailable_reason is None
        found = watch.sample_telemetry()
    assert found == GpuState(
        sm_mhz=1545,
        memory_mhz=7000,
        temperature_c=61,
        power_w=187.5,
        power_limit_w=250.0,
        throttle=("power cap",),
        utilisation_percent=93,
        other_processes=0,
        other_memory_mib=0,
        persistence=True,
        application_sm_mhz=1350,
        application_memory_mhz=7000,
        max_sm_mhz=2100,
        max_memory_mhz=7000,
    )
    assert module.log[-1] == "nvmlShutdown"
    assert not [call for call in module.log if "Set" in call]  # clocks are never changed
    assert msgspec.json.decode(msgspec.json.encode(found), type=GpuState) == found


@pytest.mark.parametrize("how", ["!Not Supported", None])
def test_what_is_not_told_is_none(monkeypatch: pytest.MonkeyPatch, how: str | None) -> None:
    install(monkeypatch, **dict.fromkeys(readings(), how))
    with Monitor(UUID) as watch:
        assert watch.sample_telemetry() == GpuState()


def test_older_names(monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch,
        nvmlDeviceGetCurrentClocksEventReasons="!Function Not Found",
        nvmlDeviceGetCurrentClocksThrottleReasons=0x20,
        nvmlDeviceGetTemperatureV="!Function Not Found",
        nvmlDeviceGetTemperature=70,
    )
    with Monitor(UUID) as watch:
        found = watch.sample_telemetry()
    assert (found.throttle, found.temperature_c) == (("heat (software)",), 70)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nvmlInit": "!Driver Not Loaded"}, "NVML does not answer: Driver Not Loaded"),
        ({"nvmlDeviceGetHandleByUUID": "!Not Found"}, f"NVML does not know the GPU {UUID}: Not Found"),
    ],
)
def test_nvml_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str) -> None:
    install(monkeypatch, **changes)
    with Monitor(UUID) as watch:
        assert watch.unavailable_reason == reason
        assert watch.sample_telemetry() == GpuState()


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watch = Monitor(UUID)
    reason = watch.unavailable_reason or ""
    assert re.fullmatch(r"the package nvidia-ml-py is not installed; run: .*pip install .*nvidia-ml-py", reason)
    assert watch.sample_telemetry() == GpuState()
    watch.close()


def test_real_package_without_a_driver() -> None:
    pytest.importorskip("pynvml")
    with Monitor(UUID) as watch:
        assert watch.unavailable_reason  # there is no such GPU anywhere
        assert watch.sample_telemetry() == GpuState()


def test_real_package_has_the_names() -> None:
    real = pytest.importorskip("pynvml")
    optional = {"nvmlDeviceGetApplicationsClock"}  # to be removed in CUDA 14
    assert [name for name in readings() if name not in optional and not hasattr(real, name)] == []
    assert (real.NVML_CLOCK_SM, real.NVML_CLOCK_MEM, real.NVML_TEMPERATURE_GPU) == (1, 2, 0)
    assert monitor.reasons(real.nvmlClocksThrottleReasonHwThermalSlowdown) == ("heat (hardware)",)
    assert monitor.reasons(real.nvmlClocksThrottleReasonSwThermalSlowdown) == ("heat (software)",)
    assert monitor.reasons(real.nvmlClocksThrottleReasonSwPowerCap) == ("power cap",)
    assert monitor.reasons(real.nvmlClocksThrottleReasonHwPowerBrakeSlowdown) == ("power brake",)
    assert monitor.reasons(real.nvmlClocksThrottleReasonGpuIdle) == ("idle",)


def test_reasons() -> None:
    assert monitor.reasons(0) == ()
    assert monitor.reasons(0x1 | 0x40) == ("idle", "heat (hardware)")
    assert monitor.reasons(0x4 | 0x8000) == ("power cap", "reason 0x8000")


# --- other processes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "during", "others"),
    [
        ([], [process(os.getpid(), 900)], (0, 0)),  # this process, under its own number
        ([], [process(4_000_001, 900)], (0, 0)),  # this process, in a container
        ([process(4_000_000, 300)], [process(4_000_000, 300), process(4_000_001, 900)], (1, 300)),
        ([process(4_000_000, 300)], [process(4_000_000, 300), process(os.getpid(), 900)], (1, 300)),
        ([], [process(4_000_001, 900), process(os.getpid(), 900), process(4_000_002, None)], (2, 900)),
        ([process(4_000_000, None)], [process(4_000_000, None)], (1, None)),
    ],
)
def test_other_processes(
    monkeypatch: pytest.MonkeyPatch, before: list[Any], during: list[Any], others: tuple[int, int | None]
) -> None:
    listed = [before]
    install(monkeypatch, nvmlDeviceGetComputeRunningProcesses=lambda handle: listed[0])
    with Monitor(UUID) as watch:
        listed[0] = during
        found = watch.sample_telemetry()
    assert (found.other_processes, found.other_memory_mib) == others


def test_process_that_computes_and_draws_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [process(4_000_000, 300)]
    install(
        monkeypatch,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: both,
        nvmlDeviceGetGraphicsRunningProcesses=lambda handle: both,
    )
    with Monitor(UUID) as watch:
        assert watch.sample_telemetry().other_processes == 1


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_nothing_to_warn_of() -> None:
    steady = GpuState(sm_mhz=1545, memory_mhz=7000, throttle=(), other_processes=0)
    idle = GpuState(sm_mhz=300, memory_mhz=405, throttle=("idle",), other_processes=0)
    assert gpu_warnings([idle, steady, msgspec.structs.replace(steady, sm_mhz=1530), idle]) == []
    assert gpu_warnings([]) == []
    assert gpu_warnings([GpuState(), GpuState()]) == []


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (
            [GpuState(throttle=("heat (hardware)",), temperature_c=88), GpuState(throttle=(), temperature_c=84)],
            "the GPU slowed down by heat in 1 of 2 looks, at up to 88 °C",
        ),
        (
            [GpuState(throttle=("power cap",), power_limit_w=250.0)] * 2,
            "the GPU slowed down to keep its power limit in 2 of 2 looks, of 250 W",
        ),
        ([GpuState(throttle=("hardware slowdown",))], "the GPU slowed down by itself in 1 of 1 looks"),
        ([GpuState(sm_mhz=1500), GpuState(sm_mhz=1350)], "SM clock varied by 10 %: 1350 to 1500 MHz"),
        ([GpuState(memory_mhz=7000), GpuState(memory_mhz=405)], "memory clock varied by 94 %: 405 to 7000 MHz"),
        ([GpuState(other_processes=1, other_memory_mib=300)], "1 other process on the GPU, holding 300 MiB"),
        ([GpuState(), GpuState(other_processes=3)], "3 other processes on the GPU"),
    ],
)
def test_warnings(samples: list[GpuState], said: str) -> None:
    assert gpu_warnings(samples) == [said]


def test_spread_is_the_callers_to_choose() -> None:
    samples = [GpuState(sm_mhz=1500), GpuState(sm_mhz=1470)]
    assert gpu_warnings(samples) == []
    assert gpu_warnings(samples, spread_percent=1) == ["SM clock varied by 2 %: 1470 to 1500 MHz"]
