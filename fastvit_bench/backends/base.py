"""The interface of a backend: the methods of every toolkit that runs exported networks."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from fastvit_bench.records import (
    CallPattern,
    Device,
    Engine,
    ExportJob,
    ExportSpec,
    GpuState,
    GraphVariant,
    Head,
    LayerTime,
    Parity,
    Placement,
    Quantisation,
    Shape,
    Traffic,
    Tuning,
    Window,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    Batch = NDArray[np.float32] | NDArray[np.uint8]  # of images, in the form a session takes


INPUT = "image"  # the name of every exported network's input


HALF_WEIGHTS = "fastvit_bench.fp16_weights"  # key of a file's metadata: a `HalfWeights`, where its backend reports one


def output_names(count: int, head: str = "") -> list[str]:
    """Return the names of an exported network's `count` outputs.

    An encoder has ``embedding`` or ``tokens``, after its `head`. A classifier or segmenter has ``logits``, a backbone
    ``feature0`` to ``feature3``. A region proposal network has ``objectness_p2`` to ``objectness_p6`` and ``deltas_p2``
    to ``deltas_p6``, for strides 4 to 64.
    """
    if count == 2 * len(_LEVELS):
        return [f"{kind}_{level}" for kind in ("objectness", "deltas") for level in _LEVELS]
    if count == 1:
        return [head if head in (Head.EMBEDDING, Head.TOKENS) else "logits"]
    return [f"feature{i}" for i in range(count)]


_LEVELS = ("p2", "p3", "p4", "p5", "p6")  # of a feature pyramid, after the powers of two that are their strides


class Images(StrEnum):
    """The form in which a file takes its images."""

    TENSOR = "tensor"  # float32 (N, 3, H, W), normalised RGB: (pixel / 255 - mean) / std
    PIXELS = "pixels"  # uint8 (N, H, W, 3), RGB; the file normalises them


def shaping_options(backend: "Backend", options: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    """Return those of a device's options that shape the file, as text, without empty ones."""
    return {name: str(options[name]) for name in backend.export_options if options.get(name, "") != ""}


class Session(ABC):
    """A loaded artifact, ready to run. `set_input` and `get_output` are never timed; `run` and `wait` always are."""

    images: Images = Images.TENSOR
    window: Window  # what a reading of the clock around run and wait covers
    pacing: CallPattern = CallPattern.BACK_TO_BACK
    clock: str | None = None  # the toolkit's own clock, which `elapsed_ns` reads; None leaves timing to the stopwatch
    load_ns: tuple[int, ...] = ()  # of loading the file, where the toolkit reports it
    engine: Engine | None = None  # what runs in place of the file, where the toolkit builds one

    @abstractmethod
    def set_input(self, images: "Batch") -> None:
        """Bring a batch, in the form `images` says, to the device; every later run reads it."""

    @abstractmethod
    def run(self) -> None:
        """Start one inference."""

    @abstractmethod
    def wait(self) -> None:
        """Block until the inference that `run` started is finished."""

    def elapsed_ns(self) -> int:
        """Return the last run's duration by the toolkit's clock, in whole nanoseconds; called where `clock` is set."""
        raise NotImplementedError

    @abstractmethod
    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return the outputs of the last run, by name."""

    def clone(self) -> "Session | None":
        """Return another session of the same loaded file, for a thread of its own; None where that is impossible.

        Runs of both may overlap.
        """
        return None

    def placement(self) -> Placement | None:
        """Return the processors the toolkit plans to run the operations on; None where it does not report them.

        Called after the timed runs.
        """
        return None

    def sample_telemetry(self) -> GpuState | None:
        """Return the GPU's state, called between timed runs; None without a GPU or a way to query it."""
        return None


# What a check judges: a file by its own types, or a processor that rounds in its own way.
Subject = Literal["file", "hardware"]


class VerificationRun(NamedTuple):
    """One check of an exported file: the runtime that computes its outputs, and the input shape."""

    name: str  # the part that is checked, such as a function of the file; empty for the complete file
    how: str  # what computes the outputs
    shape: Shape
    session: AbstractContextManager[Session]
    subject: Subject = "file"
    precision: str | None = None  # of the arithmetic, which decides the limit; None: the job's


class QuantisedFile(NamedTuple):
    """What a backend did to a network when it wrote it in INT8."""

    weights: str  # type, symmetry and granularity, as `Quantisation` has them
    activations: str
    ranges: str
    quantiser: str
    integer: Mapping[str, int]
    floating: Mapping[str, int]
    excluded: tuple[str, ...]
    changes: Mapping[str, int]
    tuning: Tuning | None = None  # the search that chose, if one did


class Quantiser(Protocol):
    """A network that is about to be written in INT8, whose calibration all files share."""

    changes: Mapping[str, tuple[str, ...]]  # of the usual choices: those worth trying, by the goal of a `Tune`

    def write(self, path: Path, metadata: dict[str, str], choices: tuple[str, ...] = ()) -> QuantisedFile:
        """Write a file by the usual choices with changes, and return what was done; equal ones give equal files."""
        ...


class QuantisedTwins(NamedTuple):
    """The two networks in float that a file in INT8 is proved by, each as a session.

    The first is the network as it was quantised, which must compute what the network in float64 computes. The second is
    the first with its weights and activations rounded to the file's grids, in float: the file must compute the same.
    """

    unrounded: AbstractContextManager[Session]
    rounded: AbstractContextManager[Session]
    how: str  # what computes both


class RoundedNetwork(NamedTuple):
    """A network in float32 whose weights, and activations, have the values that a file with 8-bit numbers has."""

    network: "nn.Module"
    scheme: Quantisation


