"""ONNX files that take several sizes: what is in them, what they compute at each, and what their engines are told."""

import dataclasses
from pathlib import Path

import builders
import msgspec
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from fastvit_bench.backends._nvidia import engines
from fastvit_bench.backends._onnx import export
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends._onnx.model import block_of
from fastvit_bench.backends.tensorrt import BACKEND
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.network import factory
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.random_weights import randomise
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.network.reparam import at_level
from fastvit_bench.records import Device, ExportJob, Fuse, GraphVariant, Head, Shape

SMALL = dataclasses.replace(VARIANTS["fastvit_sa12"], blocks=(1, 1, 1, 2), channels=(16, 32, 64, 128))
OWN = Shape(batch=2, height=96, width=64)
RANGE = export.Sizes(32, 128)


def made(head: Head = Head.CLASSIFIER) -> FastViT:
    network = FastViT(SMALL, head=head, classes=10)
    randomise(network, 0)
    return network.double().eval()


def write(network: nn.Module, path: Path, own: Shape = OWN, dynamic: export.Sizes | None = RANGE, **how: str) -> None:
    asked = builders.export_job(precision="fp16", shape=own)
    export.write(network, asked, path, {"fastvit_bench.resolution": own.size}, dynamic=dynamic, **how)


def folded(reference: FastViT) -> nn.Module:
    return at_level(reference, Fuse.FOLDED, GraphVariant(doubling="grouped"))


@pytest.fixture(scope="module")
def reference() -> FastViT:
    return made()


@pytest.fixture(scope="module")
def written(reference: FastViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "x.trt.onnx"
    write(folded(reference), path, interface="fp32")
    return path


def sizes_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def kinds(path: Path) -> dict[str, int]:
    return onnx_model.operations(path)


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (32, 128),
        (96, 64),
        *(pytest.param(*size, marks=pytest.mark.slow) for size in ((32, 32), (128, 128), (160, 64))),
    ],
)
def test_one_file_computes_at_every_size_what_the_network_does(
    reference: FastViT, written: Path, height: int, width: int
) -> None:
    shape = Shape(batch=2, height=height, width=width)
    with onnx_session.as_typed(written, 1) as session:
        found = verification.prove(
            verification.reference_outputs(factory.of(reference), shape), session, "fp16", random=True
        )
    assert found.passed, found.reason


@pytest.mark.slow
def test_free_sizes_have_names_and_cost_three_nodes(reference: FastViT, written: Path, tmp_path: Path) -> None:
    model = onnx.load(written)
    assert sizes_of(model.graph.input[0]) == [2, 3, "height", "width"]
    assert sizes_of(model.graph.output[0]) == [2, 10]
    assert onnx_model.islands(model) == []
    static = tmp_path / "static.onnx"
    write(folded(reference), static, dynamic=None, interface="fp32")
    more = {kind: count - kinds(static).get(kind, 0) for kind, count in kinds(written).items()}
    assert {kind: count for kind, count in more.items() if count} == {"Shape": 2, "Concat": 1}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {name.split("_")[0] for name in names if not block_of(name)} == {"/Cast", "/ReduceMean"}


@pytest.mark.slow
def test_a_dense_network_hands_out_maps_of_every_size(tmp_path: Path) -> None:
    reference, path = made(Head.DENSE), tmp_path / "x.onnx"
    write(folded(reference), path)
    graph = onnx.load(path).graph
    assert [sizes_of(value)[2:] for value in graph.output] == [
        [f"height/{stride}", f"width/{stride}"] for stride in (4, 8, 16, 32)
    ]
    with onnx_session.as_typed(path, 1) as session:
        for shape in (OWN, Shape(batch=2, height=32, width=64)):  # one session takes both
            found = verification.prove(
                verification.reference_outputs(factory.of(reference), shape), session, "fp16", random=True
            )
            assert found.passed, found.reason


@pytest.mark.slow
@pytest.mark.parametrize("level", [Fuse.NONE, Fuse.FUSED])
def test_the_other_forms_take_every_size_too(level: Fuse, reference: FastViT, tmp_path: Path) -> None:
    path, shape = tmp_path / "x.onnx", Shape(batch=2, height=64, width=32)
    write(at_level(reference, level), path)
    with onnx_session.as_typed(path, 1) as session:
        assert verification.prove(
            verification.reference_outputs(factory.of(reference), shape), session, "fp16", random=True
        ).passed


