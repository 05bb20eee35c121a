"""Structural re-parameterisation: first the algebra on weights, then the walk over a network that applies it.

The algebra is pure: tensors in, a `Kernel` (weight and bias of one convolution) out. Everything is computed in
float64, because subtracting nearly equal branches in float32 loses the digits the parity check looks at.

References: RepVGG (arXiv 2101.03697, section 3.3) for branches and BatchNorm; FastViT (arXiv 2303.14189, equations 2
and 3) for RepMixer and the positional encoding; RepLKNet (arXiv 2203.06717, section 3) for the 7 x 7 + 3 x 3 pair.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.network import folded, heads
from fastvit_bench.network.fastvit import (
    HEAD_DIM,
    Attention,
    AttentionBlock,
    ConvBN,
    ConvFFN,
    FastViT,
    Form,
    LargeKernelConv,
    PatchEmbed,
    PositionalEncoding,
    RepConv,
    RepMixer,
    RepMixerBlock,
)
from fastvit_bench.records import STD, Fuse, Head, Layout

# --- algebra ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """Weight (C_out, C_in / groups, k, k) and bias (C_out) of a convolution, in float64."""

    weight: Tensor
    bias: Tensor

    def __add__(self, other: "Kernel") -> "Kernel":
        """Two parallel convolutions on one input, added. The smaller kernel is padded with zeros around it."""
        size = max(self.weight.shape[-1], other.weight.shape[-1])
        return Kernel(_pad(self.weight, size) + _pad(other.weight, size), self.bias + other.bias)

    def scaled(self, factor: Tensor) -> "Kernel":
        """The convolution followed by a multiplication per output channel; `factor` is (C_out)."""
        return Kernel(self.weight * factor.reshape(-1, 1, 1, 1), self.bias * factor)

    def normed(self, bn: nn.BatchNorm2d) -> "Kernel":
        """The convolution followed by BatchNorm: y = (x - mean) * gamma / sqrt(var + eps) + beta."""
        factor, shift = affine(bn)
        return Kernel(self.weight * factor.reshape(-1, 1, 1, 1), self.bias * factor + shift)

    def after(self, norm: nn.BatchNorm2d | nn.GroupNorm) -> "Kernel":
        """What is affine of a norm, then the convolution. Exact without padding only: zeros come after the norm."""
        factor, shift = affine(norm)
        matrix = self.weight.sum((2, 3))
        return Kernel(self.weight * factor.reshape(1, -1, 1, 1), self.bias + matrix @ shift)


def affine(norm: nn.BatchNorm2d | nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Factor and shift (C) of a norm in evaluation: y = factor * x + shift.

    A BatchNorm is nothing else. Of a GroupNorm they are what follows its division by the deviation of each image.
    """
    if isinstance(norm, nn.GroupNorm):
        return norm.weight.double(), norm.bias.double()
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    factor = norm.weight.double() / (var.double() + norm.eps).sqrt()
    return factor, norm.bias.double() - mean.double() * factor


