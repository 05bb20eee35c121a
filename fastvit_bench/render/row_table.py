"""Measurements as tables: a line per model and setting, a column per image size, published figures apart."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends._text import normalisation
from fastvit_bench.paper import published
from fastvit_bench.paper.published import Figure, Published
from fastvit_bench.records import (
    Accuracy,
    Artifact,
    CallPattern,
    ExternalModel,
    Failure,
    Measurement,
    RankedClasses,
    Shape,
    Share,
    Statistic,
)
from fastvit_bench.render import data, terminal
from fastvit_bench.render import latex as latex_tables
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.cell_table import (
    ON_DEMAND,
    CellLine,
    Marks,
    applicable,
    by_block,
    details,
    layers,
    milliseconds,
    on_demand,
)
from fastvit_bench.render.row_text import (
    FAILED,
    STATISTICS,
    brief_legend,
    label,
    legend,
    live_row,
    model_name,
    variant_label,
)
from fastvit_bench.render.rows import REFERENCE_SIZE, Row, newest, size_of, sizes_of
from fastvit_bench.render.table import NONE, Column, Table, TableReport, chosen, equal_columns, without
from fastvit_bench.render.text import (
    NOT_COMPARED_NOTE,
    by_kind,
    compared,
    figure_text,
    percent,
    preparation_value,
    printable,
    significant,
    some,
)

if TYPE_CHECKING:  # both take longer to import than `--help` may
    import pandas as pd
    from rich.console import Group

__all__ = [
    "EMPTY",
    "FORMATS",
    "REPORTS",
    "TableExtras",
    "choose",
    "compact",
    "csv",
    "frame",
    "in_short",
    "json",
    "latex",
    "live_row",
    "markdown",
    "report",
    "rich",
]

EMPTY = "No measurements."
RANDOM = "random weights"
PUBLISHED_TOP1 = "published top-1 % (not distilled)"  # as in the paper's table of accuracy and latency
Place = tuple[bytes, Shape | None]  # of a cell: its row's key, and its size


@dataclass(frozen=True)
class TableExtras:
    """Additions to a table of measurements: tables for people, values of cells for programs."""

    tables: tuple[Table[Any], ...] = ()
    notes: tuple[str, ...] = ()
    cells: Mapping[Place, Mapping[str, object]] = field(default_factory=dict[Place, Mapping[str, object]])

    def of(self, row: Row, shape: Shape | None) -> Mapping[str, object]:
        """Return the further values of a cell, by their names."""
        return self.cells.get((row.key, shape), {})


NO_EXTRAS = TableExtras()


# --- columns of rows --------------------------------------------------------------------------------------------------


# long: a table of columns
def columns(rows: Sequence[Row], marks: Marks) -> list[Column[Row]]:
    """Return the columns of a model in a setting, before and behind its latencies.

    People read them in this order; programs know them by name. A new column is one more line of this list.
    """
    counted = [network.shape.size for row in rows if (network := row.reference)]
    common = REFERENCE_SIZE if REFERENCE_SIZE in counted or not counted else counted[0]
    return [
        Column("model", "model", lambda row: row.model, model_name, role="key"),
        Column("variant", "", lambda row: row.variant),
        Column("head", "", lambda row: row.head.value if row.head else None),
        Column("classes", "", lambda row: row.classes),
        Column("weights", "weights", lambda row: row.weights.label if row.weights else None, _weights, folds=True),
        Column("fused", "fused", lambda row: row.fused.value if row.fused else None, folds=True),
        Column("form", "form", lambda row: variant_label(row) or None, shown="filled", optional=True, folds=True),
        Column("params", "params", _params, _params_text, unit="M", align="right", folds=True),
        Column(
            "gmacs",
            f"GMACs at {common}",
            lambda row: macs_per_image(row.reference) / 1e9 if row.reference else None,
            lambda row: _gmacs_text(row.reference, common),
            align="right",
            folds=True,
        ),
        Column("gmacs_size", "", lambda row: row.reference.shape.size if row.reference else None),
        *_accuracy(rows, common),
        *_latencies(rows),
        Column("device", "device", lambda row: row.device.name, lambda row: _device(row, marks)),
        Column("backend", "", lambda row: row.device.backend),
        Column("batch", "batch", lambda row: row.batch, align="right"),
        Column("precision", "precision", lambda row: row.precision, lambda row: printable(row.precision)),
        Column("options", "", lambda row: " ".join(f"{name}={of}" for name, of in sorted(row.device.options.items()))),
        Column("window", "", lambda row: row.window.value if row.window else None),
        Column("statistic", "", lambda row: row.method.statistic.value),
        Column("warmup", "", lambda row: row.method.warmup),
        Column("runs", "", lambda row: row.method.runs),
        Column("rounds", "", lambda row: row.method.rounds),
        Column("processor", "", lambda row: row.machine.processor),
        Column("cores", "", lambda row: row.machine.cores),
        Column("quota", "", lambda row: row.machine.quota),
        Column("accelerator", "", lambda row: row.machine.accelerator),
        Column("driver", "", lambda row: row.machine.driver),
        Column("os", "", lambda row: row.machine.os),
        Column("python", "", lambda row: row.machine.python),
        Column("host", "", lambda row: row.machine.host),
        Column("machine", "", lambda row: row.machine.name or None),
        Column("first", "", lambda row: min(cell.finished for cell in row.cells.values())),
        Column("last", "", lambda row: max(cell.finished for cell in row.cells.values())),
        # None stands for the usual value
        Column("pacing", "", _unless(CallPattern.BACK_TO_BACK.value, lambda row: row.pacing.value), optional=True),
        Column("loading", "", _unless("once", lambda row: row.method.loading), optional=True),
        Column("trim", "", _unless(0, lambda row: row.method.trim), optional=True),
        Column("toolkit", "", _unless("", lambda row: row.toolkit), optional=True),
        Column("compared", "", _unless(True, lambda row: all(map(compared, row.measured))), optional=True),
        Column("proved", "", _unless(True, lambda row: all(map(_is_proved, row.measured))), optional=True),
        *_published(),
        Column("warnings", "", _warnings),
        Column("failed", "", _failures),
    ]


def _unless(usual: object, value: Callable[[Row], object]) -> Callable[[Row], object]:
    return lambda row: None if (actual := value(row)) == usual else actual


def _weights(row: Row) -> str:
    return printable(row.weights.label) if row.weights else NONE


def _params(row: Row) -> int | None:
    return row.reference.params if row.reference else None


def _params_text(row: Row) -> str:
    return significant(row.reference.params / 1e6, 3) if row.reference else NONE


def macs_per_image(artifact: Artifact) -> float:
    """Return the multiply-accumulates of one image, counted on the exported network."""
    return artifact.macs / artifact.shape.batch


def _gmacs_text(artifact: Artifact | None, common: str) -> str:
    """Return the GMACs of one image, with the size where it is not the one in the heading."""
    if artifact is None:
        return NONE
    text, size = significant(macs_per_image(artifact) / 1e9, 3), artifact.shape.size
    return text if size == common else f"{text} at {size}"


def _device(row: Row, marks: Marks) -> str:
    return f"{printable(row.device.name)}{marks[row.key]}"


def _is_proved(cell: Measurement) -> bool:
    return isinstance(cell.artifact, Artifact) and cell.artifact.parity is not None


def _warnings(row: Row) -> str:
    return "; ".join(f"{size_of(shape)}: {text}" for shape, texts in row.warnings.items() for text in texts)


def _failures(row: Row) -> str:
    return "; ".join(
        f"{size_of(shape)}: {cell.stage}: {cell.reason}"
        for shape, cell in row.cells.items()
        if isinstance(cell, Failure)
    )


def _accuracy(rows: Sequence[Row], common: str) -> list[Column[Row]]:
    """Return the columns of measured accuracy where it was asked for, with the size where it is not the usual one."""
    if all(row.accuracies is None for row in rows):
        return [
            Column(
                "top1",
                "top-1",
                _top1,
                lambda row: RANDOM if row.is_random else NONE,
                unit="%",
                align="right",
                folds=True,
            )
        ]

    def cell(row: Row, share: Callable[[Accuracy], Share | None]) -> str:
        by_size = {size_of(shape): percent(share(accuracy)) for shape, accuracy in (row.accuracies or {}).items()}
        ordered = sorted(by_size.items(), key=lambda item: item[0] != common)
        texts = [text if size == common else f"{text} at {size}" for size, text in ordered if text != NONE]
        return ", ".join(texts) or (RANDOM if row.is_random else NONE)

    def top1(row: Row) -> str:
        return cell(row, lambda accuracy: accuracy.top1_share)

    def top5(row: Row) -> str:
        return cell(row, lambda accuracy: accuracy.top5_share)

    return [
        Column("top1", "measured top-1", _top1, top1, unit="%", align="right", folds=True),
        Column("", "measured top-5", top5, top5, unit="%", align="right", folds=True),
    ]


def _top1(row: Row) -> float | None:
    """Return the measured top-1 in percent, at the size whose multiply-accumulates are given; None if not counted."""
    accuracy = (row.accuracies or {}).get(row.reference.shape) if row.reference else None
    return 100 * accuracy.top1_share.value if accuracy else None


# --- latencies by size ------------------------------------------------------------------------------------------------

# statistic -> what its figures are called in CSV and in JSON, and what they are, for people
_CALLED = {Statistic.MEDIAN: ("latency", "median_ms"), Statistic.TRIMMED_MEAN: ("modelbench", "trimmed_mean_ms")}
_FIGURES_ARE = {
    Statistic.MEDIAN: "Latency in ms per batch, 95 % interval in brackets: of the median, or, of runs in several "
    "processes, of the figure of another such run.",
    Statistic.TRIMMED_MEAN: "ModelBench latency in ms per batch, 95 % interval of the mean in brackets (Student's t "
    "over the rounds).",
}


def _latencies(rows: Sequence[Row]) -> list[Column[Row]]:
    """Return a column per size and statistic, and columns of the interval's ends for programs.

    Two statistics never share a column.
    """
    result: list[Column[Row]] = []
    for statistic, (prefix, _) in _CALLED.items():
        for size in sizes_of([row for row in rows if row.method.statistic is statistic]):
            name = f"{prefix}_{_field(size)}"
            texts = {"unit": "ms", "align": "right", "role": "figure"}
            result += [
                Column(f"{name}_ms", size, _sized(size, statistic, _figure), _latency_at(size), **texts),  # type: ignore[arg-type]
                Column(f"{name}_low_ms", "", _sized(size, statistic, _low)),
                Column(f"{name}_high_ms", "", _sized(size, statistic, _high)),
            ]
    return result


def _field(size: str) -> str:
    """Return a size as a part of a column's name."""
    return size.replace(" ", "_")


