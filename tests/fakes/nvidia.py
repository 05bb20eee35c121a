"""Stand-ins for an NVIDIA driver and for TensorRT, as far as exporting touches them.

The module has the names of the real one and nothing more: what was removed in TensorRT 11 is not there. A plan holds
what it was built from, and every call that a real library would refuse raises.
"""

import functools
import hashlib
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from fakes import cudagpu
from fastvit_bench.backends._nvidia import cuda
from fastvit_bench.backends._nvidia.cuda import Driver, Gpu
from fastvit_bench.errors import UnavailableError

MAGIC = b"plan "
NO_DRIVER = "No NVIDIA driver: libcuda.so.1 was not found"


TURING = Gpu(
    name="NVIDIA GeForce RTX 2080 Ti",
    compute_capability="7.5",
    uuid="GPU-00000000-0000-0000-0000-000000000001",
    memory_mib=11264,
    index=0,
)
HOPPER = Gpu(
    name="NVIDIA H100",
    compute_capability="9.0",
    uuid="GPU-00000000-0000-0000-0000-000000000002",
    memory_mib=81559,
    index=0,
)


def driver(*gpus: Gpu, version: str = "580.65") -> Driver:
    """With a Turing card unless told otherwise."""
    return Driver(version=version, cuda="13.0", gpus=gpus or (TURING,))


def install_driver(monkeypatch: pytest.MonkeyPatch, found: Driver | None) -> None:
    """Make the probe answer with what was `found`, or with no driver."""

    def probe() -> Driver:
        if found is None:
            raise UnavailableError(f"{NO_DRIVER}.")
        return found

    monkeypatch.setattr(cuda, "probe", probe)


TYPES: dict[str, Any] = {"HALF": np.float16, "FLOAT": np.float32, "UINT8": np.uint8}


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


@dataclass
class Behaviour:
    """What the stand-in does wrong, and what it was asked for."""

    parser_error: str = ""
    build_error: str = ""
    refuses_cache: bool = False
    warning: str = ""
    networks: list[int] = field(default_factory=list[int])  # flags of each network made
    configs: list[Any] = field(default_factory=list[Any])
    caches: list[bytes] = field(default_factory=list[bytes])  # that builds started from
    crash: str = ""  # the call in which the process dies: build or load
    load_error: str = ""
    damage: Callable[[str, NDArray[np.floating]], NDArray[np.floating]] = lambda name, values: values  # of outputs
    gpu: cudagpu.Gpu = field(default_factory=cudagpu.Gpu)

    def maybe_crash(self, call: str) -> None:
        """Die as native code does."""
        if call == self.crash:
            os.write(2, b"[TRT] [E] Assertion failed\n")
            os.kill(os.getpid(), signal.SIGSEGV)


def tensor(value: onnx.ValueInfoProto) -> Any:
    kinds: dict[int, str] = {
        onnx.TensorProto.FLOAT16: "HALF",
        onnx.TensorProto.FLOAT: "FLOAT",
        onnx.TensorProto.UINT8: "UINT8",
    }
    kind = kinds[value.type.tensor_type.elem_type]
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return SimpleNamespace(name=value.name, dtype=SimpleNamespace(name=kind), shape=shape)


class Network:
    def __init__(self) -> None:
        self.content = b""
        self.model = onnx.ModelProto()

    num_inputs = property(lambda self: len(self.model.graph.input))
    num_outputs = property(lambda self: len(self.model.graph.output))
    num_layers = property(lambda self: len(self.model.graph.node))

    def get_input(self, index: int) -> Any:
        return tensor(self.model.graph.input[index])

    def get_output(self, index: int) -> Any:
        return tensor(self.model.graph.output[index])

    def get_layer(self, index: int) -> Any:
        kind = self.model.graph.node[index].op_type.upper()
        return SimpleNamespace(type=SimpleNamespace(name=kind.replace("QUANTIZELINEAR", "QUANTIZE")))


