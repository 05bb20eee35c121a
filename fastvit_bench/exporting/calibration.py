"""The images that a quantised file is calibrated on: drawn from a folder, known by their contents, and prepared."""

import hashlib
import random
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench.accuracy import contents, dataset, preprocessing
from fastvit_bench.accuracy.dataset import DataSet
from fastvit_bench.backends import Images
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting.preparation import resolve
from fastvit_bench.records import CalibrationImages, CalibrationSet, Device, ModelSpec, Preprocessing, Shape, Unreadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST = 2  # images; the range of one is no range of others
_DECODERS = 4  # threads that read images


def choose(spec: ModelSpec, shape: Shape, device: Device, seed: int) -> CalibrationImages:
    """Draw the calibration images of a device's folder by a seed, and read them for their hash.

    The draw depends on the images' names and the seed alone. Raises `UsageError` without a folder, for one with fewer
    than two images, for an image that cannot be read, and for inputs that are no squares.
    """
    images = available(device)
    if shape.height != shape.width:
        raise UsageError(f"INT8 is calibrated on square images, and {shape.size} is none; name one size with --res.")
    total = len(images.pictures)
    drawn = random.Random(seed).sample(images.pictures, min(device.calibration_images, total))
    digest = ""
    for picture in drawn:
        content, refused = contents.read(images.folder / picture.name)
        if refused is not None:
            raise _unreadable(images.folder / picture.name, refused.strerror or str(refused))
        digest = contents.extended(digest, hashlib.sha256(content).digest())
    return CalibrationImages(
        folder=str(images.folder),
        pictures=tuple(drawn),
        chosen=CalibrationSet(
            images=len(drawn),
            available=total,
            seed=seed,
            digest=digest,
            classes=len(images.present),
            preprocessing=Preprocessing.of(resolve(spec).preparation, shape.height),
            decoder=preprocessing.decoder(),
        ),
    )


def available(device: Device) -> DataSet:
    """Return all images of a device's calibration folder. Raises `UsageError` without one, and for too few images."""
    if device.calibration is None:
        raise UsageError(
            "INT8 needs images like those that the network will see, for the ranges of its activations: name a folder "
            "of them with --calibration DIR (in a side of `compare`: calibration=DIR), or with `calibration` in the "
            "device's table of benchmark.toml."
        )
    images = dataset.any_images(Path(device.calibration))
    total = len(images.pictures)
    if min(total, device.calibration_images) < LEAST:
        holds = f"holds {total or 'no'} image{'s' * (total != 1)}" if total < LEAST else "holds more, and one was asked"
        raise UsageError(
            f"INT8 needs at least {LEAST} calibration images, better {device.calibration_images} and more, and the "
            f"folder {images.folder} {holds}; the range of one image is no range of others."
        )
    return images


def prepared(images: CalibrationImages) -> "list[NDArray[np.float32]]":
    """Return the calibration images as inputs (3, H, W), normalised, in the order of the draw.

    Raises `UsageError` for an image that cannot be decoded, and for images that changed since they were drawn.
    """
    folder, how = Path(images.folder), images.chosen.preprocessing
    readings = preprocessing.decoded(
        folder, images.pictures, how, Images.TENSOR, workers=_DECODERS, ahead=2 * _DECODERS
    )
    tensors: list[NDArray[np.float32]] = []
    digest = ""
    for picture, (own, image) in zip(images.pictures, readings, strict=True):
        if isinstance(image, Unreadable):
            raise _unreadable(folder / picture.name, image.reason)
        digest = contents.extended(digest, own)
        tensors.append(image.astype("float32", copy=False))
    if digest != images.chosen.digest:
        raise UsageError(f"The calibration images in {folder} changed while they were used; export again.")
    return tensors


def _unreadable(path: Path, reason: str) -> UsageError:
    return UsageError(f"The calibration image {path} cannot be read: {reason}; remove it, or name other images.")
