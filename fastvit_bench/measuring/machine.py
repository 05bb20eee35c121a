"""The description of this machine and of its load, collected from the system and never typed in."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvit_bench import backends
from fastvit_bench.backends import Hardware, _cgroups
from fastvit_bench.errors import MismatchError
from fastvit_bench.measuring.processor import name as processor
from fastvit_bench.records import Device, GpuState, Machine, MachineState
from fastvit_bench.records.comparison import Readings


def collect(hardware: Hardware | None = None, device: Device | None = None, name: str = "") -> Machine:
    """Describe the machine this process runs on, and the `hardware` that computes for it, if any.

    The packages are those that decide figures of `device`; `name` is a person's name for the machine.
    """
    import hashlib

    import psutil

    return Machine(
        host=hashlib.sha256(platform.node().encode()).hexdigest()[:8],
        processor=processor(),
        cores=backends.processors(),
        memory_mib=psutil.virtual_memory().total >> 20,
        os=system(),
        python=platform.python_version(),
        packages=backends.figure_versions(device) if device else {},
        accelerator=hardware.name if hardware else None,
        driver=hardware.driver if hardware else None,
        quota=_quota(),
        name=name,
    )


def _quota() -> float | None:
    """Return the CPU quota in processors; None where it does not limit the processors the process may run on."""
    quota = _cgroups.quota()
    return quota if quota is not None and quota < backends.processors() else None


def mismatch(device: Device, hardware: str) -> str | None:
    """Return why `device` is not meant for hardware of that name; None where it contains ``match``."""
    if device.match is None or device.match.lower() in hardware.lower():
        return None
    return f"it is meant for '{device.match}', and this machine has '{hardware}'"


def check(device: Device, machine: Machine) -> None:
    """Raise `MismatchError` unless this machine has the hardware that the device profile is meant for."""
    wrong = mismatch(device, machine.accelerator or machine.processor)
    if wrong:
        raise MismatchError(
            f"Device '{device.name}' cannot run here: {wrong}. "
            f"Run it there, declare a [device.*] for this machine in benchmark.toml, or say --allow-device-mismatch to "
            f"label it by its own name."
        )


class Watch:
    """Readings of the machine before the file is loaded and right after the timed runs, with none in between."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._load, self._clock, self._times = _load(), _clock_mhz(), psutil.cpu_times()
        self._quota_used, self._timing = _cgroups.throttled(), False

    def begin_timing(self) -> None:
        """Count periods of the CPU quota from this call on, because loading may use it up. Later calls do nothing."""
        if not self._timing:
            self._quota_used, self._timing = _cgroups.throttled(), True

    def state(self) -> MachineState:
        """Return the readings at construction and at this call."""
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
            quota_periods=_cgroups.periods_since(self._quota_used, _cgroups.throttled()),
        )


def monotonic_s() -> float:
    """Return the seconds of a clock that never goes back, for time limits; only `measure.latency` times latencies."""
    return time.monotonic()


def pause(seconds: float) -> None:
    """Sleep for so many seconds."""
    time.sleep(seconds)


class Between:
    """Readings of the machine's load by further processes, before and after a block and never while a run is timed."""

    def __init__(self, own_s: float) -> None:
        """`own_s` is the processor time, in seconds, that the measured processes have used so far."""
        import psutil

        self._psutil = psutil
        self._wall, self._times, self._own = monotonic_s(), psutil.cpu_times(), own_s + _own_s()
        self._throttled, self._quota_used = _throttle_count(), _cgroups.throttled()

    def readings(self, own_s: float, gpu: Sequence[GpuState] = ()) -> Readings:
        """Return the readings of the time since construction; `own_s` is as in the constructor."""
        before, after = self._times, self._psutil.cpu_times()
        wall = max(monotonic_s() - self._wall, 1e-3)
        spent = _busy_s(after) - _busy_s(before)
        throttled = _throttle_count()
        steal = getattr(after, "steal", None)
        return Readings(
            load=_load(),
            others_percent=max(0.0, 100 * (spent - (own_s + _own_s() - self._own)) / wall),
            steal_percent=None
            if steal is None
            else 100 * max(0.0, steal - before.steal) / wall / backends.processors(),
            clock_mhz=_clock_mhz(),
            temperature_c=_temperature_c(),
            throttled=None if throttled is None or self._throttled is None else throttled - self._throttled,
            gpu=tuple(gpu),
            quota_periods=_cgroups.periods_since(self._quota_used, _cgroups.throttled()),
        )


def _busy_s(times: Any) -> float:
    """Return the processor time of everything but idling; time of guests is part of that of users already."""
    idle = ("idle", "iowait", "steal", "guest", "guest_nice")
    return sum(getattr(times, name) for name in times._fields if name not in idle)


def _own_s() -> float:
    return time.process_time()


def _throttle_count() -> int | None:
    """Return how often heat has throttled the processors; None where the system does not report it."""
    counters = list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    try:
        return sum(int(file.read_text()) for file in counters) if counters else None
    except (OSError, ValueError):
        return None


def _temperature_c() -> float | None:
    """Return the temperature of the processor's hottest sensor in °C; None without a sensor."""
    import psutil

    ask = getattr(psutil, "sensors_temperatures", None)
    try:
        sensors: dict[str, Any] = ask() if ask else {}
    except OSError:
        return None
    chips = [name for name in sensors if name in ("coretemp", "k10temp", "zenpower", "cpu_thermal")]
    return max((sensor.current for name in chips for sensor in sensors[name]), default=None)


def last_level_cache_bytes() -> int:
    """Return the total size of all last-level caches; 0 where the system does not report it."""
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
    """Return the operating system, its release and the architecture."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


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
