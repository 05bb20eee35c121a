"""A comparison as Bencher Metric Format and as input of github-action-benchmark."""

import msgspec

from fastvit_bench.comparing.formats._cells import cell_names, new_range
from fastvit_bench.comparing.phrases import change, margin, span
from fastvit_bench.records.comparison import Comparison
from fastvit_bench.store import documents

# --- Bencher ----------------------------------------------------------------------------------------------------------


class _Latency(msgspec.Struct, forbid_unknown_fields=True):
    """A latency in nanoseconds, with the ends of its interval where it has one."""

    value: float
    lower_value: float | None = None
    upper_value: float | None = None


class Benchmark(msgspec.Struct, forbid_unknown_fields=True):
    """The figures of one benchmark, as `bmf` writes them."""

    latency: _Latency


BENCHER_NAME = 1024  # bytes that the name of a benchmark may have (bencher.dev, `BenchmarkName`)


def bmf(comparison: Comparison) -> bytes:
    """Encode the new side's latencies in nanoseconds as Bencher Metric Format.

    Source: bencher.dev/docs/reference/bencher-metric-format.
    """
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    cells = [cell for cell in comparison.cells if cell.head_ms is not None]
    for name, cell in zip(cell_names(cells, BENCHER_NAME), cells, strict=True):
        latency = {"value": round(1e6 * (cell.head_ms or 0.0), 3)}
        if ends := new_range(cell):
            latency |= {"lower_value": round(1e6 * ends[0], 3), "upper_value": round(1e6 * ends[1], 3)}
        benchmarks[name] = {"latency": latency}
    return documents.encoded(benchmarks)


# --- github-action-benchmark ------------------------------------------------------------------------------------------


class ActionEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One entry, as `github_action_benchmark` writes it."""

    name: str
    unit: str
    value: float
    extra: str
    range: str | None = None


def github_action_benchmark(comparison: Comparison) -> bytes:
    """Encode the new side's milliseconds as ``customSmallerIsBetter`` of benchmark-action/github-action-benchmark.

    Its ``range`` has one figure for both directions: the distance to the farther end of the interval.
    """
    entries: list[dict[str, object]] = []
    cells = [cell for cell in comparison.cells if cell.head_ms is not None]
    for name, cell in zip(cell_names(cells), cells, strict=True):
        value = cell.head_ms or 0.0
        entry: dict[str, object] = {"name": name, "unit": "ms", "value": round(value, 9)}
        if ends := new_range(cell):
            entry["range"] = f"± {max(value - ends[0], ends[1] - value):.3g}"
        base = f"base {cell.base_ms:.4g} ms, " if cell.base_ms is not None else ""
        summary = f"{cell.verdict.outcome.value}: {base}{change(cell.verdict)} {span(cell.verdict.interval)}".rstrip()
        entry["extra"] = f"{summary}\nmargin {margin(cell.verdict)}, {cell.verdict.blocks} blocks"
        entries.append(entry)
    return documents.encoded(entries)
