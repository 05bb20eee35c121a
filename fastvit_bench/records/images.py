"""Records of images: files of a data set, and the steps from a file to a network's input."""

import math
from typing import Literal

from fastvit_bench.records.spec import Record

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1; the published weights expect them


class LabelledImage(Record, frozen=True):
    """One image file of a data set."""

    name: str  # path below the data set's folder, with slashes
    size_bytes: int
    label: int  # index of its class in the network's outputs


class Preprocessing(Record, frozen=True):
    """The steps from an image file to an input: timm's evaluation transform, as used for the published accuracies."""

    resolution: int  # pixels: side of the square that is cropped from the centre
    crop: float  # the crop's side over the resized image's shorter side
    interpolation: Literal["bicubic"] = "bicubic"  # Pillow's, which antialiases when it downscales
    colours: Literal["RGB"] = "RGB"  # as converted by Pillow; the EXIF orientation is ignored

    @property
    def shorter_side(self) -> int:
        """Pixels of the resized image's shorter side, rounded down as timm does (data/transforms_factory.py)."""
        return math.floor(self.resolution / self.crop)
