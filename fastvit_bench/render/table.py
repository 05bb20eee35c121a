"""The table that every command prints: rows, and columns that say of each row what programs get and people read."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from fastvit_bench.errors import UsageError

if TYPE_CHECKING:  # takes longer to import than `--help` may
    import pandas as pd

NONE = "–"  # there is no value, as opposed to an empty one

Row = TypeVar("Row")
Outer = TypeVar("Outer")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a table: programs know it by its name, people by its title and unit.

    Without a title people do not see it, without a name programs do not.
    """

    name: str  # in CSV, JSON and data frames
    title: str
    value: Callable[[Row], object]  # in full precision; None where there is none
    text: Callable[[Row], str] | None = None  # for people; without it the value is printed as it is
    unit: str = ""  # behind the title
    align: Literal["left", "right"] = "left"
    role: Literal["key", "figure", "fact"] = "fact"  # says which row it is; is what the table is for; goes with it
    shown: Literal["always", "filled", "varied"] = "always"  # varied: to people, where rows differ
    optional: bool = False  # CSV does without it where no row has a value
    part: int = 0  # of the table, where a terminal is too narrow for all columns
    under: str = ""  # title of the column that it stands under where a terminal is narrow
    folds: bool = False  # a narrow terminal may break it into two lines
    wraps: bool = False  # prose: a terminal may break it between any words
    style: Callable[[Row], str] | None = None  # on a terminal, as rich names it
    facet: bool = False  # a page offers to choose one of its values
    minor: bool = False  # a narrow page does without it
    note: Callable[[Row], Sequence[object]] | None = None  # what a page shows of the cell on demand

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".rstrip()

    def cell(self, row: Row) -> str:
        """Return the text of a row's cell, as people read it."""
        if self.text is not None:
            return clean(self.text(row))
        value = self.value(row)
        return NONE if value is None else clean(str(value))

    def of(self, get: Callable[[Outer], Row]) -> "Column[Outer]":
        """Return this column for other rows, from each of which `get` takes one of this column's rows."""
        text, style, note = self.text, self.style, self.note
        return Column(
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            value=lambda outer: self.value(get(outer)),
            text=text and (lambda outer: text(get(outer))),
            style=style and (lambda outer: style(get(outer))),
            note=note and (lambda outer: note(get(outer))),
        )


_OF_ROWS = ("value", "text", "style", "note")
_PLAIN_FIELDS = tuple(name for name in Column.__dataclass_fields__ if name not in _OF_ROWS)


@dataclass(frozen=True)
class Table(Generic[Row]):
    """Rows and their columns; every format is made of this."""

    rows: Sequence[Row]
    columns: Sequence[Column[Row]]
    title: str = ""
    sections: Collection[int] = ()  # rows that something new begins with

    def __post_init__(self) -> None:
        """Clean the title, as cells are when they are read."""
        object.__setattr__(self, "title", clean(self.title))

    @cached_property
    def visible(self) -> list[tuple[Column[Row], list[str]]]:
        """Columns that people see, each with its cells."""
        titled = [(column, [column.cell(row) for row in self.rows]) for column in self.columns if column.title]
        return [(column, cells) for column, cells in titled if self._is_shown(column, cells)]

    def _is_shown(self, column: Column[Row], cells: Sequence[str]) -> bool:
        if column.shown == "filled":
            return self._is_filled(column)
        return column.shown == "always" or len(set(cells)) > 1

    def _is_filled(self, column: Column[Row]) -> bool:
        return any(column.value(row) is not None for row in self.rows)

    @cached_property
    def _values(self) -> dict[str, list[object]]:
        """Values of each column that programs may get."""
        return {column.name: [column.value(row) for row in self.rows] for column in self.columns if column.name}

    @cached_property
    def names(self) -> list[str]:
        """Names of the columns that programs get."""
        optional = {column.name for column in self.columns if column.optional}
        filled = {name for name, values in self._values.items() if any(value is not None for value in values)}
        return [name for name in self._values if name not in optional or name in filled]

    def values(self) -> list[list[object]]:
        """Return the values of each column that programs get, in the order of `names`."""
        return [self._values[name] for name in self.names]

    def records(self) -> list[dict[str, object]]:
        """Return the values of each row by the names of its columns."""
        return [dict(zip(self.names, line, strict=True)) for line in zip(*self.values(), strict=True)]

    def frame(self) -> "pd.DataFrame":
        """Return the table as a data frame: a line per row, every value in full precision."""
        import pandas as pd

        frame = pd.DataFrame({name: self._values[name] for name in self.names})
        # pandas turns whole numbers beside gaps into floats
        return frame.astype({name: "Int64" for name in self.names if _are_integers_with_gaps(self._values[name])})


