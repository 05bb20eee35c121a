"""Find labelled images in a folder, and their classes."""

import dataclasses
import functools
import hashlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastvit_bench import files
from fastvit_bench.accuracy import imagenet, labels, natural
from fastvit_bench.accuracy.labels import Label
from fastvit_bench.errors import UsageError, printable
from fastvit_bench.records import LabelledImage

# endings that torchvision's ImageFolder takes for images; this module only distinguishes layouts of data sets by them
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


SPLIT = "val"  # folder of ImageNet's validation images, on which published accuracies are counted


class ImageFile(NamedTuple):
    """An image file, and its class as its folder or a file of labels has it."""

    name: str  # path below the folder, with slashes
    size_bytes: int
    text: str  # name of its folder; or a number, a synset or a name
    where: str  # file of labels and line, for messages; empty with folders


@dataclass(frozen=True)
class ImageFiles:
    """Image files before their classes have numbers, in the order of evaluation."""

    folder: Path  # the names are relative to it
    images: tuple[ImageFile, ...]
    labels: Path | None  # file of labels; None: the folders are the classes
    named: bool = True  # False: the file of labels names no images, and is in their order

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Classes as they are written, in text order."""
        return tuple(sorted({image.text for image in self.images}))


@dataclass(frozen=True)
class DataSet:
    """Image files and the numbers of their classes, in the order of evaluation."""

    folder: Path  # the pictures' names are relative to it
    pictures: tuple[LabelledImage, ...]
    labels: Path | None = None  # file of labels, if one was used
    numbered: str = ""  # how the classes came to their numbers, in words
    present: tuple[int, ...] = ()  # classes of all images of the folder, also of those beyond a limit

    @property
    def digest(self) -> str:
        """SHA-256 over the names, sizes and classes of the images, without their content."""
        lines = (f"{picture.name}\0{picture.size_bytes}\0{picture.label}\n" for picture in self.pictures)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def limited(self, limit: int | None) -> "DataSet":
        """Return `limit` of the images, evenly spread over all of them, so that every class has its share."""
        total = len(self.pictures)
        if limit is None or limit >= total:
            return self
        chosen = tuple(self.pictures[at * total // limit] for at in range(limit))
        return dataclasses.replace(self, pictures=chosen)


# --- content of a folder ----------------------------------------------------------------------------------------------


def collect(folder: Path, labels: Path | None = None) -> ImageFiles:
    """Collect the images of a data set, DIR/CLASS/…, with the folders' names as classes, or those of `labels`.

    Every file in a class folder that is not hidden counts as an image, so that unreadable files are reported. A folder
    ``val`` below `folder` is used instead of it. Raises `UsageError` for a folder of another layout, and for labels
    that do not fit its images.
    """
    try:
        if not folder.is_dir():
            what = "is not a folder" if files.exists(folder) else "does not exist"
            raise UsageError(f"--data {folder} {what}; name a folder of images.")
        root = _root(folder)
        return _labelled(root, labels) if labels else _by_folders(root)
    except OSError as error:
        raise UsageError(f"The folder {error.filename or folder} cannot be read: {error.strerror}.") from None


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
    return DataSet(root, tuple(pictures), present=tuple(classes.values()))


def nested(folders: ImageFiles) -> str | None:
    """Return the name of one folder in a class folder, if all images are in such folders, or None."""
    if any(image.name.count("/") < 2 for image in folders.images):
        return None
    return "/".join(folders.images[0].name.split("/")[:2])


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


def _by_folders(root: Path) -> ImageFiles:
    """Collect DIR/CLASS/…; a class is a folder."""
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
    images: list[ImageFile] = []
    empty: list[str] = []
    for name in names:
        inside = _files(root, name)
        images += [ImageFile(file, size, name, "") for file, size in inside]
        if not inside:
            empty.append(name)
    if not images:
        raise UsageError(f"{root} holds {len(names)} folders and no images in them.")
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise UsageError(
            f"{root}: no images in the class folder{'s' * (len(empty) > 1)} {', '.join(map(printable, empty[:3]))}"
            f"{more}; remove what is not a class, or bring its images."
        )
    return ImageFiles(root, tuple(images), None)


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


# --- labels from a file -----------------------------------------------------------------------------------------------


def _labelled(root: Path, file: Path) -> ImageFiles:
    """Collect every image below `root`, with the class that the file of labels gives."""
    lines = labels.read(file)
    sizes = dict(_files(root))
    inside = _inside(root, file)
    if inside is not None:
        sizes.pop(inside, None)
    if not sizes:
        raise UsageError(f"{root} holds no images.")
    by_image = _in_order(root, file, lines, sizes) if lines[0].image is None else _by_name(root, file, lines, sizes)
    unlabelled = [name for name in sizes if name not in by_image]
    if unlabelled:
        raise UsageError(
            f"{file} gives no class for {printable(unlabelled[0])}"
            f"{f' and {len(unlabelled) - 1} other files' if len(unlabelled) > 1 else ''} in {root}; add a line, or "
            f"move away what is not an image."
        )
    images = (ImageFile(name, size, by_image[name].text, by_image[name].where) for name, size in sizes.items())
    return ImageFiles(root, tuple(images), file, named=lines[0].image is not None)


def _by_name(root: Path, file: Path, lines: Sequence[Label], names: Collection[str]) -> dict[str, Label]:
    """Return the label of each image that a file of labels names, by the image's name below the folder.

    Raises `UsageError` for a name that is no image's, or of several, and for two lines on one image.
    """
    spellings: dict[str, list[str]] = {}
    for name in names:
        for spelling in _spellings(name):
            spellings.setdefault(spelling, []).append(name)
    by_image: dict[str, Label] = {}
    for number, label in enumerate(lines):
        written = label.image or ""
        images = _images(written, spellings)
        if not images and number == 0 and not labels.is_class(label.text) and not _is_image(Path(written)):
            continue  # a heading
        if not images:
            raise UsageError(
                f"{file} names {printable(written)}, and there is no such file in {root}; names are those of files "
                f"below the folder, and may lack their ending or the folders in front."
            )
        if len(images) > 1:
            raise UsageError(
                f"{label.where}: {printable(written)} may be {printable(images[0])} or {printable(images[1])} in "
                f"{root}; write the names with their folders and endings."
            )
        if images[0] in by_image:
            raise UsageError(f"{label.where}: names {printable(images[0])} a second time; keep one of the lines.")
        by_image[images[0]] = label
    return by_image


def _spellings(name: str) -> set[str]:
    """Return the ways to name an image: without some of the folders in front, and without its ending."""
    folders = name.split("/")
    ends = {"/".join(folders[at:]) for at in range(len(folders))}
    return ends | {end.rpartition(".")[0] for end in ends if _is_image(Path(end))}


def _images(written: str, spellings: Mapping[str, list[str]]) -> list[str]:
    """Return the images that a name in a file of labels may mean; folders of another machine may be in front of it."""
    for path in (written, written.replace("\\", "/")):
        folders = path.split("/")
        for at in range(len(folders)):
            end = "/".join(folders[at:])
            images = spellings.get(end, [])
            if images:
                return [end] if end in images else images
    return []


def _folder(name: str) -> str:
    """Return the folders in front of a file's name."""
    return name.rpartition("/")[0]


