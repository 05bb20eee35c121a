"""Jobs and replies of the worker processes that take part in a comparison."""

from fastvit_bench.records import (
    AccuracyChunk,
    Artifact,
    CallPattern,
    CellError,
    Device,
    EngineBuilt,
    EngineJob,
    EvaluationJob,
    ExportJob,
    GpuState,
    Head,
    Job,
    Machine,
    Measurement,
    MicrobenchmarkJob,
    MicrobenchmarkTimed,
    MicrobenchmarkTimingJob,
    MicrobenchmarkWritten,
    ModelSpec,
    Parity,
    Record,
    Samples,
    Shape,
    TimingJob,
    Window,
)
from fastvit_bench.records.comparison import InterleavePlan


class Opened(Record, frozen=True, tag="opened", tag_field="kind"):
    """Reply to `OpenJob`: the artifact is loaded and computes what it should."""

    window: Window
    clock: str
    pacing: CallPattern
    parity: Parity
    python: str  # versions of the process it runs in
    packages: dict[str, str]


class WarmedUp(Record, frozen=True, tag="warmed-up", tag_field="kind"):
    """Reply to `WarmUpJob`: the artifact is ready to take turns."""

    run_ns: int  # nanoseconds of a run, once warm


class ReferenceTimed(Record, frozen=True, tag="reference-timed", tag_field="kind"):
    """Reply to `ReferenceJob`: the times of the reference workload."""

    samples_ns: Samples


class Turned(Record, frozen=True, tag="turned", tag_field="kind"):
    """Reply to `TurnJob`: the times of one turn."""

    samples_ns: Samples
    gpu: GpuState | None = None  # as sampled after the turn


class OpenJob(Record, Job[Opened], frozen=True, tag="open", tag_field="job"):
    """Load an artifact, check that it computes what it should, and keep it loaded for later turns."""

    artifact: Artifact
    path: str  # of the exported file
    device: Device
    machine: Machine


class WarmUpJob(Record, Job[WarmedUp], frozen=True, tag="warm-up", tag_field="job"):
    """Warm up the opened artifact until its times are steady."""

    turns: InterleavePlan


class TurnJob(Record, Job[Turned], frozen=True, tag="turn", tag_field="job"):
    """Time some runs of the opened artifact."""

    runs: int
    untimed: int  # runs before the timed ones


class ReferenceJob(Record, Job[ReferenceTimed], frozen=True, tag="reference", tag_field="job"):
    """Time the reference workload."""


class Described(Record, frozen=True, tag="described", tag_field="kind"):
    """Reply to `DescribeJob`: what a model's outputs are."""

    head: Head
    classes: int


class DescribeJob(Record, Job[Described], frozen=True, tag="describe", tag_field="job"):
    """Read a stranger's ONNX file as if it were exported at a shape, and describe its outputs."""

    spec: ModelSpec
    shape: Shape


AnyJob = (
    ExportJob
    | DescribeJob
    | EngineJob
    | TimingJob
    | EvaluationJob
    | MicrobenchmarkJob
    | MicrobenchmarkTimingJob
    | OpenJob
    | WarmUpJob
    | TurnJob
    | ReferenceJob
)


Reply = (
    Artifact
    | Described
    | EngineBuilt
    | Measurement
    | MicrobenchmarkWritten
    | MicrobenchmarkTimed
    | Opened
    | WarmedUp
    | Turned
    | ReferenceTimed
    | AccuracyChunk
    | CellError
)
