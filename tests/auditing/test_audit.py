"""Files of others are named rightly: network, preparation, outputs; every kind of fault is planted."""

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from strangers import CLASSES, SHAPE, SIZE, Changed, Stranger, normalised, timms
from torch import nn

from fastvit_bench.auditing import preparations
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import MEAN, STD

ORDER = [1, 0, 2, 3, 4, 9, 5, 6, 7, 8]
OWN = "RGB, ImageNet's mean and std"


def left(audit: Any) -> dict[str, int]:
    return {kind.kind: kind.count for kind in audit.foldable}


@pytest.mark.slow
def test_timms_network_in_training_form(stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(stranger.trained, output_names=["scores"]))
    (output,) = audit.outputs
    assert audit.passed
    assert (audit.preparation, audit.computed, audit.layout) == (OWN, "", "NCHW")
    assert (output.name, output.value, output.top1_agreement) == ("scores", "logits", 1)
    assert output.error is not None
    assert 0 < output.error < 1e-5
    # four blocks: two identity branches each, the stem's one, and one in each of three downsamplings
    assert left(audit) == {
        "BatchNormalization": 4 * 2 + 1 + 3,
        "layer scale": 4 * 2,
        "depthwise branches in training form": 4 + 1 + 3 + 1,  # mixers, stem, downsamplings, expansion
        "parallel convolution branches": 2 + 3,  # stem, downsamplings
        "GELU in parts": 3 + 3 + 4 + 1,  # stem, downsamplings, blocks, expansion
    }
    assert all(len(kind.names) == kind.count for kind in audit.foldable)
    assert audit.weights_stored
    assert audit.images == 4


@pytest.mark.slow
def test_timms_network_in_fused_form(stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(stranger.fused))
    assert audit.passed
    assert left(audit) == {"layer scale": 4, "GELU in parts": 11}


@pytest.mark.slow
def test_timms_network_by_the_newer_exporter(stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(stranger.fused))
    newer = stranger.audit(stranger.onnx(stranger.fused, dynamo=True, opset_version=20, verbose=False))
    assert newer.passed
    assert left(newer) == {"layer scale": 4}
    assert sum(newer.operations.values()) < sum(audit.operations.values())


@pytest.mark.parametrize(
    ("before", "preparation", "computed"),
    [
        (lambda x: x.flip(1), "BGR, ImageNet's mean and std", ""),
        (normalised(MEAN, STD), "RGB, pixels in 0..1", ""),
        pytest.param(
            lambda x: normalised(MEAN, STD)(x.flip(1) / 255), "BGR, pixels in 0..255", "", marks=pytest.mark.slow
        ),
        (normalised((0.5,) * 3, (0.5,) * 3), "RGB, pixels in 0..1", "RGB, pixels in -1..1"),
        (lambda x: x / 255, "RGB, pixels in 0..255", "RGB, pixels in 0..1"),
        (
            lambda x: normalised(MEAN, STD)(x).flip(1),  # in any order that it is fed, something is wrong
            "RGB, pixels in 0..1",
            "BGR, ImageNet's mean and std",
        ),
    ],
)
def test_the_preparation_that_fits_is_named(before: Any, preparation: str, computed: str, stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(Changed(stranger.fused, before)))
    assert (audit.preparation, audit.computed) == (preparation, computed)
    assert audit.passed == (not computed)
    assert all(output.passed for output in audit.outputs)


def test_channels_last_and_whole_pixels(stranger: Stranger) -> None:
    network = Changed(stranger.fused, lambda x: normalised(MEAN, STD)(x.permute(0, 3, 1, 2).float() / 255))
    path = stranger.folder / "theirs.onnx"
    example = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    torch.onnx.export(network, (example,), str(path), opset_version=17, dynamo=False)
    audit = stranger.audit(path)
    assert audit.passed
    assert (audit.layout, audit.preparation) == ("NHWC", "RGB, pixels in 0..255")
    assert len(audit.tried) == 2  # 8-bit pixels can be fed in two orders alone


@pytest.mark.parametrize(
    ("after", "value"),
    [
        (lambda y: y.softmax(-1), "softmax of logits"),
        pytest.param(lambda y: y.log_softmax(-1), "log-softmax of logits", marks=pytest.mark.slow),
        pytest.param(lambda y: y.sigmoid(), "sigmoid of logits", marks=pytest.mark.slow),
        (lambda y: y / y.norm(dim=-1, keepdim=True), "logits, divided by its norm"),
        (lambda y: y.argmax(-1), "index of the largest of logits"),
        pytest.param(lambda y: y[..., None, None], "logits", marks=pytest.mark.slow),
    ],
)
def test_the_end_of_the_graph_is_named(after: Any, value: str, stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(Changed(stranger.fused, after=after)))
    assert audit.passed
    assert [output.value for output in audit.outputs] == [value]


