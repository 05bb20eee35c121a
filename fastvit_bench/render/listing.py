"""Lists for people: the models, the devices, and the result of a fuse."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fastvit_bench.records import (
    FEW_IMAGES,
    Artifact,
    Device,
    EngineBuilt,
    Fuse,
    Fusing,
    HalfWeights,
    Measurement,
    ModelFacts,
    Parity,
    Quantisation,
    Tuning,
    integer_share,
)
from fastvit_bench.records.quantisation import GAIN_DB, LOSS_DB, QUICKER
from fastvit_bench.records.removable import Removable
from fastvit_bench.render import terminal
from fastvit_bench.render.table import NONE, Column, Table, TableReport, clean
from fastvit_bench.render.text import latency

if TYPE_CHECKING:
    from rich.console import Group

    from fastvit_bench.paper.published import Published, PublishedEncoder


def models(facts: Sequence[ModelFacts]) -> TableReport:
    """Return a table with one row per model: counted and published figures, and checkpoints in the models folder."""
    first, second, *others = _published_columns()
    columns: list[Column[ModelFacts]] = [
        Column("model", "model", lambda fact: fact.spec.name, role="key"),
        Column("params", "params", lambda fact: fact.params[Fuse.NONE], _three_levels, unit="M", align="right"),
        *(Column(f"params_{level}", "", _params_at(level)) for level in (Fuse.FUSED, Fuse.FOLDED)),
        first,
        Column("gmacs", "GMACs", lambda fact: fact.gmacs, lambda fact: f"{fact.gmacs:.2f}", align="right"),
        second,
        *others,
        Column(
            "stored_bytes",
            "stored",
            lambda fact: fact.stored_bytes,
            lambda fact: size(fact.stored_bytes) if fact.stored_bytes else NONE,
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
        "Published of FastViT: by the paper, which prints fewer parameters than its released code has; iPhone 12 Pro.",
        "Published of encoders: by MobileCLIP's README; iPhone 12 Pro Max at 256 pixels; top-1 is zero-shot.",
        "Stored: what models/ holds of it, checkpoints and exports; `fastvit-bench clean` shows what can go.",
        "A published checkpoint: fastvit-bench download MODEL [--distilled] [--form fused]",
    )
    return TableReport([Table(facts, columns, "Models")], notes)


def _published_columns() -> list[Column[ModelFacts]]:
    """Return the columns of published figures: one figure each, all top-1, and the names they were published under."""

    def one_digit(of: Callable[[ModelFacts], float | None]) -> Callable[[ModelFacts], str]:
        return lambda fact: NONE if (value := of(fact)) is None else f"{value:.1f}"

    def listed(of: Callable[[ModelFacts], Sequence[object]]) -> Callable[[ModelFacts], str]:
        return lambda fact: ", ".join(map(str, of(fact))) or NONE

    def first(*fields: str) -> Callable[[ModelFacts], float | None]:
        return lambda fact: next(iter(_printed(fact, *fields)), None)

    def top1(fact: ModelFacts) -> tuple[float, ...]:
        return _printed(fact, "top1_undistilled", "zero_shot_top1")

    def names(fact: ModelFacts) -> tuple[str, ...]:
        return tuple(model.name for model in _publications(fact))

    figures = (
        ("params_m", "params", "M", ("params_m",)),
        ("flops_g", "FLOPs", "G", ("flops_g",)),
        ("phone_ms", "phone", "ms", ("iphone_ms", "phone_ms")),
    )
    return [
        *(
            Column(
                f"published_{name}",
                f"published {title}",
                first(*fields),
                one_digit(first(*fields)),
                unit=unit,
                align="right",
            )
            for name, title, unit, fields in figures
        ),
        Column("published_top1", "published top-1", top1, listed(top1), unit="%", align="right"),
        Column("published_as", "published as", names, listed(names), wraps=True),
    ]


def _publications(fact: ModelFacts) -> "Sequence[Published | PublishedEncoder]":
    """Return the published models that have a model's network."""
    from fastvit_bench.paper import published

    if fact.spec.published:
        return [published.find(fact.spec.published)]
    return published.encoders().get(fact.spec.variant, ())


