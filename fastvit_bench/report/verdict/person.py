"""A comparison for a person: a table on a terminal and in Markdown, the worst cell first, what to know of it below."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastvit_bench.render import terminal
from fastvit_bench.render.markdown import pipes
from fastvit_bench.render.table import NONE, Column, Table
from fastvit_bench.render.text import plain, significant
from fastvit_bench.report.verdict.words import (
    POOLED,
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
from fastvit_bench.verdicts import CellResult, Comparison, Outcome, Verdict

if TYPE_CHECKING:  # takes longer to import than `--help` may
    from rich.console import Group

SOME = 12  # reasons and warnings that a terminal is shown, of each

_STYLES = {
    Outcome.REGRESSED: "bold red",
    Outcome.INCOMPARABLE: "bold magenta",
    Outcome.NO_BASELINE: "magenta",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.PASS: "green",
    Outcome.IMPROVED: "cyan",
}


class Compared(NamedTuple):
    """A cell of a comparison, or all of them together, and its verdict."""

    name: str
    cell: CellResult | None  # None of all together
    verdict: Verdict


def lines(comparison: Comparison) -> list[Compared]:
    """A line per cell, the worst first, and the pooled one at the end."""
    found = [Compared(shown(cell.name), cell, cell.verdict) for cell in worst_first(comparison)]
    return [*found, *([Compared(POOLED, None, comparison.pooled)] if comparison.pooled else [])]


def _milliseconds(of: Callable[[CellResult], float | None]) -> Callable[[Compared], str]:
    def text(line: Compared) -> str:
        if line.cell is None:
            return ""
        return NONE if (value := of(line.cell)) is None else significant(value, 4)

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


def rich(comparison: Comparison, width: int) -> "Group":
    """The table, the sentence and the conditions for a terminal of so many columns.

    Where it is narrow, the margin stands under the verdict and the smallest detectable slowdown under the blocks.
    """
    from rich.console import Group
    from rich.text import Text

    found = lines(comparison)
    pooled = [len(found) - 1] if comparison.pooled is not None else []
    table = Table(found, COLUMNS, sections=pooled)
    told = [f"{line.name}: {reason(line.verdict)}" for line in found if _needs_reason(line.verdict)]
    return Group(
        Text(title(comparison), style="bold"),
        *([terminal.styled(terminal.layout(table, width)), Text()] if found else []),
        Text(sentence(comparison), style=_STYLES[comparison.outcome]),
        *(Text(line) for line in _some(told)),
        *(
            Text(f"* {warning}", style="yellow")
            for warning in _some([shown(each, 500) for each in comparison.warnings])
        ),
        *(Text(f"{label}: {text}", style="dim") for label, text in conditions(comparison).items()),
    )


def _needs_reason(verdict: Verdict) -> bool:
    return bool(verdict.reason) and verdict.outcome is not Outcome.PASS


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:SOME], *([f"... and {len(lines) - SOME} more"] if len(lines) > SOME else [])]


# --- in Markdown ------------------------------------------------------------------------------------------------------

WHY: Column[Compared] = Column("why", "why", lambda line: reason(line.verdict), wraps=True)


def markdown(comparison: Comparison, limit: int | None = None, report: str = "") -> str:
    """A heading, the sentence, a pipe table and a list of conditions.

    With a `limit` in bytes of UTF-8, rows and then notes are left out at their end, and a line says how many and that
    the whole lies in `report`. Empty where the limit leaves no room for the sentence.
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
    rows, pooled = rows[: len(comparison.cells)], rows[len(comparison.cells) :]  # that one is not left out
    where = f"; the full report lies in {escaped(shown(report, 500))}" if report else ""
    said = (f" more rows are left out here{where}.", f" more notes are left out here{where}.")
    room = limit - _bytes([*lead, *pooled, "", ""]) - _bytes(said) - 40  # digits of how many
    if room < 0:
        return ""
    kept_notes = _fitting(notes, max(limit // 4, room - _bytes(rows)), room)
    kept_rows = _fitting(rows, room - _bytes(kept_notes))
    left_rows, left_notes = len(rows) - len(kept_rows), len(notes) - len(kept_notes)
    return _joined(
        [
            *lead,
            *kept_rows,
            *pooled,
            *(["", f"{left_rows}{said[0]}"] if left_rows else []),
            "",
            *kept_notes,
            *([f"- {left_notes}{said[1]}"] if left_notes else []),
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
    """With the newline of each."""
    return sum(len(line.encode()) + 1 for line in lines)


def _fitting(lines: Sequence[str], *rooms: int) -> list[str]:
    """The first lines that fit into so many bytes, the least of those given."""
    room = min(rooms)
    kept: list[str] = []
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.append(line)
    return kept


# CommonMark (section 2.4) lets every ASCII punctuation character be escaped. These open a cell, code, emphasis, HTML,
# an entity or a formula; brackets only where a link would follow, underscores only at the ends of words.
_MARKUP = re.compile(r"[\\`|*<>&~$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
# GitHub makes mentions, links, references and pictures of these even where they are escaped; an empty comment in
# between is not shown and keeps it from that
_AUTOMATIC = re.compile(
    r"(?<![A-Za-z0-9])@(?=\w)|@(?=[\w.-]+\.\w)|:(?=//)|www(?=\.)|:(?=[a-z+-][\w+-]*:|100:)|#(?=\d)", re.IGNORECASE
)
# what makes a heading, a list, a rule or a quotation at the beginning of a line
_OPENING = re.compile(r"^(\d*)([-+=#.)])")


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, within a line: names come from files and must not become markup."""
    return _AUTOMATIC.sub(r"\g<0><!-- -->", _MARKUP.sub(r"\\\g<0>", plain(text)))


def _line_of(text: str) -> str:
    """Likewise, as a whole line."""
    return _OPENING.sub(r"\1\\\2", escaped(text))