class Loaded:
    """An engine: ONNX Runtime computes what its file says, in memory of the imaginary GPU."""

    def __init__(self, behaviour: Behaviour, content: bytes) -> None:
        self.behaviour, self.content = behaviour, content
        graph = onnx.load_from_string(content).graph
        self.tensors = {each.name: each for each in map(tensor, (*graph.input, *graph.output))}
        self.inputs = {each.name for each in graph.input}
        self.names = list(self.tensors)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.tensors[name].dtype.name)

    def create_execution_context(self) -> "Execution":
        return Execution(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information={"oneline": layers(self.content)}.__getitem__)


def layers(content: bytes) -> str:
    """An inspector's list: the convolutions as the file has them, and one layer that multiplies nothing."""
    nodes = onnx.load_from_string(content).graph.node
    producers = {name: node.op_type for node in nodes for name in node.output}
    lines = ["Name: copy, LayerType: Reformat, Inputs: [ { Name: a_int8, Format/Datatype: Row major FP16 format }]"]
    for node in nodes:
        if node.op_type == "Conv":
            kind = "Int8" if producers.get(node.input[0]) == "DequantizeLinear" else "FP16"
            lines.append(
                f"Name: {node.name}, LayerType: CaskConvolution, Inputs: [ {{ Name: a, Location: Device, "
                f"Dimensions: [2,8,8,8], Format/Datatype: Channel major {kind} format where channel % 4 == 0 }}], "
                "Outputs: [ { Name: b, Dimensions: [2,8,8,8], Format/Datatype: Row major FP16 format }]"
            )
    return "\n".join(lines)


class Execution:
    def __init__(self, engine: Loaded) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.profiler: Any = None
        self.model = onnxruntime.InferenceSession(engine.content, providers=["CPUExecutionProvider"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return tuple(shape) == tuple(self.engine.tensors[name].shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.engine.tensors[name].shape)

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self.addresses[name] = pointer

    def execute_async_v3(self, stream_handle: int) -> bool:
        behaviour = self.engine.behaviour

        def work() -> None:
            given = self.engine.tensors["image"]
            kind = TYPES[given.dtype.name]
            image = np.frombuffer(bytes(behaviour.gpu.memory[self.addresses["image"]]), kind).reshape(given.shape)
            outputs = self.model.run(None, {"image": image})
            for name, values in zip(self.engine.names[1:], outputs, strict=True):
                behaviour.gpu.memory[self.addresses[name]][:] = behaviour.damage(name, np.asarray(values)).tobytes()
            behaviour.gpu.now_ms += 2.5
            if self.profiler is not None:
                self.profiler.report_layer_time("patch_embed.0/Conv", 1.5)
                self.profiler.report_layer_time("network.0.0.mixer/Conv", 1.0)

        behaviour.gpu.put(work)
        return True


def tensorrt(behaviour: Behaviour, version: str = "11.4.0.106") -> ModuleType:
    """The module, as far as it is used."""

    class Parser:
        def __init__(self, network: Network, logger: Any) -> None:
            self.network, self.num_errors = network, 0

        def parse(self, content: bytes) -> bool:
            self.num_errors = int(bool(behaviour.parser_error))
            self.network.content, self.network.model = content, onnx.load_from_string(content)
            return not self.num_errors

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(
                desc=lambda: behaviour.parser_error, node_name=lambda: "node_7", node_operator=lambda: "Gelu"
            )

    class Config:
        def __init__(self) -> None:
            self.cleared: list[str] = []
            self.limits: dict[str, int] = {}
            self.cache = b""
            self.num_compute_capabilities = 0
            self.capability: Any = None

        def clear_flag(self, flag: str) -> None:
            self.cleared.append(flag)

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            self.limits[pool] = size

        def set_compute_capability(self, capability: Any, index: int) -> bool:
            assert index < self.num_compute_capabilities
            self.capability = capability
            return True

        def create_timing_cache(self, content: bytes) -> bytes:
            return content

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            behaviour.caches.append(cache)
            self.cache = cache
            return not behaviour.refuses_cache

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: memoryview(self.cache + b"timed "))

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            behaviour.networks.append(flags)
            return Network()

        def create_builder_config(self) -> Config:
            behaviour.configs.append(Config())
            return behaviour.configs[-1]

        def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
            if behaviour.warning:
                self.logger.log(Severity.WARNING, behaviour.warning)
            self.logger.log(Severity.INFO, "building")
            if behaviour.build_error:
                self.logger.log(Severity.ERROR, behaviour.build_error)
                return None
            behaviour.maybe_crash("build")
            self.logger.log(Severity.VERBOSE, layers(network.content))
            return memoryview(MAGIC + hashlib.sha256(network.content).digest() + network.content)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes | memoryview) -> "Loaded | None":
            behaviour.maybe_crash("load")
            plan = bytes(plan)
            if behaviour.load_error or not plan.startswith(MAGIC):
                self.logger.log(Severity.ERROR, behaviour.load_error or "Magic tag does not match")
                return None
            return Loaded(behaviour, plan[len(MAGIC) + 32 :])

    names: dict[str, Any] = {
        "__version__": version,
        "__spec__": importlib.machinery.ModuleSpec("tensorrt", None),
        "ILogger": ILogger,
        "Builder": Builder,
        "OnnxParser": Parser,
        "NetworkDefinitionCreationFlag": SimpleNamespace(STRONGLY_TYPED=0 if version.startswith("11") else 1),
        "LayerInformationFormat": SimpleNamespace(ONELINE="oneline"),
        "ProfilingVerbosity": SimpleNamespace(DETAILED="detailed"),
        "MemoryPoolType": SimpleNamespace(WORKSPACE="workspace"),
        "BuilderFlag": SimpleNamespace(TF32="tf32"),
        "Runtime": Runtime,
        "IProfiler": type("IProfiler", (), {}),
        "TensorIOMode": SimpleNamespace(INPUT="input", OUTPUT="output"),
        "nptype": TYPES.__getitem__,
    }
    module = ModuleType("tensorrt")
    module.__dict__.update(names)
    return module


