"""ONNX files shared by several backends: types that are the arithmetic, weights that fit, results that are rounded."""

from collections.abc import Callable
from pathlib import Path

import builders
import golden
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from fastvit_bench.backends import HALF_WEIGHTS
from fastvit_bench.backends._onnx import export
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.network import factory
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.network.reparam import at_level
from fastvit_bench.records import ExportJob, Fuse, GraphVariant, Head, Parity, Shape

SHAPE = Shape(batch=2, height=64, width=64)


def asked(shape: Shape = SHAPE) -> ExportJob:
    return builders.export_job(precision="fp16", shape=shape)


def golden_network(variant: str, head: Head = Head.CLASSIFIER) -> FastViT:
    network = FastViT(VARIANTS[variant], head=head)
    network.load_state_dict(golden.state(variant, head))
    return network.double().eval()


def deployed(network: FastViT) -> nn.Module:
    return at_level(network, Fuse.FOLDED, GraphVariant(doubling="grouped"))


def proof(reference: FastViT, path: Path) -> Parity:
    with onnx_session.as_typed(path, 1) as session:
        return verification.prove(verification.reference_outputs(factory.of(reference), SHAPE), session, "fp16")


@pytest.fixture(scope="module")
def reference() -> FastViT:
    return golden_network("fastvit_sa12")


