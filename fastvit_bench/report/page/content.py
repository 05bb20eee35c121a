"""What the page says: its headline, its verdicts, and its tables as text with what they are sorted by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastvit_bench.records import Artifact, Measurement
from fastvit_bench.report import claims, claims_table
from fastvit_bench.report import studies as studies_of
from fastvit_bench.report.figures import about
from fastvit_bench.report.frontiers import Basis, Frontier, Group, Place, published_top1
from fastvit_bench.report.joined import probability_text, ratio_text, some
from fastvit_bench.report.pareto import SURE, Counted
from fastvit_bench.report.ratios import Key, Ratio
from fastvit_bench.report.rows import REFERENCE_SIZE, Row, size_of
from fastvit_bench.report.sheet import NONE, form, latency, legend, macs_per_image, model_name, plain, significant
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
    first = headline(groups, frontiers) if groups or not studies else plain(studies[0].study.title)
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


def headline(groups: Sequence[Group], frontiers: Sequence[Frontier]) -> str:
    """The largest group at 256 pixels, else at the size with the most models: who leads, and what accuracy costs."""
    if not groups:
        return "No latency was measured in these runs."
    group = groups[0]
    sizes = sorted(group.sizes, key=lambda shape: (-len(group.at(shape)), size_of(shape) != REFERENCE_SIZE))
    shape = next((each for each in sizes if size_of(each) == REFERENCE_SIZE), sizes[0])
    entries = sorted(group.at(shape), key=lambda entry: entry[2].figure_ms)
    where = f"at {size_of(shape)} px on {group.device.partition(' (')[0]}"
    first, last = entries[0], entries[-1]
    if len(entries) == 1:
        return f"{first[0]} takes {_ms(first[2])} {where}."
    best = max(
        (each for each in frontiers if each.group is group and each.shape == shape),
        key=lambda each: each.basis is Basis.MEASURED,
        default=None,
    )
    if best is None:
        times = significant(last[2].figure_ms / first[2].figure_ms, 2)
        slowest = f"{last[0]} takes {times} times as long"
        return f"Of {len(entries)} models {where}, {first[0]} is the quickest at {_ms(first[2])}; {slowest}."
    members = [place for place in best.places if place.standing.probability >= SURE]
    if not members:
        return f"Of {len(best.places)} models {where}, none is on the accuracy-latency frontier beyond doubt."
    are = "is" if len(members) == 1 else "are"
    lead = f"Of {len(best.places)} models {where}, {len(members)} {are} on the accuracy-latency frontier"
    if len(members) == 1:
        return f"{lead}: {_told(members[0])}, by {best.basis} top-1."
    off = [place for place in best.places if place.standing.probability <= 1 - SURE]
    beaten = ""
    if len(off) == 1:
        by = best.dominating(off[0])
        beaten = f"; {off[0].name} is dominated" + (f" by {by[0]}" if by else "")
    elif off:
        beaten = f"; {len(off)} are dominated"
    return f"{lead}, from {_told(members[0])} to {_told(members[-1])}, by {best.basis} top-1{beaten}."


def _told(place: Place) -> str:
    return f"{place.name} ({_ms(place.cell)}, {place.accuracy.percent:.1f}\N{NO-BREAK SPACE}%)"


def _ms(cell: Measurement) -> str:
    return f"{significant(cell.figure_ms, 3)}\N{NO-BREAK SPACE}ms"


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
    names = {id(row): name for group in groups for row, name in zip(group.rows, group.names, strict=True)}
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
                    latency(cell.figure_ms, cell.interval_ms) + " *" * bool(cell.warnings),
                    cell.figure_ms,
                    about(cell, names[id(row)], ""),
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
        columns.append(_Column("ms/image", numbers(lambda _, cell: cell.ms_per_image, _three), number=True, minor=True))
    columns += _accuracy_columns(lines, accuracies, numbers)
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


def _accuracy_columns(
    lines: Sequence[tuple[Row, Measurement]],
    accuracies: Mapping[str, Counted],
    numbers: Callable[[Callable[[Row, Measurement], float | None], Callable[[float], str]], list[Cell]],
) -> list[_Column]:
    """Measured and published top-1, never in one column; no column without a value."""

    def measured(_: Row, cell: Measurement) -> float | None:
        made = cell.artifact
        found = accuracies.get(made.sha256) if isinstance(made, Artifact) and made.sha256 else None
        return found.percent if found else None

    def printed(row: Row, cell: Measurement) -> float | None:
        figure = published_top1(row, cell.shape) if cell.shape else None
        return figure.value if figure else None

    found = [
        _Column(title, numbers(value, lambda share: f"{share:.1f}"), number=True)
        for title, value in (("measured top-1 %", measured), ("published top-1 %", printed))
    ]
    return [column for column in found if any(cell[1] is not None for cell in column.cells)]


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
