"""Records of the audit of a file that others wrote."""

from typing import Annotated, Literal

import msgspec

from fastvit_bench.records.measurement import Interval
from fastvit_bench.records.parity import Error
from fastvit_bench.records.spec import Head, Record, Shape, Weights


class FoldableOperations(Record, frozen=True):
    """Operations of one kind that could have been computed ahead of time, or be one operation."""

    kind: str
    count: int
    names: tuple[str, ...]  # of the nodes


class OutputProof(Record, frozen=True):
    """One output of the file beside the value of the network that it is, or is nearest to."""

    name: str
    shape: tuple[int, ...]
    value: str  # of the network, in words: logits, the softmax of logits, the pooled features; empty for none
    error: Error | None  # over the standard deviation of the reference; None where nothing has its shape
    judged: Literal["max", "rms"]
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1)]
    passed: bool
    top1_agreement: float | None = None  # share of images with the same most probable class
    reason: str = ""  # of a failure
    classes: tuple[int, ...] = ()  # of outputs in another order: the network's class of each


class TriedPreparation(Record, frozen=True):
    """The error of a file where images are prepared in one way."""

    preparation: str
    error: Error | None  # of the worst output, as a share of what is allowed; None where nothing could be compared


class TurnTimes(Record, frozen=True):
    """Latencies of the file and of this tool's own export, which took turns."""

    device: str
    file_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None  # median; None where nothing was measured
    own_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    ratio: Annotated[float, msgspec.Meta(gt=0)] | None = None  # own over the file's
    interval: Interval | None = None  # of the ratio
    blocks: int = 0
    reason: str = ""  # why nothing was measured


class Audit(Record, frozen=True):
    """What is known of a file that others wrote, beside a network and its weights."""

    file: str
    sha256: str
    size_bytes: int
    variant: str
    head: Head
    weights: Weights
    precision: str
    shape: Shape  # of the compared images
    layout: str  # NCHW or NHWC
    images: int  # that were compared
    seed: int
    how: str  # what computed the file's outputs
    passed: bool
    preparation: str  # of the images as the file is fed, in words
    expected: str  # the preparation that the network is published with
    computed: str = ""  # the preparation that the network must have to give the file's outputs, where it is another
    outputs: tuple[OutputProof, ...] = ()
    tried: tuple[TriedPreparation, ...] = ()  # the nearest first
    weights_stored: int | None = None  # weight tensors of the network that the file holds as they are
    weights_compared: int | None = None  # weight tensors that were looked for
    foldable: tuple[FoldableOperations, ...] = ()
    operations: dict[str, int] = {}
    own_operations: dict[str, int] = {}  # of this tool's own export; empty where there is none
    own_path: str = ""  # of that export
    own_reason: str = ""  # why there is none
    notes: tuple[str, ...] = ()
    times: TurnTimes | None = None  # None where they were not asked for
