"""LITv2 (arXiv 2205.13213), a peer of FastViT: attention on high and low frequencies, deformable token merging.

Reading order: the feed-forward network, the two kinds of attention and HiLo, the blocks, deformable token merging
(arXiv 2105.14217), the network, and its folding.

A deformable convolution of 2 x 2 taps and stride 2 reads every position of its input once, each slightly displaced. So
this module writes it as its two parts: bilinear sampling of the map at the offsets, and an ordinary convolution. ONNX,
TensorRT and Core ML each have an operator for such sampling. A deformable convolution has none in Core ML, and few
other toolkits have one.

Shapes in comments: B batch, C channels, H x W the feature map, N queries, M keys, h heads of d = 32 channels.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.errors import UsageError
from fastvit_bench.network.fastvit import HEAD_DIM, ChannelNorm, Form
from fastvit_bench.network.peers import parts
from fastvit_bench.network.peers.parts import Mix, Scale
from fastvit_bench.records import Fuse, GraphVariant, Head

LOW = 0.9  # share of the heads that attend to low frequencies, rounded down to whole heads
WINDOWS = (0, 0, 2, 1)  # sides of HiLo's windows by stage; 0: no attention, 1: ordinary attention
RATIO = 4  # of the feed-forward network's expansion
STRIDE = 32  # of the last stage


@dataclass(frozen=True)
class LITDesign:
    """Sizes of a LITv2: channels of the first stage, which double at each next one, and blocks by stage."""

    channels: int
    blocks: tuple[int, ...]


# From the authors' configurations.
DESIGNS = {
    "litv2_s": LITDesign(96, (2, 2, 6, 2)),
    "litv2_b": LITDesign(128, (2, 2, 18, 2)),
}


class LITFFN(nn.Module):
    """Feed-forward network with a 3 x 3 depthwise convolution in the middle, instead of position embeddings."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = RATIO * channels
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.reduce = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return self.reduce(F.gelu(self.depthwise(self.expand(x))))


# --- attention --------------------------------------------------------------------------------------------------------


class HighAttention(nn.Module):
    """Attention within windows that do not overlap; `channels` in, heads * d out."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.mix: Mix = parts.batched
        inner = heads * HEAD_DIM
        self.qkv = nn.Conv2d(channels, 3 * inner, 1)
        self.scale: nn.Module = Scale(HEAD_DIM**-0.5)
        self.proj = nn.Conv2d(inner, inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, h*d, H, W) for a map (B, C, H, W)."""
        b, _, height, width = x.shape
        s, rows, columns = self.window, height // self.window, width // self.window
        qkv = self.qkv(x).reshape(b, -1, rows, s, columns, s).permute(0, 2, 4, 1, 3, 5)
        q, k, v = qkv.reshape(b * rows * columns, -1, s * s).chunk(3, 1)  # a window each
        mixed = self.mix(self.scale(q), k, v, self.heads, None).reshape(b, rows, columns, -1, s, s)
        return self.proj(mixed.permute(0, 3, 1, 4, 2, 5).reshape(b, -1, height, width))


class LowAttention(nn.Module):
    """Attention of every position to the means of windows; `channels` in, heads * d out."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix: Mix = parts.batched
        inner = heads * HEAD_DIM
        self.pool = nn.AvgPool2d(window) if window > 1 else nn.Identity()
        self.q = nn.Conv2d(channels, inner, 1)
        self.scale: nn.Module = Scale(HEAD_DIM**-0.5)
        self.kv = nn.Conv2d(channels, 2 * inner, 1)
        self.proj = nn.Conv2d(inner, inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, h*d, H, W) for a map (B, C, H, W)."""
        q = self.scale(self.q(x)).flatten(2)  # (B, h*d, N)
        k, v = self.kv(self.pool(x)).flatten(2).chunk(2, 1)  # (B, h*d, M)
        mixed = self.mix(q, k, v, self.heads, None)
        return self.proj(mixed.unflatten(2, x.shape[2:]))


