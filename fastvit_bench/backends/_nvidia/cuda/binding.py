"""The few calls of the CUDA runtime that running and timing a network takes, through one of two Python packages.

`Cuda` is the interface of a package; ``cuda-python`` implements all of it, ``pycuda`` all but graphs. `Context` owns
the resources created through it and releases them in reverse order, also after an error. All calls are on the thread
that opened the context, in the GPU's primary context, which TensorRT and PyTorch use as well.
"""

import contextlib
import ctypes
import importlib
import importlib.machinery
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from fastvit_bench import install
from fastvit_bench.errors import UnavailableError, UsageError

OUT_OF_MEMORY = 2  # CUDA's error code
_DRIVER_TOO_OLD = 35
_NOT_READY = 600
_CAPTURE = range(900, 909)  # everything that goes wrong around capturing a stream
_BROKEN = {700, 710, 714, 715, 716, 717, 718, 719}  # illegal addresses and the like: every later call fails too


# --- resources --------------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Memory:
    """Memory on the GPU."""

    pointer: int  # what toolkits take as an address
    size: int  # bytes
    native: Any  # the package's own object


@dataclass(eq=False, slots=True)
class Pinned:
    """Page-locked memory of the host, which the GPU copies to and from directly."""

    view: memoryview  # writable bytes; a view or an array of it keeps the memory alive
    native: Any

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.view.nbytes


@dataclass(eq=False, slots=True)
class Stream:
    """A queue of work, which runs in order."""

    handle: int  # what toolkits take: cudaStream_t as a number
    native: Any


@dataclass(eq=False, slots=True)
class Event:
    """A point in a stream whose time the GPU records, to about half a microsecond."""

    native: Any


@dataclass(eq=False, slots=True)
class Graph:
    """Recorded work, launched in one call."""

    native: Any


# --- the interface of a package ---------------------------------------------------------------------------------------


