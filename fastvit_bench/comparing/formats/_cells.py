"""Names and ranges of cells that several formats share."""

import hashlib
import math
from collections.abc import Sequence

from fastvit_bench.records.comparison import CellResult, Verdict
from fastvit_bench.render.text import printable


def cell_names(cells: Sequence[CellResult], most: int | None = None) -> list[str]:
    """Return a printable name per cell, none empty and none twice, each of at most `most` bytes.

    A longer name is cut and ends with digits of its digest. So two long names stay distinct, and each is the same in
    every comparison.
    """
    taken: set[str] = set()
    names: list[str] = []
    for cell in cells:
        name = usual = _cut(printable(cell.name) or "unnamed", most)
        number = 1
        while name in taken:
            number += 1
            name = _cut(f"{usual} ({number})", most)
        taken.add(name)
        names.append(name)
    return names


def _cut(name: str, most: int | None) -> str:
    data = name.encode()
    if most is None or len(data) <= most:
        return name
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: most - 9].decode(errors='ignore')}~{digest}"


def new_range(cell: CellResult) -> tuple[float, float] | None:
    """Return the 95 % interval of the new side's milliseconds, the base taken as exact; None without figures.

    It is the new side's figure, scaled by the ends of the ratio's interval over the ratio. Base × interval would differ
    where a stored base is corrected by a reference workload, and slightly for medians of blocks. The result is widened
    to include the figure.
    """
    verdict = cell.verdict
    if cell.head_ms is None or not verdict.ratio or verdict.interval is None:
        return None
    ends = [cell.head_ms * end / verdict.ratio for end in (verdict.interval.low, verdict.interval.high)]
    if not all(map(math.isfinite, ends)):
        return None
    return min(ends[0], cell.head_ms), max(ends[1], cell.head_ms)


def details(verdict: Verdict, cell: CellResult | None) -> dict[str, str]:
    """Return the known facts of a cell as label -> text, figures in full precision."""
    known = {
        "verdict": verdict.outcome.value,
        "reason": verdict.reason,
        "base_ms": cell.base_ms if cell else None,
        "head_ms": cell.head_ms if cell else None,
        "ratio": verdict.ratio,
        "interval": f"{verdict.interval.low!r} to {verdict.interval.high!r}" if verdict.interval else None,
        "margin": verdict.margin,
        "blocks": verdict.blocks,
        "detectable": verdict.detectable,
        "base": cell.base.label if cell and cell.base else None,
        "head": cell.head.label if cell and cell.head else None,
    }
    return {label: str(value) for label, value in known.items() if value is not None}
