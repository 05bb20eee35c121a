"""Rows as text: what a person reads of measurements, laid out in columns, whatever the format."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Literal

import msgspec

from fastvit_bench.records import (
    Accuracy,
    Artifact,
    Device,
    Failure,
    Foreign,
    Head,
    Interval,
    LayerTime,
    Measurement,
    Method,
    Pacing,
    Placement,
    Shape,
    Share,
    Statistic,
    Unit,
    Window,
)
from fastvit_bench.render.table import Column
from fastvit_bench.report import published
from fastvit_bench.report.published import Figure, Published
from fastvit_bench.report.rows import REFERENCE_SIZE, Row, planned_share, size_of, sizes_of
from fastvit_bench.stats.intervals import median

NONE = "–"  # not measured, as opposed to nothing to measure
RANDOM = "random weights"
PUBLISHED_TOP1 = "published top-1 % (not distilled)"  # as in the paper's table of accuracy and latency
FAILED = "failed"
NOT_COMPARED = "†"  # behind a figure of which nobody has seen what it computed
NOT_COMPARED_NOTE = f"{NOT_COMPARED} Not compared with the reference on that device."
NOT_TOLD = "(not told)"  # block of a layer whose name does not say

# --- numbers and names as text ----------------------------------------------------------------------------------------


def latency(figure: float, interval: Interval | None) -> str:
    """``10.21 [10.18, 10.25]``: no more digits than the interval supports and four at most, its ends rounded outwards.

    The interval's width keeps two digits where they begin below 355, else one, as the Particle Data Group rounds
    errors (Review of Particle Physics, introduction, section 5.3). Without an interval three digits are given.
    """
    if interval is None:
        return significant(figure, 3)
    places = 3 - _exponent(figure, 4)
    if (width := interval.high - interval.low) > 0:
        exponent = _exponent(width, 3)
        places = min(places, (1 if width < 3.55 * 10.0**exponent else 0) - exponent)
    middle = _rounded(figure, places, ROUND_HALF_EVEN)
    low, high = _rounded(interval.low, places, ROUND_FLOOR), _rounded(interval.high, places, ROUND_CEILING)
    return f"{middle} [{low}, {high}]"


def figure_text(cell: Measurement, doubts: Sequence[str]) -> str:
    """``78* [74, 88]``: a measured latency with its marks, as every table and sentence prints it."""
    value, _, interval = latency(cell.figure_ms, cell.interval_ms).partition(" ")
    return f"{value}{'*' * bool(doubts)}{NOT_COMPARED * (not compared(cell))} {interval}".rstrip()


def derived(cell: Measurement, of_ms: Callable[[float], float]) -> str:
    """What follows from a latency, such as a rate, with no more digits than the latency's interval supports."""
    interval = cell.interval_ms
    if interval is None or interval.low <= 0:
        return significant(of_ms(cell.figure_ms), 3)
    low, high = sorted((of_ms(interval.low), of_ms(interval.high)))
    ends = Interval(low=low, high=high, confidence=interval.confidence)
    return latency(of_ms(cell.figure_ms), ends).partition(" ")[0]


def percent(share: Share | None) -> str:
    """``76.12 [75.74, 76.49]``: two digits behind the point, as accuracies are published with one."""
    if share is None:
        return NONE
    return f"{100 * share.value:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}]"


def significant(value: float, digits: int) -> str:
    """A positive number to so many significant digits, without an exponent."""
    return _rounded(value, digits - 1 - _exponent(value, digits), ROUND_HALF_EVEN)


