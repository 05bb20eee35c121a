import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import builders
import jsonschema
import msgspec
import pytest

from fastvit_bench.errors import StoreError, UnavailableError
from fastvit_bench.records import SCHEMA
from fastvit_bench.store import documents, figures, peaks, runs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run of two measurements and a failure."""
    file = runs.create(tmp_path, builders.run())
    runs.append(file, builders.measurement(artifact=builders.artifact(shape=builders.shape(224))))
    runs.append(file, builders.failure())
    runs.append(file, builders.measurement(finished=builders.at(3)))
    return file


# --- ids and new files ------------------------------------------------------------------------------------------------


def test_ids_sort_by_time_and_differ_within_a_second() -> None:
    moment = datetime(2026, 1, 31, 14, 22, 33, tzinfo=UTC)
    ids = {runs.new_id(moment) for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"20260131-142233-[0-9a-f]{6}", each) for each in ids)
    assert max(ids) < runs.new_id(moment + timedelta(seconds=1))


def test_ids_are_in_utc() -> None:
    east = datetime(2026, 2, 1, 1, 0, 0, tzinfo=timezone(timedelta(hours=9)))
    assert runs.new_id(east).startswith("20260131-160000-")


def test_a_new_file_holds_its_run_and_lies_under_its_device(tmp_path: Path) -> None:
    run = builders.run()
    path = runs.create(tmp_path / "new" / "results", run)
    assert path == tmp_path / "new" / "results" / "cpu" / f"{run.id}.jsonl"
    assert runs.read(path) == runs.RunFile(path=path, lines=(run,), torn_bytes=0)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    path = runs.create(tmp_path, builders.run())
    before = path.read_bytes()
    with pytest.raises(StoreError, match="already exists"):
        runs.create(tmp_path, builders.run(tool="9.9"))
    assert path.read_bytes() == before


def test_of_two_creators_one_wins(tmp_path: Path) -> None:
    def attempt(tool: str) -> bool:
        try:
            runs.create(tmp_path, builders.run(tool=tool))
        except StoreError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, map(str, range(8))))
    assert won.count(True) == 1
    (file,) = runs.all_runs(tmp_path)
    assert runs.read(file).runs[0].tool == str(won.index(True))


@pytest.mark.parametrize("name", ["published", "..", "a/b", "", ".hidden", "a b", "é"])
def test_a_device_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    run = builders.run(request=builders.request(device=builders.device(name=name)))
    with pytest.raises(StoreError, match="cannot be a folder"):
        runs.create(tmp_path, run)
    with pytest.raises(StoreError, match="cannot be a folder"), runs.lock(tmp_path, name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cpu").touch()
    with pytest.raises(StoreError, match=r"cannot be created|already exists"):
        runs.create(tmp_path, builders.run())


def test_nothing_is_left_of_a_file_that_could_not_be_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", _disk_takes(20))
    with pytest.raises(StoreError, match="disk is full"):
        runs.create(tmp_path, builders.run())
    assert list((tmp_path / "cpu").iterdir()) == []


# --- appending --------------------------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back_in_order(path: Path) -> None:
    file = runs.read(path)
    assert [type(line).__name__ for line in file.lines] == ["Run", "Measurement", "Failure", "Measurement"]
    assert file.lines[3] == builders.measurement(finished=builders.at(3))
    assert (len(file.runs), len(file.measurements), len(file.failures)) == (1, 2, 1)
    assert file.torn_bytes == 0


def test_a_line_is_one_write_followed_by_a_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    write, sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: (calls.append("write"), write(fd, data))[1])
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), sync(fd))[1])
    runs.append(path, builders.failure())
    assert calls == ["write", "fsync"]


def _disk_takes(count: int) -> Callable[[int, bytes], int]:
    write = os.write
    return lambda descriptor, data: write(descriptor, data[:count])


def _disk_is_full(descriptor: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", [_disk_takes(0), _disk_takes(1), _disk_takes(700), _disk_is_full])
def test_a_line_that_does_not_fit_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[int, bytes], int]
) -> None:
    before = path.read_bytes()
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", fault)
        with pytest.raises(StoreError, match="All earlier lines are kept"):
            runs.append(path, builders.measurement())
    assert path.read_bytes() == before
    runs.append(path, builders.measurement())
    assert len(runs.read(path).measurements) == 3


def test_an_interrupted_write_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.append(path, builders.measurement())
    assert path.read_bytes() == before


def test_a_lost_file_or_folder_is_an_error_and_is_not_made_again(path: Path) -> None:
    path.unlink()
    with pytest.raises(StoreError, match="cannot be written"):
        runs.append(path, builders.failure())
    assert not path.exists()


def test_nothing_is_glued_to_an_unfinished_line(path: Path) -> None:
    torn = path.read_bytes()[:-10]
    path.write_bytes(torn)
    with pytest.raises(StoreError, match="ends in an unfinished line"):
        runs.append(path, builders.failure())
    assert path.read_bytes() == torn
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="ends in an unfinished line"):
        runs.append(path, builders.failure())


def test_writers_that_take_turns_by_the_lock_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = runs.create(tmp_path, builders.run())
    each = [builders.measurement(artifact=builders.artifact(shape=builders.shape(32 * (i + 7)))) for i in range(4)]
    met = threading.Event()

    def write(index: int) -> int:
        written = refused = 0
        while written < 10:
            try:
                with runs.lock(tmp_path, "cpu"):
                    runs.append(path, each[index])
                    written += 1
            except UnavailableError:
                refused += 1
                met.set()
            time.sleep(0.001 * index)
        return refused

    with ThreadPoolExecutor(4) as pool:
        with runs.lock(tmp_path, "cpu"):
            writers = [pool.submit(write, index) for index in range(4)]
            assert met.wait(60)
            assert runs.read(path).measurements == []
        refused = [writer.result() for writer in writers]
    found = runs.read(path).measurements
    assert [found.count(measurement) for measurement in each] == [10] * 4
    assert sum(refused) > 0


def test_a_second_writer_without_the_lock_is_refused_while_a_line_is_half_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a write that shows in two steps, and another writer in between; neither line is damaged."""
    write = os.write
    outcome: list[str] = []

    def slow(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        write(descriptor, data[:50])
        with pytest.raises(StoreError) as refusal:
            runs.append(path, builders.failure())
        outcome.append(str(refusal.value))
        return 50 + write(descriptor, data[50:])

    monkeypatch.setattr(os, "write", slow)
    runs.append(path, builders.measurement(finished=builders.at(4)))
    assert "ends in an unfinished line" in outcome[0]
    assert runs.read(path).lines[-1] == builders.measurement(finished=builders.at(4))


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_in_its_last_line_reads_without_that_line(path: Path) -> None:
    whole = path.read_bytes()
    lines = runs.read(path).lines
    begin = whole[:-1].rindex(b"\n") + 1
    for end in reversed(range(begin, len(whole))):
        os.truncate(path, end)
        file = runs.read(path)
        assert file.lines == lines[:-1]
        assert file.torn_bytes == end - begin


def test_reopening_cuts_the_unfinished_line_off_at_every_offset(path: Path) -> None:
    whole = path.read_bytes()
    begin = whole[:-1].rindex(b"\n") + 1
    last = runs.read(path).lines[-1]
    for end in range(begin, len(whole), 29):
        path.write_bytes(whole[:end])
        file = runs.reopen(path)
        assert file.torn_bytes == 0
        assert path.read_bytes() == whole[:begin]
        runs.append(path, last)
        assert path.read_bytes() == whole


def test_reopening_leaves_a_sound_file_and_a_damaged_one_as_they_are(path: Path) -> None:
    whole = path.read_bytes()
    assert runs.reopen(path) == runs.read(path)
    assert path.read_bytes() == whole
    damaged = whole.replace(b'"kind":"failure"', b'"kind":"failed"') + b"{torn"
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match="line 3"):
        runs.reopen(path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("number", "old", "new", "reason"),
    [
        (2, b'"window":"compute"', b'"window":"comp"', "window"),
        (2, b'"steal_percent":0.0', b'"steal_percent":NaN', "malformed"),
        (2, b'"steal_percent":0.0', b'"steal_percent":Infinity', "malformed"),
        (2, b'"steal_percent":0.0', b'"steal_percent":1e999', "out of range"),
        (2, b'"clock":', b'"color":"red","clock":', "color"),
        (2, b'"clock":"time.perf_counter_ns",', b"", "clock"),
        (2, b'"kind":"measurement"', b'"kind":"guess"', "guess"),
        (2, b'"samples_ns":[[', b'"samples_ns":[[0,', "Expected 'int' >= 1"),
        (2, b'"samples_ns":[[', b'"samples_ns":[[-5,', "Expected 'int' >= 1"),
        (2, b'"samples_ns":[[', b'"samples_ns":[[1.5,', "int"),
        (2, b'"samples_ns":[[', b'"samples_ns":[[],[', "Expected 'array' of length >= 1"),
        (3, b'{"kind"', b'"kind"', "Expected 'object'"),
        (3, b"{", b"\xff{", "malformed"),
        (3, b'"reason":"the', b'"reason":"the\xff', "UTF-8|utf-8|invalid"),
        (3, b'"stage":', b'"stage"', "malformed"),
        (4, b'"measurement"', b'"measure', ""),
    ],
)
def test_any_other_damage_names_the_line_and_what_to_do(
    path: Path, number: int, old: bytes, new: bytes, reason: str
) -> None:
    lines = path.read_bytes().split(b"\n")
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        StoreError, match=f"(?s){re.escape(path.name)}, line {number}: .*({reason}).*remove it and meas"
    ):
        runs.read(path)


