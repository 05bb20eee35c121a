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
from fastvit_bench.network import registry
from fastvit_bench.records import ExportJob, HalfWeights, Shape

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import Tensor, nn


OPSET = 20  # the first with GELU as an operator of its own


PACKAGES = ("torch", "onnx", "onnxscript")  # distributions whose versions shape the file


PRECISIONS = ("fp32", "fp16")


LARGEST_HALF = 65504.0


SMALLEST_HALF = 2.0**-24


SMALLEST_NORMAL_HALF = 2.0**-14  # what is smaller keeps fewer than the 11 bits of float16


# --- writing ----------------------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """The least and the largest that a file takes: height and width in pixels, or images of a batch."""

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
        registry.check_size(size, size)
    if not result.least < result.most:
        raise UsageError(f"'{text}' must begin below its end; leave it out for a file of one size")
    return result


LARGEST_BATCH = 65_536  # images


def batches(text: str) -> Sizes | None:
    """Return the batches of a text such as ``1..8``; None for an empty text, which means a file of one batch.

    Raises `UsageError` for any other text.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,6})\.\.(\d{1,6})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) < int(match[2]) <= LARGEST_BATCH:
        raise UsageError(f"'{text[:80]}' must be two numbers of images, the smaller first, such as 1..8")
    return Sizes(int(match[1]), int(match[2]))


def write(
    network: "nn.Module",
    asked: ExportJob,
    path: Path,
    metadata: dict[str, str],
    *,
    interface: str | None = None,
    dynamic: Sizes | None = None,
    any_batch: bool = False,
) -> None:
    """Write the ONNX model of `network` to `path`, as `model_of` makes it."""
    model = model_of(network, asked, metadata, interface=interface, dynamic=dynamic, any_batch=any_batch)
    path.write_bytes(model.SerializeToString(deterministic=True))


def model_of(
    network: "nn.Module",
    asked: ExportJob,
    metadata: dict[str, str],
    *,
    interface: str | None = None,
    dynamic: Sizes | None = None,
    any_batch: bool = False,
) -> "onnx.ModelProto":
    """Return `network` (float64, evaluation mode) as an ONNX model; equal networks give equal models.

    `asked` names the precision and the shape, the only one that the file takes. With `dynamic` it takes any height and
    width within, and with `any_batch` any batch. `interface` is the type of the input and the outputs, ``fp32`` or
    ``fp16``, by default the precision. Float32 around an FP16 file is one Cast behind the input and one before each
    output. Raises
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
        traced, free = _traced(asked, dynamic, any_batch=any_batch)
        # the outputs' shapes come from the meta device, because a large batch in float16 takes a CPU minutes
        outputs = copy.deepcopy(network).float().to("meta")(torch.zeros(traced.nchw, device="meta"))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        network = copy.deepcopy(network).to(inner).eval()  # from float64 in one step, so that it rounds once
        network, image = _wrapped(network, asked, traced, inner, outer)
        program = torch.onnx.export(
            network,
            (image,),
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
    if free:
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


def _traced(asked: ExportJob, dynamic: Sizes | None, *, any_batch: bool) -> tuple[Shape, Any]:
    """Return the shape that a network is traced with, and its free sizes in the form of `torch.onnx.export`."""
    import torch

    # from 2 on, because 1 would be taken for a constant, and without an end; the file contains neither bound
    batch, rows, columns = (torch.export.Dim(name, min=2) for name in ("batch", "rows", "columns"))
    traced, free = asked.shape, dict[int, Any]()
    if any_batch:
        # a number that no other size of a network is likely to have
        traced, free = msgspec.structs.replace(traced, batch=TRACED_BATCH), {0: batch}
    if dynamic is None:
        return traced, (free,) if free else None
    stride = max(registry.STRIDE, registry.find(asked.variant).stride)
    step = max(2 * registry.STRIDE, stride)  # the last maps of a detector are at stride 64, whatever its backbone
    traced = msgspec.structs.replace(traced, height=2 * step, width=3 * step)
    return traced, ({**free, 2: stride * rows, 3: stride * columns},)


TRACED_BATCH = 5  # of a file for any batch; few sizes within a network are the same, so that none is mixed up with it


def _name_sizes(model: "onnx.ModelProto", shape: Shape, outputs: list[tuple[int, ...]]) -> None:
    """Name the free sizes ``batch``, ``height`` and ``width``, and those of a map at stride 4 ``height/4`` and so on.

    The free size of a sequence is the number of its ``tokens``.

    The exporter's own names are numbered anew in each process. Its notes on intermediate values contain them, so these
    are removed.
    """
    graph = model.graph
    for value, nchw in zip((*graph.input, *graph.output), (shape.nchw, *outputs), strict=True):
        dims = value.type.tensor_type.shape.dim
        if dims[0].HasField("dim_param"):
            dims[0].dim_param = "batch"
        free = [size for size in dims[1:] if size.HasField("dim_param")]
        if len(nchw) == 3 and free:
            free[0].dim_param = "tokens"
            continue
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


def _wrapped(
    network: "nn.Module", asked: ExportJob, shape: Shape, inner: "torch.dtype", outer: "torch.dtype"
) -> "tuple[nn.Module, Tensor]":
    """Return a network of the type `inner` behind what its input needs, and such an input.

    These are 8-bit pixels, or a tensor of the type `outer`, which is also that of the outputs.
    """
    import torch

    from fastvit_bench.network.pixels import PixelInput

    network = network if outer is inner else _between_casts(network)
    if asked.options.get("input") == "image":
        behind = PixelInput(network, registry.preparation_of(asked).mean, inner).eval()
        return behind, torch.zeros(shape.nhwc, dtype=torch.uint8)
    return network, torch.zeros(shape.nchw, dtype=outer)


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


_INSIDE = (
    "wrapped_network"  # name of the network in a wrapper, of Casts or `PixelInput`; removed from names in the file
)


def _bare(name: str) -> str:
    """Return the name of a module or a weight without those of the wrappers around the network."""
    while name == _INSIDE or name.startswith(f"{_INSIDE}."):
        name = name.removeprefix(_INSIDE).removeprefix(".")
    return name


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
    names = {tensor.name: _bare(tensor.name) for tensor in graph.initializer}
    for node in graph.node:
        noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
        scope = ast.literal_eval(noted)[-2] if noted else None  # the last one is the operation
        if scope is not None and scope in modules:
            scope = _bare(scope)
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
