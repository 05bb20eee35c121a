"""Write a network as ONNX, strongly typed in FP16."""

import ast
import copy
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fastvit_bench.backends import HALF_WEIGHTS, INPUT, output_names
from fastvit_bench.backends._onnx.model import require_strongly_typed
from fastvit_bench.backends._onnx.session import quiet
from fastvit_bench.errors import UsageError
from fastvit_bench.network.registry import STRIDE, check_size
from fastvit_bench.records import ExportJob, HalfWeights, Shape

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn


OPSET = 20  # the first with GELU as an operator of its own


PACKAGES = ("torch", "onnx", "onnxscript")  # distributions whose versions shape the file


PRECISIONS = ("fp32", "fp16")


LARGEST_HALF = 65504.0


SMALLEST_HALF = 2.0**-24


SMALLEST_NORMAL_HALF = 2.0**-14  # what is smaller keeps fewer than the 11 bits of float16


# --- writing ----------------------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """The least and the largest height and width in pixels that a file takes, in multiples of 32."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least}..{self.most}"


def sizes(text: str) -> Sizes | None:
    """Return the sizes of a text such as ``224..1024``; None for an empty text, which means a file of one shape.

    Raises `UsageError` for any other text.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not match:
        raise UsageError(f"'{text}' must be two sizes in pixels, such as 224..1024")
    result = Sizes(int(match[1]), int(match[2]))
    for size in result:
        check_size(size, size)
    if not result.least < result.most:
        raise UsageError(f"'{text}' must begin below its end; leave it out for a file of one size")
    return result


def write(
    network: "nn.Module",
    asked: ExportJob,
    path: Path,
    metadata: dict[str, str],
    *,
    interface: str | None = None,
    dynamic: Sizes | None = None,
) -> None:
    """Write the ONNX model of `network` to `path`, as `model_of` makes it."""
    model = model_of(network, asked, metadata, interface=interface, dynamic=dynamic)
    path.write_bytes(model.SerializeToString(deterministic=True))


def model_of(
    network: "nn.Module",
    asked: ExportJob,
    metadata: dict[str, str],
    *,
    interface: str | None = None,
    dynamic: Sizes | None = None,
) -> "onnx.ModelProto":
    """Return `network` (float64, evaluation mode) as an ONNX model; equal networks give equal models.

    `asked` names the precision and the shape, the only one that the file takes. With `dynamic` it takes any height and
    width within, at that batch. `interface` is the type of the input and the outputs, ``fp32`` or ``fp16``, by default
    the precision. Float32 around an FP16 file is one Cast behind the input and one before each output. Raises
    `UsageError` for weights beyond the precision, an impossible interface or size, `UnavailableError` for mixed types.
    """
    import onnx
    import torch

    half = asked.precision == "fp16"
    interface = interface or asked.precision
    _check(asked, interface, dynamic)
    if half:
        metadata = {**metadata, HALF_WEIGHTS: msgspec.json.encode(weights_report(network)).decode()}
    inner = torch.float16 if half else torch.float32
    with torch.no_grad(), quiet():
        outer = torch.float32 if interface == "fp32" else torch.float16
        # the outputs' shapes come from the meta device, because a large batch in float16 takes a CPU minutes;
        # for a file of several sizes, from a size that every stride up to 64 divides
        traced = Shape(batch=asked.shape.batch, height=128, width=192) if dynamic else asked.shape
        outputs = copy.deepcopy(network).float().to("meta")(torch.zeros(traced.nchw, device="meta"))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        example, free = _example(asked.shape, dynamic)
        network = copy.deepcopy(network).to(inner).eval()  # from float64 in one step, so that it rounds once
        if outer is not inner:
            network = _between_casts(network)
        program = torch.onnx.export(
            network,
            (torch.zeros(example.nchw, dtype=outer),),
            dynamic_shapes=free,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=output_names(len(outputs), asked.head),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _drop_neutral(model)
    _name_nodes(model, {name for name, _ in network.named_modules()})
    if dynamic:
        _name_sizes(model, traced, [tuple(output.shape) for output in outputs])
    _strip_notes(model)
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "fastvit-bench", metadata.get("fastvit_bench.version", "")
    onnx.checker.check_model(model)
    if half:
        require_strongly_typed(model, asked.model)
    return model


def _check(asked: ExportJob, interface: str, dynamic: Sizes | None) -> None:
    """Raise `UsageError` for an interface that the precision cannot have, or sizes without the job's own."""
    if interface != asked.precision and (asked.precision, interface) != ("fp16", "fp32"):
        raise UsageError(f"A file in {asked.precision} cannot have input and outputs in {interface}; leave it out.")
    if dynamic and not (dynamic.least <= min(asked.shape.nchw[2:]) and max(asked.shape.nchw[2:]) <= dynamic.most):
        raise UsageError(f"A file for {dynamic} does not take {asked.shape.size}; choose a size within, or widen it.")


def _strip_notes(model: "onnx.ModelProto") -> None:
    """Remove metadata and doc strings of the whole model, in which the exporter notes each node's local source line."""
    graph = model.graph
    for entry in (graph, *graph.node, *graph.initializer, *graph.input, *graph.value_info, *graph.output):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    del model.metadata_props[:]
    model.doc_string = ""


def _example(shape: Shape, dynamic: Sizes | None) -> tuple[Shape, Any]:
    """Return the shape that a network is traced with, and its free sizes in the form of `torch.onnx.export`."""
    import torch

    if dynamic is None:
        return shape, None
    # from 2 on, because 1 would be taken for a constant, and without an end; the file contains neither bound
    rows, columns = (torch.export.Dim(name, min=2) for name in ("rows", "columns"))
    traced = Shape(batch=shape.batch, height=2 * STRIDE, width=3 * STRIDE)
    return traced, ({2: STRIDE * rows, 3: STRIDE * columns},)