@pytest.mark.slow
def test_the_graph_does_not_depend_on_the_size_it_is_made_for(reference: FastViT, tmp_path: Path) -> None:
    graphs: set[bytes] = set()
    for own, dynamic in ((OWN, RANGE), (Shape(batch=2, height=32, width=32), export.Sizes(32, 64))):
        path = tmp_path / "x.onnx"
        write(folded(reference), path, own, dynamic)
        graphs.add(onnx.load(path).graph.SerializeToString(deterministic=True))
    assert len(graphs) == 1


@pytest.mark.slow
def test_another_batch_or_number_of_channels_is_refused(written: Path) -> None:
    with onnx_session.as_typed(written, 1) as session:
        for shape in ((1, 3, 96, 64), (2, 4, 96, 64), (2, 3, 96), (2, 3, 96, 64, 1)):
            with pytest.raises(UsageError, match="The model takes image"):
                session.set_input(torch.zeros(shape).numpy())


@pytest.mark.slow
def test_the_shape_it_was_made_for_stands_in_its_metadata(written: Path, tmp_path: Path) -> None:
    assert onnx_model.shape_of(written) == OWN
    model = onnx.load(written)
    del model.metadata_props[:]
    path = tmp_path / "x.onnx"
    onnx.save(model, path)
    with pytest.raises(UnavailableError, match=r"x\.onnx does not say for which size"):
        onnx_model.shape_of(path)
    square = Shape(batch=2, height=64, width=64)
    onnx.helper.set_model_props(model, {"fastvit_bench.resolution": square.size})
    onnx.save(model, path)
    assert onnx_model.shape_of(path) == square


def test_a_size_outside_is_refused(reference: FastViT, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"A file for 32\.\.128 does not take 160x64"):
        write(reference, tmp_path / "x.onnx", Shape(batch=2, height=160, width=64))
    assert list(tmp_path.iterdir()) == []


def test_asking_for_a_shape_is_no_arithmetic(written: Path) -> None:
    model = onnx.load(written)
    model.graph.node.insert(0, helper.make_node("Shape", ["image"], ["sizes"], "sizes"))
    assert onnx_model.islands(model) == []
    model.graph.node.insert(0, helper.make_node("Neg", ["image"], ["negative"], "negative"))
    assert onnx_model.islands(model) == ["float32 node Neg negative"]


# --- the option -------------------------------------------------------------------------------------------------------


def device(dynamic: object) -> Device:
    return Device(name="x", backend="tensorrt", precision="fp16", options={"dynamic": dynamic})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("224", "must be two sizes in pixels, such as 224..1024"),
        ("224..", "must be two sizes"),
        ("..1024", "must be two sizes"),
        ("224..1024:32", "must be two sizes"),
        (True, "must be two sizes"),
        ("224..1000", "1000 is not a multiple of 32"),
        ("0..64", "0 is below 32 pixels"),
        ("256..256", "must begin below its end"),
        ("512..256", "must begin below its end"),
    ],
)
def test_a_range_is_two_sizes(value: object, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        BACKEND.options(device(value))
    assert str(caught.value).startswith("Device 'x': dynamic = ")
    assert "\n" not in str(caught.value)


def test_without_a_range_files_and_engines_take_one_shape(written: Path) -> None:
    bare = Device(name="x", backend="tensorrt", precision="fp16")
    options = BACKEND.options(bare)
    assert options["dynamic"] == ""
    static = msgspec.structs.replace(bare, options=options)
    assert "profile" not in engines.settings_of(written, static)
    dynamic = msgspec.structs.replace(static, options=BACKEND.options(device("64..128")))
    assert engines.settings_of(written, dynamic)["profile"] == "2x3x64x64..2x3x96x64..2x3x128x128"


@pytest.mark.parametrize(
    ("own", "names"),
    [(OWN, ["64x64", "96x64", "128x128"]), (Shape(batch=2, height=64, width=64), ["64x64", "128x128"])],
)
def test_the_proof_looks_at_both_ends_and_between(written: Path, own: Shape, names: list[str]) -> None:
    asked: ExportJob = builders.export_job(precision="fp16", shape=own, options={"dynamic": "64..128"})
    looks = list(BACKEND.verification_sessions(written, asked))
    assert [look.name for look in looks] == names
    assert [f"{look.shape.height}x{look.shape.width}" for look in looks] == names
    assert own in [look.shape for look in looks]
