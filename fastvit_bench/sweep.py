"""The corridor: what is to be measured becomes cells, and each cell an artifact, a measurement and a line in a file.

`plan` is pure but for reading what lies in the models folder; `run` does the work and yields results as they come.
"""

import functools
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

import fastvit_bench
from fastvit_bench import backends, build, catalogue, elsewhere, revisions
from fastvit_bench.elsewhere import Found
from fastvit_bench.errors import MismatchError, NotComparableError, StoreError, UnavailableError, UsageError
from fastvit_bench.measure import machine as machines
from fastvit_bench.records import (
    SCHEMA,
    SLOW,
    Artifact,
    Cell,
    CellError,
    Device,
    EngineJob,
    ExportJob,
    Failure,
    Fuse,
    Machine,
    Measurement,
    Method,
    ModelSpec,
    Request,
    Run,
    TimingJob,
)
from fastvit_bench.report import store
from fastvit_bench.stats.intervals import median
from fastvit_bench.store import speeds
from fastvit_bench.worker import ReferenceJob, ReferenceTimed, Worker, timed

# A first guess of how many multiply-accumulates per second one core does, for the estimate before anything has been
# measured here. It decides nothing.
GUESSED_MACS_PER_CORE_S = 30e9
GUESSED_EXPORT_S = 5.0


