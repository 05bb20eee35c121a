"""The classes of ILSVRC2012, by synset, by the devkit's numbers and by those that networks have.

Networks that were trained on its 1000 folders number the classes by the sorted synsets, from 0. The devkit numbers them
in an order of its own, from 1.
"""

import functools
import re
from pathlib import Path

from fastvit_bench import files

CLASSES = 1000
VALIDATION_IMAGES = 50_000
SYNSET = re.compile(r"n\d{8}", re.ASCII)  # a noun of WordNet 3.0, as image-net.org writes it

# Synsets of the first validation images, number 1 to 15, by which a file's way of numbering is recognised. They are
# facts of ILSVRC2012_validation_ground_truth.txt, and agree with the list named in imagenet_synsets.txt.
VALIDATION = (
    *("n01751748", "n09193705", "n02105855", "n04263257", "n03125729", "n01735189", "n02346627", "n02776631"),
    *("n03794056", "n02328150", "n01917289", "n02125311", "n02484975", "n04065272", "n03496892"),
)
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})", re.ASCII)


@functools.cache
def devkit_order() -> tuple[str, ...]:
    """Return the 1000 synsets in the devkit's order: the first is its class 1."""
    lines = files.read_text(Path(__file__).with_name("imagenet_synsets.txt")).splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


@functools.cache
def numbers() -> dict[str, int]:
    """Return the number that networks have for each synset, from 0."""
    return {synset: number for number, synset in enumerate(sorted(devkit_order()))}


def validation_number(image: str) -> int | None:
    """Return the number of a validation image, from 1, by its file's name; None for any other name."""
    match = _VALIDATION_NAME.fullmatch(image.rpartition("/")[2].partition(".")[0])
    return int(match[1]) if match else None


def validation_class(image: str) -> int | None:
    """Return the class of a validation image that is known here, as networks number it; None for any other image."""
    number = validation_number(image)
    return numbers()[VALIDATION[number - 1]] if number is not None and 1 <= number <= len(VALIDATION) else None
