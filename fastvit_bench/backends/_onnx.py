"""ONNX files: written through `torch.onnx`, strongly typed where they are FP16, checked, and run by ONNX Runtime.

Shared by every backend whose toolkit takes such files. In an FP16 file the types are the arithmetic: all weights and
all values between operators are float16, because a toolkit that follows the types computes in float32 wherever it
finds float32.
"""

import ast
import copy
import itertools
import re
import tempfile
from collections.abc import Collection, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from fastvit_bench.backends import HALF_WEIGHTS, INPUT, Session, output_names
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import ExportJob, HalfWeights, LayerTime, Shape, Window
from fastvit_bench.stats.intervals import median
from fastvit_bench.variants import STRIDE, check_size

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fastvit_bench.backends import Batch

OPSET = 20  # the first with GELU as an operator of its own
PACKAGES = ("torch", "onnx", "onnxscript")  # distributions whose versions shape the file
RUNTIMES = (  # distributions that bring the module onnxruntime; of several, the last one installed lies on top
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn"),
    *("onnxruntime-rocm", "onnxruntime-migraphx", "ort-nightly", "ort-nightly-gpu"),
)
PRECISIONS = ("fp32", "fp16")

LARGEST_HALF = 65504.0
SMALLEST_NORMAL_HALF = 2.0**-14  # what is smaller keeps fewer than the 11 bits of float16


# --- writing ----------------------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """The heights and widths that one file takes: multiples of 32 between these, in pixels."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least}..{self.most}"


def sizes(text: str) -> Sizes | None:
    """``224..1024`` as sizes; None of an empty text, which stands for a file of one shape. `UsageError` for others."""
    if not text:
        return None
    fits = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not fits:
        raise UsageError(f"'{text}' must be two sizes in pixels, such as 224..1024")
    found = Sizes(int(fits[1]), int(fits[2]))
    for size in found:
        check_size(size, size)
    if not found.least < found.most:
        raise UsageError(f"'{text}' must begin below its end; leave it out for a file of one size")
    return found


