"""Tables of accuracies: a line per artifact, with what it was counted on and what could not be read."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench.backends._text import spaced
from fastvit_bench.records import Accuracy, Failure
from fastvit_bench.render import data, terminal
from fastvit_bench.render import latex as latex_tables
from fastvit_bench.render import markdown as markdown_tables
from fastvit_bench.render.row_table import counted, folder_of
from fastvit_bench.render.row_text import FAILED
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import percent, printable

if TYPE_CHECKING:
    from rich.console import Group

EMPTY = "No accuracies."
_ENOUGH = 20  # images before a share is compared with chance
NAMED = 20  # unreadable files that the notes name; the run file and the other formats name all


def line(result: Accuracy | Failure) -> str:
    """Return a finished cell as one line, for printing as soon as it arrives."""
    if isinstance(result, Failure):
        return f"{printable(result.cell.label)}  {FAILED} at {result.stage}: {printable(result.reason)}"
    artifact = result.artifact
    top5 = f"  top-5 {percent(result.top5_share)} %" if result.top5 is not None else ""
    cosine = f"  cosine {result.cosines.mean:.6f}" if result.cosines else ""
    prepared = f"  * with another {' and '.join(result.departures)} than published" if result.departures else ""
    unread = f"  * {len(result.unreadable)} unreadable" if result.unreadable else ""
    return (
        f"{printable(artifact.model)} {artifact.shape.size} b{artifact.shape.batch}  "
        f"top-1 {percent(result.top1_share)} %{top5}{cosine}  of {result.images} images{unread}{prepared}"
    )


COLUMNS: list[Column[Accuracy]] = [
    Column(
        "model",
        "model",
        lambda accuracy: accuracy.artifact.model,
        lambda accuracy: printable(accuracy.artifact.model),
        role="key",
    ),
    Column("variant", "", lambda accuracy: accuracy.artifact.variant),
    Column(
        "weights",
        "weights",
        lambda accuracy: accuracy.artifact.weights.label,
        lambda accuracy: printable(accuracy.artifact.weights.label),
    ),
    Column("fused", "", lambda accuracy: level.value if (level := accuracy.artifact.level) else None),
    Column("device", "device", lambda accuracy: accuracy.device.name, lambda accuracy: printable(accuracy.device.name)),
    Column("backend", "", lambda accuracy: accuracy.artifact.backend),
    Column(
        "precision",
        "precision",
        lambda accuracy: accuracy.artifact.precision,
        lambda accuracy: printable(accuracy.artifact.precision),
    ),
    Column("size", "size", lambda accuracy: accuracy.artifact.shape.size, align="right"),
    Column("batch", "batch", lambda accuracy: accuracy.artifact.shape.batch, align="right"),
    Column(
        "top1",
        "top-1",
        lambda accuracy: accuracy.top1_share.value,
        lambda accuracy: percent(accuracy.top1_share),
        unit="%",
        align="right",
        role="figure",
    ),
    Column("top1_low", "", lambda accuracy: accuracy.top1_share.low),
    Column("top1_high", "", lambda accuracy: accuracy.top1_share.high),
    Column(
        "top5",
        "top-5",
        lambda accuracy: accuracy.top5_share.value if accuracy.top5_share else None,
        lambda accuracy: percent(accuracy.top5_share),
        unit="%",
        align="right",
        role="figure",
    ),
    Column("top5_low", "", lambda accuracy: accuracy.top5_share.low if accuracy.top5_share else None),
    Column("top5_high", "", lambda accuracy: accuracy.top5_share.high if accuracy.top5_share else None),
    Column(
        "cosine",
        "cosine",
        lambda accuracy: accuracy.cosines.mean if accuracy.cosines else None,
        lambda accuracy: f"{accuracy.cosines.mean:.6f}" if accuracy.cosines else NONE,
        align="right",
        role="figure",
        shown="filled",
        optional=True,
    ),
    Column(
        "cosine_least",
        "least cosine",
        lambda accuracy: accuracy.cosines.least if accuracy.cosines else None,
        lambda accuracy: f"{accuracy.cosines.least:.6f}" if accuracy.cosines else NONE,
        align="right",
        role="figure",
        shown="filled",
        optional=True,
    ),
    Column("cosine_images", "", lambda accuracy: accuracy.cosines.images if accuracy.cosines else None, optional=True),
    Column("images", "images", lambda accuracy: accuracy.images, align="right"),
    Column("top1_images", "", lambda accuracy: accuracy.top1),
    Column("top5_images", "", lambda accuracy: accuracy.top5),
    Column("overflowed", "", lambda accuracy: accuracy.overflowed),
    Column("unreadable", "unreadable", lambda accuracy: len(accuracy.unreadable), align="right"),
    Column("unreadable_names", "", lambda accuracy: "; ".join(bad.name for bad in accuracy.unreadable)),
    Column("how", "", lambda accuracy: accuracy.how),
    Column("data", "", lambda accuracy: folder_of(accuracy.evaluation.data)),
    Column("data_digest", "", lambda accuracy: accuracy.evaluation.digest),
    Column("data_contents", "", lambda accuracy: accuracy.contents or None),
    Column("shorter_side", "", lambda accuracy: accuracy.preprocessing.shorter_side),
    Column("crop", "", lambda accuracy: accuracy.preprocessing.crop),
    Column("resize", "", lambda accuracy: accuracy.preprocessing.resize),
    Column("interpolation", "", lambda accuracy: accuracy.preprocessing.interpolation),
    Column("mean", "", lambda accuracy: spaced(accuracy.preprocessing.mean)),
    Column("std", "", lambda accuracy: spaced(accuracy.preprocessing.std)),
    Column("prepared_otherwise", "", lambda accuracy: " ".join(accuracy.departures) or None),
    Column(
        "artifact",
        "artifact",
        lambda accuracy: accuracy.artifact.sha256,
        lambda accuracy: (accuracy.artifact.sha256 or "")[:12],
    ),
    Column("finished", "", lambda accuracy: accuracy.finished),
]


def report(accuracies: Sequence[Accuracy]) -> TableReport:
    """Return accuracies as the table and the notes that people read."""
    return TableReport([Table(accuracies, COLUMNS)], notes(accuracies), title="Accuracy")


def notes(accuracies: Sequence[Accuracy]) -> list[str]:
    """Return the notes on accuracies: what casts doubt on them, then how they were counted and on which images.

    A terminal shows those that fit, the first ones first.
    """
    lines: list[str] = []
    named = dict.fromkeys((bad.name, bad.reason) for accuracy in accuracies for bad in accuracy.unreadable)
    lines += [f"Unreadable: {printable(name)} ({printable(reason)})." for name, reason in list(named)[:NAMED]]
    if len(named) > NAMED:
        lines.append(f"Unreadable: {len(named) - NAMED} more, which the run file names.")
    for accuracy in accuracies:
        model = printable(accuracy.artifact.model)
        if accuracy.overflowed:
            lines.append(f"{model}: NaN or infinite scores for {accuracy.overflowed} images, not right.")
        if _is_chance(accuracy):
            lines.append(
                f"{model}: top-1 is what guessing gives; check the order of the classes, the labels, and how images "
                f"are prepared."
            )
        if accuracy.cosines is not None:
            lines.append(
                f"{model}: cosine of the file's embeddings with those of the float64 network, mean of "
                f"{accuracy.cosines.images} images; the least is of {printable(accuracy.cosines.worst)}."
            )
    if any(accuracy.artifact.weights.origin == "random" for accuracy in accuracies):
        lines.append("Random weights: the figure shows that counting works, and says nothing of the model.")
    lines += dict.fromkeys(counted(accuracy) for accuracy in accuracies)
    return [*lines, "Shares of the images that could be read, with Wilson's 95 % interval in brackets."]


def _is_chance(accuracy: Accuracy) -> bool:
    """Return whether a guess among the network's classes may be as often right as a checkpoint was, on enough images.

    Of fewer than twenty images, or of two classes that are about even, the interval says little.
    """
    embedded = accuracy.evaluation.class_embeddings
    classes = embedded.classes if embedded else accuracy.artifact.classes
    return (
        accuracy.artifact.weights.origin == "checkpoint"
        and accuracy.images >= _ENOUGH
        and accuracy.top1_share.low <= 1 / classes
    )


# --- formats ----------------------------------------------------------------------------------------------------------


def rich(accuracies: Sequence[Accuracy], width: int, *, verbose: bool = True) -> "Group":
    """Return the table for a terminal `width` columns wide, with every note if `verbose`."""
    from rich.console import Group

    return terminal.report(report(accuracies), width, verbose=verbose) if accuracies else Group(EMPTY)


def markdown(accuracies: Sequence[Accuracy]) -> str:
    """Return a pipe table with its notes as a list below."""
    return markdown_tables.report(report(accuracies)) if accuracies else EMPTY + "\n"


def latex(accuracies: Sequence[Accuracy]) -> str:
    """Return a booktabs table in a float, with its notes below it."""
    return latex_tables.report(report(accuracies)) if accuracies else f"% {EMPTY}\n"


def csv(accuracies: Sequence[Accuracy]) -> str:
    """Return a line per accuracy in full precision, with unreadable files by name, as comma-separated values."""
    return data.csv(Table(accuracies, COLUMNS))


def json(accuracies: Sequence[Accuracy]) -> str:
    """Return the records of the run file with their shares, as JSON."""
    return data.json(list(data.records(Table(accuracies, COLUMNS), _nested)))


def _nested(accuracy: Accuracy) -> dict[str, object]:
    return {**msgspec.to_builtins(accuracy), "top1_share": accuracy.top1_share, "top5_share": accuracy.top5_share}


FORMATS: dict[str, Callable[[Sequence[Accuracy]], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}
