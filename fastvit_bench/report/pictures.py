"""What all pictures share: the packages that draw them, the files that can hold them, and how they get there."""

from pathlib import Path

from fastvit_bench.errors import UnavailableError, UsageError

SUFFIXES = (".svg", ".png")


def require(*packages: str) -> None:
    """Raise `UnavailableError` where a package that draws is missing; every one comes with the extra `report`."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"Pictures are drawn by {' and '.join(missing)}, not installed here; pip install 'fastvit-bench[report]'."
        )


def check(path: Path) -> None:
    """Raise `UsageError` for a file that is no picture, `UnavailableError` where matplotlib is missing."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is no picture that can be drawn; end its name in {' or '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent} for {path.name}; make it first.")
    require("matplotlib")


def kind(path: Path) -> str:
    """svg or png, of a path that was checked."""
    return path.suffix.lower().removeprefix(".")


def write(path: Path, data: bytes) -> None:
    """Raises `UsageError` where the file cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"The picture {path} cannot be written: {error.strerror or error}.") from None