class HiLo(nn.Module):
    """Some heads attend within windows, the others to the windows' means (section 3.2)."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        heads = channels // HEAD_DIM
        low = int(heads * LOW)
        self.high = HighAttention(channels, heads - low, window)
        self.low = LowAttention(channels, low, window)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return torch.cat((self.high(x), self.low(x)), 1)


# --- blocks -----------------------------------------------------------------------------------------------------------


class LITConvBlock(nn.Module):
    """Block of stages 1 and 2: a feed-forward network alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.ffn = LITFFN(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        return x + self.ffn(self.norm(x))


class LITAttentionBlock(nn.Module):
    """Block of stages 3 and 4: attention, which is ordinary for windows of one position, and feed-forward network."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        one = LowAttention(channels, channels // HEAD_DIM, 1)
        self.attention = HiLo(channels, window) if window > 1 else one
        self.norm2 = ChannelNorm(channels)
        self.ffn = LITFFN(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, C, H, W) for a map of the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class TokenMerging(nn.Module):
    """Deformable convolution of 2 x 2 taps (arXiv 1703.06211) that halves H x W and doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(channels, 8, 2, 2)  # down and right by tap, in positions
        self.conv = nn.Conv2d(channels, 2 * channels, 2, 2)
        self.norm: nn.Module = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, 2C, H/2, W/2) for a map (B, C, H, W)."""
        return F.gelu(self.norm(self.conv(sampled(x, self.offset(x)))))


def sampled(x: Tensor, offset: Tensor) -> Tensor:
    """Sample `x` (B, C, H, W) bilinearly at displaced positions, in its own shape; H and W above 1.

    `x` counts as zero outside the map. `offset` (B, 8, H/2, W/2) holds the displacement down and right of each tap of a
    2 x 2 kernel, row by row.
    """
    b, _, height, width = x.shape
    taps = offset.reshape(b, 2, 2, 2, height // 2, width // 2)  # (B, row and column of the tap, down and right, ...)
    moved = taps.permute(0, 3, 4, 1, 5, 2).reshape(b, 2, height, width)
    down = _coordinates(height, x)[:, None] + moved[:, 0] * (2 / (height - 1))
    right = _coordinates(width, x) + moved[:, 1] * (2 / (width - 1))
    grid = torch.cat((right[..., None], down[..., None]), -1)  # (B, H, W, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _coordinates(size: int, like: Tensor) -> Tensor:
    """Return `size` even coordinates from -1 to 1, rounded once, in the dtype and on the device of `like`.

    `torch.linspace` would fix a size that is dynamic in an exported graph.
    """
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    return (2 * places - (size - 1)) / (size - 1)


# --- the network ------------------------------------------------------------------------------------------------------


class LITStage(nn.Module):
    """Token merging (but not in the first stage) and blocks; `norm` is for the outputs of a dense network."""

    def __init__(self, channels: int, blocks: int, window: int, *, first: bool, head: Head) -> None:
        super().__init__()
        self.downsample = nn.Identity() if first else TokenMerging(channels // 2)
        self.blocks = nn.Sequential(
            *(LITAttentionBlock(channels, window) if window else LITConvBlock(channels) for _ in range(blocks))
        )
        self.norm = ChannelNorm(channels) if head is not Head.CLASSIFIER else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, 2C, H/2, W/2) for a map (B, C, H, W); in the first stage, of the same shape."""
        return self.blocks(self.downsample(x))


class LITv2(nn.Module):
    """LITv2 for classification or as a dense backbone.

    ``forward`` takes normalised RGB images (B, 3, H, W), H and W multiples of 32, and raises `UsageError` for others.
    With ``Head.CLASSIFIER`` it returns logits (B, classes). With a dense head it returns the normalised outputs of the
    four stages (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32, which the authors' detection and segmentation networks read.
    """

    def __init__(self, design: LITDesign, *, head: Head, classes: int) -> None:
        super().__init__()
        if head not in (Head.CLASSIFIER, Head.DENSE, Head.STAGES):
            raise UsageError(f"LITv2 is a classifier or a dense backbone; there is none with the head '{head}'.")
        self.head_kind, self.classes, self.form = head, classes, Form.UNFUSED
        channels = [design.channels << stage for stage in range(len(design.blocks))]
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 4, 4), ChannelNorm(channels[0]))
        self.stages = nn.ModuleList(
            [
                LITStage(width, blocks, window, first=width == channels[0], head=head)
                for width, blocks, window in zip(channels, design.blocks, WINDOWS, strict=True)
            ]
        )
        if head is Head.CLASSIFIER:
            self.norm = ChannelNorm(channels[-1])
            self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits (B, classes) or the maps of the four stages for images (B, 3, H, W)."""
        height, width = x.shape[2:]
        if height < STRIDE or width < STRIDE or height % STRIDE or width % STRIDE:
            raise UsageError(f"LITv2 takes sides that are multiples of {STRIDE} pixels, not {height}x{width}.")
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            assert isinstance(stage, LITStage)
            x = stage(x)
            maps.append(stage.norm(x))
        if self.head_kind is not Head.CLASSIFIER:
            return tuple(maps)
        return self.classifier(self.norm(x).mean((2, 3)))


def network(name: str, *, head: Head, classes: int, size: tuple[int, int]) -> LITv2:
    """Build the LITv2 of a name (a key of `DESIGNS`) in float32 and training form, on torch's default device.

    The parameters do not depend on `size`.
    """
    return LITv2(DESIGNS[name], head=head, classes=classes)


# --- folding ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def at_level(network: nn.Module, level: Fuse, layout: GraphVariant) -> nn.Module:
    """Return a copy of the network at a fuse level, in float64 and evaluation mode, sharing no tensors.

    There are no branches to fuse: ``Fuse.FUSED`` is the network as trained. ``Fuse.FOLDED`` folds the BatchNorms and
    the scale of the queries into the convolutions in front of them. LayerNorms stay.
    """
    assert isinstance(network, LITv2)
    result = copy.deepcopy(network).double().eval()
    if level is Fuse.NONE:
        return result
    result.form = Form.FUSED
    if level is Fuse.FUSED:
        return result
    for module in list(result.modules()):
        match module:
            case HighAttention():
                module.scale = parts.fold_scale(module.qkv, module.scale, module.qkv.out_channels // 3)
                module.mix = parts.MIXES[layout.attention]
            case LowAttention():
                module.scale = parts.fold_scale(module.q, module.scale, module.q.out_channels)
                module.mix = parts.MIXES[layout.attention]
            case TokenMerging():
                module.norm = parts.fold_behind(module.conv, module.norm)
            case _:
                pass
    return result
