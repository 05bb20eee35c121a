"""Measurements as tables read them: parts that are equal are held once, and samples as machine integers.

A hundred thousand figures then take a tenth of the memory. They have the values of `runs.iterate_lines`, and the same
errors; what is read in this way is not written again.
"""

import functools
import gc
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Union

import msgspec

from fastvit_bench.errors import StoreError
from fastvit_bench.records import SCHEMA, Accuracy, AccuracyChunk, Failure, Measurement, Run
from fastvit_bench.store import runs
from fastvit_bench.store.runs import Line, RunFile

MOST_PARTS = 4096  # of a kind, that a reader keeps

# kind of line -> its parts that are equal in many lines
_SHARED: dict[type[Measurement | Run], frozenset[str]] = {
    Measurement: frozenset({"device", "artifact", "method", "machine", "parity", "engine"}),
    Run: frozenset({"request", "cells", "machine"}),
}
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
        kind, shared = field.type, field.name in _SHARED[record]
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

    def __init__(self) -> None:
        """Know nothing yet."""
        self._drafts: dict[type[Any], tuple[type[Measurement | Run], list[_Parts]]] = {
            _draft(record): (
                record,
                [
                    _Parts(at, msgspec.json.Decoder(field.type), {})
                    for at, field in enumerate(msgspec.structs.fields(record))
                    if field.name in shared
                ],
            )
            for record, shared in _SHARED.items()
        }
        self._decoder = msgspec.json.Decoder(Union[(*self._drafts, Failure, AccuracyChunk, Accuracy)])

    def lines(self, path: Path) -> Generator[Line]:
        """Yield what `runs.iterate_lines` yields, in less memory. Raises `StoreError` as it does."""
        return runs.iterate_lines(path, decode=self._decoded)

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
        values[_SAMPLES] = tuple(map(_array, values[_SAMPLES]))
        if values[_REFERENCE]:
            values[_REFERENCE] = _array(values[_REFERENCE])
    return record(*values)


def _array(samples: Sequence[int]) -> "array[int]":
    """Return times as machine integers, which can all that readers do with tuples."""
    try:
        return array("I", samples)
    except OverflowError:  # a run of four seconds
        return array("Q", samples)


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


def read_all(
    paths: Iterable[Path], choose: Callable[[Iterable[Line]], Iterable[Line]] = iter
) -> tuple[list[RunFile], list[str]]:
    """Return the run files that can be read, and a sentence on each that cannot.

    `choose` gets the lines of a file as they are read, and returns those to keep in memory. Raises `StoreError` as
    `runs.read` does where there are files, and none of them can be read.
    """
    reader = Reader()
    readable: list[RunFile] = []
    faults: list[StoreError] = []
    with undisturbed():
        for path in paths:
            try:
                readable.append(RunFile(path, tuple(choose(reader.lines(path))), 0))
            except StoreError as error:
                faults.append(error)
    return readable, runs.left_out(faults, some=bool(readable))