def test_a_cut_in_the_middle_is_damage_not_an_unfinished_line(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:100]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(StoreError, match="line 2"):
        runs.read(path)


def test_a_measurement_without_any_round_is_refused(tmp_path: Path) -> None:
    path = runs.create(tmp_path, builders.run())
    runs.append(path, builders.measurement(samples_ns=()))
    with pytest.raises(StoreError, match=r"line 2: .*Expected 'array' of length >= 1"):
        runs.read(path)


@pytest.mark.parametrize("content", [b"", b'{"kind":"run","schema":1'])
def test_a_file_without_a_complete_line_is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match="no complete line"):
        runs.read(path)


def test_a_blank_line_is_damage(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(StoreError, match="line 5"):
        runs.read(path)


def test_a_file_must_begin_with_its_run(path: Path) -> None:
    _, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rest))
    with pytest.raises(StoreError, match="line 1: a run file begins with its run, not with a measurement"):
        runs.read(path)


@pytest.mark.parametrize(("schema", "writer"), [(SCHEMA + 1, "newer"), (SCHEMA - 1, "older")])
def test_another_schema_is_told_from_damage(path: Path, schema: int, writer: str) -> None:
    first, *rest = path.read_bytes().splitlines(keepends=True)
    other = first.replace(f'"schema":{SCHEMA}'.encode(), f'"schema":{schema},"news":true'.encode())
    path.write_bytes(b"".join([other, *rest]))
    with pytest.raises(StoreError, match=f"line 1: has schema {schema}, this version reads {SCHEMA}.*{writer}"):
        runs.read(path)
    path.write_bytes(b"".join([other.replace(b',"news":true', b""), *rest]))
    with pytest.raises(StoreError, match=f"has schema {schema}"):
        runs.read(path)


