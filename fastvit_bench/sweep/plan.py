"""Plan of a sweep: its cells, each with the export it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvit_bench import files
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.network import registry
from fastvit_bench.records import Artifact, Cell, ExportJob, Measurement, Request


@dataclass(frozen=True)
class Step:
    """A cell, the export it needs, and its artifact if it was exported before."""

    cell: Cell
    job: ExportJob
    cached: Artifact | None

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one batch.

        Before the export they are the catalogue's, scaled by the number of pixels.
        """
        if self.cached is not None:
            return self.cached.macs
        shape = self.cell.shape
        return registry.macs(self.job.variant, shape.height * shape.width) * shape.batch


def plan(request: Request, models: Path) -> list[Step]:
    """Return the steps of a request in the order they will run.

    That is model by model; the sizes of a model keep the order of the request.
    """
    steps: list[Step] = []
    for spec in request.models:
        weights = checkpoints.weights_of(spec, request.seed)
        for shape in request.shapes:
            job = pipeline.job(spec, weights, shape, request.fused, request.device, folder=models, seed=request.seed)
            files.sweep(Path(job.path).parent)  # of drafts by killed processes
            cell = Cell(model=spec.name, shape=shape, fused=request.fused, weights=weights)
            steps.append(Step(cell, job, pipeline.cached(job)))
    return steps


def check_checkpoints(request: Request, steps: Sequence[Step]) -> None:
    """Raise `CheckpointError` unless every checkpoint that has still to be exported can be; builds no network."""
    needed = {step.cell.model for step in steps if step.cached is None}
    for spec in request.models:
        if spec.name in needed:
            checkpoints.check_checkpoint(spec)


def cell_of(measurement: Measurement) -> Cell:
    """Return the cell that a measurement of a sweep belongs to."""
    artifact = measurement.artifact
    assert isinstance(artifact, Artifact)
    return Cell(model=artifact.model, shape=artifact.shape, fused=artifact.fused, weights=artifact.weights)


def file_of(step: Step, artifact: Artifact) -> str:
    """Return the path of the step's exported file."""
    return str(Path(step.job.path).with_name(artifact.path))


def cells_of(steps: Sequence[Step]) -> tuple[Cell, ...]:
    """Return the cells of the steps, in their order."""
    return tuple(step.cell for step in steps)
