"""Figures of one cell over the runs of a device: series, the points at which they changed, and what else changed there.

A history tells when a figure moved, after the fact and from figures of different days. Whether a change that is about
to be made is slower, only two versions that take turns can tell.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Artifact, Engine, Head, Machine, Measurement, Run, Weights, by_name
from fastvit_bench.render import data
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import plain, significant
from fastvit_bench.report.row_text import form, legend, model_name
from fastvit_bench.report.rows import Row, key, measured_row, size_of
from fastvit_bench.report.store import RunFile
from fastvit_bench.stats.intervals import CONFIDENCE, median, normal_quantile

FEWEST = 5  # points of a series that is searched for changes
SHORTEST = 2  # points between two changes: a single one that stands out is an outlier
MIN_CHANGE = 0.02  # share below which a change is not reported
NEAREST = 200  # points on either side of a change, at most, that its size is estimated from

# --- series -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One figure of a series, and the run it is of."""

    run: Run
    cell: Measurement

    @property
    def figure_ms(self) -> float:
        """By the method's statistic, which is one in a series."""
        return self.cell.figure_ms

    @property
    def day(self) -> str:
        """When it was measured, such as 2026-01-31."""
        return self.cell.finished[:10]

    @property
    def commit(self) -> str:
        """The working directory's, shortened; with a + where files were changed; empty where there was none."""
        return f"{self.run.commit[:7]}{'+' * self.run.dirty}" if self.run.commit else ""


@dataclass(frozen=True)
class Shift:
    """By how much one group of figures is above another, as a ratio."""

    ratio: float  # 1.1 is 10 % slower
    low: float
    high: float
    confidence: float  # of low..high; below 0.95 where the points are too few for more


@dataclass(frozen=True)
class Change:
    """A point from which on the figures of a series are others than before."""

    at: int  # index of the first point after it
    before_ms: float  # median of the figures since the change before
    after_ms: float  # median of the figures until the next change
    shift: Shift
    also: tuple[str, ...]  # what else is not what it was at the point before


@dataclass(frozen=True)
class Series:
    """The figures of one cell in the order they were measured; at least one."""

    points: tuple[Point, ...]
    changes: tuple[Change, ...] = ()

    @property
    def searched(self) -> bool:
        """Whether its points suffice for finding changes."""
        return len(self.points) >= FEWEST

    @property
    def newest(self) -> Measurement:
        """The last measurement."""
        return self.points[-1].cell

    @functools.cached_property
    def row(self) -> Row:
        """The table's row that the newest point stands in: its model and its conditions."""
        return replace(measured_row(self.newest, self.points[-1].run), cells={self.newest.shape: self.newest})

    @functools.cached_property
    def levels(self) -> list[tuple[int, int, float]]:
        """Between changes: first point, the one behind the last, and the median of the figures in ms."""
        ends = [0, *(change.at for change in self.changes), len(self.points)]
        figures = [point.figure_ms for point in self.points]
        return [(start, end, median(figures[start:end])) for start, end in itertools.pairwise(ends)]

    @functools.cached_property
    def noise(self) -> float | None:
        """Scatter from one run to the next as a share, without its changes; None below three points."""
        return _scatter([math.log(point.figure_ms) for point in self.points]) if len(self.points) > 2 else None


def collect(files: Iterable[RunFile]) -> list[Series]:
    """The measurements of some run files as series, in the order in which each was first measured.

    Two figures are of one series if they would share a row of a table were it not for what may explain a change:
    versions of packages, driver, toolkit and system, the host name, and which weights of an origin they are. A
    measurement that several files hold counts once.
    """
    found: dict[bytes, dict[tuple[str, str], Point]] = {}
    files = list(files)
    names = by_name(measurement.machine for file in files for measurement in file.measurements)
    for file in files:
        run = file.runs[0]
        for line in file.lines:
            if isinstance(line, Run):
                run = line
            elif isinstance(line, Measurement):
                found.setdefault(_series_key(line, names), {})[run.id, line.finished] = Point(run, line)
    ordered = (sorted(points.values(), key=lambda point: point.cell.finished) for points in found.values())
    return [Series(tuple(points)) for points in sorted(ordered, key=lambda points: points[0].cell.finished)]


