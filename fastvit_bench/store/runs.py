"""Run files: one append-only file of JSON lines per run, safe against a kill at any moment.

A run file ``results/<device>/<run id>.jsonl`` begins with a `Run` line. One `Measurement` or `Failure` line follows for
each finished cell. Where images are counted, a cell has an `AccuracyChunk` line for every few of them, and an
`Accuracy` line in the end. A resumed run appends another `Run` line of the same id, with the machine at that time. A
line counts once its newline is on disk. Bytes behind the last newline are a line that a killed process did not finish.
No other module writes these files.
"""

import difflib
import os
import re
import secrets
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import StoreError, UnavailableError
from fastvit_bench.records import SCHEMA, Accuracy, AccuracyChunk, Artifact, Failure, Measurement, Run

Line = Run | Measurement | Failure | AccuracyChunk | Accuracy

SUFFIX = ".jsonl"
PUBLISHED = "published"  # folder beside the devices' folders, for figures that others published
REFERENCE = "cpu-reference"  # folder of the studies in the docs, measured on another machine than the reader's
LAST = "last"  # word of the command line for the newest run

_LONGEST = files.DOCUMENT  # bytes of a line; a longer one is none of a run

_DEVICE = re.compile(r"\w[\w.+-]*", re.ASCII)  # a folder's name on every file system


@dataclass(frozen=True)
class RunFile:
    """A run file as read: its complete lines in order, and the size of an unfinished last one."""

    path: Path
    lines: tuple[Line, ...]  # the first is a `Run`
    torn_bytes: int  # of an unfinished last line, which is ignored

    @property
    def runs(self) -> list[Run]:
        """Header lines: of the start and of every resumption."""
        return [line for line in self.lines if isinstance(line, Run)]

    @property
    def measurements(self) -> list[Measurement]:
        """Measurements, in the order they finished."""
        return [line for line in self.lines if isinstance(line, Measurement)]

    @property
    def accuracies(self) -> list[Accuracy]:
        """Accuracies, in the order they finished."""
        return [line for line in self.lines if isinstance(line, Accuracy)]

    @property
    def tallies(self) -> list[AccuracyChunk]:
        """Chunks of counted images, in the order they were written."""
        return [line for line in self.lines if isinstance(line, AccuracyChunk)]

    @property
    def failures(self) -> list[Failure]:
        """Failures, in the order they finished; a cell may have succeeded after it failed."""
        return [line for line in self.lines if isinstance(line, Failure)]


# --- writing ----------------------------------------------------------------------------------------------------------


def new_id(started: datetime, digits: str | None = None) -> str:
    """Return a run id such as ``20260131-142233-9f3c1a``: the UTC second, then hexadecimal digits.

    The digits keep two runs of one second apart. An imported run brings `digits` of its own, so that it gets the same
    id on every machine.
    """
    return f"{started.astimezone(UTC):%Y%m%d-%H%M%S}-{digits or secrets.token_hex(3)}"


