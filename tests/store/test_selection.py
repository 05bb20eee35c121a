"""Selections: conditions on the figures of run files, as the command line words them."""

import csv
import io
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import builders
import pytest
from commands import call, refused
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.errors import UsageError
from fastvit_bench.records import Measurement
from fastvit_bench.render import rows
from fastvit_bench.store import figures, runs, selection

NOON = datetime(2026, 2, 10, 12, tzinfo=UTC)


def figure(model: str = "fastvit_t8", size: int = 256, batch: int = 1, **changes: object) -> Measurement:
    artifact = builders.artifact(model=model, shape=builders.shape(size, batch))
    return builders.measurement(artifact=artifact, **changes)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two runs of a day each, on two devices, and a failure."""
    for day, device in ((1, "cpu"), (2, "other")):
        where = builders.device(name=device)
        request = builders.request(device=where)
        path = runs.create(tmp_path / "results", builders.run(id=f"2026020{day}-142233-9f3c1a", request=request))
        for model in ("fastvit_t8", "fastvit_t12"):
            for size in (224, 256):
                runs.append(path, figure(model, size, device=where, finished=f"2026-02-0{day}T14:30:00+00:00"))
    cell = builders.cell(model="fastvit_s12", shape=builders.shape(512))
    runs.append(path, builders.failure(cell=cell, finished="2026-02-02T15:00:00+00:00"))
    return tmp_path


def fits(text: str, line: Measurement) -> bool:
    return selection.select(where=[text]).fits(line, builders.run())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resolution=512", True),
        ("resolution!=512", False),
        ("resolution>=512", True),
        ("resolution>512", False),
        (" resolution <= 512 ", True),
        ("batch<8", False),
        ("model=fastvit_t*", True),
        ("model!=fastvit_t*", False),
        ("model=fastvit_s*", False),
        ("fuse=folded", True),
        ("fuse=none", False),
        ("accelerator=", False),  # no condition: refused below
    ],
)
def test_a_condition_is_of_one_field(text: str, expected: bool) -> None:
    line = figure(size=512, batch=8)
    if text.endswith("="):
        with pytest.raises(UsageError, match="is no condition"):
            fits(text, line)
    else:
        assert fits(text, line) is expected


def test_a_number_that_a_figure_lacks_fits_nothing() -> None:
    line = builders.measurement(artifact=builders.foreign(shape=None))
    assert not fits("resolution=256", line)
    assert not fits("resolution!=256", line)
    oblong = builders.measurement(artifact=builders.artifact(shape=builders.shape().__class__(1, 256, 512)))
    assert not fits("resolution=256", oblong)
    assert fits("height=256", oblong)
    assert fits("width=512", oblong)


@pytest.mark.parametrize(
    "text", ["", "=", "resolution", "size=256", "resolution=big", "model>a", "batch=-1", "batch=²"]
)
def test_other_words_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(UsageError, match=r"write |there are resolution, "):
        selection.condition(text)


@given(st.text())
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        one = selection.condition(text)
    except UsageError:
        return
    assert one.field in selection.NAMES
    assert fits(text, figure()) in {True, False}


@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]))
def test_numbers_are_compared_as_numbers(limit: int, batch: int, order: str) -> None:
    below, equal = batch < limit, batch == limit
    expected = {
        "=": equal,
        "!=": not equal,
        "<": below,
        "<=": below or equal,
        ">": not (below or equal),
        ">=": not below,
    }
    assert fits(f"batch{order}{limit}", figure(batch=batch)) is expected[order]


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("2026-02-02", "2026-02-02T00:00:00+00:00"),
        ("2026-02-02T14:30", "2026-02-02T14:30:00+00:00"),
        ("2026-02-02T14:30+02:00", "2026-02-02T12:30:00+00:00"),
        ("12h", "2026-02-10T00:00:00+00:00"),
        ("1w", "2026-02-03T12:00:00+00:00"),
    ],
)
def test_since_is_a_date_or_an_age(text: str, begin: str) -> None:
    assert selection.since(text, NOON) == begin


@given(st.text() | st.from_regex(r"\d{1,9}[hdw]", fullmatch=True))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        begin = selection.since(text, NOON)
    except UsageError:
        return
    assert datetime.fromisoformat(begin).tzinfo is not None


def test_the_first_second_counts() -> None:
    line = figure(finished="2026-02-02T14:30:00+00:00")
    assert selection.Selection(since="2026-02-02T14:30:00+00:00").fits(line, builders.run())
    assert not selection.Selection(since="2026-02-02T14:30:01+00:00").fits(line, builders.run())


def test_a_selection_holds_no_more_than_it_shows(tmp_path: Path) -> None:
    path = runs.create(tmp_path, builders.run())
    with path.open("ab") as file:  # the writer would wait for the disk
        for number in range(1500):
            line = figure(size=256 if number == 0 else 512, samples_ns=(builders.samples(count=200),))
            file.write(runs._encoded(line))  # pyright: ignore[reportPrivateUsage]
    figures.read_all([path])  # the first call builds its decoder
    peaks: list[int] = []
    for where in ([], ["resolution=256"]):
        chosen = selection.select(where=where)
        tracemalloc.start()
        (stored,), _ = figures.read_all([path], chosen.lines)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(stored.measurements) == (1 if where else 1500)
    assert peaks[1] < peaks[0] / 10


def test_joined_accuracies_count_whatever_is_selected(tmp_path: Path) -> None:
    path = runs.create(tmp_path, builders.run())
    runs.append(path, builders.measurement(finished=builders.at(60)))
    runs.append(path, builders.accuracy(finished=builders.at(1)))
    chosen = selection.Selection(since=builders.at(30))
    assert rows.read([path], selection=chosen)[1] == []
    (shown,), counted, _ = rows.read([path], [path], chosen)
    assert len(shown.measured) == len(counted) == 1


# --- on the command line ----------------------------------------------------------------------------------------------


def table(home: Path, *words: str) -> list[tuple[str, str]]:
    shown = csv.DictReader(io.StringIO(call("table", "-f", "csv", *words, cwd=home).stdout))
    return sorted((row["device"], row["model"]) for row in shown)


def test_a_table_shows_what_fits_every_option(home: Path) -> None:
    everything = table(home)
    assert len(everything) == 5
    assert table(home, "--device", "*", "--since", "2026-02-01") == everything
    assert table(home, "--device", "cpu") == [("cpu", "fastvit_t12"), ("cpu", "fastvit_t8")]
    assert table(home, "--model", "fastvit_t8", "--since", "2026-02-02") == [("other", "fastvit_t8")]
    assert table(home, "--where", "resolution=512") == [("other", "fastvit_s12")]
    assert table(home, "-m", "fastvit_t8", "-m", "fastvit_s*", "--device", "other") == [
        ("other", "fastvit_s12"),
        ("other", "fastvit_t8"),
    ]


def test_a_selection_of_nothing_names_what_there_is(home: Path) -> None:
    for command in ("table", "report"):
        message = refused(command, "--model", "resnet", "--since", "2026-02-01", cwd=home)
        assert "model: fastvit_s12, fastvit_t12, fastvit_t8; newest figure: 2026-02-02T15:00:00" in message
    assert "resolution: 224, 256, 512" in refused("history", "--where", "resolution=9", cwd=home)
    assert "knows no 'size'" in refused("table", "--where", "size=9", cwd=home)
    assert not (home / "report.html").exists()


def test_a_history_begins_where_it_is_asked_to(home: Path) -> None:
    path = runs.create(home / "results", builders.run(id="20260203-142233-9f3c1a"))
    runs.append(path, figure(finished="2026-02-03T14:30:00+00:00", device=builders.device(name="cpu")))
    words = ("history", "--device", "cpu", "--where", "resolution=256", "-m", "fastvit_t8")
    assert "2026-02-01" in call(*words, "-f", "csv", cwd=home).stdout
    assert "a history takes two runs" in refused(*words, "--since", "2026-02-02", cwd=home)
