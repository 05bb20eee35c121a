"""Where cells and blocks are measured: the interface, and the executor that measures on this machine."""

import functools
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import (
    AccuracyChunk,
    Artifact,
    CellError,
    ClassEmbeddings,
    EvaluationJob,
    LabelledImage,
    Machine,
    Measurement,
    Preprocessing,
    Request,
)
from fastvit_bench.sweep import block
from fastvit_bench.sweep.block import BlockJob, BlockReply
from fastvit_bench.sweep.cell import CellJob, CountEnd, CountJob, count, measure
from fastvit_bench.sweep.plan import Step, file_of

Notify = Callable[[Step, str], None]  # gets a step and its stage as each stage begins


@dataclass(frozen=True)
class Counting:
    """The images of a count, and where it begins."""

    folder: str
    pictures: tuple[LabelledImage, ...]
    preprocessing: Preprocessing
    workers: int  # threads that decode
    on_device: bool  # False: by the runtime that proves the files
    first: int = 0  # index of the first image that is not counted yet
    contents: str = ""  # digest of the contents of the images before
    candidates: tuple[int, ...] | None = None  # classes that are ranked; None: all of the network's
    class_embeddings: ClassEmbeddings | None = None  # of an embedding network
    reference_images: int = 0  # of which the reference network's embeddings are compared, at most


@dataclass(frozen=True)
class Task:
    """A step of a sweep with its exported file, or the reason why there is none."""

    request: Request
    step: Step
    path: Path  # of the run file
    artifact: Artifact | CellError
    counting: Counting | None = None  # None: it is timed

    def timing(self, artifact: Artifact, wait_s: float) -> CellJob:
        """Return the cell to be timed, of the task's artifact."""
        return CellJob(
            export=msgspec.structs.replace(self.step.job, path=file_of(self.step, artifact)),
            artifact=artifact,
            method=self.request.method,
            timeout_s=self.request.timeout_s,
            wait_s=wait_s,
            profile=self.request.profile,
        )

    def counted(self, counting: Counting, artifact: Artifact, machine: Machine) -> CountJob:
        """Return the cell whose right answers are to be counted on `machine`, of the task's artifact."""
        evaluation = EvaluationJob(
            artifact=artifact,
            export=msgspec.structs.replace(self.step.job, path=file_of(self.step, artifact)),
            on_device=counting.on_device,
            machine=machine,
            folder=counting.folder,
            pictures=counting.pictures,
            first=counting.first,
            contents=counting.contents,
            preprocessing=counting.preprocessing,
            workers=counting.workers,
            candidates=counting.candidates,
            class_embeddings=counting.class_embeddings,
            reference_images=counting.reference_images,
        )
        return CountJob(evaluation=evaluation, timeout_s=self.request.timeout_s)


Reply = Measurement | AccuracyChunk | CountEnd | CellError
Outcome = tuple[Task, Reply]


class Executor(Protocol):
    """A place where cells and blocks are measured. Who asks does not know which one it has."""

    def outcomes(self, tasks: Iterable[Task], count: int, notify: Notify) -> Generator[Outcome]:
        """Yield each task with its measurement, or with its failure, as it finishes.

        One that counts is yielded with each of its chunks, and with `CountEnd` at its end. `tasks` exports a file
        whenever the next of its `count` tasks is taken; the executor decides when that is.
        """
        ...

    def block(self, job: BlockJob) -> BlockReply:
        """Return a block of a comparison, all of whose blocks are measured on one machine."""
        ...


class LocalExecutor:
    """Measures one cell after the other in child processes; exports nothing meanwhile.

    `machine` is the record of this machine. `start` makes the processes in place of the package's own. Of `wait_s`
    seconds, which may be waited for the machine's usual speed in all, each remaining cell has an equal share. None
    accepts figures of any speed.
    """

    def __init__(self, machine: Machine, wait_s: float | None, start: Callable[[], Worker] = Worker) -> None:
        self._machine, self._remaining_s, self._start = machine, wait_s or 0.0, start

    def outcomes(self, tasks: Iterable[Task], count: int, notify: Notify) -> Generator[Outcome]:
        """Yield each task with its measurement or failure, in their order."""
        for number, task in enumerate(tasks):
            for reply in self._replies(task, self._remaining_s / (count - number), notify):
                yield task, reply

    def _replies(self, task: Task, wait_s: float, notify: Notify) -> Generator[Reply]:
        if isinstance(task.artifact, CellError):
            yield task.artifact
            return
        announce = functools.partial(notify, task.step)
        if task.counting is not None:
            yield from count(task.counted(task.counting, task.artifact, self._machine), announce, self._start)
            return
        job = task.timing(task.artifact, wait_s)
        reply, waited_s = measure(job, self._machine, task.path.parent.parent, announce, self._start)
        self._remaining_s -= waited_s
        yield reply

    def block(self, job: BlockJob) -> BlockReply:
        """Measure a block here."""
        return block.measure(job)
