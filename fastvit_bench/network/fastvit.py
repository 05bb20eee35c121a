"""FastViT as the paper describes it (arXiv 2303.14189), in training form and in re-parameterised form.

Reading order: the over-parameterised convolution, the token mixers, the feed-forward network, the two blocks, the
patch embedding and positional encoding between stages, and the network. The seven variants are in `registry`.
Module names are those of the published checkpoints, so that their state dicts load without renaming.

The image encoders of MobileCLIP and FastVLM are the same network with the differences that `registry.Variant` names.

Shapes in comments: B batch, C channels, H x W the feature map, N = H*W tokens, h heads of d = 32 channels.
"""

from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.errors import UsageError
from fastvit_bench.network import heads
from fastvit_bench.network.registry import VARIANTS, Downsampling, Mixer, Variant
from fastvit_bench.records import Gelu, Head

__all__ = ["DENSE_TAPS", "HEAD_DIM", "VARIANTS", "FastViT", "Form", "Mixer", "Variant", "taps"]

HEAD_DIM = 32  # channels per attention head


class Form(StrEnum):
    """Form of a re-parameterisable block's weights: the branches it is trained with, or one convolution."""

    UNFUSED = "unfused"
    FUSED = "fused"


# --- convolutions -----------------------------------------------------------------------------------------------------


class Activated(nn.Module):
    """A module with GELU, exact or by tanh as `set_gelu` says."""

    gelu: Gelu = "erf"

    def activate(self, x: Tensor) -> Tensor:
        """Return GELU of a tensor of any shape."""
        return F.gelu(x, approximate=APPROXIMATE[self.gelu])


APPROXIMATE: dict[Gelu, str] = {"erf": "none", "tanh": "tanh"}  # torch's names


def set_gelu(network: nn.Module, gelu: Gelu) -> None:
    """Compute every GELU of a network in one way."""
    for module in network.modules():
        if isinstance(module, Activated):
            module.gelu = gelu


def padded(x: Tensor, variant: Variant) -> Tensor:
    """Return images (B, C, H, W) with zeros to their right and below, up to multiples of a design's stride.

    Without `variant.pad` they stay as they are.
    """
    bottom, right = (-size % variant.stride for size in x.shape[2:]) if variant.pad else (0, 0)
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


LEAST_NORM = 2.0**-14  # the smallest number that float16 holds with all its bits


def embedded(x: Tensor, variant: Variant) -> Tensor:
    """Return vectors (B, C) divided by their L2 norms where `variant.normalize` asks for it, else as they are."""
    return unit_length(x) if variant.normalize else x


def unit_length(x: Tensor) -> Tensor:
    """Return vectors (B, C) divided by their L2 norms, as ``torch.nn.functional.normalize`` divides them.

    They are divided by their largest magnitude first, so that no square overflows or vanishes in float16. Norms below
    ``LEAST_NORM ** 2``, 4e-9, count as that: torch's own least, 1e-12, is 0 in float16. A vector of zeros stays one.
    """
    # without abs, amax, sum and norm: torch's exporter writes those of float16 between casts to float32
    largest = torch.maximum(x, -x).max(1, keepdim=True).values  # (B, 1)
    x = x / largest.clamp(min=LEAST_NORM)  # (B, C), the largest magnitude 1
    norm = (x * x).mean(1, keepdim=True).sqrt() * x.shape[1] ** 0.5  # (B, 1)
    return x / norm.clamp(min=LEAST_NORM)


class ConvBN(nn.Sequential):
    """A convolution without bias and its BatchNorm, padded to keep H x W at stride 1."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)


class RepConv(nn.Module):
    """A linear convolution that is trained as a sum of branches (section 3.2.1; MobileOne, arXiv 2206.04040).

    The branches are k x k convolution + BatchNorm, 1 x 1 convolution + BatchNorm (*scale*, when k > 1) and a lone
    BatchNorm (*skip*, when input and output have the same shape).
    """

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, *, form: Form, scale: bool = True
    ) -> None:
        super().__init__()
        self.form = form
        if form is Form.FUSED:
            self.reparam_conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups)
            return
        self.rbr_conv = nn.ModuleList([ConvBN(cin, cout, kernel, stride, groups)])
        self.rbr_scale = ConvBN(cin, cout, 1, stride, groups) if scale and kernel > 1 else None
        self.rbr_skip = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None

    def branches(self) -> list[nn.Module]:
        """Return the branches whose outputs are summed; of a fused block, its one convolution."""
        if self.form is Form.FUSED:
            return [self.reparam_conv]
        return [branch for branch in (*self.rbr_conv, self.rbr_scale, self.rbr_skip) if branch is not None]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/stride, W/stride) for a map (B, cin, H, W)."""
        first, *remaining = self.branches()
        out = first(x)
        for branch in remaining:
            out = out + branch(x)
        return out


