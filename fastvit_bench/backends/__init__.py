"""The contract between this tool and the toolkits that run exported networks, and the register of those that fulfil it.

A backend is one module in this folder that ends in ``BACKEND = …``; it is found by its name and imported when it is
used. The toolkit itself is imported inside the methods that need it, so that asking what is installed costs nothing.
"""

import importlib
import os
import pkgutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, Shape, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

INPUT = "image"  # (N, 3, H, W), normalised RGB


def output_names(count: int) -> list[str]:
    """Names of an exported network's outputs: ``logits``, or ``feature0`` to ``feature3`` of the dense network."""
    return ["logits"] if count == 1 else [f"feature{i}" for i in range(count)]


class Session(Protocol):
    """A loaded artifact, ready to run. `feed` and `fetch` are never timed; `run` and `wait` always are."""

    window: Window  # what a reading of the clock around run and wait covers

    def feed(self, images: "NDArray[np.float32]") -> None:
        """Bring a batch (N, 3, H, W) to the device; every later run reads it."""
        ...

    def run(self) -> None:
        """Start one inference."""
        ...

    def wait(self) -> None:
        """Return when that inference is finished."""
        ...

    def fetch(self) -> "dict[str, NDArray[np.floating]]":
        """Outputs of the last run, by name."""
        ...


class Backend(Protocol):
    """A toolkit that exports networks to files and runs such files."""

    name: str  # what [device.*] calls it
    target: str  # what `export --target` calls its files
    suffix: str  # of its files
    precisions: tuple[str, ...]
    packages: tuple[str, ...]  # distributions whose versions shape the file

    def missing(self) -> str | None:
        """Why this machine cannot run it and the command that mends that, or None. Does not import the toolkit."""
        ...

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """The device's options with every default filled in; `UsageError` for unknown ones."""
        ...

    def export(self, network: "nn.Module", shape: Shape, precision: str, path: Path, metadata: dict[str, str]) -> None:
        """Write `network` (float64, evaluation mode) for one input shape to `path`, with `metadata` inside the file."""
        ...

    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Load an exported file on a device whose options are filled in."""
        ...


@dataclass(frozen=True)
class Planned:
    """A backend that a device may already name and that this version does not contain."""

    needs: str


PLANNED = {
    "coreml": Planned("a Mac, or an iPhone connected to one"),
    "tensorrt": Planned("an NVIDIA GPU with its driver, and TensorRT"),
}


def implemented() -> list[str]:
    """Names of the backends this version contains."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def names() -> list[str]:
    """Every name a device may give as its backend."""
    return sorted({*implemented(), *PLANNED})


def missing(name: str) -> str | None:
    """What keeps the backend `name` from running here and the way out, or None."""
    if name in implemented():
        return get(name).missing()
    planned = PLANNED[name]
    return f"this version of fastvit-bench has no {name} backend yet; it will need {planned.needs}"


def get(name: str) -> Backend:
    """The backend of that name. `UnavailableError` for a planned one."""
    if name not in implemented():
        raise UnavailableError(f"Backend '{name}': {missing(name)}. `fastvit-bench devices` lists what can run here.")
    backend: Backend = importlib.import_module(f"{__name__}.{name}").BACKEND
    return backend


def of_target(target: str) -> Backend:
    """The backend that writes files for ``export --target TARGET``."""
    found = {backend.target: backend for backend in map(get, implemented())}
    if target not in found:
        import difflib

        known = sorted(found)
        near = difflib.get_close_matches(target, known, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        soon = f" The {target} target is not in this version." if target in PLANNED else ""
        raise UsageError(f"Unknown export target '{target}'.{soon} {hint}Known: {', '.join(known)}.")
    return found[target]


def toolchain(backend: Backend) -> dict[str, str]:
    """Versions of the packages that shape an exported file, read without importing them."""
    import importlib.metadata  # slow to import, and not needed to say what can run here

    return {package: importlib.metadata.version(package) for package in backend.packages}


def available_cores() -> int:
    """Logical processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
