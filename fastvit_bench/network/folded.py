"""FastViT as deployed: convolutions, GELU, additions and attention, with everything constant computed in advance.

The modules have no training form and no BatchNorm. `reparam.fold` fills them from a fused network. Where the layout
differs from the paper's figure, the results are equal and the runtime has less work:

* A convolution with two outputs per input channel (patch embedding, expansion before the classifier) may be split into
  two depthwise convolutions. Some runtimes have faster kernels for those. The weights behind it absorb the new channel
  order.
* Attention keeps channels first, so that a 1 x 1 convolution produces q, k and v. No transposition remains between it
  and the matrix products. The products are over all heads at once, or per head.

A network's `GraphVariant` selects among these forms; none changes the outputs.

Shapes in comments: B batch, C channels, H x W the feature map, N = H*W tokens, h heads of d = 32 channels.
"""

from collections.abc import Callable
from functools import partial

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.network import heads
from fastvit_bench.network.fastvit import (
    HEAD_DIM,
    PROJECTED,
    Activated,
    DownsamplingExcite,
    Mixer,
    SqueezeExcite,
    Variant,
    check_head,
    embedded,
    padded,
    set_gelu,
    taps,
)
from fastvit_bench.records import GraphVariant, Head


def depthwise(channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a depthwise convolution with bias, padded to keep H x W at stride 1."""
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)


def pointwise(cin: int, cout: int) -> nn.Conv2d:
    """Return a 1 x 1 convolution with bias."""
    return nn.Conv2d(cin, cout, 1)


class GELU(Activated):
    """GELU as a layer of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Return GELU of a tensor of any shape."""
        return self.activate(x)


def factorised_stem(channels_in: int, channels: int) -> nn.Sequential:
    """Return the stem, from image to stride 4: dense 3 x 3, depthwise 3 x 3 and 1 x 1 convolution, each with GELU."""
    first, second = nn.Conv2d(channels_in, channels, 3, 2, 1), depthwise(channels, 3, 2)
    return nn.Sequential(first, GELU(), second, GELU(), pointwise(channels, channels), GELU())


class FoldedFFN(Activated):
    """ConvFFN with its BatchNorm in `conv` and the block's layer scale in `fc2`."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.conv = depthwise(channels, 7)
        self.fc1 = pointwise(channels, ratio * channels)
        self.fc2 = pointwise(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return x + self.fc2(self.activate(self.fc1(self.conv(x))))


class FoldedRepMixerBlock(nn.Module):
    """A RepMixer block: the mixer, then three convolutions, one GELU and one addition."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.mixer = depthwise(channels, 3)
        self.ffn = FoldedFFN(channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.ffn(self.mixer(x))


class Standardise(nn.Module):
    """What remains of a LayerNorm over channels once its weight and bias are folded into the next convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return a map (B, C, H, W) whose channels have mean 0 and deviation 1 at each position."""
        return F.layer_norm(x.permute(0, 2, 3, 1), (self.channels,)).permute(0, 3, 1, 2)


class FoldedAttention(nn.Module):
    """Attention with BatchNorm and 1/sqrt(d) in `qkv` and the layer scale in `proj`.

    Of a LayerNorm, `qkv` holds weight and bias, and `norm` does what depends on the input.
    """

    def __init__(self, channels: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = channels // HEAD_DIM
        self.norm = norm or nn.Identity()
        self.qkv = pointwise(channels, 3 * channels)
        self.proj = pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        b, _, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3 * self.heads, HEAD_DIM, height * width)  # (B, 3h, d, N)
        q, k, v = qkv.split(self.heads, 1)  # 3 x (B, h, d, N)
        attention = (q.transpose(2, 3) @ k).softmax(-1)  # (B, h, N, N): row = query, column = key
        mixed = v @ attention.transpose(2, 3)  # (B, h, d, N)
        return x + self.proj(mixed.reshape(x.shape))


class PerHeadAttention(FoldedAttention):
    """`FoldedAttention` with separate matrix products for each head, a form meant for Apple's Neural Engine.

    Smaller intermediate tensors replace one large one, after apple/ml-ane-transformers. The weights are the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        b, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3 * channels, height * width)  # (B, 3C, N)
        parts = qkv.split(HEAD_DIM, 1)  # 3h x (B, d, N)
        mixed: list[Tensor] = []
        for head in range(self.heads):
            q, k, v = parts[head :: self.heads]  # (B, d, N)
            attention = (q.transpose(1, 2) @ k).softmax(-1)  # (B, N, N): row = query, column = key
            mixed.append(v @ attention.transpose(1, 2))  # (B, d, N)
        return x + self.proj(torch.cat(mixed, 1).reshape(x.shape))


class FoldedAttentionBlock(nn.Module):
    """Attention and feed-forward network, each with its skip connection."""

    def __init__(self, channels: int, ratio: int, layout: GraphVariant, norm: str = "batchnorm") -> None:
        super().__init__()
        attention = PerHeadAttention if layout.attention == "per-head" else FoldedAttention
        self.attention = attention(channels, Standardise(channels) if norm == "layernorm" else None)
        self.ffn = FoldedFFN(channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.ffn(self.attention(x))


class SplitConv(nn.Module):
    """A grouped convolution with two outputs per input channel, as two depthwise ones.

    Output channels are the even ones of the grouped convolution, then the odd ones.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.even = depthwise(channels, kernel, stride)
        self.odd = depthwise(channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, 2C, H/stride, W/stride) for a map (B, C, H, W)."""
        return torch.cat((self.even(x), self.odd(x)), 1)


def doubling(channels: int, kernel: int, stride: int, layout: GraphVariant) -> nn.Module:
    """Return a convolution with two outputs per input channel, grouped or split as the layout asks."""
    if layout.doubling == "split":
        return SplitConv(channels, kernel, stride)
    return nn.Conv2d(channels, 2 * channels, kernel, stride, kernel // 2, groups=channels)


class FoldedPatchEmbed(Activated):
    """Patch embedding, which halves H x W and doubles the channels."""

    def __init__(self, cin: int, cout: int, layout: GraphVariant, *, kernel: int = 7) -> None:
        super().__init__()
        self.spatial = doubling(cin, kernel, 2, layout)
        self.across = pointwise(cout, cout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, 2C, H/2, W/2) for a map (B, C, H, W)."""
        return self.activate(self.across(self.spatial(x)))


class FoldedActivatedPatchEmbed(FoldedPatchEmbed):
    """Patch embedding with GELU, and squeeze-and-excite in front of it where the stage has it, between its parts."""

    def __init__(self, cin: int, cout: int, layout: GraphVariant, *, excite: bool) -> None:
        super().__init__(cin, cout, layout)
        self.se = DownsamplingExcite(cout) if excite else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, 2C, H/2, W/2) for a map (B, C, H, W)."""
        x = self.spatial(x)
        return self.activate(self.across(self.activate(x if self.se is None else self.se(x))))


class FoldedExpansion(Activated):
    """The expansion before the classifier, with its squeeze-and-excite."""

    def __init__(self, channels: int, layout: GraphVariant) -> None:
        super().__init__()
        self.spatial = doubling(channels, 3, 1, layout)
        self.se = SqueezeExcite(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, 2C, H, W) for a map (B, C, H, W)."""
        return self.activate(self.se(self.spatial(x)))


class FoldedFastViT(nn.Module):
    """FastViT for inference, with the outputs of `fastvit.FastViT`; `layout.std` decides which images it takes."""

    def __init__(self, variant: Variant, *, head: Head, classes: int, layout: GraphVariant | None = None) -> None:
        super().__init__()
        check_head(variant, head)
        self.variant, self.head_kind, self.classes = variant, head, classes
        layout = layout or GraphVariant()
        stem, final = variant.channels[0], variant.channels[-1]
        self.stem = factorised_stem(variant.channels_in, stem)
        network: list[nn.Module] = []  # indices as in FastViT.network
        between = variant.downsampling
        for stage, (blocks, channels) in enumerate(zip(variant.blocks, variant.channels, strict=True), 1):
            if stage > 1:
                embed: Callable[..., nn.Module] = FoldedPatchEmbed
                if between.gelu:
                    embed = partial(FoldedActivatedPatchEmbed, excite=stage in between.excited)
                network.append(embed(variant.channels[stage - 2], channels, layout))
            block: Callable[[int, int], nn.Module] = FoldedRepMixerBlock
            if stage > 3 and variant.last is Mixer.ATTENTION:
                network.append(depthwise(channels, 7))  # positional encoding
                block = partial(FoldedAttentionBlock, layout=layout, norm=variant.norm)
            network.append(nn.Sequential(*(block(channels, variant.ratio) for _ in range(blocks))))
        self.network = nn.ModuleList(network)
        self.taps = taps(variant, head)
        if self.taps:
            # Nothing reads what follows the last tap: in the published dense network, the attention stage (DENSE_TAPS).
            del self.network[self.taps[-1] + 1 :]
        if head in heads.KINDS:  # its first convolutions are 1 x 1, so the norms fold into them
            self.dense_head = heads.KINDS[head](variant.channels, block=heads.ConvReLU)
        elif self.taps:
            # No convolution of this network follows these norms, and the maps' consumer may pad with zeros: no folding.
            norm: Callable[[int], nn.Module] = nn.Identity
            if head is not Head.FEATURES:
                norm = nn.BatchNorm2d if layout.norms == "batchnorm" else partial(depthwise, kernel=1)
            self.norms = nn.ModuleDict(
                {str(tap): norm(channels) for tap, channels in zip(self.taps, variant.channels, strict=True)}
            )
        else:
            projected = head in PROJECTED and classes > 0
            if not projected:  # nothing behind the features could absorb another order of channels
                layout = msgspec.structs.replace(layout, doubling="grouped")
            self.expansion = FoldedExpansion(final, layout)
            if projected:
                self.classifier = nn.Linear(2 * final, classes)
        set_gelu(self, variant.gelu)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs of the head for images (B, 3, H, W)."""
        x = self.stem(padded(x, self.variant))
        maps: list[Tensor] = []
        for index, part in enumerate(self.network):
            x = part(x)
            if index in self.taps:
                maps.append(x)
        if self.head_kind in heads.KINDS:
            return self.dense_head(maps)
        if self.taps:
            return tuple(norm(features) for norm, features in zip(self.norms.values(), maps, strict=True))
        x = self.expansion(x)  # (B, 2C, H/stride, W/stride)
        if self.head_kind is Head.TOKENS:
            return x.flatten(2).transpose(1, 2)
        x = x.mean((2, 3))
        return embedded(self.classifier(x) if self.classes else x, self.variant)