def create(root: Path, run: Run) -> Path:
    """Write a new run file with its first line under `root`, or none at all, and return its path.

    Raises `StoreError` when a run of that id exists, the device's name cannot be a folder, or nothing can be written.
    """
    folder = _folder(root, run.request.device.name)
    path = folder / f"{run.id}{SUFFIX}"
    data = _readable(path, run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.temporary_folder(folder) as drafts:
            draft = drafts / path.name
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                files.write_all(descriptor, data)
            finally:
                os.close(descriptor)
            _put_new(draft, path)
        _sync_folder(folder)
        _sync_folder(root)
    except FileExistsError:
        raise StoreError(f"Run {run.id} already exists at {path}; resume it instead.") from None
    except OSError as error:
        raise StoreError(f"The run file {path} cannot be created: {_reason(error)}.") from error
    return path


def _put_new(draft: Path, path: Path) -> None:
    """Give a finished file its name. Raises `FileExistsError` where one of that name exists: one creator wins."""
    try:
        os.link(draft, path)  # in one step, where a file system has links
    except FileExistsError:
        raise
    except OSError:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        draft.replace(path)


def _readable(path: Path, run: Run) -> bytes:
    """Return a run's line. Raises `StoreError` for one that could not be read again, before anything is measured."""
    try:
        data = _encoded(run)
        if _decoder().decode(data) == run:
            return data
        fault = "it would be read as another one"
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        fault = str(error).replace("`", "'").rstrip(".")
    raise StoreError(f"The run {path} could not be read again ({fault}); correct that value in its request.")


def append(path: Path, line: Line) -> None:
    """Append one line to a run file; when this returns, the line survives a power cut.

    The caller must hold `lock`. A line that does not fit is removed again. Raises `StoreError` when the file is gone,
    ends in an unfinished line (see `reopen`) or cannot take the line.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError as error:
        raise StoreError(f"The run file {path} cannot be written: {_reason(error)}.") from error
    try:
        os.lseek(descriptor, max(os.fstat(descriptor).st_size - 1, 0), os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            raise StoreError(f"{path} ends in an unfinished line; resume the run so that it is cut off first.")
        files.append(path, _encoded(line))
    except OSError as error:
        raise StoreError(
            f"{path} did not take another line: {_reason(error)}. All earlier lines are kept; make room and resume."
        ) from error
    finally:
        os.close(descriptor)


def reopen(path: Path) -> RunFile:
    """Return a run file that is to be continued, after cutting off a line that a killed process did not finish.

    Raises `StoreError` as `read` does; the file is changed only when everything before the unfinished line is sound.
    """
    file = read(path)
    if file.torn_bytes:
        try:
            descriptor = os.open(path, os.O_RDWR)
            try:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - file.torn_bytes)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"The unfinished line of {path} cannot be cut off: {_reason(error)}.") from error
    return RunFile(path=path, lines=file.lines, torn_bytes=0)


@contextmanager
def lock(root: Path, device: str, run: str = "") -> Generator[None]:
    """Lock a device, so that no other process measures on it: two sweeps at once would slow each other down.

    With `run`, lock that run alone, whose figures come from other machines.
    Drafts that killed processes left in the device's folder are removed then.

    The operating system releases the lock when the process ends, in whatever way. Raises `UnavailableError` at once
    when another process has the lock, and `StoreError` when the lock file cannot be created.
    """
    import filelock  # not needed to read results

    folder = _folder(root, device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        device_lock = filelock.FileLock(folder / (f".{run}.lock" if run else ".lock"), blocking=False)
        device_lock.acquire()
    except filelock.Timeout:
        busy = f"continuing run {run}" if run else f"measuring on '{device}'"
        raise UnavailableError(f"Another sweep is {busy} ({folder}); wait until it is done.") from None
    except OSError as error:
        raise StoreError(f"The folder {folder} cannot be locked: {_reason(error)}.") from error
    files.sweep(folder)
    try:
        yield
    finally:
        device_lock.release()


def _encoded(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a new name in it is permanent."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder(root: Path, device: str) -> Path:
    if not _DEVICE.fullmatch(device) or device == PUBLISHED:
        raise StoreError(
            f"The device name '{device}' cannot be a folder under {root}. Use letters, digits, '-', '_' and '.', "
            f"and not '{PUBLISHED}'."
        )
    return root / device


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path, choose: Callable[[Iterable[Line]], Iterable[Line]] = iter) -> RunFile:
    """Return the run file at a path; an unfinished last line is left out, and its bytes are counted.

    `choose` gets the lines as they are read, and returns those to keep in memory.
    Raises `StoreError`, with file, line number and what to do, for anything else that is damaged.
    """
    torn: list[int] = []
    lines = tuple(choose(iterate_lines(path, torn.append)))
    return RunFile(path=path, lines=lines, torn_bytes=sum(torn))


def left_out(faults: Sequence[StoreError], *, some: bool) -> list[str]:
    """Return a sentence on each run that is left out; without `some` others that were read, raise the first fault."""
    if faults and not some:
        raise faults[0]
    return [f"A run is left out: {fault}" for fault in faults]


def iterate_lines(
    path: Path,
    torn: Callable[[int], object] = lambda count: None,
    decode: Callable[[Path, int, bytes], Line] | None = None,
) -> Generator[Line]:
    """Yield the complete lines of a run file, one in memory at a time; the first is a `Run`.

    `torn` is called with the size in bytes of an unfinished last line, if there is one. `decode` gets the file, the
    number and the bytes of a line; without it, `decoded` does. Raises `StoreError` as `read` does, when the line is
    reached.
    """
    decode = decode or decoded
    first: Run | None = None
    try:
        with files.open_regular(path) as file:
            # bytes: as text, other characters would end lines too
            for number, raw in enumerate(iter(lambda: file.readline(_LONGEST + 1), b""), 1):
                if len(raw) > _LONGEST:
                    raise StoreError(f"{path}, line {number}: is longer than {_LONGEST} bytes. {_REMEDY}")
                if not raw.endswith(b"\n"):
                    torn(len(raw))
                    break
                line = decode(path, number, raw)
                if first is None and not isinstance(line, Run):
                    raise StoreError(f"{path}, line 1: a run file begins with its run, not with a {_kind(line)}.")
                if isinstance(line, Run):
                    first = first or line
                    if line.id != first.id:
                        raise StoreError(
                            f"{path}, line {number}: belongs to run {line.id}, not to {first.id}. {_REMEDY}"
                        )
                yield line
    except OSError as error:
        raise StoreError(f"The run file {path} cannot be read: {_reason(error)}.") from error
    if first is None:
        raise StoreError(f"{path} holds no complete line: its run recorded nothing. Remove the file.")


def folders(root: Path) -> list[Path]:
    """Return the folders under `root` that may contain runs: those of devices, and others that a person added."""
    return sorted(entry for entry in root.glob("[!.]*") if entry.is_dir() and entry.name != PUBLISHED)


def all_runs(root: Path) -> list[Path]:
    """Return every run file under `root`, oldest first; none when there is no such folder."""
    runs = (file for folder in folders(root) for file in folder.glob(f"[!.]*{SUFFIX}"))
    return sorted(runs, key=lambda file: (file.stem, file.parent.name))


def find(root: Path, ref: str) -> list[Path]:
    """Return the run files that `ref` means: a file, a folder, ``last``, a run id or the unique beginning of one.

    A `ref` with a path separator, or ending in ``.jsonl``, is a path. Raises `StoreError` when no run fits, with the
    nearest ids, or when several do, with the candidates.
    """
    if "/" in ref or os.sep in ref or ref.endswith(SUFFIX):
        return _at(Path(ref))
    runs = all_runs(root)
    if not runs:
        raise StoreError(f"There are no runs under {root} yet; `fastvit-bench latency` makes one.")
    if ref == LAST:
        return runs[-1:]
    exact = [file for file in runs if file.stem == ref]
    matches = exact or [file for file in runs if ref and file.stem.startswith(ref)]
    if not matches:
        ids = [file.stem for file in runs]
        near = difflib.get_close_matches(ref, ids, n=3, cutoff=0.5) or ids[:-4:-1]
        raise StoreError(f"No run '{ref}' under {root}. Nearest: {', '.join(near)}.")
    if len(matches) > 1:
        some = ", ".join(f"{file.stem} ({file.parent.name})" for file in matches[:5])
        more = f" and {len(matches) - 5} more" if len(matches) > 5 else ""
        raise StoreError(f"'{ref}' fits {len(matches)} runs: {some}{more}. Write more of the id.")
    return matches


def latencies_of(
    digests: Collection[str | None], root: Path
) -> tuple[dict[str | None, dict[str, Measurement]], list[StoreError]]:
    """Return the newest measurement on each device of each exported file, by its hash; and runs that cannot be read."""
    latencies: dict[str | None, dict[str, Measurement]] = {}
    faults: list[StoreError] = []
    for path in all_runs(root):
        try:
            for line in iterate_lines(path):
                artifact = line.artifact if isinstance(line, Measurement) else None
                if isinstance(line, Measurement) and isinstance(artifact, Artifact) and artifact.sha256 in digests:
                    latencies.setdefault(artifact.sha256, {})[path.parent.name] = line
        except StoreError as fault:
            faults.append(fault)
    return latencies, faults


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one line of a run file."""
    schema = msgspec.json.schema(Line)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:fastvit-bench:run-file-line:{SCHEMA}",
        "title": "A line of a fastvit-bench run file",
        "description": (
            "The first line of a run file is a Run; each further line is a Measurement, an Accuracy or a Failure of "
            "one cell, an AccuracyChunk of some images on the way to an Accuracy, or the Run again where it was "
            "resumed. `kind` tells them apart; units stand in the names."
        ),
        **schema,
    }


