"""Names of nodes, the blocks they tell, and ONNX Runtime's times of them."""

import dataclasses
import tempfile
from pathlib import Path

import builders
import numpy as np
import onnx
import pytest
from torch import nn

from fastvit_bench.backends._onnx import export as onnx_export
from fastvit_bench.backends._onnx.model import block_of
from fastvit_bench.backends.onnxruntime import BACKEND
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.network.reparam import at_level
from fastvit_bench.records import Device, Fuse, GraphVariant, Head, LayerTime, Shape

SHAPE = Shape(batch=2, height=64, width=32)
RUNS = 7


SMALL = dataclasses.replace(VARIANTS["fastvit_sa12"], blocks=(2, 1, 2, 1), channels=(16, 32, 64, 128))


def network(level: Fuse, head: Head = Head.CLASSIFIER) -> nn.Module:
    return at_level(FastViT(SMALL, head=head).double().eval(), level, GraphVariant())


def export(level: Fuse, path: Path, head: Head = Head.CLASSIFIER, **how: str) -> nn.Module:
    found = network(level, head)
    asked = builders.export_job(precision="fp16" if "interface" in how else "fp32", shape=SHAPE)
    onnx_export.write(found, asked, path, {}, **how)
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "small.onnx"
    export(Fuse.FOLDED, path)
    return path


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "head", "how"),
    [
        (Fuse.FOLDED, Head.CLASSIFIER, {"interface": "fp32"}),
        pytest.param(Fuse.FOLDED, Head.DENSE, {}, marks=pytest.mark.slow),
        pytest.param(Fuse.FOLDED, Head.SEGMENTER, {}, marks=pytest.mark.slow),
        pytest.param(Fuse.FUSED, Head.CLASSIFIER, {}, marks=pytest.mark.slow),
        pytest.param(Fuse.NONE, Head.DENSE, {}, marks=pytest.mark.slow),
    ],
)
def test_every_node_is_named_after_its_module(level: Fuse, head: Head, how: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    modules = dict(export(level, path, head, **how).named_modules())
    graph = onnx.load(path).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    for node in graph.node:
        module, _, operator = node.name.rpartition("/")
        assert module in modules
        assert operator.startswith(node.op_type)
    untold = {name.split("_")[0] for name in names if not block_of(name)}
    assert untold <= {"/ReduceMean", "/Cast"}  # what the network itself does, and what is around it
    assert {block_of(name) for name in names} >= {"stem", "stages.0.blocks.1", "stages.2.blocks.1"}
    values = {value for node in graph.node for value in node.output} - {value.name for value in graph.output}
    assert all(value.split(":")[0] in names for value in values)
    assert {tensor.name for tensor in graph.initializer if ".weight" in tensor.name} <= {
        f"{module}.weight" for module in modules
    }
    onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("stem.0/Conv", "stem"),
        ("patch_embed.2.reparam_conv/Conv", "stem"),
        ("network.4.1.mixer/Conv", "stages.2.blocks.1"),
        ("network.4.11.ffn/Add_1", "stages.2.blocks.11"),
        ("network.5.spatial.even/Conv", "stages.3.downsample"),
        ("network.6/Conv", "stages.3.encoding"),
        ("network.6.pe/Conv", "stages.3.encoding"),
        ("network.6.1.mixer/Conv", "stages.3.blocks.1"),
        ("network.7.0.attention/MatMul_1", "stages.3.blocks.0"),
        ("stages.2.blocks.1.mixer/AveragePool", "stages.2.blocks.1"),
        ("stages.3.downsample.across/Conv", "stages.3.downsample"),
        ("stages.3.encoding/Conv", "stages.3.encoding"),
        ("norm/InstanceNormalization", "classifier"),
        ("norms.4/BatchNormalization", "stages.2.norm"),
        ("norm6/BatchNormalization", "stages.3.norm"),
        ("conv_exp.se/Mul", "expansion"),
        ("classifier/Gemm", "classifier"),
        ("head/Gemm", "classifier"),
        # as runtimes join them
        ("network.0.1.ffn.fc2/Conv + network.0.1.ffn/Add", "stages.0.blocks.1"),
        ("network.0.1.ffn.fc1/Conv + PWN(network.0.1.ffn/Gelu)", "stages.0.blocks.1"),
        ("network.2.0.ffn/Add + network.2.1.mixer/Conv", "stages.1"),
        ("network.2.1.ffn/Add + network.3.spatial/Conv", ""),
        ("network.2.1.ffn/Add + norms.2/BatchNormalization", "stages.1"),
        ("{ForeignNode[network.7.0.attention.qkv.weight + /Cast...network.7.0.ffn/Add]}", "stages.3.blocks.0"),
        ("{ForeignNode[stem.0/Conv...classifier/Gemm]}", ""),
        ("Reformatting CopyNode for Input Tensor 0 to network.1.across/Conv", "stages.1.downsample"),
        ("network.7.0.attention/MatMul/MatmulTransposeFusion/", "stages.3.blocks.0"),
        ("InsertedPrecisionFreeCast_stem.0/Conv_nchwc", "stem"),
        # what tells none
        ("/ReduceMean", ""),
        ("ReorderOutput_token_160", ""),
        ("__myl_MulSum_myl0_3", ""),
        ("network/Add", ""),
        ("", ""),
    ],
)
def test_the_block_is_told_by_the_name(name: str, block: str) -> None:
    assert block_of(name) == block


# --- ONNX Runtime's profile -------------------------------------------------------------------------------------------


def profile(path: Path) -> tuple[LayerTime, ...]:
    device = Device(name="cpu", backend="onnxruntime", options={"threads": 1})
    return BACKEND.profile(path, device, np.zeros(SHAPE.nchw, np.float32), RUNS)


@pytest.mark.slow
def test_every_layer_has_a_time_and_nothing_is_left_behind(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = profile(written)
    assert list(tmp_path.iterdir()) == []
    assert all(layer.median_ns > 0 and layer.median_ns % 500 == 0 for layer in found)  # whole microseconds, or between
    assert {"Gelu", "Gemm", "Softmax"} <= {layer.kind for layer in found}
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(written).graph.node)
    assert sum(layer.kind == "Conv" and layer.block != "" for layer in found) == convolutions
    blocks = list(dict.fromkeys(layer.block for layer in found if layer.block))
    assert blocks[:3] == ["stem", "stages.0.blocks.0", "stages.0.blocks.1"]  # in the order they run
    assert blocks[-2:] == ["expansion", "classifier"]


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_has_no_profile(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UnavailableError, match=r"cannot load broken\.onnx"):
        profile(path)
    device = Device(name="cpu", backend="onnxruntime", options={"threads": 1})
    with pytest.raises(UsageError, match=r"not \[1, 3, 32, 32\]"):
        BACKEND.profile(written, device, np.zeros((1, 3, 32, 32), np.float32), RUNS)


def test_on_a_gpu_there_is_no_profile(written: Path) -> None:
    device = Device(name="gpu", backend="onnxruntime", options={"provider": "cuda"})
    with pytest.raises(UsageError, match="on the processor only; leave --profile out"):
        BACKEND.profile(written, device, np.zeros(SHAPE.nchw, np.float32), RUNS)
