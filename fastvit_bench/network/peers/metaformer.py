"""The networks that the FastViT paper (arXiv 2303.14189) compares FastViT's parts on, as one table of designs.

All have the shape of MetaFormer-S12 (arXiv 2111.11418): a stem of stride 4, four stages of 2, 2, 6 and 2 blocks at
strides 4 to 32, and a classifier of pooled features. A block is a token mixer and a feed-forward network of four times
the width, each with a skip connection. `DESIGNS` lists their differences. docs/explanation/networks.md lists the table
of the paper that each is for, and compares its parameters and multiply-accumulates with the printed ones.

The paper describes these networks in words, and its code contains none of them. The choices that the words leave open:

* The classifier reads the last stage's 512 pooled channels. Released FastViTs have an expansion to 1024 channels in
  between (0.65 M parameters), and the paper's own counts (8.8 M for S12, 10.9 M for SA12) are those without it.
* The third stage has 256 channels, like FastViT's, if convolutions are factorised, and 320, like PoolFormer's, if not.
  With 320 the factorised network would have 10.2 M parameters; 8.7 M are printed.
* A factorised patch embedding is FastViT's with 3 x 3 in place of 7 x 7: depthwise from C to 2C channels, no
  activation, 1 x 1 with GELU. The step to 7 x 7 changes the kernel's size and nothing else.
* RepMixer has its released branches and layer scale in every design: they leave no trace at inference.
* Designs with PoolFormer's dense convolutions have its norm in front of the classifier; the others have none, like
  FastViT.

Shapes in comments: B batch, C channels, H x W the feature map.
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
from fastvit_bench.records import Fuse, GraphVariant, Head

__all__ = ["DESIGNS", "MetaFormer", "MetaFormerDesign", "at_level", "network"]

BLOCKS = (2, 2, 6, 2)
RATIO = 4  # expansion of the feed-forward network
EPS_HEAD = 1e-6  # of the norm in front of the classifier

Norms = nn.BatchNorm2d | nn.GroupNorm  # with an affine part, which folding removes


class MetaFormerMixer(StrEnum):
    """Token mixer of a stage."""

    POOLING = "pooling"
    REPMIXER = "repmixer"
    ATTENTION = "attention"


class Norm(StrEnum):
    """Norm in front of token mixers and pointwise feed-forward networks; only BatchNorm can be folded away."""

    GROUP = "group"  # over all channels and positions of an image: GroupNorm of one group
    BATCH = "batch"


class Embedding(StrEnum):
    """Convolutions of the stem and the patch embeddings; each kind is a change of the one above it."""

    DENSE = "dense"  # 7 x 7 of stride 4, then 3 x 3 of stride 2 between stages
    FACTORISED = "factorised"  # 3 x 3 depthwise and 1 x 1, with BatchNorm
    BRANCHED = "branched"  # the same, trained as sums of branches
    LARGE = "large"  # the same with 7 x 7 in the patch embeddings


class FeedForward(StrEnum):
    """Layer in front of a feed-forward network's two 1 x 1 convolutions."""

    POINTWISE = "pointwise"  # its norm
    LARGE = "large"  # a 7 x 7 depthwise convolution with BatchNorm


Mixers = tuple[MetaFormerMixer, MetaFormerMixer, MetaFormerMixer, MetaFormerMixer]  # of the four stages


