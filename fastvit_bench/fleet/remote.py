"""The functions that run on the workers. They take and return JSON, so that every field is checked on arrival."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from distributed import Worker as DaskWorker
from distributed import get_worker
from distributed.utils import sync

import fastvit_bench
from fastvit_bench import config
from fastvit_bench.errors import FastViTBenchError
from fastvit_bench.fleet import machine_lock, transfer
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import CellError, Device, Machine, Measurement, Record
from fastvit_bench.sweep import preflight
from fastvit_bench.sweep.cell import CellJob, measure

MACHINE = "machine"  # resource that all devices of a machine share
APART = "devices-apart"  # resource that marks a machine whose devices may be busy at once
MOST_STARTS = 2  # of a cell: it is begun once more after a worker was lost
start: Callable[[], Worker] = Worker  # makes the processes that measure


def device_resource(name: str) -> str:
    """Return the name of the resource that a worker has one of for a device."""
    return f"device-{name}"


class CellOrder(Record, frozen=True):
    """A cell to be measured on a worker, and where the worker gets its files."""

    topic: str  # of the events on this cell
    job: CellJob
    manifest: tuple[transfer.FileReference, ...]
    client: str  # address that serves the files


class Seat(Record, frozen=True, tag="seat", tag_field="kind"):
    """A device as a worker has it: its options filled in, its machine, and the version of this package there."""

    device: Device
    machine: Machine
    tool: str


class Refusal(Record, frozen=True, tag="refusal", tag_field="kind"):
    """The reason why a worker cannot run a device."""

    reason: str


class Start(Record, frozen=True):
    """An event: a worker begins a cell."""

    worker: str


def take_seat(device: bytes) -> bytes:
    """Return the `Seat` of a device on this worker, or a `Refusal`."""
    try:
        chosen, machine = _preflight(msgspec.json.decode(device, type=Device))
    except FastViTBenchError as error:
        return msgspec.json.encode(Refusal(reason=str(error)))
    return msgspec.json.encode(Seat(device=chosen, machine=machine, tool=fastvit_bench.__version__))


@functools.lru_cache(maxsize=64)
def _known(device: bytes, name: str) -> tuple[Device, Machine]:
    return preflight.preflight(msgspec.json.decode(device, type=Device), name=name)


def _preflight(device: Device) -> tuple[Device, Machine]:
    return _known(msgspec.json.encode(device), os.environ.get(config.MACHINE_VARIABLE, "").strip())


def measure_cell(order: bytes) -> bytes:
    """Return the `Measurement` of a cell or its `CellError`; no other cell runs on the device meanwhile."""
    asked = msgspec.json.decode(order, type=CellOrder)
    worker: DaskWorker = get_worker()
    earlier = [event["worker"] for event in _events(worker, asked.topic)]
    if len(earlier) >= MOST_STARTS:
        return msgspec.json.encode(lost(earlier))
    scheduler: Any = worker.scheduler
    sync(worker.loop, scheduler.log_event, topic=asked.topic, msg=msgspec.to_builtins(Start(worker=str(worker.name))))
    try:
        return msgspec.json.encode(_measured(asked, worker))
    except FastViTBenchError as error:
        return msgspec.json.encode(CellError(stage="timing", reason=str(error)))
    except OSError as error:
        return msgspec.json.encode(CellError(stage="timing", reason=f"{type(error).__name__}: {error}"))


def lost(workers: list[str]) -> CellError:
    """Return the failure of a cell whose workers were lost, one after the other."""
    return CellError(
        stage="timing", reason=f"the workers {' and '.join(workers)} were lost while they ran it; it is not begun again"
    )


def _events(worker: DaskWorker, topic: str) -> list[dict[str, str]]:
    scheduler: Any = worker.scheduler
    return [message for _, message in sync(worker.loop, scheduler.events, topic=topic)]


def _measured(asked: CellOrder, worker: DaskWorker) -> Measurement | CellError:
    device, machine = _preflight(asked.job.export.device)
    folder = transfer.fetch(asked.manifest, asked.client)
    export = msgspec.structs.replace(
        asked.job.export, path=str(folder / Path(asked.job.artifact.path).name), device=device
    )
    job = msgspec.structs.replace(asked.job, export=export)
    with machine_lock.measuring(device.name, apart=APART in worker.state.total_resources):
        outcome, _ = measure(job, machine, transfer.cache(), start=start)
    return outcome
