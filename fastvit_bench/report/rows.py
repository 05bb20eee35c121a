"""Rows of a table: measurements and failures gathered by model and setting, with their cells by image size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from fastvit_bench.records import (
    Device,
    Failure,
    Fuse,
    Head,
    Machine,
    Measurement,
    Method,
    ModelSpec,
    Run,
    Shape,
    Weights,
    Window,
)
from fastvit_bench.report import published
from fastvit_bench.report.published import Published
from fastvit_bench.report.store import RunFile

REFERENCE_SIZE = "256"  # where multiply-accumulates are given if the row was measured there, as in the paper


@dataclass(frozen=True)
class Row:
    """What was measured of one model in one setting, by image size."""

    device: Device
    machine: Machine
    model: str
    variant: str
    head: Head
    classes: int
    weights: Weights
    fused: Fuse
    batch: int
    precision: str
    method: Method
    window: Window | None  # None when every cell failed
    published_as: str | None  # the name the configuration gives
    cells: dict[Shape, Measurement | Failure] = field(default_factory=dict[Shape, Measurement | Failure])

    @property
    def reference(self) -> Measurement | None:
        """The measurement whose network is counted: at 256 pixels, else at the row's smallest size."""
        measured = [cell for cell in self.cells.values() if isinstance(cell, Measurement)]
        return next((m for m in measured if m.artifact.shape.size == REFERENCE_SIZE), next(iter(measured), None))

    @property
    def published(self) -> Published | None:
        """Public figures of the ImageNet classifier; another head or other classes make another model."""
        if self.published_as is None or self.head is not Head.CLASSIFIER or self.classes != 1000:
            return None
        return published.models().get(self.published_as)

    @property
    def is_random(self) -> bool:
        """Accuracy belongs to weights: where they are random there is none, and a published one says nothing."""
        return self.weights.origin == "random"


def collect(files: Iterable[RunFile]) -> list[Row]:
    """One row per device, machine, model, weights, head, fuse level, batch, precision, window and method.

    Within a row and size the newest measurement counts. A failure stands in its row until the same cell succeeds later.
    Rows keep the order in which they were first measured.
    """
    found: dict[bytes, Row] = {}
    failures: list[tuple[Run, Failure, dict[_Setting, Row]]] = []
    succeeded: dict[tuple[_Setting, Shape], str] = {}  # when, for the last time
    for file in files:
        run = file.runs[0]
        of_this_run: dict[_Setting, Row] = {}
        for line in file.lines:
            if isinstance(line, Run):
                run = line
            elif isinstance(line, Failure):
                failures.append((run, line, of_this_run))
            else:
                key = _key(line)
                row = found.get(key)
                if row is None:
                    row = found[key] = _measured_row(line, run)
                made = line.artifact
                _take(row, made.shape, line)
                setting = (line.device.name, line.machine.host, made.model, made.fused, made.weights, made.shape.batch)
                of_this_run[setting] = row
                succeeded[setting, made.shape] = max(line.finished, succeeded.get((setting, made.shape), ""))
    for run, failure, of_this_run in failures:
        cell = failure.cell
        setting = (run.request.device.name, run.machine.host, cell.model, cell.fused, cell.weights, cell.shape.batch)
        if succeeded.get((setting, cell.shape), "") > failure.finished:
            continue
        # a failure knows no window and no resolved options; the measurements of its own run do
        row = of_this_run.get(setting)
        if row is None:
            key = msgspec.json.encode((run.request.device, run.machine, setting, run.request.method), order="sorted")
            row = found.setdefault(key, _failed_row(failure, run))
        _take(row, cell.shape, failure)
    return [
        replace(row, cells={shape: row.cells[shape] for shape in sorted(row.cells, key=_pixels)})
        for row in found.values()
    ]


# what a plan and a measurement both know of a row: device, host, model, fuse level, weights, batch
_Setting = tuple[str, str, str, Fuse, Weights, int]


def _key(found: Measurement) -> bytes:
    """Equal for measurements of one row."""
    made = found.artifact
    model = (made.model, made.variant, made.head, made.classes, made.weights, made.fused)
    setting = (found.device, found.machine, made.shape.batch, made.precision, found.method, found.window)
    return msgspec.json.encode((model, setting), order="sorted")


def _take(row: Row, shape: Shape, cell: Measurement | Failure) -> None:
    """Keep the newer of two cells."""
    if shape not in row.cells or row.cells[shape].finished <= cell.finished:
        row.cells[shape] = cell


def _measured_row(found: Measurement, run: Run) -> Row:
    made = found.artifact
    spec = next((spec for spec in run.request.models if spec.name == made.model), None)
    return Row(
        device=found.device,
        machine=found.machine,
        model=made.model,
        variant=made.variant,
        head=made.head,
        classes=made.classes,
        weights=made.weights,
        fused=made.fused,
        batch=made.shape.batch,
        precision=made.precision,
        method=found.method,
        window=found.window,
        published_as=spec.published if spec else None,
    )


def _failed_row(failure: Failure, run: Run) -> Row:
    cell = failure.cell
    spec = next((spec for spec in run.request.models if spec.name == cell.model), None)
    spec = spec or ModelSpec(name=cell.model, variant=cell.model)
    return Row(
        device=run.request.device,
        machine=run.machine,
        model=cell.model,
        variant=spec.variant,
        head=spec.head,
        classes=spec.classes,
        weights=cell.weights,
        fused=cell.fused,
        batch=cell.shape.batch,
        precision=run.request.device.precision,
        method=run.request.method,
        window=None,
        published_as=spec.published,
    )


def _pixels(shape: Shape) -> tuple[int, int]:
    """What sizes are sorted by."""
    return shape.height * shape.width, shape.height


def sizes_of(rows: Sequence[Row]) -> list[str]:
    """Every size of any row, smallest first; batches do not tell sizes apart."""
    shapes = sorted({shape for row in rows for shape in row.cells}, key=_pixels)
    return list(dict.fromkeys(shape.size for shape in shapes))
