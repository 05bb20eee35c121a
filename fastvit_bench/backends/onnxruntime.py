"""ONNX files through `torch.onnx`, and ONNX Runtime on the processor to run them."""

import importlib.util
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends import INPUT, Hardware, Proving, Session, available_cores, output_names
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, ExportJob, Layout, Window

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray
    from torch import nn

OPSET = 20  # the first with GELU as an operator of its own


class OnnxSession(Session):
    """A model whose input and outputs are bound to buffers that stay in place from run to run."""

    window = Window.COMPUTE

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._input: Any = None

    def feed(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Copy a batch into the bound input. The first one also fixes the buffers of the outputs."""
        import numpy as np
        import onnxruntime as ort

        expected = self._session.get_inputs()[0]
        if list(images.shape) != list(expected.shape):
            raise UsageError(f"The model takes {expected.name} {expected.shape}, not {list(images.shape)}.")
        images = np.ascontiguousarray(images, np.float32)
        if self._input is not None:
            self._input.update_inplace(images)
            return
        self._input = ort.OrtValue.ortvalue_from_numpy(images)
        self._binding.bind_ortvalue_input(expected.name, self._input)
        for output in self._session.get_outputs():
            buffer = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32)
            self._binding.bind_ortvalue_output(output.name, buffer)

    def run(self) -> None:
        """One inference; the call returns when it is done."""
        self._session.run_with_iobinding(self._binding)

    def wait(self) -> None:
        """The processor has nothing left to wait for; kept so that every device is timed by the same two calls."""
        self._binding.synchronize_outputs()

    def fetch(self) -> "dict[str, NDArray[np.floating]]":
        """Copies of the output buffers."""
        values = self._binding.get_outputs()
        return {o.name: v.numpy().copy() for o, v in zip(self._session.get_outputs(), values, strict=True)}


class OnnxRuntime:
    """ONNX Runtime's CPU execution provider, FP32."""

    name = "onnxruntime"
    target = "onnx"
    suffix = ".onnx"
    precisions = ("fp32",)
    packages = ("torch", "onnx", "onnxscript")

    shaping = ()
    flags = ()

    def missing(self) -> str | None:
        """None where the package is installed."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "the package onnxruntime is not installed; run: pip install onnxruntime"
        return None

    def absent(self, device: Device) -> str | None:
        """None: every machine has a processor."""
        return None

    def identify(self, device: Device) -> Hardware | None:
        """None: it is this machine's processor."""
        return None

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """``threads``: threads of one operator; every processor this process may use, unless the device says."""
        unknown = device.options.keys() - {"threads"}
        if unknown:
            raise UsageError(f"Device '{device.name}' has an unknown option '{min(unknown)}'. Known: threads.")
        threads = device.options.get("threads", available_cores())
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise UsageError(f"Device '{device.name}': threads = {threads!r} must be a whole number above 0.")
        return {"threads": threads}

    def layout(self, options: Mapping[str, str]) -> Layout:
        """Split: ONNX Runtime's depthwise kernels are quicker than its grouped ones (benchmarks/against_timm.py)."""
        return Layout()

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write an ONNX file with static shapes, float32 inside and out."""
        import copy

        import onnx
        import torch

        if asked.precision not in self.precisions:
            raise UsageError(
                f"ONNX Runtime on the processor computes in {' or '.join(self.precisions)}, not in {asked.precision}."
            )
        example = torch.zeros(asked.shape.nchw)
        network = copy.deepcopy(network).float().eval()
        with torch.no_grad(), _quiet():
            outputs = network(example)
            count = len(outputs) if isinstance(outputs, tuple) else 1
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=output_names(count),
                optimize=True,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        # the exporter notes the source line of every node: of no use to a reader of the file, and private to the maker
        for node in model.graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata)
        model.producer_name, model.producer_version = "fastvit-bench", metadata.get("fastvit_bench.version", "")
        model.doc_string = ""
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def proofs(self, path: Path, asked: ExportJob) -> Iterable[Proving]:
        """The file as it will be timed."""
        yield Proving("", "ONNX Runtime on this processor", asked.shape, self.open(path, asked.device))

    def operations(self, path: Path) -> dict[str, int]:
        """Kinds of nodes; ONNX Runtime fuses many of them when it loads the file."""
        import collections

        return dict(collections.Counter(node.op_type for node in _read(path).graph.node))

    def metadata(self, path: Path) -> dict[str, str]:
        """The model's metadata properties."""
        return {entry.key: entry.value for entry in _read(path).metadata_props}

    @contextmanager
    def open(self, path: Path, device: Device) -> Generator[OnnxSession]:
        """A session on the CPU execution provider with all graph optimisations."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = int(device.options["threads"])
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors only
        try:
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except MemoryError:
            raise
        except Exception as error:  # its exceptions share no base class but this one
            raise UnavailableError(f"ONNX Runtime cannot load {path.name}: {_first_line(error)}.") from error
        yield OnnxSession(session)


def _read(path: Path) -> "onnx.ModelProto":
    import onnx

    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exceptions are not part of onnx's interface
        raise UnavailableError(f"ONNX cannot load {path.name}: {_first_line(error)}.") from error


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporter's warnings about its own internals away from a person who cannot act on them."""
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


BACKEND = OnnxRuntime()
