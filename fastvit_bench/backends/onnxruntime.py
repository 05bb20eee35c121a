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

import msgspec

from fastvit_bench import install
from fastvit_bench.backends import INPUT, Hardware, Session, VerificationRun
from fastvit_bench.backends._nvidia import cuda
from fastvit_bench.backends._nvidia import gpu as nvidia_gpu
from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.backends._nvidia.cuda.timing import EventSession
from fastvit_bench.backends._onnx import export as onnx_export
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends._onnx.backend import OnnxFileBackend, image_input, threads
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import FastViTBenchError, UnavailableError, UsageError
from fastvit_bench.records import Device, ExportJob, LayerTime

if TYPE_CHECKING:
    from torch import nn

    from fastvit_bench.backends import Batch

PROVIDERS = ("cpu", "cuda")  # option provider: what runs the operators
_CUDA = "CUDAExecutionProvider"
_CUDA_LIBRARIES = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cublas")  # its kernels
_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory")  # in its messages, which have no numbers for it


class OnnxRuntime(OnnxFileBackend):
    """A backend for ONNX Runtime, on the processor or on an NVIDIA GPU.

    Its CPU provider stores FP16 files' values as such, and computes most of them wider.
    """

    name = "onnxruntime"
    target = "onnx"
    suffix = ".onnx"
    product = "ONNX Runtime"
    distribution = "onnxruntime"
    precisions = (*OnnxFileBackend.precisions, "int8")
    accepts_external_onnx = True
    export_options = (*OnnxFileBackend.export_options, "batches")
    flags = (*OnnxFileBackend.flags, "batches")

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why the device cannot be used, and the remedy, or None; the processor always can be.

        For a GPU the driver is asked first, then whether the CUDA provider and the binding are installed.
        """
        if not _on_gpu(device):
            return None
        try:
            cuda.probe()
        except UnavailableError as error:
            return str(error).rstrip(".")
        return _without_cuda() or binding.unavailable_reason(str(device.options["cuda_binding"]))

    def detect_hardware(self, device: Device) -> Hardware | None:
        """Return the GPU, asked of the NVIDIA driver, or None for the processor."""
        return nvidia_gpu.detect_hardware(device) if _on_gpu(device) else None

    def warmup_policy(self, device: Device) -> Mapping[str, float]:
        """Return the settings by which every GPU is warmed up; none for the processor, warmed up by runs alone."""
        return nvidia_gpu.SETTLING if _on_gpu(device) else {}

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Return the packages that provide ONNX Runtime; for a GPU also those of CUDA's libraries, and the binding."""
        if not _on_gpu(device):
            return onnx_session.RUNTIMES
        return (*onnx_session.RUNTIMES, *_CUDA_LIBRARIES, *nvidia_gpu.binding_packages(device))

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return ``provider`` and a GPU's options for cuda; for the processor ``threads`` of one operator.

        Their default is all threads. With ``batches``, such as 1..8, files are for any batch within. Without it, and
        for the processor's provider, nothing is added, so that figures remain comparable with those from before there
        was a choice. Raises `UsageError` for unknown options and values.
        """
        provider = device.options.get("provider", PROVIDERS[0])
        if provider not in PROVIDERS:
            raise UsageError(f"Device '{device.name}': provider = {provider!r} must be {' or '.join(PROVIDERS)}.")
        if _on_gpu(device):
            if device.precision == "int8":
                raise UsageError(f"Device '{device.name}': INT8 runs on the processor only; leave `provider` out.")
            nvidia_gpu.only_known(device, {"provider", "input", *nvidia_gpu.NAMES})
            return {"provider": provider, **nvidia_gpu.options(device), **image_input(device)}
        known = {"provider", "threads", "input", "batches"}
        options: dict[str, str | int | float | bool] = {"threads": threads(device, known), **image_input(device)}
        if text := str(device.options.get("batches", "")):
            try:
                batches = onnx_export.batches(text)
            except UsageError as error:
                raise UsageError(f"Device '{device.name}': batches = {text!r}: {error}.") from None
            if batches and not batches.least <= device.batch <= batches.most:
                raise UsageError(f"Device '{device.name}': batches of {device.batch} are not within {text}.")
            options["batches"] = text
        return options

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write an ONNX file of one shape, or with ``batches`` for any batch, as `OnnxFileBackend.export` does."""
        self.require_precision(asked.precision)
        onnx_export.write(network, asked, path, metadata, any_batch="batches" in asked.options)

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield the file on this processor: as it will be timed on it or, for a GPU, as its types say.

        A file for several batches is looked at with its own, the smallest, the largest and one between.
        """
        if _on_gpu(asked.device):
            yield from super().verification_sessions(path, asked)
            return
        if asked.precision == "int8":
            yield self.operators(path, asked)
            how = "ONNX Runtime's kernels on this processor"
            yield VerificationRun("INT8 kernels", how, asked.shape, self.open(path, asked.device), "hardware")
            return
        how, range_ = "ONNX Runtime on this processor", onnx_export.batches(asked.options.get("batches", ""))
        own = asked.shape.batch
        for batch in dict.fromkeys((own, range_.least, sum(range_) // 2, range_.most) if range_ else (own,)):
            shape = msgspec.structs.replace(asked.shape, batch=batch)
            name = f"batch {batch}" if range_ else ""
            yield VerificationRun(name, how, shape, self.open(path, asked.device))

    def prover(self, asked: ExportJob) -> str:
        """Return the words for ONNX Runtime on this processor, which computes the outputs that are compared."""
        return super().prover(asked).removesuffix(f", not {self.product}")

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Return the times of the nodes that ONNX Runtime makes of the file's, on the processor.

        Raises `UsageError` for a GPU, for which its trace times the host.
        """
        if refusal := self.unprofiled(device):
            raise UsageError(refusal)
        return onnx_session.profiled(path, _threads(device), images, runs)

    def unprofiled(self, device: Device) -> str | None:
        """Return why layers are not timed on a GPU, or None for the processor."""
        return (
            "ONNX Runtime reports times of layers on the processor only; leave --profile out."
            if _on_gpu(device)
            else None
        )

    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Open a session on the device's provider and no other, with all graph optimisations."""
        return _through_cuda(path, device) if _on_gpu(device) else onnx_session.on_processor(path, _threads(device))