def _sized(size: str, statistic: Statistic, of: Callable[[Measurement], object]) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        cell = row.by_size.get(size)
        return of(cell) if isinstance(cell, Measurement) and row.method.statistic is statistic else None

    return value


def _figure(cell: Measurement) -> float:
    return cell.figure_ms


def _low(cell: Measurement) -> float | None:
    return cell.interval_ms.low if cell.interval_ms else None


def _high(cell: Measurement) -> float | None:
    return cell.interval_ms.high if cell.interval_ms else None


def _latency_at(size: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        cell = row.by_size.get(size)
        if isinstance(cell, Failure):
            return _failed(cell)
        return "" if cell is None else figure_text(cell, row.doubts(cell))

    return text


# part of a reason, in lower case -> words in the cell; a note has the complete reason
_CAUSES = {
    "signal 9": "killed",  # most often because memory ran out, but nothing proves it
    "memory ran out": "out of memory",
    "out of memory": "out of memory",
    "took longer than": "too slow",
}


def _failed(cell: Failure) -> str:
    """Return ``failed``, and why where two words can say it."""
    cause = next((words for sign, words in _CAUSES.items() if sign in cell.reason.lower()), None)
    return f"{FAILED}: {cause}" if cause else FAILED


# --- published figures ------------------------------------------------------------------------------------------------

_FIGURES = tuple(name for name in Published.__struct_fields__ if name not in ("name", "size"))
# figure -> its heading, where people read it
_HEADINGS = {
    "params_m": "published params M",
    "flops_g": "published FLOPs G",
    "top1_undistilled": PUBLISHED_TOP1,
    "iphone_ms": "published iPhone ms",
    "gpu_ms": "published GPU ms (batch 8)",
}
PUBLISHED = "published "  # begins the headings
_RECOUNTED = ("published params M", "published FLOPs G")  # of the network, which this package counts too


def _published() -> list[Column[Row]]:
    """Return the columns of figures published of the row's model, whatever weights were timed.

    People do not see those that no row has.
    """
    result = [
        Column[Row](
            "published_as",
            f"{PUBLISHED}as",
            lambda row: row.published.label if row.published else None,
            lambda row: row.published.label if row.published else "",
            shown="filled",
            part=1,
        )
    ]
    for name in dict.fromkeys((*_HEADINGS, *_FIGURES)):

        def figure(row: Row, name: str = name) -> Figure | None:
            return getattr(row.published, name) if row.published else None

        def value(row: Row, figure: Callable[[Row], Figure | None] = figure) -> float | None:
            return entry.value if (entry := figure(row)) else None

        def text(row: Row, figure: Callable[[Row], Figure | None] = figure) -> str:
            return f"{entry.value:g}" if (entry := figure(row)) else ""

        heading = _HEADINGS.get(name, "")
        result.append(Column(f"published_{name}", heading, value, text, align="right", shown="filled", part=1))
    return result


# for programs: measured accuracies where they were asked for, in percent, as published ones are
_COUNTED: dict[str, Callable[[Accuracy], object]] = {
    "measured_top1_{size}": lambda accuracy: 100 * accuracy.top1_share.value,
    "measured_top1_{size}_low": lambda accuracy: 100 * accuracy.top1_share.low,
    "measured_top1_{size}_high": lambda accuracy: 100 * accuracy.top1_share.high,
    "measured_top5_{size}": lambda accuracy: 100 * accuracy.top5_share.value if accuracy.top5_share else None,
    "measured_top5_{size}_low": lambda accuracy: 100 * accuracy.top5_share.low if accuracy.top5_share else None,
    "measured_top5_{size}_high": lambda accuracy: 100 * accuracy.top5_share.high if accuracy.top5_share else None,
    "measured_images_{size}": lambda accuracy: accuracy.images,
    "measured_data_{size}": lambda accuracy: accuracy.data_digest,
}


def _by_size(rows: Sequence[Row], extras: TableExtras, *, titled: bool = False) -> Iterator[Column[Row]]:
    """Yield the columns for programs of what is known of each measurement, named by its size.

    People see those that are `titled`.
    """
    further = {name: None for cells in extras.cells.values() for name in cells}
    counted = any(row.accuracies for row in rows)
    for size in sizes_of(rows):
        field_ = _field(size)
        timed = ((row, row.by_size.get(size)) for row in rows)
        lines = {row.key: CellLine(row, cell) for row, cell in timed if isinstance(cell, Measurement)}
        for column in ON_DEMAND if titled else applicable(lines.values()):
            heading = f"{size} {column.heading}" if titled and column.title else ""
            texts = {"align": column.align, "role": column.role}
            value = _at(lines, column.value)
            text = _text_at(lines, column) if heading else None
            yield Column(column.name.format(size=field_), heading, value, text, optional=True, **texts)  # type: ignore[arg-type]
        for name, of in _COUNTED.items() if counted or titled else ():
            yield Column(name.format(size=field_), "", _accuracy_at(size, of), optional=True)
        for name in further:
            yield Column(f"{name}_{field_}", "", _extra_at(size, name, extras), optional=True)


def _at(lines: Mapping[bytes, CellLine], of: Callable[[CellLine], object]) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        line = lines.get(row.key)
        return None if line is None else of(line)

    return value


def _text_at(lines: Mapping[bytes, CellLine], column: Column[CellLine]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        line = lines.get(row.key)
        return NONE if line is None else column.cell(line)

    return text


def _accuracy_at(size: str, of: Callable[[Accuracy], object]) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        matching = (accuracy for shape, accuracy in (row.accuracies or {}).items() if size_of(shape) == size)
        counted = next(matching, None)
        return None if counted is None else of(counted)

    return value


def _extra_at(size: str, name: str, extras: TableExtras) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        cell = row.by_size.get(size)
        return extras.of(row, cell.shape).get(name) if isinstance(cell, Measurement) else None

    return value


# --- for people -------------------------------------------------------------------------------------------------------


def report(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> TableReport:
    """Return rows as people read them: a table per statistic, extras, details, and notes."""
    groups = {statistic: [row for row in rows if row.method.statistic is statistic] for statistic in _CALLED}
    groups = {statistic: members for statistic, members in groups.items() if members}
    marks, conditions = legend(rows)
    alone = list(groups) == [Statistic.MEDIAN]
    ordered = [row for members in groups.values() for row in members]
    warned: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    for row in ordered:
        for shape, cell in row.cells.items():
            if isinstance(cell, Failure):
                failed.setdefault(f"{cell.stage}: {printable(cell.reason)}", []).append(label(row, shape, marks))
        for shape, warnings in row.warnings.items():
            for warning in warnings:
                warned.setdefault(printable(warning), []).append(label(row, shape, marks))
    failures = [f"{FAILED} at {reason}: {some(labels)}" for reason, labels in failed.items()]
    warnings = [f"* {warning}: {some(labels)}" for warning, labels in warned.items()]
    further = [
        *_not_compared(ordered),
        *_unproved(ordered, marks),
        *_foreign(ordered),
        *_counted_notes(ordered, marks),
    ]
    return TableReport(
        tables=[
            *(
                Table(members, columns(members, marks), "" if alone else STATISTICS[statistic])
                for statistic, members in groups.items()
            ),
            *extras.tables,
            *details(ordered, marks),
            *layers(ordered, marks),
        ],
        notes=[
            *(_FIGURES_ARE[statistic] for statistic in groups),
            *conditions,
            *warnings,
            *failures,
            *further,
            *_published_notes(ordered),
            *extras.notes,
        ],
        title=_title(rows),
        brief=[
            *_brief(f"{FAILED} at ", failed),
            *_brief("* ", warned),
            *_brief_conditions(ordered),
            *further,
            *extras.notes,
            *([PUBLISHED_IN_SHORT] if any(row.published for row in ordered) else []),
        ],
    )


def _title(rows: Sequence[Row]) -> str:
    """Return what the rows are of: ``Latency on cpu`` where they are of one device."""
    devices = {row.device.name for row in rows}
    return f"Latency on {printable(devices.pop())}" if len(devices) == 1 else "Latency"


PUBLISHED_IN_SHORT = "Published: FastViT paper, tables 5 and 6, whatever weights were timed here."
SEVERAL = 2  # kinds of reason that have a note each in short


def _brief(mark: str, reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Return notes that begin with a mark: one per kind of reason, where they are few, else one on all of them."""
    kinds = by_kind(reasons)
    if len(kinds) <= SEVERAL:
        return [f"{mark}{reason}: {some(labels)}" for reason, labels in kinds.items()]
    counted = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    shown = [f"{reason} ({_cells(len(labels))})" for reason, labels in counted[: SEVERAL + 1]]
    further = len(kinds) - len(shown)
    more = [f"{further} more kind{'s' if further > 1 else ''} of reason"] if further else []
    return [f"{mark}{'; '.join([*shown, *more])}"]


def _cells(count: int) -> str:
    return "1 figure" if count == 1 else f"{count} figures"


def _brief_conditions(rows: Sequence[Row]) -> list[str]:
    lead, *apart = brief_legend(rows) if rows else [""]
    return [f"ms per batch [95 % interval]: {lead}", *apart]


def choose(rows: Sequence[Row], names: Sequence[str], extras: TableExtras = NO_EXTRAS) -> TableReport:
    """Return a report whose table has the columns of these names, the same in every format.

    Raises `UsageError` for a name that no column has. A name without its size stands for every size.
    """
    marks, _ = legend(rows)
    sizes = [_field(size) for size in sizes_of(rows)]
    every = [*columns(rows, marks), *_by_size(rows, extras, titled=True)]
    picked = chosen(every, names, {column.name: _kind(column.name, sizes) for column in every})
    shown = report(rows, extras)
    unsaid = [] if any(column.name.startswith("published") for column in picked) else _published_notes(rows)
    return replace(
        shown,
        tables=[Table(rows, picked), *extras.tables],
        notes=[note for note in shown.notes if note not in unsaid],
        brief=[note for note in shown.brief if not unsaid or note != PUBLISHED_IN_SHORT],
    )


def _kind(name: str, sizes: Sequence[str]) -> str:
    """Return a column's name without its size: of ``latency_256_ms`` it is ``latency_ms``."""
    for size in sorted(sizes, key=len, reverse=True):
        if f"_{size}_" in f"_{name}_":
            return f"_{name}_".replace(f"_{size}_", "_", 1).strip("_")
    return name


def compact(shown: TableReport, *, on_terminal: bool = False) -> TableReport:
    """Return the report without columns that say the same in every row, whose values then stand in its caption.

    Published counts of the network are left out. So are the names in "published as" where each is the model's own:
    what remains is the size that the figures are of. On a terminal the caption has published values on a line of their
    own, and none that is missing.
    """
    of_rows = [_with_sizes_alone(table) for table in shown.tables if _is_of_rows(table)]
    equal = equal_columns(of_rows)
    facts = ", ".join(f"{heading} {text}" for heading, text in equal.items() if text)
    caption = f"Equal in every row: {facts}." if facts else ""
    if on_terminal:
        caption = _caption(equal, alone=sum(len(table.rows) for table in of_rows) == 1)
    return replace(
        shown,
        tables=[
            *(without(table, equal) for table in of_rows),
            *(table for table in shown.tables if not _is_of_rows(table)),
        ],
        caption=caption,
    )


def in_short(shown: TableReport) -> TableReport:
    """Return the report with its notes in short."""
    return replace(shown, notes=shown.brief)


def _caption(equal: Mapping[str, str], *, alone: bool) -> str:
    """Return a line of what rows have in common, and one of what is published of them."""
    filled = {heading: text for heading, text in equal.items() if text not in {"", NONE, RANDOM}}
    own = [f"{heading}: {text}" for heading, text in filled.items() if not heading.startswith(PUBLISHED)]
    known = [
        f"{heading.removeprefix(PUBLISHED)}: {text}".replace(f"as: {OWN_NAME}@", "at ").replace("as: ", "as ")
        for heading, text in filled.items()
        if heading.startswith(PUBLISHED)
    ]
    leads = {"Setting" if alone else "Equal in every row": own, "Published": known}
    return "\n".join(f"{lead}: {', '.join(facts)}." for lead, facts in leads.items() if facts)


OWN_NAME = "…"  # for a published name that is the row's model's


def _is_of_rows(table: Table[Any]) -> bool:
    return any(column.name == "published_as" for column in table.columns)


def _with_sizes_alone(table: Table[Row]) -> Table[Row]:
    """Return the table with ``…@256`` for ``FastViT-T8@256`` if every name is that of its row's model."""

    def bare(name: str) -> str:
        return "".join(filter(str.isalnum, name)).lower()

    names = [row.published.label if row.published else "" for row in table.rows]
    own = all(
        bare(name.partition("@")[0]) == bare(model_name(row)) for name, row in zip(names, table.rows, strict=True)
    )
    remaining = [column for column in table.columns if column.heading not in _RECOUNTED]
    if own:
        remaining = [
            replace(column, text=_size_alone) if column.name == "published_as" else column for column in remaining
        ]
    return replace(table, columns=remaining)


def _size_alone(row: Row) -> str:
    return f"{OWN_NAME}@{row.published.label.partition('@')[2]}" if row.published else ""


def _not_compared(rows: Sequence[Row]) -> list[str]:
    """Return the note that explains the mark, where a figure has it."""
    missing = any(not compared(cell) for row in rows for cell in row.measured)
    return [NOT_COMPARED_NOTE] if missing else []


def _unproved(rows: Sequence[Row], marks: Marks) -> list[str]:
    labels = [
        label(row, cell.shape, marks)
        for row in rows
        for cell in row.measured
        if isinstance(cell.artifact, Artifact) and cell.artifact.parity is None
    ]
    labels = list(dict.fromkeys(labels))  # only the table distinguishes two forms of one network
    return [f"Known from its report only, not proved here: {some(labels)}."] if labels else []


def _foreign(rows: Sequence[Row]) -> list[str]:
    """Return notes on models that this package did not export, once each."""
    notes: dict[str, None] = {}
    for row in rows:
        for cell in row.measured:
            if isinstance(cell.artifact, ExternalModel):
                inputs = [f"{name} {kind}" for name, kind in cell.artifact.inputs.items()]
                size = cell.artifact.size_bytes
                facts = [*(f"input {tensor}" for tensor in inputs), f"{size / 1e6:.2f} MB" if size else ""]
                about = "; ".join(fact for fact in facts if fact)
                notes[printable(f"Not exported by fastvit-bench: {row.model}{f' ({about})' if about else ''}.")] = None
    return list(notes)


def _counted_notes(rows: Sequence[Row], marks: Marks) -> list[str]:
    """Return notes on the measured accuracies: a line per way of counting, with the cells it is about."""
    if all(row.accuracies is None for row in rows):
        return []
    ways: dict[str, list[str]] = {}
    for row in rows:
        for shape, accuracy in (row.accuracies or {}).items():
            unread = f", {len(accuracy.unreadable)} unreadable files left out" if accuracy.unreadable else ""
            way = f"{counted(accuracy).removesuffix('.')}; {accuracy.images} images{unread}"
            ways.setdefault(way, []).append(label(row, shape, marks))
    if not ways:
        return ["Measured accuracy: none of these files has been counted; `fastvit-bench accuracy` does that."]
    lead = "Measured accuracy: of the very file that was timed, Wilson's 95 % interval in brackets."
    apart = {accuracy.data_digest for row in rows for accuracy in (row.accuracies or {}).values()}
    mixed = ["Measured accuracies here are not all of the same images: do not compare them."] if len(apart) > 1 else []
    return [lead, *mixed, *(f"{way}: {some(labels)}." for way, labels in ways.items())]


def counted(accuracy: Accuracy) -> str:
    """Return a sentence on how right answers were counted: the images, their preparation and the machine."""
    asked, how = accuracy.evaluation, accuracy.preprocessing
    part = f", {asked.images} images evenly spread over it" if asked.limit is not None else ""
    covers = "with contents" if accuracy.contents else "names and sizes"  # of the digest
    data = f"{folder_of(asked.data)} ({covers} {accuracy.data_digest[:12]})"
    sides = {"shorter-side": "shorter side", "squash": "both sides", "pad": "padded to a square, side"}[how.resize]
    own = ", ".join(preparation_value(name, value) for name, value in accuracy.departures.items())
    numbered = f", classes numbered {asked.numbered}" if asked.numbered else ""
    embedded = asked.class_embeddings
    zero_shot = f", zero-shot by {folder_of(embedded.file)} (sha256 {embedded.sha256[:12]})" if embedded else ""
    among = ", best of the classes that are there" if asked.among is RankedClasses.PRESENT else ""
    return printable(
        f"Counted by {accuracy.how} ({accuracy.machine.accelerator or accuracy.machine.processor}); "
        f"{data}{part}{zero_shot}{numbered}{among}; {sides} {how.shorter_side}, {how.interpolation}, "
        f"middle {how.resolution} x {how.resolution} (crop {how.crop:g}), {normalisation(how)}, "
        f"{asked.decoder}; {f'not as the network was published, with {own}; ' if own else ''}{accuracy.finished[:10]}."
    )


def folder_of(data: str) -> str:
    """Return the last part of a path; its beginning may name somebody's home."""
    return data.rstrip("/").rpartition("/")[2] or data


def _published_notes(rows: Sequence[Row]) -> list[str]:
    notes: list[str] = []
    known = [row for row in rows if row.published]
    if known:
        notes.append(
            "Published: FastViT paper, tables 5 and 6, at the size behind the @ (iPhone 12 Pro, Core ML, batch 1; "
            "RTX 2080 Ti, TensorRT, batch 8)."
        )
        notes.append(
            "Published top-1: the authors', on ImageNet-1k at that size, of the checkpoints they released without "
            "distillation (the paper's where there is none), whatever weights were timed here."
        )
    if any(row.device.backend == "coreml" and row.method.statistic is Statistic.MEDIAN for row in known):
        notes.append("Published iPhone latencies are ModelBench's means: compare them with --protocol modelbench only.")
    unknown = {row.published_as: None for row in rows if row.published_as not in {None, *published.models()}}
    notes += [f"Nothing is published under the name '{printable(name)}'." for name in unknown if name]
    return notes


# --- formats ----------------------------------------------------------------------------------------------------------


def rich(rows: Sequence[Row], width: int, extras: TableExtras = NO_EXTRAS, *, verbose: bool = True) -> "Group":
    """Return the rows for a terminal `width` columns wide: short, or with `verbose` every row, column and note."""
    from rich.console import Group

    if not rows:
        return Group(EMPTY)
    if verbose:
        shown, (marks, _) = report(rows, extras), legend(rows)
        return terminal.report(replace(shown, tables=[*shown.tables, *on_demand(rows, marks)]), width)
    shown = compact(report(newest(rows, MOST_ROWS), extras), on_terminal=True)
    if len(rows) > MOST_ROWS:
        shown = replace(shown, caption=f"{_newest(len(rows))}\n{shown.caption}".rstrip())
    return terminal.report(shown, width, verbose=False)


MOST_ROWS = 200  # on a terminal without -v; a sweep of seven models over two dozen devices has fewer


def _newest(count: int) -> str:
    return (
        f"The newest {MOST_ROWS} of {count:,} rows. Choose others with --model, --device, --since or --where, or have "
        f"all with -v or -f csv."
    )


def markdown(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """Return pipe tables with their notes as a list below."""
    return markdown_tables.report(report(rows, extras)) if rows else EMPTY + "\n"


def latex(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """Return booktabs tables in floats, with their notes below the first one."""
    return latex_tables.report(report(rows, extras)) if rows else f"% {EMPTY}\n"


def _full_table(rows: Sequence[Row], extras: TableExtras) -> Table[Row]:
    """Return everything that is known of rows, for programs."""
    return Table(rows, [*columns(rows, {}), *_by_size(rows, extras)])  # marks are for people


def csv(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """Return `frame` as comma-separated values."""
    return data.csv(_full_table(rows, extras))


def frame(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> "pd.DataFrame":
    """Return one line per row, with a figure and the ends of its 95 % interval for every size of any row.

    ``latency_<size>_ms`` is a median; means by ModelBench stand in ``modelbench_<size>_ms``. What only some rows have,
    such as load times and plans, has columns where any row has it.
    """
    return _full_table(rows, extras).frame()


def json(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """Return a list of rows with their cells by size, in full precision, published figures with their source."""
    return "".join(json_texts(rows, extras))


def json_texts(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> Iterator[str]:
    """Yield the parts of what `json` returns, a row each."""
    of_rows = Table(rows, [column for column in columns(rows, {}) if column.role != "figure" and not _of_size(column)])
    lines = [CellLine(row, cell) for row in rows for cell in row.cells.values() if isinstance(cell, Measurement)]
    of_cells = {_without_size(column.name): column.value for column in applicable(lines)}
    return data.json_texts(data.records(of_rows, lambda row: _nested(row, extras, of_cells)))


FORMATS: dict[str, Callable[[Sequence[Row], TableExtras], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}

# formats of a report beside the terminal's
REPORTS: dict[str, Callable[[TableReport], str]] = {"markdown": markdown_tables.report, "latex": latex_tables.report}


def _of_size(column: Column[Row]) -> bool:
    """Return whether a column is an end of a latency's interval, which JSON has by size."""
    return re.fullmatch(r"(latency|modelbench)_.*_(low|high)_ms", column.name) is not None


def _without_size(name: str) -> str:
    """Return the name of a column that has one per size, for a value that stands below its size."""
    return name.replace("{size}_", "").replace("_{size}", "")


_OfCell = Callable[[CellLine], object]


def _nested(row: Row, extras: TableExtras, of_cells: Mapping[str, _OfCell]) -> dict[str, object]:
    """Return the nested values of a row: its records as they are, and its cells by size."""
    warnings = row.warnings
    return {
        "head": row.head,
        "weights": row.weights,
        "fused": row.fused,
        **({"form": row.form} if row.form else {}),
        **({"functions": [shape.size for shape in row.functions]} if row.functions else {}),
        "device": row.device,
        "method": row.method,
        "window": row.window,
        "machine": row.machine,
        "latency": {
            size_of(shape): {**_nested_cell(row, cell, warnings.get(shape, []), of_cells), **extras.of(row, shape)}
            for shape, cell in row.cells.items()
        },
        **(
            {"accuracy": {size_of(shape): _nested_accuracy(accuracy) for shape, accuracy in row.accuracies.items()}}
            if row.accuracies is not None
            else {}
        ),
        "published": {"as": row.published.label, **_figures(row.published)} if row.published else None,
    }


def _figures(model: Published) -> dict[str, Figure | None]:
    return {name: getattr(model, name) for name in _FIGURES}


def _nested_cell(
    row: Row, cell: Measurement | Failure, warnings: list[str], of_cells: Mapping[str, _OfCell]
) -> dict[str, object]:
    if isinstance(cell, Failure):
        return {FAILED: {"stage": cell.stage, "reason": cell.reason}, "finished": cell.finished}
    interval, artifact = cell.interval_ms, cell.artifact
    exported = None if isinstance(artifact, ExternalModel) else artifact
    _, figure = _CALLED[cell.method.statistic]
    line = CellLine(row, cell)
    values = {name: of(line) for name, of in of_cells.items()}
    record: dict[str, object] = {
        figure: cell.figure_ms,
        "low_ms": interval.low if interval else None,
        "high_ms": interval.high if interval else None,
        "confidence": interval.confidence if interval else None,
        "p90_ms": cell.p90_ms,
        "p99_ms": cell.p99_ms,
        "mad_ms": cell.mad_ms,
        "ms_per_image": cell.ms_per_image,
        "runs": cell.count,
        "window": cell.window,
        "gmacs": macs_per_image(exported) / 1e9 if exported else None,
        "artifact": exported.sha256 if exported else None,
        "finished": cell.finished,
        "warnings": warnings,
        **{name: value for name, value in values.items() if value is not None},
    }
    if not compared(cell):
        record["compared"] = False
    if not _is_proved(cell):
        record["proved"] = False
    if isinstance(artifact, ExternalModel):
        record["inputs"] = artifact.inputs
    for name, times in (("compile_ms", cell.compile_ns), ("load_ms", cell.load_ns), ("cold_ms", cell.cold_ns)):
        if times:
            record[name] = [time / 1e6 for time in times]
    if cell.layers:  # of a pass of its own: their sum is not the latency
        record["layers"] = {
            "sum_ms": milliseconds(cell.layers),
            "blocks_ms": {block: milliseconds(layers) for block, layers in by_block(cell.layers).items()},
            "layers": [
                {"name": layer.name, "kind": layer.kind, "block": layer.block, "median_ms": layer.median_ns / 1e6}
                for layer in cell.layers
            ],
        }
    if plan := cell.placement:
        record["planned"] = {
            "operations": plan.counts,
            "shares": plan.shares,
            "costs": plan.costs,
            "eligible": plan.eligible,
            "switches": plan.switches,
            "elsewhere": plan.ops_off_neural_engine,
        }
    return record


def _nested_accuracy(accuracy: Accuracy) -> dict[str, object]:
    return {
        "top1": accuracy.top1_share,
        "top5": accuracy.top5_share,
        "images": accuracy.images,
        "top1_images": accuracy.top1,
        "top5_images": accuracy.top5,
        "unreadable": [bad.name for bad in accuracy.unreadable],
        "artifact": accuracy.artifact.sha256,
        "data": accuracy.data_digest,
        "how": accuracy.how,
        "preprocessing": accuracy.preprocessing,
        "finished": accuracy.finished,
    }
