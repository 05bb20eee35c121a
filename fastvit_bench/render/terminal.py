"""The layout of every table on a terminal: a grid where it fits, else a record per row; no figure is ever cut."""

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastvit_bench.render.table import Column, Table, TableReport

if TYPE_CHECKING:  # takes longer to import than `--help` may
    from rich.console import Group
    from rich.text import Text

Span = tuple[str, str]  # text, and its style as rich names it
Line = list[Span]
_Cells = tuple[Column[Any], list[str]]  # a column that people see, and its text in each row

GAP = 2  # spaces between columns
INDENT = 2  # of a record's figures below its name
NARROWEST = 24  # of a column that wraps
HEADING = 7  # characters before a heading is broken into lines
MOST = 5  # lines of notes below a figure, unless all are asked for


def report(shown: TableReport, width: int, *, verbose: bool = True) -> "Group":
    """Return every table of a command under its title, then the notes, for a terminal of `width` columns.

    The notes take five lines at most, unless it is `verbose`.
    """
    from rich.console import Group
    from rich.text import Text

    parts = [Text(line) for line in _clauses(shown.caption, width)]
    for table in shown.tables:
        parts += [Text()] if parts else []
        parts += [Text(table.title, style="bold")] if table.title else []
        parts.append(styled(layout(table, width)))
    notes = shown.notes if verbose else few(shown.notes, width, shown.brief)
    return Group(*parts, *([Text()] if parts and notes else []), *(Text(note, style="dim") for note in notes))


def few(notes: Sequence[str], width: int, brief: Sequence[str] = ()) -> list[str]:
    """Return the notes if `MOST` lines hold them, else those of the `brief` ones that fit, and the way to all."""
    if sum(len(_wrapped(note, width)) for note in notes) <= MOST:
        return list(notes)
    chosen = brief or notes
    fitting: list[str] = []
    spare = MOST - 1
    for note in chosen:
        if (lines := len(_wrapped(note, width))) <= spare:
            fitting.append(note)
            spare -= lines
    more = len(chosen) - len(fitting)
    count = f"{more} more note{'s' * (more > 1)}, and all properties" if more else "All notes and properties"
    return [*fitting, f"{count}: -v"]


def layout(table: Table[Any], width: int) -> list[Line]:
    """Return the lines of a table, none longer than `width` columns of a terminal.

    A grid has a line per row, with an interval under its figure. Where it does not fit, cells that can are broken into
    two lines, then the parts of the table stand below each other. Where that does not fit either, each row becomes a
    record: its keys on a line, and below them every figure, uncut, behind its heading.
    """
    unfolded, folded = table.visible, _folded(table.visible)
    for cells in (unfolded, folded):
        if (widths := _widths(cells, width)) is not None:
            return _grid(table, cells, widths)
    parts = _parts(folded)
    grids = [_grid(table, part, widths) for part in parts if (widths := _widths(part, width)) is not None]
    if len(grids) == len(parts):
        return [line for at, grid in enumerate(grids) for line in ([[], *grid] if at else grid)]
    return _records(unfolded, width)


def plain(lines: Sequence[Line]) -> str:
    """Return lines without their styles, for output that does without rich."""
    return "\n".join("".join(text for text, _ in line) for line in lines)


