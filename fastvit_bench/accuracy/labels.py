"""Read files of labels: the class of each image, in the forms in which such files are about."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any, NamedTuple, cast

from fastvit_bench import files
from fastvit_bench.accuracy.imagenet import SYNSET
from fastvit_bench.errors import UsageError, printable

NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class Label(NamedTuple):
    """The class of an image as a file of labels writes it."""

    image: str | None  # its name there; None in a file of classes alone, which are in the order of the images
    text: str  # the class: a number, a synset, or a name
    where: str  # file and line, for messages


_LONGEST_LINE = 4096  # characters; no name of a file is longer


def read(file: Path) -> list[Label]:
    """Return the labels in a file, which names each image once, or none at all.

    It is a JSON object, or has a line ``name class``, ``name,class`` or ``class`` per image. A first line may be a
    heading, and is then the first label. Raises `UsageError` for any other text.
    """
    text = text_of(file, "labels")
    if file.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        labels = _from_json(file, text)
    else:
        labels = _from_lines(file, text)
    if not labels:
        raise UsageError(f"{file} gives no classes; write a line `name number` per image.")
    images = set[str]()
    for image, _, where in labels:
        if image is not None and image in images:
            raise UsageError(f"{where}: names {printable(image)} a second time; keep one of them.")
        images.add(image or "")
    return labels


def text_of(file: Path, what: str) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark; `what` it holds stands in the message."""
    try:
        return files.read_text(file, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"The {what} {file} cannot be read: {reason}.") from None


def numbered_lines(file: Path, text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers from 1; raises `UsageError` for one that is too long."""
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > _LONGEST_LINE:
            raise UsageError(
                f"{file}, line {number}: has {len(line)} characters, more than the {_LONGEST_LINE} of a name and its "
                f"class; write a line `name number` per image."
            )
        if line.strip():
            lines.append((number, line.strip()))
    return lines


def is_class(text: str) -> bool:
    """Return whether a text is a class by itself: a number, or a synset."""
    return bool(NUMBER.fullmatch(text) or SYNSET.fullmatch(text))


def _from_lines(file: Path, text: str) -> list[Label]:
    lines = numbered_lines(file, text)
    if lines and all(is_class(line) for _, line in lines):
        return [Label(None, line, f"{file}, line {number}") for number, line in lines]
    labels: list[Label] = []
    for number, line in lines:
        image, label = parts(line)
        if not image or not label:
            raise UsageError(
                f"{file}, line {number}: '{printable(line)[:60]}' is not `name number` or `name,number`, with the "
                f"number of a class from 0, or its synset."
            )
        labels.append(Label(_normal(image), label, f"{file}, line {number}"))
    return labels


def parts(line: str) -> tuple[str, str]:
    """Return name and class of a line without blanks around it, at its only tab, or the last comma, or the last blank.

    All of them may be part of a name. Behind a comma may stand synsets with boxes, as in LOC_val_solution.csv.
    """
    if line.count("\t") == 1:
        name, _, label = line.partition("\t")
        return name.strip().strip('"'), label.strip().strip('"')
    name, _, label = line.rpartition(",")
    words = label.split()
    if name and words and len(words) % 5 == 0 and all(SYNSET.fullmatch(word) for word in words[::5]):
        label = " ".join(dict.fromkeys(words[::5]))  # one for each class: several are refused as no class
    elif not name or len(words) > 1:
        name, label = line.rsplit(None, 1) if len(line.split(None, 1)) > 1 else ("", "")
    return name.strip().strip('"'), label.strip().strip('"')


def _normal(name: str) -> str:
    """Return the one spelling of a path below the folder: ``a.jpg`` for ``./a.jpg``."""
    return posixpath.normpath(name)


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the names and values of a JSON object; raises `ValueError` for a name that stands there twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"it names {printable(repeated)} a second time")
    return values


def _from_json(file: Path, text: str) -> list[Label]:
    """Read an object of image names, and of classes as numbers or synsets."""
    refusal = f'{file} is not a JSON object of names and classes, such as {{"a.jpg": 3}}'
    try:
        values = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{refusal}: {' '.join(str(error).split()).rstrip('.')}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{refusal}.")
    labels: list[Label] = []
    for name, label in cast("dict[str, object]", values).items():
        if not name or type(label) not in (int, str) or label == "":
            raise UsageError(f"{refusal}: the value of '{printable(name)}' is no class.")
        labels.append(Label(_normal(name), str(label), str(file)))
    return labels
