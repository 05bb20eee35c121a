"""Records of a quantised file: its calibration images, its scheme, and the likeness of its outputs."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from fastvit_bench.records.images import LabelledImage, Preprocessing
from fastvit_bench.records.spec import Record

FEW_IMAGES = 32  # fewer leave out values that are usual; a note says so

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class CalibrationSet(Record, frozen=True):
    """The images that ranges of activations are measured on, known by their contents."""

    images: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    available: _Count  # images in the folder, of which these were drawn
    seed: _Count  # of the draw
    digest: str  # SHA-256 over their contents, in the order of the draw
    classes: _Count  # folders of classes that the folder holds; 0 for images without classes
    preprocessing: Preprocessing
    decoder: str  # library that decoded and resized them, with its version


class CalibrationImages(Record, frozen=True):
    """A calibration with the place of its images, as a job needs it."""

    folder: str
    pictures: tuple[LabelledImage, ...]  # in the order of the draw; a label of -1 stands for none
    chosen: CalibrationSet


class Fidelity(Record, frozen=True):
    """The likeness of a quantised file's outputs to the float64 network's on calibration images.

    It is reported and never judged: how much is good enough depends on the use.
    """

    images: _Count
    snr_db: float  # mean square of the network's outputs over that of the errors, of the worst output
    cosine: float  # smallest cosine similarity of an image's outputs
    top1_agreement: float | None = None  # share of images with the same top-1 class; None without a classifier
    correct: int | None = None  # images whose folder the network itself names; None without folders of its classes


def integer_share(integer: Mapping[str, int], floating: Mapping[str, int]) -> float | None:
    """Return the share of what computes between integers, counted by kind; None where nothing is counted."""
    total = sum(integer.values()) + sum(floating.values())
    return sum(integer.values()) / total if total else None


GAIN_DB = 0.1  # a change for accuracy pays by more than this, because what it leaves in float costs time
QUICKER, LOSS_DB = 0.98, 1.0  # one for latency takes at most this share of the time, and loses no more than this
TuneGoal = Literal["accuracy", "latency"]


class Tune(Record, frozen=True):
    """The search for the best choices of a quantised file: what for, and for how long."""

    goal: TuneGoal
    budget_s: Annotated[float, msgspec.Meta(gt=0, le=10**6)]  # after which no other change is tried


class Trial(Record, frozen=True):
    """A file in 8 bits that was written by other choices than usual, and whether its last change was kept."""

    choices: tuple[str, ...]  # changes of the usual choices; the last one is tried, the others were kept before
    snr_db: float  # as of `Fidelity`
    accepted: bool  # whether its last change is a part of those that were tried after it
    ms: float | None = None  # median of a run, in turns with the best file before; None where nothing was timed
    base_ms: float | None = None  # of that file, in the same turns


class Tuning(Record, frozen=True):
    """All that a search for the best choices tried, in its order, and what it did not come to."""

    asked: Tune
    trials: tuple[Trial, ...]  # the first is of the usual choices
    untried: tuple[str, ...] = ()  # changes for which the budget was too short

    @property
    def choices(self) -> tuple[str, ...]:
        """The changes that were kept."""
        return [trial.choices for trial in self.trials if trial.accepted][-1]


class Quantisation(Record, frozen=True):
    """The scheme of a quantised file, and the operations that compute in integers by it and in float."""

    weights: str  # type, symmetry and granularity, such as ``int8 symmetric per channel``
    activations: str  # of the same form, such as ``uint8 asymmetric per tensor``
    ranges: str  # the rule that turned the values of activations into ranges, such as ``least squared error``
    quantiser: str  # library that wrote the file, with its version
    integer: dict[str, _Count]  # kind -> number of operations between integers
    floating: dict[str, _Count]  # kind -> number of operations in float
    calibration: CalibrationSet | None = None  # None where only weights are rounded
    excluded: tuple[str, ...] = ()  # names of convolutions and products that stay in float by choice
    changes: dict[str, _Count] = {}  # exact change of the graph before it was quantised -> number of places
    fidelity: Fidelity | None = None
    tuning: Tuning | None = None  # the search that chose; None for the usual choices

    @property
    def integer_share(self) -> float:
        """The share of operations that compute between integers."""
        return integer_share(self.integer, self.floating) or 0.0
