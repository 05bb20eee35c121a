"""Studies: rows of a published table, exported, timed in turns with their references, and stored as they end."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import fastvit_bench
from fastvit_bench import backends, config
from fastvit_bench.comparing import inputs, interleaved, journal
from fastvit_bench.comparing.inputs import Candidate, ComparisonPair, Unavailable
from fastvit_bench.comparing.interleaved import InterleavedRun, Notify
from fastvit_bench.errors import FastViTBenchError, NotComparableError, StoreError, UnavailableError, UsageError
from fastvit_bench.measuring.git import current_commit
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.network import registry
from fastvit_bench.network.registry import check_size
from fastvit_bench.paper import study_table
from fastvit_bench.paper.standing import BLOCKS
from fastvit_bench.records import Artifact, Device, Machine, Method, ModelSpec, Request, Shape, Weights
from fastvit_bench.records.comparison import CellResult, Outcome, Plan
from fastvit_bench.records.study import SCHEMA, Contestant, Match, Study, StudyNetwork, StudyResult, StudyRow
from fastvit_bench.store import runs, unfinished
from fastvit_bench.sweep import block, estimate
from fastvit_bench.sweep import plan as sweep_plan
from fastvit_bench.sweep import run as sweep_run
from fastvit_bench.sweep.block import BlockJob, BlockReply
from fastvit_bench.sweep.estimate import RunTimes
from fastvit_bench.sweep.plan import Step

UNLIMITED_S = 1e9  # the time for a pair; a file cannot hold infinity

# --- matches and plan -------------------------------------------------------------------------------------------------


def joined(study: Study, models: Sequence[str]) -> Study:
    """Return the study with further models in its first group, at the sizes of that group's reference.

    Raises `UsageError` for a study without a measurable row, and for a model whose label it has already.
    """
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


def challenged(study: Study, model: str, *, res: int | None = None, top1: float | None = None) -> Study:
    """Return the study with a network of one's own in every group, at one size, beside the rows that it has.

    The size is that of the first reference unless `res` says another, so that `top1` is of one network. Raises
    `UsageError` for a study without a measurable row, and for a network whose label it has already.
    """
    label = Path(model).name
    if label in {row.label for row in study.rows}:
        raise UsageError(f"Study '{study.name}' has a row '{label}' already; its table compares it.")
    references = [
        next(row for row in study.rows if row.group == group and row.model)
        for group in dict.fromkeys(row.group for row in study.rows if row.model)
    ]
    if not references:
        raise UsageError(f"Study '{study.name}' has nothing that can be measured, so there is nothing to compare with.")
    rows: list[StudyRow] = []
    for reference in references:
        own = StudyRow(
            label=label, model=model, res=res or references[0].res, group=reference.group, challenger=True, top1=top1
        )
        rows += [*(row for row in study.rows if row.group == reference.group), own]
    return msgspec.structs.replace(study, rows=tuple(rows))


def matches(study: Study, device: Device, sizes: Sequence[tuple[int, int]] = ()) -> tuple[Match, ...]:
    """Pair every row with the reference of its group, in the order of the rows.

    `sizes` (height, width) replace the study's grid. A row of one size is paired with the reference at that size, or at
    the reference's own where it has one. Raises `UsageError` where no group has two rows that can be measured, or a
    reference lacks the size.
    """
    grid = list(sizes) or [(size, size) for size in study.grid]
    pairs: list[Match] = []
    for group in dict.fromkeys(row.group for row in study.rows):
        rows = [row for row in study.rows if row.group == group and row.model]
        if len(rows) < 2:
            continue
        reference, *challengers = ({row: _contestants(row, grid, device) for row in rows}).values()
        by_shape = {contestant.shape: contestant for contestant in reference}
        for contestant in itertools.chain.from_iterable(challengers):
            against = by_shape.get(contestant.shape) or (reference[0] if len(reference) == 1 else None)
            if against is None:
                raise UsageError(
                    f"Study '{study.name}': {contestant.name} has no counterpart of {reference[0].row.label}; "
                    f"give the reference that size too."
                )
            pairs.append(Match(reference=against, row=contestant))
    if not pairs:
        raise UsageError(f"Study '{study.name}' has no two rows that can be measured against each other.")
    return tuple(pairs)


def _contestants(row: StudyRow, grid: Sequence[tuple[int, int]], device: Device) -> list[Contestant]:
    sizes = grid if row.res is None else [(row.res, row.res)]
    return [Contestant(row=row, shape=Shape(batch=device.batch, height=h, width=w)) for h, w in sizes]


@dataclass(frozen=True)
class Planned:
    """A study that is ready to be measured: the record so far, and the export step of each contestant."""

    result: StudyResult
    steps: Mapping[Contestant, Step | Unavailable]

    @property
    def remaining(self) -> list[Match]:
        """The matches that lack blocks, those that failed included."""
        return [match for match in self.result.matches if not _done(self.result.cell(match), self.result.blocks)]

    def state(self, contestant: Contestant) -> str:
        """Return the state of a contestant's file, in words."""
        step = self.steps[contestant]
        if isinstance(step, Unavailable):
            return f"cannot be made: {step.reason}"
        return "to export" if step.cached is None else "exported already"


