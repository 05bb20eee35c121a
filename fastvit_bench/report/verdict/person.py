"""A comparison for a person: a table on a terminal and in Markdown, the worst cell first, what to know of it below."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    from rich.text import Text

WIDE = 100  # columns of a terminal that all columns of the table and their cells fit into
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
    """The table, the sentence and the conditions for a terminal of so many columns; legible from 80 on.

    Below `WIDE` columns the margin stands under the verdict and the smallest detectable slowdown under the blocks.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("cell", overflow="fold")
    wide = width >= WIDE
    for heading in ("base\nms", "head\nms", "change\n95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("verdict", "margin") if wide else ("verdict\nmargin",):
        table.add_column(heading, no_wrap=True)
    for heading in ("blocks", "smallest\ndetectable") if wide else ("blocks\ndetect",):
        table.add_column(heading, justify="right", no_wrap=True)
    lines = _lines(comparison)
    for at, line in enumerate(lines):
        style = _STYLES[line.verdict.outcome]
        limit, outcome, blocks, detectable = line.figures
        change = _over(line.change, line.span, "bold")
        if wide:
            others = [Text(outcome, style=style), Text(limit), Text(blocks), Text(detectable)]
        else:
            others = [_over(outcome, limit, style), _over(blocks, detectable, "")]
        last_cell = comparison.pooled is not None and at == len(lines) - 2
        name, base, head = Text(line.name), Text(line.base), Text(line.head)
        table.add_row(name, base, head, change, *others, end_section=last_cell)
    told = [f"{line.name}: {reason(line.verdict)}" for line in lines if _needs_reason(line.verdict)]
    return Group(
        Text(title(comparison), style="bold"),
        *([table] if lines else []),
        Text(sentence(comparison), style=_STYLES[comparison.outcome]),
        *(Text(line) for line in _some(told)),
        *(
            Text(f"* {warning}", style="yellow")
            for warning in _some([shown(each, 500) for each in comparison.warnings])
        ),
        *(Text(f"{label}: {text}", style="dim") for label, text in conditions(comparison).items()),
    )


def _over(text: str, below: str, style: str) -> "Text":
    """Two lines, the second one faint."""
    from rich.text import Text

    return Text(text, style=style) + Text(f"\n{below}" if below else "", style="not bold dim")


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
