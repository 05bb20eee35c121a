"""Words of the report page: its headline, its verdicts, and its tables as text with what they are sorted by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastvit_bench.comparing import phrases, terminal
from fastvit_bench.ladder import table as ladder_table
from fastvit_bench.ladder.declare import is_ladder
from fastvit_bench.paper import claims, claims_table
from fastvit_bench.paper import study_table as studies_of
from fastvit_bench.records import Artifact, Fuse, Measurement, Shape
from fastvit_bench.records.comparison import Comparison, Outcome
from fastvit_bench.records.study import StudyResult
from fastvit_bench.render import row_table
from fastvit_bench.render.cell_table import CELL_COLUMNS, CellLine, Marks
from fastvit_bench.render.frontiers import Basis, Frontier, FrontierPlace, Group, frontier, names, published_top1
from fastvit_bench.render.html import sortable
from fastvit_bench.render.joined import accuracy_text, probability_text, ratio_text, some
from fastvit_bench.render.ratios import Key, Ratio, alike, ratio
from fastvit_bench.render.row_charts import about
from fastvit_bench.render.row_table import PUBLISHED_TOP1, macs_per_image
from fastvit_bench.render.row_text import legend, model_name
from fastvit_bench.render.rows import REFERENCE_SIZE, Row, size_of
from fastvit_bench.render.table import NONE, Column, Table, equal_columns, without
from fastvit_bench.render.text import NOT_COMPARED_NOTE, by_kind, compared, figure_text, printable, significant
from fastvit_bench.stats.pareto import SURE, Counted

# kind of figure -> heading of its section
KINDS = {
    "accuracy": "Accuracy against latency",
    "latency": "Latency against resolution",
    "ratio": "Ratios to the reference",
    "history": "History of the device",
    "study": "Studies of the paper",
    "comparison": "Head against base",
}

# outcome -> class of its badge
TONES = {
    Outcome.REGRESSED: "bad",
    Outcome.INCOMPARABLE: "unsure",
    Outcome.NO_BASELINE: "unsure",
    Outcome.INCONCLUSIVE: "unsure",
    Outcome.PASS: "good",
    Outcome.IMPROVED: "good",
}


@dataclass(frozen=True)
class SummaryCard:
    """One comparison in short."""

    title: str
    outcome: str
    tone: str
    sentence: str
    when: str
    table: str  # its name among the tables

    @property
    def anchor(self) -> str:
        """Return the place that a link to the heading names."""
        return f"of-{self.table}"


@dataclass(frozen=True)
class StudySummary:
    """A study in words: the outcomes of the claims, and the notes on its table."""

    title: str
    claims: list[str]
    notes: list[str]
    table: str  # its name among the tables

    @property
    def anchor(self) -> str:
        """Return the place that a link to the heading names."""
        return f"of-{self.table}"


@dataclass(frozen=True)
class Content:
    """Everything on the page but the figures."""

    title: str
    headline: str
    doubts: list[str]  # what the marks of the headline's figures mean
    lead: SummaryCard | None  # the comparison whose verdict stands under the headline
    aside: str  # under the headline: how much was measured, on what, when
    footer: str  # when and by what the page was made
    cards: list[SummaryCard]
    studies: list[StudySummary]
    common: list[str]  # what is the same in every line of the table of figures
    conditions: list[str]
    failures: list[str]
    notes: list[str]
    advice: list[tuple[str, str]]  # commands where nothing was measured yet, and what each does
    tables: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


def content(
    rows: Sequence[Row],
    groups: Sequence[Group],
    frontiers: Sequence[Frontier],
    comparisons: Sequence[Comparison],
    studies: Sequence[StudyResult] = (),
    *,
    title: str,
    footer: str,
    accuracies: Mapping[str, Counted] | None = None,
    ratios: Mapping[Key, Ratio] | None = None,
    reference: str | None = None,
    notes: Sequence[str] = (),
    advice: Sequence[tuple[str, str]] = (),
) -> Content:
    """Return the page's words, of whatever there is."""
    marks, lines = legend(rows)
    leads = bool(groups) or not comparisons  # else the newest comparison is all there is to say first
    first, doubts = headline(groups, accuracies) if groups or not studies else (printable(studies[0].study.title), [])
    if advice:
        first = (
            f"Nothing was measured here yet; {_counted(len(studies), 'study')} of another machine came with the tool."
        )
    table, common = _figures_table(rows, groups, frontiers, marks, accuracies or {}, ratios or {}, reference)
    cards = [_card(comparison, f"comparison-{at}") for at, comparison in enumerate(comparisons)]
    tables = {"figures": table}
    tables |= {card.table: _comparison_table(comparison) for card, comparison in zip(cards, comparisons, strict=True)}
    summaries = [_of_study(study, f"study-{at}") for at, study in enumerate(studies)]
    tables |= {
        summary.table: sortable(ladder_table.table(study) if is_ladder(study) else studies_of.table(study))
        for summary, study in zip(summaries, studies, strict=True)
    }
    return Content(
        title=printable(title),
        headline=first if leads else phrases.sentence(comparisons[0]),
        doubts=doubts if leads else [],
        lead=cards[0] if cards and leads else None,
        aside=_aside(rows, len(comparisons), studies),
        footer=footer,
        cards=cards,
        studies=summaries,
        common=common,
        conditions=lines,
        failures=_failures(rows, marks),
        notes=list(notes),
        advice=list(advice),
        tables=tables,
    )


