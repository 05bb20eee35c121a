"""Images with known classes: what a folder holds, and how files become what a network takes.

The preparation is the one the published accuracies were made with, timm's evaluation transform, to the pixel: RGB, the
shorter side resized to floor(resolution / crop) with Pillow's bicubic filter, the middle cut out. Files are decoded in
threads, because Pillow lets go of the interpreter while it decodes and resizes.
"""

import hashlib
import itertools
import os
import re
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fastvit_bench.backends import Images
from fastvit_bench.errors import UsageError
from fastvit_bench.records import MEAN, STD, Picture, Preprocessing, Unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from fastvit_bench.backends import Batch

    Prepared = NDArray[np.float32] | NDArray[np.uint8]  # (3, H, W) normalised, or (H, W, 3) pixels: see `Images`

# endings that torchvision's ImageFolder takes for images; here they only tell one layout of a data set from another
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLIT = "val"  # the folder of ImageNet that accuracies are published of

# pixels of a resized image, as many as Pillow decodes without a warning: beyond, an image is a line rather than one
MOST_PIXELS = 89_478_485


@dataclass(frozen=True)
class DataSet:
    """Image files and their classes, in the order they are looked at."""

    folder: Path  # that the names are below of
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]  # names of the class folders, in the classes' order; empty where a file tells the labels
    labels: Path | None = None  # that file

    @property
    def digest(self) -> str:
        """SHA-256 over names, sizes and classes; the files' content is not read for it."""
        lines = (f"{each.name}\0{each.size_bytes}\0{each.label}\n" for each in self.pictures)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- what a folder holds ----------------------------------------------------------------------------------------------


def collect(folder: Path, labels: Path | None = None, limit: int | None = None) -> DataSet:
    """The images of a data set: DIR/CLASS/…, whose classes are the folders' sorted names, or what `labels` names.

    Every file in a class folder that is not hidden counts as an image, so that what cannot be read is told. ``val``
    below the folder is taken in its place. `limit` takes that many, evenly spread over all of them in their order, so
    that every class has its share. Raises `UsageError` for a folder of another layout, and for labels that are not of
    its images.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"--data {folder} {what}; name a folder of images.")
    try:
        root = _root(folder)
        found = _labelled(root, labels) if labels else _by_folders(root)
    except OSError as error:
        raise UsageError(f"The folder {error.filename or folder} cannot be read: {error.strerror}.") from None
    total = len(found.pictures)
    if limit is None or limit >= total:
        return found
    chosen = tuple(found.pictures[at * total // limit] for at in range(limit))
    return DataSet(found.folder, chosen, found.classes, found.labels)


def check_classes(found: DataSet, classes: int, model: str) -> None:
    """Raise `UsageError` unless a network of so many classes can answer for the images."""
    named = len(found.classes)
    if found.labels is None and named != classes:
        nested = _nested(found)
        if nested:
            raise UsageError(
                f"{found.folder} holds folders of folders, such as {nested}; name the one whose folders are the "
                f"classes, such as --data {found.folder / nested.partition('/')[0]}."
            )
        few = (
            "The numbers of a part of the classes are not theirs: tell them with --labels FILE, a line `name number` "
            "per image."
        )
        many = "Check that it is the data set the model was trained for."
        raise UsageError(
            f"{found.folder} holds {named} class folder{'s' * (named != 1)}, and {model} has {classes} classes. "
            f"{few if named < classes else many}"
        )
    wrong = next((each for each in found.pictures if each.label >= classes), None)
    if wrong is not None:
        raise UsageError(
            f"{found.labels} says that {wrong.name} is of class {wrong.label}, and the classes of {model} go from 0 to "
            f"{classes - 1}; if the file counts from 1, subtract it."
        )


def _nested(found: DataSet) -> str | None:
    """A folder of folders with images, where every class folder holds nothing but such ones."""
    if any(each.name.count("/") < 2 for each in found.pictures):
        return None
    return "/".join(found.pictures[0].name.split("/")[:2])


def _root(folder: Path) -> Path:
    """The folder, or its ``val`` where that holds folders itself, or where it is all that the folder holds."""
    inner = folder / SPLIT
    if not inner.is_dir():
        return folder
    alone = not any(each.is_dir() or _is_image(each) for each in _visible(folder) if each != inner)
    return inner if alone or any(each.is_dir() for each in _visible(inner)) else folder


def _visible(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if not each.name.startswith(".")]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def _by_folders(root: Path) -> DataSet:
    """DIR/CLASS/…; a class is the number of its folder in the sorted order of their names, as in ImageFolder."""
    entries = [each for each in os.scandir(root) if not each.name.startswith(".")]
    names = sorted(each.name for each in entries if each.is_dir())
    loose = sorted(each.name for each in entries if each.is_file() and _is_image(Path(each.name)))
    if loose and names:
        raise UsageError(
            f"{root} holds images, such as {_shown(loose[0])}, beside {len(names)} folders; move them away, or tell "
            f"all classes with --labels FILE."
        )
    if loose:
        raise UsageError(
            f"{root} holds {len(loose)} images and no class folders; tell their classes with --labels FILE, a line "
            f"`name number` per image."
        )
    if not names:
        others = [each.name for each in entries]
        but = f", but files such as {_shown(min(others))}" if others else ""
        raise UsageError(f"{root} holds no images{but}; name a folder of class folders, or images with --labels FILE.")
    pictures: list[Picture] = []
    empty: list[str] = []
    for label, name in enumerate(names):
        files = _files(root, name)
        pictures += [Picture(name=file, size_bytes=size, label=label) for file, size in files]
        if not files:
            empty.append(name)
    if not pictures:
        raise UsageError(f"{root} holds {len(names)} folders and no images in them.")
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise UsageError(
            f"{root}: no images in the class folder{'s' * (len(empty) > 1)} {', '.join(map(_shown, empty[:3]))}{more}; "
            f"remove what is not a class, or bring its images."
        )
    return DataSet(root, tuple(pictures), tuple(map(_shown, names)))


def _files(root: Path, below: str = "") -> list[tuple[str, int]]:
    """Name below `root`, with slashes, and size in bytes of every file that is not hidden, sorted by name."""
    found: list[tuple[str, int]] = []
    pending = [below]
    seen: set[tuple[int, int]] = set()  # a link may lead back to where it is
    while pending:
        folder = pending.pop()
        here = (root / folder).stat()
        if (here.st_dev, here.st_ino) in seen:
            continue
        seen.add((here.st_dev, here.st_ino))
        for entry in os.scandir(root / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                pending.append(name)
            else:
                found.append((_told(name), entry.stat(follow_symlinks=entry.is_file()).st_size))
    return sorted(found)


def _told(name: str) -> str:
    """The name, which results can hold only as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"The name of the file {_shown(name)} is not UTF-8; rename it.") from None
    return name


