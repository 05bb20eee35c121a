"""One list of columns gives every format: for people, for programs, and for the page."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastvit_bench.render import data, html, latex, markdown, row_table, terminal
from fastvit_bench.render.page import compose
from fastvit_bench.render.rows import Row, collect
from fastvit_bench.render.table import NONE, Column, Table, TableReport, equal_columns, without
from fastvit_bench.render.text import printable
from fastvit_bench.store.runs import RunFile

Pair = tuple[str, float | None]

NAME: Column[Pair] = Column("name", "name", lambda pair: pair[0], role="key")
LENGTH: Column[Pair] = Column(
    "length_m",
    "length",
    lambda pair: pair[1],
    lambda pair: NONE if pair[1] is None else f"{pair[1]:.2f}",
    unit="m",
    align="right",
    role="figure",
)
LINES: list[Pair] = [("short", 1.5), ("unknown", None), ("long", 123.456)]


def printed(table: Table[Pair], width: int = 80) -> str:
    return terminal.plain(terminal.layout(table, width))


def test_people_read_text_and_programs_get_values() -> None:
    table = Table(LINES, [NAME, LENGTH])
    assert printed(table).splitlines() == [
        "         length",
        "name          m",
        "───────────────",
        "short      1.50",
        "unknown       –",
        "long     123.46",
    ]
    assert "| long | 123.46 |" in markdown.pipe_table(table)
    assert "long & 123.46" in latex.floating(table, "Lengths", "lengths")
    assert data.csv(table) == "name,length_m\nshort,1.5\nunknown,\nlong,123.456\n"
    assert table.records()[2] == {"name": "long", "length_m": 123.456}
    assert table.frame()["length_m"].tolist()[::2] == [1.5, 123.456]
    shown = html.sortable(table)
    assert shown["columns"][1] == {"title": "length m", "number": True, "facet": False, "wide": False, "minor": False}
    assert shown["rows"] == [["short", "short"], ["1.50", 1.5]] or shown["rows"][2] == [
        ["long", "long"],
        ["123.46", 123.456],
    ]


def test_a_column_is_for_people_by_its_title_and_for_programs_by_its_name() -> None:
    secret: Column[Pair] = Column("raw", "", lambda pair: pair[1])
    spoken: Column[Pair] = Column("", "said", lambda pair: f"the {pair[0]} one")
    table = Table(LINES, [NAME, secret, spoken])
    assert [column.title for column, _ in table.visible] == ["name", "said"]
    assert table.names == ["name", "raw"]


def test_columns_without_a_value_and_without_a_difference_can_stay_away() -> None:
    empty: Column[Pair] = Column("empty", "empty", lambda pair: None, shown="filled", optional=True)
    same: Column[Pair] = Column("same", "same", lambda pair: 7, shown="varied")
    table = Table(LINES, [NAME, empty, same])
    assert [column.title for column, _ in table.visible] == ["name"]
    assert table.names == ["name", "same"]


def test_whole_numbers_stay_whole_beside_gaps() -> None:
    count: Column[Pair] = Column("count", "count", lambda pair: None if pair[1] is None else round(pair[1]))
    assert str(Table(LINES, [NAME, count]).frame()["count"].dtype) == "Int64"


def test_what_is_equal_in_every_row_is_found_and_taken_out() -> None:
    same: Column[Pair] = Column("same", "same", lambda pair: 7, unit="m")
    table = Table(LINES, [NAME, LENGTH, same])
    assert equal_columns([table]) == {"same m": "7"}
    assert [column.title for column, _ in without(table, ["same m"]).visible] == ["name", "length"]


def test_a_narrow_terminal_gets_columns_under_each_other_then_parts_then_records() -> None:
    under: Column[Pair] = Column("", "below", lambda pair: f"under {pair[0]}", under="above")
    above: Column[Pair] = Column("", "above", lambda pair: f"over {pair[0]}")
    second: Column[Pair] = Column("", "second", lambda pair: "x" * 18, part=1)
    table = Table(LINES[:1], [NAME, LENGTH, above, under, second])
    assert "above       below" in printed(table, 80)
    assert printed(table, 50).splitlines()[-2:] == [
        "short    1.50  over short   xxxxxxxxxxxxxxxxxx",
        "               under short",
    ]
    lines = printed(table, 32).splitlines()
    assert lines.index("") > 0
    assert lines[-1] == "short  xxxxxxxxxxxxxxxxxx"
    assert printed(table, 20).splitlines()[0] == "short"


def test_a_column_of_what_a_row_holds() -> None:
    nested = [(pair, "more") for pair in LINES]
    table = Table(nested, [NAME.of(lambda line: line[0]), LENGTH.of(lambda line: line[0])])
    assert data.csv(table) == data.csv(Table(LINES, [NAME, LENGTH]))
    assert table.visible[1][1] == ["1.50", "–", "123.46"]


def test_titles_and_notes_are_told_once() -> None:
    report = TableReport([Table(LINES, [NAME], "Lines"), Table(LINES, [LENGTH])], ["A note."], "A caption.")
    console = Console(width=60, record=True, file=None, color_system=None)
    with console.capture() as capture:
        console.print(terminal.report(report, 60))
    for text in (capture.get(), markdown.report(report), latex.report(report)):
        for part in ("A caption.", "Lines", "A note."):
            assert text.count(part) == 1


# --- of measurements --------------------------------------------------------------------------------------------------

FORMATS: dict[str, Callable[[list[Row]], str]] = {
    "terminal": lambda rows: _on_terminal(rows),
    "markdown": row_table.markdown,
    "latex": row_table.latex,
    "csv": row_table.csv,
    "json": row_table.json,
    "page": lambda rows: compose.html(rows, [], title="t", footer=""),
}


def _on_terminal(rows: list[Row]) -> str:
    console = Console(width=300, color_system=None, file=None)
    with console.capture() as capture:
        console.print(row_table.rich(rows, 300))
    return capture.get()


@pytest.mark.parametrize("format_", FORMATS)
def test_one_new_column_is_seen_in_every_format(format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = collect([RunFile(Path("x"), (builders.run(), builders.measurement()), 0)])
    assert "flavour" not in FORMATS[format_](rows)
    columns = row_table.columns
    new: Column[Row] = Column("flavour", "flavour", lambda row: f"like {row.model}")
    monkeypatch.setattr(row_table, "columns", lambda rows, marks: [*columns(rows, marks), new])
    text = FORMATS[format_](rows)
    assert "flavour" in text
    assert "like fastvit" in text
    if format_ == "csv":
        assert next(csv.DictReader(text.splitlines()))["flavour"] == "like fastvit_t8"
    if format_ == "json":
        assert json.loads(text)[0]["flavour"] == "like fastvit_t8"


_CELLS = (
    st.floats()
    | st.floats(1e-6, 1e-3)
    | st.floats(0.1, 1e3)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.text(max_size=5)
    | st.sampled_from(["=1", "a,b", '"', "fp32", "1.0", "True"])
)


@given(
    st.integers(1, 9).flatmap(
        lambda count: st.lists(
            st.lists(st.floats(1e-3, 1e9), min_size=count, max_size=count)
            | st.lists(st.floats(), min_size=count, max_size=count)
            | st.lists(_CELLS, min_size=count, max_size=count),
            min_size=1,
            max_size=4,
        )
    )
)
def test_csv_by_columns_is_csv_cell_by_cell(columns: list[list[object]]) -> None:
    names = [f"column_{at}" for at in range(len(columns))]
    plain = io.StringIO()
    writer = csv.writer(plain, lineterminator="\n")
    writer.writerow(names)
    for row in zip(*columns, strict=True):
        writer.writerow([_in_a_spreadsheet(cell) for cell in row])
    with mock.patch.object(data, "_BLOCK", 4):
        made = [Column[int](name, "", cells.__getitem__) for name, cells in zip(names, columns, strict=True)]
        assert data.csv(Table(range(len(columns[0])), made)) == plain.getvalue()


def _in_a_spreadsheet(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    line = printable(cell)
    return f"'{line}" if line[:1] in tuple("=+-@＝＋－＠") else line