def _printed(fact: ModelFacts, *fields: str) -> tuple[float, ...]:
    """Return the different figures that were published of a model, in any of the fields."""
    figures = [getattr(model, field, None) for model in _publications(fact) for field in fields]
    return tuple(dict.fromkeys(figure.value for figure in figures if figure))


def _params_at(level: Fuse) -> Callable[[ModelFacts], int]:
    return lambda fact: fact.params[level]


def removable(items: Sequence[Removable], timestamp: float, *, removed: bool) -> TableReport:
    """Return a table of what can be removed, or was `removed`, the largest first, with the total."""
    largest = sorted(items, key=lambda item: -item.size_bytes)
    columns: list[Column[Removable]] = [
        Column("model", "model", lambda item: item.model or None, role="key"),
        Column("kind", "what", lambda item: item.kind),
        Column(
            "age_days",
            "age",
            lambda item: (timestamp - item.modified) / 86_400,
            lambda item: _age(timestamp - item.modified),
        ),
        Column("size_bytes", "size", lambda item: item.size_bytes, lambda item: size(item.size_bytes), align="right"),
        Column("path", "file", lambda item: item.paths[0], lambda item: PurePath(item.paths[0]).name, wraps=True),
        Column("paths", "", lambda item: item.paths),
    ]
    total = f"{len(items)} item{'s' * (len(items) != 1)}, {size(sum(item.size_bytes for item in items))}"
    if removed:
        return TableReport([Table(largest, columns)], [f"Removed: {total}."])
    if not items:
        return TableReport([Table(largest, columns)], ["There is nothing to remove."])
    return TableReport(
        [Table(largest, columns)], [f"{total}, can be made again. Nothing was removed; remove it with --yes."]
    )


def _age(seconds: float) -> str:
    return f"{seconds / 86_400:.0f} d" if seconds >= 86_400 else f"{max(0.0, seconds) / 3600:.0f} h"


