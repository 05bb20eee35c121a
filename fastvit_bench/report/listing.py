"""Lists for a person: the models, the devices, and what a fuse did."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastvit_bench.records import Artifact, Device, Fuse, Fusing, HalfWeights, ModelFacts, Parity
from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column

if TYPE_CHECKING:
    from rich.console import Group


def models(facts: Sequence[ModelFacts], width: int) -> "Group":
    """One row per model: what was counted here, what was published, and the checkpoints in the models folder."""
    from fastvit_bench.report import published

    rows: list[tuple[str, ...]] = []
    for fact in facts:
        known = published.find(fact.spec.published) if fact.spec.published else None
        counts = (fact.params[level] / 1e6 for level in (Fuse.NONE, Fuse.FUSED, Fuse.FOLDED))
        rows.append(
            (
                fact.spec.name,
                " / ".join(f"{count:.2f}" for count in counts),
                f"{known.params_m.value:.1f}" if known and known.params_m else "–",
                f"{fact.gmacs:.2f}",
                f"{known.flops_g.value:.1f}" if known and known.flops_g else "–",
                ", ".join(fact.checkpoints) or "–",
            )
        )
    return _listed(
        "Models",
        ("model", "params M", "published params M", "GMACs", "published FLOPs G", "files"),
        rows,
        width,
        "Parameters in millions, as trained / fused / folded; GMACs of the folded network for one image.",
        "Published: the paper's tables, which print fewer parameters than its released code has.",
        "A published checkpoint: fastvit-bench download MODEL [--distilled] [--form fused]",
    )


def devices(rows: Sequence[tuple[Device, str | None]], here: str, width: int) -> str:
    """One line per device: its profile, and either that it can run here or what is missing, as text `width` wide.

    Plain text, because this is the first thing asked of a new machine, and rich takes longer to import than the answer.
    """
    profiles = [device for device, _ in rows]
    columns = [
        Column("device", [device.name for device in profiles]),
        Column("backend", [device.backend for device in profiles]),
        Column("precision", [device.precision for device in profiles]),
        Column("batch", [str(device.batch) for device in profiles], "right"),
        Column("here", [f"no: {lacking}" if lacking else "ready" for _, lacking in rows], wraps=True),
    ]
    about = textwrap.fill(f"this machine: {here}", width)
    return f"{terminal.plain(terminal.layout(columns, width))}\n\n{about}"


def proof(name: str, found: Parity) -> str:
    """One proof as a line: what was looked at, against what, and how near it came."""
    where = f"{name}: " if name else ""
    if not found.passed:
        return f"{where}not proved ({found.how} against the {found.reference}): {found.reason}"
    agreement = "" if found.top1_agreement is None else f", top-1 agreement {100 * found.top1_agreement:.0f} %"
    rms = "" if found.rms_error is None else f", in the root mean square {found.rms_error:.1e}"
    likeness = "" if found.snr_db is None or found.cosine is None else _likeness(found.snr_db, found.cosine)
    allowed = f"allowed {found.tolerance:.0e} {'at most' if found.judged == 'max' else 'in the root mean square'}"
    return (
        f"{where}proved against the {found.reference} ({found.how}): largest error {found.max_abs_error:.1e}, "
        f"{found.relative_error:.1e} of the outputs' standard deviation{rms} ({allowed}){likeness}{agreement} "
        f"on {found.images} images"
    )


def _likeness(snr_db: float, cosine: float) -> str:
    return f", signal to noise {snr_db:.0f} dB, 1 - cosine {max(0.0, 1 - cosine):.0e}"


def half_weights(found: HalfWeights) -> str:
    """What float16 made of a network's weights, as a line."""
    return (
        f"of {found.weights:,} weights in float16, {found.subnormal:,} are subnormal (below 2^-14, with fewer digits) "
        f"and {found.zeroed:,} became 0; the largest is {found.largest:.4g} ({found.largest_of})"
    )


def content(made: Artifact) -> str:
    """What a file holds, as a line: its size and its operations."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(made.operations.items(), key=lambda i: (-i[1], i[0])))
    counted = f", {sum(made.operations.values())} operations ({kinds})" if made.operations else ""
    return f"{made.size_bytes / 1e6:.2f} MB{counted}"


def fusing(report: Fusing, width: int) -> "Group":
    """What became one convolution, what each level still holds, and how far its outputs are from the checkpoint's."""
    kinds = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in report.kinds.items())
    rows = [
        (level, f"{report.params[level]:,}", str(report.norms[level]), f"{report.differences[level]:.1e}")
        for level in Fuse
    ]
    return _listed(
        f"{report.variant} ({report.head}, {report.form}): {kinds or 'nothing to fuse, it was fused already'}",
        ("level", "params", "BatchNorms", "difference"),
        rows,
        width,
        "Difference: the largest over the outputs' largest magnitude, in float64 on fixed images;",
        f"of the saved file, whose weights are float32: {report.saved_difference:.1e}.",
    )


def _listed(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, *notes: str) -> "Group":
    """A table between its title and its notes."""
    from rich.console import Group
    from rich.text import Text

    columns = [
        Column(name, list(cells), "left" if at == 0 or name == "files" else "right", wraps=name == "files")
        for at, (name, cells) in enumerate(zip(titles, zip(*rows, strict=True), strict=True))
    ]
    lines = terminal.layout(columns, width)
    return Group(
        Text(title, style="bold"), terminal.styled(lines), Text(), *(Text(note, style="dim") for note in notes)
    )
