"""Measure the cells of a sweep on the workers of a Dask cluster (extra `fleet`)."""

import importlib.util

from fastvit_bench import install
from fastvit_bench.errors import UnavailableError


def require() -> None:
    """Raise `UnavailableError` unless the extra `fleet` is installed."""
    if importlib.util.find_spec("distributed") is None:
        raise UnavailableError(f"A fleet takes Dask distributed, which is not installed: {install.extra('fleet')}")
