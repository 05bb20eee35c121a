"""Read and check ONNX models."""

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench import files
from fastvit_bench.backends._onnx.limits import require_bounded
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Shape

if TYPE_CHECKING:
    import onnx


# --- checking ---------------------------------------------------------------------------------------------------------


def require_strongly_typed(model: "onnx.ModelProto", name: str) -> None:
    """Raise `UnavailableError` unless all of an FP16 file's arithmetic is float16 and all its numbers are finite."""
    try:
        faults = islands(model) + _infinite(model)
    except UnavailableError as error:
        faults = [first_line(error)]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UnavailableError(
            f"The FP16 file of {name} is not float16 throughout: {', '.join(faults[:3])}{more}; "
            f"it was changed, or this version of torch.onnx writes something new: report it with the versions."
        )


def islands(model: "onnx.ModelProto") -> list[str]:
    """List the parts of an FP16 file that are not float16, each in a few words with its name.

    The list is empty for a strongly typed file. The type of every value is inferred anew, whatever the file says of it.
    Allowed are the Casts from a float32 input and to a float32 output. Integers, such as shapes and axes, are no
    arithmetic, and neither are the factors of a Resize, which have no other type.
    """
    import onnx

    wide: dict[int, str] = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.DOUBLE: "float64",
        onnx.TensorProto.BFLOAT16: "bf16",
    }
    try:
        graph = _inferred(model).graph
    except UnavailableError as error:
        return [first_line(error)]
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    factors = {node.input[2] for node in graph.node if node.op_type == "Resize" and len(node.input) > 2}
    faults = [
        f"{wide[tensor.data_type]} initialiser {tensor.name}"
        for tensor in graph.initializer
        if tensor.data_type in wide and tensor.name not in factors
    ]
    outer = {value.name for value in graph.input}, {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type == "Shape" or (
            node.op_type == "Cast" and (outer[0].intersection(node.input) or outer[1].intersection(node.output))
        ):
            continue
        read = [name for index, name in enumerate(node.input) if node.op_type != "Resize" or index != 2]
        names = [name for name in (*read, *node.output) if name]
        known = {types.get(name, 0) for name in names}
        label = f"{node.op_type} {node.name or next(iter(node.output), '')}"
        if known & wide.keys():
            faults.append(f"{wide[min(known & wide.keys())]} node {label}")
        elif 0 in known:
            faults.append(f"node {label} of a type that cannot be inferred")
    return faults


def _inferred(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy with the type and shape of every value, inferred anew.

    Raises `UnavailableError` where types do not fit.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    except Exception as error:  # its exceptions are protobuf's and its own, without a common base
        raise UnavailableError(f"types that do not fit together ({first_line(error)})") from error


def _infinite(model: "onnx.ModelProto") -> list[str]:
    """List the float16 initialisers with values that are not finite, such as folded constants."""
    import numpy as np
    import onnx

    return [
        f"initialiser {tensor.name} with values beyond float16"
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT16 and not np.isfinite(numbers(tensor)).all()
    ]


def numbers(tensor: "onnx.TensorProto") -> Any:
    """Return the array of an initialiser. Raises `UnavailableError` for one that does not hold its numbers."""
    import onnx

    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError("they are in another file")
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, LookupError) as error:
        raise UnavailableError(f"an initialiser {tensor.name} without its numbers ({first_line(error)})") from error


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> "onnx.ModelProto":
    """Read the model in a file, without data that it has in other files.

    Raises `UnavailableError` for one that is no ONNX file, and for one beyond `limits`.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(files.read_bytes(path, files.PROGRAM))
    except OSError as error:
        raise UnavailableError(f"ONNX cannot load {path.name}: {error.strerror or error}.") from error
    except Exception as error:  # protobuf's exceptions are not part of onnx's interface
        raise UnavailableError(f"ONNX cannot load {path.name}: {first_line(error)}.") from error
    require_bounded(model, path.name)
    return model


def metadata(path: Path) -> dict[str, str]:
    """Return the model's metadata properties."""
    return {entry.key: entry.value for entry in read(path).metadata_props}


def shape_of(path: Path) -> Shape:
    """Return the shape of a file's input; for a file of several sizes or batches, the one in its metadata.

    Raises `UnavailableError` where the metadata has none.
    """
    from onnx import TensorProto

    model = read(path)
    inputs = [value.type.tensor_type for value in model.graph.input[:1]]
    dims = [size.dim_value for value in inputs for size in value.shape.dim]  # 0 stands for a free one
    if len(dims) == 4 and inputs[0].elem_type == TensorProto.UINT8:
        dims = [dims[0], dims[3], dims[1], dims[2]]  # of pixels (N, H, W, C)
    if len(dims) != 4 or not dims[1]:
        raise UnavailableError(f"{path.name} does not take images (N, C, H, W); export the network again.")
    if not all(dims):
        notes = {entry.key: entry.value for entry in model.metadata_props}
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", notes.get("fastvit_bench.resolution", ""))
        batch = re.fullmatch(r"\d+", notes.get("fastvit_bench.batch", str(dims[0])))
        if not match or not batch:
            raise UnavailableError(f"{path.name} does not say for which size it was exported; export it again.")
        dims = [int(batch[0]), dims[1], int(match[1]), int(match[2] or match[1])]
    return Shape(batch=dims[0], channels=dims[1], height=dims[2], width=dims[3])


def operations(path: Path) -> dict[str, int]:
    """Count the nodes by kind; a runtime fuses many of them when it loads the file."""
    import collections

    return dict(collections.Counter(node.op_type for node in read(path).graph.node))


# they only move values, and to round rounded values again is lost time
_MOVING = {"Reshape", "Transpose", "Split", "Concat", "Slice", "Identity", "Flatten", "Squeeze", "Unsqueeze"}


def rounding(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy that computes in float32 and rounds every float16 result by a Cast to float16 and back.

    Each float16 value x gets a float32 twin that the operators read. ONNX Runtime does not remove the explicit Casts;
    it removes those it adds itself.
    """
    import onnx

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    result = _inferred(model)
    graph = result.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    narrow = {value.name for value in values if value.type.tensor_type.elem_type == half}
    narrow |= {tensor.name for tensor in graph.initializer if tensor.data_type == half}
    outer = {value.name for value in graph.output}
    del graph.value_info[:]

    def twin(name: str) -> str:
        return f"{name}__single" if name in narrow else name

    def cast(source: str, target: str, kind: int) -> "onnx.NodeProto":
        return onnx.helper.make_node("Cast", [source], [target], to=kind)

    nodes = [cast(value.name, twin(value.name), single) for value in graph.input if value.name in narrow]
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type == half:
            wide = numbers(tensor).astype("float32")
            graph.initializer[index].CopyFrom(onnx.numpy_helper.from_array(wide, twin(tensor.name)))
    for node in graph.node:
        outputs = [name for name in node.output if name in narrow]
        node.input[:] = [twin(name) for name in node.input]
        after: list[onnx.NodeProto] = []
        if node.op_type in _MOVING:
            node.output[:] = [twin(name) for name in node.output]
            after = [cast(twin(name), name, half) for name in outputs if name in outer]
        elif node.op_type in {"Cast", "Constant"}:  # their results are float16 by themselves
            after = [cast(name, twin(name), single) for name in outputs]
        else:
            node.output[:] = [f"{name}__wide" if name in narrow else name for name in node.output]
            for name in outputs:
                after += [cast(f"{name}__wide", name, half), cast(name, twin(name), single)]
        nodes += [node, *after]
    # copies, because deleting the list deletes its nodes
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return result


# Parts of the networks by the beginning of their modules' names, in the folded form and in the trained ones. Entries of
# FastViT's `network` are stages and the layers between them; the fourth stage has number 6, or 7 behind an encoding.
_PARTS = (
    (r"stages\.(\d+)\.blocks\.(\d+)\b", "stages.{0}.blocks.{1}"),
    (r"stages\.(\d+)\.(downsample|encoding|norm)\b", "stages.{0}.{1}"),
    (r"(?:stem|patch_embed)\b", "stem"),
    (r"network\.([024])\.(\d+)\b", "stages.{half}.blocks.{1}"),
    (r"network\.([67])\.(\d+)\b", "stages.3.blocks.{1}"),
    (r"network\.([135])\b", "stages.{next}.downsample"),
    (r"network\.6\b", "stages.3.encoding"),
    (r"norms?\.?([0246])\b", "stages.{half}.norm"),
    (r"(?:expansion|conv_exp)\b", "expansion"),
    (r"(?:classifier|head|norm)\b", "classifier"),
    (r"dense_head\b", "head"),
)


def block_of(name: str) -> str:
    """Return the block of the network that a layer's name refers to, such as ``stages.2.blocks.1``; empty for none.

    Runtimes join the names of the nodes they fuse. Where those are of several blocks, the common part is returned, such
    as ``stages.2``.
    """
    # TensorRT writes [FIRST...LAST]; ONNX Runtime prefixes names of nodes that it computes in another type
    words = re.findall(r"(?:InsertedPrecisionFreeCast_)?([\w.]+)", name.replace("...", " "))
    blocks = list(dict.fromkeys(filter(None, map(_block, words))))
    if len(blocks) < 2:
        return "".join(blocks)
    levels = zip(*(block.split(".") for block in blocks), strict=False)
    common = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]
    return ".".join(common[:2]) if len(common) > 1 else ""  # neither `stages` nor `stages.2.blocks` is a part


def _block(module: str) -> str:
    """Return the block of a module's name; empty for none."""
    for pattern, block in _PARTS:
        match = re.match(pattern, module)
        if match:
            numbers = match.groups()
            first = int(numbers[0]) if numbers else 0
            return block.format(*numbers, half=first // 2, next=first // 2 + 1)
    return ""
