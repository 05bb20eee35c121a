"""INT8 as Q/DQ nodes: a file computes its network rounded to its grids, and a wrong one does not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import builders
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

from fastvit_bench.backends._onnx import export, quantise, session
from fastvit_bench.backends._onnx.quantise import OPENVINO, PROCESSOR, Quantised, QuantisingChoices, Values
from fastvit_bench.errors import ParityError
from fastvit_bench.records import ExportJob, Shape

SHAPE = Shape(batch=1, height=32, width=32)
ASKED: ExportJob = builders.export_job(precision="int8", shape=SHAPE)
Array = NDArray[np.floating[Any]]


class Small(nn.Module):
    """A depthwise convolution before a pointwise one, as in FastViT, whose channels differ by powers of ten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.act = nn.GELU()
        self.wide = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.classifier = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inside = self.act(self.stem(image))
        inside = inside + self.point(self.wide(inside))
        return self.classifier(inside.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = Small()
    with torch.no_grad():
        sizes = 10.0 ** torch.linspace(-1, 1, 16)
        network.wide.weight *= sizes[:, None, None, None]
        network.point.weight /= sizes[None, :, None, None]
    return network.double().eval()


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    return [draw.standard_normal((3, 32, 32)).astype(np.float32) for _ in range(8)]


@pytest.fixture(scope="module")
def graph(network: nn.Module) -> onnx.ModelProto:
    return quantise._float_model(network, ASKED)


@pytest.fixture(scope="module")
def done(graph: onnx.ModelProto, images: list[Array]) -> Quantised:
    return quantise.quantised(graph, images, PROCESSOR, 1)


def outputs(model: onnx.ModelProto, images: Sequence[Array]) -> Array:
    results: list[Array] = []
    with session.unoptimised("model", model.SerializeToString(), 1) as opened:
        for image in images:
            opened.set_input(image[None].astype(np.float32))
            opened.run()
            results.append(opened.get_output()["logits"])
    return np.concatenate(results)


def error(model: onnx.ModelProto, reference: onnx.ModelProto, images: Sequence[Array]) -> float:
    """The largest difference over the standard deviation."""
    expected = outputs(reference, images)
    return float(np.abs(outputs(model, images) - expected).max() / expected.std())


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def test_a_file_computes_its_rounded_network(graph: onnx.ModelProto, done: Quantised, images: list[Array]) -> None:
    rounded = quantise.rounded(quantise.equalised(graph, done.factors), done.model)
    assert error(done.model, rounded, images) < 1e-5
    assert error(rounded, graph, images) > 1e-3  # and not the network itself
    assert {node.op_type for node in rounded.graph.node}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})


def test_products_are_between_integers_and_gelu_is_not(done: Quantised) -> None:
    assert done.integer == {"Conv": 3, "Add": 1, "Gemm": 1}
    assert done.floating == {"Gelu": 1, "ReduceMean": 1}
    kinds = {tensor.name: tensor.data_type for tensor in done.model.graph.initializer}
    weights = [kind for name, kind in kinds.items() if name.endswith("weight_quantized")]
    assert weights == [TensorProto.INT8] * 4


def test_for_openvino_a_gelu_reads_the_sums_of_its_convolution(
    graph: onnx.ModelProto, done: Quantised, images: list[Array]
) -> None:
    joined = quantise.quantised(graph, images, OPENVINO, 1)
    producers = {name: node.op_type for node in joined.model.graph.node for name in node.output}
    (gelu,) = (node for node in joined.model.graph.node if node.op_type == "Gelu")
    assert producers[gelu.input[0]] == "Conv"
    assert joined.integer == done.integer
    onnx.checker.check_model(joined.model)
    rounded = quantise.rounded(quantise.equalised(graph, joined.factors), joined.model)
    assert error(joined.model, rounded, images) < 1e-5


def change(name: str, edit: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    """A fault that changes the first initialiser whose name ends so."""

    def plant(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(name))
        tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), tensor.name))

    return plant


def one_larger(values: Any) -> Any:
    values.flat[0] += -1 if values.flat[0] > 0 else 1
    return values


@pytest.mark.parametrize(
    "plant",
    [
        change("stem.weight_quantized", one_larger),
        change("wide.weight_quantized", one_larger),
        change("point.bias_quantized", lambda values: values * 0),
        change("classifier.bias_quantized", lambda values: np.roll(values, 1)),
    ],
    ids=["a step of a weight", "a step of a depthwise weight", "a bias dropped", "biases moved"],
)
def test_a_wrong_number_in_a_file_shows(
    plant: Callable[[onnx.ModelProto], None], graph: onnx.ModelProto, done: Quantised, images: list[Array]
) -> None:
    broken = copied(done.model)
    plant(broken)
    rounded = quantise.rounded(quantise.equalised(graph, done.factors), broken)
    assert error(broken, rounded, images) > 1e-4


