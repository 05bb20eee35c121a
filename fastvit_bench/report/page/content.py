"""What the page says: its headline, its verdicts, and its tables as text with what they are sorted by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastvit_bench.records import Artifact, Fuse, Measurement, Shape
from fastvit_bench.render.html import sortable
from fastvit_bench.render.table import NONE, Column, Table, equal_columns, without
from fastvit_bench.render.text import NOT_COMPARED_NOTE, compared, figure_text, plain, significant
from fastvit_bench.report import claims, claims_table, row_table
from fastvit_bench.report import studies as studies_of
from fastvit_bench.report.cell_table import CELL_COLUMNS, Line, Marks
from fastvit_bench.report.figures import about
from fastvit_bench.report.frontiers import Basis, Frontier, Group, Place, frontier, names, published_top1
from fastvit_bench.report.joined import accuracy_text, probability_text, ratio_text, some
from fastvit_bench.report.pareto import SURE, Counted
from fastvit_bench.report.ratios import Key, Ratio, alike, ratio
from fastvit_bench.report.row_table import PUBLISHED_TOP1, macs_per_image
from fastvit_bench.report.row_text import legend, model_name
from fastvit_bench.report.rows import REFERENCE_SIZE, Row, size_of
from fastvit_bench.report.verdict import person, words
from fastvit_bench.studies import StudyResult
from fastvit_bench.verdicts import Comparison, Outcome

# kind of figure -> heading of its section
KINDS = {
    "accuracy": "Accuracy against latency",
    "latency": "Latency against resolution",
    "ratio": "Ratios to the reference",
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
class Card:
    """One comparison in short."""

    title: str
    outcome: str
    tone: str
    sentence: str
    when: str
    table: str  # its name among the tables


@dataclass(frozen=True)
class Told:
    """A study in words: what became of the claims, and what must be said of its table."""

    title: str
    claims: list[str]
    notes: list[str]
    table: str  # its name among the tables


@dataclass(frozen=True)
class Content:
    """Everything on the page but the figures."""

    title: str
    headline: str
    lead: Card | None  # the comparison whose verdict stands under the headline
    aside: str  # under the headline: how much was measured, on what, when
    made: str  # when and by what
    cards: list[Card]
    studies: list[Told]
    common: list[str]  # what is the same in every line of the table of figures
    conditions: list[str]
    failures: list[str]
    notes: list[str]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


def content(
    rows: Sequence[Row],
    groups: Sequence[Group],
    frontiers: Sequence[Frontier],
    comparisons: Sequence[Comparison],
    studies: Sequence[StudyResult] = (),
    *,
    title: str,
    made: str,
    accuracies: Mapping[str, Counted] | None = None,
    ratios: Mapping[Key, Ratio] | None = None,
    reference: str | None = None,
    notes: Sequence[str] = (),
) -> Content:
    """The page's words, of whatever there is."""
    marks, lines = legend(rows)
    leads = bool(groups) or not comparisons  # else the newest comparison is all there is to say first
    first = headline(groups, accuracies) if groups or not studies else plain(studies[0].study.title)
    table, common = _figures_table(rows, groups, frontiers, marks, accuracies or {}, ratios or {}, reference)
    cards = [_card(found, f"comparison-{at}") for at, found in enumerate(comparisons)]
    tables = {"figures": table}
    tables |= {card.table: _comparison_table(found) for card, found in zip(cards, comparisons, strict=True)}
    told = [_of_study(found, f"study-{at}") for at, found in enumerate(studies)]
    tables |= {each.table: sortable(studies_of.table(found)) for each, found in zip(told, studies, strict=True)}
    return Content(
        title=plain(title),
        headline=first if leads else words.sentence(comparisons[0]),
        lead=cards[0] if cards and leads else None,
        aside=_aside(rows, len(comparisons)),
        made=made,
        cards=cards,
        studies=told,
        common=common,
        conditions=lines,
        failures=_failures(rows, marks),
        notes=list(notes),
        tables=tables,
    )


# --- sentences --------------------------------------------------------------------------------------------------------


def headline(groups: Sequence[Group], accuracies: Mapping[str, Counted] | None = None) -> str:
    """The largest group at the models' own evaluation size: who leads, and what accuracy costs.

    Figures are those of the table: the folded files, with its digits, marks and intervals; doubts stand behind.
    """
    if not groups:
        return "No latency was measured in these runs."
    group, shape = _deployed(groups[0])
    entries = sorted(group.at(shape), key=lambda entry: entry[2].figure_ms)
    own = {row.own_size for row in group.rows} <= {None, shape.height if shape else None}
    aside = "" if own else ", not their own size," if len(entries) > 1 else ", which is not its own size,"
    batch = f", batch {group.rows[0].batch}," if group.rows[0].batch > 1 else ""
    where = f"at {size_of(shape)} px{aside or batch} on {group.device.partition(' (')[0]}"
    found = [frontier(group, shape, basis, accuracies or {}) for basis in Basis] if shape else []
    best = next((each for each in found if each), None)
    sentence, named = _standings(best, where) if best else _order(entries, where)
    return " ".join([sentence, *_doubts(named)]).replace("  ", " ")


