"""Where a command measures: on this machine, or on the workers of a fleet, of which Dask is only then needed."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fastvit_bench
from fastvit_bench import backends, fleet
from fastvit_bench.accuracy import dataset
from fastvit_bench.accuracy import run as accuracy_run
from fastvit_bench.accuracy.dataset import ImageFiles
from fastvit_bench.accuracy.run import PlannedCount
from fastvit_bench.records import Device, LabelledImage, Machine, Request
from fastvit_bench.store import runs
from fastvit_bench.sweep import block, preflight
from fastvit_bench.sweep import run as sweep_run
from fastvit_bench.sweep.block import BlockJob, BlockReply
from fastvit_bench.sweep.run import PlannedRun

if TYPE_CHECKING:
    from fastvit_bench.fleet.executor import DaskExecutor
    from fastvit_bench.fleet.remote import Seat


@dataclass(frozen=True)
class ComparisonPlace:
    """The one machine that measures all blocks of a comparison."""

    device: Device  # its options filled in
    machine: Machine
    measure: Callable[[BlockJob], BlockReply]
    local: bool  # False: a worker builds engines and locks its machine
    notes: Sequence[str] = ()  # on the versions of the worker


@contextlib.contextmanager
def of_comparison(
    device: Device, machine_name: str, scheduler: str | None, plaintext: str | None, like: Machine | None = None
) -> Generator[ComparisonPlace]:
    """Yield where a comparison is measured: here, or on the machine of one worker; on `like` if that is given.

    Raises what `preflight.preflight` raises, and `UnavailableError` or `NotComparableError` where no worker fits.
    """
    fleet.check_options(scheduler, plaintext, machine_name)
    if scheduler is None:
        chosen, machine = preflight.preflight(device, name=machine_name)
        yield ComparisonPlace(chosen, machine, block.measure, local=True)
        return
    with executor_of(scheduler, plaintext) as executor:
        seat = executor.seat_like(device, like)
        yield ComparisonPlace(seat.device, seat.machine, executor.block, local=False, notes=differences([seat]))


@contextlib.contextmanager
def executor_of(scheduler: str, plaintext: str | None = None, wait_s: float | None = None) -> "Generator[DaskExecutor]":
    """Yield the executor of a fleet. Raises `UnavailableError` for a scheduler that cannot be reached."""
    fleet.require()
    from fastvit_bench.fleet import cluster
    from fastvit_bench.fleet.executor import DaskExecutor

    listen = cluster.listen_address(scheduler, plaintext)
    with cluster.connect(scheduler) as client, DaskExecutor(client, listen, wait_s) as executor:
        yield executor


@contextlib.contextmanager
def latencies(
    executor: "DaskExecutor",
    device: Device,
    request_of: Callable[[Device], Request],
    models: Path,
    results: Path,
    resume: Path | None,
) -> "Generator[tuple[PlannedRun, list[Seat]]]":
    """Yield the run of a device on a fleet, locked, and its seats: a new run, or what that of `resume` lacks."""
    seats = executor.seats(device)
    first = seats[0]
    request = request_of(first.device) if resume is None else runs.read(resume).runs[0].request
    planned = sweep_run.planned_on_fleet(request, first.machine, models, results, resume)
    with runs.lock(results, device.name, planned.path.stem):
        yield planned, seats


@contextlib.contextmanager
def counts(
    executor: "DaskExecutor",
    device: Device,
    images: ImageFiles,
    request_of: Callable[[Device, Machine, str], Request],
    models: Path,
    results: Path,
    resume: Path | None,
) -> "Generator[tuple[PlannedCount, list[Seat]]]":
    """Yield the evaluation of a device on a fleet, locked, and its seats: a new one, or what that of `resume` lacks.

    `request_of` gets the device, a machine and the decoder of the workers. Raises `UnavailableError` unless all workers
    of the device have the images.
    """
    seats = executor.seats(device)
    first = seats[0]
    local = dataclasses.replace(images, folder=images.folder.absolute())
    files = [LabelledImage(name=image.name, size_bytes=image.size_bytes, label=0) for image in local.images]
    decoder = executor.image_decoder(first.device, str(local.folder), files)
    if resume is None:
        request = request_of(first.device, first.machine, decoder)
        planned = accuracy_run.begun(request, first.machine, local, models, results, True)
    else:
        planned = accuracy_run.resumed_on_fleet(resume, models, first.machine, local, decoder)
    with runs.lock(results, device.name, planned.path.stem):
        yield planned, seats


def images_of(resume: Path | None, data: Path, labels: Path | None) -> ImageFiles:
    """Return the images as they are on this machine: those of a run that is continued, or else the ones that are named.

    Raises `UsageError` for a run that timed, and what `dataset.collect` raises.
    """
    if resume is None:
        return dataset.collect(data, labels)
    return accuracy_run.images_of(accuracy_run.evaluation_of(runs.read(resume)))


def differences(seats: "Sequence[Seat]") -> list[str]:
    """Return a sentence on each worker whose versions or machine differ from the first's or from this package's."""
    own = fastvit_bench.__version__
    notes = [
        f"Worker '{seat.worker}' has fastvit-bench {seat.tool}, and this is {own}; its figures carry its version."
        for seat in seats
        if seat.tool != own
    ]
    first = seats[0]
    for seat in seats[1:]:
        unequal = seat.machine.differences(first.machine, backends.figure_packages(first.device))
        if unequal:
            facts = "; ".join(
                fact.replace(" then, ", f" on '{first.worker}', ").replace(" now", f" on '{seat.worker}'")
                for fact in unequal
            )
            notes.append(f"Workers of '{first.device.name}' differ, and their figures are kept apart: {facts}.")
    return list(dict.fromkeys(notes))
