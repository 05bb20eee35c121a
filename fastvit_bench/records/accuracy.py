"""Records of an accuracy evaluation: its images, preprocessing, partial counts and result."""

import hashlib

from fastvit_bench.records.artifact import Artifact, ExportJob, Job
from fastvit_bench.records.images import LabelledImage, Preprocessing
from fastvit_bench.records.machine import Machine
from fastvit_bench.records.spec import Device, Record, Shape
from fastvit_bench.stats import intervals

# --- accuracy ---------------------------------------------------------------------------------------------------------


class Unreadable(Record, frozen=True):
    """An image file that could not be decoded, with the reason."""

    name: str
    reason: str


class Evaluation(Record, frozen=True):
    """The images and settings of an accuracy sweep."""

    data: str  # the folder, as the user named it
    labels: str | None  # the file with classes, as the user named it; None: the folders' names are the classes
    limit: int | None  # how many images, evenly spread over the data set; None: all
    images: int
    digest: str  # SHA-256 over the images' names, sizes and classes, which are known before any is read
    workers: int  # threads that decode
    decoder: str  # library that decoded and resized them, with its version


class AccuracyChunk(Record, frozen=True, tag="tally", tag_field="kind"):
    """Counts of correct answers on consecutive images of an evaluation; chunks leave no gap between them."""

    artifact: str  # SHA-256
    how: str  # what computed the outputs, in words
    first: int  # index of the chunk's first image in the data set
    pictures: int  # number of images, including unreadable ones
    top1: int  # images whose class has the highest score
    top5: int | None  # images whose class is among the five highest scores; None for fewer than six classes
    overflowed: int = 0  # images with a NaN or infinite score; they count as wrong
    unreadable: tuple[Unreadable, ...] = ()
    contents: str = ""  # digest of the contents of all images up to its last; empty in runs of earlier versions

    def __post_init__(self) -> None:
        """Raise `ValueError` for counts that so many images cannot have."""
        _require_counts(self.pictures - len(self.unreadable), self.top1, self.top5, self.overflowed)


class EvaluationJob(Record, Job[AccuracyChunk], frozen=True, tag="evaluation", tag_field="job"):
    """A request to evaluate one artifact in a worker process."""

    artifact: Artifact
    export: ExportJob  # its path is that of the exported file
    on_device: bool  # False: with the session that verifies such files on any machine
    machine: Machine
    folder: str
    pictures: tuple[LabelledImage, ...]  # the whole data set
    first: int  # index of the first image that is not evaluated yet
    preprocessing: Preprocessing
    workers: int
    contents: str = ""  # digest of the contents of the images before the first


class Accuracy(Record, frozen=True, tag="accuracy", tag_field="kind"):
    """The accuracy of one artifact on a set of labelled images."""

    finished: str  # UTC, ISO 8601
    device: Device  # as used, options resolved
    artifact: Artifact
    how: str  # what computed the outputs, in words
    evaluation: Evaluation
    preprocessing: Preprocessing
    images: int  # that could be read
    top1: int  # images whose class has the highest score
    top5: int | None  # images whose class is among the five highest scores; None for fewer than six classes
    overflowed: int
    unreadable: tuple[Unreadable, ...]
    machine: Machine
    contents: str = ""  # digest of the contents of the images; empty in runs of earlier versions

    def __post_init__(self) -> None:
        """Raise `ValueError` for counts that so many images cannot have, and for an accuracy of none."""
        if self.images < 1:
            raise ValueError(f"an accuracy of {self.images} images")
        _require_counts(self.images, self.top1, self.top5, self.overflowed)

    @property
    def data_digest(self) -> str:
        """What identifies the images and their classes: names, sizes and classes, and the contents where known."""
        if not self.contents:
            return self.evaluation.digest
        return hashlib.sha256(f"{self.evaluation.digest} {self.contents}".encode()).hexdigest()

    @property
    def shape(self) -> Shape:
        """Shape of the input batch."""
        return self.artifact.shape

    @property
    def top1_share(self) -> "Share":
        """Top-1 accuracy over the readable images, with its interval."""
        return share(self.top1, self.images)

    @property
    def top5_share(self) -> "Share | None":
        """Top-5 accuracy over the readable images, with its interval; None for fewer than six classes."""
        return None if self.top5 is None else share(self.top5, self.images)


def _require_counts(images: int, top1: int, top5: int | None, overflowed: int) -> None:
    """Raise `ValueError` unless so many of `images` readable images can have been right, and have overflowed."""
    if not 0 <= top1 <= (images if top5 is None else top5) <= images or not 0 <= overflowed <= images:
        raise ValueError(f"{top1} and {top5} right and {overflowed} overflowed of {images} images")


class Share(Record, frozen=True):
    """A proportion, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def share(right: int, images: int) -> Share:
    """Return the share of correct images, with Wilson's 95 % interval.

    The interval covers further images drawn from the same source, and says nothing about images of another kind.
    """
    low, high, _ = intervals.wilson_interval(right, images)
    return Share(value=right / images, low=low, high=high)
