"""The shared parts of backends on NVIDIA GPUs: the choice of the card, the sessions and their options, and NVML.

Timing is by CUDA events; the device's options decide what lies between them. NVML is queried between runs.
"""

import contextlib
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fastvit_bench.backends import INPUT, Hardware, Images, Session
from fastvit_bench.backends._nvidia import cuda
from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.backends._nvidia.cuda.monitor import Monitor
from fastvit_bench.backends._nvidia.cuda.timing import EventSession, EventTimer, Mode
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Device, GpuIdentity, GpuState
from fastvit_bench.stats.intervals import median

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvit_bench.backends import Batch

Options = dict[str, str | int | float | bool]

# A GPU raises its clocks under load and loads kernels when they are first used: it is warmed up for 200 ms and until
# the medians of 20 runs and of the 20 before differ by less than 1 %.
SETTLING = {"warmup": 20, "warmup_ms": 200, "steady": 0.01}

GPUS = (-1, 63)  # numbers of GPUs; -1 is the first that fits the device
CHOICES: dict[str, tuple[str, ...]] = {"sync": ("spin", "block"), "cuda_binding": tuple(binding.BINDINGS)}
NAMES = frozenset({"gpu", "compute_capability", "graph", "transfers", *CHOICES})  # of the options read here


def binding_packages(device: Device) -> tuple[str, ...]:
    """Return the distribution of the binding that makes CUDA's calls for `device`; empty for an unknown binding."""
    chosen = binding.BINDINGS.get(str(device.options.get("cuda_binding", binding.DEFAULT)))
    return (chosen.distribution,) if chosen else ()


def only_known(device: Device, known: Collection[str]) -> None:
    """Raise `UsageError` for an option of `device` that its backend does not have."""
    unknown = device.options.keys() - set(known)
    if unknown:
        raise UsageError(
            f"Device '{device.name}' has an unknown option '{min(unknown)}'. Known: {', '.join(sorted(known))}."
        )


def options(device: Device, *, graphs: bool = True) -> Options:
    """Return the options of every GPU, filled in; `graphs` says whether the toolkit's work can be captured at all.

    ``gpu`` is a number, -1 for the first that fits; ``compute_capability`` is what it must be, "" for any. ``graph``
    (replay a CUDA graph; by default where the binding can), ``transfers`` (copy input and outputs in each run; False),
    ``sync`` (how the host waits: spin or block) and ``cuda_binding`` decide what a figure means. Raises `UsageError`
    for wrong values.
    """
    filled: Options = {}
    gpu = device.options.get("gpu", -1)
    if not isinstance(gpu, int) or isinstance(gpu, bool) or not GPUS[0] <= gpu <= GPUS[1]:
        raise UsageError(f"Device '{device.name}': gpu = {gpu!r} must be a whole number from {GPUS[0]} to {GPUS[1]}.")
    filled["gpu"] = gpu
    filled["compute_capability"] = capability(device, device.options.get("compute_capability", ""))
    for name, known in CHOICES.items():
        value = device.options.get(name, known[0])
        if value not in known:
            raise UsageError(f"Device '{device.name}': {name} = {value!r} must be {' or '.join(known)}.")
        filled[name] = value
    able = graphs and binding.BINDINGS[str(filled["cuda_binding"])].graphs
    for name, default in (("graph", able), ("transfers", False)):
        value = device.options.get(name, default)
        if not isinstance(value, bool):
            raise UsageError(f"Device '{device.name}': {name} = {value!r} must be true or false.")
        filled[name] = value
    if filled["graph"] and not able:
        raise UsageError(
            f"Device '{device.name}': graph = true, and the CUDA binding {filled['cuda_binding']} knows no CUDA "
            f"graphs; say --no-graph, or take cuda-python."
        )
    return filled


def capability(device: Device, value: object) -> str:
    """Check a compute capability, such as ``7.5``, or "" for any, and return it. Raises `UsageError` for others."""
    digits = value.split(".") if isinstance(value, str) else []
    if value != "" and (len(digits) != 2 or not all(part.isascii() and part.isdecimal() for part in digits)):
        raise UsageError(f"Device '{device.name}': compute_capability = {value!r} must be a text such as \"7.5\".")
    return str(value)


