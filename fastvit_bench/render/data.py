"""Tables for other programs: CSV and JSON, every value in full precision."""

import csv as _csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fastvit_bench.render.table import Row, Table


def csv(table: Table[Any]) -> str:
    """A line per row, without the wait for pandas; what there is none of is empty."""
    text = io.StringIO()
    writer = _csv.DictWriter(text, table.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records())
    return text.getvalue()


def records(table: Table[Row], nested: Callable[[Row], Mapping[str, object]]) -> list[dict[str, object]]:
    """The values of each row by their names, and what lies below them; of two of one name the latter."""
    return [{**flat, **nested(row)} for flat, row in zip(table.records(), table.rows, strict=True)]


def json(value: object) -> str:
    """Records, or a document of them, as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
