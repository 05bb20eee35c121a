"""Read class maps: files with the name of each class of a network, by its number."""

import json
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

from fastvit_bench.accuracy import labels
from fastvit_bench.accuracy.imagenet import SYNSET
from fastvit_bench.errors import UsageError, printable

ClassMap = dict[str, int]  # name -> number

# keys of configuration files that hold a class map: transformers' config.json, timm's, and others
_KEYS = ("label2id", "id2label", "class_to_idx", "label_names", "classes")


def read(file: Path, names: Collection[str]) -> ClassMap:
    """Return the class map in a file that has numbers for all of `names`; it may hold other classes, too.

    Lines hold a name each, which the line numbers from 0, or a name and its number in either order. JSON holds a list
    of names, or an object from names to numbers or back, also inside a model's ``config.json``. Raises `UsageError` for
    a file of another form, or one that lacks a name or can be read in two ways.
    """
    text = labels.text_of(file, "class map")
    maps = _from_json(file, text) if text.lstrip().startswith(("{", "[")) else _from_lines(file, text)
    fitting = [class_map for class_map in maps if all(name in class_map for name in names)]
    if not fitting:
        absent = next(name for name in names if not any(name in class_map for class_map in maps))
        raise UsageError(
            f"The class map {file} has no class '{printable(absent)}', which images belong to; write a name per line, "
            f"exactly as the images' folders or labels have it."
        )
    first, *further = ({name: class_map[name] for name in names} for class_map in fitting)
    if any(numbers != first for numbers in further):
        raise UsageError(
            f"The class map {file} can be read in two ways, as its lines have numbers and the names are numbers, too; "
            f"write it as JSON, from each name to its number."
        )
    return fitting[0]


def _numbered(pairs: Sequence[tuple[str, int]]) -> list[ClassMap]:
    """Return a class map of names and numbers, unless a name or a number stands there twice."""
    class_map = dict(pairs)
    return [class_map] if 0 < len(class_map) == len(pairs) == len(set(class_map.values())) else []


def _from_lines(file: Path, text: str) -> list[ClassMap]:
    """Return the ways to read lines: as names, as synsets with a description, or as names beside numbers."""
    lines = [line for _, line in labels.numbered_lines(file, text)]
    ways: list[list[tuple[str, int]]] = [[(line, number) for number, line in enumerate(lines)]]
    words = [line.replace(",", " ").split() for line in lines]
    # not where a second column numbers them, as in the devkit's map_clsloc.txt, whose order is no network's
    if all(
        SYNSET.fullmatch(first) and not labels.NUMBER.fullmatch(second) for first, second, *_ in map(_padded, words)
    ):
        ways.append([(first, number) for number, (first, *_) in enumerate(words)])
    patterns = (r"(?P<number>\d{1,9})[\s,:]+(?P<name>\S.*)", r"(?P<name>.*\S)[\s,:]+(?P<number>\d{1,9})")
    for pattern in patterns:
        matches = [re.fullmatch(pattern, line, re.ASCII) for line in lines]
        pairs = [(match["name"].strip(" ,:"), int(match["number"])) for match in matches if match]
        if len(pairs) == len(lines):
            ways.append(pairs)
    maps = [class_map for pairs in ways for class_map in _numbered(pairs)]
    if not lines or not maps:
        raise UsageError(
            f"The class map {file} {'names a class twice' if lines else 'is empty'}; write a name per line."
        )
    return maps


def _padded(words: Sequence[str]) -> list[str]:
    """Return the words of a line, at least two."""
    return [*words, "", ""]


def _from_json(file: Path, text: str) -> list[ClassMap]:
    """Return the ways to read a list or an object of classes."""
    refusal = f'The class map {file} is not JSON of class names, such as ["cat", "dog"] or {{"cat": 0, "dog": 1}}'
    try:
        values: Any = json.loads(text, object_pairs_hook=labels.distinct)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{refusal}: {' '.join(str(error).split()).rstrip('.')}.") from None
    if isinstance(values, dict):
        inner = (cast("dict[str, Any]", values)[key] for key in _KEYS if isinstance(values.get(key), dict | list))
        values = next(inner, values)
    maps = [class_map for way in _JSON_WAYS for class_map in _numbered(way(values) or [])]
    if not maps:
        raise UsageError(f"{refusal}; each name and each number must stand there once.")
    return maps


def _list(values: Any) -> list[tuple[str, int]] | None:
    """Return the pairs of a list of names."""
    if isinstance(values, list) and all(isinstance(name, str) for name in cast("list[Any]", values)):
        return [(name, number) for number, name in enumerate(cast("list[str]", values))]
    return None


def _by_name(values: Any) -> list[tuple[str, int]] | None:
    """Return the pairs of an object from names to numbers."""
    if isinstance(values, dict) and all(type(number) is int for number in cast("dict[str, Any]", values).values()):
        return list(cast("dict[str, int]", values).items())
    return None


def _by_number(position: int) -> Callable[[Any], list[tuple[str, int]] | None]:
    """Return the reader of an object from numbers to names, or to lists with the name at a position (as Keras has)."""

    def pairs(values: Any) -> list[tuple[str, int]] | None:
        if not isinstance(values, dict):
            return None
        pairs: list[tuple[str, int]] = []
        for number, names in cast("dict[str, Any]", values).items():
            listed = cast("list[Any]", names if isinstance(names, list) else [names])
            if not labels.NUMBER.fullmatch(number) or position >= len(listed) or not isinstance(listed[position], str):
                return None
            pairs.append((listed[position], int(number)))
        return pairs

    return pairs


_JSON_WAYS = (_list, _by_name, _by_number(0), _by_number(1))