def _done(cell: CellResult | None, blocks: int) -> bool:
    """Return whether a match has all of its blocks; one that failed has not."""
    if cell is None or cell.verdict.outcome is Outcome.INCOMPARABLE:
        return False
    return sum(not block.replaced for block in cell.blocks) >= blocks


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
    """Plan a study; nothing is exported or written. Raises what `matches` raises."""
    timestamp = datetime.now(UTC)
    tree = current_commit()
    result = StudyResult(
        schema=SCHEMA,
        id=runs.new_id(timestamp),
        study=study,
        started=timestamp.isoformat(timespec="seconds"),
        finished=timestamp.isoformat(timespec="seconds"),
        tool=fastvit_bench.__version__,
        commit=tree.commit,
        dirty=tree.dirty,
        device=device,
        machine=machine,
        turns=interleaved.INTERLEAVE_PLAN,
        blocks=blocks,
        seed=seed,
        matches=matches(study, device, sizes),
    )
    steps = _steps(result, settings)
    return Planned(msgspec.structs.replace(result, networks=_networks(steps, settings)), steps)


def resumed(result: StudyResult, settings: config.Config, machine: Machine) -> Planned:
    """Plan the remaining part of an interrupted study.

    Raises `NotComparableError` where the machine, the configuration of a row or a checkpoint has changed.
    """
    if apart := machine.differences(result.machine, backends.figure_packages(result.device)):
        raise NotComparableError(
            f"Study {result.id} was begun under other conditions ({'; '.join(apart)}); begin a new one instead."
        )
    steps = _steps(result, settings)
    if changes := _changes(result, steps, _networks(steps, settings)):
        raise NotComparableError(
            f"Study {result.id} cannot go on, because its rows are no longer what they were ({'; '.join(changes)}); "
            f"begin a new one instead."
        )
    return Planned(result, steps)


def _networks(steps: Mapping[Contestant, Step | Unavailable], settings: config.Config) -> tuple[StudyNetwork, ...]:
    """Return what each row is by the configuration and the weight files of today."""
    networks = {
        contestant.row: StudyNetwork(
            row=contestant.row, spec=spec_of(contestant.row, settings), weights=step.cell.weights
        )
        for contestant, step in steps.items()
        if isinstance(step, Step)
    }
    return tuple(networks.values())


def _changes(
    result: StudyResult, steps: Mapping[Contestant, Step | Unavailable], networks: Sequence[StudyNetwork]
) -> list[str]:
    """Return a phrase for each fact about a row that has changed since the study began."""
    today = {network.row: _facts(network.spec, network.weights) for network in networks}
    before = {network.row: _facts(network.spec, network.weights) for network in result.networks}
    if not before:  # a study of an earlier version: of its measured rows, the files are known
        for match in result.matches:
            cell = result.cell(match)
            for row, side in ((match.row.row, cell and cell.head), (match.reference.row, cell and cell.base)):
                if side is not None and row in today:
                    artifact = side.artifact
                    known = {"variant": artifact.variant, "weights": _identity(artifact.weights)}
                    before[row] = {**today[row], **known}
    phrases = [f"{row.label} cannot be exported now" for row in before if row not in today]
    phrases += [
        f"{row.label}: {name} {facts[name]} then, {today[row][name]} now"
        for row, facts in before.items()
        if row in today
        for name in facts
        if facts[name] != today[row][name]
    ]
    return list(dict.fromkeys(phrases))


def _facts(spec: ModelSpec, weights: Weights) -> dict[str, object]:
    """Return what decides a row's network, by name; where the weight file lies does not."""
    return {
        "variant": spec.variant,
        "head": spec.head.value,
        "classes": spec.classes,
        "weights": _identity(weights),
    }


def _identity(weights: Weights) -> str:
    """Return what identifies weights: the hash of their file, or how they are drawn."""
    if weights.origin == "checkpoint":
        return f"SHA-256 {(weights.sha256 or '')[:12]}"
    return f"random(seed {weights.seed}, draw {weights.draw})"


def _steps(result: StudyResult, settings: config.Config) -> dict[Contestant, Step | Unavailable]:
    steps: dict[Contestant, Step | Unavailable] = {}
    for match in result.matches:
        for contestant in (match.reference, match.row):
            if contestant not in steps:
                steps[contestant] = _step(contestant, result, settings)
    return steps


