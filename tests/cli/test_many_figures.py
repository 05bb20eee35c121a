"""Commands over more figures than a person reads: what they show, what they say of the rest, and what they see."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import builders
import msgspec
import pytest
from commands import call

from fastvit_bench.history import chart, series
from fastvit_bench.render import row_table, rows
from fastvit_bench.render.page import compose
from fastvit_bench.store import peaks, runs


def upgraded(count: int, begin: int = 0) -> Iterator[bytes]:
    """Lines of figures, each with another version of a package and so a row of its own."""
    for number in range(begin, begin + count):
        machine = builders.machine(packages={"onnxruntime": f"1.{number}.0"})
        line = builders.measurement(machine=machine, finished=builders.at(number))
        yield msgspec.json.encode(line) + b"\n"


def add(home: Path, lines: Iterator[bytes], digits: str = "9f3c1a") -> Path:
    path = runs.create(home / "results", builders.run(id=f"20260131-142233-{digits}"))
    with path.open("ab") as file:  # the writer would wait for the disk
        file.writelines(lines)
    return path


def shown(home: Path, *words: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(call(*words, "-f", "csv", cwd=home).stdout)))


@pytest.mark.slow
def test_a_terminal_shows_the_newest_rows_and_says_how_to_see_others(tmp_path: Path) -> None:
    add(tmp_path, upgraded(row_table.MOST_ROWS + 3))
    short, long = (call("table", *verbose, cwd=tmp_path).stdout for verbose in ((), ("-v",)))
    assert f"The newest {row_table.MOST_ROWS} of {row_table.MOST_ROWS + 3} rows." in " ".join(short.split())
    assert short.count("\nfastvit_t8") == row_table.MOST_ROWS
    assert long.count("\nfastvit_t8") >= row_table.MOST_ROWS + 3
    assert "The newest" not in long
    assert len(shown(tmp_path, "table")) == row_table.MOST_ROWS + 3


def test_few_rows_are_shown_without_a_word_of_others(tmp_path: Path) -> None:
    add(tmp_path, upgraded(3))
    assert "The newest" not in call("table", cwd=tmp_path).stdout


def test_a_roofline_on_a_terminal_has_the_newest_rows(tmp_path: Path) -> None:
    add(tmp_path, upgraded(row_table.MOST_ROWS + 1))
    peaks.save([builders.peak()], tmp_path / "results" / "cpu")
    text = " ".join(call("roofline", cwd=tmp_path).stdout.split())
    assert f"Figures of the newest {row_table.MOST_ROWS} of {row_table.MOST_ROWS + 1} rows." in text
    assert len(shown(tmp_path, "roofline")) == row_table.MOST_ROWS + 1


def test_the_newest_rows_keep_their_order() -> None:
    minutes = (5, 1, 9, 3)
    cells = [
        builders.measurement(machine=builders.machine(os=f"Linux {at}"), finished=builders.at(at)) for at in minutes
    ]
    table = rows.gather([[builders.run(), *cells]])
    assert [row.measured[0].finished for row in rows.newest(table, 2)] == [builders.at(5), builders.at(9)]
    assert rows.newest(table, 4) == table


def test_a_page_says_which_rows_it_is_of(tmp_path: Path) -> None:
    path = add(tmp_path, upgraded(compose.MOST_ROWS + 2))
    table, _, _ = rows.read([path])
    kept, (sentence,) = compose.newest(table)
    assert kept == table[2:]
    assert sentence.startswith(f"Of {compose.MOST_ROWS + 2} rows with {compose.MOST_ROWS + 2} figures the newest ")
    assert compose.newest(kept) == (kept, [])


def test_a_panel_has_the_newest_figures_and_their_changes() -> None:
    middle = chart.MOST_POINTS // 2
    points = tuple(
        series.HistoryPoint(
            builders.run(), builders.measurement(samples_ns=((10**6 * (2 if at >= middle + 50 else 1),) * 9,))
        )
        for at in range(chart.MOST_POINTS + 50)
    )
    found = series.search(series.Series(points))
    (drawn,), (sentence,) = chart.choose([found])
    assert drawn.points == points[50:]
    assert [change.at for change in found.changes] == [middle + 50]
    assert [change.at for change in drawn.changes] == [middle]
    assert f"the newest {chart.MOST_POINTS} are drawn" in sentence
    assert chart.choose([drawn]) == ([drawn], [])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["table", "history", "roofline"])
def test_the_next_call_sees_a_run_that_was_added_and_a_line(tmp_path: Path, command: str) -> None:
    path = add(tmp_path, upgraded(2))
    peaks.save([builders.peak()], tmp_path / "results" / "cpu")
    assert len(shown(tmp_path, command)) == 2
    other = add(tmp_path, upgraded(1, begin=5), digits="aaaaaa")
    assert len(shown(tmp_path, command)) == 3
    runs.append(path, builders.measurement(finished=builders.at(9), machine=builders.machine(os="Linux 9 x86_64")))
    assert len(shown(tmp_path, command)) == 4
    other.unlink()
    assert len(shown(tmp_path, command)) == 3
