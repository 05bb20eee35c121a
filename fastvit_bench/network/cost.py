"""Parameters and multiply-accumulates of a network, counted without computing anything."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvit_bench.records import Shape


@dataclass(frozen=True)
class Cost:
    """Of one forward pass of one batch."""

    params: int
    macs: int  # multiply-accumulates of convolutions and matrix products, as the paper's "FLOPs" are


def count(network: nn.Module, shape: Shape) -> Cost:
    """Cost of `network` at an input shape, by running it on tensors that have shapes and no values."""
    skeleton = copy.deepcopy(network).to("meta").float().eval()
    skeleton.requires_grad_(False)  # the counter looks for the gradient of whatever a module is given, even here
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        skeleton(torch.zeros(shape.nchw, device="meta"))
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(params=params, macs=counter.get_total_flops() // 2)
