"""Records of how an image is prepared for a network: resized, cut and normalised."""

import math
from typing import Any

from fastvit_bench.records.spec import Interpolation, Record, Resize, Triple

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class Preparation(Record, frozen=True, kw_only=True):
    """The way from an image to the input of a network, but for its size; the same for training and for every use.

    With another one nothing fails, and all outputs are plausible and wrong.
    """

    mean: Triple = MEAN  # of red, green and blue in 0..1; it is subtracted from pixel / 255
    std: Triple = STD  # what the difference is divided by
    # The shorter side is resized to floor(size / crop), both sides are, or the longer one after the image was padded
    # to a square with the mean. Then a square of `size` is cut from the middle.
    resize: Resize = "shorter-side"  # the shorter side, both sides, or a square that is padded with the mean
    interpolation: Interpolation = "bicubic"  # Pillow's, which all antialias when they downscale, but nearest
    crop: float  # side of the square over the side that was resized to

    def __post_init__(self) -> None:
        """Raise `ValueError` for values that no preparation has."""
        for name in ("mean", "std", "crop"):
            if fault := preparation_fault(name, getattr(self, name)):
                raise ValueError(fault)


PREPARATION_FIELDS = Preparation.__struct_fields__


def preparation_fault(name: str, value: Any) -> str:
    """Return what is wrong with the value of a field of a `Preparation`, as a clause; empty if nothing is."""
    values = value if isinstance(value, tuple) else (value,)
    if name not in ("mean", "std", "crop") or value is None:
        return ""
    low = 0.0 if name == "mean" else math.nextafter(0, 1)
    if all(low <= number <= 1 for number in values):
        return ""
    shown = " ".join(f"{number:g}" for number in values)
    if name == "crop":
        return f"crop = {shown} is not a share between 0 and 1"
    hint = "; divide by 255" if all(low <= number <= 255 for number in values) else ""
    return f"{name} = {shown} is not within 0..1, as pixels divided by 255 are{hint}"


# What networks are trained with. MobileCLIP S0 to S2 and FastVLM are not normalised; S3 and S4 are as OpenAI's CLIP.
IMAGENET = Preparation(crop=0.9)
IMAGENET_95 = Preparation(crop=0.95)
UNNORMALISED = Preparation(mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop=1)
CLIP = Preparation(
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bilinear",
    crop=1,
)
FASTVLM = Preparation(mean=(0, 0, 0), std=(1, 1, 1), resize="pad", crop=1)
