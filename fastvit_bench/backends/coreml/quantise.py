"""Networks with 8-bit weights and activations, as Core ML packages for iOS 17 hold them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastvit_bench.backends import RoundedNetwork, _eight_bits
from fastvit_bench.network import registry
from fastvit_bench.records import ExportJob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

PRECISIONS = (_eight_bits.ACTIVATIONS,)  # of 8-bit weights alone there is --compress int8
PACKAGES = _eight_bits.PACKAGES

# It gives one input of a sum the step 1 and rounds the quotient of both steps to FP16. Then activations fall to other
# steps than in the rounded network (25 dB), and sums of integers may overflow FP16.
UNWANTED_PASSES = {"common::distributive_quantized_binary_op_scale_normalization"}


def unavailable_reason(precision: str) -> str | None:
    """Return why packages of a precision cannot be written here and the remedy; None where they can."""
    return _eight_bits.unavailable_reason(precision, PRECISIONS)


def rounded(network: "nn.Module", asked: ExportJob, images: "Sequence[NDArray[np.float32]]") -> RoundedNetwork:
    """Return a copy of a network in float32 with the weights, biases and steps that an FP16 package holds.

    The ranges of activations are those of `images` (3, H, W), normalised. Raises `UsageError` without images, and
    `ParityError` for steps that FP16 cannot hold.
    """
    import copy

    import torch

    from fastvit_bench.backends.coreml import rounded as rounding

    _eight_bits.require_images(asked, images)
    network = copy.deepcopy(network).float().eval()
    std = registry.preparation_of(asked).std if asked.options["input"] == "image" else None
    with _eight_bits.translated(asked):
        final = _eight_bits.finished(_eight_bits.calibrated(network, asked, images, std), "CoreML")
        names = rounding.settle(final)
        with torch.no_grad():
            exported = torch.export.export(final, (torch.zeros(asked.shape.nchw),))
        return RoundedNetwork(final, _eight_bits.scheme(asked, exported, names))
