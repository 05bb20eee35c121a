"""Figures of one cell over the runs of a device: series, the points at which they changed, and what else changed there.

A history tells when a figure moved, after the fact and from figures of different days. Whether a change that is about
to be made is slower, only two versions that take turns can tell.
"""

import csv as _csv
import functools
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Artifact, Engine, Head, Machine, Measurement, Run, Weights, by_name
from fastvit_bench.render.table import Column
from fastvit_bench.report.rows import Row, key, measured_row, size_of
from fastvit_bench.report.sheet import NONE, Detail, Document, form, legend, model_name, plain, significant
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


def document(series: Sequence[Series], failures: int = 0) -> Document:
    """Series and their changes for a person; `failures` of the same runs gave no figures."""
    marks, conditions = legend([each.row for each in series])
    return Document(
        sheets=[],
        details=[_series_table(series, marks), *_change_table(series, marks)],
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
    return [marks[id(each.row)] for each in series], lines


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


# heading -> text; what tells series apart
_NAMED: dict[str, Callable[[Series], str]] = {
    "size": lambda each: size_of(each.newest.shape),
    "batch": lambda each: f"b{each.row.batch}",
    "precision": lambda each: plain(each.row.precision),
    "fused": lambda each: each.row.fused.value if each.row.fused else NONE,
    "weights": lambda each: each.row.weights.origin if each.row.weights else NONE,
    "form": lambda each: form(each.row) or NONE,
    "device": lambda each: plain(each.row.device.name),
}

# heading -> text; what a series is like
_ABOUT: dict[str, Callable[[Series], str]] = {
    "runs": lambda each: str(len(each.points)),
    "first": lambda each: each.points[0].day,
    "last": lambda each: each.points[-1].day,
    "from ms": lambda each: significant(each.levels[0][2], 3),
    "to ms": lambda each: significant(each.levels[-1][2], 3),
    "noise %": lambda each: NONE if each.noise is None else f"{100 * each.noise:.1f}",
    "changes": changes_in_words,
}


def _which(lines: Sequence[Series], marks: dict[int, str]) -> list[Column]:
    """The columns that say which series a line is about; what all have in common but for size and batch is left out."""
    found = [Column("model", [f"{model_name(each.row)}{marks[id(each.row)]}" for each in lines])]
    for title, text in _NAMED.items():
        cells = [text(each) for each in lines]
        if title in {"size", "batch"} or len(set(cells)) > 1:
            found.append(Column(title, cells, "right" if title == "size" else "left"))
    return found


def _series_table(series: Sequence[Series], marks: dict[int, str]) -> Detail:
    which = _which(series, marks)
    about = [Column(title, [text(each) for each in series], "right") for title, text in _ABOUT.items()]
    return Detail("Series: the figures of one cell over the runs", [*which, *about], len(which))


def _change_table(series: Sequence[Series], marks: dict[int, str]) -> list[Detail]:
    """A line per change, in the order in which they happened; no table without any."""
    lines = [(each, change) for each in series for change in each.changes]
    if not lines:
        return []
    lines.sort(key=lambda line: line[0].points[line[1].at].cell.finished)
    first = [each.points[change.at] for each, change in lines]
    which = [
        *_which([each for each, _ in lines], marks),
        Column("from run", [point.run.id for point in first]),
        Column("date", [point.day for point in first]),
        Column("commit", [plain(point.commit) or NONE for point in first]),
    ]
    return [
        Detail(
            "Changes, by the run they were first seen in",
            [
                *which,
                Column("from ms", [significant(change.before_ms, 3) for _, change in lines], "right"),
                Column("to ms", [significant(change.after_ms, 3) for _, change in lines], "right"),
                Column("change %", [_interval(change.shift) for _, change in lines], "right"),
            ],
            len(which),
        ),
        _also_table(lines),
    ]


def _also_table(lines: Sequence[tuple[Series, Change]]) -> Detail:
    """What else changed, once for all series that say the same of a run."""
    found: dict[tuple[str, tuple[str, ...]], int] = {}
    for each, change in lines:
        where = (each.points[change.at].run.id, change.also)
        found[where] = found.get(where, 0) + 1
    return Detail(
        "What else changed with the runs named above, against the run before of the same series",
        [
            Column("from run", [run for run, _ in found]),
            Column("series", [str(count) for count in found.values()], "right"),
            Column("also changed", ["; ".join(also) or "nothing that is recorded" for _, also in found], wraps=True),
        ],
        1,
    )


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


def csv(series: Sequence[Series]) -> str:
    """A line per point, with its series' number and settings and the level it belongs to."""
    text = io.StringIO()
    writer = _csv.DictWriter(text, [*_FLAT, *_POINT], lineterminator="\n")
    writer.writeheader()
    for number, each in enumerate(series, 1):
        setting = {name: value(each) for name, value in _FLAT.items()}
        writer.writerows({**setting, "series": number, **point} for point in _points(each))
    return text.getvalue()


def json(series: Sequence[Series]) -> str:
    """A list of series, each with its settings, its points and its changes."""
    found = [
        {
            **{name: value(each) for name, value in _FLAT.items() if name != "series"},
            "options": each.row.device.options,
            "method": each.row.method,
            "searched": each.searched,
            "noise": each.noise,
            "points": _points(each),
            "changes": [_nested(each, change) for change in each.changes],
        }
        for each in series
    ]
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


FORMATS: dict[str, Callable[[Sequence[Series]], str]] = {"csv": csv, "json": json}

# column -> value, of what a series has once
_FLAT: dict[str, Callable[[Series], object]] = {
    "series": lambda _: None,  # its number
    "model": lambda each: each.row.model,
    "head": lambda each: each.row.head,
    "weights": lambda each: each.row.weights.origin if each.row.weights else None,
    "fused": lambda each: each.row.fused,
    "form": lambda each: form(each.row) or None,
    "size": lambda each: size_of(each.newest.shape),
    "batch": lambda each: each.row.batch,
    "device": lambda each: each.row.device.name,
    "backend": lambda each: each.row.device.backend,
    "precision": lambda each: each.row.precision,
    "window": lambda each: each.row.window,
    "clock": lambda each: each.row.clock,
    "statistic": lambda each: each.row.method.statistic,
    "host": lambda each: _shared(each, lambda machine: machine.host),
    "machine": lambda each: _shared(each, lambda machine: machine.name),
    "processor": lambda each: each.row.machine.processor,
    "cores": lambda each: each.row.machine.cores,
    "quota": lambda each: each.row.machine.quota,
    "accelerator": lambda each: each.row.machine.accelerator,
}


def _shared(series: Series, read: Callable[[Machine], str]) -> str | None:
    """What all points of a series have in common, else None."""
    values = {read(point.cell.machine) for point in series.points}
    return values.pop() or None if len(values) == 1 else None


_POINT = (
    *("run", "finished", "commit", "dirty", "figure_ms", "low_ms", "high_ms"),
    *("level", "level_ms", "change", "change_low", "change_high", "change_confidence"),
)


def _points(series: Series) -> list[dict[str, object]]:
    """`_POINT` of every point; the four of a change only where one is first seen, as ratios."""
    changes = {change.at: change.shift for change in series.changes}
    found: list[dict[str, object]] = []
    for level, (start, end, middle_ms) in enumerate(series.levels, 1):
        for at in range(start, end):
            point, shifted = series.points[at], changes.get(at)
            interval = point.cell.interval_ms
            values = (
                *(point.run.id, point.cell.finished, point.run.commit, point.run.dirty, point.figure_ms),
                *((interval.low, interval.high) if interval else (None, None)),
                *(level, middle_ms),
                *((shifted.ratio, shifted.low, shifted.high, shifted.confidence) if shifted else (None,) * 4),
            )
            found.append(dict(zip(_POINT, values, strict=True)))
    return found


def _nested(series: Series, change: Change) -> dict[str, object]:
    first = series.points[change.at]
    return {
        "run": first.run.id,
        "finished": first.cell.finished,
        "commit": first.run.commit,
        "before_ms": change.before_ms,
        "after_ms": change.after_ms,
        "ratio": change.shift.ratio,
        "low": change.shift.low,
        "high": change.shift.high,
        "confidence": change.shift.confidence,
        "also_changed": change.also,
    }
