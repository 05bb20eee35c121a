"""Heads on four maps: what the paper counts of them, shapes, folding, and their exports."""

import copy
import csv
from functools import cache
from pathlib import Path

import builders
import pytest
import torch
from torch import nn

from fastvit_bench.backends import output_names
from fastvit_bench.backends._onnx import export
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.errors import CheckpointError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline, verification
from fastvit_bench.network import checkpoint, cost, factory, heads, reparam
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.folded import FoldedFastViT
from fastvit_bench.network.random_weights import randomise
from fastvit_bench.network.registry import VARIANTS, Mixer, Variant
from fastvit_bench.records import Artifact, Device, Fuse, Head, ModelSpec, Shape

SMALL = Variant((1, 1, 1, 1), (32, 64, 128, 256), 2, Mixer.ATTENTION, 0.0)
PAPER = Path(__file__).parents[2] / "results" / "published" / "paper_tables.csv"
ON_MAPS = (Head.SEGMENTER, Head.DETECTOR)


def square(size: int) -> Shape:
    return Shape(batch=1, height=size, width=size)


def small(head: Head) -> FastViT:
    return copy.deepcopy(_small(head))


@cache
def _small(head: Head) -> FastViT:
    network = FastViT(SMALL, head=head).double().eval()
    randomise(network, 3, (64, 64))
    return network


# --- counts -----------------------------------------------------------------------------------------------------------


@cache
def printed(table: str) -> dict[tuple[str, str], float]:
    """(Model, column) -> value of a table of the paper."""
    with PAPER.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == table]
    columns = {"params", "flops", "params_with_head", "flops_512"}
    return {(row["model"], row["column"]): float(row["value"]) for row in rows if row["column"] in columns}


def counted(name: str, head: Head, size: int, level: Fuse = Fuse.FUSED) -> tuple[float, float]:
    """10^6 parameters and 10^9 multiply-accumulates."""
    found = cost.count(factory.skeleton(name, head, 1000, level, square(size)), square(size))
    return found.params / 1e6, found.macs / 1e9


