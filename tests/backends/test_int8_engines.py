"""INT8 engines: built from explicit Q/DQ by NVIDIA's own builder, proved against their rounded network, and counted."""

from pathlib import Path

import builders
import msgspec
import numpy as np
import onnx
import pictures
import pytest
from commands import call, refused
from fakes import nvidia
from onnx import TensorProto, helper, numpy_helper

from fastvit_bench.backends import tensorrt, tensorrt_rtx
from fastvit_bench.backends._nvidia import engines
from fastvit_bench.backends._onnx import export, quantise
from fastvit_bench.errors import ParityError, UnavailableError, UsageError
from fastvit_bench.exporting import checkpoints, metadata, pipeline
from fastvit_bench.network import factory
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import Device, EngineBuilt, ExportJob, Fuse, ModelSpec, Shape
from fastvit_bench.render import listing

RTX = tensorrt_rtx.BACKEND
installed = pytest.mark.skipif(RTX.unavailable_reason() is not None, reason=str(RTX.unavailable_reason()))


def device(backend: str = "tensorrt-rtx", calibration: Path | None = None, **options: str) -> Device:
    return Device(
        name="x",
        backend=backend,
        precision="int8",
        batch=2,
        calibration=str(calibration) if calibration else None,
        calibration_images=4,
        options=options,
    )


def job(folder: Path, on: Device, variant: str = "fastvit_t8", shape: Shape = Shape(2, 32, 32)) -> ExportJob:
    spec = ModelSpec(name=variant, variant=variant)
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, on, folder=folder)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.flat(tmp_path_factory.mktemp("calibration") / "images", 6)


# --- layers that multiply ---------------------------------------------------------------------------------------------


def test_layers_are_counted_by_what_they_multiply() -> None:
    layers = """
Name: a_int8, LayerType: CaskConvolution, Inputs: [ { Name: int8, Dimensions: [1,8], Format/Datatype: Row major FP16 format }], Outputs: [ { Name: b, Dimensions: [1,8], Format/Datatype: Row major Int8 format }], ParameterType: Convolution
Name: b, LayerType: CaskConvolution, Inputs: [ { Name: b, Dimensions: [1,8,4,4], Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }, { Name: c, Dimensions: [1,8,4,4], Format/Datatype: Row major FP16 format }], Outputs: []
Name: c, LayerType: gemm, Inputs: [ { Name: d, Dimensions: [8,9], Strides: [9,1], StrideOrder: [1,0], Datatype: Int8, Format: (Linear) Row major linear format }], Constants: [], Outputs: []
Name: d, LayerType: correlation, Inputs: [ { Name: d, Dimensions: [8,9], Datatype: Half, Format: (Linear) }, { Name: w, Datatype: Int8 }], Constants: [], Outputs: []
Name: e, LayerType: kgen, Inputs: [ { Name: d, Dimensions: [8,9], Datatype: Int8, Format: (Linear) }], Constants: [], Outputs: []
Name: f, LayerType: signal, Inputs: [], Constants: [], Outputs: []
"""  # noqa: E501  # one line each, as the inspector writes them
    assert engines.arithmetic(layers) == ({"CaskConvolution": 1, "gemm": 1}, {"CaskConvolution": 1, "correlation": 1})
    assert engines.arithmetic("") == ({}, {})


