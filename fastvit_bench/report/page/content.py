"""What the page says: its headline, its verdicts, and its tables as text with what they are sorted by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastvit_bench.records import Artifact, Fuse, Measurement, Shape, Statistic
from fastvit_bench.report import claims, claims_table
from fastvit_bench.report import studies as studies_of
from fastvit_bench.report.figures import about
from fastvit_bench.report.frontiers import Basis, Frontier, Group, Place, frontier, names, published_top1
from fastvit_bench.report.joined import accuracy_text, probability_text, ratio_text, some
from fastvit_bench.report.pareto import SURE, Counted
from fastvit_bench.report.ratios import Key, Ratio, alike, ratio
from fastvit_bench.report.rows import REFERENCE_SIZE, Row, size_of
from fastvit_bench.report.sheet import (
    NONE,
    NOT_COMPARED_NOTE,
    PUBLISHED_TOP1,
    TAILS,
    compared,
    figure_text,
    form,
    latency,
    legend,
    macs_per_image,
    model_name,
    per_image,
    plain,
    significant,
    tail_texts,
)
from fastvit_bench.report.verdict import words
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

Cell = list[Any]  # text, and what it is sorted by; behind them, of a measured figure, what goes with it


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
    tables |= {each.table: _study_table(found) for each, found in zip(told, studies, strict=True)}
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


def _failures(rows: Sequence[Row], marks: Mapping[int, str]) -> list[str]:
    found = [
        f"{model_name(row)} {size_of(shape)}{marks[id(row)]}: failed at {cell.stage}: {plain(cell.reason)}"
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


@dataclass(frozen=True)
class _Column:
    """A column of the page's tables."""

    title: str
    cells: list[Cell]
    number: bool = False
    facet: bool = False  # offered as a choice of its own
    fixed: bool = True  # stays, even where it says the same in every line
    wide: bool = False  # may be broken into lines
    minor: bool = False  # left out of a print, whose width is what it is


def _table(columns: Sequence[_Column], caption: str, sort: tuple[str, int] | None = None) -> dict[str, Any]:
    titles = [column.title for column in columns]
    return {
        "caption": caption,
        "columns": [
            {"title": each.title, "number": each.number, "facet": each.facet, "wide": each.wide, "minor": each.minor}
            for each in columns
        ],
        "rows": [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)],
        "sort": [titles.index(sort[0]), sort[1]] if sort else None,
    }


