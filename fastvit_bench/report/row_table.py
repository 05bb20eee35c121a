"""Measurements as tables: a line per model and setting, a column per image size, published figures apart."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastvit_bench.records import (
    Accuracy,
    Artifact,
    Failure,
    Foreign,
    Measurement,
    Pacing,
    Shape,
    Share,
    Statistic,
)
from fastvit_bench.render import data, terminal
from fastvit_bench.render import latex as latex_tables
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.table import NONE, Column, Table, TableReport, equal_columns, without
from fastvit_bench.render.text import (
    NOT_COMPARED_NOTE,
    compared,
    figure_text,
    percent,
    plain,
    significant,
    some,
)
from fastvit_bench.report import published
from fastvit_bench.report.cell_table import CELL_COLUMNS, Line, Marks, by_block, details, layers, milliseconds
from fastvit_bench.report.published import Figure, Published
from fastvit_bench.report.row_text import (
    FAILED,
    STATISTICS,
    form,
    label,
    legend,
    live_row,
    model_name,
)
from fastvit_bench.report.rows import REFERENCE_SIZE, Row, size_of, sizes_of

if TYPE_CHECKING:  # both take longer to import than `--help` may
    import pandas as pd
    from rich.console import Group

__all__ = [
    "EMPTY",
    "FORMATS",
    "REPORTS",
    "TableExtras",
    "compact",
    "csv",
    "frame",
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
    """What stands in a table of measurements besides them: tables for people, values of cells for programs."""

    tables: tuple[Table[Any], ...] = ()
    notes: tuple[str, ...] = ()
    cells: Mapping[Place, Mapping[str, object]] = field(default_factory=dict[Place, Mapping[str, object]])

    def of(self, row: Row, shape: Shape | None) -> Mapping[str, object]:
        """The further values of a cell, by their names."""
        return self.cells.get((row.key, shape), {})


NO_EXTRAS = TableExtras()


# --- columns of rows --------------------------------------------------------------------------------------------------


def columns(rows: Sequence[Row], marks: Marks) -> list[Column[Row]]:
    """What is said of a model in a setting, before and behind its latencies; a new column is a line here.

    People read them in this order; programs know them by name.
    """
    counted = [made.shape.size for row in rows if (made := row.reference)]
    common = REFERENCE_SIZE if REFERENCE_SIZE in counted or not counted else counted[0]
    return [
        Column("model", "model", lambda row: row.model, model_name, role="key"),
        Column("variant", "", lambda row: row.variant),
        Column("head", "", lambda row: row.head.value if row.head else None),
        Column("classes", "", lambda row: row.classes),
        Column("weights", "weights", lambda row: row.weights.label if row.weights else None, _weights, folds=True),
        Column("fused", "fused", lambda row: row.fused.value if row.fused else None, folds=True),
        Column("form", "form", lambda row: form(row) or None, shown="filled", optional=True, folds=True),
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
        Column("precision", "precision", lambda row: row.precision, lambda row: plain(row.precision)),
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
        # None is what goes without saying
        Column("pacing", "", _unless(Pacing.BACK_TO_BACK.value, lambda row: row.pacing.value), optional=True),
        Column("loading", "", _unless("once", lambda row: row.method.loading), optional=True),
        Column("trim", "", _unless(0, lambda row: row.method.trim), optional=True),
        Column("toolkit", "", _unless("", lambda row: row.toolkit), optional=True),
        Column("compared", "", _unless(True, lambda row: all(map(compared, row.measured))), optional=True),
        Column("proved", "", _unless(True, lambda row: all(map(_is_proved, row.measured))), optional=True),
        *_published(rows),
        Column("warnings", "", _warnings),
        Column("failed", "", _failures),
    ]


def _unless(usual: object, value: Callable[[Row], object]) -> Callable[[Row], object]:
    return lambda row: None if (found := value(row)) == usual else found


def _weights(row: Row) -> str:
    return plain(row.weights.label) if row.weights else NONE


def _params(row: Row) -> int | None:
    return row.reference.params if row.reference else None


def _params_text(row: Row) -> str:
    return significant(row.reference.params / 1e6, 3) if row.reference else NONE


def macs_per_image(made: Artifact) -> float:
    """Multiply-accumulates of one image, counted on the exported network."""
    return made.macs / made.shape.batch


def _gmacs_text(made: Artifact | None, common: str) -> str:
    """With the size where it is not the one in the heading."""
    if made is None:
        return NONE
    text, size = significant(macs_per_image(made) / 1e9, 3), made.shape.size
    return text if size == common else f"{text} at {size}"


def _device(row: Row, marks: Marks) -> str:
    return f"{plain(row.device.name)}{marks[row.key]}"


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
    """What was counted of the files in the rows, where that was asked for; with the size where it is not the usual."""
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
        found = {size_of(shape): percent(share(each)) for shape, each in (row.accuracies or {}).items()}
        ordered = sorted(found.items(), key=lambda item: item[0] != common)
        texts = [text if size == common else f"{text} at {size}" for size, text in ordered if text != NONE]
        return ", ".join(texts) or (RANDOM if row.is_random else NONE)

    def top1(row: Row) -> str:
        return cell(row, lambda each: each.top1_share)

    def top5(row: Row) -> str:
        return cell(row, lambda each: each.top5_share)

    return [
        Column("top1", "measured top-1", _top1, top1, unit="%", align="right", folds=True),
        Column("", "measured top-5", top5, top5, unit="%", align="right", folds=True),
    ]


def _top1(row: Row) -> float | None:
    """Measured, in percent: of the file at the size whose multiply-accumulates are given, where it was counted."""
    found = (row.accuracies or {}).get(row.reference.shape) if row.reference else None
    return 100 * found.top1_share.value if found else None


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
    """A column per size and statistic, with the ends of its interval for programs; two statistics never share one."""
    found: list[Column[Row]] = []
    for statistic, (prefix, _) in _CALLED.items():
        for size in sizes_of([row for row in rows if row.method.statistic is statistic]):
            name = f"{prefix}_{_field(size)}"
            texts = {"unit": "ms", "align": "right", "role": "figure"}
            found += [
                Column(f"{name}_ms", size, _sized(size, statistic, _figure), _latency_at(size), **texts),  # type: ignore[arg-type]
                Column(f"{name}_low_ms", "", _sized(size, statistic, _low)),
                Column(f"{name}_high_ms", "", _sized(size, statistic, _high)),
            ]
    return found


def _field(size: str) -> str:
    """A size in the name of a column."""
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


# what a reason may hold, in lower case -> what is said in the cell; the whole of it stands in a note
_CAUSES = {
    "signal 9": "killed",  # most often because memory ran out, and nobody knows
    "memory ran out": "out of memory",
    "out of memory": "out of memory",
    "took longer than": "too slow",
}


def _failed(cell: Failure) -> str:
    """``failed``, and why where two words can say it."""
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
_COUNTED_HERE = ("published params M", "published FLOPs G")  # the networks', which are counted here too


def _published(rows: Sequence[Row]) -> list[Column[Row]]:
    """What was published of the row's model, whatever weights were timed; models of others were not published here."""
    known = any(row.weights for row in rows)
    found = [
        Column[Row](
            "published_as",
            "published as" if known else "",
            lambda row: row.published.label if row.published else None,
            lambda row: row.published.label if row.published else "",
            part=1,
        )
    ]
    for name in dict.fromkeys((*_HEADINGS, *_FIGURES)):

        def figure(row: Row, name: str = name) -> Figure | None:
            return getattr(row.published, name) if row.published else None

        def value(row: Row, figure: Callable[[Row], Figure | None] = figure) -> float | None:
            return found.value if (found := figure(row)) else None

        def text(row: Row, figure: Callable[[Row], Figure | None] = figure) -> str:
            return f"{found.value:g}" if (found := figure(row)) else ""

        heading = _HEADINGS.get(name, "") if known else ""
        found.append(Column(f"published_{name}", heading, value, text, align="right", part=1))
    return found


