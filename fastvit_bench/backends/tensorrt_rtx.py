"""TensorRT-RTX: engines for a compute capability, built ahead of time on any machine, with or without a GPU.

It is a product of its own beside TensorRT, for RTX cards, with its own parser, builder and kernels: neither its engines
nor its figures are TensorRT's. Building is also the one check of a file by NVIDIA's parser that needs no GPU.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from fastvit_bench import cuda
from fastvit_bench.backends import _engines
from fastvit_bench.cuda import binding
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Card, Device, Engine

_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")  # of the meta package, and of the wheel it depends on
_INSTALL = "run: pip install 'fastvit-bench[rtx]'"
TURING = "7.5"  # of the RTX 2080 Ti, which the paper's GPU figures are of


class TensorRTRTX(_engines.EngineBackend):
    """Strongly typed ONNX, and beside it an engine for one compute capability."""

    name = "tensorrt-rtx"
    target = "tensorrt-rtx"
    suffix = ".rtx.onnx"
    product = "TensorRT-RTX"
    distribution = "tensorrt-rtx"
    shaping = ("io", "dynamic", "compute_capability")
    flags = shaping

    def missing(self, device: Device | None = None) -> str | None:
        """None where the package is installed."""
        return _uninstalled() or super().missing(device)

    def absent(self, device: Device) -> str | None:
        """The driver is asked, and the packages that run engines are looked for."""
        try:
            cuda.probe()
        except UnavailableError as error:
            return str(error).rstrip(".")
        return _uninstalled() or binding.missing(str(device.options["cuda_binding"]))

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Those of every engine, and ``compute_capability``, by default 7.5, the RTX 2080 Ti's."""
        found = super().options(device)
        return {**found, "compute_capability": found["compute_capability"] or TURING}

    def lacking(self, device: Device) -> str | None:
        """None: engines are built ahead of time, wherever the package is."""
        return self.missing()

    def engine(self, path: Path, device: Device) -> tuple[Path, _engines.Place]:
        """``NAME.rtx`` beside ``NAME.rtx.onnx``; the key of the file holds the compute capability."""
        capability = str(device.options["compute_capability"])
        place = _engines.Place(self.name, self.toolkit().__version__, Card(compute_capability=capability))
        return path.with_suffix(""), place

    def make(self, path: Path, engine: Path, place: _engines.Place, settings: dict[str, str]) -> Engine:
        """Ahead of time: kernels are chosen by a model of the GPU, so there is nothing to time here."""
        trt = self.toolkit()
        wanted = place.card.compute_capability
        members = trt.ComputeCapability.__members__
        found = members.get("SM" + wanted.replace(".", ""))
        if found is None:
            known = [f"{name[2:-1]}.{name[-1]}" for name in members if name.startswith("SM")]
            raise UnavailableError(
                f"TensorRT-RTX {place.version} does not build for compute capability {wanted}; "
                f"it builds for {', '.join(known)}."
            )
        return _engines.build(trt, path, engine, place, settings, onnx_name=path.name, capability=found)

    def toolkit(self) -> Any:
        """The module, by whichever of its names it is installed."""
        name = _module()
        if name is None:
            raise UnavailableError(f"The package tensorrt-rtx is not installed; {_INSTALL}.")
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # its native libraries are looked for while it is imported
            text = " ".join(str(error).split())
            raise UnavailableError(f"TensorRT-RTX cannot be imported: {text}; {_INSTALL}.") from error


def _uninstalled() -> str | None:
    return None if _module() else f"the package tensorrt-rtx is not installed; {_INSTALL}"


def _module() -> str | None:
    return next((name for name in _MODULES if importlib.util.find_spec(name)), None)


BACKEND = TensorRTRTX()