def size(count: int) -> str:
    """Return a number of bytes with three digits, in kB, MB or GB."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{count / unit:.3g} {name}" if count < 999.5 * unit else f"{count / unit:.0f} {name}"


def _three_levels(fact: ModelFacts) -> str:
    return " / ".join(f"{fact.params[level] / 1e6:.2f}" for level in (Fuse.NONE, Fuse.FUSED, Fuse.FOLDED))


Profile = tuple[Device, str | None]  # a device, and what is missing for running it here

_DEVICES: list[Column[Profile]] = [
    Column("device", "device", lambda profile: profile[0].name, role="key"),
    Column("backend", "backend", lambda profile: profile[0].backend),
    Column("precision", "precision", lambda profile: profile[0].precision),
    Column("batch", "batch", lambda profile: profile[0].batch, align="right"),
    Column("lacking", "", lambda profile: profile[1]),
    Column(
        "here",
        "here",
        lambda profile: profile[1] is None,
        lambda profile: f"no: {profile[1]}" if profile[1] else "ready",
        wraps=True,
    ),
]


def devices(rows: Sequence[Profile]) -> TableReport:
    """Return a table with one row per device: its profile, and what is missing for running it here."""
    return TableReport([Table(rows, _DEVICES)])


@dataclass(frozen=True)
class FleetRow:
    """A worker of a fleet."""

    worker: str
    address: str
    devices: tuple[str, ...]
    at_once: int  # devices that may be busy at once
    running: tuple[str, ...]  # keys of tasks
    waiting: tuple[str, ...]


@dataclass(frozen=True)
class SweepRow:
    """A sweep that a client has on one device of a fleet."""

    run: str
    device: str
    finished: int
    cells: int
    seconds: float | None  # that remain if no other sweep wants the device; None where nobody offers it
    silent_s: float  # since its client's last news


def fleet(rows: Sequence[FleetRow], sweeps: Sequence[SweepRow]) -> TableReport:
    """Return a table with one row per worker of a fleet, and one with a row per sweep if there is any."""
    columns: list[Column[FleetRow]] = [
        Column("worker", "worker", lambda row: row.worker, role="key"),
        Column("devices", "devices", lambda row: row.devices, lambda row: ", ".join(row.devices), wraps=True),
        Column("at_once", "at once", lambda row: row.at_once, lambda row: str(row.at_once), align="right"),
        Column("running", "runs", lambda row: row.running, lambda row: ", ".join(row.running) or NONE, wraps=True),
        Column("waiting", "waits", lambda row: row.waiting, lambda row: ", ".join(row.waiting) or NONE, wraps=True),
        Column("address", "address", lambda row: row.address),
    ]
    of_sweeps: list[Column[SweepRow]] = [
        Column("run", "run", lambda row: row.run, role="key"),
        Column("device", "device", lambda row: row.device),
        Column("finished", "done", lambda row: row.finished, align="right"),
        Column("cells", "of", lambda row: row.cells, align="right"),
        Column("seconds", "takes about", lambda row: row.seconds, lambda row: _duration(row.seconds), align="right"),
        Column("silent_s", "last news", lambda row: row.silent_s, lambda row: f"{_duration(row.silent_s)} ago"),
    ]
    notes = ["At once: devices of the worker that may be busy together."]
    tables: list[Table[Any]] = [Table(rows, columns)]
    if sweeps:
        tables.append(Table(sweeps, of_sweeps))
        notes.append(
            "Takes about: what remains, by earlier figures of the same cells and by those that are done, with all "
            "workers of the device and no other sweep. A client that was killed gives no more news."
        )
    return TableReport(tables, tuple(notes))


def _duration(seconds: float | None) -> str:
    """Return a duration as text, rounded as an estimate deserves."""
    if seconds is None:
        return "no worker"
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def devices_text(rows: Sequence[Profile], machine: str, width: int) -> str:
    """Return one line per device: its profile, and either that it can run here or what is missing.

    The text is `width` columns wide. It is plain, because this is the first thing asked of a new machine: rich takes
    longer to import than the answer.
    """
    about = textwrap.fill(f"this machine: {machine}", width)
    return f"{terminal.plain(terminal.layout(Table(rows, _DEVICES), width))}\n\n{about}"


def proof(name: str, parity: Parity, *, verbose: bool = True) -> str:
    """Return one proof as a line: the error and its limit; with `verbose` the method, the reference, every error."""
    where = f"{name}: " if name else ""
    if not parity.passed:
        return _line(f"{where}not proved ({parity.how} against the {parity.reference}): {parity.reason}")
    if not verbose:
        return _line(f"{where}proved {parity.error:.1e} ≤ {_limit(parity.tolerance)}")
    agreement = "" if parity.top1_agreement is None else f", top-1 agreement {100 * parity.top1_agreement:.0f} %"
    rms = "" if parity.rms_error is None else f", in the root mean square {parity.rms_error:.1e}"
    likeness = "" if parity.snr_db is None or parity.cosine is None else _likeness(parity.snr_db, parity.cosine)
    allowed = f"allowed {_limit(parity.tolerance)} {'at most' if parity.judged == 'max' else 'in the root mean square'}"
    return _line(
        f"{where}proved against the {parity.reference} ({parity.how}): largest error {parity.max_abs_error:.1e}, "
        f"{parity.relative_error:.1e} of the outputs' standard deviation{rms} ({allowed}){likeness}{agreement} "
        f"on {parity.images} images"
    )


def _limit(tolerance: float) -> str:
    """Return ``1e-04``; a second digit where the first alone would be another limit."""
    short = f"{tolerance:.0e}"
    return short if float(short) == tolerance else f"{tolerance:.1e}"


def _line(text: str) -> str:
    """Return text as one printable line: names in it come from files."""
    return clean(" ".join(text.split()))


def _likeness(snr_db: float, cosine: float) -> str:
    return f", signal to noise {snr_db:.0f} dB, 1 - cosine {max(0.0, 1 - cosine):.0e}"


def half_weights(counts: HalfWeights) -> str:
    """Return a line on the effect of float16 on a network's weights."""
    return _line(
        f"of {counts.weights:,} weights in float16, {counts.subnormal:,} are subnormal (below 2^-14, fewer digits) and "
        f"{counts.zeroed:,} became 0; the largest is {counts.largest:.4g} ({counts.largest_of})"
    )


