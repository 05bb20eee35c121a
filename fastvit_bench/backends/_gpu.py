"""What backends on NVIDIA GPUs share: which card a device means, how runs are started and timed, and who looks on.

Timing is by CUDA events, between which lies what the device's options say; NVML is asked between runs.
"""

import contextlib
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fastvit_bench import cuda
from fastvit_bench.backends import INPUT, Hardware, Session
from fastvit_bench.cuda import binding
from fastvit_bench.cuda.monitor import Monitor
from fastvit_bench.cuda.timing import EventSession, EventTimer, Mode
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Card, Device, GpuState
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
    """The distribution of the binding that makes CUDA's calls for `device`; none for a name that is no binding's."""
    found = binding.BINDINGS.get(str(device.options.get("cuda_binding", binding.DEFAULT)))
    return (found.distribution,) if found else ()


def only_known(device: Device, known: Collection[str]) -> None:
    """Raise `UsageError` for an option of `device` that its backend does not have."""
    unknown = device.options.keys() - set(known)
    if unknown:
        raise UsageError(
            f"Device '{device.name}' has an unknown option '{min(unknown)}'. Known: {', '.join(sorted(known))}."
        )


def options(device: Device, *, graphs: bool = True) -> Options:
    """The options that every GPU has, filled in; `graphs` says whether the toolkit's work can be captured at all.

    ``gpu`` is a number, -1 for the first that fits; ``compute_capability`` is what it must be, "" for any. ``graph``
    (replay a CUDA graph; by default where the binding can), ``transfers`` (copy input and outputs in each run; False),
    ``sync`` (how the host waits: spin or block) and ``cuda_binding`` decide what a figure means. Raises `UsageError`.
    """
    found: Options = {}
    gpu = device.options.get("gpu", -1)
    if not isinstance(gpu, int) or isinstance(gpu, bool) or not GPUS[0] <= gpu <= GPUS[1]:
        raise UsageError(f"Device '{device.name}': gpu = {gpu!r} must be a whole number from {GPUS[0]} to {GPUS[1]}.")
    found["gpu"] = gpu
    found["compute_capability"] = capability(device, device.options.get("compute_capability", ""))
    for name, known in CHOICES.items():
        value = device.options.get(name, known[0])
        if value not in known:
            raise UsageError(f"Device '{device.name}': {name} = {value!r} must be {' or '.join(known)}.")
        found[name] = value
    able = graphs and binding.BINDINGS[str(found["cuda_binding"])].graphs
    for name, default in (("graph", able), ("transfers", False)):
        value = device.options.get(name, default)
        if not isinstance(value, bool):
            raise UsageError(f"Device '{device.name}': {name} = {value!r} must be true or false.")
        found[name] = value
    if found["graph"] and not able:
        raise UsageError(
            f"Device '{device.name}': graph = true, and the CUDA binding {found['cuda_binding']} knows no CUDA graphs; "
            f"say --no-graph, or take cuda-python."
        )
    return found


def capability(device: Device, value: object) -> str:
    """A compute capability as it must be written, such as ``7.5``, or "" for any. Raises `UsageError`."""
    digits = value.split(".") if isinstance(value, str) else []
    if value != "" and (len(digits) != 2 or not all(part.isascii() and part.isdecimal() for part in digits)):
        raise UsageError(f"Device '{device.name}': compute_capability = {value!r} must be a text such as \"7.5\".")
    return str(value)


# --- which GPU --------------------------------------------------------------------------------------------------------


def gpu(device: Device) -> tuple[cuda.Gpu, Card]:
    """The GPU a device means, and its record, asked of the driver.

    `UnavailableError` without a driver, `MismatchError` without such a GPU. Some toolkits end the process where there
    is no driver, so nothing of them is touched before this has returned.
    """
    driver = cuda.probe()
    chosen = cuda.choose(device, driver.gpus)
    return chosen, Card(
        compute_capability=chosen.compute_capability,
        name=chosen.name,
        uuid=chosen.uuid,
        memory_mib=chosen.memory_mib,
        driver=driver.version,
    )


def identify(device: Device) -> Hardware:
    """The GPU a device means, as hardware."""
    _, card = gpu(device)
    return Hardware(card.name, card.driver, card.compute_capability)


# --- running on it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """An opened GPU, and how runs on it are made."""

    context: binding.Context
    mode: Mode
    monitor: Monitor


@contextmanager
def running(device: Device, calls: binding.Cuda | None = None) -> Generator[Running]:
    """Open the GPU of a device whose options are filled in, through its binding or a toolkit's own `calls`."""
    chosen, _ = gpu(device)
    told = device.options
    mode = Mode(graph=bool(told["graph"]), transfers=bool(told["transfers"]), sync=cast(Any, told["sync"]))
    with contextlib.ExitStack() as stack:
        monitor = stack.enter_context(Monitor(chosen.uuid))  # before this process shows up on the GPU itself
        calls = calls or binding.load(str(told["cuda_binding"]))
        context = stack.enter_context(binding.Context(calls, chosen.index, spin=mode.sync == "spin"))
        yield Running(context, mode, monitor)


class GpuSession(Session):
    """Runs of an `EventTimer`; feeding and fetching are the toolkit's."""

    def __init__(self, timer: EventTimer, monitor: Monitor) -> None:
        self.timer = timer
        self.window = timer.window
        self.clock = timer.clock
        self._monitor = monitor
        self.run, self.wait, self.elapsed_ns = timer.run, timer.wait, timer.elapsed_ns  # no call in between

    def run(self) -> None:
        """Put one run into the stream."""

    def wait(self) -> None:
        """Return when it is finished."""

    def look(self) -> GpuState | None:
        """What NVML says, or None where it says nothing."""
        return None if self._monitor.missing else self._monitor.look()


class BufferedSession(GpuSession):
    """Runs between buffers of fixed types and shapes; batches are cast to the input's type on the way there."""

    def __init__(
        self, timer: EventSession, monitor: Monitor, types: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """`types` are NumPy's, by the names of the input and the outputs, as are `shapes`."""
        super().__init__(timer, monitor)
        self._buffers, self._types, self._shapes = timer, types, shapes

    def feed(self, images: "Batch") -> None:
        """Copy a batch to the GPU, in the input's type."""
        import numpy as np

        if images.shape != self._shapes[INPUT]:
            raise UsageError(f"The file takes {INPUT} {list(self._shapes[INPUT])}, not {list(images.shape)}.")
        self._buffers.feed({INPUT: np.ascontiguousarray(images, self._types[INPUT])})

    def fetch(self) -> "dict[str, NDArray[np.floating]]":
        """Copies of the outputs."""
        import numpy as np

        found = self._buffers.fetch()
        return {name: np.frombuffer(found[name], self._types[name]).reshape(self._shapes[name]) for name in found}


def medians(passes: list[Mapping[str, float]]) -> dict[str, int]:
    """Layer -> the median of its milliseconds over passes, in nanoseconds, in the order of the first pass."""
    return {name: round(1e6 * median(times[name] for times in passes if name in times)) for name in passes[0]}
