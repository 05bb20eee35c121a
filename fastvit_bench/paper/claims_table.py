"""Judged claims as text: a table by sections of the paper for people, lines and records for other programs."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from fastvit_bench.paper.claims import Aside, ClaimedCell, ClaimVerdict, DeviceComparison, Judged
from fastvit_bench.render import data, terminal
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

MARK = "≠"  # before a number that does not follow
NO_STUDY = "Nothing was measured here: no study has run."


def summary(judged: Sequence[Judged]) -> list[str]:
    """Return sentences that count each verdict on the tables and each outcome of a measurement."""
    verdicts = Counter(entry.verdict for entry in judged)
    counts = ", ".join(f"{verdicts[verdict]} {words[verdicts[verdict] != 1]}" for verdict, words in _WORDS.items())
    notes = [f"{len(judged)} claim{'s' * (len(judged) != 1)} checked against the tables: {counts}."]
    if not _measured(judged):
        return [*notes, NO_STUDY]
    outcomes = Counter(_outcome(comparison) for entry in judged for comparison in entry.here)
    return [*notes, "Measured here: " + ", ".join(f"{count} {name}" for name, count in outcomes.items()) + "."]


# verdict -> words for one claim, for several
_WORDS = {
    ClaimVerdict.AGREES: (ClaimVerdict.AGREES, "agree"),
    ClaimVerdict.DIFFERS: (ClaimVerdict.DIFFERS, "do not follow"),
    ClaimVerdict.UNCHECKABLE: (ClaimVerdict.UNCHECKABLE, ClaimVerdict.UNCHECKABLE),
}


def _measured(judged: Sequence[Judged]) -> bool:
    return any(comparison.measured for entry in judged for comparison in entry.here)


def _outcome(comparison: DeviceComparison) -> str:
    """Return the outcome; on a device of another kind than the paper's it says so."""
    outcome = comparison.outcome
    return f"{outcome} on another kind of device" if comparison.same_device is False else str(outcome)


def _by_section(judged: Sequence[Judged]) -> Iterator[tuple[str, list[Judged]]]:
    for section, entries in groupby(judged, lambda entry: entry.claim.section):
        yield section, list(entries)


def _remarks(entry: Judged, ran: bool) -> list[str]:
    """Return the sentences on a claim beside its numbers; once any study `ran`, also its outcomes."""
    why = [*([entry.sentence] if entry.sentence else []), *(aside.sentence for aside in _relevant_asides(entry))]
    comparisons = entry.here if ran and entry.claim.measured else ()
    return [*why, *(f"{_capital(_outcome(comparison))}: {comparison.sentence}" for comparison in comparisons)]


def _relevant_asides(entry: Judged) -> list[Aside]:
    """Return the asides to print: all, or only the readings that give the number where the claim does not follow."""
    fitting = [aside for aside in entry.asides if aside.recomputed and aside.recomputed.fit]
    return fitting if entry.verdict is ClaimVerdict.DIFFERS else list(entry.asides)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- for people -------------------------------------------------------------------------------------------------------


_STYLES = {ClaimVerdict.AGREES: "", ClaimVerdict.DIFFERS: "bold red", ClaimVerdict.UNCHECKABLE: "yellow"}


def _style(entry: Judged) -> str:
    return _STYLES[entry.verdict]


def _tables(judged: Sequence[Judged], claim: Column[Judged], *more: Column[Judged]) -> list[Table[Judged]]:
    """Return a table per section of the paper."""
    numbers: list[Column[Judged]] = [
        Column(
            "printed",
            "printed",
            lambda entry: entry.claim.printed,
            lambda entry: _numbers(entry)[0],
            align="right",
            role="figure",
            style=_style,
        ),
        Column(
            "recomputed",
            "its tables",
            lambda entry: entry.recomputed and entry.recomputed.value,
            lambda entry: _numbers(entry)[1],
            align="right",
            role="figure",
            style=_style,
        ),
        Column("off", "off by", lambda entry: entry.off, lambda entry: _numbers(entry)[2], align="right", style=_style),
        Column("verdict", "verdict", lambda entry: entry.verdict, lambda entry: _numbers(entry)[3], style=_style),
    ]
    return [Table(entries, [claim, *numbers, *more], section) for section, entries in _by_section(judged)]


