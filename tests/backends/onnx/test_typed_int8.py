"""INT8 by NVIDIA's rules: where its Q/DQ nodes stand, float16 between them, and a proof that sees a wrong number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._onnx import quantise, session, typed_int8
from fastvit_bench.backends._onnx.quantise import NVIDIA
from fastvit_bench.errors import UsageError
from fastvit_bench.records import ExportJob, Shape

SHAPE = Shape(batch=2, height=16, width=16)
ASKED: ExportJob = builders.export_job(precision="int8", shape=SHAPE)
Array = NDArray[np.floating[Any]]


class Block(nn.Module):
    """The arithmetic of a folded FastViT block, before a classifier; some channels of its last weights are tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.mixer = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.spatial = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.wide = nn.Conv2d(8, 16, 1)
        self.act = nn.GELU()
        self.narrow = nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inside = self.mixer(self.stem(image))
        inside = inside + self.narrow(self.act(self.wide(self.spatial(inside))))
        return self.classifier(self.last(inside).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = Block()
    with torch.no_grad():
        network.last.weight[0] *= 1e-5  # its step is below the least normal float16
        network.last.weight[1] = 0
    return network.double().eval()


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    return [draw.standard_normal((3, 16, 16)).astype(np.float32) for _ in range(33)]


@pytest.fixture(scope="module")
def graph(network: nn.Module) -> onnx.ModelProto:
    return quantise._float_model(network, ASKED)


@pytest.fixture(scope="module")
def file(network: nn.Module, images: list[Array], tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("typed") / "a.onnx"
    quantise.GraphQuantiser(network, ASKED, images, NVIDIA, 1).write(path, {"fastvit_bench.precision": "int8"})
    return onnx.load(path)


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def logits(model: onnx.ModelProto, images: list[Array]) -> Array:
    batches: list[Array] = []
    with session.unoptimised("a", model.SerializeToString(), 1) as running:
        for start in range(0, 32, 2):
            running.set_input(np.stack(images[start : start + 2]))
            running.run()
            batches.append(running.get_output()["logits"].astype(np.float64))
    return np.concatenate(batches)


def error(actual: onnx.ModelProto, expected: onnx.ModelProto, images: list[Array]) -> float:
    """The largest difference over the standard deviation."""
    known = logits(expected, images)
    return float(np.abs(logits(actual, images) - known).max() / known.std())


def rounded(graph: onnx.ModelProto, file: onnx.ModelProto) -> onnx.ModelProto:
    """The network that a file must compute."""
    factors = {entry.key: entry.value for entry in file.metadata_props}[quantise._FACTORS]
    return quantise.rounded(quantise.equalised(graph, json.loads(factors)), file)


# --- NVIDIA's rules ---------------------------------------------------------------------------------------------------


def test_integers_are_symmetric_on_both_sides(file: onnx.ModelProto) -> None:
    known = constants(file)
    marks = [node for node in file.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert len(marks) == 7 + 2 * 7  # seven weights; seven values between
    for node in marks:
        scale, zero = known[node.input[1]], known[node.input[2]]
        assert (scale.dtype, zero.dtype) == (np.float16, np.int8)
        assert (scale > 0).all()
        assert not zero.any()


def test_weights_have_a_step_for_each_output_channel(file: onnx.ModelProto) -> None:
    known = constants(file)
    outputs = {"stem": 8, "mixer": 8, "spatial": 8, "wide": 16, "narrow": 8, "last": 8, "classifier": 10}
    steps = {}
    for node in file.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in known:
            axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis")
            weights = known[node.input[0]]
            assert (axis, weights.dtype) == (0, np.int8)
            steps[node.input[0].partition(".")[0]] = known[node.input[1]].size
    assert steps == outputs


def test_inputs_of_products_are_rounded_and_of_a_sum_the_residual_alone(file: onnx.ModelProto) -> None:
    producers = {name: node for node in file.graph.node for name in node.output}
    for node in file.graph.node:
        kinds = [producers[name].op_type for name in node.input if name in producers]
        if node.op_type in {"Conv", "Gemm"}:
            assert kinds == ["DequantizeLinear"] * 2, node.name
        if node.op_type == "Add":
            assert kinds == ["DequantizeLinear", "Conv"]
        if node.op_type == "Gelu":
            assert kinds == ["Conv"]
    assert [producers[value.name].op_type for value in file.graph.output] == ["Gemm"]  # not rounded


def test_all_between_the_integers_is_float16(file: onnx.ModelProto) -> None:
    onnx_model.require_strongly_typed(file, "a")
    faces = [value.type.tensor_type.elem_type for value in (*file.graph.input, *file.graph.output)]
    assert faces == [TensorProto.FLOAT16] * 2


# --- the proof --------------------------------------------------------------------------------------------------------


def test_a_file_computes_its_rounded_network(
    file: onnx.ModelProto, graph: onnx.ModelProto, images: list[Array]
) -> None:
    assert error(typed_int8.widened(file), rounded(graph, file), images) < 1e-5
    assert 1e-3 < error(rounded(graph, file), graph, images) < 0.2  # and not the network itself, but near it


def changed(name: str, edit: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    """A fault that changes an initialiser."""

    def plant(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), tensor.name))

    return plant


def one_larger(values: Any) -> Any:
    values.flat[0] += -1 if values.flat[0] > 0 else 1
    return values


def of_the_other_sign(values: Any) -> Any:
    values.flat[np.abs(values).argmax()] *= -1
    return values


def broken(file: onnx.ModelProto, plant: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(file)
    plant(result)
    return result


@pytest.mark.parametrize(
    "plant",
    [
        changed("stem.weight_quantized", of_the_other_sign),
        changed("mixer.weight_quantized", one_larger),
        changed("classifier.weight_quantized", one_larger),
        changed("narrow.bias", lambda values: values * 0),
        changed("classifier.bias", lambda values: np.roll(values, 1)),
    ],
    ids=["the sign of a weight", "a depthwise weight", "a weight of the classifier", "a bias dropped", "biases moved"],
)
def test_a_wrong_number_in_a_file_shows(
    plant: Callable[[onnx.ModelProto], None], file: onnx.ModelProto, graph: onnx.ModelProto, images: list[Array]
) -> None:
    wrong = broken(file, plant)
    assert error(typed_int8.widened(wrong), rounded(graph, wrong), images) > 1e-4


def without_residual(model: onnx.ModelProto) -> None:
    add = next(node for node in model.graph.node if node.op_type == "Add")
    add.input[0] = add.input[1]


@pytest.mark.parametrize(
    "plant",
    [changed("wide.weight_scale", lambda values: np.nextafter(values, np.float16(1))), without_residual],
    ids=["the next larger step", "no residual"],
)
def test_another_graph_is_no_file_of_the_network(
    plant: Callable[[onnx.ModelProto], None], file: onnx.ModelProto, graph: onnx.ModelProto
) -> None:
    with pytest.raises(ValueError, match=r"do not fit their values|reads narrow/Conv and not"):
        rounded(graph, broken(file, plant))


# --- numbers in float16 -----------------------------------------------------------------------------------------------


def test_tiny_weights_are_rounded_to_the_steps_that_are_stored(file: onnx.ModelProto, graph: onnx.ModelProto) -> None:
    known = constants(file)
    steps, levels = known["last.weight_scale"].astype(np.float64), known["last.weight_quantized"].astype(np.float64)
    assert 0 < steps[0] < 2.0**-14
    exact = constants(graph)["last.weight"].astype(np.float64)
    assert (np.abs(levels * steps[:, None, None, None] - exact) <= steps[:, None, None, None] * 0.501).all()
    assert np.abs(levels[2:]).max() == 127
    assert not levels[1].any()


@given(st.floats(2.0**-40, 500.0))
def test_a_step_in_float16_holds_what_the_exact_one_does(width: float) -> None:
    stored = float(typed_int8.step(np.array([width]), np.dtype(np.float16))[0])
    assert width <= stored <= width * (1 + 2.0**-10) + 2.0**-24
    assert float(typed_int8.step(np.array([width]), np.dtype(np.float32))[0]) == float(np.float32(width))


def test_numbers_beyond_float16_are_named(network: nn.Module, images: list[Array]) -> None:
    asked = builders.export_job(precision="int8", shape=Shape(batch=1, height=16, width=16))
    graph = quantise._float_model(network, asked)
    done = quantise.quantised(graph, images, NVIDIA, 1)
    plant = changed("narrow.bias", lambda values: values * 0 + 70_000)
    with pytest.raises(UsageError, match=r"narrow\.bias holds 70000, and float16 ends at 65504"):
        typed_int8.narrowed(broken(done.model, plant), quantise.equalised(graph, done.factors))


@pytest.mark.slow
def test_equal_arguments_give_equal_files(
    file: onnx.ModelProto, network: nn.Module, images: list[Array], tmp_path: Path
) -> None:
    paths = [tmp_path / "b.onnx", tmp_path / "c.onnx"]
    for path, calibration in zip(paths, (images, images[5:]), strict=True):
        writer = quantise.GraphQuantiser(network, ASKED, calibration, NVIDIA, 1)
        writer.write(path, {"fastvit_bench.precision": "int8"})
    same = [onnx.load(path) == file for path in paths]
    assert same == [True, False]
