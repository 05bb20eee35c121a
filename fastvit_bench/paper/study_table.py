"""Studies as files and as tables, with measured and published figures in separate columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import StoreError
from fastvit_bench.paper import claims, published, standing
from fastvit_bench.paper.published import FigurePlace, Printed
from fastvit_bench.records import Artifact, Interval
from fastvit_bench.records.comparison import CellResult
from fastvit_bench.records.study import Contestant, StudyResult, StudyRow
from fastvit_bench.render import data, terminal
from fastvit_bench.render import latex as latex_tables
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.rows import size_of
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import latency, printable, significant
from fastvit_bench.stats import intervals, sequential
from fastvit_bench.stats.correlation import rank_correlation
from fastvit_bench.store import documents

if TYPE_CHECKING:
    from rich.console import Group

PREFIX, SUFFIX = "study-", ".json"  # a study's file is among the runs of its device
_ID = "-".join(("[0-9]" * 8, "[0-9]" * 6, "?" * 6))  # as `store.new_id` makes them

# --- on the disk ------------------------------------------------------------------------------------------------------


def write(result: StudyResult, path: Path) -> None:
    """Write a study to a file, completely or not at all. Raises `StoreError`."""
    documents.write(path, msgspec.json.encode(result) + b"\n", "study")


def read(path: Path) -> StudyResult:
    """Load a study that `write` wrote. Raises `StoreError` with the fault and its remedy."""
    return documents.read(path, documents.STUDY)


def lying(folders: Sequence[Path], name: str = "*") -> list[Path]:
    """List the files of a study (all: ``*``) in folders of devices, oldest first."""
    paths = (path for folder in folders for path in folder.glob(f"{PREFIX}{name}-{_ID}{SUFFIX}"))
    return sorted(paths, key=lambda path: path.stem.split("-")[-3:])  # an id begins with the time


def newest(folders: Sequence[Path]) -> tuple[list[StudyResult], list[str]]:
    """Load the newest of each study and device that has figures; also return a sentence on each unreadable file."""
    by_name: dict[tuple[str, str], StudyResult] = {}
    notes: list[str] = []
    for path in lying(folders):
        try:
            result = read(path)
        except StoreError as error:
            notes.append(f"A stored study is left out: {error}")
            continue
        if any(cell.verdict.ratio is not None for cell in result.cells):
            by_name[result.study.name, result.device.name] = result
    return list(by_name.values()), notes


# --- lines ------------------------------------------------------------------------------------------------------------

# published figure of a row -> columns in which the tables print it
PRINTED: dict[str, tuple[str, ...]] = {
    "params_m": ("params", "params_with_head"),
    "gmacs": ("flops", "flops_512"),
    "iphone_ms": ("mobile_latency", "mobile_latency_512"),
    "gpu_ms": ("gpu_latency", "gpu_latency_bs2_512"),
    "top1": ("top1",),
}


CORRELATED = 8  # pairs of a study, the fewest whose correlation is told


class StudyFigure(NamedTuple):
    """A measured value and its 95 % interval."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class StudyLine:
    """A row at one image size, with its measured and its published figures."""

    group: str
    row: StudyRow
    contestant: Contestant | None  # None of a row that nobody can measure
    reference: bool  # others are divided by it
    artifact: Artifact | None = None
    figure: StudyFigure | None = None  # milliseconds per batch
    ratio: StudyFigure | None = None  # to the reference's latency
    failed: str | None = None
    published: Mapping[str, Printed] = field(default_factory=dict[str, Printed])  # by the names of `PRINTED`
    published_ratios: Mapping[str, float] = field(default_factory=dict[str, float])  # of its two latencies

    @property
    def size(self) -> str:
        """The image size in pixels, for people."""
        return size_of(self.contestant.shape) if self.contestant else str(self.row.res or NONE)

    @property
    def params_m(self) -> float | None:
        """The parameters of the exported network, in millions."""
        return self.artifact.params / 1e6 if self.artifact else None

    @property
    def gmacs(self) -> float | None:
        """The multiply-accumulates of the exported network for one image, in 10^9."""
        return self.artifact.macs / self.artifact.shape.batch / 1e9 if self.artifact else None


