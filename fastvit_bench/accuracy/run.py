"""Run evaluations of accuracy: export, count on labelled images, and record tallies and accuracies.

Cells, exports and files are those of a sweep, so that the file that is counted is the file that is timed.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from fastvit_bench import backends
from fastvit_bench.accuracy import classes, contents, dataset, embeddings, preprocessing
from fastvit_bench.accuracy.dataset import DataSet, ImageFiles
from fastvit_bench.accuracy.embeddings import Embedded
from fastvit_bench.errors import NotComparableError, UsageError
from fastvit_bench.exporting import checkpoints
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.jobs import DescribeJob
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.network import registry
from fastvit_bench.records import (
    Accuracy,
    AccuracyChunk,
    Artifact,
    Cell,
    CellError,
    ClassEmbeddings,
    ClassNumbering,
    ClassOrder,
    Device,
    EmbeddingCosines,
    Evaluation,
    EvaluationJob,
    Failure,
    Head,
    Machine,
    ModelSpec,
    Preprocessing,
    RankedClasses,
    Request,
)
from fastvit_bench.store import runs
from fastvit_bench.sweep import plan
from fastvit_bench.sweep import preflight as sweep_preflight
from fastvit_bench.sweep import run as sweep_run
from fastvit_bench.sweep.plan import Step

REFERENCE_IMAGES = 64  # default: in float64, a reference network takes a second an image, and up to ten


class Choices(NamedTuple):
    """The choices of a caller on how classes are numbered and ranked, and embeddings compared."""

    numbering: ClassNumbering = ClassNumbering()
    among: RankedClasses = RankedClasses.ALL
    class_embeddings: Path | None = None
    reference_images: int = REFERENCE_IMAGES


@dataclass(frozen=True)
class AccuracyTarget:
    """The device that runs the files, or the runtime that proves them if the device is not on this machine."""

    device: Device  # its options filled in
    machine: Machine
    lacking: str | None  # why the device itself cannot run on this machine; None if it can

    @property
    def on_device(self) -> bool:
        """True if the device itself runs the files, false for the runtime that proves them."""
        return self.lacking is None


def preflight(device: Device, name: str = "") -> AccuracyTarget:
    """Return the device if it can run on this machine, else the runtime that proves its files.

    `name` is the user's name for the machine. Raises `UnavailableError` for the wrong hardware.
    """
    backend = backends.get(device.backend)
    lacking = backend.device_unavailable_reason(device)
    if lacking is not None:
        machine = machines.collect(name=name)
        packages = backends.installed(backend.proof_packages)
        return AccuracyTarget(device, msgspec.structs.replace(machine, packages=packages), lacking)
    device, machine = sweep_preflight.preflight(device, name=name)
    return AccuracyTarget(device, machine, None)


def described(data: Path, labels: Path | None, limit: int | None, workers: int, choices: Choices) -> Evaluation:
    """Return the record of images in a run before they are read; `data` is the folder as the user named it."""
    return Evaluation(
        data=str(data),
        labels=str(labels) if labels else None,
        limit=limit,
        images=0,
        digest="",
        workers=workers,
        decoder=preprocessing.decoder(),
        numbering=choices.numbering,
        among=choices.among,
        class_embeddings=embeddings.read(choices.class_embeddings).record if choices.class_embeddings else None,
        reference_images=choices.reference_images if choices.class_embeddings else 0,
    )


def numbered(request: Request, steps: Sequence[Step], images: ImageFiles) -> tuple[Request, DataSet]:
    """Return a data set with the numbers that the models have for its classes, and the request that names it.

    Nothing is built. Raises `UsageError` unless every model is a classifier of the images' classes, and all number them
    alike. Raises `CheckpointError` for a checkpoint that has still to be exported and cannot be.
    """
    asked = request.evaluation
    assert asked is not None
    choices = asked.numbering or ClassNumbering(order=_order_of_earlier_versions(images))
    cached = {step.cell.model: step.cached for step in steps if step.cached is not None}
    embedded = _embedded(asked.class_embeddings)
    by_model: dict[str, DataSet] = {}
    for spec in request.models:
        artifact = cached.get(spec.name)
        head, outputs = (artifact.head, artifact.classes) if artifact else _outputs(spec, request)
        _check_head(spec.name, head, outputs, embedded)
        names, count = (embedded.names or (), embedded.record.classes) if embedded else (None, outputs)
        by_model[spec.name] = classes.number(images, choices, count, spec.name, names)
    (first, data), *further = by_model.items()
    differing = next((name for name, images in further if images.pictures != data.pictures), None)
    if differing is not None:
        raise UsageError(
            f"{first} and {differing} number the classes of {images.folder} differently; count one at a time."
        )
    data = data.limited(asked.limit)
    evaluation = msgspec.structs.replace(
        asked, images=len(data.pictures), digest=data.digest, numbered=asked.numbered or data.numbered
    )
    return msgspec.structs.replace(request, evaluation=evaluation), data


def _embedded(known: ClassEmbeddings | None) -> Embedded | None:
    """Return the class embeddings of a run. Raises `NotComparableError` if their file has other contents by now."""
    if known is None:
        return None
    embedded = embeddings.read(Path(known.file))
    if embedded.record != known:
        raise NotComparableError(f"{known.file} was changed since the run began. Start a new run.")
    return embedded


def _check_head(model: str, head: Head, outputs: int, embedded: Embedded | None) -> None:
    """Raise `UsageError` unless a network's outputs are scores of classes, or embeddings that class embeddings fit."""
    if head is Head.EMBEDDING and embedded is None:
        raise UsageError(
            f"{model} ends in an embedding, which names no class by itself; give --class-embeddings FILE, an array "
            f"with the embedding of each class's text."
        )
    if head not in (Head.CLASSIFIER, Head.EMBEDDING):
        raise UsageError(f"{model} ends in {head} and names no class of an image; there is no accuracy of it.")
    if embedded is None:
        return
    file, count, width = embedded.record.file, embedded.record.classes, embedded.record.width
    if head is Head.CLASSIFIER:
        raise UsageError(f"{model} is a classifier, which scores its own classes; leave --class-embeddings out.")
    if outputs and outputs != width:  # a network without a projection does not tell its width beforehand
        hint = "it is turned over: save its transpose" if outputs == count else "it belongs to another network"
        raise UsageError(
            f"{file} holds {count} embeddings of {width} numbers, and those of {model} have {outputs}; {hint}."
        )


