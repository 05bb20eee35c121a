"""Images of an accuracy, which lie on each worker: their names, sizes and classes come from the client."""

import os
from pathlib import Path

import msgspec

from fastvit_bench import files
from fastvit_bench.accuracy import dataset, preprocessing
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import LabelledImage, Record

DATA_VARIABLE = "FASTVIT_BENCH_DATA"
LIST = "images.json"  # name of the list of them as it travels


class ImageFolder(Record, frozen=True, tag="image-folder", tag_field="kind"):
    """A folder in which a worker has all images, with what decodes them there."""

    folder: str
    decoder: str


def read(path: Path) -> tuple[LabelledImage, ...]:
    """Return the images of a list that was fetched."""
    return msgspec.json.decode(files.read_bytes(path), type=tuple[LabelledImage, ...])


def find(folder: str, pictures: tuple[LabelledImage, ...]) -> ImageFolder:
    """Return the folder of this machine with the images: that of `worker --data`, else the one the client has.

    Raises `UnavailableError` unless every image is there with its size. Contents are hashed while they are counted.
    """
    chosen = Path(os.environ.get(DATA_VARIABLE) or folder)
    lacking = [_lacking(place, pictures) for place in (chosen, chosen / dataset.SPLIT)]
    for place, names in zip((chosen, chosen / dataset.SPLIT), lacking, strict=True):
        if not names:
            return ImageFolder(folder=str(place), decoder=preprocessing.decoder())
    names = min(lacking, key=len)
    raise UnavailableError(
        f"{len(names)} of {len(pictures)} images are missing in {chosen} or have another size than on the client, such "
        f"as {dataset.printable(names[0])}; copy them there, or name their folder by `fastvit-bench worker --data DIR`"
    )


def _lacking(folder: Path, pictures: tuple[LabelledImage, ...]) -> list[str]:
    """Return the names of images that are not in a folder with their size."""
    return [picture.name for picture in pictures if _size(folder / picture.name) != picture.size_bytes]


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or of a link that leads nowhere, as on the client; None where there is none."""
    for follow in (True, False):
        try:
            return path.stat(follow_symlinks=follow).st_size
        except OSError:
            continue
    return None