# likewise of what was counted, where that was asked for; in percent, as published figures are
_COUNTED: dict[str, Callable[[Accuracy], object]] = {
    "measured_top1_{size}": lambda found: 100 * found.top1_share.value,
    "measured_top1_{size}_low": lambda found: 100 * found.top1_share.low,
    "measured_top1_{size}_high": lambda found: 100 * found.top1_share.high,
    "measured_top5_{size}": lambda found: 100 * found.top5_share.value if found.top5_share else None,
    "measured_top5_{size}_low": lambda found: 100 * found.top5_share.low if found.top5_share else None,
    "measured_top5_{size}_high": lambda found: 100 * found.top5_share.high if found.top5_share else None,
    "measured_images_{size}": lambda found: found.images,
    "measured_data_{size}": lambda found: found.evaluation.digest,
}


def _by_size(rows: Sequence[Row], extras: TableExtras) -> Iterator[Column[Row]]:
    """For programs: what is known of each measurement, in columns of its size."""
    further = {name: None for cells in extras.cells.values() for name in cells}
    for size in sizes_of(rows):
        field_ = _field(size)
        for column in CELL_COLUMNS:
            yield Column(column.name.format(size=field_), "", _at(size, column.value), optional=True)
        for name, of in _COUNTED.items():
            yield Column(name.format(size=field_), "", _accuracy_at(size, of), optional=True)
        for name in further:
            yield Column(f"{name}_{field_}", "", _extra_at(size, name, extras), optional=True)