def _order_of_earlier_versions(images: ImageFiles) -> ClassOrder | None:
    """Return the order of class folders in a run that does not record one."""
    return ClassOrder.TEXT if images.labels is None else None


def _outputs(spec: ModelSpec, request: Request) -> tuple[Head, int]:
    """Return a model's head and number of classes; an ONNX file is read in a process that can be stopped.

    Raises `UsageError` for a file that is no such model, and what `checkpoints.answers_of` raises.
    """
    (shape,) = request.shapes
    if spec.variant != registry.ONNX:
        return checkpoints.answers_of(spec, shape)
    with Worker() as reader:
        reply = reader.ask(DescribeJob(spec=spec, shape=shape), request.timeout_s)
    if isinstance(reply, CellError):
        raise UsageError(f"{spec.checkpoint} cannot be used: {reply.reason.rstrip('.')}.")
    return reply.head, reply.classes


def resume(
    path: Path, models: Path, machine: Machine
) -> tuple[Request, list[Step], DataSet, dict[Cell, list[AccuracyChunk]]]:
    """Return an interrupted evaluation's request, remaining steps and images, and by cell the tallies so far.

    Raises `NotComparableError` as `sweep.run.reopen` does, and if the images are not those it began with, or those that
    were counted have other contents. Raises `UsageError` for a run that timed.
    """
    file, steps = sweep_run.reopen(path, models, machine)
    first = file.runs[0]
    asked = first.request.evaluation
    if asked is None:
        raise UsageError(
            f"Run {first.id} times networks instead of counting right answers; go on with: "
            f"fastvit-bench latency --device {first.request.device.name} --resume {first.id}."
        )
    collected = dataset.collect(Path(asked.data), Path(asked.labels) if asked.labels else None)
    _, images = numbered(first.request, steps, collected)
    if images.digest != asked.digest:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because the images in {asked.data} are not those it began with. "
            f"Start a new run."
        )
    if preprocessing.decoder() != asked.decoder:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because its images were decoded by {asked.decoder}, and here is "
            f"{preprocessing.decoder()}. Start a new run."
        )
    done = {_cell_of(accuracy.artifact) for accuracy in file.accuracies}
    remaining = [step for step in steps if step.cell not in done]
    earlier = {step.cell: _earlier(file, step) for step in remaining}
    if remaining:
        _check_contents(first.id, images, file.accuracies, earlier, asked.workers)
    sweep_run.go_on(file, machine)
    return first.request, remaining, images, earlier


def _check_contents(
    identity: str,
    images: DataSet,
    accuracies: Sequence[Accuracy],
    earlier: dict[Cell, list[AccuracyChunk]],
    workers: int,
) -> None:
    """Raise `NotComparableError` if images that were counted before have other contents today."""
    total = len(images.pictures)
    counted = [(total, accuracy.contents) for accuracy in accuracies]
    counted += [(sum(chunk.pictures for chunk in chunks), chunks[-1].contents) for chunks in earlier.values() if chunks]
    if any(not digest for _, digest in counted):
        raise NotComparableError(
            f"Run {identity} cannot go on, because an earlier version of fastvit-bench began it, which did not record "
            f"the contents of its images. Start a new run."
        )
    today = contents.digests_after(images.folder, images.pictures, {number for number, _ in counted}, workers)
    if any(today.get(number) != digest for number, digest in counted):
        raise NotComparableError(
            f"Run {identity} cannot go on, because images in {images.folder} that were counted before have other "
            f"contents now. Start a new run."
        )