def _exponent(value: float, digits: int) -> int:
    """Power of ten of the leading digit once rounded to so many digits: of 9.996 to three it is 1."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def _rounded(value: float, places: int, rounding: str) -> str:
    """In decimal, where 10.18 is 10.18: a binary float rounded outwards would become 10.17."""
    rounded = Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), rounding=rounding)
    return f"{rounded:f}"


def _percent(share: float) -> str:
    """Whole percents, and 0 and 100 only where they are exact: one operation in 300 makes a switch too."""
    text = f"{100 * share:.0f}"
    if text == "100" and share < 1 - 1e-9:
        text = ">99"
    elif text == "0" and share > 0:
        text = "<1"
    return f"{text} %"


def live_row(cell: Measurement | Failure) -> str:
    """A finished cell as one line, for the moment it arrives: model, size, figure with interval, the quantiles that
    the samples can show, the plan, warnings."""
    if isinstance(cell, Failure):
        where = cell.cell
        return f"{_name(where.model, where.shape)}  {FAILED} at {cell.stage}: {plain(cell.reason)}"
    line = f"{_name(cell.artifact.model, cell.shape)}  {latency(cell.figure_ms, cell.interval_ms)} ms"
    if cell.method.statistic is Statistic.MEDIAN:
        line += "" if cell.p90_ms is None else f"  p90 {significant(cell.p90_ms, 3)} ms"
        for title, quantile in TAILS.items():
            if tail := quantile_of(cell, quantile):
                line += f"  {title.removesuffix(' ms')} {latency(tail.value_ms, tail.interval)} ms"
    else:
        line += f"  ({_STATISTICS[cell.method.statistic][0]})"
    if cell.placement:
        line += f"  planned on the Neural Engine {_percent(planned_share(cell.placement, Unit.NEURAL_ENGINE))}"
    return "  ".join([line, *(f"* {warning}" for warning in cell.warnings)])


def _name(model: str, shape: Shape | None) -> str:
    return f"{plain(model):<14} {size_of(shape):>7} b{shape.batch if shape else 1}"


def plain(text: str) -> str:
    """One line of printable characters: names come from files, and a terminal obeys what it is sent."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def form(row: Row) -> str:
    """What distinguishes the row's file from others of the same network: ``input tensor, compress palette6``."""
    options = {name: value for name, value in sorted(row.form.items()) if value not in _USUAL}
    parts = [f"{name} {value[:8] if name == 'labels' else value}" for name, value in options.items()]
    if row.functions:
        parts.append(f"{'+'.join(shape.size for shape in row.functions)} in one file")
    return plain(", ".join(parts))


_USUAL = {"none", "standard"}  # nothing was done, or nothing special


def kinds(counts: dict[str, int], most: int) -> str:
    """``cast 2, gather 1 and 3 more kinds``."""
    shown = ", ".join(f"{kind} {count}" for kind, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most} more kinds" if len(counts) > most else "")


# --- rows as columns of text ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """The latencies by one statistic, in the order they are read."""

    title: str  # empty where there is nothing to tell it from
    model: list[Column]
    latency: list[Column]
    setting: list[Column]
    published: list[Column]

    @property
    def columns(self) -> list[Column]:
        """All of them."""
        return [*self.model, *self.latency, *self.setting, *self.published]


@dataclass(frozen=True)
class Detail:
    """A small table below the latencies: a line per row and size."""

    title: str
    columns: list[Column]
    named: int  # how many of the columns, the first ones, say which row and size


@dataclass(frozen=True)
class Document:
    """Everything a person reads."""

    sheets: list[Sheet]
    details: list[Detail]
    notes: list[str]
    caption: str = ""  # what stands above the sheets


# statistic -> heading, and what the figures are; figures of two statistics never share a column
_STATISTICS: dict[Statistic, tuple[str, str]] = {
    Statistic.MEDIAN: (
        "median",
        "Latency in ms per batch, 95 % interval in brackets: of the median, or, of runs in several processes, of the "
        "figure of another such run.",
    ),
    Statistic.TRIMMED_MEAN: (
        "ModelBench: mean of trimmed rounds",
        "ModelBench latency in ms per batch, 95 % interval of the mean in brackets (Student's t over the rounds).",
    ),
}


