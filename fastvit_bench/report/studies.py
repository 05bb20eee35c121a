"""Studies on the disk and as tables: what was measured and what was published, side by side and never mixed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import StoreError
from fastvit_bench.records import Artifact, Interval
from fastvit_bench.render import data, terminal
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import latency, plain, significant
from fastvit_bench.report import claims, judge, published
from fastvit_bench.report.published import Place, Printed
from fastvit_bench.report.rows import size_of
from fastvit_bench.stats import intervals
from fastvit_bench.store import documents
from fastvit_bench.studies import Contestant, StudyResult, StudyRow
from fastvit_bench.verdicts import CellResult

if TYPE_CHECKING:
    from rich.console import Group

PREFIX, SUFFIX = "study-", ".json"  # of a study's file among the runs of its device
_ID = "-".join(("[0-9]" * 8, "[0-9]" * 6, "?" * 6))  # as `store.new_id` makes them

# --- on the disk ------------------------------------------------------------------------------------------------------


def write(result: StudyResult, path: Path) -> None:
    """Write a study, whole or not at all. Raises `StoreError`."""
    documents.write(path, msgspec.json.encode(result) + b"\n", "study")


def read(path: Path) -> StudyResult:
    """The study that `write` wrote. Raises `StoreError` with what is wrong and what to do."""
    return documents.read(path, documents.STUDY)


def lying(folders: Sequence[Path], name: str = "*") -> list[Path]:
    """The files of a study (all: ``*``) in folders of devices, oldest first."""
    found = (path for folder in folders for path in folder.glob(f"{PREFIX}{name}-{_ID}{SUFFIX}"))
    return sorted(found, key=lambda path: path.stem.split("-")[-3:])  # an id begins with the time


def newest(folders: Sequence[Path]) -> tuple[list[StudyResult], list[str]]:
    """The newest of each study and device that has figures; and a sentence on each file that cannot be read."""
    kept: dict[tuple[str, str], StudyResult] = {}
    notes: list[str] = []
    for path in lying(folders):
        try:
            found = read(path)
        except StoreError as error:
            notes.append(f"A stored study is left out: {error}")
            continue
        if any(cell.verdict.ratio is not None for cell in found.cells):
            kept[found.study.name, found.device.name] = found
    return list(kept.values()), notes


# --- lines ------------------------------------------------------------------------------------------------------------

# what is published of a row -> columns in which the tables print it
PRINTED: dict[str, tuple[str, ...]] = {
    "params_m": ("params", "params_with_head"),
    "gmacs": ("flops", "flops_512"),
    "iphone_ms": ("mobile_latency", "mobile_latency_512"),
    "gpu_ms": ("gpu_latency", "gpu_latency_bs2_512"),
    "top1": ("top1",),
}


class Figure(NamedTuple):
    """A measured value and its 95 % interval."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Line:
    """A row at a size: what was measured of it here, and what is published of it."""

    group: str
    row: StudyRow
    contestant: Contestant | None  # None of a row that nobody can measure
    reference: bool  # others are divided by it
    artifact: Artifact | None = None
    figure: Figure | None = None  # milliseconds per batch
    ratio: Figure | None = None  # to the reference's latency
    failed: str | None = None
    published: Mapping[str, Printed] = field(default_factory=dict[str, Printed])  # by the names of `PRINTED`
    published_ratios: Mapping[str, float] = field(default_factory=dict[str, float])  # of its two latencies

    @property
    def size(self) -> str:
        """In pixels."""
        return size_of(self.contestant.shape) if self.contestant else str(self.row.res or NONE)

    @property
    def params_m(self) -> float | None:
        """Counted on the network that was exported, in millions."""
        return self.artifact.params / 1e6 if self.artifact else None

    @property
    def gmacs(self) -> float | None:
        """Counted likewise, of one image, in 10^9."""
        return self.artifact.macs / self.artifact.shape.batch / 1e9 if self.artifact else None


def lines(result: StudyResult) -> list[Line]:
    """A study in the order of its rows: each reference, then what is divided by it, then what is published only."""
    found: list[Line] = []
    groups = list(dict.fromkeys(row.group for row in result.study.rows))
    for group in groups:
        matches = [match for match in result.matches if match.row.row.group == group]
        for reference in dict.fromkeys(match.reference for match in matches):
            against = [match for match in matches if match.reference == reference]
            cells = [cell for match in against if (cell := result.cell(match)) is not None]
            base = _line(result, reference, cells, "base")
            found.append(base)
            for match in against:
                cell = result.cell(match)
                line = _line(result, match.row, [cell] if cell else [], "head")
                found.append(_divided(line, base, cell))
        found += [
            Line(group, row, None, False, failed=row.note, published=_published(result, row, row.res or 0))
            for row in result.study.rows
            if row.group == group and not row.model
        ]
    return found


