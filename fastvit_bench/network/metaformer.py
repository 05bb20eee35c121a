"""The networks that the FastViT paper (arXiv 2303.14189) compares FastViT's parts on, as one table of designs.

All have the shape of MetaFormer-S12 (arXiv 2111.11418): a stem of stride 4, four stages of 2, 2, 6 and 2 blocks at
strides 4 to 32, a block being a token mixer and a feed-forward network of four times the width, each with a skip
connection, and a classifier of pooled features. `DESIGNS` says in what they differ; docs/networks.md says which table
of the paper each is for, and how its parameters and multiply-accumulates compare with the printed ones.

The paper describes these networks in words and its code holds none of them. Where the words leave a choice:

* The classifier reads the last stage's 512 pooled channels. Released FastViTs have an expansion to 1024 channels in
  between (0.65 M parameters), and the paper's own counts (8.8 M for S12, 10.9 M for SA12) are those without it.
* The third stage has 256 channels wherever convolutions are factorised, as FastViT's has, and 320 before, as
  PoolFormer's has. With 320 the factorised network would have 10.2 M parameters; 8.7 M are printed.
* A factorised patch embedding is FastViT's with 3 x 3 in place of 7 x 7: depthwise from C to 2C channels, no
  activation, 1 x 1 with GELU. The step to 7 x 7 changes the kernel's size and nothing else.
* RepMixer has its branches and its layer scale as released in every design: they leave no trace at inference.
* Designs that keep PoolFormer's dense convolutions keep its norm in front of the classifier; the others, as FastViT,
  have none there.

In the margin: B batch, C channels, H x W the feature map.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.errors import UsageError
from fastvit_bench.network import reparam
from fastvit_bench.network.fastvit import (
    Attention,
    ConvBN,
    ConvFFN,
    Form,
    LargeKernelConv,
    MobileOneBlock,
    PositionalEncoding,
    RepConv,
    RepMixer,
)
from fastvit_bench.network.folded import (
    FoldedAttention,
    FoldedFFN,
    FoldedPatchEmbed,
    PerHeadAttention,
    factorised_stem,
    pointwise,
)
from fastvit_bench.network.reparam import Kernel, affine, conv_bn, fill, fill_doubling, of
from fastvit_bench.records import Fuse, Head, Layout

__all__ = ["DESIGNS", "Design", "MetaFormer", "at_level", "network"]

BLOCKS = (2, 2, 6, 2)
RATIO = 4  # expansion of the feed-forward network
EPS_HEAD = 1e-6  # of the norm in front of the classifier

Norms = nn.BatchNorm2d | nn.GroupNorm  # with an affine part, which folding takes out


class Mixer(StrEnum):
    """What mixes the tokens of a stage."""

    POOLING = "pooling"
    REPMIXER = "repmixer"
    ATTENTION = "attention"


class Norm(StrEnum):
    """The norm in front of token mixers and pointwise feed-forward networks. Only BatchNorm can be folded away."""

    GROUP = "group"  # over all channels and positions of an image: GroupNorm of one group
    BATCH = "batch"


class Embedding(StrEnum):
    """Convolutions of the stem and the patch embeddings: each contains what the one above it does not change."""

    DENSE = "dense"  # 7 x 7 of stride 4, then 3 x 3 of stride 2 between stages
    FACTORISED = "factorised"  # 3 x 3 depthwise and 1 x 1, with BatchNorm
    BRANCHED = "branched"  # the same, trained as sums of branches
    LARGE = "large"  # the same with 7 x 7 in the patch embeddings


class FeedForward(StrEnum):
    """What is in front of a feed-forward network's two 1 x 1 convolutions."""

    POINTWISE = "pointwise"  # its norm
    LARGE = "large"  # a 7 x 7 depthwise convolution with BatchNorm


Mixers = tuple[Mixer, Mixer, Mixer, Mixer]  # of the four stages


