"""The layout of tables on a terminal, by itself."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column

WORDS = st.text(st.sampled_from("ab1.漢é"), min_size=1, max_size=12)
FIGURES = st.builds("{:.4g} [{:.4g}, {:.4g}]".format, *(st.floats(0.001, 99_999) for _ in range(3)))
CELLS = st.one_of(st.just(""), WORDS, FIGURES, st.lists(WORDS, min_size=1, max_size=6).map(" ".join))


@st.composite
def tables(draw: st.DrawFn) -> list[Column]:
    rows = draw(st.integers(1, 4))
    names = Column("model", draw(st.lists(WORDS, min_size=rows, max_size=rows)))
    others = [
        Column(
            draw(WORDS),
            draw(st.lists(CELLS, min_size=rows, max_size=rows)),
            draw(st.sampled_from(["left", "right"])),
            wraps=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(0, 6)))
    ]
    return [names, *others]


@given(tables(), st.integers(40, 160), st.integers(1, 2))
def test_no_line_is_too_long_and_no_figure_is_broken(columns: list[Column], width: int, named: int) -> None:
    text = terminal.plain(terminal.layout(columns, width, named=min(named, len(columns))))
    assert max(map(cell_len, text.splitlines())) <= width
    for column in columns:
        for cell in column.cells:
            for part in re.findall(r"\[[^\]]*\]|[^\s\[]+", cell):
                assert part in text, (part, text)


@given(tables(), st.integers(40, 160))
def test_rich_prints_the_lines_as_they_are(columns: list[Column], width: int) -> None:
    lines = terminal.layout(columns, width)
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal.styled(lines))
    assert [line.rstrip() for line in capture.get().splitlines()] == [
        line.rstrip() for line in terminal.plain(lines).splitlines()
    ]


def test_a_grid_has_intervals_under_their_figures() -> None:
    columns = [Column("model", ["a", "bc"]), Column("256 ms", ["8.21 [8.18, 8.23]", "failed"], "right")]
    assert terminal.plain(terminal.layout(columns, 30)).splitlines() == [
        "model        256 ms",
        "───────────────────",
        "a              8.21",
        "       [8.18, 8.23]",
        "bc           failed",
    ]


def test_what_does_not_fit_becomes_records() -> None:
    columns = [
        Column("model", ["a", "bc"]),
        Column("size", ["256", "384"]),
        Column("256 ms", ["8.21 [8.18, 8.23]", ""], "right"),
        Column("not on the processor", ["cast 2, gather 1", "–"]),
    ]
    assert not terminal.fits(columns, 40)
    assert terminal.plain(terminal.layout(columns, 40, named=2)).splitlines() == [
        "a   size 256",
        "  256 ms: 8.21 [8.18, 8.23]",
        "  not on the processor: cast 2, gather 1",
        "bc   size 384",
        "  not on the processor: –",
    ]


def test_prose_is_wrapped_in_a_grid() -> None:
    columns = [Column("claim", ["one two three four five six seven eight"], wraps=True), Column("off", ["15.4 %"])]
    assert terminal.plain(terminal.layout(columns, 34)).splitlines() == [
        "claim                       off",
        "──────────────────────────────────",
        "one two three four five     15.4 %",
        "six seven eight",
    ]


def test_sections_are_apart() -> None:
    lines = terminal.plain(terminal.layout([Column("a", ["x", "y", "z"])], 40, sections=[2])).splitlines()
    assert lines == ["a", "─", "x", "y", "", "z"]


@pytest.mark.parametrize("name", ["a" * 90, "漢" * 60])
def test_a_name_longer_than_the_terminal_is_folded_and_not_cut(name: str) -> None:
    text = terminal.plain(terminal.layout([Column("model", [name]), Column("ms", ["8.21 [8.18, 8.23]"])], 40))
    assert max(map(cell_len, text.splitlines())) <= 40
    assert name in re.sub(r"\s", "", text)
    assert "8.21 [8.18, 8.23]" in text