def write(
    network: "nn.Module",
    asked: ExportJob,
    path: Path,
    metadata: dict[str, str],
    *,
    interface: str | None = None,
    dynamic: Sizes | None = None,
) -> None:
    """Write `network` (float64, evaluation mode); equal networks give equal bytes.

    `asked` says the precision and the shape, which is the only one the file takes; with `dynamic`, it takes any height
    and width within at the same batch. The `interface` is the type of the input and the outputs, ``fp32`` or ``fp16``,
    by default the precision; float32 around an FP16 file is one Cast behind the input and one before each output.
    `UsageError` for weights that the precision cannot hold, `UnavailableError` for a file that is not strongly typed.
    """
    import onnx
    import torch

    half = asked.precision == "fp16"
    interface = interface or asked.precision
    if interface != asked.precision and not (half and interface == "fp32"):
        raise UsageError(f"A file in {asked.precision} cannot have input and outputs in {interface}; leave it out.")
    if dynamic and not (dynamic.least <= min(asked.shape.nchw[2:]) and max(asked.shape.nchw[2:]) <= dynamic.most):
        raise UsageError(f"A file for {dynamic} does not take {asked.shape.size}; choose a size within, or widen it.")
    if half:
        metadata = {**metadata, HALF_WEIGHTS: msgspec.json.encode(weights_report(network)).decode()}
    inner = torch.float16 if half else torch.float32
    with torch.no_grad(), _quiet():
        outer = torch.float32 if interface == "fp32" else torch.float16
        # looked at where nothing is computed: a large batch in float16 would take the processor minutes
        # and for a file of all sizes, where every stride up to 64 divides them
        seen = Shape(batch=asked.shape.batch, height=128, width=192) if dynamic else asked.shape
        outputs = copy.deepcopy(network).float().to("meta")(torch.zeros(seen.nchw, device="meta"))
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
            output_names=output_names(len(outputs)),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _drop_neutral(model)
    _name_nodes(model, {name for name, _ in network.named_modules()})
    if dynamic:
        _name_sizes(model, seen, [tuple(each.shape) for each in outputs])
    # the exporter notes the source line of every node: of no use to a reader of the file, and private to the maker
    graph = model.graph
    for each in (graph, *graph.node, *graph.initializer, *graph.input, *graph.value_info, *graph.output):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "fastvit-bench", metadata.get("fastvit_bench.version", "")
    model.doc_string = ""
    onnx.checker.check_model(model)
    if half:
        require_strongly_typed(model, asked.model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _example(shape: Shape, dynamic: Sizes | None) -> tuple[Shape, Any]:
    """The shape a network is traced with, and which of its sizes are free, as `torch.onnx.export` takes them."""
    import torch

    if dynamic is None:
        return shape, None
    # traced from 2 on, because 1 would be taken for a constant, and without an end: neither gets into the file
    rows, columns = (torch.export.Dim(name, min=2) for name in ("rows", "columns"))
    traced = Shape(batch=shape.batch, height=2 * STRIDE, width=3 * STRIDE)
    return traced, ({2: STRIDE * rows, 3: STRIDE * columns},)


def _name_sizes(model: "onnx.ModelProto", shape: Shape, outputs: list[tuple[int, ...]]) -> None:
    """Call the free sizes ``height`` and ``width``, and those of a map at stride 4 ``height/4`` and ``width/4``.

    The exporter's own names are numbered in each process anew, and its notes of what lies between are full of them.
    """
    graph = model.graph
    for value, found in zip((*graph.input, *graph.output), (shape.nchw, *outputs), strict=True):
        free = [size for size in value.type.tensor_type.shape.dim if size.HasField("dim_param")]
        for size, name, whole, part in zip(free, ("height", "width"), shape.nchw[2:], found[2:], strict=False):
            size.dim_param = name if whole == part else f"{name}/{whole // part}"
    del graph.value_info[:]


def _drop_neutral(model: "onnx.ModelProto") -> None:
    """Take out multiplications by one and additions of zero.

    The exporter writes both behind each norm without weights, and ONNX Runtime computes them. Where the exporter does
    not know the shapes, as behind such norms in a file for many sizes, they stay.
    """
    from onnx import numpy_helper

    graph = model.graph
    neutral = {"Mul": 1, "Add": 0}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape for value in (*graph.input, *graph.value_info, *graph.output)}
    instead: dict[str, str] = {}  # value that is taken out -> the one that it equals
    for node in list(graph.node):
        node.input[:] = [instead.get(name, name) for name in node.input]
        kept = next((name for name in node.input if name not in constants), None)
        weights = [constants[name] for name in node.input if name in constants]
        (result, *_) = node.output
        if (
            node.op_type in neutral
            and kept is not None
            and len(weights) == 1
            and shapes.get(kept) == shapes.get(result) is not None  # broadcasting would change it
            and result not in {value.name for value in graph.output}
            and (numpy_helper.to_array(weights[0]) == neutral[node.op_type]).all()
        ):
            instead[result] = kept
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.value_info if value.name in instead]:
        graph.value_info.remove(value)


def _between_casts(network: "nn.Module") -> "nn.Module":
    """`network`, which computes in float16, with float32 around it."""
    import torch

    class Casts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(_INSIDE, network)

        def forward(self, image: "Tensor") -> "Tensor | tuple[Tensor, ...]":
            outputs = self.get_submodule(_INSIDE)(image.half())
            return tuple(each.float() for each in outputs) if isinstance(outputs, tuple) else outputs.float()

    return Casts().eval()


# --- names ------------------------------------------------------------------------------------------------------------

_SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of the modules a node comes from, outermost first
_INSIDE = "between_casts"  # name of the network in its wrapper of Casts, which is no part of it


def _name_nodes(model: "onnx.ModelProto", modules: Collection[str]) -> None:
    """Name every node MODULE/OPERATOR after the module it comes from, so that a runtime's profile can be read.

    Such as ``network.4.1.mixer/Conv``; nodes of the network itself are ``/Add``. Names that would be equal get _1, _2.
    Values are named after the nodes that compute them, because runtimes name what they fuse after either. Weights are
    called as in the network, whether it stands between Casts or not.
    """
    graph = model.graph
    scopes: dict[str, str] = {}  # value -> module that computed it
    taken: dict[str, int] = {}
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = {tensor.name: tensor.name.removeprefix(f"{_INSIDE}.") for tensor in graph.initializer}
    for node in graph.node:
        noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
        scope = ast.literal_eval(noted)[-2] if noted else None  # the last one is the operation
        if scope is not None and scope in modules:
            scope = scope.removeprefix(_INSIDE).removeprefix(".")
        else:  # made by the exporter itself: it belongs to what it reads
            scope = next((scopes[name] for name in node.input if name in scopes), "")
        scopes.update(dict.fromkeys(node.output, scope))
        name = f"{scope}/{node.op_type}"
        count = taken[name] = taken.get(name, -1) + 1
        node.name = f"{name}_{count}" if count else name
        for index, value in enumerate(node.output):
            if value not in kept:
                names[value] = f"{node.name}:{index}" if len(node.output) > 1 else node.name
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    for each in (*graph.initializer, *graph.value_info):
        each.name = names.get(each.name, each.name)


