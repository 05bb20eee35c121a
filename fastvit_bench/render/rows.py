"""Rows of a table: measurements and failures gathered by model and setting, with their cells by image size."""

import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import StoreError
from fastvit_bench.paper import published
from fastvit_bench.paper.published import Published
from fastvit_bench.records import (
    ONNX,
    Accuracy,
    Artifact,
    CallPattern,
    Cell,
    Device,
    Engine,
    ExternalModel,
    Failure,
    Fuse,
    Head,
    Machine,
    Measurement,
    Method,
    ModelSpec,
    Placement,
    Run,
    Shape,
    Statistic,
    Unit,
    Weights,
    Window,
)
from fastvit_bench.store import figures, runs
from fastvit_bench.store.runs import Line, RunFile
from fastvit_bench.store.selection import EVERYTHING, Selection

REFERENCE_SIZE = "256"  # where multiply-accumulates are given if the row was measured there, as in the paper
UNKNOWN_SIZE = "other input"  # of a model of another origin that takes no image


@dataclass(frozen=True)
class Row:
    """The measurements of one model in one setting, by image size."""

    key: bytes  # differs between rows of one collection
    device: Device
    machine: Machine
    model: str
    variant: str | None  # None, as the next four, of a model of another origin
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
    pacing: CallPattern
    clock: str | None  # None when every cell failed
    toolkit: str  # that built the engine, with its version and system; empty where the file itself ran
    published_as: str | None  # the name the configuration gives
    own_size: int | None  # pixels that the model is evaluated at, by the configuration
    cells: dict[Shape | None, Measurement | Failure] = field(default_factory=dict[Shape | None, Measurement | Failure])
    accuracies: dict[Shape | None, Accuracy] | None = None  # of the very files that were timed; None: not asked for

    @functools.cached_property
    def by_size(self) -> dict[str, Measurement | Failure]:
        """Cells by their size as columns are called."""
        return {size_of(shape): cell for shape, cell in self.cells.items()}

    @functools.cached_property
    def measured(self) -> list[Measurement]:
        """Cells that are no failures, by size."""
        return _measured(self.cells)

    @property
    def warnings(self) -> dict[Shape | None, list[str]]:
        """Reasons to distrust each measurement, by its size: its own, and those from the next smaller size's plan."""
        return {cell.shape: self.doubts(cell) for cell in self.measured}

    def doubts(self, cell: Measurement) -> list[str]:
        """Return the reasons to distrust one of the row's measurements."""
        return [*cell.warnings, *falls(self).get(cell.shape, ())]

    @functools.cached_property
    def reference(self) -> Artifact | None:
        """Network that is counted: at 256 pixels, else at the row's smallest size; None of one not exported here."""
        exported = [cell.artifact for cell in self.measured if isinstance(cell.artifact, Artifact)]
        return next(
            (artifact for artifact in exported if artifact.shape.size == REFERENCE_SIZE), next(iter(exported), None)
        )

    @functools.cached_property
    def published(self) -> Published | None:
        """Public figures of the ImageNet classifier; None for another head or other classes, another model."""
        if self.published_as is None or self.head is not Head.CLASSIFIER or self.classes != 1000:
            return None
        return published.models().get(self.published_as)

    @property
    def is_random(self) -> bool:
        """Return whether the weights are random.

        Accuracy belongs to weights: where they are random there is none, and a published one says nothing.
        """
        return self.weights is not None and self.weights.origin == "random"


def _measured(cells: Mapping[Shape | None, Measurement | Failure]) -> list[Measurement]:
    return [cell for cell in cells.values() if isinstance(cell, Measurement)]


def collect(files: Iterable[RunFile]) -> list[Row]:
    """Return one row per device, machine, model, form, weights, head, fuse level, batch, precision and method.

    A device is one with all its options, and a method one with its window, pacing, clock and the engine's toolkit.
    Within a row and size the newest measurement counts. A failure stands in its row until the same cell succeeds later.
    Rows keep the order in which they were first measured.
    """
    return gather(file.lines for file in files)


