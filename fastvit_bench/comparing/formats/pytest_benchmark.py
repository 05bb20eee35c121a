"""A comparison as a file of pytest-benchmark."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import cast

from fastvit_bench.comparing.formats._cells import cell_names
from fastvit_bench.records.comparison import CellResult, Comparison
from fastvit_bench.render.text import printable
from fastvit_bench.stats.intervals import mean, median, quantile
from fastvit_bench.store import documents

# --- pytest-benchmark -------------------------------------------------------------------------------------------------

PYTEST_BENCHMARK = "5.1.0"  # the version whose file format this is


def pytest_benchmark(comparison: Comparison) -> bytes:
    """Encode a comparison as ``pytest --benchmark-json`` does: a group per cell with both sides, a round per block."""
    machine, device, turns = comparison.machine, comparison.device, comparison.plan.turns
    cells = [cell for cell in comparison.cells if _blocks_ms(cell)]
    where = f"{printable(device.name)}.{printable(device.backend)}.{printable(device.precision)}"
    return documents.encoded(
        {
            "machine_info": {
                "node": machine.name or machine.host,
                "processor": machine.processor,
                "machine": machine.os,
                "python_version": machine.python or "",
                "system": machine.os.partition(" ")[0],
                "release": machine.os,
                "cpu": {"brand_raw": machine.processor, "count": machine.cores, "quota": machine.quota},
                "accelerator": machine.accelerator,
                "driver": machine.driver,
                "packages": machine.packages,
            },
            "commit_info": {
                "id": comparison.commit or "unversioned",
                "time": None,
                "author_time": None,
                "dirty": comparison.dirty,
                "project": "fastvit-bench",
                "branch": "(unknown)",
            },
            "benchmarks": [
                {
                    "group": name,
                    "name": f"{name}[{side}]",
                    "fullname": f"{where}::{name}[{side}]",
                    "params": {"side": side},
                    "param": side,
                    "extra_info": {
                        "label": comparison.base if side == "base" else comparison.head,
                        "verdict": cell.verdict.outcome.value,
                        "ratio": cell.verdict.ratio,
                    },
                    "options": {"disable_gc": True, "timer": "", "min_rounds": 1, "max_time": 0.0, "warmup": True},
                    "stats": _stats([value / 1e3 for value in values], turns.turns * turns.runs),
                }
                for name, cell in zip(cell_names(cells), cells, strict=True)
                for side, values in _blocks_ms(cell).items()
            ],
            "datetime": comparison.finished,
            "version": PYTEST_BENCHMARK,
        }
    )


def _blocks_ms(cell: CellResult) -> dict[str, list[float]]:
    """Return side -> milliseconds: the medians of its counted blocks, or its one figure if it has no blocks."""
    counted = [block for block in cell.blocks if not block.replaced]
    sides: dict[str, list[float]] = {}
    for side, figure in (("base", cell.base_ms), ("head", cell.head_ms)):
        values = [getattr(block, f"{side}_ms") for block in counted]
        if values or figure is not None:
            sides[side] = values or [cast("float", figure)]
    return sides


def _stats(data: Sequence[float], iterations: int) -> dict[str, object]:
    """Return statistics of seconds by pytest-benchmark's names.

    Quartiles are interpolated, fences are Tukey's (1.5 × IQR).
    """
    ordered = sorted(data)
    q1, q3 = quantile(ordered, 0.25), quantile(ordered, 0.75)
    spread = q3 - q1
    average = mean(ordered)
    deviation = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    far = _outside(ordered, average - deviation, average + deviation)
    fenced = [value for value in ordered if q1 - 1.5 * spread <= value <= q3 + 1.5 * spread] or ordered
    beyond = len(ordered) - len(fenced)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": average,
        "stddev": deviation,
        "rounds": len(ordered),
        "median": median(ordered),
        "iqr": spread,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond,
        "stddev_outliers": far,
        "outliers": f"{far};{beyond}",
        "ld15iqr": fenced[0],
        "hd15iqr": fenced[-1],
        "ops": 1 / average,
        "total": math.fsum(ordered),
        "data": list(data),
        "iterations": iterations,
    }


def _outside(values: Iterable[float], low: float, high: float) -> int:
    return sum(not low <= value <= high for value in values)
