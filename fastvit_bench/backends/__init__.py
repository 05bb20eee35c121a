"""Find a backend by its name, its target or a file, and report what each needs; the interface is in `base`.

A backend is one module in this folder that ends in ``BACKEND = …``. It is imported when it is used, and its toolkit
when a method needs it, so that listing what is installed costs nothing.
"""

import functools
import importlib
import math
import os
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench.backends import _cgroups
from fastvit_bench.backends.base import (
    HALF_WEIGHTS,
    INPUT,
    Backend,
    Engines,
    Hardware,
    Images,
    QuantisedFile,
    QuantisedTwins,
    Quantiser,
    RoundedNetwork,
    Session,
    Subject,
    VerificationRun,
    output_names,
    shaping_options,
)
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, Machine

if TYPE_CHECKING:
    from fastvit_bench.backends.base import Batch

__all__ = [
    "HALF_WEIGHTS",
    "INPUT",
    "REFERENCE_PACKAGES",
    "Backend",
    "Batch",
    "Engines",
    "Hardware",
    "Images",
    "QuantisedFile",
    "QuantisedTwins",
    "Quantiser",
    "RoundedNetwork",
    "Session",
    "Subject",
    "VerificationRun",
    "available_cores",
    "bound_openmp",
    "figure_packages",
    "figure_versions",
    "get",
    "implemented",
    "installed",
    "narrowed",
    "of_file",
    "of_target",
    "output_names",
    "processors",
    "require",
    "shaping_options",
    "targets",
    "toolchain",
    "unavailable_reason",
    "versions",
]


def implemented() -> list[str]:
    """Return the names of the backends: every module here except `base` and those several share (``_…``)."""
    return list(_names(tuple(__path__)))


@functools.cache  # thousands of rows ask
def _names(folders: tuple[str, ...]) -> tuple[str, ...]:
    modules = (module.name for module in pkgutil.iter_modules(folders))
    return tuple(sorted(name.replace("_", "-") for name in modules if not name.startswith("_") and name != "base"))


def unavailable_reason(name: str, device: Device | None = None) -> str | None:
    """Return why the backend `name` cannot write files here, for a device, and the remedy; None where it can."""
    return get(name).unavailable_reason(device)


def require(name: str, device: Device | None = None) -> None:
    """Raise `UnavailableError` unless the backend `name` can write files here, for a device."""
    lacking = unavailable_reason(name, device)
    if lacking:
        raise UnavailableError(f"{lacking[0].upper()}{lacking[1:]}. `fastvit-bench devices` lists what can run here.")


def get(name: str) -> Backend:
    """Return the backend called `name`. Raises `UnavailableError` for one this version does not have."""
    if name not in implemented():
        raise UnavailableError(
            f"This version of fastvit-bench has no backend '{name}'; it has {', '.join(implemented())}."
        )
    backend: Backend = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").BACKEND
    return backend


def targets() -> dict[str, Backend]:
    """Return the backends by their export target."""
    return {backend.target: backend for backend in map(get, implemented())}


def of_target(target: str) -> Backend:
    """Return the backend of ``export --target TARGET``. Raises `UsageError` for an unknown target."""
    backends = targets()
    if target not in backends:
        import difflib

        known = sorted(backends)
        near = difflib.get_close_matches(target, known, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"Unknown export target '{target}'. {hint}Known: {', '.join(known)}.")
    return backends[target]


def of_file(path: Path) -> Backend:
    """Return the backend whose suffix `path` ends in, the longest of several. Raises `UsageError` for no suffix."""
    backends = {backend.suffix: backend for backend in targets().values()}
    fitting = [suffix for suffix in backends if path.name.endswith(suffix)]
    if not fitting:
        raise UsageError(f"{path} is not an exported file; their names end in {' or '.join(sorted(backends))}.")
    return backends[max(fitting, key=len)]


def toolchain(backend: Backend) -> dict[str, str]:
    """Return the versions of the packages that shape an exported file, read without importing them."""
    return versions(backend.packages)


REFERENCE_PACKAGES = ("numpy",)  # of the workload that `measure.reference` times beside every figure of a processor


def figure_packages(device: Device) -> tuple[str, ...] | None:
    """Return the distributions whose versions are recorded with a device's figures; None for an unknown backend."""
    if device.backend not in implemented():
        return None
    backend = get(device.backend)
    shared = () if backend.warmup_policy(device) else REFERENCE_PACKAGES
    return tuple(dict.fromkeys((*backend.runtime_packages(device), *shared)))


def figure_versions(device: Device) -> dict[str, str]:
    """Return the installed versions of `figure_packages`; packages that are not installed are omitted."""
    return installed(figure_packages(device) or ())


def narrowed(machine: Machine, device: Device) -> Machine:
    """Return a machine with only those packages that affect figures of a device.

    Older runs recorded the packages of every backend.
    """
    names = figure_packages(device)
    if names is None or machine.packages.keys() <= set(names):
        return machine
    relevant = {name: version for name, version in machine.packages.items() if name in names}
    return msgspec.structs.replace(machine, packages=relevant)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed, read without importing them; omit all others."""
    import importlib.metadata  # slow to import, and not needed to say what can run here

    versions_by_name: dict[str, str] = {}
    for package in packages:
        try:
            versions_by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions_by_name


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages that must all be installed, read without importing them."""
    import importlib.metadata  # slow to import, and not needed to say what can run here

    return {package: importlib.metadata.version(package) for package in packages}


def processors() -> int:
    """Return the number of logical processors this process may run on, whatever its quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_cores() -> int:
    """Return how many threads can run at once: the number of processors, bounded by the CPU quota, at least 1."""
    quota = _cgroups.quota()
    return processors() if quota is None else max(1, min(processors(), math.ceil(quota)))


def bound_openmp() -> None:
    """Bound the threads of torch and of the BLAS of NumPy to `available_cores`; call it before they are loaded.

    Both count processors and ignore the quota. A value the user has set in ``OMP_NUM_THREADS`` stays.
    """
    if available_cores() < processors():
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
