"""TensorRT-RTX: NVIDIA's parser and builder on every variant, without a GPU. Skipped where it is not installed."""

from pathlib import Path
from typing import Any

import builders
import msgspec
import onnx
import pytest
from fakes import nvidia

from fastvit_bench import backends, install
from fastvit_bench.backends._nvidia import engines
from fastvit_bench.backends._onnx import export
from fastvit_bench.backends.tensorrt_rtx import BACKEND
from fastvit_bench.errors import ChecksumError, MismatchError, UnavailableError, UsageError
from fastvit_bench.exporting import checkpoints, metadata, pipeline
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import Device, Engine, ExportJob, Fuse, Head, ModelSpec, Shape

installed = pytest.mark.skipif(BACKEND.unavailable_reason() is not None, reason=str(BACKEND.unavailable_reason()))


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every machine the same: there is none."""
    nvidia.install_driver(monkeypatch, None)


def job(
    folder: Path, variant: str = "fastvit_t8", head: Head = Head.CLASSIFIER, size: int = 32, **changes: Any
) -> ExportJob:
    spec = ModelSpec(name=variant, variant=variant, head=head)
    device = Device(name="x", backend="tensorrt-rtx", **({"precision": "fp16", "batch": 2} | changes))
    shape = Shape(batch=2, height=size, width=size)
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=folder)


def built(asked: ExportJob) -> Engine:
    """The notes of a file's engine, after it was built."""
    BACKEND.engines.build(Path(asked.path), asked.device)
    return engines.read_metadata(engine_of(asked))


def engine_of(asked: ExportJob) -> Path:
    return Path(asked.path).with_suffix("")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportJob:
    """FastViT-T8, proved and without an engine; read only."""
    asked = job(tmp_path_factory.mktemp("rtx"))
    pipeline.export(asked)
    return asked