class MobileOneBlock(RepConv, Activated):
    """A re-parameterisable convolution and GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/stride, W/stride) for a map (B, cin, H, W)."""
        return self.activate(super().forward(x))


class SqueezeExcite(nn.Module):
    """Channel attention (arXiv 1709.01507) with a reduction of 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 16, 1)
        self.expand = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return excited(x, self.reduce, self.expand)


class DownsamplingExcite(nn.Module):
    """Channel attention with a reduction of 4, in front of the GELU of a downsampling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 4, 1)
        self.fc2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return excited(x, self.fc1, self.fc2)


def excited(x: Tensor, reduce: nn.Module, expand: nn.Module) -> Tensor:
    """Return a map (B, C, H, W) times a factor per channel, which two 1 x 1 convolutions take from its means."""
    s = F.adaptive_avg_pool2d(x, 1)  # (B, C, 1, 1)
    return x * torch.sigmoid(expand(F.relu(reduce(s))))


class MobileOneSEBlock(RepConv, Activated):
    """A re-parameterisable convolution, squeeze-and-excite, and GELU: the expansion in front of the classifier."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, *, form: Form) -> None:
        super().__init__(cin, cout, kernel, stride, groups, form=form)
        self.se = SqueezeExcite(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/stride, W/stride) for a map (B, cin, H, W)."""
        return self.activate(self.se(super().forward(x)))


class LargeKernelConv(nn.Module):
    """A 7 x 7 convolution trained beside a 3 x 3 one (section 3.2.2; RepLKNet, arXiv 2203.06717).

    The published class of FastViT also applies GELU to the sum, but discards the result. The published weights were
    trained that way, so there is no activation between this convolution and the next. MobileCLIP's networks use it.
    """

    def __init__(self, cin: int, cout: int, stride: int, groups: int, *, form: Form) -> None:
        super().__init__()
        self.form = form
        if form is Form.FUSED:
            self.lkb_reparam = nn.Conv2d(cin, cout, 7, stride, 3, groups=groups)
            return
        self.lkb_origin = ConvBN(cin, cout, 7, stride, groups)
        self.small_conv = ConvBN(cin, cout, 3, stride, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/stride, W/stride) for a map (B, cin, H, W)."""
        if self.form is Form.FUSED:
            return self.lkb_reparam(x)
        return self.lkb_origin(x) + self.small_conv(x)


class ActivatedLargeKernelConv(LargeKernelConv, Activated):
    """A large-kernel convolution, squeeze-and-excite where the stage has it, and GELU."""

    def __init__(self, cin: int, cout: int, stride: int, groups: int, *, form: Form, excite: bool) -> None:
        super().__init__(cin, cout, stride, groups, form=form)
        self.se = DownsamplingExcite(cout) if excite else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/stride, W/stride) for a map (B, cin, H, W)."""
        x = super().forward(x)
        return self.activate(x if self.se is None else self.se(x))


# --- token mixers and feed-forward network ----------------------------------------------------------------------------


class SkipNorm(nn.Module):
    """The BatchNorm that RepMixer subtracts: a re-parameterisable block with the skip branch alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rbr_skip = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.rbr_skip(x)


class RepMixer(nn.Module):
    """Token mixing by a depthwise convolution without a skip connection at inference (section 3.1, equation 2)."""

    def __init__(self, channels: int, *, form: Form) -> None:
        super().__init__()
        self.form = form
        if form is Form.FUSED:
            self.reparam_conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
            return
        self.norm = SkipNorm(channels)
        self.mixer = RepConv(channels, channels, 3, groups=channels, form=form)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        if self.form is Form.FUSED:
            return self.reparam_conv(x)
        return x + self.layer_scale * (self.mixer(x) - self.norm(x))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the normalised map (B, C, H, W)."""
        x = input.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over the N = H*W positions of a feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_DIM
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        b, c, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)  # (B, N, C)
        qkv = self.qkv(x).reshape(b, -1, 3, self.heads, HEAD_DIM)  # (B, N, 3, h, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x (B, h, N, d)
        attention = ((q * HEAD_DIM**-0.5) @ k.transpose(-2, -1)).softmax(-1)  # (B, h, N, N)
        x = (attention @ v).transpose(1, 2).reshape(b, -1, c)  # (B, N, C)
        return self.proj(x).transpose(1, 2).reshape(b, c, height, width)


