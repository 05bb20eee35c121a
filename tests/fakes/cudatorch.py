"""A stand-in for ``torch.cuda`` on the imaginary GPU; apart from `cudagpu`, because torch imports the CUDA binding."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import (
    _disable_current_modes as without_modes,  # pyright: ignore[reportPrivateUsage] - torch has no public name for it
)

from fakes.cudagpu import Gpu


class Operators(TorchDispatchMode):
    """While it is active, each of PyTorch's operators is work on the imaginary GPU, an eighth of a millisecond long.

    What is captured is not computed before the graph is replayed: until then its results are NaN.
    """

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        torch_fails(self.gpu, func.name().split(".")[0])
        given = kwargs or {}
        results = func(*args, **given)
        if self.gpu.captured is None:
            self.gpu.now_ms += 0.0 if func.is_view else 0.125
        elif not func.is_view:
            made = [each for each in pytree.tree_leaves(results) if all(each is not given for given in args)]
            for each in made:
                each.fill_(float("nan"))

            def work() -> None:
                self.gpu.now_ms += 0.125
                with torch.inference_mode(), without_modes():
                    again = pytree.tree_leaves(func(*args, **given))
                    for before, now in zip(made, again, strict=False):
                        before.copy_(now)

            self.gpu.put(work)
        return results


def torch_fails(gpu: Gpu, call: str) -> None:
    """Raise what PyTorch does for the code by which `call` is to fail, if any; -1 is for a build without CUDA."""
    code = gpu.fails.get(call)
    if code == 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.\nSee the docs.")
    if code == -1:
        raise AssertionError("Torch not compiled with CUDA enabled")
    if code:
        error = torch.AcceleratorError(f"CUDA error: reason {code}\nCompile with `TORCH_USE_CUDA_DSA`.\n")
        error.error_code = code  # type: ignore[attr-defined]
        raise error


class Torch:
    """PyTorch with an imaginary ``torch.cuda``: its memory is the processor's. Everything else is the real one."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.cuda = gpu, torch_cuda(gpu)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, type: str, index: int) -> Any:  # noqa: A002
        assert type == "cuda"
        self.gpu.flags.append(("device", index))
        return torch.device("cpu")

    def empty(self, size: int, *, dtype: Any, device: Any = None, pin_memory: bool = False) -> Any:
        assert pin_memory == (device is None)
        torch_fails(self.gpu, "pin" if pin_memory else "empty")
        if self.gpu.full is not None and self.gpu.full.exists():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.empty(size, dtype=dtype)

    def compile(self, model: Any, *, mode: str) -> Any:
        self.gpu.calls.append(f"compile {mode}")
        return model


def torch_cuda(gpu: Gpu) -> Any:
    """The names of ``torch.cuda`` that are used, with the real names of the parameters."""

    def call(name: str) -> None:
        gpu.calls.append(name)
        torch_fails(gpu, name)

    class Stream:
        def __init__(self, device: Any = None) -> None:
            call("Stream")
            self.cuda_stream = gpu.made("stream")

        def __del__(self) -> None:
            if hasattr(self, "cuda_stream"):
                gpu.gone(self.cuda_stream)

        def synchronize(self) -> None:
            assert gpu.captured is None, "a stream that is being captured cannot be waited for"
            call("Stream.synchronize")

    default: Any = SimpleNamespace(cuda_stream=0)
    current = [default]

    class Event:
        def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
            assert enable_timing
            gpu.flags.append(("event", int(blocking)))
            self.number, self.at = gpu.made("event"), -1.0

        def __del__(self) -> None:
            gpu.gone(self.number)

        def record(self, stream: Any) -> None:
            call("Event.record")
            assert stream is current[-1], "work goes into the current stream"
            self.at = gpu.now_ms

        def synchronize(self) -> None:
            call("Event.synchronize")
            assert self.at >= 0

        def elapsed_time(self, end_event: "Event") -> float:
            return end_event.at - self.at

    class CUDAGraph:
        def __init__(self) -> None:
            self.work: list[Callable[[], None]] = []
            self.number = gpu.made("graph")

        def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
            call("capture_begin")
            assert capture_error_mode == "thread_local"
            assert current[-1] is not default, "the default stream cannot be captured"
            gpu.captured = self.work

        def capture_end(self) -> None:
            gpu.captured = None
            call("capture_end")

        def replay(self) -> None:
            call("replay")
            assert current[-1] is not default
            for work in self.work:
                work()

        def reset(self) -> None:
            self.work = []
            gpu.calls.append("reset")

        def __del__(self) -> None:
            gpu.gone(self.number)

    def set_stream(stream: Any) -> None:
        call("set_stream")
        current[-1] = stream

    def set_device(device: Any) -> None:
        call("set_device")

    def get_device_properties(device: Any) -> SimpleNamespace:
        return PROPERTIES

    return SimpleNamespace(
        Stream=Stream,
        Event=Event,
        CUDAGraph=CUDAGraph,
        init=lambda: call("init"),
        set_device=set_device,
        synchronize=lambda: call("synchronize"),
        empty_cache=lambda: call("empty_cache"),
        current_stream=lambda: current[-1],
        set_stream=set_stream,
        get_device_properties=get_device_properties,
    )


