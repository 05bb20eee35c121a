"""Accuracies as text: a line per artifact, with what it was counted on and what could not be read."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench.records import Accuracy, Failure
from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column
from fastvit_bench.report import table
from fastvit_bench.report.sheet import FAILED, counted, folder_of, percent, plain

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


def columns(found: Sequence[Accuracy]) -> list[Column]:
    """Of a table for a person."""
    made = [each.artifact for each in found]
    return [
        Column("model", [plain(each.model) for each in made]),
        Column("weights", [plain(each.weights.label) for each in made]),
        Column("device", [plain(each.device.name) for each in found]),
        Column("precision", [plain(each.precision) for each in made]),
        Column("size", [each.shape.size for each in made], "right"),
        Column("batch", [str(each.shape.batch) for each in made], "right"),
        Column("top-1 %", [percent(each.top1_share) for each in found], "right"),
        Column("top-5 %", [percent(each.top5_share) for each in found], "right"),
        Column("images", [str(each.images) for each in found], "right"),
        Column("unreadable", [str(len(each.unreadable)) for each in found], "right"),
        Column("artifact", [(each.sha256 or "")[:12] for each in made]),
    ]


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
    from rich.text import Text

    if not found:
        return Group(EMPTY)
    lines = terminal.layout(columns(found), width)
    return Group(terminal.styled(lines), Text(), *(Text(note, style="dim") for note in notes(found)))


def markdown(found: Sequence[Accuracy]) -> str:
    """A pipe table with its notes as a list below."""
    return table.listed(columns(found), notes(found)) if found else EMPTY + "\n"


def latex(found: Sequence[Accuracy]) -> str:
    """A booktabs table in a float, with its notes as the caption."""
    return table.floating(columns(found), notes(found)) if found else f"% {EMPTY}\n"


def csv(found: Sequence[Accuracy]) -> str:
    """A line per accuracy, in full precision; unreadable files by their names."""
    import pandas as pd

    return pd.DataFrame([_flat(each) for each in found]).to_csv(index=False, lineterminator="\n")


def json(found: Sequence[Accuracy]) -> str:
    """The records as they stand in the run file, with their shares."""
    nested = [
        {**msgspec.to_builtins(each), "top1_share": each.top1_share, "top5_share": each.top5_share} for each in found
    ]
    return msgspec.json.format(msgspec.json.encode(nested), indent=2).decode() + "\n"


FORMATS: dict[str, Callable[[Sequence[Accuracy]], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}


def _flat(found: Accuracy) -> dict[str, object]:
    made, top5 = found.artifact, found.top5_share
    return {
        "model": made.model,
        "variant": made.variant,
        "weights": made.weights.label,
        "fused": made.fused.value,
        "device": found.device.name,
        "backend": made.backend,
        "precision": made.precision,
        "size": made.shape.size,
        "batch": made.shape.batch,
        "top1": found.top1_share.value,
        "top1_low": found.top1_share.low,
        "top1_high": found.top1_share.high,
        "top5": top5.value if top5 else None,
        "top5_low": top5.low if top5 else None,
        "top5_high": top5.high if top5 else None,
        "images": found.images,
        "top1_images": found.top1,
        "top5_images": found.top5,
        "overflowed": found.overflowed,
        "unreadable": len(found.unreadable),
        "unreadable_names": "; ".join(each.name for each in found.unreadable),
        "how": found.how,
        "data": folder_of(found.evaluation.data),
        "data_digest": found.evaluation.digest,
        "shorter_side": found.preprocessing.shorter_side,
        "crop": found.preprocessing.crop,
        "artifact": made.sha256,
        "finished": found.finished,
    }
