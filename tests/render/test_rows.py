"""Rows read line by line from stores that may be larger than the memory."""

import gc
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.errors import StoreError
from fastvit_bench.records import Failure, Measurement
from fastvit_bench.render import rows
from fastvit_bench.store import runs as store_runs
from fastvit_bench.store.runs import Line, RunFile


def sized(size: int, minutes: float, **changes: object) -> Measurement:
    made = builders.artifact(shape=builders.shape(size), sha256=f"{size:064x}")
    return builders.measurement(artifact=made, finished=builders.at(minutes), **changes)


def failed(size: int, minutes: float) -> Failure:
    return builders.failure(cell=builders.cell(shape=builders.shape(size)), finished=builders.at(minutes))


def stored(root: Path, *runs: list[Line]) -> list[Path]:
    """A store of runs with these lines behind their first."""
    paths: list[Path] = []
    for number, lines in enumerate(runs):
        paths.append(store_runs.create(root, builders.run(id=f"20260131-14223{number}-9f3c1a")))
        for line in lines:
            store_runs.append(paths[-1], line)
    return paths


def test_a_store_is_read_as_its_files_are_collected(tmp_path: Path) -> None:
    other = builders.machine(os="Linux 6.2 x86_64")
    paths = stored(
        tmp_path,
        [sized(224, 1), failed(256, 2), failed(384, 2), sized(256, 3, machine=other)],
        [builders.run(id="20260131-142231-9f3c1a", machine=other), sized(256, 5), builders.tally()],
        [builders.reported(), builders.accuracy(), sized(224, 0), failed(224, 9)],
    )
    with paths[1].open("ab") as file:
        file.write(b'{"kind":"measurement","finished":"2026')  # a killed writer's
    files = [store_runs.read(path) for path in paths]
    found, counted, unreadable = rows.read(paths)
    assert unreadable == []
    assert builders.unpacked(found) == rows.collect(files)
    assert counted == [each for file in files for each in file.accuracies]
    assert len(found) == 3
    assert (
        sum(isinstance(cell, Failure) for row in found for cell in row.cells.values()) == 2
    )  # 384, and 224 of the last


def test_of_other_runs_only_accuracies_are_taken(tmp_path: Path) -> None:
    shown, other = stored(tmp_path, [sized(224, 1)], [sized(256, 2), builders.accuracy()])
    found, counted, _ = rows.read([shown], [shown, other])
    assert [list(row.cells.values()) for row in builders.unpacked(found)] == [[sized(224, 1)]]
    assert counted == [builders.accuracy()]


@pytest.mark.parametrize("damaged", [b'"samples_ns":[[-1', b'"clock":5', b'"macs":"many"'])
def test_damage_is_refused_in_what_a_newer_measurement_replaces(tmp_path: Path, damaged: bytes) -> None:
    """Nothing of line 2 would be shown; that it is damaged is still said, and where."""
    (path,) = stored(tmp_path, [sized(256, 1), sized(256, 2)])
    lines = path.read_bytes().split(b"\n")
    field = damaged.partition(b":")[0]
    before, _, after = lines[1].partition(field + b":")
    lines[1] = before + damaged + b"," + after.partition(b",")[2]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(StoreError, match="line 2: ") as refusal:
        rows.read([path])
    assert path.name in str(refusal.value)
    assert gc.isenabled()


def test_of_a_damaged_run_nothing_counts_and_the_others_do(tmp_path: Path) -> None:
    paths = stored(
        tmp_path,
        [sized(224, 1)],
        [sized(256, 2), builders.accuracy()],
        [sized(384, 3), builders.accuracy(), sized(512, 4)],
    )
    lines = paths[2].read_bytes().splitlines(keepends=True)
    paths[2].write_bytes(b"".join([*lines[:3], b"{}\n"]))
    found, counted, unreadable = rows.read(paths)
    assert builders.unpacked(found) == rows.collect(map(store_runs.read, paths[:2]))
    assert counted == [builders.accuracy()]
    assert len(unreadable) == 1
    assert f"{paths[2].name}, line 4: " in unreadable[0]
    assert rows.read(paths[:1], paths[1:])[1:] == ([builders.accuracy()], unreadable)


def test_lines_come_one_by_one(tmp_path: Path) -> None:
    (path,) = stored(tmp_path, [sized(256, 1)])
    path.write_bytes(path.read_bytes() + b"{}\n" + b"{torn")
    lines = store_runs.iterate_lines(path)
    assert [type(line).__name__ for line in itertools.islice(lines, 2)] == ["Run", "Measurement"]
    with pytest.raises(StoreError, match="line 3"):
        next(lines)


def test_measurements_that_are_replaced_are_not_held(tmp_path: Path) -> None:
    (path,) = stored(tmp_path, [])
    first, *_ = path.read_bytes().splitlines(keepends=True)
    lines = [msgspec.json.encode(sized(256, minutes)) + b"\n" for minutes in range(300)]
    path.write_bytes(first + b"".join(lines))

    def peak(read: Callable[[], object]) -> int:
        read()  # the first call imports and caches
        tracemalloc.start()
        try:
            read()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(lambda: rows.read([path])) < peak(lambda: rows.collect([store_runs.read(path)])) / 5


@given(st.lists(st.tuples(st.sampled_from([224, 256]), st.integers(0, 5), st.booleans(), st.booleans()), max_size=8))
def test_a_failure_stands_until_the_cell_succeeds_later(drawn: list[tuple[int, int, bool, bool]]) -> None:
    """Against the rule said plainly: per cell the newest line counts, of equal age a failure."""
    files: list[RunFile] = []
    for at, second in enumerate((False, True)):
        lines = [
            sized(size, minutes) if worked else failed(size, minutes)
            for size, minutes, worked, later in drawn
            if later is second
        ]
        run = builders.run(id=f"20260131-14223{at}-9f3c1a")
        files.append(RunFile(Path("x"), (run, *lines), 0))
    found = rows.collect(files)
    for size in (224, 256):
        told = [(builders.at(minutes), not worked) for each, minutes, worked, _ in drawn if each == size]
        cells = [row.cells[builders.shape(size)] for row in found if builders.shape(size) in row.cells]
        # a run without a success has a row of its own for its failures
        shown = max(((cell.finished, isinstance(cell, Failure)) for cell in cells), default=None)
        assert shown == max(told, default=None)


def test_containers_of_one_machine_share_a_row_without_a_host_name() -> None:
    first = builders.measurement()
    second = builders.measurement(
        artifact=builders.artifact(shape=builders.shape(224)), machine=builders.machine(host="c0ffee00")
    )
    (row,) = rows.gather([[builders.run(), first, second]])
    assert len(row.measured) == 2
    assert row.machine.host == ""
    (alone,) = rows.gather([[builders.run(), first]])
    assert alone.machine.host == "0f1e2d3c"


def test_only_packages_that_decide_a_figure_stand_beside_it() -> None:
    """A run of when the versions of every backend were recorded shares a row with a new one."""
    old = builders.measurement(machine=builders.machine(packages={"onnxruntime": "1.23.0", "torch": "2.9.0"}))
    new = builders.measurement(machine=builders.machine(packages={"onnxruntime": "1.23.0"}))
    (row,) = rows.gather([[builders.run(), old], [builders.run(), new]])
    assert row.machine.packages == {"onnxruntime": "1.23.0"}