def _at(size: str, of: Callable[[Line], object]) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        cell = row.by_size.get(size)
        return of(Line(row, cell)) if isinstance(cell, Measurement) else None

    return value


def _accuracy_at(size: str, of: Callable[[Accuracy], object]) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        found = (each for shape, each in (row.accuracies or {}).items() if size_of(shape) == size)
        counted = next(found, None)
        return None if counted is None else of(counted)

    return value


def _extra_at(size: str, name: str, extras: TableExtras) -> Callable[[Row], object]:
    def value(row: Row) -> object:
        cell = row.by_size.get(size)
        return extras.of(row, cell.shape).get(name) if isinstance(cell, Measurement) else None

    return value


# --- for people -------------------------------------------------------------------------------------------------------


def report(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> TableReport:
    """Rows as people read them: a table per statistic, what was asked for besides, details, and notes."""
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
                failed.setdefault(f"{cell.stage}: {plain(cell.reason)}", []).append(label(row, shape, marks))
        for shape, warnings in row.warnings.items():
            for warning in warnings:
                warned.setdefault(plain(warning), []).append(label(row, shape, marks))
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
            *(f"* {warning}: {some(labels)}" for warning, labels in warned.items()),
            *(f"{FAILED} at {reason}: {some(labels)}" for reason, labels in failed.items()),
            *_not_compared(ordered),
            *_unproved(ordered, marks),
            *_foreign(ordered),
            *_counted_notes(ordered, marks),
            *_published_notes(ordered),
            *extras.notes,
        ],
    )


def compact(shown: TableReport) -> TableReport:
    """Return the report without columns that say the same in every row, whose values then stand in its caption.

    What was published of a network's size is left out, and so are the names in "published as" where each is the
    model's own: what is left of them is the size that its figures are of.
    """
    of_rows = [_with_sizes_alone(table) for table in shown.tables if _is_of_rows(table)]
    equal = equal_columns(of_rows)
    told = ", ".join(f"{heading} {text}" for heading, text in equal.items() if text)
    return replace(
        shown,
        tables=[
            *(without(table, equal) for table in of_rows),
            *(table for table in shown.tables if not _is_of_rows(table)),
        ],
        caption=f"Equal in every row: {told}." if told else "",
    )


def _is_of_rows(table: Table[Any]) -> bool:
    return any(column.name == "published_as" for column in table.columns)


def _with_sizes_alone(table: Table[Row]) -> Table[Row]:
    """With ``…@256`` for ``FastViT-T8@256`` if every name is that of its row's model."""

    def bare(name: str) -> str:
        return "".join(filter(str.isalnum, name)).lower()

    names = [row.published.label if row.published else "" for row in table.rows]
    own = all(
        bare(name.partition("@")[0]) == bare(model_name(row)) for name, row in zip(names, table.rows, strict=True)
    )
    kept = [column for column in table.columns if column.heading not in _COUNTED_HERE]
    if own:
        kept = [replace(column, text=_size_alone) if column.name == "published_as" else column for column in kept]
    return replace(table, columns=kept)


def _size_alone(row: Row) -> str:
    return f"…@{row.published.label.partition('@')[2]}" if row.published else ""


def _not_compared(rows: Sequence[Row]) -> list[str]:
    """The line that the mark needs, where there is one."""
    missing = any(not compared(cell) for row in rows for cell in row.measured)
    return [NOT_COMPARED_NOTE] if missing else []


