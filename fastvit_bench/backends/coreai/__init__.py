"""Core AI assets for iOS 27: written through Apple's coreai-torch, proved by Apple's own runtime on any machine."""

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench import files, install
from fastvit_bench.backends import Hardware, Session, VerificationRun
from fastvit_bench.backends.coreai import quantise
from fastvit_bench.backends.coreai.device import COMPUTE_UNITS
from fastvit_bench.errors import UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import Device, ExportJob, ExportSpec, Fuse, GraphVariant, LayerTime, Shape, Traffic

if TYPE_CHECKING:
    from torch import nn

    from fastvit_bench.backends import Batch

# option -> allowed values, the default first
CHOICES = {"input": ("tensor", "image"), "compute_units": COMPUTE_UNITS}

_MODULES = {"coreai_torch": "coreai-torch", "coreai": "coreai-core"}  # module -> its distribution


class CoreAI:
    """A backend that writes assets through coreai-torch and proves them by Apple's runtime."""

    name = "coreai"
    target = "coreai"
    suffix = ".aimodel"
    precisions = ("fp16", "fp32", *quantise.PRECISIONS)
    packages = ("torch", "coreai-torch", "coreai-core", "numpy")
    proof_packages = ("coreai-core", "numpy")
    export_options = ("input",)
    engines = None
    rounder = quantise
    flags = export_options
    accepts_external_onnx = False

    def unavailable_reason(self, device: Device | None = None) -> str | None:
        """Return why assets cannot be written here and the remedy; None where both packages are installed."""
        if sys.platform not in {"linux", "darwin"}:
            return "Apple's coreai-torch has wheels for Linux and macOS only"
        lacking = next((name for module, name in _MODULES.items() if importlib.util.find_spec(module) is None), None)
        if lacking:
            return f"the package {lacking} is not installed; run: {install.extra('coreai')}"
        return quantise.unavailable_reason(device.precision) if device else None

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why assets cannot be timed here and the remedy; None on a Mac whose system has Core AI."""
        from fastvit_bench.backends.coreai import device as devices

        return devices.unavailable_reason()

    def detect_hardware(self, device: Device) -> Hardware | None:
        """Return None: a Mac is this machine's processor."""
        return None

    def warmup_policy(self, device: Device) -> Mapping[str, float]:
        """Return no settings: a device is warmed up by runs alone."""
        return {}

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Return coreai-core, which makes the calls."""
        return ("coreai-core",)

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return the options of `CHOICES` with defaults filled in. Raises `UsageError` for unknown or wrong ones."""
        if unknown := device.options.keys() - CHOICES.keys():
            raise UsageError(
                f"Device '{device.name}' has an unknown option '{min(unknown)}'. Known: {', '.join(sorted(CHOICES))}."
            )
        options = {name: device.options.get(name, values[0]) for name, values in CHOICES.items()}
        for name, values in CHOICES.items():
            if options[name] not in values:
                raise UsageError(f"Device '{device.name}': {name} = {options[name]!r} must be {' or '.join(values)}.")
        return options

    def layout(self, exported: ExportSpec) -> GraphVariant:
        """Return the form that Apple advises for the Neural Engine: tensors of rank 4 at most, attention per head."""
        return GraphVariant(
            std=registry.preparation_of(exported).std if exported.options["input"] == "image" else None,
            doubling="grouped",
            attention="per-head",
            norms="depthwise",
        )

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write an asset whose bytes depend only on the network, `asked` and `metadata`.

        In 8 bits `network` is a rounded one, and the asset's twin in FP32 must compute what that computes.

        Raises `UsageError` for an impossible precision, `UnavailableError` where coreai-torch fails, and `ParityError`
        for weights that it changed.
        """
        import copy

        import msgspec

        from fastvit_bench.backends.coreai import asset, convert

        if asked.precision not in self.precisions:
            raise UsageError(f"Core AI assets compute in {' or '.join(self.precisions)}, not in {asked.precision}.")
        rounded = network
        network = copy.deepcopy(network).float().eval()
        with files.temporary_folder(path.parent) as work:
            draft = work / f"draft{self.suffix}"
            convert.write(network, asked, draft)
            if asked.precision in quantise.PRECISIONS:
                twin = work / f"twin{self.suffix}"
                convert.write(copy.deepcopy(rounded), msgspec.structs.replace(asked, precision="fp32"), twin)
                convert.check_weights(twin, rounded, half=False)
                convert.check_rounded(draft, twin)
                quantise.check_twin(twin, rounded, asked)
            # in the other forms, and in timm's networks, the converter may fold BatchNorms into weights itself
            elif asked.fused is Fuse.FOLDED and not asked.variant.startswith(registry.TIMM):
                convert.check_weights(draft, network, half=asked.precision == "fp16")
            asset.seal(draft, _texts(asked), metadata)
            draft.replace(path)

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield the stored asset run by Apple's reference interpreter, and on a Mac also by its system.

        Before a latency the outputs are compared once more, on the compute units that are timed.
        """
        from fastvit_bench.backends.coreai import device as devices
        from fastvit_bench.backends.coreai import interpreter

        how = "Apple's Core AI runtime on this machine, its reference interpreter"
        name = "own rounded network" if asked.precision in quantise.PRECISIONS else ""
        yield VerificationRun(name, how, asked.shape, interpreter.interpreted(path))
        if devices.unavailable_reason() is None:
            how = f"Core AI, compute units {asked.device.options['compute_units']}"
            yield VerificationRun("Core AI", how, asked.shape, self.open(path, asked.device), "hardware")

    def operations(self, path: Path) -> dict[str, int]:
        """Count the operations of the stored program by kind, as Apple's reader sees them."""
        from fastvit_bench.backends.coreai import interpreter

        with interpreter.started(path) as loaded:
            return loaded.described.operations

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """Return None: traffic is not counted, since what a device compiles an asset to is unknown."""
        return None

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the asset's metadata. Raises `ChecksumError` where its content is not what was exported."""
        from fastvit_bench.backends.coreai import asset

        return asset.metadata(path)

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Raise `UsageError`, because times of layers are not read."""
        raise UsageError(self.unprofiled(device))

    def unprofiled(self, device: Device) -> str:
        """Return why layers are not timed."""
        return "The times of layers are not read from Core AI; leave --profile out."

    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Load the asset on this Mac. Raises `UnavailableError` elsewhere: the interpreter is never timed."""
        from fastvit_bench.backends.coreai import device as devices

        return devices.opened(path, device)


def _texts(asked: ExportJob) -> dict[str, str]:
    """Return the texts that Xcode shows of an asset."""
    random = asked.weights.origin == "random"
    weights = "random weights, for timing only" if random else f"weights of {asked.weights.label}"
    return {
        "author": "FastViT: Apple; exported by fastvit-bench",
        "description": f"{asked.variant} ({asked.head}) at {asked.shape.size}, {asked.precision}; {weights}.",
        "license": "MIT (random weights)" if random else "The license of the weights it was made from.",
    }


BACKEND = CoreAI()
