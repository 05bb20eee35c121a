"""Records of an exported file: the settings that determine it, its verification, and the jobs that create it."""

from typing import Annotated, Generic, TypeVar

import msgspec

from fastvit_bench.records.parity import HalfWeights, Parity
from fastvit_bench.records.preparation import Preparation
from fastvit_bench.records.quantisation import CalibrationImages, Quantisation, Tune
from fastvit_bench.records.spec import ONNX, Device, Fuse, Gelu, Head, Record, Shape, Weights

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Traffic(Record, frozen=True):
    """Parameters, multiply-accumulates and memory traffic of a file's graph, for one run of a batch.

    Every node counts its reads and writes, as if nothing were fused and nothing stayed in a cache. Views move nothing.
    """

    params: Count  # floating-point numbers in the file
    macs: Count  # multiply-accumulates of convolutions and matrix products
    weight_bytes: Count  # read by nodes from the file's constants
    read_bytes: Count  # read by nodes from the input or from outputs of nodes
    written_bytes: Count  # written by nodes

    @property
    def moved_bytes(self) -> int:
        """Sum of weight, read and written bytes."""
        return self.weight_bytes + self.read_bytes + self.written_bytes


class ExportSpec(Record, frozen=True):
    """The settings that determine an exported file's content; shared by the request and the finished artifact."""

    model: str
    variant: str
    head: Head  # as requested for random weights; a checkpoint determines its own
    classes: int  # as requested for random weights; a checkpoint determines its own
    backend: str
    precision: str
    shape: Shape  # the default one of a file that accepts several
    fused: Fuse | None  # None of a user's file, whose form is not known
    weights: Weights
    toolchain: dict[str, str]  # package -> version, for every package that affects the file
    path: str  # target path of a request; of an artifact the file's name in the folder of its side-car
    options: dict[str, str] = {}  # of the backend, those that affect the file
    functions: tuple[Shape, ...] = ()  # all shapes of a file that accepts several
    gelu: Gelu = "erf"  # how the network computes GELU
    pad: bool = False  # whether the file pads its images to multiples of the network's stride
    normalize: bool = False  # whether the file divides embeddings by their L2 norm
    contents: str = ""  # where the network lay in its checkpoint, and what else that held
    preparation: Preparation | None = None  # of its images; None of a file of an earlier version

    @property
    def level(self) -> Fuse | None:
        """The fuse level; None of a user's file, for which earlier versions recorded the one that was asked for."""
        return None if self.variant == ONNX else self.fused

    @property
    def key(self) -> str:
        """Eight hex digits of a hash over every setting that determines a file's content.

        Files with the same key are interchangeable. The number of classes and the head follow from a checkpoint's
        content, so they count for random weights only. A checkpoint's name does not count.
        """
        import hashlib  # not at the top, because `--help` would wait for OpenSSL

        weights = self.weights
        drawn: tuple[int | str | None, ...] | str | None = weights.sha256
        if weights.entry is not None:
            drawn = (weights.sha256, weights.entry)
        if weights.origin == "random":
            drawn = (weights.seed, self.head, self.classes, *([weights.draw] if weights.draw > 1 else ()))
        decisive = (
            self.model,
            self.variant,
            self.backend,
            self.precision,
            self.shape,
            self.fused,
            drawn,
            self.toolchain,
        )
        if self.options or self.functions:
            decisive = (*decisive, self.options, self.functions)
        if self.preparation is not None:
            decisive = (*decisive, self.preparation)
        if self.gelu != "erf" or self.pad:
            decisive = (*decisive, self.gelu, self.pad)
        if self.normalize:
            decisive = (*decisive, "normalize")
        return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()[:8]


class Artifact(ExportSpec, frozen=True, kw_only=True, tag="artifact", tag_field="kind"):
    """An exported file: its settings, hash, size, cost and verification results."""

    sha256: str | None  # of the file, or of the files in a package; None where it is known from a report only
    size_bytes: Count
    params: Count  # of the exported network
    macs: Count  # multiply-accumulates of one batch, counted on the exported network
    parity: Parity | None  # the worst of `proofs`; None where the file is known from a report only
    proofs: dict[str, Parity] = {}  # by the part of the file that was verified, where there are several
    operations: dict[str, int] = {}  # kind -> count in the file's program, where the backend counts them
    half_weights: HalfWeights | None = None  # effect of FP16 on the weights, where the backend reports it
    traffic: Traffic | None = None  # counted on the file, where the backend can
    quantisation: Quantisation | None = None  # of a file in INT8


Answer = TypeVar("Answer")


class Job(Generic[Answer]):
    """A piece of work for a worker process, generic in the type of its answer."""

    __slots__ = ()


class ExportJob(ExportSpec, Job[Artifact], frozen=True, kw_only=True, tag="export", tag_field="job"):
    """A request to export one file in a worker process."""

    checkpoint: str | None
    device: Device  # verification runs the file with its options
    labels: tuple[str, ...] = ()  # class names to put into the file; `options` holds their digest
    calibration: CalibrationImages | None = None  # of a file in INT8; `options` holds its digest
    tune: Tune | None = None  # of a file in INT8: how its choices are searched; `options` holds it too
    force: bool = False  # whether files at the path that this tool did not write are replaced


class EngineBuilt(Record, frozen=True, tag="equipped", tag_field="kind"):
    """The answer to an `EngineJob`: the engine exists, newly built or from an earlier build."""

    path: str  # of the engine
    parity: Parity | None  # of its outputs; None where this machine cannot run it
    integer: dict[str, Count] = {}  # kind -> layers that multiply INT8 values, as `Engine` has them
    floating: dict[str, Count] = {}


class EngineJob(Record, Job[EngineBuilt], frozen=True, tag="engine", tag_field="job"):
    """A request to build the engine of an exported file in a worker process."""

    export: ExportJob


class ExternalModel(Record, frozen=True, tag="foreign", tag_field="kind"):
    """A model that this tool did not export, as a performance report describes it."""

    model: str
    backend: str
    precision: str  # as the toolkit calls it
    inputs: dict[str, str]  # name -> type and shape, as the toolkit writes them
    shape: Shape | None  # of its image input; None without one
    size_bytes: int | None = None
    operations: dict[str, int] = {}
    metadata: dict[str, str] = {}  # entries that its authors wrote into the file


class Fusing(Record, frozen=True):
    """The result of fusing a checkpoint: modules fused, parameter counts and output differences."""

    variant: str
    head: Head
    classes: int
    form: str  # of the checkpoint: unfused or fused
    kinds: dict[str, int]  # kind of module -> number of modules fused into one convolution each
    params: dict[Fuse, int]
    norms: dict[Fuse, int]  # BatchNorm layers that remain at each level
    differences: dict[Fuse, float]  # largest output difference over the largest output, float64, by level
    saved_difference: float  # the same ratio for the saved file, whose weights are float32