def _step(contestant: Contestant, result: StudyResult, settings: config.Config) -> Step | Unavailable:
    """Return the export step of a contestant, or the reason why there is none; that stops no other contestant."""
    try:
        spec, shape = spec_of(contestant.row, settings), contestant.shape
        check_size(shape.height, shape.width, registry.find(spec.variant).stride)
        request = Request(
            device=_device(contestant.row, result.device),
            models=(spec,),
            shapes=(shape,),
            fused=contestant.row.fuse,
            method=Method(),
            seed=result.seed,
            timeout_s=settings.sweep.timeout_s,
        )
        (step,) = sweep_plan.plan(request, Path(settings.paths.models))
    except UnavailableError:  # a missing package fails every row that needs it
        raise
    except FastViTBenchError as error:
        return Unavailable(contestant.name, str(error), "export")
    return step


def _device(row: StudyRow, device: Device) -> Device:
    """Return the device in the precision of a row. Raises `UsageError` for one that it does not run."""
    if not row.precision or row.precision == device.precision:
        return device
    backend = backends.get(device.backend)
    if row.precision not in backend.precisions:
        raise UsageError(f"Device '{device.name}' runs {' or '.join(backend.precisions)}, not {row.precision}.")
    changed = msgspec.structs.replace(device, precision=row.precision)
    return msgspec.structs.replace(changed, options=backend.options(changed))


def spec_of(row: StudyRow, settings: config.Config) -> ModelSpec:
    """Return the network of a row, as the configuration describes it."""
    (spec,) = settings.select([row.model])
    return msgspec.structs.replace(spec, head=row.head) if row.head is not spec.head else spec


# --- duration ---------------------------------------------------------------------------------------------------------

LOADING_S = 1.5  # per side and block: the process, the file and warming up


def seconds(planned: Planned, times: RunTimes) -> float:
    """Return the estimated seconds that the remaining matches take, with the exports that they lack."""
    files = {step.job.path: step for step in planned.steps.values() if isinstance(step, Step)}
    return sum(match_seconds(planned, match, times) for match in planned.remaining) + sum(
        estimate.export_seconds(step, times) for step in files.values()
    )


def match_seconds(planned: Planned, match: Match, times: RunTimes) -> float:
    """Return the estimated seconds of all blocks of one match."""
    turns, total_s = planned.result.turns, 0.0
    for contestant in (match.reference, match.row):
        step = planned.steps[contestant]
        if isinstance(step, Step):
            run_s = times.seconds(step.macs)
            turn_s = turns.pause_ms / 1e3 + run_s * turns.settle
            turn_s += max(run_s, min(run_s * turns.runs, turns.turn_ms / 1e3))
            total_s += planned.result.blocks * (LOADING_S + 3 * run_s * turns.runs + turns.turns * turn_s)
    return total_s


def run_times(results: Path, device: Device) -> RunTimes:
    """Return how long runs take on a device, from its newest study and its newest runs."""
    studies, _ = study_table.newest([results / device.name])
    measured = [
        (line.artifact.macs, line.figure.value / 1e3)
        for result in sorted(studies, key=lambda result: result.finished)[-1:]
        for line in study_table.lines(result)
        if line.artifact and line.artifact.macs and line.figure
    ]
    known = estimate.run_times(device, results)
    return RunTimes(known.guessed_macs_per_s, (*known.measured, *measured))


def outline(planned: Planned, times: RunTimes) -> str:
    """Return the plan in a line: ``repmixer-vs-pooling on cpu: 16 pairs of 6 blocks · 20 files … · about 12 min``."""
    files = {step.job.path: step for step in planned.steps.values() if isinstance(step, Step)}
    lacking = sum(step.cached is None for step in files.values())
    remaining, total = len(planned.remaining), len(planned.result.matches)
    done = f" · {total - remaining} measured already" if remaining < total else ""
    return (
        f"{planned.result.study.name} on {planned.result.device.name}: {total} pair{'s' * (total != 1)} of "
        f"{planned.result.blocks} blocks{done} · {lacking} of {len(files)} files to export · "
        f"about {estimate.duration(seconds(planned, times))}"
    )


# --- measuring --------------------------------------------------------------------------------------------------------


