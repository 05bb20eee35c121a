"""Stand-ins for ``cuda.bindings.runtime``, ``pycuda.driver`` and ``pynvml`` on one imaginary GPU.

Work put into a stream is done at once, unless the stream is being captured; time passes only where a test says so.
Every call can be made to fail with one of CUDA's codes, and what is made and never given back can be asked for.
"""

import atexit
import ctypes
import gc
import itertools
from collections.abc import Callable
from enum import IntEnum, IntFlag
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest


class Gpu:
    """Memory, time, and a log of the calls."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.calls: list[str] = []
        self.fails: dict[str, int] = {}  # call -> CUDA's code
        self.alive: dict[int, str] = {}  # handle -> what it is
        self.memory: dict[int, bytearray] = {}
        self.hosts: dict[int, Any] = {}
        self.events: dict[int, float] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.flags: list[tuple[str, int]] = []
        self.limit = 2**40  # bytes of memory
        self.full: Path | None = None  # there while a process of this machine holds all it could get
        self._handles = itertools.count(0x1000)

    def made(self, what: str) -> int:
        handle = next(self._handles)
        self.alive[handle] = what
        return handle

    def exhausted(self) -> None:
        """Tell other processes, until this one ends, that there is no memory left."""
        if self.full is not None:
            self.full.touch()
            atexit.register(self.full.unlink, missing_ok=True)

    def gone(self, handle: int) -> None:
        del self.alive[handle]  # KeyError: given back twice

    def put(self, work: Callable[[], None]) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def compute(self, ms: float) -> None:
        """What an engine does: so many milliseconds of the GPU's time."""

        def work() -> None:
            self.now_ms += ms

        self.put(work)


