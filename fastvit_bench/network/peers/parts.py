"""Parts that several peers share: LayerNorm and attention on feature maps, and the steps of folding.

Shapes in comments: B batch, C channels, H x W the feature map, N queries, M keys, h heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastvit_bench.network import reparam
from fastvit_bench.network.reparam import Kernel
from fastvit_bench.records import GraphVariant


class Scale(nn.Module):
    """A multiplication by a constant, which folds into the layer in front."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of any shape multiplied by the constant."""
        return x * self.factor


# --- attention --------------------------------------------------------------------------------------------------------

Bias = Tensor | nn.ParameterList | None  # added to the logits: one (h, N, M), or h of (N, M)

# q (B, C, N), k and v (B, C, M), heads, bias -> (B, C, N); the caller scales q
Mix = Callable[[Tensor, Tensor, Tensor, int, Bias], Tensor]


def batched(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Bias = None) -> Tensor:
    """Return attention (B, C, N), with one matrix product for all heads."""
    q, k, v = (x.unflatten(1, (heads, -1)) for x in (q, k, v))  # (B, h, d, N or M)
    logits = q.transpose(2, 3) @ k  # (B, h, N, M)
    if bias is not None:
        assert isinstance(bias, Tensor)
        logits = logits + bias
    return (v @ logits.softmax(-1).transpose(2, 3)).flatten(1, 2)


def per_head(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Bias = None) -> Tensor:
    """Return attention (B, C, N), with separate matrix products for each head, after apple/ml-ane-transformers."""
    mixed: list[Tensor] = []
    for head, (qh, kh, vh) in enumerate(zip(*(x.chunk(heads, 1) for x in (q, k, v)), strict=True)):
        logits = qh.transpose(1, 2) @ kh  # (B, N, M)
        if bias is not None:
            logits = logits + bias[head]
        mixed.append(vh @ logits.softmax(-1).transpose(1, 2))
    return torch.cat(mixed, 1)


MIXES: dict[str, Mix] = {"batched": batched, "per-head": per_head}  # by `GraphVariant.attention`


# --- folding ----------------------------------------------------------------------------------------------------------


def fill(conv: nn.Conv2d, kernel: Kernel) -> None:
    """Load a kernel's weights into a convolution with bias."""
    conv.load_state_dict({"weight": kernel.weight, "bias": kernel.bias}, strict=True)


def fold_behind(conv: nn.Module, norm: nn.Module) -> nn.Identity:
    """Fold a BatchNorm into the convolution in front of it, and return the module that replaces the BatchNorm."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    fill(conv, reparam.of(conv).normed(norm))
    return nn.Identity()


def fold_before(conv: nn.Module, norm: nn.Module) -> nn.Identity:
    """Fold a BatchNorm into the convolution behind it, which has no padding, and return the BatchNorm's replacement."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert conv.padding == (0, 0), "zero padding stands between the norm and the convolution"
    fill(conv, reparam.of(conv).after(norm))
    return nn.Identity()


def fold_scale(conv: nn.Conv2d, scale: nn.Module, channels: int) -> nn.Identity:
    """Fold a `Scale` of a convolution's first `channels` outputs into it, and return the module that replaces it."""
    assert isinstance(scale, Scale)
    kernel = reparam.of(conv)
    factor = torch.ones_like(kernel.bias)
    factor[:channels] = scale.factor
    fill(conv, kernel.scaled(factor))
    return nn.Identity()


def remaining(norm: nn.Module, layout: GraphVariant) -> nn.Module:
    """Return a BatchNorm that cannot be folded, or its depthwise convolution if the layout asks for one."""
    assert isinstance(norm, nn.BatchNorm2d)
    if layout.norms == "batchnorm":
        return norm
    channels = norm.num_features
    conv = nn.Conv2d(channels, channels, 1, groups=channels).double()
    fill(conv, reparam.identity(channels, channels, 1).normed(norm))
    return conv
