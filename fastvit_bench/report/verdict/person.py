"""A comparison for a person: a table on a terminal and in Markdown, the worst cell first, what to know of it below."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column
from fastvit_bench.report.sheet import NONE, plain, significant
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
from fastvit_bench.verdicts import Comparison, Outcome, Verdict

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


@dataclass(frozen=True)
class _Line:
    """A row of the table, as text."""

    name: str
    base: str  # ms
    head: str  # ms
    change: str
    span: str
    verdict: Verdict

    @property
    def figures(self) -> tuple[str, ...]:
        """What follows the change."""
        told = self.verdict
        detectable = NONE if told.detectable is None else f"{100 * told.detectable:.1f} %"
        return (margin(told), told.outcome.value, str(told.blocks), detectable)


def _lines(comparison: Comparison) -> list[_Line]:
    """A line per cell, the worst first, and the pooled one at the end."""
    found = [
        _Line(
            name=shown(cell.name),
            base=_milliseconds(cell.base_ms),
            head=_milliseconds(cell.head_ms),
            change=change(cell.verdict),
            span=span(cell.verdict.interval),
            verdict=cell.verdict,
        )
        for cell in worst_first(comparison)
    ]
    pooled = comparison.pooled
    if pooled:
        found.append(_Line(POOLED, "", "", change(pooled), span(pooled.interval), pooled))
    return found


def _milliseconds(value: float | None) -> str:
    return NONE if value is None else significant(value, 4)


# --- on a terminal ----------------------------------------------------------------------------------------------------


def rich(comparison: Comparison, width: int) -> "Group":
    """The table, the sentence and the conditions for a terminal of so many columns.

    Where it is narrow, the margin stands under the verdict and the smallest detectable slowdown under the blocks.
    """
    from rich.console import Group
    from rich.text import Text

    lines = _lines(comparison)
    columns = _columns(lines)
    if not terminal.fits(columns, width) and terminal.fits(narrow := _narrow(columns), width):
        columns = narrow
    pooled = [len(lines) - 1] if comparison.pooled is not None else []
    told = [f"{line.name}: {reason(line.verdict)}" for line in lines if _needs_reason(line.verdict)]
    return Group(
        Text(title(comparison), style="bold"),
        *([terminal.styled(terminal.layout(columns, width, sections=pooled)), Text()] if lines else []),
        Text(sentence(comparison), style=_STYLES[comparison.outcome]),
        *(Text(line) for line in _some(told)),
        *(
            Text(f"* {warning}", style="yellow")
            for warning in _some([shown(each, 500) for each in comparison.warnings])
        ),
        *(Text(f"{label}: {text}", style="dim") for label, text in conditions(comparison).items()),
    )


def _columns(lines: Sequence[_Line]) -> list[Column]:
    styles = [_STYLES[line.verdict.outcome] for line in lines]
    limits, outcomes, blocks, detectable = (list(each) for each in zip(*(line.figures for line in lines), strict=True))
    return [
        Column("cell", [line.name for line in lines]),
        Column("base ms", [line.base for line in lines], "right"),
        Column("head ms", [line.head for line in lines], "right"),
        Column("change [95 % interval]", [f"{line.change} {line.span}".rstrip() for line in lines], "right"),
        Column("verdict", outcomes, styles=styles),
        Column("margin", limits),
        Column("blocks", blocks, "right"),
        Column("smallest detectable", detectable, "right"),
    ]


def _narrow(columns: Sequence[Column]) -> list[Column]:
    """The last four columns as two, each with one figure under another."""

    def over(upper: Column, lower: Column, title: str) -> Column:
        cells = [f"{one}\n{other}" if other else one for one, other in zip(upper.cells, lower.cells, strict=True)]
        return Column(title, cells, upper.justify, styles=upper.styles)

    *others, verdict, limit, blocks, detectable = columns
    return [*others, over(verdict, limit, "verdict\nmargin"), over(blocks, detectable, "blocks\ndetect")]


def _needs_reason(verdict: Verdict) -> bool:
    return bool(verdict.reason) and verdict.outcome is not Outcome.PASS


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:SOME], *([f"... and {len(lines) - SOME} more"] if len(lines) > SOME else [])]


# --- in Markdown ------------------------------------------------------------------------------------------------------

_HEADINGS = (
    "cell",
    "base ms",
    "head ms",
    "change, 95 % interval",
    "margin",
    "verdict",
    "blocks",
    "smallest detectable",
    "why",
)
_SIDES = (":--", "--:", "--:", "--:", "--:", ":--", "--:", "--:", ":--")


def markdown(comparison: Comparison, limit: int | None = None, report: str = "") -> str:
    """A heading, the sentence, a pipe table and a list of conditions.

    With a `limit` in bytes of UTF-8, rows and then notes are left out at their end, and a line says how many and that
    the whole lies in `report`. Empty where the limit leaves no room for the sentence.
    """
    rows = [_row(line) for line in _lines(comparison)]
    notes = [
        *(f"- **Warning:** {escaped(shown(warning, 500))}" for warning in comparison.warnings),
        *(f"- {label}: {escaped(text)}" for label, text in conditions(comparison).items()),
    ]
    lead = [f"### {escaped(title(comparison))}", "", _line_of(sentence(comparison))]
    lead += ["", _pipes(_HEADINGS), _pipes(_SIDES)] if rows else []
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


def _row(line: _Line) -> str:
    text = f"{line.change} {line.span}".rstrip()
    outcome = line.verdict.outcome
    limit, verdict, *others = line.figures
    strong = f"**{verdict}**" if outcome is not Outcome.PASS else verdict
    cells = [line.name, line.base, line.head, text, limit]
    why = escaped(reason(line.verdict))
    return _pipes([*map(escaped, cells), strong, *map(escaped, others), why])


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
