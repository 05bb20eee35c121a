"""Measurements as tables read them: parts that are equal are held once, and samples as machine integers.

A hundred thousand figures then take a tenth of the memory. They have the values of `runs.iterate_lines`, and the same
errors; what is read in this way is not written again.
"""

import gc
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fastvit_bench.errors import StoreError
from fastvit_bench.records import Accuracy, AccuracyChunk, Failure, Measurement, Run
from fastvit_bench.store import runs
from fastvit_bench.store.runs import Line, RunFile

_FIELDS = msgspec.structs.fields(Measurement)
_SHARED = frozenset({"device", "artifact", "method", "machine", "parity", "engine"})  # equal in many lines
_PLACES = tuple(at for at, field in enumerate(_FIELDS) if field.name in _SHARED)
_NAMES = tuple(field.name for field in _FIELDS)
_SAMPLES, _REFERENCE = _NAMES.index("samples_ns"), _NAMES.index("reference_ns")
MOST_PARTS = 4096  # of a kind, that a reader keeps


def _draft_field(field: msgspec.structs.FieldInfo) -> tuple[Any, ...]:
    """Return a field of a line whose shared parts are left as text."""
    kind = msgspec.Raw if field.name in _SHARED else field.type
    if field.required:
        return field.name, kind
    return field.name, kind, msgspec.Raw(msgspec.json.encode(field.default)) if field.name in _SHARED else field.default


_Draft: type[Any] = msgspec.defstruct(
    "_Draft",
    [_draft_field(field) for field in _FIELDS],
    kw_only=True,
    forbid_unknown_fields=True,
    tag="measurement",
    tag_field="kind",
)


class Reader:
    """A reader of run files, for one command: what it has decoded once it gives again."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._decoder = msgspec.json.Decoder(_Draft | Run | Failure | AccuracyChunk | Accuracy)
        self._parts: list[tuple[int, msgspec.json.Decoder[Any], dict[bytes, Any]]] = [
            (at, msgspec.json.Decoder(_FIELDS[at].type), {}) for at in _PLACES
        ]

    def lines(self, path: Path) -> Generator[Line]:
        """Yield what `runs.iterate_lines` yields, in less memory. Raises `StoreError` as it does."""
        return runs.iterate_lines(path, decode=self._decoded)

    def _decoded(self, path: Path, number: int, raw: bytes) -> Line:
        try:
            line = self._decoder.decode(raw)
            return self._shared(line) if isinstance(line, _Draft) else line
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return runs.decoded(path, number, raw)  # which says what is wrong

    def _shared(self, draft: Any) -> Measurement:
        values: list[Any] = list(msgspec.structs.astuple(draft))
        for at, decoder, known in self._parts:
            text = bytes(values[at])
            if (part := known.get(text)) is None:
                if len(known) >= MOST_PARTS:  # so that lines that nobody keeps fill no memory
                    known.clear()
                part = known[text] = decoder.decode(text)
            values[at] = part
        values[_SAMPLES] = tuple(map(_array, values[_SAMPLES]))
        if values[_REFERENCE]:
            values[_REFERENCE] = _array(values[_REFERENCE])
        return Measurement(*values)


def _array(samples: Sequence[int]) -> "array[int]":
    """Return times as machine integers, which can all that readers do with tuples."""
    try:
        return array("I", samples)
    except OverflowError:  # a run of four seconds
        return array("Q", samples)


@contextmanager
def undisturbed() -> Generator[None]:
    """Pause the garbage collector: records hold no cycles, and it would look through all of them, repeatedly."""
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
