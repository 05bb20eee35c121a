"""Tables as Markdown: pipe tables with their notes as a list below."""

import re
from collections.abc import Sequence
from typing import Any

from fastvit_bench.render.table import Table, TableReport


def report(shown: TableReport) -> str:
    """Return every table under its title, then the notes."""
    above = [escape(shown.caption)] if shown.caption else []
    tables = [
        f"**{escape(table.title)}**\n\n{pipe_table(table)}" if table.title else pipe_table(table)
        for table in shown.tables
    ]
    notes = ["\n".join(f"- {escape(note)}" for note in shown.notes)] if shown.notes else []
    return "\n\n".join([*above, *tables, *notes]) + "\n"


def pipe_table(table: Table[Any]) -> str:
    """Return one table with pipes between its cells."""
    columns = [column for column, _ in table.visible]
    lines = [
        [escape(column.heading) for column in columns],
        ["--:" if column.align == "right" else ":--" for column in columns],
        *([escape(cell) for cell in line] for line in zip(*(cells for _, cells in table.visible), strict=True)),
    ]
    return "\n".join(map(pipes, lines))


def pipes(cells: Sequence[str]) -> str:
    """Return one line of a table, of cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


# what opens a cell, code, emphasis, HTML or a link; brackets only where a link would follow
_MARKUP = re.compile(r"[\\`|*<>&~]|\](?=[(\[:])")


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, within a line."""
    return _MARKUP.sub(r"\\\g<0>", text)