def _name_sizes(model: "onnx.ModelProto", shape: Shape, outputs: list[tuple[int, ...]]) -> None:
    """Name the free sizes ``height`` and ``width``, and those of a map at stride 4 ``height/4`` and ``width/4``.

    The exporter's own names are numbered anew in each process. Its notes on intermediate values contain them, so these
    are removed.
    """
    graph = model.graph
    for value, nchw in zip((*graph.input, *graph.output), (shape.nchw, *outputs), strict=True):
        free = [size for size in value.type.tensor_type.shape.dim if size.HasField("dim_param")]
        for size, name, image, part in zip(free, ("height", "width"), shape.nchw[2:], nchw[2:], strict=False):
            size.dim_param = name if image == part else f"{name}/{image // part}"
    del graph.value_info[:]


def _drop_neutral(model: "onnx.ModelProto") -> None:
    """Remove multiplications by one and additions of zero.

    The exporter writes both behind each norm without weights, and ONNX Runtime computes them. They stay if the exporter
    does not know the shapes, as behind such norms in a file for several sizes.
    """
    from onnx import numpy_helper

    graph = model.graph
    neutral = {"Mul": 1, "Add": 0}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape for value in (*graph.input, *graph.value_info, *graph.output)}
    instead: dict[str, str] = {}  # removed value -> the value that it equals
    for node in list(graph.node):
        node.input[:] = [instead.get(name, name) for name in node.input]
        operand = next((name for name in node.input if name not in constants), None)
        weights = [constants[name] for name in node.input if name in constants]
        (result, *_) = node.output
        if (
            node.op_type in neutral
            and operand is not None
            and len(weights) == 1
            and shapes.get(operand) == shapes.get(result) is not None  # broadcasting would change it
            and result not in {value.name for value in graph.output}
            and (numpy_helper.to_array(weights[0]) == neutral[node.op_type]).all()
        ):
            instead[result] = operand
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.value_info if value.name in instead]:
        graph.value_info.remove(value)


def _between_casts(network: "nn.Module") -> "nn.Module":
    """Wrap a network that computes in float16, so that its input and outputs are float32."""
    import torch

    class Casts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(_INSIDE, network)

        def forward(self, image: "Tensor") -> "Tensor | tuple[Tensor, ...]":
            outputs = self.get_submodule(_INSIDE)(image.half())
            return tuple(output.float() for output in outputs) if isinstance(outputs, tuple) else outputs.float()

    return Casts().eval()


# --- names ------------------------------------------------------------------------------------------------------------

_SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of the modules a node comes from, outermost first


_INSIDE = "between_casts"  # name of the network in its wrapper of Casts; removed from the names in the file


def _name_nodes(model: "onnx.ModelProto", modules: Collection[str]) -> None:
    """Name every node MODULE/OPERATOR after the module it comes from, so that a runtime's profile can be read.

    An example is ``network.4.1.mixer/Conv``; nodes of the network itself are ``/Add``. Names that would be equal get
    _1, _2. Values are named after the nodes that compute them, because runtimes name fused nodes after either. Weights
    have their names in the network, even if it is between Casts.
    """
    graph = model.graph
    scopes: dict[str, str] = {}  # value -> module that computed it
    taken: dict[str, int] = {}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names = {tensor.name: tensor.name.removeprefix(f"{_INSIDE}.") for tensor in graph.initializer}
    for node in graph.node:
        noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
        scope = ast.literal_eval(noted)[-2] if noted else None  # the last one is the operation
        if scope is not None and scope in modules:
            scope = scope.removeprefix(_INSIDE).removeprefix(".")
        else:  # a node of the exporter's own belongs to the module of its input
            scope = next((scopes[name] for name in node.input if name in scopes), "")
        scopes.update(dict.fromkeys(node.output, scope))
        name = f"{scope}/{node.op_type}"
        count = taken[name] = taken.get(name, -1) + 1
        node.name = f"{name}_{count}" if count else name
        for index, value in enumerate(node.output):
            if value not in fixed:
                names[value] = f"{node.name}:{index}" if len(node.output) > 1 else node.name
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    for value in (*graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)


# --- weights ----------------------------------------------------------------------------------------------------------


def weights_report(network: "nn.Module") -> HalfWeights:
    """Count the weights of `network`, in a wider type, that float16 makes subnormal or zero; nothing is changed.

    Raises `UsageError`, with the layer's name, for a weight above 65504 in magnitude or a NaN.
    """
    import torch

    total = subnormal = zeroed = 0
    largest, largest_of = 0.0, ""
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        peak = float(tensor.abs().max())
        if not peak <= LARGEST_HALF:  # true for NaN too
            raise UsageError(
                f"The weight {name} holds {_worst(tensor):.6g}, and float16 ends at {LARGEST_HALF:.0f}; "
                f"export in fp32, or give a checkpoint with smaller weights."
            )
        if peak > largest:
            largest, largest_of = peak, name
        rounded = tensor.to(torch.float16)
        lost = (rounded == 0) & (tensor != 0)
        total += tensor.numel()
        zeroed += int(lost.sum())
        subnormal += int(((rounded != 0) & (rounded.abs() < SMALLEST_NORMAL_HALF)).sum())
    return HalfWeights(weights=total, subnormal=subnormal, zeroed=zeroed, largest=largest, largest_of=largest_of)


def _worst(tensor: "Tensor") -> float:
    """Return NaN if a tensor contains one, otherwise its value of the largest magnitude."""
    odd = tensor[tensor.isnan()]
    return float(odd[0] if len(odd) else tensor.flatten()[tensor.abs().argmax()])