@dataclass(frozen=True)
class Step:
    """A cell, the export it needs, and the artifact if an earlier export made it."""

    cell: Cell
    job: ExportJob
    cached: Artifact | None

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one batch; of the catalogue, scaled by the pixels, before the export."""
        if self.cached is not None:
            return self.cached.macs
        shape = self.cell.shape
        return catalogue.macs(self.job.variant, shape.height * shape.width) * shape.batch


def plan(request: Request, models: Path) -> list[Step]:
    """The cells of a request in the order they will run: model by model, small images first as they were asked for."""
    steps: list[Step] = []
    for spec in request.models:
        weights = build.weights_of(spec, request.seed)
        for shape in request.shapes:
            job = build.job(spec, weights, shape, request.fused, request.device, folder=models)
            cell = Cell(model=spec.name, shape=shape, fused=request.fused, weights=weights)
            steps.append(Step(cell, job, build.cached(job)))
    return steps


def check_checkpoints(request: Request, steps: Sequence[Step]) -> None:
    """Raise `CheckpointError` for a checkpoint that has still to be exported and cannot be; nothing is built for it."""
    needed = {step.cell.model for step in steps if step.cached is None}
    for spec in request.models:
        if spec.name in needed:
            build.check_checkpoint(spec)


def begin(request: Request, steps: Sequence[Step], machine: Machine, results: Path) -> Path:
    """Create the run file of a new sweep; returns its path."""
    now = datetime.now(UTC)
    return store.create(results, _header(store.new_id(now), now, request, _cells(steps), machine))


def resume(path: Path, models: Path, machine: Machine) -> tuple[Request, list[Step]]:
    """What is left of an interrupted run. Writes a new header line with the machine as it is now.

    Cells that failed are tried again. Raises `NotComparableError` when the machine, its packages or a checkpoint
    changed since the run began: the new figures would not belong beside the old ones. `UsageError` for a run that
    counted images.
    """
    file, steps = reopen(path, models, machine)
    first = file.runs[0]
    if first.request.evaluation is not None:
        raise UsageError(
            f"Run {first.id} counts right answers instead of timing; go on with: "
            f"fastvit-bench accuracy --device {first.request.device.name} --resume {first.id}."
        )
    done = {cell_of(measurement) for measurement in file.measurements}
    go_on(file, machine)
    return first.request, [step for step in steps if step.cell not in done]


def reopen(path: Path, models: Path, machine: Machine) -> tuple[store.RunFile, list[Step]]:
    """A run that is to be continued, and all of its steps; raises `NotComparableError` as `resume` does."""
    file = store.reopen(path)
    first = file.runs[0]
    changes = machine.differences(first.machine, backends.figure_packages(first.request.device))
    if changes:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because this is not the machine it began on ({'; '.join(changes)}). "
            f"Start a new run; this one stays readable."
        )
    steps = plan(first.request, models)
    if _cells(steps) != first.cells:
        raise NotComparableError(
            f"Run {first.id} cannot go on, because a checkpoint of it has changed since. Start a new run."
        )
    return file, steps


def go_on(file: store.RunFile, machine: Machine) -> None:
    """Write the header line that says where and with what a run is continued."""
    first = file.runs[0]
    store.append(file.path, _header(first.id, datetime.now(UTC), first.request, first.cells, machine))


def cell_of(measurement: Measurement) -> Cell:
    """The cell a measurement of a sweep belongs to."""
    artifact = measurement.artifact
    assert isinstance(artifact, Artifact)
    return Cell(model=artifact.model, shape=artifact.shape, fused=artifact.fused, weights=artifact.weights)


def run(
    request: Request,
    steps: Sequence[Step],
    machine: Machine,
    path: Path,
    notify: Callable[[Step, str], None] = lambda step, what: None,
    command: Sequence[str] | None = None,
    wait_s: float | None = None,
) -> Generator[Measurement | Failure]:
    """Export and measure each step, write its line to the run file, then yield it.

    `notify` is told what begins; `command` starts the workers instead of this package's own. What a process timed
    while the machine ran slowly is timed again once it is quick again, for which `wait_s` seconds may be waited in all,
    shared out among the steps that are left; None takes figures of any speed.
    """
    start = Worker if command is None else functools.partial(Worker, command)
    patience = _Patience(path.parent.parent, wait_s, request.timeout_s, start)
    with start() as exporter:
        for number, step in enumerate(steps):
            patience.share(len(steps) - number)
            made = ready(step, exporter, request.timeout_s, notify)
            if isinstance(made, CellError):
                yield _record(path, failure(step, made))
                continue
            notify(step, "timing")
            job = TimingJob(
                artifact=made,
                path=file_of(step, made),
                device=step.job.device,
                method=request.method,
                machine=machine,
                profile=request.profile,
            )
            announce = functools.partial(notify, step)
            reply, _ = timed(job, request.timeout_s, start, functools.partial(patience.waited, announce))
            yield _record(path, patience.with_usual(reply) if isinstance(reply, Measurement) else failure(step, reply))


POLL_S = 3.0  # between two looks whether the machine is quick again


class _Patience:
    """What a sweep knows of its machine's speed, and the seconds it may still wait for it; None takes any speed."""

    def __init__(
        self, results: Path, seconds: float | None, timeout_s: float, start: Callable[[], Worker] = Worker
    ) -> None:
        self._results, self._left_s, self._timeout_s, self._start = results, seconds or 0.0, timeout_s, start
        self._share_s = self._left_s

    def share(self, cells: int) -> None:
        """Begin a cell, with so many to go, this one included: each may wait as long as the others."""
        self._share_s = self._left_s / cells

    def waited(self, announce: Callable[[str], None], process: Measurement) -> bool:
        """Note the speed of one process's runs; returns whether they were slow and the machine is quick again."""
        checks = process.speed_checks
        if not checks:
            return False
        times = [round(check.median_ns) for check in checks]
        best_ns = speeds.add(self._results, process.machine, times).best_ns
        if best_ns is None or self._share_s <= 0 or not any(check.is_slow(best_ns) for check in checks):
            return False
        announce("waiting for the machine's usual speed for")
        quick = self._until_quick(best_ns)
        announce("timing")
        return quick

    def with_usual(self, figure: Measurement) -> Measurement:
        """A measurement with what the machine has shown by now: its best speed, and how much processes differ.

        What this figure's own differ by is noted for the next ones, where none of them ran slowly.
        """
        checks = figure.speed_checks
        if not checks:
            return figure
        known = speeds.load(self._results, figure.machine)
        best_ns = known.best_ns
        if len(checks) > 1 and best_ns and not any(check.is_slow(best_ns) for check in checks):
            speeds.add_scatter(self._results, figure.machine, figure.process_medians_ns)
        return msgspec.structs.replace(figure, best_reference_ns=best_ns, usual_scatter=known.scatter)

    def _until_quick(self, best_ns: int) -> bool:
        """Wait until the reference workload is as quick as it should be; False where the seconds are used up first."""
        while self._share_s > 0:
            since = machines.now_s()
            machines.rest(min(POLL_S, self._share_s))
            with self._start() as worker:
                reply = worker.ask(ReferenceJob(), self._timeout_s)
            waited_s = machines.now_s() - since
            self._left_s, self._share_s = self._left_s - waited_s, self._share_s - waited_s
            if not isinstance(reply, ReferenceTimed):
                return False
            if best_ns / median(reply.samples_ns) >= SLOW:
                return True
        return False


