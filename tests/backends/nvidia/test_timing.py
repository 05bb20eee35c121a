"""Runs timed by events on the imaginary GPU: what is between them, what is not, and how long warming up takes."""

from collections.abc import Iterator

import numpy as np
import pytest
from fakes import cudagpu

from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.backends._nvidia.cuda.binding import Context
from fastvit_bench.backends._nvidia.cuda.timing import EventSession, EventTimer, Mode
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Window


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> cudagpu.Gpu:
    found = cudagpu.Gpu()
    cudagpu.install_cuda_python(monkeypatch, found)
    cudagpu.install_pycuda(monkeypatch, found)
    return found


@pytest.fixture
def context(gpu: cudagpu.Gpu) -> Iterator[Context]:
    with Context(binding.load("cuda-python")) as opened:
        yield opened
    assert gpu.alive == {}


def sample(timer: EventTimer) -> int:
    timer.run()
    timer.wait()
    return timer.elapsed_ns()


@pytest.mark.parametrize("graph", [True, False])
def test_time_is_the_gpus(gpu: cudagpu.Gpu, context: Context, graph: bool) -> None:
    timer = EventTimer(context, lambda handle: gpu.compute(1.25), Mode(graph=graph))
    assert [sample(timer) for _ in range(3)] == [1_250_000] * 3
    assert timer.window is Window.COMPUTE
    assert timer.settings == {
        "graph": "on" if graph else "off",
        "transfers": "excluded",
        "sync": "spin",
        "binding": "cuda-python",
    }


@pytest.mark.parametrize(("graph", "calls"), [(True, 2), (False, 6)])
def test_graph_is_captured_once_after_one_warm_call(
    gpu: cudagpu.Gpu, context: Context, graph: bool, calls: int
) -> None:
    seen: list[tuple[int, bool]] = []

    def enqueue(handle: int) -> None:
        seen.append((handle, gpu.captured is not None))
        gpu.compute(1.0)

    timer = EventTimer(context, enqueue, Mode(graph=graph))
    for _ in range(5):
        sample(timer)
    assert [capturing for _, capturing in seen] == [False, graph, *[False] * (calls - 2)]
    assert {handle for handle, _ in seen} == {timer.stream.handle}
    assert gpu.calls.count("cudaGraphLaunch") == (5 if graph else 0)
    assert gpu.now_ms == 6.0  # the warm call and five runs; the capture itself took none


def test_warm_call_and_capture_are_not_in_the_first_sample(gpu: cudagpu.Gpu, context: Context) -> None:
    first = iter([100.0])
    timer = EventTimer(context, lambda handle: gpu.compute(next(first, 1.0)))
    assert sample(timer) == 1_000_000


def test_order_of_the_calls_of_one_run(gpu: cudagpu.Gpu, context: Context) -> None:
    timer = EventTimer(context, lambda handle: gpu.compute(1.0))
    sample(timer)
    gpu.calls.clear()
    sample(timer)
    assert gpu.calls == [
        "cudaEventRecord",
        "cudaGraphLaunch",
        "cudaEventRecord",
        "cudaEventSynchronize",
        "cudaEventElapsedTime",
    ]


@pytest.mark.parametrize(("sync", "flag"), [("spin", 0), ("block", 1)])
def test_waiting(gpu: cudagpu.Gpu, context: Context, sync: str, flag: int) -> None:
    timer = EventTimer(context, lambda handle: gpu.compute(1.0), Mode(sync=sync))  # type: ignore[arg-type]
    assert [value for kind, value in gpu.flags if kind == "event"] == [flag, flag]
    assert timer.settings["sync"] == sync


def test_binding_without_graphs(gpu: cudagpu.Gpu) -> None:
    with Context(binding.load("pycuda")) as context:
        timer = EventTimer(context, lambda handle: gpu.compute(0.5))
        assert not timer.graph
        assert timer.settings["graph"] == "off"
        assert sample(timer) == 500_000
        with pytest.raises(UnavailableError, match="pycuda knows no CUDA graphs"):
            EventTimer(context, lambda handle: None, Mode(graph=True))
        del timer
    assert gpu.alive == {}


