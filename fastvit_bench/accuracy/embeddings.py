"""Read class embeddings: a vector for each class, with which the embedding of an image is compared (zero-shot)."""

import hashlib
import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastvit_bench import files
from fastvit_bench.errors import UsageError, printable
from fastvit_bench.records import ClassEmbeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Embedded(NamedTuple):
    """Class embeddings and the file that they come from."""

    record: ClassEmbeddings
    rows: "NDArray[np.float64]"  # (classes, width), each divided by its norm
    names: tuple[str, ...] | None  # of the classes, row by row; None where the file has none


def read(file: Path) -> Embedded:
    """Return the class embeddings in a file: an array (classes, width) as .npy, or in .npz beside the classes' names.

    The rows may have any length; they are divided by their norms. Raises `UsageError` for a file of another form, a row
    without a direction, and two classes of one name.
    """
    try:
        content = files.read_bytes(file)
    except OSError as error:
        raise UsageError(f"The class embeddings {file} cannot be read: {error.strerror}.") from None
    arrays = _arrays(file, content)
    matrices = {name: array for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "f"}
    lists = {name: array for name, array in arrays.items() if array.ndim == 1 and array.dtype.kind == "U"}
    if len(matrices) != 1 or len(lists) > 1 or len(arrays) > len(matrices) + len(lists):
        shapes = ", ".join(f"{printable(name)} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise UsageError(
            f"{file} does not hold one array (classes, width) of floating-point numbers, and at most a list of the "
            f"classes' names beside it, but {shapes or 'nothing'}."
        )
    values = next(iter(matrices.values())).astype(np.float64, order="C")
    names = tuple(str(name) for array in lists.values() for name in array) if lists else None
    if names is not None and (len(names) != len(values) or len(set(names)) != len(names)):
        raise UsageError(
            f"{file} names {len(set(names))} different classes and holds {len(values)} embeddings; there must be a "
            f"name of its own for each."
        )
    return Embedded(
        ClassEmbeddings(
            file=str(file),
            sha256=hashlib.sha256(content).hexdigest(),
            classes=values.shape[0],
            width=values.shape[1],
        ),
        _directions(file, values),
        names,
    )


def _directions(file: Path, values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the rows divided by their norms. Raises `UsageError` for rows without a direction, and for equal ones."""
    if len(values) < 2 or values.shape[1] < 2:
        raise UsageError(f"{file} holds an array of shape {values.shape}; (classes, width) needs two of each at least.")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(values, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise UsageError(
            f"The embedding of class {bad[0]} in {file} has no direction: it is zero, or not finite; make it again."
        )
    rows = values / norms
    first: dict[bytes, int] = {}
    for number, row in enumerate(rows.astype(np.float32)):
        earlier = first.setdefault(row.tobytes(), number)
        if earlier != number:
            raise UsageError(
                f"Classes {earlier} and {number} in {file} have one embedding, so the second could never be named; "
                f"make the embeddings from different texts."
            )
    return rows


def _arrays(file: Path, content: bytes) -> "dict[str, NDArray[Any]]":
    """Return the arrays of a .npy or .npz file by name. Raises `UsageError` for any other content."""
    stream = io.BytesIO(content)
    try:
        if not zipfile.is_zipfile(stream):
            return {"array": _array(content)}
        with zipfile.ZipFile(stream) as archive:
            if sum(info.file_size for info in archive.infolist()) > files.DOCUMENT:
                raise ValueError("it unpacks to too many bytes")
            return {info.filename.removesuffix(".npy"): _array(archive.read(info)) for info in archive.infolist()}
    except Exception as error:  # numpy's and zipfile's readers raise exceptions of any kind for damaged files
        reason = printable(str(error)).rstrip(".") or type(error).__name__
        raise UsageError(f"{file} is not a .npy or .npz file of plain arrays: {reason[:200]}.") from None


def _array(content: bytes) -> "NDArray[Any]":
    """Return the array of a .npy file; nothing of it is executed, and no memory is taken for more than it holds."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format {version} is not known")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(stream)
    if math.prod(shape) * kind.itemsize > len(content) - stream.tell():
        raise ValueError("it ends before its array does")
    return np.load(io.BytesIO(content), allow_pickle=False)