def read(
    paths: Sequence[Path], others: Iterable[Path] = (), selection: Selection = EVERYTHING
) -> tuple[list[Row], list[Accuracy], list[str]]:
    """Return the rows of stored runs as `collect` builds them, and the accuracies of these runs and of `others`.

    Of `paths` only those lines count that fit the selection. Accuracies that are to be joined, with `others`, count in
    any case: they are matched by the file's hash.
    The last value is a sentence on each run that cannot be read, of which nothing counts. Files are read line by line,
    and of measurements only those are kept in memory that are shown: a store may be larger than the memory. Raises
    `StoreError` as `runs.read` does where none of `paths` can be read.
    """
    counted: list[Accuracy] = []
    faults: dict[Path, StoreError] = {}

    def lines_of(path: Path) -> Iterator[Line]:
        try:
            for line in chosen(path):
                if isinstance(line, Accuracy):
                    counted.append(line)
                yield line
        except StoreError as error:
            faults[path] = error

    shown, joined = set(paths), list(others)
    beside = [path for path in joined if path not in shown]

    def chosen(path: Path) -> Iterable[Line]:
        lines = reader.lines(path)
        if not selection or path not in shown:
            return lines
        return selection.lines(lines, spared=(Accuracy,) if joined else ())

    with figures.undisturbed(), figures.reading([*paths, *beside]) as reader:
        while True:
            known = len(faults)
            counted.clear()
            rows = gather(lines_of(path) for path in paths if path not in faults)
            for path in (path for path in beside if path not in faults):
                deque(lines_of(path), maxlen=0)
            if len(faults) == known:  # else again, without the first lines of the runs that end in a fault
                break
    notes = runs.left_out(list(faults.values()), some=bool(shown - faults.keys()))
    return rows, counted, notes


def gather(files: Iterable[Iterable[Line]]) -> list[Row]:
    """Return the rows that `collect` returns, from lines of run files; each line is read once, in order."""
    rows: dict[bytes, Row] = {}
    settings: dict[bytes, _Setting] = {}  # of the rows that a failure can belong to
    failures: list[tuple[Run, Failure, dict[bytes, Row]]] = []
    keys = Keys()
    for lines in files:
        run: Run | None = None
        of_this_run: dict[bytes, Row] = {}
        for line in lines:
            if isinstance(line, Measurement):
                assert run is not None  # a run file begins with its run
                name = keys.of(line)
                if (row := rows.get(name)) is None:
                    row = rows[name] = measured_row(line, run, name)
                    if row.weights:  # no sweep fails on a model of another origin
                        settings[name] = _setting(row, row.weights)
                _take(row, line.shape, line)
                of_this_run[name] = row
            elif isinstance(line, Run):
                run = line
            elif isinstance(line, Failure):
                assert run is not None
                if run.request.evaluation is None:  # a failed evaluation has no place among latencies
                    failures.append((run, line, of_this_run))
    shaping = {name for row in rows.values() for name in row.form}
    succeeded: dict[tuple[_Setting, _Way, Shape | None], str] = {}  # when, for the last time
    for name, setting in settings.items() if failures else ():
        row = rows[name]
        for cell in _measured(row.cells):  # a row caches its own once it is complete
            key_of = (setting, _way(row.device, row.method, shaping), cell.shape)
            succeeded[key_of] = max(cell.finished, succeeded.get(key_of, ""))
    for run, failure, of_this_run in failures:
        cell, asked = failure.cell, run.request
        setting = (
            asked.device.name,
            (run.machine.name, *run.machine.hardware),
            cell.model,
            _level(cell, run),
            cell.weights,
            cell.shape.batch,
        )
        if succeeded.get((setting, _way(asked.device, asked.method, shaping), cell.shape), "") > failure.finished:
            continue
        # a failure knows no window and no resolved options; the measurements of its own run do
        row = {settings[name]: row for name, row in of_this_run.items() if name in settings}.get(setting)
        if row is None:
            where = lasting(run.machine, asked.device)
            name = msgspec.json.encode((asked.device, where, setting, asked.method), order="sorted")
            row = rows.setdefault(name, _failed_row(failure, run, name))
        _take(row, cell.shape, failure)
    return [
        replace(
            row,
            machine=_shared_machine(row),
            cells={shape: row.cells[shape] for shape in sorted(row.cells, key=_pixels)},
        )
        for row in rows.values()
    ]