def document(rows: Sequence[Row]) -> Document:
    """Rows as text; a sheet per statistic, then what goes with them."""
    groups = {statistic: [row for row in rows if row.method.statistic is statistic] for statistic in _STATISTICS}
    groups = {statistic: members for statistic, members in groups.items() if members}
    marks, conditions = legend(rows)
    warned: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    sheets: list[Sheet] = []
    for statistic, members in groups.items():
        alone = len(groups) == 1 and statistic is Statistic.MEDIAN
        sheets.append(_sheet("" if alone else _STATISTICS[statistic][0], members, marks, warned, failed))
    ordered = [row for members in groups.values() for row in members]
    return Document(
        sheets=sheets,
        details=[
            *(found for detail in (_per_image, _tails, _starting, _planned) if (found := detail(ordered, marks))),
            *_layers(ordered, marks),
        ],
        notes=[
            *(_STATISTICS[statistic][1] for statistic in groups),
            *conditions,
            *(f"* {warning}: {_some(labels)}" for warning, labels in warned.items()),
            *(f"{FAILED} at {reason}: {_some(labels)}" for reason, labels in failed.items()),
            *_not_compared(ordered),
            *_unproved(ordered, marks),
            *_foreign(ordered),
            *_counted_notes(ordered, marks),
            *_published_notes(ordered),
        ],
    )


# of the networks, which are counted here and stand in columns of their own
_COUNTED_HERE = ("published params M", "published FLOPs G")


def compact(found: Document) -> Document:
    """A document without the columns that say the same in every row, whose values then stand in its caption.

    The models and their latencies always stay. What was published of a network's size is left out, and so are the names
    in "published as" where each is the model's own: what is left of them is the size that its figures are of.
    """
    columns = [[*each.model[1:], *each.setting, *each.published] for each in found.sheets]
    cells: dict[str, list[str]] = {}
    for column in itertools.chain.from_iterable(columns):
        cells.setdefault(column.title, []).extend(column.cells)
    models = [cell for each in found.sheets for cell in each.model[0].cells]
    if "published as" in cells:
        cells["published as"] = _sizes_alone(cells["published as"], models)
    common = {title: values[0] for title, values in cells.items() if len(values) == len(models) and len({*values}) == 1}
    gone = {*common, *_COUNTED_HERE}

    def kept(columns: Sequence[Column]) -> list[Column]:
        return [column for column in columns if column.title not in gone]

    told = ", ".join(f"{title} {value}" for title, value in common.items() if value and title not in _COUNTED_HERE)
    return replace(
        found,
        sheets=[
            replace(
                each,
                model=[each.model[0], *kept(each.model[1:])],
                setting=kept(each.setting),
                published=kept(each.published),
            )
            for each in found.sheets
        ],
        caption=f"Equal in every row: {told}." if told else "",
    )


def _sizes_alone(published: Sequence[str], models: Sequence[str]) -> list[str]:
    """``…@256`` for ``FastViT-T8@256`` if every name is that of its row's model, else what was given."""

    def bare(name: str) -> str:
        return "".join(filter(str.isalnum, name)).lower()

    parts = [cell.partition("@") for cell in published]
    own = len(parts) == len(models) and all(bare(p[0]) == bare(m) for p, m in zip(parts, models, strict=True))
    return [f"…@{size}" for _, _, size in parts] if own else list(published)