# --- sentences --------------------------------------------------------------------------------------------------------


def headline(groups: Sequence[Group], accuracies: Mapping[str, Counted] | None = None) -> tuple[str, list[str]]:
    """Return a sentence on the largest group at the models' own size: who leads, and what accuracy costs.

    Figures are those of the table: the folded files, with its digits, marks and intervals. What the marks mean is the
    second part.
    """
    if not groups:
        return "No latency was measured in these runs.", []
    group, shape = _deployed(groups[0])
    entries = sorted(group.at(shape), key=lambda entry: entry[2].figure_ms)
    own = {row.own_size for row in group.rows} <= {None, shape.height if shape else None}
    aside = "" if own else ", not their own size," if len(entries) > 1 else ", which is not its own size,"
    batch = f", batch {group.rows[0].batch}," if group.rows[0].batch > 1 else ""
    where = f"at {size_of(shape)} px{aside or batch} on {group.device.partition(' (')[0]}"
    by_basis = [frontier(group, shape, basis, accuracies or {}) for basis in Basis] if shape else []
    best = next((result for result in by_basis if result), None)
    sentence, named = _standings(best, where) if best else _order(entries, where)
    return sentence.replace("  ", " "), _doubts(named)


_Entry = tuple[str, Row, Measurement]


def _deployed(group: Group) -> tuple[Group, Shape | None]:
    """Return the rows that are deployed, and the size that is most of these models' own.

    The rows are, of each model, those whose file has most of its algebra done ahead of time. They are at a size that is
    the model's own where any is.
    """
    ranks = {None: 3, Fuse.FOLDED: 2, Fuse.FUSED: 1, Fuse.NONE: 0}
    best: dict[str, int] = {}
    for row in group.rows:
        best[model_name(row)] = max(best.get(model_name(row), 0), ranks[row.fused])
    deployed = [row for row in group.rows if ranks[row.fused] == best[model_name(row)]]

    def measured(shape: Shape | None) -> list[Row]:
        return [row for row in deployed if isinstance(row.cells.get(shape), Measurement)]

    def own(row: Row, shape: Shape | None) -> bool:
        return shape is not None and shape.height == shape.width == row.own_size

    def worth(shape: Shape | None) -> tuple[int, bool, int]:
        rows = measured(shape)
        return sum(own(row, shape) for row in rows), size_of(shape) == REFERENCE_SIZE, len(rows)

    shape = max(group.sizes, key=worth)
    rows = measured(shape)
    if any(own(row, shape) for row in rows):
        rows = [row for row in rows if own(row, shape) or row.own_size is None]
    less = {Fuse.NONE: " (unfused)", Fuse.FUSED: " (not folded)"}
    named = (
        f"{name}{less.get(row.fused, '') if row.fused else ''}" for name, row in zip(names(rows), rows, strict=True)
    )
    return replace(group, rows=tuple(rows), names=tuple(named)), shape


