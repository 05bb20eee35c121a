"""The seven FastViT variants as one table, readable without importing torch."""

from dataclasses import dataclass
from enum import StrEnum

from fastvit_bench.errors import UsageError

STRIDE = 32  # of the whole network: stem 4, then 2 in front of stages 2, 3 and 4


class Mixer(StrEnum):
    """Token mixer of the last stage; the first three stages always have RepMixer."""

    REPMIXER = "repmixer"
    ATTENTION = "attention"


@dataclass(frozen=True)
class Variant:
    """One row of the paper's table 2: blocks and channels per stage, expansion of the ConvFFN, last token mixer."""

    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    ratio: int
    last: Mixer
    gmacs: float  # 10^9 multiply-accumulates of the fused network for one 256 x 256 image, as network.cost counts them


VARIANTS: dict[str, Variant] = {
    "fastvit_t8": Variant((2, 2, 4, 2), (48, 96, 192, 384), 3, Mixer.REPMIXER, 0.685),
    "fastvit_t12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 3, Mixer.REPMIXER, 1.391),
    "fastvit_s12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, Mixer.REPMIXER, 1.794),
    "fastvit_sa12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, Mixer.ATTENTION, 1.937),
    "fastvit_sa24": Variant((4, 4, 12, 4), (64, 128, 256, 512), 4, Mixer.ATTENTION, 3.762),
    "fastvit_sa36": Variant((6, 6, 18, 6), (64, 128, 256, 512), 4, Mixer.ATTENTION, 5.587),
    "fastvit_ma36": Variant((6, 6, 18, 6), (76, 152, 304, 608), 4, Mixer.ATTENTION, 7.815),
}


def check_size(height: int, width: int, stride: int = STRIDE) -> None:
    """Raise `UsageError` unless an image's sides are multiples of a network's total stride, and 32 at least."""
    for name, size in (("height", height), ("width", width)):
        if size < STRIDE:
            raise UsageError(f"{name} {size} is below {STRIDE} pixels; use {STRIDE} or more.")
        if size % stride:
            below = size // stride * stride
            raise UsageError(
                f"{name} {size} is not a multiple of {stride}, the network's total stride; "
                f"use {below} or {below + stride}."
            )
