"""A file that others wrote, opened: its input and outputs, its graph and weights, and what it computes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastvit_bench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.auditing.graph import FileGraph


@dataclass(frozen=True)
class Port:
    """An input or output as the file declares it."""

    name: str
    shape: tuple[int | None, ...]  # None: open
    dtype: str  # as numpy calls it; of an image of Core ML: image


@dataclass(frozen=True)
class ForeignFile:
    """An opened file."""

    path: Path
    target: Literal["onnx", "coreml"]  # as `export --target` has it
    precision: Literal["fp32", "fp16"]
    compress: str  # weights, as `verification.limit` has it
    port: Port  # its one input
    outputs: tuple[Port, ...]
    graph: "FileGraph"
    weights: "list[NDArray[Any]]"  # constants of floating point
    labels: tuple[str, ...]  # class names, of a classifier of Core ML
    run: "Callable[[NDArray[Any]], dict[str, NDArray[Any]]]"  # takes a batch; outputs by name
    how: str  # what computes its outputs


def opened(path: Path) -> ForeignFile:
    """Open an ONNX file or a Core ML package.

    Raises `UsageError` for a file of another kind and for one without exactly one input, `UnavailableError` for one
    that cannot be read, and `ParityError` for a package whose program cannot be evaluated.
    """
    if path.name.endswith(".onnx"):
        from fastvit_bench.auditing import onnx_file

        return onnx_file.opened(path)
    if path.name.endswith(".mlpackage"):
        from fastvit_bench.auditing import coreml_package

        return coreml_package.opened(path)
    raise UsageError(
        f"{path} was not written by fastvit-bench; of others, ONNX files (.onnx) and Core ML packages (.mlpackage) "
        "can be verified."
    )


def one_input(path: Path, ports: list[Port]) -> Port:
    """Return the one input of a file. Raises `UsageError` where there are more, or none."""
    if len(ports) != 1:
        names = ", ".join(port.name for port in ports) or "none"
        raise UsageError(f"{path} has {len(ports)} inputs ({names}); a network of images takes one.")
    return ports[0]
