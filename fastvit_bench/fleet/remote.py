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
from fastvit_bench import backends, config, files
from fastvit_bench.errors import FastViTBenchError, UnavailableError
from fastvit_bench.exporting import metadata
from fastvit_bench.fleet import images, machine_lock, transfer
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import (
    AccuracyChunk,
    CellError,
    Device,
    EngineJob,
    Machine,
    Measurement,
    Record,
    Stage,
)
from fastvit_bench.sweep import block, preflight
from fastvit_bench.sweep.block import BlockFailed, BlockJob, BlockReply, BlockSide, BlockTimed, OutOfReach
from fastvit_bench.sweep.cell import CellJob, CountEnd, CountJob, count, measure

WIRE = 2  # version of the records that travel; a client refuses a worker with another one
MACHINE = "machine"  # resource that all devices of a machine share
APART = "devices-apart"  # resource that marks a machine whose devices may be busy at once
MOST_STARTS = 2  # of a cell: it is begun once more after a worker was lost
start: Callable[[], Worker] = Worker  # makes the processes that measure


def device_resource(name: str) -> str:
    """Return the name of the resource that a worker has one of for a device."""
    return f"device-{name}"


class Order(Record, frozen=True):
    """A job to be done on a worker, and where the worker gets its files."""

    topic: str  # of the events on this job
    job: CellJob | CountJob | BlockJob
    parcels: dict[str, transfer.Parcel]  # "export" of a cell, and "images"; "base" and "head" of a block
    client: str  # address that serves the files


Reply = Measurement | AccuracyChunk | CountEnd | CellError | BlockTimed | BlockFailed | OutOfReach


class Done(Record, frozen=True):
    """What became of an order."""

    replies: tuple[Reply, ...]
    seconds: float  # that it took, without the wait for the machine
    tool: str  # version of this package that did it


class Seat(Record, frozen=True, tag="seat", tag_field="kind"):
    """A device as a worker has it: its options filled in, its machine, and the version of this package there."""

    device: Device
    machine: Machine
    tool: str
    worker: str  # its name
    address: str
    wire: int = 0  # version of the records that it takes


class Refusal(Record, frozen=True, tag="refusal", tag_field="kind"):
    """The reason why a worker cannot run a device, or cannot read images."""

    reason: str


class Start(Record, frozen=True):
    """An event: a worker begins a job."""

    worker: str


def tool() -> str:
    """Return the version of this package on this worker."""
    return fastvit_bench.__version__


def take_seat(device: bytes) -> bytes:
    """Return the `Seat` of a device on this worker, or a `Refusal`."""
    worker: DaskWorker = get_worker()
    try:
        chosen, machine = here(msgspec.json.decode(device, type=Device))
    except FastViTBenchError as error:
        return msgspec.json.encode(Refusal(reason=str(error)))
    return msgspec.json.encode(
        Seat(device=chosen, machine=machine, tool=tool(), worker=str(worker.name), address=worker.address, wire=WIRE)
    )


@functools.lru_cache(maxsize=64)
def _known(device: bytes, name: str) -> tuple[Device, Machine]:
    return preflight.preflight(msgspec.json.decode(device, type=Device), name=name)


def here(device: Device) -> tuple[Device, Machine]:
    """Return a device with its options filled in, and this machine; raises what `preflight.preflight` raises."""
    return _known(msgspec.json.encode(device), os.environ.get(config.MACHINE_VARIABLE, "").strip())


class ImagesOrder(Record, frozen=True):
    """Images that a worker is to look for."""

    folder: str  # on the client
    parcel: transfer.Parcel  # their names, sizes and classes
    client: str


def find_images(order: bytes) -> bytes:
    """Return the `images.ImageFolder` with the images on this worker, or a `Refusal`."""
    asked = msgspec.json.decode(order, type=ImagesOrder)
    try:
        return msgspec.json.encode(images.find(asked.folder, images.read(transfer.fetch(asked.parcel, asked.client))))
    except (FastViTBenchError, OSError) as error:
        return msgspec.json.encode(Refusal(reason=str(error)))


