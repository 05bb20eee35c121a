"""ONNX files, and ONNX Runtime to run them: on the processor, or through its CUDA provider on an NVIDIA GPU."""

import importlib.util
import math
import re
import traceback
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastvit_bench import cuda
from fastvit_bench.backends import INPUT, Hardware, Proving, Session, _gpu, _onnx
from fastvit_bench.backends._onnx_file import OnnxFileBackend, threads
from fastvit_bench.cuda import binding
from fastvit_bench.cuda.timing import EventSession
from fastvit_bench.errors import FastViTBenchError, UnavailableError, UsageError
from fastvit_bench.records import Device, ExportJob, LayerTime, Layout

if TYPE_CHECKING:
    from fastvit_bench.backends import Batch

PROVIDERS = ("cpu", "cuda")  # option provider: what runs the operators
_CUDA = "CUDAExecutionProvider"
_INSTALL = "run: pip uninstall onnxruntime, then: pip install 'onnxruntime-gpu[cuda,cudnn]'"
_CUDA_LIBRARIES = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cublas")  # its kernels
_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory")  # in its messages, which have no numbers for it


class OnnxRuntime(OnnxFileBackend):
    """ONNX Runtime; its CPU provider stores FP16 files' values as such, and computes most of them wider."""

    name = "onnxruntime"
    target = "onnx"
    suffix = ".onnx"
    product = "ONNX Runtime"
    distribution = "onnxruntime"
    adopts = True

    def absent(self, device: Device) -> str | None:
        """None for the processor. Of a GPU the driver is asked first, then whether the CUDA provider is installed."""
        if not _on_gpu(device):
            return None
        try:
            cuda.probe()
        except UnavailableError as error:
            return str(error).rstrip(".")
        return _without_cuda() or binding.missing(str(device.options["cuda_binding"]))

    def identify(self, device: Device) -> Hardware | None:
        """The GPU, asked of the NVIDIA driver; None for the processor."""
        return _gpu.identify(device) if _on_gpu(device) else None

    def settling(self, device: Device) -> Mapping[str, float]:
        """As every GPU is warmed up; the processor by runs alone."""
        return _gpu.SETTLING if _on_gpu(device) else {}

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Whatever brings ONNX Runtime; of a GPU also CUDA's libraries that come as packages, and the binding."""
        if not _on_gpu(device):
            return _onnx.RUNTIMES
        return (*_onnx.RUNTIMES, *_CUDA_LIBRARIES, *_gpu.binding_packages(device))

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """``provider``, and a GPU's options for cuda; for the processor ``threads`` of one operator, by default all.

        The processor's provider is left out, so that its figures stand with those from before there was a choice.
        """
        provider = device.options.get("provider", PROVIDERS[0])
        if provider not in PROVIDERS:
            raise UsageError(f"Device '{device.name}': provider = {provider!r} must be {' or '.join(PROVIDERS)}.")
        if _on_gpu(device):
            _gpu.only_known(device, {"provider", *_gpu.NAMES})
            return {"provider": provider, **_gpu.options(device)}
        return {"threads": threads(device, {"provider", "threads"})}

    def layout(self, options: Mapping[str, str]) -> Layout:
        """Split: ONNX Runtime's depthwise kernels are quicker than its grouped ones (benchmarks/against_timm.py)."""
        return Layout()

    def proofs(self, path: Path, asked: ExportJob) -> Iterable[Proving]:
        """The file on this processor: as it will be timed there, or, for a GPU, as its types say."""
        if _on_gpu(asked.device):
            yield from super().proofs(path, asked)
        else:
            yield Proving("", "ONNX Runtime on this processor", asked.shape, self.open(path, asked.device))

    def prover(self, asked: ExportJob) -> str:
        """ONNX Runtime itself, on the processor."""
        return super().prover(asked).removesuffix(f", not {self.product}")

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Of the nodes that ONNX Runtime makes of the file's, on the processor; of a GPU its trace times the host."""
        if refusal := self.unprofiled(device):
            raise UsageError(refusal)
        return _onnx.profiled(path, _threads(device), images, runs)

    def unprofiled(self, device: Device) -> str | None:
        """None for the processor."""
        return (
            "ONNX Runtime tells times of layers on the processor only; leave --profile out."
            if _on_gpu(device)
            else None
        )

    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """A session on the device's provider and no other, with all graph optimisations."""
        return _through_cuda(path, device) if _on_gpu(device) else _onnx.on_processor(path, _threads(device))


def _on_gpu(device: Device) -> bool:
    return device.options.get("provider") == "cuda"


def _threads(device: Device) -> int:
    return int(device.options["threads"])


# --- on a GPU ---------------------------------------------------------------------------------------------------------

