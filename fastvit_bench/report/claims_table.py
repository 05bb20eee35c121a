"""Judged claims as text: a table by sections of the paper for people, lines and records for other programs."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from fastvit_bench.render import data, terminal
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import plain
from fastvit_bench.report.claims import Aside, Cell, Here, Judged, Verdict

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

MARK = "≠"  # before a number that does not follow
NO_STUDY = "Nothing was measured here: no study has run."


def summary(judged: Sequence[Judged]) -> list[str]:
    """How many of each verdict, on the paper and on what was measured here."""
    verdicts = Counter(each.verdict for each in judged)
    told = ", ".join(f"{verdicts[each]} {words[verdicts[each] != 1]}" for each, words in _WORDS.items())
    notes = [f"{len(judged)} claim{'s' * (len(judged) != 1)} held against the tables: {told}."]
    if not _measured(judged):
        return [*notes, NO_STUDY]
    outcomes = Counter(_outcome(here) for each in judged for here in each.here)
    return [*notes, "Measured here: " + ", ".join(f"{count} {name}" for name, count in outcomes.items()) + "."]


# verdict -> of one claim, of several
_WORDS = {
    Verdict.AGREES: (Verdict.AGREES, "agree"),
    Verdict.DIFFERS: (Verdict.DIFFERS, "do not follow"),
    Verdict.UNCHECKABLE: (Verdict.UNCHECKABLE, Verdict.UNCHECKABLE),
}


def _measured(judged: Sequence[Judged]) -> bool:
    return any(here.measured for each in judged for here in each.here)


def _outcome(here: Here) -> str:
    """The outcome, which of another kind of device than was printed for is not that device's."""
    return f"{here.outcome} on another kind of device" if here.same_device is False else str(here.outcome)


def _by_section(judged: Sequence[Judged]) -> Iterator[tuple[str, list[Judged]]]:
    for section, found in groupby(judged, lambda each: each.claim.section):
        yield section, list(found)


def _told(each: Judged, ran: bool) -> list[str]:
    """What there is to say of a claim beside its numbers; once any study ran, also what came of it."""
    why = [*([each.sentence] if each.sentence else []), *(aside.sentence for aside in _telling(each))]
    here = each.here if ran and each.claim.measured else ()
    return [*why, *(f"{_capital(_outcome(found))}: {found.sentence}" for found in here)]


def _telling(each: Judged) -> list[Aside]:
    """Of a number that does not follow the readings that give it; of any other all."""
    fitting = [aside for aside in each.asides if aside.recomputed and aside.recomputed.fit]
    return fitting if each.verdict is Verdict.DIFFERS else list(each.asides)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- for people -------------------------------------------------------------------------------------------------------


_STYLES = {Verdict.AGREES: "", Verdict.DIFFERS: "bold red", Verdict.UNCHECKABLE: "yellow"}


def _style(each: Judged) -> str:
    return _STYLES[each.verdict]


def _tables(judged: Sequence[Judged], claim: Column[Judged], *more: Column[Judged]) -> list[Table[Judged]]:
    """A table per section of the paper."""
    numbers: list[Column[Judged]] = [
        Column(
            "printed",
            "printed",
            lambda each: each.claim.printed,
            lambda each: _numbers(each)[0],
            align="right",
            role="figure",
            style=_style,
        ),
        Column(
            "recomputed",
            "its tables",
            lambda each: each.recomputed and each.recomputed.value,
            lambda each: _numbers(each)[1],
            align="right",
            role="figure",
            style=_style,
        ),
        Column("off", "off by", lambda each: each.off, lambda each: _numbers(each)[2], align="right", style=_style),
        Column("verdict", "verdict", lambda each: each.verdict, lambda each: _numbers(each)[3], style=_style),
    ]
    return [Table(found, [claim, *numbers, *more], section) for section, found in _by_section(judged)]


def rich(judged: Sequence[Judged], width: int) -> "Group":
    """A table per section for a terminal of so many columns; claims that do not follow stand out."""
    ran = _measured(judged)

    def told(each: Judged) -> str:
        return plain(" ".join([each.claim.text, f"({each.claim.id})", *_told(each, ran)]))

    claim: Column[Judged] = Column("claim", "claim", told, role="key", wraps=True)
    return terminal.report(TableReport(_tables(judged, claim), summary(judged)), width)


def sentences(judged: Sequence[Judged]) -> list[str]:
    """What a study says of each claim of it: ``V2 is 7.1 % slower than V4. Not reproduced …``."""
    return [
        plain(f"{each.claim.text} {_capital(_outcome(here))}: {here.sentence}") for each in judged for here in each.here
    ]


def _numbers(each: Judged) -> tuple[str, str, str, str]:
    """Printed, recomputed, the difference, the verdict."""
    mark = f"{MARK} " if each.verdict is Verdict.DIFFERS else ""
    shown = each.recomputed.shown if each.recomputed else NONE
    return each.printed, shown, each.off or NONE, f"{mark}{each.verdict}"


def details(judged: Sequence[Judged]) -> "Text":
    """Each claim in full: where it is printed, the cells with their sources, both verdicts."""
    from rich.text import Text

    text = Text()
    for each in judged:
        text.append(f"{each.claim.id}: {each.claim.text}\n", style="bold")
        for name, told in _lines(each):
            text.append(f"  {name}: ", style="dim").append(f"{told}\n")
    return text.append("\n".join(summary(judged)), style="dim")


