"""The roofline (Williams, Waterman & Patterson, CACM 52(4), 2009): how near each figure comes to what bounds it.

Operational intensity I is FLOP per byte moved. With the peak arithmetic rate P and the memory bandwidth B of the
device, min(P, I * B) is attainable; the ridge P / B is where the bound changes from memory to arithmetic. One
multiply-accumulate is 2 FLOP.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fastvit_bench import backends
from fastvit_bench.records import Artifact, Fuse, Measurement, Peak, Traffic
from fastvit_bench.render.table import Column
from fastvit_bench.report import peaks
from fastvit_bench.report.rows import Row, size_of
from fastvit_bench.report.sheet import (
    NONE,
    Detail,
    Document,
    derived,
    figure_text,
    form,
    legend,
    model_name,
    plain,
    significant,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Point:
    """A figure below the roofs of the device it was measured on."""

    row: Row
    cell: Measurement
    made: Artifact
    traffic: Traffic | None  # None where it was not counted
    peak: Peak | None  # None where nobody measured one

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a batch: of the file that was timed, where it was counted, else of the network."""
        return self.traffic.macs if self.traffic else self.made.macs

    @property
    def params(self) -> int:
        """Likewise."""
        return self.traffic.params if self.traffic else self.made.params

    @property
    def macs_per_s(self) -> float:
        """Multiply-accumulates of the batch over its latency."""
        return self.macs / (self.cell.figure_ms / 1e3)

    @property
    def share(self) -> float | None:
        """Of the peak arithmetic rate."""
        return self.macs_per_s / self.peak.macs_per_s if self.peak else None

    @property
    def intensity(self) -> float | None:
        """FLOP per byte moved."""
        return 2 * self.macs / self.traffic.moved_bytes if self.traffic else None

    @property
    def attainable(self) -> float | None:
        """Multiply-accumulates per second that the roofs allow at this intensity."""
        if self.peak is None or self.intensity is None:
            return None
        return self.peak.attainable(self.intensity)

    @property
    def reached(self) -> float | None:
        """Share of what is attainable; above 1 where caches save what the graph seems to move."""
        return self.macs_per_s / self.attainable if self.attainable else None

    @property
    def bound(self) -> str | None:
        """``arithmetic`` or ``memory``: which roof is the lower one here."""
        if self.peak is None or self.intensity is None:
            return None
        return "memory" if self.intensity < self.peak.ridge else "arithmetic"


def collect(rows: Sequence[Row], held: Sequence[Peak], traffic: Mapping[str, Traffic]) -> list[Point]:
    """A point per measured cell of the networks that were exported here, in the order of rows and sizes.

    `traffic` is by the SHA-256 of the artifact. Of peaks, the one of the same setting and hardware is taken.
    """
    found: list[Point] = []
    for row in rows:
        peak = peaks.nearest(held, row.device, row.machine)
        for cell in row.measured:
            made = cell.artifact
            if isinstance(made, Artifact):
                found.append(Point(row, cell, made, made.traffic or traffic.get(made.sha256 or ""), peak))
    return found


# --- as text ----------------------------------------------------------------------------------------------------------

_RULE = (
    "Attainable: min(arithmetic rate, FLOP/byte x bandwidth / 2); one multiply-accumulate (MAC) is 2 FLOP. Below the "
    "ridge memory is the bound, above it arithmetic."
)
_GRAPH = (
    "Moved: what the nodes of the file read and write, each for itself. What a toolkit fuses or keeps in caches does "
    "not reach memory, so FLOP/byte is a lower bound, and more than 100 % of what is attainable can be reached."
)


def used(points: Sequence[Point], held: Sequence[Peak]) -> list[Peak]:
    """The peaks that points stand below, in their order; without points, all that are held."""
    found = [point.peak for point in points if point.peak]
    return list({id(peak): peak for peak in found}.values()) if points else list(held)


def document(points: Sequence[Point], held: Sequence[Peak]) -> Document:
    """Roofs, then a line per figure; what is not known is a dash."""
    roofs = used(points, held)
    names = _roof_names(roofs)
    rows = list({id(point.row): point.row for point in points}.values())
    marks, conditions = legend(rows)
    details = [_roofs(roofs, names)] if roofs else []
    details += [_figures(points, marks, names)] if points else []
    return Document(
        sheets=[],
        details=details,
        notes=[
            *([_RULE] if roofs else []),
            *([_GRAPH] if any(point.traffic for point in points) else []),
            *(
                f"* {names[id(peak)]}{warning}; measure again on a quiet machine, with --again"
                for peak in roofs
                for warning in peak.warnings
            ),
            *_gaps(points, marks),
            *(f"Peak {names[id(peak)]}measured: {_about(peak)}." for peak in roofs),
            *conditions,
        ],
    )


