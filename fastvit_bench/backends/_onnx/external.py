"""External ONNX files: renamed and fixed to one shape, so that they can be timed beside exported ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends import INPUT, output_names
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Shape

if TYPE_CHECKING:
    import onnx


def normalize_external_onnx(source: Path, shape: Shape) -> "onnx.ModelProto":
    """Load a file's model, with its input renamed ``image``, its output ``logits``, and all sizes set to `shape`.

    It must take one float image (N, 3, H, W), whose sizes are those of `shape` or open, and return one (N, classes).
    Raises `UsageError` for any other model, and `UnavailableError` for a file that cannot be read.
    """
    import onnx
    from onnx import external_data_helper

    model = onnx_model.read(source)
    try:
        external_data_helper.load_external_data_for_model(model, str(source.parent))
    except Exception as error:  # its exceptions are its own, without a common base
        raise UnavailableError(f"ONNX cannot load the data of {source}: {first_line(error)}.") from error
    graph = model.graph
    initialisers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initialisers]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UsageError(
            f"{source} has {len(inputs)} inputs and {len(graph.output)} outputs; a classifier takes one image and "
            f"returns one set of logits."
        )
    image, logits = inputs[0], graph.output[0]
    tensor = image.type.tensor_type
    dims = tensor.shape.dim
    wanted = shape.nchw
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(dims) != 4:
        raise UsageError(f"{source} does not take float32 images (N, 3, H, W) as '{image.name}'; convert it first.")
    fixed = [(dim.dim_value, size) for dim, size in zip(dims, wanted, strict=True) if dim.HasField("dim_value")]
    if any(dim != size for dim, size in fixed):
        takes = ", ".join(str(dim.dim_value) if dim.HasField("dim_value") else "open" for dim in dims)
        raise UsageError(
            f"{source} takes images ({takes}), and here they are ({', '.join(map(str, wanted))}); export it at that "
            f"size and batch, or with open sizes."
        )
    for dim, size in zip(dims, wanted, strict=True):
        dim.dim_value = size
    (name,) = output_names(1)
    _rename(graph, {image.name: INPUT, logits.name: name})
    del graph.value_info[:]  # of sizes that may have been open
    out = graph.output[0].type.tensor_type
    out.ClearField("shape")
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True)
        onnx.checker.check_model(model)
    except Exception as error:  # its exceptions are protobuf's and its own, without a common base
        raise UsageError(f"{source} is no valid ONNX file: {first_line(error)}.") from error
    sizes = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    if len(sizes) != 2 or sizes[0] != shape.batch or not sizes[1]:
        raise UsageError(f"{source} returns {sizes or 'an unknown shape'} and not (N, classes); it is no classifier.")
    return model


def data_files(source: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold its weights. Raises `UnavailableError` as `model.read` does."""
    tensors = onnx_model.read(source).graph.initializer
    places = [entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"]
    return [source.parent / place for place in dict.fromkeys(places)]


def copy(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy of a model."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def write(model: "onnx.ModelProto", path: Path, metadata: Mapping[str, str]) -> None:
    """Write an adopted model to `path`, with its own metadata and `metadata`."""
    import onnx

    artifact = copy(model)
    for key, value in metadata.items():
        entry = artifact.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(artifact, path)


def classes(model: "onnx.ModelProto") -> int:
    """Return the number of classes of an adopted model."""
    return model.graph.output[0].type.tensor_type.shape.dim[1].dim_value


def _rename(graph: "onnx.GraphProto", names: Mapping[str, str]) -> None:
    """Rename values of a graph and of its subgraphs, which see the values of the graphs around them."""
    taken = {value for node in graph.node for value in (*node.input, *node.output)} - names.keys()
    inner = {new: f"{new}_within" for new in names.values() if new in taken}
    everything = {**inner, **names}

    def visit(part: Any) -> None:
        for value in (*part.input, *part.output):
            value.name = everything.get(value.name, value.name)
        for node in part.node:
            node.input[:] = [everything.get(value, value) for value in node.input]
            node.output[:] = [everything.get(value, value) for value in node.output]
            for attribute in node.attribute:
                for sub in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                    visit(sub)
        for tensor in part.initializer:
            tensor.name = everything.get(tensor.name, tensor.name)

    visit(graph)
