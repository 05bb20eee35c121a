"""ONNX files of others, run by ONNX Runtime as they are stored."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench import backends
from fastvit_bench.auditing.foreign import ForeignFile, Port, one_input
from fastvit_bench.auditing.graph import FileGraph, GraphNode
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import UnavailableError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

# ONNX's words for what MIL calls otherwise; of the others the word in lower case
_KINDS = {
    "BatchNormalization": "batch_norm",
    "Div": "real_div",
    "Dropout": "identity",
    "Gemm": "linear",
    "LayerNormalization": "layer_norm",
    "ReduceMean": "reduce_mean",
}
_QUANTISED = {"DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}


def opened(path: Path) -> ForeignFile:
    """Open an ONNX file whose operators ONNX Runtime runs one by one. Raises as `foreign.opened` does."""
    from onnx import TensorProto

    model = _read(path)
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    port = one_input(path, [_port(value) for value in graph.input if value.name not in known])
    nodes, constants = _nodes(graph)
    # from its path: what it has in files beside it is looked for there
    session = onnx_session.native(path, backends.available_cores())

    def run(batch: "NDArray[Any]") -> "dict[str, NDArray[Any]]":
        try:
            values = session.run(None, {port.name: batch})
        except Exception as error:  # its exceptions share no base class but this one
            size = list(batch.shape)
            raise UnavailableError(f"{path} cannot be run on images {size}: {first_line(error)}.") from error
        return dict(zip((output.name for output in session.get_outputs()), values, strict=True))

    floats = [
        tensor
        for tensor in constants.values()
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    ]
    halves = port.dtype == "float16" or any(tensor.data_type == TensorProto.FLOAT16 for tensor in floats)
    return ForeignFile(
        path=path,
        target="onnx",
        precision="fp16" if halves else "fp32",
        compress="int8" if any(node.word in _QUANTISED for node in nodes) else "none",
        port=port,
        outputs=tuple(_port(value) for value in graph.output),
        graph=FileGraph(
            nodes,
            {name: tuple(tensor.dims) for name, tensor in constants.items()},
            frozenset(value.name for value in graph.output),
        ),
        weights=[onnx_model.numbers(tensor) for tensor in floats],
        labels=(),
        run=run,
        how="ONNX Runtime on this processor, operator by operator",
    )


def _read(path: Path) -> "onnx.ModelProto":
    """Return the model of a file with the values that are beside it, its functions put in place of their calls."""
    from onnx import external_data_helper, inliner

    model = onnx_model.read(path)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # its exceptions are its own, without a common base
        raise UnavailableError(f"ONNX cannot load the data of {path}: {first_line(error)}.") from error
    return inliner.inline_local_functions(model) if model.functions else model


def _port(value: "onnx.ValueInfoProto") -> Port:
    from onnx import helper

    tensor = value.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, ValueError):
        dtype = "an unknown type"
    return Port(value.name, tuple(size.dim_value or None for size in tensor.shape.dim), dtype)


def _nodes(graph: "onnx.GraphProto") -> "tuple[tuple[GraphNode, ...], dict[str, onnx.TensorProto]]":
    """Return the operations of a graph and its constants, by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants |= {
                name: attribute.t
                for name in node.output
                for attribute in node.attribute
                if attribute.name == "value" and attribute.HasField("t")
            }
    # a constant that the exporter passes on is one too, though the node that does so remains
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return tuple(
        GraphNode(
            kind=_KINDS.get(node.op_type, node.op_type.lower()),
            name=node.name or next(iter(node.output), node.op_type),
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            depthwise=node.op_type == "Conv" and _is_depthwise(node, constants),
            word=node.op_type,
        )
        for node in graph.node
        if node.op_type != "Constant"
    ), constants


def _is_depthwise(node: "onnx.NodeProto", constants: "dict[str, onnx.TensorProto]") -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    weight = constants.get(node.input[1])
    return groups > 1 and weight is not None and list(weight.dims)[1:2] == [1]
