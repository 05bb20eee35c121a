"""Latencies and accuracies of the workers of a fleet, for the commands `latency` and `accuracy`."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench import fleet
from fastvit_bench.cli import _output
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Accuracy, Device, Failure, Machine, Measurement, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fastvit_bench.accuracy.dataset import ImageFiles
    from fastvit_bench.accuracy.run import PlannedCount
    from fastvit_bench.fleet.executor import DaskExecutor
    from fastvit_bench.fleet.remote import Seat
    from fastvit_bench.records import Cell
    from fastvit_bench.sweep.executor import Notify
    from fastvit_bench.sweep.plan import Step
    from fastvit_bench.sweep.run import PlannedRun


def names(text: str) -> list[str]:
    """Return the names of devices that commas separate, once each. Raises `UsageError` where there is none."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError("--device is empty; name a device of benchmark.toml.")
    return parts


def check(scheduler: str | None, plaintext: str | None, machine_name: str | None, devices: Sequence[object]) -> None:
    """Raise `UsageError` for options of a fleet that do not go together, and for several devices without one."""
    fleet.check_options(scheduler, plaintext, machine_name)
    if scheduler is None and len(devices) > 1:
        raise UsageError("Several devices at once take a fleet, --scheduler; here, call this once for each device.")


def run_to_resume(devices: Sequence[Device], results: Path, resume: str | None) -> Path | None:
    """Return the run that a fleet continues, if any. Raises `UsageError` for several devices."""
    from fastvit_bench import options
    from fastvit_bench.store import runs

    if resume is None:
        return None
    if len(devices) > 1:
        raise UsageError("--resume continues one run; name its device alone.")
    return options.run_to_resume(devices[0].name, runs.find(results, resume))


def suffix(scheduler: str | None) -> str:
    """Return what a command that goes on has to say of the fleet."""
    return f" --scheduler {scheduler}" if scheduler else ""


def sweep(
    scheduler: str,
    plaintext: str | None,
    devices: Sequence[Device],
    request_of: Callable[[Device], Request],
    resume: Path | None,
    models: Path,
    results: Path,
    wait_s: float | None,
) -> tuple[list[Path], int]:
    """Measure on a fleet: one run file a device. Return the files, and the number of failures."""
    from fastvit_bench.fleet import place
    from fastvit_bench.sweep import estimate, run

    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(place.executor_of(scheduler, plaintext, wait_s))
        planned: list[PlannedRun] = []
        for device in devices:
            entry, seats = stack.enter_context(place.latencies(executor, device, request_of, models, results, resume))
            planned.append(entry)
            times = estimate.run_times(entry.request.device, results)
            costs = {step.cell: estimate.seconds([step], entry.request, times) for step in entry.steps}
            _tell(entry, seats, executor, costs, estimate.outline(entry.request, entry.steps, times))
        failed = _followed("latency", planned, scheduler, lambda notify: run.run_all(planned, executor, notify))
        _tell_repeats(executor)
    return [entry.path for entry in planned], failed


def count(
    scheduler: str,
    plaintext: str | None,
    devices: Sequence[Device],
    images: "ImageFiles",
    request_of: Callable[[Device, Machine, str], Request],
    resume: Path | None,
    models: Path,
    results: Path,
) -> tuple[list[Path], int]:
    """Count right answers on a fleet: one run file a device. Return the files, and the number of failures."""
    from fastvit_bench.accuracy import run
    from fastvit_bench.fleet import place
    from fastvit_bench.records import AccuracyChunk
    from fastvit_bench.sweep import estimate

    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(place.executor_of(scheduler, plaintext))
        planned: list[PlannedCount] = []
        for device in devices:
            entry, seats = stack.enter_context(
                place.counts(executor, device, images, request_of, models, results, resume)
            )
            planned.append(entry)
            times = estimate.run_times(entry.request.device, results)
            runs = {step.cell: -(-len(entry.images.pictures) // step.cell.shape.batch) for step in entry.steps}
            costs = {step.cell: runs[step.cell] * times.seconds(step.macs) for step in entry.steps}
            _tell(
                entry,
                seats,
                executor,
                costs,
                f"{entry.request.device.name}: {_output.plural(len(entry.steps), 'model')} on "
                f"{len(entry.images.pictures)} images · about {estimate.duration(sum(costs.values()))}",
            )

        def results_of(notify: "Notify") -> "Iterable[Accuracy | Failure]":
            replies = run.run_all(planned, executor, notify)
            return (reply for _, reply in replies if not isinstance(reply, AccuracyChunk))

        failed = _followed("accuracy", planned, scheduler, results_of)
        _tell_repeats(executor)
    return [entry.path for entry in planned], failed


def _tell(
    entry: "PlannedRun | PlannedCount",
    seats: "Sequence[Seat]",
    executor: "DaskExecutor",
    costs: "Mapping[Cell, float]",
    outline: str,
) -> None:
    """Print the plan of a device before anything is measured, and let the fleet know of it."""
    from fastvit_bench.fleet import place

    for note in place.differences(seats):
        _output.warn(note)
    workers = f"one of {len(seats)} workers" if len(seats) > 1 else "one worker"
    _output.say(f"{outline} on {workers}")
    executor.expect(entry.path, entry.request.device.name, costs)


def _tell_repeats(executor: "DaskExecutor") -> None:
    from fastvit_bench.sweep import estimate

    if executor.repeated:
        _output.say(
            f"{_output.plural(executor.repeated, 'size')} begun again after a worker was lost: at most "
            f"{estimate.duration(executor.repeated_s)} of device time were spent twice"
        )


def _followed(
    command: str,
    planned: "Sequence[PlannedRun | PlannedCount]",
    scheduler: str,
    results_of: "Callable[[Notify], Iterable[Measurement | Accuracy | Failure]]",
) -> int:
    """Print each result as it comes, under a line of progress; return the number of failures."""
    from fastvit_bench.cli._progress import ProgressLine
    from fastvit_bench.render import accuracies, row_text

    console, failed = _output.stderr(), 0
    total = sum(len(entry.steps) for entry in planned)
    with ProgressLine(console) as progress:

        def notify(step: "Step", stage: str) -> None:
            progress.timing(f"{stage} {step.cell.label} ({total} in all)")

        try:
            for number, result in enumerate(results_of(notify), 1):
                failed += isinstance(result, Failure)
                line = row_text.live_row(result) if isinstance(result, Measurement) else accuracies.line(result)
                progress.say(f"{number} of {total}: {line}")
        except KeyboardInterrupt as error:
            commands = (
                f"{command} --device {entry.request.device.name} --resume {entry.path.stem}{suffix(scheduler)}"
                for entry in planned
            )
            going_on = "; fastvit-bench ".join(commands)
            raise _output.interrupted(error, "every finished size", going_on, console) from None
    return failed
