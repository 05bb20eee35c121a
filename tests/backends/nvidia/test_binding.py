"""Both bindings on the imaginary GPU, their errors, what is given back, and the real package's signatures."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import cudagpu

from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.backends._nvidia.cuda.binding import Context, Cuda
from fastvit_bench.errors import UnavailableError, UsageError


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> cudagpu.Gpu:
    """With both packages installed."""
    found = cudagpu.Gpu()
    cudagpu.install_cuda_python(monkeypatch, found)
    cudagpu.install_pycuda(monkeypatch, found)
    return found


def within(name: str, work: Callable[[Context], object]) -> None:
    """Do the work in a context of that binding, and end it."""
    with Context(binding.load(name)) as context:
        work(context)


def refusal(name: str, work: Callable[[Context], object]) -> str:
    """The one sentence that comes of it."""
    with pytest.raises(UnavailableError) as caught:
        within(name, work)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


both = pytest.mark.parametrize("name", list(binding.BINDINGS))


@both
def test_bytes_go_to_the_gpu_and_back(gpu: cudagpu.Gpu, name: str) -> None:
    with Context(binding.load(name), 1) as context:
        assert ("device", 1) in gpu.flags
        memory, stream = context.memory(8), context.stream()
        there, back = context.pinned(8), context.pinned(8)
        there.view[:] = bytes(range(8))
        context.cuda.upload(memory, there, stream)
        assert gpu.memory[memory.pointer] == bytes(range(8))
        context.cuda.download(back, memory, stream)
        context.cuda.synchronise_stream(stream)
        assert bytes(back.view) == bytes(range(8))
        context.cuda.fill(memory, 255, stream)
        assert gpu.memory[memory.pointer] == b"\xff" * 8
        assert stream.handle in gpu.alive
    assert gpu.alive == {}


@both
def test_copy_of_another_size_is_refused(gpu: cudagpu.Gpu, name: str) -> None:
    with Context(binding.load(name)) as context:
        memory, pinned, stream = context.memory(8), context.pinned(4), context.stream()
        with pytest.raises(ValueError, match="4 bytes of the host do not match 8"):
            context.cuda.upload(memory, pinned, stream)
        with pytest.raises(ValueError, match="4 bytes of the host do not match 8"):
            context.cuda.download(pinned, memory, stream)


@both
def test_time_between_events(gpu: cudagpu.Gpu, name: str) -> None:
    with Context(binding.load(name)) as context:
        cuda, stream = context.cuda, context.stream()
        start, end = context.event(blocking=True), context.event()
        assert [flag for kind, flag in gpu.flags if kind == "event"] == [1, 0]
        cuda.record(start, stream)
        gpu.compute(1.5)
        cuda.record(end, stream)
        cuda.synchronise_event(end)
        assert cuda.elapsed_ms(start, end) == 1.5


def test_graph_runs_when_it_is_launched_and_not_before(gpu: cudagpu.Gpu) -> None:
    with Context(binding.load("cuda-python")) as context:
        stream = context.stream()
        graph = context.capture(lambda handle: gpu.compute(2.0), stream)
        assert gpu.now_ms == 0
        assert "graph" not in gpu.alive.values()  # the recording; what can be launched is a copy
        context.cuda.launch(graph, stream)
        context.cuda.launch(graph, stream)
        assert gpu.now_ms == 4.0
    assert gpu.alive == {}


def test_capture_that_fails_is_ended(gpu: cudagpu.Gpu) -> None:
    def fails(handle: int) -> None:
        raise RuntimeError("the toolkit gave up")

    with Context(binding.load("cuda-python")) as context:
        stream = context.stream()
        with pytest.raises(RuntimeError, match="gave up"):
            context.capture(fails, stream)
        assert gpu.captured is None
    assert gpu.alive == {}


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_work_that_cannot_be_captured(gpu: cudagpu.Gpu, call: str) -> None:
    gpu.fails[call] = 900
    said = refusal("cuda-python", lambda context: context.capture(lambda handle: None, context.stream()))
    assert "cannot be captured in a CUDA graph" in said
    assert "switch the graph off" in said
    assert gpu.alive == {}


def test_pycuda_has_no_graphs(gpu: cudagpu.Gpu) -> None:
    cuda = binding.load("pycuda")
    assert not cuda.graphs
    with pytest.raises(UnavailableError, match="knows no CUDA graphs"), Context(cuda) as context:
        context.capture(lambda handle: None, context.stream())
    assert gpu.alive == {}


@pytest.mark.parametrize(("spin", "flag"), [(True, 1), (False, 4)])
def test_how_to_wait_is_set(gpu: cudagpu.Gpu, spin: bool, flag: int) -> None:
    with Context(binding.load("cuda-python"), spin=spin):
        assert ("flags", flag) in gpu.flags


@both
def test_memory_that_runs_out(gpu: cudagpu.Gpu, name: str) -> None:
    gpu.fails.update(cudaMalloc=2, mem_alloc=2)
    said = refusal(name, lambda context: (context.stream(), context.memory(512 << 20)))
    assert "memory ran out while allocating 512.0 MiB" in said
    assert "smaller batch" in said
    assert gpu.alive == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (35, "driver is too old.*cudaErrorInsufficientDriver 35.*cuda-bindings<13"),
        (700, "stopped with a fault.*cudaErrorIllegalAddress 700, the words for 700.*start a new one"),
        (600, "has not finished"),
        (999, "CUDA failed while running the network: cudaErrorUnknown 999"),
    ],
)
def test_every_code_is_one_sentence(gpu: cudagpu.Gpu, code: int, words: str) -> None:
    gpu.fails["cudaStreamSynchronize"] = code
    with pytest.raises(UnavailableError, match=words), Context(binding.load("cuda-python")) as context:
        context.cuda.synchronise_stream(context.stream())


# each call that can fail, and something that makes it
CALLS = {
    "cudaSetDevice": lambda context: None,
    "cudaSetDeviceFlags": lambda context: None,
    "cudaHostAlloc": lambda context: context.pinned(1),
    "cudaMemcpyAsync": lambda context: context.cuda.upload(context.memory(1), context.pinned(1), context.stream()),
    "cudaMemsetAsync": lambda context: context.cuda.fill(context.memory(1), 0, context.stream()),
    "cudaStreamCreateWithFlags": lambda context: context.stream(),
    "cudaEventCreateWithFlags": lambda context: context.event(),
    "cudaEventRecord": lambda context: context.cuda.record(context.event(), context.stream()),
    "cudaEventSynchronize": lambda context: context.cuda.synchronise_event(context.event()),
    "cudaEventElapsedTime": lambda context: context.cuda.elapsed_ms(context.event(), context.event()),
    "cudaGraphLaunch": lambda context: context.cuda.launch(
        context.capture(lambda handle: None, stream := context.stream()), stream
    ),
    "cudaFree": lambda context: context.memory(1),
    "cudaFreeHost": lambda context: context.pinned(1),
    "cudaStreamDestroy": lambda context: context.stream(),
    "cudaEventDestroy": lambda context: context.event(),
    "cudaGraphDestroy": lambda context: context.capture(lambda handle: None, context.stream()),
    "cudaGraphExecDestroy": lambda context: context.capture(lambda handle: None, context.stream()),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_every_call_is_checked(gpu: cudagpu.Gpu, call: str) -> None:
    gpu.fails[call] = 999
    with pytest.raises(UnavailableError, match="cudaErrorUnknown"), Context(binding.load("cuda-python")) as context:
        CALLS[call](context)


@pytest.mark.parametrize("call", ["Device", "Stream", "Stream.synchronize", "pagelocked_empty", "Context.pop"])
def test_exceptions_of_pycuda_become_one_sentence(gpu: cudagpu.Gpu, call: str) -> None:
    gpu.fails[call] = 1
    said = refusal("pycuda", lambda context: (context.pinned(1), context.cuda.synchronise_stream(context.stream())))
    assert said.startswith("CUDA failed while ")
    assert f"{call} failed: reason 1" in said


def test_everything_is_given_back_in_reverse_even_where_that_fails(gpu: cudagpu.Gpu) -> None:
    gpu.fails["cudaStreamDestroy"] = 999
    said = refusal(
        "cuda-python", lambda context: (context.memory(1), context.stream(), context.event(), gpu.calls.clear())
    )
    assert "destroying a stream" in said
    assert gpu.calls == ["cudaEventDestroy", "cudaStreamDestroy", "cudaFree"]


def test_first_error_comes_out_and_not_those_of_giving_back(gpu: cudagpu.Gpu) -> None:
    def work(context: Context) -> None:
        context.memory(1)
        gpu.fails["cudaFree"] = 700
        raise KeyError("what went wrong")

    with pytest.raises(KeyError, match="what went wrong"):
        within("cuda-python", work)


def test_array_that_outlives_the_context_keeps_its_memory(gpu: cudagpu.Gpu) -> None:
    with Context(binding.load("cuda-python")) as context:
        pinned = context.pinned(4)
        array = np.frombuffer(pinned.view, np.uint8)
        array[:] = 7
    assert list(gpu.alive.values()) == ["pinned"]
    assert array.tolist() == [7, 7, 7, 7]


@pytest.mark.parametrize(("name", "hint"), [("cuda-python", "cuda-python"), ("pycuda", r"\[pycuda\]")])
def test_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.setattr(sys, "path", [])
    for module in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert re.search(f"{name} is not installed; run: .*pip install .*{hint}", binding.unavailable_reason(name) or "")
    with pytest.raises(UnavailableError, match=r"is not installed; run: .*pip install"):
        binding.load(name)


@both
def test_installed_package_is_not_missing(gpu: cudagpu.Gpu, name: str) -> None:
    assert binding.unavailable_reason(name) is None
    cuda: Cuda = binding.load(name)
    assert cuda.name == name


def test_package_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for module in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "not installed" in (binding.unavailable_reason("pycuda") or "")  # the package without its module
    (tmp_path / "pycuda" / "driver.py").write_text("raise RuntimeError('imported')")
    importlib.invalidate_caches()
    assert binding.unavailable_reason("pycuda") is None


def test_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for module in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("")
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot\\nopen it')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UnavailableError, match=r"pycuda cannot be imported: libcuda\.so\.1: cannot open it; run: .*pip"
    ):
        binding.load("pycuda")
    for module in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_unknown_binding() -> None:
    with pytest.raises(UsageError, match="no CUDA binding 'cupy'; there are cuda-python and pycuda"):
        binding.unavailable_reason("cupy")


# --- the real package, where it is installed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runtime() -> Any:
    return pytest.importorskip("cuda.bindings.runtime")


def test_stand_in_has_the_signatures_of_the_real_package(runtime: Any) -> None:
    calls = [name for name in vars(cudagpu.Runtime) if name.startswith("cuda") and callable(getattr(runtime, name))]
    calls = [name for name in calls if not isinstance(getattr(runtime, name), type)]
    assert len(calls) > 20
    for name in calls:
        real = list(inspect.signature(getattr(runtime, name)).parameters)
        ours = list(inspect.signature(getattr(cudagpu.Runtime, name)).parameters)[1:]
        assert ours == real, name


def test_every_name_that_the_adapter_uses_is_in_the_real_package(runtime: Any) -> None:
    names = set(re.findall(r"(?:_rt|rt|runtime|kinds|modes)\.(cuda\w+)", inspect.getsource(binding.CudaPython)))
    assert len(names) > 25
    places = (runtime, runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode)
    assert [name for name in sorted(names) if not any(hasattr(place, name) for place in places)] == []
    for name in ("cudaDeviceScheduleSpin", "cudaDeviceScheduleBlockingSync", "cudaEventBlockingSync"):
        assert int(getattr(runtime, name)) == getattr(cudagpu.Runtime, name)
    for code in cudagpu.Code:
        assert runtime.cudaError_t(int(code)).name == code.name


def test_real_package_says_why_it_cannot_work_here(runtime: Any) -> None:
    from fastvit_bench.backends._nvidia.cuda import probe

    try:
        probe()
    except UnavailableError:
        with pytest.raises(UnavailableError, match=r"too old|CUDA failed"), Context(binding.load("cuda-python")):
            pass
    else:
        pytest.skip("there is a driver")
