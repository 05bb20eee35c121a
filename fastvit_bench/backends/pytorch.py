"""PyTorch on NVIDIA GPUs: programs of `torch.export`, run as they are or compiled, timed as TensorRT's engines are.

Loading such a file can run code in it: `torch.export.load` unpickles the pickles of a file and evaluates its guards. So
prove or run only files whose maker is trusted; `metadata` and `operations` read a file without running anything of it.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fastvit_bench import files, install
from fastvit_bench.backends import HALF_WEIGHTS, INPUT, Hardware, Session, VerificationRun, output_names
from fastvit_bench.backends._nvidia import cuda, gpu
from fastvit_bench.backends._nvidia.cuda.timing import EventTimer
from fastvit_bench.backends._nvidia.cuda.torch_binding import TorchCuda
from fastvit_bench.backends._onnx import export as onnx_export
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, ExportJob, ExportSpec, GraphVariant, LayerTime, Shape, Traffic, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from fastvit_bench.backends import Batch

_PROGRAM = "models/model.json"  # the graph in a file's archive, as `torch.export.save` names it
_NOTES = "fastvit_bench.json"  # our metadata in a file's archive

# option compile -> mode of torch.compile; None runs the program operator by operator. We capture graphs.
_MODES = {"none": None, "default": "default", "max-autotune": "max-autotune-no-cudagraphs"}

_DOWNLOADS = "https://pytorch.org/get-started/locally"


class PyTorch:
    """A backend for programs of `torch.export` on NVIDIA GPUs.

    They have one type inside and out, and run with cuDNN's quickest kernels and without TF32.
    """

    name = "pytorch"
    target = "pytorch"
    suffix = ".pt2"
    precisions = ("fp16", "fp32")
    packages = ("torch",)
    proof_packages = ("torch",)
    export_options = ()
    flags = ()
    accepts_external_onnx = False
    engines = None
    rounder = None

    def unavailable_reason(self, device: Device | None = None) -> str | None:
        """Return why files cannot be written here, or None where torch is installed."""
        if importlib.util.find_spec("torch") is None:
            return f"the package torch is not installed; run: {install.packages('torch')}"
        return None

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why the device cannot be used, and the remedy, or None.

        The driver is asked first, then a file of torch's distribution that says for what torch was built.
        """
        try:
            driver = cuda.probe()
        except UnavailableError as error:
            return str(error).rstrip(".")
        return _unsuited(driver) or _uncompiled(device)

    def detect_hardware(self, device: Device) -> Hardware | None:
        """Return the GPU, asked of the NVIDIA driver."""
        return gpu.detect_hardware(device)

    def warmup_policy(self, device: Device) -> Mapping[str, float]:
        """Return the settings by which every GPU is warmed up."""
        return gpu.SETTLING

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Return torch, which pins CUDA's libraries, and where it compiles, triton, which writes its kernels."""
        return ("torch", "triton") if device.options.get("compile", "none") != "none" else ("torch",)

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return a GPU's options without a binding, ``channels_last`` (by default in fp16) and ``compile`` (`_MODES`).

        Raises `UsageError` for unknown options and values.
        """
        own = gpu.NAMES - {"cuda_binding"} | {"channels_last", "compile"}
        if "cuda_binding" in device.options:
            raise UsageError(
                f"Device '{device.name}': PyTorch makes CUDA's calls itself, so cuda_binding means nothing; "
                f"leave it out."
            )
        gpu.only_known(device, own)
        last = device.options.get("channels_last", device.precision == "fp16")
        if not isinstance(last, bool):
            raise UsageError(f"Device '{device.name}': channels_last = {last!r} must be true or false.")
        mode = device.options.get("compile", "none")
        if mode not in _MODES:
            raise UsageError(f"Device '{device.name}': compile = {mode!r} must be {' or '.join(_MODES)}.")
        filled: dict[str, str | int | float | bool] = {**gpu.options(device), "channels_last": last, "compile": mode}
        return {name: value for name, value in filled.items() if name in own}

    def layout(self, exported: ExportSpec) -> GraphVariant:
        """Return the form of one convolution per layer, as in the published export and in TensorRT's files."""
        return GraphVariant(doubling="grouped")

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write a program with static shapes; equal networks give equal bytes.

        Raises `UsageError` for a precision it does not have, and for weights that the precision cannot hold.
        """
        import torch

        if asked.precision not in self.precisions:
            raise UsageError(f"PyTorch's files are in {' or '.join(self.precisions)}, not in {asked.precision}.")
        half = asked.precision == "fp16"
        if half:
            metadata = {**metadata, HALF_WEIGHTS: msgspec.json.encode(onnx_export.weights_report(network)).decode()}
        kind = torch.float16 if half else torch.float32
        typed = copy.deepcopy(network).to(kind).eval()  # from float64 in one step, so that it rounds once
        with torch.no_grad():
            program = torch.export.export(typed, (torch.zeros(asked.shape.nchw, dtype=kind),), strict=False)
        program.example_inputs = None  # as large as a batch, and of no use
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # source paths, private to whoever exports
        content = io.BytesIO()  # written to a file, the archive would contain its name
        torch.export.save(program, content, extra_files={_NOTES: json.dumps(metadata)})
        path.write_bytes(content.getvalue())

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield the program on this processor, computed in float32.

        The processor's kernels for float16 are slow and round in their own way.
        """
        rounded = " in float32, every result rounded to float16" if asked.precision == "fp16" else ""
        how = f"PyTorch on this processor{rounded}, not on a GPU"
        yield VerificationRun("", how, asked.shape, _on_processor(path))

    def operations(self, path: Path) -> dict[str, int]:
        """Count the operators by kind, such as ``aten.conv2d``, without running anything of the file.

        Raises `UnavailableError` for a file without a program.
        """
        try:
            nodes = json.loads(_read(path, _PROGRAM))["graph_module"]["graph"]["nodes"]
            return dict(Counter(node["target"].removeprefix("torch.ops.").rpartition(".")[0] for node in nodes))
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise UnavailableError(f"PyTorch cannot load {path.name}: it holds no graph of a program.") from error

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """Return None: traffic is not counted for programs of `torch.export`."""
        return None

    def metadata(self, path: Path) -> dict[str, str]:
        """Return what `export` wrote, or nothing for a foreign file, without running anything of the file."""
        return _notes(path)

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Raise `UsageError`, because PyTorch does not report the times of layers."""
        raise UsageError(self.unprofiled(device))

    def unprofiled(self, device: Device) -> str:
        """Return why layers are not timed: PyTorch's profiler does not know the layers that kernels belong to."""
        return "PyTorch does not report how long a layer took; leave --profile out."

    @contextmanager
    def open(self, path: Path, device: Device) -> Generator[Session]:
        """Load the program on its GPU; the first run compiles it, where that is asked for, and captures its graph."""
        torch = _toolkit()
        calls = TorchCuda(torch)
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(gpu.running(device, calls))
            stack.enter_context(_exact(torch))
            # no variable may refer to the program: its weights move to the GPU, and must be freed with the session
            session = TorchSession(torch, calls, running, _load(path), device.options, _head(path))
            stack.callback(session.close)
            yield session


