"""TensorRT-RTX: engines for a compute capability, built ahead of time on any machine, with or without a GPU.

It is a separate product beside TensorRT, for RTX cards, with its own parser, builder and kernels: neither its engines
nor its figures are TensorRT's. Building is also the only check of a file by NVIDIA's parser that needs no GPU.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from fastvit_bench import install
from fastvit_bench.backends._nvidia import cuda, engines
from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Device, Engine, GpuIdentity

_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")  # of the meta package, and of the wheel it depends on
_EXTRA = "rtx"
TURING = "7.5"  # of the RTX 2080 Ti, which the paper's GPU figures are of


class TensorRTRTX(engines.EngineBackend):
    """Strongly typed ONNX, and beside it an engine for one compute capability."""

    name = "tensorrt-rtx"
    target = "tensorrt-rtx"
    suffix = ".rtx.onnx"
    product = "TensorRT-RTX"
    distribution = "tensorrt-rtx"
    export_options = ("io", "dynamic", "input", "compute_capability")
    flags = export_options

    def unavailable_reason(self, device: Device | None = None) -> str | None:
        """Return why files cannot be written here and the remedy; None where the packages are installed."""
        return _uninstalled() or super().unavailable_reason(device)

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why engines cannot run here: the driver, or a missing package; None where they can."""
        try:
            cuda.probe()
        except UnavailableError as error:
            return str(error).rstrip(".")
        return _uninstalled() or binding.unavailable_reason(str(device.options["cuda_binding"]))

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return the options of every engine; ``compute_capability`` is 7.5, the RTX 2080 Ti's, by default."""
        options = super().options(device)
        return {**options, "compute_capability": options["compute_capability"] or TURING}

    def lacking(self, device: Device) -> str | None:
        """Return why no engine can be built here; only the package is needed, and no GPU."""
        return self.unavailable_reason()

    def engine(self, path: Path, device: Device) -> tuple[Path, engines.EngineTarget]:
        """Return ``NAME.rtx`` beside ``NAME.rtx.onnx``, and its target; the file's key has the compute capability."""
        capability = str(device.options["compute_capability"])
        target = engines.EngineTarget(self.name, self.toolkit().__version__, GpuIdentity(compute_capability=capability))
        return path.with_suffix(""), target

    def make(self, path: Path, engine: Path, target: engines.EngineTarget, settings: dict[str, str]) -> Engine:
        """Build the engine ahead of time: a model of the GPU chooses the kernels, so nothing is timed here."""
        trt = self.toolkit()
        wanted = target.card.compute_capability
        members = trt.ComputeCapability.__members__
        member = members.get("SM" + wanted.replace(".", ""))
        if member is None:
            known = [f"{name[2:-1]}.{name[-1]}" for name in members if name.startswith("SM")]
            raise UnavailableError(
                f"TensorRT-RTX {target.version} does not build for compute capability {wanted}; "
                f"it builds for {', '.join(known)}."
            )
        return engines.build(trt, path, engine, target, settings, onnx_name=path.name, capability=member)

    def toolkit(self) -> Any:
        """Return the module, by whichever of its names it is installed. Raises `UnavailableError` where it is not."""
        name = _module()
        if name is None:
            raise UnavailableError(f"The package tensorrt-rtx is not installed; run: {install.extra(_EXTRA)}.")
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # its native libraries are looked for while it is imported
            text = " ".join(str(error).split())
            raise UnavailableError(f"TensorRT-RTX cannot be imported: {text}; run: {install.extra(_EXTRA)}.") from error


def _uninstalled() -> str | None:
    """Return why the package cannot be used and the remedy; None where it is installed."""
    return None if _module() else f"the package tensorrt-rtx is not installed; run: {install.extra(_EXTRA)}"


def _module() -> str | None:
    """Return the first of the module's names that is installed, or None."""
    return next((name for name in _MODULES if importlib.util.find_spec(name)), None)


BACKEND = TensorRTRTX()
