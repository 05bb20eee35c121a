"""Run evaluations of accuracy: export, count on labelled images, and record tallies and accuracies.

Cells, exports and files are those of a sweep, so that the file that is counted is the file that is timed.
"""

import functools
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
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
    Failure,
    Head,
    Machine,
    Measurement,
    ModelSpec,
    Preprocessing,
    RankedClasses,
    Request,
    answers,
)
from fastvit_bench.store import runs
from fastvit_bench.sweep import preflight as sweep_preflight
from fastvit_bench.sweep import run as sweep_run
from fastvit_bench.sweep.cell import CountEnd
from fastvit_bench.sweep.executor import Counting, Executor, LocalExecutor, Notify, Task
from fastvit_bench.sweep.plan import Step, plan

OTHER_IMAGES = "images changed since the model before was counted, or another worker has others of the same names"

REFERENCE_IMAGES = 64  # default: in float64, a reference network takes a second an image, and up to ten


class CountingChoices(NamedTuple):
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


def described(
    data: Path,
    labels: Path | None,
    limit: int | None,
    workers: int,
    choices: CountingChoices,
    decoder: str | None = None,
) -> Evaluation:
    """Return the record of images in a run before they are read; `data` is the folder as the user named it.

    `decoder` is the library that decodes the images, by default this machine's.
    """
    return Evaluation(
        data=str(data),
        labels=str(labels) if labels else None,
        limit=limit,
        images=0,
        digest="",
        workers=workers,
        decoder=decoder or preprocessing.decoder(),
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
    asked = evaluation_of(file)
    _, images = numbered(file.runs[0].request, steps, images_of(asked))
    remaining = _remaining(file, steps, images, preprocessing.decoder())
    earlier = {step.cell: _earlier(file, step) for step in remaining}
    if remaining:
        _check_contents(file.runs[0].id, images, file.accuracies, earlier, asked.workers)
    sweep_run.go_on(file, machine)
    return file.runs[0].request, remaining, images, earlier


def begun(
    request: Request, machine: Machine, collected: ImageFiles, models: Path, results: Path, on_device: bool
) -> "PlannedCount":
    """Return a new evaluation that `machine` counts, or others of a fleet. Raises what `numbered` raises."""
    steps = plan(request, models)
    request, images = numbered(request, steps, collected)
    return PlannedCount(request, steps, images, sweep_run.begin(request, steps, machine, results), on_device)


def resumed(path: Path, models: Path, target: AccuracyTarget) -> "PlannedCount":
    """Return what remains of an evaluation, to be counted on this machine; raises what `resume` raises."""
    request, steps, images, earlier = resume(path, models, target.machine)
    return PlannedCount(request, steps, images, path, target.on_device, earlier)


def resumed_on_fleet(path: Path, models: Path, machine: Machine, collected: ImageFiles, decoder: str) -> "PlannedCount":
    """Return what remains of an evaluation, to be counted on other machines, which `decoder` decodes the images on.

    Each accuracy has its own machine. So models that were counted are kept, and the parts of others are counted anew.
    Raises `NotComparableError` for other images or another decoder, and `UsageError` for a run that timed.
    """
    file = runs.reopen(path)
    steps = sweep_run.planned_again(file, models)
    _, images = numbered(file.runs[0].request, steps, collected)
    remaining = _remaining(file, steps, images, decoder)
    sweep_run.go_on(file, machine)
    known = frozenset(accuracy.contents for accuracy in file.accuracies)
    return PlannedCount(file.runs[0].request, remaining, images, path, on_device=True, known=known)


def images_of(asked: Evaluation) -> ImageFiles:
    """Return the images of a run as they are on this machine; raises what `dataset.collect` raises."""
    return dataset.collect(Path(asked.data), Path(asked.labels) if asked.labels else None)


def evaluation_of(file: runs.RunFile) -> Evaluation:
    """Return the images and settings of a run; raises `UsageError` for one that timed."""
    first = file.runs[0]
    if first.request.evaluation is None:
        raise UsageError(
            f"Run {first.id} times networks instead of counting right answers; go on with: "
            f"fastvit-bench latency --device {first.request.device.name} --resume {first.id}."
        )
    return first.request.evaluation


def _remaining(file: runs.RunFile, steps: Sequence[Step], images: DataSet, decoder: str) -> list[Step]:
    """Return the steps without an accuracy; raises `NotComparableError` for other images or another decoder."""
    first, asked = file.runs[0], evaluation_of(file)
    if images.digest != asked.digest:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because the images in {asked.data} are not those it began with. "
            f"Start a new run."
        )
    if decoder != asked.decoder:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because its images were decoded by {asked.decoder}, and here is "
            f"{decoder}. Start a new run."
        )
    done = {_cell_of(accuracy.artifact) for accuracy in file.accuracies}
    return [step for step in steps if step.cell not in done]


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


