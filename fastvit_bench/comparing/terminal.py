"""A comparison as a table on a terminal and in Markdown: the worst cell first, the conditions below the table."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastvit_bench.comparing.phrases import (
    POOLED,
    brief_conditions,
    change,
    conditions,
    margin,
    reason,
    sentence,
    shown,
    span,
    title,
    worst_first,
)
from fastvit_bench.records.comparison import CellResult, Comparison, Outcome, Verdict
from fastvit_bench.render import terminal
from fastvit_bench.render.markdown import pipes
from fastvit_bench.render.table import NONE, Column, Table
from fastvit_bench.render.text import printable, significant

if TYPE_CHECKING:  # takes longer to import than `--help` may
    from rich.console import Group

SOME = 12  # at most so many reasons, and so many warnings, where all notes are printed

_STYLES = {
    Outcome.REGRESSED: "bold red",
    Outcome.INCOMPARABLE: "bold magenta",
    Outcome.NO_BASELINE: "magenta",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.PASS: "green",
    Outcome.IMPROVED: "cyan",
}


class Compared(NamedTuple):
    """A line of the table: one cell of a comparison, or all of them pooled, with the verdict."""

    name: str
    cell: CellResult | None  # None for the pooled line
    verdict: Verdict


def lines(comparison: Comparison) -> list[Compared]:
    """Return a line per cell, the worst first, and the pooled one at the end."""
    cells = [Compared(shown(cell.name), cell, cell.verdict) for cell in worst_first(comparison)]
    return [*cells, *([Compared(POOLED, None, comparison.pooled)] if comparison.pooled else [])]


def _milliseconds(figure: Callable[[CellResult], float | None]) -> Callable[[Compared], str]:
    def text(line: Compared) -> str:
        if line.cell is None:
            return ""
        return NONE if (value := figure(line.cell)) is None else significant(value, 4)

    return text


def _style(line: Compared) -> str:
    return _STYLES[line.verdict.outcome]


COLUMNS: list[Column[Compared]] = [
    Column("cell", "cell", lambda line: line.name, role="key"),
    Column(
        "base_ms",
        "base",
        lambda line: line.cell and line.cell.base_ms,
        _milliseconds(lambda cell: cell.base_ms),
        unit="ms",
        align="right",
        role="figure",
    ),
    Column(
        "head_ms",
        "head",
        lambda line: line.cell and line.cell.head_ms,
        _milliseconds(lambda cell: cell.head_ms),
        unit="ms",
        align="right",
        role="figure",
    ),
    Column(
        "ratio",
        "change [95 % interval]",
        lambda line: line.verdict.ratio,
        lambda line: f"{change(line.verdict)} {span(line.verdict.interval)}".rstrip(),
        align="right",
        role="figure",
    ),
    Column("verdict", "verdict", lambda line: line.verdict.outcome.value, role="figure", style=_style, facet=True),
    Column(
        "margin",
        "margin",
        lambda line: line.verdict.margin,
        lambda line: margin(line.verdict),
        align="right",
        under="verdict",
    ),
    Column("blocks", "blocks", lambda line: line.verdict.blocks, align="right"),
    Column(
        "detectable",
        "smallest detectable",
        lambda line: line.verdict.detectable,
        lambda line: NONE if line.verdict.detectable is None else f"{100 * line.verdict.detectable:.1f} %",
        align="right",
        under="blocks",
    ),
]


# --- on a terminal ----------------------------------------------------------------------------------------------------


def rich(comparison: Comparison, width: int, *, verbose: bool = True) -> "Group":
    """Return the table, the sentence and the notes for a terminal of `width` columns.

    The notes take five lines at most, unless it is `verbose`. On a narrow terminal, the margin goes under the verdict
    and the smallest detectable slowdown under the blocks.
    """
    from rich.console import Group
    from rich.text import Text

    rows = lines(comparison)
    pooled = [len(rows) - 1] if comparison.pooled is not None else []
    table = Table(rows, COLUMNS, sections=pooled)
    notes = _notes(rows, comparison)
    if not verbose:
        notes = terminal.few(notes, width, _brief(rows, comparison))
    return Group(
        Text(title(comparison), style="bold"),
        *([terminal.styled(terminal.layout(table, width)), Text()] if rows else []),
        Text(sentence(comparison), style=_STYLES[comparison.outcome]),
        *(Text(note, style="yellow" if note.startswith("* ") else "dim") for note in notes),
    )


def _notes(rows: Sequence[Compared], comparison: Comparison) -> list[str]:
    """Return the reasons of the verdicts, the warnings and the conditions."""
    reasons = [f"{line.name}: {reason(line.verdict)}" for line in rows if _needs_reason(line.verdict)]
    warnings = [f"* {shown(warning, 500)}" for warning in comparison.warnings]
    return [
        *_some(reasons),
        *_some(warnings),
        *(f"{label}: {text}" for label, text in conditions(comparison).items()),
    ]


def _brief(rows: Sequence[Compared], comparison: Comparison) -> list[str]:
    """Return the reasons that the sentence does not give, the warnings, and the most telling conditions."""
    verdict = sentence(comparison)
    reasons = [
        f"{line.name}: {reason(line.verdict)}"
        for line in rows
        if _needs_reason(line.verdict) and reason(line.verdict).rstrip(".") not in verdict
    ]
    warnings = [f"* {shown(warning, 500)}" for warning in comparison.warnings]
    return [*reasons, *warnings, brief_conditions(comparison)]


def _needs_reason(verdict: Verdict) -> bool:
    return bool(verdict.reason) and verdict.outcome is not Outcome.PASS


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:SOME], *([f"... and {len(lines) - SOME} more"] if len(lines) > SOME else [])]


# --- in Markdown ------------------------------------------------------------------------------------------------------

WHY: Column[Compared] = Column("why", "why", lambda line: reason(line.verdict), wraps=True)


def markdown(comparison: Comparison, limit: int | None = None, report: str = "") -> str:
    """Return a heading, the sentence, a pipe table and a list of conditions as Markdown.

    With a `limit` in bytes of UTF-8, rows and then notes are cut at their end. A line then says how many, and that the
    full report is in `report`. The result is empty if not even the sentence fits.
    """
    rows = [_row(line) for line in lines(comparison)]
    notes = [
        *(f"- **Warning:** {escaped(shown(warning, 500))}" for warning in comparison.warnings),
        *(f"- {label}: {escaped(text)}" for label, text in conditions(comparison).items()),
    ]
    lead = [f"### {escaped(title(comparison))}", "", _line_of(sentence(comparison))]
    lead += ["", *_headings()] if rows else []
    if limit is None:
        return _joined([*lead, *rows, "", *notes])
    rows, pooled = rows[: len(comparison.cells)], rows[len(comparison.cells) :]  # the pooled row is never cut
    where = f"; the full report is in {escaped(shown(report, 500))}" if report else ""
    notices = (f" more rows are left out here{where}.", f" more notes are left out here{where}.")
    remaining = limit - _bytes([*lead, *pooled, "", ""]) - _bytes(notices) - 40  # 40: for the digits of the counts
    if remaining < 0:
        return ""
    shown_notes = _fitting(notes, max(limit // 4, remaining - _bytes(rows)), remaining)
    shown_rows = _fitting(rows, remaining - _bytes(shown_notes))
    omitted_rows, omitted_notes = len(rows) - len(shown_rows), len(notes) - len(shown_notes)
    return _joined(
        [
            *lead,
            *shown_rows,
            *pooled,
            *(["", f"{omitted_rows}{notices[0]}"] if omitted_rows else []),
            "",
            *shown_notes,
            *([f"- {omitted_notes}{notices[1]}"] if omitted_notes else []),
        ]
    )


def _headings() -> list[str]:
    columns = [*COLUMNS, WHY]
    sides = ["--:" if column.align == "right" else ":--" for column in columns]
    return [pipes([escaped(column.heading) for column in columns]), pipes(sides)]


def _row(line: Compared) -> str:
    cells = [escaped(column.cell(line)) for column in (*COLUMNS, WHY)]
    if line.verdict.outcome is not Outcome.PASS:
        at = next(at for at, column in enumerate(COLUMNS) if column.name == "verdict")
        cells[at] = f"**{cells[at]}**"
    return pipes(cells)


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"


def _bytes(lines: Sequence[str]) -> int:
    """Return the size of the lines in UTF-8, a newline after each included."""
    return sum(len(line.encode()) + 1 for line in lines)


def _fitting(lines: Sequence[str], *limits: int) -> list[str]:
    """Return the first lines that fit into the smallest of the limits, in bytes."""
    remaining = min(limits)
    fitting: list[str] = []
    for line in lines:
        remaining -= len(line.encode()) + 1
        if remaining < 0:
            break
        fitting.append(line)
    return fitting


# CommonMark (section 2.4) allows a backslash before all ASCII punctuation. These open a cell, code, emphasis, HTML,
# an entity or a formula; brackets only where a link would follow, underscores only at the ends of words.
_MARKUP = re.compile(r"[\\`|*<>&~$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
# GitHub makes mentions, links, references and pictures of these even where they are escaped. An empty comment in
# between is not shown and prevents that.
_AUTOMATIC = re.compile(
    r"(?<![A-Za-z0-9])@(?=\w)|@(?=[\w.-]+\.\w)|:(?=//)|www(?=\.)|:(?=[a-z+-][\w+-]*:|100:)|#(?=\d)", re.IGNORECASE
)
# these open a heading, a list, a rule or a quotation at the beginning of a line
_OPENING = re.compile(r"^(\d*)([-+=#.)])")


def escaped(text: str) -> str:
    """Return text that Markdown shows unchanged within a line; names come from files and must not become markup."""
    return _AUTOMATIC.sub(r"\g<0><!-- -->", _MARKUP.sub(r"\\\g<0>", printable(text)))


def _line_of(text: str) -> str:
    """Return text that Markdown shows unchanged as a line of its own."""
    return _OPENING.sub(r"\1\\\2", escaped(text))
