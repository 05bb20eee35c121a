"""ONNX files and ONNX Runtime: what is in the file, and the options of the processor."""

from pathlib import Path

import builders
import onnx
import pytest

from fastvit_bench.backends._onnx.export import OPSET
from fastvit_bench.backends.onnxruntime import BACKEND
from fastvit_bench.errors import UsageError
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.network.reparam import at_level
from fastvit_bench.records import Device, Fuse, Shape


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("onnx") / "t8.onnx"
    network = at_level(FastViT(VARIANTS["fastvit_sa12"]).eval(), Fuse.FOLDED)
    asked = builders.export_job(shape=Shape(batch=2, height=64, width=96))
    BACKEND.export(network, asked, path, {"fastvit_bench.variant": "fastvit_sa12"})
    return onnx.load(path)


@pytest.mark.slow
def test_the_interface_is_static_and_named(model: onnx.ModelProto) -> None:
    def describe(value: onnx.ValueInfoProto) -> tuple[str, list[int], int]:
        tensor = value.type.tensor_type
        return value.name, [dim.dim_value for dim in tensor.shape.dim], tensor.elem_type

    assert [describe(value) for value in model.graph.input] == [("image", [2, 3, 64, 96], onnx.TensorProto.FLOAT)]
    assert [describe(value) for value in model.graph.output] == [("logits", [2, 1000], onnx.TensorProto.FLOAT)]
    assert {(opset.domain, opset.version) for opset in model.opset_import if not opset.domain} == {("", OPSET)}


@pytest.mark.slow
def test_the_folded_graph_has_nothing_left_to_fold(model: onnx.ModelProto) -> None:
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    assert "Erf" not in kinds
    assert "Gelu" in kinds
    assert kinds.count("Mul") == 1  # squeeze-and-excite
    assert kinds.count("Transpose") <= 2 * VARIANTS["fastvit_sa12"].blocks[3]  # read by matrix products, never copied


def test_the_file_tells_what_it_is_and_nothing_of_its_maker(model: onnx.ModelProto) -> None:
    assert {prop.key: prop.value for prop in model.metadata_props} == {"fastvit_bench.variant": "fastvit_sa12"}
    assert model.producer_name == "fastvit-bench"
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    for tensor in graph.graph.initializer:
        tensor.ClearField("raw_data")  # numbers spell anything
    assert str(Path.home()).encode() not in graph.SerializeToString()
    assert b".py" not in graph.SerializeToString()


@pytest.mark.parametrize("threads", [0, -1, "two", 1.5, True])
def test_threads_must_be_a_whole_number(threads: object) -> None:
    with pytest.raises(UsageError, match="whole number above 0"):
        BACKEND.options(Device(name="cpu", backend="onnxruntime", options={"threads": threads}))  # type: ignore[dict-item]


def test_threads_default_to_the_processors_at_hand() -> None:
    assert BACKEND.options(Device(name="cpu", backend="onnxruntime"))["threads"] >= 1
