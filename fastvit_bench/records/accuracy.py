"""Records of an accuracy evaluation: its images, preprocessing, partial counts and result."""

import hashlib
from enum import StrEnum

import msgspec

from fastvit_bench.records import answers
from fastvit_bench.records.artifact import Artifact, ExportJob, Job
from fastvit_bench.records.images import LabelledImage, Preprocessing
from fastvit_bench.records.machine import Machine
from fastvit_bench.records.preparation import Preparation
from fastvit_bench.records.spec import Device, Record, Shape
from fastvit_bench.stats import intervals

# --- accuracy ---------------------------------------------------------------------------------------------------------


class ClassOrder(StrEnum):
    """The order of names in which a training framework numbered class folders."""

    TEXT = "text"  # "10" before "2": torchvision's ImageFolder, Keras
    NATURAL = "natural"  # "2" before "10", small letters: timm


class LabelIds(StrEnum):
    """The numbers that a file of labels has for classes."""

    INDEX = "index"  # the network's, from 0
    FROM_1 = "from-1"  # the network's, from 1
    DEVKIT = "devkit"  # of ImageNet's devkit, from 1 in an order of its own


class RankedClasses(StrEnum):
    """The classes among which an image's own must be the best."""

    ALL = "all"  # of the network
    PRESENT = "present"  # of any image of the data set, as accuracies of ImageNet-A and -R are usually counted


class ClassNumbering(Record, frozen=True):
    """The choices by which the classes of images become numbers of a network's outputs; None: as the files say."""

    order: ClassOrder | None = None  # of class folders
    class_map: str | None = None  # file of the classes' names by number, as the user named it
    label_ids: LabelIds | None = None  # of numbers in a file of labels


class ClassEmbeddings(Record, frozen=True):
    """A file with an embedding for each class, with which those of images are compared."""

    file: str  # as the user named it
    sha256: str
    classes: int
    width: int  # numbers of an embedding


class EmbeddingCosines(Record, frozen=True):
    """Cosines between an exported file's embeddings and the reference network's, of the same images."""

    images: int
    total: float  # sum of the cosines; that of an embedding with NaN or infinity counts as -1
    least: float
    worst: str  # name of the image with the least

    def __post_init__(self) -> None:
        """Raise `ValueError` for cosines that so many images cannot have."""
        bound = 1 + 1e-9
        if self.images < 1 or not -bound <= self.least <= bound:
            raise ValueError(f"a least cosine of {self.least} of {self.images} images")
        if not self.images * self.least - 1e-6 <= self.total <= self.images * bound:
            raise ValueError(f"cosines of {self.total} in all of {self.images} images")

    @property
    def mean(self) -> float:
        """Mean of the cosines."""
        return self.total / self.images

    def joined(self, more: "EmbeddingCosines | None") -> "EmbeddingCosines":
        """Return the cosines of these images and of more."""
        if more is None:
            return self
        worse = self if self.least <= more.least else more
        return EmbeddingCosines(
            images=self.images + more.images, total=self.total + more.total, least=worse.least, worst=worse.worst
        )


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
    numbering: ClassNumbering | None = None  # None: of earlier versions, which took the text order of folders
    numbered: str = ""  # how the classes came to their numbers, in words; empty in runs of earlier versions
    among: RankedClasses = RankedClasses.ALL
    class_embeddings: ClassEmbeddings | None = None  # of an embedding network
    reference_images: int = 0  # of which the reference network's embeddings are compared, at most


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
    cosines: EmbeddingCosines | None = None  # of the images that were compared with the reference network
    right: str = ""  # top-1 of each picture, as `records.answers` packs them; empty in runs of earlier versions

    def __post_init__(self) -> None:
        """Raise `ValueError` for counts that so many images cannot have, and for answers of other counts."""
        _require_counts(self.pictures - len(self.unreadable), self.top1, self.top5, self.overflowed)
        _require_answers(self.right, self.pictures, self.top1)

    @property
    def answers(self) -> tuple[bool, ...] | None:
        """Whether each picture's class had the highest score, an unreadable one's not; None where it is not known."""
        return answers.unpacked(self.right, self.pictures) if self.right else None


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
    candidates: tuple[int, ...] | None = None  # classes that are ranked; None: all of the network's
    class_embeddings: ClassEmbeddings | None = None  # of an embedding network
    reference_images: int = 0  # of which the reference network's embeddings are compared, at most


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
    own: Preparation | None = None  # the network's own preparation, where the images were prepared in another way
    cosines: EmbeddingCosines | None = None  # of an embedding network, with its reference network
    tool: str = ""  # version of fastvit-bench that counted on a fleet; empty: that of the run
    right: str = ""  # top-1 of each picture, as `records.answers` packs them; empty in runs of earlier versions

    def __post_init__(self) -> None:
        """Raise `ValueError` for counts that so many images cannot have, and for an accuracy of none."""
        if self.images < 1:
            raise ValueError(f"an accuracy of {self.images} images")
        _require_counts(self.images, self.top1, self.top5, self.overflowed)
        _require_answers(self.right, self.images + len(self.unreadable), self.top1)

    @property
    def answers(self) -> tuple[bool, ...] | None:
        """Whether each picture's class had the highest score, an unreadable one's not; None where it is not known."""
        return answers.unpacked(self.right, self.images + len(self.unreadable)) if self.right else None

    @property
    def data_digest(self) -> str:
        """What identifies the images and their classes: names, sizes and classes, and the contents where known."""
        if not self.contents:
            return self.evaluation.digest
        return hashlib.sha256(f"{self.evaluation.digest} {self.contents}".encode()).hexdigest()

    @property
    def departures(self) -> "dict[str, object]":
        """The network's own value of each field of its preparation that is another one here."""
        if self.own is None:
            return {}
        own = msgspec.structs.asdict(self.own)
        return {name: value for name, value in own.items() if getattr(self.preprocessing, name) != value}

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


def _require_answers(right: str, pictures: int, top1: int) -> None:
    """Raise `ValueError` unless answers are known of no picture, or of all with so many right ones."""
    if right and sum(answers.unpacked(right, pictures)) != top1:
        raise ValueError(f"answers that are not the {top1} right ones of {pictures} pictures")


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
