"""Run files as tables read them: what a reader gives is what the file holds, in less memory, at every reading.

So it is with the cache, whatever happened to it or to the file.
"""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import files
from fastvit_bench.errors import StoreError
from fastvit_bench.records import CallPattern, Measurement, Method, Statistic, Window
from fastvit_bench.render import row_table, rows
from fastvit_bench.store import cache, figures, runs
from fastvit_bench.store.runs import Line

_TIMES = st.integers(1, 10**15 - 1) | st.sampled_from([1, 2**32 - 1, 2**32, 10**15 - 1])
_ROUND = st.lists(_TIMES, min_size=3, max_size=50).map(tuple)
_VALUES: dict[str, Any] = {
    "samples_ns": st.lists(_ROUND, min_size=1, max_size=4).map(tuple),
    "method": st.sampled_from(
        [Method(), Method(processes=4), Method(statistic=Statistic.TRIMMED_MEAN, trim=1), Method(rounds=2)]
    ),
    "window": st.sampled_from(Window),
    "pacing": st.sampled_from(CallPattern),
    "artifact": st.sampled_from([builders.artifact(), builders.artifact(parity=None), builders.reported().artifact]),
    "machine": st.sampled_from([builders.machine(), builders.machine(packages={"onnxruntime": "1.0"})]),
    "parity": st.sampled_from([None, builders.artifact().parity]),
    "load_ns": st.lists(_TIMES, max_size=3).map(tuple),
    "reference_ns": st.lists(_TIMES, max_size=3).map(tuple),
    "best_reference_ns": st.none() | _TIMES,
}
_STATISTICS = ("figure_ms", "median_ms", "interval_ms", "warnings", "samples_ms", "p90_ms", "p99_ms", "mad_ms", "count")
MEASUREMENTS = st.fixed_dictionaries({}, optional=_VALUES).map(lambda changes: builders.measurement(**changes))


def unpacked(line: Line) -> Line:
    if not isinstance(line, Measurement):
        return line
    return msgspec.structs.replace(
        line, samples_ns=tuple(map(tuple, line.samples_ns)), reference_ns=tuple(line.reference_ns)
    )


@given(st.lists(MEASUREMENTS | st.builds(builders.accuracy) | st.builds(builders.failure), max_size=6))
def test_a_reader_gives_the_lines_of_the_file(tmp_path_factory: pytest.TempPathFactory, lines: list[Line]) -> None:
    path = tmp_path_factory.mktemp("store") / "20260131-142233-9f3c1a.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (builders.run(), *lines)))
    expected, reader = list(runs.iterate_lines(path)), figures.Reader()
    for _ in range(2):  # the second time its parts are known
        read = list(reader.lines(path))
        assert [unpacked(line) for line in read] == expected
        for line, plain in zip(read, expected, strict=True):
            if isinstance(line, Measurement):
                for name in _STATISTICS:
                    assert getattr(line, name) == getattr(plain, name)


@given(st.lists(st.integers(1000, 1120), min_size=20, max_size=60), st.booleans())
def test_a_drift_is_told_by_the_halves_alone(samples: list[int], ordered: bool) -> None:
    """The sorted samples say first whether there can be one; where they say no, there is none."""
    taken = tuple(sorted(samples) if ordered else samples)
    half = len(taken) // 2
    low, high = median(taken[:half]), median(taken[half:])
    warned = any("not steady" in warning for warning in builders.measurement(samples_ns=(taken,)).warnings)
    assert warned == (abs(high / low - 1) > 0.05)


def test_equal_parts_are_held_once_and_samples_take_four_bytes(tmp_path: Path) -> None:
    path = runs.create(tmp_path, builders.run())
    with path.open("ab") as file:
        for number in range(300):
            line = builders.measurement(finished=builders.at(number), samples_ns=(builders.samples(count=100),))
            file.write(msgspec.json.encode(line) + b"\n")

    def held(read: Any) -> int:
        tracemalloc.start()
        lines = list(read(path))
        assert len(lines) == 301
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return used

    reader = figures.Reader()
    list(reader.lines(path))
    assert held(reader.lines) < held(runs.iterate_lines) / 4
    first, second = list(reader.lines(path))[1:3]
    assert isinstance(first, Measurement)
    assert isinstance(second, Measurement)
    assert first.artifact is second.artifact


