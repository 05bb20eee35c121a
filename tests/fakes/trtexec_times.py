"""Files as `trtexec --exportTimes` writes them: 32-bit floats with six digits, spaces around the colons."""

import struct
from collections.abc import Sequence
from pathlib import Path

NOW = ("startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs", "endD2hMs")
NOW_TIMES = ("h2dMs", "computeMs", "d2hMs", "latencyMs")
BEFORE = ("startEnqMs", "endEnqMs", "startInMs", "endInMs", "startComputeMs", "endComputeMs", "startOutMs", "endOutMs")
BEFORE_TIMES = ("inMs", "computeMs", "outMs", "latencyMs", "endToEndMs")  # of TensorRT 8.0


def single(value: float) -> float:
    """As a 32-bit float."""
    return struct.unpack("f", struct.pack("f", value))[0]


def queries(
    compute_ms: Sequence[float], *, copy_ms: tuple[float, float] = (0.05, 0.002), begin_ms: float = 200.5
) -> list[dict[str, float]]:
    """One after the other with a microsecond in between; without copies their events are those of the computing."""
    found: list[dict[str, float]] = []
    at = begin_ms
    for took in compute_ms:
        ends = [at - copy_ms[0] - 0.02, at - copy_ms[0] - 0.01, at - copy_ms[0], at, at, at + took, at + took]
        moments = [single(each) for each in (*ends, at + took + copy_ms[1])]
        parts = [single(moments[i + 1] - moments[i]) for i in (2, 4, 6)]
        values = (*moments, *parts, single(sum(parts)))
        found.append(dict(zip((*NOW, *NOW_TIMES), values, strict=True)))
        at += took + 0.001
    return found


def text(found: Sequence[dict[str, float]]) -> str:
    """The array, an entry per line, as a C++ stream prints it."""
    lines = [", ".join(f'"{name}" : {value:g}' for name, value in query.items()) for query in found]
    lines = [f"{', ' if number else '  '}{{ {line} }}" for number, line in enumerate(lines)]
    return "\n".join(["[", *lines, "]", ""])


def before(found: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The same under the names of TensorRT 8.0, which also told a time end to end."""
    return [
        dict(zip((*BEFORE, *BEFORE_TIMES), (*query.values(), query["endD2hMs"] - query["startH2dMs"]), strict=True))
        for query in found
    ]


def write(path: Path, found: Sequence[dict[str, float]]) -> Path:
    path.write_text(text(found), encoding="utf-8")
    return path
