"""ONNX files of somebody else's."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from commands import call, refused
from onnx import TensorProto, helper, numpy_helper

from fastvit_bench.backends._onnx import external
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.records import Device, Fuse, Head, ModelSpec, Shape

SHAPE = Shape(batch=2, height=40, width=48)


def classifier(
    *,
    image: str = "x",
    logits: str = "probabilities",
    dims: tuple[Any, ...] = ("N", 3, "H", "W"),
    kind: int = TensorProto.FLOAT,
    inner: str = "mixed",
) -> onnx.ModelProto:
    """A convolution, a mean and a projection to five classes."""
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.standard_normal((8, 3, 3, 3)).astype(np.float32), "kernel"),
        numpy_helper.from_array(draw.standard_normal((8, 5)).astype(np.float32), "matrix"),
    ]
    nodes = [
        helper.make_node("Conv", [image, "kernel"], [inner], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [inner], ["bent"]),
        helper.make_node("GlobalAveragePool", ["bent"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], [logits]),
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(image, kind, dims)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, (None, None))],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "theirs.onnx"
    onnx.save(model, path)
    return path


def job(path: Path, folder: Path, precision: str = "fp32", backend: str = "onnxruntime") -> Any:
    spec = ModelSpec(name="theirs", variant="onnx", checkpoint=str(path))
    device = Device(name="cpu", backend=backend, precision=precision, batch=SHAPE.batch)
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), SHAPE, Fuse.FOLDED, device, folder=folder)


def test_a_given_file_is_proved_against_its_own_operators(tmp_path: Path) -> None:
    path = saved(tmp_path, classifier())
    asked = job(path, tmp_path / "models")
    made = pipeline.export(asked)
    assert (made.head, made.classes, made.shape) == (Head.CLASSIFIER, 5, SHAPE)
    assert made.params == 8 * 27 + 40
    assert made.macs == 2 * (8 * 27 * 40 * 48 + 40)
    assert made.parity is not None
    assert made.parity.passed
    assert "one by one" in made.parity.reference
    assert pipeline.cached(asked) == made
    assert made.fused is None  # nothing is known of its form
    assert not [key for key in pipeline.backends.get("onnxruntime").metadata(Path(asked.path)) if "fused" in key]
    assert (
        pipeline.job(
            ModelSpec(name="theirs", variant="onnx", checkpoint=str(path)),
            made.weights,
            SHAPE,
            Fuse.NONE,
            asked.device,
            folder=tmp_path / "models",
        )
        == asked
    )
    proved = pipeline.verify(Path(asked.path), path, tmp_path)
    assert all(each.passed for each in proved.values())


def test_a_given_file_computes_what_it_computed(tmp_path: Path) -> None:
    model = classifier()
    path = saved(tmp_path, model)
    made = tmp_path / "models" / "adopted.onnx"
    pipeline.export(msgspec.structs.replace(job(path, tmp_path), path=str(made)))
    images = np.random.default_rng(1).standard_normal(SHAPE.nchw).astype(np.float32)
    with (
        onnx_session.unoptimised("theirs", model.SerializeToString(), 1) as theirs,
        onnx_session.on_processor(made, 1) as ours,
    ):
        outputs: list[Any] = []
        for session in (theirs, ours):
            session.set_input(images)
            session.run()
            outputs.append(session.get_output())
    assert np.allclose(outputs[0]["probabilities"], outputs[1]["logits"], rtol=1e-5)


def test_values_that_bear_our_names_make_room(tmp_path: Path) -> None:
    adopted = external.normalize_external_onnx(saved(tmp_path, classifier(image="pixels", inner="image")), SHAPE)
    assert adopted.graph.input[0].name == "image"
    assert adopted.graph.node[0].output[0] == adopted.graph.node[1].input[0] == "image_within"


def test_fixed_sizes_that_fit_are_taken(tmp_path: Path) -> None:
    assert external.classes(external.normalize_external_onnx(saved(tmp_path, classifier(dims=SHAPE.nchw)), SHAPE)) == 5


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (classifier(dims=(1, 3, 224, 224)), r"takes images \(1, 3, 224, 224\), and here they are \(2, 3, 40, 48\)"),
        (classifier(dims=("N", 1, "H", "W")), r"takes images \(open, 1, open, open\)"),
        (classifier(kind=TensorProto.FLOAT16), "does not take float32 images"),
        (classifier(dims=("N", 3)), "does not take float32 images"),
    ],
)
def test_another_input_is_one_sentence(model: onnx.ModelProto, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        external.normalize_external_onnx(saved(tmp_path, model), SHAPE)


def test_what_is_no_classifier_is_one_sentence(tmp_path: Path) -> None:
    model = classifier()
    model.graph.node[4].output[0] = "unused"
    model.graph.node[1].output[0] = "probabilities"
    model.graph.node[2].input[0] = "probabilities"
    with pytest.raises(UsageError, match="is no classifier"):
        external.normalize_external_onnx(saved(tmp_path, model), SHAPE)
    model = classifier()
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(UsageError, match="1 inputs and 2 outputs"):
        external.normalize_external_onnx(saved(tmp_path, model), SHAPE)


def test_what_is_no_onnx_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UnavailableError, match="ONNX cannot load"):
        external.normalize_external_onnx(path, SHAPE)


@pytest.mark.parametrize(("precision", "backend"), [("fp16", "onnxruntime"), ("fp16", "tensorrt")])
def test_a_given_file_runs_in_onnx_runtime_as_it_is(precision: str, backend: str, tmp_path: Path) -> None:
    asked = job(saved(tmp_path, classifier()), tmp_path / "models", precision, backend)
    with pytest.raises(UsageError, match="which ONNX Runtime runs as it is"):
        pipeline.export(asked)
    assert not list((tmp_path / "models").rglob("*.onnx"))


@pytest.mark.slow
def test_a_given_file_is_timed_by_its_path(tmp_path: Path) -> None:
    saved(tmp_path, classifier())
    words = ("latency", "--device", "cpu", "--res", "40x48", "--runs", "6", "--format", "csv")
    assert "theirs" in call(*words, "--model", "theirs.onnx", cwd=tmp_path).stdout
    assert "There is no file" in refused("latency", "--model", str(tmp_path / "missing.onnx"), "--res", "64")