def install_tensorrt(monkeypatch: pytest.MonkeyPatch, version: str = "11.4.0.106") -> Behaviour:
    """Put a stand-in in the place of `tensorrt`; returns what steers it and what it has seen."""
    behaviour = Behaviour()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(behaviour, version))
    cudagpu.install_cuda_python(monkeypatch, behaviour.gpu)
    return behaviour


# --- for processes that tests start -----------------------------------------------------------------------------------

FILES = {
    "tensorrt.py": (
        "import sys\nfrom fakes import nvidia\nsys.modules[__name__] = nvidia.tensorrt(nvidia.of_environment())\n"
    ),
    "cuda/__init__.py": "",
    "cuda/bindings/__init__.py": "",
    "cuda/bindings/runtime.py": (
        "import sys\n"
        "from fakes import cudagpu, nvidia\n"
        "sys.modules[__name__] = cudagpu.Runtime(nvidia.of_environment().gpu)\n"
    ),
}


def write(folder: Path) -> None:
    """Modules that are the stand-ins, for a folder on PYTHONPATH."""
    for name, source in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


@functools.cache
def of_environment() -> Behaviour:
    """One per process; NVIDIA_FAULT names what goes wrong, such as crash-build, zeros or memory:BYTES."""
    fault, _, size = os.environ.get("NVIDIA_FAULT", "").partition(":")
    behaviour = Behaviour()
    if fault.startswith("crash-"):
        behaviour.crash = fault.removeprefix("crash-")
    elif fault == "zeros":
        behaviour.damage = lambda name, values: values * 0
    elif fault == "memory":
        behaviour.gpu.limit = int(size)
        behaviour.gpu.full = Path(os.environ["NVIDIA_FULL"]) if "NVIDIA_FULL" in os.environ else None
    return behaviour