class ConvFFN(Activated):
    """Feed-forward network with a 7 x 7 depthwise convolution in front (section 3.2.2)."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels, channels, 7, groups=channels)
        self.fc1 = nn.Conv2d(channels, ratio * channels, 1)
        self.fc2 = nn.Conv2d(ratio * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.fc2(self.activate(self.fc1(self.conv(x))))


# --- blocks -----------------------------------------------------------------------------------------------------------


class RepMixerBlock(nn.Module):
    """RepMixer and ConvFFN: the block of stages 1 to 3 of every variant, and of stage 4 of the T and S ones."""

    def __init__(self, channels: int, ratio: int, *, form: Form) -> None:
        super().__init__()
        self.token_mixer = RepMixer(channels, form=form)
        self.convffn = ConvFFN(channels, ratio)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        x = self.token_mixer(x)
        return x + self.layer_scale * self.convffn(x)


class AttentionBlock(nn.Module):
    """Attention and ConvFFN: the block of stage 4 of the SA and MA variants, and of the last stages of encoders."""

    def __init__(self, channels: int, ratio: int, norm: type[nn.BatchNorm2d | ChannelNorm] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.token_mixer = Attention(channels)
        self.convffn = ConvFFN(channels, ratio)
        self.layer_scale_1 = _layer_scale(channels)
        self.layer_scale_2 = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        x = x + self.layer_scale_1 * self.token_mixer(self.norm(x))
        return x + self.layer_scale_2 * self.convffn(x)


class PatchEmbed(nn.Module):
    """Patch embedding that halves H x W between stages: 7 x 7 convolution per input channel, then 1 x 1 across them."""

    def __init__(self, cin: int, cout: int, *, form: Form, between: Downsampling, stage: int) -> None:
        super().__init__()
        spatial = (
            ActivatedLargeKernelConv(cin, cout, 2, cin, form=form, excite=stage in between.excited)
            if between.gelu
            else LargeKernelConv(cin, cout, stride=2, groups=cin, form=form)
        )
        self.proj = nn.Sequential(spatial, MobileOneBlock(cout, cout, 1, form=form))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/2, W/2) for a map (B, cin, H, W)."""
        return self.proj(x)


class PositionalEncoding(nn.Module):
    """Conditional positional encoding (arXiv 2102.10882): a depthwise 7 x 7 convolution added to its input."""

    def __init__(self, channels: int, *, form: Form) -> None:
        super().__init__()
        self.form = form
        conv = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        if form is Form.FUSED:
            self.reparam_conv = conv
        else:
            self.pe = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        if self.form is Form.FUSED:
            return self.reparam_conv(x)
        return self.pe(x) + x


# --- the network ------------------------------------------------------------------------------------------------------


# The dense network returns the outputs of these entries of `network`, as the published one does. With a positional
# encoding in front of stage 4, the last entry is that encoding (index 6), not the stage (index 7). The published
# detection and segmentation weights were trained so (apple/ml-fastvit, pull request 4).
DENSE_TAPS = (0, 2, 4, 6)


def taps(variant: Variant, head: Head) -> tuple[int, ...]:
    """Return the indices of the entries of `FastViT.network` whose outputs a head reads; none for a classifier."""
    match head:
        case Head.CLASSIFIER | Head.EMBEDDING | Head.TOKENS:
            return ()
        case Head.DENSE:
            return DENSE_TAPS
        case Head.STAGES | Head.FEATURES | Head.SEGMENTER | Head.DETECTOR:
            if variant.last is Mixer.REPMIXER:
                return (0, 2, 4, 6)
            return (0, 2, 4, 7, 10)[: len(variant.blocks)]