def newest(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most so many rows in their order: those whose newest figure or failure is the newest."""
    if len(rows) <= most:
        return list(rows)
    last = [max(cell.finished for cell in row.cells.values()) for row in rows]
    chosen = sorted(range(len(rows)), key=lambda at: (last[at], at))[len(rows) - most :]
    return [rows[at] for at in sorted(chosen)]


def join(rows: Iterable[Row], accuracies: Iterable[Accuracy]) -> list[Row]:
    """Return the rows with the accuracies of the very files that were timed, by size, matched by SHA-256."""
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
    """Return the accuracy of each file, by its SHA-256: of the most images, and of those the newest."""
    ordered = sorted(accuracies, key=lambda accuracy: (accuracy.images, accuracy.finished))
    return {accuracy.artifact.sha256: accuracy for accuracy in ordered if accuracy.artifact.sha256 is not None}


# what a plan and a measurement both know of a row: device, machine, model, fuse level, weights, batch
_Setting = tuple[str, tuple[object, ...], str, Fuse | None, Weights, int]

# options that decide what a figure on a GPU means; a failure knows them too
RUNNING = frozenset({"graph", "transfers", "sync", "cuda_binding", "compile", "provider"})

# and of how it is measured: the statistic, and the options that shape the file or are among those
_Way = tuple[Statistic, tuple[tuple[str, str], ...]]


def _setting(row: Row, weights: Weights) -> _Setting:
    return (row.device.name, (row.machine.name, *row.machine.hardware), row.model, row.fused, weights, row.batch)


def _way(device: Device, method: Method, shaping: set[str]) -> _Way:
    options = {name: str(device.options[name]) for name in (shaping | RUNNING) & device.options.keys()}
    return method.statistic, tuple(sorted(options.items()))


def lasting(machine: Machine, device: Device) -> Machine:
    """Return the part of a machine that its figures share: without the host name, which each container has anew."""
    return msgspec.structs.replace(_narrowed(machine, device), host="")


def _narrowed(machine: Machine, device: Device) -> Machine:
    names = _counted(device.backend, msgspec.json.encode(device))
    if names is None:
        return machine
    return msgspec.structs.replace(
        machine, packages={name: of for name, of in machine.packages.items() if name in names}
    )


@functools.lru_cache(maxsize=256)
def _counted(backend: str, device: bytes) -> frozenset[str] | None:
    """Return `backends.figure_packages`, cached for many measurements of few devices."""
    names = backends.figure_packages(msgspec.json.decode(device, type=Device))
    return None if names is None else frozenset(names)


def _shared_machine(row: Row) -> Machine:
    """Return the row's machine, with the host name that all of its cells have."""
    hosts = {cell.machine.host for cell in _measured(row.cells)}
    return row.machine if len(hosts) < 2 else msgspec.structs.replace(row.machine, host="")


class Keys:
    """Keys that are equal for measurements of one row; what the very same records need is encoded once."""

    def __init__(self) -> None:
        """Know nothing yet."""
        # records are kept beside what they gave, so that no other one gets their ids
        self._networks: dict[int, tuple[object, bytes]] = {}
        self._settings: dict[tuple[object, ...], tuple[object, bytes]] = {}
        self._known: dict[bytes, bytes] = {}  # so that equal halves of keys are one object
        self._keys: dict[tuple[int, int], bytes] = {}

    def of(self, measurement: Measurement) -> bytes:
        """Return the key of a measurement's row."""
        artifact = measurement.artifact
        network = self._networks.get(id(artifact))
        if network is None:
            network = self._networks[id(artifact)] = artifact, self._once(self.network(artifact))
        parts = (measurement.device, measurement.machine, measurement.engine, measurement.method)
        way = (*map(id, parts), id(measurement.window), id(measurement.pacing), measurement.clock)
        setting = self._settings.get(way)
        if setting is None:
            setting = self._settings[way] = parts, self._once(self.setting(measurement))
        halves = id(network[1]), id(setting[1])
        name = self._keys.get(halves)
        if name is None:
            name = self._keys[halves] = network[1] + setting[1]
        return name

    def network(self, artifact: Artifact | ExternalModel) -> bytes:
        """Return the half of a key that the artifact decides."""
        return network_key(artifact)

    def setting(self, measurement: Measurement) -> bytes:
        """Return the half of a key that is about how and on what the artifact was measured."""
        way = (measurement.window, measurement.pacing, measurement.clock)
        return setting_key(measurement.device, measurement.machine, measurement.engine, measurement.method, way)

    def _once(self, half: bytes) -> bytes:
        return self._known.setdefault(half, half)


def network_key(artifact: Artifact | ExternalModel) -> bytes:
    """Return the half of a row's key that is about what was measured."""
    if isinstance(artifact, ExternalModel):
        # without an image size nothing but the inputs distinguishes two of one name
        network = (artifact.model, artifact.operations, artifact.inputs if artifact.shape is None else None)
    else:
        network = (artifact.model, artifact.variant, artifact.head, artifact.classes, artifact.weights, artifact.level)
        network = (*network, artifact.options, artifact.functions)
    batch = artifact.shape.batch if artifact.shape else 1
    return _encoded((type(artifact).__name__, network, batch, artifact.precision))


def setting_key(
    device: Device, machine: Machine, engine: Engine | None, method: Method, way: tuple[object, ...]
) -> bytes:
    """Return the half of a row's key that is about how and on what; `way` is window, pacing and clock."""
    built = (engine.toolkit, engine.version, engine.platform, engine.settings) if engine else None
    return _encoded((device, lasting(machine, device), built, method, way))


def _encoded(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _form(measurement: Measurement) -> dict[str, str]:
    return measurement.artifact.options if isinstance(measurement.artifact, Artifact) else {}


def _toolkit(engine: Engine | None) -> str:
    return f"{engine.toolkit} {engine.version} for {engine.platform}" if engine else ""


def _batch(measurement: Measurement) -> int:
    return measurement.shape.batch if measurement.shape else 1


def key(measurement: Measurement) -> bytes:
    """Return a key that is equal for measurements of one row."""
    return Keys().of(measurement)


def _take(row: Row, shape: Shape | None, cell: Measurement | Failure) -> None:
    """Put a cell into its row unless the row has a newer one of that size."""
    if shape not in row.cells or row.cells[shape].finished <= cell.finished:
        row.cells[shape] = cell


def measured_row(measurement: Measurement, run: Run, name: bytes | None = None) -> Row:
    """Return the row of a measurement, still without cells; `name` is its key, where that is known."""
    artifact = measurement.artifact
    exported = artifact if isinstance(artifact, Artifact) else None
    spec = next((spec for spec in run.request.models if exported and spec.name == artifact.model), None)
    return Row(
        key=name or key(measurement),
        device=measurement.device,
        machine=_narrowed(measurement.machine, measurement.device),
        model=artifact.model,
        variant=exported.variant if exported else None,
        head=exported.head if exported else None,
        classes=exported.classes if exported else None,
        weights=exported.weights if exported else None,
        fused=exported.level if exported else None,
        form=_form(measurement),
        functions=exported.functions if exported else (),
        batch=_batch(measurement),
        precision=artifact.precision,
        method=measurement.method,
        window=measurement.window,
        pacing=measurement.pacing,
        clock=measurement.clock,
        toolkit=_toolkit(measurement.engine),
        published_as=spec.published if spec else None,
        own_size=spec.resolution if spec else None,
    )


def _spec(cell: Cell, run: Run) -> ModelSpec:
    """Return the model of a cell as the run declares it."""
    spec = next((spec for spec in run.request.models if spec.name == cell.model), None)
    return spec or ModelSpec(name=cell.model, variant=cell.model)


def _level(cell: Cell, run: Run) -> Fuse | None:
    """Return the fuse level of a cell; None of a user's file, for which earlier versions recorded one."""
    return None if _spec(cell, run).variant == ONNX else cell.fused


def _failed_row(failure: Failure, run: Run, key: bytes) -> Row:
    cell, spec = failure.cell, _spec(failure.cell, run)
    return Row(
        key=key,
        device=run.request.device,
        machine=_narrowed(run.machine, run.request.device),
        model=cell.model,
        variant=spec.variant,
        head=spec.head,
        classes=spec.classes,
        weights=cell.weights,
        fused=_level(cell, run),
        form={},
        functions=(),
        batch=cell.shape.batch,
        precision=run.request.device.precision,
        method=run.request.method,
        window=None,
        pacing=CallPattern.BACK_TO_BACK,
        clock=None,
        toolkit="",
        published_as=spec.published,
        own_size=spec.resolution,
    )


# --- sizes ------------------------------------------------------------------------------------------------------------


def size_of(shape: Shape | None) -> str:
    """Return the size as columns are called."""
    return UNKNOWN_SIZE if shape is None else shape.size


def sizes_of(rows: Sequence[Row]) -> list[str]:
    """Return every size of any row, smallest first, the unknown last, whatever the batches."""
    shapes = sorted({shape for row in rows for shape in row.cells}, key=_pixels)
    return list(dict.fromkeys(size_of(shape) for shape in shapes))


def _pixels(shape: Shape | None) -> tuple[float, int]:
    """Return the sort key of a size."""
    return (float("inf"), 0) if shape is None else (shape.height * shape.width, shape.height)


# --- where operations are planned -------------------------------------------------------------------------------------

FALL = 0.1  # of the Neural Engine's share, from one size to the next, that a person should know of


def planned_share(plan: Placement, unit: Unit) -> float:
    """Return a unit's share of the planned cost, or of the operations where the plan names no cost."""
    return (plan.costs or plan.shares)[unit]


def falls(row: Row) -> dict[Shape | None, list[str]]:
    """Return a sentence on each size whose plan gives the Neural Engine clearly less than the next smaller one's."""
    planned = [(cell.shape, cell.placement) for cell in row.measured if cell.placement]
    sentences: dict[Shape | None, list[str]] = {}
    for (smaller, before), (larger, after) in itertools.pairwise(planned):
        both = before.costs and after.costs  # a share of costs and one of operations say nothing of each other
        shares = [(plan.costs if both else plan.shares) or {} for plan in (before, after)]
        share_before, share_after = (share[Unit.NEURAL_ENGINE] for share in shares)
        if share_before - share_after > FALL:
            of = "cost" if both else "operations"
            sentences[larger] = [
                f"planned share of {of} on the Neural Engine falls from {100 * share_before:.0f} % at "
                f"{size_of(smaller)} to {100 * share_after:.0f} % at {size_of(larger)}"
            ]
    return sentences
