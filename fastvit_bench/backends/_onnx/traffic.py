"""The arithmetic and traffic of an ONNX file: multiply-accumulates, and the bytes its nodes read and write.

Every node is counted separately: it reads its inputs from memory and writes its outputs there. A runtime that fuses
nodes, or keeps values in a cache, moves less, so the operational intensity that follows is a lower bound (Williams,
Waterman & Patterson, Roofline, CACM 52(4), 2009, count the bytes behind the caches).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Shape, Traffic

if TYPE_CHECKING:
    import onnx

# they pass their input on, or read only its shape
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Size", "Constant", "Dropout"}

# they read as much as they write, whatever the size of their input
_SELECTING = {"Slice", "Gather", "Expand", "ConstantOfShape"}

_SMALL = 64  # numbers of an initialiser whose value may decide a shape


def count(path: Path, shape: Shape) -> Traffic:
    """Count one run of the file at an input shape, which fills in the sizes that the file leaves free.

    Raises `UnavailableError` for a file that cannot be read, or a value whose shape cannot be inferred.
    """
    return of(onnx_model.read(path), shape, path.name)


def of(model: "onnx.ModelProto", shape: Shape, name: str) -> Traffic:
    """Count one run of a model, which is changed; `name` is for messages. Raises as `count` does."""
    try:
        return msgspec.convert(_counts(model, shape, name), Traffic)
    except (LookupError, ValueError) as error:  # of a node without its inputs, or counts beyond all files
        raise UnavailableError(f"{name} is no valid ONNX file, so its bytes cannot be counted.") from error


def _counts(model: "onnx.ModelProto", shape: Shape, name: str) -> dict[str, int]:
    """Return the fields of a `Traffic`. Raises `LookupError` and `ValueError` for nodes that none can have."""
    import onnx

    graph = model.graph
    weights = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    read = {value for node in graph.node for value in node.input}
    params = sum(
        math.prod(dims) for value, (dims, kind) in weights.items() if value in read and kind in _floating(onnx)
    )
    known = {**_values(model, shape, name), **weights}

    def dims_of(value: str) -> tuple[int, ...]:
        return _known(known, value, name)[0]

    def size(value: str) -> int:
        dims, kind = _known(known, value, name)
        return math.prod(dims) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize

    macs = weight_bytes = read_bytes = written_bytes = 0
    for node in graph.node:
        if node.op_type in _VIEWS:
            continue
        written = sum(size(value) for value in node.output if value)
        inputs = [value for value in dict.fromkeys(node.input) if value]  # a value that is used twice is read once
        written_bytes += written
        if node.op_type in _SELECTING:
            if inputs and inputs[0] in weights:
                weight_bytes += written
            else:
                read_bytes += written
        else:
            weight_bytes += sum(size(value) for value in inputs if value in weights)
            read_bytes += sum(size(value) for value in inputs if value not in weights)
        macs += _macs(node, dims_of)
    return {
        "params": params,
        "macs": macs,
        "weight_bytes": weight_bytes,
        "read_bytes": read_bytes,
        "written_bytes": written_bytes,
    }


def _macs(node: "onnx.NodeProto", shape_of: Callable[[str], tuple[int, ...]]) -> int:
    """Return the node's multiply-accumulates: its outputs times the products that each is a sum of."""
    if node.op_type == "Conv":  # weights (outputs, inputs / groups, kernel height, kernel width)
        return math.prod(shape_of(node.output[0])) * math.prod(shape_of(node.input[1])[1:])
    if node.op_type == "MatMul":
        return math.prod(shape_of(node.output[0])) * shape_of(node.input[0])[-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(shape_of(node.output[0])) * shape_of(node.input[0])[0 if transposed else 1]
    return 0


def _values(model: "onnx.ModelProto", shape: Shape, name: str) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return shape and type of every input and computed value, inferred anew for the input shape.

    Raises `UnavailableError` where they cannot be inferred.
    """
    import onnx

    graph = model.graph
    image = graph.input[0].type.tensor_type
    sides = shape.nhwc if image.elem_type == onnx.TensorProto.UINT8 else shape.nchw
    for size, length in zip(image.shape.dim, sides, strict=True):
        size.dim_value = length
    for value in graph.output:  # their sizes follow, and may be free in the file
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    for tensor in graph.initializer:  # their numbers decide nothing, and copying them takes seconds
        if math.prod(tensor.dims) > _SMALL:
            tensor.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # its exceptions are protobuf's and its own, without a common base
        raise UnavailableError(f"ONNX cannot infer the shapes in {name}: {first_line(error)}.") from error
    return {
        value.name: (tuple(size.dim_value for size in tensor.shape.dim), tensor.elem_type)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if (tensor := value.type.tensor_type).HasField("shape")
        and all(size.HasField("dim_value") for size in tensor.shape.dim)
    }


def _known(known: dict[str, tuple[tuple[int, ...], int]], value: str, name: str) -> tuple[tuple[int, ...], int]:
    """Return a value's shape and type. Raises `UnavailableError` where they are unknown."""
    if value not in known:
        raise UnavailableError(f"The shape of {value} in {name} cannot be inferred, so its bytes cannot be counted.")
    return known[value]


def _floating(onnx: Any) -> set[int]:
    """Return the floating-point element types of ONNX."""
    kinds = onnx.TensorProto
    return {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