# Parts of the networks by the beginning of their modules' names, in the folded form and in the others. Entries of
# FastViT's `network` are stages and what stands between them; the fourth has number 6, or 7 behind an encoding.
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
    """The block of the network that a layer's name tells, such as ``stages.2.blocks.1``; empty where it tells none.

    Runtimes put the names of the nodes they fuse into one: where those are of several blocks, what these have in
    common, such as ``stages.2``.
    """
    # TensorRT writes [FIRST...LAST], ONNX Runtime puts a word before what it computes in another type
    words = re.findall(r"(?:InsertedPrecisionFreeCast_)?([\w.]+)", name.replace("...", " "))
    found = list(dict.fromkeys(filter(None, map(_block, words))))
    if len(found) < 2:
        return "".join(found)
    levels = zip(*(block.split(".") for block in found), strict=False)
    common = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]
    return ".".join(common[:2]) if len(common) > 1 else ""  # neither `stages` nor `stages.2.blocks` is a part


def _block(module: str) -> str:
    for pattern, block in _PARTS:
        fits = re.match(pattern, module)
        if fits:
            numbers = fits.groups()
            first = int(numbers[0]) if numbers else 0
            return block.format(*numbers, half=first // 2, next=first // 2 + 1)
    return ""


# --- weights ----------------------------------------------------------------------------------------------------------


def weights_report(network: "nn.Module") -> HalfWeights:
    """What float16 makes of the weights of `network`, which come in a wider type; nothing is changed.

    Raises `UsageError`, with the layer's name, for a weight above 65504 in magnitude or one that is no number.
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
    """NaN where there is one, otherwise the value of the largest magnitude."""
    odd = tensor[tensor.isnan()]
    return float(odd[0] if len(odd) else tensor.flatten()[tensor.abs().argmax()])


# --- checking ---------------------------------------------------------------------------------------------------------


def require_strongly_typed(model: "onnx.ModelProto", what: str) -> None:
    """Raise `UnavailableError` unless all of an FP16 file's arithmetic is float16 and all its numbers are finite."""
    found = islands(model) + _infinite(model)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UnavailableError(
            f"The FP16 file of {what} is not float16 throughout: {', '.join(found[:3])}{more}; "
            f"it was changed, or this version of torch.onnx writes something new: report it with the versions."
        )


def islands(model: "onnx.ModelProto") -> list[str]:
    """What of an FP16 file is not float16, each as a few words with its name; empty for a strongly typed one.

    The type of every value is inferred anew, whatever the file says of it. Allowed are the Casts from a float32 input
    and to a float32 output; integers, such as shapes and axes, are no arithmetic, and neither are the factors of a
    Resize, which have no other type.
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
    found = [
        f"{wide[tensor.data_type]} initialiser {tensor.name}"
        for tensor in graph.initializer
        if tensor.data_type in wide and tensor.name not in factors
    ]
    outer = {value.name for value in graph.input}, {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type == "Shape" or (
            node.op_type == "Cast" and (node.input[0] in outer[0] or node.output[0] in outer[1])
        ):
            continue
        read = [name for index, name in enumerate(node.input) if node.op_type != "Resize" or index != 2]
        names = [name for name in (*read, *node.output) if name]
        known = {types.get(name, 0) for name in names}
        label = f"{node.op_type} {node.name or node.output[0]}"
        if known & wide.keys():
            found.append(f"{wide[min(known & wide.keys())]} node {label}")
        elif 0 in known:
            found.append(f"node {label} of a type that cannot be inferred")
    return found


def _inferred(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy with the type and shape of every value, inferred anew; `UnavailableError` where types do not fit."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    except Exception as error:  # its exceptions are protobuf's and its own, without a common base
        raise UnavailableError(f"types that do not fit together ({first_line(error)})") from error


def _infinite(model: "onnx.ModelProto") -> list[str]:
    """Initialisers with values that are no finite numbers: what was folded after the weights were looked at."""
    import numpy as np
    import onnx

    return [
        f"initialiser {tensor.name} with values beyond float16"
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT16 and not np.isfinite(onnx.numpy_helper.to_array(tensor)).all()
    ]


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> "onnx.ModelProto":
    """The model in a file. Raises `UnavailableError` for one that is no ONNX file."""
    import onnx

    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exceptions are not part of onnx's interface
        raise UnavailableError(f"ONNX cannot load {path.name}: {first_line(error)}.") from error


def metadata(path: Path) -> dict[str, str]:
    """The model's metadata properties."""
    return {entry.key: entry.value for entry in read(path).metadata_props}


def shape_of(path: Path) -> Shape:
    """Of the file's input; of one that takes several, the shape it was exported for, which its metadata tells.

    `UnavailableError` where that is not there.
    """
    model = read(path)
    found = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]  # 0 stands for a free one
    if not found[2] or not found[3]:
        told = next((each.value for each in model.metadata_props if each.key == "fastvit_bench.resolution"), "")
        fits = re.fullmatch(r"(\d+)(?:x(\d+))?", told)
        if not fits:
            raise UnavailableError(f"{path.name} does not tell for which size it was exported; export it again.")
        found[2:] = int(fits[1]), int(fits[2] or fits[1])
    return Shape(batch=found[0], height=found[2], width=found[3])


