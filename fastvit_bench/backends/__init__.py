"""The contract between this tool and the toolkits that run exported networks, and the register of those that fulfil it.

A backend is one module in this folder that ends in ``BACKEND = …``; it is found by its name and imported when it is
used. The toolkit itself is imported inside the methods that need it, so that asking what is installed costs nothing.
"""

import importlib
import math
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec

from fastvit_bench import cgroups
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import (
    Device,
    Engine,
    ExportJob,
    GpuState,
    LayerTime,
    Layout,
    Machine,
    Pacing,
    Parity,
    Placement,
    Shape,
    Traffic,
    Window,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    Batch = NDArray[np.float32] | NDArray[np.uint8]  # of images, in the form a session takes

INPUT = "image"  # the name of every exported network's input
HALF_WEIGHTS = "fastvit_bench.fp16_weights"  # key of a file's metadata: a `HalfWeights`, where its backend tells


def output_names(count: int) -> list[str]:
    """Names of an exported network's outputs.

    ``logits`` of one that classifies or segments, ``feature0`` to ``feature3`` of a backbone, and of one that proposes
    regions ``objectness_p2`` to ``objectness_p6`` and ``deltas_p2`` to ``deltas_p6``, for strides 4 to 64.
    """
    if count == 2 * len(_LEVELS):
        return [f"{what}_{level}" for what in ("objectness", "deltas") for level in _LEVELS]
    return ["logits"] if count == 1 else [f"feature{i}" for i in range(count)]


_LEVELS = ("p2", "p3", "p4", "p5", "p6")  # of a feature pyramid, after the powers of two that are their strides


class Images(StrEnum):
    """In which form a file takes its images."""

    TENSOR = "tensor"  # float32 (N, 3, H, W), normalised RGB: (pixel / 255 - mean) / std
    PIXELS = "pixels"  # uint8 (N, H, W, 3), RGB; the file normalises them


class Session(ABC):
    """A loaded artifact, ready to run. `feed` and `fetch` are never timed; `run` and `wait` always are."""

    images: Images = Images.TENSOR
    window: Window  # what a reading of the clock around run and wait covers
    pacing: Pacing = Pacing.BACK_TO_BACK
    clock: str | None = None  # the toolkit's own clock, which `elapsed_ns` reads; None leaves timing to the stopwatch
    load_ns: tuple[int, ...] = ()  # of loading the file, where the toolkit tells
    engine: Engine | None = None  # what runs in place of the file, where the toolkit builds one

    @abstractmethod
    def feed(self, images: "Batch") -> None:
        """Bring a batch, in the form `images` says, to the device; every later run reads it."""

    @abstractmethod
    def run(self) -> None:
        """Start one inference."""

    @abstractmethod
    def wait(self) -> None:
        """Return when that inference is finished."""

    def elapsed_ns(self) -> int:
        """How long the last run took by the toolkit's own clock, in whole nanoseconds; asked where `clock` is set."""
        raise NotImplementedError

    @abstractmethod
    def fetch(self) -> "dict[str, NDArray[np.floating]]":
        """Outputs of the last run, by name."""

    def twin(self) -> "Session | None":
        """Another session of the same loaded file, which may run in a thread of its own at the same time. None: no."""
        return None

    def placement(self) -> Placement | None:
        """Where the toolkit plans to run the operations; asked after the timed runs. None: it does not tell."""
        return None

    def look(self) -> GpuState | None:
        """How the GPU fares, asked between timed runs. None: there is none, or nobody to ask."""
        return None


class Proving(NamedTuple):
    """One look at an exported file: what computes its outputs, for which input shape."""

    name: str  # what is looked at, such as a function of the file; empty for all of it
    how: str  # what computes the outputs
    shape: Shape
    session: AbstractContextManager[Session]
    subject: Literal["file", "hardware"] = "file"  # what is judged: the file, or a processor that rounds in its own way


class Hardware(NamedTuple):
    """What a device turned out to be, where it is not this machine's processor."""

    name: str
    driver: str | None = None  # or the system that runs on it
    compute_capability: str | None = None  # of an NVIDIA GPU


class Engines(Protocol):
    """What a toolkit builds of proved files for the hardware at hand, and runs in their place."""

    def lacking(self, device: Device) -> str | None:
        """Why no engine for `device` can be built on this machine, and the way out, or None."""
        ...

    def build(self, path: Path, device: Device) -> None:
        """Make the engine of an exported file, with its side-car; one that fits is kept.

        Native code may end the process, so this is for a process of its own. `UnavailableError` where the toolkit
        refuses or this machine cannot have one; nothing half-made is left then.
        """
        ...

    def note(self, path: Path, device: Device, parity: Parity) -> None:
        """Put into the engine's side-car what it was found to compute."""
        ...


class Backend(Protocol):
    """A toolkit that exports networks to files and runs such files."""

    name: str  # what [device.*] calls it
    target: str  # what `export --target` calls its files
    suffix: str  # of its files; one backend's may end in another's, such as .trt.onnx and .onnx
    precisions: tuple[str, ...]  # the first is what `export` writes unless told otherwise
    packages: tuple[str, ...]  # distributions whose versions shape the file
    proof_packages: tuple[str, ...]  # distributions that compute its proofs
    shaping: tuple[str, ...]  # options that shape the file; the others are about running it
    flags: tuple[str, ...]  # of `export`, those that mean something to this toolkit and not to every one
    adopts: bool  # whether it runs ONNX files of somebody else's
    engines: Engines | None  # of a toolkit that runs engines instead of the files themselves

    def missing(self, device: Device | None = None) -> str | None:
        """Why files cannot be written here and the command that mends that, or None. Does not import the toolkit.

        With a device, also what its options need.
        """
        ...

    def absent(self, device: Device) -> str | None:
        """Why files cannot be run on `device` from here and the way out, or None. Asked where nothing is `missing`."""
        ...

    def identify(self, device: Device) -> Hardware | None:
        """The hardware behind a device, asked of its driver; None where it is this machine's processor.

        Raises `UnavailableError` where it is not there.
        """
        ...

    def settling(self, device: Device) -> Mapping[str, float]:
        """Fields of a `Method` by which a device is warmed up; empty: by runs alone. Its options may be as given."""
        ...

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """The device's options with every default filled in; `UsageError` for unknown ones and wrong values."""
        ...

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Distributions whose versions decide what a run on `device` takes, installed or not. Its options may be few.

        Only these stand beside its figures, and figures of other versions are not compared.
        """
        ...

    def layout(self, options: Mapping[str, str]) -> Layout:
        """The form of the folded network that suits the toolkit, given the options that shape the file."""
        ...

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write `network` (float64, evaluation mode) to `path` as `asked` says, with `metadata` inside the file.

        The network is left as it is, and a failed export leaves nothing at `path`.
        """
        ...

    def proofs(self, path: Path, asked: ExportJob) -> Iterable[Proving]:
        """Every look at the written file that its proof needs."""
        ...

    def operations(self, path: Path) -> dict[str, int]:
        """Kind -> how many operations the file's program has, constants left out; empty where they are not counted."""
        ...

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """What the file's graph computes and moves in a run of that input shape; None where it is not counted.

        `UnavailableError` for a file that cannot be read.
        """
        ...

    def metadata(self, path: Path) -> dict[str, str]:
        """What `export` wrote into the file. `UnavailableError` for a file that cannot be read."""
        ...

    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Load an exported file, or its engine, on a device whose options are filled in."""
        ...

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """How long each layer took, in the order they run: the median of so many runs made for that alone.

        Asked where `unprofiled` has nothing to say.
        """
        ...

    def unprofiled(self, device: Device) -> str | None:
        """Why the times of layers are not told of `device`, as a sentence, or None."""
        ...


def implemented() -> list[str]:
    """Names of the backends; modules that begin with an underscore are what several of them share."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def missing(name: str, device: Device | None = None) -> str | None:
    """What keeps the backend `name` from writing files here, for a device, and the way out, or None."""
    return get(name).missing(device)


def require(name: str, device: Device | None = None) -> None:
    """Raise `UnavailableError` unless the backend `name` can write files here, for a device."""
    lacking = missing(name, device)
    if lacking:
        raise UnavailableError(f"{lacking[0].upper()}{lacking[1:]}. `fastvit-bench devices` lists what can run here.")


def get(name: str) -> Backend:
    """The backend of that name. `UnavailableError` for one this version does not have."""
    if name not in implemented():
        raise UnavailableError(
            f"This version of fastvit-bench has no backend '{name}'; it has {', '.join(implemented())}."
        )
    backend: Backend = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").BACKEND
    return backend


def targets() -> dict[str, Backend]:
    """Export target -> the backend that writes it."""
    return {backend.target: backend for backend in map(get, implemented())}


def of_target(target: str) -> Backend:
    """The backend that writes files for ``export --target TARGET``."""
    found = targets()
    if target not in found:
        import difflib

        known = sorted(found)
        near = difflib.get_close_matches(target, known, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"Unknown export target '{target}'. {hint}Known: {', '.join(known)}.")
    return found[target]


def of_file(path: Path) -> Backend:
    """The backend whose files end as `path` does; of several endings that fit, the longest counts."""
    found = {backend.suffix: backend for backend in targets().values()}
    fitting = [suffix for suffix in found if path.name.endswith(suffix)]
    if not fitting:
        raise UsageError(f"{path} is not an exported file; their names end in {' or '.join(sorted(found))}.")
    return found[max(fitting, key=len)]


def toolchain(backend: Backend) -> dict[str, str]:
    """Versions of the packages that shape an exported file, read without importing them."""
    return versions(backend.packages)


REFERENCE_PACKAGES = ("numpy",)  # of the workload that `measure.reference` times beside every figure of a processor


def figure_packages(device: Device) -> tuple[str, ...] | None:
    """Distributions whose versions stand beside figures of a device; None of a backend this version does not have."""
    if device.backend not in implemented():
        return None
    backend = get(device.backend)
    shared = () if backend.settling(device) else REFERENCE_PACKAGES
    return tuple(dict.fromkeys((*backend.runtime_packages(device), *shared)))


def figure_versions(device: Device) -> dict[str, str]:
    """Versions of `figure_packages` as this Python has them; those that are not installed are left out."""
    return installed(figure_packages(device) or ())


def narrowed(machine: Machine, device: Device) -> Machine:
    """A machine with the packages that decide figures of a device alone: runs of before had those of every backend."""
    names = figure_packages(device)
    if names is None or machine.packages.keys() <= set(names):
        return machine
    kept = {name: version for name, version in machine.packages.items() if name in names}
    return msgspec.structs.replace(machine, packages=kept)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed, read without importing them."""
    import importlib.metadata  # slow to import, and not needed to say what can run here

    kept: dict[str, str] = {}
    for package in packages:
        try:
            kept[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return kept


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of installed packages, read without importing them."""
    import importlib.metadata  # likewise

    return {package: importlib.metadata.version(package) for package in packages}


def processors() -> int:
    """Logical processors this process may run on, whatever its quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_cores() -> int:
    """Threads that can run at once: as many as the process has processors, and as its CPU quota keeps busy."""
    quota = cgroups.quota()
    return processors() if quota is None else max(1, min(processors(), math.ceil(quota)))


def bound_openmp() -> None:
    """Bound the threads of torch and of the BLAS of NumPy to `available_cores`; to be called before they are loaded.

    They count processors and know no quota. What a person has set in ``OMP_NUM_THREADS`` stays.
    """
    if available_cores() < processors():
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