class Code(IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNotReady = 600  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815
    cudaErrorUnknown = 999  # noqa: N815


class Kind(IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


class CaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1  # noqa: N815


class Handle:
    """Handles of the real package are objects with a number inside; plain numbers would hide a missing int()."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


class Runtime:
    """The calls of ``cuda.bindings.runtime`` that are used, with the real names of the parameters."""

    cudaMemcpyKind = Kind  # noqa: N815
    cudaStreamCaptureMode = CaptureMode  # noqa: N815
    cudaDeviceScheduleSpin, cudaDeviceScheduleBlockingSync = 1, 4  # noqa: N815
    cudaEventDefault, cudaEventBlockingSync = 0, 1  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found
        gpu: Gpu = object.__getattribute__(self, "gpu")

        def call(*arguments: Any) -> tuple[Any, ...]:
            if name not in {"cudaGetErrorName", "cudaGetErrorString"}:
                gpu.calls.append(name)
            code = gpu.fails.get(name, 0)
            if name == "cudaMalloc" and arguments[0] > gpu.limit:
                gpu.exhausted()
                code = 2
            if code:
                return (Code(code), None)
            result = found(*arguments)
            return (Code.cudaSuccess,) if result is None else (Code.cudaSuccess, result)

        return call

    def cudaGetErrorName(self, error: Code) -> bytes:  # noqa: N802
        return error.name.encode()

    def cudaGetErrorString(self, error: Code) -> bytes:  # noqa: N802
        return f"the words for {int(error)}".encode()

    def cudaSetDevice(self, device: int) -> None:  # noqa: N802
        self.gpu.flags.append(("device", device))

    def cudaSetDeviceFlags(self, flags: int) -> None:  # noqa: N802
        self.gpu.flags.append(("flags", flags))

    def cudaMalloc(self, size: int) -> int:  # noqa: N802
        pointer = self.gpu.made("memory")
        self.gpu.memory[pointer] = bytearray(size)
        return pointer

    def cudaFree(self, devPtr: int) -> None:  # noqa: N802, N803
        self.gpu.gone(devPtr)
        del self.gpu.memory[devPtr]

    def cudaHostAlloc(self, size: int, flags: int) -> int:  # noqa: N802
        memory = ctypes.create_string_buffer(size)
        pointer = ctypes.addressof(memory)
        self.gpu.hosts[pointer] = memory
        self.gpu.alive[pointer] = "pinned"
        return pointer

    def cudaFreeHost(self, ptr: int) -> None:  # noqa: N802
        self.gpu.gone(ptr)
        del self.gpu.hosts[ptr]

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Kind, stream: Handle) -> None:  # noqa: N802
        def work() -> None:
            self.gpu.now_ms += 0.25
            if kind is Kind.cudaMemcpyHostToDevice:
                self.gpu.memory[dst][:count] = ctypes.string_at(src, count)
            else:
                ctypes.memmove(dst, bytes(self.gpu.memory[src][:count]), count)

        self.gpu.put(work)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Handle) -> None:  # noqa: N802, N803
        self.gpu.memory[devPtr][:count] = bytes([value]) * count

    def cudaStreamCreateWithFlags(self, flags: int) -> Handle:  # noqa: N802
        self.gpu.flags.append(("stream", flags))
        return Handle(self.gpu.made("stream"))

    def cudaStreamSynchronize(self, stream: Handle) -> None:  # noqa: N802
        assert self.gpu.captured is None, "a stream that is being captured cannot be waited for"

    def cudaStreamDestroy(self, stream: Handle) -> None:  # noqa: N802
        self.gpu.gone(int(stream))

    def cudaEventCreateWithFlags(self, flags: int) -> Handle:  # noqa: N802
        self.gpu.flags.append(("event", flags))
        return Handle(self.gpu.made("event"))

    def cudaEventRecord(self, event: Handle, stream: Handle) -> None:  # noqa: N802
        self.gpu.events[int(event)] = self.gpu.now_ms

    def cudaEventSynchronize(self, event: Handle) -> None:  # noqa: N802
        assert int(event) in self.gpu.events

    def cudaEventElapsedTime(self, start: Handle, end: Handle) -> float:  # noqa: N802
        return self.gpu.events[int(end)] - self.gpu.events[int(start)]

    def cudaEventDestroy(self, event: Handle) -> None:  # noqa: N802
        self.gpu.gone(int(event))

    def cudaStreamBeginCapture(self, stream: Handle, mode: CaptureMode) -> None:  # noqa: N802
        assert mode is CaptureMode.cudaStreamCaptureModeThreadLocal
        self.gpu.captured = []

    def cudaStreamEndCapture(self, stream: Handle) -> Handle:  # noqa: N802
        recorded, self.gpu.captured = self.gpu.captured, None
        assert recorded is not None
        graph = Handle(self.gpu.made("graph"))
        self.gpu.graphs[int(graph)] = recorded
        return graph

    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> Handle:  # noqa: N802
        ready = Handle(self.gpu.made("launchable graph"))
        self.gpu.graphs[int(ready)] = list(self.gpu.graphs[int(graph)])
        return ready

    def cudaGraphLaunch(self, graphExec: Handle, stream: Handle) -> None:  # noqa: N802, N803
        for work in self.gpu.graphs[int(graphExec)]:
            work()

    def cudaGraphExecDestroy(self, graphExec: Handle) -> None:  # noqa: N802, N803
        self.gpu.gone(int(graphExec))

    def cudaGraphDestroy(self, graph: Handle) -> None:  # noqa: N802
        self.gpu.gone(int(graph))


class _Host(bytearray):
    """What a pagelocked array of pycuda has as its base."""

    gpu: Gpu
    number: int

    def free(self) -> None:
        self.gpu.calls.append("HostAllocation.free")
        self.gpu.gone(self.number)


class _Array(np.ndarray):  # type: ignore[type-arg]
    """An array whose base is a `_Host`; numpy's own would be a memoryview of it."""

    host: _Host

    @property
    def base(self) -> Any:
        return self.host


def pycuda_driver(gpu: Gpu) -> ModuleType:
    """A module with the names of ``pycuda.driver`` that are used."""
    driver = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError(Error):  # noqa: A001
        pass

    class LogicError(Error):
        pass

    def call(name: str) -> None:
        gpu.calls.append(name)
        code = gpu.fails.get(name)
        if code == 2:
            raise MemoryError(f"{name} failed: out of memory")
        if code:
            raise LogicError(f"{name} failed: reason {code}")

    class Allocation:
        def __init__(self, size: int) -> None:
            self.pointer = gpu.made("memory")
            gpu.memory[self.pointer] = bytearray(size)

        def __int__(self) -> int:
            return self.pointer

        def free(self) -> None:
            call("DeviceAllocation.free")
            gpu.gone(self.pointer)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            self.handle = 0
            call("Stream")
            gpu.flags.append(("stream", flags))
            self.handle = gpu.made("stream")

        def __del__(self) -> None:
            if self.handle:
                gpu.gone(self.handle)

        def synchronize(self) -> None:
            call("Stream.synchronize")

    class Event:
        def __init__(self, flags: int = 0) -> None:
            gpu.flags.append(("event", flags))
            self.number = gpu.made("event")
            self.at = -1.0

        def __del__(self) -> None:
            gpu.gone(self.number)

        def record(self, stream: Stream) -> None:
            assert isinstance(stream, Stream)
            self.at = gpu.now_ms

        def synchronize(self) -> None:
            call("Event.synchronize")

        def time_till(self, end: "Event") -> float:
            return end.at - self.at

    class Context:
        def __init__(self) -> None:
            self.number = gpu.made("context")

        def push(self) -> None:
            call("Context.push")

        def pop(self) -> None:
            call("Context.pop")

        def __del__(self) -> None:
            gpu.gone(self.number)

    class Device:
        def __init__(self, index: int) -> None:
            call("Device")
            gpu.flags.append(("device", index))

        def retain_primary_context(self) -> Context:
            return Context()

    def mem_alloc(size: int) -> Allocation:
        call("mem_alloc")
        return Allocation(size)

    def pagelocked_empty(shape: int, dtype: str) -> Any:
        call("pagelocked_empty")
        host = _Host(shape)
        host.gpu, host.number = gpu, gpu.made("pinned")
        array = np.frombuffer(host, dtype).view(_Array)
        array.host = host
        return array

    def memcpy_htod_async(dest: int, src: Any, stream: Stream) -> None:
        gpu.memory[dest][:] = bytes(src)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream) -> None:
        memoryview(dest)[:] = gpu.memory[src]

    def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
        gpu.memory[dest][:size] = bytes([data]) * size

    driver.__dict__.update(
        Error=Error,
        MemoryError=MemoryError,
        LogicError=LogicError,
        Stream=Stream,
        Event=Event,
        Device=Device,
        init=lambda: call("init"),
        event_flags=IntFlag("event_flags", {"DEFAULT": 0, "BLOCKING_SYNC": 1}),
        mem_alloc=mem_alloc,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
        memset_d8_async=memset_d8_async,
    )
    return driver


def install_cuda_python(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    """Make ``import cuda.bindings.runtime`` give the stand-in."""
    import sys

    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    for name, module in (("cuda", cuda), ("cuda.bindings", bindings), ("cuda.bindings.runtime", Runtime(gpu))):
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]


def install_pycuda(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    """Make ``import pycuda.driver`` give the stand-in."""
    import sys

    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_driver(gpu))


def pynvml(readings: dict[str, Any]) -> ModuleType:
    """A module with the names of ``pynvml``: a reading is a value, a function of the arguments, or an exception.

    A call without a reading does not exist, as in an older package.
    """
    module = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    log: list[str] = []

    def answer(name: str, reading: Any) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            log.append(name)
            value = reading(*arguments) if callable(reading) else reading
            if isinstance(value, str) and value.startswith("!"):
                raise NVMLError(value[1:])
            return value

        return call

    def handle_of(uuid: str) -> str:
        return f"handle of {uuid}"

    usual = {"nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetHandleByUUID": handle_of}
    module.__dict__.update({name: answer(name, reading) for name, reading in {**usual, **readings}.items()})
    module.__dict__.update(NVMLError=NVMLError, log=log)
    return module


def process(pid: int, mib: int | None) -> SimpleNamespace:
    """An entry of NVML's lists of processes."""
    return SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib << 20)


def given_back(gpu: Gpu) -> bool:
    """Whether nothing of the GPU is held any more; exceptions hold what they passed until they are collected."""
    if gpu.alive:
        gc.collect()
    return not gpu.alive