# --- what is installed ------------------------------------------------------------------------------------------------


def _toolkit() -> Any:
    return importlib.import_module("torch")


def _unsuited(driver: cuda.Driver) -> str | None:
    """Return why the installed torch cannot use that driver, and the remedy, or None. Imports nothing."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    version = dict(
        re.findall(
            r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*'([^']*)'",
            Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    installed, built = f"torch {version.get('__version__', '')} is installed", version.get("cuda")
    way = f"install one for CUDA {driver.cuda} or older: {_DOWNLOADS}"
    if built is None:
        return f"{installed}, which was built without CUDA; {way}"
    if int(built.split(".")[0]) > int(driver.cuda.split(".")[0]):
        return f"{installed}, for CUDA {built}, and the driver {driver.version} is older; update it, or {way}"
    return None


def _uncompiled(device: Device) -> str | None:
    """Return why `torch.compile` cannot be used where the device asks for it, or None."""
    if device.options["compile"] == "none" or importlib.util.find_spec("triton"):
        return None
    return (
        f"torch.compile needs the package triton, which is not installed; "
        f"run: {install.packages('triton')}, or leave compile out"
    )


# --- reading files ----------------------------------------------------------------------------------------------------


def _read(path: Path, name: str) -> bytes:
    """Return the content of one file of the archive.

    Raises `UnavailableError` for a path that is no archive of a program, `KeyError` for a name it does not have.
    """
    try:
        with files.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            folder = next((entry.removesuffix(_PROGRAM) for entry in names if entry.endswith(f"/{_PROGRAM}")), None)
            if folder is None:
                raise UnavailableError(f"PyTorch cannot load {path.name}: it holds no program.")
            if archive.getinfo(folder + name).file_size > files.DOCUMENT:
                raise UnavailableError(f"PyTorch cannot load {path.name}: its {name} is too large.")
            return archive.read(folder + name)
    except (KeyError, UnavailableError):
        raise
    except OSError as error:
        raise UnavailableError(f"PyTorch cannot load {path.name}: {error.strerror or error}.") from error
    except Exception as error:  # zipfile raises many kinds for damaged archives
        raise UnavailableError(f"PyTorch cannot load {path.name}: {first_line(error)}.") from error


def _notes(path: Path) -> dict[str, str]:
    """Return what `export` wrote into a file, or nothing for a foreign one."""
    try:
        return msgspec.json.decode(_read(path, f"extra/{_NOTES}"), type=dict[str, str])
    except (KeyError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return {}


def _head(path: Path) -> str:
    """Return the head of the network in a file, after which its only output is named; empty for a foreign file."""
    return _notes(path).get("fastvit_bench.head", "")


def _load(path: Path) -> "ExportedProgram":
    """Load the program in a file.

    Raises `UnavailableError` for a file without a program.
    """
    import torch

    _read(path, _PROGRAM)  # rejects what is no archive, on which PyTorch would print a page
    try:
        return torch.export.load(path)
    except MemoryError:
        raise
    except Exception as error:  # its readers raise exceptions of many kinds
        raise UnavailableError(f"PyTorch cannot load {path.name}: {first_line(error)}.") from error


@dataclass(frozen=True)
class _Face:
    """The shape and type of an input or output."""

    shape: tuple[int, ...]
    type: Any  # a torch.dtype

    @property
    def size(self) -> int:
        """The size in bytes."""
        import math

        return math.prod(self.shape) * self.type.itemsize


def _faces(program: "ExportedProgram", head: str) -> tuple[_Face, dict[str, _Face]]:
    """Return the input, and the outputs by name, of a program that ends in a head."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op != "output"}
    (image,) = program.graph_signature.user_inputs
    outputs = [values[name] for name in program.graph_signature.user_outputs]
    named = zip(output_names(len(outputs), head), outputs, strict=True)
    return _face(values[image]), {name: _face(value) for name, value in named}


