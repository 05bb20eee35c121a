"""CMT (arXiv 2107.06263), a peer of FastViT: convolutions and attention in every block.

Reading order: the depthwise convolution with its skip, the feed-forward network, attention on reduced keys and values,
block and stage, the network, and its fusing and folding. GELU replaces HardSwish, as in the comparison of the FastViT
paper (arXiv 2303.14189, table 5).

Shapes in comments: B batch, C channels, H x W the feature map, N = H*W queries, M keys, h heads.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.errors import UsageError
from fastvit_bench.network import reparam
from fastvit_bench.network.fastvit import ChannelNorm, Form
from fastvit_bench.network.peers import parts
from fastvit_bench.network.peers.parts import Bias, Mix, Scale
from fastvit_bench.records import Fuse, GraphVariant, Head

HEADS = (1, 2, 4, 8)  # by stage
REDUCTIONS = (8, 4, 2, 1)  # of the sides of the map that yields keys and values, by stage
PROJECTION = 1280  # channels in front of the classifier
STRIDE = 32  # of the last stage; the reductions need whole multiples of it too


@dataclass(frozen=True)
class CMTDesign:
    """Sizes of a CMT: channels of the stem, ``channels`` and ``blocks`` by stage, ``ratio`` of the FFN's expansion."""

    stem: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    ratio: float


# Table 1 of the paper. The ratio of XS is printed as 3.8. With the 3.77 of the authors' code, parameters and FLOPs are
# the printed ones.
DESIGNS = {
    "cmt_ti": CMTDesign(16, (46, 92, 184, 368), (2, 2, 10, 2), 3.6),
    "cmt_xs": CMTDesign(16, (52, 104, 208, 416), (3, 3, 12, 3), 3.77),
    "cmt_s": CMTDesign(32, (64, 128, 256, 512), (3, 3, 16, 3), 4.0),
    "cmt_b": CMTDesign(38, (76, 152, 304, 608), (4, 4, 20, 4), 4.0),
}


class SkipConv(nn.Module):
    """A depthwise 3 x 3 convolution added to its input: the local perception unit, and the middle of the FFN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.form = Form.UNFUSED
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.conv(x) if self.form is Form.FUSED else self.conv(x) + x


class CMTFFN(nn.Module):
    """Inverted residual feed-forward network (section 3.4)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.expand_norm: nn.Module = nn.BatchNorm2d(hidden)
        self.depthwise = SkipConv(hidden)
        self.depthwise_norm: nn.Module = nn.BatchNorm2d(hidden)
        self.reduce = nn.Conv2d(hidden, channels, 1)
        self.reduce_norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        x = self.expand_norm(F.gelu(self.expand(x)))
        x = self.depthwise_norm(F.gelu(self.depthwise(x)))
        return self.reduce_norm(self.reduce(x))


class CMTAttention(nn.Module):
    """Self-attention with keys and values from a map that a depthwise convolution reduces (section 3.3)."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix: Mix = parts.batched
        self.smaller: nn.Module = nn.Identity()
        self.smaller_norm: nn.Module = nn.Identity()
        if reduction > 1:
            self.smaller = nn.Conv2d(channels, channels, reduction, reduction, groups=channels)
            self.smaller_norm = nn.BatchNorm2d(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.scale: nn.Module = Scale((channels // heads) ** -0.5)
        self.kv = nn.Conv2d(channels, 2 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, bias: Bias) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape; `bias` is added to the logits."""
        q = self.scale(self.q(x))
        k, v = self.kv(self.smaller_norm(self.smaller(x))).flatten(2).chunk(2, 1)  # (B, C, M)
        mixed = self.mix(q.flatten(2), k, v, self.heads, bias)  # (B, C, N)
        return self.proj(mixed.unflatten(2, x.shape[2:]))


class CMTBlock(nn.Module):
    """Local perception unit, attention, feed-forward network."""

    def __init__(self, channels: int, hidden: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.perception = SkipConv(channels)
        self.norm1 = ChannelNorm(channels, eps=1e-6)
        self.attention = CMTAttention(channels, heads, reduction)
        self.norm2 = ChannelNorm(channels, eps=1e-6)
        self.ffn = CMTFFN(channels, hidden)

    def forward(self, x: Tensor, bias: Bias) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape; `bias` is added to the logits of attention."""
        x = self.perception(x)
        x = x + self.attention(self.norm1(x), bias)
        return x + self.ffn(self.norm2(x))


class CMTStage(nn.Module):
    """Patch aggregation, which halves H x W, and blocks that share one relative position bias.

    The bias is a number per head, query and key (h, N, M), as in the authors' code.
    """

    def __init__(self, design: CMTDesign, index: int, size: tuple[int, int]) -> None:
        super().__init__()
        channels, heads, reduction = design.channels[index], HEADS[index], REDUCTIONS[index]
        aggregate = nn.Conv2d((design.stem, *design.channels)[index], channels, 2, 2)
        self.downsample = nn.Sequential(aggregate, ChannelNorm(channels, eps=1e-6))
        self.queries, self.keys = size[0] * size[1], (size[0] // reduction) * (size[1] // reduction)
        self.position: nn.Parameter | nn.ParameterList = nn.Parameter(torch.randn(heads, self.queries, self.keys))
        hidden = int(channels * design.ratio)
        self.blocks = nn.ModuleList([CMTBlock(channels, hidden, heads, reduction) for _ in range(design.blocks[index])])

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C_i, H/2, W/2) for the previous stage's map (B, C, H, W)."""
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x, self.position)
        return x


