"""Write a float ONNX graph in INT8, as Q/DQ nodes around the operators that compute between integers.

`onnxruntime.quantization` writes the nodes. What this module decides is which operators stay in float, the ranges of
activations, and an exact change before: equalised channels.
"""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from fastvit_bench.backends import INPUT, QuantisedFile, QuantisedTwins
from fastvit_bench.backends._onnx import export as onnx_export
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends._onnx import typed_int8
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import ParityError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnx
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.records import ExportJob

    Array = NDArray[np.floating[Any]]

QUANTISER = "onnxruntime"  # distribution that writes the nodes
PRODUCTS = ("Conv", "Gemm", "MatMul")  # nearly all of the arithmetic
_BESIDE = ("Add", "Mul", "Concat", "Reshape", "Transpose", "Split")  # that toolkits compute between integers too


class Scheme(NamedTuple):
    """The integers that a toolkit computes with."""

    signed: bool  # activations are int8 around 0; else uint8 with a zero of their own
    rounded_outputs: bool  # results of products are rounded too, which kernels between integers need
    rounded_bias: bool  # biases are int32, in units of the product of both steps
    beside: tuple[str, ...] = _BESIDE  # kinds that compute between integers, apart from products
    half: bool = False  # all between the integers is float16, by the file's types
    gelu_joins: bool = False  # the kernel of a product computes the GELU behind it, of sums that are not rounded


PROCESSOR = Scheme(signed=False, rounded_outputs=True, rounded_bias=True)

# OpenVINO computes a GELU within the convolution before it, unless the sums are rounded between the two. ONNX Runtime
# would compute such a convolution in float.
OPENVINO = PROCESSOR._replace(gelu_joins=True)

# By NVIDIA's guide to TensorRT's quantised types: symmetric on both sides, the inputs of products are rounded and their
# results are not. So a sum's residual is rounded, for a convolution reads it too, and its other side is not: then the
# sum joins the kernel of the convolution before it.
NVIDIA = Scheme(signed=True, rounded_outputs=False, rounded_bias=False, beside=(), half=True)


class QuantisingChoices(NamedTuple):
    """What may be chosen beyond a scheme; the defaults are the best by benchmarks/int8.py."""

    per_channel: bool = True  # a step for each output channel of weights
    ranges: Literal["extremes", "percentile", "error"] = "error"
    equalised: bool = True
    gates_in_float: bool = True  # squeeze-and-excitation, which works on one pixel
    attention_in_float: bool = True
    stem_in_float: bool = False  # the first convolution
    classifier_in_float: bool = False
    mixers_in_float: bool = False  # RepMixer's depthwise convolutions, whose kernels have an outlier at their centre
    float_logits: bool = True  # logits are not rounded to 256 values


@dataclass(frozen=True)
class Quantised:
    """A quantised model, and what was done."""

    model: "onnx.ModelProto"
    integer: dict[str, int]  # kind -> operators between integers
    floating: dict[str, int]
    excluded: tuple[str, ...]  # products in float by choice
    factors: dict[str, tuple[int, ...]]  # of `equalise`


# --- ranges of activations --------------------------------------------------------------------------------------------

_BINS = 4096
_SAMPLED = 65_536  # values of one tensor and image that are counted; the extremes are of all
_TAIL = 1e-4  # share of values beyond a range by percentile


