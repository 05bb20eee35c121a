"""Ratios of figures to those of one model that was measured alike."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fastvit_bench.errors import NotComparableError, UsageError
from fastvit_bench.records import Interval, Measurement, Shape
from fastvit_bench.render.rows import Row

HOW = (
    "at least 95 %: the intervals of both figures at 97.5 % (order statistics of a median, Student's t over the rounds "
    "of a mean), divided end by opposite end"
)

BOTH = 0.975  # confidence of two intervals that hold both figures at once with 95 %

Key = tuple[bytes, Shape | None]  # of a row, and a size


@dataclass(frozen=True)
class Ratio:
    """A model's figure over the reference's: 1.05 is 5 % slower."""

    value: float
    interval: Interval | None  # of the ratio (not milliseconds); None where a figure has none
    is_reference: bool = False


def against(rows: Sequence[Row], model: str) -> dict[Key, Ratio]:
    """Return the ratio of every figure to the model's that was measured alike, where there is one.

    Alike are rows of one device, machine, method, window, toolkit, batch, precision, head, fuse level and form, at the
    same size. Of several such rows of the model one with the same weights is taken, else the newest. Raises
    `UsageError` when the model has no row, `NotComparableError` when nothing was measured as it was.
    """
    known = {row.model: None for row in rows if row.measured}
    if model not in known:
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.4) or list(known)[:3]
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise UsageError(f"The reference '{model}' was not measured in these runs, so it has no row.{hint}")
    references: dict[bytes, list[Row]] = {}
    for row in rows:
        if row.model == model:
            references.setdefault(alike(row), []).append(row)
    ratios: dict[Key, Ratio] = {}
    others = False
    for row in rows:
        for cell in row.measured:
            bases = [
                (row.weights == reference.weights, base.finished, at, base)
                for at, reference in enumerate(references.get(alike(row), ()))
                if isinstance(base := reference.cells.get(cell.shape), Measurement)
            ]
            if row.model == model:
                bases = [candidate for candidate in bases if candidate[3] is cell] or bases
            if bases:
                base = max(bases, key=lambda candidate: candidate[:3])[3]
                ratios[row.key, cell.shape] = ratio(cell, base)
                others = others or row.model != model
    if not others and len(known) > 1:
        raise NotComparableError(
            f"Nothing else was measured as the reference '{model}' was: on the same device and machine, by the same "
            f"method, at the same size, batch and precision. Measure them together."
        )
    return ratios


def ratio(cell: Measurement, base: Measurement) -> Ratio:
    """Return one figure over another, with an interval that covers the ratio at least 95 % of the time.

    By Bonferroni's inequality, both figures lie within their 97.5 % intervals at once at least 95 % of the time. Then
    their ratio lies between the quotients of opposite ends.
    """
    value = cell.figure_ms / base.figure_ms
    if cell is base:
        return Ratio(1.0, None, is_reference=True)
    above, below = cell.figure_interval_ms(BOTH), base.figure_interval_ms(BOTH)
    if above is None or below is None:
        return Ratio(value, None)
    return Ratio(value, Interval(low=above.low / below.high, high=above.high / below.low, confidence=0.95))


def alike(row: Row) -> bytes:
    """Return a key that is equal for rows whose figures may be divided by one another."""
    device = (row.device.name, row.device.backend, row.device.options)
    way = (row.method, row.window, row.pacing, row.clock, row.toolkit)
    network = (row.head, row.fused, row.form)
    return msgspec.json.encode((device, row.machine, way, row.batch, row.precision, network), order="sorted")
