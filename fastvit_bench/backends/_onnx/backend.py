"""The base class of backends whose files are ONNX: it writes, proves, counts and reads such files.

A subclass sets its names and runs a file; all other methods have a default that fits a runtime on the processor.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench import install
from fastvit_bench.backends import (
    Engines,
    Hardware,
    QuantisedTwins,
    Quantiser,
    Session,
    VerificationRun,
    available_cores,
)
from fastvit_bench.backends._onnx import export as onnx_export
from fastvit_bench.backends._onnx import model, session, typed_int8
from fastvit_bench.backends._onnx import quantise as onnx_quantise
from fastvit_bench.backends._onnx import traffic as onnx_traffic
from fastvit_bench.errors import UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import Device, ExportJob, ExportSpec, GraphVariant, LayerTime, Shape, Traffic
from fastvit_bench.records.spec import Triple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.backends import Batch


class OnnxFileBackend(ABC):
    """A toolkit that runs ONNX files; by default on the processor, with ``threads`` as its one option."""

    name: str
    target: str
    suffix: str
    product: str  # the toolkit's own name
    distribution: str  # the package that runs the files
    scheme: onnx_quantise.Scheme = onnx_quantise.PROCESSOR  # of files in INT8
    precisions: tuple[str, ...] = onnx_export.PRECISIONS
    packages: tuple[str, ...] = onnx_export.PACKAGES
    proof_packages: tuple[str, ...] = session.RUNTIMES
    export_options: tuple[str, ...] = ("input",)
    flags: tuple[str, ...] = ("input",)
    accepts_external_onnx: bool = False
    engines: Engines | None = None
    rounder = None

    def unavailable_reason(self, device: Device | None = None) -> str | None:
        """Return why files cannot be written here; ONNX Runtime, which proves them, must be installed."""
        return uninstalled("onnxruntime")

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why files cannot be run here; the toolkit's package must be installed."""
        return uninstalled(self.distribution)

    def detect_hardware(self, device: Device) -> Hardware | None:
        """Return None: files run on this machine's processor."""
        return None

    def warmup_policy(self, device: Device) -> Mapping[str, float]:
        """Return no fields: runs alone warm the device up."""
        return {}

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Return the toolkit's own distribution."""
        return (self.distribution,)

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return ``threads``, the threads of one operator, by default all, and ``input`` where it is an image."""
        return {"threads": threads(device, {"threads", "input"}), **image_input(device)}

    def layout(self, exported: ExportSpec) -> GraphVariant:
        """Return the split form: processors compute depthwise convolutions quicker than grouped ones.

        Measured by benchmarks/against_timm.py for ONNX Runtime.
        """
        return GraphVariant(std=image_std(exported))

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write an ONNX file of one shape, whose input and outputs have the type of its arithmetic."""
        self.require_precision(asked.precision)
        onnx_export.write(network, asked, path, metadata)

    def quantiser(self, network: "nn.Module", asked: ExportJob, images: "Sequence[NDArray[np.float32]]") -> Quantiser:
        """Return what writes ONNX files of one shape with Q/DQ nodes, by the toolkit's `scheme`."""
        return onnx_quantise.GraphQuantiser(network, asked, images, self.scheme, available_cores())

    def quantised_twins(self, network: "nn.Module", asked: ExportJob, path: Path) -> QuantisedTwins:
        """Return the float graph of the network, and the same with its values rounded to the file's grids."""
        return onnx_quantise.twins(network, asked, model.read(path), available_cores())

    def require_precision(self, precision: str) -> None:
        """Raise `UsageError` for a precision that the toolkit has no files in."""
        if precision not in self.precisions:
            raise UsageError(f"{self.product} files are in {' or '.join(self.precisions)}, not in {precision}.")

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield the file on this processor: its types set its arithmetic on every runtime."""
        if asked.precision == "int8":
            yield self.operators(path, asked)
            return
        yield VerificationRun("", self.prover(asked), asked.shape, session.as_typed(path, available_cores()))

    def operators(self, path: Path, asked: ExportJob) -> VerificationRun:
        """Return the check of a file in INT8 by its operators one by one, where no kernel rounds in its own way."""
        file = typed_int8.widened(model.read(path)).SerializeToString()
        opened = session.unoptimised(path.name, file, available_cores())
        how = "its operators one by one in ONNX Runtime, in float32 and integers"
        return VerificationRun("INT8 file", how, asked.shape, opened)

    def prover(self, asked: ExportJob) -> str:
        """Return the name of the runtime that computes the compared outputs, for messages."""
        rounded = ", every result rounded to float16" if asked.precision == "fp16" else ""
        return f"ONNX Runtime on this processor{rounded}, not {self.product}"

    def operations(self, path: Path) -> dict[str, int]:
        """Count the file's nodes by kind; a runtime fuses many of them when it loads the file."""
        return model.operations(path)

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """Count the ONNX file's arithmetic and bytes; a runtime that fuses nodes moves less.

        A file in INT8 is not counted: its Q/DQ nodes say nothing of the bytes that move between integer kernels.
        """
        if self.metadata(path).get("fastvit_bench.precision") == "int8":
            return None
        return onnx_traffic.count(path, shape)

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the file's metadata properties."""
        return model.metadata(path)

    @abstractmethod
    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Load a file on a device whose options are filled in."""

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Raise `UsageError`: the toolkit reports no times of layers."""
        raise UsageError(self.unprofiled(device) or "")

    def unprofiled(self, device: Device) -> str | None:
        """Return a sentence: the toolkit reports no times of layers."""
        return f"{self.product} reports no times of layers here; leave --profile out."


def uninstalled(package: str) -> str | None:
    """Return why a package cannot be used and the remedy; None where it is installed. Imports nothing."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return f"the package {package} is not installed; run: {install.packages(package)}"
    return None


INPUTS = ("tensor", "image")  # float32 or float16 (N, 3, H, W), normalised; or uint8 (N, H, W, 3), RGB


def image_input(device: Device) -> dict[str, str | int | float | bool]:
    """Return the option ``input`` where it is an image.

    Of a tensor it is left out, so that figures remain comparable with those from before there was a choice. Raises
    `UsageError` for another value.
    """
    value = device.options.get("input", INPUTS[0])
    if value not in INPUTS:
        raise UsageError(f"Device '{device.name}': input = {value!r} must be {' or '.join(INPUTS)}.")
    return {} if value == INPUTS[0] else {"input": value}


def image_std(exported: ExportSpec) -> Triple | None:
    """Return what the network of a file that takes images divides by; None for tensors, which are divided already."""
    return registry.preparation_of(exported).std if exported.options.get("input") == "image" else None


def threads(device: Device, known: set[str]) -> int:
    """Return the option ``threads`` of a processor. Raises `UsageError` for a wrong value and for unknown options."""
    if unknown := device.options.keys() - known:
        raise UsageError(
            f"Device '{device.name}' has an unknown option '{min(unknown)}'. Known: {', '.join(sorted(known))}."
        )
    count = device.options.get("threads", available_cores())
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"Device '{device.name}': threads = {count!r} must be a whole number above 0.")
    return count