def _shown(name: str) -> str:
    """A file's name in a sentence: a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else "?" for c in name)


# --- labels from a file -----------------------------------------------------------------------------------------------


def _labelled(root: Path, file: Path) -> DataSet:
    """Every image below `root`, with the class that the file tells."""
    told = _labels(file)
    sizes = dict(_files(root))
    inside = _inside(root, file)
    if inside is not None:
        sizes.pop(inside, None)
    if not sizes:
        raise UsageError(f"{root} holds no images.")
    absent = next((name for name in told if name not in sizes), None)
    if absent is not None:
        raise UsageError(
            f"{file} names {_shown(absent)}, and there is no such file in {root}; names are those of files below the "
            f"folder, with their endings."
        )
    untold = [name for name in sizes if name not in told]
    if untold:
        raise UsageError(
            f"{file} tells no class of {_shown(untold[0])}"
            f"{f' and {len(untold) - 1} other files' if len(untold) > 1 else ''} in {root}; add a line, or move away "
            f"what is not an image."
        )
    pictures = (Picture(name=name, size_bytes=size, label=told[name]) for name, size in sizes.items())
    return DataSet(root, tuple(pictures), (), file)


def _inside(root: Path, file: Path) -> str | None:
    """The name of the labels file among the images, where it lies there."""
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return None


def _labels(file: Path) -> dict[str, int]:
    """Name -> class: of a JSON object, or of lines ``name number`` or ``name,number``, whose first may be a heading."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"The labels {file} cannot be read: {reason}.") from None
    if file.suffix.lower() == ".json" or text.lstrip().startswith("{"):
        return _from_json(file, text)
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        # the last comma, or the last blank: both may be part of a name
        match = re.fullmatch(r"\s*(.+)\s*,\s*(\S*)\s*", line) or re.fullmatch(r"\s*(.+?)\s+(\S+)\s*", line)
        name, label = (match[1].strip().strip('"').removeprefix("./"), match[2].strip('"')) if match else ("", "")
        if not found and number == 1 and label.lower() in {"label", "class", "index", "target"}:
            continue
        if not re.fullmatch(r"\d{1,9}", label, re.ASCII):
            raise UsageError(
                f"{file}, line {number}: '{_shown(line.strip())[:60]}' is not `name number` or `name,number`, with the "
                f"number of a class from 0."
            )
        if name in found:
            raise UsageError(f"{file}, line {number}: names {_shown(name)} a second time; keep one of the lines.")
        found[name] = int(label)
    if not found:
        raise UsageError(f"{file} tells no classes; write a line `name number` per image.")
    return found


