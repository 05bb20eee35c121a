"""Lists for a person: the models, the devices, and what a fuse did."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastvit_bench.records import Artifact, Device, Fuse, Fusing, HalfWeights, ModelFacts, Parity
from fastvit_bench.render import terminal
from fastvit_bench.render.table import NONE, Column, Table, TableReport

if TYPE_CHECKING:
    from rich.console import Group

    from fastvit_bench.report.published import Published


def models(facts: Sequence[ModelFacts], width: int) -> "Group":
    """One row per model: what was counted here, what was published, and the checkpoints in the models folder."""
    from fastvit_bench.report import published

    def known(fact: ModelFacts) -> "Published | None":
        return published.find(fact.spec.published) if fact.spec.published else None

    def printed(name: str) -> Callable[[ModelFacts], float | None]:
        return lambda fact: figure.value if (figure := getattr(known(fact), name, None)) else None

    def one_digit(of: Callable[[ModelFacts], float | None]) -> Callable[[ModelFacts], str]:
        return lambda fact: NONE if (value := of(fact)) is None else f"{value:.1f}"

    columns: list[Column[ModelFacts]] = [
        Column("model", "model", lambda fact: fact.spec.name, role="key"),
        Column("params", "params", lambda fact: fact.params[Fuse.NONE], _three_levels, unit="M", align="right"),
        Column(
            "published_params_m",
            "published params",
            printed("params_m"),
            one_digit(printed("params_m")),
            unit="M",
            align="right",
        ),
        Column("gmacs", "GMACs", lambda fact: fact.gmacs, lambda fact: f"{fact.gmacs:.2f}", align="right"),
        Column(
            "published_flops_g",
            "published FLOPs",
            printed("flops_g"),
            one_digit(printed("flops_g")),
            unit="G",
            align="right",
        ),
        Column(
            "files",
            "files",
            lambda fact: fact.checkpoints,
            lambda fact: ", ".join(fact.checkpoints) or NONE,
            wraps=True,
        ),
    ]
    notes = (
        "Parameters in millions, as trained / fused / folded; GMACs of the folded network for one image.",
        "Published: the paper's tables, which print fewer parameters than its released code has.",
        "A published checkpoint: fastvit-bench download MODEL [--distilled] [--form fused]",
    )
    return terminal.report(TableReport([Table(facts, columns, "Models")], notes), width)


def _three_levels(fact: ModelFacts) -> str:
    return " / ".join(f"{fact.params[level] / 1e6:.2f}" for level in (Fuse.NONE, Fuse.FUSED, Fuse.FOLDED))


Profile = tuple[Device, str | None]  # a device, and what is missing for running it here

_DEVICES: list[Column[Profile]] = [
    Column("device", "device", lambda profile: profile[0].name, role="key"),
    Column("backend", "backend", lambda profile: profile[0].backend),
    Column("precision", "precision", lambda profile: profile[0].precision),
    Column("batch", "batch", lambda profile: profile[0].batch, align="right"),
    Column(
        "here",
        "here",
        lambda profile: profile[1] is None,
        lambda profile: f"no: {profile[1]}" if profile[1] else "ready",
        wraps=True,
    ),
]


def devices(rows: Sequence[Profile], here: str, width: int) -> str:
    """One line per device: its profile, and either that it can run here or what is missing, as text `width` wide.

    Plain text, because this is the first thing asked of a new machine, and rich takes longer to import than the answer.
    """
    about = textwrap.fill(f"this machine: {here}", width)
    return f"{terminal.plain(terminal.layout(Table(rows, _DEVICES), width))}\n\n{about}"


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
    columns: list[Column[Fuse]] = [
        Column("level", "level", lambda level: level.value, role="key"),
        Column(
            "params",
            "params",
            lambda level: report.params[level],
            lambda level: f"{report.params[level]:,}",
            align="right",
        ),
        Column("norms", "BatchNorms", lambda level: report.norms[level], align="right"),
        Column(
            "difference",
            "difference",
            lambda level: report.differences[level],
            lambda level: f"{report.differences[level]:.1e}",
            align="right",
        ),
    ]
    title = f"{report.variant} ({report.head}, {report.form}): {kinds or 'nothing to fuse, it was fused already'}"
    notes = (
        "Difference: the largest over the outputs' largest magnitude, in float64 on fixed images;",
        f"of the saved file, whose weights are float32: {report.saved_difference:.1e}.",
    )
    return terminal.report(TableReport([Table(list(Fuse), columns, title)], notes), width)
