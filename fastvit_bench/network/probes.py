"""Small networks whose work is known by heart, to learn what a device can do at best."""

import math

import torch
from torch import Tensor, nn

from fastvit_bench.records import Probe


class Layers(nn.Module):
    """An image (N, 3, H, W) through a layer that makes the channels, then layers of equal width; their means."""

    def __init__(self, width: int, kernel: int, depth: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, width, 1, bias=False)
        layers = (nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False) for _ in range(depth))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(self.widen(image)).mean((2, 3))  # (N, width)


class Products(nn.Module):
    """The same with its pixels as rows of a matrix that is multiplied by square ones."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, width, 1, bias=False)
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(width, width)) for _ in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        rows = self.widen(image).flatten(2).transpose(1, 2)  # (N, H * W, width)
        for factor in self.factors:
            rows = rows @ factor
        return rows.mean(1)  # (N, width)


class Scaled(nn.Module):
    """Every number of an image read once, changed and written once."""

    def forward(self, image: Tensor) -> Tensor:
        return image * 1.5


def network(probe: Probe) -> nn.Module:
    """The network of a probe in float64, with random weights that keep the values' size from layer to layer."""
    match probe.kind:
        case "copy":
            made: nn.Module = Scaled()
        case "product":
            made = Products(probe.width, probe.depth)
        case _:
            made = Layers(probe.width, 3 if probe.kind == "spatial" else 1, probe.depth)
    draw = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        # of a convolution (outputs, inputs, height, width) each output adds up all but the first; of a factor, its rows
        added = weight[0].numel()
        weight.data = torch.randn(weight.shape, generator=draw, dtype=torch.float64) / math.sqrt(added)
    return made.double().eval().requires_grad_(False)
