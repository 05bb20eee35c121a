"""Preparations of images that files are exported with, and the images they are tried on."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fastvit_bench.network import registry
from fastvit_bench.records import MEAN, STD
from fastvit_bench.records.preparation import CLIP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.auditing.foreign import Port

# of the colours; crossed: blue comes first, and is normalised by red's mean and deviation
Order = Literal["RGB", "BGR", "crossed"]
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Normalisation:
    """The mean and standard deviation of pixel / 255 that values are normalised by, red first."""

    title: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_UNIT = Normalisation("pixels in 0..1", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_BYTES = Normalisation("pixels in 0..255", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
# The usual ones, from timm's and CLIP's settings.
NORMALISATIONS = (
    Normalisation("ImageNet's mean and std", MEAN, STD),
    _UNIT,
    _BYTES,
    Normalisation("CLIP's mean and std", CLIP.mean, CLIP.std),
    Normalisation("pixels in -1..1", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)


@dataclass(frozen=True)
class TrialPreparation:
    """One way from 8-bit RGB pixels to what a file or a network takes."""

    order: Order
    normalisation: Normalisation

    def __str__(self) -> str:
        if self.order == "crossed":
            return f"BGR, {self.normalisation.title} in the order of RGB"
        return f"{self.order}, {self.normalisation.title}"

    def apply(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float64]":
        """Return pixels (N, H, W, 3) as values (N, 3, H, W)."""
        if self.order == "crossed":
            pixels = pixels[..., ::-1]
        values = (pixels.astype(np.float64) / 255 - np.array(self.normalisation.mean)) / np.array(
            self.normalisation.std
        )
        values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values[:, ::-1] if self.order == "BGR" else values)


TRIALS = tuple(TrialPreparation(order, by) for by in NORMALISATIONS for order in ("RGB", "BGR"))
# What a file may do within, besides. An image input of Core ML has a bias for each colour and one scale for all, so
# coremltools' guide divides by 0.226 and subtracts mean / std.
_SCALE = 0.226
_WITHIN = (
    Normalisation(
        f"ImageNet's mean over its std, and pixels over {_SCALE}",
        (MEAN[0] * _SCALE / STD[0], MEAN[1] * _SCALE / STD[1], MEAN[2] * _SCALE / STD[2]),
        (_SCALE, _SCALE, _SCALE),
    ),
    Normalisation("ImageNet's std without its mean", (0.0, 0.0, 0.0), STD),
)
WITHIN = (
    *TRIALS,
    *(TrialPreparation("crossed", by) for by in NORMALISATIONS if len({*by.mean, *by.std}) > 2),
    *(TrialPreparation(order, by) for by in _WITHIN for order in ("RGB", "BGR")),
)
# what a file that normalises by itself is fed
PLAIN = (TrialPreparation("RGB", _BYTES), TrialPreparation("RGB", _UNIT))


def of_network(variant: str) -> TrialPreparation:
    """Return the preparation that a network is published with."""
    own = registry.find(variant).preparation
    return TrialPreparation("RGB", next(by for by in NORMALISATIONS if (by.mean, by.std) == (own.mean, own.std)))


_ALIKE = 0.3  # shift of the mean over the deviation, and ratio of deviations as a logarithm, together


def alike(own: TrialPreparation) -> tuple[TrialPreparation, ...]:
    """Return the preparations so near to one that the rounding of float16 could hide the difference."""

    def apart(by: Normalisation) -> float:
        return max(
            abs(mean - own_mean) / own_std + abs(math.log(std / own_std))
            for mean, std, own_mean, own_std in zip(
                by.mean, by.std, own.normalisation.mean, own.normalisation.std, strict=True
            )
        )

    return tuple(
        trial for trial in WITHIN if trial != own and trial.order == own.order and apart(trial.normalisation) < _ALIKE
    )


def of_port(port: "Port", own: TrialPreparation) -> tuple[TrialPreparation, ...]:
    """Return what an input may be fed, the network's own preparation first where it can be."""
    if port.dtype == "image":
        return PLAIN[:1]  # Core ML brings the colours into the declared order
    if "float" not in port.dtype:
        return tuple(trial for trial in TRIALS if trial.normalisation is _BYTES)
    return (own, *(trial for trial in TRIALS if trial != own))


def fed(port: "Port", layout: Layout, pixels: "NDArray[np.uint8]", trial: TrialPreparation) -> "NDArray[np.generic]":
    """Return pixels (N, H, W, 3) as an input takes them."""
    if port.dtype == "image":
        return pixels
    values = trial.apply(pixels)
    values = values if layout == "NCHW" else values.transpose(0, 2, 3, 1)
    exact = values if "float" in port.dtype else np.rint(values)
    batch = np.ascontiguousarray(exact.astype(port.dtype))
    return batch[0] if len(port.shape) == 3 else batch


def noise(count: int, height: int, width: int, seed: int) -> "NDArray[np.uint8]":
    """Return images (N, H, W, 3) of coloured patches under noise.

    Every colour has patches of its own, so that the order of colours, means and deviations matter to a network.
    """
    draw = np.random.default_rng(seed)
    patches = draw.uniform(0, 255, (count, 4, 4, 3))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    coarse = patches[:, rows][:, :, columns]
    return np.rint(0.7 * coarse + 0.3 * draw.uniform(0, 255, coarse.shape)).astype(np.uint8)