def _sheet(
    title: str,
    rows: Sequence[Row],
    marks: dict[int, str],
    warned: dict[str, list[str]],
    failed: dict[str, list[str]],
) -> Sheet:
    """The rows of one statistic; adds to the lists of cells by warning and by reason of failure."""
    sizes = sizes_of(rows)
    references = [row.reference for row in rows]
    counted = [made.shape.size for made in references if made]
    common = REFERENCE_SIZE if REFERENCE_SIZE in counted or not counted else counted[0]
    latencies = {size: [""] * len(rows) for size in sizes}
    for at, row in enumerate(rows):
        doubts = row.warnings
        for shape, cell in row.cells.items():
            label = _label(row, shape, marks)
            if isinstance(cell, Failure):
                latencies[size_of(shape)][at] = _failed(cell)
                failed.setdefault(f"{cell.stage}: {plain(cell.reason)}", []).append(label)
                continue
            for warning in doubts[shape]:
                warned.setdefault(plain(warning), []).append(label)
            latencies[size_of(shape)][at] = figure_text(cell, doubts[shape])
    return Sheet(
        title=title,
        model=[
            Column("model", [model_name(row) for row in rows]),
            Column("weights", [plain(row.weights.label) if row.weights else NONE for row in rows]),
            Column("fused", [row.fused.value if row.fused else NONE for row in rows]),
            *_forms(rows),
            Column("params M", [significant(made.params / 1e6, 3) if made else NONE for made in references], "right"),
            Column(f"GMACs at {common}", [_gmacs(made, common) for made in references], "right"),
            *_accuracy(rows, common),
        ],
        latency=[Column(f"{size} ms", latencies[size], "right") for size in sizes],
        setting=[
            Column("device", [f"{plain(row.device.name)}{marks[id(row)]}" for row in rows]),
            Column("batch", [str(row.batch) for row in rows], "right"),
            Column("precision", [plain(row.precision) for row in rows]),
        ],
        published=[
            Column(title, [text(row.published) if row.published else "" for row in rows], justify)
            for title, (text, justify) in _PUBLISHED.items()
            if any(row.weights for row in rows)  # models of others were not published here
        ],
    )


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


def compared(cell: Measurement) -> bool:
    """Whether the outputs of what was timed were compared with the reference, where it was timed."""
    return cell.parity is not None


def model_name(row: Row) -> str:
    """With the head where it is not the usual one."""
    return plain(row.model) + (f" ({row.head})" if row.head not in (None, Head.CLASSIFIER) else "")


def _forms(rows: Sequence[Row]) -> list[Column]:
    """A column where any file has options of its own, else none."""
    return [Column("form", [form(row) or NONE for row in rows])] if any(form(row) for row in rows) else []


def macs_per_image(made: Artifact) -> float:
    """Multiply-accumulates of one image, counted on the exported network."""
    return made.macs / made.shape.batch


def _gmacs(made: Artifact | None, common: str) -> str:
    """With the size where it is not the one in the heading."""
    if made is None:
        return NONE
    text, size = significant(macs_per_image(made) / 1e9, 3), made.shape.size
    return text if size == common else f"{text} at {size}"


def _some(labels: Sequence[str]) -> str:
    """The first six, and how many more."""
    more = f" and {len(labels) - 6} more" if len(labels) > 6 else ""
    return ", ".join(labels[:6]) + more


# --- under which conditions -------------------------------------------------------------------------------------------


def legend(rows: Sequence[Row]) -> tuple[dict[int, str], list[str]]:
    """A mark behind the device's name, by the row's `id`, and one line on machine, method and window per mark.

    A single set of conditions needs no mark.
    """
    groups: dict[bytes, list[Row]] = {}
    for row in rows:
        device = (row.device.name, row.device.backend, row.device.options)
        conditions = (device, row.machine, row.method, row.window, row.pacing, row.clock, row.toolkit)
        groups.setdefault(msgspec.json.encode(conditions, order="sorted"), []).append(row)
    marks: dict[int, str] = {}
    lines: list[str] = []
    for number, members in enumerate(groups.values(), 1):
        mark = f" ({number})" if len(groups) > 1 else ""
        marks |= {id(row): mark for row in members}
        lines.append(f"{mark} Measured: {_conditions(members)}.".strip())
    return marks, lines


def _label(row: Row, shape: Shape | None, marks: dict[int, str]) -> str:
    """A cell, for notes."""
    return f"{model_name(row)} {size_of(shape)}{marks[id(row)]}"


