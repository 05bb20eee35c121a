"""Dense heads on the four maps of any backbone: Semantic FPN, and a feature pyramid with region proposals.

The maps have strides 4, 8, 16 and 32. Shapes in comments: B batch, H x W the image, s a stride.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench.errors import UsageError
from fastvit_bench.records import Head

STRIDES = (4, 8, 16, 32)
WIDTH = 256  # channels of a feature pyramid
SEGMENTATION_WIDTH = 128  # channels in which the levels are added
SEGMENTATION_CLASSES = 150  # of ADE20K
ANCHORS = 3  # per position: three shapes at one scale


class ConvNormReLU(nn.Module):
    """A 3 x 3 convolution without bias, BatchNorm and ReLU."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H, W) for a map (B, cin, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class ConvReLU(nn.Module):
    """A 3 x 3 convolution with bias and ReLU: `ConvNormReLU` with its BatchNorm folded."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, cout, H, W) for a map (B, cin, H, W)."""
        return F.relu(self.conv(x))


class FPN(nn.Module):
    """Feature pyramid (arXiv 1612.03144): four maps of 256 channels, each added to the coarser ones above it."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([nn.Conv2d(count, WIDTH, 1) for count in channels])
        self.outputs = nn.ModuleList([nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in channels])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return four maps (B, 256, H/s, W/s) for the backbone's maps (B, C_i, H/s, W/s)."""
        laterals = zip(self.laterals, maps, strict=True)
        merged = [lateral(features) for lateral, features in laterals]  # (B, 256, H/s, W/s)
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = merged[level - 1] + F.interpolate(merged[level], scale_factor=2.0, mode="nearest")
        return [output(level) for output, level in zip(self.outputs, merged, strict=True)]


class SemanticFPN(nn.Module):
    """Segmentation head: scores of ADE20K's 150 classes, (B, 150, H/4, W/4) (arXiv 1901.02446, section 3).

    The design is that of PVT and PoolFormer for ADE20K. Every level passes through as many 3 x 3 convolutions as it is
    doubled, at least one. Their sum passes through a 1 x 1 convolution.
    """

    def __init__(self, channels: Sequence[int], *, block: type[ConvNormReLU | ConvReLU] = ConvNormReLU) -> None:
        super().__init__()
        self.fpn = FPN(channels)
        self.paths = nn.ModuleList([_path(doublings, block) for doublings in range(len(channels))])
        self.classifier = nn.Conv2d(SEGMENTATION_WIDTH, SEGMENTATION_CLASSES, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the scores (B, 150, H/4, W/4) for the backbone's four maps (B, C_i, H/s, W/s)."""
        total, *remaining = (path(level) for path, level in zip(self.paths, self.fpn(maps), strict=True))
        for level in remaining:
            total = total + level  # (B, 128, H/4, W/4)
        return self.classifier(total)


def _path(doublings: int, block: type[ConvNormReLU | ConvReLU]) -> nn.Sequential:
    """Return the layers that bring a level of the pyramid to stride 4, doubling its sides `doublings` times."""
    steps: list[nn.Module] = [block(WIDTH, SEGMENTATION_WIDTH)]
    for step in range(doublings):
        if step > 0:
            steps.append(block(SEGMENTATION_WIDTH, SEGMENTATION_WIDTH))
        steps.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False))
    return nn.Sequential(*steps)


class RegionProposals(nn.Module):
    """Detection head: region proposals on a feature pyramid of five levels, computed before a detector looks at boxes.

    It is Faster R-CNN's (arXiv 1506.01497) on FPN (arXiv 1612.03144, section 4.1), with one convolution shared by all
    levels. The fifth level is every second position of the fourth. ``forward`` returns five maps (B, 3, H/s, W/s),
    s = 4 to 64, of scores that an anchor holds an object. Then follow five maps (B, 12, H/s, W/s) of the shift and
    scaling of each anchor.
    """

    def __init__(self, channels: Sequence[int], *, block: type[ConvNormReLU | ConvReLU] = ConvNormReLU) -> None:
        super().__init__()
        del block  # it has no BatchNorm to fold
        self.fpn = FPN(channels)
        self.shared = ConvReLU(WIDTH, WIDTH)
        self.objectness = nn.Conv2d(WIDTH, ANCHORS, 1)
        self.deltas = nn.Conv2d(WIDTH, 4 * ANCHORS, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return five maps of scores and five of shifts for the backbone's four maps (B, C_i, H/s, W/s)."""
        levels = self.fpn(maps)
        levels.append(F.max_pool2d(levels[-1], 1, 2))
        features = [self.shared(level) for level in levels]
        return (*map(self.objectness, features), *map(self.deltas, features))


KINDS: dict[Head, type[SemanticFPN | RegionProposals]] = {
    Head.SEGMENTER: SemanticFPN,
    Head.DETECTOR: RegionProposals,
}


# --- on any backbone --------------------------------------------------------------------------------------------------


class Headed(nn.Module):
    """A backbone that returns the maps of its four stages, and a dense head on them; takes images (B, 3, H, W)."""

    def __init__(self, backbone: nn.Module, dense_head: nn.Module, *, head: Head, classes: int) -> None:
        super().__init__()
        self.backbone, self.dense_head = backbone, dense_head
        self.head_kind, self.classes = head, classes

    @property
    def form(self) -> Any:
        """Form of the backbone; the head has one form only."""
        return self.backbone.form

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the dense head's outputs for images (B, 3, H, W)."""
        return self.dense_head(self.backbone(x))


def attach(backbone: nn.Module, name: str, kind: Head, classes: int, size: tuple[int, int]) -> Headed:
    """Return a backbone with a dense head of `kind` on its maps, for images of `size` (height, width).

    The backbone has `Head.STAGES`. Raises `UsageError` for a size of which the maps are not an exact quarter, eighth,
    sixteenth and thirty-second.
    """
    with torch.no_grad():
        maps = copy.deepcopy(backbone).to("meta").eval()(torch.zeros(1, 3, *size, device="meta"))
    wanted = [tuple(side / stride for side in size) for stride in STRIDES]
    if [tuple(features.shape[2:]) for features in maps] != wanted:
        raise UsageError(
            f"{name} with {kind} takes images whose sides are multiples of {STRIDES[-1]}, not {size[0]}x{size[1]}."
        )
    return Headed(backbone, KINDS[kind]([features.shape[1] for features in maps]), head=kind, classes=classes)
