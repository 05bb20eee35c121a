"""The roofline (Williams, Waterman & Patterson, CACM 52(4), 2009): how near each figure comes to what bounds it.

Operational intensity I is FLOP per byte moved. With the peak arithmetic rate P and the memory bandwidth B of the
device, min(P, I * B) is attainable; the ridge P / B is where the bound changes from memory to arithmetic. One
multiply-accumulate is 2 FLOP.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastvit_bench import backends
from fastvit_bench.records import Artifact, Fuse, Measurement, Peak, Traffic
from fastvit_bench.render import data
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import derived, figure_text, plain, significant
from fastvit_bench.report import peaks
from fastvit_bench.report.row_text import form, legend, model_name
from fastvit_bench.report.rows import Row, size_of

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


def report(points: Sequence[Point], held: Sequence[Peak]) -> TableReport:
    """Roofs, then a line per figure; what is not known is a dash."""
    roofs = used(points, held)
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


def _roof_columns(names: Mapping[int, str]) -> list[Column[Peak]]:
    def rate(of: Callable[[Peak], float]) -> Callable[[Peak], str]:
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


def _scaled(of: Callable[[Point], float | None], unit: float) -> Callable[[Point], str]:
    return lambda point: NONE if (value := of(point)) is None else significant(value / unit, 3)


def _share_of(of: Callable[[Point], float | None]) -> Callable[[Point], str]:
    """What the figure reaches of a rate, with the digits that its interval supports."""

    def text(point: Point) -> str:
        most = of(point)
        return NONE if not most else f"{derived(point.cell, lambda ms: 100 * point.macs / (ms / 1e3) / most)} %"

    return text


def _moved(name: str) -> Callable[[Point], int | None]:
    return lambda point: getattr(point.traffic, name) if point.traffic else None


def _activations(point: Point) -> int | None:
    return point.traffic.read_bytes + point.traffic.written_bytes if point.traffic else None


def _columns(marks: Mapping[bytes, str], names: Mapping[int, str]) -> list[Column[Point]]:
    """What is said of a figure below its roof; what tells rows apart is told people where it does."""
    return [
        Column(
            "model",
            "model",
            lambda each: each.row.model,
            lambda each: f"{model_name(each.row)}{marks[each.row.key]}",
            role="key",
        ),
        Column("variant", "", lambda each: each.row.variant),
        Column("head", "", lambda each: each.row.head.value if each.row.head else None),
        Column("form", "form", lambda each: form(each.row) or None, role="key", shown="varied"),
        Column(
            "fused",
            "fused",
            lambda each: (each.row.fused or Fuse.FOLDED).value,
            lambda each: each.row.fused.value if each.row.fused else NONE,
            role="key",
            shown="varied",
        ),
        Column(
            "weights",
            "weights",
            lambda each: each.row.weights.label if each.row.weights else None,
            lambda each: plain(each.row.weights.label) if each.row.weights else NONE,
            role="key",
            shown="varied",
        ),
        Column("device", "", lambda each: each.row.device.name),
        Column("backend", "", lambda each: each.row.device.backend),
        Column(
            "precision",
            "precision",
            lambda each: each.row.precision,
            lambda each: plain(each.row.precision),
            role="key",
            shown="varied",
        ),
        Column(
            "options", "", lambda each: " ".join(f"{name}={of}" for name, of in sorted(each.row.device.options.items()))
        ),
        Column("batch", "batch", lambda each: each.row.batch, role="key", shown="varied"),
        Column(
            "",
            "roof",
            lambda each: names.get(id(each.peak)),
            lambda each: names.get(id(each.peak), "").rstrip(": ") or NONE,
            role="key",
            shown="varied",
        ),
        Column("size", "size", lambda each: size_of(each.cell.shape), align="right", role="key"),
        Column("window", "", lambda each: each.cell.window.value),
        Column("statistic", "", lambda each: each.cell.method.statistic.value),
        Column(
            "latency_ms",
            "ms",
            lambda each: each.cell.figure_ms,
            lambda each: figure_text(each.cell, each.row.doubts(each.cell)),
            align="right",
            role="figure",
        ),
        Column(
            "params",
            "params",
            lambda each: each.params,
            _scaled(lambda each: each.params, 1e6),
            unit="M",
            align="right",
        ),
        Column("macs", "GMACs", lambda each: each.macs, _scaled(lambda each: each.macs, 1e9), align="right"),
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
            lambda each: each.macs_per_s,
            lambda each: derived(each.cell, lambda ms: each.macs / ms / 1e6),
            align="right",
            role="figure",
        ),
        Column(
            "share_of_peak",
            "of the peak",
            lambda each: each.share,
            _share_of(lambda each: each.peak.macs_per_s if each.peak else None),
            align="right",
            role="figure",
        ),
        Column(
            "flop_per_byte",
            "FLOP/byte",
            lambda each: each.intensity,
            _scaled(lambda each: each.intensity, 1),
            align="right",
        ),
        Column("bound", "bound by", lambda each: each.bound),
        Column(
            "attainable_macs_per_s",
            "attainable",
            lambda each: each.attainable,
            _scaled(lambda each: each.attainable, 1e9),
            unit="GMAC/s",
            align="right",
        ),
        Column(
            "share_of_attainable",
            "of attainable",
            lambda each: each.reached,
            _share_of(lambda each: each.attainable),
            align="right",
            role="figure",
        ),
        Column("peak_macs_per_s", "", lambda each: each.peak.macs_per_s if each.peak else None),
        Column("peak_bytes_per_s", "", lambda each: each.peak.bytes_per_s if each.peak else None),
        Column("peak_finished", "", lambda each: each.peak.finished if each.peak else None),
        Column("host", "", lambda each: each.cell.machine.host),
        Column("machine", "", lambda each: each.cell.machine.name or None),
        Column("processor", "", lambda each: each.row.machine.processor),
        Column("accelerator", "", lambda each: each.row.machine.accelerator),
        Column("finished", "", lambda each: each.cell.finished),
        Column("artifact", "", lambda each: each.made.sha256),
    ]


def _gaps(points: Sequence[Point], marks: Mapping[bytes, str]) -> list[str]:
    """What stands without a roof, without counts, or below a roof of other versions."""

    def labels(chosen: Sequence[Point]) -> str:
        found = list(
            dict.fromkeys(f"{model_name(each.row)} {size_of(each.cell.shape)}{marks[each.row.key]}" for each in chosen)
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


def _table(points: Sequence[Point]) -> Table[Point]:
    marks, _ = legend([point.row for point in points])
    return Table(points, _columns(marks, {}))


def frame(points: Sequence[Point]) -> "pd.DataFrame":
    """A line per point, every figure in full precision."""
    return _table(points).frame()


def csv(points: Sequence[Point], held: Sequence[Peak]) -> str:
    """`frame` as comma-separated values; the roofs stand in each line."""
    return data.csv(_table(points))


def json(points: Sequence[Point], held: Sequence[Peak]) -> str:
    """The roofs, whole, with what follows from them, and a record per point."""
    roofs = used(points, held)
    return data.json(
        {
            "peaks": data.records(
                Table(roofs, _roof_columns(_roof_names(roofs))), lambda peak: {"warnings": peak.warnings, "peak": peak}
            ),
            "points": _table(points).records(),
        }
    )


FORMATS: dict[str, Callable[[Sequence[Point], Sequence[Peak]], str]] = {"csv": csv, "json": json}