@dataclass(frozen=True)
class Design:
    """One network: how each stage mixes tokens, and of what kind the rest is."""

    mixers: Mixers
    norm: Norm
    embedding: Embedding
    ffn: FeedForward

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels per stage."""
        return (64, 128, 320 if self.embedding is Embedding.DENSE else 256, 512)


_POOLING: Mixers = (Mixer.POOLING, Mixer.POOLING, Mixer.POOLING, Mixer.POOLING)
_REPMIXER: Mixers = (Mixer.REPMIXER, Mixer.REPMIXER, Mixer.REPMIXER, Mixer.REPMIXER)
_ATTENTION_LAST: Mixers = (Mixer.REPMIXER, Mixer.REPMIXER, Mixer.REPMIXER, Mixer.ATTENTION)
_ATTENTION_LAST_TWO: Mixers = (Mixer.REPMIXER, Mixer.REPMIXER, Mixer.ATTENTION, Mixer.ATTENTION)

DESIGNS: dict[str, Design] = {
    # table 1 from its baseline on, and figure 3's two networks; the second is there to tell pooling from its norm
    "poolformer_s12": Design(_POOLING, Norm.GROUP, Embedding.DENSE, FeedForward.POINTWISE),
    "metaformer_s12_pooling_bn": Design(_POOLING, Norm.BATCH, Embedding.DENSE, FeedForward.POINTWISE),
    "metaformer_s12_repmixer": Design(_REPMIXER, Norm.BATCH, Embedding.DENSE, FeedForward.POINTWISE),
    "metaformer_s12_factorised": Design(_REPMIXER, Norm.BATCH, Embedding.FACTORISED, FeedForward.POINTWISE),
    "metaformer_s12_overparam": Design(_REPMIXER, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "metaformer_s12_lk_ffn": Design(_REPMIXER, Norm.BATCH, Embedding.BRANCHED, FeedForward.LARGE),
    "metaformer_s12_lk_embed": Design(_REPMIXER, Norm.BATCH, Embedding.LARGE, FeedForward.LARGE),
    # table 4
    "ablation_v1": Design(_REPMIXER, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "ablation_v2": Design(_ATTENTION_LAST, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "ablation_v3": Design(_ATTENTION_LAST_TWO, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "ablation_v4": Design(_REPMIXER, Norm.BATCH, Embedding.LARGE, FeedForward.LARGE),
    "ablation_v5": Design(_ATTENTION_LAST, Norm.BATCH, Embedding.LARGE, FeedForward.LARGE),
}


# --- parts in training form -------------------------------------------------------------------------------------------


class ConvBlock(nn.Module):
    """A MobileOne block without branches: a convolution, BatchNorm and GELU."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.linear = ConvBN(cin, cout, kernel, stride, groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.linear(x))


class Pooling(nn.Module):
    """Token mixing by what a 3 x 3 mean adds to its centre, with skip connection (PoolFormer, equation 4).

    Positions outside the map do not count for the mean.
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm = _norm(norm, channels)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * _surplus(self.norm(x))


class AttentionMixer(nn.Module):
    """Attention as FastViT's blocks have it, with norm and skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.attention = Attention(channels)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.attention(self.norm(x))


