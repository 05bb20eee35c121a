"""LITv2 costs what is printed, samples as a deformable convolution does, and folding it changes no output."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from packaging.version import Version
from torch import Tensor, nn

from fastvit_bench.errors import UsageError
from fastvit_bench.network import cost, reparam
from fastvit_bench.network.fastvit import Form
from fastvit_bench.network.peers import litv2, parts
from fastvit_bench.network.random_weights import draw, randomise
from fastvit_bench.records import Fuse, GraphVariant, Head, Shape

TOLERANCE = 1e-9  # relative, in float64
SMALL = litv2.LITDesign(32, (1, 1, 2, 1))  # 4 heads in the third stage, 3 of them for low frequencies

# Parameters in millions and FLOPs in billions as printed by the paper (and by FastViT's), and as counted here.
COSTS = {
    "litv2_s": (28, 3.7, 27_844_000, 3_723_626_496),
    "litv2_b": (87, 13.2, 86_520_704, 13_171_973_120),
}
HEADS = (Head.CLASSIFIER, Head.DENSE)


def image() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small(head: Head = Head.CLASSIFIER) -> litv2.LITv2:
    network = litv2.LITv2(SMALL, head=head, classes=10)
    randomise(network, 7)
    return network.double().eval()


def on_meta(name: str, head: Head) -> litv2.LITv2:
    with torch.device("meta"):
        return litv2.network(name, head=head, classes=1000, size=(224, 224))


@pytest.mark.slow
@pytest.mark.parametrize("name", litv2.DESIGNS)
def test_costs_are_those_of_the_paper(name: str):
    params, macs, *counted = COSTS[name]
    found = cost.count(on_meta(name, Head.CLASSIFIER), Shape(batch=1, height=224, width=224))
    assert [found.params, found.macs] == counted
    assert found.params / 1e6 == pytest.approx(params, abs=0.5)
    assert found.macs / 1e9 == pytest.approx(macs, abs=0.05)


@pytest.mark.parametrize("name", litv2.DESIGNS)
def test_feature_maps_of_the_dense_network(name: str):
    maps = on_meta(name, Head.DENSE)(torch.zeros(1, 3, 512, 256, device="meta"))
    first = litv2.DESIGNS[name].channels
    assert [tuple(each.shape) for each in maps] == [(1, first << i, 128 >> i, 64 >> i) for i in range(4)]


def test_heads_are_shared_out_between_the_frequencies():
    third, fourth = (on_meta("litv2_s", Head.CLASSIFIER).stages[index].blocks[0].attention for index in (2, 3))
    assert (third.high.heads, third.high.window, third.low.heads, third.low.pool.kernel_size) == (2, 2, 10, 2)
    assert isinstance(fourth, litv2.LowAttention)
    assert fourth.heads == 24


@torch.no_grad()
def test_windows_attend_to_themselves_alone(difference):
    attention = litv2.HighAttention(64, 2, 2)
    draw(attention, 0)
    attention.double()
    x = image()[:1, :1, :6, :8].expand(1, 64, 6, 8) * torch.linspace(-1, 1, 64)[:, None, None]
    whole = attention(x)
    for row in range(0, 6, 2):
        for column in range(0, 8, 2):
            at = (..., slice(row, row + 2), slice(column, column + 2))
            assert difference(whole[at], attention(x[at])) < TOLERANCE


@torch.no_grad()
def test_low_frequencies_are_the_means_of_windows(difference):
    attention = litv2.LowAttention(64, 2, 2)
    draw(attention, 0)
    attention.double()
    x = torch.randn(1, 64, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    means = x.reshape(1, 64, 2, 2, 3, 2).mean((3, 5))
    q, (k, v) = attention.q(x), attention.kv(means).chunk(2, 1)
    q, k, v = (each.flatten(2).unflatten(1, (2, 32)).transpose(2, 3) for each in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(1, 64, 4, 6)
    assert difference(attention(x), attention.proj(mixed)) < TOLERANCE


# --- token merging ----------------------------------------------------------------------------------------------------


def deform_conv(x: Tensor, offset: Tensor, conv: nn.Conv2d) -> onnx.ModelProto:
    """A model of the operator alone, which takes `x` and `offset` in float64."""
    weights = [
        onnx.numpy_helper.from_array(tensor.detach().numpy(), name)
        for name, tensor in (("weight", conv.weight), ("bias", conv.bias))
    ]
    node = helper.make_node(
        "DeformConv", ["x", "weight", "offset", "bias"], ["y"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]
    )
    inputs = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, t.shape) for n, t in (("x", x), ("offset", offset))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)]
    graph = helper.make_graph([node], "deform", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def merging() -> tuple[litv2.TokenMerging, Tensor]:
    module = litv2.TokenMerging(4)
    draw(module, 5)
    x = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return module.double().eval(), x


@torch.no_grad()
@pytest.mark.skipif(Version(ort.__version__) < Version("1.25"), reason="this ONNX Runtime has no DeformConv")
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])  # 30 positions are far outside the map
def test_sampling_and_a_convolution_are_a_deformable_convolution(spread: float):
    module, x = merging()
    offset = module.offset(x) * spread
    ours = module.conv(litv2.sampled(x, offset)).numpy()
    model = deform_conv(x, offset, module.conv)
    given = {"x": x.numpy(), "offset": offset.numpy()}
    runtime = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(ours - runtime.run(None, given)[0]).max() < 1e-10
    # the evaluator of the standard keeps coordinates in float32
    assert np.abs(ours - ReferenceEvaluator(model).run(None, given)[0]).max() < 1e-4 * max(spread, 1)


@torch.no_grad()
def test_without_offsets_nothing_is_displaced():
    _, x = merging()
    assert torch.allclose(litv2.sampled(x, torch.zeros(1, 8, 3, 4, dtype=torch.float64)), x, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("number", "tap"), [(2 * tap + axis, divmod(tap, 2)) for tap in range(4) for axis in range(2)])
def test_each_offset_moves_its_tap(number: int, tap: tuple[int, int]):
    _, x = merging()
    offset = torch.zeros(1, 8, 3, 4, dtype=torch.float64)
    offset[:, number] = 1.0
    found = litv2.sampled(x, offset)
    moved = F.pad(x, (0, 0, 0, 1))[:, :, 1:] if number % 2 == 0 else F.pad(x, (0, 1))[..., 1:]
    wanted = x.clone()
    at = (..., slice(tap[0], None, 2), slice(tap[1], None, 2))
    wanted[at] = moved[at]
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)


# --- folding ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("level", Fuse)
@pytest.mark.parametrize("attention", parts.MIXES)
def test_folding_changes_no_output(head: Head, level: Fuse, attention: str, difference):
    network = small(head)
    result = litv2.at_level(network, level, GraphVariant(attention=attention))
    assert difference(result(image()), network(image())) < TOLERANCE


def test_what_is_left_at_each_level():
    network = small()
    levels = [litv2.at_level(network, level, GraphVariant()) for level in Fuse]
    assert [reparam.count_norms(each) for each in levels] == [3, 3, 0]
    assert [each.form for each in levels] == [Form.UNFUSED, Form.FUSED, Form.FUSED]
    scales = [sum(isinstance(module, parts.Scale) for module in each.modules()) for each in levels]
    assert scales == [5, 5, 0]  # two in each of the third stage's blocks, one in the fourth's


@pytest.mark.parametrize("level", Fuse)
def test_the_source_is_left_alone(level: Fuse):
    network = small()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    result = litv2.at_level(network, level, GraphVariant())
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.zero_()
    assert network.form is Form.UNFUSED
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("part", ["offset", "high", "low", "depthwise", "downsample.norm", "norm2"])
def test_random_weights_make_every_part_matter(part: str, difference):
    network = small()
    wanted = network(image())
    for name, tensor in network.state_dict().items():
        if part in name and tensor.is_floating_point():
            tensor *= 0.9
    assert difference(network(image()), wanted) > 1e-3


@pytest.mark.parametrize("size", [(0, 64), (64, 80), (100, 64)])
def test_sizes_that_do_not_divide_are_refused(size: tuple[int, int]):
    with pytest.raises(UsageError, match="multiples of 32"):
        on_meta("litv2_s", Head.CLASSIFIER)(torch.zeros(1, 3, *size, device="meta"))


# --- planted faults ---------------------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def without_the_root_of_d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "fold_scale", lambda conv, scale, channels: nn.Identity())


def with_the_root_of_d_on_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    good = parts.fold_scale
    monkeypatch.setattr(parts, "fold_scale", lambda conv, scale, channels: good(conv, scale, conv.out_channels))


def without_the_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "fold_behind", lambda conv, norm: nn.Identity())


def with_the_heads_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def mix(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None) -> Tensor:
        return parts.batched(q, k, v.unflatten(1, (heads, -1)).flip(1).flatten(1, 2), heads, bias)

    monkeypatch.setitem(parts.MIXES, "batched", mix)


def with_down_and_right_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    good = litv2.sampled

    def bad(x: Tensor, offset: Tensor) -> Tensor:
        return good(x, offset.unflatten(1, (4, 2)).flip(2).flatten(1, 2))

    monkeypatch.setattr(litv2, "sampled", bad)


FAULTS = [
    without_the_root_of_d,
    with_the_root_of_d_on_everything,
    without_the_norms,
    with_the_heads_in_another_order,
    with_down_and_right_exchanged,
]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("plant", FAULTS)
def test_a_fault_is_seen(plant: Plant, monkeypatch: pytest.MonkeyPatch, difference):
    network = small()
    wanted = network(image())
    assert difference(litv2.at_level(network, Fuse.FOLDED, GraphVariant())(image()), wanted) < TOLERANCE
    plant(monkeypatch)
    assert difference(litv2.at_level(network, Fuse.FOLDED, GraphVariant())(image()), wanted) > 1000 * TOLERANCE