def _figures_table(
    rows: Sequence[Row],
    groups: Sequence[Group],
    frontiers: Sequence[Frontier],
    marks: Mapping[int, str],
    accuracies: Mapping[str, Counted],
    ratios: Mapping[Key, Ratio],
    reference: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """A line per figure, and in words the columns that would say the same in every line."""
    lines = [(row, cell) for row in rows for cell in row.measured]
    named = {id(row): name for group in groups for row, name in zip(group.rows, group.names, strict=True)}
    number = {mark: at for at, mark in enumerate(dict.fromkeys(marks.values()))}
    places = {
        (basis, id(place.row), place.cell.shape): (frontier, place)
        for basis in Basis
        for frontier in frontiers
        if frontier.basis is basis
        for place in frontier.places
    }

    def texts(value: Callable[[Row, Measurement], str]) -> list[Cell]:
        return [[text, text.lower()] for text in (value(row, cell) for row, cell in lines)]

    def numbers(value: Callable[[Row, Measurement], float | None], text: Callable[[float], str]) -> list[Cell]:
        found = (value(row, cell) for row, cell in lines)
        return [[NONE, None] if each is None else [text(each), each] for each in found]

    columns = [
        _Column("model", texts(lambda row, _: model_name(row)), facet=True),
        _Column(
            "size px",
            [[size_of(cell.shape), cell.shape.height * cell.shape.width if cell.shape else None] for _, cell in lines],
            number=True,
            facet=True,
        ),
        _Column(
            "latency ms [95 % interval]",
            [
                [
                    figure_text(cell, row.doubts(cell)),
                    cell.figure_ms,
                    about(row, cell, named[id(row)], ""),
                    number[marks[id(row)]],
                ]
                for row, cell in lines
            ],
            number=True,
        ),
        _Column("device", texts(lambda row, _: f"{plain(row.device.name)}{marks[id(row)]}"), facet=True, fixed=False),
        _Column("batch", numbers(lambda row, _: row.batch, lambda value: f"{value:.0f}"), number=True, fixed=False),
        _Column("precision", texts(lambda row, _: plain(row.precision)), fixed=False),
        _Column("fused", texts(lambda row, _: row.fused.value if row.fused else NONE), fixed=False),
        _Column("form", texts(lambda row, _: form(row) or NONE), fixed=False, wide=True),
    ]
    if any(row.batch > 1 for row, _ in lines):
        texts_of = [[per_image(cell), cell.ms_per_image] for _, cell in lines]
        columns.append(_Column("ms/image", texts_of, number=True, minor=True))
    columns += _tail_columns(lines)
    columns += _accuracy_columns(lines, accuracies)
    for basis in Basis:
        if any(each is basis for each, _, _ in places):
            columns += _frontier_columns(lines, basis, places)
    if reference is not None:
        found = [ratios.get((id(row), cell.shape)) for row, cell in lines]
        cells: list[Cell] = [[ratio_text(each), each.value] if each else [NONE, None] for each in found]
        columns.append(_Column(f"ratio to {plain(reference)}", cells, number=True))
    columns += [
        _Column("GMACs", numbers(lambda _, cell: _gmacs(cell), _three), number=True, minor=True),
        _Column("params M", numbers(lambda _, cell: _params(cell), _three), number=True, minor=True),
        _Column(
            "weights",
            texts(lambda row, _: plain(row.weights.label) if row.weights else NONE),
            fixed=False,
            minor=True,
        ),
        _Column("measured", texts(lambda _, cell: cell.finished[:10]), minor=True),
    ]
    kept, common = [], []
    for column in columns:
        said = {cell[0] for cell in column.cells}
        if column.fixed or len(said) > 1:
            kept.append(column)
        elif said and said != {NONE}:
            common.append(f"{column.title} {said.pop()}")
    return _table(kept, "Every measured figure", None), common


def _three(value: float) -> str:
    return significant(value, 3)


def _gmacs(cell: Measurement) -> float | None:
    return macs_per_image(cell.artifact) / 1e9 if isinstance(cell.artifact, Artifact) else None


def _params(cell: Measurement) -> float | None:
    return cell.artifact.params / 1e6 if isinstance(cell.artifact, Artifact) else None


def _accuracy_columns(lines: Sequence[tuple[Row, Measurement]], accuracies: Mapping[str, Counted]) -> list[_Column]:
    """Measured and published top-1, never in one column; no column without a value."""

    def measured(cell: Measurement) -> Cell:
        made = cell.artifact
        found = accuracies.get(made.sha256) if isinstance(made, Artifact) and made.sha256 else None
        return [accuracy_text(found), found.percent] if found else [NONE, None]

    def printed(row: Row, cell: Measurement) -> Cell:
        figure = published_top1(row, cell.shape) if cell.shape else None
        return [f"{figure.value:g}", figure.value] if figure else [NONE, None]

    found = [
        _Column("measured top-1 %", [measured(cell) for _, cell in lines], number=True),
        _Column(PUBLISHED_TOP1, [printed(row, cell) for row, cell in lines], number=True),
    ]
    return [column for column in found if any(cell[1] is not None for cell in column.cells)]


def _tail_columns(lines: Sequence[tuple[Row, Measurement]]) -> list[_Column]:
    """Quantiles far out, where any figure has the runs that show them."""
    medians = [row.method.statistic is Statistic.MEDIAN for row, _ in lines]
    texts = [tail_texts(cell) if median else {} for (_, cell), median in zip(lines, medians, strict=True)]
    found: list[_Column] = []
    for title, quantile in TAILS.items():
        cells: list[Cell] = [
            [told[title], cell.quantile_ms(quantile)] if told.get(title, NONE) != NONE else [NONE, None]
            for (_, cell), told in zip(lines, texts, strict=True)
        ]
        if any(cell[1] is not None for cell in cells):
            found.append(_Column(f"{title} [95 % interval]", cells, number=True, minor=True))
    return found


def _frontier_columns(
    lines: Sequence[tuple[Row, Measurement]],
    basis: Basis,
    places: Mapping[tuple[Basis, int, Any], tuple[Frontier, Place]],
) -> list[_Column]:
    found = [places.get((basis, id(row), cell.shape)) for row, cell in lines]
    shares: list[Cell] = [
        [probability_text(each[1].standing.probability), each[1].standing.probability] if each else [NONE, None]
        for each in found
    ]
    beaten: list[Cell] = []
    for each in found:
        text = (some(each[0].dominating(each[1])) if each else "") or NONE
        beaten.append([text, None if text == NONE else text.lower()])
    return [
        _Column(f"on frontier, {basis} top-1", shares, number=True),
        _Column("dominated by", beaten, wide=True),
    ]


def _of_study(found: StudyResult, table: str) -> Told:
    known = [claim for claim in claims.load() if claim.study == found.study.name]
    judged = claims.judged(known, studies_of.measured(found, found.id), found.device.name)
    title = f"{plain(found.study.title)} ({found.device.name}, {found.finished[:10]})"
    return Told(title, claims_table.sentences(judged), studies_of.notes(found), table)


def _study_table(found: StudyResult) -> dict[str, Any]:
    """Measured and published figures in columns of their own."""
    lines = studies_of.lines(found)

    def numbers(values: Sequence[float | None], texts: Sequence[str]) -> list[Cell]:
        return [[text, value] for text, value in zip(texts, values, strict=True)]

    def printed(name: str) -> list[Cell]:
        cells = [line.published.get(name) for line in lines]
        return [[cell.text, cell.value] if cell else [NONE, None] for cell in cells]

    columns = [
        _Column("network", [[plain(line.row.label), line.row.label.lower()] for line in lines]),
        _Column("px", [[line.size, line.contestant.shape.width if line.contestant else None] for line in lines], True),
        _Column(
            "ratio here [95 % interval]",
            numbers(
                [line.ratio.value if line.ratio else 1.0 if line.reference else None for line in lines],
                [studies_of.ratio_text(line) for line in lines],
            ),
            True,
        ),
        _Column(
            "ms here",
            numbers(
                [line.figure.value if line.figure else None for line in lines],
                [latency(*line.figure) if line.figure else NONE for line in lines],
            ),
            True,
        ),
        *(
            _Column(title, printed(name), True)
            for name, title in (
                ("iphone_ms", "published iPhone ms"),
                ("gpu_ms", "published GPU ms"),
                ("top1", "published top-1"),
            )
            if any(name in line.published for line in lines)
        ),
        _Column(
            "params M",
            numbers(
                [line.params_m for line in lines],
                [NONE if line.params_m is None else significant(line.params_m, 4) for line in lines],
            ),
            True,
        ),
        _Column(
            "GMACs",
            numbers(
                [line.gmacs for line in lines],
                [NONE if line.gmacs is None else significant(line.gmacs, 3) for line in lines],
            ),
            True,
        ),
    ]
    if len({line.group for line in lines}) > 1:
        columns.insert(0, _Column("group", [[plain(line.group), line.group] for line in lines], facet=True))
    return _table(columns, plain(found.study.title))


def _comparison_table(found: Comparison) -> dict[str, Any]:
    cells = words.worst_first(found)

    def numbers(values: Sequence[float | None], text: Callable[[float], str]) -> list[Cell]:
        return [[NONE, None] if value is None else [text(value), value] for value in values]

    def four(value: float) -> str:
        return significant(value, 4)

    changes: list[Cell] = []
    for cell in cells:
        verdict = cell.verdict
        text = f"{words.change(verdict)} {words.span(verdict.interval)}".strip()
        told = (words.shown(cell.name), f"{text}, margin {words.margin(verdict)}", f"{verdict.blocks} blocks of turns")
        at = f"finished {found.finished[:16].replace('T', ' ')} UTC"
        window = cell.head.window.value if cell.head else "unknown"
        how = f"median over blocks of the ratio of head to base; {window} window; {words.machine(found.machine)}"
        changes.append([text, verdict.ratio, "\n".join([*told, how, at])])
    return _table(
        [
            _Column("cell", [[words.shown(cell.name), cell.name.lower()] for cell in cells]),
            _Column("change [95 % interval]", changes, number=True),
            _Column("verdict", [[each.verdict.outcome.value, at] for at, each in enumerate(cells)], facet=True),
            _Column("base ms", numbers([cell.base_ms for cell in cells], four), number=True),
            _Column("head ms", numbers([cell.head_ms for cell in cells], four), number=True),
            _Column("margin", [[words.margin(cell.verdict), cell.verdict.margin] for cell in cells], number=True),
            _Column("blocks", [[str(cell.verdict.blocks), cell.verdict.blocks] for cell in cells], number=True),
            _Column(
                "why", [[words.reason(cell.verdict), words.reason(cell.verdict).lower()] for cell in cells], wide=True
            ),
        ],
        words.title(found),
    )
