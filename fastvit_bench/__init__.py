"""fastvit-bench: fuse, export, prove, time and tabulate FastViT networks (arXiv 2303.14189)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastvit_bench.api import compare, evaluate, export, fuse, load, measure

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "export", "fuse", "load", "measure"]


def __getattr__(name: str) -> Any:
    """Return a function of `fastvit_bench.api`, imported at its first use so that commands start without it."""
    if name in __all__:
        from fastvit_bench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
