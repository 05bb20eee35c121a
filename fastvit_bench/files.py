"""Open, hash, write, replace and remove files, and folders that count as one file, such as Core ML packages.

Files from outside are opened by `open_regular` alone, so that no device, pipe or endless file is ever read.
"""

import errno
import importlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from fastvit_bench.errors import ConfigError, UsageError

# Most bytes of a file from outside, by its kind; a larger one is refused before it is read.
DOCUMENT = 256 << 20  # JSON, TOML, labels and reports
IMAGE = 256 << 20
PROGRAM = (2 << 30) - 1  # ONNX files and manifests of packages; protobuf itself ends there


# --- reading ----------------------------------------------------------------------------------------------------------


def open_regular(path: Path, limit: int | None = None) -> BufferedReader:
    """Return a file opened for reading; it is a regular file of at most `limit` bytes.

    Raises `OSError`, whose ``strerror`` says why, for a device, a pipe, a folder, a larger file and an impossible name.
    """
    try:
        _require_regular(path.stat(), path)  # before it is opened: opening some devices has effects
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, f"no file can have that name ({error})", repr(str(path))) from None
    try:
        status = os.fstat(descriptor)
        _require_regular(status, path)
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, more than the {limit} allowed", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(status: os.stat_result, path: Path) -> None:
    """Raise `OSError` unless the status is that of a regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file, but a device, a pipe or a socket", str(path))


def read_bytes(path: Path, limit: int = DOCUMENT) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises `OSError` as `open_regular` does."""
    with open_regular(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # it grew meanwhile, or does not tell its size
        raise OSError(errno.EFBIG, f"it has more than the {limit} bytes allowed", str(path))
    return data


def read_text(path: Path, limit: int = DOCUMENT, encoding: str = "utf-8") -> str:
    """Return the text of a regular file, with line ends as they are; raises `OSError` and `UnicodeDecodeError`."""
    return read_bytes(path, limit).decode(encoding)


def exists(path: Path) -> bool:
    """Return whether something is at a path; False too for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_part(name: str) -> bool:
    """Return whether a name from a file can be the name of a file in a folder: one part, printable, not hidden."""
    return (
        0 < len(name) <= 200
        and name.isprintable()
        and not name.startswith(".")
        and not any(sign in name for sign in '/\\:*?"<>|')
        and len(os.fsencode(name)) <= 240
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex, read in pieces. Raises `OSError` as `open_regular` does."""
    import hashlib  # here, because `--help` would wait for OpenSSL

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 in hex of a file, or of the names and digests of a folder's files, sorted by name.

    Raises `OSError` for a folder with a link in it: what is behind a link can change, and the digest would not.
    """
    if not path.is_dir():
        return file_sha256(path)
    import hashlib

    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def size_bytes(path: Path) -> int:
    """Return the bytes in a file, or in all files of a folder."""
    return sum(file.stat().st_size for file in _files(path)) if path.is_dir() else path.stat().st_size


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all regular files below a folder; links are not followed, and a missing folder has none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                path = Path(place, name)
                total += 0 if path.is_symlink() else path.stat().st_size
    return total


def _files(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted by path. Raises `OSError` for a link among them."""
    paths: list[Path] = []
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if (inside := Path(place, name)).is_symlink():
                raise OSError(errno.ELOOP, f"{inside.relative_to(folder)} in it is a link", str(folder))
        paths += [Path(place, name) for name in names]
    return sorted(paths)


# --- writing ----------------------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(source: Path, target: Path) -> None:
    """Move a finished file or folder from its `temporary_folder` to its final name, in the place of an earlier one.

    A folder cannot be replaced in one step, so the old one is moved aside first, beside `source`. If the new one cannot
    be moved, the old one is moved back.
    """
    if not (target.is_dir() and source.is_dir()):  # the system refuses a file in the place of a folder
        source.replace(target)
        return
    aside = source.with_name(f"earlier-{target.name}")
    target.replace(aside)
    try:
        source.replace(target)
    except OSError:
        aside.replace(target)
        raise
    shutil.rmtree(aside)


def write(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, in the place of an earlier one; raises `OSError` if the disk refuses."""
    with temporary_folder(path.parent) as folder:
        draft = folder / "draft"
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put(draft, path)


def write_all(descriptor: int, data: bytes) -> None:
    """Write the data at once and flush it to the disk; raises `OSError` unless all of it was written."""
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes were written; the disk is full")
    os.fsync(descriptor)


def append(path: Path, data: bytes) -> None:
    """Append to a file that exists; when this returns, the data survives a power cut.

    What does not fit is removed again. Raises `OSError` if the file is gone, or the disk refuses.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        before = os.fstat(descriptor).st_size
        try:
            write_all(descriptor, data)
        except BaseException:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def refusal(folder: Path) -> str | None:
    """Return the reason why a folder cannot be written or created, or None if it can; nothing is changed.

    It is called before work that takes minutes. The write itself may still fail.
    """
    try:
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            return f"{nearest} is no folder"
        return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is read-only"
    except OSError as error:  # such as a name that is too long, or a folder without permission to read it
        return error.strerror or str(error)
    except ValueError as error:  # a NUL in the name
        return str(error)


MARK = b"Written by fastvit-bench"  # in every picture and page


def is_marked(data: bytes) -> bool:
    """Return whether the content of a file bears the mark of this tool's pictures and pages."""
    return MARK in data


def check_output(
    path: Path, *, inputs: Iterable[Path] = (), force: bool = False, own: Callable[[bytes], bool] = is_marked
) -> None:
    """Raise `UsageError` if an output would replace an input, or a file that this tool did not write.

    `own` tells from the content of a file whether this tool wrote it. With `force` any file but an input is replaced.
    """
    for source in inputs:
        with suppress(OSError, ValueError):  # one that does not exist cannot be overwritten
            if source.samefile(path):
                raise UsageError(f"{path} is the file that is read; name another output with -o.")
    if not exists(path):
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it.")
    if force:
        return
    try:
        data = read_bytes(path, PROGRAM)
    except OSError as error:
        raise UsageError(f"{path} cannot be replaced: {error.strerror or error}; name another output.") from None
    if not own(data):
        raise UsageError(
            f"{path} exists and was not written by fastvit-bench; name another output, or replace it with --force."
        )


# --- temporary folders ------------------------------------------------------------------------------------------------

PREFIX = "fastvit-bench-"  # of the names of temporary folders
_LOCK = ".lock"  # in a temporary folder; held by the process that uses the folder
_NO_LOCKS = ".no-locks"  # in its place where the file system has none
_ABANDONED_S = 86_400  # age of a folder without a lock file that nobody uses, such as an earlier version's
_swept: set[Path] = set()


@contextmanager
def temporary_folder(parent: Path | None = None) -> Generator[Path]:
    """Yield a new folder in `parent`, by default the system's for temporary files; it is removed on exit.

    A killed process leaves its folder behind, and the next process that makes one in `parent` removes it. Raises
    `OSError` where none can be made.
    """
    importlib.import_module("filelock")  # before the folder exists: a kill must not come between it and its lock

    place = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(place)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX if parent is None else f".{PREFIX}", dir=place))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)  # also where the lock cannot be had
            try:
                stack.enter_context(in_use(folder))
            except _TakenError:  # by a sweep that came between the two steps
                continue
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            if folder.exists():
                yield folder
                return


