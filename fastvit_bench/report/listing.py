"""Lists for a person: the models, the devices, and what a fuse did."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastvit_bench.records import Device, Fuse, Fusing, ModelFacts

if TYPE_CHECKING:
    from rich.table import Table


def models(facts: Sequence[ModelFacts]) -> "Table":
    """One row per model: what was counted here, what was published, and the checkpoints in the models folder."""
    from rich import box
    from rich.table import Table

    from fastvit_bench.report import published

    table = Table(
        box=box.SIMPLE,
        title="Models",
        title_justify="left",
        caption="params in millions: as trained / fused / folded; GMACs of the folded network for one image.\n"
        "published: table 2 of arXiv 2303.14189, whose released code has more parameters than it prints.\n"
        "A published checkpoint: fastvit-bench download MODEL [--distilled] [--form fused]",
        caption_justify="left",
    )
    table.add_column("model", no_wrap=True)
    for name in ("params (M)", "published", "GMACs", "published"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("files")
    for fact in facts:
        known = published.find(fact.spec.published) if fact.spec.published else None
        counts = (fact.params[level] / 1e6 for level in (Fuse.NONE, Fuse.FUSED, Fuse.FOLDED))
        table.add_row(
            fact.spec.name,
            " / ".join(f"{count:.2f}" for count in counts),
            f"{known.params_m.value:.1f}" if known and known.params_m else "–",
            f"{fact.gmacs:.2f}",
            f"{known.flops_g.value:.1f}" if known and known.flops_g else "–",
            ", ".join(fact.checkpoints) or "–",
        )
    return table


def devices(rows: Sequence[tuple[Device, str | None]], here: str, width: int) -> str:
    """One line per device: its profile, and either that it can run here or what is missing, as text `width` wide.

    Plain text, because this is the first thing asked of a new machine, and rich takes longer to import than the answer.
    """
    cells = [("device", "backend", "precision", "batch", "here")]
    for device, lacking in rows:
        note = f"no: {lacking}" if lacking else "ready"
        cells.append((device.name, device.backend, device.precision, str(device.batch), note))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    indent = sum(widths) + 2 * len(widths)
    lines: list[str] = []
    for *profile, note in cells:
        head = "".join(f"{text:<{size + 2}}" for text, size in zip(profile, widths, strict=True))
        lines += textwrap.wrap(note, max(width, indent + 24), initial_indent=head, subsequent_indent=" " * indent)
    return "\n".join([*lines, "", f"this machine: {here}"])


def fusing(report: Fusing) -> "Table":
    """What became one convolution, what each level still holds, and how far its outputs are from the checkpoint's."""
    from rich import box
    from rich.table import Table

    kinds = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in report.kinds.items())
    table = Table(
        box=box.SIMPLE,
        title=f"{report.variant} ({report.head}, {report.form}): fused {kinds or 'nothing, it was fused already'}",
        title_justify="left",
        caption=f"difference: largest over the outputs' largest magnitude, in float64 on fixed images; "
        f"of the saved float32 file: {report.saved_difference:.1e}",
        caption_justify="left",
    )
    table.add_column("level")
    for name in ("params", "BatchNorms", "difference"):
        table.add_column(name, justify="right")
    for level in Fuse:
        table.add_row(level, f"{report.params[level]:,}", str(report.norms[level]), f"{report.differences[level]:.1e}")
    return table
