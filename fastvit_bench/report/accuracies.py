"""Accuracies as tables: a line per artifact, with what it was counted on and what could not be read."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench.records import Accuracy, Failure
from fastvit_bench.render import data, terminal
from fastvit_bench.render import latex as latex_tables
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.table import Column, Table, TableReport
from fastvit_bench.render.text import percent, plain
from fastvit_bench.report.row_table import counted, folder_of
from fastvit_bench.report.row_text import FAILED

if TYPE_CHECKING:
    from rich.console import Group

EMPTY = "No accuracies."
NAMED = 20  # unreadable files that a person is told of; all stand in the run file and in the other formats


def line(found: Accuracy | Failure) -> str:
    """A finished cell as one line, for the moment it arrives."""
    if isinstance(found, Failure):
        return f"{plain(found.cell.label)}  {FAILED} at {found.stage}: {plain(found.reason)}"
    made = found.artifact
    top5 = f"  top-5 {percent(found.top5_share)} %" if found.top5 is not None else ""
    unread = f"  * {len(found.unreadable)} unreadable" if found.unreadable else ""
    return (
        f"{plain(made.model)} {made.shape.size} b{made.shape.batch}  top-1 {percent(found.top1_share)} %{top5}  "
        f"of {found.images} images{unread}"
    )


COLUMNS: list[Column[Accuracy]] = [
    Column("model", "model", lambda each: each.artifact.model, lambda each: plain(each.artifact.model), role="key"),
    Column("variant", "", lambda each: each.artifact.variant),
    Column(
        "weights", "weights", lambda each: each.artifact.weights.label, lambda each: plain(each.artifact.weights.label)
    ),
    Column("fused", "", lambda each: each.artifact.fused.value),
    Column("device", "device", lambda each: each.device.name, lambda each: plain(each.device.name)),
    Column("backend", "", lambda each: each.artifact.backend),
    Column("precision", "precision", lambda each: each.artifact.precision, lambda each: plain(each.artifact.precision)),
    Column("size", "size", lambda each: each.artifact.shape.size, align="right"),
    Column("batch", "batch", lambda each: each.artifact.shape.batch, align="right"),
    Column(
        "top1",
        "top-1",
        lambda each: each.top1_share.value,
        lambda each: percent(each.top1_share),
        unit="%",
        align="right",
        role="figure",
    ),
    Column("top1_low", "", lambda each: each.top1_share.low),
    Column("top1_high", "", lambda each: each.top1_share.high),
    Column(
        "top5",
        "top-5",
        lambda each: each.top5_share.value if each.top5_share else None,
        lambda each: percent(each.top5_share),
        unit="%",
        align="right",
        role="figure",
    ),
    Column("top5_low", "", lambda each: each.top5_share.low if each.top5_share else None),
    Column("top5_high", "", lambda each: each.top5_share.high if each.top5_share else None),
    Column("images", "images", lambda each: each.images, align="right"),
    Column("top1_images", "", lambda each: each.top1),
    Column("top5_images", "", lambda each: each.top5),
    Column("overflowed", "", lambda each: each.overflowed),
    Column("unreadable", "unreadable", lambda each: len(each.unreadable), align="right"),
    Column("unreadable_names", "", lambda each: "; ".join(bad.name for bad in each.unreadable)),
    Column("how", "", lambda each: each.how),
    Column("data", "", lambda each: folder_of(each.evaluation.data)),
    Column("data_digest", "", lambda each: each.evaluation.digest),
    Column("shorter_side", "", lambda each: each.preprocessing.shorter_side),
    Column("crop", "", lambda each: each.preprocessing.crop),
    Column("artifact", "artifact", lambda each: each.artifact.sha256, lambda each: (each.artifact.sha256 or "")[:12]),
    Column("finished", "", lambda each: each.finished),
]


def report(found: Sequence[Accuracy]) -> TableReport:
    """Accuracies as people read them."""
    return TableReport([Table(found, COLUMNS)], notes(found))


def notes(found: Sequence[Accuracy]) -> list[str]:
    """What goes with the figures: how they were made, on what, and what could not be read."""
    lines = ["Shares of the images that could be read, with Wilson's 95 % interval in brackets."]
    lines += dict.fromkeys(counted(each) for each in found)
    if any(each.artifact.weights.origin == "random" for each in found):
        lines.append("Random weights: the figure shows that counting works, and says nothing of the model.")
    for each in found:
        if each.overflowed:
            lines.append(
                f"{plain(each.artifact.model)}: NaN or infinite scores for {each.overflowed} images, not right."
            )
    named = dict.fromkeys((bad.name, bad.reason) for each in found for bad in each.unreadable)
    lines += [f"Unreadable: {plain(name)} ({plain(reason)})." for name, reason in list(named)[:NAMED]]
    if len(named) > NAMED:
        lines.append(f"Unreadable: {len(named) - NAMED} more, which the run file names.")
    return lines


# --- formats ----------------------------------------------------------------------------------------------------------


def rich(found: Sequence[Accuracy], width: int) -> "Group":
    """For a terminal of so many columns."""
    from rich.console import Group

    return terminal.report(report(found), width) if found else Group(EMPTY)


def markdown(found: Sequence[Accuracy]) -> str:
    """A pipe table with its notes as a list below."""
    return markdown_tables.report(report(found)) if found else EMPTY + "\n"


def latex(found: Sequence[Accuracy]) -> str:
    """A booktabs table in a float, with its notes as the caption."""
    return latex_tables.report(report(found)) if found else f"% {EMPTY}\n"


def csv(found: Sequence[Accuracy]) -> str:
    """A line per accuracy, in full precision; unreadable files by their names."""
    return data.csv(Table(found, COLUMNS))


def json(found: Sequence[Accuracy]) -> str:
    """The records as they stand in the run file, with their shares."""
    return data.json(data.records(Table(found, COLUMNS), _nested))


def _nested(each: Accuracy) -> dict[str, object]:
    return {**msgspec.to_builtins(each), "top1_share": each.top1_share, "top5_share": each.top5_share}


FORMATS: dict[str, Callable[[Sequence[Accuracy]], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}
