r"""Tables as LaTeX: booktabs tables in floats, which need ``\usepackage{booktabs}``."""

from collections.abc import Sequence
from typing import Any

from fastvit_bench.render.table import NONE, Table, TableReport


def report(shown: TableReport) -> str:
    """Return a float for each table; caption and notes go into the first one's caption."""
    notes = [*([shown.caption] if shown.caption else []), *shown.notes]
    floats = [
        floating(table, [*([table.title] if table.title else []), *(notes if not at else [])])
        for at, table in enumerate(shown.tables)
    ]
    return "\n".join(floats)


def floating(table: Table[Any], caption: Sequence[str]) -> str:
    """Return one table in a float, with sentences as its caption."""
    import pandas as pd

    frame = pd.DataFrame({escape(column.heading): list(map(escape, cells)) for column, cells in table.visible})
    return frame.to_latex(
        index=False,
        escape=False,  # `escape` also handles what pandas does not: a row that begins with a bracket
        column_format="".join(column.align[0] for column, _ in table.visible),
        caption=" ".join(escape(text if text.endswith(".") else f"{text}.") for text in caption),
        position="t",
    )


_ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after the \\ of the row above it would be an option
        "]": "{]}",
        "*": "{*}",  # after the \\ of the row above it would be a part of that command
        NONE: "--",
        "†": r"\dag{}",
        "×": r"$\times$",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return text.translate(_ESCAPED)
