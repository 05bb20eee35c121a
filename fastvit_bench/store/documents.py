"""Documents beside the run files, as JSON: peaks, a calibration, comparisons and studies.

Each is written completely or not at all, and one that cannot be read is an error.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import StoreError
from fastvit_bench.records import DevicePeak, comparison, study
from fastvit_bench.records.comparison import Calibration, Comparison
from fastvit_bench.records.study import StudyResult

Content = TypeVar("Content")


@dataclass(frozen=True)
class DocumentKind(Generic[Content]):
    """A kind of document, with the words of the errors that its files can cause."""

    name: str
    type: type[Content]
    writers: str  # the commands that write such files
    remedy: str
    schema: int | None = None  # None of documents without one
    restore: Callable[[dict[str, Any]], None] = lambda content: None  # puts back what JSON cannot hold


def _verdicts(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the verdicts of a document, of its cells and of all together."""
    return [
        verdict
        for verdict in (*(cell.get("verdict") for cell in content.get("cells") or ()), content.get("pooled"))
        if verdict
    ]


def _restore_bounds(content: dict[str, Any]) -> None:
    """Put back the open ends of bounds, which JSON has as null."""
    for verdict in _verdicts(content):
        match verdict.get("bounds"):
            case [low, high]:
                verdict["bounds"] = [0.0 if low is None else low, math.inf if high is None else high]
            case _:
                pass  # no bounds, or malformed ones, which the conversion refuses


def _restore_comparison(content: dict[str, Any]) -> None:
    """Drop the fields derived for other readers, and put back the open ends of bounds and intervals."""
    for name in ("outcome", "exit_code", "sentence"):
        content.pop(name, None)
    _restore_bounds(content)
    for verdict in _verdicts(content):
        interval = verdict.get("interval")
        if interval and interval.get("high", 0) is None:
            interval["high"] = math.inf


_CHANGED = "The file was changed or damaged: restore it from a copy, or"
PEAKS = DocumentKind(
    "list of peaks", tuple[DevicePeak, ...], "`fastvit-bench roofline`", f"{_CHANGED} remove it and measure again."
)
CALIBRATION = DocumentKind("calibration", Calibration, "`fastvit-bench calibrate`", f"{_CHANGED} calibrate again.")
COMPARISON = DocumentKind(
    "comparison",
    Comparison,
    "`fastvit-bench compare` and `gate`",
    f"{_CHANGED} compare again.",
    comparison.SCHEMA,
    _restore_comparison,
)
STUDY = DocumentKind(
    "study",
    StudyResult,
    "`fastvit-bench study`",
    f"{_CHANGED} measure the study again.",
    study.SCHEMA,
    _restore_bounds,
)
_KINDS: tuple[DocumentKind[Any], ...] = (PEAKS, CALIBRATION, COMPARISON, STUDY)


def encoded(content: object) -> bytes:
    """Return a document as indented JSON, which a person can read in an editor."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def write(path: Path, data: bytes, name: str) -> None:
    """Write a document completely or not at all, and create the folders above it.

    `name` is the kind of document in messages. Raises `StoreError` where the disk refuses, and for a document that
    could not be read again.
    """
    for kind in _KINDS:
        if kind.name == name:
            _require_readable(path, data, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data)
    except OSError as error:
        raise StoreError(f"The {name} {path} cannot be written: {error.strerror or error}.") from error


def _require_readable(path: Path, data: bytes, kind: DocumentKind[Any]) -> None:
    """Raise `StoreError` unless a document is read as it is written."""
    try:
        content = json.loads(encoded(_decoded(path, data, kind)))
    except StoreError as error:
        raise StoreError(f"The {kind.name} is not written, since it could not be read again: {error}") from None
    written = json.loads(data)
    if isinstance(written, dict):  # without what was derived for other readers
        written = {name: value for name, value in cast("dict[str, object]", written).items() if name in content}
    if content != written:
        raise StoreError(f"The {kind.name} {path} is not written, since it would be read as another one.")


def read(path: Path, kind: DocumentKind[Content]) -> Content:
    """Return the document in a file; raises `StoreError`, which says what is wrong and what to do."""
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise StoreError(f"The {kind.name} {path} cannot be read: {error.strerror or error}.") from error
    return _decoded(path, data, kind)


def _decoded(path: Path, data: bytes, kind: DocumentKind[Content]) -> Content:
    """Return the document in the content of a file; raises `StoreError`."""
    try:
        content: object = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read, it is no complete JSON ({_reason(error)}). {kind.remedy}") from None
    if kind.schema is not None:
        _check(path, content, kind, kind.schema)
    try:
        if isinstance(content, dict):
            kind.restore(cast("dict[str, Any]", content))
        return msgspec.convert(content, kind.type)
    except (msgspec.MsgspecError, RecursionError, AttributeError, TypeError) as error:
        raise StoreError(f"{path} cannot be read, it is no {kind.name}: {_reason(error)}. {kind.remedy}") from None


def _check(path: Path, content: object, kind: DocumentKind[Any], schema: int) -> None:
    """Raise `StoreError` for a document of another kind or schema."""
    fields = cast("dict[str, object]", content) if isinstance(content, dict) else {}
    if fields.get("document") != kind.name:
        raise StoreError(f"{path} is not a {kind.name}; {kind.writers} writes such files.")
    if (number := fields.get("schema")) != schema and isinstance(number, int):
        writer = "newer" if number > schema else "older"
        raise StoreError(
            f"{path} has schema {number}, this version reads {schema}. Read it with the {writer} fastvit-bench that "
            f"wrote it."
        )


def _reason(error: Exception) -> str:
    return str(error).replace("`", "'").rstrip(".")