class Cuda(Protocol):
    """The calls that a CUDA package provides; sizes are in bytes.

    Each raises `UnavailableError` with one sentence where CUDA reports an error.
    """

    name: str
    graphs: bool  # whether streams can be captured

    def open(self, index: int, spin: bool) -> None:
        """Make the primary context of GPU `index` current on this thread; with `spin`, waiting spins.

        Packages that do not offer that choice ignore `spin`.
        """
        ...

    def close(self) -> None:
        """Release the context; other code in this process may still use it."""
        ...

    def allocate(self, size: int) -> Memory:
        """Allocate memory on the GPU; its content is undefined."""
        ...

    def free(self, memory: Memory) -> None:
        """Free memory on the GPU."""
        ...

    def pin(self, size: int) -> Pinned:
        """Allocate pinned memory of the host; its content is undefined."""
        ...

    def unpin(self, pinned: Pinned) -> None:
        """Free pinned memory, whose view nothing may read any more."""
        ...

    def upload(self, memory: Memory, pinned: Pinned, stream: Stream) -> None:
        """Enqueue a copy of all of `pinned` to `memory`."""
        ...

    def download(self, pinned: Pinned, memory: Memory, stream: Stream) -> None:
        """Enqueue a copy of all of `memory` to `pinned`."""
        ...

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        """Enqueue a fill of every byte of `memory` with `byte`."""
        ...

    def create_stream(self) -> Stream:
        """Create a stream that does not wait for the default one."""
        ...

    def synchronise_stream(self, stream: Stream) -> None:
        """Block until all work in the stream is done."""
        ...

    def destroy_stream(self, stream: Stream) -> None:
        """Destroy a stream."""
        ...

    def create_event(self, blocking: bool) -> Event:
        """Create an event that records the time; with `blocking`, waiting for it sleeps, otherwise it spins."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """Enqueue the event; it can be enqueued again, which discards its earlier time."""
        ...

    def synchronise_event(self, event: Event) -> None:
        """Block until the stream has reached the event's latest position."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the milliseconds between two events that have happened."""
        ...

    def destroy_event(self, event: Event) -> None:
        """Destroy an event."""
        ...

    def begin_capture(self, stream: Stream) -> None:
        """Start to record the work that this thread enqueues in the stream, instead of running it."""
        ...

    def end_capture(self, stream: Stream) -> Graph:
        """End the capture and return the recorded work, ready to launch. Ends the capture also where it fails."""
        ...

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Enqueue the recorded work."""
        ...

    def destroy_graph(self, graph: Graph) -> None:
        """Destroy a graph."""
        ...


class Context:
    """An open GPU whose resources are released, the latest first, when the ``with`` block ends.

    Where the block ends in an error, that error is raised, whatever the releases report: after a fault of the GPU every
    call fails, and only the first says why. Otherwise the first failed release is raised.
    """

    def __init__(self, cuda: Cuda, index: int = 0, *, spin: bool = True) -> None:
        self.cuda = cuda
        self.index = index
        self.spin = spin
        self._stack = contextlib.ExitStack()
        self._failures: list[UnavailableError] = []

    def __enter__(self) -> Self:
        self.cuda.open(self.index, self.spin)
        self._later(self.cuda.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if error is None and self._failures:
            raise self._failures[0]

    def memory(self, size: int) -> Memory:
        """Allocate `size` bytes on the GPU."""
        memory = self.cuda.allocate(size)
        self._later(self.cuda.free, memory)
        return memory

    def pinned(self, size: int) -> Pinned:
        """Allocate `size` bytes of pinned memory of the host."""
        pinned = self.cuda.pin(size)
        self._later(self._unpin, pinned)
        return pinned

    def stream(self) -> Stream:
        """Create a stream."""
        stream = self.cuda.create_stream()
        self._later(self.cuda.destroy_stream, stream)
        return stream

    def event(self, *, blocking: bool = False) -> Event:
        """Create an event that records the time; with `blocking`, waiting for it sleeps."""
        event = self.cuda.create_event(blocking)
        self._later(self.cuda.destroy_event, event)
        return event

    def capture(self, enqueue: Callable[[int], None], stream: Stream) -> Graph:
        """Record as a graph the work that `enqueue`, given the stream's handle, puts into it; none of it runs."""
        self.cuda.begin_capture(stream)
        try:
            enqueue(stream.handle)
        except BaseException:
            # a stream that still captures refuses all other work
            with contextlib.suppress(UnavailableError):
                self.cuda.destroy_graph(self.cuda.end_capture(stream))
            raise
        graph = self.cuda.end_capture(stream)
        self._later(self.cuda.destroy_graph, graph)
        return graph

    def _later(self, release: Callable[..., None], *resources: Any) -> None:
        """Register a release for the end of the context."""

        def attempt() -> None:
            try:
                release(*resources)
            except UnavailableError as error:  # stored, so that earlier resources are released too
                self._failures.append(error)

        self._stack.callback(attempt)

    def _unpin(self, pinned: Pinned) -> None:
        """Free pinned memory unless an array still reads it."""
        owner = weakref.ref(pinned.view.obj)
        pinned.view = memoryview(b"")
        if owner() is not None:  # better a leak than memory that is freed below an array
            return
        self.cuda.unpin(pinned)


# --- loading a package ------------------------------------------------------------------------------------------------


def load(name: str) -> Cuda:
    """Import the package of the binding called `name` (see `BINDINGS`), and return the binding.

    Raises `UsageError` for an unknown name, `UnavailableError` where the package is missing or does not load.
    """
    lacking = unavailable_reason(name)
    if lacking:
        raise UnavailableError(f"The CUDA binding {name} cannot be used: {lacking}.")
    binding = BINDINGS[name]
    try:
        module = importlib.import_module(binding.module)
    except (ImportError, OSError) as error:  # pycuda looks for the driver while it is imported
        raise UnavailableError(
            f"The CUDA binding {name} cannot be imported: {_line(error)}; {binding.remedy()}."
        ) from error
    return binding.adapter(module)


def unavailable_reason(name: str) -> str | None:
    """Return why a binding's package cannot be imported and the command that fixes it, or None. Imports nothing.

    Raises `UsageError` for an unknown name.
    """
    binding = BINDINGS.get(name)
    if binding is None:
        raise UsageError(f"There is no CUDA binding '{name}'; there are {' and '.join(BINDINGS)}.")
    return None if _importable(binding.module) else f"the package {name} is not installed; {binding.remedy()}"