def ready(
    step: Step, exporter: Worker, timeout_s: float, notify: Callable[[Step, str], None], *, engine: bool = True
) -> Artifact | CellError:
    """The step's artifact, exported and proved if there is none yet, and its engine where the toolkit runs engines."""
    artifact = step.cached
    if artifact is None:
        notify(step, "exporting")
        reply = exporter.ask(step.job, timeout_s)
        if isinstance(reply, CellError):
            return reply
        artifact = reply
    if engine and backends.get(step.job.backend).engines is not None:
        notify(step, "building")
        built = msgspec.structs.replace(step.job, path=file_of(step, artifact))
        reply = exporter.ask(EngineJob(export=built), timeout_s)
        if isinstance(reply, CellError):
            return reply
    return artifact


def file_of(step: Step, artifact: Artifact) -> str:
    """Path of the step's exported file."""
    return str(Path(step.job.path).with_name(artifact.path))


# --- what was measured elsewhere --------------------------------------------------------------------------------------


def adopt(found: Found, specs: Mapping[str, ModelSpec], results: Path) -> tuple[Path, bool]:
    """Keep what was measured elsewhere as a run; returns its file, and whether it is new or was held before.

    Its run is known again by the digest of its times. `specs` are the configured models, by name. Raises `UsageError`
    where the same times are kept already and said to be something else.
    """
    measurement, device = found.measurement, found.measurement.device
    made = measurement.artifact
    ours = made if isinstance(made, Artifact) else None
    request = Request(
        device=device,
        models=(_spec_of(ours, specs),) if ours else (),
        shapes=() if made.shape is None else (made.shape,),
        fused=ours.fused if ours else Fuse.NONE,
        method=measurement.method,
        seed=(ours.weights.seed if ours else None) or 0,
        timeout_s=0,  # nothing was waited for
    )
    with store.lock(results, device.name):
        named = [path for path in store.all_runs(results) if path.stem.endswith(f"-{found.digest}")]
        # a sweep may happen to have these digits, and a sweep knows its host
        held = next((path for path in named if not store.read(path).runs[0].machine.host), None)
        if held is not None and (held.parent.name != device.name or store.reopen(held).measurements):
            _check_same(held, found)
            return held, False
        if held is None:
            identity = store.new_id(found.started, found.digest)
            cells = (cell_of(measurement),) if ours else ()
            held = store.create(results, _header(identity, found.started, request, cells, measurement.machine))
        store.append(held, measurement)
    return held, True


def _check_same(held: Path, found: Found) -> None:
    """Raise `UsageError` unless a run says of the same times what is said of them now."""
    known = elsewhere.facts(found.measurement)
    file = store.read(held)
    before = elsewhere.facts(file.measurements[0]) if file.measurements else {"device": held.parent.name}
    for what, now in known.items():
        if before.get(what, now) != now:
            raise UsageError(
                f"This {found.source} is run {held.stem} already, and its {what} was '{before[what]}' then; remove "
                f"{held} to import it with '{now}'."
            )


def _spec_of(made: Artifact, specs: Mapping[str, ModelSpec]) -> ModelSpec:
    """The configured model of that name if it is the same network, else what the file says of itself."""
    spec = specs.get(made.model)
    if spec is None or spec.variant != made.variant:
        spec = ModelSpec(name=made.model, variant=made.variant)
    return msgspec.structs.replace(spec, head=made.head, classes=made.classes, checkpoint=None, sha256=None)


# --- estimates --------------------------------------------------------------------------------------------------------


def seconds(steps: Sequence[Step], request: Request, macs_per_s: float | None) -> float:
    """About how long the steps will take; `macs_per_s` is the rate of earlier measurements on this device."""
    threads = steps[0].job.device.options.get("threads", 1) if steps else 1
    rate = macs_per_s or GUESSED_MACS_PER_CORE_S * int(threads)
    method = request.method
    runs = (method.warmup + method.runs) * method.rounds
    loading = 0.7 * method.processes + (0.3 * (method.rounds - 1) if method.loading == "per-round" else 0.0)
    timing = sum(step.macs * runs / rate + loading for step in steps)
    exporting = sum(GUESSED_EXPORT_S + 20 * step.macs / rate for step in steps if step.cached is None)
    return timing + exporting