def test_a_resumed_run_appends_itself_and_a_foreign_run_is_refused(path: Path) -> None:
    again = builders.run(started=builders.at(9), commit="fedcba9")
    runs.append(path, again)
    assert runs.read(path).runs == [builders.run(), again]
    runs.append(path, builders.run(id="20260131-999999-000000"))
    with pytest.raises(StoreError, match="line 6: belongs to run 20260131-999999-000000"):
        runs.read(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        runs.read(tmp_path / "none.jsonl")
    with pytest.raises(StoreError, match="cannot be read"):
        runs.read(tmp_path)


# --- killed processes -------------------------------------------------------------------------------------------------

WRITER = """
    import sys
    sys.path[:0] = {path!r}
    import builders
    from pathlib import Path
    from fastvit_bench.store import runs
    root = Path({root!r})
    with runs.lock(root, "cpu"):
        path = runs.create(root, builders.run())
        line = builders.measurement()
        print("started", flush=True)
        while True:
            runs.append(path, line)
"""


@pytest.mark.parametrize("delay_ms", [0, 3, 10, 31])
def test_a_killed_writer_leaves_a_readable_file_and_no_lock(tmp_path: Path, delay_ms: int) -> None:
    code = textwrap.dedent(WRITER).format(path=sys.path, root=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"started\n"
        with pytest.raises(UnavailableError, match="Another sweep is measuring on 'cpu'"), runs.lock(tmp_path, "cpu"):
            pass
        time.sleep(delay_ms / 1000)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    (path,) = runs.all_runs(tmp_path)
    with runs.lock(tmp_path, "cpu"):
        file = runs.reopen(path)
        assert all(found == builders.measurement() for found in file.measurements)
        runs.append(path, builders.failure())
    assert len(runs.read(path).lines) == len(file.lines) + 1


def test_the_lock_is_per_device_and_comes_back_after_an_error(tmp_path: Path) -> None:
    with runs.lock(tmp_path, "cpu"):
        with runs.lock(tmp_path, "gpu"):
            pass
        with pytest.raises(UnavailableError), runs.lock(tmp_path, "cpu"):
            pass
    with pytest.raises(ZeroDivisionError), runs.lock(tmp_path, "cpu"):
        _ = 1 / 0
    with runs.lock(tmp_path, "cpu"):
        pass


def test_a_lock_file_left_behind_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / ".lock").write_text("424242", encoding="utf-8")
    with runs.lock(tmp_path, "cpu"):
        pass
    assert runs.all_runs(tmp_path) == []


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, identity in [
        ("gpu", "20260201-080000-aaaaaa"),
        ("cpu", "20260131-142233-9f3c1a"),
        ("cpu", "20260131-142233-9f3c1b"),
    ]:
        device = builders.device(name=name)
        runs.create(tmp_path, builders.run(id=identity, request=builders.request(device=device)))
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "20990101-000000-ffffff.jsonl").touch()
    (tmp_path / "cpu" / ".20990101-000000-ffffff.partial").touch()
    (tmp_path / "cpu" / "notes.txt").touch()
    return tmp_path