@dataclass
class Values:
    """The values of one tensor over all images."""

    low: float = 0.0  # the least; 0 is in every range, for it stands for padding
    high: float = 0.0
    counts: Any = 0  # in `_BINS` bins between them
    channels: Any = 0.0  # largest magnitude in each channel; of tensors (N, C, H, W)

    def centres(self) -> "Array":
        """Return the middle of each bin."""
        import numpy as np

        edges = np.linspace(self.low, self.high, _BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


def extremes(model: "onnx.ModelProto", images: "Sequence[Array]", threads: int) -> dict[str, Values]:
    """Return the extremes of every activation of a float model for images (3, H, W)."""
    import numpy as np

    values = {value.name: Values() for value in model.graph.input}
    values |= {name: Values() for node in model.graph.node for name in node.output}
    for name, array in _activations(model, images, threads):
        known = values[name]
        known.low, known.high = min(known.low, float(array.min())), max(known.high, float(array.max()))
        if array.ndim == 4:
            known.channels = np.maximum(known.channels, np.abs(array).max((0, 2, 3)))
    return values


def counted(
    model: "onnx.ModelProto", images: "Sequence[Array]", threads: int, values: dict[str, Values]
) -> dict[str, Values]:
    """Count the values of every activation between its extremes, in a second pass over the images; returns `values`."""
    import numpy as np

    for name, array in _activations(model, images, threads):
        known = values[name]
        if known.high > known.low:
            sample = array.ravel()[:: -(-array.size // _SAMPLED)]
            known.counts = known.counts + np.histogram(sample, _BINS, (known.low, known.high))[0]
    return values


def _activations(model: "onnx.ModelProto", images: "Sequence[Array]", threads: int) -> "Iterator[tuple[str, Array]]":
    """Yield the name and the values of every float activation, image by image; the model takes one at a time."""
    import onnx

    every = onnx.ModelProto()
    every.CopyFrom(model)
    outputs = {value.name for value in every.graph.output}
    for node in every.graph.node:
        for name in node.output:
            if name not in outputs:
                every.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    with onnx_session.unoptimised(INPUT, every.SerializeToString(), threads) as session:
        for image in images:
            session.set_input(image[None])
            session.run()
            yield INPUT, image[None]
            for name, array in session.get_output().items():
                if array.dtype.kind == "f":
                    yield name, array


def clipped(values: Values, choice: str, *, signed: bool) -> tuple[float, float]:
    """Return the range of a tensor, which holds 0: of all its values, without its tails, or of the least error.

    The error is the sum of squares of rounding within a range and of clipping beyond it (Banner, Nahshan & Soudry,
    2019, minimise the same for distributions in closed form).
    """
    import numpy as np

    low, high = values.low, values.high
    if choice == "extremes" or high <= low:
        return low, high
    centres, counts = values.centres(), values.counts
    if choice == "percentile":
        below = np.cumsum(counts) / counts.sum()
        return min(0.0, float(centres[np.searchsorted(below, _TAIL)])), max(
            0.0, float(centres[min(_BINS - 1, np.searchsorted(below, 1 - _TAIL))])
        )
    shares = np.geomspace(1, 0.1, 40)
    if signed:
        ends = shares * max(-low, high)
        starts = -ends
    else:
        starts = shares[:, None] * low if low < 0 else np.zeros((1, 1))
        ends = shares * high if high > 0 else np.zeros(1)
    (below, cut_below), (above, cut_above) = (_beyond(-centres, counts, -starts), _beyond(centres, counts, ends))
    steps = (ends - starts) / 255
    errors = cut_below + cut_above + (counts.sum() - below - above) * np.square(steps) / 12
    best = np.unravel_index(errors.argmin(), errors.shape)
    starts, ends = np.broadcast_arrays(starts, ends)
    return float(starts[best]), float(ends[best])


def _beyond(values: "Array", counts: "Array", limits: "Array") -> "tuple[Array, Array]":
    """Return for each limit how many values are beyond it, and the sum of squares of their distances to it."""
    import numpy as np

    distances = np.maximum(values - limits[..., None], 0)
    return ((distances > 0) * counts).sum(-1), (np.square(distances) * counts).sum(-1)


# --- equalised channels -----------------------------------------------------------------------------------------------


def equalising(model: "onnx.ModelProto", values: Mapping[str, Values]) -> dict[str, tuple[int, ...]]:
    """Return for each pair of convolutions the exponents by which the channels between them are to be multiplied.

    A pair is a convolution whose only reader is an ungrouped one; nothing but a Concat stands between them. Dividing a
    channel by a factor, and the reader's weights of it by the inverse, changes nothing but rounding (Nagel et al.,
    Data-Free Quantization, 2019, section 4.1). With powers of two not even that, so the float model stays the same bit
    for bit. The key is the reader's name.
    """
    import numpy as np

    weights, graph = _initialisers(model), model.graph
    factors: dict[str, tuple[int, ...]] = {}
    for node in graph.node:
        if _sources(graph, node) is None or np.ndim(values[node.input[0]].channels) == 0:
            continue
        activation = values[node.input[0]].channels + 1e-12
        kernel = np.abs(weights[node.input[1]]).max((0, 2, 3)) + 1e-12
        wished = _BALANCE * np.log2(activation) - (1 - _BALANCE) * np.log2(kernel)
        factors[node.name] = tuple(int(step) for step in np.round(np.median(wished) - wished))
    return factors


_BALANCE = 0.75  # 1 makes all channels of the activation equally large, 0 those of the reader's weights


def equalised(model: "onnx.ModelProto", factors: Mapping[str, Sequence[int]]) -> "onnx.ModelProto":
    """Return a copy whose channels between pairs of convolutions are multiplied by two to the power of `factors`."""
    import numpy as np
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = dict(_initialisers(model))
    for node in result.graph.node:
        if node.name in factors:
            sources = _sources(result.graph, node)
            assert sources is not None
            factor = np.exp2(np.array(factors[node.name], np.float32))
            weights[node.input[1]] = weights[node.input[1]] / factor[None, :, None, None]
            parts = np.split(factor, np.cumsum([len(weights[source.input[1]]) for source in sources])[:-1])
            for source, part in zip(sources, parts, strict=True):
                weights[source.input[1]] = weights[source.input[1]] * part[:, None, None, None]
                if len(source.input) > 2:
                    weights[source.input[2]] = weights[source.input[2]] * part
    for tensor in result.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    return result


def _sources(graph: "onnx.GraphProto", node: "onnx.NodeProto") -> "list[onnx.NodeProto] | None":
    """Return the convolutions that alone compute the input of an ungrouped convolution, and that it alone reads."""
    if node.op_type != "Conv" or _attribute(node, "group", 1) != 1:
        return None
    producers = {name: producer for producer in graph.node for name in producer.output}
    readers = Counter(name for reader in graph.node for name in reader.input)
    source = producers.get(node.input[0])
    if source is None or readers[node.input[0]] > 1:
        return None
    sources = [source]
    if source.op_type == "Concat" and _attribute(source, "axis", 0) == 1:
        sources = [producers[name] for name in source.input if name in producers and readers[name] == 1]
        if len(sources) < len(source.input):
            return None
    return sources if all(part.op_type == "Conv" for part in sources) else None


def _attribute(node: "onnx.NodeProto", name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _initialisers(model: "onnx.ModelProto") -> "dict[str, Array]":
    """Return the float initialisers of a model."""
    import onnx

    tensors = (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibrated:
    """A float model with the values of its activations: all that is needed of the images."""

    model: "onnx.ModelProto"
    values: Mapping[str, Values]
    factors: dict[str, tuple[int, ...]]  # of `equalise`, which the model has


def calibrated(
    model: "onnx.ModelProto", images: "Sequence[Array]", threads: int, choices: QuantisingChoices
) -> Calibrated:
    """Return a float model, with equalised channels if these are chosen, and its values for images (3, H, W)."""
    values = extremes(model, images, threads)
    factors = equalising(model, values) if choices.equalised else {}
    if factors:
        model = equalised(model, factors)
        values = extremes(model, images, threads)
    return Calibrated(model, counted(model, images, threads, values), factors)


def quantised(
    model: "onnx.ModelProto",
    images: "Sequence[Array]",
    scheme: Scheme,
    threads: int,
    choices: QuantisingChoices = QuantisingChoices(),
) -> Quantised:
    """Return a float model in INT8, calibrated on images (3, H, W); equal arguments give equal models."""
    return by_choices(calibrated(model, images, threads, choices), scheme, choices)


def by_choices(known: Calibrated, scheme: Scheme, choices: QuantisingChoices) -> Quantised:
    """Return a calibrated model in INT8."""
    import numpy as np
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = known.model
    ranges = {name: clipped(values, choices.ranges, signed=scheme.signed) for name, values in known.values.items()}
    unquantised, excluded = _in_float(model, choices)
    outputs = [] if scheme.rounded_outputs else list(PRODUCTS)
    with onnx_session.quiet():
        writer = QDQQuantizer(
            _copy(model),
            choices.per_channel,
            False,  # all 8 bits of the weights
            QuantType.QInt8,
            QuantType.QInt8 if scheme.signed else QuantType.QUInt8,
            TensorsData(
                CalibrationMethod.MinMax,
                {
                    name: TensorData(lowest=np.float32(low), highest=np.float32(high))
                    for name, (low, high) in ranges.items()
                },
            ),
            [],
            unquantised,
            [*PRODUCTS, *scheme.beside],
            {
                "ActivationSymmetric": scheme.signed,
                "WeightSymmetric": True,
                "QuantizeBias": scheme.rounded_bias,
                "OpTypesToExcludeOutputQuantization": [*outputs, *(["Gemm"] if choices.float_logits else [])],
            },
        )
        writer.quantize_model()
        writer.model.topological_sort()
    result = writer.model.model
    if scheme.gelu_joins:
        _join_gelus(result.graph)
    integer, floating = arithmetic(result)
    return Quantised(result, integer, floating, tuple(excluded), known.factors)


def _join_gelus(graph: "onnx.GraphProto") -> None:
    """Remove the rounding between each product and the GELU that alone reads it."""
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter([*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)])
    for gelu in [node for node in graph.node if node.op_type == "Gelu"]:
        chain: list[onnx.NodeProto] = []
        name = gelu.input[0]
        while (node := producers.get(name)) is not None and node.op_type in _MARKS and readers[name] == 1:
            chain.append(node)
            name = node.input[0]
        if node is not None and node.op_type in PRODUCTS and readers[name] == 1:
            gelu.input[0] = name
            for mark in chain:
                graph.node.remove(mark)


def _in_float(model: "onnx.ModelProto", choices: QuantisingChoices) -> tuple[list[str], list[str]]:
    """Return the names of all operators that stay in float by choice, and of the products among them."""
    nodes = list(model.graph.node)
    products = [node.name for node in nodes if node.op_type in PRODUCTS]
    excluded: list[str] = []
    if choices.stem_in_float:
        excluded += products[:1]
    if choices.classifier_in_float:
        excluded += [node.name for node in nodes if node.op_type == "Gemm"]
    if choices.mixers_in_float:
        excluded += [node.name for node in nodes if node.op_type == "Conv" and node.name.endswith(".mixer/Conv")]
    if choices.gates_in_float:  # between the mean of a map and the Sigmoid that multiplies it
        excluded += [node.name for node in nodes if "/" in node.name and ".se" in node.name.rpartition("/")[0]]
        excluded = [name for name in excluded if not name.endswith("/Mul")]
    if choices.attention_in_float:
        excluded += [node.name for node in nodes if node.op_type in {"MatMul", "Split", "Transpose", "Reshape"}]
    return excluded, [name for name in products if name in excluded]


def arithmetic(model: "onnx.ModelProto") -> tuple[dict[str, int], dict[str, int]]:
    """Count by kind the operators between integers, and those in float.

    Between integers are the products whose inputs are all dequantised, and sums, joins and the like that are also
    quantised behind. Whether a runtime has kernels for all of them is the runtime's affair.
    """
    graph = model.graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    constants = {tensor.name for tensor in graph.initializer if not _is_float(tensor)}
    integer, floating = Counter[str](), Counter[str]()
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        inputs = all(producers.get(name) == "DequantizeLinear" for name in node.input[:2] if name not in constants)
        outputs = all(readers.get(name) == {"QuantizeLinear"} for name in node.output)
        between = inputs and (node.op_type in PRODUCTS or (node.op_type in _BESIDE and outputs))
        (integer if between else floating)[node.op_type] += 1
    return dict(integer), dict(floating)


def _is_float(tensor: "onnx.TensorProto") -> bool:
    import onnx

    return tensor.data_type in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}


def _copy(model: "onnx.ModelProto") -> "onnx.ModelProto":
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


_FACTORS = "fastvit_bench.equalised"  # key of metadata: the exponents of `equalising`, by the reader's name


# Changes of the usual choices, by the words that a search reports.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "ranges of all values": {"ranges": "extremes"},
    "ranges by percentile": {"ranges": "percentile"},
    "channels not equalised": {"equalised": False},
    "first convolution in float": {"stem_in_float": True},
    "classifier in float": {"classifier_in_float": True},
    "RepMixer in float": {"mixers_in_float": True},
    "attention between integers": {"attention_in_float": False},
    "gates between integers": {"gates_in_float": False},
    "logits rounded": {"float_logits": False},
}


class GraphQuantiser:
    """Files in INT8 of `network` (float64, evaluation mode), as a `Quantiser`; the images are run once for all.

    They are run one by one whatever the batch: all activations of a batch together may need gigabytes, and so files for
    all batches have the same ranges.
    """

    changes: Mapping[str, tuple[str, ...]] = {"accuracy": tuple(CHANGES)[:6], "latency": tuple(CHANGES)[3:]}

    def __init__(
        self, network: "nn.Module", asked: "ExportJob", images: "Sequence[Array]", scheme: Scheme, threads: int
    ) -> None:
        self._graph, self._model = _float_model(network, asked), asked.model
        single = msgspec.structs.replace(asked, shape=msgspec.structs.replace(asked.shape, batch=1))
        self._calibrated_graph = self._graph if asked.shape.batch == 1 else _float_model(network, single)
        self._images, self._scheme, self._threads = images, scheme, threads
        self._known: dict[bool, Calibrated] = {}  # by equalised channels

    def write(self, path: "Path", metadata: dict[str, str], choices: tuple[str, ...] = ()) -> QuantisedFile:
        """Write a file by the usual choices with those of `CHANGES`, and return what was done."""
        chosen = QuantisingChoices()
        for change in choices:
            chosen = chosen._replace(**CHANGES[change])
        if chosen.equalised not in self._known:
            known = calibrated(self._calibrated_graph, self._images, self._threads, chosen)
            if self._graph is not self._calibrated_graph:
                known = replace(known, model=equalised(self._graph, known.factors))
            self._known[chosen.equalised] = known
        known = self._known[chosen.equalised]
        done = by_choices(known, self._scheme, chosen)
        if self._scheme.half:
            done = replace(done, model=typed_int8.narrowed(done.model, known.model))
            onnx_model.require_strongly_typed(done.model, self._model)
        return _written(done, path, metadata, self._scheme, chosen)


def _written(
    done: Quantised, path: "Path", metadata: dict[str, str], scheme: Scheme, choices: QuantisingChoices
) -> QuantisedFile:
    """Write a quantised model with metadata, and return what was done."""
    import onnx

    notes = {_FACTORS: json.dumps(done.factors, separators=(",", ":"))} if done.factors else {}
    onnx.helper.set_model_props(done.model, {**metadata, **notes})
    done.model.producer_name, done.model.producer_version = "fastvit-bench", metadata.get("fastvit_bench.version", "")
    onnx.checker.check_model(done.model)
    path.write_bytes(done.model.SerializeToString(deterministic=True))
    return QuantisedFile(
        weights=f"int8 symmetric per {'channel' if choices.per_channel else 'tensor'}",
        activations=f"{'int8 symmetric' if scheme.signed else 'uint8 asymmetric'} per tensor",
        ranges=_RANGES[choices.ranges],
        quantiser=f"{QUANTISER}.quantization {importlib.metadata.version(QUANTISER)}",
        integer=done.integer,
        floating=done.floating,
        excluded=done.excluded,
        changes={"equalised": len(done.factors)} if done.factors else {},
    )


_RANGES = {
    "extremes": "all values",
    "percentile": f"all but {_TAIL:.2%} of the values at either end",
    "error": "least squared error",
}


def twins(network: "nn.Module", asked: "ExportJob", file: "onnx.ModelProto", threads: int) -> QuantisedTwins:
    """Return the float graph that a file was quantised from, and the same rounded to its grids.

    The factors of equalised channels are the file's, and powers of two. Raises `ParityError` where its operators are
    not the network's.
    """
    noted = {entry.key: entry.value for entry in file.metadata_props}.get(_FACTORS, "{}")
    try:
        unrounded = equalised(_float_model(network, asked), json.loads(noted))
        fake = rounded(unrounded, file)
    except (ValueError, LookupError, TypeError) as error:  # what a stranger's file may lead to
        raise ParityError(f"The file in INT8 is not made of the network: {first_line(error)}.") from error
    how = "operators one by one in ONNX Runtime"
    return QuantisedTwins(
        onnx_session.unoptimised("the float graph", unrounded.SerializeToString(), threads),
        onnx_session.unoptimised("the rounded graph", fake.SerializeToString(), threads),
        how,
    )


def _float_model(network: "nn.Module", asked: "ExportJob") -> "onnx.ModelProto":
    """Return the float32 graph of a network at a job's shape."""
    return onnx_export.model_of(network, msgspec.structs.replace(asked, precision="fp32"), {})


# --- the network that a file must compute -----------------------------------------------------------------------------


class _Steps(NamedTuple):
    """The grid of a quantised tensor."""

    scale: "Array"
    zero: "Array"
    least: int
    most: int
    axis: int | None  # of a step for each channel


def rounded(network: "onnx.ModelProto", file: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return the float model of a network whose values are rounded to the grids of a file.

    The weights are the network's own, rounded here, also to float16 where the file's are; of the file only the steps
    and zeros are taken. Activations are
    rounded by float operators. So a file with a wrong weight, a missing bias or another graph computes something else.
    Raises `ValueError` where the file has other operators than the network, or in other places.
    """
    import onnx

    grids = _Grids(file)
    result = typed_int8.as_stored(network, file)
    graph = result.graph
    own = {node.name: node for node in file.graph.node if node.op_type not in _MARKS}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    done: dict[tuple[str, str], str] = {}
    for node in graph.node:
        twin = own.pop(node.name, None)
        if twin is None or twin.op_type != node.op_type or len(twin.input) != len(node.input):
            raise ValueError(f"the file lacks the {node.op_type} {node.name}")
        for index, name in enumerate(node.input):
            source, grid_name = grids.source(twin.input[index])
            if name in weights:
                array = onnx.numpy_helper.to_array(weights[name])
                if not grid_name:
                    continue
                if index == 1:
                    value = _weights_on_grid(node.name, array, grids.steps(grid_name))
                else:
                    value = _on_grid(array, grids.steps(grid_name))
                node.input[index] = f"{name}__{index}__rounded"
                constants[node.input[index]] = onnx.numpy_helper.from_array(value, node.input[index])
                continue
            if source != name:
                raise ValueError(f"{node.name} of the file reads {source} and not {name}")
            if not grid_name:
                continue
            key = name, grid_name
            if key not in done:
                done[key] = f"{name}__{len(done)}__rounded"
                added, needed = _rounding(name, done[key], grids.steps(grid_name))
                nodes += added
                constants |= {tensor.name: tensor for tensor in needed}
            node.input[index] = done[key]
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    if own:
        raise ValueError(f"the file has a {next(iter(own.values())).op_type} that the network lacks")
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants.values())
    del graph.value_info[:]
    return result


def _weights_on_grid(name: str, weights: "Array", steps: _Steps) -> "Array":
    """Return weights rounded to as fine a grid as their largest values allow, in the steps of a file.

    Raises `ValueError` unless the file's steps are these.
    """
    import numpy as np

    others = tuple(axis for axis in range(weights.ndim) if axis != steps.axis)
    largest = np.abs(weights).max(others if steps.axis is not None else None).reshape(-1)
    exact = np.where(largest > 0, largest.astype(np.float64) / steps.most, 1)
    own = typed_int8.step(exact, steps.scale.dtype).astype(np.float32)
    stored = np.where(largest > 0, steps.scale.reshape(-1), 1).astype(np.float32)
    if not np.allclose(stored, own, rtol=1e-6, atol=0.0):
        raise ValueError(f"the steps of the weights of {name} do not fit their values")
    sides = [-1 if axis == steps.axis else 1 for axis in range(weights.ndim)]
    fine = own.reshape(sides if steps.axis is not None else ())
    coarse = steps.scale.reshape(sides if steps.axis is not None else ())
    return np.clip(np.rint(weights / fine), steps.least, steps.most).astype(np.float32) * coarse


_MARKS = ("QuantizeLinear", "DequantizeLinear")


class _Grids:
    """The grids of a quantised file, and where each dequantised value comes from."""

    def __init__(self, file: "onnx.ModelProto") -> None:
        self._constants = {tensor.name: tensor for tensor in file.graph.initializer}
        self._producers = {name: node for node in file.graph.node for name in node.output}

    def source(self, name: str) -> tuple[str, str]:
        """Return the float value behind a value, and the name of the dequantised one; empty where nothing is rounded.

        A value that is rounded twice, on one grid, is rounded once.
        """
        grid = ""
        while (node := self._producers.get(name)) is not None and node.op_type in _MARKS:
            if node.op_type == "DequantizeLinear":
                grid = grid or name
            name = node.input[0]
        return name, grid

    def steps(self, dequantised: str) -> _Steps:
        """Return the grid of a dequantised value."""
        import numpy as np
        import onnx

        node = self._producers[dequantised]
        scale = onnx.numpy_helper.to_array(self._constants[node.input[1]])
        zero = onnx.numpy_helper.to_array(self._constants[node.input[2]])
        limits = np.iinfo(zero.dtype)
        axis = _attribute(node, "axis", 1) if scale.ndim and scale.size > 1 else None
        return _Steps(scale, zero.astype(np.float64), int(limits.min), int(limits.max), axis)


def _on_grid(values: "Array", steps: _Steps) -> "Array":
    """Return biases and other constants rounded to the nearest points of a grid, as DequantizeLinear returns them."""
    import numpy as np

    scale, zero = steps.scale.reshape(-1), steps.zero.reshape(-1)
    levels = np.rint(values.astype(np.float64) / scale.astype(np.float64)) + zero
    return (np.clip(levels, steps.least, steps.most) - zero).astype(np.float32) * scale


def _rounding(name: str, target: str, steps: _Steps) -> "tuple[list[onnx.NodeProto], list[onnx.TensorProto]]":
    """Return the float operators and constants that round a value to a grid."""
    import numpy as np
    import onnx

    scale, zero = np.float32(steps.scale.item()), np.float32(steps.zero.item())
    numbers = {"scale": scale, "least": steps.least - zero, "most": steps.most - zero}
    constants = {part: f"{target}__{part}" for part in numbers}
    tensors = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), constants[part]) for part, value in numbers.items()
    ]
    chain = [
        ("Div", [name, constants["scale"]], f"{target}__steps"),
        ("Round", [f"{target}__steps"], f"{target}__whole"),
        ("Clip", [f"{target}__whole", constants["least"], constants["most"]], f"{target}__within"),
        ("Mul", [f"{target}__within", constants["scale"]], target),
    ]
    return [onnx.helper.make_node(kind, inputs, [output]) for kind, inputs, output in chain], tensors