def identity(channels: int, groups: int, size: int) -> Kernel:
    """The convolution that returns its input: one at the centre of each channel's own plane, zero elsewhere."""
    per_group = channels // groups
    weight = torch.zeros(channels, per_group, size, size, dtype=torch.float64)
    weight[torch.arange(channels), torch.arange(channels) % per_group, size // 2, size // 2] = 1
    return Kernel(weight, torch.zeros(channels, dtype=torch.float64))


def of(conv: nn.Conv2d | nn.Linear) -> Kernel:
    """A layer's own kernel; a linear layer is a 1 x 1 convolution."""
    weight = conv.weight.double()
    if weight.ndim == 2:
        weight = weight[:, :, None, None]
    bias = torch.zeros(weight.shape[0], dtype=torch.float64) if conv.bias is None else conv.bias.double()
    return Kernel(weight, bias)


def _pad(weight: Tensor, size: int) -> Tensor:
    border = (size - weight.shape[-1]) // 2
    return F.pad(weight, (border,) * 4)


# --- one kernel per re-parameterisable module -------------------------------------------------------------------------


def conv_bn(module: ConvBN) -> Kernel:
    """Convolution + BatchNorm."""
    return of(module.conv).normed(module.bn)


def rep_conv(module: RepConv) -> Kernel:
    """Sum of convolution, scale and skip branches."""
    conv, *more = module.rbr_conv
    assert isinstance(conv, ConvBN)
    kernel = conv_bn(conv)
    for branch in more:
        assert isinstance(branch, ConvBN)
        kernel = kernel + conv_bn(branch)
    if module.rbr_scale is not None:
        kernel = kernel + conv_bn(module.rbr_scale)
    if module.rbr_skip is not None:
        groups = conv.conv.groups
        kernel = kernel + identity(conv.conv.in_channels, groups, conv.conv.kernel_size[0]).normed(module.rbr_skip)
    return kernel


def rep_mixer(module: RepMixer) -> Kernel:
    """x + s * (mixer(x) - norm(x)), equation 2 of the paper with the layer scale s."""
    channels = module.layer_scale.shape[0]
    scale = module.layer_scale.double().flatten()
    skip = identity(channels, channels, 3)
    norm = skip.normed(module.norm.rbr_skip)
    return skip + rep_conv(module.mixer).scaled(scale) + norm.scaled(-scale)


def large_kernel(module: LargeKernelConv) -> Kernel:
    """7 x 7 + 3 x 3."""
    return conv_bn(module.lkb_origin) + conv_bn(module.small_conv)


def positional_encoding(module: PositionalEncoding) -> Kernel:
    """pe(x) + x."""
    channels = module.pe.in_channels
    return of(module.pe) + identity(channels, channels, 7)


@dataclass(frozen=True)
class Rule:
    """How a kind of module is fused: its kernel, the published name of the convolution, and what to call it."""

    kernel: Callable[..., Kernel]
    leaf: str
    kind: str


# Looked up along a module's class hierarchy, so that subclasses with an activation behind them are found too.
RULES: dict[type[nn.Module], Rule] = {
    RepMixer: Rule(rep_mixer, "reparam_conv", "RepMixer"),
    RepConv: Rule(rep_conv, "reparam_conv", "MobileOne block"),
    LargeKernelConv: Rule(large_kernel, "lkb_reparam", "7x7 + 3x3 convolution"),
    PositionalEncoding: Rule(positional_encoding, "reparam_conv", "positional encoding"),
}


# --- surgery ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def fuse(network: FastViT) -> FastViT:
    """The same function with one convolution per re-parameterisable block: the published fused form, in float64.

    The state is loaded strictly, so a branch that were forgotten, or a name that is not the published one, is an error
    here and not a wrong figure later.
    """
    if network.form is Form.FUSED:
        return _copy(network)
    result = FastViT(network.variant, head=network.head_kind, classes=network.classes, form=Form.FUSED)
    result = result.double().eval()
    result.load_state_dict(fused_state(network), strict=True)
    return result


def fused_state(network: nn.Module) -> dict[str, Tensor]:
    """State dict of the fused form of a network, whatever it is made of.

    Every parameter that no rule takes in is carried over under its own name.
    """
    state: dict[str, Tensor] = {}

    def visit(module: nn.Module, prefix: str) -> None:
        rule = _rule(module)
        taken: set[str] = set()
        if rule is not None:
            kernel = rule.kernel(module)
            state[f"{prefix}{rule.leaf}.weight"] = kernel.weight
            state[f"{prefix}{rule.leaf}.bias"] = kernel.bias
            taken = {"rbr_conv", "rbr_scale", "rbr_skip", "lkb_origin", "small_conv", "pe", "mixer", "norm"}
        else:
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                state[prefix + name] = tensor.clone()
        for name, child in module.named_children():
            if name not in taken:
                visit(child, f"{prefix}{name}.")

    visit(network, "")
    return state


@torch.no_grad()
def fold(network: FastViT, layout: Layout | None = None) -> folded.FoldedFastViT:
    """The same function with nothing left to multiply or normalise at run time, in float64.

    On top of `fuse`: the ConvFFN's BatchNorm into its 7 x 7 convolution, the BatchNorm in front of attention and
    1/sqrt(d) into q, k and v, layer scales into the projection before them. `layout` says which of the equal forms it
    takes (`Layout`); with centred images the division by the standard deviation is in the first convolution too. (The
    mean is not: zero padding stands between the input and the convolution.)
    """
    layout = layout or Layout()
    source = fuse(network)
    result = folded.FoldedFastViT(source.variant, head=source.head_kind, classes=source.classes, layout=layout)
    result = result.double().eval()

    stem = [layer for layer in result.stem if isinstance(layer, nn.Conv2d)]
    for target, block in zip(stem, source.patch_embed, strict=True):
        assert isinstance(block, RepConv)
        fill(target, of(block.reparam_conv))
    if layout.images == "centred":
        stem[0].weight /= torch.tensor(STD, dtype=torch.float64).reshape(1, 3, 1, 1)
    for target, part in zip(result.network, source.network, strict=source.head_kind is not Head.DENSE):
        _fold_part(target, part)
    norms = [source.get_submodule(f"norm{tap}") for tap in source.taps]
    if source.head_kind in heads.KINDS:
        _fold_head(result.dense_head, source.dense_head, norms)
    elif source.taps:
        for norm, bn in zip(result.norms.values(), norms, strict=True):
            assert isinstance(bn, nn.BatchNorm2d)
            if layout.norms == "batchnorm":
                norm.load_state_dict(bn.state_dict())
            else:
                fill(norm, identity(bn.num_features, bn.num_features, 1).normed(bn))
    else:
        order = fill_doubling(result.expansion.spatial, of(source.conv_exp.reparam_conv))
        reduce, expand = of(source.conv_exp.se.reduce), of(source.conv_exp.se.expand)
        fill(result.expansion.se.reduce, Kernel(reduce.weight[:, order], reduce.bias))
        fill(result.expansion.se.expand, Kernel(expand.weight[order], expand.bias[order]))
        result.classifier.weight.copy_(source.head.weight[:, order])
        result.classifier.bias.copy_(source.head.bias)
    return result


@torch.no_grad()
def fold_head(source: nn.Module) -> nn.Module:
    """One of the heads of `heads.KINDS` with its BatchNorms folded, in float64 and evaluation mode."""
    assert isinstance(source, tuple(heads.KINDS.values()))
    channels = [lateral.in_channels for lateral in source.fpn.laterals if isinstance(lateral, nn.Conv2d)]
    with next(source.parameters()).device:
        target = type(source)(channels, block=heads.ConvReLU).double().eval()
    _fold_head(target, source)
    return target


def _fold_head(target: nn.Module, source: nn.Module, norms: Sequence[nn.Module] = ()) -> None:
    """Fill a head without BatchNorms; those in front of its first convolutions, in the same order, are taken in too."""
    for name, part in source.named_modules():
        if isinstance(part, nn.Conv2d):
            fill(target.get_submodule(name), of(part))
    for name, part in source.named_modules():
        if isinstance(part, heads.ConvNormReLU):
            fill(target.get_submodule(f"{name}.conv"), of(part.conv).normed(part.bn))
    if norms:
        laterals = target.get_submodule("fpn.laterals")
        assert isinstance(laterals, nn.ModuleList)
        for lateral, norm in zip(laterals, norms, strict=True):
            assert isinstance(lateral, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            fill(lateral, of(lateral).after(norm))


def _fold_part(target: nn.Module, part: nn.Module) -> None:
    """Fill one entry of the folded network from the same entry of the fused one."""
    match part:
        case PatchEmbed():
            assert isinstance(target, folded.FoldedPatchEmbed)
            spatial, across = part.proj
            assert isinstance(spatial, LargeKernelConv)
            assert isinstance(across, RepConv)
            order = fill_doubling(target.spatial, of(spatial.lkb_reparam))
            kernel = of(across.reparam_conv)
            fill(target.across, Kernel(kernel.weight[:, order], kernel.bias))
        case PositionalEncoding():
            fill(target, of(part.reparam_conv))
        case nn.Sequential():
            assert isinstance(target, nn.Sequential)
            for block, source in zip(target, part, strict=True):
                _fold_block(block, source)
        case _:
            raise TypeError(f"no rule folds {type(part).__name__}")


def _fold_block(target: nn.Module, block: nn.Module) -> None:
    match target, block:
        case folded.FoldedRepMixerBlock(), RepMixerBlock():
            fill(target.mixer, of(block.token_mixer.reparam_conv))
            fold_ffn(target.ffn, block.convffn, block.layer_scale)
        case folded.FoldedAttentionBlock(), AttentionBlock():
            fold_attention(target.attention, block.norm, block.token_mixer, block.layer_scale_1)
            fold_ffn(target.ffn, block.convffn, block.layer_scale_2)
        case _:
            raise TypeError(f"no rule folds {type(block).__name__}")


def fold_attention(
    target: folded.FoldedAttention, norm: nn.BatchNorm2d, attention: Attention, layer_scale: Tensor
) -> None:
    """Fill attention with the norm in front of it, its own 1/sqrt(d) and the layer scale behind it."""
    qkv = of(attention.qkv).after(norm)
    factor = torch.ones_like(qkv.bias)
    factor[: factor.numel() // 3] = HEAD_DIM**-0.5
    fill(target.qkv, qkv.scaled(factor))
    fill(target.proj, of(attention.proj).scaled(layer_scale.flatten()))


def fold_ffn(target: folded.FoldedFFN, ffn: ConvFFN, layer_scale: Tensor) -> None:
    """Fill a feed-forward network with its BatchNorm and the layer scale behind it."""
    fill(target.conv, conv_bn(ffn.conv))
    fill(target.fc1, of(ffn.fc1))
    fill(target.fc2, of(ffn.fc2).scaled(layer_scale.flatten()))


def fill_doubling(target: nn.Module, kernel: Kernel) -> Tensor:
    """Fill a two-output convolution in either form; returns, for each of its output channels, the kernel's channel."""
    channels = torch.arange(kernel.bias.numel())
    if not isinstance(target, folded.SplitConv):
        fill(target, kernel)
        return channels
    fill(target.even, Kernel(kernel.weight[0::2], kernel.bias[0::2]))
    fill(target.odd, Kernel(kernel.weight[1::2], kernel.bias[1::2]))
    return torch.cat((channels[0::2], channels[1::2]))


def fill(conv: nn.Module, kernel: Kernel) -> None:
    """Give a convolution with bias the kernel's weights."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    conv.load_state_dict({"weight": kernel.weight, "bias": kernel.bias}, strict=True)


def _rule(module: nn.Module) -> Rule | None:
    return next((RULES[cls] for cls in type(module).__mro__ if cls in RULES), None)


def _copy(network: FastViT) -> FastViT:
    result = FastViT(network.variant, head=network.head_kind, classes=network.classes, form=network.form)
    result = result.double().eval()
    result.load_state_dict(network.state_dict(), strict=True)
    return result


class Unscaled(nn.Module):
    """A network that is not folded, given centred images: the division by the standard deviation stays an operation."""

    factor: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("factor", (1 / torch.tensor(STD, dtype=torch.float64)).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * self.factor)


def at_level(network: FastViT, level: Fuse, layout: Layout | None = None) -> nn.Module:
    """The network at a fuse level, in float64 and evaluation mode. A fused checkpoint has no unfused form to return.

    Only the folded network takes the whole of a layout; the others follow what it says of the images. The result of
    ``Fuse.NONE`` shares nothing with `network` either.
    """
    layout = layout or Layout()
    match level:
        case Fuse.NONE:
            result = _copy(network)
        case Fuse.FUSED:
            result = fuse(network)
        case Fuse.FOLDED:
            return fold(network, layout)
    return Unscaled(result).eval() if layout.images == "centred" else result


# --- report -----------------------------------------------------------------------------------------------------------


def inventory(network: FastViT) -> Counter[str]:
    """How many modules of each kind `fuse` takes in; of a fused network, none."""
    if network.form is Form.FUSED:
        return Counter()
    found: Counter[str] = Counter()

    def visit(module: nn.Module) -> None:
        rule = _rule(module)
        if rule is not None:
            found[rule.kind] += 1
            return
        for child in module.children():
            visit(child)

    visit(network)
    return found


def count_norms(network: nn.Module) -> int:
    """BatchNorm layers left in a network."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
