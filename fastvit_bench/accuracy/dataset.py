"""Find labelled images in a folder, and their classes."""

import hashlib
import json
import os
import posixpath
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastvit_bench import files
from fastvit_bench.errors import UsageError
from fastvit_bench.records import LabelledImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Prepared = NDArray[np.float32] | NDArray[np.uint8]  # (3, H, W) normalised, or (H, W, 3) pixels: see `Images`


# endings that torchvision's ImageFolder takes for images; this module only distinguishes layouts of data sets by them
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


SPLIT = "val"  # folder of ImageNet's validation images, on which published accuracies are counted


@dataclass(frozen=True)
class DataSet:
    """Image files and their classes, in the order of evaluation."""

    folder: Path  # the pictures' names are relative to it
    pictures: tuple[LabelledImage, ...]
    classes: tuple[str, ...]  # names of the class folders, in the classes' order; empty with a file of labels
    labels: Path | None = None  # file of labels, if one was used

    @property
    def digest(self) -> str:
        """SHA-256 over the names, sizes and classes of the images, without their content."""
        lines = (f"{picture.name}\0{picture.size_bytes}\0{picture.label}\n" for picture in self.pictures)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- content of a folder ----------------------------------------------------------------------------------------------


def collect(folder: Path, labels: Path | None = None, limit: int | None = None) -> DataSet:
    """Collect the images of a data set, DIR/CLASS/…, with the folders' sorted names as classes, or those of `labels`.

    Every file in a class folder that is not hidden counts as an image, so that unreadable files are reported. A folder
    ``val`` below `folder` is used instead of it. `limit` takes that many images, evenly spread over all of them in
    their order, so that every class has its share. Raises `UsageError` for a folder of another layout, and for labels
    that do not fit its images.
    """
    try:
        if not folder.is_dir():
            what = "is not a folder" if files.exists(folder) else "does not exist"
            raise UsageError(f"--data {folder} {what}; name a folder of images.")
        root = _root(folder)
        images = _labelled(root, labels) if labels else _by_folders(root)
    except OSError as error:
        raise UsageError(f"The folder {error.filename or folder} cannot be read: {error.strerror}.") from None
    total = len(images.pictures)
    if limit is None or limit >= total:
        return images
    chosen = tuple(images.pictures[at * total // limit] for at in range(limit))
    return DataSet(images.folder, chosen, images.classes, images.labels)


def any_images(folder: Path) -> DataSet:
    """Collect all images at and below a folder, by their endings; labels are optional.

    Where all images are in folders, those are the classes, as in `collect`. Otherwise there are none, and every label
    is -1. Raises `UsageError` for a folder that does not exist or cannot be read.
    """
    try:
        if not folder.is_dir():
            what = "is not a folder" if files.exists(folder) else "does not exist"
            raise UsageError(f"{folder} {what}; name a folder of images.")
        root = _root(folder)
        sized = [(name, size) for name, size in _files(root) if _is_image(Path(name))]
    except OSError as error:
        raise UsageError(f"The folder {error.filename or folder} cannot be read: {error.strerror}.") from None
    tops = {name.partition("/")[0] for name, _ in sized} if all("/" in name for name, _ in sized) else set[str]()
    classes = {name: label for label, name in enumerate(sorted(tops))}
    pictures = (
        LabelledImage(name=name, size_bytes=size, label=classes.get(name.partition("/")[0], -1)) for name, size in sized
    )
    return DataSet(root, tuple(pictures), tuple(map(printable, classes)))


def check_classes(images: DataSet, classes: int, model: str) -> None:
    """Raise `UsageError` unless the images are of the classes that a network of so many classes has."""
    named = len(images.classes)
    if images.labels is None and named != classes:
        nested = _nested(images)
        if nested:
            raise UsageError(
                f"{images.folder} holds folders of folders, such as {nested}; name the one whose folders are the "
                f"classes, such as --data {images.folder / nested.partition('/')[0]}."
            )
        few = (
            "Folders of only some classes do not show their numbers: give the numbers with --labels FILE, a line "
            "`name number` per image."
        )
        many = "Check that it is the data set the model was trained for."
        raise UsageError(
            f"{images.folder} holds {named} class folder{'s' * (named != 1)}, and {model} has {classes} classes. "
            f"{few if named < classes else many}"
        )
    wrong = next((picture for picture in images.pictures if picture.label >= classes), None)
    if wrong is not None:
        raise UsageError(
            f"{images.labels} says that {wrong.name} is of class {wrong.label}, and the classes of {model} go from 0 "
            f"to {classes - 1}; if the file counts from 1, subtract it."
        )


def _nested(images: DataSet) -> str | None:
    """Return the name of one folder in a class folder, if all images are in such folders, or None."""
    if any(picture.name.count("/") < 2 for picture in images.pictures):
        return None
    return "/".join(images.pictures[0].name.split("/")[:2])


def _root(folder: Path) -> Path:
    """Return the folder, or its ``val`` if that holds folders or is the only content of the folder."""
    inner = folder / SPLIT
    if not inner.is_dir():
        return folder
    alone = not any(path.is_dir() or _is_image(path) for path in _visible(folder) if path != inner)
    return inner if alone or any(path.is_dir() for path in _visible(inner)) else folder


def _visible(folder: Path) -> list[Path]:
    """Return the files and folders in a folder that are not hidden."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _is_image(path: Path) -> bool:
    """Return whether a file's name is that of a visible image."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def _by_folders(root: Path) -> DataSet:
    """Collect DIR/CLASS/…; a class is the number of its folder among their sorted names, as in ImageFolder."""
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    names = sorted(entry.name for entry in entries if entry.is_dir())
    loose = sorted(entry.name for entry in entries if entry.is_file() and _is_image(Path(entry.name)))
    if loose and names:
        raise UsageError(
            f"{root} holds images, such as {printable(loose[0])}, beside {len(names)} folders; move them away, or give "
            f"all classes with --labels FILE."
        )
    if loose:
        raise UsageError(
            f"{root} holds {len(loose)} images and no class folders; give their classes with --labels FILE, a line "
            f"`name number` per image."
        )
    if not names:
        file_names = [entry.name for entry in entries]
        but = f", but files such as {printable(min(file_names))}" if file_names else ""
        raise UsageError(f"{root} holds no images{but}; name a folder of class folders, or images with --labels FILE.")
    pictures: list[LabelledImage] = []
    empty: list[str] = []
    for label, name in enumerate(names):
        inside = _files(root, name)
        pictures += [LabelledImage(name=file, size_bytes=size, label=label) for file, size in inside]
        if not inside:
            empty.append(name)
    if not pictures:
        raise UsageError(f"{root} holds {len(names)} folders and no images in them.")
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise UsageError(
            f"{root}: no images in the class folder{'s' * (len(empty) > 1)} {', '.join(map(printable, empty[:3]))}"
            f"{more}; remove what is not a class, or bring its images."
        )
    return DataSet(root, tuple(pictures), tuple(map(printable, names)))


def _files(root: Path, below: str = "") -> list[tuple[str, int]]:
    """Return the name below `root`, with slashes, and the size in bytes of every visible file, sorted by name.

    Raises `UsageError` for a device, a pipe and a socket, which no process must wait for.
    """
    sized: list[tuple[str, int]] = []
    pending = [below]
    visited: set[tuple[int, int]] = set()  # a link may lead back to a folder above it
    while pending:
        folder = pending.pop()
        status = (root / folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in os.scandir(root / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                pending.append(name)
            else:
                sized.append((_checked_name(name), _size(entry)))
    return sorted(sized)


def _size(entry: os.DirEntry[str]) -> int:
    """Return the bytes of a file, or of a link that leads nowhere. Raises `UsageError` for what is no regular file."""
    try:
        status = entry.stat()
    except OSError:  # of a broken link, which is reported as an image that cannot be read
        status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise UsageError(
            f"{printable(entry.path)} is no regular file, but a device, a pipe or a socket; move it away from the "
            f"images."
        )
    return status.st_size


def _checked_name(name: str) -> str:
    """Return the name. Raises `UsageError` unless result files, which are text, can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"The name of the file {printable(name)} is not UTF-8; rename it.") from None
    return name


def printable(name: str) -> str:
    """Return a file's name with ? for every character that a terminal does not print, such as control characters."""
    return "".join(c if c.isprintable() else "?" for c in name)


# --- labels from a file -----------------------------------------------------------------------------------------------


def _labelled(root: Path, file: Path) -> DataSet:
    """Collect every image below `root`, with the class that the file of labels gives."""
    classes = _labels(file)
    sizes = dict(_files(root))
    inside = _inside(root, file)
    if inside is not None:
        sizes.pop(inside, None)
    if not sizes:
        raise UsageError(f"{root} holds no images.")
    absent = next((name for name in classes if name not in sizes), None)
    if absent is not None:
        raise UsageError(
            f"{file} names {printable(absent)}, and there is no such file in {root}; names are those of files below "
            f"the folder, with their endings."
        )
    unlabelled = [name for name in sizes if name not in classes]
    if unlabelled:
        raise UsageError(
            f"{file} gives no class for {printable(unlabelled[0])}"
            f"{f' and {len(unlabelled) - 1} other files' if len(unlabelled) > 1 else ''} in {root}; add a line, or "
            f"move away what is not an image."
        )
    pictures = (LabelledImage(name=name, size_bytes=size, label=classes[name]) for name, size in sizes.items())
    return DataSet(root, tuple(pictures), (), file)


def _inside(root: Path, file: Path) -> str | None:
    """Return the name of the file of labels below `root`, or None if it is not there."""
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return None


_LONGEST_LINE = 4096  # characters; no name of a file is longer


def _labels(file: Path) -> dict[str, int]:
    """Read name -> class from a JSON object or from lines ``name number`` or ``name,number``; a heading is skipped."""
    try:
        text = files.read_text(file, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"The labels {file} cannot be read: {reason}.") from None
    if file.suffix.lower() == ".json" or text.lstrip().startswith("{"):
        return _from_json(file, text)
    classes: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > _LONGEST_LINE:
            raise UsageError(
                f"{file}, line {number}: has {len(line)} characters, more than the {_LONGEST_LINE} of a name and its "
                f"number; write a line `name number` per image."
            )
        if not line.strip():
            continue
        name, label = _parts(line)
        if not classes and number == 1 and label.lower() in {"label", "class", "index", "target"}:
            continue
        if not name or not re.fullmatch(r"\d{1,9}", label, re.ASCII):
            raise UsageError(
                f"{file}, line {number}: '{printable(line.strip())[:60]}' is not `name number` or `name,number`, with "
                f"the number of a class from 0."
            )
        if (name := _normal(name)) in classes:
            raise UsageError(f"{file}, line {number}: names {printable(name)} a second time; keep one of the lines.")
        classes[name] = int(label)
    if not classes:
        raise UsageError(f"{file} gives no classes; write a line `name number` per image.")
    return classes


def _parts(line: str) -> tuple[str, str]:
    """Return name and label of a line, at the last comma or else the last blank: both may be part of a name."""
    name, _, label = line.rpartition(",")
    if not name or len(label.split()) > 1:
        name, label = line.rsplit(None, 1) if len(line.split(None, 1)) > 1 else ("", "")
    return name.strip().strip('"'), label.strip().strip('"')


def _normal(name: str) -> str:
    """Return the one spelling of a path below the folder: ``a.jpg`` for ``./a.jpg``."""
    return posixpath.normpath(name)


class _Pairs(list[tuple[str, object]]):
    """The names and values of a JSON object, in order; one name may be there twice."""


def _from_json(file: Path, text: str) -> dict[str, int]:
    """Read name -> class from a JSON object."""
    example = 'such as {"a.jpg": 3}'
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{file} is not a JSON object of names and class numbers, {example}: {reason}.") from None
    if not isinstance(pairs, _Pairs):
        raise UsageError(f"{file} is not a JSON object of names and class numbers, {example}.")
    classes: dict[str, int] = {}
    for raw, label in pairs:
        if type(label) is not int or not raw or label >= 10**9:
            raise UsageError(
                f"{file} is not a JSON object of names and class numbers, {example}: the value of '{printable(raw)}' "
                f"is no class."
            )
        if (name := _normal(raw)) in classes:
            raise UsageError(f"{file}: names {printable(name)} a second time; keep one of the numbers.")
        if label < 0:
            raise UsageError(f"{file}: {printable(name)} is of class {label}, and classes are counted from 0.")
        classes[name] = label
    if not classes:
        raise UsageError(f"{file} gives no classes; write the number of a class per image.")
    return classes