def _line(result: StudyResult, each: Contestant, cells: Sequence[CellResult], side: str) -> Line:
    known = [cell for cell in cells if (cell.base if side == "base" else cell.head) is not None]
    made = (known[0].base if side == "base" else known[0].head) if known else None
    values = [
        block.base_ms if side == "base" else block.head_ms for cell in cells for block in judge.counted(cell.blocks)
    ]
    failed = next((cell.verdict.reason for cell in cells if cell.verdict.ratio is None), None)
    return Line(
        group=each.row.group,
        row=each.row,
        contestant=each,
        reference=side == "base",
        artifact=made.artifact if made else None,
        figure=_median(values),
        failed=None if values else failed,
        published=_published(result, each.row, each.shape.width),
    )


def _median(values: Sequence[float]) -> Figure | None:
    if not values:
        return None
    ends = judge.interval([math.log(value) for value in values])
    interval = Interval(low=math.exp(ends[0]), high=math.exp(ends[1]), confidence=0.95) if ends else None
    return Figure(intervals.median(values), interval)


def _divided(line: Line, base: Line, cell: CellResult | None) -> Line:
    ratio = cell.verdict.ratio if cell else None
    printed = {
        name: theirs.value / ours.value
        for name in ("iphone_ms", "gpu_ms")
        if (theirs := line.published.get(name)) and (ours := base.published.get(name)) and theirs.value and ours.value
    }
    return replace(
        line,
        ratio=Figure(ratio, cell.verdict.interval) if cell and ratio is not None else None,
        published_ratios=printed,
    )


def _published(result: StudyResult, row: StudyRow, size: int) -> dict[str, Printed]:
    name = (row.published or row.label).replace("{size}", str(size))
    known = published.printed()
    own = size in (row.res, *result.study.grid) and name.rpartition("@")[2] in (str(size), name)
    found: dict[str, Printed] = {}
    for what, usual in PRINTED.items():
        if not own and what != "params_m":  # all else was printed for another image size
            continue
        columns = (row.iphone,) if what == "iphone_ms" and row.iphone else usual
        tables = (row.table,) if row.table else result.study.tables
        places = (Place(table, name, column) for table in tables for column in columns)
        cell = next((known[place] for place in places if place in known and known[place].value is not None), None)
        if cell is not None:
            found[what] = cell
    return found


# --- for claims -------------------------------------------------------------------------------------------------------

# kind of device that published latencies are of -> what the hardware's name contains
_KINDS: dict[str, claims.DeviceKind] = {"iPhone13,": "iphone", "iPhone 12 Pro": "iphone", "RTX 2080 Ti": "gpu"}


def measured(result: StudyResult, source: str) -> list[claims.Measured]:
    """The figures of a study as claims ask for them: both ways round of each ratio, and the counts of each row."""
    hardware = result.machine.accelerator or result.machine.processor
    kinds: list[claims.DeviceKind] = [kind for name, kind in _KINDS.items() if name in hardware]
    found: dict[tuple[str, str | None, int, str], claims.Measured] = {}

    def add(row: str, reference: str | None, size: int, column: claims.Figures, figure: Figure) -> None:
        interval = (figure.interval.low, figure.interval.high) if figure.interval else None
        found.setdefault(
            (row, reference, size, column),
            claims.Measured(
                row=row,
                reference=reference,
                size=size,
                column=column,
                value=figure.value,
                interval=interval,
                study=result.study.name,
                device=result.device.name,
                device_kind=kinds[0] if kinds else "other",
                machine=hardware,
                finished=result.finished,
                source=source,
            ),
        )

    for match in result.matches:
        cell, row, base = result.cell(match), match.row, match.reference
        if cell is None:
            continue
        for each, side in ((row, cell.head), (base, cell.base)):
            if side is not None:
                made, size = side.artifact, each.shape.width
                add(each.row.label, None, size, "params", Figure(float(made.params), None))
                add(each.row.label, None, size, "macs", Figure(made.macs / made.shape.batch, None))
        ratio, interval = cell.verdict.ratio, cell.verdict.interval
        if ratio is not None:
            add(row.row.label, base.row.label, row.shape.width, "latency", Figure(ratio, interval))
            ends = Interval(1 / interval.high, 1 / interval.low, interval.confidence) if interval else None
            add(base.row.label, row.row.label, base.shape.width, "latency", Figure(1 / ratio, ends))
    return list(found.values())


