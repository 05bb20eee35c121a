"""The history of figures as tables, CSV and JSON."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fastvit_bench.history.series import HistoryChange, HistoryPoint, Series
from fastvit_bench.records import Head, Machine
from fastvit_bench.render import data
from fastvit_bench.render.row_text import legend, model_name, variant_label
from fastvit_bench.render.rows import size_of
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import printable, significant
from fastvit_bench.stats.changepoints import FEWEST, Shift
from fastvit_bench.stats.intervals import CONFIDENCE

# --- as text ----------------------------------------------------------------------------------------------------------


def report(series: Sequence[Series], failures: int = 0) -> TableReport:
    """Return series and their changes as tables; `failures` cells of the same runs gave no figures."""
    marks, conditions = legend([entry.row for entry in series])
    title = "Series: the figures of one cell over the runs"
    return TableReport(
        tables=[Table(series, _columns(marks), title), *_change_tables(series, marks)],
        notes=[*_notes(series, failures), *conditions],
    )


def percent(ratio: float) -> str:
    """Return a ratio as a change: ``+10.2``."""
    return f"{100 * (ratio - 1):+.1f}"


def label(series: Series) -> str:
    """Return a short name of a series: ``fastvit_t8 256 b1``."""
    return f"{printable(series.row.model)} {size_of(series.newest.shape)} b{series.row.batch}"


def condition_marks(series: Sequence[Series]) -> tuple[list[str], list[str]]:
    """Return a mark per series where their conditions differ, and a line on the conditions of each mark."""
    marks, lines = legend([entry.row for entry in series])
    return [marks[entry.row.key] for entry in series], lines


def settings(series: Series) -> str:
    """Return the settings that distinguish a series of a model and size, without the conditions of its device."""
    row = series.row
    weights = row.weights.origin if row.weights else ""
    head = row.head if row.head is not Head.CLASSIFIER else ""  # the classifier is the usual one
    parts = (head or "", variant_label(row), row.fused or "", row.precision, f"{weights} weights" if weights else "")
    return ", ".join(printable(part) for part in parts if part)


def changes_in_words(series: Series) -> str:
    """Return the number of changes as text, or the reason why the series was not searched."""
    if not series.searched:
        return f"not searched ({len(series.points)} of {FEWEST} runs)"
    return str(len(series.changes)) if series.changes else "none found"


# long: the declaration of the table's columns
def _columns(marks: Mapping[bytes, str]) -> list[Column[Series]]:
    """Return the columns of a series; people do not see those whose values are equal for all, except size and batch."""
    return [
        Column(
            "model",
            "model",
            lambda series: series.row.model,
            lambda series: f"{model_name(series.row)}{marks[series.row.key]}",
            role="key",
        ),
        Column("size", "size", lambda series: size_of(series.newest.shape), align="right", role="key"),
        Column("batch", "batch", lambda series: series.row.batch, lambda series: f"b{series.row.batch}", role="key"),
        Column(
            "precision",
            "precision",
            lambda series: series.row.precision,
            lambda series: printable(series.row.precision),
            role="key",
            shown="varied",
        ),
        Column("head", "", lambda series: series.row.head),
        Column(
            "fused",
            "fused",
            lambda series: series.row.fused,
            lambda series: str(series.row.fused or NONE),
            role="key",
            shown="varied",
        ),
        Column(
            "weights",
            "weights",
            lambda series: series.row.weights.origin if series.row.weights else None,
            role="key",
            shown="varied",
        ),
        Column("form", "form", lambda series: variant_label(series.row) or None, role="key", shown="varied"),
        Column(
            "device",
            "device",
            lambda series: series.row.device.name,
            lambda series: printable(series.row.device.name),
            role="key",
            shown="varied",
        ),
        Column("backend", "", lambda series: series.row.device.backend),
        Column("window", "", lambda series: series.row.window),
        Column("clock", "", lambda series: series.row.clock),
        Column("statistic", "", lambda series: series.row.method.statistic),
        Column("host", "", lambda series: _shared(series, lambda machine: machine.host)),
        Column("machine", "", lambda series: _shared(series, lambda machine: machine.name)),
        Column("processor", "", lambda series: series.row.machine.processor),
        Column("cores", "", lambda series: series.row.machine.cores),
        Column("quota", "", lambda series: series.row.machine.quota),
        Column("accelerator", "", lambda series: series.row.machine.accelerator),
        Column("runs", "runs", lambda series: len(series.points), align="right"),
        Column("first", "first", lambda series: series.points[0].day, align="right"),
        Column("last", "last", lambda series: series.points[-1].day, align="right"),
        Column(
            "from_ms",
            "from",
            lambda series: series.levels[0][2],
            lambda series: significant(series.levels[0][2], 3),
            unit="ms",
            align="right",
            role="figure",
        ),
        Column(
            "to_ms",
            "to",
            lambda series: series.levels[-1][2],
            lambda series: significant(series.levels[-1][2], 3),
            unit="ms",
            align="right",
            role="figure",
        ),
        Column("noise", "noise", lambda series: series.noise, _noise, unit="%", align="right"),
        Column(
            "changes",
            "changes",
            lambda series: len(series.changes) if series.searched else None,
            changes_in_words,
            align="right",
        ),
    ]


def _noise(series: Series) -> str:
    return NONE if series.noise is None else f"{100 * series.noise:.1f}"


def _shared(series: Series, read: Callable[[Machine], str]) -> str | None:
    """Return the value that all points of a series have in common; None where they differ."""
    values = {read(point.cell.machine) for point in series.points}
    return values.pop() or None if len(values) == 1 else None


class _ChangeLine(NamedTuple):
    """A change, its series, and the first point that shows it."""

    series: Series
    change: HistoryChange

    @property
    def point(self) -> HistoryPoint:
        """The first point after the change."""
        return self.series.points[self.change.at]


class _Also(NamedTuple):
    """Further facts that changed with a run, and the number of series in which they did."""

    run: str
    also: tuple[str, ...]
    series: int


_CHANGE_COLUMNS: list[Column[_ChangeLine]] = [
    Column("run", "from run", lambda line: line.point.run.id, role="key"),
    Column("date", "date", lambda line: line.point.day, role="key"),
    Column("commit", "commit", lambda line: printable(line.point.commit) or None, role="key"),
    Column(
        "before_ms",
        "from",
        lambda line: line.change.before_ms,
        lambda line: significant(line.change.before_ms, 3),
        unit="ms",
        align="right",
        role="figure",
    ),
    Column(
        "after_ms",
        "to",
        lambda line: line.change.after_ms,
        lambda line: significant(line.change.after_ms, 3),
        unit="ms",
        align="right",
        role="figure",
    ),
    Column(
        "change",
        "change",
        lambda line: line.change.shift.ratio,
        lambda line: _interval(line.change.shift),
        unit="%",
        align="right",
        role="figure",
    ),
]


_ALSO_COLUMNS: list[Column[_Also]] = [
    Column("run", "from run", lambda line: line.run, role="key"),
    Column("series", "series", lambda line: line.series, align="right"),
    Column(
        "also",
        "also changed",
        lambda line: line.also,
        lambda line: "; ".join(line.also) or "nothing that is recorded",
        wraps=True,
    ),
]


def _change_tables(series: Sequence[Series], marks: Mapping[bytes, str]) -> list[Table[Any]]:
    """Return tables of the changes, by time, and of the facts that changed with them; none without changes."""
    lines = [_ChangeLine(entry, change) for entry in series for change in entry.changes]
    if not lines:
        return []
    lines.sort(key=lambda line: line.point.cell.finished)
    keys = [column.of(_series_of) for column in _columns(marks) if column.role == "key"]
    also = Counter((line.point.run.id, line.change.also) for line in lines)
    return [
        Table(lines, [*keys, *_CHANGE_COLUMNS], "Changes, by the run they were first seen in"),
        Table(
            [_Also(*where, count) for where, count in also.items()],
            _ALSO_COLUMNS,
            "What else changed with the runs named above, against the run before of the same series",
        ),
    ]


def _series_of(line: "_ChangeLine | _Placed") -> Series:
    return line.series


def _interval(change: Shift) -> str:
    less = f" at {100 * change.confidence:.0f} %" if change.confidence < CONFIDENCE else ""
    return f"{percent(change.ratio)} [{percent(change.low)}, {percent(change.high)}]{less}"


def _notes(series: Sequence[Series], failures: int) -> list[str]:
    few = sum(not entry.searched for entry in series)
    changed = any(entry.changes for entry in series)
    notes = [
        "Latency in ms per batch, medians over the runs of a level; noise is the scatter from one run to the next.",
        "A change is the median ratio of a run after it to one before it, with its 95 % interval in brackets; its "
        "place was found in the same figures, and is a run or two off at times.",
        "A change says when, not why: what else changed there is what the runs recorded.",
    ]
    notes = notes if changed else notes[:1]
    if few == len(series):
        notes.append(f"No changes were looked for: no series has the {FEWEST} runs that takes.")
    elif few:
        notes.append(f"Not searched for changes, for want of {FEWEST} runs: {few} of {len(series)} series.")
    if failures:
        notes.append(f"{failures} failed cell{'s' * (failures != 1)} of these runs gave no figure.")
    return notes


# --- in formats for programs ------------------------------------------------------------------------------------------


class _Placed(NamedTuple):
    """A point of a series with the number of its level, and the change that it is the first to show."""

    series: Series
    point: HistoryPoint
    level: int
    level_ms: float
    change: Shift | None


_POINT_COLUMNS: list[Column[_Placed]] = [
    Column("run", "", lambda line: line.point.run.id),
    Column("finished", "", lambda line: line.point.cell.finished),
    Column("commit", "", lambda line: line.point.run.commit),
    Column("dirty", "", lambda line: line.point.run.dirty),
    Column("figure_ms", "", lambda line: line.point.figure_ms),
    Column("low_ms", "", lambda line: line.point.cell.interval_ms.low if line.point.cell.interval_ms else None),
    Column("high_ms", "", lambda line: line.point.cell.interval_ms.high if line.point.cell.interval_ms else None),
    Column("level", "", lambda line: line.level),
    Column("level_ms", "", lambda line: line.level_ms),
    Column("change", "", lambda line: line.change.ratio if line.change else None),
    Column("change_low", "", lambda line: line.change.low if line.change else None),
    Column("change_high", "", lambda line: line.change.high if line.change else None),
    Column("change_confidence", "", lambda line: line.change.confidence if line.change else None),
]


def _points(series: Series) -> list[_Placed]:
    changes = {change.at: change.shift for change in series.changes}
    return [
        _Placed(series, series.points[at], level, middle_ms, changes.get(at))
        for level, (start, end, middle_ms) in enumerate(series.levels, 1)
        for at in range(start, end)
    ]


def csv(series: Sequence[Series]) -> str:
    """Return comma-separated values: a line per point, with its series' number and settings, and its level."""
    marks, _ = legend([entry.row for entry in series])
    numbers = {id(entry): at for at, entry in enumerate(series, 1)}
    number: Column[Series] = Column("series", "", lambda entry: numbers[id(entry)])
    # a series has thousands of points, and its settings are written once; no cell has a line end
    first, *settings = data.csv(Table(series, [number, *_columns(marks)])).splitlines()
    names, *points = data.csv(Table([line for entry in series for line in _points(entry)], _POINT_COLUMNS)).splitlines()
    settings = [line for line, entry in zip(settings, series, strict=True) for _ in entry.points]
    lines = map("{},{}".format, [first, *settings], [names, *points])
    return "\n".join([*lines, ""])


def json(series: Sequence[Series]) -> str:
    """Return a JSON list of series, each with its settings, its points and its changes."""
    marks, _ = legend([entry.row for entry in series])
    return data.json(list(data.records(Table(series, _columns(marks)), _nested)))


def _nested(series: Series) -> dict[str, object]:
    return {
        "options": series.row.device.options,
        "method": series.row.method,
        "searched": series.searched,
        "points": Table(_points(series), _POINT_COLUMNS).records(),
        "changes": [_nested_change(_ChangeLine(series, change)) for change in series.changes],
    }


FORMATS: dict[str, Callable[[Sequence[Series]], str]] = {"csv": csv, "json": json}


def _nested_change(line: _ChangeLine) -> dict[str, object]:
    shift, first = line.change.shift, line.point
    return {
        "run": first.run.id,
        "finished": first.cell.finished,
        "commit": first.run.commit,
        "before_ms": line.change.before_ms,
        "after_ms": line.change.after_ms,
        "ratio": shift.ratio,
        "low": shift.low,
        "high": shift.high,
        "confidence": shift.confidence,
        "also_changed": line.change.also,
    }