def _are_integers_with_gaps(values: Sequence[object]) -> bool:
    """Return whether the values are whole numbers and gaps, both, and nothing more."""
    return {type(value) for value in values} == {int, type(None)}


@dataclass(frozen=True)
class TableReport:
    """Tables of a command for people, with one sentence above them and notes below."""

    tables: Sequence[Table[Any]]
    notes: Sequence[str] = ()
    caption: str = ""
    title: str = ""  # of a table that has none, where a format cannot do without
    brief: Sequence[str] = ()  # the notes in short, the most important first, where they are too long for a terminal

    def __post_init__(self) -> None:
        """Clean the sentences."""
        object.__setattr__(self, "notes", [clean(note) for note in self.notes])
        object.__setattr__(self, "brief", [clean(note) for note in self.brief])
        object.__setattr__(self, "caption", clean(self.caption))
        object.__setattr__(self, "title", clean(self.title))


def clean(text: str) -> str:
    """Return text without the characters that a terminal obeys, since names come from files; its lines stay."""
    return text if text.isprintable() else "".join(sign for sign in text if sign.isprintable() or sign == "\n")


def equal_columns(tables: Sequence[Table[Any]]) -> dict[str, str]:
    """Return heading and text of the facts that say the same in every row of all the tables."""
    cells: dict[str, list[str]] = {}
    for table in tables:
        for column, texts in table.visible:
            if column.role == "fact":
                cells.setdefault(column.heading, []).extend(texts)
    count = sum(len(table.rows) for table in tables)
    return {heading: texts[0] for heading, texts in cells.items() if len(texts) == count and len(set(texts)) == 1}


def chosen(columns: Sequence[Column[Row]], names: Sequence[str], kinds: Mapping[str, str]) -> list[Column[Row]]:
    """Return the columns of these names, in their order, each shown to people.

    A name may be a glob, or the kind of several columns, which `kinds` gives by their names. Raises `UsageError` for
    one that no column has.
    """
    known = {column.name: column for column in columns if column.name}
    matching: dict[str, Column[Row]] = {}
    for asked in names:
        fitting = [name for name in known if fnmatchcase(name, asked) or kinds.get(name) == asked]
        if not fitting:
            offered = list(dict.fromkeys(kinds.get(name, name) for name in known))
            raise UsageError(_no_column(asked, offered))
        matching |= {name: known[name] for name in fitting}
    return [_on_demand(column) for column in matching.values()]


def _no_column(asked: str, offered: Sequence[str]) -> str:
    """Return the sentence that names the columns most like the one that was asked for, and the way to all of them."""
    alike = [name for name in offered if asked.lower() in name] or get_close_matches(asked, offered, n=6, cutoff=0.7)
    known = alike[:6] or offered[:6]
    return (
        f"There is no column '{asked}' here; {'did you mean' if alike else 'there are'} {', '.join(known)}"
        f"{'?' if alike else ' and others.'} The first line of --format csv names all {len(offered)}."
    )


def _on_demand(column: Column[Row]) -> Column[Row]:
    def text(row: Row) -> str:
        return _plain(column.value(row))

    titled = column if column.title else replace(column, title=column.name.replace("_", " "), text=column.text or text)
    return replace(titled, shown="always", optional=False, part=0)


def _plain(value: object) -> str:
    return NONE if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def without(table: Table[Row], headings: Collection[str]) -> Table[Row]:
    """Return the table without columns of these headings."""
    return replace(table, columns=[column for column in table.columns if column.heading not in headings])