# --- as tables --------------------------------------------------------------------------------------------------------


def _printed(name: str) -> Callable[[Line], str]:
    return lambda line: line.published[name].text if name in line.published else NONE


def _printed_value(name: str) -> Callable[[Line], object]:
    return lambda line: line.published[name].value if name in line.published else None


def _printed_ratio(name: str) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        if line.reference and name in line.published:
            return "1"
        return NONE if (value := line.published_ratios.get(name)) is None else f"{value:.2f}"

    return text


def ratio_text(line: Line) -> str:
    """``0.749 [0.741, 0.757]``, ``1`` of the reference, or that it failed."""
    if line.ratio is not None:
        return latency(*line.ratio)
    if line.reference:
        return "1" if line.figure else NONE
    return "failed" if line.failed and line.contestant else NONE


def _low(figure: Figure | None) -> float | None:
    return figure.interval.low if figure and figure.interval else None


def _high(figure: Figure | None) -> float | None:
    return figure.interval.high if figure and figure.interval else None


def table(result: StudyResult) -> Table[Line]:
    """A study's lines; measured and published figures in columns of their own."""
    found = lines(result)
    columns: list[Column[Line]] = [
        Column("study", "", lambda line: result.study.name),
        Column(
            "group",
            "group",
            lambda line: line.group or None,
            lambda line: plain(line.group),
            role="key",
            shown="filled",
            facet=True,
        ),
        Column("network", "network", lambda line: line.row.label, lambda line: plain(line.row.label), role="key"),
        Column("model", "", lambda line: line.row.model or None),
        Column("fused", "", lambda line: line.row.fuse if line.row.model else None),
        Column("head", "", lambda line: line.row.head if line.row.model else None),
        Column("size", "px", lambda line: line.size, align="right", role="key"),
        Column("reference", "", lambda line: line.reference),
        Column(
            "ms",
            "ms here",
            lambda line: line.figure.value if line.figure else None,
            lambda line: latency(*line.figure) if line.figure else NONE,
            align="right",
            role="figure",
            shown="filled",
        ),
        Column("ms_low", "", lambda line: _low(line.figure)),
        Column("ms_high", "", lambda line: _high(line.figure)),
        Column(
            "ratio",
            "ratio here",
            lambda line: line.ratio.value if line.ratio else None,
            ratio_text,
            align="right",
            role="figure",
            shown="filled",
        ),
        Column("ratio_low", "", lambda line: _low(line.ratio)),
        Column("ratio_high", "", lambda line: _high(line.ratio)),
        Column(
            "published_iphone_ms",
            "iPhone ms (published)",
            _printed_value("iphone_ms"),
            _printed("iphone_ms"),
            align="right",
            shown="filled",
            part=1,
        ),
        Column(
            "published_iphone_ratio",
            "iPhone ratio (published)",
            lambda line: line.published_ratios.get("iphone_ms"),
            _printed_ratio("iphone_ms"),
            align="right",
            shown="filled",
        ),
        Column(
            "published_gpu_ms",
            "GPU ms (published)",
            _printed_value("gpu_ms"),
            _printed("gpu_ms"),
            align="right",
            shown="filled",
            part=1,
        ),
        Column(
            "published_gpu_ratio",
            "GPU ratio (published)",
            lambda line: line.published_ratios.get("gpu_ms"),
            _printed_ratio("gpu_ms"),
            align="right",
            shown="filled",
        ),
        Column(
            "params_m",
            "params",
            lambda line: line.params_m,
            lambda line: NONE if line.params_m is None else significant(line.params_m, 4),
            unit="M",
            align="right",
            shown="filled",
            part=1,
        ),
        Column(
            "published_params_m",
            "params M (published)",
            _printed_value("params_m"),
            _printed("params_m"),
            align="right",
            shown="filled",
            part=1,
        ),
        Column(
            "gmacs",
            "GMACs",
            lambda line: line.gmacs,
            lambda line: NONE if line.gmacs is None else significant(line.gmacs, 3),
            align="right",
            shown="filled",
            part=1,
        ),
        Column(
            "published_gmacs",
            "GMACs (published)",
            _printed_value("gmacs"),
            _printed("gmacs"),
            align="right",
            shown="filled",
            part=1,
        ),
        Column(
            "published_top1",
            "top-1 (published)",
            _printed_value("top1"),
            _printed("top1"),
            align="right",
            shown="filled",
            part=1,
        ),
        Column("failed", "", lambda line: line.failed),
        Column("device", "", lambda line: result.device.name),
        Column("processor", "", lambda line: result.machine.processor),
        Column("accelerator", "", lambda line: result.machine.accelerator),
        Column("finished", "", lambda line: result.finished),
        Column("sha256", "", lambda line: line.artifact.sha256 if line.artifact else None),
    ]
    groups = [at for at, line in enumerate(found) if at and line.reference]
    return Table(found, columns, f"{plain(result.study.title)} ({result.device.name})", groups)


