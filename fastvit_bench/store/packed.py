"""Lines of a run file as the cache holds them: by columns, equal parts once, and statistics computed.

What is unpacked equals what was packed, and computes the same, in a tenth of the time that its text takes.
"""

import functools
import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

import msgspec

from fastvit_bench.records import Interval, Measurement, Run
from fastvit_bench.store.runs import Line

# kind of line -> its parts that are equal in many lines
SHARED: dict[type[Any], frozenset[str]] = {
    Measurement: frozenset({"device", "artifact", "method", "machine", "parity", "engine"}),
    Run: frozenset({"request", "cells", "machine"}),
}
MOST_PARTS = 4096  # of a kind, that a reader keeps
_KINDS: tuple[type[Any], ...] = get_args(Line)
# what tables show of every measurement, as its properties of these names compute it; `_lines` puts it there
_STATISTICS: dict[str, Any] = {
    "figure_ms": float,
    "interval_ms": Interval | None,
    "warnings": list[str],
    "p90_ms": float | None,
    "p99_ms": float | None,
    "mad_ms": float,
}


class _PackedFile(msgspec.Struct, array_like=True, frozen=True):
    """The lines of a file: the kind of each, and for each kind a column per field, and per statistic."""

    order: bytes  # indices of `_KINDS`
    columns: list[list[msgspec.Raw]]


class Packer:
    """Packs and unpacks files of lines; each part is encoded and decoded once."""

    def __init__(self, get: Callable[[str], bytes | None], put: Callable[[str, bytes], None]) -> None:
        """Take how parts are read and written, by the name that their contents give them."""
        self._get, self._put = get, put
        self._digests: dict[int, tuple[object, bytes]] = {}  # by the identity of a part, which is kept beside it
        self._parts: dict[tuple[Any, bytes], Any] = {}  # by the type and the digest of a part

    def pack(self, lines: Sequence[Line]) -> bytes:
        """Return lines as one value; raises `ValueError` for what it cannot hold."""
        order = bytes(_KINDS.index(type(line)) for line in lines)
        columns = [self._columns(kind, [line for line in lines if type(line) is kind]) for kind in _KINDS]
        return msgspec.msgpack.encode(_PackedFile(order, columns))

    def unpack(self, data: bytes) -> list[Line]:
        """Return the lines of a value; raises `ValueError` where a part is missing or the value is none."""
        packed = msgspec.msgpack.decode(data, type=_PackedFile)
        lines = [self._lines(kind, columns) for kind, columns in zip(_KINDS, packed.columns, strict=True)]
        return [next(lines[at]) for at in packed.order]

    def _columns(self, kind: type[Any], lines: Sequence[Any]) -> list[msgspec.Raw]:
        columns: list[msgspec.Raw] = []
        for name in _types(kind) if lines else ():
            values = [getattr(line, name) for line in lines]
            if name in SHARED.get(kind, ()):
                values = list(map(self._digest, values))
            elif name == "samples_ns":
                values = [tuple(map(_bytes, rounds)) for rounds in values]
            elif name == "reference_ns":
                values = list(map(_bytes, values))
            if all(value == values[0] for value in values):
                del values[1:]
            columns.append(msgspec.Raw(msgspec.msgpack.encode(values)))
        return columns

    def _lines(self, kind: type[Any], columns: Sequence[msgspec.Raw]) -> Iterator[Any]:
        if not columns:
            return
        values: list[Iterable[Any]] = []
        for (name, decode), column in zip(_decoders(kind).items(), columns, strict=True):
            cells = decode(column)
            if name in SHARED.get(kind, ()):
                cells = [self._part(_types(kind)[name], digest) for digest in cells]
            elif name == "samples_ns":
                cells = [tuple(map(_times, rounds)) for rounds in cells]
            elif name == "reference_ns":
                cells = list(map(_times, cells))
            values.append(itertools.repeat(cells[0]) if len(cells) == 1 else cells)
        names = kind.__struct_fields__
        # a column of one value goes on for ever; the caller knows how many lines there are
        rows = zip(*values[: len(names)], strict=False)
        if kind is not Measurement:
            yield from (kind(**dict(zip(names, row, strict=True))) for row in rows)
            return
        for row, statistics in zip(rows, zip(*values[len(names) :], strict=False), strict=False):
            line = Measurement(*row)  # quicker than by name
            vars(line).update(zip(_STATISTICS, statistics, strict=True))
            yield line

    def _digest(self, part: object) -> bytes:
        """Return the digest of a part, which is written where it was not yet."""
        known = self._digests.get(id(part))
        if known is not None and known[0] is part:
            return known[1]
        if len(self._digests) >= MOST_PARTS:
            self._digests.clear()
        text = msgspec.json.encode(part)
        digest = hashlib.blake2b(text, digest_size=16).digest()
        self._put(f"part {digest.hex()}", text)
        self._digests[id(part)] = part, digest
        return digest

    def _part(self, kind: Any, digest: bytes) -> Any:
        if (kind, digest) not in self._parts:
            text = self._get(f"part {digest.hex()}")
            if text is None:
                raise ValueError("a part is missing")
            if len(self._parts) >= MOST_PARTS:
                self._parts.clear()
            self._parts[kind, digest] = msgspec.json.decode(text, type=kind)
        return self._parts[kind, digest]


@functools.cache
def _types(kind: type[Any]) -> dict[str, Any]:
    """Return the type of each column."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return types | (_STATISTICS if kind is Measurement else {})


@functools.cache
def _decoders(kind: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """Return the function that decodes each column."""
    stored: dict[str, Any] = dict.fromkeys(SHARED.get(kind, ()), bytes)
    stored |= {"samples_ns": tuple[bytes, ...], "reference_ns": bytes} if kind is Measurement else {}
    return {
        name: msgspec.msgpack.Decoder(list[stored.get(name, own)]).decode  # type: ignore[misc]
        for name, own in _types(kind).items()
    }


def machine_integers(times: Sequence[int]) -> "array[int]":
    """Return times as machine integers, which can all that readers do with tuples."""
    try:
        return array("I", times)
    except OverflowError:  # a run of four seconds
        return array("Q", times)


def _bytes(times: Sequence[int]) -> bytes:
    """Return times as bytes behind the letter of their type; none for no times."""
    integers = times if isinstance(times, array) else machine_integers(times)
    return integers.typecode.encode() + integers.tobytes() if times else b""


def _times(data: bytes) -> Sequence[int]:
    """Return the times of such bytes."""
    return array(data[:1].decode(), data[1:]) if data else ()