def _standings(best: Frontier, where: str) -> tuple[str, list[_Entry]]:
    """Return who is on the frontier for sure, and the entries that the sentence names."""
    members = [place for place in best.places if place.standing.probability >= SURE]
    lead = f"Of {len(best.places)} models {where},"
    if not members:
        return f"{lead} none is on the accuracy-latency frontier beyond doubt.", []
    are = "is" if len(members) == 1 else "are"
    lead = f"{lead} {len(members)} {are} on the accuracy-latency frontier"
    ends = [members[0], members[-1]] if len(members) > 1 else members
    named = [(place.name, place.row, place.cell) for place in ends]
    if len(members) == 1:
        return f"{lead}: {_with_accuracy(members[0])}, by {best.basis} top-1.", named
    off = [place for place in best.places if place.standing.probability <= 1 - SURE]
    beaten = ""
    if len(off) == 1:
        by = best.dominating(off[0])
        beaten = f"; {off[0].name} is dominated" + (f" by {by[0]}" if by else "")
    elif off:
        beaten = f"; {len(off)} are dominated"
    return f"{lead}, from {_with_accuracy(ends[0])} to {_with_accuracy(ends[1])}, by {best.basis} top-1{beaten}.", named


def _order(entries: Sequence[_Entry], where: str) -> tuple[str, list[_Entry]]:
    """Return the quickest and the slowest in a sentence, and the entries that it names.

    It has the ratio of the two where the table has one.
    """
    first, *others = entries
    if not others:
        return f"{first[0]} takes {_figure(first[1], first[2])} {where}.", [first]
    close = [entry for entry in others if (low := _least(entry, first)) is None or low <= 1]
    doubt = f", which is not beyond doubt ({some([entry[0] for entry in close])})" if close else ""
    last = others[-1]
    slowest = f"{last[0]} takes {_figure(last[1], last[2])}"
    if (times := _ratio(last, first)) and times.interval:
        slowest += f", {_unbroken(ratio_text(times))} times as long"
    lead = f"Of {len(entries)} models {where}, {first[0]} is the quickest at {_figure(first[1], first[2])}"
    return f"{lead}{doubt}; {slowest}.", [first, last]


def _ratio(entry: _Entry, base: _Entry) -> Ratio | None:
    """Return the ratio that `table --reference` gives, which is of rows measured alike only."""
    return ratio(entry[2], base[2]) if alike(entry[1]) == alike(base[1]) else None


def _least(entry: _Entry, base: _Entry) -> float | None:
    times = _ratio(entry, base)
    return times.interval.low if times and times.interval else None


def _doubts(entries: Sequence[_Entry]) -> list[str]:
    """Return what the marks of the named figures mean."""
    reasons: dict[str, list[str]] = {}
    for name, row, cell in entries:
        for warning in row.doubts(cell):
            reasons.setdefault(printable(warning), []).append(name)
    of_names: dict[str, list[str]] = {}  # models with the same doubts are named once
    for reason, names_of in by_kind(reasons).items():
        of_names.setdefault(", ".join(names_of), []).append(reason)
    notes = [f"* {models}: {'; '.join(doubts)}." for models, doubts in of_names.items()]
    unseen = any(not compared(cell) for _, _, cell in entries)
    return [*notes, *([NOT_COMPARED_NOTE] if unseen else [])]


def _with_accuracy(place: FrontierPlace) -> str:
    return f"{place.name} ({_figure(place.row, place.cell)}, {_unbroken(f'{accuracy_text(place.accuracy)} %')})"


def _figure(row: Row, cell: Measurement) -> str:
    """Return the latency as the table prints it, with its unit, without a space that a line may break at."""
    return _unbroken(f"{figure_text(cell, row.doubts(cell))} ms")


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _aside(rows: Sequence[Row], comparisons: int, studies: Sequence[StudyResult]) -> str:
    cells = [cell for row in rows for cell in row.measured]
    days = sorted({one.finished[:10] for one in (*cells, *studies)})
    span = "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    counts = {
        "figure": len(cells),
        "model": len({row.model for row in rows}),
        "device": len({row.device.name for row in rows}),
        "comparison": comparisons,
        "study": len(studies),
    }
    parts = [_counted(count, what) for what, count in counts.items() if count]
    return " · ".join([*parts, *([span] if span else [])])


def _counted(count: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what if count == 1 else plural}"