def notes(result: StudyResult) -> list[str]:
    """What must be said below the table."""
    device, machine = result.device, result.machine
    options = ", ".join(f"{name} {value}" for name, value in sorted(device.options.items()))
    versions = {
        name: version for cell in result.cells if cell.head for name, version in cell.head.artifact.toolchain.items()
    }
    running = backends.narrowed(machine, device).packages  # turns are not put in proportion to the reference workload
    versions |= {name: version for name, version in running.items() if name not in backends.REFERENCE_PACKAGES}
    packages = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if name != "fastvit-bench")
    measured, planned = len([cell for cell in result.cells if cell.verdict.ratio is not None]), len(result.matches)
    said = [
        f"Here: {device.name} ({device.backend}, {device.precision}, batch {device.batch}; {options}) on "
        f"{machine.processor or machine.host}"
        f"{f' and {machine.accelerator}' if machine.accelerator else ''}, {machine.processors}; {packages}; "
        f"{result.finished[:10]}.",
        f"Ratio: to the first line of the group, both sides in turns: the median over {result.blocks} blocks of fresh "
        f"processes, {result.turns.turns} turns of up to {result.turns.runs} runs each, with its 95 % interval. "
        f"Weights are random unless a checkpoint is configured; speed does not depend on them.",
        "Published: the paper's tables; an iPhone 12 Pro with Core ML, an RTX 2080 Ti with TensorRT. Another device, "
        "and never a measurement of this tool's.",
    ]
    if measured < planned:
        said.append(f"Measured so far: {measured} of {planned} pairs.")
    said += [f"{line.row.label}: {plain(line.failed)}" for line in lines(result) if line.failed]
    said += [f"{row.label}: {plain(row.note)}" for row in dict.fromkeys(result.study.rows) if row.note and row.model]
    if result.study.note:
        said.append(result.study.note)
    return list(dict.fromkeys(said))


def live_row(cell: CellResult) -> str:
    """A pair as it ends: ``RepMixer 384 / Pooling 384  0.749 [0.741, 0.757]  (26.1 ms / 34.9 ms)``."""
    verdict = cell.verdict
    if verdict.ratio is None or cell.head_ms is None or cell.base_ms is None:
        return f"{plain(cell.name)}  failed: {plain(verdict.reason)}"
    both = f"({significant(cell.head_ms, 4)} ms / {significant(cell.base_ms, 4)} ms)"
    return f"{plain(cell.name)}  {latency(verdict.ratio, verdict.interval)}  {both}"


def rich(result: StudyResult, told: Sequence[str], width: int) -> "Group":
    """For a terminal so many characters wide; the sentences stand out from the notes."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        terminal.report(TableReport([table(result)]), width),
        *map(Text, told),
        *(Text(note, style="dim") for note in notes(result)),
    )


def markdown(result: StudyResult, told: Sequence[str]) -> str:
    """The same as Markdown."""
    shown = table(result)
    text = markdown_tables.report(TableReport([replace(shown, title="")], [*told, *notes(result)]))
    return f"## {shown.title}\n\n{text}"


def csv(result: StudyResult, told: Sequence[str]) -> str:
    """Comma-separated, a line per row and size; sentences have no place in it."""
    return data.csv(table(result))


def json(result: StudyResult, told: Sequence[str]) -> str:
    """The same lines, and the sentences on claims."""
    return data.json(
        {
            "study": result.study.name,
            "lines": table(result).records(),
            "claims": list(told),
            "notes": notes(result),
        }
    )


FORMATS: dict[str, Callable[[StudyResult, Sequence[str]], str]] = {"markdown": markdown, "csv": csv, "json": json}