# of the card that `cudadriver` makes
PROPERTIES = SimpleNamespace(
    name="NVIDIA GeForce RTX 2080 Ti",
    major=7,
    minor=5,
    total_memory=11264 << 20,
    uuid="00010203-0405-0607-0809-0a0b0c0d0e0f",
)


# --- for processes that tests start -----------------------------------------------------------------------------------

# Python imports it by itself. The backend then has the stand-in for its toolkit, without its importing torch for that,
# and six blocks of few turns decide: the imaginary GPU's work is the processor's, and has no noise.
HOOK = """
import importlib.abc
import importlib.machinery
import sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        change = CHANGES.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def patched(module):
            execute(module)
            change(module)

        spec.loader.exec_module = patched
        return spec


def imaginary(module):
    module._unsuited = lambda driver: None
    module._uncompiled = lambda device: None
    module._toolkit = toolkit


def toolkit():
    from fakes import cudatorch

    return cudatorch.of_environment()


def few(module):
    usual = module.comparison_plan

    def plan(*arguments):
        import msgspec
        from fastvit_bench.records.comparison import InterleavePlan

        turns = InterleavePlan(turns=2, runs=2, pause_ms=0)
        return msgspec.structs.replace(usual(*arguments), looks=(6,), alpha=0.2, beta=0.2, turns=turns)

    module.comparison_plan = plan


CHANGES = {"fastvit_bench.backends.pytorch": imaginary, "fastvit_bench.options": few}
sys.meta_path.insert(0, Finder())
"""

# The kind of card that `cudadriver` makes is one that it builds for.
RTX = """
import enum
import sys
from fakes import nvidia
module = nvidia.tensorrt(nvidia.of_environment(), "1.7.1.116")
module.ComputeCapability = enum.IntEnum("ComputeCapability", ["SM75"])
sys.modules[__name__] = module
"""

NVML = """
import sys
from fakes import cudagpu
readings = {
    "nvmlDeviceGetClockInfo": 1500,
    "nvmlDeviceGetTemperature": 60,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetComputeRunningProcesses": [],
}
sys.modules[__name__] = cudagpu.pynvml(readings)
"""


def write(folder: Path) -> None:
    """Modules that stand in for PyTorch's GPU and more, for a folder on PYTHONPATH beside those of `nvidia`."""
    for name, source in {"sitecustomize.py": HOOK, "pynvml.py": NVML, "tensorrt_rtx.py": RTX}.items():
        (folder / name).write_text(source, encoding="utf-8")


@functools.cache
def of_environment() -> Torch:
    """One per process, on the imaginary GPU of `nvidia`; from here on each operator is work on that GPU."""
    from fakes import nvidia

    gpu = nvidia.of_environment().gpu
    Operators(gpu).__enter__()
    return Torch(gpu)