def test_all_runs_are_sorted_by_time_without_published_and_foreign_files(root: Path) -> None:
    assert [file.stem for file in runs.all_runs(root)] == [
        "20260131-142233-9f3c1a",
        "20260131-142233-9f3c1b",
        "20260201-080000-aaaaaa",
    ]
    assert runs.all_runs(root / "nowhere") == []


@pytest.mark.parametrize("ref", ["last", "20260201-080000-aaaaaa", "20260201", "202602"])
def test_a_run_is_found_by_last_id_and_prefix(root: Path, ref: str) -> None:
    assert runs.find(root, ref) == [root / "gpu" / "20260201-080000-aaaaaa.jsonl"]


def test_a_run_is_found_by_path_and_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "cpu" / "20260131-142233-9f3c1a.jsonl"
    assert runs.find(root, str(file)) == [file]
    assert [found.stem[-1] for found in runs.find(root, f"{root}/cpu")] == ["a", "b"]
    monkeypatch.chdir(root / "cpu")
    assert runs.find(root, file.name) == [Path(file.name)]


def test_an_id_that_is_the_beginning_of_another_means_itself(root: Path) -> None:
    runs.create(root, builders.run(id="20260131-142233-9f3c1"))
    assert runs.find(root, "20260131-142233-9f3c1") == [root / "cpu" / "20260131-142233-9f3c1.jsonl"]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("20260131-142233-9f3c2a", "Nearest: .*20260131-142233-9f3c1a"),
        ("zzz", "Nearest: 20260201-080000-aaaaaa, "),
        ("", "Nearest: "),
        ("20260131", "fits 2 runs: 20260131-142233-9f3c1a .cpu., 20260131-142233-9f3c1b .cpu.. Write more"),
        ("nowhere/run.jsonl", "There is no run file"),
        ("run.jsonl", "There is no run file"),
    ],
)
def test_a_ref_that_means_no_run_or_several_is_an_error(root: Path, ref: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        runs.find(root, ref)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run files"):
        runs.find(tmp_path, f"{tmp_path}/")
    with pytest.raises(StoreError, match="no runs under"):
        runs.find(tmp_path, "last")


# --- schema -----------------------------------------------------------------------------------------------------------


def test_the_schema_accepts_every_line_and_refuses_what_the_reader_refuses(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(runs.json_schema())
    validator.check_schema(runs.json_schema())
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    for line in lines:
        validator.validate(line)
    for wrong in (
        {**lines[1], "samples_ns": [[0]]},
        {**lines[1], "samples_ns": [[]]},
        {**lines[1], "samples_ns": []},
        {**lines[1], "extra": 1},
        {**lines[1], "kind": "guess"},
        {key: value for key, value in lines[1].items() if key != "clock"},
        {},
    ):
        assert not validator.is_valid(wrong)
    assert runs.json_schema()["$id"] == f"urn:fastvit-bench:run-file-line:{SCHEMA}"


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf")])
def test_a_run_that_could_not_be_read_again_is_never_begun(tmp_path: Path, timeout_s: float) -> None:
    with pytest.raises(StoreError, match="could not be read again"):
        runs.create(tmp_path, builders.run(request=builders.request(timeout_s=timeout_s)))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_creator_left_does_not_take_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _killed)
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        with pytest.raises(KeyboardInterrupt):
            runs.create(tmp_path, builders.run())
    assert runs.all_runs(tmp_path) == []
    assert runs.read(runs.create(tmp_path, builders.run())).lines == (builders.run(),)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_without_links_a_run_is_created_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    test_of_two_creators_one_wins(tmp_path)


def test_of_several_files_the_readable_ones_are_read_and_the_others_named(path: Path) -> None:
    broken = path.with_name("broken.jsonl")
    broken.write_text("{}\n", encoding="utf-8")
    files, faults = figures.read_all([broken, path])
    assert [(file.path, len(file.lines)) for file in files] == [(path, len(runs.read(path).lines))]
    assert len(faults) == 1
    assert "broken.jsonl, line 1" in faults[0]
    assert figures.read_all([]) == ([], [])
    with pytest.raises(StoreError, match=r"broken\.jsonl, line 1"):
        figures.read_all([broken, path.with_name("absent.jsonl")])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_no_reader_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.jsonl", "b.jsonl"):
        assert runs.find(tmp_path, str(tmp_path / name)) == [tmp_path / name]
        with pytest.raises(StoreError, match="no regular file"):
            runs.read(tmp_path / name)
        with pytest.raises(StoreError, match="no regular file"):
            documents.read(tmp_path / name, documents.PEAKS)


@pytest.mark.parametrize("ref", ["x" * 5000, "x" * 5000 + ".jsonl", "a/" + "x" * 5000, "a\0.jsonl", "a\0"])
def test_a_ref_that_no_file_can_have_is_one_sentence(root: Path, ref: str) -> None:
    with pytest.raises(StoreError):
        runs.find(root, ref)


def test_a_line_has_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_LONGEST", 100)
    with pytest.raises(StoreError, match="line 1: is longer than 100 bytes"):
        runs.read(path)


def test_a_document_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    peak = builders.peak()
    wrong = msgspec.structs.replace(peak, memory=msgspec.structs.replace(peak.memory, best_ns=(0,)))
    with pytest.raises(StoreError, match="is not written, since it could not be read again"):
        peaks.save([wrong], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert peaks.load(peaks.save([peak], tmp_path).parent) == (peak,)
