"""Tables for other programs: CSV and JSON, every value in full precision."""

import csv as _csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fastvit_bench.render.table import Row, Table
from fastvit_bench.render.text import printable

_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # beginnings of what a spreadsheet computes


def csv(table: Table[Any]) -> str:
    """Return a table as comma-separated values, a line per row; a missing value is an empty field.

    It does without pandas, which is slow to import.
    """
    columns = table.values()
    text = io.StringIO()
    writer = _csv.writer(text, lineterminator="\n")
    writer.writerow(table.names)
    for start in range(0, max(map(len, columns), default=0), _BLOCK):
        writer.writerows(zip(*(_cells(values[start : start + _BLOCK]) for values in columns), strict=True))
    return text.getvalue()


_BLOCK = 4096  # rows whose cells are in memory as text at once
_PLAIN = frozenset({float, int, bool, type(None)})  # most cells by far


def _cells(values: Sequence[object]) -> Sequence[object]:
    """Return a column's values for a spreadsheet; rows repeat most of their texts, which are looked at once."""
    types = set(map(type, values))
    if types == {float}:
        # the same digits, in a quarter of the time; exponents, small and missing numbers are written in other ways
        text = msgspec.json.encode(values).decode()
        return values if any(sign in text for sign in ("e", "n", "0.0000")) else text[1:-1].split(",")
    if types <= _PLAIN:
        return values
    if types <= _PLAIN | {str}:
        texts = {value: _text(value) for value in set(values) if isinstance(value, str)}
        clean = all(value == text for value, text in texts.items())
        return values if clean else [texts.get(value, value) for value in values]  # type: ignore[call-overload]
    return list(map(_cell, values))


def _cell(value: object) -> object:
    """Return a value for a spreadsheet; text is one printable line that is never taken for a formula."""
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (int, float)):
        return value
    return _text(" ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))


def _text(text: str) -> str:
    line = printable(text)
    return f"'{line}" if line.startswith(_FORMULAS) else line


def records(table: Table[Row], nested: Callable[[Row], Mapping[str, object]]) -> Iterator[dict[str, object]]:
    """Yield the values of each row by their names, with nested ones; of two of one name the nested one counts."""
    for flat, row in zip(table.records(), table.rows, strict=True):
        yield {**flat, **nested(row)}


def json(value: object) -> str:
    """Return records, or a document of them, as indented JSON."""
    return _indented(value) + "\n"


def json_texts(values: Iterable[object]) -> Iterator[str]:
    """Yield the parts of what `json` returns for a list, one per value: a long list is never in memory as a whole."""
    before = "[\n  "
    for value in values:
        yield before + _indented(value).replace("\n", "\n  ")  # texts within have no line ends of their own
        before = ",\n  "
    yield "[]\n" if before.startswith("[") else "\n]\n"


def _indented(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