def _unproved(rows: Sequence[Row], marks: Marks) -> list[str]:
    labels = [
        label(row, cell.shape, marks)
        for row in rows
        for cell in row.measured
        if isinstance(cell.artifact, Artifact) and cell.artifact.parity is None
    ]
    labels = list(dict.fromkeys(labels))  # two forms of one network are told apart in the table
    return [f"Known from its report only, not proved here: {some(labels)}."] if labels else []


def _foreign(rows: Sequence[Row]) -> list[str]:
    """What is known of models that are not ours, once each."""
    notes: dict[str, None] = {}
    for row in rows:
        for cell in row.measured:
            if isinstance(cell.artifact, Foreign):
                inputs = [f"{name} {kind}" for name, kind in cell.artifact.inputs.items()]
                size = cell.artifact.size_bytes
                facts = [*(f"input {each}" for each in inputs), f"{size / 1e6:.2f} MB" if size else ""]
                about = "; ".join(fact for fact in facts if fact)
                notes[plain(f"Not exported by fastvit-bench: {row.model}{f' ({about})' if about else ''}.")] = None
    return list(notes)


def _counted_notes(rows: Sequence[Row], marks: Marks) -> list[str]:
    """What the measured accuracies are of: a line per way of counting, with the cells it is about."""
    if all(row.accuracies is None for row in rows):
        return []
    ways: dict[str, list[str]] = {}
    for row in rows:
        for shape, each in (row.accuracies or {}).items():
            unread = f", {len(each.unreadable)} unreadable files left out" if each.unreadable else ""
            way = f"{counted(each).removesuffix('.')}; {each.images} images{unread}"
            ways.setdefault(way, []).append(label(row, shape, marks))
    if not ways:
        return ["Measured accuracy: none of these files has been counted; `fastvit-bench accuracy` does that."]
    told = "Measured accuracy: of the very file that was timed, Wilson's 95 % interval in brackets."
    apart = {each.evaluation.digest for row in rows for each in (row.accuracies or {}).values()}
    mixed = ["Measured accuracies here are not all of the same images: do not compare them."] if len(apart) > 1 else []
    return [told, *mixed, *(f"{way}: {some(labels)}." for way, labels in ways.items())]


def counted(found: Accuracy) -> str:
    """How right answers were counted, of which images, prepared how."""
    asked, how = found.evaluation, found.preprocessing
    part = f", {asked.images} images evenly spread over it" if asked.limit is not None else ""
    return plain(
        f"Counted by {found.how} ({found.machine.accelerator or found.machine.processor}); "
        f"{folder_of(asked.data)} ({asked.digest[:12]}){part}; shorter side {how.shorter_side}, {how.interpolation}, "
        f"middle {how.resolution} x {how.resolution} (crop {how.crop:g}), {asked.decoder}; {found.finished[:10]}."
    )


def folder_of(data: str) -> str:
    """The last part of a path, which may be somebody's home."""
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
    notes += [f"Nothing is published under the name '{plain(name)}'." for name in unknown if name]
    return notes


# --- formats ----------------------------------------------------------------------------------------------------------


def rich(rows: Sequence[Row], width: int, extras: TableExtras = NO_EXTRAS) -> "Group":
    """The rows for a terminal of so many columns."""
    from rich.console import Group

    return terminal.report(report(rows, extras), width) if rows else Group(EMPTY)