def _in_order(root: Path, file: Path, lines: Sequence[Label], names: Collection[str]) -> dict[str, Label]:
    """Return the label of each image for a file of classes alone, a line for each image in the order of their names.

    Of ImageNet's 50,000 validation images, the folder may hold some; their names have the numbers of the lines.
    Raises `UsageError` where there are not as many lines as images, and where the order of names is not one.
    """
    ordered = sorted(names)
    validation = {name: number for name in ordered if (number := imagenet.validation_number(name))}
    if len(validation) == len(names):  # in one folder, or in folders of classes
        if len(names) < len(lines) == imagenet.VALIDATION_IMAGES >= max(validation.values()):
            return {name: lines[number - 1] for name, number in validation.items()}
        ordered.sort(key=lambda name: validation[name])
    if len(lines) != len(names):
        raise UsageError(
            f"{file} has {len(lines)} classes, a line each and without names, and {root} holds {len(names)} files; "
            f"there must be as many, or write a line `name number` per image."
        )
    if len(validation) < len(names) and (
        ordered != natural.sort(ordered) or len({_folder(name) for name in names}) > 1
    ):
        raise UsageError(
            f"{file} has classes without names of images, and the order of the images in {root} is not certain: they "
            f"lie in several folders, or natural order (2 before 10) is not text order; write a line `name number` "
            f"per image."
        )
    return dict(zip(ordered, lines, strict=True))


def _inside(root: Path, file: Path) -> str | None:
    """Return the name of the file of labels below `root`, or None if it is not there."""
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return None
