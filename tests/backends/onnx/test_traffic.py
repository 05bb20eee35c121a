"""What an ONNX file computes and moves: counted by hand, and equal to what was counted on the network."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import onnx
import pytest
from conftest import export_job
from onnx import helper, numpy_helper
from torch import nn

from fastvit_bench.backends._onnx import export, traffic
from fastvit_bench.errors import UnavailableError
from fastvit_bench.exporting import metadata, pipeline
from fastvit_bench.network import cost, reparam
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.random_weights import randomise
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import Artifact, Fuse, GraphVariant, Head, Shape

SHAPE = Shape(batch=2, height=8, width=4)


def model(nodes: list[Any], weights: dict[str, Any], output: str, free: bool = False) -> onnx.ModelProto:
    """A graph of nodes over an image; its output's shape is left open."""
    shape = ["n", 3, "h", "w"] if free else list(SHAPE.nchw)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("free", [False, True])
def test_by_hand(free: bool) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Mul", ["x", "x"], ["y"]),  # given twice, read once
        helper.make_node("Reshape", ["y", "rows"], ["z"]),  # moves nothing
        helper.make_node("Gemm", ["z", "m"], ["out"], transB=1),
    ]
    weights = {
        "w": np.zeros((6, 3, 3, 3), np.float32),
        "b": np.zeros(6, np.float32),
        "rows": np.array([2, -1]),
        "m": np.zeros((5, 48), np.float32),
        "unused": np.zeros(1000, np.float32),
    }
    found = traffic.of(model(nodes, weights, "out", free), SHAPE, "by hand")
    x = 2 * 6 * 4 * 2
    assert found.macs == x * 27 + 2 * 5 * 48
    assert found.params == 6 * 27 + 6 + 5 * 48
    assert found.weight_bytes == 4 * found.params
    assert found.read_bytes == 4 * (math.prod(SHAPE.nchw) + x + x)
    assert found.written_bytes == 4 * (x + x + 2 * 5)
    assert found.moved_bytes == found.weight_bytes + found.read_bytes + found.written_bytes


def test_a_slice_reads_what_it_writes_and_halves_count_half() -> None:
    nodes = [
        helper.make_node("Slice", ["image", "from", "to", "axis"], ["part"]),
        helper.make_node("Cast", ["part"], ["half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["out"], to=onnx.TensorProto.FLOAT),
    ]
    weights = {"from": np.array([0]), "to": np.array([1]), "axis": np.array([1])}
    found = traffic.of(model(nodes, weights, "out"), SHAPE, "slice")
    part = 2 * 8 * 4
    assert (found.params, found.macs, found.weight_bytes) == (0, 0, 0)
    assert found.read_bytes == 4 * part + 4 * part + 2 * part
    assert found.written_bytes == 4 * part + 2 * part + 4 * part


def test_an_unknown_operator_is_one_sentence() -> None:
    nodes = [helper.make_node("Mystery", ["image"], ["x"], domain="elsewhere"), helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(UnavailableError, match=r"cannot infer the shapes in odd\.onnx: .*Mystery"):
        traffic.of(model(nodes, {}, "y"), SHAPE, "odd.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "head", "level"),
    [("fastvit_t8", Head.DENSE, Fuse.NONE), ("fastvit_sa12", Head.CLASSIFIER, Fuse.FOLDED)],
)
def test_macs_are_those_of_the_network(variant: str, head: Head, level: Fuse, tmp_path: Path) -> None:
    """Also of attention, of several outputs, and of a batch; half the bytes in half the precision."""
    network, shape, counted = networks(variant, head, level)
    found = {}
    for precision in ("fp32", "fp16") if level is Fuse.FOLDED else ("fp32",):
        asked = builders.export_job(head=head, shape=shape, fused=level, precision=precision)
        export.write(network, asked, tmp_path / "x.onnx", {})
        found[precision] = traffic.count(tmp_path / "x.onnx", shape)
        assert found[precision].macs == counted.macs
        assert found[precision].params == pytest.approx(counted.params, rel=0.002)  # statistics of norms, folded scales
    if level is Fuse.FOLDED:
        assert found["fp16"].moved_bytes == pytest.approx(found["fp32"].moved_bytes / 2, rel=1e-3)


@pytest.mark.slow
def test_what_the_exporter_drops_is_not_counted(tmp_path: Path) -> None:
    """The published dense SA networks do not hand out their last stage, so it is not in the file that is timed."""
    network, shape, counted = networks("fastvit_sa12", Head.DENSE, Fuse.FUSED)
    asked = builders.export_job(head=Head.DENSE, shape=shape, fused=Fuse.FUSED)
    export.write(network, asked, tmp_path / "x.onnx", {})
    found = traffic.count(tmp_path / "x.onnx", shape)
    assert found.macs < 0.9 * counted.macs
    assert found.params < 0.6 * counted.params


def networks(variant: str, head: Head, level: Fuse) -> tuple[nn.Module, Shape, cost.Cost]:
    small = dataclasses.replace(VARIANTS[variant], blocks=(1, 1, 1, 2), channels=(16, 32, 64, 128))
    network = FastViT(small, head=head, classes=10).double().eval()
    randomise(network, 0)
    network = reparam.at_level(network, level, GraphVariant())
    shape = Shape(batch=2, height=64, width=32)
    return network, shape, cost.count(network, shape)


@pytest.mark.slow
def test_the_side_car_has_it_and_old_ones_stay_readable(exported: Path) -> None:
    job = export_job(exported)
    artifact = pipeline.cached(job)
    assert artifact is not None
    assert artifact.traffic is not None
    assert artifact.traffic.macs == artifact.macs
    assert artifact.traffic == traffic.count(Path(job.path), artifact.shape)
    side_car = msgspec.json.decode(metadata.metadata_path(Path(job.path)).read_bytes())
    del side_car["traffic"]
    old = msgspec.json.decode(msgspec.json.encode(side_car), type=Artifact)
    assert old.traffic is None
    assert old.key == artifact.key


@pytest.mark.slow
def test_a_file_for_several_sizes_is_counted_at_the_one_that_is_asked(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    asked = builders.export_job(shape=Shape(batch=1, height=64, width=64))
    counts = []
    for dynamic in (None, export.Sizes(32, 128)):
        export.write(network, asked, tmp_path / "x.onnx", {}, dynamic=dynamic)
        counts.append(traffic.count(tmp_path / "x.onnx", asked.shape))
    static, free = counts
    assert static.macs == free.macs == cost.count(network, asked.shape).macs
    assert free.moved_bytes == pytest.approx(static.moved_bytes, rel=0.01)
