"""ONNX files in OpenVINO on the processor: FP32, and BF16 where the processor has instructions for it.

Either way the file holds float32 numbers. For BF16 OpenVINO rounds weights and results to bfloat16 while it loads the
file, sums products in float32, and returns float32.
"""

import importlib
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fastvit_bench import files, install
from fastvit_bench.backends import INPUT, Images, Session, VerificationRun
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._onnx import quantise as onnx_quantise
from fastvit_bench.backends._onnx.backend import OnnxFileBackend, uninstalled
from fastvit_bench.backends._text import printable
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, ExportJob, LayerTime, Shape, Traffic, Window
from fastvit_bench.stats.intervals import median

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.backends import Batch

# precision -> OpenVINO's name of its float arithmetic; its own default differs by processor
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
ROUNDING_KERNELS = {"bf16": "BF16", "int8": "INT8 kernels"}  # precision -> the check of what OpenVINO rounds itself
HOW = "OpenVINO on this processor"
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # OpenVINO takes AVX-512 alone for BF16, and then converts around float32
CPUINFO = Path("/proc/cpuinfo")
_ARITHMETIC = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}  # layers that are nearly all of the work
_UNTIMED = 5  # runs before those of a profile


class OpenVINOSession(Session):
    """A compiled model, and one request whose input all runs share."""

    window = Window.COMPUTE

    def __init__(self, compiled: Callable[[], Any]) -> None:
        self._compiled = compiled
        self.model = compiled()
        self.request = self.model.create_infer_request()
        self.images = Images.PIXELS if self.request.get_input_tensor().data.dtype == "uint8" else Images.TENSOR

    def set_input(self, images: "Batch") -> None:
        """Copy a batch into the request. Raises `UsageError` for a batch of a different shape."""
        expected = list(self.model.input().shape)
        if list(images.shape) != expected:
            raise UsageError(f"The model takes {INPUT} {expected}, not {list(images.shape)}.")
        self.request.get_input_tensor().data[:] = images

    def run(self) -> None:
        """Run one inference; the call returns when it is done."""
        self.request.infer(share_outputs=True)

    def wait(self) -> None:
        """Return at once: the processor has no work left."""

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return copies of the outputs, by name."""
        return {output.any_name: self.request.get_tensor(output).data.copy() for output in self.model.outputs}

    def clone(self) -> "OpenVINOSession":
        """Return a session that is compiled anew, because one compiled model has a single stream of runs."""
        return OpenVINOSession(self._compiled)


class OpenVINO(OnnxFileBackend):
    """A backend for OpenVINO on this machine's processor, in one stream of all its threads."""

    name = target = distribution = "openvino"
    suffix = ".openvino.onnx"
    product = "OpenVINO"
    precisions = tuple(HINTS)
    proof_packages = ("openvino",)
    scheme = onnx_quantise.OPENVINO

    def unavailable_reason(self, device: Device | None = None) -> str | None:
        """Return why files cannot be written here: OpenVINO proves them, in the precision of the device."""
        if uninstalled(self.distribution):
            return f"the package openvino is not installed; run: {install.extra('openvino')}"
        return self.device_unavailable_reason(device) if device else None

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why the processor cannot run the device's precision, or None."""
        return _without_bf16() if device.precision == "bf16" else None

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write an ONNX file in float32, also for BF16, which is how OpenVINO computes and not how it is stored."""
        self.require_precision(asked.precision)
        super().export(network, msgspec.structs.replace(asked, precision="fp32"), path, metadata)

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """Count the file's arithmetic and bytes; in BF16 every number takes two bytes, once OpenVINO has loaded it."""
        counted = super().traffic(path, shape)
        if counted is None or self.metadata(path).get("fastvit_bench.precision") != "bf16":
            return counted
        halved = {name: getattr(counted, name) // 2 for name in ("weight_bytes", "read_bytes", "written_bytes")}
        return msgspec.structs.replace(counted, **halved)

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield the file in OpenVINO's FP32 on this processor and, for BF16, as it will be timed.

        The first proof judges the file, whose numbers are float32, by the narrow limit of float32. The second judges
        the rounding of the arithmetic.
        """
        if asked.precision == "int8":
            yield self.operators(path, asked)
        else:
            fp32 = msgspec.structs.replace(asked.device, precision="fp32")
            yield VerificationRun("", f"{HOW}, in float32", asked.shape, self.open(path, fp32), precision="fp32")
        if name := ROUNDING_KERNELS.get(asked.precision):
            how = f"{HOW}, in {asked.precision}"
            yield VerificationRun(name, how, asked.shape, self.open(path, asked.device), "hardware")

    @contextmanager
    def open(self, path: Path, device: Device) -> Generator[OpenVINOSession]:
        """Load a file. Raises `UnavailableError` if it cannot be loaded, or runs in another precision than asked."""
        yield _loaded(path, device, profiled=False)

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Return the median times of the layers that OpenVINO makes of the nodes, in run order, whole microseconds.

        Their kind has the precision of the kernel that ran, as in ``Convolution bf16``. Those that were fused into
        others have no time of their own.
        """
        session = _loaded(path, device, profiled=True)
        session.set_input(images)
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(_UNTIMED + runs):
            session.run()
            for layer in session.request.profiling_info:
                if layer.status == layer.Status.EXECUTED:
                    key = layer.node_name, f"{layer.node_type} {layer.exec_type.rpartition('_')[2]}"
                    times.setdefault(key, []).append(layer.real_time.total_seconds())
        return tuple(
            LayerTime(name, kind, onnx_model.block_of(name), round(1e9 * median(durations[-runs:])))
            for (name, kind), durations in times.items()
        )

    def unprofiled(self, device: Device) -> str | None:
        """Return None: every device has times of layers."""
        return None


def _without_bf16() -> str | None:
    """Return why BF16 cannot run here, by the instruction sets that Linux reports; None where it can."""
    try:
        lines = files.read_text(CPUINFO, files.PROGRAM).splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    if BF16_FLAGS.isdisjoint(flags):
        return f"this processor has no BF16 arithmetic ({' or '.join(sorted(BF16_FLAGS))}); use --precision fp32"
    return None


def _loaded(path: Path, device: Device, *, profiled: bool) -> OpenVINOSession:
    """Open a session on a file; `profiled` ones time their layers. Raises as `OpenVINO.open` does."""
    onnx_model.read(path)  # refuses what is no such file, or too large
    if lacking := BACKEND.device_unavailable_reason(device):
        raise UnavailableError(f"{path.name} cannot run in BF16: {lacking}.")
    wanted, threads = HINTS[device.precision], int(device.options["threads"])
    settings = {
        "INFERENCE_PRECISION_HINT": wanted,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,  # else it leaves logical processors out, and `threads` is not what runs
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "PERF_COUNT": profiled,
    }
    try:
        core = _toolkit().Core()
        model = core.read_model(path)
        session = OpenVINOSession(lambda: core.compile_model(model, "CPU", settings))
    except RuntimeError as error:  # all that its C++ throws
        raise UnavailableError(f"OpenVINO cannot load {path.name}: {printable(error).rstrip('.')}.") from error
    if (count := session.model.get_property("INFERENCE_NUM_THREADS")) != threads:
        raise UnavailableError(
            f"OpenVINO runs {path.name} in {count} threads, not {threads}; set `threads` to {count}."
        )
    layers = [layer.rt_info for layer in session.model.get_runtime_model().get_ops()]
    ran = [info["runtimePrecision"].astype(str) for info in layers if info["layerType"].astype(str) in _ARITHMETIC]
    if device.precision == "int8":
        integer, _ = onnx_quantise.arithmetic(onnx_model.read(path))
        least = sum(integer.get(kind, 0) for kind in onnx_quantise.PRODUCTS)
        if (count := sum(precision in {"u8", "i8"} for precision in ran)) < least:
            raise UnavailableError(
                f"OpenVINO runs {count} convolutions and matrix products of {path.name} in 8-bit integers, and the "
                f"file has {least} such, so it would not be INT8."
            )
    elif others := sorted({precision for precision in ran if precision != wanted}):
        raise UnavailableError(
            f"OpenVINO runs {len(ran) - ran.count(wanted)} of {len(ran)} convolutions and matrix products of "
            f"{path.name} in {' and '.join(others)}, not in {wanted}, so it would not be {device.precision.upper()}."
        )
    return session


def _toolkit() -> Any:
    """Import and return OpenVINO, without telemetry that would write to the home folder and call a server at once."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # a stub of its own takes its place
    return importlib.import_module("openvino")


BACKEND = OpenVINO()