@dataclass(frozen=True)
class PlannedCount:
    """The steps of an evaluation that remain, its images, and the run file that takes their results."""

    request: Request
    steps: Sequence[Step]
    images: DataSet
    path: Path
    on_device: bool  # False: by the runtime that proves the files
    earlier: Mapping[Cell, Sequence[AccuracyChunk]] = field(default_factory=dict[Cell, Sequence[AccuracyChunk]])
    known: frozenset[str] = frozenset()  # digests of the images' contents, as models before saw them

    def counting(self, step: Step) -> Counting:
        """Return the images of a step, from the first one that is not counted yet."""
        asked = self.request.evaluation
        assert asked is not None
        tallies = self.earlier.get(step.cell, ())
        return Counting(
            folder=str(self.images.folder),
            pictures=self.images.pictures,
            preprocessing=Preprocessing.of(registry.preparation_of(step.job), step.cell.shape.height),
            workers=asked.workers,
            on_device=self.on_device,
            first=sum(tally.pictures for tally in tallies),
            contents=tallies[-1].contents if tallies else "",
            candidates=self.images.present if asked.among is RankedClasses.PRESENT else None,
            class_embeddings=asked.class_embeddings,
            reference_images=asked.reference_images,
        )


def run(
    request: Request,
    steps: Sequence[Step],
    images: DataSet,
    target: AccuracyTarget,
    path: Path,
    earlier: Mapping[Cell, Sequence[AccuracyChunk]] | None = None,
    notify: Notify = lambda step, what: None,
    command: Sequence[str] | None = None,
) -> Generator[tuple[Step, AccuracyChunk | Accuracy | Failure]]:
    """Export missing files, count on this machine, write each record to the run file, then yield it with its step.

    `earlier` holds the tallies that `resume` returned. `notify` is called with each step and the phase that begins.
    `command` starts the workers instead of this package's own.
    """
    start = Worker if command is None else functools.partial(Worker, command)
    planned = PlannedCount(request, steps, images, path, target.on_device, earlier or {})
    yield from run_all([planned], LocalExecutor(target.machine, None, start), notify, start)


def run_all(
    counts: Sequence[PlannedCount], executor: Executor, notify: Notify, start: Callable[[], Worker] = Worker
) -> Generator[tuple[Step, AccuracyChunk | Accuracy | Failure]]:
    """Export the steps of evaluations in turns, have an executor count, write each record, then yield it with its step.

    Files are exported here, in a process that `start` makes.
    """
    turns = itertools.zip_longest(*([(planned, step) for step in planned.steps] for planned in counts))
    pairs = [pair for turn in turns for pair in turn if pair is not None]
    of_run = {planned.path: planned for planned in counts}
    tallies = {(planned.path, step.cell): list(planned.earlier.get(step.cell, ())) for planned, step in pairs}
    digests = {digest for planned in counts for digest in planned.known}
    with start() as exporter:
        tasks = (
            Task(
                planned.request,
                step,
                planned.path,
                sweep_run.ready(step, exporter, planned.request.timeout_s, notify, engine=False),
                planned.counting(step),
            )
            for planned, step in pairs
        )
        for task, reply in executor.outcomes(tasks, len(pairs), notify):
            chunks = tallies[task.path, task.step.cell]
            if isinstance(reply, AccuracyChunk):
                chunks.append(reply)
                runs.append(task.path, reply)
                yield task.step, reply
                continue
            assert not isinstance(reply, Measurement)  # nothing is timed
            outcome = reply if isinstance(reply, CellError) else _summed(of_run[task.path], task, chunks, reply)
            if isinstance(outcome, Accuracy):
                digests.add(outcome.contents)
                if len(digests) > 1:  # two models would be compared on different images
                    outcome = CellError(stage="accuracy", reason=OTHER_IMAGES)
            result = sweep_run.failure(task.step, outcome) if isinstance(outcome, CellError) else outcome
            yield task.step, _record(task.path, result)


def _summed(planned: PlannedCount, task: Task, tallies: Sequence[AccuracyChunk], end: CountEnd) -> Accuracy | CellError:
    """Return the accuracy of all tallies of an artifact, or an error if none of the images could be read."""
    request, artifact = task.request, task.artifact
    assert request.evaluation is not None
    assert isinstance(artifact, Artifact)
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
        preprocessing=planned.counting(task.step).preprocessing,
        images=counted,
        top1=sum(tally.top1 for tally in tallies),
        top5=sum(tally.top5 or 0 for tally in tallies) if all(tally.top5 is not None for tally in tallies) else None,
        overflowed=sum(tally.overflowed for tally in tallies),
        unreadable=unreadable,
        machine=end.machine,
        contents=tallies[-1].contents,
        own=own if (own := registry.find(artifact.variant).preparation) != artifact.preparation else None,
        cosines=_joined(tallies),
        tool=end.tool,
        right=_answers(tallies),
    )


def _answers(tallies: Sequence[AccuracyChunk]) -> str:
    """Return the packed answers of all tallies; empty if an earlier version counted some without them."""
    known = [tally.answers for tally in tallies if tally.answers is not None]
    return answers.packed([answer for chunk in known for answer in chunk]) if len(known) == len(tallies) else ""


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
