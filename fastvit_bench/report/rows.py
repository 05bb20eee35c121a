"""Rows of a table: measurements and failures gathered by model and setting, with their cells by image size."""

import functools
import gc
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from fastvit_bench import backends
from fastvit_bench.records import (
    Accuracy,
    Artifact,
    Device,
    Engine,
    Failure,
    Foreign,
    Fuse,
    Head,
    Machine,
    Measurement,
    Method,
    ModelSpec,
    Pacing,
    Placement,
    Run,
    Shape,
    Statistic,
    Unit,
    Weights,
    Window,
)
from fastvit_bench.report import published, store
from fastvit_bench.report.published import Published
from fastvit_bench.report.store import Line, RunFile

REFERENCE_SIZE = "256"  # where multiply-accumulates are given if the row was measured there, as in the paper
UNKNOWN_SIZE = "other input"  # of a model that is not ours and takes no image


@dataclass(frozen=True)
class Row:
    """What was measured of one model in one setting, by image size."""

    key: bytes  # differs between rows of one collection
    device: Device
    machine: Machine
    model: str
    variant: str | None  # None, as the next four, of a model that is not ours
    head: Head | None
    classes: int | None
    weights: Weights | None
    fused: Fuse | None
    form: dict[str, str]  # options that shaped the file; empty when every cell failed
    functions: tuple[Shape, ...]  # sizes that share one file, where several do
    batch: int
    precision: str
    method: Method
    window: Window | None  # None when every cell failed
    pacing: Pacing
    clock: str | None  # likewise
    toolkit: str  # that built the engine, with its version and system; empty where the file itself ran
    published_as: str | None  # the name the configuration gives
    own_size: int | None  # pixels that the model is evaluated at, by the configuration
    cells: dict[Shape | None, Measurement | Failure] = field(default_factory=dict[Shape | None, Measurement | Failure])
    accuracies: dict[Shape | None, Accuracy] | None = None  # of the very files that were timed; None: not asked for

    @functools.cached_property
    def by_size(self) -> dict[str, Measurement | Failure]:
        """The cells by their size as columns are called."""
        return {size_of(shape): cell for shape, cell in self.cells.items()}

    @property
    def measured(self) -> list[Measurement]:
        """The cells that are no failures, by size."""
        return [cell for cell in self.cells.values() if isinstance(cell, Measurement)]

    @property
    def warnings(self) -> dict[Shape | None, list[str]]:
        """Reasons to distrust each measurement, by its size: its own, and what the next smaller size's plan tells."""
        return {cell.shape: self.doubts(cell) for cell in self.measured}

    def doubts(self, cell: Measurement) -> list[str]:
        """Reasons to distrust one of the row's measurements."""
        return [*cell.warnings, *falls(self).get(cell.shape, ())]

    @property
    def reference(self) -> Artifact | None:
        """The network that is counted: at 256 pixels, else at the row's smallest size; None of one that is not ours."""
        ours = [cell.artifact for cell in self.measured if isinstance(cell.artifact, Artifact)]
        return next((made for made in ours if made.shape.size == REFERENCE_SIZE), next(iter(ours), None))

    @property
    def published(self) -> Published | None:
        """Public figures of the ImageNet classifier; another head or other classes make another model."""
        if self.published_as is None or self.head is not Head.CLASSIFIER or self.classes != 1000:
            return None
        return published.models().get(self.published_as)

    @property
    def is_random(self) -> bool:
        """Accuracy belongs to weights: where they are random there is none, and a published one says nothing."""
        return self.weights is not None and self.weights.origin == "random"


def collect(files: Iterable[RunFile]) -> list[Row]:
    """One row per device, machine, model in one form, weights, head, fuse level, batch, precision and way of measuring.

    A device is one with all its options, and a way of measuring includes the toolkit that built an engine.

    Within a row and size the newest measurement counts. A failure stands in its row until the same cell succeeds later.
    Rows keep the order in which they were first measured.
    """
    return gather(file.lines for file in files)


def read(paths: Sequence[Path], others: Iterable[Path] = ()) -> tuple[list[Row], list[Accuracy]]:
    """The rows of stored runs as `collect` makes them, and what was counted in these runs and in others.

    Files are read line by line, and of measurements only those are held that are shown: a store may be larger than the
    memory. Raises as `store.read` does.
    """
    counted: list[Accuracy] = []

    def told(path: Path) -> Iterator[Line]:
        for line in store.each_line(path):
            if isinstance(line, Accuracy):
                counted.append(line)
            yield line

    with _undisturbed():
        rows = gather(told(path) for path in paths)
        shown = set(paths)
        for path in (each for each in others if each not in shown):
            deque(told(path), maxlen=0)
    return rows, counted


