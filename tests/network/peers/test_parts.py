"""Parts of other papers' networks do what their names say, and refuse to be folded where that would not be exact."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.network.fastvit import ChannelNorm
from fastvit_bench.network.peers import parts
from fastvit_bench.network.random_weights import draw
from fastvit_bench.records import GraphVariant


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mix", parts.MIXES)
@pytest.mark.parametrize("biased", [False, True])
def test_attention_is_torchs_own(mix: str, biased: bool):
    q, k, v = drawn(2, 12, 10), drawn(2, 12, 6, seed=1), drawn(2, 12, 6, seed=2)
    bias = drawn(3, 10, 6, seed=3) if biased else None
    split = [x.unflatten(1, (3, 4)).transpose(2, 3) for x in (q, k, v)]  # (B, h, N, d)
    wanted = F.scaled_dot_product_attention(*split, attn_mask=bias, scale=1.0).transpose(2, 3).flatten(1, 2)
    assert torch.allclose(parts.MIXES[mix](q, k, v, 3, bias), wanted, rtol=0, atol=1e-12)


def test_the_norm_of_channels_is_torchs_own_at_each_position():
    norm = ChannelNorm(5, eps=1e-6).double()
    draw(norm, 0)
    x = drawn(2, 5, 3, 4)
    wanted = torch.stack([F.layer_norm(y, (5,), norm.weight, norm.bias, 1e-6) for y in x.flatten(2).unbind(2)], 2)
    assert torch.allclose(norm(x).flatten(2), wanted, rtol=0, atol=1e-12)


def convolution(kernel: int, padding: int) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm2d]:
    parts_of = nn.ModuleList([nn.Conv2d(6, 8, kernel, kernel, padding), nn.BatchNorm2d(6), nn.BatchNorm2d(8)])
    draw(parts_of.double().eval(), 1)
    conv, before, behind = parts_of
    return conv, before, behind


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 2])
def test_norms_on_both_sides_fold_into_a_convolution(kernel: int):
    conv, before, behind = convolution(kernel, 0)
    x = drawn(1, 6, 8, 6)
    halved = torch.tensor([0.5] * 3 + [1.0] * 5).reshape(1, 8, 1, 1)
    wanted = behind(conv(before(x)) * halved)
    left = [
        parts.fold_before(conv, before),
        parts.fold_scale(conv, parts.Scale(0.5), 3),
        parts.fold_behind(conv, behind),
    ]
    assert all(isinstance(each, nn.Identity) for each in left)
    assert torch.allclose(conv(x), wanted, rtol=0, atol=1e-12)


def test_a_norm_does_not_fold_through_zero_padding():
    conv, before, _ = convolution(3, 1)
    with pytest.raises(AssertionError, match="zero padding"):
        parts.fold_before(conv, before)


@torch.no_grad()
def test_a_norm_that_stays_has_the_form_of_the_layout():
    _, norm, _ = convolution(1, 0)
    assert parts.remaining(norm, GraphVariant()) is norm
    other = parts.remaining(norm, GraphVariant(norms="depthwise"))
    assert isinstance(other, nn.Conv2d)
    assert torch.allclose(other(drawn(1, 6, 4, 4)), norm(drawn(1, 6, 4, 4)), rtol=0, atol=1e-12)
