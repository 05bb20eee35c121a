"""Tables as the report page's script takes them: text, and what a column is sorted by."""

from typing import Any

from fastvit_bench.render.table import Column, Table


def sortable(table: Table[Any]) -> dict[str, Any]:
    """Return a table as JSON can hold it: headings with how they behave, and a list of cells for each row.

    A cell is its text, its sort key (None comes last), and what the page shows of it on demand.
    """
    columns = [column for column, _ in table.visible]
    texts = zip(*(cells for _, cells in table.visible), strict=True)
    return {
        "caption": table.title,
        "columns": [
            {
                "title": column.heading,
                "number": column.align == "right",
                "facet": column.facet,
                "wide": column.wraps,
                "minor": column.minor,
            }
            for column in columns
        ],
        "rows": [
            [_cell(column, row, text) for column, text in zip(columns, line, strict=True)]
            for row, line in zip(table.rows, texts, strict=True)
        ],
        "sort": None,
    }


def _cell(column: Column[Any], row: object, text: str) -> list[Any]:
    value = column.value(row)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    order = value if number else None if value is None else text.lower()
    return [text, order, *(column.note(row) if column.note else ())]