@contextmanager
def _undisturbed() -> Generator[None]:
    """Without the garbage collector: records hold no cycles, and it would look through all that is held, repeatedly."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def gather(files: Iterable[Iterable[Line]]) -> list[Row]:
    """`collect` of the lines of run files; each is looked at once, in order."""
    found: dict[bytes, Row] = {}
    settings: dict[bytes, _Setting] = {}  # of the rows that a failure can belong to
    failures: list[tuple[Run, Failure, dict[_Setting, Row]]] = []
    for lines in files:
        run: Run | None = None
        of_this_run: dict[_Setting, Row] = {}
        for line in lines:
            if isinstance(line, Measurement):
                assert run is not None  # a run file begins with its run
                name = key(line)
                row = found.get(name)
                if row is None:
                    row = found[name] = measured_row(line, run)
                    if row.fused and row.weights:  # no sweep fails on a model that is not ours
                        settings[name] = _setting(row, row.fused, row.weights)
                _take(row, line.shape, line)
                if name in settings:
                    of_this_run[settings[name]] = row
            elif isinstance(line, Run):
                run = line
            elif isinstance(line, Failure):
                assert run is not None
                if run.request.evaluation is None:  # one that was not to be timed has no place among latencies
                    failures.append((run, line, of_this_run))
    shaping = {name for row in found.values() for name in row.form}
    succeeded: dict[tuple[_Setting, _Way, Shape | None], str] = {}  # when, for the last time
    for name, setting in settings.items():
        row = found[name]
        for cell in row.measured:
            key_of = (setting, _way(row.device, row.method, shaping), cell.shape)
            succeeded[key_of] = max(cell.finished, succeeded.get(key_of, ""))
    for run, failure, of_this_run in failures:
        cell, asked = failure.cell, run.request
        setting = (
            asked.device.name,
            (run.machine.name, *run.machine.hardware),
            cell.model,
            cell.fused,
            cell.weights,
            cell.shape.batch,
        )
        if succeeded.get((setting, _way(asked.device, asked.method, shaping), cell.shape), "") > failure.finished:
            continue
        # a failure knows no window and no resolved options; the measurements of its own run do
        row = of_this_run.get(setting)
        if row is None:
            where = lasting(run.machine, asked.device)
            name = msgspec.json.encode((asked.device, where, setting, asked.method), order="sorted")
            row = found.setdefault(name, _failed_row(failure, run, name))
        _take(row, cell.shape, failure)
    return [
        replace(
            row,
            machine=_whole_machine(row),
            cells={shape: row.cells[shape] for shape in sorted(row.cells, key=_pixels)},
        )
        for row in found.values()
    ]


def join(rows: Iterable[Row], accuracies: Iterable[Accuracy]) -> list[Row]:
    """The rows with what was counted of the very files that were timed, known by their SHA-256, by size."""
    best = best_of(accuracies)
    return [
        replace(
            row,
            accuracies={
                cell.shape: best[cell.artifact.sha256]
                for cell in row.measured
                if isinstance(cell.artifact, Artifact) and cell.artifact.sha256 in best
            },
        )
        for row in rows
    ]


def best_of(accuracies: Iterable[Accuracy]) -> dict[str, Accuracy]:
    """By the SHA-256 of the file: what was counted over the most images, and of those the newest."""
    ordered = sorted(accuracies, key=lambda each: (each.images, each.finished))
    return {found.artifact.sha256: found for found in ordered if found.artifact.sha256 is not None}


# what a plan and a measurement both know of a row: device, machine, model, fuse level, weights, batch
_Setting = tuple[str, tuple[object, ...], str, Fuse, Weights, int]

# options that decide what a figure on a GPU means; a failure knows them too
RUNNING = frozenset({"graph", "transfers", "sync", "cuda_binding", "compile", "provider"})

# and of how it is measured: the statistic, and the options that shape the file or are among those
_Way = tuple[Statistic, tuple[tuple[str, str], ...]]


def _setting(row: Row, fused: Fuse, weights: Weights) -> _Setting:
    return (row.device.name, (row.machine.name, *row.machine.hardware), row.model, fused, weights, row.batch)


def _way(device: Device, method: Method, shaping: set[str]) -> _Way:
    options = {name: str(device.options[name]) for name in (shaping | RUNNING) & device.options.keys()}
    return method.statistic, tuple(sorted(options.items()))


def lasting(machine: Machine, device: Device) -> Machine:
    """What of a machine its figures share: without the host name, of which every container has one of its own."""
    return msgspec.structs.replace(_narrowed(machine, device), host="")


def _narrowed(machine: Machine, device: Device) -> Machine:
    kept = _counted(device.backend, msgspec.json.encode(device))
    if kept is None:
        return machine
    return msgspec.structs.replace(
        machine, packages={name: of for name, of in machine.packages.items() if name in kept}
    )


@functools.lru_cache(maxsize=256)
def _counted(backend: str, device: bytes) -> frozenset[str] | None:
    """`backends.figure_packages` of many measurements of few devices."""
    names = backends.figure_packages(msgspec.json.decode(device, type=Device))
    return None if names is None else frozenset(names)


def _whole_machine(row: Row) -> Machine:
    """The row's machine, with the host name that all of its cells have."""
    hosts = {cell.machine.host for cell in row.measured}
    return row.machine if len(hosts) < 2 else msgspec.structs.replace(row.machine, host="")