# window -> what the clock saw
_WINDOWS: dict[Window | None, str] = {
    Window.COMPUTE: "compute window (copies to and from the device left out)",
    Window.PREDICTION: "prediction window (the toolkit's own reading around its native call)",
    Window.END_TO_END: "end-to-end window (copies to and from the device included)",
    None: "nothing timed",
}


def _chosen(device: Device) -> list[tuple[str, object]]:
    """The options of a device that say something; -1 stands for whichever GPU fits, and "" for no choice."""
    return [(name, value) for name, value in sorted(device.options.items()) if value != "" and value != -1]


def _conditions(rows: Sequence[Row]) -> str:
    """How, on what and when: of rows that share it all but for the days."""
    row = rows[0]
    machine = row.machine
    days = sorted({cell.finished[:10] for each in rows for cell in each.cells.values()})
    hardware = [
        f"machine {machine.name}" if machine.name else "",
        machine.processor,
        machine.processors,
        f"{machine.memory_mib / 1024:.0f} GiB" if machine.memory_mib else "",
    ]
    facts = [
        _how(row.method, cold=any(cell.cold_ns for each in rows for cell in each.measured)),
        _WINDOWS[row.window],
        f"read by {row.clock}" if row.clock and not row.clock.startswith("time.") else "",  # not by the stopwatch here
        _paced(row),
        ", ".join([row.device.backend, *(f"{name} {value}" for name, value in _chosen(row.device))]),
        f"engine of {row.toolkit}" if row.toolkit else "",
        machine.accelerator or "",
        f"driver {machine.driver}" if machine.driver else "",
        ", ".join(fact for fact in hardware if fact),
        ", ".join([machine.os, *([f"Python {machine.python}"] if machine.python else [])]),
        ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items())),
        days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
    ]
    return plain("; ".join(fact for fact in facts if fact))


def _how(method: Method, *, cold: bool) -> str:
    """The method in words; `cold`: the untimed run of each round was timed by others and is kept apart."""
    anew = method.loading == "per-round"
    untimed = f"{method.warmup} untimed run{'s' * (method.warmup != 1)}"
    if method.statistic is Statistic.TRIMMED_MEAN:
        return (
            f"mean over {method.rounds} rounds of {method.runs} runs, each round "
            f"{'with the file loaded anew, ' * anew}after {untimed}, {method.trim} lowest and {method.trim} highest "
            f"left out"
        )
    rounds = f"{method.rounds} x {method.runs}" if method.rounds > 1 else str(method.runs)
    if method.processes > 1:
        rounds += f" runs in {method.processes} processes"
    elif method.duration_ms:
        rounds = f"at least {rounds} runs and {_span(method.duration_ms)} of them"
    else:
        rounds += " runs"
    if cold:
        after = "the first of each round, which is kept apart"
    elif method.warmup_ms:
        counted = f"{method.warmup} and " if method.warmup else ""
        after = f"{'at least ' if counted else ''}{counted}{_span(method.warmup_ms)} of untimed ones"
    else:
        after = untimed.replace("run", "one")
    if method.steady:
        after += f", until their medians differed by less than {100 * method.steady:g} %"
    return f"median of {rounds} after {after}{', the file loaded anew for each round' * anew}"