def _importable(dotted: str) -> bool:
    """Return whether a module can be imported, without importing its packages.

    `importlib.util.find_spec` would import them, which takes a second.
    """
    if dotted in sys.modules:
        return True
    places: Any = None
    parts = dotted.split(".")
    for depth, part in enumerate(parts):
        spec = importlib.machinery.PathFinder.find_spec(part if depth == 0 else ".".join(parts[: depth + 1]), places)
        if spec is None:
            return False
        places = spec.submodule_search_locations
    return True


# --- errors -----------------------------------------------------------------------------------------------------------


def failure(doing: str, code: int | None, detail: str) -> UnavailableError:
    """Return the error for a call that failed while `doing` something, with CUDA's code and `detail`."""
    if code == OUT_OF_MEMORY:
        return UnavailableError(
            f"The GPU's memory ran out while {doing} ({detail}): "
            f"take a smaller batch or resolution, or end what else runs on the GPU."
        )
    if code == _DRIVER_TOO_OLD:
        return UnavailableError(
            f"The NVIDIA driver is too old for the CUDA binding ({detail} while {doing}); "
            f"install a newer driver, or an older binding: {install.packages('cuda-bindings<13')}."
        )
    if code == _NOT_READY:
        return UnavailableError(
            f"CUDA has not finished ({detail} while {doing}); wait for the run before asking its time."
        )
    if code in _CAPTURE:
        return UnavailableError(
            f"The network's work cannot be captured in a CUDA graph ({detail} while {doing}); switch the graph off."
        )
    if code in _BROKEN:
        return UnavailableError(
            f"The GPU stopped with a fault ({detail} while {doing}), and nothing more can run in this process; "
            f"start a new one, and if the fault stays, build the engine again."
        )
    return UnavailableError(f"CUDA failed while {doing}: {detail}; check nvidia-smi and the system's log.")


