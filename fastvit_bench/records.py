"""The nouns: frozen records of what was asked, what was made, how it was measured and what came out.

Every record is a `msgspec.Struct`: built once, never changed, written to JSON as it stands and checked field by field
when it is read back. Units stand in the names. Whatever can be computed from the samples (median, interval, warnings)
is a property and never stored.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

from fastvit_bench.stats import intervals
from fastvit_bench.stats.intervals import median, order_statistic_ranks, trimmed_mean

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1, that the published weights expect

SCHEMA = 1  # of the lines in a run file; raised when a reader of the old lines would misunderstand the new ones


class Head(StrEnum):
    """What the network ends in: class scores, four maps, or what segments or detects from them (docs/dense.md).

    ``dense`` and ``stages`` are the backbone alone. They differ where a positional encoding stands before the fourth
    stage: the published dense network hands out the encoding, ``stages`` the stage.
    """

    CLASSIFIER = "classifier"
    DENSE = "dense"
    STAGES = "stages"
    SEGMENTER = "semantic-fpn"
    DETECTOR = "fpn-rpn"


class Fuse(StrEnum):
    """How much of the network's algebra is done ahead of time.

    ``none``: the network as it is trained. ``fused``: every re-parameterisable block is one convolution, as in the
    published fused checkpoints. ``folded``: also the BatchNorms, layer scales and attention scale those leave behind.
    """

    NONE = "none"
    FUSED = "fused"
    FOLDED = "folded"


# nanoseconds in the order they were taken; a run that took no time is a broken clock
Samples = Annotated[tuple[Annotated[int, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]


class Window(StrEnum):
    """What lies between the two readings of the clock."""

    COMPUTE = "compute"  # run + wait; the input is on the device, the output stays there
    PREDICTION = "prediction"  # the toolkit's own reading around its native call, which takes in and gives out buffers
    END_TO_END = "end-to-end"  # the toolkit's one call from here, input and output copies and conversions included


class Pacing(StrEnum):
    """What happens between two samples."""

    BACK_TO_BACK = "back-to-back"  # nothing: the next one starts at once
    REMOTE_CALL = "remote-call"  # each one is sent to the device over a cable, and the device idles meanwhile


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every noun: frozen, named fields, unknown fields refused."""