def _span(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s" if milliseconds >= 1000 else f"{milliseconds} ms"


def _paced(row: Row) -> str:
    """Said where it is not what is taken for granted, and of Core ML, where both occur."""
    if row.pacing is Pacing.REMOTE_CALL:
        return "each run called over the cable, the device idle in between"
    return "back to back" if row.window is Window.PREDICTION else ""


def _not_compared(rows: Sequence[Row]) -> list[str]:
    """The line that the mark needs, where there is one."""
    missing = any(not compared(cell) for row in rows for cell in row.measured)
    return [NOT_COMPARED_NOTE] if missing else []


def _unproved(rows: Sequence[Row], marks: dict[int, str]) -> list[str]:
    labels = [
        _label(row, cell.shape, marks)
        for row in rows
        for cell in row.measured
        if isinstance(cell.artifact, Artifact) and cell.artifact.parity is None
    ]
    labels = list(dict.fromkeys(labels))  # two forms of one network are told apart in the table
    return [f"Known from its report only, not proved here: {_some(labels)}."] if labels else []


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


# --- what was counted -------------------------------------------------------------------------------------------------


def _accuracy(rows: Sequence[Row], common: str) -> list[Column]:
    """What was counted of the files in the rows, where that was asked for; with the size where it is not the usual."""
    if all(row.accuracies is None for row in rows):
        return [Column("top-1 %", [RANDOM if row.is_random else NONE for row in rows], "right")]

    def cell(row: Row, share: Callable[[Accuracy], Share | None]) -> str:
        found = {size_of(shape): percent(share(each)) for shape, each in (row.accuracies or {}).items()}
        ordered = sorted(found.items(), key=lambda item: item[0] != common)
        texts = [text if size == common else f"{text} at {size}" for size, text in ordered if text != NONE]
        return ", ".join(texts) or (RANDOM if row.is_random else NONE)

    return [
        Column("measured top-1 %", [cell(row, lambda each: each.top1_share) for row in rows], "right"),
        Column("measured top-5 %", [cell(row, lambda each: each.top5_share) for row in rows], "right"),
    ]


def _counted_notes(rows: Sequence[Row], marks: dict[int, str]) -> list[str]:
    """What the measured accuracies are of: a line per way of counting, with the cells it is about."""
    if all(row.accuracies is None for row in rows):
        return []
    ways: dict[str, list[str]] = {}
    for row in rows:
        for shape, each in (row.accuracies or {}).items():
            unread = f", {len(each.unreadable)} unreadable files left out" if each.unreadable else ""
            way = f"{counted(each).removesuffix('.')}; {each.images} images{unread}"
            ways.setdefault(way, []).append(_label(row, shape, marks))
    if not ways:
        return ["Measured accuracy: none of these files has been counted; `fastvit-bench accuracy` does that."]
    told = "Measured accuracy: of the very file that was timed, Wilson's 95 % interval in brackets."
    apart = {each.evaluation.digest for row in rows for each in (row.accuracies or {}).values()}
    mixed = ["Measured accuracies here are not all of the same images: do not compare them."] if len(apart) > 1 else []
    return [told, *mixed, *(f"{way}: {_some(labels)}." for way, labels in ways.items())]


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


# --- details ----------------------------------------------------------------------------------------------------------


def _per_image(rows: Sequence[Row], marks: dict[int, str]) -> Detail | None:
    lines = [(row, cell) for row in rows if row.batch > 1 for cell in row.measured]
    if not lines:
        return None
    which = _which(lines, marks)
    return Detail(
        "Per image, derived: the latency of a batch over its images, which is not that of one image alone",
        [
            *which,
            Column("batch", [str(row.batch) for row, _ in lines], "right"),
            Column("ms/image", [per_image(cell) for _, cell in lines], "right"),
            Column("images/s", [derived(cell, lambda ms, n=row.batch: 1e3 * n / ms) for row, cell in lines], "right"),
        ],
        len(which),
    )


def per_image(cell: Measurement) -> str:
    """Milliseconds of one image of a batch, with the digits that the batch's interval supports."""
    images = cell.shape.batch if cell.shape else 1
    return derived(cell, lambda ms: ms / images)


@dataclass(frozen=True)
class Quantile:
    """A quantile of the samples with its 95 % interval."""

    value_ms: float
    interval: Interval


# in names of columns -> quantile; where the samples are too few for a two-sided interval there is none
QUANTILES = {"p99": 0.99, "p999": 0.999}
TAILS = {"p99 ms": 0.99, "p99.9 ms": 0.999}  # the same as people's headings


def quantile_of(cell: Measurement, quantile: float) -> Quantile | None:
    """A quantile of all samples; None where they are too few to enclose it (of p99 368, of p99.9 3688)."""
    value, interval = cell.quantile_ms(quantile), cell.quantile_interval_ms(quantile)
    return None if value is None or interval is None else Quantile(value, interval)


def tail_texts(cell: Measurement) -> dict[str, str]:
    """Heading -> quantile with its interval; a dash where the samples do not show it."""
    tails = {title: quantile_of(cell, quantile) for title, quantile in TAILS.items()}
    return {title: latency(tail.value_ms, tail.interval) if tail else NONE for title, tail in tails.items()}


def _tails(rows: Sequence[Row], marks: dict[int, str]) -> Detail | None:
    medians = [(row, cell) for row in rows if row.method.statistic is Statistic.MEDIAN for cell in row.measured]
    lines = [(row, cell) for row, cell in medians if quantile_of(cell, 0.99)]
    if not lines:
        return None
    which = _which(lines, marks)
    texts = [tail_texts(cell) for _, cell in lines]
    columns = [Column(title, [each[title] for each in texts], "right") for title in TAILS]
    return Detail(
        "The slowest runs: 99 and 99.9 % of all runs took at most so long, 95 % interval in brackets",
        [
            *which,
            Column("runs", [str(len(cell.samples_ms)) for _, cell in lines], "right"),
            *(column for column in columns if any(cell != NONE for cell in column.cells)),
        ],
        len(which),
    )


def first(values: Sequence[int]) -> float | None:
    """Milliseconds of the first of some nanoseconds."""
    return values[0] / 1e6 if values else None


def later(values: Sequence[int]) -> float | None:
    """Milliseconds: the median of all but the first."""
    return median(values[1:]) / 1e6 if values[1:] else None


# heading -> milliseconds, of what comes before the runs that are measured
STARTING: dict[str, Callable[[Measurement], float | None]] = {
    "compile": lambda cell: median(cell.compile_ns) / 1e6 if cell.compile_ns else None,
    "first load": lambda cell: first(cell.load_ns),
    "later loads": lambda cell: later(cell.load_ns),
    "first run": lambda cell: first(cell.cold_ns),
    "later first runs": lambda cell: later(cell.cold_ns),
}


def _starting(rows: Sequence[Row], marks: dict[int, str]) -> Detail | None:
    lines = [(row, cell) for row in rows for cell in row.measured if cell.load_ns or cell.compile_ns or cell.cold_ns]
    if not lines:
        return None
    which = _which(lines, marks)
    times = {title: [value(cell) for _, cell in lines] for title, value in STARTING.items()}
    return Detail(
        "Compiling, loading and the first run of each round, in ms; medians where there are several",
        [
            *which,
            *(
                Column(title, [NONE if value is None else significant(value, 3) for value in values], "right")
                for title, values in times.items()
                if any(value is not None for value in values)
            ),
        ],
        len(which),
    )


# unit -> heading
_UNITS = {Unit.NEURAL_ENGINE: "Neural Engine", Unit.GPU: "GPU", Unit.CPU: "CPU"}


def _planned(rows: Sequence[Row], marks: dict[int, str]) -> Detail | None:
    lines = [(row, cell) for row in rows for cell in row.measured if cell.placement]
    if not lines:
        return None
    plans = [cell.placement for _, cell in lines if cell.placement]
    which = _which(lines, marks)
    return Detail(
        "Planned by the toolkit, not measured: share of operations / of estimated cost",
        [
            *which,
            Column("operations", [str(len(plan.operations)) for plan in plans], "right"),
            *(Column(title, [_shares(plan, unit) for plan in plans], "right") for unit, title in _UNITS.items()),
            Column("switches", [str(plan.switches) for plan in plans], "right"),
            Column("could run on Neural Engine", [_percent(plan.eligible) for plan in plans], "right"),
            Column("not on Neural Engine", [plain(kinds(plan.elsewhere, 4)) or NONE for plan in plans], wraps=True),
        ],
        len(which),
    )


def _shares(plan: Placement, unit: Unit) -> str:
    share = _percent(plan.shares[unit])
    return share if plan.costs is None else f"{share} / {_percent(plan.costs[unit])}"


SLOWEST = 10  # layers that are told one by one


def _layers(rows: Sequence[Row], marks: dict[int, str]) -> list[Detail]:
    """Of each measurement with a profile two tables: its layers by block of the network, and the slowest of them."""
    found: list[Detail] = []
    for row in rows:
        for cell in row.measured:
            if cell.layers:
                whose = f"{model_name(row)} {size_of(cell.shape)} b{row.batch}{marks[id(row)]}"
                found += [_blocks_of(cell.layers, whose), _slowest_of(cell.layers, whose)]
    return found


def by_block(layers: Sequence[LayerTime]) -> dict[str, list[LayerTime]]:
    """Block of the network -> its layers, in the order they run."""
    found: dict[str, list[LayerTime]] = {}
    for layer in layers:
        found.setdefault(layer.block or NOT_TOLD, []).append(layer)
    return found


def milliseconds(layers: Sequence[LayerTime]) -> float:
    """The sum of their medians."""
    return sum(layer.median_ns for layer in layers) / 1e6


def _blocks_of(layers: Sequence[LayerTime], whose: str) -> Detail:
    blocks = by_block(layers)
    total = milliseconds(layers)
    return Detail(
        f"Layers of {whose} by block, in a pass of its own whose sum, {significant(total, 3)} ms, is not the latency",
        [
            Column("block", [plain(name) for name in blocks]),
            Column("layers", [str(len(each)) for each in blocks.values()], "right"),
            *_times([milliseconds(each) for each in blocks.values()], total),
        ],
        1,
    )


def _slowest_of(layers: Sequence[LayerTime], whose: str) -> Detail:
    slowest = sorted(layers, key=lambda layer: -layer.median_ns)[:SLOWEST]
    return Detail(
        f"The slowest layers of {whose} in that pass",
        [
            Column("layer", [_clipped(plain(layer.name)) for layer in slowest], wraps=True),
            Column("kind", [plain(layer.kind) or NONE for layer in slowest]),
            Column("block", [plain(layer.block) or NONE for layer in slowest]),
            *_times([milliseconds([layer]) for layer in slowest], milliseconds(layers)),
        ],
        3,
    )


def _times(values: Sequence[float], total: float) -> list[Column]:
    return [
        Column("ms", [significant(value, 3) for value in values], "right"),
        Column("share", [_percent(value / total if total else 0.0) for value in values], "right"),
    ]


def _clipped(name: str, most: int = 72) -> str:
    """A name with its middle left out where it is long: of fused layers, toolkits string all names together."""
    return name if len(name) <= most else f"{name[: most - 28]} ... {name[-23:]}"


def _which(lines: Sequence[tuple[Row, Measurement]], marks: dict[int, str]) -> list[Column]:
    """The columns that say which cell a line is about."""
    rows = [row for row, _ in lines]
    return [
        Column("model", [f"{model_name(row)}{marks[id(row)]}" for row in rows]),
        *_forms(rows),
        Column("size", [size_of(cell.shape) for _, cell in lines], "right"),
    ]


# --- published figures as text ----------------------------------------------------------------------------------------


def _printed(figure: Figure | None) -> str:
    return f"{figure.value:g}" if figure else ""


# heading -> text, and side of the column
_PUBLISHED: dict[str, tuple[Callable[[Published], str], Literal["left", "right"]]] = {
    "published as": (lambda model: model.label, "left"),
    "published params M": (lambda model: _printed(model.params_m), "right"),
    "published FLOPs G": (lambda model: _printed(model.flops_g), "right"),
    PUBLISHED_TOP1: (lambda model: _printed(model.top1_undistilled), "right"),
    "published iPhone ms": (lambda model: _printed(model.iphone_ms), "right"),
    "published GPU ms (batch 8)": (lambda model: _printed(model.gpu_ms), "right"),
}


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
