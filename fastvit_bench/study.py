"""Studies: the rows of a published table become files, take turns with their references, and are kept as they end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import fastvit_bench
from fastvit_bench import backends, catalogue, config, revisions, sides, sweep, turns
from fastvit_bench.errors import FastViTBenchError, NotComparableError, UnavailableError, UsageError
from fastvit_bench.records import Artifact, Device, Machine, Method, ModelSpec, Request, Shape
from fastvit_bench.report import store
from fastvit_bench.report import studies as written
from fastvit_bench.sides import Entry, Pair, Unavailable
from fastvit_bench.stats.intervals import median
from fastvit_bench.studies import SCHEMA, Contestant, Match, Study, StudyResult, StudyRow
from fastvit_bench.sweep import Step
from fastvit_bench.turns import Contest, Notify
from fastvit_bench.variants import check_size
from fastvit_bench.verdicts import CellResult, Outcome, Plan
from fastvit_bench.worker import Worker

BLOCKS = 6  # the fewest whose smallest and largest ratio enclose the median with 95 %

# --- what is to be measured -------------------------------------------------------------------------------------------


def joined(study: Study, models: Sequence[str]) -> Study:
    """The study with further models in its first group, at the sizes of that group's reference."""
    if not models:
        return study
    reference = next((row for row in study.rows if row.model), None)
    if reference is None:
        raise UsageError(f"Study '{study.name}' has nothing that can be measured, so there is nothing to join.")
    more = tuple(
        StudyRow(label=Path(model).name, model=model, fuse=reference.fuse, res=reference.res, group=reference.group)
        for model in models
    )
    for row in more:
        if row.label in {known.label for known in study.rows}:
            raise UsageError(f"Study '{study.name}' has a row '{row.label}' already; leave it out.")
    at = max(number for number, row in enumerate(study.rows) if row.group == reference.group)
    return msgspec.structs.replace(study, rows=(*study.rows[: at + 1], *more, *study.rows[at + 1 :]))


def matches(study: Study, device: Device, sizes: Sequence[tuple[int, int]] = ()) -> tuple[Match, ...]:
    """Every row against the reference of its group, in the order of the rows; `sizes` (height, width) replace the grid.

    A row of one size stands against the reference at that size, or at the reference's own where it has one. Raises
    `UsageError` where a group has fewer than two rows that can be measured, or a reference lacks the size.
    """
    grid = list(sizes) or [(size, size) for size in study.grid]
    found: list[Match] = []
    for group in dict.fromkeys(row.group for row in study.rows):
        rows = [row for row in study.rows if row.group == group and row.model]
        if len(rows) < 2:
            continue
        reference, *others = ({row: _contestants(row, grid, device) for row in rows}).values()
        by_shape = {each.shape: each for each in reference}
        for contestant in (each for other in others for each in other):
            against = by_shape.get(contestant.shape) or (reference[0] if len(reference) == 1 else None)
            if against is None:
                raise UsageError(
                    f"Study '{study.name}': {contestant.name} has no counterpart of {reference[0].row.label}; "
                    f"give the reference that size too."
                )
            found.append(Match(reference=against, row=contestant))
    if not found:
        raise UsageError(f"Study '{study.name}' has no two rows that can be measured against each other.")
    return tuple(found)


def _contestants(row: StudyRow, grid: Sequence[tuple[int, int]], device: Device) -> list[Contestant]:
    sizes = grid if row.res is None else [(row.res, row.res)]
    return [Contestant(row=row, shape=Shape(batch=device.batch, height=h, width=w)) for h, w in sizes]


@dataclass(frozen=True)
class Planned:
    """A study, ready to be measured: its file on the disk, and how each contestant is made."""

    result: StudyResult
    steps: Mapping[Contestant, Step | Unavailable]

    @property
    def left(self) -> list[Match]:
        """The matches without a figure yet; what failed is tried again."""
        return [match for match in self.result.matches if not _done(self.result.cell(match))]

    def state(self, each: Contestant) -> str:
        """Of a contestant's file, in words."""
        step = self.steps[each]
        if isinstance(step, Unavailable):
            return f"cannot be made: {step.reason}"
        return "to export" if step.cached is None else "exported already"


