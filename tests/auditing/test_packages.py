"""Core ML packages of others, which coremltools converted without this tool."""

from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
import torch
from strangers import CLASSES, SHAPE, Changed, Stranger, normalised
from torch import nn

from fastvit_bench.errors import ParityError
from fastvit_bench.records import MEAN, STD

PIXELS: dict[str, Any] = {"name": "picture", "shape": SHAPE, "scale": 1 / 255}
BIAS = [-0.485, -0.456, -0.406]


def package(network: nn.Module, folder: Path, port: Any, **more: Any) -> Path:
    """A package that takes `port`; in FP16 unless `more` says otherwise."""
    path = folder / "theirs.mlpackage"
    program = torch.export.export(network, (torch.zeros(SHAPE),)).run_decompositions({})
    ct.convert(
        program,
        inputs=[port],
        minimum_deployment_target=ct.target.iOS16,
        convert_to="mlprogram",
        skip_model_load=True,
        **more,
    ).save(str(path))
    return path


def divided(network: nn.Module) -> nn.Module:
    """The network behind a division by ImageNet's deviation, which Core ML's image input cannot do."""
    return Changed(network, normalised((0, 0, 0), STD))


@pytest.mark.slow
def test_a_tensor_in_training_form(stranger: Stranger, tmp_path: Path) -> None:
    audit = stranger.audit(package(stranger.trained, tmp_path, ct.TensorType(name="x", shape=SHAPE)))
    assert audit.passed
    assert (audit.precision, audit.preparation) == ("fp16", "RGB, ImageNet's mean and std")
    counts = {kind.kind: kind.count for kind in audit.foldable}
    assert counts["BatchNormalization"] == 12
    assert counts["depthwise branches in training form"] == 9
    assert counts["parallel convolution branches"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "bias", "computed"),
    [
        (ct.colorlayout.RGB, BIAS, ""),
        (ct.colorlayout.RGB, [0, 0, 0], "RGB, ImageNet's std without its mean"),
        (ct.colorlayout.BGR, BIAS, "BGR, ImageNet's mean and std in the order of RGB"),
    ],
)
def test_an_image(layout: Any, bias: list[float], computed: str, stranger: Stranger, tmp_path: Path) -> None:
    port = ct.ImageType(**PIXELS, bias=bias, color_layout=layout)
    audit = stranger.audit(package(divided(stranger.fused), tmp_path, port))
    assert audit.passed == (not computed)
    assert audit.computed == computed
    assert audit.outputs[0].passed
    assert audit.preparation == "RGB, pixels in 0..255"


@pytest.mark.slow
@pytest.mark.parametrize("precision", [ct.precision.FLOAT16, ct.precision.FLOAT32])
def test_an_image_by_the_guide_of_coremltools(precision: Any, stranger: Stranger, tmp_path: Path) -> None:
    bias = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
    port = ct.ImageType(**PIXELS | {"scale": 1 / (0.226 * 255)}, bias=bias)
    audit = stranger.audit(package(stranger.fused, tmp_path, port, compute_precision=precision))
    assert audit.computed == "RGB, ImageNet's mean over its std, and pixels over 0.226"
    assert not audit.passed


@pytest.mark.slow
def test_an_image_that_is_not_normalised(stranger: Stranger, tmp_path: Path) -> None:
    path = package(stranger.fused, tmp_path, ct.ImageType(**PIXELS), compute_precision=ct.precision.FLOAT32)
    audit = stranger.audit(path)
    assert (audit.precision, audit.passed, audit.computed) == ("fp32", False, "RGB, pixels in 0..1")


@pytest.mark.slow
def test_class_names(stranger: Stranger, tmp_path: Path) -> None:
    names = ct.ClassifierConfig([f"class {index}" for index in range(CLASSES)])
    network = Changed(divided(stranger.fused), after=lambda y: y.softmax(-1))
    audit = stranger.audit(package(network, tmp_path, ct.ImageType(**PIXELS, bias=BIAS), classifier_config=names))
    assert audit.passed
    assert [output.value for output in audit.outputs] == ["logits"]
    assert any("names 10 classes, the first 'class 0'" in note for note in audit.notes)


@pytest.mark.slow
def test_open_sizes_end_in_a_sentence(stranger: Stranger, tmp_path: Path) -> None:
    shapes = ct.EnumeratedShapes(shapes=[SHAPE, (1, 3, 64, 64)])
    path = package(stranger.fused, tmp_path, ct.TensorType(name="x", shape=SHAPE))
    spec = ct.utils.load_spec(str(path))
    array = spec.description.input[0].type.multiArrayType
    for shape in shapes.shapes:
        array.enumeratedShapes.shapes.add().shape.extend(int(size) for size in shape.shape)
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString())
    with pytest.raises(ParityError, match="may have several shapes"):
        stranger.audit(path)