def engine(built: EngineBuilt) -> list[str]:
    """Return lines on the layers of an engine of a file in INT8; none for other engines."""
    share = integer_share(built.integer, built.floating)
    if share is None:
        return []
    lines = [
        f"layers of the engine that multiply INT8 values: {_kinds(built.integer)}; wider ones: {_kinds(built.floating)}"
    ]
    if share < _MOSTLY:
        lines.append(
            "note: the builder has no INT8 kernels for most products on this GPU. It rounds their inputs to 8 bits and "
            "multiplies wider values, so the file in FP16 is likely to be faster and is more accurate."
        )
    return [_line(line) for line in lines]


_MOSTLY = 0.5  # of an engine's products; with fewer in INT8 there is little to gain


def quantisation(record: Quantisation, classes: int) -> list[str]:
    """Return lines on a file in 8 bits: its likeness to the network, scheme, operations and calibration, and doubts.

    `classes` are the network's.
    """
    lines: list[str] = []
    likeness, calibration = record.fidelity, record.calibration
    if likeness is not None:
        agreed = likeness.top1_agreement
        top1 = "" if agreed is None else f", the same top-1 on {round(agreed * likeness.images)} of them"
        lines.append(
            f"quantised: {likeness.snr_db:.1f} dB signal to noise against the float64 network, "
            f"1 - cosine {max(0.0, 1 - likeness.cosine):.0e} on {likeness.images} "
            f"{'calibration' if calibration else 'fixed'} images{top1}"
        )
    choice = f"; by choice {len(record.excluded)} of them in float" if record.excluded else ""
    lines.append(
        f"weights {record.weights}, activations {record.activations}, ranges by {record.ranges} "
        f"({record.quantiser}{''.join(f', {count} {what}' for what, count in record.changes.items())})"
    )
    lines.append(f"between integers: {_kinds(record.integer)}; in float: {_kinds(record.floating)}{choice}")
    if calibration is None:  # only weights are rounded
        return [_line(line) for line in lines]
    lines.append(
        f"calibrated on {calibration.images} of {calibration.available} images (seed {calibration.seed}, contents "
        f"{calibration.digest[:12]}, {calibration.decoder})"
    )
    if calibration.images < FEW_IMAGES:
        lines.append(
            f"note: {calibration.images} calibration images are few; values that are usual in others may be cut off. "
            f"128 and more are better."
        )
    if calibration.classes and calibration.classes != classes:
        lines.append(
            f"note: the calibration folder holds {calibration.classes} folders and the network has {classes} classes; "
            f"check that the images are of its data set."
        )
    elif (
        likeness is not None
        and likeness.correct is not None
        and likeness.correct <= likeness.images * _CHANCE / classes
    ):
        lines.append(
            f"note: the float64 network names the folder of {likeness.correct} of {likeness.images} calibration "
            f"images, which is no more than chance; check that the images are of its data set."
        )
    return [_line(line) for line in lines]


_CHANCE = 2  # times the right answers of guessing, up to which a network seems not to know the images


def tuning(record: Tuning) -> list[str]:
    """Return lines on a search for the best choices: a table of all that was tried, and what was not."""
    least = _GOALS[record.asked.goal]
    lines = [f"tuned for {record.asked.goal}: {len(record.trials) - 1} changes tried, one at a time, {least}"]
    for trial in record.trials:
        change = trial.choices[-1] if trial.choices else "usual choices"
        times = f"  {trial.ms:.3g} ms, before {trial.base_ms:.3g} ms" if trial.ms and trial.base_ms else ""
        lines.append(f"  {trial.snr_db:6.2f} dB{times}  {change}{': kept' if trial.accepted else ''}")
    if record.untried:
        budget = f"{record.asked.budget_s:g} s"
        lines.append(f"  the budget of {budget} ended before: {', '.join(record.untried)}; give more by --tune-budget")
    return lines


_GOALS = {
    "accuracy": f"kept if they gain more than {GAIN_DB:g} dB",
    "latency": f"kept if {1 - QUICKER:.0%} quicker for at most {LOSS_DB:g} dB",
}


