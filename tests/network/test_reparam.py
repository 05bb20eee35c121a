"""Fusing and folding change no output, and the check that says so fails for every way of getting it wrong."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import builders
import msgspec
import pytest
import torch
from torch import Tensor, nn

from fastvit_bench.network import checkpoint, reparam
from fastvit_bench.network.fastvit import (
    VARIANTS,
    FastViT,
    Form,
    LargeKernelConv,
    Mixer,
    PositionalEncoding,
    RepConv,
    RepMixer,
    Variant,
)
from fastvit_bench.network.random_weights import draw, randomise
from fastvit_bench.network.reparam import Kernel
from fastvit_bench.records import STD, Fuse, GraphVariant, Head

TOLERANCE = 1e-9  # relative, in float64
SMALL = Variant((1, 1, 1, 1), (32, 64, 128, 256), 2, Mixer.ATTENTION, 0.0)
QUICK = ("fastvit_t8", "fastvit_sa12")  # with each kind of block; the others are more of the same
CASES = [
    *(pytest.param(name, Head.CLASSIFIER, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS),
    *((name, Head.DENSE) for name in QUICK),
]


def image() -> Tensor:
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small(head: Head = Head.CLASSIFIER) -> FastViT:
    return copy.deepcopy(_small(head))


@cache
def _small(head: Head) -> FastViT:
    network = FastViT(SMALL, head=head, classes=10).double().eval()
    randomise(network, 7, (64, 64))
    return network


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("variant", "head"), CASES)
def test_fusing_and_folding_change_no_output(variant: str, head: Head, difference):
    network, _ = checkpoint.randomised(variant, head, 10, 2)
    network.double()
    wanted = network(image())
    fused = reparam.fuse(network)
    assert difference(fused(image()), wanted) < TOLERANCE
    assert difference(reparam.fold(fused)(image()), wanted) < TOLERANCE


def layouts() -> list[GraphVariant]:
    """Each choice of a layout alone, and all of them together."""
    choices = {"std": STD, "doubling": "grouped", "attention": "per-head", "norms": "depthwise"}
    assert choices.keys() == set(GraphVariant.__struct_fields__)
    return [
        *(msgspec.convert({name: value}, GraphVariant) for name, value in choices.items()),
        msgspec.convert(choices, GraphVariant),
    ]


@torch.no_grad()
@pytest.mark.parametrize("level", Fuse)
@pytest.mark.parametrize("layout", layouts(), ids=str)
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(head, marks=() if head in (Head.CLASSIFIER, Head.DENSE) else pytest.mark.slow)
        for head in builders.FASTVITS_HEADS
    ],
)
def test_no_layout_changes_an_output(layout: GraphVariant, head: Head, level: Fuse, difference):
    network = small(head)
    given = image() * torch.tensor(STD, dtype=torch.float64).reshape(1, 3, 1, 1) if layout.std else image()
    assert difference(reparam.at_level(network, level, layout)(given), network(image())) < TOLERANCE


def test_layouts_are_the_forms_they_say():
    network = small()
    plain, other = reparam.fold(network), reparam.fold(network, layouts()[-1])
    kinds = [Counter(type(module).__name__ for module in each.modules()) for each in (plain, other)]
    assert kinds[0]["SplitConv"] == 4
    assert kinds[1]["SplitConv"] == 0
    assert kinds[1]["PerHeadAttention"] == kinds[0]["FoldedAttention"] == 1
    dense = FastViT(SMALL, head=Head.DENSE).double().eval()
    assert reparam.count_norms(reparam.fold(dense, layouts()[-1])) == 0


@pytest.mark.parametrize("head", builders.FASTVITS_HEADS)
@pytest.mark.parametrize("variant", QUICK)
def test_folding_leaves_no_norm_but_those_at_dense_outputs(variant: str, head: Head):
    network = FastViT(VARIANTS[variant], head=head, classes=10).eval()
    assert reparam.count_norms(reparam.fold(network)) == (4 if head in (Head.DENSE, Head.STAGES) else 0)


def test_inventory_counts_what_the_network_is_made_of():
    network = FastViT(VARIANTS["fastvit_sa12"], classes=10).eval()
    # a stem of three, one per patch embedding, one expansion; 2 + 2 + 6 RepMixer blocks in front of attention
    assert reparam.inventory(network) == {
        "RepMixer": 10,
        "MobileOne block": 3 + 3 + 1,
        "7x7 + 3x3 convolution": 3,
        "positional encoding": 1,
    }
    assert not reparam.inventory(reparam.fuse(network))


@pytest.mark.parametrize("level", Fuse)
def test_the_source_is_left_alone(level: Fuse):
    network = small()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    result = reparam.at_level(network, level)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_fusing_twice_is_fusing_once():
    once = reparam.fuse(small())
    twice = reparam.fuse(once)
    assert twice.form is Form.FUSED
    assert all(torch.equal(tensor, twice.state_dict()[key]) for key, tensor in once.state_dict().items())


# --- algebra ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_identity_kernel_returns_its_input(groups: int, size: int):
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    kernel = reparam.identity(4, groups, size)
    assert torch.equal(nn.functional.conv2d(x, kernel.weight, kernel.bias, padding=size // 2, groups=groups), x)


@torch.no_grad()
def test_a_norm_in_front_of_a_linear_layer_is_taken_in():
    norm, linear = nn.BatchNorm2d(6).double().eval(), nn.Linear(6, 4).double()
    draw(nn.ModuleList([norm, linear]), 0)
    x = torch.randn(3, 6, 5, 5, dtype=torch.float64)
    kernel = reparam.of(linear).after(norm)
    wanted = linear(norm(x).flatten(2).transpose(1, 2)).transpose(1, 2).reshape(3, 4, 5, 5)
    assert torch.allclose(nn.functional.conv2d(x, kernel.weight, kernel.bias), wanted, rtol=0, atol=1e-12)


# --- planted faults ---------------------------------------------------------------------------------------------------

Plant = Callable[[pytest.MonkeyPatch], None]


def minus(kernel: Kernel, branch: Kernel) -> Kernel:
    return kernel + branch.scaled(-torch.ones_like(branch.bias))


def kernels(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], function: Callable[..., Kernel]) -> None:
    """Put another function in the place of the one that computes the kernel of a kind of module."""
    monkeypatch.setitem(reparam.RULES, kind, replace(reparam.RULES[kind], kernel=function))


def without_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.rep_conv

    def bad(module: RepConv) -> Kernel:
        kernel = good(module)
        return kernel if module.rbr_scale is None else minus(kernel, reparam.conv_bn(module.rbr_scale))

    monkeypatch.setattr(reparam, "rep_conv", bad)
    kernels(monkeypatch, RepConv, bad)


def without_scale_in_the_mixer(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.rep_conv
    monkeypatch.setattr(reparam, "rep_conv", lambda module: minus(good(module), reparam.conv_bn(module.rbr_scale)))


def without_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.rep_conv

    def bad(module: RepConv) -> Kernel:
        kernel, conv = good(module), module.rbr_conv[0].conv
        if module.rbr_skip is None:
            return kernel
        skip = reparam.identity(conv.in_channels, conv.groups, conv.kernel_size[0])
        return minus(kernel, skip.normed(module.rbr_skip))

    monkeypatch.setattr(reparam, "rep_conv", bad)
    kernels(monkeypatch, RepConv, bad)


def without_skip_in_the_mixer(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.rep_mixer

    def bad(module: RepMixer) -> Kernel:
        channels = len(module.layer_scale)
        return minus(good(module), reparam.identity(channels, channels, 3))

    kernels(monkeypatch, RepMixer, bad)


def without_the_mixers_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.rep_mixer

    def bad(module: RepMixer) -> Kernel:
        channels = len(module.layer_scale)
        norm = reparam.identity(channels, channels, 3).normed(module.norm.rbr_skip)
        return good(module) + norm.scaled(module.layer_scale.flatten())

    kernels(monkeypatch, RepMixer, bad)


def without_layer_scale_in_the_mixer(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.rep_mixer

    def bad(module: RepMixer) -> Kernel:
        module.layer_scale.fill_(1.0)
        return good(module)

    kernels(monkeypatch, RepMixer, bad)


def without_layer_scale_in_the_ffn(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.fold_ffn
    monkeypatch.setattr(reparam, "fold_ffn", lambda target, ffn, scale: good(target, ffn, torch.ones_like(scale)))


def without_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "__add__", lambda a, b: replace(_sum(a, b), bias=a.bias))


def without_the_bias_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.of
    monkeypatch.setattr(reparam, "of", lambda conv: replace(good(conv), bias=torch.zeros_like(good(conv).bias)))


def without_a_batchnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reparam, "conv_bn", lambda module: reparam.of(module.conv))


def without_the_batchnorms_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.affine

    def bad(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        factor, _ = good(bn)
        factor = factor * ((bn.running_var + bn.eps) / bn.running_var).sqrt()
        return factor, bn.bias - bn.running_mean * factor

    monkeypatch.setattr(reparam, "affine", bad)


def without_attentions_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "after", lambda kernel, bn: kernel)


def without_the_3x3_of_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, LargeKernelConv, lambda module: reparam.conv_bn(module.lkb_origin))


def without_the_positional_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, PositionalEncoding, lambda module: reparam.of(module.pe))


def without_the_root_of_d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reparam, "HEAD_DIM", 1)


def with_padding_off_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(weight: Tensor, size: int) -> Tensor:
        rest = size - weight.shape[-1]
        return nn.functional.pad(weight, (0, rest, 0, rest))

    monkeypatch.setattr(reparam, "_pad", bad)


def with_channels_in_the_old_order(monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.fill_doubling
    monkeypatch.setattr(reparam, "fill_doubling", lambda target, kernel: good(target, kernel).sort().values)


_sum = Kernel.__add__
IN_FUSE = [
    without_scale,
    without_scale_in_the_mixer,
    without_skip,
    without_skip_in_the_mixer,
    without_the_mixers_norm,
    without_layer_scale_in_the_mixer,
    without_a_bias,
    without_the_bias_of_a_layer,
    without_a_batchnorm,
    without_the_batchnorms_eps,
    without_the_3x3_of_the_pair,
    without_the_positional_skip,
    with_padding_off_centre,
]
IN_FOLD = [
    without_layer_scale_in_the_ffn,
    without_the_bias_of_a_layer,
    without_a_batchnorm,
    without_attentions_norm,
    without_the_root_of_d,
    with_channels_in_the_old_order,
]


@torch.no_grad()
@pytest.mark.parametrize("plant", IN_FUSE)
def test_a_fault_in_fusing_is_seen(plant: Plant, monkeypatch: pytest.MonkeyPatch, difference):
    network = small()
    wanted = network(image())
    assert difference(reparam.fuse(network)(image()), wanted) < TOLERANCE
    plant(monkeypatch)
    assert difference(reparam.fuse(network)(image()), wanted) > 1000 * TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("plant", IN_FOLD)
def test_a_fault_in_folding_is_seen(plant: Plant, monkeypatch: pytest.MonkeyPatch, difference):
    network = small()
    wanted, fused = network(image()), reparam.fuse(network)
    assert difference(reparam.fold(fused)(image()), wanted) < TOLERANCE
    plant(monkeypatch)
    assert difference(reparam.fold(fused)(image()), wanted) > 1000 * TOLERANCE


def test_a_forgotten_parameter_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(reparam.RULES, PositionalEncoding)
    with pytest.raises(RuntimeError, match="Missing key"):
        reparam.fuse(small())


@torch.no_grad()
def test_why_networks_are_randomised(monkeypatch: pytest.MonkeyPatch, difference):
    """On a network as it is initialised, the loss of a whole branch looks like rounding; on these ones it does not."""
    fresh, spread = FastViT(SMALL, classes=10).double().eval(), small()
    before = fresh(image()), spread(image())
    without_scale_in_the_mixer(monkeypatch)
    after = reparam.fuse(fresh)(image()), reparam.fuse(spread)(image())
    assert torch.allclose(after[0], before[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(after[1], before[1], rtol=1e-3, atol=1e-4)
    assert difference(after[0], before[0]) > TOLERANCE  # the check used here would notice even so