def _face(value: "Tensor") -> _Face:
    return _Face(tuple(value.shape), value.dtype)


def _fits(images: "Batch", face: _Face) -> None:
    """Raise `UsageError` for a batch of another shape."""
    if images.shape != face.shape:
        raise UsageError(f"The program takes {INPUT} {list(face.shape)}, not {list(images.shape)}.")


# --- on this processor ------------------------------------------------------------------------------------------------


class _ProcessorSession(Session):
    """A session that computes a program in float32 on this processor."""

    window = Window.COMPUTE

    def __init__(self, program: "ExportedProgram", head: str) -> None:
        self._face, outputs = _faces(program, head)
        self._names = list(outputs)
        self._compute = _in_single(program)
        self._image: Any = None
        self._outputs: tuple[Tensor, ...] = ()

    def set_input(self, images: "Batch") -> None:
        """Store a batch, rounded to the type of the program's input.

        Raises `UsageError` for a batch of another shape.
        """
        import numpy as np
        import torch

        _fits(images, self._face)
        self._image = torch.from_numpy(np.array(images)).to(self._face.type).float()

    def run(self) -> None:
        """Run one inference; return when it is done."""
        self._outputs = self._compute(self._image)

    def wait(self) -> None:
        """Return at once: `run` has waited already."""

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return the outputs; each run computes new arrays."""
        return {name: value.numpy() for name, value in zip(self._names, self._outputs, strict=True)}


@contextmanager
def _on_processor(path: Path) -> Generator[_ProcessorSession]:
    """Open a session on this processor.

    Raises `UnavailableError` for a file that cannot be loaded.
    """
    yield _ProcessorSession(_load(path), _head(path))


def _in_single(program: "ExportedProgram") -> "Callable[[Tensor], tuple[Tensor, ...]]":
    """Return a function that computes the program of an image, with all weights in float32.

    Every result is rounded as its type says. A GPU's kernels for float16, which add up in float32, round no more.
    """
    import torch
    from torch.utils import _pytree as pytree

    narrow = {node.name for node in program.graph.nodes if _is_half(node.meta.get("val"))}

    class Rounding(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if n.name not in narrow:
                return result
            return pytree.tree_map_only(torch.Tensor, lambda value: value.half().float(), result)

    tensors: dict[str, Any] = {**program.constants, **program.state_dict}
    weights = {
        spec.arg.name: tensors[spec.target].detach()
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    }
    wide = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    arguments = [wide.get(node.name) for node in program.graph.nodes if node.op == "placeholder"]
    interpreter = Rounding(program.graph_module)

    def compute(image: "Tensor") -> "tuple[Tensor, ...]":
        with torch.no_grad():
            return interpreter.run(*(image if value is None else value for value in arguments))

    return compute


def _is_half(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@contextmanager
def _exact(torch: Any) -> Generator[None]:
    """Switch TF32 off, which is neither FP32 nor FP16, and let cuDNN time its kernels when a layer first runs."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