def test_run_in_which_no_time_passes_is_refused(gpu: cudagpu.Gpu, context: Context) -> None:
    timer = EventTimer(context, lambda handle: None)
    with pytest.raises(UnavailableError, match="a run took 0 ns"):
        sample(timer)


# --- with buffers -----------------------------------------------------------------------------------------------------


def doubling(gpu: cudagpu.Gpu, context: Context, mode: Mode | None = None) -> EventSession:
    """An engine that gives twice its input, four numbers in half precision."""

    def enqueue(handle: int) -> None:
        def work() -> None:
            image = np.frombuffer(bytes(gpu.memory[session.pointers["image"]]), np.float16)
            gpu.memory[session.pointers["logits"]][:] = (image * 2).tobytes()
            gpu.now_ms += 1.0

        gpu.put(work)

    session = EventSession(context, enqueue, {"image": 8}, {"logits": 8}, mode)
    return session


def image(*values: float) -> "np.ndarray[tuple[int], np.dtype[np.float16]]":
    return np.array(values, np.float16)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("transfers", [True, False])
def test_session_computes(gpu: cudagpu.Gpu, context: Context, graph: bool, transfers: bool) -> None:
    session = doubling(gpu, context, Mode(graph=graph, transfers=transfers))
    for values in ([1, 2, 3, 4], [5, 6, 7, 8]):
        session.set_input({"image": image(*values)})
        assert sample(session) == (1_500_000 if transfers else 1_000_000)
        assert np.frombuffer(session.get_output()["logits"], np.float16).tolist() == [2 * value for value in values]
    assert session.window is (Window.END_TO_END if transfers else Window.COMPUTE)
    assert session.settings["transfers"] == ("included" if transfers else "excluded")


def test_output_that_nothing_wrote_is_nan(gpu: cudagpu.Gpu, context: Context) -> None:
    session = EventSession(context, lambda handle: None, {"image": 8}, {"logits": 8})
    assert np.isnan(np.frombuffer(session.get_output()["logits"], np.float16)).all()
    assert np.isnan(np.frombuffer(session.get_output()["logits"], np.float32)).all()


def test_what_was_fetched_stays(gpu: cudagpu.Gpu, context: Context) -> None:
    session = doubling(gpu, context)
    session.set_input({"image": image(1, 1, 1, 1)})
    sample(session)
    before = session.get_output()
    session.set_input({"image": image(2, 2, 2, 2)})
    sample(session)
    assert np.frombuffer(before["logits"], np.float16).tolist() == [2, 2, 2, 2]
    assert np.frombuffer(session.get_output()["logits"], np.float16).tolist() == [4, 4, 4, 4]


def test_wrong_input_is_refused(gpu: cudagpu.Gpu, context: Context) -> None:
    session = doubling(gpu, context)
    with pytest.raises(ValueError, match="inputs are image, not picture"):
        session.set_input({"picture": image(1, 1, 1, 1)})
    with pytest.raises(ValueError, match="input image has 8 bytes, not 16"):
        session.set_input({"image": np.ones(4, np.float32)})


def test_memory_that_runs_out_halfway_is_given_back(gpu: cudagpu.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"first": 8, "second": 8}
    real = cudagpu.Runtime.cudaMalloc

    def malloc(self: cudagpu.Runtime, size: int) -> int:
        gpu.fails["cudaMalloc"] = 2  # from the second on
        return real(self, size)

    monkeypatch.setattr(cudagpu.Runtime, "cudaMalloc", malloc)
    context = Context(binding.load("cuda-python"))
    with pytest.raises(UnavailableError, match="memory ran out"), context:
        EventSession(context, lambda handle: None, sizes, sizes)
    assert gpu.calls.count("cudaFree") == 1
    assert gpu.alive == {}