class PointwiseFFN(nn.Module):
    """Feed-forward network on each position alone, with its norm."""

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.fc1 = pointwise(channels, RATIO * channels)
        self.fc2 = pointwise(RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """A token mixer, which has its own skip connection, and a feed-forward network."""

    def __init__(self, channels: int, mixer: Mixer, design: Design, *, form: Form) -> None:
        super().__init__()
        match mixer:
            case Mixer.POOLING:
                self.mixer = Pooling(channels, design.norm)
            case Mixer.REPMIXER:
                self.mixer = RepMixer(channels, form=form)
            case Mixer.ATTENTION:
                self.mixer = AttentionMixer(channels)
        match design.ffn:
            case FeedForward.POINTWISE:
                self.ffn = PointwiseFFN(channels, _norm(design.norm, channels))
            case FeedForward.LARGE:
                self.ffn = ConvFFN(channels, RATIO)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        return x + self.layer_scale * self.ffn(x)


class Downsample(nn.Module):
    """A factorised patch embedding: a convolution that halves H x W per channel, then one across channels."""

    def __init__(self, spatial: nn.Module, across: nn.Module) -> None:
        super().__init__()
        self.spatial = spatial
        self.across = across

    def forward(self, x: Tensor) -> Tensor:
        return self.across(self.spatial(x))


class MetaFormer(nn.Module):
    """A design in training form or fused; `fold` puts folded parts in the place of these.

    ``forward`` takes normalised images (B, 3, H, W) of any H and W from 32 on and returns logits (B, classes).
    """

    def __init__(self, design: Design, *, classes: int = 1000, form: Form = Form.UNFUSED) -> None:
        super().__init__()
        self.design, self.head_kind, self.classes, self.form = design, Head.CLASSIFIER, classes, form
        channels = design.channels
        self.stem = _stem(channels[0], design.embedding, form)
        stages: list[nn.Module] = []
        for index, (width, mixer) in enumerate(zip(channels, design.mixers, strict=True)):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            if index > 0:
                parts["downsample"] = _downsample(channels[index - 1], width, design.embedding, form)
            if mixer is Mixer.ATTENTION:
                parts["encoding"] = PositionalEncoding(width, form=form)
            parts["blocks"] = nn.Sequential(*(Block(width, mixer, design, form=form) for _ in range(BLOCKS[index])))
            stages.append(nn.Sequential(parts))
        self.stages = nn.Sequential(*stages)
        has_norm = design.embedding is Embedding.DENSE
        self.norm: nn.Module = _norm(design.norm, channels[-1], EPS_HEAD) if has_norm else nn.Identity()
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        x = self.norm(x.mean((2, 3), keepdim=True))  # (B, C, 1, 1)
        return self.classifier(x.flatten(1))


def _norm(norm: Norm, channels: int, eps: float = 1e-5) -> Norms:
    return nn.GroupNorm(1, channels, eps) if norm is Norm.GROUP else nn.BatchNorm2d(channels, eps)


def _layer_scale(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.full((channels, 1, 1), 1e-5))


def _surplus(x: Tensor) -> Tensor:
    """Mean over the 3 x 3 neighbours within the map, minus x."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x


def _stem(channels: int, embedding: Embedding, form: Form) -> nn.Module:
    """From the image to stride 4."""
    # of FastViT's stem: channels in and out, kernel, stride and groups
    factors = ((3, channels, 3, 2, 1), (channels, channels, 3, 2, channels), (channels, channels, 1, 1, 1))
    match embedding:
        case Embedding.DENSE:
            return nn.Conv2d(3, channels, 7, 4, 2)
        case Embedding.FACTORISED:
            return nn.Sequential(*(ConvBlock(*factor) for factor in factors))
        case Embedding.BRANCHED | Embedding.LARGE:
            return nn.Sequential(*(MobileOneBlock(*factor, form=form) for factor in factors))


def _downsample(cin: int, cout: int, embedding: Embedding, form: Form) -> nn.Module:
    """From one stage's stride to the next one's."""
    match embedding:
        case Embedding.DENSE:
            return nn.Conv2d(cin, cout, 3, 2, 1)
        case Embedding.FACTORISED:
            return Downsample(ConvBN(cin, cout, 3, 2, cin), ConvBlock(cout, cout, 1))
        case Embedding.BRANCHED:
            return Downsample(RepConv(cin, cout, 3, 2, cin, form=form), MobileOneBlock(cout, cout, 1, form=form))
        case Embedding.LARGE:
            return Downsample(LargeKernelConv(cin, cout, 2, cin, form=form), MobileOneBlock(cout, cout, 1, form=form))


# --- folded parts -----------------------------------------------------------------------------------------------------


class FoldedPooling(nn.Module):
    """Pooling with one factor per channel, which is all that an affine norm and a layer scale come to.

    A shift of the norm cancels out, because a mean has it too. `norm` is what is left of the norm.
    """

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.factor = nn.Parameter(torch.empty(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * _surplus(self.norm(x))


class FoldedPointwiseFFN(PointwiseFFN):
    """The pointwise feed-forward network with layer scale in `fc2`, what is affine of its norm in `fc1`, and skip."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class FoldedBlock(nn.Module):
    """A token mixer and a feed-forward network, each with its own skip connection."""

    def __init__(self, mixer: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.mixer(x))


@torch.no_grad()
def fuse(network: MetaFormer) -> MetaFormer:
    """The same function with one convolution per re-parameterisable block, in float64 (`reparam.fused_state`)."""
    if network.form is Form.FUSED:
        return copy.deepcopy(network).double().eval()
    result = MetaFormer(network.design, classes=network.classes, form=Form.FUSED).double().eval()
    result.load_state_dict(reparam.fused_state(network), strict=True)
    return result


@torch.no_grad()
def fold(network: MetaFormer, layout: Layout | None = None) -> MetaFormer:
    """The same function with every BatchNorm and layer scale in a convolution, in float64.

    What remains, because it depends on the image: GroupNorm's division by the deviation. Pooling keeps one
    multiplication per channel, as it has no weights to take it in; as a convolution it would be wrong at the edges.
    """
    layout = layout or Layout()
    result = fuse(network)
    if isinstance(result.stem, nn.Sequential):
        stem = factorised_stem(network.design.channels[0]).double()
        convolutions = (layer for layer in stem if isinstance(layer, nn.Conv2d))
        for target, source in zip(convolutions, result.stem, strict=True):
            fill(target, _kernel(source))
        result.stem = stem
    for stage in result.stages:
        for name, part in stage.named_children():
            setattr(stage, name, _folded(part, layout))
    if isinstance(result.norm, Norms):
        kernel = of(result.classifier).after(result.norm)
        result.classifier.weight.copy_(kernel.weight.flatten(1))
        result.classifier.bias.copy_(kernel.bias)
        result.norm = _remainder(result.norm)
    return result.eval()


def _folded(part: nn.Module, layout: Layout) -> nn.Module:
    """The folded form of an entry of a stage."""
    match part:
        case Downsample():
            spatial, across = _kernel(part.spatial), _kernel(part.across)
            cout, size = len(spatial.bias), spatial.weight.shape[-1]
            result = FoldedPatchEmbed(cout // 2, cout, layout, kernel=size).double()
            order = fill_doubling(result.spatial, spatial)
            fill(result.across, Kernel(across.weight[:, order], across.bias))
            return result
        case PositionalEncoding():
            return part.reparam_conv
        case nn.Sequential():
            return nn.Sequential(*(_folded(block, layout) for block in part))
        case Block():
            return FoldedBlock(_folded_mixer(part.mixer, layout), _folded_ffn(part.ffn, part.layer_scale))
        case _:
            return part  # a dense convolution


def _folded_mixer(mixer: nn.Module, layout: Layout) -> nn.Module:
    match mixer:
        case RepMixer():
            return mixer.reparam_conv
        case Pooling():
            factor, _ = affine(mixer.norm)
            pooling = FoldedPooling(len(factor), _remainder(mixer.norm)).double()
            pooling.factor.copy_(factor[:, None, None] * mixer.layer_scale)
            return pooling
        case AttentionMixer():
            channels = mixer.norm.num_features
            attention = PerHeadAttention(channels) if layout.attention == "per-head" else FoldedAttention(channels)
            reparam.fold_attention(attention.double(), mixer.norm, mixer.attention, mixer.layer_scale)
            return attention
        case _:
            raise TypeError(f"no rule folds {type(mixer).__name__}")


def _folded_ffn(ffn: nn.Module, layer_scale: Tensor) -> nn.Module:
    channels = len(layer_scale)
    match ffn:
        case ConvFFN():
            result = FoldedFFN(channels, RATIO).double()
            reparam.fold_ffn(result, ffn, layer_scale)
            return result
        case PointwiseFFN():
            assert isinstance(ffn.norm, Norms)
            result = FoldedPointwiseFFN(channels, _remainder(ffn.norm)).double()
            fill(result.fc1, of(ffn.fc1).after(ffn.norm))
            fill(result.fc2, of(ffn.fc2).scaled(layer_scale.flatten()))
            return result
        case _:
            raise TypeError(f"no rule folds {type(ffn).__name__}")


def _remainder(norm: Norms) -> nn.Module:
    """What is left of a norm without what is affine of it."""
    if isinstance(norm, nn.GroupNorm):
        return nn.GroupNorm(1, norm.num_channels, norm.eps, affine=False)
    return nn.Identity()


def _kernel(module: nn.Module) -> Kernel:
    """The one convolution that a factorised convolution without its activation is, given in fused form."""
    match module:
        case ConvBN():
            return conv_bn(module)
        case ConvBlock():
            return conv_bn(module.linear)
        case RepConv():
            return of(module.reparam_conv)
        case LargeKernelConv():
            return of(module.lkb_reparam)
        case _:
            raise TypeError(f"no rule folds {type(module).__name__}")


# --- by name ----------------------------------------------------------------------------------------------------------


def network(name: str, *, head: Head, classes: int, size: tuple[int, int]) -> MetaFormer:
    """The design of that name in training form; no weight depends on the `size`. `UsageError` for a dense head."""
    if head is not Head.CLASSIFIER:
        raise UsageError(f"{name} is a network of the paper's classification studies and has no {head} head.")
    return MetaFormer(DESIGNS[name], classes=classes)


def at_level(network: MetaFormer, level: Fuse, layout: Layout | None = None) -> MetaFormer:
    """The network at a fuse level, in float64 and evaluation mode; it shares nothing with `network`."""
    match level:
        case Fuse.NONE:
            return copy.deepcopy(network).double().eval()
        case Fuse.FUSED:
            return fuse(network)
        case Fuse.FOLDED:
            return fold(network, layout)