@pytest.fixture(scope="module")
def written(reference: FastViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "sa12.onnx"
    export.write(deployed(reference), asked(), path, {"fastvit_bench.variant": "fastvit_sa12"})
    return path


@pytest.fixture
def model(written: Path) -> onnx.ModelProto:
    return onnx.load(written)


# --- strongly typed ---------------------------------------------------------------------------------------------------


DEEP = ("fastvit_sa24", "fastvit_sa36")
MARKED = [pytest.param(name, marks=pytest.mark.slow if name in DEEP else ()) for name in VARIANTS]


@pytest.mark.slow
@pytest.mark.parametrize("variant", MARKED)
def test_every_variant_computes_in_half_what_it_should(variant: str, tmp_path: Path) -> None:
    network, path = golden_network(variant), tmp_path / "half.onnx"
    export.write(deployed(network), asked(), path, {})
    assert onnx_model.islands(onnx.load(path)) == []
    found = proof(network, path)
    assert found.passed, found.reason
    assert found.tolerance == 2e-2
    assert found.top1_agreement == 1
    assert found.cosine is not None
    assert found.cosine > 0.9999
    assert found.snr_db is not None
    assert found.snr_db > 40
    with onnx_session.on_processor(path, 1) as session:
        assert verification.prove(verification.reference_outputs(factory.of(network), SHAPE), session, "fp16").passed


@pytest.mark.slow
def test_a_dense_network_in_half(tmp_path: Path) -> None:
    network, path = golden_network("fastvit_sa12", Head.DENSE), tmp_path / "half.onnx"
    export.write(deployed(network), asked(), path, {})
    assert onnx_model.islands(onnx.load(path)) == []
    found = proof(network, path)
    assert found.passed, found.reason
    assert (found.judged, found.tolerance) == ("rms", 2e-2)


@pytest.mark.slow
def test_all_of_a_half_file_is_half(model: onnx.ModelProto) -> None:
    graph = model.graph
    half = TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {half}
    assert {tensor.data_type for tensor in graph.initializer} == {half, TensorProto.INT64}
    assert "Cast" not in {node.op_type for node in graph.node}


class Normed(nn.Module):
    """Norms without weights, for which the exporter writes weights of one and zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(1, 4, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.norm(self.conv(x)))


@torch.no_grad()
def test_nothing_neutral_is_left_to_compute(tmp_path: Path) -> None:
    network, path = Normed().double().eval(), tmp_path / "x.onnx"
    export.write(network, builders.export_job(shape=SHAPE), path, {})
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("InstanceNormalization") == 2
    assert kinds.count("Mul") == 0
    assert kinds.count("Add") == 1  # gives the output its name
    assert {name for node in graph.node for name in node.input} >= {tensor.name for tensor in graph.initializer}
    image = np.random.default_rng(0).standard_normal(SHAPE.nchw, np.float32)
    with onnx_session.on_processor(path, 1) as session:
        session.set_input(image)
        session.run()
        session.wait()
        (found,) = session.get_output().values()
    assert np.abs(found - network(torch.from_numpy(image).double()).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("operator", "value", "shape", "left"),
    [
        ("Mul", 1.0, (4, 1, 1), 1),
        ("Add", 0.0, (4, 1, 1), 1),
        ("Add", 1.0, (4, 1, 1), 2),
        ("Mul", 0.0, (4, 1, 1), 2),
        ("Sub", 0.0, (4, 1, 1), 2),
        ("Add", 0.0, (5, 1, 4, 1, 1), 2),  # it also makes five of one
    ],
)
def test_only_what_changes_nothing_is_dropped(operator: str, value: float, shape: tuple[int, ...], left: int) -> None:
    constant = numpy_helper.from_array(np.full(shape, value, np.float32), "constant")
    nodes = [helper.make_node(operator, ["image", "constant"], ["middle"]), helper.make_node("Relu", ["middle"], ["y"])]
    tensors = [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 4, 2, 2))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(helper.make_graph(nodes, "g", tensors, outputs, [constant]))
    model = onnx.shape_inference.infer_shapes(model)
    export._drop_neutral(model)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == left
    assert len(model.graph.initializer) == left - 1
    assert model.graph.node[-1].input[0] == ("image" if left == 1 else "middle")


@pytest.mark.slow
@pytest.mark.parametrize(
    "head",
    [
        Head.CLASSIFIER,
        *(pytest.param(head, marks=pytest.mark.slow) for head in builders.FASTVITS_HEADS if head != "classifier"),
    ],
)
def test_single_precision_outside_is_two_kinds_of_casts(head: Head, tmp_path: Path) -> None:
    network, path = golden_network("fastvit_t8", head), tmp_path / "io.onnx"
    export.write(deployed(network), asked(), path, {}, interface="fp32")
    graph = onnx.load(path).graph
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert len(casts) == 1 + len(graph.output)
    assert casts[0].input[0] == "image"
    assert {node.output[0] for node in casts[1:]} == {value.name for value in graph.output}
    assert onnx_model.islands(onnx.load(path)) == []
    assert proof(network, path).passed


def test_half_around_single_precision_is_refused(reference: FastViT, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp32 cannot have input and outputs in fp16"):
        export.write(reference, builders.export_job(shape=SHAPE), tmp_path / "x.onnx", {}, interface="fp16")


def wide_node(model: onnx.ModelProto) -> None:
    """One activation in float32, as a converter with a block list leaves it."""
    nodes = list(model.graph.node)
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Gelu")
    source, target = nodes[at].input[0], nodes[at].output[0]
    nodes[at : at + 1] = [
        helper.make_node("Cast", [source], ["wide_in"], to=TensorProto.FLOAT),
        helper.make_node("Gelu", ["wide_in"], ["wide_out"], "island"),
        helper.make_node("Cast", ["wide_out"], [target], to=TensorProto.FLOAT16),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def wide_weight(model: onnx.ModelProto) -> None:
    """A weight stored in float32 behind a Cast."""
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)
    values = numpy_helper.to_array(tensor).astype(np.float32)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(values, "stored"))
    model.graph.node.insert(0, helper.make_node("Cast", ["stored"], [name], to=TensorProto.FLOAT16))


def mixed(model: onnx.ModelProto) -> None:
    """A bias in float32 beside a weight in float16, which no operator takes."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    bias = next(t for t in model.graph.initializer if t.name == conv.input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias).astype(np.float32), bias.name))


def beyond(model: onnx.ModelProto) -> None:
    """A constant that became infinite when the exporter folded it."""
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.inf
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (wide_node, "float32 node Gelu island"),
        (wide_weight, "float32 initialiser stored"),
        (mixed, "float32 initialiser|do not fit together"),
        (beyond, "values beyond float16"),
    ],
)
def test_what_is_not_half_is_named(model: onnx.ModelProto, fault: Callable[[onnx.ModelProto], None], said: str) -> None:
    fault(model)
    with pytest.raises(UnavailableError, match=said) as caught:
        onnx_model.require_strongly_typed(model, "sa12")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_file_s_own_words_about_types_do_not_count(model: onnx.ModelProto) -> None:
    wide_node(model)
    model.graph.value_info.append(helper.make_tensor_value_info("wide_in", TensorProto.FLOAT16, None))
    model.graph.value_info.append(helper.make_tensor_value_info("wide_out", TensorProto.FLOAT16, None))
    assert any("island" in found for found in onnx_model.islands(model))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_what_half_makes_of_weights_is_counted_and_left_alone() -> None:
    layer = nn.Linear(6, 1, bias=False).double()
    values = torch.tensor([[1.0, -65504.0, 2.0**-14, 2.0**-15, 2.0**-26, 0.0]]).double()
    layer.weight = nn.Parameter(values.clone())
    found = export.weights_report(layer)
    assert (found.weights, found.subnormal, found.zeroed) == (6, 1, 1)  # a zero that was one lost nothing
    assert (found.largest, found.largest_of) == (65504, "weight")
    assert torch.equal(layer.weight, values)


