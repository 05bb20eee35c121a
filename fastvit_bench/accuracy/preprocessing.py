"""Decode, resize, crop and normalise images as published accuracies did."""

import hashlib
import io
import itertools
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastvit_bench.accuracy import contents
from fastvit_bench.backends import Images
from fastvit_bench.errors import printable
from fastvit_bench.records import LabelledImage, Preparation, Preprocessing, Unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from fastvit_bench.backends import Batch

    Prepared = NDArray[np.float32] | NDArray[np.uint8]  # (3, H, W) normalised, or (H, W, 3) pixels: see `Images`


# pixels of an image, as a file and resized, as many as Pillow decodes without a warning
MOST_PIXELS = 89_478_485


# --- from a file to a network's input ---------------------------------------------------------------------------------


def decoder() -> str:
    """Return name and version of the library that decodes and resizes, such as ``Pillow 13.0.0``."""
    import importlib.metadata

    return f"Pillow {importlib.metadata.version('pillow')}"


def cut(image: "Image", how: Preprocessing) -> "NDArray[np.uint8]":
    """Resize an RGB image and return its middle, (H, W, 3) with H = W = `how.resolution`.

    Sizes are rounded as torchvision's Resize (down) and CenterCrop (to the nearest, halves to even) round them. An
    image is padded as LLaVA pads it (`expand2square`): evenly, with the mean rounded down to 8 bits.
    """
    import PIL.Image

    short, side = how.shorter_side, how.resolution
    if how.resize == "pad" and image.width != image.height:
        most = max(image.size)
        if most * most > MOST_PIXELS:
            raise ValueError(f"padded to {most} x {most} pixels it is too large")
        padded = PIL.Image.new("RGB", (most, most), tuple(int(255 * mean) for mean in how.mean))
        padded.paste(image, ((most - image.width) // 2, (most - image.height) // 2))
        image = padded
    width, height = image.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if how.resize == "squash":
        size = (short, short)
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"resized to {size[0]} x {size[1]} it is too large")
    if size != image.size:
        image = image.resize(size, PIL.Image.Resampling[how.interpolation.upper()])
    x, y = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(image.crop((x, y, x + side, y + side)))


def normalised(pixels: "NDArray[np.uint8]", how: Preparation) -> "NDArray[np.float32]":
    """Return (pixel / 255 - mean) / std of pixels (H, W, 3), as (3, H, W) in float32, rounded as torchvision rounds."""
    values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    values /= np.float32(255)
    values -= np.array(how.mean, np.float32).reshape(3, 1, 1)
    values /= np.array(how.std, np.float32).reshape(3, 1, 1)
    return values


# The formats that the endings of images name. Pillow would open others by their content, whatever a file is called, and
# runs other programs for some, such as Ghostscript for PostScript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")


def prepare(content: bytes, how: Preprocessing, form: Images) -> "Prepared":
    """Decode the content of an image file and prepare it; raises whatever Pillow's decoders raise where they cannot."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        if opened.width * opened.height > MOST_PIXELS:  # before memory is taken for them
            raise ValueError(f"{opened.width} x {opened.height} pixels are too many")
        pixels = cut(opened.convert("RGB"), how)
    return pixels if form is Images.PIXELS else normalised(pixels, how)


class DecodedImage(NamedTuple):
    """An image, prepared or unreadable, and the SHA-256 of its file's content."""

    sha256: bytes
    image: "Prepared | Unreadable"


def decoded(
    folder: Path,
    pictures: Sequence[LabelledImage],
    how: Preprocessing,
    form: Images,
    *,
    workers: int,
    ahead: int,
) -> Generator[DecodedImage]:
    """Yield every picture prepared, in order, by `workers` threads that are at most `ahead` pictures in front."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[DecodedImage]] = deque()
        todo = iter(pictures)
        try:
            for picture in itertools.islice(todo, ahead):
                waiting.append(pool.submit(_prepared, folder, picture, how, form))
            while waiting:
                image = waiting.popleft().result()
                for picture in itertools.islice(todo, 1):
                    waiting.append(pool.submit(_prepared, folder, picture, how, form))
                yield image
        finally:
            for future in waiting:
                future.cancel()


def _prepared(folder: Path, picture: LabelledImage, how: Preprocessing, form: Images) -> DecodedImage:
    """Prepare a picture, or return the reason why it cannot be read."""
    content, refused = contents.read(folder / picture.name)
    digest = hashlib.sha256(content).digest()
    try:
        if refused is not None:
            raise refused
        return DecodedImage(digest, prepare(content, how, form))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of any kind
        return DecodedImage(digest, Unreadable(name=picture.name, reason=_reason(error, folder)))


def _reason(error: Exception, folder: Path) -> str:
    """Return a decoder's message, shortened and without the folder."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()).replace(str(folder), "")
    return printable(text)[:120].rstrip(".") or type(error).__name__


def stacked(images: "Sequence[Prepared]", size: int) -> "Batch":
    """Stack images to a batch of `size`, filled up with the first one, so that only ordinary values are computed."""
    batch: Any = np.stack([*images, *([images[0]] * (size - len(images)))])
    return batch
