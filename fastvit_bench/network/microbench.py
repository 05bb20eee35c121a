"""Small networks whose operations are counted by hand, to measure the highest rates that a device reaches."""

import math

import torch
from torch import Tensor, nn

from fastvit_bench.records import Microbenchmark


class Layers(nn.Module):
    """Convolutions of equal width on an image (N, 3, H, W), behind one that widens it; returns channel means."""

    def __init__(self, width: int, kernel: int, depth: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, width, 1, bias=False)
        layers = (nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False) for _ in range(depth))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Return the channel means (N, width) for images (N, 3, H, W)."""
        return self.layers(self.widen(image)).mean((2, 3))  # (N, width)


class Products(nn.Module):
    """Matrix products: an image's widened pixels as rows, multiplied by square matrices; returns channel means."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, width, 1, bias=False)
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(width, width)) for _ in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        """Return the channel means (N, width) for images (N, 3, H, W)."""
        rows = self.widen(image).flatten(2).transpose(1, 2)  # (N, H * W, width)
        for factor in self.factors:
            rows = rows @ factor
        return rows.mean(1)  # (N, width)


class Scaled(nn.Module):
    """A copy with a multiplication: every number of an image is read once and written once."""

    def forward(self, image: Tensor) -> Tensor:
        """Return images (N, 3, H, W) multiplied by a constant."""
        return image * 1.5


def network(probe: Microbenchmark) -> nn.Module:
    """Build the network of a probe in float64, with random weights that keep the scale of values between layers."""
    match probe.kind:
        case "copy":
            model: nn.Module = Scaled()
        case "product":
            model = Products(probe.width, probe.depth)
        case _:
            model = Layers(probe.width, 3 if probe.kind == "spatial" else 1, probe.depth)
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        # An output sums this many products: all sizes but the first of a convolution's weight, the rows of a matrix.
        added = weight[0].numel()
        weight.data = torch.randn(weight.shape, generator=draw, dtype=torch.float64) / math.sqrt(added)
    return model.double().eval().requires_grad_(False)
