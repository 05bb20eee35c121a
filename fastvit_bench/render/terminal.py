"""The layout of every table on a terminal: a grid where it fits, else a record per row; no figure is ever cut."""

import re
import textwrap
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from fastvit_bench.render.table import Column

if TYPE_CHECKING:  # takes longer to import than `--help` may
    from rich.text import Text

Span = tuple[str, str]  # text, and its style as rich names it
Line = list[Span]

GAP = 2  # spaces between columns
INDENT = 2  # of a record's figures below its name
NARROWEST = 24  # of a column that wraps
HEADING = 7  # characters before a heading is broken into lines


def layout(columns: Sequence[Column], width: int, *, named: int = 1, sections: Collection[int] = ()) -> list[Line]:
    """Return the lines of a table, none longer than `width` columns of a terminal.

    A grid has a line per row, with an interval under its figure. Where it does not fit, each row becomes a record:
    the first `named` cells on a line, and below them every figure behind its heading, whole. Before the rows of
    `sections` a grid has an empty line.
    """
    widths = _widths(columns, width)
    return _records(columns, width, named) if widths is None else _grid(columns, widths, sections)


def fits(columns: Sequence[Column], width: int) -> bool:
    """Return whether `layout` makes a grid of them."""
    return _widths(columns, width) is not None


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


# --- a grid -----------------------------------------------------------------------------------------------------------


def _heading(column: Column) -> list[str]:
    longest = max(map(len, column.title.split()), default=0)
    return [part for line in column.title.split("\n") for part in textwrap.wrap(line, max(HEADING, longest))] or [""]


def _stacked(cell: str) -> list[str]:
    """A cell's lines in a grid: an interval stands under its figure."""
    return cell.replace(" [", "\n[", 1).split("\n")


def _widths(columns: Sequence[Column], width: int) -> list[int] | None:
    """The width of each column of a grid, or None where a grid does not fit."""
    least: list[int] = []
    most: list[int] = []
    for column in columns:
        heading = max(map(_length, _heading(column)))
        lines = [line for cell in column.cells for line in ([cell] if column.wraps else _stacked(cell))]
        whole = max([heading, *map(_length, lines)])
        most.append(whole)
        words = (_length(word) for line in lines for word in _WORD.findall(line)) if column.wraps else ()
        least.append(min(whole, max([heading, NARROWEST, *words])) if column.wraps else whole)
    spare = width - sum(least) - GAP * (len(columns) - 1)
    if spare < 0:
        return None
    wrapping = sorted((at for at, column in enumerate(columns) if column.wraps), key=lambda at: most[at] - least[at])
    for left, at in zip(range(len(wrapping), 0, -1), wrapping, strict=True):
        more = min(most[at] - least[at], spare // left)
        least[at] += more
        spare -= more
    return least


def _grid(columns: Sequence[Column], widths: Sequence[int], sections: Collection[int]) -> list[Line]:
    headings = [_heading(column) for column in columns]
    depth = max(map(len, headings), default=0)
    upright = [[""] * (depth - len(each)) + each for each in headings]  # the last line of each stands on the rule
    lines = [_joined([[(text, "bold")] for text in parts], columns, widths) for parts in zip(*upright, strict=True)]
    lines.append([("─" * (sum(widths) + GAP * (len(widths) - 1)), "dim")])
    for at in range(len(columns[0].cells) if columns else 0):
        if at in sections:
            lines.append([])
        cells = [_cell(column, at, width) for column, width in zip(columns, widths, strict=True)]
        height = max(map(len, cells))
        padded = [each + [[]] * (height - len(each)) for each in cells]
        lines += [_joined(parts, columns, widths) for parts in zip(*padded, strict=True)]
    return lines


def _cell(column: Column, at: int, width: int) -> list[Line]:
    cell = column.cells[at]
    style = column.styles[at] if column.styles else ""
    if column.wraps:
        return [[(line, style)] for line in _wrapped(cell, width)]
    first, *below = _stacked(cell)
    strong = style or ("bold" if below and below[0].startswith("[") else "")
    return [[(first, strong)], *([(line, "dim")] for line in below)]


def _joined(parts: Sequence[Line], columns: Sequence[Column], widths: Sequence[int]) -> Line:
    """One line of cells side by side, without spaces at its end."""
    line: Line = []
    for at, (part, column, width) in enumerate(zip(parts, columns, widths, strict=True)):
        room = " " * (width - sum(_length(text) for text, _ in part))
        gap = [(" " * GAP, "")] if at else []
        line += [*gap, (room, ""), *part] if column.justify == "right" else [*gap, *part, (room, "")]
    while line and not line[-1][0].strip():
        line.pop()
    return line


# --- records ----------------------------------------------------------------------------------------------------------


def _records(columns: Sequence[Column], width: int, named: int) -> list[Line]:
    lines: list[Line] = []
    for at in range(len(columns[0].cells) if columns else 0):
        cells = [(" ".join(column.title.split()), " ".join(column.cells[at].split())) for column in columns]
        keys = [cells[0][1], *(f"{title} {cell}".strip() for title, cell in cells[1:named] if cell)]
        lines += _packed([[(key, "bold")] for key in keys], width, 0)
        lines += _packed([_pair(title, cell) for title, cell in cells[named:] if cell], width, INDENT)
    return lines


def _pair(title: str, cell: str) -> Line:
    return [(f"{title}: ", "dim"), (cell, "")] if title else [(cell, "")]


def _packed(pieces: Sequence[Line], width: int, indent: int) -> list[Line]:
    """As many pieces to a line as fit; one that is too long alone is broken, its figure last."""
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
    """A piece that no line holds: its heading, then its words."""
    *heading, (text, style) = piece
    room = width - indent - INDENT
    lead = sum(_length(title) for title, _ in heading)
    if heading and lead + max(map(_length, _WORD.findall(text)), default=0) > room:
        yield [(" " * indent, ""), *heading]
        heading, lead = [], 0
    first, *others = _wrapped(text, room, lead)
    yield [(" " * indent, ""), *heading, (first, style)]
    for line in others:
        yield [(" " * (indent + INDENT), ""), (line, style)]


# --- text -------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"\S+ \[[^\]]*\]|\S+")  # a figure and its interval are one


def _wrapped(text: str, width: int, lead: int = 0) -> list[str]:
    """Lines broken between words, within one only where no line holds it; the first is `lead` shorter."""
    lines, room = [""], width - lead
    for found in _WORD.findall(text):
        word = found
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _length(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
            room = width
        while _length(word) > room:
            cut = _cut(word, room)
            lines[-1] = word[:cut]
            lines.append("")
            word, room = word[cut:], width
        lines[-1] = word
    return lines


def _cut(word: str, room: int) -> int:
    """How many characters of a word fit, at least one."""
    at = len(word)
    while at > 1 and _length(word[:at]) > room:
        at -= 1
    return at


def _length(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(_character(character) for character in text)


def _character(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
