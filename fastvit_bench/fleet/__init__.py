"""Measure the cells of a sweep on the workers of a Dask cluster (extra `fleet`)."""

import importlib.util

from fastvit_bench import install
from fastvit_bench.errors import UnavailableError, UsageError


def require() -> None:
    """Raise `UnavailableError` unless the extra `fleet` is installed."""
    if importlib.util.find_spec("distributed") is None:
        raise UnavailableError(f"A fleet takes Dask distributed, which is not installed: {install.extra('fleet')}")


def check_options(scheduler: str | None, plaintext: str | None, machine_name: str | None) -> None:
    """Raise `UsageError` for options that do not go together, and for a scheduler's address that is none."""
    if scheduler is None and plaintext is not None:
        raise UsageError("--plaintext belongs to --scheduler.")
    if scheduler is not None and machine_name:
        raise UsageError("--machine is for this machine; name a fleet's machines by `fastvit-bench worker --machine`.")
    if scheduler is not None:
        require()
        from fastvit_bench.fleet import cluster

        cluster.listen_address(scheduler, plaintext)
