"""What an ONNX file computes and moves: multiply-accumulates, and the bytes that its nodes read and write.

Every node is taken for itself: it reads its inputs from memory and writes its outputs there. A runtime that fuses
nodes, or keeps values in a cache, moves less, so the operational intensity that follows is a lower bound (Williams,
Waterman & Patterson, Roofline, CACM 52(4), 2009, count the bytes behind the caches).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends import _onnx
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Shape, Traffic

if TYPE_CHECKING:
    import onnx

# they hand on what they are given, or look at its shape only
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Size", "Constant", "Dropout"}

# they read as much as they write, whatever they are given
_SELECTING = {"Slice", "Gather", "Expand", "ConstantOfShape"}

_SMALL = 64  # numbers of an initialiser whose value may decide a shape


def count(path: Path, shape: Shape) -> Traffic:
    """Of one run of the file at an input shape, which fills in the sizes that the file leaves free.

    `UnavailableError` for a file that cannot be read, or a value whose shape cannot be inferred.
    """
    return of(_onnx.read(path), shape, path.name)


def of(model: "onnx.ModelProto", shape: Shape, name: str) -> Traffic:
    """The same of a model, which is changed; `name` is for messages."""
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
        given = [value for value in dict.fromkeys(node.input) if value]  # what is given twice is read once
        written_bytes += written
        if node.op_type in _SELECTING:
            if given and given[0] in weights:
                weight_bytes += written
            else:
                read_bytes += written
        else:
            weight_bytes += sum(size(value) for value in given if value in weights)
            read_bytes += sum(size(value) for value in given if value not in weights)
        macs += _macs(node, dims_of)
    return Traffic(
        params=params, macs=macs, weight_bytes=weight_bytes, read_bytes=read_bytes, written_bytes=written_bytes
    )


def _macs(node: "onnx.NodeProto", shape_of: Callable[[str], tuple[int, ...]]) -> int:
    """Products that the node adds up: outputs times the numbers that each is a sum of."""
    if node.op_type == "Conv":  # weights (outputs, inputs / groups, kernel height, kernel width)
        return math.prod(shape_of(node.output[0])) * math.prod(shape_of(node.input[1])[1:])
    if node.op_type == "MatMul":
        return math.prod(shape_of(node.output[0])) * shape_of(node.input[0])[-1]
    if node.op_type == "Gemm":
        transposed = any(each.name == "transA" and each.i for each in node.attribute)
        return math.prod(shape_of(node.output[0])) * shape_of(node.input[0])[0 if transposed else 1]
    return 0


def _values(model: "onnx.ModelProto", shape: Shape, name: str) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and type of every value that a node computes or that is fed, inferred anew for the input shape."""
    import onnx

    graph = model.graph
    for size, given in zip(graph.input[0].type.tensor_type.shape.dim, shape.nchw, strict=True):
        size.dim_value = given
    for value in graph.output:  # their sizes follow, and may be free in the file
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    for tensor in graph.initializer:  # their numbers decide nothing, and copying them takes seconds
        if math.prod(tensor.dims) > _SMALL:
            tensor.ClearField("raw_data")
    try:
        found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # its exceptions are protobuf's and its own, without a common base
        raise UnavailableError(f"ONNX cannot infer the shapes in {name}: {_onnx.first_line(error)}.") from error
    return {
        value.name: (tuple(size.dim_value for size in tensor.shape.dim), tensor.elem_type)
        for value in (*found.input, *found.value_info, *found.output)
        if (tensor := value.type.tensor_type).HasField("shape")
        and all(size.HasField("dim_value") for size in tensor.shape.dim)
    }


def _known(known: dict[str, tuple[tuple[int, ...], int]], value: str, name: str) -> tuple[tuple[int, ...], int]:
    if value not in known:
        raise UnavailableError(f"The shape of {value} in {name} cannot be inferred, so its bytes cannot be counted.")
    return known[value]


def _floating(onnx: Any) -> set[int]:
    kinds = onnx.TensorProto
    return {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