_Face = tuple[Any, tuple[int, ...]]  # type, as NumPy's, and shape of an input or output


class _Ready(NamedTuple):
    """What running takes."""

    session: Any
    bound: Any
    options: Any


def _without_cuda() -> str | None:
    """Why the installed package has no CUDA provider, and the way out, or None. Imports nothing."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    places = spec.submodule_search_locations or []
    if any(list(Path(place, "capi").glob("*onnxruntime_providers_cuda.*")) for place in places):
        return None
    return f"the installed onnxruntime has no CUDA provider; {_INSTALL}"


@contextmanager
def _through_cuda(path: Path, device: Device) -> Generator[Session]:
    """Buffers and a stream of ours, in which the CUDA provider puts its work; it captures the graph itself.

    Versions of ONNX Runtime without pull request 28686 (May 2026) wait for each replay of a graph before they return,
    so that a run then ends some microseconds later, when the host has noticed.
    """
    model = _onnx.read(path).graph
    faces = {value.name: _face(value) for value in (*model.input, *model.output)}
    types, shapes = ({name: face[part] for name, face in faces.items()} for part in (0, 1))
    sizes = {name: math.prod(shape) * kind().itemsize for name, (kind, shape) in faces.items()}
    with _gpu.running(device) as running:
        # one, once the stream it needs is there; named nowhere else, an error's frames included, so that it goes before
        # the stream does
        held: list[_Ready] = []

        def enqueue(stream: int) -> None:
            try:
                held[0].session.run_with_iobinding(held[0].bound, held[0].options)
            except Exception as error:  # its exceptions share no base class but this one
                traceback.clear_frames(error.__traceback__)
                raise _failure(f"running {path.name}", error) from error

        timer = EventSession(
            running.context,
            enqueue,
            {INPUT: sizes[INPUT]},
            {name: size for name, size in sizes.items() if name != INPUT},
            replace(running.mode, graph=False),
        )
        gpu, graph = running.context.index, bool(running.mode.graph)
        held.append(_ready(_session(path, gpu, timer.stream.handle, graph), gpu, faces, timer.pointers))
        try:
            yield _gpu.BufferedSession(timer, running.monitor, types, shapes)
        finally:  # before the stream and the buffers are given back
            held.clear()


def _session(path: Path, gpu: int, stream: int, graph: bool) -> Any:
    """On the GPU and that stream; `UnavailableError` where a single operator would run on the processor."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    told = {
        "device_id": str(gpu),
        "user_compute_stream": str(stream),
        "use_tf32": "0",  # on by default, and neither FP32 nor FP16
        "enable_cuda_graph": str(int(graph)),
    }
    if hasattr(ort, "preload_dlls"):  # CUDA's libraries may lie in packages of their own, where no loader looks
        ort.preload_dlls()
    try:
        # without fallback: the package would print a warning and go on with the processor
        session = ort.InferenceSession(path, options, providers=[(_CUDA, told)], enable_fallback=0)
    except MemoryError:
        raise
    except Exception as error:  # its exceptions share no base class but this one
        raise _failure(f"loading {path.name}", error) from error
    if _CUDA not in session.get_providers():
        del session  # before the stream goes
        raise UnavailableError(
            f"ONNX Runtime would run {path.name} on the processor, because its CUDA provider did not load; "
            f"check that its CUDA and cuDNN are installed, or {_INSTALL}."
        )
    return session


def _ready(session: Any, gpu: int, faces: Mapping[str, _Face], pointers: Mapping[str, int]) -> _Ready:
    """Bind a session to our buffers, for runs that return when their work is in the stream."""
    import onnxruntime as ort

    bound = session.io_binding()
    for name, (kind, shape) in faces.items():
        bind = bound.bind_input if name == INPUT else bound.bind_output
        bind(name, "cuda", gpu, kind, shape, pointers[name])
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return _Ready(session, bound, options)


def _failure(doing: str, error: Exception) -> FastViTBenchError:
    """One sentence for what ONNX Runtime raised."""
    told = _onnx.first_line(error)
    known = re.search(r"CUDA failure (\d+)", told)
    code = int(known[1]) if known else binding.OUT_OF_MEMORY if any(text in told for text in _OUT_OF_MEMORY) else None
    if code is not None:
        return binding.failure(doing, code, told)
    return UnavailableError(f"ONNX Runtime failed on the GPU while {doing}: {told}.")


def _face(value: Any) -> _Face:
    """Of an input or output of an ONNX graph."""
    import onnx

    tensor = value.type.tensor_type
    kind: Any = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).type
    return kind, tuple(size.dim_value for size in tensor.shape.dim)


BACKEND = OnnxRuntime()
