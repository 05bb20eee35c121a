"""The roofline (Williams, Waterman & Patterson, CACM 52(4), 2009): how near each figure comes to what bounds it.

Operational intensity I is FLOP per byte moved. With the peak arithmetic rate P and the memory bandwidth B of the
device, min(P, I * B) is attainable; the ridge P / B is where the bound changes from memory to arithmetic. One
multiply-accumulate is 2 FLOP.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fastvit_bench import backends
from fastvit_bench.records import Artifact, DevicePeak, Measurement, Traffic
from fastvit_bench.render import data
from fastvit_bench.render.row_text import legend, model_name, variant_label
from fastvit_bench.render.rows import Row, size_of
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import derived, figure_text, printable, significant
from fastvit_bench.store import peaks

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RooflinePoint:
    """A figure below the roofs of the device it was measured on."""

    row: Row
    cell: Measurement
    artifact: Artifact
    traffic: Traffic | None  # None where it was not counted
    peak: DevicePeak | None  # None where none was measured

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a batch: of the timed file, where it was counted, otherwise of the network."""
        return self.traffic.macs if self.traffic else self.artifact.macs

    @property
    def params(self) -> int:
        """Parameters of the timed file, where it was counted, otherwise of the network."""
        return self.traffic.params if self.traffic else self.artifact.params

    @functools.cached_property
    def macs_per_s(self) -> float:
        """Multiply-accumulates per second: those of the batch over its latency."""
        return self.macs / (self.cell.figure_ms / 1e3)

    @property
    def share(self) -> float | None:
        """Share of the peak arithmetic rate; None without a peak."""
        return self.macs_per_s / self.peak.macs_per_s if self.peak else None

    @functools.cached_property
    def intensity(self) -> float | None:
        """Operational intensity in FLOP per byte moved; None where the file was not counted."""
        return 2 * self.macs / self.traffic.moved_bytes if self.traffic else None

    @functools.cached_property
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
        """The lower roof at this intensity: ``arithmetic`` or ``memory``; None where it is unknown."""
        if self.peak is None or self.intensity is None:
            return None
        return "memory" if self.intensity < self.peak.ridge else "arithmetic"


def collect(
    rows: Sequence[Row], device_peaks: Sequence[DevicePeak], traffic: Mapping[str, Traffic]
) -> list[RooflinePoint]:
    """Return a point per measured cell of exported networks, in the order of rows and sizes.

    `traffic` is by the SHA-256 of the artifact. A point gets the peak of the same setting and hardware.
    """
    points: list[RooflinePoint] = []
    nearest: dict[bytes, DevicePeak | None] = {}  # by device and machine, which many rows share
    for row in rows:
        where = msgspec.json.encode((row.device, row.machine))
        if where not in nearest:
            nearest[where] = peaks.nearest(device_peaks, row.device, row.machine)
        peak = nearest[where]
        for cell in row.measured:
            artifact = cell.artifact
            if isinstance(artifact, Artifact):
                points.append(
                    RooflinePoint(row, cell, artifact, artifact.traffic or traffic.get(artifact.sha256 or ""), peak)
                )
    return points


# --- as text ----------------------------------------------------------------------------------------------------------

_RULE = (
    "Attainable: min(arithmetic rate, FLOP/byte x bandwidth / 2); one multiply-accumulate (MAC) is 2 FLOP. Below the "
    "ridge memory is the bound, above it arithmetic."
)
_GRAPH = (
    "Moved: what the nodes of the file read and write, each for itself. What a toolkit fuses or keeps in caches does "
    "not reach memory, so FLOP/byte is a lower bound, and more than 100 % of what is attainable can be reached."
)


def used(points: Sequence[RooflinePoint], device_peaks: Sequence[DevicePeak]) -> list[DevicePeak]:
    """Return the peaks that points refer to, in their order; without points, all `device_peaks`."""
    roofs = [point.peak for point in points if point.peak]
    return list({id(peak): peak for peak in roofs}.values()) if points else list(device_peaks)