@pytest.mark.parametrize("damaged", [b'"trim":"x"', b'"cores":-1.5', b'"clock":5', b"\xff"])
def test_damage_in_a_shared_part_is_named_as_anywhere(tmp_path: Path, damaged: bytes) -> None:
    path = runs.create(tmp_path, builders.run())
    runs.append(path, builders.measurement())
    name = damaged.partition(b":")[0]
    before, found, after = path.read_bytes().rpartition(name if b":" in damaged else b'"clock"')
    assert found
    path.write_bytes(before + damaged + b"," + after.partition(b",")[2])
    with pytest.raises(StoreError) as plain:
        list(runs.iterate_lines(path))
    with pytest.raises(StoreError) as shared:
        list(figures.Reader().lines(path))
    assert str(shared.value) == str(plain.value)


def test_a_run_of_another_schema_is_refused_as_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "20260131-142233-9f3c1a.jsonl"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(builders.run(), schema=2)) + b"\n")
    with pytest.raises(StoreError, match="has schema 2"):
        list(figures.Reader().lines(path))


# --- with the cache ---------------------------------------------------------------------------------------------------


@contextmanager
def used(folder: Path) -> Generator[None]:
    """Use a cache in a folder, also for small files, and for such as were just written."""
    with (
        mock.patch.dict(os.environ, {files.CACHE_VARIABLE: str(folder)}),
        mock.patch.object(figures, "WORTH", 0),
        mock.patch.object(figures, "SETTLED_NS", 0),
    ):
        yield


def store(folder: Path, lines: list[Line], digits: str = "9f3c1a") -> Path:
    path = folder / f"20260131-142233-{digits}.jsonl"
    run = builders.run(id=path.stem)
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (run, *lines)))
    return path


def read(*paths: Path) -> list[list[Line]]:
    return [[unpacked(line) for line in file.lines] for file in figures.read_all(paths)[0]]


def from_cache_alone(*paths: Path) -> list[list[Line]]:
    with mock.patch.object(runs, "iterate_lines", side_effect=AssertionError("the file was read")):
        return read(*paths)


def warm(folder: Path) -> Path:
    """A file that the cache in `folder` knows."""
    path = store(folder, [builders.measurement(finished=builders.at(number)) for number in range(3)])
    expected = read(path)
    assert from_cache_alone(path) == expected
    return path


@given(st.lists(MEASUREMENTS | st.builds(builders.accuracy) | st.builds(builders.failure), max_size=6))
def test_the_cache_changes_nothing(tmp_path_factory: pytest.TempPathFactory, lines: list[Line]) -> None:
    folder = tmp_path_factory.mktemp("store")
    path = store(folder, lines)
    plain = list(runs.iterate_lines(path))
    tables = [row_table.csv(rows.gather([plain])), row_table.json(rows.gather([plain]))]
    with used(folder / "cache"):
        assert read(path) == [plain]
        assert from_cache_alone(path) == [plain]
        (file,), _ = figures.read_all([path])
        assert [row_table.csv(rows.collect([file])), row_table.json(rows.collect([file]))] == tables
        for line, known in zip(plain, file.lines, strict=True):
            if isinstance(line, Measurement):
                for name in _STATISTICS:
                    assert getattr(known, name) == getattr(line, name)


def test_a_file_that_changed_in_nothing_but_its_content_is_read_again(tmp_path: Path) -> None:
    with used(tmp_path):
        path = warm(tmp_path)
        before, text = path.stat(), path.read_bytes()
        changed = text.replace(b"10.", b"20.") if b"10." in text else text.replace(b"2026-01-31", b"2026-01-30")
        assert changed != text
        path.write_bytes(changed)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        assert read(path) == [list(runs.iterate_lines(path))]


def test_another_file_of_the_same_size_and_time_in_its_place_is_read(tmp_path: Path) -> None:
    with used(tmp_path):
        path = warm(tmp_path)
        other = tmp_path / "other"
        other.write_bytes(path.read_bytes().replace(b"2026-01-31", b"2026-01-30"))
        os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        other.replace(path)
        assert read(path) == [list(runs.iterate_lines(path))]


def test_lines_and_runs_that_are_added_are_seen(tmp_path: Path) -> None:
    with used(tmp_path):
        path = warm(tmp_path)
        runs.append(path, builders.measurement(finished=builders.at(9)))
        other = store(tmp_path, [builders.measurement()], digits="aaaaaa")
        assert read(path, other) == [list(runs.iterate_lines(path)), list(runs.iterate_lines(other))]


def test_a_file_that_just_changed_is_not_cached(tmp_path: Path) -> None:
    with used(tmp_path), mock.patch.object(figures, "SETTLED_NS", 10**12):
        path = store(tmp_path, [builders.measurement()])
        assert read(path)
        with pytest.raises(AssertionError, match="the file was read"):
            from_cache_alone(path)