# --- which GPU --------------------------------------------------------------------------------------------------------


def gpu(device: Device) -> tuple[cuda.Gpu, GpuIdentity]:
    """Return the GPU a device means, and its record, as the driver reports them.

    Raises `UnavailableError` without a driver, and `MismatchError` without such a GPU. Some toolkits end the process
    where there is no driver, so they are not used before this has returned.
    """
    driver = cuda.probe()
    chosen = cuda.choose(device, driver.gpus)
    return chosen, GpuIdentity(
        compute_capability=chosen.compute_capability,
        name=chosen.name,
        uuid=chosen.uuid,
        memory_mib=chosen.memory_mib,
        driver=driver.version,
    )


def detect_hardware(device: Device) -> Hardware:
    """Return the GPU a device means, as `Hardware`."""
    _, card = gpu(device)
    return Hardware(card.name, card.driver, card.compute_capability)


# --- running on it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """An opened GPU, the mode of its runs, and its monitor."""

    context: binding.Context
    mode: Mode
    monitor: Monitor


@contextmanager
def running(device: Device, calls: binding.Cuda | None = None) -> Generator[Running]:
    """Open the GPU of a device whose options are filled in, through its binding or a toolkit's own `calls`."""
    chosen, _ = gpu(device)
    settings = device.options
    mode = Mode(graph=bool(settings["graph"]), transfers=bool(settings["transfers"]), sync=cast(Any, settings["sync"]))
    with contextlib.ExitStack() as stack:
        monitor = stack.enter_context(Monitor(chosen.uuid))  # before this process shows up on the GPU itself
        calls = calls or binding.load(str(settings["cuda_binding"]))
        context = stack.enter_context(binding.Context(calls, chosen.index, spin=mode.sync == "spin"))
        yield Running(context, mode, monitor)


class GpuSession(Session):
    """Runs of an `EventTimer`; the toolkit moves input and outputs."""

    def __init__(self, timer: EventTimer, monitor: Monitor) -> None:
        self.timer = timer
        self.window = timer.window
        self.clock = timer.clock
        self._monitor = monitor
        self.run, self.wait, self.elapsed_ns = timer.run, timer.wait, timer.elapsed_ns  # no call in between

    def run(self) -> None:
        """Put one run into the stream."""

    def wait(self) -> None:
        """Block until the run is finished."""

    def sample_telemetry(self) -> GpuState | None:
        """Return the GPU's state by NVML, or None where NVML cannot be read."""
        return None if self._monitor.unavailable_reason else self._monitor.sample_telemetry()


class BufferedSession(GpuSession):
    """Runs between buffers of fixed types and shapes; batches are cast to the input's type before they are copied."""

    def __init__(
        self, timer: EventSession, monitor: Monitor, types: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """`types` are NumPy's, by the names of the input and the outputs, as are `shapes`."""
        super().__init__(timer, monitor)
        self._buffers, self._types, self._shapes = timer, types, shapes
        self.images = Images.PIXELS if takes_pixels(types) else Images.TENSOR

    def set_input(self, images: "Batch") -> None:
        """Copy a batch to the GPU, in the input's type."""
        import numpy as np

        if images.shape != self._shapes[INPUT]:
            raise UsageError(f"The file takes {INPUT} {list(self._shapes[INPUT])}, not {list(images.shape)}.")
        self._buffers.set_input({INPUT: np.ascontiguousarray(images, self._types[INPUT])})

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return copies of the outputs, by name."""
        import numpy as np

        contents = self._buffers.get_output()
        return {
            name: np.frombuffer(content, self._types[name]).reshape(self._shapes[name])
            for name, content in contents.items()
        }


def takes_pixels(types: Mapping[str, Any]) -> bool:
    """Return whether a file takes 8-bit pixels (N, H, W, 3); `types` are NumPy's, by name."""
    return types[INPUT]().itemsize == 1


def medians(passes: list[Mapping[str, float]]) -> dict[str, int]:
    """Return each layer's median time in nanoseconds over passes in milliseconds, in the order of the first pass."""
    return {name: round(1e6 * median(times[name] for times in passes if name in times)) for name in passes[0]}