def _kinds(counts: Mapping[str, int]) -> str:
    """Return ``72 (Conv 54, Add 10, …)``: a total and its kinds, the most frequent first."""
    kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return f"{sum(counts.values())} ({', '.join(f'{kind} {count}' for kind, count in kinds)})" if kinds else "none"


def content(artifact: Artifact, *, verbose: bool = True) -> str:
    """Return a line on what a file holds: its size, its operations, with `verbose` by their kinds, and its ending."""
    kinds = ", ".join(
        f"{kind} {count}" for kind, count in sorted(artifact.operations.items(), key=lambda i: (-i[1], i[0]))
    )
    by_kind = f" ({kinds})" if verbose else ""
    counted = f", {sum(artifact.operations.values())} operations{by_kind}" if artifact.operations else ""
    ending = f"; {NORMALIZED}" if artifact.normalize else ""
    return _line(f"{artifact.size_bytes / 1e6:.2f} MB{counted}{ending}")


NORMALIZED = "the embedding is divided by its L2 norm"  # of a file that ends so


@dataclass(frozen=True)
class ExportedFile:
    """A file that was exported beside files for other toolkits."""

    target: str
    artifact: Artifact
    latencies: Mapping[str, Measurement]  # that are stored of it, by device


def side_by_side(rows: Sequence[ExportedFile]) -> TableReport:
    """Return a table with one row per exported file: size, operations, proof, and the latencies that are stored."""
    columns: list[Column[ExportedFile]] = [
        Column("target", "target", lambda row: row.target, role="key"),
        Column("resolution", "size", lambda row: row.artifact.shape.size, role="key", shown="varied"),
        Column("precision", "precision", lambda row: row.artifact.precision),
        Column(
            "size_bytes",
            "file",
            lambda row: row.artifact.size_bytes,
            lambda row: f"{row.artifact.size_bytes / 1e6:.2f}",
            unit="MB",
            align="right",
        ),
        Column("operations", "operations", lambda row: sum(row.artifact.operations.values()) or None, align="right"),
        Column("error", "proof", _worst, _proof_text),
        Column("snr_db", "quantised", _fidelity, _fidelity_text, unit="dB", align="right", shown="filled"),
        Column("latency", "latency", lambda row: row.latencies or None, _latencies_text, unit="ms", shown="filled"),
    ]
    notes = ["Proof: the error over the outputs' standard deviation, and the most that is allowed."]
    if any(row.artifact.quantisation for row in rows):
        notes.append(
            "A file in 8 bits is proved against its own rounded network; quantised is that network's signal to noise "
            "against float64."
        )
    if any(row.latencies for row in rows):
        notes.append("Latency: the newest stored figure of the same file on each device.")
    else:
        notes.append("Latency: none of these files has been timed yet; `fastvit-bench latency` does.")
    return TableReport([Table(rows, columns)], notes)


def _worst(row: ExportedFile) -> float | None:
    return row.artifact.parity and row.artifact.parity.error


def _proof_text(row: ExportedFile) -> str:
    """Return every proof as its error and its limit."""
    proofs = row.artifact.proofs or {"": row.artifact.parity}
    parts = [f"{parity.error:.1e} ≤ {_limit(parity.tolerance)}" for parity in proofs.values() if parity is not None]
    return ", ".join(parts) or NONE


def _fidelity(row: ExportedFile) -> float | None:
    quantised = row.artifact.quantisation
    return quantised.fidelity.snr_db if quantised is not None and quantised.fidelity is not None else None


def _fidelity_text(row: ExportedFile) -> str:
    snr_db = _fidelity(row)
    return NONE if snr_db is None else f"{snr_db:.1f}"


def _latencies_text(row: ExportedFile) -> str:
    figures = row.latencies.items()
    return ", ".join(f"{latency(cell.figure_ms, cell.interval_ms)} ({device})" for device, cell in figures) or NONE


def fusing(report: Fusing, width: int) -> "Group":
    """Return a table of the levels of a fuse: parameters, norms, and how far outputs are from the checkpoint's."""
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
