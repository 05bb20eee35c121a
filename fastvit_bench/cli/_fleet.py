"""Latencies measured by the workers of a fleet, for command `latency`."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench import fleet
from fastvit_bench.cli import _output
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Device, Failure, Machine, Request

if TYPE_CHECKING:
    from fastvit_bench.cli._progress import ProgressLine
    from fastvit_bench.fleet.remote import Seat
    from fastvit_bench.sweep.plan import Step
    from fastvit_bench.sweep.run import PlannedRun


def names(text: str) -> list[str]:
    """Return the names of devices that commas separate, once each. Raises `UsageError` where there is none."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError("--device is empty; name a device of benchmark.toml.")
    return parts


def sweep(
    scheduler: str,
    plaintext: str | None,
    devices: Sequence[Device],
    request_of: Callable[[Device, Machine], Request],
    resume: Path | None,
    models: Path,
    results: Path,
    wait_s: float | None,
) -> tuple[list[Path], int]:
    """Measure on a fleet: one run file a device. Return the files, and the number of failures."""
    fleet.require()
    from fastvit_bench.fleet import cluster
    from fastvit_bench.fleet.executor import DaskExecutor
    from fastvit_bench.store import runs as store_runs
    from fastvit_bench.sweep import estimate, run

    listen = cluster.listen_address(scheduler, plaintext)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(cluster.connect(scheduler))
        executor = stack.enter_context(DaskExecutor(client, listen, wait_s))
        planned: list[PlannedRun] = []
        for device in devices:
            seats = executor.seats(device)
            for note in _differences(seats):
                _output.warn(note)
            first = seats[0]
            if resume is None:
                request, path = request_of(first.device, first.machine), None
            else:
                request, path = store_runs.read(resume).runs[0].request, resume
            sweep_plan = run.planned_on_fleet(request, first.machine, models, results, path)
            stack.enter_context(store_runs.lock(results, device.name, sweep_plan.path.stem))
            planned.append(sweep_plan)
            times = estimate.run_times(request.device, results)
            _output.say(f"{estimate.outline(request, sweep_plan.steps, times)} · {len(seats)} workers")
        failed = _measured(planned, executor, scheduler)
        if executor.repeated:
            _output.say(
                f"{_output.plural(executor.repeated, 'size')} begun again after a worker was lost: at most "
                f"{estimate.duration(executor.repeated_s)} of device time were spent twice"
            )
    return [entry.path for entry in planned], failed


def _measured(planned: "Sequence[PlannedRun]", executor: "object", scheduler: str) -> int:
    from fastvit_bench.cli._progress import ProgressLine
    from fastvit_bench.render import row_text
    from fastvit_bench.sweep import run

    console, failed = _output.stderr(), 0
    total = sum(len(entry.steps) for entry in planned)
    with ProgressLine(console) as progress:
        try:
            for number, result in enumerate(run.run_all(planned, executor, _notices(progress, total)), 1):  # pyright: ignore[reportArgumentType]
                failed += isinstance(result, Failure)
                progress.say(f"{number} of {total}: {row_text.live_row(result)}")
        except KeyboardInterrupt as error:
            commands = (
                f"latency --device {entry.request.device.name} --resume {entry.path.stem} --scheduler {scheduler}"
                for entry in planned
            )
            command = "; fastvit-bench ".join(commands)
            raise _output.interrupted(error, "every finished size", command, console) from None
    return failed


def _notices(progress: "ProgressLine", total: int) -> "Callable[[Step, str], None]":
    def notify(step: "Step", stage: str) -> None:
        progress.timing(f"{stage} {step.cell.label} ({total} in all)")

    return notify


def _differences(seats: "Sequence[Seat]") -> list[str]:
    """Return a sentence on each worker whose versions or machine differ from the first's or from this package's."""
    import fastvit_bench
    from fastvit_bench import backends

    notes = [
        f"A worker on '{seat.machine.name or seat.machine.host}' has fastvit-bench {seat.tool}, and this is "
        f"{fastvit_bench.__version__}."
        for seat in seats
        if seat.tool != fastvit_bench.__version__
    ]
    first = seats[0]
    for seat in seats[1:]:
        unequal = seat.machine.differences(first.machine, backends.figure_packages(first.device))
        if unequal:
            facts = "; ".join(fact.replace(" then, ", " on one, ").replace(" now", " on another") for fact in unequal)
            notes.append(f"Workers of '{first.device.name}' differ, and their figures are kept apart: {facts}.")
    return list(dict.fromkeys(notes))