def styled(lines: Sequence[Line]) -> "Text":
    """Return lines for rich, which must neither wrap nor cut them."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ignore", end="")
    for line in lines:
        for part, style in line:
            text.append(part, style or None)
        text.append("\n")
    return text


# --- narrower ---------------------------------------------------------------------------------------------------------

FOLD = re.compile(r" |(?=[(@])")


def _folded(columns: Sequence[_Cells]) -> list[_Cells]:
    """Return the columns with some put under others as they allow, and their cells in two lines where they may."""
    titles = {column.title for column, _ in columns}
    lower = {column.under: (column, cells) for column, cells in columns if column.under in titles}
    folded: list[_Cells] = []
    for column, cells in columns:
        if column.under in titles:
            continue
        texts = [FOLD.sub("\n", cell, 1) for cell in cells] if column.folds else cells
        if column.title in lower:
            below, more = lower[column.title]
            texts = [f"{top}\n{bottom}" if bottom else top for top, bottom in zip(cells, more, strict=True)]
            column = replace(column, title=f"{column.heading}\n{below.heading}", unit="")
        folded.append((column, texts))
    return folded


def _parts(columns: Sequence[_Cells]) -> list[list[_Cells]]:
    """Return the parts of a table, each with the keys."""
    keys = [pair for pair in columns if pair[0].role == "key"]
    others = [pair for pair in columns if pair[0].role != "key"]
    numbers = sorted({column.part for column, _ in others})
    return [[*keys, *(pair for pair in others if pair[0].part == number)] for number in numbers]


# --- a grid -----------------------------------------------------------------------------------------------------------


def _heading(column: Column[Any]) -> list[str]:
    longest = max(map(len, column.heading.split()), default=0)
    lines = column.heading.split("\n")
    return [part for line in lines for part in textwrap.wrap(line, max(HEADING, longest))] or [""]


def _stacked(cell: str) -> list[str]:
    """Return a cell's lines in a grid: an interval stands under its figure."""
    return cell.replace(" [", "\n[", 1).split("\n")