def _done(cell: CellResult | None) -> bool:
    return cell is not None and cell.verdict.outcome is not Outcome.INCOMPARABLE


def plan(
    study: Study,
    settings: config.Config,
    device: Device,
    machine: Machine,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    blocks: int = BLOCKS,
    seed: int = 0,
) -> Planned:
    """Lay out a study; nothing is exported or written. Raises what `matches` does."""
    now = datetime.now(UTC)
    tree = revisions.head()
    result = StudyResult(
        schema=SCHEMA,
        id=store.new_id(now),
        study=study,
        started=now.isoformat(timespec="seconds"),
        finished=now.isoformat(timespec="seconds"),
        tool=fastvit_bench.__version__,
        commit=tree.commit,
        dirty=tree.dirty,
        device=device,
        machine=machine,
        turns=turns.TURNS,
        blocks=blocks,
        seed=seed,
        matches=matches(study, device, sizes),
    )
    return Planned(result, _steps(result, settings))


def resumed(result: StudyResult, settings: config.Config, machine: Machine) -> Planned:
    """A study that was interrupted, to go on. Raises `NotComparableError` where the machine is not what it was."""
    if apart := machine.differences(result.machine, backends.figure_packages(result.device)):
        raise NotComparableError(
            f"Study {result.id} was begun under other conditions ({'; '.join(apart)}); begin a new one instead."
        )
    return Planned(result, _steps(result, settings))


def _steps(result: StudyResult, settings: config.Config) -> dict[Contestant, Step | Unavailable]:
    found: dict[Contestant, Step | Unavailable] = {}
    for match in result.matches:
        for each in (match.reference, match.row):
            if each not in found:
                found[each] = _step(each, result, settings)
    return found


def _step(each: Contestant, result: StudyResult, settings: config.Config) -> Step | Unavailable:
    """How a contestant's file is made; what it lacks is told by the cell and stops no other."""
    try:
        check_size(each.shape.height, each.shape.width, catalogue.find(_spec(each.row, settings).variant).stride)
        request = Request(
            device=result.device,
            models=(_spec(each.row, settings),),
            shapes=(each.shape,),
            fused=each.row.fuse,
            method=Method(),
            seed=result.seed,
            timeout_s=settings.sweep.timeout_s,
        )
        (step,) = sweep.plan(request, Path(settings.paths.models))
    except UnavailableError:  # a package that is not installed: no row that needs it could be made
        raise
    except FastViTBenchError as error:
        return Unavailable(each.name, str(error), "export")
    return step


def _spec(row: StudyRow, settings: config.Config) -> ModelSpec:
    (spec,) = settings.select([row.model])
    return msgspec.structs.replace(spec, head=row.head) if row.head is not spec.head else spec


# --- how long it takes ------------------------------------------------------------------------------------------------

LOADING_S = 1.5  # of a side for a block: a process, the file, warming up


def seconds(planned: Planned, macs_per_s: float | None) -> float:
    """About how long the rest takes; `macs_per_s` is the rate of earlier measurements on this device."""
    result = planned.result
    threads = int(result.device.options.get("threads", 1))
    rate = macs_per_s or sweep.GUESSED_MACS_PER_CORE_S * threads
    total = 0.0
    for match in planned.left:
        for each in (match.reference, match.row):
            step = planned.steps[each]
            if isinstance(step, Step):
                run = step.macs / rate
                turn = result.turns.pause_ms / 1e3 + run * result.turns.settle
                turn += max(run, min(run * result.turns.runs, result.turns.turn_ms / 1e3))
                total += result.blocks * (LOADING_S + 3 * run * result.turns.runs + result.turns.turns * turn)
    for step in planned.steps.values():
        if isinstance(step, Step) and step.cached is None:
            total += sweep.GUESSED_EXPORT_S + 20 * step.macs / rate
    return total