@dataclass(frozen=True)
class MetaFormerDesign:
    """Design of a network: the token mixer of each stage, and the kind of every remaining part."""

    mixers: Mixers
    norm: Norm
    embedding: Embedding
    ffn: FeedForward

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels per stage."""
        return (64, 128, 320 if self.embedding is Embedding.DENSE else 256, 512)


_POOLING: Mixers = (MetaFormerMixer.POOLING, MetaFormerMixer.POOLING, MetaFormerMixer.POOLING, MetaFormerMixer.POOLING)
_REPMIXER: Mixers = (
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.REPMIXER,
)
_ATTENTION_LAST: Mixers = (
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.ATTENTION,
)
_ATTENTION_LAST_TWO: Mixers = (
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.REPMIXER,
    MetaFormerMixer.ATTENTION,
    MetaFormerMixer.ATTENTION,
)

DESIGNS: dict[str, MetaFormerDesign] = {
    # table 1 from its baseline on, and figure 3's two networks; the second separates pooling from its norm
    "poolformer_s12": MetaFormerDesign(_POOLING, Norm.GROUP, Embedding.DENSE, FeedForward.POINTWISE),
    "metaformer_s12_pooling_bn": MetaFormerDesign(_POOLING, Norm.BATCH, Embedding.DENSE, FeedForward.POINTWISE),
    "metaformer_s12_repmixer": MetaFormerDesign(_REPMIXER, Norm.BATCH, Embedding.DENSE, FeedForward.POINTWISE),
    "metaformer_s12_factorised": MetaFormerDesign(_REPMIXER, Norm.BATCH, Embedding.FACTORISED, FeedForward.POINTWISE),
    "metaformer_s12_overparam": MetaFormerDesign(_REPMIXER, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "metaformer_s12_lk_ffn": MetaFormerDesign(_REPMIXER, Norm.BATCH, Embedding.BRANCHED, FeedForward.LARGE),
    "metaformer_s12_lk_embed": MetaFormerDesign(_REPMIXER, Norm.BATCH, Embedding.LARGE, FeedForward.LARGE),
    # table 4
    "ablation_v1": MetaFormerDesign(_REPMIXER, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "ablation_v2": MetaFormerDesign(_ATTENTION_LAST, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "ablation_v3": MetaFormerDesign(_ATTENTION_LAST_TWO, Norm.BATCH, Embedding.BRANCHED, FeedForward.POINTWISE),
    "ablation_v4": MetaFormerDesign(_REPMIXER, Norm.BATCH, Embedding.LARGE, FeedForward.LARGE),
    "ablation_v5": MetaFormerDesign(_ATTENTION_LAST, Norm.BATCH, Embedding.LARGE, FeedForward.LARGE),
}


# --- parts in training form -------------------------------------------------------------------------------------------


class MetaFormerConvBlock(nn.Module):
    """A convolution, BatchNorm and GELU: a MobileOne block without branches."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.linear = ConvBN(cin, cout, kernel, stride, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/stride, W/stride) for a map (B, cin, H, W)."""
        return F.gelu(self.linear(x))


class Pooling(nn.Module):
    """Token mixing by a 3 x 3 mean minus its centre, with skip connection (PoolFormer, equation 4).

    Positions outside the map do not count for the mean.
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm = _norm(norm, channels)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return x + self.layer_scale * _surplus(self.norm(x))


class AttentionMixer(nn.Module):
    """FastViT's attention with its norm and skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.attention = Attention(channels)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return x + self.layer_scale * self.attention(self.norm(x))