def markdown(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """Pipe tables with their notes as a list below."""
    return markdown_tables.report(report(rows, extras)) if rows else EMPTY + "\n"


def latex(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """Booktabs tables in floats, their notes in the first one's caption."""
    return latex_tables.report(report(rows, extras)) if rows else f"% {EMPTY}\n"


def _whole(rows: Sequence[Row], extras: TableExtras) -> Table[Row]:
    """Everything that is known of rows, for programs."""
    marks, _ = legend(rows)
    return Table(rows, [*columns(rows, marks), *_by_size(rows, extras)])


def csv(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """`frame` as comma-separated values."""
    return data.csv(_whole(rows, extras))


def frame(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> "pd.DataFrame":
    """One line per row, with a figure and the ends of its 95 % interval for every size of any row.

    ``latency_<size>_ms`` is a median; means by ModelBench stand in ``modelbench_<size>_ms``. What only some rows have,
    such as load times and plans, has columns where any row has it.
    """
    return _whole(rows, extras).frame()


def json(rows: Sequence[Row], extras: TableExtras = NO_EXTRAS) -> str:
    """A list of rows with their cells by size, every figure in full precision, published ones with their source."""
    marks, _ = legend(rows)
    of_rows = Table(
        rows, [column for column in columns(rows, marks) if column.role != "figure" and not _of_size(column)]
    )
    return data.json(data.records(of_rows, lambda row: _nested(row, extras)))


FORMATS: dict[str, Callable[[Sequence[Row], TableExtras], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}

# how a report is written that is no terminal's
REPORTS: dict[str, Callable[[TableReport], str]] = {"markdown": markdown_tables.report, "latex": latex_tables.report}


def _of_size(column: Column[Row]) -> bool:
    """Whether it is an end of a latency's interval, which JSON has by size."""
    return re.fullmatch(r"(latency|modelbench)_.*_(low|high)_ms", column.name) is not None


def _nested(row: Row, extras: TableExtras) -> dict[str, object]:
    """What lies below a row: its records as they are, and its cells by size."""
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
            size_of(shape): {**_nested_cell(row, cell, warnings.get(shape, [])), **extras.of(row, shape)}
            for shape, cell in row.cells.items()
        },
        **(
            {"accuracy": {size_of(shape): _nested_accuracy(found) for shape, found in row.accuracies.items()}}
            if row.accuracies is not None
            else {}
        ),
        "published": {"as": row.published.label, **_figures(row.published)} if row.published else None,
    }


def _figures(model: Published) -> dict[str, Figure | None]:
    return {name: getattr(model, name) for name in _FIGURES}


def _nested_cell(row: Row, cell: Measurement | Failure, warnings: list[str]) -> dict[str, object]:
    if isinstance(cell, Failure):
        return {FAILED: {"stage": cell.stage, "reason": cell.reason}, "finished": cell.finished}
    interval, made = cell.interval_ms, cell.artifact
    ours = None if isinstance(made, Foreign) else made
    _, figure = _CALLED[cell.method.statistic]
    line = Line(row, cell)
    values = {column.name.replace("{size}_", "").replace("_{size}", ""): column.value(line) for column in CELL_COLUMNS}
    found: dict[str, object] = {
        figure: cell.figure_ms,
        "low_ms": interval.low if interval else None,
        "high_ms": interval.high if interval else None,
        "confidence": interval.confidence if interval else None,
        "p90_ms": cell.p90_ms,
        "p99_ms": cell.p99_ms,
        "mad_ms": cell.mad_ms,
        "ms_per_image": cell.ms_per_image,
        "runs": len(cell.samples_ms),
        "window": cell.window,
        "gmacs": macs_per_image(ours) / 1e9 if ours else None,
        "artifact": ours.sha256 if ours else None,
        "finished": cell.finished,
        "warnings": warnings,
        **{name: value for name, value in values.items() if value is not None},
    }
    if not compared(cell):
        found["compared"] = False
    if not _is_proved(cell):
        found["proved"] = False
    if isinstance(made, Foreign):
        found["inputs"] = made.inputs
    for name, times in (("compile_ms", cell.compile_ns), ("load_ms", cell.load_ns), ("cold_ms", cell.cold_ns)):
        if times:
            found[name] = [time / 1e6 for time in times]
    if cell.layers:  # of a pass of its own: their sum is not the latency
        found["layers"] = {
            "sum_ms": milliseconds(cell.layers),
            "blocks_ms": {block: milliseconds(layers) for block, layers in by_block(cell.layers).items()},
            "layers": [
                {"name": layer.name, "kind": layer.kind, "block": layer.block, "median_ms": layer.median_ns / 1e6}
                for layer in cell.layers
            ],
        }
    if plan := cell.placement:
        found["planned"] = {
            "operations": plan.counts,
            "shares": plan.shares,
            "costs": plan.costs,
            "eligible": plan.eligible,
            "switches": plan.switches,
            "elsewhere": plan.elsewhere,
        }
    return found


def _nested_accuracy(found: Accuracy) -> dict[str, object]:
    return {
        "top1": found.top1_share,
        "top5": found.top5_share,
        "images": found.images,
        "top1_images": found.top1,
        "top5_images": found.top5,
        "unreadable": [each.name for each in found.unreadable],
        "artifact": found.artifact.sha256,
        "data": found.evaluation.digest,
        "how": found.how,
        "preprocessing": found.preprocessing,
        "finished": found.finished,
    }