class _TakenError(OSError):
    """Another process uses a folder."""


@contextmanager
def in_use(folder: Path) -> Generator[None]:
    """Mark a folder as used by this process, as long as it runs, by a lock in the folder.

    A lock ends with its process. A process id would not do, because another container may have the same one.
    """
    import filelock

    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, FileNotFoundError):
        raise _TakenError(errno.EBUSY, "another process uses it", str(folder)) from None
    except NotImplementedError:  # a file system without locks: there, age decides
        (folder / _LOCK).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            (folder / _NO_LOCKS).touch()  # an empty folder would be nobody's
    try:
        yield
    finally:
        lock.release()


@contextmanager
def temporary_files_apart() -> Generator[None]:
    """Have this process and its libraries put temporary files into a folder of their own, which is removed on exit."""
    names = ("TMPDIR", "TEMP", "TMP")
    before = {name: os.environ.get(name) for name in names}
    with temporary_folder() as folder:
        try:
            os.environ.update(dict.fromkeys(names, str(folder)))
            tempfile.tempdir = None  # so that it is looked up anew
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            tempfile.tempdir = None


def sweep(place: Path) -> None:
    """Remove the temporary folders in `place` that killed processes left behind; once per process and place."""
    if place in _swept:
        return
    _swept.add(place)
    for pattern in (f"{PREFIX}*", f".{PREFIX}*"):
        for folder in place.glob(pattern):
            if not folder.is_dir() or folder.is_symlink():
                continue
            with suppress(OSError):
                folder.rmdir()  # if empty: a process that has yet to make its lock makes another folder
            if is_abandoned(folder, _ABANDONED_S):
                shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(folder: Path, unlocked_s: float) -> bool:
    """Return whether no process uses a folder; without a lock in it, whether it is older than `unlocked_s` seconds."""
    try:
        if not (folder / _LOCK).exists():
            return time.time() - folder.stat().st_mtime >= unlocked_s
        with in_use(folder):
            return True
    except OSError:
        return False


# --- what can be fetched or computed again ---------------------------------------------------------------------------

CACHE_VARIABLE = "FASTVIT_BENCH_CACHE"


def cache_folder() -> Path:
    """Return the user's folder for what can be made again, which need not exist.

    Raises `OSError` where neither a variable of the environment nor the system names one.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # nobody has this user's number
        raise OSError(errno.ENOENT, str(error)) from None
    return base / "fastvit-bench"


# --- packaged data ----------------------------------------------------------------------------------------------------

_PACKAGE = Path(__file__).parent


# name -> path in the repository; in the wheel every name is in fastvit_bench/resources/ (see pyproject.toml)
_IN_REPOSITORY: dict[str, str] = {
    "benchmark.toml": "benchmark.toml",
    "published": "results/published",
    "cpu-reference": "results/cpu-reference",
}


def find(name: str) -> Path:
    """Return the path of the packaged ``benchmark.toml``, ``published`` or ``cpu-reference``.

    Raises `ConfigError` for any other name, and when the installation lacks the data.
    """
    if name not in _IN_REPOSITORY:
        raise ConfigError(f"The package holds no data called '{name}'. It holds: {', '.join(sorted(_IN_REPOSITORY))}.")
    packaged = _PACKAGE / "resources" / name
    cloned = _PACKAGE.parent / _IN_REPOSITORY[name]
    for path in (packaged, cloned):
        if path.exists():
            return path
    raise ConfigError(f"'{name}' is neither at {packaged} nor at {cloned}. Install fastvit-bench again.")