def test_a_line_that_is_added_while_reading_is_seen_by_the_next_call(tmp_path: Path) -> None:
    path = store(tmp_path, [builders.measurement()])

    def grows(lines: Iterator[Line]) -> Iterator[Line]:
        yield from lines
        runs.append(path, builders.measurement(finished=builders.at(9)))

    with used(tmp_path):
        figures.read_all([path], grows)  # type: ignore[arg-type]
        assert read(path) == [list(runs.iterate_lines(path))]
        assert len(read(path)[0]) == 3


def test_a_damaged_run_says_the_same_every_time(tmp_path: Path) -> None:
    path = store(tmp_path, [builders.measurement()])
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(StoreError) as plain:
        list(runs.iterate_lines(path))
    with used(tmp_path):
        for _ in range(2):
            with pytest.raises(StoreError) as cached:
                read(path)
            assert str(cached.value) == str(plain.value)


@given(st.data())
def test_a_damaged_cache_changes_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("store")
    with used(folder):
        path = warm(folder)
        content = bytearray(cache.path().read_bytes())
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=40)) if content else ():
            content[at] ^= data.draw(st.integers(1, 255))
        cache.path().write_bytes(content)
        expected = [list(runs.iterate_lines(path))]
        for _ in range(3):
            assert read(path) == expected


def test_a_cache_that_is_no_database_is_begun_anew(tmp_path: Path) -> None:
    with used(tmp_path):
        path = warm(tmp_path)
        cache.path().write_bytes(b"no database at all " * 1000)
        expected = read(path)  # removes it
        read(path)
        assert from_cache_alone(path) == expected


def test_values_of_another_version_are_not_used(tmp_path: Path) -> None:
    with used(tmp_path):
        path = warm(tmp_path)
        for version in (b"another", b"this one"):
            with mock.patch.object(figures, "program", lambda version=version: version):
                with pytest.raises(AssertionError, match="the file was read"):
                    from_cache_alone(path)
                assert read(path) == [list(runs.iterate_lines(path))]


def test_a_folder_that_takes_no_cache_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = store(tmp_path, [builders.measurement()])
    expected = [list(runs.iterate_lines(path))]
    for folder in (tmp_path / "file" / "inside", Path("/dev/null"), Path("/proc/none")):
        with used(folder):
            assert read(path) == read(path) == expected


def test_a_cache_that_is_locked_changes_nothing(tmp_path: Path) -> None:
    import sqlite3

    with used(tmp_path), mock.patch.object(cache, "WAIT_S", 0.0):
        path = warm(tmp_path)
        other = sqlite3.connect(cache.path(), isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        runs.append(path, builders.measurement(finished=builders.at(9)))
        expected = [list(runs.iterate_lines(path))]
        assert read(path) == expected
        other.execute("COMMIT")
        assert read(path) == expected
        assert from_cache_alone(path) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_became_read_only_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    with used(folder):
        path = warm(tmp_path)
        folder.chmod(0o500)
        cache.path().chmod(0o400)
        expected = [list(runs.iterate_lines(path))]
        assert from_cache_alone(path) == expected
        runs.append(path, builders.measurement(finished=builders.at(9)))
        assert read(path) == read(path) == [list(runs.iterate_lines(path))]


_PROGRAM = """
import sys, pathlib
from fastvit_bench.store import figures
figures.WORTH = figures.SETTLED_NS = 0
paths = sorted(pathlib.Path(sys.argv[1]).glob("*.jsonl"))
for _ in range(5):
    print(hash(tuple(len(file.lines) for file in figures.read_all(paths)[0])))
"""


def test_processes_that_write_at_once_leave_a_cache_that_is_whole(tmp_path: Path) -> None:
    paths = [store(tmp_path, [builders.measurement()] * at, digits=f"{at:06x}") for at in range(1, 40)]
    environment = {**os.environ, files.CACHE_VARIABLE: str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    with used(tmp_path):
        assert from_cache_alone(*paths) == [list(runs.iterate_lines(path)) for path in paths]


def test_a_full_cache_is_begun_anew(tmp_path: Path) -> None:
    with used(tmp_path), mock.patch.object(cache, "MOST_BYTES", 0):
        first = warm(tmp_path)
        second = store(tmp_path, [builders.measurement()], digits="aaaaaa")
        read(second)
        assert from_cache_alone(second)
        with pytest.raises(AssertionError, match="the file was read"):
            from_cache_alone(first)


def test_few_figures_need_no_cache(tmp_path: Path) -> None:
    with used(tmp_path), mock.patch.object(figures, "WORTH", 1 << 20):
        read(store(tmp_path, [builders.measurement()]))
        assert not cache.path().exists()
