"""TensorRT 10.12 and newer on NVIDIA GPUs: strongly typed ONNX anywhere, engines where a GPU and TensorRT are.

One way of building serves 10 and 11: the types stand in the file, and the network is declared strongly typed. Not
yet run against TensorRT itself, which only NVIDIA's own package index holds; tests drive it with a stand-in.
"""

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from fastvit_bench import cuda, files
from fastvit_bench.backends import _engines, _gpu
from fastvit_bench.cuda import binding
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Device, Engine

OLDEST = (10, 12)  # from here on every network can be strongly typed, and weak typing is deprecated

_INSTALL = "run: pip install 'fastvit-bench[tensorrt]'"


class TensorRT(_engines.EngineBackend):
    """Strongly typed ONNX, and an engine beside it for each GPU and version that exported it."""

    name = "tensorrt"
    target = "tensorrt"
    suffix = ".trt.onnx"
    product = "TensorRT"
    distribution = "tensorrt"

    def absent(self, device: Device) -> str | None:
        """The driver is asked first, and TensorRT not at all: without a driver it can end the process."""
        try:
            cuda.probe()
        except UnavailableError as error:
            return str(error).rstrip(".")
        return _uninstalled() or binding.missing(str(device.options["cuda_binding"]))

    def lacking(self, device: Device) -> str | None:
        """Engines are built on the GPU they are for."""
        return self.absent(device)

    def engine(self, path: Path, device: Device) -> tuple[Path, _engines.Place]:
        """Named after its key, so that engines of several GPUs and versions can lie side by side."""
        _, card = _gpu.gpu(device)
        place = _engines.Place("tensorrt", self.toolkit().__version__, card)
        key = _engines.key(files.file_sha256(path), place, _engines.settings_of(path, device))
        return path.with_name(f"{path.name.removesuffix(self.suffix)}.{key}.engine"), place

    def make(self, path: Path, engine: Path, place: _engines.Place, settings: dict[str, str]) -> Engine:
        """With the timings of kernels that earlier builds on this card left."""
        cache = _engines.timing_cache(path.parent, place)
        return _engines.build(self.toolkit(), path, engine, place, settings, onnx_name=path.name, cache=cache)

    def toolkit(self) -> Any:
        """The module `tensorrt`. Only called after the driver has answered."""
        lacking = _uninstalled()
        if lacking:
            raise UnavailableError(f"{lacking[0].upper()}{lacking[1:]}.")
        try:
            trt = importlib.import_module("tensorrt")
        except (ImportError, OSError) as error:  # its native libraries are looked for while it is imported
            raise UnavailableError(
                f"TensorRT cannot be imported: {' '.join(str(error).split())}; {_INSTALL}."
            ) from error
        lacking = _too_old(trt.__version__)
        if lacking:
            raise UnavailableError(f"{lacking}.")
        return trt


def _uninstalled() -> str | None:
    """Why TensorRT cannot be used, as far as can be said without importing it."""
    if importlib.util.find_spec("tensorrt") is None:
        return f"the package tensorrt is not installed; {_INSTALL}"
    try:
        return _too_old(importlib.metadata.version("tensorrt"))
    except importlib.metadata.PackageNotFoundError:  # from a system package or an archive of NVIDIA's
        return None


def _too_old(version: str) -> str | None:
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if parts >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return f"TensorRT {version} is installed, and strongly typed networks need {oldest} or newer; {_INSTALL}"


BACKEND = TensorRT()