_Entry = tuple[str, Row, Measurement]


def _deployed(group: Group) -> tuple[Group, Shape | None]:
    """The rows that are deployed, and the size that is most of these models' own.

    Of each model those whose file has most of its algebra done ahead of time, at a size that is its own where any is.
    """
    ranks = {None: 3, Fuse.FOLDED: 2, Fuse.FUSED: 1, Fuse.NONE: 0}
    best: dict[str, int] = {}
    for row in group.rows:
        best[model_name(row)] = max(best.get(model_name(row), 0), ranks[row.fused])
    kept = [row for row in group.rows if ranks[row.fused] == best[model_name(row)]]

    def measured(shape: Shape | None) -> list[Row]:
        return [row for row in kept if isinstance(row.cells.get(shape), Measurement)]

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
    """Who is on the frontier for sure, and the entries that the sentence names."""
    members = [place for place in best.places if place.standing.probability >= SURE]
    lead = f"Of {len(best.places)} models {where},"
    if not members:
        return f"{lead} none is on the accuracy-latency frontier beyond doubt.", []
    are = "is" if len(members) == 1 else "are"
    lead = f"{lead} {len(members)} {are} on the accuracy-latency frontier"
    ends = [members[0], members[-1]] if len(members) > 1 else members
    named = [(place.name, place.row, place.cell) for place in ends]
    if len(members) == 1:
        return f"{lead}: {_told(members[0])}, by {best.basis} top-1.", named
    off = [place for place in best.places if place.standing.probability <= 1 - SURE]
    beaten = ""
    if len(off) == 1:
        by = best.dominating(off[0])
        beaten = f"; {off[0].name} is dominated" + (f" by {by[0]}" if by else "")
    elif off:
        beaten = f"; {len(off)} are dominated"
    return f"{lead}, from {_told(ends[0])} to {_told(ends[1])}, by {best.basis} top-1{beaten}.", named


def _order(entries: Sequence[_Entry], where: str) -> tuple[str, list[_Entry]]:
    """The quickest and the slowest, with the ratio where the table has one, and the entries that are named."""
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
    """As `table --reference` gives it, which is of rows measured alike only."""
    return ratio(entry[2], base[2]) if alike(entry[1]) == alike(base[1]) else None


def _least(entry: _Entry, base: _Entry) -> float | None:
    times = _ratio(entry, base)
    return times.interval.low if times and times.interval else None


def _doubts(entries: Sequence[_Entry]) -> list[str]:
    """What the marks of the named figures mean."""
    warned = {name: [plain(warning) for warning in row.doubts(cell)] for name, row, cell in entries}
    notes = [f"* {name}: {'; '.join(warnings)}." for name, warnings in warned.items() if warnings]
    unseen = any(not compared(cell) for _, _, cell in entries)
    return [*notes, *([NOT_COMPARED_NOTE] if unseen else [])]


def _told(place: Place) -> str:
    return f"{place.name} ({_figure(place.row, place.cell)}, {_unbroken(f'{accuracy_text(place.accuracy)} %')})"


def _figure(row: Row, cell: Measurement) -> str:
    """As the table prints it, with its unit, in one piece."""
    return _unbroken(f"{figure_text(cell, row.doubts(cell))} ms")


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _aside(rows: Sequence[Row], comparisons: int) -> str:
    cells = [cell for row in rows for cell in row.measured]
    days = sorted({cell.finished[:10] for cell in cells})
    span = "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    counts = {
        "figure": len(cells),
        "model": len({row.model for row in rows}),
        "device": len({row.device.name for row in rows}),
        "comparison": comparisons,
    }
    told = [_counted(count, what) for what, count in counts.items() if count]
    return " · ".join([*told, *([span] if span else [])])


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _failures(rows: Sequence[Row], marks: Marks) -> list[str]:
    found = [
        f"{model_name(row)} {size_of(shape)}{marks[row.key]}: failed at {cell.stage}: {plain(cell.reason)}"
        for row in rows
        for shape, cell in row.cells.items()
        if not isinstance(cell, Measurement)
    ]
    more = [f"and {len(found) - 50} more"] if len(found) > 50 else []
    return [*found[:50], *more]


def _card(found: Comparison, table: str) -> Card:
    return Card(
        title=words.title(found),
        outcome=found.outcome.value,
        tone=TONES[found.outcome],
        sentence=words.sentence(found),
        when=f"{found.finished[:16].replace('T', ' ')} UTC",
        table=table,
    )


# --- tables -----------------------------------------------------------------------------------------------------------

_OF_THE_NETWORK = {"params", "gmacs", "top1"}  # which the page tells of each figure's own file


