r"""Tables as LaTeX: booktabs tables in floats, which need ``\usepackage{booktabs}`` alone.

Each float has a caption of one line and a label. Everything else that people read stands below its table.
"""

import re
from collections.abc import Sequence
from typing import Any

from fastvit_bench.render.table import NONE, Column, Table, TableReport

WIDEST = 60  # characters of a row on a page; in a wider one an interval stands under its figure


def report(shown: TableReport) -> str:
    """Return a float for each table, with the notes below the first one."""
    notes = [*shown.caption.splitlines(), *shown.notes]
    labels: dict[str, int] = {}
    floats: list[str] = []
    for at, table in enumerate(shown.tables):
        caption, _, further = (table.title or shown.title).partition(": ")
        if table.title and " " not in caption:  # a kind of what the report is about
            caption = f"{shown.title} ({caption})"
        label = _label(caption)
        labels[label] = count = labels.get(label, 0) + 1
        below = [*([f"{further[:1].upper()}{further[1:]}"] if further else []), *(notes if not at else [])]
        floats.append(floating(table, caption, f"{label}-{count}" if count > 1 else label, below))
    return "\n".join(floats)


def _label(caption: str) -> str:
    """Return a label of the caption's first words, up to a comma: ``latency-on-cpu``."""
    words = caption.lower().partition(",")[0].split()
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words[:6])).strip("-") or "table"


def floating(table: Table[Any], caption: str, label: str, notes: Sequence[str] = ()) -> str:
    """Return one table in a float, with its caption above and its notes below."""
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            *([rf"\caption{{{_sentence(caption)}}}"] if caption else []),
            rf"\label{{tab:{label}}}",
            *_tabular(table),
            *_below(notes),
            r"\end{table}",
            "",
        ]
    )


def _tabular(table: Table[Any]) -> list[str]:
    columns = [column for column, _ in table.visible]
    rows = list(zip(*(cells for _, cells in table.visible), strict=True))
    longest = [max(map(len, (*column.heading.split(), *cells)), default=0) for column, cells in table.visible]
    stacked = sum(longest) + 2 * len(longest) > WIDEST
    return [
        rf"\setlength{{\tabcolsep}}{{{4 if stacked else 6}pt}}",
        rf"\begin{{tabular}}{{{''.join(column.align[0] for column in columns)}}}",
        r"\toprule",
        _line([_heading(column) for column in columns]),
        r"\midrule",
        *(_line([_cell(text, stacked=stacked) for text in row]) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _line(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _heading(column: Column[Any]) -> str:
    """Return a heading, in several lines where it is long."""
    words = column.heading.split()
    if len(column.heading) <= 12 or len(words) == 1:
        return escape(column.heading)
    lines = [""]
    for word in words:
        if lines[-1] and len(f"{lines[-1]} {word}") > max(12, *map(len, words)):
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return _stack("b", column.align[0], list(map(escape, lines)))


def _cell(text: str, *, stacked: bool) -> str:
    figure, bracket, interval = text.partition(" [")
    if not (stacked and bracket):
        return escape(text)
    return _stack("t", "r", [escape(figure), rf"\scriptsize {escape(f'[{interval}')}"])


def _stack(line: str, side: str, lines: Sequence[str]) -> str:
    """Return lines of one cell, aligned with its row by the top or bottom one; this needs no package."""
    return rf"\begin{{tabular}}[{line}]{{@{{}}{side}@{{}}}}" + r" \\ ".join(lines) + r"\end{tabular}"


def _below(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    return [
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}",
        r"\footnotesize",
        "\\par\n".join(map(_sentence, notes)),
        r"\end{minipage}",
    ]


def _sentence(text: str) -> str:
    return escape(text if text.endswith(".") else f"{text}.")


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
        "−": "$-$",
        "≤": r"$\leq$",
        "…": r"\dots{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return text.translate(_ESCAPED)