def outline(request: Request, steps: Sequence[Step], macs_per_s: float | None) -> str:
    """The plan in a line: ``6 cells · 2 exported already · 4 to export · about 3 min``."""
    ready = sum(step.cached is not None for step in steps)
    cells = f"{len(steps)} cell{'s' * (len(steps) != 1)}"
    method = request.method
    runs = f"{method.warmup} + {method.runs}"
    if method.rounds > 1:
        runs = f"{method.rounds} x ({runs})"
    spread = ""
    if method.processes > 1:
        spread = f" in {method.processes} processes"
    return (
        f"{request.device.name}: {cells} · {ready} exported already · {len(steps) - ready} to export · "
        f"{runs} runs each{spread} · about {duration(seconds(steps, request, macs_per_s))}"
    )


def duration(seconds: float) -> str:
    """A length of time as precisely as an estimate deserves: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def measured_rate(results: Path, device: str) -> float | None:
    """Multiply-accumulates per second at the end of the newest readable run of a device, or None without one."""
    for path in reversed(store.all_runs(results)):
        if path.parent.name != device:
            continue
        try:
            measurements = store.read(path).measurements
        except StoreError:  # an estimate is no reason to refuse a sweep
            continue
        ours = [found for found in measurements if isinstance(found.artifact, Artifact)]
        if ours:
            assert isinstance(ours[-1].artifact, Artifact)
            return ours[-1].artifact.macs / ours[-1].median_ms * 1e3
    return None


def _cells(steps: Sequence[Step]) -> tuple[Cell, ...]:
    return tuple(step.cell for step in steps)


def processes(method: Method, machine: Machine) -> int:
    """Return over how many processes runs are spread: one on accelerators, elsewhere at most one for each run."""
    return min(method.processes, method.runs) if machine.accelerator is None else 1


def _header(identity: str, started: datetime, request: Request, cells: tuple[Cell, ...], machine: Machine) -> Run:
    tree = revisions.head()
    return Run(
        schema=SCHEMA,
        id=identity,
        started=started.isoformat(timespec="seconds"),
        tool=fastvit_bench.__version__,
        commit=tree.commit,
        dirty=tree.dirty,
        request=request,
        cells=cells,
        machine=machine,
    )


def failure(step: Step, error: CellError) -> Failure:
    """What could not be done of a step, as a line of the run."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return Failure(finished=finished, cell=step.cell, **msgspec.structs.asdict(error))


def _record(path: Path, result: Measurement | Failure) -> Measurement | Failure:
    store.append(path, result)
    return result


def this_machine(name: str = "") -> Machine:
    """The machine at hand, whatever devices it has; `name` is what a person calls it."""
    return machines.collect(name=name)


def preflight(
    device: Device, mismatch: Literal["refuse", "rename"] = "refuse", name: str = ""
) -> tuple[Device, Machine]:
    """The device with its options filled in, and this machine; raises `UnavailableError` unless files can run on it.

    Nothing is built for that. Hardware that is not what the profile means is refused (`MismatchError`), or gives the
    device its own name. `name` is what a person calls the machine.
    """
    backend = backends.get(device.backend)
    device = msgspec.structs.replace(device, options=backend.options(device))
    backends.require(device.backend, device)
    absent = backend.absent(device)
    if absent:
        raise UnavailableError(f"Device '{device.name}' cannot run here: {absent}.")
    try:
        machine = machines.collect(backend.identify(device), device, name)
        machines.check(device, machine)
    except MismatchError:
        if mismatch == "refuse":
            raise
        anything = msgspec.structs.replace(device, match=None)
        if "compute_capability" in device.options:
            anything = msgspec.structs.replace(anything, options={**device.options, "compute_capability": ""})
        hardware = backend.identify(anything)
        machine = machines.collect(hardware, anything, name)
        options = dict(anything.options)
        if hardware and hardware.compute_capability:
            options["compute_capability"] = hardware.compute_capability
        label = re.sub(r"[^a-z0-9]+", "-", (machine.accelerator or machine.processor).lower()).strip("-")
        device = msgspec.structs.replace(anything, name=label, options=options)
    return device, machine