class _Label(msgspec.Struct):
    """The fields that identify a line of any schema."""

    kind: str | None = None
    schema: int | None = None


_REMEDY = "The file was changed or damaged: restore it from a copy, or remove it and measure again."


@cache
def _decoder() -> msgspec.json.Decoder[Line]:
    return msgspec.json.Decoder(Line)


def decoded(path: Path, number: int, raw: bytes) -> Line:
    """Return a line from its bytes. Raises `StoreError`, with file and line number, for bytes that are none."""
    try:
        line = _decoder().decode(raw)
    except msgspec.MsgspecError as error:
        _check_schema(path, number, raw)
        raise StoreError(f"{path}, line {number}: {_sentence(error)}. {_REMEDY}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path}, line {number}: {error}. {_REMEDY}") from None
    if isinstance(line, Run) and line.schema != SCHEMA:
        _check_schema(path, number, raw)
    return line


def _check_schema(path: Path, number: int, raw: bytes) -> None:
    """Raise `StoreError` if the line starts a run of another schema, whose fields may be anything."""
    try:
        label = msgspec.json.decode(raw, type=_Label)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if label.kind == "run" and label.schema is not None and label.schema != SCHEMA:
        writer = "newer" if label.schema > SCHEMA else "older"
        raise StoreError(
            f"{path}, line {number}: has schema {label.schema}, this version reads {SCHEMA}. "
            f"Read it with the {writer} fastvit-bench that wrote it."
        )


def _sentence(error: msgspec.MsgspecError) -> str:
    return str(error).replace("`", "'").rstrip(".")


def _kind(line: Line) -> str:
    return type(line).__name__.lower()


def _at(path: Path) -> list[Path]:
    """Return the run file at a path, or those in a folder; whether a file can be read is seen when it is read."""
    try:
        if path.is_dir():
            if runs := sorted(path.glob(f"[!.]*{SUFFIX}")):
                return runs
            raise StoreError(f"The folder {path} holds no run files (*{SUFFIX}).")
        if "\0" not in str(path) and path.exists():
            return [path]
    except OSError as error:
        raise StoreError(f"No run file can be at {str(path)[:80]}…: {_reason(error)}.") from None
    raise StoreError(f"There is no run file {path}.")