@pytest.fixture
def asked(exported: ExportJob, tmp_path: Path) -> ExportJob:
    """The same file in a folder of its own."""
    source = Path(exported.path)
    for path in (source, metadata.metadata_path(source), metadata.reference_outputs_path(source)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return msgspec.structs.replace(exported, path=str(tmp_path / source.name))


def other(asked: ExportJob, **options: Any) -> ExportJob:
    """The same on a device with other options."""
    device = msgspec.structs.replace(asked.device, options={**asked.device.options, **options})
    return msgspec.structs.replace(asked, device=device)


# --- building ---------------------------------------------------------------------------------------------------------

LONG = pytest.mark.slow
QUICK = {("fastvit_t8", Head.CLASSIFIER), ("fastvit_sa12", Head.CLASSIFIER)}
NETWORKS = [*((variant, Head.CLASSIFIER) for variant in VARIANTS), ("fastvit_sa12", Head.DENSE)]


@pytest.mark.slow
@installed
@pytest.mark.parametrize(
    ("variant", "head"), [pytest.param(*each, marks=() if each in QUICK else LONG) for each in NETWORKS]
)
def test_every_variant_builds_for_turing(variant: str, head: Head, tmp_path: Path) -> None:
    asked = job(tmp_path, variant, head, size=64)
    artifact = pipeline.export(asked)
    path = Path(asked.path)
    assert (artifact.backend, backends.of_file(path)) == ("tensorrt-rtx", BACKEND)
    known = built(asked)
    assert engine_of(asked).suffix == ".rtx"
    assert (known.toolkit, known.card.compute_capability, known.card.name) == ("tensorrt-rtx", "7.5", "")
    assert known.warnings == ()
    assert known.inputs == {"image": "HALF 2x3x64x64"}
    assert set(known.outputs.values()) <= {"HALF 2x1000"} or head is Head.DENSE
    assert "CAST" not in known.layers
    assert known.parity is None  # nothing has run it


@installed
@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_for_several_sizes(variant: str, tmp_path: Path) -> None:
    asked = job(tmp_path, variant, size=64, options={"dynamic": "32..96"})
    assert sorted(pipeline.export(asked).proofs) == ["32x32", "64x64", "96x96"]
    assert built(asked).inputs == {"image": "HALF 2x3x-1x-1"}


@pytest.mark.slow
@installed
def test_an_engine_of_several_sizes_says_which(tmp_path: Path) -> None:
    asked = job(tmp_path, "fastvit_sa12", size=64, options={"dynamic": "32..96", "io": "fp32"})
    artifact = pipeline.export(asked)
    assert artifact.options["dynamic"] == "32..96"
    assert sorted(artifact.proofs) == ["32x32", "64x64", "96x96"]
    known = built(asked)
    assert known.settings["profile"] == "2x3x32x32..2x3x64x64..2x3x96x96"
    assert (known.inputs, known.outputs) == ({"image": "FLOAT 2x3x-1x-1"}, {"logits": "FLOAT 2x1000"})
    assert known.warnings == ()
    engine = engine_of(asked).stat().st_mtime_ns
    assert built(asked) == known
    assert engine_of(asked).stat().st_mtime_ns == engine


@installed
@pytest.mark.parametrize("profile", ["2x3x64x64..2x3x32x32..2x3x96x96", "1x3x32x32..1x3x32x32..1x3x96x96"])
def test_shapes_that_do_not_fit_are_one_sentence(profile: str, tmp_path: Path) -> None:
    path, place = tmp_path / "x.rtx.onnx", BACKEND.engine(tmp_path / "x.rtx.onnx", job(tmp_path).device)[1]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["image"], ["logits"])],
        "relu",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT16, [2, 3, "height", "width"])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT16, [2, 3, "height", "width"])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", export.OPSET)]), path)
    settings = {"optimization_level": "3", "workspace_mib": "0", "profile": profile}
    with pytest.raises(UnavailableError, match=r"refuses the shapes|cannot build an engine") as caught:
        BACKEND.make(path, tmp_path / "x.rtx", place, settings)
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@installed
def test_single_precision_outside_and_other_cards(tmp_path: Path) -> None:
    asked = job(tmp_path, options={"io": "fp32", "compute_capability": "8.9"})
    pipeline.export(asked)
    known = built(asked)
    assert known.card.compute_capability == "8.9"
    assert known.inputs == {"image": "FLOAT 2x3x32x32"}
    assert known.layers["CAST"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@installed
@pytest.mark.parametrize("interface", ["fp16", "fp32"])
def test_nvidias_builder_takes_8_bit_pixels(interface: str, tmp_path: Path) -> None:
    asked = job(tmp_path, size=64, options={"input": "image", "io": interface})
    assert pipeline.export(asked).parity is not None
    known = built(asked)
    outputs = {"fp16": "HALF 2x1000", "fp32": "FLOAT 2x1000"}[interface]
    assert (known.inputs, known.outputs) == ({"image": "UINT8 2x64x64x3"}, {"logits": outputs})
    assert known.layers["CAST"] == (1 if interface == "fp16" else 2)  # of the pixels, and of the outputs
    assert known.warnings == ()


@pytest.mark.slow
@installed
def test_an_engine_that_fits_is_kept_and_another_replaced(asked: ExportJob) -> None:
    known, engine = built(asked), engine_of(asked)
    written = engine.stat().st_mtime_ns
    assert built(asked) == known
    assert engine.stat().st_mtime_ns == written
    engine.write_bytes(engine.read_bytes()[:-1])
    assert built(asked).size_bytes == engine.stat().st_size == known.size_bytes
    assert built(other(asked, optimization_level=1)).settings["optimization_level"] == "1"


@pytest.mark.slow
@installed
def test_what_it_was_found_to_compute_is_put_beside_it(asked: ExportJob) -> None:
    known, parity = built(asked), builders.parity()
    BACKEND.engines.note(Path(asked.path), asked.device, parity)
    assert engines.read_metadata(engine_of(asked)) == msgspec.structs.replace(known, parity=parity)


@pytest.mark.slow
@installed
def test_where_nothing_can_run_it_there_is_an_engine_and_no_proof_of_it(asked: ExportJob) -> None:
    assert BACKEND.engines.lacking(asked.device) is None  # of building, which needs no GPU
    assert nvidia.NO_DRIVER in str(BACKEND.device_unavailable_reason(asked.device))
    assert pipeline.build_engine(asked).parity is None
    assert engines.read_metadata(engine_of(asked)).parity is None


# --- refused ----------------------------------------------------------------------------------------------------------


def refused(asked: ExportJob, said: str) -> None:
    """Building the engine of a proved file is refused in one sentence, and leaves nothing."""
    with pytest.raises(UnavailableError, match=said) as caught:
        built(asked)
    assert "\n" not in str(caught.value)
    assert not engine_of(asked).exists()
    assert not engines.metadata_path(engine_of(asked)).exists()
    assert not list(Path(asked.path).parent.glob(".*"))


@pytest.mark.slow
@installed
def test_what_it_does_not_build_for_is_one_sentence(asked: ExportJob) -> None:
    refused(other(asked, compute_capability="9.0"), r"does not build for compute capability 9\.0; it builds for .*7\.5")


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@installed
def test_what_turing_does_not_have_is_one_sentence(tmp_path: Path) -> None:
    asked = job(tmp_path, precision="fp32")
    pipeline.export(asked)
    refused(asked, r"cannot build an engine of .* for compute capability 7\.5: .*FP32 GEMM")
    assert pipeline.cached(asked) is not None  # the file itself is proved


@installed
def test_a_file_its_parser_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    asked = job(tmp_path, precision="fp32")
    Path(asked.path).parent.mkdir()
    Path(asked.path).write_bytes(b"no model")
    refused(asked, r"cannot parse fastvit_t8_32_.*\.rtx\.onnx: ")


@installed
def test_a_file_that_is_not_float16_throughout_is_not_built(asked: ExportJob) -> None:
    model = onnx.load(asked.path)
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    wide = [
        onnx.helper.make_node("Cast", [node.input[0]], ["wide_in"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Gelu", ["wide_in"], ["wide_out"], "island"),
        onnx.helper.make_node("Cast", ["wide_out"], [node.output[0]], to=onnx.TensorProto.FLOAT16),
    ]
    at = list(model.graph.node).index(node)
    nodes = [*model.graph.node[:at], *wide, *model.graph.node[at + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, asked.path)
    refused(asked, "float32 node Gelu island")


@installed
def test_an_engine_that_belongs_elsewhere_is_not_loaded(asked: ExportJob) -> None:
    with pytest.raises(UnavailableError, match="does not exist yet"), BACKEND.open(Path(asked.path), asked.device):
        pass
    built(asked)
    there = other(asked, compute_capability="8.6")
    said = "does not belong here: its compute capability is 7.5, here it is 8.6"
    with pytest.raises(UnavailableError, match=said), BACKEND.open(Path(asked.path), there.device):
        pass
    with pytest.raises(UnavailableError, match=nvidia.NO_DRIVER), BACKEND.open(Path(asked.path), asked.device):
        pass
    engine = engine_of(asked)
    content = bytearray(engine.read_bytes())
    content[100] ^= 1
    engine.write_bytes(content)
    with pytest.raises(ChecksumError, match="was changed"), BACKEND.open(Path(asked.path), asked.device):
        pass
    engines.metadata_path(engine).unlink()
    with pytest.raises(UsageError, match="was not built by fastvit-bench"):
        BACKEND.open(Path(asked.path), asked.device).__enter__()


# --- options and devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["75", "7,5", "sm75", 7.5, "a.b", "7.5.1"])
def test_compute_capabilities_are_written_with_a_point(value: str | float) -> None:
    with pytest.raises(UsageError, match=r'must be a text such as "7\.5"'):
        BACKEND.options(Device(name="x", backend="tensorrt-rtx", options={"compute_capability": value}))


def test_the_card_must_be_the_one_it_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Device(name="x", backend="tensorrt-rtx", precision="fp16")
    device = msgspec.structs.replace(bare, options=BACKEND.options(bare))
    assert device.options["compute_capability"] == "7.5"
    nvidia.install_driver(monkeypatch, nvidia.driver(nvidia.HOPPER))
    with pytest.raises(MismatchError, match=r"meant for compute capability 7\.5"):
        BACKEND.detect_hardware(device)
    nvidia.install_driver(monkeypatch, nvidia.driver())
    found = BACKEND.detect_hardware(device)
    assert found is not None
    assert found.compute_capability == "7.5"


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvit_bench.backends.tensorrt_rtx._MODULES", ("a_module_that_is_nowhere",))
    said = "the package tensorrt-rtx is not installed; run: " + install.extra("rtx")
    bare = Device(name="x", backend="tensorrt-rtx", precision="fp16")
    assert BACKEND.unavailable_reason() == BACKEND.engines.lacking(bare) == said
    with pytest.raises(UnavailableError, match="tensorrt-rtx is not installed"):
        BACKEND.toolkit()
