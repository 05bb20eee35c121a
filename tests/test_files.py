"""Opening, writing and sweeping: nothing but regular files is read, nothing half written stays, nothing in use goes."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import files
from fastvit_bench.errors import UsageError


def test_only_regular_files_of_bounded_size_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("large")
    for name in ("pipe", "zero", ".", "nowhere", "x" * 5000, "a\0b"):
        with pytest.raises(OSError, match=r"\S") as caught:
            files.read_bytes(tmp_path / name)
        assert caught.value.strerror
    with pytest.raises(OSError, match="100 bytes, more than the 99 allowed"):
        files.read_bytes(tmp_path / "large", 99)
    assert files.read_bytes(tmp_path / "link", 100) == b"x" * 100
    assert not files.exists(tmp_path / ("x" * 5000))
    assert not files.exists(Path("a\0b"))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs a file that does not tell its size")
def test_a_file_that_does_not_tell_its_size_is_bounded_too() -> None:
    assert Path("/proc/self/environ").stat().st_size == 0
    with pytest.raises(OSError, match="more than the 3 bytes"):
        files.read_bytes(Path("/proc/self/environ"), 3)


def test_a_link_in_a_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p" / "inner").mkdir(parents=True)
    (tmp_path / "p" / "inner" / "a").write_text("a")
    before = files.sha256(tmp_path / "p")
    (tmp_path / "elsewhere").mkdir()
    for target in (tmp_path / "elsewhere", tmp_path / "p" / "inner" / "a"):
        link = tmp_path / "p" / "link"
        link.symlink_to(target)
        for read in (files.sha256, files.size_bytes):
            with pytest.raises(OSError, match="link in it is a link"):
                read(tmp_path / "p")
        link.unlink()
    assert files.sha256(tmp_path / "p") == before


@given(st.text(max_size=300))
def test_a_part_of_a_path_stays_in_its_folder(name: str) -> None:
    if files.is_part(name):
        assert Path("folder", name).parent == Path("folder")
        assert Path("folder", name).resolve().parent == Path("folder").resolve()
        assert name.isprintable()
    else:
        assert not name or len(name) > 200 or not name.isalnum() or len(name.encode()) > 240


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "a\n", "C:", "x" * 201, "*", "é" * 150]
)
def test_what_is_no_part_of_a_path(name: str) -> None:
    assert not files.is_part(name)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    files.write(path, b"one")
    files.write(path, b"two")
    assert path.read_bytes() == b"two"

    def refused(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"three")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match=r"\S"):
        files.write(tmp_path / "a", b"x")
    assert (tmp_path / "a" / "b").is_dir()


def test_outputs_replace_neither_inputs_nor_files_of_others(tmp_path: Path) -> None:
    source, other, own = tmp_path / "in", tmp_path / "other", tmp_path / "own"
    source.write_bytes(files.MARK)
    other.write_bytes(b"mine")
    own.write_bytes(b"<!-- " + files.MARK + b" -->")
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    for name in ("in", "link", "hard", "./in", "../" + tmp_path.name + "/in"):
        for force in (False, True):
            with pytest.raises(UsageError, match="is the file that is read"):
                files.check_output(tmp_path / name, inputs=[source], force=force)
    with pytest.raises(UsageError, match=r"was not written by fastvit-bench.*--force"):
        files.check_output(other, inputs=[source])
    with pytest.raises(UsageError, match="is a folder"):
        files.check_output(tmp_path, inputs=[source], force=True)
    files.check_output(other, inputs=[source], force=True)
    files.check_output(own, inputs=[source])
    files.check_output(tmp_path / "new", inputs=[source, tmp_path / "nowhere"])


# --- temporary folders ------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from contextlib import AbstractContextManager
from pathlib import Path
from fastvit_bench import files
with files.temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "draft").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


def holder(place: Path) -> "tuple[subprocess.Popen[str], Path]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_folders_of_killed_processes_go_and_those_in_use_stay(tmp_path: Path) -> None:
    """A live process is known by its lock, even where its id means nobody, as in another container."""
    killed, abandoned = holder(tmp_path)
    live, used = holder(tmp_path)
    try:
        killed.kill()
        killed.wait()
        assert abandoned.is_dir()
        files._swept.discard(tmp_path)
        with files.temporary_folder(tmp_path) as own:
            assert own.is_dir()
            assert not abandoned.exists()
            assert (used / "draft").read_text() == "half"
        assert sorted(tmp_path.iterdir()) == [used]
    finally:
        live.kill()
        live.wait()


def test_a_folder_without_a_lock_goes_when_it_is_old(tmp_path: Path) -> None:
    young, old, other = (tmp_path / name for name in (f"{files.PREFIX}a", f"{files.PREFIX}b", "b"))
    for folder in (young, old, other):
        folder.mkdir()
        (folder / "draft").touch()
    for folder in (old, other):
        os.utime(folder, (time.time() - 200_000,) * 2)
    files.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [other, young]


def test_an_empty_folder_goes_at_once_and_its_process_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption may come between the folder and its lock."""
    (tmp_path / f".{files.PREFIX}a").mkdir()
    begun = files.in_use

    def late(folder: Path) -> AbstractContextManager[None]:
        monkeypatch.setattr(files, "in_use", begun)
        monkeypatch.setattr(files, "_swept", set[Path]())
        files.sweep(tmp_path)  # by another process, before this one has its lock
        return begun(folder)

    with files.temporary_folder(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(files, "in_use", late)
    with files.temporary_folder(tmp_path) as folder:
        (folder / "draft").touch()
    assert not list(tmp_path.iterdir())


def test_what_goes_wrong_in_a_temporary_folder_is_raised_and_the_folder_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), files.temporary_folder(tmp_path) as folder:
        raise BlockingIOError(folder)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def without(self: object, timeout: float) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    monkeypatch.setattr(files, "_swept", set[Path]())
    with files.temporary_folder(tmp_path) as folder:
        monkeypatch.setattr(files, "_swept", set[Path]())
        files.sweep(tmp_path)  # by another process
        assert folder.is_dir()
        assert not files.is_abandoned(folder, 86_400)
    assert not list(tmp_path.iterdir())


def test_temporary_files_of_this_process_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("TEMP", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with files.temporary_files_apart():
        litter = Path(tempfile.mkdtemp())
        assert litter.parent.parent == tmp_path
        assert os.environ["TEMP"] == str(litter.parent)
    assert not list(tmp_path.iterdir())
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(tmp_path)
    assert "TEMP" not in os.environ
