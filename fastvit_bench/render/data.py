"""Tables for other programs: CSV and JSON, every value in full precision."""

import csv as _csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fastvit_bench.render.table import Row, Table


def csv(table: Table[Any]) -> str:
    """Return a table as comma-separated values, a line per row; a missing value is an empty field.

    It does without pandas, which is slow to import.
    """
    text = io.StringIO()
    writer = _csv.DictWriter(text, table.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records())
    return text.getvalue()


def records(table: Table[Row], nested: Callable[[Row], Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the values of each row by their names, with nested ones; of two of one name the nested one counts."""
    return [{**flat, **nested(row)} for flat, row in zip(table.records(), table.rows, strict=True)]


def json(value: object) -> str:
    """Return records, or a document of them, as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
