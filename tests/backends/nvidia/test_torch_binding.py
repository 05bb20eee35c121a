"""PyTorch's calls as a binding on the imaginary GPU, their errors, what is given back, and the real signatures."""

import inspect
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from fakes import cudagpu, cudatorch

from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.backends._nvidia.cuda.binding import Context
from fastvit_bench.backends._nvidia.cuda.timing import EventTimer, Mode
from fastvit_bench.backends._nvidia.cuda.torch_binding import TorchCuda
from fastvit_bench.errors import UnavailableError


@pytest.fixture
def gpu() -> Iterator[cudagpu.Gpu]:
    found = cudagpu.Gpu()
    with cudatorch.Operators(found):
        yield found
    assert cudagpu.given_back(found)


@pytest.fixture
def calls(gpu: cudagpu.Gpu) -> TorchCuda:
    return TorchCuda(cudatorch.Torch(gpu))


def refusal(calls: TorchCuda, work: Callable[[Context], object]) -> str:
    """The one sentence that comes of some work in a context."""
    with pytest.raises(UnavailableError) as caught, Context(calls) as context:
        work(context)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def test_it_is_no_binding_for_other_toolkits() -> None:
    assert TorchCuda.name not in binding.BINDINGS


def test_bytes_go_to_the_gpu_and_back(gpu: cudagpu.Gpu, calls: TorchCuda) -> None:
    with Context(calls, 1) as context:
        assert gpu.flags == [("device", 1)]
        memory, there, back = context.memory(8), context.pinned(8), context.pinned(8)
        stream = context.stream()
        there.view[:] = bytes(range(8))
        calls.upload(memory, there, stream)
        calls.download(back, memory, stream)
        calls.synchronise_stream(stream)
        assert bytes(back.view) == bytes(range(8))
        calls.fill(memory, 255, stream)
        assert bytes(memory.native.numpy()) == b"\xff" * 8
        assert memory.pointer == memory.native.data_ptr()
        with pytest.raises(ValueError, match="4 bytes of the host do not match 8"):
            calls.upload(memory, context.pinned(4), stream)
    assert memory.native is there.native is None
    assert gpu.calls[-1] == "empty_cache"


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_memory_of_a_tensor_is_the_tensors(calls: TorchCuda, order: torch.memory_format) -> None:
    tensor = torch.arange(48, dtype=torch.float16).view(2, 2, 3, 4).to(memory_format=order)
    found = calls.memory_of(tensor)
    assert (found.pointer, found.size) == (tensor.data_ptr(), 96)
    found.native.fill_(0)
    assert not tensor.any()


def test_a_new_stream_is_current_until_it_is_given_back(gpu: cudagpu.Gpu, calls: TorchCuda) -> None:
    current = calls._torch.cuda.current_stream  # type: ignore[attr-defined]
    default = current()
    with Context(calls) as context:
        outer = context.stream()
        assert current() is outer.native
        inner = context.stream()
        assert current() is inner.native
        assert {outer.handle, inner.handle} == set(gpu.alive)
    assert current() is default


def test_work_goes_into_its_own_stream_whichever_was_made_last(gpu: cudagpu.Gpu) -> None:
    """Two networks of one process, each through calls of its own, take turns."""
    outer, inner = TorchCuda(cudatorch.Torch(gpu)), TorchCuda(cudatorch.Torch(gpu))
    inner._torch = outer._torch  # type: ignore[attr-defined]
    current = outer._torch.cuda.current_stream  # type: ignore[attr-defined]
    with Context(outer) as first, Context(inner) as second:
        timers = [EventTimer(context, lambda handle: None, Mode(graph=graph))
                  for context, graph in ((first, True), (second, False))]  # fmt: skip
        streams = [timer.stream.native for timer in timers]
        memory, pinned = first.memory(8), first.pinned(8)
        for _ in range(2):
            for timer, stream in zip(timers, streams, strict=True):
                timer.run()
                assert current() is stream
        for call, what in (("upload", (memory, pinned)), ("download", (pinned, memory)), ("fill", (memory, 1))):
            timers[1].run()
            getattr(outer, call)(*what, timers[0].stream)
            assert current() is streams[0]
        del timers, streams, timer, stream


@pytest.mark.parametrize("blocking", [True, False])
def test_time_between_events(gpu: cudagpu.Gpu, calls: TorchCuda, blocking: bool) -> None:
    with Context(calls) as context:
        stream, start, end = context.stream(), context.event(blocking=blocking), context.event(blocking=blocking)
        assert [flag for kind, flag in gpu.flags if kind == "event"] == [blocking, blocking]
        calls.record(start, stream)
        gpu.compute(1.5)
        calls.record(end, stream)
        calls.synchronise_event(end)
        assert calls.elapsed_ms(start, end) == 1.5