def _line(error: BaseException) -> str:
    """Return an exception's text in one line, without a full stop; its class where it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def mib(size: int) -> str:
    """Format a size in bytes for messages, such as ``1.5 MiB``."""
    return f"{size / 2**20:.1f} MiB"


# --- cuda-python ------------------------------------------------------------------------------------------------------


class CudaPython:
    """NVIDIA's own package, its module ``cuda.bindings.runtime``: each call returns a tuple that begins with a code."""

    name = "cuda-python"
    graphs = True

    def __init__(self, runtime: Any) -> None:
        self._rt = runtime
        kinds, modes = runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode
        self._up, self._down = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self._mode = modes.cudaStreamCaptureModeThreadLocal  # what other threads do does not end the capture

    def open(self, index: int, spin: bool) -> None:
        rt = self._rt
        self._done(rt.cudaSetDevice(index), f"opening GPU {index}")
        flags = rt.cudaDeviceScheduleSpin if spin else rt.cudaDeviceScheduleBlockingSync
        self._done(rt.cudaSetDeviceFlags(flags), "choosing how to wait")

    def close(self) -> None:
        """Do nothing: the runtime keeps the primary context, and a reset would take it from all other users."""

    def allocate(self, size: int) -> Memory:
        pointer = self._done(self._rt.cudaMalloc(size), f"allocating {mib(size)} of GPU memory")
        return Memory(pointer=int(pointer), size=size, native=pointer)

    def free(self, memory: Memory) -> None:
        self._done(self._rt.cudaFree(memory.native), "freeing GPU memory")

    def pin(self, size: int) -> Pinned:
        doing = f"pinning {mib(size)} of the host's memory"
        pointer = self._done(self._rt.cudaHostAlloc(size, self._rt.cudaHostAllocDefault), doing)
        memory = (ctypes.c_ubyte * size).from_address(int(pointer))
        return Pinned(view=memoryview(memory).cast("B"), native=pointer)

    def unpin(self, pinned: Pinned) -> None:
        self._done(self._rt.cudaFreeHost(pinned.native), "freeing pinned memory")

    def upload(self, memory: Memory, pinned: Pinned, stream: Stream) -> None:
        self._copy(memory.native, pinned.native, same_size(memory, pinned), self._up, stream)

    def download(self, pinned: Pinned, memory: Memory, stream: Stream) -> None:
        self._copy(pinned.native, memory.native, same_size(memory, pinned), self._down, stream)

    def _copy(self, target: Any, source: Any, size: int, kind: Any, stream: Stream) -> None:
        self._done(self._rt.cudaMemcpyAsync(target, source, size, kind, stream.native), "copying")

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        self._done(self._rt.cudaMemsetAsync(memory.native, byte, memory.size, stream.native), "filling GPU memory")

    def create_stream(self) -> Stream:
        flags = self._rt.cudaStreamNonBlocking
        stream = self._done(self._rt.cudaStreamCreateWithFlags(flags), "creating a stream")
        return Stream(handle=int(stream), native=stream)

    def synchronise_stream(self, stream: Stream) -> None:
        self._done(self._rt.cudaStreamSynchronize(stream.native), "running the network")

    def destroy_stream(self, stream: Stream) -> None:
        self._done(self._rt.cudaStreamDestroy(stream.native), "destroying a stream")

    def create_event(self, blocking: bool) -> Event:
        flags = self._rt.cudaEventBlockingSync if blocking else self._rt.cudaEventDefault
        return Event(native=self._done(self._rt.cudaEventCreateWithFlags(flags), "creating an event"))

    def record(self, event: Event, stream: Stream) -> None:
        self._done(self._rt.cudaEventRecord(event.native, stream.native), "recording an event")

    def synchronise_event(self, event: Event) -> None:
        self._done(self._rt.cudaEventSynchronize(event.native), "running the network")

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(self._done(self._rt.cudaEventElapsedTime(start.native, end.native), "reading the time"))

    def destroy_event(self, event: Event) -> None:
        self._done(self._rt.cudaEventDestroy(event.native), "destroying an event")

    def begin_capture(self, stream: Stream) -> None:
        self._done(self._rt.cudaStreamBeginCapture(stream.native, self._mode), "beginning the capture")

    def end_capture(self, stream: Stream) -> Graph:
        recorded = self._done(self._rt.cudaStreamEndCapture(stream.native), "ending the capture")
        try:
            return Graph(native=self._done(self._rt.cudaGraphInstantiate(recorded, 0), "making the graph ready"))
        finally:  # the launchable graph is a copy
            self._done(self._rt.cudaGraphDestroy(recorded), "destroying a graph")

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._done(self._rt.cudaGraphLaunch(graph.native, stream.native), "launching the graph")

    def destroy_graph(self, graph: Graph) -> None:
        self._done(self._rt.cudaGraphExecDestroy(graph.native), "destroying a graph")

    def _done(self, returned: Any, doing: str) -> Any:
        """Return the call's result, None where it has none. Raises `UnavailableError` for an error code."""
        code = returned[0]
        if code != 0:
            raise failure(doing, int(code), self._error_text(code))
        return returned[1] if len(returned) > 1 else None

    def _error_text(self, code: Any) -> str:
        """Return an error's name, code and text, such as ``cudaErrorMemoryAllocation 2, out of memory``."""
        name, text = (ask(code)[1] for ask in (self._rt.cudaGetErrorName, self._rt.cudaGetErrorString))
        return f"{_text(name)} {int(code)}, {_text(text)}"