def report(points: Sequence[RooflinePoint], device_peaks: Sequence[DevicePeak]) -> TableReport:
    """Return the table of roofs and a table with a line per figure; unknown values are a dash."""
    roofs = used(points, device_peaks)
    names = _roof_names(roofs)
    rows = list({point.row.key: point.row for point in points}.values())
    marks, conditions = legend(rows)
    tables: list[Table[Any]] = []
    if roofs:
        title = "Roofs: what the device did at best, measured through its toolkit"
        tables.append(Table(roofs, _roof_columns(names), title))
    if points:
        tables.append(Table(points, _columns(marks, names), "Figures below the roofs, per batch"))
    return TableReport(
        tables=tables,
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


def _roof_names(roofs: Sequence[DevicePeak]) -> dict[int, str]:
    """Return prefixes that distinguish several roofs, such as ``A: ``; an empty one for a single roof."""
    if len(roofs) < 2:
        return {id(peak): "" for peak in roofs}
    return {id(peak): f"{_letters(at)}: " for at, peak in enumerate(roofs)}


def _letters(number: int) -> str:
    """Return the letters of a number from 0: A to Z, then AA and on."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def settings(peak: DevicePeak) -> str:
    """Return the backend, precision and options of a peak: ``onnxruntime, fp32, threads 2``."""
    device = peak.device
    options = [f"{name} {value}" for name, value in sorted(device.options.items()) if value not in ("", -1)]
    return printable(", ".join([device.backend, device.precision, *options]))


def _packages(peak: DevicePeak) -> str:
    packages = backends.narrowed(peak.machine, peak.device).packages
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))


def _about(peak: DevicePeak) -> str:
    facts = [
        f"{settings(peak)}; best of medians of {peak.method.runs} runs in up to {len(peak.memory.best_ns)} processes",
        f"{peak.window} window",
        peak.machine.accelerator or f"{peak.machine.processor}, {peak.machine.processors}",
        _packages(peak),
        peak.finished[:10],
    ]
    return printable("; ".join(fact for fact in facts if fact))


def _roof_columns(names: Mapping[int, str]) -> list[Column[DevicePeak]]:
    def rate(of: Callable[[DevicePeak], float]) -> Callable[[DevicePeak], str]:
        return lambda peak: significant(of(peak) / 1e9, 3) + "*" * bool(peak.warnings)

    return [
        Column("roof", "roof", lambda peak: names[id(peak)].rstrip(": ") or None, role="key", shown="filled"),
        Column("setting", "setting", settings, role="key", wraps=True),
        Column(
            "macs_per_s",
            "arithmetic",
            lambda peak: peak.macs_per_s,
            rate(lambda peak: peak.macs_per_s),
            unit="GMAC/s",
            align="right",
            role="figure",
        ),
        Column(
            "bytes_per_s",
            "memory",
            lambda peak: peak.bytes_per_s,
            rate(lambda peak: peak.bytes_per_s),
            unit="GB/s",
            align="right",
            role="figure",
        ),
        Column(
            "ridge_flop_per_byte",
            "ridge",
            lambda peak: peak.ridge,
            lambda peak: significant(peak.ridge, 3),
            unit="FLOP/byte",
            align="right",
        ),
        Column("probe", "quickest probe", lambda peak: peak.best.probe.label),
    ]


def _scaled(of: Callable[[RooflinePoint], float | None], unit: float) -> Callable[[RooflinePoint], str]:
    return lambda point: NONE if (value := of(point)) is None else significant(value / unit, 3)


def _share_of(of: Callable[[RooflinePoint], float | None]) -> Callable[[RooflinePoint], str]:
    """Return a formatter of the share of a rate that a figure reaches, with the digits that its interval supports."""

    def text(point: RooflinePoint) -> str:
        most = of(point)
        return NONE if not most else f"{derived(point.cell, lambda ms: 100 * point.macs / (ms / 1e3) / most)} %"

    return text


def _moved(name: str) -> Callable[[RooflinePoint], int | None]:
    return lambda point: getattr(point.traffic, name) if point.traffic else None


def _activations(point: RooflinePoint) -> int | None:
    return point.traffic.read_bytes + point.traffic.written_bytes if point.traffic else None


def _of_row(of: Callable[[Row], object]) -> Callable[[RooflinePoint], object]:
    """Return a function of points that evaluates one of rows once for the points of a row, which follow each other."""
    last: list[tuple[Row, object]] = []

    def value(point: RooflinePoint) -> object:
        if not last or last[0][0] is not point.row:
            last[:] = [(point.row, of(point.row))]
        return last[0][1]

    return value


# long: the declaration of the table's columns
def _columns(marks: Mapping[bytes, str], names: Mapping[int, str]) -> list[Column[RooflinePoint]]:
    """Return the columns of a figure below its roof; people see settings of rows only where they differ."""
    return [
        Column(
            "model",
            "model",
            lambda point: point.row.model,
            lambda point: f"{model_name(point.row)}{marks[point.row.key]}",
            role="key",
        ),
        Column("variant", "", lambda point: point.row.variant),
        Column("head", "", lambda point: point.row.head.value if point.row.head else None),
        Column("form", "form", _of_row(lambda row: variant_label(row) or None), role="key", shown="varied"),
        Column(
            "fused",
            "fused",
            lambda point: point.row.fused.value if point.row.fused else None,
            lambda point: point.row.fused.value if point.row.fused else NONE,
            role="key",
            shown="varied",
        ),
        Column(
            "weights",
            "weights",
            lambda point: point.row.weights.label if point.row.weights else None,
            lambda point: printable(point.row.weights.label) if point.row.weights else NONE,
            role="key",
            shown="varied",
        ),
        Column("device", "", lambda point: point.row.device.name),
        Column("backend", "", lambda point: point.row.device.backend),
        Column(
            "precision",
            "precision",
            lambda point: point.row.precision,
            lambda point: printable(point.row.precision),
            role="key",
            shown="varied",
        ),
        Column(
            "options",
            "",
            _of_row(lambda row: " ".join(f"{name}={of}" for name, of in sorted(row.device.options.items()))),
        ),
        Column("batch", "batch", lambda point: point.row.batch, role="key", shown="varied"),
        Column(
            "",
            "roof",
            lambda point: names.get(id(point.peak)),
            lambda point: names.get(id(point.peak), "").rstrip(": ") or NONE,
            role="key",
            shown="varied",
        ),
        Column("size", "size", lambda point: size_of(point.cell.shape), align="right", role="key"),
        Column("window", "", lambda point: point.cell.window.value),
        Column("statistic", "", lambda point: point.cell.method.statistic.value),
        Column(
            "latency_ms",
            "ms",
            lambda point: point.cell.figure_ms,
            lambda point: figure_text(point.cell, point.row.doubts(point.cell)),
            align="right",
            role="figure",
        ),
        Column(
            "params",
            "params",
            lambda point: point.params,
            _scaled(lambda point: point.params, 1e6),
            unit="M",
            align="right",
        ),
        Column("macs", "GMACs", lambda point: point.macs, _scaled(lambda point: point.macs, 1e9), align="right"),
        Column(
            "weight_bytes",
            "weights",
            _moved("weight_bytes"),
            _scaled(_moved("weight_bytes"), 1e6),
            unit="MB",
            align="right",
        ),
        Column("", "activations", _activations, _scaled(_activations, 1e6), unit="MB", align="right"),
        Column("read_bytes", "", _moved("read_bytes")),
        Column("written_bytes", "", _moved("written_bytes")),
        Column(
            "macs_per_s",
            "GMAC/s",
            lambda point: point.macs_per_s,
            lambda point: derived(point.cell, lambda ms: point.macs / ms / 1e6),
            align="right",
            role="figure",
        ),
        Column(
            "share_of_peak",
            "of the peak",
            lambda point: point.share,
            _share_of(lambda point: point.peak.macs_per_s if point.peak else None),
            align="right",
            role="figure",
        ),
        Column(
            "flop_per_byte",
            "FLOP/byte",
            lambda point: point.intensity,
            _scaled(lambda point: point.intensity, 1),
            align="right",
        ),
        Column("bound", "bound by", lambda point: point.bound),
        Column(
            "attainable_macs_per_s",
            "attainable",
            lambda point: point.attainable,
            _scaled(lambda point: point.attainable, 1e9),
            unit="GMAC/s",
            align="right",
        ),
        Column(
            "share_of_attainable",
            "of attainable",
            lambda point: point.reached,
            _share_of(lambda point: point.attainable),
            align="right",
            role="figure",
        ),
        Column("peak_macs_per_s", "", lambda point: point.peak.macs_per_s if point.peak else None),
        Column("peak_bytes_per_s", "", lambda point: point.peak.bytes_per_s if point.peak else None),
        Column("peak_finished", "", lambda point: point.peak.finished if point.peak else None),
        Column("host", "", lambda point: point.cell.machine.host),
        Column("machine", "", lambda point: point.cell.machine.name or None),
        Column("processor", "", lambda point: point.row.machine.processor),
        Column("accelerator", "", lambda point: point.row.machine.accelerator),
        Column("finished", "", lambda point: point.cell.finished),
        Column("artifact", "", lambda point: point.artifact.sha256),
    ]


def _gaps(points: Sequence[RooflinePoint], marks: Mapping[bytes, str]) -> list[str]:
    """Return sentences on points without a roof, without counts, or below a roof of other versions."""

    def labels(chosen: Sequence[RooflinePoint]) -> str:
        names = list(
            dict.fromkeys(
                f"{model_name(point.row)} {size_of(point.cell.shape)}{marks[point.row.key]}" for point in chosen
            )
        )
        return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")

    notes: list[str] = []
    if without := [point for point in points if point.peak is None]:
        notes.append(f"No peak of that machine and setting is known: {labels(without)}. Run this command there.")
    if uncounted := [point for point in points if point.traffic is None]:
        notes.append(
            f"The file was not counted when it was exported, is not in models/ now, or is of a toolkit whose files are "
            f"not counted: {labels(uncounted)}."
        )
    changed: dict[str, list[RooflinePoint]] = {}
    for point in points:
        counted = backends.figure_packages(point.row.device)
        if point.peak and (apart := point.peak.machine.differences(point.row.machine, counted)):
            changed.setdefault("; ".join(apart), []).append(point)
    notes += [
        printable(
            f"Below a peak of other versions ('then' is the figure's, 'now' the peak's: {what}): {labels(figures)}."
        )
        for what, figures in changed.items()
    ]
    return notes


# --- for other programs -----------------------------------------------------------------------------------------------


def _table(points: Sequence[RooflinePoint]) -> Table[RooflinePoint]:
    return Table(points, _columns({}, {}))  # marks and names of roofs are for people


def frame(points: Sequence[RooflinePoint]) -> "pd.DataFrame":
    """Return a data frame with a line per point, every figure in full precision."""
    return _table(points).frame()


def csv(points: Sequence[RooflinePoint], device_peaks: Sequence[DevicePeak]) -> str:
    """Return `frame` as comma-separated values; each line contains its roof."""
    return data.csv(_table(points))


def json(points: Sequence[RooflinePoint], device_peaks: Sequence[DevicePeak]) -> str:
    """Return JSON with the complete roofs, the values derived from them, and a record per point."""
    roofs = used(points, device_peaks)
    return data.json(
        {
            "peaks": list(
                data.records(
                    Table(roofs, _roof_columns(_roof_names(roofs))),
                    lambda peak: {"warnings": peak.warnings, "peak": peak},
                )
            ),
            "points": _table(points).records(),
        }
    )


FORMATS: dict[str, Callable[[Sequence[RooflinePoint], Sequence[DevicePeak]], str]] = {"csv": csv, "json": json}