def _lines(each: Judged) -> list[tuple[str, str]]:
    """What there is to tell of a claim, by names that may repeat."""
    claim = each.claim
    printed, shown, off, verdict = _numbers(each)
    lines = [
        ("printed in", f"{', '.join(claim.where)} ({_cell(claim.said)})"),
        (claim.kind, f"{printed} printed, {shown} by the cells, off by {off}: {verdict}"),
        *([("why", each.sentence)] if each.sentence else []),
        ("cell", _cell(claim.cell)),
        *([("base", _cell(claim.base))] if claim.base else []),
    ]
    for reading, aside in zip(claim.instead, each.asides, strict=True):
        lines.append(("instead", aside.sentence))
        pairs = (("its cell", reading.cell, claim.cell), ("its base", reading.base, claim.base))
        lines += [(name, _cell(cell)) for name, cell, usual in pairs if cell is not None and cell != usual]
    for here in each.here:
        lines.append((_outcome(here), here.sentence))
        if here.measured:
            lines.append(("measured", f"{here.measured.finished}, {here.measured.source}"))
    return [(name, plain(told)) for name, told in lines]


def _cell(cell: Cell) -> str:
    unit = f" {cell.unit}" if cell.unit else ""
    return f"{' / '.join(cell.place)} = {cell.text}{unit} ({cell.status}; {cell.source})"


def markdown(judged: Sequence[Judged]) -> str:
    """A pipe table per section."""
    ran = _measured(judged)
    claim: Column[Judged] = Column("claim", "claim", lambda each: each.claim.text, role="key")
    note: Column[Judged] = Column("note", "note", lambda each: " ".join(_told(each, ran)))
    return markdown_tables.report(TableReport(_tables(judged, claim, note), summary(judged)))


_FACTS: list[Column[tuple[str, str]]] = [
    Column("name", "of the claim", lambda line: line[0], role="key"),
    Column("text", "what is known", lambda line: line[1], wraps=True),
]


def markdown_details(judged: Sequence[Judged]) -> str:
    """A pipe table per claim."""
    tables = [Table(_lines(each), _FACTS, f"{each.claim.id}: {each.claim.text}") for each in judged]
    return markdown_tables.report(TableReport(tables, summary(judged)))


# --- for programs -----------------------------------------------------------------------------------------------------

Row = tuple[Judged, Here]  # a claim, and what was measured of it on a device

_COLUMNS: list[Column[Row]] = [
    Column("id", "", lambda row: row[0].claim.id),
    Column("section", "", lambda row: row[0].claim.section),
    Column("text", "", lambda row: row[0].claim.text),
    Column("where", "", lambda row: "; ".join(row[0].claim.where)),
    Column("kind", "", lambda row: row[0].claim.kind),
    Column("printed", "", lambda row: row[0].claim.printed),
    Column("recomputed", "", lambda row: row[0].recomputed.value if row[0].recomputed else None),
    Column("recomputed_low", "", lambda row: row[0].recomputed.low if row[0].recomputed else None),
    Column("recomputed_high", "", lambda row: row[0].recomputed.high if row[0].recomputed else None),
    Column("verdict", "", lambda row: row[0].verdict),
    Column("why", "", lambda row: " ".join([row[0].sentence, *(aside.sentence for aside in row[0].asides)]).strip()),
    Column("cell", "", lambda row: " / ".join(row[0].claim.cell.place)),
    Column("cell_value", "", lambda row: row[0].claim.cell.text),
    Column("base", "", lambda row: " / ".join(row[0].claim.base.place) if row[0].claim.base else None),
    Column("base_value", "", lambda row: row[0].claim.base.text if row[0].claim.base else None),
    Column("printed_for", "", lambda row: row[0].claim.printed_for),
    Column("study", "", lambda row: row[0].claim.measured.study if row[0].claim.measured else None),
    Column("outcome", "", lambda row: row[1].outcome),
    Column("device", "", lambda row: row[1].measured.device if row[1].measured else None),
    Column("device_kind", "", lambda row: row[1].measured.device_kind if row[1].measured else None),
    Column("measured", "", lambda row: row[1].value),
    Column("measured_low", "", lambda row: row[1].low),
    Column("measured_high", "", lambda row: row[1].high),
    Column("measured_why", "", lambda row: row[1].sentence),
    Column("machine", "", lambda row: row[1].measured.machine if row[1].measured else None),
    Column("finished", "", lambda row: row[1].measured.finished if row[1].measured else None),
    Column("source", "", lambda row: row[1].measured.source if row[1].measured else None),
]


def csv(judged: Sequence[Judged]) -> str:
    """A line per claim and device."""
    return data.csv(Table([(each, here) for each in judged for here in each.here], _COLUMNS))


def json(judged: Sequence[Judged]) -> str:
    """A list of claims with their cells, sources and both verdicts."""
    return data.json(judged)


COMPLETE: dict[str, Callable[[Sequence[Judged]], str]] = {"csv": csv, "json": json}
FORMATS = {"markdown": markdown, **COMPLETE}
