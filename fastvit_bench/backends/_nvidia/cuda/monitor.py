"""A GPU's clocks, temperature, power, throttling and other processes, read from NVML and never changed.

NVML comes through the package nvidia-ml-py, whose module is ``pynvml``. A value that it or the GPU does not report is
None: a missing monitor is a reason for a note, and never one for not measuring.
"""

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any

from fastvit_bench import install
from fastvit_bench.records import GpuState

PACKAGE = "nvidia-ml-py"

# bits of nvmlDeviceGetCurrentClocksEventReasons; fixed by NVML's interface
_REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "heat (software)",
    0x040: "heat (hardware)",
    0x080: "power brake",
    0x100: "display clocks",
}
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_GPU_SENSOR = 0  # NVML_TEMPERATURE_GPU


class Monitor:
    """A reader of one GPU's state. Create it before this process uses the GPU, to recognise its own entry.

    In a container NVML lists processes by numbers that mean nothing inside, this one included. So every process that
    was listed at creation is a different one. Of the processes that came later, the one with this process's number is
    excluded, or, where none has it, one of them.
    """

    def __init__(self, uuid: str) -> None:
        """Connect to the GPU `uuid`, as the driver writes it; numbers differ between CUDA and NVML."""
        self.unavailable_reason: str | None = None  # why nothing can be read
        self._nvml: Any = None
        self._handle: Any = None
        self._first: set[int] = set()
        try:
            nvml = importlib.import_module("pynvml")
        except (ImportError, OSError):
            self.unavailable_reason = f"the package {PACKAGE} is not installed; run: {install.packages(PACKAGE)}"
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self.unavailable_reason = f"NVML does not answer: {_line(error)}"
            return
        self._nvml = nvml
        try:
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:
            self.unavailable_reason = f"NVML does not know the GPU {uuid}: {_line(error)}"
            self.close()
            return
        self._first = set(self._processes() or {})

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Shut NVML down; every later sample is empty."""
        nvml, self._nvml, self._handle = self._nvml, None, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def sample_telemetry(self) -> GpuState:
        """Return the GPU's state. It takes about 1 ms of the host's time.

        So do not call it between two timed runs that follow at once.
        """
        if self._handle is None:
            return GpuState()
        own, others = self._processes_apart()
        sizes = None if others is None else [size for size in others.values() if size is not None]
        persistence = self._ask("nvmlDeviceGetPersistenceMode")
        return GpuState(
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", _SM),
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", _MEMORY),
            temperature_c=self._temperature(),
            power_w=_watts(self._ask("nvmlDeviceGetPowerUsage")),
            power_limit_w=_watts(self._ask("nvmlDeviceGetEnforcedPowerLimit")),
            throttle=self._throttle(),
            utilisation_percent=_gpu(self._ask("nvmlDeviceGetUtilizationRates")),
            other_processes=None if others is None else len(others),
            other_memory_mib=sum(sizes) >> 20 if sizes or (sizes is not None and not others) else None,
            own_memory_mib=None if own is None else own >> 20,
            energy_mj=self._ask("nvmlDeviceGetTotalEnergyConsumption"),
            persistence=None if persistence is None else bool(persistence),
            application_sm_mhz=self._ask("nvmlDeviceGetApplicationsClock", _SM),
            application_memory_mhz=self._ask("nvmlDeviceGetApplicationsClock", _MEMORY),
            max_sm_mhz=self._ask("nvmlDeviceGetMaxClockInfo", _SM),
            max_memory_mhz=self._ask("nvmlDeviceGetMaxClockInfo", _MEMORY),
        )

    def _ask(self, call: str, *arguments: Any) -> Any:
        """Return the result of one NVML call on the GPU; None where package, driver or GPU do not support it."""
        function: Callable[..., Any] | None = getattr(self._nvml, call, None)
        if function is None:
            return None
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def _temperature(self) -> int | None:
        """Return the GPU's temperature in degrees Celsius, or None."""
        celsius = self._ask("nvmlDeviceGetTemperatureV", _GPU_SENSOR)  # the newer name; older drivers lack it
        return self._ask("nvmlDeviceGetTemperature", _GPU_SENSOR) if celsius is None else celsius

    def _throttle(self) -> tuple[str, ...] | None:
        """Return the reasons for the current clocks, or None."""
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # drivers before 535 know the same bits by another name
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else reasons(bits)

    def _processes(self) -> dict[int, int | None] | None:
        """Return the processes on the GPU with their bytes, None where unknown; None without any list of them."""
        sizes: dict[int, int | None] = {}
        available = False
        for call in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            listed = self._ask(call)
            available = available or listed is not None
            for process in listed or []:
                sizes[process.pid] = process.usedGpuMemory
        return sizes if available else None

    def _processes_apart(self) -> tuple[int | None, dict[int, int | None] | None]:
        """Return the bytes that this process holds on the GPU, and those of the others; None for what is unknown."""
        running = self._processes()
        if running is None:
            return None, None
        number = os.getpid()
        if number not in running:
            number = next((process for process in running if process not in self._first), number)
        return running.pop(number, None), running


def reasons(bits: int) -> tuple[str, ...]:
    """Return the names of NVML's reasons for the current clocks, from its bits; unknown ones by their number."""
    known = [word for bit, word in _REASONS.items() if bits & bit]
    unknown = bits & ~sum(_REASONS)
    return (*known, f"reason {unknown:#x}") if unknown else tuple(known)


def _watts(milliwatts: int | None) -> float | None:
    """Convert milliwatts to watts; None stays None."""
    return None if milliwatts is None else milliwatts / 1000


def _gpu(rates: Any) -> int | None:
    """Return the GPU's utilisation in percent from NVML's rates, or None."""
    return None if rates is None else int(rates.gpu)


def _line(error: BaseException) -> str:
    """Return an exception's text in one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