def _failures(rows: Sequence[Row], marks: Marks) -> list[str]:
    sentences = [
        f"{model_name(row)} {size_of(shape)}{marks[row.key]}: failed at {cell.stage}: {printable(cell.reason)}"
        for row in rows
        for shape, cell in row.cells.items()
        if not isinstance(cell, Measurement)
    ]
    more = [f"and {len(sentences) - 50} more"] if len(sentences) > 50 else []
    return [*sentences[:50], *more]


def _card(comparison: Comparison, table: str) -> SummaryCard:
    return SummaryCard(
        title=phrases.title(comparison),
        outcome=comparison.outcome.value,
        tone=TONES[comparison.outcome],
        sentence=phrases.sentence(comparison),
        when=f"{comparison.finished[:16].replace('T', ' ')} UTC",
        table=table,
    )


# --- tables -----------------------------------------------------------------------------------------------------------

_OF_THE_NETWORK = {"params", "gmacs", "top1"}  # the page gives them of each figure's own file


def _figures_table(
    rows: Sequence[Row],
    groups: Sequence[Group],
    frontiers: Sequence[Frontier],
    marks: Marks,
    accuracies: Mapping[str, Counted],
    ratios: Mapping[Key, Ratio],
    reference: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """Return a line per figure, and in words the columns that would say the same in every line."""
    lines = [CellLine(row, cell) for row in rows for cell in row.measured]
    names = {row.key: name for group in groups for row, name in zip(group.rows, group.names, strict=True)}
    number = {mark: at for at, mark in enumerate(dict.fromkeys(marks.values()))}
    facts = [column.of(_row_of) for column in row_table.columns(rows, marks) if column.title and column.role == "fact"]
    facts = [column for column in facts if column.part == 0 and column.name not in _OF_THE_NETWORK]
    columns: list[Column[CellLine]] = [
        Column(
            "model", "model", lambda line: line.row.model, lambda line: model_name(line.row), role="key", facet=True
        ),
        Column(
            "size", "size px", _pixels, lambda line: size_of(line.cell.shape), align="right", role="key", facet=True
        ),
        Column(
            "latency_ms",
            "latency ms [95 % interval]",
            lambda line: line.cell.figure_ms,
            lambda line: figure_text(line.cell, line.row.doubts(line.cell)),
            align="right",
            role="figure",
            note=lambda line: (about(*line, names[line.row.key], ""), number[marks[line.row.key]]),
        ),
        *(replace(column, facet=column.name == "device") for column in facts),
        *(
            replace(column, minor=True)
            for column in CELL_COLUMNS
            if any(column.value(line) is not None for line in lines)
        ),
        *_accuracy_columns(accuracies),
        *(column for basis in Basis for column in _frontier_columns(frontiers, basis)),
        *_ratio_columns(ratios, reference),
        Column("gmacs", "GMACs", _gmacs, _three(_gmacs), align="right", minor=True),
        Column("params", "params", _params, _three(_params), unit="M", align="right", minor=True),
        Column("measured", "measured", lambda line: line.cell.finished[:10], minor=True),
    ]
    table = Table(lines, columns, "Every measured figure")
    equal = equal_columns([table]) if len(lines) > 1 else {}
    common = [f"{heading} {text}" for heading, text in equal.items() if text not in ("", NONE)]
    return sortable(without(table, equal)), common


def _row_of(line: CellLine) -> Row:
    return line.row


def _pixels(line: CellLine) -> int | None:
    shape = line.cell.shape
    return shape.height * shape.width if shape else None


def _three(of: Callable[[CellLine], float | None]) -> Callable[[CellLine], str]:
    return lambda line: NONE if (value := of(line)) is None else significant(value, 3)


def _gmacs(line: CellLine) -> float | None:
    artifact = line.cell.artifact
    return macs_per_image(artifact) / 1e9 if isinstance(artifact, Artifact) else None


def _params(line: CellLine) -> float | None:
    artifact = line.cell.artifact
    return artifact.params / 1e6 if isinstance(artifact, Artifact) else None


def _accuracy_columns(accuracies: Mapping[str, Counted]) -> list[Column[CellLine]]:
    """Return measured and published top-1, never in one column; no column without a value."""

    def measured(line: CellLine) -> Counted | None:
        artifact = line.cell.artifact
        return accuracies.get(artifact.sha256) if isinstance(artifact, Artifact) and artifact.sha256 else None

    def printed(line: CellLine) -> float | None:
        figure = published_top1(line.row, line.cell.shape) if line.cell.shape else None
        return figure.value if figure else None

    return [
        Column(
            "measured_top1",
            "measured top-1",
            lambda line: accuracy.percent if (accuracy := measured(line)) else None,
            lambda line: accuracy_text(accuracy) if (accuracy := measured(line)) else NONE,
            unit="%",
            align="right",
            role="figure",
            shown="filled",
        ),
        Column(
            "published_top1",
            PUBLISHED_TOP1,
            printed,
            lambda line: NONE if (share := printed(line)) is None else f"{share:g}",
            align="right",
            role="figure",
            shown="filled",
        ),
    ]


def _frontier_columns(frontiers: Sequence[Frontier], basis: Basis) -> list[Column[CellLine]]:
    places = {
        (place.row.key, place.cell.shape): (frontier, place)
        for frontier in frontiers
        if frontier.basis is basis
        for place in frontier.places
    }

    def share(line: CellLine) -> float | None:
        entry = places.get((line.row.key, line.cell.shape))
        return entry[1].standing.probability if entry else None

    def dominating(line: CellLine) -> str | None:
        entry = places.get((line.row.key, line.cell.shape))
        return some(entry[0].dominating(entry[1])) or None if entry else None

    return [
        Column(
            f"frontier_by_{basis}_top1",
            f"on frontier, {basis} top-1",
            share,
            lambda line: NONE if (probability := share(line)) is None else probability_text(probability),
            align="right",
            role="figure",
            shown="filled",
        ),
        Column(f"dominated_by_{basis}_top1", "dominated by", dominating, role="figure", shown="filled", wraps=True),
    ]


def _ratio_columns(ratios: Mapping[Key, Ratio], reference: str | None) -> list[Column[CellLine]]:
    if reference is None:
        return []

    def of(line: CellLine) -> Ratio | None:
        return ratios.get((line.row.key, line.cell.shape))

    return [
        Column(
            "ratio",
            f"ratio to {printable(reference)}",
            lambda line: times.value if (times := of(line)) else None,
            lambda line: ratio_text(times) if (times := of(line)) else NONE,
            align="right",
            role="figure",
        )
    ]


def _of_study(result: StudyResult, table: str) -> StudySummary:
    title = f"{printable(result.study.title)} ({result.device.name}, {result.finished[:10]})"
    if is_ladder(result):
        return StudySummary(title, ladder_table.verdicts(result), ladder_table.notes(result), table)
    known = [claim for claim in claims.load() if claim.study == result.study.name]
    judged = claims.judged(known, studies_of.measured(result, result.id), result.device.name)
    return StudySummary(title, claims_table.sentences(judged), studies_of.notes(result), table)


def _comparison_table(comparison: Comparison) -> dict[str, Any]:
    """Return a line per cell, the worst first; the note on a change says how it was measured."""
    cells = [line for line in terminal.lines(comparison) if line.cell]
    ranks = {line.name: at for at, line in enumerate(cells)}

    def severity(line: terminal.Compared) -> int:
        return ranks[line.name]

    def note(line: terminal.Compared) -> tuple[str]:
        verdict, side = line.verdict, line.cell.head if line.cell else None
        figures = f"{phrases.change(verdict)} {phrases.span(verdict.interval)}".strip()
        window = side.window.value if side else "unknown"
        return (
            "\n".join(
                [
                    line.name,
                    f"{figures}, margin {phrases.margin(verdict)}",
                    f"{verdict.blocks} blocks of turns",
                    f"median over blocks of the ratio of head to base; {window} window; "
                    f"{phrases.machine(comparison.machine)}",
                    f"finished {comparison.finished[:16].replace('T', ' ')} UTC",
                ]
            ),
        )

    changes: dict[str, dict[str, Any]] = {
        "ratio": {"note": note},
        "verdict": {"value": severity},
    }
    columns = [replace(column, **changes.get(column.name, {})) for column in (*terminal.COLUMNS, terminal.WHY)]
    return sortable(Table(cells, columns, phrases.title(comparison)))
