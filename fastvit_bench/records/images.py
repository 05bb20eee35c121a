"""Records of images: files of a data set, and the steps from a file to a network's input."""

import math
from typing import Literal

import msgspec

from fastvit_bench.records.preparation import Preparation
from fastvit_bench.records.spec import Record


class LabelledImage(Record, frozen=True):
    """One image file of a data set."""

    name: str  # path below the data set's folder, with slashes
    size_bytes: int
    label: int  # index of its class in the network's outputs


class Preprocessing(Preparation, frozen=True, kw_only=True):
    """The steps from an image file to an input of one size; with the defaults, timm's evaluation transform."""

    resolution: int  # pixels: side of the square that is cropped from the centre
    colours: Literal["RGB"] = "RGB"  # as converted by Pillow; the EXIF orientation is ignored

    @classmethod
    def of(cls, preparation: Preparation, resolution: int) -> "Preprocessing":
        """Return the steps of a preparation to an input of `resolution` pixels."""
        return cls(resolution=resolution, **msgspec.structs.asdict(preparation))

    @property
    def shorter_side(self) -> int:
        """Pixels of the side that is resized to, rounded down as timm does (data/transforms_factory.py)."""
        return math.floor(self.resolution / self.crop)
