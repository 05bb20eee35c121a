"""Reader of files that `trtexec --exportTimes` writes: one entry per query, and nothing on the engine.

The format is that of NVIDIA's samples/common/sampleReporting.cpp. TensorRT 8 before 8.5 includes the queries of the
warm-up and a key ``endToEndMs``; later versions have neither. Times are differences of 32-bit floats, printed with six
digits.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import StoreError
from fastvit_bench.records import Record

WARM_UP_MS = 200  # the default of --warmUp in every version


class Times(Record, frozen=True):
    """The times of the queries after the warm-up, in the order of the file."""

    compute_ns: tuple[int, ...]  # on the GPU, without copies: trtexec's GPU Compute Time
    latency_ns: tuple[int, ...]  # copy to the GPU + compute + copy back, without waiting in between: its Latency
    transfers: bool  # whether anything was copied
    span_ms: float  # from the start of the first query to the end of the last
    warm_up_ms: int  # queries that began earlier were left out
    left_out: int  # how many
    finished: str  # UTC, ISO 8601: when the file was last changed, for it holds no date
    digest: str  # six hex digits over the values of all its queries


class _Query(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of an entry that are read, in milliseconds; all further ones follow from them or are the host's."""

    start_compute_ms: float
    end_compute_ms: float
    compute_ms: float
    latency_ms: float
    h2d_ms: float | None = None
    d2h_ms: float | None = None
    in_ms: float | None = None  # names of the copies in TensorRT 8.0
    out_ms: float | None = None

    @property
    def copies(self) -> tuple[float | None, float | None]:
        """Durations of the copies to the GPU and back, None if missing."""
        return (
            self.h2d_ms if self.h2d_ms is not None else self.in_ms,
            self.d2h_ms if self.d2h_ms is not None else self.out_ms,
        )


def read(path: Path, warm_up_ms: int = WARM_UP_MS) -> Times:
    """Read the times of one run of trtexec; `warm_up_ms` is the value of its --warmUp.

    Raises `StoreError` for a file that is no such file or incomplete, and for times that contradict each other.
    """
    try:
        data = files.read_bytes(path)
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        raise StoreError(f"There is no file {path}; `trtexec --exportTimes=FILE` writes one.") from None
    except OSError as error:
        raise StoreError(f"The file {path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, OverflowError):
        raise StoreError(
            f"The file {path} was changed at a time beyond all calendars, and it holds no date; `touch` it."
        ) from None
    queries = _queries(path, data)
    for number, query in enumerate(queries):
        _check(path, number, query)
    timed = [query for query in queries if query.start_compute_ms >= warm_up_ms]
    if not timed:
        raise StoreError(
            f"All queries of {path} began within {warm_up_ms} ms, and those are its warm-up; if trtexec ran with "
            f"another --warmUp, give it with --warm-up."
        )
    last = max(query.end_compute_ms for query in timed)
    span = last - min(query.start_compute_ms for query in timed)
    computed = sum(query.compute_ms for query in timed)
    if computed > 1.01 * span + _rounding(last):
        raise StoreError(
            f"The queries of {path} overlap on the GPU ({computed:.0f} ms of computing within {span:.0f} ms), as with "
            f"--infStreams: none of them had it alone; run trtexec with one stream."
        )
    return Times(
        compute_ns=tuple(round(query.compute_ms * 1e6) for query in timed),
        latency_ns=tuple(round(query.latency_ms * 1e6) for query in timed),
        # without copies, trtexec writes equal times for their starts and ends
        transfers=any(copy for query in queries for copy in query.copies),
        span_ms=span,
        warm_up_ms=warm_up_ms,
        left_out=len(queries) - len(timed),
        finished=changed.isoformat(timespec="seconds"),
        digest=_digest(queries),
    )


def _refusal(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} is no file of `trtexec --exportTimes` that can be imported: {what}; let trtexec write it again."
    )


def _queries(path: Path, data: bytes) -> list[_Query]:
    try:
        content: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(path, f"it is cut off or not JSON ({error})") from None
    if not isinstance(content, list):
        raise _refusal(path, "it is not a JSON array")
    entries = cast(list[Any], content)
    if not entries:
        raise _refusal(path, "it holds no query")
    if isinstance(entries[0], dict) and set(cast(dict[str, Any], entries[0])) == {"count"}:
        raise _refusal(path, "it is a profile of layers, which --exportProfile writes")
    try:
        return msgspec.convert(entries, list[_Query])
    except (msgspec.ValidationError, RecursionError) as error:
        # "Expected `float`, got `str` - at `$[1].computeMs`"
        what, _, where = str(error).partition(" - at `$")
        place = re.fullmatch(r"\[(\d+)\]\.?(.*)`", where)
        where = f"query {place[1]}{f', {place[2]}' if place[2] else ''}: " if place else ""
        raise _refusal(path, where + what.replace("`", "'")) from None


# --- checks of the times ----------------------------------------------------------------------------------------------

_SHORTEST_MS, _LONGEST_MS = 5e-7, 1e9  # of a query: half a nanosecond, eleven days


def _check(path: Path, number: int, query: _Query) -> None:
    """Raise `StoreError` for a query whose times are out of range or contradict each other."""
    to_gpu, back = query.copies
    if to_gpu is None or back is None:
        raise _refusal(path, f"query {number} has no times of its copies (h2dMs and d2hMs)")
    at_least_zero = {"startComputeMs": query.start_compute_ms, "h2dMs": to_gpu, "d2hMs": back}
    for name, value in at_least_zero.items():
        if not 0 <= value < _LONGEST_MS:  # false for NaN too
            raise _refusal(path, f"{name} of query {number} is {value:g} ms, which is not a time")
    for name, value in {"computeMs": query.compute_ms, "latencyMs": query.latency_ms}.items():
        if not _SHORTEST_MS < value < _LONGEST_MS:
            raise _refusal(path, f"{name} of query {number} is {value:g} ms, which is not a duration")
    rounding = _rounding(query.end_compute_ms)
    if not abs(query.end_compute_ms - query.start_compute_ms - query.compute_ms) <= rounding:
        raise _refusal(path, f"computeMs of query {number} is not from its start to its end; it was changed")
    if not abs(to_gpu + query.compute_ms + back - query.latency_ms) <= _rounding(query.latency_ms):
        raise _refusal(path, f"latencyMs of query {number} is not the sum of its parts; it was changed")


def _rounding(value: float) -> float:
    """Return the rounding error of sums of numbers up to `value`, in milliseconds, each printed with six digits."""
    return 2e-5 * abs(value) + 1e-6


def _digest(queries: list[_Query]) -> str:
    import hashlib  # not at the top, because `--help` would wait for OpenSSL

    return hashlib.sha256(msgspec.json.encode(queries)).hexdigest()[:6]