def key(found: Measurement) -> bytes:
    """Equal for measurements of one row."""
    made = found.artifact
    if isinstance(made, Foreign):
        # without an image size nothing but the inputs tells two of one name apart
        model = (made.model, made.operations, made.inputs if made.shape is None else None)
    else:
        network = (made.model, made.variant, made.head, made.classes, made.weights, made.fused)
        model = (*network, made.options, made.functions)
    engine = found.engine
    built = (engine.toolkit, engine.version, engine.platform, engine.settings) if engine else None
    way = (found.method, found.window, found.pacing, found.clock, built)
    setting = (found.device, lasting(found.machine, found.device), _batch(found), made.precision, way)
    return msgspec.json.encode((type(made).__name__, model, setting), order="sorted")


def _form(found: Measurement) -> dict[str, str]:
    return found.artifact.options if isinstance(found.artifact, Artifact) else {}


def _toolkit(engine: Engine | None) -> str:
    return f"{engine.toolkit} {engine.version} for {engine.platform}" if engine else ""


def _batch(found: Measurement) -> int:
    return found.shape.batch if found.shape else 1


def _take(row: Row, shape: Shape | None, cell: Measurement | Failure) -> None:
    """Keep the newer of two cells."""
    if shape not in row.cells or row.cells[shape].finished <= cell.finished:
        row.cells[shape] = cell


def measured_row(found: Measurement, run: Run) -> Row:
    """The row of a measurement, still without cells."""
    made = found.artifact
    ours = made if isinstance(made, Artifact) else None
    spec = next((spec for spec in run.request.models if ours and spec.name == made.model), None)
    return Row(
        key=key(found),
        device=found.device,
        machine=_narrowed(found.machine, found.device),
        model=made.model,
        variant=ours.variant if ours else None,
        head=ours.head if ours else None,
        classes=ours.classes if ours else None,
        weights=ours.weights if ours else None,
        fused=ours.fused if ours else None,
        form=_form(found),
        functions=ours.functions if ours else (),
        batch=_batch(found),
        precision=made.precision,
        method=found.method,
        window=found.window,
        pacing=found.pacing,
        clock=found.clock,
        toolkit=_toolkit(found.engine),
        published_as=spec.published if spec else None,
        own_size=spec.resolution if spec else None,
    )


def _failed_row(failure: Failure, run: Run, key: bytes) -> Row:
    cell = failure.cell
    spec = next((spec for spec in run.request.models if spec.name == cell.model), None)
    spec = spec or ModelSpec(name=cell.model, variant=cell.model)
    return Row(
        key=key,
        device=run.request.device,
        machine=_narrowed(run.machine, run.request.device),
        model=cell.model,
        variant=spec.variant,
        head=spec.head,
        classes=spec.classes,
        weights=cell.weights,
        fused=cell.fused,
        form={},
        functions=(),
        batch=cell.shape.batch,
        precision=run.request.device.precision,
        method=run.request.method,
        window=None,
        pacing=Pacing.BACK_TO_BACK,
        clock=None,
        toolkit="",
        published_as=spec.published,
        own_size=spec.resolution,
    )


# --- sizes ------------------------------------------------------------------------------------------------------------


def size_of(shape: Shape | None) -> str:
    """The size as columns are called."""
    return UNKNOWN_SIZE if shape is None else shape.size


def sizes_of(rows: Sequence[Row]) -> list[str]:
    """Every size of any row, smallest first, the unknown last; batches do not tell sizes apart."""
    shapes = sorted({shape for row in rows for shape in row.cells}, key=_pixels)
    return list(dict.fromkeys(size_of(shape) for shape in shapes))


def _pixels(shape: Shape | None) -> tuple[float, int]:
    """What sizes are sorted by."""
    return (float("inf"), 0) if shape is None else (shape.height * shape.width, shape.height)


# --- where operations are planned -------------------------------------------------------------------------------------

FALL = 0.1  # of the Neural Engine's share, from one size to the next, that a person should know of


def planned_share(plan: Placement, unit: Unit) -> float:
    """Of the planned cost, or of the operations where the plan names no cost."""
    return (plan.costs or plan.shares)[unit]


def falls(row: Row) -> dict[Shape | None, list[str]]:
    """Each size at which the plan gives the Neural Engine clearly less than at the next smaller one, in words."""
    planned = [(cell.shape, cell.placement) for cell in row.measured if cell.placement]
    found: dict[Shape | None, list[str]] = {}
    for (smaller, before), (larger, after) in itertools.pairwise(planned):
        both = before.costs and after.costs  # a share of costs and one of operations say nothing of each other
        shares = [(plan.costs if both else plan.shares) or {} for plan in (before, after)]
        was, now = (share[Unit.NEURAL_ENGINE] for share in shares)
        if was - now > FALL:
            of = "cost" if both else "operations"
            text = f"planned share of {of} on the Neural Engine falls from {100 * was:.0f} % at {size_of(smaller)}"
            found[larger] = [f"{text} to {100 * now:.0f} % at {size_of(larger)}"]
    return found