def run(
    planned: Planned,
    settings: config.Config,
    path: Path,
    *,
    announce: Callable[[str], None] = lambda what: None,
    notify: Notify = lambda cell, block, look: None,
    warn: Callable[[str], None] = lambda what: None,
    measure: Callable[[BlockJob], BlockReply] = block.measure,
    engines: bool = True,
) -> Iterator[StudyResult]:
    """Export the missing files, then pass over all matches block by block; yields the study after each pass.

    A pass measures one block of every match, in an order drawn from the seed, so that the ratios of two matches are of
    the same moments. The study was written to `path` when it is yielded. A row that cannot be exported or timed becomes
    a cell without a figure and stops no other row. Every block is kept at once, so that a study that is killed goes on
    within the pass. `announce` gets each export as it begins. `measure` measures a block, by default on this machine;
    with `engines` those of the files are built here.
    """
    result, timeout_s, remaining = planned.result, settings.sweep.timeout_s, planned.remaining
    study_table.write(result, path)
    if not remaining:
        return
    needed = dict.fromkeys(itertools.chain.from_iterable((match.reference, match.row) for match in remaining))
    entries: dict[Contestant, Candidate | Unavailable] = {}
    with Worker() as exporter:
        for contestant in needed:
            entries[contestant] = _entry(contestant, planned.steps[contestant], exporter, timeout_s, announce)
    if engines:
        inputs.build_engines(entries.values(), timeout_s, announce)
    pairs = [ComparisonPair(match.name, entries[match.reference], entries[match.row]) for match in remaining]
    contest_plan = Plan(looks=(result.blocks,), max_time_s=UNLIMITED_S, seed=result.seed, turns=result.turns)
    blocks = _journal(pairs, contest_plan, result, path, warn)
    contest = InterleavedRun(
        pairs,
        contest_plan,
        result.machine,
        timeout_s=timeout_s,
        same=inputs.allow_any,
        notify=notify,
        recorded=blocks.recorded,
        record=blocks.record,
        measure=measure,
    )
    none_can_run = all(cell.failed is not None for cell in contest.cells.values())  # then there is no pass
    for _ in itertools.chain(contest.passes(), [None] if none_can_run else []):
        result = _with_cells(result, interleaved.results(contest, contest.so_far()))
        study_table.write(result, path)
        yield result
    blocks.remove()


def progress(result: StudyResult) -> str:
    """Return what is measured so far in a line: ``2 of 6 passes over 16 pairs``."""
    counts = [sum(not block.replaced for block in cell.blocks) for cell in result.cells if cell.blocks]
    return f"{min(counts, default=0)} of {result.blocks} passes over {len(counts)} pairs"


def _with_cells(result: StudyResult, cells: Sequence[CellResult]) -> StudyResult:
    """Return the study with these cells in the order of its matches, each in place of an earlier one of its name."""
    by_name = {cell.name: cell for cell in (*result.cells, *map(_without_gate, cells))}
    ordered = tuple(by_name[match.name] for match in result.matches if match.name in by_name)
    return msgspec.structs.replace(result, cells=ordered, finished=datetime.now(UTC).isoformat(timespec="seconds"))


def _journal(
    pairs: Sequence[ComparisonPair], plan: Plan, result: StudyResult, path: Path, warn: Callable[[str], None]
) -> journal.Journal:
    """Return the journal of the matches: that of an interrupted study if it is of the same ones, else a new one."""
    known = path.with_suffix(unfinished.SUFFIX)
    if known.exists():
        try:
            earlier = unfinished.reopen(known)
            if set(earlier.start.sides) == {pair.name for pair in pairs}:
                return journal.resume(
                    earlier, machine=result.machine, plan=plan, pairs=pairs, device=result.device, warn=warn
                )
        except (StoreError, NotComparableError) as error:
            warn(f"measuring the remaining pairs anew, because their earlier blocks do not count: {error}")
    return journal.begin(
        path.parent,
        path.stem.removesuffix(f"-{result.id}"),
        result.id,
        options=None,
        machine=result.machine,
        plan=plan,
        pairs=pairs,
        warn=warn,
    )


def _without_gate(cell: CellResult) -> CellResult:
    """Return a cell without the fields of a gate: a study asks for a ratio and has no margin."""
    verdict = msgspec.structs.replace(cell.verdict, margin=0.0, above=0, bounds=None, detectable=None, floor=None)
    if verdict.ratio is not None:
        verdict = msgspec.structs.replace(verdict, outcome=Outcome.PASS, reason="measured")
    return msgspec.structs.replace(cell, verdict=verdict)


def _entry(
    contestant: Contestant,
    step: Step | Unavailable,
    exporter: Worker,
    timeout_s: float,
    announce: Callable[[str], None],
) -> Candidate | Unavailable:
    if isinstance(step, Unavailable):
        return step
    reply = sweep_run.ready(
        step,
        exporter,
        timeout_s,
        lambda step, what: announce(f"{what} {contestant.title} ({step.cell.model})"),
        engine=False,
    )
    if isinstance(reply, Artifact):
        return Candidate(contestant.name, reply, Path(sweep_plan.file_of(step, reply)), step.job.device)
    return Unavailable(contestant.name, f"{contestant.row.label}: {reply.reason}", reply.stage)


def file_of(result: StudyResult, results: Path) -> Path:
    """Return the path of a study's file."""
    return results / result.device.name / f"{study_table.PREFIX}{result.study.name}-{result.id}{study_table.SUFFIX}"
