"""Right answers of every rung on the same images, by the files that were timed."""

from collections.abc import Callable, Generator
from pathlib import Path

import msgspec

from fastvit_bench.accuracy import dataset
from fastvit_bench.accuracy import run as accuracy_run
from fastvit_bench.config import Config
from fastvit_bench.errors import UsageError
from fastvit_bench.ladder.rung import accuracy_of
from fastvit_bench.paper import study, study_table
from fastvit_bench.paper.study import Planned
from fastvit_bench.records import Accuracy, AccuracyChunk, Failure, Method, Request
from fastvit_bench.records.study import Contestant, StudyResult
from fastvit_bench.sweep import plan as sweep_plan
from fastvit_bench.sweep import run as sweep_run

Counted = Callable[[Contestant, AccuracyChunk], None]


def check(result: StudyResult) -> None:
    """Raise `UsageError` unless the rungs have one square size, which images can be prepared for."""
    shapes = {contestant.shape for match in result.matches for contestant in (match.reference, match.row)}
    if len(shapes) > 1 or any(shape.height != shape.width for shape in shapes):
        raise UsageError("Right answers are counted at one square size; name it with --res, such as 256.")


def count(
    planned: Planned,
    result: StudyResult,
    settings: Config,
    path: Path,
    notify: Callable[[Contestant, str], None] = lambda rung, stage: None,
    counted: Counted = lambda rung, chunk: None,
) -> Generator[tuple[StudyResult, Accuracy | Failure]]:
    """Count the rungs that lack an accuracy; yield the study, as it was written to `path`, after each of them.

    Each has a run file of its own, as `accuracy` writes it. `notify` gets a rung as each stage begins, and `counted`
    each part that was counted. Raises what `accuracy.run.numbered` raises.
    """
    asked = result.evaluation
    assert asked is not None
    collected = dataset.collect(Path(asked.data), Path(asked.labels) if asked.labels else None)
    results, models = Path(settings.paths.results), Path(settings.paths.models)
    for contestant in rungs_of(result):
        step = planned.steps[contestant]
        if not isinstance(step, sweep_plan.Step) or accuracy_of(result, contestant) is not None:
            continue
        request = Request(
            device=step.job.device,
            models=(study.spec_of(contestant.row, settings),),
            shapes=(contestant.shape,),
            fused=contestant.row.fuse,
            method=Method(),
            seed=result.seed,
            timeout_s=settings.sweep.timeout_s,
            evaluation=asked,
        )
        steps = sweep_plan.plan(request, models)
        request, images = accuracy_run.numbered(request, steps, collected)
        target = accuracy_run.preflight(request.device, result.machine.name)
        run_path = sweep_run.begin(request, steps, target.machine, results)
        for _, line in accuracy_run.run(
            request, steps, images, target, run_path, notify=lambda _, stage, rung=contestant: notify(rung, stage)
        ):
            if isinstance(line, AccuracyChunk):
                counted(contestant, line)
                continue
            if isinstance(line, Accuracy):
                accuracies = (*result.accuracies, line)
                result = msgspec.structs.replace(result, accuracies=accuracies, evaluation=line.evaluation)
                study_table.write(result, path)
            yield result, line


def rungs_of(result: StudyResult) -> list[Contestant]:
    """Return the rungs that can be measured, the reference first."""
    pairs = [(match.reference, match.row) for match in result.matches]
    return list(dict.fromkeys(contestant for pair in pairs for contestant in pair))
