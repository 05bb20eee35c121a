"""What all pictures share: the packages that draw them, the files that can hold them, and how they get there."""

from collections.abc import Sequence
from pathlib import Path

from fastvit_bench import files
from fastvit_bench.errors import UnavailableError, UsageError

SUFFIXES = (".svg", ".png")
_DISTRIBUTIONS = {"vl_convert": "vl-convert-python"}  # where pip knows a package by another name


def require(*packages: str) -> None:
    """Raise `UnavailableError` where a package that draws is missing; an install by pip has them all."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f"'{_DISTRIBUTIONS.get(name, name)}'" for name in missing)
        raise UnavailableError(
            f"Pictures are drawn by {' and '.join(missing)}, not installed here; pip install {wanted}."
        )


def check(path: Path, packages: Sequence[str] = ("matplotlib",)) -> None:
    """Raise `UsageError` for a file that is no picture, `UnavailableError` where one of the packages is missing."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is no picture that can be drawn; end its name in {' or '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent} for {path.name}; make it first.")
    if (refused := files.refusal(path.parent)) is not None:
        raise UsageError(f"The picture {path} cannot be written: {refused}.")
    require(*packages)


def kind(path: Path) -> str:
    """svg or png, of a path that was checked."""
    return path.suffix.lower().removeprefix(".")


def write(path: Path, data: bytes) -> None:
    """Raises `UsageError` where the file cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"The picture {path} cannot be written: {error.strerror or error}.") from None