class TorchSession(gpu.GpuSession):
    """A session on a program on its GPU.

    The outputs are where the last run has put them, or where its graph always does. With channels last, the image has
    that order on the host already: changing the order is no part of a run.
    """

    def __init__(
        self,
        torch: Any,
        calls: TorchCuda,
        running: gpu.Running,
        program: "ExportedProgram",
        options: Mapping[str, Any],
        head: str,
    ) -> None:
        context = running.context
        timer = EventTimer(context, self._enqueue, running.mode, upload=self._send, download=self._bring)
        super().__init__(timer, running.monitor)
        self._torch, self._calls, self._stream = torch, calls, timer.stream
        self._face, outputs = _faces(program, head)
        self._channels_last = bool(options["channels_last"])
        self._network: Any = _placed(torch, calls, program, self._channels_last, _MODES[options["compile"]])
        self._memory, self._pinned = context.memory(self._face.size), context.pinned(self._face.size)
        calls.fill(self._memory, 255, self._stream)  # NaN, until it is fed
        n, c, h, w = self._face.shape
        flat = self._memory.native.view(self._face.type)
        self._image = flat.view(n, h, w, c).permute(0, 3, 1, 2) if self._channels_last else flat.view(n, c, h, w)
        self._hosts = {name: context.pinned(face.size) for name, face in outputs.items()}
        self._outputs: list[Any] = []

    def close(self) -> None:
        """Release everything on the GPU, before the GPU is closed."""
        self._network = self._image = None
        self._outputs = []

    def set_input(self, images: "Batch") -> None:
        """Copy a batch to the GPU, in the program's type and order.

        Raises `UsageError` for a batch of another shape.
        """
        import numpy as np

        _fits(images, self._face)
        ordered = images.transpose(0, 2, 3, 1) if self._channels_last else images
        typed = self._torch.from_numpy(np.ascontiguousarray(ordered)).to(self._face.type)
        self._pinned.native.copy_(typed.flatten().view(self._torch.uint8))
        self._send()
        self._calls.synchronise_stream(self._stream)

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return copies of the outputs."""
        self._bring()
        self._calls.synchronise_stream(self._stream)
        copies: dict[str, NDArray[np.floating]] = {}
        for (name, host), output in zip(self._hosts.items(), self._outputs, strict=True):
            copied = self._torch.frombuffer(bytearray(host.view), dtype=output.dtype)
            copies[name] = copied.as_strided(output.shape, output.stride()).numpy()
        return copies

    def _enqueue(self, stream: int) -> None:
        """Put one run into the current stream, which is the timer's."""
        with self._calls.doing("running the network"), self._torch.inference_mode():
            result = self._network(self._image)
            outputs = result if isinstance(result, tuple) else (result,)
            self._outputs = [self._dense(output) for output in outputs]

    def _dense(self, output: Any) -> Any:
        """Return an output without gaps, in whichever order it was computed."""
        for order in (self._torch.contiguous_format, self._torch.channels_last):
            if output.is_contiguous(memory_format=order):
                return output
        return output.contiguous()

    def _send(self) -> None:
        self._calls.upload(self._memory, self._pinned, self._stream)

    def _bring(self) -> None:
        for host, output in zip(self._hosts.values(), self._outputs, strict=True):
            self._calls.download(host, self._calls.memory_of(output), self._stream)


def _placed(torch: Any, calls: TorchCuda, program: "ExportedProgram", last: bool, mode: str | None) -> Any:
    """Return the program on the GPU that `calls` has opened, compiled in that mode of `torch.compile` if any."""
    from torch.export.passes import move_to_device_pass

    with calls.doing("loading the network"):
        network: Any = move_to_device_pass(program, calls.place).module()
        if last:
            network = network.to(memory_format=torch.channels_last)
        return network if mode is None else torch.compile(network, mode=mode)


BACKEND = PyTorch()