class CMT(nn.Module):
    """CMT for classification or as a dense backbone, for images of one size.

    ``forward`` takes normalised RGB images (B, 3, H, W) of the network's `size`, and raises `UsageError` for others.
    With ``Head.CLASSIFIER`` it returns logits (B, classes). With a dense head it returns the outputs of the four stages
    (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32, for which the paper names no norm.
    """

    def __init__(self, design: CMTDesign, *, head: Head, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        if any(side < STRIDE or side % STRIDE for side in size):
            raise UsageError(f"CMT takes sides that are multiples of {STRIDE} pixels, not {size[0]}x{size[1]}.")
        if head not in (Head.CLASSIFIER, Head.DENSE, Head.STAGES):
            raise UsageError(f"CMT is a classifier or a dense backbone; there is none with the head '{head}'.")
        self.head_kind, self.classes, self.form, self.size = head, classes, Form.UNFUSED, size
        stem: list[nn.Module] = []
        for cin, stride in ((3, 2), (design.stem, 1), (design.stem, 1)):
            stem += [nn.Conv2d(cin, design.stem, 3, stride, 1), nn.GELU(), nn.BatchNorm2d(design.stem)]
        self.stem = nn.Sequential(*stem)
        strides = (4, 8, 16, 32)
        self.stages = nn.ModuleList(
            [CMTStage(design, index, (size[0] // stride, size[1] // stride)) for index, stride in enumerate(strides)]
        )
        if head is Head.CLASSIFIER:
            expand = nn.Conv2d(design.channels[-1], PROJECTION, 1)
            self.expansion = nn.Sequential(expand, nn.BatchNorm2d(PROJECTION), nn.GELU())
            self.classifier = nn.Linear(PROJECTION, classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits (B, classes) or the maps of the four stages for images (B, 3, H, W)."""
        if tuple(x.shape[2:]) != self.size:
            own, actual = (f"{height}x{width}" for height, width in (self.size, x.shape[2:]))
            raise UsageError(f"This CMT has a position bias for images of {own}, not {actual}; make it for that size.")
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        if self.head_kind is not Head.CLASSIFIER:
            return tuple(maps)
        return self.classifier(self.expansion(x).mean((2, 3)))


def network(name: str, *, head: Head, classes: int, size: tuple[int, int]) -> CMT:
    """Build the CMT of a name (a key of `DESIGNS`) in float32 and training form, on torch's default device.

    `size` is (height, width), multiples of 32. Raises `UsageError` for others.
    """
    return CMT(DESIGNS[name], head=head, classes=classes, size=size)


# --- fusing and folding -----------------------------------------------------------------------------------------------


@torch.no_grad()
def at_level(network: nn.Module, level: Fuse, layout: GraphVariant) -> nn.Module:
    """Return a copy of the network at a fuse level, in float64 and evaluation mode, sharing no tensors.

    ``Fuse.FUSED`` merges the skip of each depthwise convolution into it. ``Fuse.FOLDED`` also folds the scale of the
    queries and the BatchNorms into convolutions. BatchNorms with zero padding between them and the next convolution
    stay: two in the stem, one in each block.
    """
    assert isinstance(network, CMT)
    result = copy.deepcopy(network).double().eval()
    if level is Fuse.NONE:
        return result
    result.form = Form.FUSED
    for module in result.modules():
        if isinstance(module, SkipConv):
            _fuse(module)
    if level is Fuse.FUSED:
        return result
    for index in (2, 5):
        result.stem[index] = parts.remaining(result.stem[index], layout)
    result.stem[8] = parts.fold_before(result.get_submodule("stages.0.downsample.0"), result.stem[8])
    for module in list(result.modules()):
        match module:
            case CMTAttention():
                _fold_attention(module, layout)
            case CMTFFN():
                _fold_ffn(module, layout)
            case CMTStage() if layout.attention == "per-head":
                split = nn.ParameterList(list(module.position))
                del module.position  # a parameter cannot be replaced by a list of them
                module.position = split
            case _:
                pass
    if result.head_kind is Head.CLASSIFIER:
        result.expansion[1] = parts.fold_behind(result.expansion[0], result.expansion[1])
    return result


def _fuse(module: SkipConv) -> None:
    """Add the skip to a depthwise convolution's kernel, in place."""
    channels = module.conv.in_channels
    parts.fill(module.conv, reparam.of(module.conv) + reparam.identity(channels, channels, 3))
    module.form = Form.FUSED


def _fold_attention(module: CMTAttention, layout: GraphVariant) -> None:
    """Fold the BatchNorm and the scale of attention in place, and set the layout's form of its matrix products."""
    if isinstance(module.smaller, nn.Conv2d):
        module.smaller_norm = parts.fold_behind(module.smaller, module.smaller_norm)
    module.scale = parts.fold_scale(module.q, module.scale, module.q.out_channels)
    module.mix = parts.MIXES[layout.attention]


def _fold_ffn(module: CMTFFN, layout: GraphVariant) -> None:
    """Fold two BatchNorms of a feed-forward network in place; the first one cannot be folded."""
    module.expand_norm = parts.remaining(module.expand_norm, layout)
    module.depthwise_norm = parts.fold_before(module.reduce, module.depthwise_norm)
    module.reduce_norm = parts.fold_behind(module.reduce, module.reduce_norm)