class FastViT(nn.Module):
    """FastViT for classification, as a dense backbone, or as an image encoder.

    ``forward`` takes normalised images (B, 3, H, W), H and W multiples of ``variant.stride`` unless ``variant.pad``,
    and as many channels as ``variant.channels_in``. It returns

    - with ``Head.CLASSIFIER`` logits (B, classes),
    - with ``Head.EMBEDDING`` the embedding (B, classes), or without a projection (0 classes) the features (B, 2C),
    - with ``Head.TOKENS`` the features at each position, row by row (B, H/stride * W/stride, 2C),
    - with ``Head.DENSE`` and ``Head.STAGES`` normalised feature maps (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32, …,
    - with ``Head.FEATURES`` the stages' own maps, of the same shapes,
    - with the other heads the outputs of the module of `heads` that reads the maps of ``Head.STAGES``.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        head: Head = Head.CLASSIFIER,
        classes: int = 1000,
        form: Form = Form.UNFUSED,
    ) -> None:
        super().__init__()
        check_head(variant, head)
        self.variant, self.head_kind, self.classes, self.form = variant, head, classes, form
        stem, final = variant.channels[0], variant.channels[-1]

        self.patch_embed = nn.Sequential(
            MobileOneBlock(variant.channels_in, stem, 3, stride=2, form=form, scale=variant.stem_scale),
            MobileOneBlock(stem, stem, 3, stride=2, groups=stem, form=form, scale=variant.stem_scale),
            MobileOneBlock(stem, stem, 1, form=form),
        )

        norm = nn.BatchNorm2d if variant.norm == "batchnorm" else ChannelNorm
        network: list[nn.Module] = []
        for stage, (blocks, channels) in enumerate(zip(variant.blocks, variant.channels, strict=True), 1):
            if stage > 1:
                before = variant.channels[stage - 2]
                network.append(PatchEmbed(before, channels, form=form, between=variant.downsampling, stage=stage))
            if stage > 3 and variant.last is Mixer.ATTENTION:
                network.append(PositionalEncoding(channels, form=form))
                network.append(nn.Sequential(*(AttentionBlock(channels, variant.ratio, norm) for _ in range(blocks))))
            else:
                network.append(
                    nn.Sequential(*(RepMixerBlock(channels, variant.ratio, form=form) for _ in range(blocks)))
                )
        self.network = nn.ModuleList(network)

        self.taps = taps(variant, head)
        for tap, channels in zip(self.taps, variant.channels, strict=bool(self.taps)):
            self.add_module(f"norm{tap}", nn.Identity() if head is Head.FEATURES else nn.BatchNorm2d(channels))
        if head in heads.KINDS:
            self.dense_head = heads.KINDS[head](variant.channels)
        if not self.taps:
            self.conv_exp = MobileOneSEBlock(final, 2 * final, 3, groups=final, form=form)
        if head in PROJECTED and classes:
            self.head = nn.Linear(2 * final, classes)
        set_gelu(self, variant.gelu)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs of the head for images (B, 3, H, W)."""
        x = self.patch_embed(padded(x, self.variant))
        maps: list[Tensor] = []
        for index, part in enumerate(self.network):
            x = part(x)
            if index in self.taps:
                maps.append(self.get_submodule(f"norm{index}")(x))
        if self.head_kind in heads.KINDS:
            return self.dense_head(maps)
        if self.taps:
            return tuple(maps)
        x = self.conv_exp(x)  # (B, 2C, H/stride, W/stride)
        if self.head_kind is Head.TOKENS:
            return x.flatten(2).transpose(1, 2)
        x = x.mean((2, 3))
        return embedded(self.head(x) if self.classes else x, self.variant)


PROJECTED = (Head.CLASSIFIER, Head.EMBEDDING)  # heads that end in a linear layer, whose outputs `classes` counts


def can_have(variant: Variant, head: Head) -> bool:
    """Return whether a network may have a head: dense ones were published for four stages only."""
    return len(variant.blocks) == 4 or head not in (Head.DENSE, *heads.KINDS)


def check_head(variant: Variant, head: Head) -> None:
    """Raise `UsageError` for a head that a network cannot have."""
    if not can_have(variant, head):
        raise UsageError(f"A network of five stages has no head '{head}'; take embedding, tokens or stages.")


def _layer_scale(channels: int) -> nn.Parameter:
    """Return a layer scale (C, 1, 1) at the initial value of training, 1e-5."""
    return nn.Parameter(torch.full((channels, 1, 1), 1e-5))