def _from_json(file: Path, text: str) -> dict[str, int]:
    try:
        pairs = msgspec.json.decode(text, type=dict[str, int])
    except msgspec.MsgspecError as error:
        raise UsageError(
            f'{file} is not a JSON object of names and class numbers, such as {{"a.jpg": 3}}: {str(error).rstrip(".")}.'
        ) from None
    negative = next((name for name, label in pairs.items() if label < 0), None)
    if negative is not None:
        raise UsageError(f"{file}: {_shown(negative)} is of class {pairs[negative]}, and classes are counted from 0.")
    if not pairs:
        raise UsageError(f"{file} tells no classes; write the number of a class per image.")
    return {name.removeprefix("./"): label for name, label in pairs.items()}


# --- from a file to what a network takes ------------------------------------------------------------------------------


def decoder() -> str:
    """What decodes and resizes: ``Pillow 13.0.0``."""
    import importlib.metadata

    return f"Pillow {importlib.metadata.version('pillow')}"


def cut(image: "Image", how: Preprocessing) -> "NDArray[np.uint8]":
    """Resize an RGB image and cut out its middle: (H, W, 3).

    Sizes are rounded as torchvision's Resize (down) and CenterCrop (to the nearest, halves to even) round them.
    """
    from PIL.Image import Resampling

    short, side = how.shorter_side, how.resolution
    width, height = image.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"resized to {size[0]} x {size[1]} it is too large")
    if size != image.size:
        image = image.resize(size, Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


_MEAN, _STD = (np.array(values, np.float32).reshape(3, 1, 1) for values in (MEAN, STD))


def normalised(pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    """(pixel / 255 - mean) / std in float32, step by step as torchvision computes it: (H, W, 3) to (3, H, W)."""
    values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    values /= np.float32(255)
    values -= _MEAN
    values /= _STD
    return values


def prepare(path: Path, how: Preprocessing, form: Images) -> "Prepared":
    """Decode a file and prepare it; raises whatever Pillow's decoders raise for one that cannot be read."""
    from PIL import Image

    with Image.open(path) as opened:
        pixels = cut(opened.convert("RGB"), how)
    return pixels if form is Images.PIXELS else normalised(pixels)


def decoded(
    folder: Path,
    pictures: Sequence[Picture],
    how: Preprocessing,
    form: Images,
    *,
    workers: int,
    ahead: int,
) -> "Generator[Prepared | Unreadable]":
    """Every picture prepared, in order, by so many threads, which are at most `ahead` pictures in front."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Prepared | Unreadable]] = deque()
        todo = iter(pictures)
        try:
            for picture in itertools.islice(todo, ahead):
                waiting.append(pool.submit(_prepared, folder, picture, how, form))
            while waiting:
                found = waiting.popleft().result()
                for picture in itertools.islice(todo, 1):
                    waiting.append(pool.submit(_prepared, folder, picture, how, form))
                yield found
        finally:
            for future in waiting:
                future.cancel()


def _prepared(folder: Path, picture: Picture, how: Preprocessing, form: Images) -> "Prepared | Unreadable":
    try:
        return prepare(folder / picture.name, how, form)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever comes: the image is named, the others go on
        return Unreadable(name=picture.name, reason=_reason(error, folder))


def _reason(error: Exception, folder: Path) -> str:
    """What a decoder said, in a few words and without the folder."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()).replace(str(folder), "")
    return _shown(text)[:120].rstrip(".") or type(error).__name__


def stacked(images: "Sequence[Prepared]", size: int) -> "Batch":
    """One batch of `size`; places that are free hold the first image again, so that nothing unusual is computed."""
    batch: Any = np.stack([*images, *([images[0]] * (size - len(images)))])
    return batch