def rich(judged: Sequence[Judged], width: int) -> "Group":
    """Return a table per section for a terminal of `width` columns; claims that do not follow stand out."""
    ran = _measured(judged)

    def claim_text(entry: Judged) -> str:
        return printable(" ".join([entry.claim.text, f"({entry.claim.id})", *_remarks(entry, ran)]))

    claim: Column[Judged] = Column("claim", "claim", claim_text, role="key", wraps=True)
    return terminal.report(TableReport(_tables(judged, claim), summary(judged)), width)


def sentences(judged: Sequence[Judged]) -> list[str]:
    """Return a sentence per claim and device: ``V2 is 7.1 % slower than V4. Not reproduced …``."""
    return [
        printable(f"{entry.claim.text} {_capital(_outcome(comparison))}: {comparison.sentence}")
        for entry in judged
        for comparison in entry.here
    ]


def _numbers(entry: Judged) -> tuple[str, str, str, str]:
    """Return the printed number, the recomputed one, their difference and the verdict."""
    mark = f"{MARK} " if entry.verdict is ClaimVerdict.DIFFERS else ""
    shown = entry.recomputed.shown if entry.recomputed else NONE
    return entry.printed, shown, entry.off or NONE, f"{mark}{entry.verdict}"


def details(judged: Sequence[Judged]) -> "Text":
    """Return each claim in full: its places, the cells with their sources, and both verdicts."""
    from rich.text import Text

    text = Text()
    for entry in judged:
        text.append(f"{entry.claim.id}: {entry.claim.text}\n", style="bold")
        for name, fact in _facts(entry):
            text.append(f"  {name}: ", style="dim").append(f"{fact}\n")
    return text.append("\n".join(summary(judged)), style="dim")


def _facts(entry: Judged) -> list[tuple[str, str]]:
    """Return all facts of a claim with their names, which may repeat."""
    claim = entry.claim
    printed, shown, off, verdict = _numbers(entry)
    facts = [
        ("printed in", f"{', '.join(claim.where)} ({_cell(claim.said)})"),
        (claim.kind, f"{printed} printed, {shown} by the cells, off by {off}: {verdict}"),
        *([("why", entry.sentence)] if entry.sentence else []),
        ("cell", _cell(claim.cell)),
        *([("base", _cell(claim.base))] if claim.base else []),
    ]
    for reading, aside in zip(claim.instead, entry.asides, strict=True):
        facts.append(("instead", aside.sentence))
        pairs = (("its cell", reading.cell, claim.cell), ("its base", reading.base, claim.base))
        facts += [(name, _cell(cell)) for name, cell, usual in pairs if cell is not None and cell != usual]
    for comparison in entry.here:
        facts.append((_outcome(comparison), comparison.sentence))
        if comparison.measured:
            facts.append(("measured", f"{comparison.measured.finished}, {comparison.measured.source}"))
    return [(name, printable(fact)) for name, fact in facts]


def _cell(cell: ClaimedCell) -> str:
    unit = f" {cell.unit}" if cell.unit else ""
    return f"{' / '.join(cell.place)} = {cell.text}{unit} ({cell.status}; {cell.source})"


def markdown(judged: Sequence[Judged]) -> str:
    """Return a pipe table per section, as Markdown."""
    ran = _measured(judged)
    claim: Column[Judged] = Column("claim", "claim", lambda entry: entry.claim.text, role="key")
    note: Column[Judged] = Column("note", "note", lambda entry: " ".join(_remarks(entry, ran)))
    return markdown_tables.report(TableReport(_tables(judged, claim, note), summary(judged)))


_FACT_COLUMNS: list[Column[tuple[str, str]]] = [
    Column("name", "of the claim", lambda line: line[0], role="key"),
    Column("text", "what is known", lambda line: line[1], wraps=True),
]


def markdown_details(judged: Sequence[Judged]) -> str:
    """Return a pipe table per claim, as Markdown."""
    tables = [Table(_facts(entry), _FACT_COLUMNS, f"{entry.claim.id}: {entry.claim.text}") for entry in judged]
    return markdown_tables.report(TableReport(tables, summary(judged)))


# --- for programs -----------------------------------------------------------------------------------------------------

Row = tuple[Judged, DeviceComparison]

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
    """Return comma-separated values, a line per claim and device."""
    return data.csv(Table([(entry, comparison) for entry in judged for comparison in entry.here], _COLUMNS))


def json(judged: Sequence[Judged]) -> str:
    """Return a JSON list of claims with their cells, sources and both verdicts."""
    return data.json(judged)


COMPLETE: dict[str, Callable[[Sequence[Judged]], str]] = {"csv": csv, "json": json}
FORMATS = {"markdown": markdown, **COMPLETE}
