"""Run an ONNX file with ONNX Runtime, and time its operators."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from fastvit_bench import files
from fastvit_bench.backends import Images, Session
from fastvit_bench.backends._onnx.model import block_of, read, rounding
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import LayerTime, Window
from fastvit_bench.stats.intervals import median

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvit_bench.backends import Batch


RUNTIMES = (  # distributions that bring the module onnxruntime; of several, the last one installed wins
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn"),
    *("onnxruntime-rocm", "onnxruntime-migraphx", "ort-nightly", "ort-nightly-gpu"),
)


# --- running ----------------------------------------------------------------------------------------------------------


class OnnxSession(Session):
    """A model whose input and outputs are bound to buffers that all runs share."""

    window = Window.COMPUTE

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._input: Any = None
        self.images = Images.PIXELS if session.get_inputs()[0].type == "tensor(uint8)" else Images.TENSOR

    def set_input(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Copy a batch into the bound input, in its type; the first batch also binds the buffers of the outputs.

        Raises `UsageError` for a batch of a different shape.
        """
        import numpy as np
        import onnxruntime as ort

        expected = self._session.get_inputs()[0]
        fits = len(images.shape) == len(expected.shape) and all(
            length == size or isinstance(size, str)  # a free size has a name
            for length, size in zip(images.shape, expected.shape, strict=True)
        )
        if not fits:
            raise UsageError(f"The model takes {expected.name} {expected.shape}, not {list(images.shape)}.")
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        batch = np.ascontiguousarray(images, types[expected.type])
        if self._input is not None and self._input.shape() == list(batch.shape):
            self._input.update_inplace(batch)
            return
        self._input = ort.OrtValue.ortvalue_from_numpy(batch.copy())  # else later batches would overwrite the caller's
        self._binding.bind_ortvalue_input(expected.name, self._input)
        for output in self._session.get_outputs():
            if not all(isinstance(size, int) for size in output.shape):  # of a file that takes several shapes
                self._binding.bind_output(output.name)
                continue
            buffer = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, types[output.type])
            self._binding.bind_ortvalue_output(output.name, buffer)

    def run(self) -> None:
        """Run one inference; the call returns when it is done."""
        self._session.run_with_iobinding(self._binding)

    def wait(self) -> None:
        """Synchronise the outputs, so that every device is timed by two calls; the processor has no work left."""
        self._binding.synchronize_outputs()

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return copies of the output buffers, by name."""
        values = self._binding.get_outputs()
        return {
            output.name: value.numpy().copy() for output, value in zip(self._session.get_outputs(), values, strict=True)
        }

    def clone(self) -> "OnnxSession":
        """Return a session on the same loaded model with buffers of its own; their runs may overlap."""
        return OnnxSession(self._session)

    def end_trace(self) -> str:
        """Finish the trace of a session that writes one, and return its path."""
        return self._session.end_profiling()


def on_processor(path: Path, threads: int) -> AbstractContextManager[OnnxSession]:
    """Open a session on ONNX Runtime's CPU execution provider with all graph optimisations.

    It computes chains of an FP16 file's operators in float32 without rounding in between. Raises `UnavailableError` for
    a file it cannot load.
    """
    read(path)  # refuses what ONNX Runtime would never finish to load
    return _opened(path.name, path, threads)


def unoptimised(name: str, model: bytes, threads: int) -> AbstractContextManager[OnnxSession]:
    """Open a session that runs a model's operators one by one, without optimisation. Raises as `on_processor` does."""
    return _opened(name, model, threads, level="ORT_DISABLE_ALL")


@contextmanager
def as_typed(path: Path, threads: int) -> Generator[OnnxSession]:
    """Open a session that rounds every result of an FP16 file to float16, as its types say; sums are in float32.

    A GPU's FP16 kernels round at most as much, and values beyond float16 become infinite. A file in FP32 is run as it
    is. Raises as `on_processor` does.
    """
    import onnx

    model = read(path)
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    halves = halves or any(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 for value in model.graph.input)
    content: Path | bytes = path
    if halves:
        try:
            content = rounding(model).SerializeToString()
        except UnavailableError as error:
            raise UnavailableError(f"ONNX cannot load {path.name}: it has {error}.") from error
    with _opened(path.name, content, threads) as session:
        yield session


def profiled(path: Path, threads: int, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
    """Return the median times of a file's nodes as `on_processor` runs it, by ONNX Runtime's trace, in run order.

    Its clock counts whole microseconds. Fused nodes have one time, under the name ONNX Runtime gives them. Nodes that
    it adds, such as those that reorder channels, are included. Raises `UnavailableError` and `UsageError` as a session
    does.
    """
    with files.temporary_folder() as folder, _opened(path.name, path, threads, folder / "trace") as session:
        session.set_input(images)
        for _ in range(_UNTIMED + runs):
            session.run()
            session.wait()
        trace = files.read_bytes(Path(session.end_trace()), files.PROGRAM)
    times: dict[tuple[str, str, str], list[int]] = {}  # by number too: nodes that ONNX Runtime adds may share a name
    for event in msgspec.json.decode(trace, type=list[_Event]):
        if event.cat == "Node" and event.name.endswith(_KERNEL):
            node = event.args["node_index"], event.name.removesuffix(_KERNEL), event.args["op_name"]
            times.setdefault(node, []).append(event.dur)
    return tuple(
        LayerTime(name=name, kind=kind, block=block_of(name), median_ns=round(1e3 * median(durations[-runs:])))
        for (_, name, kind), durations in times.items()
    )


_UNTIMED = 5  # runs before those of a profile


_KERNEL = "_kernel_time"  # suffix of a trace's events that are about a node's computation


class _Event(msgspec.Struct, frozen=True):
    """The fields that are read of an entry in ONNX Runtime's trace."""

    cat: str = ""
    name: str = ""
    dur: int = 0  # microseconds
    args: dict[str, Any] = {}


@contextmanager
def _opened(
    name: str,
    model: "Path | bytes",
    threads: int,
    trace: Path | None = None,
    level: Literal["ORT_ENABLE_ALL", "ORT_DISABLE_ALL"] = "ORT_ENABLE_ALL",
) -> Generator[OnnxSession]:
    """Open a session; with `trace`, it writes a trace to a file whose name begins so."""
    yield OnnxSession(_native(name, model, threads, trace, level))


def native(path: Path, threads: int) -> Any:
    """Return ONNX Runtime's own session on a file of any input, whose operators run one by one as they are stored.

    Raises as `on_processor` does.
    """
    read(path)
    return _native(path.name, path, threads, None, "ORT_DISABLE_ALL")


def _native(name: str, model: "Path | bytes", threads: int, trace: Path | None, level: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 3  # errors only
    if trace:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # its exceptions share no base class but this one
        raise UnavailableError(f"ONNX Runtime cannot load {name}: {first_line(error)}.") from error


@contextmanager
def quiet() -> Generator[None]:
    """Silence the exporter's warnings about its own internals, which a user cannot act on."""
    import logging
    import warnings

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