def select(
    series: Sequence[Series], device: str | None, models: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> list[Series]:
    """Those of a device, of models by shell patterns, and of sizes (height, width); without any, all.

    Raises `UsageError` that names what there is when a device, a pattern or the sizes fit nothing.
    """
    import fnmatch

    kept = [each for each in series if device in {None, each.row.device.name}]
    if not kept:
        known = ", ".join(sorted({plain(each.row.device.name) for each in series}))
        raise UsageError(f"These runs hold no measurement on '{device}'; measured on: {known}.")
    names = {each.row.model for each in kept}
    for pattern in models:
        if not fnmatch.filter(names, pattern):
            raise UsageError(f"No model '{pattern}' was measured in these runs; measured: {_listed(names)}.")
    if models:
        kept = [each for each in kept if any(fnmatch.fnmatchcase(each.row.model, pattern) for pattern in models)]
    if sizes:
        measured = {size_of(each.newest.shape) for each in kept}
        kept = [each for each in kept if (at := each.newest.shape) and (at.height, at.width) in sizes]
        if not kept:
            raise UsageError(f"None of these sizes was measured in these runs; measured: {_listed(measured)}.")
    return kept


def _listed(names: Iterable[str]) -> str:
    return ", ".join(plain(name) for name in sorted(names, key=lambda name: (len(name), name)))


def _series_key(found: Measurement, names: Mapping[tuple[object, ...], str]) -> bytes:
    """Equal for measurements of one series: the key of their row with what may explain a change left blank.

    `names` are those of machines by their hardware.
    """
    made = found.artifact
    if isinstance(made, Artifact):
        made = msgspec.structs.replace(made, weights=Weights(origin=made.weights.origin))
    blank = msgspec.structs.replace(
        found,
        artifact=made,
        device=msgspec.structs.replace(found.device, match=None),  # the hardware itself is in the machine
        machine=_lasting(found.machine, names),
        engine=msgspec.structs.replace(found.engine, version="", platform="") if found.engine else None,
    )
    return key(blank) + msgspec.json.encode(found.shape)


def _lasting(machine: Machine, names: Mapping[tuple[object, ...], str]) -> Machine:
    """What of a machine two comparable figures share: its name, processors, accelerator, and roughly its memory."""
    name = machine.name or names.get(machine.hardware, "")
    return msgspec.structs.replace(
        machine, name=name, memory_mib=machine.memory_step, os="", python=None, packages={}, driver=None
    )


# --- changes ----------------------------------------------------------------------------------------------------------


def search(series: Series, min_change: float = MIN_CHANGE) -> Series:
    """The series with its changes of at least a share `min_change`; without any where it has fewer than 5 points.

    Of the points that `breaks` proposes, the smallest change goes first, and its two levels become one, until all that
    are left are large enough and have an interval that does not reach over "no change".
    """
    if not series.searched:
        return series
    figures = [point.figure_ms for point in series.points]
    at = breaks(figures)
    while at:
        ends = [0, *at, len(figures)]
        shifts = {
            middle: shift(figures[start:middle], figures[middle:end])
            for start, middle, end in zip(ends, ends[1:], ends[2:], strict=False)
        }
        doubtful = [middle for middle, found in shifts.items() if not _is_change(found, min_change)]
        if not doubtful:
            return replace(series, changes=_changes(series.points, figures, shifts))
        at.remove(min(doubtful, key=lambda middle: abs(math.log(shifts[middle].ratio))))
    return replace(series, changes=())


def _is_change(found: Shift, min_change: float) -> bool:
    return abs(found.ratio - 1) >= min_change and not found.low <= 1 <= found.high


def _changes(points: Sequence[Point], figures: Sequence[float], shifts: dict[int, Shift]) -> tuple[Change, ...]:
    levels = [median(figures[a:b]) for a, b in itertools.pairwise([0, *shifts, len(figures)])]
    return tuple(
        Change(middle, before, after, found, also_changed(points[middle - 1], points[middle]))
        for (middle, found), (before, after) in zip(shifts.items(), itertools.pairwise(levels), strict=True)
    )


WIDTH = 1.5  # of the kernel, in units of the noise
PENALTY = (1.0, 0.6)  # of a change: the first, and the second times the logarithm of the number of points
LEAST_NOISE = 1e-3  # share; figures that repeat to the last digit would make every other one a change


def breaks(figures: Sequence[float]) -> list[int]:
    """Indices of the points with which a new level begins, by ruptures' exact search (PELT) with a Gaussian kernel.

    Kernel change-point detection (Arlot, Celisse & Harchaoui, JMLR 20, 2019) of the logarithms. It was chosen because
    its cost is bounded: a point far from all others costs 1 however far it is, so that one slow run, which is what
    shared machines give now and then, cannot pay for a change, where squares and, in short series, absolute values let
    it. The search is exact and in C: binary segmentation may miss a step up and back, and ruptures' rank and absolute
    costs take minutes for what takes this one seconds.

    The kernel's width follows from the noise between neighbouring runs, so that the cost of noise is the same for
    every series, and the penalty depends on the number of points alone. Its constants were set by simulation, so that
    a series without a change shows one in at most 5 of 100 cases, whether its noise is normal, heavy-tailed, skewed or
    of two modes with one run in five 30 % slower; `tests/report/test_history.py` simulates it again.
    """
    if len(figures) < FEWEST:
        return []
    import numpy as np
    import ruptures

    logs = [math.log(figure) for figure in figures]
    width = WIDTH * max(_scatter(logs), LEAST_NOISE)
    searcher = ruptures.KernelCPD(kernel="rbf", min_size=SHORTEST, params={"gamma": 1 / (2 * width**2)})
    penalty = PENALTY[0] + PENALTY[1] * math.log(len(figures))
    found = searcher.fit(np.array(logs)[:, None]).predict(pen=penalty) or []
    return [int(at) for at in found[:-1]]  # the last is the end


def _scatter(logs: Sequence[float]) -> float:
    """Standard deviation of the noise, from the differences of neighbours, which few changes cannot spoil.

    Their median absolute value is 0.6745 standard deviations of a normal difference, which has twice the variance.
    """
    return median(abs(b - a) for a, b in itertools.pairwise(logs)) / (0.6745 * math.sqrt(2))


def shift(before: Sequence[float], after: Sequence[float]) -> Shift:
    """The ratio of two groups of figures: the median over all pairs, with the Mann-Whitney test's interval.

    The estimate of Hodges and Lehmann and the interval of Moses, of logarithms (Hollander, Wolfe & Chicken,
    Nonparametric Statistical Methods, 3rd ed., sections 4.2 and 4.3). They assume no distribution, but that the groups
    differ by a factor alone, and do not know that the place of the change was found in the same figures. Up to 200
    figures on either side count, those next to the change.
    """
    import numpy as np

    logs = [np.log(np.asarray(group)) for group in (before[-NEAREST:], after[:NEAREST])]
    pairs = np.sort(np.subtract.outer(logs[1], logs[0]), axis=None)
    rank, confidence = _rank(*sorted(map(len, logs)))
    middle, low, high = (math.exp(float(value)) for value in (np.median(pairs), pairs[rank - 1], pairs[-rank]))
    return Shift(middle, low, high, confidence)


@functools.lru_cache(maxsize=1024)
def _rank(few: int, many: int) -> tuple[int, float]:
    """Which of the sorted pairs, from either end, enclose the shift with 95 %, and the confidence reached.

    P(U < rank) <= 2.5 %, of Mann and Whitney's U. Exactly, up to 400 pairs: the numbers of arrangements with U = u are
    the coefficients of the Gaussian binomial coefficient (Mann & Whitney, Ann. Math. Stat. 18, 1947). Beyond that by
    the normal approximation. Where not even the outermost pairs reach 95 %, they are taken, with what they reach.
    """
    if few * many > 400:
        spread = math.sqrt(few * many * (few + many + 1) / 12)
        return math.floor(few * many / 2 - normal_quantile(0.5 + CONFIDENCE / 2) * spread), CONFIDENCE
    counts = [1] + [0] * (few * many)
    for i in range(1, few + 1):
        for u in range(few * many, many + i - 1, -1):  # times 1 - x^(many + i)
            counts[u] -= counts[u - many - i]
        for u in range(i, few * many + 1):  # over 1 - x^i
            counts[u] += counts[u - i]
    below = [count / math.comb(few + many, few) for count in itertools.accumulate(counts)]  # P(U <= u)
    rank = max(1, sum(share <= (1 - CONFIDENCE) / 2 for share in below))
    return rank, 1 - 2 * below[rank - 1]


def also_changed(before: Point, after: Point) -> tuple[str, ...]:
    """What is recorded of two neighbouring points and not the same: ``onnxruntime: 1.22.0 then, 1.23.0 now``."""
    then, now = before.cell, after.cell
    found = [
        f"{name}: {was or NONE} then, {is_ or NONE} now"
        for name, was, is_ in (
            ("commit", before.commit, after.commit),
            ("fastvit-bench", before.run.tool, after.run.tool),
        )
        if was != is_
    ]
    names = backends.figure_packages(now.device)
    if then.machine.host != now.machine.host:
        found.append(f"host name: {then.machine.host or NONE} then, {now.machine.host or NONE} now")
    found += now.machine.differences(then.machine, names)
    known = {**then.machine.packages, **now.machine.packages} if names is None else dict.fromkeys(names)
    pair = (then.artifact, now.artifact)
    if isinstance(pair[0], Artifact) and isinstance(pair[1], Artifact):
        old, new = pair[0], pair[1]
        tools = sorted((old.toolchain.keys() | new.toolchain.keys()) - known.keys())
        facts = [(name, old.toolchain.get(name), new.toolchain.get(name)) for name in tools]
        facts.append(("weights", old.weights.label, new.weights.label))
        found += [f"{name}: {was} then, {is_} now" for name, was, is_ in facts if was != is_]
        if old.sha256 != new.sha256:
            found.append("the exported file")
    if then.engine and now.engine:
        found += [f"{name}: {was} then, {is_} now" for name, was, is_ in _of_engines(then.engine, now.engine)]
    return tuple(plain(each) for each in found)


def _of_engines(then: Engine, now: Engine) -> list[tuple[str, str, str]]:
    facts = (
        (f"{now.toolkit} of the engine", then.version, now.version),
        ("platform of the engine", then.platform, now.platform),
        ("driver of the engine", then.card.driver, now.card.driver),
    )
    return [fact for fact in facts if fact[1] != fact[2]]


# --- as text ----------------------------------------------------------------------------------------------------------


def report(series: Sequence[Series], failures: int = 0) -> TableReport:
    """Series and their changes for a person; `failures` of the same runs gave no figures."""
    marks, conditions = legend([each.row for each in series])
    title = "Series: the figures of one cell over the runs"
    return TableReport(
        tables=[Table(series, _columns(marks), title), *_change_tables(series, marks)],
        notes=[*_notes(series, failures), *conditions],
    )


def percent(ratio: float) -> str:
    """A ratio as a change: ``+10.2``."""
    return f"{100 * (ratio - 1):+.1f}"


def label(series: Series) -> str:
    """A series in a few words: ``fastvit_t8 256 b1``."""
    return f"{plain(series.row.model)} {size_of(series.newest.shape)} b{series.row.batch}"


def condition_marks(series: Sequence[Series]) -> tuple[list[str], list[str]]:
    """Behind each series' device, a mark where their conditions differ; and a line on the conditions of each mark."""
    marks, lines = legend([each.row for each in series])
    return [marks[each.row.key] for each in series], lines


def settings(series: Series) -> str:
    """What else tells the series from others of its model and size, but for the conditions of its device."""
    row = series.row
    weights = row.weights.origin if row.weights else ""
    head = row.head if row.head is not Head.CLASSIFIER else ""  # the classifier is the usual one
    parts = (head or "", form(row), row.fused or "", row.precision, f"{weights} weights" if weights else "")
    return ", ".join(plain(part) for part in parts if part)


def changes_in_words(series: Series) -> str:
    """How many were found, or why none was looked for."""
    if not series.searched:
        return f"not searched ({len(series.points)} of {FEWEST} runs)"
    return str(len(series.changes)) if series.changes else "none found"


def _columns(marks: Mapping[bytes, str]) -> list[Column[Series]]:
    """What is said of a series; what all have in common but for size and batch is not told people."""
    return [
        Column(
            "model",
            "model",
            lambda each: each.row.model,
            lambda each: f"{model_name(each.row)}{marks[each.row.key]}",
            role="key",
        ),
        Column("size", "size", lambda each: size_of(each.newest.shape), align="right", role="key"),
        Column("batch", "batch", lambda each: each.row.batch, lambda each: f"b{each.row.batch}", role="key"),
        Column(
            "precision",
            "precision",
            lambda each: each.row.precision,
            lambda each: plain(each.row.precision),
            role="key",
            shown="varied",
        ),
        Column("head", "", lambda each: each.row.head),
        Column(
            "fused",
            "fused",
            lambda each: each.row.fused,
            lambda each: str(each.row.fused or NONE),
            role="key",
            shown="varied",
        ),
        Column(
            "weights",
            "weights",
            lambda each: each.row.weights.origin if each.row.weights else None,
            role="key",
            shown="varied",
        ),
        Column("form", "form", lambda each: form(each.row) or None, role="key", shown="varied"),
        Column(
            "device",
            "device",
            lambda each: each.row.device.name,
            lambda each: plain(each.row.device.name),
            role="key",
            shown="varied",
        ),
        Column("backend", "", lambda each: each.row.device.backend),
        Column("window", "", lambda each: each.row.window),
        Column("clock", "", lambda each: each.row.clock),
        Column("statistic", "", lambda each: each.row.method.statistic),
        Column("host", "", lambda each: _shared(each, lambda machine: machine.host)),
        Column("machine", "", lambda each: _shared(each, lambda machine: machine.name)),
        Column("processor", "", lambda each: each.row.machine.processor),
        Column("cores", "", lambda each: each.row.machine.cores),
        Column("quota", "", lambda each: each.row.machine.quota),
        Column("accelerator", "", lambda each: each.row.machine.accelerator),
        Column("runs", "runs", lambda each: len(each.points), align="right"),
        Column("first", "first", lambda each: each.points[0].day, align="right"),
        Column("last", "last", lambda each: each.points[-1].day, align="right"),
        Column(
            "from_ms",
            "from",
            lambda each: each.levels[0][2],
            lambda each: significant(each.levels[0][2], 3),
            unit="ms",
            align="right",
            role="figure",
        ),
        Column(
            "to_ms",
            "to",
            lambda each: each.levels[-1][2],
            lambda each: significant(each.levels[-1][2], 3),
            unit="ms",
            align="right",
            role="figure",
        ),
        Column("noise", "noise", lambda each: each.noise, _noise, unit="%", align="right"),
        Column(
            "changes",
            "changes",
            lambda each: len(each.changes) if each.searched else None,
            changes_in_words,
            align="right",
        ),
    ]


def _noise(series: Series) -> str:
    return NONE if series.noise is None else f"{100 * series.noise:.1f}"


def _shared(series: Series, read: Callable[[Machine], str]) -> str | None:
    """What all points of a series have in common, else None."""
    values = {read(point.cell.machine) for point in series.points}
    return values.pop() or None if len(values) == 1 else None


class _Seen(NamedTuple):
    """A change, the series it is of, and the first point that shows it."""

    series: Series
    change: Change

    @property
    def point(self) -> Point:
        return self.series.points[self.change.at]


class _Also(NamedTuple):
    """What else changed with a run, and in how many series."""

    run: str
    also: tuple[str, ...]
    series: int


_CHANGE_COLUMNS: list[Column[_Seen]] = [
    Column("run", "from run", lambda seen: seen.point.run.id, role="key"),
    Column("date", "date", lambda seen: seen.point.day, role="key"),
    Column("commit", "commit", lambda seen: plain(seen.point.commit) or None, role="key"),
    Column(
        "before_ms",
        "from",
        lambda seen: seen.change.before_ms,
        lambda seen: significant(seen.change.before_ms, 3),
        unit="ms",
        align="right",
        role="figure",
    ),
    Column(
        "after_ms",
        "to",
        lambda seen: seen.change.after_ms,
        lambda seen: significant(seen.change.after_ms, 3),
        unit="ms",
        align="right",
        role="figure",
    ),
    Column(
        "change",
        "change",
        lambda seen: seen.change.shift.ratio,
        lambda seen: _interval(seen.change.shift),
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
    """A line per change, in the order in which they happened, and what else changed there; nothing without any."""
    lines = [_Seen(each, change) for each in series for change in each.changes]
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


def _series_of(line: "_Seen | _Placed") -> Series:
    return line.series


def _interval(found: Shift) -> str:
    less = f" at {100 * found.confidence:.0f} %" if found.confidence < CONFIDENCE else ""
    return f"{percent(found.ratio)} [{percent(found.low)}, {percent(found.high)}]{less}"


def _notes(series: Sequence[Series], failures: int) -> list[str]:
    few = sum(not each.searched for each in series)
    changed = any(each.changes for each in series)
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
    """A point in its series: the number of its level, and the change that it is the first to show."""

    number: int  # of the series
    series: Series
    point: Point
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


def _points(number: int, series: Series) -> list[_Placed]:
    changes = {change.at: change.shift for change in series.changes}
    return [
        _Placed(number, series, series.points[at], level, middle_ms, changes.get(at))
        for level, (start, end, middle_ms) in enumerate(series.levels, 1)
        for at in range(start, end)
    ]


def csv(series: Sequence[Series]) -> str:
    """A line per point, with its series' number and settings and the level it belongs to."""
    marks, _ = legend([each.row for each in series])
    number: Column[_Placed] = Column("series", "", lambda line: line.number)
    of_series = [column.of(_series_of) for column in _columns(marks)]
    points = [line for at, each in enumerate(series, 1) for line in _points(at, each)]
    return data.csv(Table(points, [number, *of_series, *_POINT_COLUMNS]))


def json(series: Sequence[Series]) -> str:
    """A list of series, each with its settings, its points and its changes."""
    marks, _ = legend([each.row for each in series])
    return data.json(data.records(Table(series, _columns(marks)), _nested))


def _nested(series: Series) -> dict[str, object]:
    return {
        "options": series.row.device.options,
        "method": series.row.method,
        "searched": series.searched,
        "points": Table(_points(0, series), _POINT_COLUMNS).records(),
        "changes": [_nested_change(_Seen(series, change)) for change in series.changes],
    }


FORMATS: dict[str, Callable[[Sequence[Series]], str]] = {"csv": csv, "json": json}


def _nested_change(seen: _Seen) -> dict[str, object]:
    shift, first = seen.change.shift, seen.point
    return {
        "run": first.run.id,
        "finished": first.cell.finished,
        "commit": first.run.commit,
        "before_ms": seen.change.before_ms,
        "after_ms": seen.change.after_ms,
        "ratio": shift.ratio,
        "low": shift.low,
        "high": shift.high,
        "confidence": shift.confidence,
        "also_changed": seen.change.also,
    }