@pytest.mark.parametrize(
    ("value", "said"), [(65505.0, "65505"), (-7e4, "-70000"), (torch.nan, "nan"), (torch.inf, "inf")]
)
def test_a_weight_that_half_cannot_hold_is_refused_by_name(value: float, said: str, tmp_path: Path) -> None:
    network = deployed(golden_network("fastvit_t8"))
    with torch.no_grad():
        network.get_parameter("classifier.weight")[3, 5] = value
    path = tmp_path / "x.onnx"
    with pytest.raises(UsageError, match=rf"classifier\.weight holds {said}, and float16 ends at 65504") as caught:
        export.write(network, asked(), path, {})
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_the_file_notes_what_became_of_its_weights(written: Path) -> None:
    assert '"subnormal":' in onnx_model.metadata(written)[HALF_WEIGHTS]


# --- the proof --------------------------------------------------------------------------------------------------------


def test_a_swapped_head_fails_the_proof(reference: FastViT, model: onnx.ModelProto, tmp_path: Path) -> None:
    """Two classes of the classifier change places."""
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    for name in gemm.input[1:]:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        axis = values.shape.index(1000)
        values = np.swapaxes(values, 0, axis)
        values[[0, 1]] = values[[1, 0]]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.swapaxes(values, 0, axis)), name))
    path = tmp_path / "swapped.onnx"
    onnx.save(model, path)
    found = proof(reference, path)
    assert not found.passed
    assert "largest error" in found.reason


def test_results_are_rounded_where_the_types_say_so(tmp_path: Path) -> None:
    """(2048 + x) - 2048 keeps nothing of x = 0.5 in float16, where ONNX Runtime by itself computes it in float32."""

    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x + 2048) - 2048).flatten(1)

    path = tmp_path / "sum.onnx"
    shape = Shape(batch=1, height=1, width=2)
    export.write(Sum().double(), asked(shape), path, {})
    images = np.full(shape.nchw, 0.5, np.float32)
    with onnx_session.as_typed(path, 1) as session:
        session.set_input(images)
        session.run()
        assert not session.get_output()["logits"].any()


def test_what_overflows_between_two_layers_is_seen(tmp_path: Path) -> None:
    """300 * 300 is beyond float16, though the end result would not be."""

    class Peak(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (torch.relu(x * x) / 300).flatten(1)

    path = tmp_path / "peak.onnx"
    shape = Shape(batch=1, height=1, width=2)
    export.write(Peak().double(), asked(shape), path, {})
    with onnx_session.as_typed(path, 1) as session:
        session.set_input(np.full(shape.nchw, 300, np.float32))
        session.run()
        assert np.isinf(session.get_output()["logits"]).all()


def resize(kind: int) -> onnx.ModelProto:
    """A float16 map, doubled; the factors float32, and what multiplies it of the type `kind`."""
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Resize", ["x", "", "factors"], ["wide"], mode="nearest"),
        helper.make_node("Mul", ["wide", "gain"], ["y"]),
    ]
    gain = numpy_helper.from_array(np.ones(1, np.float16 if kind == half else np.float32), "gain")
    graph = helper.make_graph(
        nodes,
        "doubled",
        [helper.make_tensor_value_info("x", half, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", half, [1, 1, 4, 4])],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "factors"), gain],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_the_factors_of_a_resize_are_no_island() -> None:
    assert onnx_model.islands(resize(TensorProto.FLOAT16)) == []
    assert onnx_model.islands(resize(TensorProto.FLOAT)) != []