def perform(order: bytes) -> bytes:
    """Return what became of an `Order`, as `Done`; no other job runs on the device meanwhile."""
    asked = msgspec.json.decode(order, type=Order)
    worker: DaskWorker = get_worker()
    earlier = [event["worker"] for event in _events(worker, asked.topic)]
    if len(earlier) >= MOST_STARTS:
        return msgspec.json.encode(Done(replies=(lost(earlier),), seconds=0.0, tool=tool()))
    scheduler: Any = worker.scheduler
    sync(worker.loop, scheduler.log_event, topic=asked.topic, msg=msgspec.to_builtins(Start(worker=str(worker.name))))
    stage: Stage = "accuracy" if isinstance(asked.job, CountJob) else "timing"
    replies: list[Reply]
    seconds = 0.0
    try:
        paths = {role: transfer.fetch(parcel, asked.client) for role, parcel in asked.parcels.items()}
        apart = APART in worker.state.total_resources
        with machine_lock.measuring(_device(asked.job).name, apart=apart):
            since = machines.monotonic_s()
            replies = _replies(asked.job, paths)
            seconds = machines.monotonic_s() - since
    except FastViTBenchError as error:
        replies = [CellError(stage=stage, reason=str(error))]
    except OSError as error:
        replies = [CellError(stage=stage, reason=f"{type(error).__name__}: {error}")]
    return msgspec.json.encode(Done(replies=tuple(replies), seconds=seconds, tool=tool()))


def lost(workers: list[str]) -> CellError:
    """Return the failure of a cell whose workers were lost, one after the other."""
    return CellError(
        stage="timing", reason=f"the workers {' and '.join(workers)} were lost while they ran it; it is not begun again"
    )


def _events(worker: DaskWorker, topic: str) -> list[dict[str, str]]:
    scheduler: Any = worker.scheduler
    return [message for _, message in sync(worker.loop, scheduler.events, topic=topic)]


def _device(job: CellJob | CountJob | BlockJob) -> Device:
    match job:
        case CellJob():
            return job.export.device
        case CountJob():
            return job.evaluation.export.device
        case BlockJob():
            return job.head.device


def _replies(job: CellJob | CountJob | BlockJob, paths: dict[str, Path]) -> list[Reply]:
    """Return the replies to a job, whose files are in the cache by their roles."""
    match job:
        case CellJob():
            device, machine = here(job.export.device)
            export = msgspec.structs.replace(job.export, path=str(paths["export"]), device=device)
            reply, _ = measure(msgspec.structs.replace(job, export=export), machine, files.cache_folder(), start=start)
            return [reply]
        case CountJob():
            return _counted(job, paths)
        case BlockJob():
            return [_block(job, paths)]


def _counted(job: CountJob, paths: dict[str, Path]) -> list[Reply]:
    """Count on the images of this machine, which must be those of the client."""
    asked = job.evaluation
    device, machine = here(asked.export.device)
    pictures = images.read(paths["images"])
    evaluation = msgspec.structs.replace(
        asked,
        export=msgspec.structs.replace(asked.export, path=str(paths["export"]), device=device),
        machine=machine,
        folder=images.find(asked.folder, pictures).folder,
        pictures=pictures,
        workers=min(asked.workers, backends.available_cores()),
    )
    return list(count(msgspec.structs.replace(job, evaluation=evaluation), start=start))


def _block(job: BlockJob, paths: dict[str, Path]) -> BlockReply:
    """Measure a block on the machine that its comparison is on, and on no other one.

    Raises `UnavailableError` where this is another machine.
    """
    _, machine = here(job.head.device)
    if unequal := machine.differences(job.machine, backends.figure_packages(job.head.device)):
        raise UnavailableError(f"The worker is on another machine than the comparison ({'; '.join(unequal)}).")
    head = msgspec.structs.replace(job.head, path=str(paths["head"]))
    base = job.base
    if isinstance(base, BlockSide):
        base = msgspec.structs.replace(base, path=str(paths["base"]))
    for side in (base, head):
        if isinstance(side, BlockSide) and (failure := _engine_failure(side, job.timeout_s)) is not None:
            return BlockFailed(reason=f"{side.label}: {failure.reason}", stage=failure.stage)
    return block.measure(msgspec.structs.replace(job, base=base, head=head), block_start)


block_start: block.Start = block.process_of  # makes the processes of the sides
_engines: set[tuple[str, bytes]] = set()  # that this worker has built, or had already


def _engine_failure(side: BlockSide, timeout_s: float) -> CellError | None:
    """Build the engine of a side once, where its toolkit runs engines; return why that failed."""
    backend = backends.get(side.device.backend)
    key = side.path, msgspec.json.encode(side.device, order="sorted")
    if backend.engines is None or key in _engines:
        return None
    job = msgspec.structs.replace(metadata.asked_for(Path(side.path), backend), device=side.device)
    with start() as builder:
        reply = builder.ask(EngineJob(export=job), timeout_s)
    if isinstance(reply, CellError):
        return reply
    _engines.add(key)
    return None
