"""Networks without a file: FastViT with random weights."""

import torch

from fastvit_bench.errors import UsageError
from fastvit_bench.network.checkpoint.recognition import check_variant
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.random_weights import randomise
from fastvit_bench.network.registry import design
from fastvit_bench.records import DRAW, Head, Weights


def randomised(variant: str, head: Head, classes: int, seed: int, channels: int = 3) -> tuple[FastViT, Weights]:
    """Build a FastViT in training form with random weights, for figures that need no trained ones.

    The weights are those of `random_weights.randomise`. The network is in evaluation mode and float32. torch's own
    random state does not change. Raises `UsageError` for a variant that does not exist and for fewer than one class.
    """
    check_variant(variant)
    if classes < 1 and head is Head.CLASSIFIER:
        raise UsageError(f"A classifier has at least one class, not {classes}; correct `classes`.")
    with torch.device("meta"):
        network = FastViT(design(variant, channels), head=head, classes=classes)
    network = network.to_empty(device="cpu").eval()
    randomise(network, seed, channels=channels)
    return network, Weights(origin="random", seed=seed, draw=DRAW)