def operations(path: Path) -> dict[str, int]:
    """Kinds of nodes; a runtime fuses many of them when it loads the file."""
    import collections

    return dict(collections.Counter(node.op_type for node in read(path).graph.node))


# --- running ----------------------------------------------------------------------------------------------------------


class OnnxSession(Session):
    """A model whose input and outputs are bound to buffers that stay in place from run to run."""

    window = Window.COMPUTE

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._input: Any = None

    def feed(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Copy a batch into the bound input, in its type. The first one also fixes the buffers of the outputs."""
        import numpy as np
        import onnxruntime as ort

        expected = self._session.get_inputs()[0]
        fits = len(images.shape) == len(expected.shape) and all(
            given == size or isinstance(size, str)  # a free size has a name
            for given, size in zip(images.shape, expected.shape, strict=True)
        )
        if not fits:
            raise UsageError(f"The model takes {expected.name} {expected.shape}, not {list(images.shape)}.")
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        batch = np.ascontiguousarray(images, types[expected.type])
        if self._input is not None and self._input.shape() == list(batch.shape):
            self._input.update_inplace(batch)
            return
        self._input = ort.OrtValue.ortvalue_from_numpy(batch)
        self._binding.bind_ortvalue_input(expected.name, self._input)
        for output in self._session.get_outputs():
            if not all(isinstance(size, int) for size in output.shape):  # of a file that takes several shapes
                self._binding.bind_output(output.name)
                continue
            buffer = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, types[output.type])
            self._binding.bind_ortvalue_output(output.name, buffer)

    def run(self) -> None:
        """One inference; the call returns when it is done."""
        self._session.run_with_iobinding(self._binding)

    def wait(self) -> None:
        """The processor has nothing left to wait for; kept so that every device is timed by the same two calls."""
        self._binding.synchronize_outputs()

    def fetch(self) -> "dict[str, NDArray[np.floating]]":
        """Copies of the output buffers."""
        values = self._binding.get_outputs()
        return {o.name: v.numpy().copy() for o, v in zip(self._session.get_outputs(), values, strict=True)}

    def twin(self) -> "OnnxSession":
        """With buffers of its own, on the same loaded model, whose runs may overlap."""
        return OnnxSession(self._session)

    def end_trace(self) -> str:
        """Finish the trace of a session that writes one, and return its path."""
        return self._session.end_profiling()


def on_processor(path: Path, threads: int) -> AbstractContextManager[OnnxSession]:
    """A session on ONNX Runtime's CPU execution provider with all graph optimisations: the file as it runs there.

    Of an FP16 file, it computes chains of operators in float32 without rounding in between. `UnavailableError` for a
    file it cannot load.
    """
    return _opened(path.name, path, threads)


def unoptimised(name: str, model: bytes, threads: int) -> AbstractContextManager[OnnxSession]:
    """A model's operators one by one, as they stand in it. `UnavailableError` as `on_processor`."""
    return _opened(name, model, threads, level="ORT_DISABLE_ALL")


@contextmanager
def as_typed(path: Path, threads: int) -> Generator[OnnxSession]:
    """The same, but every result of an FP16 file is rounded to float16, as its types say; sums are taken in float32.

    This is what a GPU's FP16 kernels do at most, and it shows values beyond float16 as infinite. A file in FP32 is run
    as it is. `UnavailableError` as `on_processor`.
    """
    import onnx

    model = read(path)
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    halves = halves or any(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 for value in model.graph.input)
    content: Path | bytes = path
    if halves:
        try:
            content = rounding(model).SerializeToString()
        except UnavailableError as error:
            raise UnavailableError(f"ONNX cannot load {path.name}: it has {error}.") from error
    with _opened(path.name, content, threads) as session:
        yield session


# they only move values, and rounding what was rounded is lost time
_MOVING = {"Reshape", "Transpose", "Split", "Concat", "Slice", "Identity", "Flatten", "Squeeze", "Unsqueeze"}


def rounding(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy that computes in float32 and has a Cast to float16 and back behind every operator whose result is float16.

    Each float16 value x gets a float32 twin that the operators read. The explicit Casts are not taken out by ONNX
    Runtime, those it adds itself are.
    """
    import onnx

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    found = _inferred(model)
    graph = found.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    narrow = {value.name for value in values if value.type.tensor_type.elem_type == half}
    narrow |= {tensor.name for tensor in graph.initializer if tensor.data_type == half}
    given = {value.name for value in graph.output}
    del graph.value_info[:]

    def twin(name: str) -> str:
        return f"{name}__single" if name in narrow else name

    def cast(source: str, target: str, kind: int) -> "onnx.NodeProto":
        return onnx.helper.make_node("Cast", [source], [target], to=kind)

    nodes = [cast(value.name, twin(value.name), single) for value in graph.input if value.name in narrow]
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type == half:
            wide = onnx.numpy_helper.to_array(tensor).astype("float32")
            graph.initializer[index].CopyFrom(onnx.numpy_helper.from_array(wide, twin(tensor.name)))
    for node in graph.node:
        outputs = [name for name in node.output if name in narrow]
        node.input[:] = [twin(name) for name in node.input]
        after: list[onnx.NodeProto] = []
        if node.op_type in _MOVING:
            node.output[:] = [twin(name) for name in node.output]
            after = [cast(twin(name), name, half) for name in outputs if name in given]
        elif node.op_type in {"Cast", "Constant"}:  # their results are float16 by themselves
            after = [cast(name, twin(name), single) for name in outputs]
        else:
            node.output[:] = [f"{name}__wide" if name in narrow else name for name in node.output]
            for name in outputs:
                after += [cast(f"{name}__wide", name, half), cast(name, twin(name), single)]
        nodes += [node, *after]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # the old ones go with their list
    del graph.node[:]
    graph.node.extend(kept)
    return found


def profiled(path: Path, threads: int, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
    """Times of a file's nodes as `on_processor` runs it, by ONNX Runtime's own trace, in the order they run.

    Its clock counts whole microseconds. Of nodes that were fused there is one time, under the name ONNX Runtime gives
    them; what it adds, such as reordering of channels, is among them. `UnavailableError` and `UsageError` as a session.
    """
    with tempfile.TemporaryDirectory() as folder, _opened(path.name, path, threads, Path(folder) / "trace") as session:
        session.feed(images)
        for _ in range(_UNTIMED + runs):
            session.run()
            session.wait()
        trace = Path(session.end_trace()).read_bytes()
    times: dict[tuple[str, str, str], list[int]] = {}  # by number too: nodes that ONNX Runtime adds may share a name
    for event in msgspec.json.decode(trace, type=list[_Event]):
        if event.cat == "Node" and event.name.endswith(_KERNEL):
            node = event.args["node_index"], event.name.removesuffix(_KERNEL), event.args["op_name"]
            times.setdefault(node, []).append(event.dur)
    return tuple(
        LayerTime(name=name, kind=kind, block=block_of(name), median_ns=round(1e3 * median(found[-runs:])))
        for (_, name, kind), found in times.items()
    )


_UNTIMED = 5  # runs before those of a profile
_KERNEL = "_kernel_time"  # end of the names of events in a trace that are about a node's computation


class _Event(msgspec.Struct, frozen=True):
    """What is read of an entry in ONNX Runtime's trace."""

    cat: str = ""
    name: str = ""
    dur: int = 0  # microseconds
    args: dict[str, Any] = {}


@contextmanager
def _opened(
    name: str,
    model: "Path | bytes",
    threads: int,
    trace: Path | None = None,
    level: Literal["ORT_ENABLE_ALL", "ORT_DISABLE_ALL"] = "ORT_ENABLE_ALL",
) -> Generator[OnnxSession]:
    """A session, which writes a trace to a file whose name begins with `trace` where that is given."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 3  # errors only
    if trace:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # its exceptions share no base class but this one
        raise UnavailableError(f"ONNX Runtime cannot load {name}: {first_line(error)}.") from error
    yield OnnxSession(session)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporter's warnings about its own internals away from a person who cannot act on them."""
    import logging
    import warnings

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def first_line(error: Exception) -> str:
    """The first line of what an error says, without its full stop; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
