"""A ladder as a table with its sentences and notes, in every format of a table."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastvit_bench import backends
from fastvit_bench.ladder import sentences
from fastvit_bench.ladder.rung import Rung, rungs
from fastvit_bench.records import Quantisation
from fastvit_bench.records.study import StudyResult
from fastvit_bench.render import data, latex, listing, markdown, terminal
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import latency, percent, printable, whole_percent
from fastvit_bench.stats import sequential
from fastvit_bench.stats.pareto import SURE

if TYPE_CHECKING:  # takes longer to import than `--help` may
    from rich.console import Group


def _paired(rung: Rung) -> str:
    if rung.paired is None:
        return "0" if rung.line.reference and rung.accuracy else NONE
    middle, low, high = sentences.points(rung.paired)
    return f"{middle:+} [{low:+}, {high:+}]"


def _interval(rung: Rung, end: int) -> float | None:
    return None if rung.paired is None else 100 * rung.paired.interval()[end]


def _standing(rung: Rung) -> str:
    """Return whether a rung is on the frontier; where that is not certain, the probability that it is."""
    if rung.standing is None:
        return NONE
    probability = rung.standing.probability
    if 1 - SURE < probability < SURE:
        return f"maybe ({whole_percent(probability)})"
    return "yes" if probability >= SURE else "no"


def _ratio(rung: Rung) -> str:
    if rung.line.ratio:
        return latency(*rung.line.ratio)
    return "1" if rung.line.reference and rung.line.figure else NONE


def _quantised(value: Callable[[Quantisation], object]) -> Callable[[Rung], object]:
    """Return the value of a column that only files in 8 bits have."""

    def of(rung: Rung) -> object:
        artifact = rung.line.artifact
        return value(artifact.quantisation) if artifact and artifact.quantisation else None

    return of


def _calibration(name: str) -> Callable[[Rung], object]:
    return _quantised(lambda record: getattr(record.calibration, name) if record.calibration else None)


# long: it declares the columns
def table(result: StudyResult) -> Table[Rung]:
    """Return a line for each precision: latency, accuracy, fidelity, size and what computes in 8 bits."""
    lines = rungs(result)
    several = len({rung.line.size for rung in lines if rung.line.contestant}) > 1
    columns: list[Column[Rung]] = [
        Column("model", "", lambda rung: rung.line.row.model or None),
        Column("precision", "precision", lambda rung: rung.line.row.precision, lambda rung: rung.label, role="key"),
        Column("size", "px" if several else "", lambda rung: rung.line.size, align="right", role="key"),
        Column("reference", "", lambda rung: rung.line.reference),
        Column(
            "ms",
            "ms",
            lambda rung: rung.line.figure.value if rung.line.figure else None,
            lambda rung: latency(*rung.line.figure).partition(" ")[0] if rung.line.figure else NONE,
            align="right",
            role="figure",
        ),
        Column(
            "ratio",
            "of its time",
            lambda rung: rung.line.ratio.value if rung.line.ratio else None,
            _ratio,
            align="right",
            role="figure",
        ),
        Column("ratio_low", "", lambda rung: i.low if (r := rung.line.ratio) and (i := r.interval) else None),
        Column("ratio_high", "", lambda rung: i.high if (r := rung.line.ratio) and (i := r.interval) else None),
        Column(
            "top1",
            "top-1 %",
            lambda rung: rung.accuracy.top1_share.value if rung.accuracy else None,
            lambda rung: percent(rung.accuracy.top1_share) if rung.accuracy else NONE,
            align="right",
            role="figure",
            shown="filled",
            part=1,
        ),
        Column("top1_low", "", lambda rung: rung.accuracy.top1_share.low if rung.accuracy else None),
        Column("top1_high", "", lambda rung: rung.accuracy.top1_share.high if rung.accuracy else None),
        Column("images", "", lambda rung: rung.accuracy.images if rung.accuracy else None),
        Column(
            "points",
            "points apart",
            lambda rung: 100 * rung.paired.difference if rung.paired else None,
            _paired,
            align="right",
            role="figure",
            shown="filled",
        ),
        Column("points_low", "", lambda rung: _interval(rung, 0)),
        Column("points_high", "", lambda rung: _interval(rung, 1)),
        Column("gained", "", lambda rung: rung.paired.gained if rung.paired else None),
        Column("lost", "", lambda rung: rung.paired.lost if rung.paired else None),
        Column(
            "mcnemar_p",
            "McNemar p",
            lambda rung: rung.paired.p if rung.paired else None,
            lambda rung: sentences.probability(rung.paired.p) if rung.paired else NONE,
            align="right",
            role="figure",
            shown="filled",
        ),
        Column("mcnemar_p_corrected", "", lambda rung: rung.corrected_p),
        Column("points_detectable", "", lambda rung: 100 * rung.paired.detectable if rung.paired else None),
        Column(
            "pareto",
            "Pareto",
            lambda rung: rung.standing.on_frontier if rung.standing else None,
            _standing,
            role="figure",
            shown="filled",
        ),
        Column("pareto_probability", "", lambda rung: rung.standing.probability if rung.standing else None),
        Column(
            "snr_db",
            "SNR dB",
            lambda rung: rung.snr_db,
            lambda rung: NONE if rung.snr_db is None else f"{rung.snr_db:.1f}",
            align="right",
            part=1,
        ),
        Column(
            "integer_share",
            "8-bit operations",
            lambda rung: rung.integer_share,
            lambda rung: NONE if rung.integer_share is None else whole_percent(rung.integer_share),
            align="right",
            part=1,
        ),
        Column(
            "size_bytes",
            "MiB",
            lambda rung: rung.line.artifact.size_bytes if rung.line.artifact else None,
            lambda rung: f"{rung.line.artifact.size_bytes / 2**20:.1f}" if rung.line.artifact else NONE,
            align="right",
            part=1,
        ),
        Column("scheme_weights", "", _quantised(lambda record: record.weights)),
        Column("scheme_activations", "", _quantised(lambda record: record.activations)),
        Column("ranges", "", _quantised(lambda record: record.ranges)),
        Column("quantiser", "", _quantised(lambda record: record.quantiser)),
        Column("operations_integer", "", _quantised(lambda record: sum(record.integer.values()))),
        Column("operations_float", "", _quantised(lambda record: sum(record.floating.values()))),
        Column("calibration_digest", "", _calibration("digest")),
        Column("calibration_images", "", _calibration("images")),
        Column("calibration_seed", "", _calibration("seed")),
        Column("top1_agreement", "", _quantised(lambda record: record.fidelity and record.fidelity.top1_agreement)),
        Column("proof_error", "", lambda rung: a.parity.error if (a := rung.line.artifact) and a.parity else None),
        Column("proof_limit", "", lambda rung: a.parity.tolerance if (a := rung.line.artifact) and a.parity else None),
        Column("failed", "", lambda rung: rung.line.failed),
        Column("device", "", lambda rung: result.device.name),
        Column("processor", "", lambda rung: result.machine.processor),
        Column("finished", "", lambda rung: result.finished),
        Column("sha256", "", lambda rung: rung.line.artifact.sha256 if rung.line.artifact else None),
    ]
    sections = [at for at, rung in enumerate(lines) if at and rung.line.reference]
    return Table(lines, columns, printable(f"{result.study.title} ({result.device.name})"), sections)


def verdicts(result: StudyResult) -> list[str]:
    """Return the results in words, the rungs without figures by name, and what makes latencies doubtful."""
    lines = rungs(result)
    blocks = [block for cell in result.cells for block in sequential.counted(cell.blocks)]
    disturbed = sum(bool(block.disturbed) for block in blocks)
    doubts = [
        f"* Other programs disturbed {disturbed} of {len(blocks)} blocks: do not trust the latencies, and measure them "
        f"again on a quiet machine."
    ]
    lacking = [f"{rung.label}: {rung.line.failed}." for rung in lines if rung.line.failed]
    texts = [*sentences.sentences(lines), *(printable(line.replace("..", ".")) for line in lacking)]
    return [*(doubts if disturbed else []), *texts]


def notes(result: StudyResult) -> list[str]:
    """Return what the columns mean, the schemes of files in 8 bits, the images, and how all was measured."""
    lines = rungs(result)
    device, machine, turns = result.device, result.machine, result.turns
    reference = next((rung.label for rung in lines if rung.line.reference), "")
    texts = [
        f"Of its time: latency over {reference}'s, in turns of fresh processes; the median over {result.blocks} blocks "
        f"of {turns.turns} turns a side with its 95 % interval.",
        f"SNR: outputs against the float64 network; of 8 bits on calibration images, of float on the proof's. 8-bit "
        f"operations: those between integers in the file; {NONE} where none are.",
    ]
    counted = next((rung.accuracy for rung in lines if rung.accuracy), None)
    if counted is not None:
        texts.append(
            f"Top-1 of {counted.images:,} images with Wilson's 95 % interval. Points apart: paired with {reference} on "
            f"the same images, with Tango's 95 % interval and McNemar's exact test; a difference counts as shown below "
            f"0.05 after Holm's correction. Pareto: no other rung is both as quick and as accurate; maybe, with "
            f"a probability."
        )
        if counted.artifact.weights.origin == "random":
            texts.append("The weights are random, so top-1 says nothing of the network.")
    for rung in lines:
        artifact = rung.line.artifact
        if artifact and artifact.quantisation:
            texts += [f"{rung.label}: {line}" for line in listing.quantisation(artifact.quantisation, artifact.classes)]
    running = backends.narrowed(machine, device).packages
    packages = ", ".join(
        f"{name} {version}" for name, version in sorted(running.items()) if name not in backends.REFERENCE_PACKAGES
    )
    options = "".join(f", {name} {value}" for name, value in sorted(device.options.items()))
    texts.append(
        f"Measured {result.finished[:10]} on {device.name} ({device.backend}, batch {device.batch}{options}): "
        f"{machine.processor or machine.host}, {machine.processors}. Packages: {packages}."
    )
    return list(dict.fromkeys(map(printable, texts)))


def rich(result: StudyResult, width: int, *, verbose: bool = True) -> "Group":
    """Return a ladder for a terminal of `width` columns: all results in words, but few notes unless `verbose`."""
    from rich.console import Group
    from rich.text import Text

    texts = [Text(), *map(Text, verdicts(result))]
    below = notes(result) if verbose else terminal.few(notes(result), width)
    return Group(
        terminal.report(TableReport([table(result)]), width), *texts, *(Text(note, style="dim") for note in below)
    )


def report(result: StudyResult) -> TableReport:
    """Return the table with its results in words and its notes, for documents."""
    return TableReport([table(result)], [*verdicts(result), *notes(result)])


def json(result: StudyResult) -> str:
    """Return the lines, the results in words and the notes as JSON."""
    lines = table(result).records()
    return data.json({"study": result.study.name, "lines": lines, "verdicts": verdicts(result), "notes": notes(result)})


FORMATS: dict[str, Callable[[StudyResult], str]] = {
    "markdown": lambda result: markdown.report(report(result)),
    "csv": lambda result: data.csv(table(result)),
    "json": json,
    "latex": lambda result: latex.report(report(result)),
}
