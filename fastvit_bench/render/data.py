"""Tables for other programs: CSV and JSON, every value in full precision."""

import csv as _csv
import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fastvit_bench.render.table import Row, Table
from fastvit_bench.render.text import printable

_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # beginnings of what a spreadsheet computes


def csv(table: Table[Any]) -> str:
    """Return a table as comma-separated values, a line per row; a missing value is an empty field.

    It does without pandas, which is slow to import.
    """
    text = io.StringIO()
    writer = _csv.writer(text, lineterminator="\n")
    writer.writerow(table.names)
    writer.writerows([value if type(value) in _PLAIN else _cell(value) for value in line] for line in table.lines())
    return text.getvalue()


_PLAIN = frozenset({float, int, bool, type(None)})  # most cells by far


def _cell(value: object) -> object:
    """Return a value for a spreadsheet; text is one printable line that is never taken for a formula."""
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (int, float)):
        return value
    return _text(" ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))


@functools.lru_cache(maxsize=4096)  # rows repeat most of their texts
def _text(text: str) -> str:
    line = printable(text)
    return f"'{line}" if line.startswith(_FORMULAS) else line


def records(table: Table[Row], nested: Callable[[Row], Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the values of each row by their names, with nested ones; of two of one name the nested one counts."""
    return [{**flat, **nested(row)} for flat, row in zip(table.records(), table.rows, strict=True)]


def json(value: object) -> str:
    """Return records, or a document of them, as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
