"""Run files as tables read them: what a reader gives is what the file holds, in less memory, at every reading."""

import tracemalloc
from pathlib import Path
from statistics import median
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.errors import StoreError
from fastvit_bench.records import CallPattern, Measurement, Method, Statistic, Window
from fastvit_bench.store import figures, runs
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
