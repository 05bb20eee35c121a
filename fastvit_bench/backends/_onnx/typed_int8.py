"""Files in INT8 with float16 between their integers, as strongly typed toolkits take them, and back in float32."""

from typing import TYPE_CHECKING, Any

from fastvit_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

_LARGEST = 65504.0  # of float16
_FACTORS = 2  # input of a Resize that has no type but float32


def step(width: "Array", kind: "np.dtype[Any]") -> "Array":
    """Return the steps of grids, of which `width` are the exact ones, as numbers of a type that is no wider.

    In float16 they are rounded up, so that no weight is beyond its grid, and none is 0. What is below 2**-14 has fewer
    digits there, and is rounded by up to half of itself.
    """
    import numpy as np

    near = width.astype(kind)
    if kind != np.float16:
        return near
    return np.where(near.astype(np.float64) < width, np.nextafter(near, np.float16(np.inf)), near)


def narrowed(file: "onnx.ModelProto", network: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a quantised file with float16 in place of float32: steps, biases, input, outputs and all between.

    Steps change when they are rounded, so the weights of `network`, the float graph it was quantised from, are rounded
    to the new ones. Raises `UsageError` for numbers beyond float16.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    half = onnx.TensorProto.FLOAT16
    result = _copy(file)
    graph = result.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    floats = {tensor.name: tensor for tensor in network.graph.initializer}
    for node in graph.node:
        source = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None:
            continue
        values = numpy_helper.to_array(floats[source.name.removesuffix("_quantized")])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
        old = tensors[node.input[1]]
        inside = tuple(index for index in range(values.ndim) if index != axis) if old.dims else None
        largest = np.abs(values.astype(np.float64)).max(inside, keepdims=True)
        steps = step(np.where(largest > 0, largest / 127, 1.0), np.dtype(np.float16))
        levels = np.clip(np.rint(values / steps.astype(np.float32)), -128, 127).astype(np.int8)
        source.CopyFrom(numpy_helper.from_array(levels, source.name))
        old.CopyFrom(numpy_helper.from_array(steps.reshape(tuple(old.dims)), old.name))
    steps_of = {node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}

    def number(tensor: "onnx.TensorProto") -> "Array":
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max(initial=0) > _LARGEST:
            raise UsageError(
                f"{tensor.name} holds {float(np.abs(values).max()):.6g}, and float16 ends at {_LARGEST:.0f}; export "
                f"for another toolkit, or give a checkpoint with smaller weights."
            )
        return step(values.astype(np.float64), np.dtype(np.float16)) if tensor.name in steps_of else values

    return _retyped(result, onnx.TensorProto.FLOAT, half, lambda tensor: number(tensor).astype(np.float16))


def widened(file: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a file with float32 in place of float16, and the same numbers; one without float16 as it is."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    return _retyped(_copy(file), half, single, lambda tensor: numpy_helper.to_array(tensor).astype(np.float32))


def as_stored(network: "onnx.ModelProto", file: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy of a float graph with its numbers rounded to float16 where a file stores them so."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    result = _copy(network)
    halves = {tensor.name for tensor in file.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    for tensor in result.graph.initializer:
        if tensor.name in halves and tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return result


def _retyped(
    model: "onnx.ModelProto", kind: int, target: int, number: "Callable[[onnx.TensorProto], Array]"
) -> "onnx.ModelProto":
    """Change the float type of a model's numbers, input and outputs, in place; returns it."""
    from onnx import numpy_helper

    graph = model.graph
    factors = {node.input[_FACTORS] for node in graph.node if node.op_type == "Resize" and len(node.input) > _FACTORS}
    for tensor in graph.initializer:
        if tensor.data_type == kind and tensor.name not in factors:
            tensor.CopyFrom(numpy_helper.from_array(number(tensor), tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == kind:
            value.type.tensor_type.elem_type = target
    del graph.value_info[:]  # it is of the types before
    return model


def _copy(model: "onnx.ModelProto") -> "onnx.ModelProto":
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result
