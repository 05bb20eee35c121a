"""Parameters and multiply-accumulates of a network, counted on the ``meta`` device without computing anything."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvit_bench.records import Shape


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and multiply-accumulates of its forward pass over one batch."""

    params: int
    macs: int  # of convolutions and matrix products, as the paper's "FLOPs" are


def count(network: nn.Module, shape: Shape) -> Cost:
    """Count the cost of `network` at an input shape by running it on tensors that have shapes and no values."""
    # requires_grad_(False): the counter follows modules by gradients, and fails on views of parameters without any.
    skeleton = copy.deepcopy(network).to("meta").float().eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        skeleton(torch.zeros(shape.nchw, device="meta"))
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(params=params, macs=counter.get_total_flops() // 2)