def _roof_names(roofs: Sequence[Peak]) -> dict[int, str]:
    """What tells several roofs apart, such as ``A: ``; nothing of a single one."""
    if len(roofs) < 2:
        return {id(peak): "" for peak in roofs}
    return {id(peak): f"{_letters(at)}: " for at, peak in enumerate(roofs)}


def _letters(number: int) -> str:
    """A to Z, then AA and on."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def settings(peak: Peak) -> str:
    """Precision and options of a peak: ``onnxruntime, fp32, threads 2``."""
    device = peak.device
    options = [f"{name} {value}" for name, value in sorted(device.options.items()) if value not in ("", -1)]
    return plain(", ".join([device.backend, device.precision, *options]))


def _packages(peak: Peak) -> str:
    packages = backends.narrowed(peak.machine, peak.device).packages
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))


def _about(peak: Peak) -> str:
    facts = [
        f"{settings(peak)}; best of medians of {peak.method.runs} runs in up to {len(peak.memory.best_ns)} processes",
        f"{peak.window} window",
        peak.machine.accelerator or f"{peak.machine.processor}, {peak.machine.processors}",
        _packages(peak),
        peak.finished[:10],
    ]
    return plain("; ".join(fact for fact in facts if fact))


def _roofs(roofs: Sequence[Peak], names: Mapping[int, str]) -> Detail:
    several = len(roofs) > 1
    which = [
        *([Column("roof", [names[id(peak)].rstrip(": ") for peak in roofs])] if several else []),
        Column("setting", [settings(peak) for peak in roofs], wraps=True),
    ]
    marks = ["*" * bool(peak.warnings) for peak in roofs]
    return Detail(
        "Roofs: what the device did at best, measured through its toolkit",
        [
            *which,
            Column(
                "arithmetic GMAC/s",
                [significant(peak.macs_per_s / 1e9, 3) + mark for peak, mark in zip(roofs, marks, strict=True)],
                "right",
            ),
            Column(
                "memory GB/s",
                [significant(peak.bytes_per_s / 1e9, 3) + mark for peak, mark in zip(roofs, marks, strict=True)],
                "right",
            ),
            Column("ridge FLOP/byte", [significant(peak.ridge, 3) for peak in roofs], "right"),
            Column("quickest probe", [peak.best.probe.label for peak in roofs]),
        ],
        len(which),
    )


def _figures(points: Sequence[Point], marks: Mapping[int, str], names: Mapping[int, str]) -> Detail:
    told: dict[str, Callable[[Point], str]] = {
        "form": lambda point: form(point.row) or NONE,
        "fused": lambda point: point.row.fused.value if point.row.fused else NONE,
        "weights": lambda point: plain(point.row.weights.label) if point.row.weights else NONE,
        "precision": lambda point: plain(point.row.precision),
        "batch": lambda point: str(point.row.batch),
        "roof": lambda point: names.get(id(point.peak), "").rstrip(": ") or NONE,
    }
    texts = {title: [text(point) for point in points] for title, text in told.items()}
    which = [
        Column("model", [f"{model_name(point.row)}{marks[id(point.row)]}" for point in points]),
        *(Column(title, cells) for title, cells in texts.items() if len(set(cells)) > 1),
        Column("size", [size_of(point.cell.shape) for point in points], "right"),
    ]
    return Detail(
        "Figures below the roofs, per batch",
        [*which, *(Column(title, [text(each) for each in points], side) for title, (text, side) in _FIGURES.items())],
        len(which),
    )


def _scaled(value: float | None, unit: float) -> str:
    return NONE if value is None else significant(value / unit, 3)


def _share_of(point: Point, most: float | None) -> str:
    """What the figure reaches of a rate, with the digits that its interval supports."""
    return NONE if not most else f"{derived(point.cell, lambda ms: 100 * point.macs / (ms / 1e3) / most)} %"


# heading -> text of a point, and side of the column
_FIGURES: dict[str, tuple[Callable[[Point], str], Any]] = {
    "ms": (lambda each: figure_text(each.cell, each.row.doubts(each.cell)), "right"),
    "params M": (lambda each: _scaled(each.params, 1e6), "right"),
    "GMACs": (lambda each: _scaled(each.macs, 1e9), "right"),
    "weights MB": (lambda each: _scaled(each.traffic and each.traffic.weight_bytes, 1e6), "right"),
    "activations MB": (
        lambda each: _scaled(each.traffic and each.traffic.read_bytes + each.traffic.written_bytes, 1e6),
        "right",
    ),
    "GMAC/s": (lambda each: derived(each.cell, lambda ms: each.macs / ms / 1e6), "right"),
    "of the peak": (lambda each: _share_of(each, each.peak.macs_per_s if each.peak else None), "right"),
    "FLOP/byte": (lambda each: _scaled(each.intensity, 1), "right"),
    "bound by": (lambda each: each.bound or NONE, "left"),
    "attainable GMAC/s": (lambda each: _scaled(each.attainable, 1e9), "right"),
    "of attainable": (lambda each: _share_of(each, each.attainable), "right"),
}


def _gaps(points: Sequence[Point], marks: Mapping[int, str]) -> list[str]:
    """What stands without a roof, without counts, or below a roof of other versions."""

    def labels(chosen: Sequence[Point]) -> str:
        found = list(
            dict.fromkeys(f"{model_name(each.row)} {size_of(each.cell.shape)}{marks[id(each.row)]}" for each in chosen)
        )
        return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")

    notes: list[str] = []
    if without := [point for point in points if point.peak is None]:
        notes.append(f"No peak of that machine and setting is known: {labels(without)}. Run this command there.")
    if uncounted := [point for point in points if point.traffic is None]:
        notes.append(
            f"The file was not counted when it was exported, is not in models/ now, or is of a toolkit whose files are "
            f"not counted: {labels(uncounted)}."
        )
    changed: dict[str, list[Point]] = {}
    for point in points:
        counted = backends.figure_packages(point.row.device)
        if point.peak and (apart := point.peak.machine.differences(point.row.machine, counted)):
            changed.setdefault("; ".join(apart), []).append(point)
    notes += [
        plain(f"Below a peak of other versions ('then' is the figure's, 'now' the peak's: {what}): {labels(those)}.")
        for what, those in changed.items()
    ]
    return notes


# --- for other programs -----------------------------------------------------------------------------------------------


def frame(points: Sequence[Point]) -> "pd.DataFrame":
    """A line per point, every figure in full precision."""
    import pandas as pd

    return pd.DataFrame([_flat(point) for point in points], columns=list(_FLAT))


def csv(points: Sequence[Point], held: Sequence[Peak]) -> str:
    """`frame` as comma-separated values; the roofs stand in each line."""
    return frame(points).to_csv(index=False, lineterminator="\n")


def json(points: Sequence[Point], held: Sequence[Peak]) -> str:
    """The roofs, whole, with what follows from them, and a record per point."""
    roofs = used(points, held)
    found = {
        "peaks": [
            {
                "macs_per_s": peak.macs_per_s,
                "bytes_per_s": peak.bytes_per_s,
                "ridge_flop_per_byte": peak.ridge,
                "warnings": peak.warnings,
                "peak": peak,
            }
            for peak in roofs
        ],
        "points": [_flat(point) for point in points],
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


FORMATS: dict[str, Callable[[Sequence[Point], Sequence[Peak]], str]] = {"csv": csv, "json": json}

# column -> value
_FLAT: dict[str, Callable[[Point], object]] = {
    "model": lambda each: each.row.model,
    "variant": lambda each: each.row.variant,
    "head": lambda each: each.row.head.value if each.row.head else None,
    "fused": lambda each: (each.row.fused or Fuse.FOLDED).value,
    "form": lambda each: form(each.row) or None,
    "weights": lambda each: each.row.weights.label if each.row.weights else None,
    "device": lambda each: each.row.device.name,
    "backend": lambda each: each.row.device.backend,
    "precision": lambda each: each.row.precision,
    "options": lambda each: " ".join(f"{name}={value}" for name, value in sorted(each.row.device.options.items())),
    "size": lambda each: size_of(each.cell.shape),
    "batch": lambda each: each.row.batch,
    "window": lambda each: each.cell.window.value,
    "statistic": lambda each: each.cell.method.statistic.value,
    "latency_ms": lambda each: each.cell.figure_ms,
    "params": lambda each: each.params,
    "macs": lambda each: each.macs,
    "weight_bytes": lambda each: each.traffic.weight_bytes if each.traffic else None,
    "read_bytes": lambda each: each.traffic.read_bytes if each.traffic else None,
    "written_bytes": lambda each: each.traffic.written_bytes if each.traffic else None,
    "macs_per_s": lambda each: each.macs_per_s,
    "share_of_peak": lambda each: each.share,
    "flop_per_byte": lambda each: each.intensity,
    "bound": lambda each: each.bound,
    "attainable_macs_per_s": lambda each: each.attainable,
    "share_of_attainable": lambda each: each.reached,
    "peak_macs_per_s": lambda each: each.peak.macs_per_s if each.peak else None,
    "peak_bytes_per_s": lambda each: each.peak.bytes_per_s if each.peak else None,
    "peak_finished": lambda each: each.peak.finished if each.peak else None,
    "host": lambda each: each.cell.machine.host,
    "machine": lambda each: each.cell.machine.name or None,
    "processor": lambda each: each.row.machine.processor,
    "accelerator": lambda each: each.row.machine.accelerator,
    "finished": lambda each: each.cell.finished,
    "artifact": lambda each: each.made.sha256,
}


def _flat(point: Point) -> dict[str, object]:
    return {column: value(point) for column, value in _FLAT.items()}
