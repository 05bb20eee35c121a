"""What backends share whose files are ONNX: how such a file is written, proved, counted and read.

A new one says its names and how a file is run; everything else has a default that fits a runtime on the processor.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench.backends import Engines, Hardware, Proving, Session, _onnx, _traffic, available_cores
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Device, ExportJob, LayerTime, Layout, Shape, Traffic

if TYPE_CHECKING:
    from torch import nn

    from fastvit_bench.backends import Batch


class OnnxFileBackend(ABC):
    """A toolkit that runs ONNX files; by default on the processor, with ``threads`` as its one option."""

    name: str
    target: str
    suffix: str
    product: str  # what the toolkit calls itself
    distribution: str  # the package that runs the files
    precisions: tuple[str, ...] = _onnx.PRECISIONS
    packages: tuple[str, ...] = _onnx.PACKAGES
    proof_packages: tuple[str, ...] = _onnx.RUNTIMES
    shaping: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    adopts: bool = False
    engines: Engines | None = None

    def missing(self, device: Device | None = None) -> str | None:
        """None where ONNX Runtime is installed, which proves the files."""
        return uninstalled("onnxruntime")

    def absent(self, device: Device) -> str | None:
        """None where the toolkit's package is installed."""
        return uninstalled(self.distribution)

    def identify(self, device: Device) -> Hardware | None:
        """None: the processor."""
        return None

    def settling(self, device: Device) -> Mapping[str, float]:
        """Empty: warmed up by runs alone."""
        return {}

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """The toolkit's own."""
        return (self.distribution,)

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """``threads`` of one operator, by default all."""
        return {"threads": threads(device, {"threads"})}

    def layout(self, options: Mapping[str, str]) -> Layout:
        """One convolution per layer, as in the published export."""
        return Layout(doubling="grouped")

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write an ONNX file of one shape, with one type inside and out."""
        self.require_precision(asked.precision)
        _onnx.write(network, asked, path, metadata)

    def require_precision(self, precision: str) -> None:
        """Raise `UsageError` for a precision that the toolkit has no files in."""
        if precision not in self.precisions:
            raise UsageError(f"{self.product} files are in {' or '.join(self.precisions)}, not in {precision}.")

    def proofs(self, path: Path, asked: ExportJob) -> Iterable[Proving]:
        """The file on this processor: its types are its arithmetic, whoever computes it."""
        yield Proving("", self.prover(asked), asked.shape, _onnx.as_typed(path, available_cores()))

    def prover(self, asked: ExportJob) -> str:
        """What computes the outputs that are compared, in words."""
        rounded = ", every result rounded to float16" if asked.precision == "fp16" else ""
        return f"ONNX Runtime on this processor{rounded}, not {self.product}"

    def operations(self, path: Path) -> dict[str, int]:
        """Kinds of the file's nodes; a runtime fuses many of them when it loads the file."""
        return _onnx.operations(path)

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """Of the ONNX file; what a runtime fuses moves less."""
        return _traffic.count(path, shape)

    def metadata(self, path: Path) -> dict[str, str]:
        """The file's metadata properties."""
        return _onnx.metadata(path)

    @abstractmethod
    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Load a file on a device whose options are filled in."""

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Raise `UsageError`: the times of layers are not told."""
        raise UsageError(self.unprofiled(device) or "")

    def unprofiled(self, device: Device) -> str | None:
        """A sentence, because the times of layers are not told."""
        return f"{self.product} tells no times of layers here; leave --profile out."


def uninstalled(package: str) -> str | None:
    """Why a package cannot be used and the way out, or None where it is installed. Imports nothing."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return f"the package {package} is not installed; run: pip install {package}"
    return None


def threads(device: Device, known: set[str]) -> int:
    """Return the option ``threads`` of a processor; raises `UsageError` for a wrong value and for unknown options."""
    if unknown := device.options.keys() - known:
        raise UsageError(
            f"Device '{device.name}' has an unknown option '{min(unknown)}'. Known: {', '.join(sorted(known))}."
        )
    count = device.options.get("threads", available_cores())
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"Device '{device.name}': threads = {count!r} must be a whole number above 0.")
    return count