def measured_rate(results: Path, device: str) -> float | None:
    """Multiply-accumulates per second in the newest study of a device, else in its newest run; None without either."""
    found, _ = written.newest([results / device])
    rates = [
        1e3 * line.artifact.macs / line.figure.value
        for result in sorted(found, key=lambda each: each.finished)[-1:]
        for line in written.lines(result)
        if line.artifact and line.figure
    ]
    return median(rates) if rates else sweep.measured_rate(results, device)


def outline(planned: Planned, macs_per_s: float | None) -> str:
    """The plan in a line: ``repmixer-vs-pooling on cpu: 16 pairs of 6 blocks · 20 files to export · about 12 min``."""
    steps = [step for step in planned.steps.values() if isinstance(step, Step)]
    lacking = sum(step.cached is None for step in steps)
    left, all_of_it = len(planned.left), len(planned.result.matches)
    done = f" · {all_of_it - left} measured already" if left < all_of_it else ""
    return (
        f"{planned.result.study.name} on {planned.result.device.name}: {all_of_it} pair{'s' * (all_of_it != 1)} of "
        f"{planned.result.blocks} blocks{done} · {lacking} of {len(planned.steps)} files to export · "
        f"about {sweep.duration(seconds(planned, macs_per_s))}"
    )


# --- measuring --------------------------------------------------------------------------------------------------------


def run(
    planned: Planned,
    settings: config.Config,
    path: Path,
    *,
    say: Callable[[str], None] = lambda what: None,
    notify: Notify = lambda cell, block, look: None,
) -> Iterator[tuple[StudyResult, CellResult]]:
    """Export what is missing, then measure match by match; yields the study so far, which lies on the disk by then.

    A row that cannot be exported or timed becomes a cell without a figure, and the others go on.
    """
    result, timeout_s = planned.result, settings.sweep.timeout_s
    needed = dict.fromkeys(each for match in planned.left for each in (match.reference, match.row))
    entries: dict[Contestant, Entry | Unavailable] = {}
    with Worker() as exporter:
        for each in needed:
            entries[each] = _entry(each, planned.steps[each], exporter, timeout_s, say)
    sides.build_engines(entries.values(), timeout_s)
    contest_plan = Plan(looks=(result.blocks,), max_time_s=float("inf"), seed=result.seed, turns=result.turns)
    for match in planned.left:
        pair = Pair(match.name, entries[match.reference], entries[match.row])
        contest = Contest(
            [pair], contest_plan, result.machine, timeout_s=timeout_s, same=sides.anything_goes, notify=notify
        )
        (cell,) = map(_told, turns.results(contest, contest.run()))
        kept = tuple(each for each in result.cells if each.name != cell.name)
        result = msgspec.structs.replace(
            result, cells=(*kept, cell), finished=datetime.now(UTC).isoformat(timespec="seconds")
        )
        written.write(result, path)
        yield result, cell


def _told(cell: CellResult) -> CellResult:
    """Without what belongs to a gate: a study asks for a ratio, and has no margin."""
    verdict = msgspec.structs.replace(cell.verdict, margin=0.0, above=0, bounds=None, detectable=None, floor=None)
    if verdict.ratio is not None:
        verdict = msgspec.structs.replace(verdict, outcome=Outcome.PASS, reason="measured")
    return msgspec.structs.replace(cell, verdict=verdict)


def _entry(
    each: Contestant, step: Step | Unavailable, exporter: Worker, timeout_s: float, say: Callable[[str], None]
) -> Entry | Unavailable:
    if isinstance(step, Unavailable):
        return step
    reply = sweep.ready(
        step, exporter, timeout_s, lambda step, what: say(f"{what} {each.name} ({step.cell.model})"), engine=False
    )
    if isinstance(reply, Artifact):
        return Entry(each.name, reply, Path(sweep.file_of(step, reply)), step.job.device)
    return Unavailable(each.name, f"{each.row.label}: {reply.reason}", reply.stage)


def file_of(result: StudyResult, results: Path) -> Path:
    """Where a study is kept."""
    return results / result.device.name / f"{written.PREFIX}{result.study.name}-{result.id}{written.SUFFIX}"
