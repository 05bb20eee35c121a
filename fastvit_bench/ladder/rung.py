"""A rung of the ladder: what was measured of one precision, beside the reference of the same network and size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastvit_bench.paper import study_table
from fastvit_bench.paper.study_table import StudyLine
from fastvit_bench.records import Accuracy
from fastvit_bench.records.study import Contestant, StudyResult
from fastvit_bench.stats.paired import PairedAnswers, holm
from fastvit_bench.stats.pareto import Counted, FrontierPoint, Latency, Standing, frontier


@dataclass(frozen=True)
class Rung:
    """One precision of the network at one size."""

    line: StudyLine  # its latency in turns with the reference, and its file
    accuracy: Accuracy | None = None
    paired: PairedAnswers | None = None  # with the reference's answers to the same images; None of the reference
    corrected_p: float | None = None  # of McNemar's test, for the number of rungs (Holm)
    standing: Standing | None = None  # among the rungs of which both latency and accuracy are known

    @property
    def label(self) -> str:
        """The precision, as people write it."""
        return self.line.row.label

    @property
    def snr_db(self) -> float | None:
        """Signal to noise of the outputs against the float64 network, of a file in 8 bits on calibration images."""
        artifact = self.line.artifact
        if artifact is None:
            return None
        if artifact.quantisation is not None:
            return artifact.quantisation.fidelity.snr_db if artifact.quantisation.fidelity else None
        return artifact.parity.snr_db if artifact.parity else None

    @property
    def integer_share(self) -> float | None:
        """The share of operations between integers; None of a file in float, whose kernels are not counted."""
        artifact = self.line.artifact
        return artifact.quantisation.integer_share if artifact and artifact.quantisation else None


def accuracy_of(result: StudyResult, contestant: Contestant) -> Accuracy | None:
    """Return the accuracy of a rung, or None before it is counted."""
    return next(
        (
            accuracy
            for accuracy in result.accuracies
            if (accuracy.device.precision, accuracy.shape) == (contestant.row.precision, contestant.shape)
        ),
        None,
    )


def rungs(result: StudyResult) -> list[Rung]:
    """Return the rungs of a ladder in its order, each reference before the rungs that are divided by it."""
    known = [_counted(result, line) for line in study_table.lines(result)]
    paired = _paired(known)
    timed = [rung for rung in paired if rung.accuracy is not None and _latency(rung) is not None]
    sizes = {rung.line.size for rung in timed}
    if len(timed) < 2 or len(sizes) > 1:
        return paired
    points = [
        FrontierPoint(rung.label, latency, Counted(rung.accuracy.top1, rung.accuracy.images))
        for rung in timed
        if (latency := _latency(rung)) is not None and rung.accuracy is not None
    ]
    standings = {rung.label: standing for rung, standing in zip(timed, frontier(points), strict=True)}
    return [replace(rung, standing=standings.get(rung.label)) for rung in paired]


def _counted(result: StudyResult, line: StudyLine) -> Rung:
    return Rung(line, accuracy_of(result, line.contestant) if line.contestant else None)


def _paired(known: Sequence[Rung]) -> list[Rung]:
    """Return rungs with their answers paired with those of the reference before them."""
    reference: Accuracy | None = None
    answered: list[Rung] = []
    for rung in known:
        if rung.line.reference:
            reference = rung.accuracy
        elif reference is not None and rung.accuracy is not None:
            rung = replace(rung, paired=PairedAnswers.of_accuracies(reference, rung.accuracy))
        answered.append(rung)
    corrected = iter(holm([rung.paired.p for rung in answered if rung.paired is not None]))
    return [rung if rung.paired is None else replace(rung, corrected_p=next(corrected)) for rung in answered]


def _latency(rung: Rung) -> Latency | None:
    """Return the latency over the reference's, which turns know better than milliseconds; the reference's own is 1."""
    if rung.line.reference:
        return Latency(1.0) if rung.line.figure else None
    return Latency(rung.line.ratio.value, interval=rung.line.ratio.interval) if rung.line.ratio else None
