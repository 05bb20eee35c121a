"""The lock of a machine: users with caches of their own take turns, and what others leave at its path harms nobody."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastvit_bench import files
from fastvit_bench.errors import UnavailableError
from fastvit_bench.fleet import machine_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other locks")

HOLDER = """
import sys
from fastvit_bench.fleet import machine_lock
with machine_lock.measuring(sys.argv[1], apart=sys.argv[2] == "apart"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(machine_lock.LOCKS_VARIABLE, str(tmp_path))
    return tmp_path


class Holder:
    """Another process that keeps the machine, with a cache of its own."""

    def __init__(self, device: str, mode: str, cache: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, device, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, files.CACHE_VARIABLE: str(cache)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Taker(threading.Thread):
    """A thread of this process that wants the machine, and says when it has it."""

    def __init__(self, device: str, *, apart: bool) -> None:
        super().__init__(daemon=True)
        self.device, self.apart, self.has_it = device, apart, threading.Event()
        self.start()

    def run(self) -> None:
        with machine_lock.measuring(self.device, apart=self.apart):
            self.has_it.set()


@pytest.mark.parametrize(
    ("holds", "wants", "beside"),
    [
        (("a", "shared"), ("b", False), False),  # one machine, two caches
        (("a", "apart"), ("a", True), False),
        (("a", "apart"), ("b", True), True),
        (("a", "apart"), ("b", False), False),  # who wants the machine alone waits for those apart
        (("a", "shared"), ("b", True), False),
    ],
)
def test_who_may_measure_beside_whom(
    holds: tuple[str, str], wants: tuple[str, bool], beside: bool, tmp_path: Path
) -> None:
    with Holder(*holds, tmp_path / "cache-1"):
        taker = Taker(wants[0], apart=wants[1])
        assert taker.has_it.wait(30 if beside else 0.3) is beside
    assert taker.has_it.wait(30)  # a killed process keeps nothing


def test_all_users_meet_in_one_folder_whatever_their_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(machine_lock.LOCKS_VARIABLE)
    folders: set[Path] = set()
    for user in ("one", "two"):
        monkeypatch.setenv("HOME", f"/home/{user}")
        monkeypatch.setenv("TMPDIR", f"/home/{user}/tmp")
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"/run/user/{user}")
        folders.add(machine_lock.folder())
    assert len(folders) == 1


def test_others_can_read_the_lock_file_whatever_the_umask(locks: Path) -> None:
    before = os.umask(0o077)
    try:
        with machine_lock.measuring("a", apart=True):
            pass
    finally:
        os.umask(before)
    files = sorted(locks.glob("fastvit-bench-*.lock"))
    assert len(files) == 2
    assert [file.stat().st_mode & 0o777 for file in files] == [0o644] * 2


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_another_user_puts_at_its_path_is_refused(kind: str, locks: Path) -> None:
    """Planted: a link to a file of this user, which must stay as it is."""
    path, own = locks / "fastvit-bench-machine.lock", locks / "own"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        if kind == "link":
            own.write_text("precious")
        path.symlink_to(own)
    with pytest.raises(UnavailableError, match="--locks DIR"), machine_lock.measuring("a", apart=False):
        pass
    assert own.read_text() == "precious" if kind == "link" else not own.exists()


def test_the_content_of_a_file_at_its_path_is_kept(locks: Path) -> None:
    own = locks / "own"
    own.write_text("precious")
    (locks / "fastvit-bench-machine.lock").hardlink_to(own)
    with machine_lock.measuring("a", apart=False):
        pass
    assert own.read_text() == "precious"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_only_its_owner_reads_is_named(locks: Path) -> None:
    (locks / "fastvit-bench-machine.lock").touch(0o000)
    with pytest.raises(UnavailableError, match="Permission denied"), machine_lock.measuring("a", apart=False):
        pass


def test_a_file_that_is_removed_while_one_waits_does_not_count(locks: Path, tmp_path: Path) -> None:
    """Planted: the owner of the lock file removes it, so that two processes could lock two files."""
    path = locks / "fastvit-bench-machine.lock"
    with Holder("a", "shared", tmp_path):
        taker = Taker("a", apart=False)
        assert not taker.has_it.wait(0.2)
        path.unlink()
        with Holder("b", "shared", tmp_path):
            pass
    assert taker.has_it.wait(30)
    assert path.is_file()


def test_a_fresh_process_of_any_start_method_shares_the_lock() -> None:
    """Descriptors are not inherited: a child that measures must not keep the machine after its worker."""
    context = multiprocessing.get_context("spawn")
    with machine_lock.measuring("a", apart=False):
        child = context.Process(target=_sleeps, daemon=True)
        child.start()
    try:
        assert Taker("a", apart=False).has_it.wait(30)
    finally:
        child.kill()


def _sleeps() -> None:
    threading.Event().wait(60)
