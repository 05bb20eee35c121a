"""The lock of a machine: whoever measures on it takes turns, under whatever user, worker and cache.

The lock files lie where all users meet, so their folder may hold anything. A file is opened for reading only, never
through a link, and nothing is written to it. Who may read it can lock it.
"""

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Generator
from pathlib import Path

from fastvit_bench.errors import UnavailableError

if sys.platform == "win32":
    import filelock
else:
    import fcntl

LOCKS_VARIABLE = "FASTVIT_BENCH_LOCKS"
PREFIX = "fastvit-bench-"
TRIES = 100  # to open a file that other processes create and remove meanwhile


def folder() -> Path:
    """Return the folder of the lock files: the one that all users of a machine share, or the one that was chosen."""
    chosen = os.environ.get(LOCKS_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"))
    return Path("/tmp")  # not the variable TMPDIR, which many systems set for each user


@contextlib.contextmanager
def measuring(device: str, *, apart: bool) -> Generator[None]:
    """Wait until the machine is free, and keep it; with `apart` keep the device alone, beside others that are apart.

    The system releases the locks of a process that ends. Raises `UnavailableError` for a file that cannot be locked.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(folder() / f"{PREFIX}machine.lock", shared=apart))
        if apart:
            key = hashlib.sha256(device.encode()).hexdigest()[:16]  # a name of any length and of any signs
            stack.enter_context(_locked(folder() / f"{PREFIX}device-{key}.lock", shared=False))
        yield


if sys.platform == "win32":

    @contextlib.contextmanager
    def _locked(path: Path, *, shared: bool) -> Generator[None]:
        """Lock a file. Windows has no shared locks of this kind, so that what would be shared is not locked."""
        with contextlib.nullcontext() if shared else filelock.FileLock(path):
            yield

else:

    @contextlib.contextmanager
    def _locked(path: Path, *, shared: bool) -> Generator[None]:
        """Lock a file, with others or alone."""
        for _ in range(TRIES):
            try:
                descriptor = _opened(path)
            except OSError as error:
                raise UnavailableError(
                    f"The lock of this machine, {path}, cannot be opened: {error.strerror or error}. Remove it or have "
                    f"its owner do so, or choose another folder for all workers of this machine with --locks DIR."
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
                if _is_at(descriptor, path):  # else its owner removed it while this process waited
                    yield
                    return
            finally:
                os.close(descriptor)
        raise UnavailableError(f"The lock of this machine, {path}, is removed again and again; find out by what.")

    def _opened(path: Path) -> int:
        """Return a descriptor of a lock file, which is created where there is none.

        An existing file is not opened with O_CREAT: Linux refuses that in a folder such as /tmp for others' files.
        Raises `OSError` for a link and for what is no regular file.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, flags)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return descriptor
                os.close(descriptor)
                raise OSError(f"it is no regular file ({path})")
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
                os.fchmod(descriptor, 0o644)  # whatever this user's umask is, others must be able to read it
                return descriptor
        raise OSError(f"it is removed again and again ({path})")

    def _is_at(descriptor: int, path: Path) -> bool:
        """Return whether the locked file is still the one at its path."""
        try:
            return os.path.samestat(os.fstat(descriptor), path.lstat())
        except FileNotFoundError:
            return False