def convolution(group: int = 1) -> onnx.ModelProto:
    """A convolution between integers, by the rules that `quantise.NVIDIA` writes."""
    draw, half = np.random.default_rng(0), TensorProto.FLOAT16
    constants = {
        "scale": np.float16(0.02),
        "zero": np.int8(0),
        "weights": draw.integers(-127, 128, (32, 32 // group, 3, 3)).astype(np.int8),
        "steps": np.full(32, 1e-3, np.float16),
        "zeros": np.zeros(32, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["weights", "steps", "zeros"], ["kernel"], axis=0),
        helper.make_node("Conv", ["rounded", "kernel"], ["map"], "conv", group=group),
        helper.make_node("Relu", ["map"], ["logits"], "relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", half, [2, 32, 18, 18])],
        [helper.make_tensor_value_info("logits", half, [2, 32, 16, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", export.OPSET)], ir_version=10)


@installed
@pytest.mark.parametrize("group", [1, 32])
def test_the_builder_says_which_cards_multiply_integers(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX 1.7 has INT8 convolutions for Ampere; for Turing it multiplies rounded values in FP16."""
    nvidia.install_driver(monkeypatch, None)
    path = tmp_path / "x.rtx.onnx"
    onnx.save(convolution(group), path)
    settings = {"optimization_level": "3", "workspace_mib": "0"}
    built = {}
    for capability in ("7.5", "8.6"):
        on = msgspec.structs.replace(device(), options=RTX.options(device(compute_capability=capability)))
        target = RTX.engine(path, on)[1]
        built[capability] = RTX.make(path, tmp_path / f"{capability}.rtx", target, settings)
    assert {key: (engine.integer, engine.floating) for key, engine in built.items()} == {
        "7.5": ({}, {"correlation": 1}),
        "8.6": ({"correlation": 1}, {}),
    }
    assert [built[key].integer_share for key in built] == [0.0, 1.0]
    assert built["7.5"].layers["QUANTIZE"] == 1


def test_an_engine_that_mostly_multiplies_wider_values_says_so() -> None:
    counted = EngineBuilt(path="a", parity=None, integer={"gemm": 1}, floating={"correlation": 52})
    lines = listing.engine(counted)
    assert lines[0] == "layers of the engine that multiply INT8 values: 1 (gemm 1); wider ones: 52 (correlation 52)"
    assert "no INT8 kernels for most products on this GPU" in lines[1]
    other = msgspec.structs.replace(counted, integer={"correlation": 52}, floating={"gemm": 2})
    assert len(listing.engine(other)) == 1
    assert listing.engine(EngineBuilt(path="a", parity=None)) == []


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_without_calibration_images_it_is_refused(backend: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a folder of them with --calibration DIR"):
        job(tmp_path, device(backend))


@pytest.mark.parametrize(
    ("options", "message"), [({"io": "fp32"}, "must be fp16"), ({"dynamic": "32..64"}, "takes one size")]
)
def test_a_file_in_int8_has_one_size_and_float16_outside(options: dict[str, str], message: str) -> None:
    for backend in (RTX, tensorrt.BACKEND):
        with pytest.raises(UsageError, match=message):
            backend.options(device(backend.name, None, **options))


# --- on a GPU, which is a stand-in ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_an_engine_is_proved_against_its_rounded_network(
    calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia.install_driver(monkeypatch, nvidia.driver())
    behaviour = nvidia.install_tensorrt(monkeypatch)
    asked = job(tmp_path, device("tensorrt", calibration))
    artifact = pipeline.export(asked)
    assert list(artifact.proofs) == ["float graph", "INT8 file", "FP16 between integers"]
    tolerances = [proof.tolerance for proof in artifact.proofs.values()]
    assert tolerances == [1e-4, 1e-4, 0.4]
    assert artifact.quantisation is not None
    assert (artifact.quantisation.weights, artifact.quantisation.activations) == (
        "int8 symmetric per channel",
        "int8 symmetric per tensor",
    )
    built = pipeline.build_engine(asked)
    assert built.parity is not None
    assert built.parity.passed
    assert built.parity.reference == "network rounded to the file's 8-bit grids in float"
    known = tensorrt.BACKEND.record(Path(asked.path), asked.device)
    assert (built.integer, built.floating) == (known.integer, known.floating)
    assert known.floating == {"CaskConvolution": 2}  # of squeeze-and-excitation
    assert known.integer["CaskConvolution"] == artifact.quantisation.integer["Conv"]
    behaviour.damage = lambda name, values: np.roll(values, 1)
    with pytest.raises(ParityError, match="computes something else"):
        pipeline.build_engine(asked)


# --- NVIDIA's own builder ---------------------------------------------------------------------------------------------


@installed
@pytest.mark.minutes
@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_for_turing(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia.install_driver(monkeypatch, None)
    shape = Shape(batch=8, height=32, width=32)
    spec = ModelSpec(name=variant, variant=variant)
    reference = factory.random(variant, spec.head, 10, 0, shape)
    asked = builders.export_job(backend=RTX.name, precision="int8", shape=shape, variant=variant, model=variant)
    network = factory.at_level(variant, reference, Fuse.FOLDED, RTX.layout(asked))
    path, draw = tmp_path / "x.rtx.onnx", np.random.default_rng(0)
    noise = [draw.standard_normal((3, 32, 32)).astype(np.float32) for _ in range(2)]
    written = RTX.quantiser(network, asked, noise).write(path, {})
    on = msgspec.structs.replace(device(), options=RTX.options(device()))
    engine, target = RTX.engine(path, on)
    known = RTX.make(path, engine, target, engines.settings_of(path, on))
    assert known.card.compute_capability == "7.5"
    assert known.warnings == ()
    assert known.inputs == {"image": "HALF 8x3x32x32"}
    products = sum(written.integer.values()) + len(written.excluded)
    assert (
        known.layers["QUANTIZE"] >= products / 2
    )  # one serves two readers where a sum's residual is a product's input
    assert sum(known.integer.values()) + sum(known.floating.values()) >= 0.9 * products


@installed
def test_a_file_that_is_not_float16_between_its_integers_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia.install_driver(monkeypatch, None)
    model = convolution()
    wide = [
        helper.make_node("Cast", ["map"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["wide"], ["wide_relu"], "island"),
        helper.make_node("Cast", ["wide_relu"], ["logits"], to=TensorProto.FLOAT16),
    ]
    nodes = [*list(model.graph.node)[:-1], *wide]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tmp_path / "x.rtx.onnx"
    onnx.save(model, path)
    on = msgspec.structs.replace(device(), options=RTX.options(device()))
    with pytest.raises(UnavailableError, match="float32 node Relu island"):
        RTX.build(path, on)


def test_the_scheme_is_one_for_both_toolkits() -> None:
    assert RTX.scheme is tensorrt.BACKEND.scheme is quantise.NVIDIA


# --- the program ------------------------------------------------------------------------------------------------------


@installed
@pytest.mark.slow
def test_from_images_to_an_engine_and_its_proof(calibration: Path, tmp_path: Path) -> None:
    path = tmp_path / "t8.rtx.onnx"
    words = (
        "export",
        "--target",
        "tensorrt-rtx",
        "--precision",
        "int8",
        "--res",
        "32",
        "--batch",
        "2",
        "-o",
        str(path),
    )
    assert "name a folder of them with --calibration DIR" in refused(*words)
    assert not path.exists()
    done = call(*words, "--calibration", str(calibration), "--calibration-images", "4", "--seed", "1")
    for line in ("INT8 file: proved", "between integers: 51 (Conv 50, Gemm 1)", "calibrated on 4 of 6 images (seed 1"):
        assert line in done.stderr
    assert "layers of the engine that multiply INT8 values: 1 (gemm 1); wider ones: 52 (correlation 52)" in done.stderr
    metadata_of = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert "4 images, " in metadata_of["fastvit_bench.options"]
    call("verify", str(path))
    metadata.metadata_path(path).unlink()  # of the file as it was
    model = onnx.load(path)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "stem.0.weight_quantized")
    levels = numpy_helper.to_array(weights).copy()
    levels[0, 0, 1, 1] -= np.sign(levels[0, 0, 1, 1]) or 1
    weights.CopyFrom(numpy_helper.from_array(levels, weights.name))
    onnx.save(model, path)
    wrong = call("verify", str(path), expect=5)
    assert "does not compute what its network computes" in wrong.stderr
    assert "allowed is 1e-04" in wrong.stderr  # by its operators one by one
