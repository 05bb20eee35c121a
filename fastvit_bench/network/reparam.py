"""Structural re-parameterisation: the algebra on weights, and the functions that fuse and fold a network with it.

The algebra is pure: tensors in, a `Kernel` (weight and bias of one convolution) out. Everything is computed in
float64: subtracting nearly equal branches in float32 loses the digits that the parity check compares.

References: RepVGG (arXiv 2101.03697, section 3.3) for branches and BatchNorm; FastViT (arXiv 2303.14189, equations 2
and 3) for RepMixer and the positional encoding; RepLKNet (arXiv 2203.06717, section 3) for the 7 x 7 + 3 x 3 pair.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.network import folded, heads
from fastvit_bench.network.fastvit import (
    HEAD_DIM,
    PROJECTED,
    ActivatedLargeKernelConv,
    Attention,
    AttentionBlock,
    ChannelNorm,
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
from fastvit_bench.records import Fuse, GraphVariant, Head
from fastvit_bench.records.spec import Triple

# --- algebra ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """Weight (C_out, C_in / groups, k, k) and bias (C_out) of a convolution, in float64."""

    weight: Tensor
    bias: Tensor

    def __add__(self, addend: "Kernel") -> "Kernel":
        """Return the kernel of two parallel convolutions on one input; the smaller kernel is padded with zeros."""
        size = max(self.weight.shape[-1], addend.weight.shape[-1])
        return Kernel(_pad(self.weight, size) + _pad(addend.weight, size), self.bias + addend.bias)

    def scaled(self, factor: Tensor) -> "Kernel":
        """Return the convolution followed by a multiplication per output channel; `factor` is (C_out)."""
        return Kernel(self.weight * factor.reshape(-1, 1, 1, 1), self.bias * factor)

    def normed(self, bn: nn.BatchNorm2d) -> "Kernel":
        """Return the convolution followed by BatchNorm: y = (x - mean) * gamma / sqrt(var + eps) + beta."""
        factor, shift = affine(bn)
        return Kernel(self.weight * factor.reshape(-1, 1, 1, 1), self.bias * factor + shift)

    def after(self, norm: "Norm") -> "Kernel":
        """Return the affine part of a norm followed by the convolution.

        It is exact without padding only, since padding puts its zeros behind the norm.
        """
        factor, shift = affine(norm)
        matrix = self.weight.sum((2, 3))
        return Kernel(self.weight * factor.reshape(1, -1, 1, 1), self.bias + matrix @ shift)


Norm = nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm


def affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """Return factor and shift (C) of a norm in evaluation: y = factor * x + shift.

    A BatchNorm consists of them alone. A GroupNorm applies them after its division by the deviation of each image, and
    a LayerNorm after that by the deviation of each position.
    """
    if isinstance(norm, nn.GroupNorm | nn.LayerNorm):
        return norm.weight.double(), norm.bias.double()
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    factor = norm.weight.double() / (var.double() + norm.eps).sqrt()
    return factor, norm.bias.double() - mean.double() * factor


def identity(channels: int, groups: int, size: int) -> Kernel:
    """Return the convolution that returns its input: one at the centre of each channel's own plane, zeros around it."""
    per_group = channels // groups
    weight = torch.zeros(channels, per_group, size, size, dtype=torch.float64)
    weight[torch.arange(channels), torch.arange(channels) % per_group, size // 2, size // 2] = 1
    return Kernel(weight, torch.zeros(channels, dtype=torch.float64))


def of(conv: nn.Conv2d | nn.Linear) -> Kernel:
    """Return a layer's own kernel; a linear layer is a 1 x 1 convolution."""
    weight = conv.weight.double()
    if weight.ndim == 2:
        weight = weight[:, :, None, None]
    bias = torch.zeros(weight.shape[0], dtype=torch.float64) if conv.bias is None else conv.bias.double()
    return Kernel(weight, bias)


def _pad(weight: Tensor, size: int) -> Tensor:
    """Return a weight with zeros around it, so that its kernel has the given size."""
    border = (size - weight.shape[-1]) // 2
    return F.pad(weight, (border,) * 4)


# --- one kernel per re-parameterisable module -------------------------------------------------------------------------


def conv_bn(module: ConvBN) -> Kernel:
    """Return the kernel of a convolution and its BatchNorm."""
    return of(module.conv).normed(module.bn)


def rep_conv(module: RepConv) -> Kernel:
    """Return the kernel of a sum of convolution, scale and skip branches."""
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
    """Return the kernel of x + s * (mixer(x) - norm(x)), equation 2 of the paper with the layer scale s."""
    channels = module.layer_scale.shape[0]
    scale = module.layer_scale.double().flatten()
    skip = identity(channels, channels, 3)
    norm = skip.normed(module.norm.rbr_skip)
    return skip + rep_conv(module.mixer).scaled(scale) + norm.scaled(-scale)


def large_kernel(module: LargeKernelConv) -> Kernel:
    """Return the kernel of a 7 x 7 and a parallel 3 x 3 convolution."""
    return conv_bn(module.lkb_origin) + conv_bn(module.small_conv)


def positional_encoding(module: PositionalEncoding) -> Kernel:
    """Return the kernel of pe(x) + x, equation 3 of the paper."""
    channels = module.pe.in_channels
    return of(module.pe) + identity(channels, channels, 7)


@dataclass(frozen=True)
class Rule:
    """Rule to fuse a kind of module: its kernel function, the convolution's published name, and a name for reports."""

    kernel: Callable[..., Kernel]
    leaf: str
    kind: str


# Looked up along a module's class hierarchy, so that a rule covers subclasses that add an activation.
RULES: dict[type[nn.Module], Rule] = {
    RepMixer: Rule(rep_mixer, "reparam_conv", "RepMixer"),
    RepConv: Rule(rep_conv, "reparam_conv", "MobileOne block"),
    LargeKernelConv: Rule(large_kernel, "lkb_reparam", "7x7 + 3x3 convolution"),
    PositionalEncoding: Rule(positional_encoding, "reparam_conv", "positional encoding"),
}


# --- surgery ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def fuse(network: FastViT) -> FastViT:
    """Return the network in the published fused form, with one convolution per re-parameterisable block, in float64.

    The function is unchanged. The state is loaded strictly, so a forgotten branch or a name that is not the published
    one raises an error, instead of causing a wrong figure later.
    """
    if network.form is Form.FUSED:
        return _copy(network)
    result = FastViT(network.variant, head=network.head_kind, classes=network.classes, form=Form.FUSED)
    result = result.double().eval()
    result.load_state_dict(fused_state(network), strict=True)
    return result


def fused_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a network's fused form, for a network of any modules.

    Every parameter that no rule fuses is copied under its own name.
    """
    state: dict[str, Tensor] = {}

    def visit(module: nn.Module, prefix: str) -> None:
        """Add the fused state of a module and its children, under keys that start with `prefix`."""
        rule = _rule(module)
        fused: set[str] = set()
        if rule is not None:
            kernel = rule.kernel(module)
            state[f"{prefix}{rule.leaf}.weight"] = kernel.weight
            state[f"{prefix}{rule.leaf}.bias"] = kernel.bias
            fused = {"rbr_conv", "rbr_scale", "rbr_skip", "lkb_origin", "small_conv", "pe", "mixer", "norm"}
        else:
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                state[prefix + name] = tensor.clone()
        for name, child in module.named_children():
            if name not in fused:
                visit(child, f"{prefix}{name}.")

    visit(network, "")
    return state


@torch.no_grad()
def fold(network: FastViT, layout: GraphVariant | None = None) -> folded.FoldedFastViT:
    """Return the folded network, which has no scale or norm to apply at run time that a convolution can hold.

    The function is unchanged and in float64. On top of `fuse`, it folds:

    * the ConvFFN's BatchNorm into its 7 x 7 convolution,
    * the norm in front of attention into q, k and v (of a LayerNorm, its weight and bias), and 1/sqrt(d) into q,
    * layer scales into the projection before them.

    `layout` selects among the equal forms (`GraphVariant`). Of images that are not divided by their standard
    deviation, the first convolution also holds the division. It cannot hold the mean, since zero padding comes between
    it and the input.
    """
    layout = layout or GraphVariant()
    source = fuse(network)
    result = folded.FoldedFastViT(source.variant, head=source.head_kind, classes=source.classes, layout=layout)
    result = result.double().eval()

    stem = [layer for layer in result.stem if isinstance(layer, nn.Conv2d)]
    for target, block in zip(stem, source.patch_embed, strict=True):
        assert isinstance(block, RepConv)
        fill(target, of(block.reparam_conv))
    if layout.std is not None:
        stem[0].weight /= torch.tensor(layout.std, dtype=torch.float64).reshape(1, 3, 1, 1)
    for target, part in zip(result.network, source.network, strict=source.head_kind is not Head.DENSE):
        _fold_part(target, part)
    norms = [source.get_submodule(f"norm{tap}") for tap in source.taps]
    if source.head_kind in heads.KINDS:
        _fold_head(result.dense_head, source.dense_head, norms)
    elif source.taps:
        for norm, bn in zip(result.norms.values(), norms, strict=True):
            if isinstance(bn, nn.Identity):  # of the stages' own maps
                continue
            assert isinstance(bn, nn.BatchNorm2d)
            if layout.norms == "batchnorm":
                norm.load_state_dict(bn.state_dict())
            else:
                fill(norm, identity(bn.num_features, bn.num_features, 1).normed(bn))
    else:
        _fold_expansion(result, source)
    return result


def _fold_expansion(target: folded.FoldedFastViT, source: FastViT) -> None:
    """Fill the expansion and what follows it, in the channel order that the expansion's form gives."""
    order = fill_doubling(target.expansion.spatial, of(source.conv_exp.reparam_conv))
    old, new = source.conv_exp.se, target.expansion.se
    _fold_excite(new.reduce, new.expand, old.reduce, old.expand, order)
    if source.head_kind in PROJECTED and source.classes:
        target.classifier.weight.copy_(source.head.weight[:, order])
        target.classifier.bias.copy_(source.head.bias)


def _fold_excite(reduce: nn.Module, expand: nn.Module, first: nn.Conv2d, second: nn.Conv2d, order: Tensor) -> None:
    """Fill the two convolutions of a squeeze-and-excite, for channels in another order."""
    fill(reduce, Kernel(of(first).weight[:, order], of(first).bias))
    fill(expand, Kernel(of(second).weight[order], of(second).bias[order]))


@torch.no_grad()
def fold_head(source: nn.Module) -> nn.Module:
    """Return a head of `heads.KINDS` with its BatchNorms folded, in float64 and evaluation mode."""
    assert isinstance(source, tuple(heads.KINDS.values()))
    channels = [lateral.in_channels for lateral in source.fpn.laterals if isinstance(lateral, nn.Conv2d)]
    with next(source.parameters()).device:
        target = type(source)(channels, block=heads.ConvReLU).double().eval()
    _fold_head(target, source)
    return target


def _fold_head(target: nn.Module, source: nn.Module, norms: Sequence[nn.Module] = ()) -> None:
    """Fill a head without BatchNorms from one with them.

    `norms` are the BatchNorms in front of its first convolutions, in the order of those; they are folded in too.
    """
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
            if isinstance(spatial, ActivatedLargeKernelConv) and spatial.se is not None:
                assert isinstance(target, folded.FoldedActivatedPatchEmbed)
                assert target.se is not None
                _fold_excite(target.se.fc1, target.se.fc2, spatial.se.fc1, spatial.se.fc2, order)
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
    """Fill a block of a folded stage from the fused block that it replaces."""
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
    target: folded.FoldedAttention, norm: nn.BatchNorm2d | ChannelNorm, attention: Attention, layer_scale: Tensor
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
    """Fill a two-output convolution in either form, and return the kernel's channel for each of its output channels."""
    channels = torch.arange(kernel.bias.numel())
    if not isinstance(target, folded.SplitConv):
        fill(target, kernel)
        return channels
    fill(target.even, Kernel(kernel.weight[0::2], kernel.bias[0::2]))
    fill(target.odd, Kernel(kernel.weight[1::2], kernel.bias[1::2]))
    return torch.cat((channels[0::2], channels[1::2]))


def fill(conv: nn.Module, kernel: Kernel) -> None:
    """Load a kernel's weights into a convolution with bias."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    conv.load_state_dict({"weight": kernel.weight, "bias": kernel.bias}, strict=True)


def _rule(module: nn.Module) -> Rule | None:
    """Return the rule of the first class in a module's hierarchy that has one; None for a block that is fused."""
    if getattr(module, "form", None) is Form.FUSED:
        return None
    return next((RULES[cls] for cls in type(module).__mro__ if cls in RULES), None)


def _copy(network: FastViT) -> FastViT:
    """Return a copy in float64 and evaluation mode that shares no tensors with the network."""
    return copy.deepcopy(network).double().eval()


class Unscaled(nn.Module):
    """A network for centred images that is not folded, and so divides them by `std` at run time."""

    factor: Tensor

    def __init__(self, network: nn.Module, std: Triple) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("factor", (1 / torch.tensor(std, dtype=torch.float64)).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs for centred images (B, 3, H, W)."""
        return self.network(x * self.factor)


def scaled(network: nn.Module, layout: GraphVariant) -> nn.Module:
    """Return a network that divides its images as `layout` says; the same one where there is nothing to divide by."""
    if layout.std is None or layout.std == (1, 1, 1):
        return network
    return Unscaled(network, layout.std).eval()


def at_level(network: FastViT, level: Fuse, layout: GraphVariant | None = None) -> nn.Module:
    """Return a copy of the network at a fuse level, in float64 and evaluation mode, sharing no tensors.

    A fused checkpoint has no unfused form, so ``Fuse.NONE`` returns it fused. Only the folded network follows every
    field of a layout; the other levels follow ``layout.std`` alone.
    """
    layout = layout or GraphVariant()
    match level:
        case Fuse.NONE:
            result = _copy(network)
        case Fuse.FUSED:
            result = fuse(network)
        case Fuse.FOLDED:
            return fold(network, layout)
    return scaled(result, layout)


# --- report -----------------------------------------------------------------------------------------------------------


def inventory(network: FastViT) -> Counter[str]:
    """Count the modules that `fuse` replaces, by kind; of a fused network, none."""
    if network.form is Form.FUSED:
        return Counter()
    counts: Counter[str] = Counter()

    def visit(module: nn.Module) -> None:
        """Count a module that a rule fuses, or else those among its children."""
        rule = _rule(module)
        if rule is not None:
            counts[rule.kind] += 1
            return
        for child in module.children():
            visit(child)

    visit(network)
    return counts


def count_norms(network: nn.Module) -> int:
    """Count the BatchNorm layers of a network."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