def rewired(model: onnx.ModelProto) -> None:
    add = next(node for node in model.graph.node if node.op_type == "Add")
    add.input[0] = add.input[1]


def without_gelu(model: onnx.ModelProto) -> None:
    gelu = next(node for node in model.graph.node if node.op_type == "Gelu")
    gelu.op_type = "Relu"


@pytest.mark.parametrize(
    "plant",
    [change("wide.weight_scale", lambda values: values * 2), rewired, without_gelu],
    ids=["steps that do not fit", "an input of another operator", "another activation"],
)
def test_another_graph_is_no_file_of_the_network(
    plant: Callable[[onnx.ModelProto], None], network: nn.Module, done: Quantised
) -> None:
    broken = copied(done.model)
    plant(broken)
    with pytest.raises(ParityError, match="not made of the network"):
        quantise.twins(network, ASKED, broken, 1)


def test_equalised_channels_change_not_one_bit(graph: onnx.ModelProto, done: Quantised, images: list[Array]) -> None:
    assert list(done.factors) == ["point/Conv"]
    assert len(set(done.factors["point/Conv"])) > 3
    assert (outputs(quantise.equalised(graph, done.factors), images) == outputs(graph, images)).all()


def test_each_choice_is_worth_its_decibels(graph: onnx.ModelProto, images: list[Array]) -> None:
    def noise(**choices: Any) -> float:
        model = quantise.quantised(graph, images, PROCESSOR, 1, QuantisingChoices(**choices)).model
        return float(np.square(outputs(model, images) - outputs(graph, images)).sum())

    plain = noise(per_channel=False, equalised=False, ranges="extremes")
    assert noise(equalised=False) < plain / 2
    assert noise() < noise(equalised=False)


@pytest.mark.parametrize("signed", [False, True])
def test_the_range_of_least_error_cuts_a_lone_outlier(signed: bool) -> None:
    draw = np.random.default_rng(0)
    values = Values(low=-100.0, high=4.0)
    within = (values.low, values.high)
    usual = np.histogram(draw.standard_normal(100_000), quantise._BINS, within)[0]
    values.counts = 1000 * usual + np.histogram([-100.0], quantise._BINS, within)[0]
    low, high = quantise.clipped(values, "error", signed=signed)
    assert -50 < low < -3
    assert high == -low if signed else 2 < high <= 4
    assert quantise.clipped(values, "extremes", signed=signed) == (-100.0, 4.0)
    tail = quantise.clipped(values, "percentile", signed=signed)
    assert -5 < tail[0] < -3


@pytest.mark.slow
def test_equal_arguments_give_equal_files(network: nn.Module, images: list[Array], tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        quantise.GraphQuantiser(network, ASKED, images, PROCESSOR, 1).write(path, {"fastvit_bench.precision": "int8"})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    other = tmp_path / "c.onnx"
    quantise.GraphQuantiser(network, ASKED, images[:4], PROCESSOR, 1).write(other, {"fastvit_bench.precision": "int8"})
    assert other.read_bytes() != paths[0].read_bytes()


def test_files_for_every_batch_have_the_same_ranges(network: nn.Module, images: list[Array], tmp_path: Path) -> None:
    steps: list[dict[str, bytes]] = []
    for batch in (1, 3):
        asked = builders.export_job(precision="int8", shape=Shape(batch=batch, height=32, width=32))
        path = tmp_path / f"{batch}.onnx"
        quantise.GraphQuantiser(network, asked, images, PROCESSOR, 1).write(path, {"fastvit_bench.precision": "int8"})
        model = onnx.load(path)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch
        tensors = [tensor for tensor in model.graph.initializer if tensor.name.endswith(("_scale", "_zero_point"))]
        steps.append({tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in tensors})
    assert len(steps[0]) > 16
    assert steps[0] == steps[1]


@pytest.mark.slow
def test_the_exporter_still_writes_the_model_it_makes(network: nn.Module, tmp_path: Path) -> None:
    asked = builders.export_job(precision="fp32", shape=SHAPE)
    export.write(network, asked, tmp_path / "a.onnx", {})
    model = export.model_of(network, asked, {})
    assert (tmp_path / "a.onnx").read_bytes() == model.SerializeToString(deterministic=True)