class PointwiseFFN(nn.Module):
    """Feed-forward network on each position alone, with its norm."""

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.fc1 = pointwise(channels, RATIO * channels)
        self.fc2 = pointwise(RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class MetaFormerBlock(nn.Module):
    """A token mixer, which has its own skip connection, and a feed-forward network."""

    def __init__(self, channels: int, mixer: MetaFormerMixer, design: MetaFormerDesign, *, form: Form) -> None:
        super().__init__()
        match mixer:
            case MetaFormerMixer.POOLING:
                self.mixer = Pooling(channels, design.norm)
            case MetaFormerMixer.REPMIXER:
                self.mixer = RepMixer(channels, form=form)
            case MetaFormerMixer.ATTENTION:
                self.mixer = AttentionMixer(channels)
        match design.ffn:
            case FeedForward.POINTWISE:
                self.ffn = PointwiseFFN(channels, _norm(design.norm, channels))
            case FeedForward.LARGE:
                self.ffn = ConvFFN(channels, RATIO)
        self.layer_scale = _layer_scale(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        x = self.mixer(x)
        return x + self.layer_scale * self.ffn(x)


class Downsample(nn.Module):
    """A factorised patch embedding: a convolution that halves H x W per channel, then one across channels."""

    def __init__(self, spatial: nn.Module, across: nn.Module) -> None:
        super().__init__()
        self.spatial = spatial
        self.across = across

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H/2, W/2) for a map (B, cin, H, W)."""
        return self.across(self.spatial(x))


class MetaFormer(nn.Module):
    """A network of a design, in training form or fused; `fold` replaces its parts by folded ones.

    ``forward`` takes normalised images (B, 3, H, W) of any H and W from 32 on and returns logits (B, classes).
    """

    def __init__(self, design: MetaFormerDesign, *, classes: int = 1000, form: Form = Form.UNFUSED) -> None:
        super().__init__()
        self.design, self.head_kind, self.classes, self.form = design, Head.CLASSIFIER, classes, form
        channels = design.channels
        self.stem = _stem(channels[0], design.embedding, form)
        stages: list[nn.Module] = []
        for index, (width, mixer) in enumerate(zip(channels, design.mixers, strict=True)):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            if index > 0:
                parts["downsample"] = _downsample(channels[index - 1], width, design.embedding, form)
            if mixer is MetaFormerMixer.ATTENTION:
                parts["encoding"] = PositionalEncoding(width, form=form)
            parts["blocks"] = nn.Sequential(
                *(MetaFormerBlock(width, mixer, design, form=form) for _ in range(BLOCKS[index]))
            )
            stages.append(nn.Sequential(parts))
        self.stages = nn.Sequential(*stages)
        has_norm = design.embedding is Embedding.DENSE
        self.norm: nn.Module = _norm(design.norm, channels[-1], EPS_HEAD) if has_norm else nn.Identity()
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) for images (B, 3, H, W)."""
        x = self.stages(self.stem(x))
        x = self.norm(x.mean((2, 3), keepdim=True))  # (B, C, 1, 1)
        return self.classifier(x.flatten(1))


def _norm(norm: Norm, channels: int, eps: float = 1e-5) -> Norms:
    """Return a norm of a kind over so many channels."""
    return nn.GroupNorm(1, channels, eps) if norm is Norm.GROUP else nn.BatchNorm2d(channels, eps)


def _layer_scale(channels: int) -> nn.Parameter:
    """Return a layer scale (C, 1, 1) at the initial value of training, 1e-5."""
    return nn.Parameter(torch.full((channels, 1, 1), 1e-5))


def _surplus(x: Tensor) -> Tensor:
    """Return the mean over the 3 x 3 neighbours within the map, minus x."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x


def _stem(channels: int, embedding: Embedding, form: Form) -> nn.Module:
    """Return the stem, from the image to stride 4."""
    # of FastViT's stem: channels in and out, kernel, stride and groups
    factors = ((3, channels, 3, 2, 1), (channels, channels, 3, 2, channels), (channels, channels, 1, 1, 1))
    match embedding:
        case Embedding.DENSE:
            return nn.Conv2d(3, channels, 7, 4, 2)
        case Embedding.FACTORISED:
            return nn.Sequential(*(MetaFormerConvBlock(*factor) for factor in factors))
        case Embedding.BRANCHED | Embedding.LARGE:
            return nn.Sequential(*(MobileOneBlock(*factor, form=form) for factor in factors))


def _downsample(cin: int, cout: int, embedding: Embedding, form: Form) -> nn.Module:
    """Return the patch embedding, from one stage's stride to the next one's."""
    match embedding:
        case Embedding.DENSE:
            return nn.Conv2d(cin, cout, 3, 2, 1)
        case Embedding.FACTORISED:
            return Downsample(ConvBN(cin, cout, 3, 2, cin), MetaFormerConvBlock(cout, cout, 1))
        case Embedding.BRANCHED:
            return Downsample(RepConv(cin, cout, 3, 2, cin, form=form), MobileOneBlock(cout, cout, 1, form=form))
        case Embedding.LARGE:
            return Downsample(LargeKernelConv(cin, cout, 2, cin, form=form), MobileOneBlock(cout, cout, 1, form=form))


# --- folded parts -----------------------------------------------------------------------------------------------------


class FoldedPooling(nn.Module):
    """Pooling with one factor per channel, which replaces an affine norm and a layer scale.

    A shift of the norm cancels out, because the mean contains it too. `norm` is the norm without its affine part.
    """

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.factor = nn.Parameter(torch.empty(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return x + self.factor * _surplus(self.norm(x))


class FoldedPointwiseFFN(PointwiseFFN):
    """Pointwise feed-forward network with layer scale in `fc2`, the affine part of its norm in `fc1`, and skip."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return x + super().forward(x)


class FoldedBlock(nn.Module):
    """A token mixer and a feed-forward network, each with its own skip connection."""

    def __init__(self, mixer: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.ffn(self.mixer(x))


@torch.no_grad()
def fuse(network: MetaFormer) -> MetaFormer:
    """Return the network with one convolution per re-parameterisable block, in float64 (`reparam.fused_state`)."""
    if network.form is Form.FUSED:
        return copy.deepcopy(network).double().eval()
    result = MetaFormer(network.design, classes=network.classes, form=Form.FUSED).double().eval()
    result.load_state_dict(reparam.fused_state(network), strict=True)
    return result


@torch.no_grad()
def fold(network: MetaFormer, layout: GraphVariant | None = None) -> MetaFormer:
    """Return the network with every BatchNorm and layer scale in a convolution, in float64.

    GroupNorm's division by the deviation remains, because it depends on the image. Pooling keeps one multiplication per
    channel, since it has no weights that could hold it. As a convolution it would be wrong at the edges.
    """
    layout = layout or GraphVariant()
    result = fuse(network)
    if isinstance(result.stem, nn.Sequential):
        stem = factorised_stem(3, network.design.channels[0]).double()
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


def _folded(part: nn.Module, layout: GraphVariant) -> nn.Module:
    """Return the folded form of an entry of a fused stage."""
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
        case MetaFormerBlock():
            return FoldedBlock(_folded_mixer(part.mixer, layout), _folded_ffn(part.ffn, part.layer_scale))
        case _:
            return part  # a dense convolution


def _folded_mixer(mixer: nn.Module, layout: GraphVariant) -> nn.Module:
    """Return the folded form of a fused token mixer."""
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
    """Return the folded form of a feed-forward network and the layer scale behind it."""
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
    """Return a norm without its affine part; of a BatchNorm, which has no other, an identity."""
    if isinstance(norm, nn.GroupNorm):
        return nn.GroupNorm(1, norm.num_channels, norm.eps, affine=False)
    return nn.Identity()


def _kernel(module: nn.Module) -> Kernel:
    """Return the kernel of a factorised convolution without its activation, from its fused form."""
    match module:
        case ConvBN():
            return conv_bn(module)
        case MetaFormerConvBlock():
            return conv_bn(module.linear)
        case RepConv():
            return of(module.reparam_conv)
        case LargeKernelConv():
            return of(module.lkb_reparam)
        case _:
            raise TypeError(f"no rule folds {type(module).__name__}")


# --- by name ----------------------------------------------------------------------------------------------------------


def network(name: str, *, head: Head, classes: int, size: tuple[int, int]) -> MetaFormer:
    """Build the network of a name (a key of `DESIGNS`) in training form. Raises `UsageError` for a dense head.

    The parameters do not depend on `size`.
    """
    if head is not Head.CLASSIFIER:
        raise UsageError(f"{name} is a network of the paper's classification studies and has no {head} head.")
    return MetaFormer(DESIGNS[name], classes=classes)


def at_level(network: MetaFormer, level: Fuse, layout: GraphVariant | None = None) -> MetaFormer:
    """Return a copy of the network at a fuse level, in float64 and evaluation mode, sharing no tensors."""
    match level:
        case Fuse.NONE:
            return copy.deepcopy(network).double().eval()
        case Fuse.FUSED:
            return fuse(network)
        case Fuse.FOLDED:
            return fold(network, layout)