def _widths(columns: Sequence[_Cells], width: int) -> list[int] | None:
    """Return the width of each column of a grid, or None where a grid does not fit."""
    least: list[int] = []
    most: list[int] = []
    for column, cells in columns:
        heading = max(map(_length, _heading(column)))
        lines = [line for cell in cells for line in ([cell] if column.wraps else _stacked(cell))]
        longest = max([heading, *map(_length, lines)])
        most.append(longest)
        words = (_length(word) for line in lines for word in _WORD.findall(line)) if column.wraps else ()
        least.append(min(longest, max([heading, NARROWEST, *words])) if column.wraps else longest)
    spare = width - sum(least) - GAP * (len(columns) - 1)
    if spare < 0:
        return None
    wrapping = sorted((at for at, pair in enumerate(columns) if pair[0].wraps), key=lambda at: most[at] - least[at])
    for remaining, at in zip(range(len(wrapping), 0, -1), wrapping, strict=True):
        more = min(most[at] - least[at], spare // remaining)
        least[at] += more
        spare -= more
    return least


def _grid(table: Table[Any], columns: Sequence[_Cells], widths: Sequence[int]) -> list[Line]:
    headings = [_heading(column) for column, _ in columns]
    depth = max(map(len, headings), default=0)
    upright = [[""] * (depth - len(lines)) + lines for lines in headings]  # the last line of each stands on the rule
    lines = [_joined([[(text, "bold")] for text in parts], columns, widths) for parts in zip(*upright, strict=True)]
    lines.append([("─" * (sum(widths) + GAP * (len(widths) - 1)), "dim")])
    for at, row in enumerate(table.rows):
        if at in table.sections:
            lines.append([])
        cells = [_cell(column, texts[at], row, width) for (column, texts), width in zip(columns, widths, strict=True)]
        height = max(map(len, cells), default=0)
        padded = [cell + [[]] * (height - len(cell)) for cell in cells]
        lines += [_joined(parts, columns, widths) for parts in zip(*padded, strict=True)]
    return lines


def _cell(column: Column[Any], cell: str, row: object, width: int) -> list[Line]:
    style = column.style(row) if column.style else ""
    if column.wraps:
        return [[(line, style)] for line in _wrapped(cell, width)]
    first, *below = _stacked(cell)
    strong = style or ("bold" if below and below[0].startswith("[") else "")
    return [[(first, strong)], *([(line, "dim")] for line in below)]


def _joined(parts: Sequence[Line], columns: Sequence[_Cells], widths: Sequence[int]) -> Line:
    """Return one line of cells side by side, without spaces at its end."""
    line: Line = []
    for at, (part, (column, _), width) in enumerate(zip(parts, columns, widths, strict=True)):
        padding = " " * (width - sum(_length(text) for text, _ in part))
        gap = [(" " * GAP, "")] if at else []
        line += [*gap, (padding, ""), *part] if column.align == "right" else [*gap, *part, (padding, "")]
    while line and not line[-1][0].strip():
        line.pop()
    return line


# --- records ----------------------------------------------------------------------------------------------------------


def _records(columns: Sequence[_Cells], width: int) -> list[Line]:
    """Return each row as its keys on a line, and below them its figures, then the facts, then those of other parts."""
    ordered = sorted(columns, key=lambda pair: _group(pair[0]))
    keys = sum(column.role == "key" for column, _ in columns)
    lines: list[Line] = []
    for texts in zip(*(cells for _, cells in ordered), strict=True):
        pairs = [
            (" ".join(column.heading.split()), " ".join(text.split()))
            for (column, _), text in zip(ordered, texts, strict=True)
        ]
        names = [pairs[0][1], *(f"{title} {text}".strip() for title, text in pairs[1:keys] if text)]
        lines += _packed([[(name, "bold")] for name in names], width, 0)
        groups: dict[tuple[int, int], list[Line]] = {}
        for (column, _), (title, text) in list(zip(ordered, pairs, strict=True))[max(keys, 1) :]:
            if text:
                groups.setdefault(_group(column), []).append(_pair(title, text))
        for pieces in groups.values():
            lines += _packed(pieces, width, INDENT)
    return lines


def _group(column: Column[Any]) -> tuple[int, int]:
    """Return what sorts a record's columns; those that differ in it never share a line."""
    return ("key", "figure", "fact").index(column.role), column.part


def _pair(title: str, cell: str) -> Line:
    return [(f"{title}: ", "dim"), (cell, "")] if title else [(cell, "")]


def _packed(pieces: Sequence[Line], width: int, indent: int) -> list[Line]:
    """Return lines of as many pieces as fit; a piece longer than a line is broken, its figure last."""
    lines: list[Line] = []
    used = width
    for piece in pieces:
        length = sum(_length(text) for text, _ in piece)
        if used + 3 + length <= width:
            lines[-1] += [("   ", ""), *piece]
            used += 3 + length
        elif indent + length <= width:
            lines.append([(" " * indent, ""), *piece])
            used = indent + length
        else:
            lines += _broken(piece, width, indent)
            used = width
    return lines


def _broken(piece: Line, width: int, indent: int) -> Iterator[Line]:
    """Yield the lines of a piece that no line holds: its heading, then its words."""
    *heading, (text, style) = piece
    space = width - indent - INDENT
    lead = sum(_length(title) for title, _ in heading)
    if heading and lead + max(map(_length, _WORD.findall(text)), default=0) > space:
        yield [(" " * indent, ""), *heading]
        heading, lead = [], 0
    first, *others = _wrapped(text, space, lead)
    yield [(" " * indent, ""), *heading, (first, style)]
    for line in others:
        yield [(" " * (indent + INDENT), ""), (line, style)]


# --- text -------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"\S+ \[[^\]]{0,60}\]\S*|\S+")  # a figure, its interval and what stands behind it are one


def _wrapped(text: str, width: int, lead: int = 0) -> list[str]:
    """Return lines broken between words, within one only where no line holds it; the first is `lead` shorter."""
    lines, space = [""], width - lead
    for word in _WORD.findall(text):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _length(joined) <= space:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
            space = width
        begin = 0
        while (end := _cut(word, begin, space)) < len(word):
            lines[-1] = word[begin:end]
            lines.append("")
            begin, space = end, width
        lines[-1] = word[begin:]
    return lines


def _clauses(text: str, width: int) -> list[str]:
    """Return the lines of a text that ends each line after a comma where it can."""
    lines: list[str] = []
    for paragraph in text.split("\n") if text else []:
        first, *others = paragraph.split(", ")
        current = first
        for clause in others:
            if _length(f"{current}, {clause},") <= width:
                current = f"{current}, {clause}"
                continue
            lines += _wrapped(f"{current},", width)
            current = clause
        lines += _wrapped(current, width)
    return lines


def _cut(word: str, begin: int, space: int) -> int:
    """Return the end of the characters from `begin` on that fit, at least one; a word may have millions."""
    for at in range(begin, len(word)):
        space -= _character(word[at])
        if space < 0:
            return max(at, begin + 1)
    return len(word)


def _length(text: str) -> int:
    """Return the columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(_character(character) for character in text)


def _character(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
