"""TensorRT 10.12 and newer on NVIDIA GPUs: strongly typed ONNX anywhere, engines where a GPU and TensorRT exist.

One way of building serves 10 and 11: the types are in the file, and the network is declared strongly typed. Not
yet run against TensorRT itself, which only NVIDIA's own package index has; tests drive it with a stand-in.
"""

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from fastvit_bench import files, install
from fastvit_bench.backends._nvidia import cuda, engines, gpu
from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Device, Engine

OLDEST = (10, 12)  # from here on every network can be strongly typed, and weak typing is deprecated

_EXTRA = "tensorrt"


class TensorRT(engines.EngineBackend):
    """Strongly typed ONNX, and an engine beside it for each GPU and version that exported it."""

    name = "tensorrt"
    target = "tensorrt"
    suffix = ".trt.onnx"
    product = "TensorRT"
    distribution = "tensorrt"

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why engines cannot run here and the remedy; None where they can.

        The driver is queried first, and TensorRT not at all: without a driver it can end the process.
        """
        try:
            cuda.probe()
        except UnavailableError as error:
            return str(error).rstrip(".")
        return _uninstalled() or binding.unavailable_reason(str(device.options["cuda_binding"]))

    def lacking(self, device: Device) -> str | None:
        """Return why no engine can be built here; engines are built on the GPU they are for."""
        return self.device_unavailable_reason(device)

    def engine(self, path: Path, device: Device) -> tuple[Path, engines.EngineTarget]:
        """Return the engine's path and target; its name holds its key.

        So engines of several GPUs and versions can share a folder.
        """
        _, card = gpu.gpu(device)
        target = engines.EngineTarget("tensorrt", self.toolkit().__version__, card)
        key = engines.key(files.file_sha256(path), target, engines.settings_of(path, device))
        return path.with_name(f"{path.name.removesuffix(self.suffix)}.{key}.engine"), target

    def make(self, path: Path, engine: Path, target: engines.EngineTarget, settings: dict[str, str]) -> Engine:
        """Build the engine with the kernel timings of earlier builds on this card."""
        cache = engines.timing_cache(path.parent, target)
        return engines.build(self.toolkit(), path, engine, target, settings, onnx_name=path.name, cache=cache)

    def toolkit(self) -> Any:
        """Return the module `tensorrt`; called only after the driver has answered.

        Raises `UnavailableError` where it is missing, too old or cannot be imported.
        """
        lacking = _uninstalled()
        if lacking:
            raise UnavailableError(f"{lacking[0].upper()}{lacking[1:]}.")
        try:
            trt = importlib.import_module("tensorrt")
        except (ImportError, OSError) as error:  # its native libraries are looked for while it is imported
            raise UnavailableError(
                f"TensorRT cannot be imported: {' '.join(str(error).split())}; run: {install.extra(_EXTRA)}."
            ) from error
        lacking = _too_old(trt.__version__)
        if lacking:
            raise UnavailableError(f"{lacking}.")
        return trt


def _uninstalled() -> str | None:
    """Return why TensorRT cannot be used, as far as is known without importing it; None where nothing is wrong."""
    if importlib.util.find_spec("tensorrt") is None:
        return f"the package tensorrt is not installed; run: {install.extra(_EXTRA)}"
    try:
        return _too_old(importlib.metadata.version("tensorrt"))
    except importlib.metadata.PackageNotFoundError:  # from a system package or an archive of NVIDIA's
        return None


def _too_old(version: str) -> str | None:
    """Return a message for a version older than `OLDEST`, and None for any newer one."""
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if parts >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return (
        f"TensorRT {version} is installed, and strongly typed networks need {oldest} or newer; "
        f"run: {install.extra(_EXTRA)}"
    )


BACKEND = TensorRT()