class Shape(Record, frozen=True, order=True):
    """Of one input batch: `batch` RGB images of `height` x `width` pixels."""

    batch: int
    height: int
    width: int

    @property
    def size(self) -> str:
        """``256`` for a square, ``256x384`` (height x width) otherwise."""
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    @property
    def nchw(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return (self.batch, 3, self.height, self.width)


class ModelSpec(Record, frozen=True):
    """A model as ``[model.NAME]`` of benchmark.toml declares it."""

    name: str
    variant: str
    head: Head = Head.CLASSIFIER
    classes: int = 1000
    checkpoint: str | None = None  # path, relative to the configuration file
    sha256: str | None = None  # what the checkpoint's content must be
    resolution: int = 256  # evaluation size in pixels
    crop: float = 0.9  # share of the shorter side kept by the evaluation crop
    published: str | None = None  # the model's name in results/published


class Device(Record, frozen=True):
    """A device profile as ``[device.NAME]`` of benchmark.toml declares it."""

    name: str
    backend: str
    precision: str = "fp32"
    batch: int = 1
    match: str | None = None  # text that the real hardware's name must contain
    options: dict[str, str | int | float | bool] = {}


class Layout(Record, frozen=True):
    """Which of several equal forms of a network a toolkit is given; the outputs do not depend on it."""

    images: Literal["normalised", "centred"] = "normalised"  # input pixel / 255 - mean, over std or not yet
    doubling: Literal["split", "grouped"] = "split"  # convolutions with two outputs per input channel: as two, as one
    attention: Literal["batched", "per-head"] = "batched"  # all heads in one matrix product, or one product each
    norms: Literal["batchnorm", "depthwise"] = "batchnorm"  # those in front of the dense network's outputs


DRAW = 2  # raised whenever `network.random_weights` draws others than before for a seed


class Weights(Record, frozen=True):
    """Where a network's numbers come from."""

    origin: Literal["checkpoint", "random"]
    sha256: str | None = None  # of the checkpoint file
    file: str | None = None  # its name, without folders
    seed: int | None = None  # of random weights
    draw: int = 1  # of random weights: the `DRAW` that they were drawn with

    @property
    def label(self) -> str:
        """Short form for tables: ``random(seed 0)`` or the file's name and first hash digits."""
        if self.origin == "random":
            return f"random(seed {self.seed})"
        return f"{self.file}@{(self.sha256 or '')[:8]}"


class Parity(Record, frozen=True):
    """How far an artifact's outputs are from the unfused network's in float64, on fixed inputs."""

    reference: str  # what it was compared with
    images: int
    seed: int
    max_abs_error: float  # over all outputs
    relative_error: float  # the largest over that reference output's standard deviation
    tolerance: float  # on the relative error, or on what `judged` names
    top1_agreement: float | None  # share of images with the same top-1 class; None without a classifier
    passed: bool
    reason: str = ""  # why it failed
    how: str = ""  # what computed the file's outputs
    judged: Literal["max", "rms"] = "max"
    rms_error: float | None = None  # root mean square of the errors over that standard deviation, of the worst output
    cosine: float | None = None  # of the angle between an image's outputs and the reference's, the smallest
    snr_db: float | None = None  # mean square of the reference outputs over that of the errors, of the worst output
    range_error: float | None = None  # the largest error over largest minus smallest reference output

    @property
    def spent(self) -> float:
        """Share of the tolerance that the error takes up."""
        return (self.relative_error if self.judged == "max" else self.rms_error or 0.0) / self.tolerance


class HalfWeights(Record, frozen=True):
    """What float16 makes of a network's weights; none is above its largest number, or there would be no file."""

    weights: int  # all that are floating-point numbers
    subnormal: int  # kept with fewer bits than the others, because they are smaller than 2^-14
    zeroed: int  # so small that they become 0
    largest: float  # magnitude
    largest_of: str  # the weight that holds it


class Card(Record, frozen=True):
    """The NVIDIA GPU that an engine is for; of one that is not here, the compute capability alone."""

    compute_capability: str  # such as 7.5
    name: str = ""
    uuid: str = ""
    memory_mib: int = 0
    driver: str = ""  # version; no reason to build anew, but one against comparing figures


class TimingCache(Record, frozen=True, tag="timing-cache", tag_field="kind"):
    """Measured times of kernels, which a build takes over; true of one card, driver and version only."""

    toolkit: str
    version: str
    platform: str
    card: Card
    sha256: str


class Engine(Record, frozen=True, tag="engine", tag_field="kind"):
    """An engine and everything that decides whether its latency may be compared with another's."""

    toolkit: str  # tensorrt or tensorrt-rtx, which are two products
    version: str  # of the toolkit
    platform: str  # system and processor family, such as linux x86_64
    card: Card
    onnx: str  # name of the file it was built from
    onnx_sha256: str
    settings: dict[str, str]  # of the builder
    inputs: dict[str, str]  # name -> type and shape, as the toolkit writes them
    outputs: dict[str, str]
    layers: dict[str, int]  # kind -> how many the parser made of the file; the engine fuses many of them
    sha256: str
    size_bytes: int
    timing_cache: str | None = None  # SHA-256 of the cache the build started from; None: it measured every kernel anew
    warnings: tuple[str, ...] = ()  # of parser and builder
    parity: Parity | None = None  # of what it computed on its GPU; None where it has not run yet


class Traffic(Record, frozen=True):
    """What the graph of a file holds, computes and moves in one run of a batch, as it stands in the file.

    Every node counts what it reads and writes, as if nothing were fused and nothing stayed in a cache; views move
    nothing.
    """

    params: int  # floating-point numbers that are in the file
    macs: int  # multiply-accumulates of convolutions and matrix products
    weight_bytes: int  # that nodes read of what is in the file
    read_bytes: int  # that nodes read of what other nodes, or the input, gave them
    written_bytes: int  # that nodes write

    @property
    def moved_bytes(self) -> int:
        """All of them."""
        return self.weight_bytes + self.read_bytes + self.written_bytes


class ExportSpec(Record, frozen=True):
    """What decides the content of an exported file: asked for before it exists, and noted of it afterwards."""

    model: str
    variant: str
    head: Head  # asked for: of random weights, a checkpoint tells its own
    classes: int  # likewise
    backend: str
    precision: str
    shape: Shape  # of a file that takes several, its default
    fused: Fuse
    weights: Weights
    toolchain: dict[str, str]  # package -> version, of everything that shapes the file
    path: str  # where the file goes; of an artifact its name beside the side-car
    options: dict[str, str] = {}  # of the backend, those that shape the file
    functions: tuple[Shape, ...] = ()  # of a file that takes several shapes, all of them

    @property
    def key(self) -> str:
        """Eight hex digits over everything that decides a file's content; files with one key are interchangeable.

        The number of classes and the head follow from a checkpoint's content, so they count for random weights only. A
        checkpoint's name does not count.
        """
        import hashlib  # here, because `--help` would wait for OpenSSL

        weights = self.weights
        drawn: tuple[int | str | None, ...] | str | None = weights.sha256
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
        return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()[:8]


class Artifact(ExportSpec, frozen=True, kw_only=True, tag="artifact", tag_field="kind"):
    """An exported file, and what is known of it."""

    sha256: str | None  # of the file, or of the files in a package; None where only a report of it was seen
    size_bytes: int
    params: int  # of the exported network
    macs: int  # multiply-accumulates of one batch, counted on the exported network
    parity: Parity | None  # the worst of `proofs`; None where only a report of the file was seen
    proofs: dict[str, Parity] = {}  # by what was looked at, where that is more than one thing
    operations: dict[str, int] = {}  # kind -> how many the file's program has, where the backend counts them
    half_weights: HalfWeights | None = None  # what FP16 made of the weights, where the backend tells
    traffic: Traffic | None = None  # counted on the file, where the backend can


Answer = TypeVar("Answer")


class Job(Generic[Answer]):
    """A piece of work for a process of its own, by the type of what it answers."""

    __slots__ = ()


class ExportJob(ExportSpec, Job[Artifact], frozen=True, kw_only=True, tag="export", tag_field="job"):
    """What one export is asked for."""

    checkpoint: str | None
    device: Device  # the proof runs the file with its options
    labels: tuple[str, ...] = ()  # class names to put into the file; `options` holds their digest


class EngineBuilt(Record, frozen=True, tag="equipped", tag_field="kind"):
    """An engine that was built, or was there."""

    parity: Parity | None  # of what it computes; None where it cannot be run on this machine


class EngineJob(Record, Job[EngineBuilt], frozen=True, tag="engine", tag_field="job"):
    """What one engine is asked for: that of a file which an export made."""

    export: ExportJob


class Foreign(Record, frozen=True, tag="foreign", tag_field="kind"):
    """A model this tool did not make, as a performance report describes it."""

    model: str
    backend: str
    precision: str  # as the toolkit calls it
    inputs: dict[str, str]  # name -> type and shape, as the toolkit writes them
    shape: Shape | None  # of its image input, where it has one
    size_bytes: int | None = None
    operations: dict[str, int] = {}
    metadata: dict[str, str] = {}  # what its makers wrote into it


class Statistic(StrEnum):
    """How samples become one figure."""

    MEDIAN = "median"  # of all samples of all rounds
    TRIMMED_MEAN = "trimmed-mean"  # per round, without its lowest and highest samples; then the mean over rounds


class Method(Record, frozen=True):
    """How a latency was measured."""

    warmup: int = 10  # untimed runs before the first timed one of a round
    runs: int = 100  # timed runs per round
    rounds: int = 1
    statistic: Statistic = Statistic.MEDIAN
    trim: int = 0  # samples left out at either end of a round, of a trimmed mean
    loading: Literal["once", "per-round"] = "once"  # how often the file was loaded
    warmup_ms: int = 0  # the least time that warming up took, by the clock that timed the runs
    steady: float = 0.0  # warming up went on until the medians of 20 runs and of the 20 before differed by less
    duration_ms: int = 0  # timed runs went on for at least this long, so that there may be more than `runs`
    processes: int = 1  # fresh ones over which warm-up and timed runs are spread; each is a round of the samples


PROCESSES = 4  # of a processor's figures: what two processes differ by must show within one figure


class Protocol(StrEnum):
    """Methods that have a name."""

    MEDIAN100 = "median100"
    MODELBENCH = "modelbench"
    PAPER = "paper"
    TRTEXEC = "trtexec"


# ModelBench is the app that the published iPhone latencies were made with (apple/ml-mobileone, ViewController.swift)
METHODS = {
    Protocol.MEDIAN100: Method(),
    Protocol.MODELBENCH: Method(
        warmup=1, runs=50, rounds=20, statistic=Statistic.TRIMMED_MEAN, trim=10, loading="per-round"
    ),
    Protocol.PAPER: Method(warmup=20, warmup_ms=200, steady=0.01),
    Protocol.TRTEXEC: Method(warmup=0, warmup_ms=200, runs=10, duration_ms=3000),
}


class Setting(Record, frozen=True):
    """What a protocol says of the device, besides the method."""

    precision: str | None = None
    batch: int | None = None
    options: dict[str, str | int | float | bool] = {}


# The paper (section 4): batches of 8 on an RTX 2080 Ti with TensorRT 8.0.1.6, the median of 100 runs. It does not tell
# the precision, and FP16 is taken; TensorRT 8.0 replays no graph and does not spin unless asked. trtexec: the defaults
# of TensorRT 11 (samples/common/sampleOptions.h), but one run at a time where it keeps two in flight.
SETTINGS = {
    Protocol.PAPER: Setting(precision="fp16", batch=8, options={"graph": False, "transfers": False, "sync": "block"}),
    Protocol.TRTEXEC: Setting(options={"graph": True, "transfers": False, "sync": "spin"}),
}


class Machine(Record, frozen=True):
    """The machine a figure was made on: collected, never typed in. None where a report does not tell."""

    host: str  # a digest of the host name, which a container has of its own; empty if unknown
    processor: str
    cores: int | None  # logical processors this process may run on
    memory_mib: int | None
    os: str
    python: str | None
    packages: dict[str, str]  # those that decide the figure, by what runs it
    accelerator: str | None = None
    driver: str | None = None
    quota: float | None = None  # processors whose time the process may use; None: that of all
    name: str = ""  # that a person gave the machine

    @property
    def processors(self) -> str:
        """How many processors the process has: ``4 cores``, or ``0.5 of 2 processors``; empty if unknown."""
        what = "core" if self.quota is None else "processor"
        return f"{self._count} {what}{'s' * ((self.cores or 0) > 1)}" if self.cores else ""

    @property
    def _count(self) -> str:
        return f"{self.cores}" if self.quota is None else f"{self.quota:.3g} of {self.cores}"

    @property
    def hardware(self) -> tuple[object, ...]:
        """What two machines share that are one, whatever they are called; memory only roughly."""
        return self.processor, self.cores, self.quota, self.memory_step, self.accelerator

    @property
    def memory_step(self) -> int | None:
        """Memory in steps of a factor of 1.4: kernels keep some for themselves, and not always as much."""
        return round(2 * math.log2(self.memory_mib)) if self.memory_mib else None

    def is_same_as(self, other: "Machine") -> bool:
        """Whether both are one machine: by the names that a person gave them, and by their hardware."""
        return self._apart(other) == []

    def differences(self, other: "Machine", packages: Iterable[str] | None = None) -> list[str]:
        """``what: theirs then, ours now`` for every fact that forbids putting two figures side by side.

        `packages` are those that count; without them all that either has. The host name is none of the facts: a
        container on the same machine has another one. A machine that has packages besides those that count is of a
        time when one list served every backend: what that list did not hold is not known of it.
        """
        found = self._apart(other) + _system_differences(other.os, self.os)
        found += _unequal("Python", other.python, self.python) + _unequal("driver", other.driver, self.driver)
        counted = self.packages.keys() | other.packages.keys() if packages is None else set(packages)
        for name in sorted(counted):
            sides = [(machine.packages.get(name), machine.packages.keys() <= counted) for machine in (other, self)]
            if all(version or complete for version, complete in sides):
                found += _unequal(name, sides[0][0], sides[1][0])
        return found

    def _apart(self, other: "Machine") -> list[str]:
        """What makes another machine of the `other`."""
        found = _unequal("machine", other.name, self.name) if self.name and other.name else []
        found += _unequal("processor", other.processor, self.processor)
        found += _unequal("processors", other._count, self._count)
        sizes = other.memory_mib, self.memory_mib
        if sizes[0] and sizes[1] and max(sizes[0], sizes[1]) > MEMORY_RATIO * min(sizes[0], sizes[1]):
            found += _unequal("memory", f"{sizes[0] / 1024:.1f} GiB", f"{sizes[1] / 1024:.1f} GiB")
        return found + _unequal("accelerator", other.accelerator, self.accelerator)

    def hint(self, other: "Machine") -> str | None:
        """What to know where only hardware says that both are one machine: their host names differ. None: nothing."""
        if self.host == other.host or not (self.host and other.host) or (self.name and self.name == other.name):
            return None
        return (
            f"host name: {other.host} then, {self.host} now (as digests); taken for one machine, because their "
            f"hardware is alike. Name your machines with --machine NAME to be certain."
        )


MEMORY_RATIO = 1.1  # by which two readings of one machine's memory may differ, as kernels keep some for themselves


def _unequal(what: str, then: str | None, now: str | None) -> list[str]:
    return [] if then == now else [f"{what}: {then or 'none'} then, {now or 'none'} now"]


def _system_differences(then: str, now: str) -> list[str]:
    """Of two systems as `Machine.os` has them: a kernel's release, or all of it where more is another."""
    parts = then.split(" "), now.split(" ")
    if all(len(words) == 3 for words in parts) and (parts[0][0], parts[0][2]) == (parts[1][0], parts[1][2]):
        return _unequal("kernel", parts[0][1], parts[1][1])
    return _unequal("operating system", then, now)


def by_name(machines: Iterable[Machine]) -> dict[tuple[object, ...], str]:
    """Hardware -> the name that machines of that kind have, where a person gave them exactly one.

    With it, figures from before a machine had its name stand with those from after.
    """
    names: dict[tuple[object, ...], set[str]] = {}
    for machine in machines:
        names.setdefault(machine.hardware, set()).add(machine.name)
    return {hardware: max(given) for hardware, given in names.items() if len(given - {""}) == 1}


class MachineState(Record, frozen=True):
    """What the machine was doing before the file was loaded and right after the timed runs. None: not known."""

    load_before: float | None = None  # 1-minute load average
    load_after: float | None = None
    clock_mhz_before: float | None = None
    clock_mhz_after: float | None = None
    steal_percent: float | None = None  # processor time taken by the hypervisor meanwhile
    quota_periods: int | None = None  # in which the CPU quota was used up while it was timed; None: there is none


class GpuState(Record, frozen=True):
    """One look at a GPU, as NVML tells it. None is what could not be read."""

    sm_mhz: int | None = None  # clock of the multiprocessors
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None  # the one that is enforced
    throttle: tuple[str, ...] | None = None  # why the clocks are what they are, such as "power cap"
    utilisation_percent: int | None = None  # share of the last moments in which anything ran, this process included
    other_processes: int | None = None  # on the GPU, besides this one
    other_memory_mib: int | None = None  # what those hold, as far as it is told
    persistence: bool | None = None  # whether the driver stays loaded when nothing uses it
    application_sm_mhz: int | None = None  # clocks that were set for applications, not by this tool
    application_memory_mhz: int | None = None
    max_sm_mhz: int | None = None
    max_memory_mhz: int | None = None


_HEAT = ("heat (software)", "heat (hardware)")
_POWER = ("power cap", "power brake")


def gpu_warnings(looks: Sequence[GpuState], spread_percent: float = 5.0) -> list[str]:
    """Reasons to distrust figures between which these looks were taken, for a person.

    Looks at an idle GPU say nothing about its clocks under load, and are left out of their spread, which may be at
    most `spread_percent` of the highest clock seen.
    """
    found: list[str] = []
    for words, what in ((_HEAT, "by heat"), (_POWER, "to keep its power limit"), (("hardware slowdown",), "by itself")):
        count = sum(any(word in words for word in look.throttle or ()) for look in looks)
        if count:
            found.append(f"the GPU slowed down {what} in {count} of {len(looks)} looks{_readings(looks, words)}")
    busy = [look for look in looks if "idle" not in (look.throttle or ())]
    for name, clocks in (
        ("SM", [look.sm_mhz for look in busy]),
        ("memory", [look.memory_mhz for look in busy]),
    ):
        known = [clock for clock in clocks if clock]
        if known and (apart := 100 * (1 - min(known) / max(known))) > spread_percent:
            found.append(f"{name} clock varied by {apart:.0f} %: {min(known)} to {max(known)} MHz")
    others = max((look.other_processes or 0 for look in looks), default=0)
    if others:
        held = max((look.other_memory_mib or 0 for look in looks), default=0)
        memory = f", holding {held} MiB" if held else ""
        found.append(f"{others} other process{'es' if others > 1 else ''} on the GPU{memory}")
    return found


def _readings(looks: Sequence[GpuState], words: tuple[str, ...]) -> str:
    """The readings that go with the cause: the highest temperature, or the power limit."""
    if words is _HEAT:
        heat = max((look.temperature_c or 0 for look in looks), default=0)
        return f", at up to {heat} °C" if heat else ""
    limits = [look.power_limit_w for look in looks if look.power_limit_w]
    return f", of {max(limits):.0f} W" if words is _POWER and limits else ""


class LayerTime(Record, frozen=True):
    """How long one layer of a running network took, of runs made for that alone."""

    name: str  # as the toolkit names it; of fused layers, several names
    kind: str  # such as Conv; empty where the toolkit does not tell
    block: str  # of the network it belongs to, such as stages.2.blocks.1; empty where its name does not tell
    median_ns: int


class Interval(Record, frozen=True):
    """A confidence interval, in milliseconds."""

    low: float
    high: float
    confidence: float  # reached, at least what was asked for


class Unit(StrEnum):
    """Where a toolkit plans to run an operation."""

    NEURAL_ENGINE = "neural-engine"
    GPU = "gpu"
    CPU = "cpu"


class PlannedOperation(Record, frozen=True):
    """One operation of a compute plan."""

    kind: str  # such as ios16.conv
    output: str  # name of its first output
    unit: Unit  # where it is planned to run
    supported: tuple[Unit, ...]  # where it could
    cost: float | None = None  # the toolkit's estimate, as a share of the whole program's


class Placement(Record, frozen=True, dict=True):
    """Where a toolkit *plans* to run a program's operations, in program order. A plan, not a measurement."""

    operations: tuple[PlannedOperation, ...]

    @functools.cached_property
    def counts(self) -> dict[Unit, int]:
        """Operations planned on each unit."""
        found = dict.fromkeys(Unit, 0)
        for operation in self.operations:
            found[operation.unit] += 1
        return found

    @functools.cached_property
    def shares(self) -> dict[Unit, float]:
        """Share of the operations planned on each unit."""
        return {unit: count / max(1, len(self.operations)) for unit, count in self.counts.items()}

    @functools.cached_property
    def costs(self) -> dict[Unit, float] | None:
        """Share of the planned cost on each unit; None where the plan names no cost."""
        total = sum(operation.cost or 0.0 for operation in self.operations)
        if total <= 0:
            return None
        found = dict.fromkeys(Unit, 0.0)
        for operation in self.operations:
            found[operation.unit] += (operation.cost or 0.0) / total
        return found

    @functools.cached_property
    def eligible(self) -> float:
        """Share of the operations that the Neural Engine could run."""
        able = sum(Unit.NEURAL_ENGINE in operation.supported for operation in self.operations)
        return able / max(1, len(self.operations))

    @functools.cached_property
    def elsewhere(self) -> dict[str, int]:
        """Kind -> how many operations are not planned on the Neural Engine; the most frequent first."""
        found: dict[str, int] = {}
        for operation in self.operations:
            if operation.unit is not Unit.NEURAL_ENGINE:
                found[operation.kind] = found.get(operation.kind, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @functools.cached_property
    def switches(self) -> int:
        """How often the unit changes from one operation to the next."""
        units = [operation.unit for operation in self.operations]
        return sum(a != b for a, b in itertools.pairwise(units))


def _drift(samples: Samples) -> float:
    """By how much the second half of a round is slower than the first."""
    half = len(samples) // 2
    return median(samples[half:]) / median(samples[:half]) - 1


SLOW = 0.95  # share of a machine's best speed below which a figure is flagged
SLOW_END = 0.9  # likewise at one end of a process's runs: the reference itself scatters by a few percent


class SpeedCheck(Record, frozen=True):
    """How long the reference workload took around one process's timed runs, in nanoseconds."""

    before_ns: Samples
    after_ns: Samples

    @property
    def median_ns(self) -> float:
        """The quicker of the two medians: a machine that is slow for seconds is slow in both."""
        return min(median(self.before_ns), median(self.after_ns))

    @property
    def slower_ns(self) -> float:
        """The slower of the two medians: the speed may have changed in between."""
        return max(median(self.before_ns), median(self.after_ns))

    def is_slow(self, best_ns: float) -> bool:
        """Whether the machine was slow all along, or clearly slow at one end."""
        return best_ns / self.median_ns < SLOW or best_ns / self.slower_ns < SLOW_END


class Measurement(Record, frozen=True, tag="measurement", tag_field="kind", dict=True):
    """The latency of one artifact: every sample, and what is needed to judge it."""

    finished: str  # UTC, ISO 8601
    device: Device  # as used, options resolved
    artifact: Artifact | Foreign
    method: Method
    window: Window
    clock: str  # which clock was read
    samples_ns: Annotated[tuple[Samples, ...], msgspec.Meta(min_length=1)]  # one entry per round
    machine: Machine
    state: MachineState
    pacing: Pacing = Pacing.BACK_TO_BACK
    cold_ns: tuple[int, ...] = ()  # the first run of each round, where a report has it among its samples
    load_ns: tuple[int, ...] = ()  # of loading the file; the first may hold the device's own compilation
    compile_ns: tuple[int, ...] = ()  # of compiling it, where that is a step of its own
    placement: Placement | None = None  # collected after the timed runs
    parity: Parity | None = None  # of what was timed, by the session that was; None where only a report of it was seen
    engine: Engine | None = None  # what ran in place of the artifact's file
    gpu: tuple[GpuState, ...] = ()  # looks between the timed runs
    layers: tuple[LayerTime, ...] = ()  # of a pass of its own, where it was asked for
    reference_ns: tuple[int, ...] = ()  # of `measure.reference`, timed afterwards; of processors, in older runs
    speed_checks: tuple[SpeedCheck, ...] = ()  # one per process, of processors only
    best_reference_ns: Annotated[int, msgspec.Meta(gt=0)] | None = None  # of this machine, as far as known by then
    usual_scatter: Annotated[float, msgspec.Meta(gt=0)] | None = None  # of processes here, as far as known by then
    remeasured: int = 0  # processes whose runs were dropped because the machine ran slowly

    @property
    def shape(self) -> Shape | None:
        """Of the input; None for a foreign model that takes no images."""
        return self.artifact.shape

    @functools.cached_property
    def round_means_ms(self) -> list[float]:
        """Of each round, the mean of its samples without those the method trims."""
        return [trimmed_mean(samples, self.method.trim) / 1e6 for samples in self.samples_ns]

    @functools.cached_property
    def figure_ms(self) -> float:
        """Milliseconds per batch by the method's statistic: what tables show."""
        if self.method.statistic is Statistic.MEDIAN:
            return self.median_ms
        return intervals.mean(self.round_means_ms)

    @property
    def process_medians_ns(self) -> list[float]:
        """The median of each round, which is a process where runs are spread over several."""
        return [median(samples) for samples in self.samples_ns]

    @functools.cached_property
    def samples_ms(self) -> list[float]:
        """All samples of all rounds, sorted, in milliseconds."""
        return [ns / 1e6 for ns in sorted(itertools.chain.from_iterable(self.samples_ns))]

    @functools.cached_property
    def median_ms(self) -> float:
        """Milliseconds per batch."""
        return median(self.samples_ms)

    @functools.cached_property
    def interval_ms(self) -> Interval | None:
        """95 % confidence interval of `figure_ms`, or None where the samples give none."""
        return self.figure_interval_ms(intervals.CONFIDENCE)

    def figure_interval_ms(self, confidence: float) -> Interval | None:
        """Confidence interval of `figure_ms`, or None where the samples give none.

        Of a median without assuming a distribution, from six samples on for 95 %. Of runs spread over processes, it
        holds the figure of another such run, not only the median of these. Of a mean over rounds by Student's t
        on the rounds' means, from two rounds on; it takes the rounds as independent and near normal. Rounds that differ
        so much that the interval would reach zero give none, because no network takes no time.
        """
        if self.method.statistic is Statistic.MEDIAN and self.method.processes > 1:
            return self._another_run_ms(confidence)
        if self.method.statistic is Statistic.MEDIAN:
            bounds = intervals.quantile_interval(self.samples_ms, 0.5, confidence)
        else:
            bounds = intervals.mean_interval(self.round_means_ms, confidence)
        return Interval(*bounds) if bounds and bounds.low > 0 else None

    def _another_run_ms(self, confidence: float) -> Interval | None:
        """Interval of the figure that another such run would give, from what the processes' medians differ by."""
        within = intervals.quantile_interval(self.samples_ms, 0.5, confidence)
        factor = intervals.another_figure(self.process_medians_ns, confidence, self.usual_scatter)
        if within is None or factor is None:
            return None
        low, high = self.figure_ms / factor, self.figure_ms * factor
        return Interval(low=min(low, within.low), high=max(high, within.high), confidence=confidence)

    @property
    def reference_samples_ns(self) -> tuple[int, ...]:
        """All times of the reference workload; none where it was not timed."""
        checks = (ns for check in self.speed_checks for ns in (*check.before_ns, *check.after_ns))
        return tuple(checks) or self.reference_ns

    @property
    def reference_median_ns(self) -> float | None:
        """Of the reference workload while this was measured; None where it was not timed."""
        if self.speed_checks:
            return median(check.median_ns for check in self.speed_checks)
        return median(self.reference_ns) if self.reference_ns else None

    @property
    def speed(self) -> float | None:
        """At what share of the machine's best known speed this was measured; None where that is not known."""
        now = self.reference_median_ns
        return None if now is None or self.best_reference_ns is None else min(1.0, self.best_reference_ns / now)

    def quantile_interval_ms(self, quantile: float) -> Interval | None:
        """Distribution-free 95 % interval of a quantile, or None when the samples are too few to enclose it."""
        bounds = intervals.quantile_interval(self.samples_ms, quantile)
        return Interval(*bounds) if bounds else None

    def quantile_ms(self, quantile: float) -> float | None:
        """A quantile by linear interpolation, or None when the samples are too few for an interval around it."""
        if order_statistic_ranks(len(self.samples_ms), quantile) is None:
            return None
        return intervals.quantile(self.samples_ms, quantile)

    @property
    def p90_ms(self) -> float | None:
        """90th percentile; None below the 36 samples that its two-sided interval needs."""
        return self.quantile_ms(0.9)

    @property
    def p99_ms(self) -> float | None:
        """99th percentile; None below the 368 samples that its two-sided interval needs. 100 runs do not show it."""
        return self.quantile_ms(0.99)

    @property
    def mad_ms(self) -> float:
        """Median absolute deviation from the median."""
        return intervals.median_absolute_deviation(self.samples_ms)

    @property
    def ms_per_image(self) -> float:
        """The figure divided by the batch."""
        return self.figure_ms / (self.shape.batch if self.shape else 1)

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the figure, for a person."""
        found: list[str] = []
        figure, interval = self.figure_ms, self.interval_ms
        if interval is None:
            found.append(self._why_no_interval)
        elif interval.high - interval.low > 0.05 * figure:
            name = "median" if self.method.statistic is Statistic.MEDIAN else "mean"
            found.append(f"{name} uncertain by {100 * (interval.high - interval.low) / figure:.0f} %")
        if self.speed is not None and self.speed < SLOW:
            found.append(f"the machine ran at {self.speed:.2f} of its best")
        rounds = [samples for samples in self.samples_ns if len(samples) >= 20]  # the others are too short to tell
        # of runs spread over processes the interval holds what they differ by, and a process's share is too short
        alone = rounds if self.method.processes == 1 else []
        drift = max((_drift(samples) for samples in alone), key=abs, default=0.0)
        if abs(drift) > 0.05:
            found.append(f"not steady: second half of the runs {100 * drift:+.0f} %")
        middles = [median(samples) for samples in rounds] if len(rounds) > 1 else [1.0]
        if (apart := max(middles) / min(middles) - 1) > 0.05:
            what = "processes" if self.method.processes > 1 else "rounds"
            found.append(f"{what} differ: the slowest's median is {100 * apart:.0f} % above the quickest's")
        if (self.state.steal_percent or 0) > 2:
            found.append(f"the hypervisor took {self.state.steal_percent:.0f} % of the processor")
        if periods := self.state.quota_periods:
            found.append(f"the CPU quota stopped it {periods}x")
        if self.pacing is Pacing.REMOTE_CALL:
            found.append(
                "each run was called over the cable, and the device idled in between: slower than back to back"
            )
        return found + gpu_warnings(self.gpu)

    @property
    def _why_no_interval(self) -> str:
        if self.method.statistic is Statistic.MEDIAN:
            count = len(self.samples_ms)
            return f"only {count} run{'s' * (count != 1)}: no interval"
        if (count := len(self.samples_ns)) == 1:
            return "only 1 round: no interval"
        return f"{count} rounds that differ too much for an interval"


def cell_name(model: str, shape: Shape) -> str:
    """What a person calls a model at a shape: ``fastvit_t8 256 b1``."""
    return f"{model} {shape.size} b{shape.batch}"


class Cell(Record, frozen=True, order=False):
    """One thing to measure: a model at a shape, fused to a level, with given weights."""

    model: str
    shape: Shape
    fused: Fuse
    weights: Weights

    @property
    def label(self) -> str:
        """For messages: ``fastvit_t8 256 b1``."""
        return cell_name(self.model, self.shape)


Stage = Literal["export", "parity", "engine", "timing", "accuracy"]  # of what is done for a cell


class CellError(Record, frozen=True, tag="trouble", tag_field="kind"):
    """Why there is nothing of a cell, and where in its work that was."""

    stage: Stage
    reason: str
    log: str = ""  # the end of what the process had said, where it died


class Failure(CellError, frozen=True, kw_only=True, tag="failure", tag_field="kind"):  # noqa: N818 - no exception
    """A cell that gave no figure, as a run keeps it."""

    finished: str  # UTC, ISO 8601
    cell: Cell


class TimingJob(Record, Job[Measurement], frozen=True, tag="timing", tag_field="job"):
    """What one measurement is asked for."""

    artifact: Artifact
    path: str  # of the exported file
    device: Device
    method: Method
    machine: Machine
    profile: bool = False  # also ask for the times of layers, in a pass of its own


# --- accuracy ---------------------------------------------------------------------------------------------------------


class Picture(Record, frozen=True):
    """One image file of a data set."""

    name: str  # path below the data set's folder, with slashes
    size_bytes: int
    label: int  # its class, as the network counts them


class Preprocessing(Record, frozen=True):
    """How image files become input: as timm's evaluation transform, which the published accuracies were made with."""

    resolution: int  # pixels: side of the square that is cut out of the middle
    crop: float  # share that this is of the resized image's shorter side
    interpolation: Literal["bicubic"] = "bicubic"  # Pillow's, which smooths where it makes smaller
    colours: Literal["RGB"] = "RGB"  # as Pillow converts them; an orientation noted in EXIF is left alone

    @property
    def shorter_side(self) -> int:
        """Pixels of the resized image's shorter side, rounded down as timm does (data/transforms_factory.py)."""
        return math.floor(self.resolution / self.crop)


class Unreadable(Record, frozen=True):
    """An image file that gave no pixels."""

    name: str
    reason: str


class Evaluation(Record, frozen=True):
    """On what images a sweep was asked to count right answers."""

    data: str  # the folder, as it was given
    labels: str | None  # the file with classes, likewise; None: the folders' names are the classes
    limit: int | None  # how many images, evenly spread over the data set; None: all
    images: int
    digest: str  # SHA-256 over the images' names, sizes and classes
    workers: int  # threads that decode
    decoder: str  # what decoded and resized them, with its version


class Tally(Record, frozen=True, tag="tally", tag_field="kind"):
    """What some consecutive images of an evaluation gave; tallies follow one another without a gap."""

    artifact: str  # SHA-256
    how: str  # what computed the outputs
    first: int  # number of the first of these images in the data set
    pictures: int  # how many, those that cannot be read included
    top1: int  # images whose class has the highest score
    top5: int | None  # or one of the five highest; None of a network with fewer than six classes
    overflowed: int = 0  # images for which some score was NaN or infinite: they count as wrong
    unreadable: tuple[Unreadable, ...] = ()


class EvaluationJob(Record, Job[Tally], frozen=True, tag="evaluation", tag_field="job"):
    """What one evaluation is asked for."""

    artifact: Artifact
    export: ExportJob  # its path is that of the exported file
    on_device: bool  # or by what proves such files anywhere
    machine: Machine
    folder: str
    pictures: tuple[Picture, ...]  # all of them
    first: int  # number of the first picture that is still to be looked at
    preprocessing: Preprocessing
    workers: int


class Accuracy(Record, frozen=True, tag="accuracy", tag_field="kind"):
    """How often one artifact named the class of an image."""

    finished: str  # UTC, ISO 8601
    device: Device  # as used, options resolved
    artifact: Artifact
    how: str  # what computed the outputs
    evaluation: Evaluation
    preprocessing: Preprocessing
    images: int  # that could be read, of which these were
    top1: int  # right
    top5: int | None  # right among the five highest scores; None of a network with fewer than six classes
    overflowed: int
    unreadable: tuple[Unreadable, ...]
    machine: Machine

    @property
    def shape(self) -> Shape:
        """Of the input."""
        return self.artifact.shape

    @property
    def top1_share(self) -> "Share":
        """Of the images that could be read."""
        return share(self.top1, self.images)

    @property
    def top5_share(self) -> "Share | None":
        """Likewise."""
        return None if self.top5 is None else share(self.top5, self.images)


class Share(Record, frozen=True):
    """A proportion, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def share(right: int, images: int) -> Share:
    """What share of the images was right, with Wilson's interval.

    It speaks of other images drawn as these were, and says nothing of images of another kind.
    """
    low, high, _ = intervals.wilson_interval(right, images)
    return Share(value=right / images, low=low, high=high)


class Probe(Record, frozen=True):
    """A small network that is timed to learn what a device can do at best."""

    kind: Literal["pointwise", "spatial", "product", "copy"]  # 1x1 or 3x3 convolutions, matrix products, y = x * c
    width: int  # channels; of a copy the three of an image
    side: int  # pixels, height and width
    depth: int  # layers behind each other
    precision: str

    @property
    def label(self) -> str:
        """``3x3 convolutions 128 x 4 at 32 x 32``, for a person."""
        if self.kind == "copy":
            return f"{self.width} x {self.side} x {self.side} numbers scaled"
        return f"{_PROBES[self.kind]} {self.width} x {self.depth} at {self.side} x {self.side}"

    @property
    def shape(self) -> Shape:
        """Of its input: one image."""
        return Shape(batch=1, height=self.side, width=self.side)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its layers of equal width; the one in front that makes the channels is left out."""
        if self.kind == "copy":
            return 0
        return self.depth * self.width**2 * self.side**2 * (9 if self.kind == "spatial" else 1)

    @property
    def moved_bytes(self) -> int:
        """Bytes that a copy reads and writes; it is only asked for those."""
        return 2 * self.width * self.side**2 * (2 if self.precision == "fp16" else 4)


_PROBES = {"pointwise": "1x1 convolutions", "spatial": "3x3 convolutions", "product": "matrix products"}


class ProbeTime(Record, frozen=True):
    """How long a probe took, at best, in each of the processes that ran it."""

    probe: Probe
    best_ns: Annotated[tuple[Annotated[int, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]  # medians of a set

    @property
    def per_s(self) -> float:
        """Multiply-accumulates per second of the quickest process; of a copy, bytes per second."""
        probe = self.probe
        return (probe.moved_bytes if probe.kind == "copy" else probe.macs) / (min(self.best_ns) / 1e9)


def apart(times: Sequence[int]) -> float:
    """Ratio of the second shortest time to the shortest; infinite of a single one."""
    first, *others = sorted(times)
    return others[0] / first if others else math.inf


BUSY_PERCENT = 25  # of one processor's time: with more taken by others, a processor's peak is not what it could be

PROBES = 1  # of the probes and how they are timed; raised when either changes, because figures then differ


class Peak(Record, frozen=True):
    """What a device can do at best through its toolkit: the two roofs of the roofline."""

    probes: int  # `PROBES` of the version that measured it
    finished: str  # UTC, ISO 8601
    device: Device  # options filled in; its batch says nothing, as probes take one image
    machine: Machine
    method: Method
    window: Window
    clock: str
    arithmetic: Annotated[tuple[ProbeTime, ...], msgspec.Meta(min_length=1)]
    memory: ProbeTime
    others_percent: float | None = None  # of one processor's time, that other processes took meanwhile

    @property
    def best(self) -> ProbeTime:
        """The quickest of the arithmetic probes."""
        return max(self.arithmetic, key=lambda each: each.per_s)

    @property
    def macs_per_s(self) -> float:
        """Multiply-accumulates per second, in the device's precision."""
        return self.best.per_s

    @property
    def bytes_per_s(self) -> float:
        """Read and written, of arrays that fit no cache."""
        return self.memory.per_s

    @property
    def ridge(self) -> float:
        """Operational intensity, in FLOP per byte, from which on arithmetic is the bound."""
        return 2 * self.macs_per_s / self.bytes_per_s

    def attainable(self, intensity: float) -> float:
        """Multiply-accumulates per second at most, of what does so many FLOP per byte (Williams et al. 2009)."""
        return min(self.macs_per_s, intensity * self.bytes_per_s / 2)

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the roofs, for a person."""
        found: list[str] = []
        for what, timed in (("arithmetic rate", self.best), ("memory bandwidth", self.memory)):
            if len(timed.best_ns) > 1 and (ratio := apart(timed.best_ns)) > 1.1:
                count = len(timed.best_ns)
                found.append(f"{what}: the two quickest of {count} processes differ by {100 * (ratio - 1):.0f} %")
        if self.machine.accelerator is None and (self.others_percent or 0) > BUSY_PERCENT:
            found.append(f"other processes took {self.others_percent:.0f} % of a processor meanwhile")
        return found


class ProbeWritten(Record, frozen=True, tag="written", tag_field="kind"):
    """A probe's file lies where it should."""


class ProbeTimed(Record, frozen=True, tag="probed", tag_field="kind"):
    """A probe was timed in one process."""

    best_ns: int  # the lowest of the medians of its sets of runs
    window: Window
    clock: str


class ProbeJob(Record, Job[ProbeWritten], frozen=True, tag="probe", tag_field="job"):
    """What is asked of a process that writes a probe's file, in the form of the device's toolkit."""

    probe: Probe
    device: Device
    path: str  # where the file goes


class ProbeTimingJob(Record, Job[ProbeTimed], frozen=True, tag="probe-timing", tag_field="job"):
    """What is asked of a process that times that file."""

    probe: Probe
    device: Device
    path: str
    method: Method


class Request(Record, frozen=True):
    """What a sweep was asked to measure: enough to plan it again."""

    device: Device
    models: tuple[ModelSpec, ...]
    shapes: tuple[Shape, ...]
    fused: Fuse
    method: Method
    seed: int  # of random weights
    timeout_s: float  # longest time for one export or one measurement
    profile: bool = False
    evaluation: Evaluation | None = None  # of a sweep that counts right answers instead of timing


class Run(Record, frozen=True, tag="run", tag_field="kind"):
    """The first line of a run file; written again, with what it then found, each time the run is resumed."""

    schema: int
    id: str
    started: str  # UTC, ISO 8601
    tool: str  # version of fastvit-bench
    commit: str | None  # of the working directory's repository
    dirty: bool
    request: Request
    cells: tuple[Cell, ...]  # the plan, in order
    machine: Machine


class Fusing(Record, frozen=True):
    """What fusing a checkpoint did, and how little it changed."""

    variant: str
    head: Head
    classes: int
    form: str  # of the checkpoint: unfused or fused
    kinds: dict[str, int]  # kind of module -> how many became one convolution
    params: dict[Fuse, int]
    norms: dict[Fuse, int]  # BatchNorm layers left at each level
    differences: dict[Fuse, float]  # largest output difference over the largest output, float64, by level
    saved_difference: float  # the same for the saved file, whose weights are float32


class ModelFacts(Record, frozen=True):
    """What is known of a model before anything is exported."""

    spec: ModelSpec
    params: dict[Fuse, int]  # counted here, at each level
    gmacs: float  # 10^9 multiply-accumulates of the folded network for one image at `spec.resolution`
    checkpoints: tuple[str, ...]  # files of it in the models folder