class Rounder(Protocol):
    """The part of a backend that rounds networks before they are exported in 8 bits.

    It is for quantisers that change the network itself: the rounded network is what the file is written from and
    proved against. `Backend.quantiser` is for those that change the written graph, where the file's own grids are
    enough to round the network again.
    """

    PRECISIONS: tuple[str, ...]
    PACKAGES: tuple[str, ...]  # distributions whose versions shape the network

    def rounded(
        self, network: "nn.Module", asked: ExportJob, images: "Sequence[NDArray[np.float32]]"
    ) -> RoundedNetwork:
        """Return a copy of `network` with rounded values, activations by their ranges on normalised images (3, H, W).

        It takes its images in the form of `Backend.layout`.
        """
        ...


class Hardware(NamedTuple):
    """The hardware that was detected for a device, where it is not this machine's processor."""

    name: str
    driver: str | None = None  # or the system that runs on it
    compute_capability: str | None = None  # of an NVIDIA GPU


class Engines(Protocol):
    """The engines a toolkit builds from proved files for the hardware at hand, and runs in their place."""

    def lacking(self, device: Device) -> str | None:
        """Return why no engine for `device` can be built on this machine and the remedy; None where one can."""
        ...

    def build(self, path: Path, device: Device) -> Path:
        """Build the engine of an exported file, with its side-car, unless one that fits exists; return its path.

        Native code may end the process, so call it in a separate process. Raises `UnavailableError` where the toolkit
        refuses or this machine cannot have an engine; no partial file remains then.
        """
        ...

    def record(self, path: Path, device: Device) -> Engine:
        """Return the record of the engine that was built of a file."""
        ...

    def note(self, path: Path, device: Device, parity: Parity) -> None:
        """Record the parity of the engine's outputs in its side-car."""
        ...


class Backend(Protocol):
    """A toolkit that exports networks to files and runs such files."""

    name: str  # what [device.*] calls it
    target: str  # what `export --target` calls its files
    suffix: str  # of its files; one backend's may end in another's, such as .trt.onnx and .onnx
    precisions: tuple[str, ...]  # the first is the default of `export`
    packages: tuple[str, ...]  # distributions whose versions shape the file
    proof_packages: tuple[str, ...]  # distributions that compute its proofs
    export_options: tuple[str, ...]  # options that shape the file; all others are about running it
    flags: tuple[str, ...]  # of `export`, those that mean something to this toolkit and not to every one
    accepts_external_onnx: bool  # whether it runs ONNX files that this tool did not export
    engines: Engines | None  # of a toolkit that runs engines instead of the files themselves
    rounder: Rounder | None  # of a toolkit whose 8-bit files are proved against a rounded network

    def unavailable_reason(self, device: Device | None = None) -> str | None:
        """Return why files cannot be written here and the command that fixes it; None where they can.

        With a device, the requirements of its options count too. Does not import the toolkit.
        """
        ...

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why files cannot be run on `device` from here and the remedy; None where they can.

        Called where `unavailable_reason` returns None.
        """
        ...

    def detect_hardware(self, device: Device) -> Hardware | None:
        """Return the hardware behind a device, as its driver reports it; None where it is this machine's processor.

        Raises `UnavailableError` where the hardware does not exist.
        """
        ...

    def warmup_policy(self, device: Device) -> Mapping[str, float]:
        """Return the fields of a `Method` that set how a device is warmed up; empty where runs alone do it.

        The device's options may lack their defaults.
        """
        ...

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return the device's options with every default filled in. Raises `UsageError` for unknown or wrong ones."""
        ...

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Return the distributions whose versions affect the time of a run on `device`, installed or not.

        Only these are recorded with its figures, and figures of different versions are not compared. The device's
        options may lack their defaults.
        """
        ...

    def layout(self, exported: ExportSpec) -> GraphVariant:
        """Return the form of the folded network that suits the toolkit, for the settings of the file."""
        ...

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write `network` (float64, evaluation mode) to `path` as `asked` says, with `metadata` inside the file.

        The network is not changed, and a failed export leaves nothing at `path`. Called for every precision but int8.
        """
        ...

    def quantiser(self, network: "nn.Module", asked: ExportJob, images: "Sequence[NDArray[np.float32]]") -> Quantiser:
        """Return what writes `network` in INT8, calibrated on normalised images (3, H, W).

        Called where int8 is among the `precisions`. The network stays as it is, and the written graph is quantised; a
        toolkit whose quantiser changes the network has a `rounder` instead.
        """
        ...

    def quantised_twins(self, network: "nn.Module", asked: ExportJob, path: Path) -> QuantisedTwins:
        """Return the networks in float that the file in INT8 at `path` is proved by.

        Raises `ParityError` for a file that has other operators than the network, or in other places.
        """
        ...

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield every check of the written file that its proof needs."""
        ...

    def operations(self, path: Path) -> dict[str, int]:
        """Return the number of operations in the file by kind, without constants; empty where they are not counted."""
        ...

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """Count the arithmetic and the bytes of one run at that input shape; None where they are not counted.

        Raises `UnavailableError` for a file that cannot be read.
        """
        ...

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the metadata that `export` wrote into the file. Raises `UnavailableError` for an unreadable one."""
        ...

    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Load an exported file, or its engine, on a device whose options are filled in."""
        ...

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Return the median time of each layer over `runs` separate runs, in the order the layers run.

        Called where `unprofiled` returns None.
        """
        ...

    def unprofiled(self, device: Device) -> str | None:
        """Return a sentence that says why `device` has no times of layers; None where it has them."""
        ...
