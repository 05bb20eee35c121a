"""Linear layers as 1 x 1 convolutions: Apple's advice for the Neural Engine, and more exact on the interpreter.

Apple's reference interpreter adds up a matrix product in FP16, and a convolution in FP32.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseLinear(nn.Module):
    """A linear layer on the last axis, computed by a 1 x 1 convolution with channels first."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach()[..., None, None])  # (out, in, 1, 1)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (..., out) for x (..., in), as the linear layer would."""
        if x.ndim == 2:
            return F.conv2d(x[:, :, None, None], self.weight, self.bias).flatten(1)
        tokens = x.flatten(1, -2).transpose(1, 2).unsqueeze(2)  # (B, in, 1, N)
        output = F.conv2d(tokens, self.weight, self.bias).squeeze(2).transpose(1, 2)  # (B, N, out)
        return output.reshape(*x.shape[:-1], len(self.weight))


def replace_linear_layers(network: nn.Module) -> None:
    """Replace every linear layer of a network; the names of its weights stay."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:  # a subclass may compute something else
                setattr(module, name, PointwiseLinear(child))