DEEPER = ("timm:mobileone_s0", "timm:resnet50")
ATTENTION = {"fastvit_sa12": "SA12", "fastvit_sa24": "SA24", "fastvit_sa36": "SA36", "fastvit_ma36": "MA36"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "fastvit_sa12" else pytest.mark.slow) for name in ATTENTION]
)
def test_the_paper_segments_with_the_fourth_stage(name: str) -> None:
    """Table 9's FLOPs are those of four stages, and it adds to table 5's parameters what counts here."""
    row = f"FastViT-{ATTENTION[name]}"
    params, gmacs = counted(name, Head.SEGMENTER, 512)
    assert gmacs == pytest.approx(printed("table9_ade20k")[row, "flops_512"], abs=0.5)
    classifier, _ = counted(name, Head.CLASSIFIER, 256)
    more = printed("table9_ade20k")[row, "params_with_head"] - printed("table5_imagenet")[f"{row}@256", "params"]
    assert params - classifier == pytest.approx(more, abs=0.12)  # of two figures with one digit
    stages, dense = (counted(name, head, 512, Fuse.FOLDED) for head in (Head.STAGES, Head.DENSE))
    assert gmacs - (stages[1] - dense[1]) < printed("table9_ade20k")[row, "flops_512"] - 1
    assert params - (stages[0] - dense[0]) < printed("table9_ade20k")[row, "params_with_head"] - 5


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("arch", "row", "flops"),
    [
        ("resnet50", "ResNet-50", 44.3),  # printed is 46, counted with everything beside convolutions
        ("poolformer_s12", "PoolFormer-S12", 30.9),
        pytest.param("resnet101", "ResNet-101", 63.7, marks=pytest.mark.slow),
        pytest.param("poolformer_s36", "PoolFormer-S36", 47.4, marks=pytest.mark.slow),
        pytest.param("poolformer_m36", "PoolFormer-M36", 67.4, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_head_of_the_others_in_the_table(arch: str, row: str, flops: float) -> None:
    params, gmacs = counted(f"timm:{arch}", Head.SEGMENTER, 512)
    assert params == pytest.approx(printed("table9_ade20k")[row, "params_with_head"], abs=0.05)
    assert gmacs == pytest.approx(flops, abs=0.05)
    assert gmacs == pytest.approx(printed("table9_ade20k")[row, "flops_512"], rel=0.04)


def test_the_pyramid_and_the_proposals_have_the_sizes_of_their_papers() -> None:
    with torch.device("meta"):
        head = heads.RegionProposals((256, 512, 1024, 2048))
    # ResNet's: 1 x 1 of 3840 channels, four 3 x 3; shared 3 x 3, three scores and twelve deltas
    pyramid = (3840 + 4) * 256 + 4 * (256 * 9 + 1) * 256
    assert sum(p.numel() for p in head.parameters()) == pyramid + (256 * 9 + 1) * 256 + (256 + 1) * 15


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", Fuse)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32)])
def test_outputs_have_the_strides_of_the_maps(level: Fuse, height: int, width: int) -> None:
    images = torch.zeros(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        (scores,) = (reparam.at_level(small(Head.SEGMENTER), level)(images),)
        regions = reparam.at_level(small(Head.DETECTOR), level)(images)
        maps = reparam.at_level(small(Head.STAGES), level)(images)
    assert scores.shape == (2, 150, height // 4, width // 4)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32, 64)]
    assert [tuple(each.shape) for each in regions] == [(2, 3, *size) for size in sizes] + [
        (2, 12, *size) for size in sizes
    ]
    assert [tuple(each.shape) for each in maps] == [
        (2, channels, *size) for channels, size in zip(SMALL.channels, sizes, strict=False)
    ]


def test_outputs_have_names() -> None:
    assert output_names(1) == ["logits"]
    assert output_names(4) == ["feature0", "feature1", "feature2", "feature3"]
    levels = ("p2", "p3", "p4", "p5", "p6")
    assert output_names(10) == [*(f"objectness_{each}" for each in levels), *(f"deltas_{each}" for each in levels)]


def test_only_the_published_dense_network_leaves_attention_out() -> None:
    """What stage 4 holds changes the last map of one and not of the other."""
    for head, changes in ((Head.DENSE, False), (Head.STAGES, True)):
        network = small(head)
        images = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before = network(images)
            network.get_parameter("network.7.0.layer_scale_2").mul_(2)
            after = network(images)
        assert [bool((a != b).any()) for a, b in zip(before, after, strict=True)] == [False] * 3 + [changes]


def test_where_there_is_no_encoding_both_are_the_same_network() -> None:
    plain = Variant((1, 1, 1, 1), (32, 64, 128, 256), 2, Mixer.REPMIXER, 0.0)
    dense, stages = (FastViT(plain, head=head) for head in (Head.DENSE, Head.STAGES))
    stages.load_state_dict(dense.state_dict(), strict=True)


# --- folding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ON_MAPS)
def test_folding_is_exact_and_leaves_no_norm(head: Head) -> None:
    network = small(head)
    for level in Fuse:
        assert verification.difference(network, reparam.at_level(network, level), square(64)) < 1e-9
    assert reparam.count_norms(reparam.fold(network)) == 0


@pytest.mark.parametrize(
    ("head", "leaf"),
    [
        (Head.SEGMENTER, "fpn.laterals.3"),
        (Head.SEGMENTER, "paths.2.0.conv"),
        (Head.SEGMENTER, "classifier"),
        (Head.DETECTOR, "fpn.outputs.0"),
        (Head.DETECTOR, "shared.conv"),
        (Head.DETECTOR, "deltas"),
    ],
)
def test_a_convolution_that_is_folded_wrongly_shows(head: Head, leaf: str) -> None:
    network = small(head)
    result = reparam.fold(network)
    conv = result.dense_head.get_submodule(leaf)
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        assert conv.bias is not None
        conv.bias[0] += 1e-3
    assert verification.difference(network, result, square(64)) > 1e-7


def test_norms_that_are_not_taken_in_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(Head.SEGMENTER)
    good = reparam._fold_head  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(reparam, "_fold_head", lambda target, source, norms=(): good(target, source))
    assert verification.difference(network, reparam.fold(network), square(64)) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("head", [*ON_MAPS, Head.STAGES])
@pytest.mark.parametrize("name", ["timm:resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in DEEPER)])
def test_peers_carry_the_same_heads(name: str, head: Head) -> None:
    reference = factory.random(name, head, 1000, 0, square(64))
    assert reference.head is head
    for level in Fuse:
        found = factory.at_level(name, reference, level)
        assert verification.difference(reference.network, found, square(64)) < 1e-9
        assert not any(isinstance(module, heads.ConvNormReLU) for module in found.modules()) or level is not Fuse.FOLDED


@pytest.mark.usefixtures("timm")
def test_a_size_that_does_not_divide_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"timm:resnet18 with fpn-rpn takes images.*multiples of 32, not 72x64"):
        factory.random("timm:resnet18", Head.DETECTOR, 1000, 0, Shape(batch=1, height=72, width=64))


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("asked", [Head.STAGES, *ON_MAPS])
def test_a_published_dense_checkpoint_is_that_and_nothing_else(asked: Head, tmp_path: Path) -> None:
    network = FastViT(VARIANTS["fastvit_t8"], head=Head.DENSE)
    path = tmp_path / "dense.pth"
    torch.save(network.state_dict(), path)
    assert checkpoint.load(path, variant="fastvit_t8").head is Head.DENSE
    with pytest.raises(CheckpointError, match=f"holds fastvit_t8 .dense, unfused., but head {asked} was asked for"):
        checkpoint.load(path, head=asked)
    spec = ModelSpec(name="x", variant="fastvit_t8", head=asked, checkpoint=str(path))
    with pytest.raises(CheckpointError, match=f"head {asked} was asked for"):
        checkpoints.check_checkpoint(spec)


# --- exports ----------------------------------------------------------------------------------------------------------


def made(head: Head, folder: Path, variant: str = "fastvit_t8", size: int = 64, **device: str) -> Artifact:
    spec = ModelSpec(name="net", variant=variant, head=head)
    target = Device(**({"name": "cpu", "backend": "onnxruntime"} | device))
    return pipeline.export(
        pipeline.job(spec, checkpoints.weights_of(spec, 0), square(size), Fuse.FOLDED, target, folder=folder)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("head", [Head.STAGES, *(pytest.param(head, marks=pytest.mark.slow) for head in ON_MAPS)])
def test_a_file_computes_what_the_network_does(head: Head, tmp_path: Path) -> None:
    found = made(head, tmp_path)
    assert found.head is head
    assert found.parity is not None
    assert found.parity.passed
    assert found.parity.relative_error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "head"),
    [
        *((name, Head.STAGES) for name in VARIANTS if name != "fastvit_t8"),
        *((name, head) for name in ("fastvit_sa12", "fastvit_ma36") for head in ON_MAPS),  # with attention and widest
    ],
)
def test_so_does_that_of_every_variant(variant: str, head: Head, tmp_path: Path) -> None:
    found = made(head, tmp_path, variant)
    assert found.parity is not None
    assert found.parity.passed


@pytest.mark.slow
@pytest.mark.parametrize("head", ON_MAPS)
def test_in_half_precision_too(head: Head, tmp_path: Path) -> None:
    # at 64 pixels the last level is one position, whose three numbers have no spread to speak of
    found = made(head, tmp_path, size=128, backend="tensorrt", precision="fp16")
    assert found.parity is not None
    assert found.parity.passed


@pytest.mark.slow
@pytest.mark.parametrize("head", ON_MAPS)
def test_a_package_for_core_ml_computes_what_the_network_does(head: Head, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    found = made(head, tmp_path, backend="coreml", precision="fp32")
    assert found.parity is not None
    assert found.parity.passed
    assert found.operations["upsample_nearest_neighbor"] == 3
    assert "batch_norm" not in found.operations


@pytest.mark.slow
@pytest.mark.parametrize("head", ON_MAPS)
def test_one_file_for_every_size(head: Head, tmp_path: Path) -> None:
    network, path = small(head), tmp_path / "x.onnx"
    job = builders.export_job(shape=square(64))
    export.write(reparam.fold(network), job, path, {}, dynamic=export.Sizes(32, 128))
    with onnx_session.as_typed(path, 1) as session:
        for height, width in ((64, 64), (96, 32)):
            shape = Shape(batch=1, height=height, width=width)
            found = verification.prove(verification.reference_outputs(factory.of(network), shape), session, "fp32")
            assert found.passed, found.reason


def test_the_skeleton_is_the_network_that_is_folded() -> None:
    for head in (Head.STAGES, *ON_MAPS):
        folded = reparam.fold(small(head))
        bare = FoldedFastViT(SMALL, head=head, classes=1000)
        assert {name: p.shape for name, p in folded.named_parameters()} == {
            name: p.shape for name, p in bare.named_parameters()
        }