def _figures_table(
    rows: Sequence[Row],
    groups: Sequence[Group],
    frontiers: Sequence[Frontier],
    marks: Marks,
    accuracies: Mapping[str, Counted],
    ratios: Mapping[Key, Ratio],
    reference: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """A line per figure, and in words the columns that would say the same in every line."""
    lines = [Line(row, cell) for row in rows for cell in row.measured]
    names = {row.key: name for group in groups for row, name in zip(group.rows, group.names, strict=True)}
    number = {mark: at for at, mark in enumerate(dict.fromkeys(marks.values()))}
    facts = [column.of(_row_of) for column in row_table.columns(rows, marks) if column.title and column.role == "fact"]
    facts = [column for column in facts if column.part == 0 and column.name not in _OF_THE_NETWORK]
    columns: list[Column[Line]] = [
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
        *(replace(column, minor=True) for column in CELL_COLUMNS),
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


def _row_of(line: Line) -> Row:
    return line.row


def _pixels(line: Line) -> int | None:
    shape = line.cell.shape
    return shape.height * shape.width if shape else None


def _three(of: Callable[[Line], float | None]) -> Callable[[Line], str]:
    return lambda line: NONE if (value := of(line)) is None else significant(value, 3)


def _gmacs(line: Line) -> float | None:
    made = line.cell.artifact
    return macs_per_image(made) / 1e9 if isinstance(made, Artifact) else None


def _params(line: Line) -> float | None:
    made = line.cell.artifact
    return made.params / 1e6 if isinstance(made, Artifact) else None


def _accuracy_columns(accuracies: Mapping[str, Counted]) -> list[Column[Line]]:
    """Measured and published top-1, never in one column; no column without a value."""

    def measured(line: Line) -> Counted | None:
        made = line.cell.artifact
        return accuracies.get(made.sha256) if isinstance(made, Artifact) and made.sha256 else None

    def printed(line: Line) -> float | None:
        figure = published_top1(line.row, line.cell.shape) if line.cell.shape else None
        return figure.value if figure else None

    return [
        Column(
            "measured_top1",
            "measured top-1",
            lambda line: found.percent if (found := measured(line)) else None,
            lambda line: accuracy_text(found) if (found := measured(line)) else NONE,
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


def _frontier_columns(frontiers: Sequence[Frontier], basis: Basis) -> list[Column[Line]]:
    places = {
        (place.row.key, place.cell.shape): (frontier, place)
        for frontier in frontiers
        if frontier.basis is basis
        for place in frontier.places
    }

    def share(line: Line) -> float | None:
        found = places.get((line.row.key, line.cell.shape))
        return found[1].standing.probability if found else None

    def dominating(line: Line) -> str | None:
        found = places.get((line.row.key, line.cell.shape))
        return some(found[0].dominating(found[1])) or None if found else None

    return [
        Column(
            f"frontier_by_{basis}_top1",
            f"on frontier, {basis} top-1",
            share,
            lambda line: NONE if (found := share(line)) is None else probability_text(found),
            align="right",
            role="figure",
            shown="filled",
        ),
        Column(f"dominated_by_{basis}_top1", "dominated by", dominating, role="figure", shown="filled", wraps=True),
    ]


def _ratio_columns(ratios: Mapping[Key, Ratio], reference: str | None) -> list[Column[Line]]:
    if reference is None:
        return []

    def of(line: Line) -> Ratio | None:
        return ratios.get((line.row.key, line.cell.shape))

    return [
        Column(
            "ratio",
            f"ratio to {plain(reference)}",
            lambda line: found.value if (found := of(line)) else None,
            lambda line: ratio_text(found) if (found := of(line)) else NONE,
            align="right",
            role="figure",
        )
    ]


def _of_study(found: StudyResult, table: str) -> Told:
    known = [claim for claim in claims.load() if claim.study == found.study.name]
    judged = claims.judged(known, studies_of.measured(found, found.id), found.device.name)
    title = f"{plain(found.study.title)} ({found.device.name}, {found.finished[:10]})"
    return Told(title, claims_table.sentences(judged), studies_of.notes(found), table)


def _comparison_table(found: Comparison) -> dict[str, Any]:
    """A line per cell, the worst first; what is told of a change says how it was measured."""
    cells = [line for line in person.lines(found) if line.cell]
    ranks = {line.name: at for at, line in enumerate(cells)}

    def severity(line: person.Compared) -> int:
        return ranks[line.name]

    def told(line: person.Compared) -> tuple[str]:
        verdict, side = line.verdict, line.cell.head if line.cell else None
        figures = f"{words.change(verdict)} {words.span(verdict.interval)}".strip()
        window = side.window.value if side else "unknown"
        return (
            "\n".join(
                [
                    line.name,
                    f"{figures}, margin {words.margin(verdict)}",
                    f"{verdict.blocks} blocks of turns",
                    f"median over blocks of the ratio of head to base; {window} window; {words.machine(found.machine)}",
                    f"finished {found.finished[:16].replace('T', ' ')} UTC",
                ]
            ),
        )

    changes: dict[str, dict[str, Any]] = {
        "ratio": {"note": told},
        "verdict": {"value": severity},
    }
    columns = [replace(column, **changes.get(column.name, {})) for column in (*person.COLUMNS, person.WHY)]
    return sortable(Table(cells, columns, words.title(found)))
