"""What this machine is and what it is doing: collected from the system, never typed in."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvit_bench.backends import Hardware, available_cores
from fastvit_bench.errors import MismatchError
from fastvit_bench.records import Device, GpuState, Machine, MachineState
from fastvit_bench.verdicts import Readings

# packages whose version changes a latency or an exported file
PACKAGES = (
    *("torch", "onnx", "onnxscript", "onnxruntime", "coremltools", "numpy"),
    *("onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "triton", "cuda-bindings", "pycuda"),
)


def collect(hardware: Hardware | None = None) -> Machine:
    """Describe the machine this process runs on, and the `hardware` behind it that does the computing, if any."""
    import hashlib

    import psutil

    return Machine(
        host=hashlib.sha256(platform.node().encode()).hexdigest()[:8],
        processor=processor(),
        cores=available_cores(),
        memory_mib=psutil.virtual_memory().total >> 20,
        os=system(),
        python=platform.python_version(),
        packages=versions(),
        accelerator=hardware.name if hardware else None,
        driver=hardware.driver if hardware else None,
    )


def mismatch(device: Device, hardware: str) -> str | None:
    """What is wrong with running `device` on hardware of that name, or None when it holds the text of ``match``."""
    if device.match is None or device.match.lower() in hardware.lower():
        return None
    return f"it is meant for '{device.match}', and this machine has '{hardware}'"


def check(device: Device, machine: Machine) -> None:
    """Raise `MismatchError` unless this is the hardware the device profile is meant for."""
    wrong = mismatch(device, machine.accelerator or machine.processor)
    if wrong:
        raise MismatchError(
            f"Device '{device.name}' cannot run here: {wrong}. "
            f"Run it there, declare a [device.*] for this machine in benchmark.toml, or say --allow-device-mismatch to "
            f"label it by its own name."
        )


class Watch:
    """Readings of the machine before the file is loaded and right after the timed runs; nothing is read in between."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._load, self._clock, self._times = _load(), _clock_mhz(), psutil.cpu_times()

    def state(self) -> MachineState:
        """The readings at construction and now."""
        before, after = self._times, self._psutil.cpu_times()
        steal = None
        if hasattr(after, "steal"):
            busy = sum(after) - sum(before)
            steal = 100 * (after.steal - before.steal) / busy if busy > 0 else 0.0
        return MachineState(
            load_before=self._load,
            load_after=_load(),
            clock_mhz_before=self._clock,
            clock_mhz_after=_clock_mhz(),
            steal_percent=steal,
        )


def now_s() -> float:
    """Seconds of a clock that never goes back, for time limits; latencies are read in `measure.latency` alone."""
    return time.monotonic()


def rest(seconds: float) -> None:
    """Do nothing for a while."""
    time.sleep(seconds)


class Between:
    """Readings of what else the machine was doing, taken before and after a block and never while a run is timed."""

    def __init__(self, own_s: float) -> None:
        """`own_s` is the processor time, in seconds, that the processes which are measured have used so far."""
        import psutil

        self._psutil = psutil
        self._wall, self._times, self._own = now_s(), psutil.cpu_times(), own_s + _here_s()
        self._throttled = _throttle_count()

    def readings(self, own_s: float, gpu: Sequence[GpuState] = ()) -> Readings:
        """Of the time since construction."""
        before, after = self._times, self._psutil.cpu_times()
        wall = max(now_s() - self._wall, 1e-3)
        spent = _busy_s(after) - _busy_s(before)
        throttled = _throttle_count()
        steal = getattr(after, "steal", None)
        return Readings(
            load=_load(),
            others_percent=max(0.0, 100 * (spent - (own_s + _here_s() - self._own)) / wall),
            steal_percent=None if steal is None else 100 * max(0.0, steal - before.steal) / wall / available_cores(),
            clock_mhz=_clock_mhz(),
            temperature_c=_temperature_c(),
            throttled=None if throttled is None or self._throttled is None else throttled - self._throttled,
            gpu=tuple(gpu),
        )


def _busy_s(times: Any) -> float:
    """Processor time of everything but idling; time of guests counts among that of users already."""
    idle = ("idle", "iowait", "steal", "guest", "guest_nice")
    return sum(getattr(times, name) for name in times._fields if name not in idle)


def _here_s() -> float:
    return time.process_time()


def _throttle_count() -> int | None:
    """How often the processors have said that heat slowed them down; None where the system does not tell."""
    told = list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    try:
        return sum(int(file.read_text()) for file in told) if told else None
    except (OSError, ValueError):
        return None


def _temperature_c() -> float | None:
    """The hottest of the processor's sensors, in °C."""
    import psutil

    ask = getattr(psutil, "sensors_temperatures", None)
    try:
        told: dict[str, Any] = ask() if ask else {}
    except OSError:
        return None
    processor = [name for name in told if name in ("coretemp", "k10temp", "zenpower", "cpu_thermal")]
    return max((sensor.current for name in processor for sensor in told[name]), default=None)


def processor() -> str:
    """The processor's marketing name; `platform.processor` is empty or an architecture on most systems."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if platform.system() == "Darwin":
        import subprocess

        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


def last_level_cache_bytes() -> int:
    """Of all last-level caches together; 0 where the system does not tell."""
    caches: dict[tuple[int, str], int] = {}  # level and the processors that share it -> bytes
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared, size = ((folder / name).read_text().strip() for name in ("level", "shared_cpu_list", "size"))
            caches[int(level), shared] = int(size[:-1]) * units[size[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            continue
    last = max((level for level, _ in caches), default=0)
    return sum(size for (level, _), size in caches.items() if level == last)


def system() -> str:
    """Operating system, its release and the architecture."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def versions() -> dict[str, str]:
    """Of the packages that change a latency or an exported file, as this Python has them."""
    import importlib.metadata

    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _load() -> float | None:
    import psutil

    try:
        return psutil.getloadavg()[0]
    except OSError:
        return None


def _clock_mhz() -> float | None:
    import psutil

    try:
        reading = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return None
    return reading.current if reading else None