def lines(result: StudyResult) -> list[StudyLine]:
    """Return a study's lines group by group.

    Each reference comes first, then the rows divided by it, then the rows that are only published.
    """
    study_lines: list[StudyLine] = []
    groups = list(dict.fromkeys(row.group for row in result.study.rows))
    for group in groups:
        matches = [match for match in result.matches if match.row.row.group == group]
        for reference in dict.fromkeys(match.reference for match in matches):
            against = [match for match in matches if match.reference == reference]
            cells = [cell for match in against if (cell := result.cell(match)) is not None]
            base = _line(result, reference, cells, "base")
            study_lines.append(base)
            for match in against:
                cell = result.cell(match)
                line = _line(result, match.row, [cell] if cell else [], "head")
                study_lines.append(_divided(line, base, cell))
        study_lines += [
            StudyLine(group, row, None, False, failed=row.note, published=_published(result, row, row.res or 0))
            for row in result.study.rows
            if row.group == group and not row.model
        ]
    return study_lines


def _line(result: StudyResult, contestant: Contestant, cells: Sequence[CellResult], side: str) -> StudyLine:
    known = [cell for cell in cells if (cell.base if side == "base" else cell.head) is not None]
    measurement = (known[0].base if side == "base" else known[0].head) if known else None
    values = [
        block.base_ms if side == "base" else block.head_ms
        for cell in cells
        for block in sequential.counted(cell.blocks)
    ]
    failed = next((cell.verdict.reason for cell in cells if cell.verdict.ratio is None), None)
    return StudyLine(
        group=contestant.row.group,
        row=contestant.row,
        contestant=contestant,
        reference=side == "base",
        artifact=measurement.artifact if measurement else None,
        figure=_median(values),
        failed=None if values else failed,
        published=_published(result, contestant.row, contestant.shape.width),
    )


def _median(values: Sequence[float]) -> StudyFigure | None:
    if not values:
        return None
    ends = sequential.interval([math.log(value) for value in values])
    interval = Interval(low=math.exp(ends[0]), high=math.exp(ends[1]), confidence=0.95) if ends else None
    return StudyFigure(intervals.median(values), interval)


def _divided(line: StudyLine, base: StudyLine, cell: CellResult | None) -> StudyLine:
    ratio = cell.verdict.ratio if cell else None
    printed = {
        name: own.value / reference.value
        for name in ("iphone_ms", "gpu_ms")
        if (own := line.published.get(name))
        and (reference := base.published.get(name))
        and own.value
        and reference.value
    }
    return replace(
        line,
        ratio=StudyFigure(ratio, cell.verdict.interval) if cell and ratio is not None else None,
        published_ratios=printed,
    )


def _published(result: StudyResult, row: StudyRow, size: int) -> dict[str, Printed]:
    name = (row.published or row.label).replace("{size}", str(size))
    known = published.printed()
    own = size in (row.res, *result.study.grid) and name.rpartition("@")[2] in (str(size), name)
    cells: dict[str, Printed] = {}
    for what, usual in PRINTED.items():
        if not own and what != "params_m":  # other figures were printed for another image size
            continue
        columns = (row.iphone,) if what == "iphone_ms" and row.iphone else usual
        tables = (row.table,) if row.table else result.study.tables
        places = (FigurePlace(table, name, column) for table in tables for column in columns)
        cell = next((known[place] for place in places if place in known and known[place].value is not None), None)
        if cell is not None:
            cells[what] = cell
    return cells


# --- for claims -------------------------------------------------------------------------------------------------------

# text in the hardware's name -> kind of device that published latencies are of
_KINDS: dict[str, claims.DeviceKind] = {"iPhone13,": "iphone", "iPhone 12 Pro": "iphone", "RTX 2080 Ti": "gpu"}