def _text(value: Any) -> str:
    """Return bytes or any value as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def same_size(memory: Memory, pinned: Pinned) -> int:
    """Return the size of both in bytes. Raises `ValueError` where the two differ."""
    if memory.size != pinned.size:
        raise ValueError(f"{pinned.size} bytes of the host do not match {memory.size} bytes of the GPU")
    return memory.size


# --- pycuda -----------------------------------------------------------------------------------------------------------


class PyCuda:
    """The package pycuda, its module ``pycuda.driver``: each call raises; streams and events end with their objects."""

    name = "pycuda"
    graphs = False

    def __init__(self, driver: Any) -> None:
        self._drv = driver
        self._context: Any = None

    def open(self, index: int, spin: bool) -> None:
        """Make the primary context of GPU `index` current; `spin` is ignored, because the events decide how to wait."""
        with self._doing(f"opening GPU {index}"):
            self._drv.init()
            # not one of pycuda's own contexts, in which pointers and streams of other packages are invalid
            self._context = self._drv.Device(index).retain_primary_context()
            self._context.push()

    def close(self) -> None:
        with self._doing("closing the GPU"):
            self._context.pop()
        self._context = None  # releases it

    def allocate(self, size: int) -> Memory:
        with self._doing(f"allocating {mib(size)} of GPU memory"):
            native = self._drv.mem_alloc(size)
        return Memory(pointer=int(native), size=size, native=native)

    def free(self, memory: Memory) -> None:
        with self._doing("freeing GPU memory"):
            memory.native.free()

    def pin(self, size: int) -> Pinned:
        with self._doing(f"pinning {mib(size)} of the host's memory"):
            array = self._drv.pagelocked_empty(size, "uint8")
        return Pinned(view=memoryview(array).cast("B"), native=array.base)

    def unpin(self, pinned: Pinned) -> None:
        with self._doing("freeing pinned memory"):
            pinned.native.free()

    def upload(self, memory: Memory, pinned: Pinned, stream: Stream) -> None:
        same_size(memory, pinned)
        with self._doing("copying"):
            self._drv.memcpy_htod_async(memory.pointer, pinned.view, stream.native)

    def download(self, pinned: Pinned, memory: Memory, stream: Stream) -> None:
        same_size(memory, pinned)
        with self._doing("copying"):
            self._drv.memcpy_dtoh_async(pinned.view, memory.pointer, stream.native)

    def fill(self, memory: Memory, byte: int, stream: Stream) -> None:
        with self._doing("filling GPU memory"):
            self._drv.memset_d8_async(memory.pointer, byte, memory.size, stream.native)

    def create_stream(self) -> Stream:
        with self._doing("creating a stream"):
            native = self._drv.Stream(1)  # CU_STREAM_NON_BLOCKING, for which pycuda has no name
        return Stream(handle=int(native.handle), native=native)

    def synchronise_stream(self, stream: Stream) -> None:
        with self._doing("running the network"):
            stream.native.synchronize()

    def destroy_stream(self, stream: Stream) -> None:
        stream.native = None

    def create_event(self, blocking: bool) -> Event:
        flags = self._drv.event_flags
        with self._doing("creating an event"):
            return Event(native=self._drv.Event(flags.BLOCKING_SYNC if blocking else flags.DEFAULT))

    def record(self, event: Event, stream: Stream) -> None:
        with self._doing("recording an event"):
            event.native.record(stream.native)

    def synchronise_event(self, event: Event) -> None:
        with self._doing("running the network"):
            event.native.synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        with self._doing("reading the time"):
            return float(start.native.time_till(end.native))

    def destroy_event(self, event: Event) -> None:
        event.native = None

    def begin_capture(self, stream: Stream) -> None:
        raise UnavailableError("pycuda knows no CUDA graphs; switch the graph off, or choose the binding cuda-python.")

    def end_capture(self, stream: Stream) -> Graph:
        raise UnavailableError("pycuda knows no CUDA graphs; choose the binding cuda-python.")

    def launch(self, graph: Graph, stream: Stream) -> None:
        raise UnavailableError("pycuda knows no CUDA graphs; choose the binding cuda-python.")

    def destroy_graph(self, graph: Graph) -> None:
        """Do nothing: pycuda creates no graphs."""

    def _doing(self, doing: str) -> "_Translated":
        """Return a ``with`` block that translates pycuda's exceptions."""
        return _Translated(self._drv, doing)


class _Translated:
    """A ``with`` block that raises pycuda's exceptions as `UnavailableError`.

    It is a class, because a generator would cost more between two events.
    """

    __slots__ = ("_doing", "_drv")

    def __init__(self, driver: Any, doing: str) -> None:
        self._drv, self._doing = driver, doing

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, self._drv.Error):
            return
        code = OUT_OF_MEMORY if isinstance(error, self._drv.MemoryError) else None
        raise failure(self._doing, code, _line(error)) from error


@dataclass(frozen=True)
class _Binding:
    """The package of a binding, and the class that adapts its module."""

    module: str
    distribution: str  # provides the module; its version is recorded
    remedy: Callable[[], str]
    adapter: Callable[[Any], Cuda]
    graphs: bool


BINDINGS = {
    "cuda-python": _Binding(
        "cuda.bindings.runtime",
        "cuda-bindings",
        lambda: f"run: {install.packages('cuda-python', 'nvidia-ml-py')}",
        CudaPython,
        graphs=True,
    ),
    "pycuda": _Binding(
        "pycuda.driver",
        "pycuda",
        lambda: f"run: {install.extra('pycuda')}, which compiles it and takes the CUDA toolkit and a driver",
        PyCuda,
        graphs=False,
    ),
}
DEFAULT = "cuda-python"