@pytest.mark.parametrize("graph", [True, False])
def test_timed_runs(gpu: cudagpu.Gpu, calls: TorchCuda, graph: bool) -> None:
    with Context(calls) as context:
        values = torch.arange(4.0)
        made: list[torch.Tensor] = []

        def enqueue(handle: int) -> None:
            made.append(values * 2)

        timer = EventTimer(context, enqueue, Mode(graph=graph))
        for factor in (1, 3):
            values.copy_(torch.arange(4.0) * factor)
            timer.run()
            timer.wait()
            assert timer.elapsed_ns() == 125_000
            np.testing.assert_array_equal(made[-1].numpy(), [0, 2 * factor, 4 * factor, 6 * factor])
        assert len(made) == (2 if graph else 3)
        assert timer.settings["binding"] == "torch"
        assert gpu.calls.count("replay") == (2 if graph else 0)
        del timer


def test_capture_that_fails_is_ended(gpu: cudagpu.Gpu, calls: TorchCuda) -> None:
    def fails(handle: int) -> None:
        raise KeyError("the network gave up")

    with Context(calls) as context:
        stream = context.stream()
        with pytest.raises(KeyError, match="gave up"):
            context.capture(fails, stream)
        assert gpu.captured is None


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("init", -1, "CUDA failed while opening GPU 0: Torch not compiled with CUDA enabled"),
        ("empty", 2, r"The GPU's memory ran out while allocating 1\.0 MiB of GPU memory \(CUDA out of memory"),
        ("pin", 2, r"ran out while pinning 1\.0 MiB of the host's memory"),
        ("capture_begin", 901, r"cannot be captured in a CUDA graph \(CUDA error: reason 901 while beginning"),
        ("capture_end", 900, "cannot be captured in a CUDA graph"),
        ("Stream.synchronize", 700, r"stopped with a fault \(CUDA error: reason 700 while running the network\)"),
        ("set_stream", 999, "CUDA failed while creating a stream: CUDA error: reason 999; check nvidia-smi"),
    ],
)
def test_errors_are_one_sentence(gpu: cudagpu.Gpu, calls: TorchCuda, call: str, code: int, words: str) -> None:
    def work(context: Context) -> None:
        context.memory(2**20)
        context.pinned(2**20)
        stream = context.stream()
        calls.synchronise_stream(stream)
        context.capture(lambda handle: None, stream)

    gpu.fails[call] = code
    said = refusal(calls, work)
    assert re.search(words, said)


@pytest.mark.parametrize(
    ("real", "names"),
    [
        (torch.cuda.CUDAGraph.capture_begin, {"capture_error_mode"}),
        (torch.cuda.CUDAGraph.capture_end, set()),
        (torch.cuda.CUDAGraph.replay, set()),
        (torch.cuda.CUDAGraph.reset, set()),
        (torch.cuda.Event.__new__, {"enable_timing", "blocking"}),
        (torch.cuda.Event.record, {"stream"}),
        (torch.cuda.Event.synchronize, set()),
        (torch.cuda.Event.elapsed_time, {"end_event"}),
        (torch.cuda.Stream.__new__, {"device"}),
        (torch.cuda.Stream.synchronize, set()),
        (torch.cuda.set_stream, {"stream"}),
        (torch.cuda.current_stream, {"device"}),
        (torch.cuda.set_device, {"device"}),
        (torch.cuda.init, set()),
        (torch.cuda.synchronize, {"device"}),
        (torch.cuda.empty_cache, set()),
        (torch.compile, {"model", "mode"}),
        (torch.backends.cudnn.flags, {"enabled", "benchmark", "deterministic", "allow_tf32"}),
    ],
)
def test_the_real_calls_take_what_they_are_given(real: Callable[..., object], names: set[str]) -> None:
    """Every other parameter has a default."""
    found = inspect.signature(real).parameters
    assert names <= set(found)
    needed = {
        name
        for name, parameter in found.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    assert needed - {"self", "cls"} <= names


def test_the_real_exceptions_and_attributes_are_there() -> None:
    assert issubclass(torch.OutOfMemoryError, RuntimeError)
    assert issubclass(torch.AcceleratorError, RuntimeError)
    assert torch.backends.cuda.matmul.allow_tf32 in {True, False}
