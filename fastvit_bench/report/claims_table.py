"""Judged claims as text: a table by sections of the paper for people, lines and records for other programs."""

import csv as _csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import msgspec

from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column
from fastvit_bench.report.claims import Aside, Cell, Here, Judged, Verdict
from fastvit_bench.report.sheet import NONE, Detail, Document, plain

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


def rich(judged: Sequence[Judged], width: int) -> "Group":
    """A table per section for a terminal of so many columns; claims that do not follow stand out."""
    from rich.console import Group
    from rich.text import Text

    ran = _measured(judged)
    parts: list[Text] = []
    for section, found in _by_section(judged):
        styles = [_STYLES[each.verdict] for each in found]
        numbers = zip(*(_numbers(each) for each in found), strict=True)
        titles: tuple[tuple[str, Literal["left", "right"]], ...]
        titles = (("printed", "right"), ("its tables", "right"), ("off by", "right"), ("verdict", "left"))
        told = [plain(" ".join([each.claim.text, f"({each.claim.id})", *_told(each, ran)])) for each in found]
        columns = [
            Column("claim", told, wraps=True),
            *(Column(title, list(c), side, styles=styles) for (title, side), c in zip(titles, numbers, strict=True)),
        ]
        parts += [Text(section, style="bold"), terminal.styled(terminal.layout(columns, width)), Text()]
    return Group(*parts, *(Text(note, style="dim") for note in summary(judged)))


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
    from fastvit_bench.report.table import in_markdown

    ran = _measured(judged)
    tables = [
        Detail(
            section,
            [
                Column("claim", [each.claim.text for each in found]),
                Column("printed", [each.printed for each in found], "right"),
                Column("its tables", [_numbers(each)[1] for each in found], "right"),
                Column("off by", [_numbers(each)[2] for each in found], "right"),
                Column("verdict", [_numbers(each)[3] for each in found]),
                Column("note", [" ".join(_told(each, ran)) for each in found]),
            ],
            1,
        )
        for section, found in _by_section(judged)
    ]
    return in_markdown(Document(sheets=[], details=tables, notes=summary(judged)))


def markdown_details(judged: Sequence[Judged]) -> str:
    """A pipe table per claim."""
    from fastvit_bench.report.table import in_markdown

    tables: list[Detail] = []
    for each in judged:
        lines = _lines(each)
        columns = [Column("", [name for name, _ in lines]), Column("", [told for _, told in lines])]
        tables.append(Detail(f"{each.claim.id}: {each.claim.text}", columns, 1))
    return in_markdown(Document(sheets=[], details=tables, notes=summary(judged)))


# --- for programs -----------------------------------------------------------------------------------------------------

# column -> value, once per claim
_FLAT: dict[str, Callable[[Judged], object]] = {
    "id": lambda each: each.claim.id,
    "section": lambda each: each.claim.section,
    "text": lambda each: each.claim.text,
    "where": lambda each: "; ".join(each.claim.where),
    "kind": lambda each: each.claim.kind,
    "printed": lambda each: each.claim.printed,
    "recomputed": lambda each: each.recomputed.value if each.recomputed else None,
    "recomputed_low": lambda each: each.recomputed.low if each.recomputed else None,
    "recomputed_high": lambda each: each.recomputed.high if each.recomputed else None,
    "verdict": lambda each: each.verdict,
    "why": lambda each: " ".join([each.sentence, *(aside.sentence for aside in each.asides)]).strip(),
    "cell": lambda each: " / ".join(each.claim.cell.place),
    "cell_value": lambda each: each.claim.cell.text,
    "base": lambda each: " / ".join(each.claim.base.place) if each.claim.base else None,
    "base_value": lambda each: each.claim.base.text if each.claim.base else None,
    "printed_for": lambda each: each.claim.printed_for,
    "study": lambda each: each.claim.measured.study if each.claim.measured else None,
}

# likewise, of each device
_OF_DEVICE: dict[str, Callable[[Here], object]] = {
    "outcome": lambda here: here.outcome,
    "device": lambda here: here.measured.device if here.measured else None,
    "device_kind": lambda here: here.measured.device_kind if here.measured else None,
    "measured": lambda here: here.value,
    "measured_low": lambda here: here.low,
    "measured_high": lambda here: here.high,
    "measured_why": lambda here: here.sentence,
    "machine": lambda here: here.measured.machine if here.measured else None,
    "finished": lambda here: here.measured.finished if here.measured else None,
    "source": lambda here: here.measured.source if here.measured else None,
}


def csv(judged: Sequence[Judged]) -> str:
    """A line per claim and device."""
    text = io.StringIO()
    writer = _csv.DictWriter(text, [*_FLAT, *_OF_DEVICE], lineterminator="\n")
    writer.writeheader()
    for each in judged:
        line = {name: value(each) for name, value in _FLAT.items()}
        writer.writerows({**line, **{name: value(here) for name, value in _OF_DEVICE.items()}} for here in each.here)
    return text.getvalue()


def json(judged: Sequence[Judged]) -> str:
    """A list of claims with their cells, sources and both verdicts."""
    return msgspec.json.format(msgspec.json.encode(judged), indent=2).decode() + "\n"


COMPLETE: dict[str, Callable[[Sequence[Judged]], str]] = {"csv": csv, "json": json}
FORMATS = {"markdown": markdown, **COMPLETE}