def _on_gpu(device: Device) -> bool:
    return device.options.get("provider") == "cuda"


def _threads(device: Device) -> int:
    return int(device.options["threads"])


# --- on a GPU ---------------------------------------------------------------------------------------------------------

_Face = tuple[Any, tuple[int, ...]]  # type, as NumPy's, and shape of an input or output


class _Ready(NamedTuple):
    """A session with its bound buffers and the options of its runs."""

    session: Any
    bound: Any
    options: Any


def _remedy() -> str:
    """Return the commands that install the package for CUDA in place of the one for processors."""
    return f"run: {install.pip('uninstall', 'onnxruntime')}, then: {install.packages('onnxruntime-gpu[cuda,cudnn]')}"


def _without_cuda() -> str | None:
    """Return why the installed package has no CUDA provider, and the remedy, or None. Imports nothing."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    places = spec.submodule_search_locations or []
    if any(list(Path(place, "capi").glob("*onnxruntime_providers_cuda.*")) for place in places):
        return None
    return f"the installed onnxruntime has no CUDA provider; {_remedy()}"


@contextmanager
def _through_cuda(path: Path, device: Device) -> Generator[Session]:
    """Open a session whose CUDA provider works in our stream and buffers; it captures the graph itself.

    Versions of ONNX Runtime without pull request 28686 (May 2026) wait for each replay of a graph before they return.
    With those, a run ends some microseconds later, when the host has noticed.
    """
    model = onnx_model.read(path).graph
    faces = {value.name: _face(value) for value in (*model.input, *model.output)}
    types, shapes = ({name: face[part] for name, face in faces.items()} for part in (0, 1))
    sizes = {name: math.prod(shape) * kind().itemsize for name, (kind, shape) in faces.items()}
    with nvidia_gpu.running(device) as running:
        # one session, once its stream exists; nothing else may refer to it, not even an error's frames, so that it is
        # freed before the stream
        sessions: list[_Ready] = []

        def enqueue(stream: int) -> None:
            try:
                sessions[0].session.run_with_iobinding(sessions[0].bound, sessions[0].options)
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
        sessions.append(_ready(_session(path, gpu, timer.stream.handle, graph), gpu, faces, timer.pointers))
        try:
            yield nvidia_gpu.BufferedSession(timer, running.monitor, types, shapes)
        finally:  # before the stream and the buffers are freed
            sessions.clear()


def _session(path: Path, gpu: int, stream: int, graph: bool) -> Any:
    """Open a session on the GPU and that stream.

    Raises `UnavailableError` where a single operator would run on the processor.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = {
        "device_id": str(gpu),
        "user_compute_stream": str(stream),
        "use_tf32": "0",  # on by default, and neither FP32 nor FP16
        "enable_cuda_graph": str(int(graph)),
    }
    if hasattr(ort, "preload_dlls"):  # CUDA's libraries may be in packages of their own, where no loader looks
        ort.preload_dlls()
    try:
        # without fallback: the package would print a warning and go on with the processor
        session = ort.InferenceSession(path, options, providers=[(_CUDA, settings)], enable_fallback=0)
    except MemoryError:
        raise
    except Exception as error:  # its exceptions share no base class but this one
        raise _failure(f"loading {path.name}", error) from error
    if _CUDA not in session.get_providers():
        del session  # before the stream is freed
        raise UnavailableError(
            f"ONNX Runtime would run {path.name} on the processor, because its CUDA provider did not load; "
            f"check that its CUDA and cuDNN are installed, or {_remedy()}."
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
    """Return the error, in one sentence, for what ONNX Runtime raised."""
    message, full = first_line(error), str(error)
    match = re.search(r"CUDA failure (\d+)", full)
    out_of_memory = binding.OUT_OF_MEMORY if any(text in full for text in _OUT_OF_MEMORY) else None
    code = int(match[1]) if match else out_of_memory
    if code is not None:
        return binding.failure(doing, code, message)
    return UnavailableError(f"ONNX Runtime failed on the GPU while {doing}: {message}.")


def _face(value: Any) -> _Face:
    """Return the type and shape of an input or output of an ONNX graph."""
    import onnx

    tensor = value.type.tensor_type
    kind: Any = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).type
    return kind, tuple(size.dim_value for size in tensor.shape.dim)


BACKEND = OnnxRuntime()