def measured(result: StudyResult, source: str) -> list[claims.Measured]:
    """Return the figures of a study for claims: each ratio and its reciprocal, and the counts of each row."""
    hardware = result.machine.accelerator or result.machine.processor
    kinds: list[claims.DeviceKind] = [kind for name, kind in _KINDS.items() if name in hardware]
    figures: dict[tuple[str, str | None, int, str], claims.Measured] = {}

    def add(row: str, reference: str | None, size: int, column: claims.Figures, figure: StudyFigure) -> None:
        interval = (figure.interval.low, figure.interval.high) if figure.interval else None
        figures.setdefault(
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
        for contestant, side in ((row, cell.head), (base, cell.base)):
            if side is not None:
                artifact, label, size = side.artifact, contestant.row.label, contestant.shape.width
                add(label, None, size, "params", StudyFigure(float(artifact.params), None))
                add(label, None, size, "macs", StudyFigure(artifact.macs / artifact.shape.batch, None))
        ratio, interval = cell.verdict.ratio, cell.verdict.interval
        if ratio is not None:
            add(row.row.label, base.row.label, row.shape.width, "latency", StudyFigure(ratio, interval))
            ends = Interval(1 / interval.high, 1 / interval.low, interval.confidence) if interval else None
            add(base.row.label, row.row.label, base.shape.width, "latency", StudyFigure(1 / ratio, ends))
    return list(figures.values())


# --- as tables --------------------------------------------------------------------------------------------------------


def _printed(name: str) -> Callable[[StudyLine], str]:
    return lambda line: line.published[name].text if name in line.published else NONE


def _printed_value(name: str) -> Callable[[StudyLine], object]:
    return lambda line: line.published[name].value if name in line.published else None


def _printed_ratio(name: str) -> Callable[[StudyLine], str]:
    def text(line: StudyLine) -> str:
        if line.reference and name in line.published:
            return "1"
        return NONE if (value := line.published_ratios.get(name)) is None else f"{value:.2f}"

    return text


def ratio_text(line: StudyLine) -> str:
    """Return a line's ratio as text: ``0.749 [0.741, 0.757]``, ``1`` for the reference, or ``failed``."""
    if line.ratio is not None:
        return latency(*line.ratio)
    if line.reference:
        return "1" if line.figure else NONE
    return "failed" if line.failed and line.contestant else NONE


def _low(figure: StudyFigure | None) -> float | None:
    return figure.interval.low if figure and figure.interval else None


def _high(figure: StudyFigure | None) -> float | None:
    return figure.interval.high if figure and figure.interval else None


# long: it declares the columns
def table(result: StudyResult) -> Table[StudyLine]:
    """Return the table of a study's lines, with measured and published figures in separate columns."""
    study_lines = lines(result)
    columns: list[Column[StudyLine]] = [
        Column("study", "", lambda line: result.study.name),
        Column(
            "group",
            "group",
            lambda line: line.group or None,
            lambda line: printable(line.group),
            role="key",
            shown="filled",
            facet=True,
        ),
        Column("network", "network", lambda line: line.row.label, lambda line: printable(line.row.label), role="key"),
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
            minor=True,
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
            minor=True,
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
    groups = [at for at, line in enumerate(study_lines) if at and line.reference]
    return Table(study_lines, columns, printable(f"{result.study.title} ({result.device.name})"), groups)


def notes(result: StudyResult) -> list[str]:
    """Return the notes below the table: device, machine, method, gaps and the remarks on rows."""
    device, machine = result.device, result.machine
    options = ", ".join(f"{name} {value}" for name, value in sorted(device.options.items()))
    versions = {
        name: version for cell in result.cells if cell.head for name, version in cell.head.artifact.toolchain.items()
    }
    running = backends.narrowed(machine, device).packages  # turns are not put in proportion to the reference workload
    versions |= {name: version for name, version in running.items() if name not in backends.REFERENCE_PACKAGES}
    packages = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if name != "fastvit-bench")
    measured, planned = len([cell for cell in result.cells if cell.verdict.ratio is not None]), len(result.matches)
    sentences = [
        f"Measured {result.finished[:10]} on {device.name} ({device.backend}, {device.precision}, batch {device.batch}"
        f"; {options}): {machine.processor or machine.host}"
        f"{f' and {machine.accelerator}' if machine.accelerator else ''}, {machine.processors}. Packages: {packages}.",
        f"Ratios are to the first line of the group, measured in turns. A ratio is the median over {result.blocks} "
        f"blocks of fresh processes, with its 95 % interval. In a block each side has {result.turns.turns} turns of up "
        f"to {result.turns.runs} runs. Weights are random unless a checkpoint is configured; latency does not depend "
        f"on them.",
        "Published figures are those of the paper: an iPhone 12 Pro with Core ML, an RTX 2080 Ti with TensorRT. "
        "They are of another device, and were not measured by this tool.",
    ]
    if measured < planned:
        sentences.append(f"Measured so far: {measured} of {planned} pairs.")
    study_lines = lines(result)
    remarks = [(line.failed, line.row.label) for line in study_lines if line.failed]
    remarks += [(row.note, row.label) for row in result.study.rows if row.note and row.model]
    labels: dict[str, dict[str, None]] = {}  # of the rows with one remark
    for remark, label in remarks:
        labels.setdefault(remark, {})[label] = None
    sentences += [f"{'; '.join(of_remark)}: {remark}" for remark, of_remark in labels.items()]
    sentences += against_macs(study_lines)
    if result.study.note:
        sentences.append(result.study.note)
    return list(dict.fromkeys(map(printable, sentences)))


def against_macs(study_lines: Sequence[StudyLine]) -> list[str]:
    """Return how closely latencies follow multiply-accumulates, here and as published.

    Nothing is returned of too few pairs, nor of pairs whose networks take much the same number.
    """
    measured: list[StudyLine] = []
    macs: list[float] = []
    base: StudyLine | None = None
    for line in study_lines:
        base = line if line.reference else base
        if line is not base and base is not None and line.ratio and line.gmacs and base.gmacs:
            measured.append(line)
            macs.append(line.gmacs / base.gmacs)

    def rho(of: Sequence[int], ratios: Sequence[float]) -> str:
        value = rank_correlation([macs[at] for at in of], ratios)
        return NONE if value is None else f"{value:.2f}"

    timed = [line.ratio.value if line.ratio else 0.0 for line in measured]
    if len(measured) < CORRELATED or max(macs) < 2 * min(macs):
        return []
    sentence = (
        f"Spearman's rank correlation of the ratios of latency with those of multiply-accumulates, over "
        f"{len(measured)} pairs: {rho(range(len(measured)), timed)} here."
    )
    for name, device in (("iphone_ms", "the iPhone"), ("gpu_ms", "the GPU")):
        first = {line.row.label: at for at, line in reversed(list(enumerate(measured)))}  # groups share printed figures
        of = [at for at, line in enumerate(measured) if name in line.published_ratios and first[line.row.label] == at]
        if len(of) >= CORRELATED:
            printed = rho(of, [measured[at].published_ratios[name] for at in of])
            sentence += (
                f" Over the {len(of)} with a published latency of {device}: {rho(of, [timed[at] for at in of])} here, "
                f"{printed} there."
            )
    return [sentence]


def verdicts(result: StudyResult) -> list[str]:
    """Return where each network that challenges the study's own stands among them."""
    challenges = [match for match in result.matches if match.row.row.challenger]
    printed = [_published(result, match.reference.row, match.reference.shape.width) for match in challenges]
    top1 = [float(value) if (value := row["top1"].value if "top1" in row else None) else None for row in printed]
    return standing.sentences(result, list(zip(challenges, top1, strict=True)))


def live_row(cell: CellResult) -> str:
    """Return a line for a pair that has ended.

    Such as ``RepMixer 384 / Pooling 384  0.749 [0.741, 0.757]  (26.1 ms / 34.9 ms)``, or the reason of its failure.
    """
    verdict = cell.verdict
    if verdict.ratio is None or cell.head_ms is None or cell.base_ms is None:
        return f"{printable(cell.name)}  failed: {printable(verdict.reason)}"
    both = f"({significant(cell.head_ms, 4)} ms / {significant(cell.base_ms, 4)} ms)"
    return f"{printable(cell.name)}  {latency(verdict.ratio, verdict.interval)}  {both}"


def rich(result: StudyResult, claim_sentences: Sequence[str], width: int) -> "Group":
    """Return a study for a terminal of `width` characters; sentences on claims stand out from the notes."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        terminal.report(TableReport([table(result)]), width),
        *map(Text, [*verdicts(result), *claim_sentences]),
        *(Text(note, style="dim") for note in notes(result)),
    )


def markdown(result: StudyResult, claim_sentences: Sequence[str]) -> str:
    """Return a study's table, the sentences on its claims and the notes as Markdown."""
    shown = table(result)
    text = markdown_tables.report(
        TableReport([replace(shown, title="")], [*verdicts(result), *claim_sentences, *notes(result)])
    )
    return f"## {shown.title}\n\n{text}"


def csv(result: StudyResult, claim_sentences: Sequence[str]) -> str:
    """Return comma-separated values, a line per row and size, without the sentences on claims."""
    return data.csv(table(result))


def json(result: StudyResult, claim_sentences: Sequence[str]) -> str:
    """Return a study's lines, the sentences on its claims and the notes as JSON."""
    return data.json(
        {
            "study": result.study.name,
            "lines": table(result).records(),
            "verdicts": verdicts(result),
            "claims": list(claim_sentences),
            "notes": notes(result),
        }
    )


def latex(result: StudyResult, claim_sentences: Sequence[str]) -> str:
    """Return a study's table in a float, with the sentences on its claims and the notes below it."""
    texts = [*verdicts(result), *claim_sentences, *notes(result)]
    return latex_tables.report(TableReport([table(result)], texts))


FORMATS: dict[str, Callable[[StudyResult, Sequence[str]], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}
