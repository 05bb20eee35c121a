"""Measurements as tables read them: parts that are equal are held once, and samples as machine integers.

A hundred thousand figures then take a tenth of the memory. They have the values of `runs.iterate_lines`, and the same
errors; what is read in this way is not written again.
"""

import functools
import gc
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Union

import msgspec

from fastvit_bench.errors import StoreError
from fastvit_bench.records import SCHEMA, Accuracy, AccuracyChunk, Failure, Measurement, Run
from fastvit_bench.store import runs
from fastvit_bench.store.cache import Cache, program
from fastvit_bench.store.packed import MOST_PARTS, SHARED, Packer, machine_integers
from fastvit_bench.store.runs import Line, RunFile

SETTLED_NS = 2_000_000_000  # age of a change from which on another one shows in a file's times, on any file system
_LARGEST = 32 << 20  # bytes of a run file that the cache holds: its lines are in memory at once
WORTH = 16 << 20  # bytes of run files below which reading them takes no longer than a cache would


_NAMES = [field.name for field in msgspec.structs.fields(Measurement)]
_SAMPLES, _REFERENCE = _NAMES.index("samples_ns"), _NAMES.index("reference_ns")


class _Parts(NamedTuple):
    """The place of a part in its record, its decoder, and what it decoded."""

    at: int
    decoder: msgspec.json.Decoder[Any]
    known: dict[bytes, Any]


@functools.cache
def _draft(record: type[Measurement | Run]) -> type[Any]:
    """Return a record's type whose shared parts are left as text."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(record):
        kind, shared = field.type, field.name in SHARED[record]
        default = () if field.required else (field.default,)
        if shared:
            kind, default = msgspec.Raw, tuple(msgspec.Raw(msgspec.json.encode(value)) for value in default)
        fields.append((field.name, kind, *default))
    tag, tag_field = record.__struct_config__.tag, record.__struct_config__.tag_field
    return msgspec.defstruct(
        f"_{record.__name__}", fields, kw_only=True, forbid_unknown_fields=True, tag=tag, tag_field=tag_field
    )


class Reader:
    """A reader of run files, for one command: what it has decoded once it gives again."""

    def __init__(self, cache: Cache | None = None) -> None:
        """Know nothing yet, but for what a cache holds."""
        self._drafts: dict[type[Any], tuple[type[Measurement | Run], list[_Parts]]] = {
            _draft(record): (
                record,
                [
                    _Parts(at, msgspec.json.Decoder(field.type), {})
                    for at, field in enumerate(msgspec.structs.fields(record))
                    if field.name in shared
                ],
            )
            for record, shared in SHARED.items()
        }
        self._decoder = msgspec.json.Decoder(Union[(*self._drafts, Failure, AccuracyChunk, Accuracy)])
        self._cache = cache
        self._packer = (
            Packer(lambda key: cache.get(key, b""), lambda key, text: cache.put(key, b"", text)) if cache else None
        )

    def lines(self, path: Path) -> Iterable[Line]:
        """Return what `runs.iterate_lines` yields, in less memory. Raises `StoreError` as it does, while it goes on."""
        if self._cache is None or self._packer is None or (stamp := _stamp(path)) is None:
            return runs.iterate_lines(path, decode=self._decoded)
        known = self._cache.get(_key(path), stamp)
        if known is not None:
            with suppress(ValueError):  # msgspec's errors too; then its text says it again
                return self._packer.unpack(known)
        return self._read(path, stamp, self._cache, self._packer)

    def _read(self, path: Path, stamp: bytes, cache: Cache, packer: Packer) -> Generator[Line]:
        """Yield the lines, and give them to the cache once all are read and the file is still as it was."""
        lines: list[Line] = []
        for line in runs.iterate_lines(path, decode=self._decoded):
            lines.append(line)
            yield line
        if _stamp(path) == stamp:
            cache.put(_key(path), stamp, packer.pack(lines))

    def _decoded(self, path: Path, number: int, raw: bytes) -> Line:
        try:
            line = self._decoder.decode(raw)
            draft = self._drafts.get(type(line))
            if draft is not None:
                line = _shared(line, *draft)
        except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors, and so are the records'
            return runs.decoded(path, number, raw)  # which says what is wrong
        # of another schema its fields may mean anything
        return runs.decoded(path, number, raw) if isinstance(line, Run) and line.schema != SCHEMA else line


def _key(path: Path) -> str:
    return f"run {path.absolute()}"


def _stamp(path: Path) -> bytes | None:
    """Return what names the content of a file: identity, size and times, and the code that reads it.

    None where it was changed so recently that the next change need not show, where it is too large, or no file. The
    time of its last change of any kind, which no program can set, is among them: a file that is replaced by another of
    its size and time is another one.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if status.st_size > _LARGEST or time.time_ns() - status.st_ctime_ns < SETTLED_NS:
        return None
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return program() + repr(facts).encode()


def _shared(draft: Any, record: type[Measurement | Run], parts: list[_Parts]) -> Measurement | Run:
    """Return the record of a draft, with parts that were decoded before where their text is the same."""
    values: list[Any] = list(msgspec.structs.astuple(draft))
    for at, decoder, known in parts:
        text = bytes(values[at])
        if (part := known.get(text)) is None:
            if len(known) >= MOST_PARTS:  # so that lines that nobody keeps fill no memory
                known.clear()
            part = known[text] = decoder.decode(text)
        values[at] = part
    if record is Measurement:
        values[_SAMPLES] = tuple(map(machine_integers, values[_SAMPLES]))
        if values[_REFERENCE]:
            values[_REFERENCE] = machine_integers(values[_REFERENCE])
    return record(*values)


@contextmanager
def undisturbed() -> Generator[None]:
    """Pause the garbage collector: figures hold no cycles, and it would look through all of them, repeatedly.

    Of the time of a table of 100,000 it took a quarter.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def reading(paths: Sequence[Path]) -> Generator[Reader]:
    """Give a reader of these files, with the cache where there are so many that it pays."""
    with ExitStack() as stack:
        yield Reader(stack.enter_context(Cache()) if _size(paths) >= WORTH else None)


def _size(paths: Iterable[Path]) -> int:
    """Return the bytes of files; those that are missing have none."""
    size = 0
    for path in paths:
        with suppress(OSError, ValueError):
            size += path.stat().st_size
    return size


def read_all(
    paths: Iterable[Path], choose: Callable[[Iterable[Line]], Iterable[Line]] = iter
) -> tuple[list[RunFile], list[str]]:
    """Return the run files that can be read, and a sentence on each that cannot.

    `choose` gets the lines of a file as they are read, and returns those to keep in memory. Raises `StoreError` as
    `runs.read` does where there are files, and none of them can be read.
    """
    readable: list[RunFile] = []
    faults: list[StoreError] = []
    paths = list(paths)
    with undisturbed(), reading(paths) as reader:
        for path in paths:
            try:
                readable.append(RunFile(path, tuple(choose(reader.lines(path))), 0))
            except StoreError as error:
                faults.append(error)
    return readable, runs.left_out(faults, some=bool(readable))
