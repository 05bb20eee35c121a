"""Where the cells of a sweep are measured: the interface, and the executor that measures on this machine."""

import functools
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import Artifact, CellError, Machine, Measurement, Request
from fastvit_bench.sweep.cell import CellJob, measure
from fastvit_bench.sweep.plan import Step, file_of

Notify = Callable[[Step, str], None]  # gets a step and its stage as each stage begins


@dataclass(frozen=True)
class Task:
    """A step of a sweep with its exported file, or the reason why there is none."""

    request: Request
    step: Step
    path: Path  # of the run file
    artifact: Artifact | CellError

    def job(self, artifact: Artifact, wait_s: float) -> CellJob:
        """Return the cell to be measured, of the task's artifact."""
        return CellJob(
            export=msgspec.structs.replace(self.step.job, path=file_of(self.step, artifact)),
            artifact=artifact,
            method=self.request.method,
            timeout_s=self.request.timeout_s,
            wait_s=wait_s,
            profile=self.request.profile,
        )


Outcome = tuple[Task, Measurement | CellError]


class Executor(Protocol):
    """A place where cells are measured. A sweep does not know which one it has."""

    def outcomes(self, tasks: Iterable[Task], count: int, notify: Notify) -> Generator[Outcome]:
        """Yield each task with its measurement, or with its failure, as it finishes.

        `tasks` exports a file whenever the next of its `count` tasks is taken; the executor decides when that is.
        """
        ...


class LocalExecutor:
    """Measures one cell after the other in child processes; exports nothing meanwhile.

    `machine` is the record of this machine. `command` starts the processes in place of the package's own. Of `wait_s`
    seconds, which may be waited for the machine's usual speed in all, each remaining cell has an equal share. None
    accepts figures of any speed.
    """

    def __init__(self, machine: Machine, wait_s: float | None, start: Callable[[], Worker] = Worker) -> None:
        self._machine, self._remaining_s, self._start = machine, wait_s or 0.0, start

    def outcomes(self, tasks: Iterable[Task], count: int, notify: Notify) -> Generator[Outcome]:
        """Yield each task with its measurement or failure, in their order."""
        for number, task in enumerate(tasks):
            if isinstance(task.artifact, CellError):
                yield task, task.artifact
                continue
            job = task.job(task.artifact, self._remaining_s / (count - number))
            announce = functools.partial(notify, task.step)
            reply, waited_s = measure(job, self._machine, task.path.parent.parent, announce, self._start)
            self._remaining_s -= waited_s
            yield task, reply
