"""A network behind 8-bit pixels, which it normalises itself."""

import torch
from torch import Tensor, nn

from fastvit_bench.records.spec import Triple


class PixelInput(nn.Module):
    """A network behind the conversion of 8-bit pixels to pixel / 255 - mean; the network divides by std."""

    mean: Tensor

    def __init__(self, network: nn.Module, mean: Triple, kind: torch.dtype) -> None:
        super().__init__()
        self.wrapped_network = network
        self.centred = any(mean)  # zeros are not subtracted
        self.register_buffer("mean", torch.tensor(mean, dtype=kind), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the network's outputs for uint8 pixels (N, H, W, 3), RGB."""
        values = pixels.to(self.mean.dtype) * (1 / 255)
        if self.centred:
            values = values - self.mean
        return self.wrapped_network(values.permute(0, 3, 1, 2).contiguous())
