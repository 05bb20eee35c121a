"""Networks of other papers become proved files like any other, by the same way."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch

from fastvit_bench.backends._onnx import export
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends._onnx.model import block_of
from fastvit_bench.errors import ParityError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.network import factory
from fastvit_bench.network.peers import cmt, litv2, parts
from fastvit_bench.records import Artifact, Device, ExportJob, Fuse, Head, ModelSpec, Shape

SMALL_CMT = cmt.CMTDesign(8, (8, 16, 24, 32), (1, 1, 1, 1), 3.6)
SMALL_LITV2 = litv2.LITDesign(32, (1, 1, 1, 1))


def asked(folder: Path, name: str, size: tuple[int, int], **changes: object) -> ExportJob:
    spec = ModelSpec(name=name, variant=name)
    device = Device(name="here", backend="onnxruntime")
    shape = Shape(batch=1, height=size[0], width=size[1])
    job = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=folder)
    return msgspec.structs.replace(job, **changes)


def nodes(artifact: Artifact, folder: Path) -> list[str]:
    return [node.name for node in onnx.load(folder / artifact.model / artifact.path).graph.node]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under two of the names are networks that take a moment to export, of every kind of block."""
    monkeypatch.setitem(cmt.DESIGNS, "cmt_ti", SMALL_CMT)
    monkeypatch.setitem(litv2.DESIGNS, "litv2_s", SMALL_LITV2)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("head", [Head.CLASSIFIER, pytest.param(Head.DENSE, marks=pytest.mark.slow)])
def test_cmt_becomes_a_proved_file(head: Head, tmp_path: Path) -> None:
    artifact = pipeline.export(asked(tmp_path, "cmt_ti", (32, 64), head=head))
    assert artifact.parity is not None
    assert artifact.parity.passed
    names = nodes(artifact, tmp_path)
    assert {"Conv", "Gelu", "LayerNormalization", "Softmax"} < artifact.operations.keys()
    assert {name for name in names if not block_of(name)} <= {"/ReduceMean"}
    assert {"stem", "stages.1.downsample", "stages.3.blocks.0"} <= {block_of(name) for name in names}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_litv2_becomes_a_proved_file_without_a_deformable_convolution(tmp_path: Path) -> None:
    artifact = pipeline.export(asked(tmp_path, "litv2_s", (64, 96)))
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert artifact.operations["GridSample"] == 3
    assert "DeformConv" not in artifact.operations
    assert {name for name in nodes(artifact, tmp_path) if not block_of(name)} <= {"/ReduceMean"}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_norms_of_a_dense_peer_are_told_apart(tmp_path: Path) -> None:
    artifact = pipeline.export(asked(tmp_path, "litv2_s", (64, 64), head=Head.DENSE))
    assert {f"stages.{stage}.norm" for stage in range(4)} < {block_of(n) for n in nodes(artifact, tmp_path)}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_peer_that_lost_its_position_bias_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts.MIXES, "batched", lambda q, k, v, heads, bias: parts.batched(q, k, v, heads))
    with pytest.raises(ParityError, match="largest error"):
        pipeline.export(asked(tmp_path, "cmt_ti", (64, 64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cmt_ti", "litv2_s"])
def test_a_size_that_does_not_divide_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="32"):
        pipeline.export(asked(tmp_path, name, (64, 80)))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_litv2_in_one_file_for_several_sizes(tmp_path: Path) -> None:
    shape, path = Shape(batch=1, height=64, width=64), tmp_path / "x.onnx"
    reference = factory.random("litv2_s", Head.CLASSIFIER, 10, 0, shape)
    network = factory.at_level("litv2_s", reference, Fuse.FOLDED)
    asked_for = asked(tmp_path, "litv2_s", (64, 64))
    export.write(network, asked_for, path, {}, dynamic=export.Sizes(64, 128))
    for sides in ((64, 64), (96, 128)):
        x = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(0))
        with onnx_session.on_processor(path, 1) as session, torch.no_grad():
            session.set_input(x.numpy())
            session.run()
            (ours,) = session.get_output().values()
            wanted = reference.network(x.double()).numpy()
        assert np.abs(ours - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "precision"),
    [
        *((name, size, "fp32") for name, size in (("cmt_ti", 160), ("litv2_s", 224))),  # the smallest of each family
        # in FP16 the deepest too, whose sums grow most
        *((name, size, "fp16") for name, size in (("cmt_ti", 160), ("cmt_b", 256), ("litv2_b", 224))),
    ],
)
def test_peers_of_full_size_become_proved_files(name: str, size: int, precision: str, tmp_path: Path) -> None:
    artifact = pipeline.export(asked(tmp_path, name, (size, size), precision=precision))
    assert artifact.parity is not None
    assert artifact.parity.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cmt_ti", "litv2_s"])
@pytest.mark.usefixtures("small")
def test_peers_become_proved_packages_of_core_ml(name: str, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    spec = ModelSpec(name=name, variant=name)
    device = Device(name="phone", backend="coreml", precision="fp16")
    shape = Shape(batch=1, height=64, width=64)
    job = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=tmp_path)
    artifact = pipeline.export(job)
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert ("resample" in artifact.operations) is (name == "litv2_s")
