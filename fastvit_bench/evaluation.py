"""The other corridor: which artifacts are to name the classes of which images becomes tallies, and those accuracies.

Cells, exports and files are those of a sweep, so that what is counted is the file that is timed.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fastvit_bench import backends, build, sweep
from fastvit_bench.errors import NotComparableError, UsageError
from fastvit_bench.measure import images
from fastvit_bench.measure import machine as machines
from fastvit_bench.measure.images import DataSet
from fastvit_bench.records import (
    Accuracy,
    Artifact,
    Cell,
    CellError,
    Device,
    Evaluation,
    EvaluationJob,
    Failure,
    Head,
    Machine,
    Preprocessing,
    Request,
    Tally,
)
from fastvit_bench.report import store
from fastvit_bench.sweep import Step
from fastvit_bench.worker import Worker


@dataclass(frozen=True)
class Place:
    """Where the files are run."""

    device: Device  # its options filled in
    machine: Machine
    lacking: str | None  # why the device itself cannot run here, and what proves files anywhere takes its place

    @property
    def on_device(self) -> bool:
        """Or by what proves files anywhere."""
        return self.lacking is None


def preflight(device: Device, name: str = "") -> Place:
    """The device if it can run here, else what proves its files; raises `UnavailableError` for the wrong hardware.

    `name` is what a person calls the machine.
    """
    backend = backends.get(device.backend)
    lacking = backend.absent(device)
    if lacking is not None:
        machine = machines.collect(name=name)
        packages = backends.installed(backend.proof_packages)
        return Place(device, msgspec.structs.replace(machine, packages=packages), lacking)
    device, machine = sweep.preflight(device, name=name)
    return Place(device, machine, None)


def described(found: DataSet, data: Path, limit: int | None, workers: int) -> Evaluation:
    """A data set as a run keeps it; `data` as it was given."""
    return Evaluation(
        data=str(data),
        labels=str(found.labels) if found.labels else None,
        limit=limit,
        images=len(found.pictures),
        digest=found.digest,
        workers=workers,
        decoder=images.decoder(),
    )


def check(request: Request, steps: Sequence[Step], found: DataSet) -> None:
    """Raise `UsageError` unless every model can answer for the images, before anything is built.

    `CheckpointError` where a checkpoint that has still to be exported cannot be.
    """
    cached = {step.cell.model: step.cached for step in steps if step.cached is not None}
    for spec in request.models:
        made = cached.get(spec.name)
        head, classes = (made.head, made.classes) if made else build.answers_of(spec)
        if head is not Head.CLASSIFIER:
            raise UsageError(f"{spec.name} ends in {head} and names no class of an image; there is no accuracy of it.")
        images.check_classes(found, classes, spec.name)


def resume(path: Path, models: Path, machine: Machine) -> tuple[Request, list[Step], DataSet, dict[Cell, list[Tally]]]:
    """What is left of an interrupted evaluation: its steps, its images, and by cell what was counted already.

    Raises `NotComparableError` as `sweep.resume` does, and where the images are not those it began with; `UsageError`
    for a run that timed.
    """
    file, steps = sweep.reopen(path, models, machine)
    first = file.runs[0]
    asked = first.request.evaluation
    if asked is None:
        raise UsageError(
            f"Run {first.id} times networks instead of counting right answers; go on with: "
            f"fastvit-bench latency --device {first.request.device.name} --resume {first.id}."
        )
    found = images.collect(Path(asked.data), Path(asked.labels) if asked.labels else None, asked.limit)
    if found.digest != asked.digest:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because the images in {asked.data} are not those it began with. "
            f"Start a new run."
        )
    if images.decoder() != asked.decoder:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because its images were decoded by {asked.decoder}, and here is "
            f"{images.decoder()}. Start a new run."
        )
    check(first.request, steps, found)
    done = {_cell_of(accuracy.artifact) for accuracy in file.accuracies}
    sweep.go_on(file, machine)
    left = [step for step in steps if step.cell not in done]
    return first.request, left, found, {step.cell: _earlier(file, step) for step in left}


def _cell_of(made: Artifact) -> Cell:
    return Cell(model=made.model, shape=made.shape, fused=made.fused, weights=made.weights)


def _earlier(file: store.RunFile, step: Step) -> list[Tally]:
    """What was counted of the step's artifact as it lies there now, without a gap from the first image on."""
    found: list[Tally] = []
    for tally in file.tallies:
        ours = step.cached is not None and tally.artifact == step.cached.sha256
        if ours and tally.first == sum(each.pictures for each in found):
            found.append(tally)
    return found


def run(
    request: Request,
    steps: Sequence[Step],
    found: DataSet,
    place: Place,
    path: Path,
    earlier: dict[Cell, list[Tally]] | None = None,
    notify: Callable[[Step, str], None] = lambda step, what: None,
    command: Sequence[str] | None = None,
) -> Generator[tuple[Step, Tally | Accuracy | Failure]]:
    """Export what is missing, count, write each line to the run file, then yield it.

    `earlier` is what `resume` found; `notify` is told what begins; `command` starts the workers instead of this
    package's own.
    """
    assert request.evaluation is not None
    options = {} if command is None else {"command": command}
    with Worker(**options) as exporter:
        for step in steps:
            made = sweep.ready(step, exporter, request.timeout_s, notify, engine=place.on_device)
            if isinstance(made, CellError):
                yield step, _record(path, sweep.failure(step, made))
                continue
            notify(step, "counting")
            tallies = list((earlier or {}).get(step.cell, []))
            spec = next(spec for spec in request.models if spec.name == step.cell.model)
            how = Preprocessing(resolution=step.cell.shape.height, crop=spec.crop)
            job = EvaluationJob(
                artifact=made,
                export=msgspec.structs.replace(step.job, path=sweep.file_of(step, made)),
                on_device=place.on_device,
                machine=place.machine,
                folder=str(found.folder),
                pictures=found.pictures,
                first=sum(tally.pictures for tally in tallies),
                preprocessing=how,
                workers=request.evaluation.workers,
            )
            trouble: CellError | None = None
            with Worker(**options) as counter:
                for reply in counter.evaluate(job, request.timeout_s):
                    if isinstance(reply, CellError):
                        trouble = reply
                        break
                    tallies.append(reply)
                    store.append(path, reply)
                    yield step, reply
            outcome = trouble or _summed(request, made, how, tallies, place.machine)
            yield step, _record(path, sweep.failure(step, outcome) if isinstance(outcome, CellError) else outcome)


def _summed(
    request: Request, made: Artifact, how: Preprocessing, tallies: Sequence[Tally], machine: Machine
) -> Accuracy | CellError:
    assert request.evaluation is not None
    unreadable = tuple(each for tally in tallies for each in tally.unreadable)
    seen = sum(tally.pictures for tally in tallies) - len(unreadable)
    if seen == 0:
        reason = f"none of the {len(unreadable)} files can be read as an image ({unreadable[0].name}: "
        return CellError(stage="accuracy", reason=f"{reason}{unreadable[0].reason})")
    return Accuracy(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        device=request.device,
        artifact=made,
        how=tallies[-1].how,
        evaluation=request.evaluation,
        preprocessing=how,
        images=seen,
        top1=sum(tally.top1 for tally in tallies),
        top5=sum(tally.top5 or 0 for tally in tallies) if all(each.top5 is not None for each in tallies) else None,
        overflowed=sum(tally.overflowed for tally in tallies),
        unreadable=unreadable,
        machine=machine,
    )


def _record(path: Path, result: Accuracy | Failure) -> Accuracy | Failure:
    store.append(path, result)
    return result