def _cell_of(artifact: Artifact) -> Cell:
    """Return the cell that an artifact was exported for."""
    return Cell(model=artifact.model, shape=artifact.shape, fused=artifact.fused, weights=artifact.weights)


def _earlier(file: runs.RunFile, step: Step) -> list[AccuracyChunk]:
    """Return the tallies of the step's artifact in its present form, without a gap from the first image on."""
    tallies: list[AccuracyChunk] = []
    for tally in file.tallies:
        same_file = step.cached is not None and tally.artifact == step.cached.sha256
        # without a digest of its images, from an earlier version, a chunk is counted again
        if same_file and tally.contents and tally.first == sum(previous.pictures for previous in tallies):
            tallies.append(tally)
    return tallies


def run(
    request: Request,
    steps: Sequence[Step],
    images: DataSet,
    target: AccuracyTarget,
    path: Path,
    earlier: dict[Cell, list[AccuracyChunk]] | None = None,
    notify: Callable[[Step, str], None] = lambda step, what: None,
    command: Sequence[str] | None = None,
) -> Generator[tuple[Step, AccuracyChunk | Accuracy | Failure]]:
    """Export missing files, count, write each record to the run file, then yield it with its step.

    `earlier` holds the tallies that `resume` returned. `notify` is called with each step and the phase that begins.
    `command` starts the workers instead of this package's own.
    """
    assert request.evaluation is not None
    options = {} if command is None else {"command": command}
    digests: set[str] = set()  # of the images' contents, as each model saw them
    with Worker(**options) as exporter:
        for step in steps:
            artifact = sweep_run.ready(step, exporter, request.timeout_s, notify, engine=target.on_device)
            if isinstance(artifact, CellError):
                yield step, _record(path, sweep_run.failure(step, artifact))
                continue
            notify(step, "counting")
            tallies = list((earlier or {}).get(step.cell, []))
            values = msgspec.structs.asdict(registry.preparation_of(artifact))
            how = Preprocessing(resolution=step.cell.shape.height, **values)
            job = EvaluationJob(
                artifact=artifact,
                export=msgspec.structs.replace(step.job, path=plan.file_of(step, artifact)),
                on_device=target.on_device,
                machine=target.machine,
                folder=str(images.folder),
                pictures=images.pictures,
                first=sum(tally.pictures for tally in tallies),
                contents=tallies[-1].contents if tallies else "",
                preprocessing=how,
                workers=request.evaluation.workers,
                candidates=images.present if request.evaluation.among is RankedClasses.PRESENT else None,
                class_embeddings=request.evaluation.class_embeddings,
                reference_images=request.evaluation.reference_images,
            )
            trouble: CellError | None = None
            with Worker(**options) as counter:
                for reply in counter.evaluate(job, request.timeout_s):
                    if isinstance(reply, CellError):
                        trouble = reply
                        break
                    tallies.append(reply)
                    runs.append(path, reply)
                    yield step, reply
            outcome = trouble or _summed(request, artifact, how, tallies, target.machine)
            if isinstance(outcome, Accuracy):
                digests.add(outcome.contents)
                if len(digests) > 1:  # two models of one run would be compared on different images
                    outcome = CellError(stage="accuracy", reason="images changed since the model before was counted")
            yield step, _record(path, sweep_run.failure(step, outcome) if isinstance(outcome, CellError) else outcome)


def _summed(
    request: Request, artifact: Artifact, how: Preprocessing, tallies: Sequence[AccuracyChunk], machine: Machine
) -> Accuracy | CellError:
    """Return the accuracy of all tallies of an artifact, or an error if none of the images could be read."""
    assert request.evaluation is not None
    unreadable = tuple(picture for tally in tallies for picture in tally.unreadable)
    counted = sum(tally.pictures for tally in tallies) - len(unreadable)
    if counted == 0:
        reason = f"none of the {len(unreadable)} files can be read as an image ({unreadable[0].name}: "
        return CellError(stage="accuracy", reason=f"{reason}{unreadable[0].reason})")
    return Accuracy(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        device=request.device,
        artifact=artifact,
        how=tallies[-1].how,
        evaluation=request.evaluation,
        preprocessing=how,
        images=counted,
        top1=sum(tally.top1 for tally in tallies),
        top5=sum(tally.top5 or 0 for tally in tallies) if all(tally.top5 is not None for tally in tallies) else None,
        overflowed=sum(tally.overflowed for tally in tallies),
        unreadable=unreadable,
        machine=machine,
        contents=tallies[-1].contents,
        own=own if (own := registry.find(artifact.variant).preparation) != artifact.preparation else None,
        cosines=_joined(tallies),
    )


def _joined(tallies: Sequence[AccuracyChunk]) -> EmbeddingCosines | None:
    """Return the cosines of all tallies, or None if none has any."""
    total: EmbeddingCosines | None = None
    for cosines in (tally.cosines for tally in tallies if tally.cosines is not None):
        total = cosines.joined(total)
    return total


def _record(path: Path, result: Accuracy | Failure) -> Accuracy | Failure:
    """Append a result to the run file, and return it."""
    runs.append(path, result)
    return result