class Several(nn.Module):
    """Features, a map and logits, in that order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        network: Any = self.network
        last = network.forward_features(x)
        return last.mean((2, 3)), network.stages[:2](network.stem(x)).permute(0, 2, 3, 1), network.forward_head(last)


def test_several_outputs_are_told_apart(stranger: Stranger) -> None:
    names = ["logits", "b", "feature0"]  # that say something else
    shape = (1, 3, 64, 64)  # of which the last map has several positions
    audit = stranger.audit(stranger.onnx(Several(stranger.fused), shape, output_names=names))
    assert audit.passed
    assert [(output.name, output.value) for output in audit.outputs] == [
        ("logits", "features before the classifier"),
        ("b", "map of stage 2, channels last"),
        ("feature0", "logits"),
    ]


def test_open_sizes_and_a_fixed_batch(stranger: Stranger) -> None:
    sizes = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n", 2: "h", 3: "w"}}}
    path = stranger.onnx(stranger.fused, **sizes)
    audit = stranger.audit(path, (96, 64))
    assert audit.passed
    assert audit.shape.nchw == (2, 3, 96, 64)
    assert "Its input is (open, 3, open, open); only 96x64 pixels in batches of 2 were run." in audit.notes
    audit = stranger.audit(stranger.onnx(stranger.fused, shape=(3, *SHAPE[1:])))
    assert audit.passed
    assert (audit.shape.batch, audit.images) == (3, 6)


def test_float16_is_judged_by_its_own_limit(stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(copy.deepcopy(stranger.fused).half(), half=True))
    (output,) = audit.outputs
    assert audit.passed
    assert (audit.precision, output.tolerance, output.shape) == ("fp16", 2e-2, (4, CLASSES))
    assert output.error is not None
    assert output.error > 1e-4


def test_rounding_does_not_hide_another_mean(stranger: Stranger) -> None:
    clip = preparations.NORMALISATIONS[3]
    half = copy.deepcopy(stranger.fused).half()
    within = Changed(half, lambda x: normalised(clip.mean, clip.std)(x).half())
    audit = stranger.audit(stranger.onnx(within))
    assert (audit.precision, audit.passed, audit.preparation) == ("fp16", False, "RGB, pixels in 0..1")
    assert audit.computed == "RGB, CLIP's mean and std"


def test_only_what_is_near_is_alike() -> None:
    own = preparations.of_network("fastvit_t8")
    assert [str(trial) for trial in preparations.alike(own)] == [
        "RGB, CLIP's mean and std",
        "RGB, ImageNet's mean over its std, and pixels over 0.226",
    ]
    assert preparations.alike(preparations.of_network("fastvit_mci0")) == ()


# --- what is not the network ------------------------------------------------------------------------------------------


def test_classes_in_another_order(stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(Changed(stranger.fused, after=lambda y: y[:, ORDER])))
    (output,) = audit.outputs
    assert not audit.passed
    assert output.classes == tuple(ORDER)
    assert "7 of 10 moved, first: 0 is the network's 1" in output.reason
    assert audit.preparation == OWN


@pytest.mark.slow
def test_another_checkpoint(stranger: Stranger, timm: ModuleType) -> None:
    audit = stranger.audit(stranger.onnx(timms(timm, seed=1)[1]))
    (output,) = audit.outputs
    assert not audit.passed
    assert (audit.computed, output.classes, audit.weights_stored) == ("", (), 0)
    assert output.error is not None
    assert output.error > 0.1


def test_a_small_fault_is_no_other_preparation(stranger: Stranger) -> None:
    damaged = copy.deepcopy(stranger.fused)
    with torch.no_grad():
        damaged.get_parameter("stages.2.blocks.0.mlp.fc2.bias").zero_()
    audit = stranger.audit(stranger.onnx(damaged))
    assert not audit.passed
    assert (audit.preparation, audit.computed) == (OWN, "")  # the nearest, though none fits
    assert audit.weights_stored


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (lambda y: y[:, :-1], "the network computes nothing of this shape"),
        (lambda y: y * float("nan"), "infinite or not a number"),
        pytest.param(lambda y: y * 0, "the error is above", marks=pytest.mark.slow),
    ],
)
def test_an_output_that_cannot_be_compared_fails(after: Any, reason: str, stranger: Stranger) -> None:
    audit = stranger.audit(stranger.onnx(Changed(stranger.fused, after=after)))
    assert not audit.passed
    assert reason in audit.outputs[0].reason


def test_one_of_two_outputs_that_is_nothing_fails(stranger: Stranger) -> None:
    network = Changed(stranger.fused, after=lambda y: (y, y[:, :3]))
    audit = stranger.audit(stranger.onnx(network))
    assert [output.passed for output in audit.outputs] == [True, False]
    assert not audit.passed


# --- files that are no network of images ------------------------------------------------------------------------------


def foreign(path: Path, *inputs: tuple[Any, ...]) -> Path:
    """A file that adds a number to its first input."""
    values = [helper.make_tensor_value_info(f"in{at}", TensorProto.FLOAT, dims) for at, dims in enumerate(inputs)]
    graph = helper.make_graph(
        [helper.make_node("Add", ["in0", "one"], ["out"])],
        "g",
        values,
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (((1, 3, 64, 64), (1, 1)), r"has 2 inputs \(in0, in1\)"),
        (((1, 77),), r"takes 'in0' \(1, 77\)"),
        (((1, 5, 64, 64),), "no images of three colours"),
    ],
)
def test_another_input_is_one_sentence(inputs: Any, sentence: str, stranger: Stranger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        stranger.audit(foreign(tmp_path / "x.onnx", *inputs))


def test_another_size_than_the_file_s_is_refused(stranger: Stranger) -> None:
    with pytest.raises(UsageError, match="takes images of 32 pixels"):
        stranger.audit(stranger.onnx(stranger.fused), (96, 96))


def test_a_file_that_is_none_is_one_sentence(stranger: Stranger, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(UnavailableError, match="ONNX cannot load"):
        stranger.audit(tmp_path / "x.onnx")
    with pytest.raises(UsageError, match="ONNX files"):
        stranger.audit(tmp_path / "x.tflite")
