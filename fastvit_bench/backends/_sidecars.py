"""Read the JSON files that this tool writes beside exported files, engines and timing caches."""

from pathlib import Path
from typing import TypeVar

import msgspec

from fastvit_bench import files
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Record

Kind = TypeVar("Kind", bound=Record)

LIMIT = 16 << 20  # bytes of a side-car; the largest have a few thousand


def read(path: Path, kind: type[Kind]) -> Kind:
    """Return the record in a side-car.

    Raises `FileNotFoundError` where there is none, and `UsageError`, in one sentence, for any that cannot be read.
    """
    try:
        return decode(files.read_bytes(path, LIMIT), kind)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}.") from None


def decode(data: bytes, kind: type[Kind]) -> Kind:
    """Return the record in the content of a side-car. Raises `ValueError` for every other content."""
    try:
        record = msgspec.json.decode(data, type=kind)
        msgspec.json.encode(record)  # JSON may hold numbers that records are never written with
    except (ValueError, RecursionError, OverflowError) as error:  # msgspec's errors are ValueErrors
        raise ValueError(first_line(error)) from None
    return record
