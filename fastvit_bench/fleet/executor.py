"""The executor that has cells measured by the workers of a Dask cluster."""

import contextlib
import functools
import queue
import secrets
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from distributed import Client, KilledWorker
from distributed import Future as DaskFuture
from distributed.security import Security
from distributed.utils import get_ip

import fastvit_bench
from fastvit_bench import backends
from fastvit_bench.errors import NotComparableError, UnavailableError
from fastvit_bench.fleet import cluster, remote
from fastvit_bench.fleet.cluster import LOST, SWEEPS, SweepProgress
from fastvit_bench.fleet.images import LIST, ImageFolder
from fastvit_bench.fleet.transfer import FileServer, Parcel
from fastvit_bench.measuring import machine as machines
from fastvit_bench.records import Artifact, Cell, CellError, Device, LabelledImage, Machine, Measurement
from fastvit_bench.sweep import preflight
from fastvit_bench.sweep.block import BlockFailed, BlockJob, BlockReply, BlockSide, BlockTimed, OutOfReach
from fastvit_bench.sweep.cell import CellJob, CountEnd, CountJob
from fastvit_bench.sweep.executor import Notify, Outcome, Reply, Task
from fastvit_bench.sweep.plan import file_of

T = TypeVar("T")
Future: TypeAlias = "DaskFuture[bytes]"

AHEAD = 2  # cells submitted per worker: one that runs, and one that waits beside it, so that no worker idles
ABSENT_S = 15  # that a device may be missing when a sweep begins: a lost worker is back by then
SEAT_S = 60  # that a worker may take to look for a device
SEAT_TRIES = 5
BLOCK_POLL_S = 0.1  # between two looks at a block
POLL_S = 1.0  # between two looks at the workers while nothing finishes


class DaskExecutor:
    """Submits cells to the workers that offer their device, and serves their files to them. A context manager.

    Dask suspects every task that was assigned to a lost worker, whether it had begun or not. So few cells are submitted
    ahead, and the cells' own events say which ones were begun. `wait_s` seconds may be waited
    for machines' usual speeds in all, with an equal share for each cell; None accepts figures of any speed.
    """

    def __init__(self, client: Client, listen: str | None, wait_s: float | None = None) -> None:
        self.repeated_s = 0.0  # device time spent on cells whose worker was lost, at most
        self.repeated = 0  # cells begun again
        self._client, self._wait_s = client, wait_s or 0.0
        self._scheduler = str(cast("Any", client.scheduler).address)
        self._beside = False  # whether a worker is on this machine, where exports would disturb it
        self._seat: remote.Seat | None = None  # of a comparison
        self._progress: dict[Path, SweepProgress] = {}
        self._costs: dict[tuple[Path, Cell], float] = {}  # estimated device-seconds of cells that remain
        self._blocks = 0  # of comparisons, submitted so far
        self._session = secrets.token_hex(4)  # a resumed run counts the starts of its cells anew
        security = Security()
        self._files = FileServer(security)
        parts = urlsplit(self._scheduler)
        scheme, host = parts.scheme, listen or get_ip(parts.hostname or "")
        self._synced(self._files.listen, f"{scheme}://{host}:0", **security.get_listen_args("client"))

    def __enter__(self) -> "DaskExecutor":
        """Return the executor, which listens already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the listener, and tell the fleet that nothing more comes."""
        for progress in self._progress.values():
            self._publish(msgspec.structs.replace(progress, ended=True))
        self._synced(self._files.close)

    @property
    def sent_bytes(self) -> int:
        """Bytes of files that workers fetched."""
        return self._files.sent_bytes

    def _synced(self, function: Any, *arguments: Any, **options: Any) -> Any:
        return self._client.sync(function, *arguments, **options)

    def seats(self, device: Device) -> list[remote.Seat]:
        """Return the device as each worker has it that offers it.

        Raises `UnavailableError` where no worker offers it, or none of them can run it.
        """
        replies: list[remote.Seat | remote.Refusal] = []
        for _ in range(SEAT_TRIES):
            replies = self._asked(self._fitting(device.name), remote.take_seat, msgspec.json.encode(device), _seat)
            if replies:  # else all workers were lost meanwhile, and come back under other addresses
                break
        seats = [reply for reply in replies if isinstance(reply, remote.Seat)]
        if not seats:
            raise UnavailableError(f"No worker can run device '{device.name}': {_reasons(replies)}.")
        host = preflight.this_machine().host
        self._beside = self._beside or any(seat.machine.host == host for seat in seats)
        return seats

    def seat_like(self, device: Device, machine: Machine | None) -> remote.Seat:
        """Return the seat of a comparison, whose blocks are all measured there: on `machine` if it is given.

        Raises `UnavailableError` as `seats` does, and `NotComparableError` if no worker is on that machine.
        """
        seats = self.seats(device)
        if machine is None:
            self._seat = seats[0]
            return seats[0]
        counted = backends.figure_packages(device)
        apart = [
            (seat.machine.differences(machine, counted), seat.machine.host != machine.host, seat) for seat in seats
        ]
        unequal, _, seat = min(apart, key=lambda entry: (len(entry[0]), entry[1]))
        if unequal:
            raise NotComparableError(
                f"No worker of '{device.name}' is on the machine that measured before; the most similar one differs "
                f"({'; '.join(unequal)}). Start a worker there, or begin a new comparison."
            )
        self._seat = seat
        return seat

    def image_decoder(self, device: Device, folder: str, pictures: Sequence[LabelledImage]) -> str:
        """Return the library that decodes images on the workers of a device, all of which must have the images.

        Raises `UnavailableError` for a worker without them, and where workers decode by several libraries.
        """
        parcel = self._image_list(pictures)
        order = remote.ImagesOrder(folder=folder, parcel=parcel, client=self._files.address)
        replies = self._asked(self._fitting(device.name), remote.find_images, msgspec.json.encode(order), _images)
        if refusals := [reply for reply in replies if isinstance(reply, remote.Refusal)]:
            raise UnavailableError(f"Not every worker of '{device.name}' has the images: {_reasons(refusals)}.")
        decoders = sorted({reply.decoder for reply in replies if isinstance(reply, ImageFolder)})
        if len(decoders) != 1:
            raise UnavailableError(
                f"Workers of '{device.name}' decode images by {' and '.join(decoders) or 'nothing'}; install one "
                f"version on all of them."
            )
        return decoders[0]

    def _image_list(self, pictures: Sequence[LabelledImage]) -> Parcel:
        return self._files.add_content(LIST, msgspec.json.encode(pictures))

    def _asked(
        self, offers: "Sequence[cluster.Offer]", function: Any, content: bytes, decode: "Callable[[bytes], T]"
    ) -> "list[T | remote.Refusal]":
        """Return what each worker answers, but for those that are lost meanwhile; a refusal begins with its name."""
        futures = [
            (
                offer,
                self._client.submit(
                    function, content, pure=False, workers=[offer.address], key=f"question-{secrets.token_hex(8)}"
                ),
            )
            for offer in offers
        ]
        replies = [self._answer(offer, future, decode) for offer, future in futures]
        return [reply for reply in replies if reply is not None]

    def _answer(
        self, offer: cluster.Offer, future: Future, decode: "Callable[[bytes], T]"
    ) -> "T | remote.Refusal | None":
        """Return what a worker answers; None where the worker is lost, or silent."""
        for _ in range(SEAT_S):
            try:
                reply = decode(future.result(timeout=1))
            except TimeoutError:
                if offer.address not in {known.address for known in cluster.offers(self._client)}:
                    break
            except (KilledWorker, CancelledError):
                break
            except Exception as error:  # whatever another version of this package raises over there
                return remote.Refusal(
                    reason=f"worker '{offer.name}' does not understand fastvit-bench {fastvit_bench.__version__}; "
                    f"install this version there ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
                )
            else:
                if isinstance(reply, remote.Refusal):
                    return remote.Refusal(reason=f"worker '{offer.name}': {reply.reason}")
                return reply
        future.cancel()
        return None

    def _fitting(self, device: str) -> list[cluster.Offer]:
        """Return the workers that offer a device; one that is being started again is waited for."""
        offers: list[cluster.Offer] = []
        for attempt in range(ABSENT_S + 1):
            if attempt:
                machines.pause(1)
            offers = cluster.offers(self._client)
            if fitting := [offer for offer in offers if device in offer.devices]:
                return fitting
        others = ", ".join(sorted({name for offer in offers for name in offer.devices})) or "none"
        raise UnavailableError(f"No worker offers device '{device}'. Offered: {others}.")

    def expect(self, path: Path, device: str, costs: "Mapping[Cell, float]") -> None:
        """Let the fleet know of a run that begins, and of the estimated device-seconds of its cells."""
        self._progress[path] = SweepProgress(
            run=path.stem,
            device=device,
            session=self._session,
            cells=len(costs),
            finished=0,
            left_s=sum(costs.values()),
            measured_s=0.0,
            expected_s=0.0,
        )
        self._costs |= {(path, cell): seconds for cell, seconds in costs.items()}
        self._publish(self._progress[path])

    def _finish(self, task: Task, measured_s: float | None) -> None:
        """Let the fleet know that a cell is finished, which took so many seconds; None if it was not measured."""
        progress = self._progress.get(task.path)
        if progress is None:
            return
        cost_s = self._costs.pop((task.path, task.step.cell), 0.0)
        self._progress[task.path] = progress = msgspec.structs.replace(
            progress,
            finished=progress.finished + 1,
            left_s=max(0.0, progress.left_s - cost_s),
            measured_s=progress.measured_s + (measured_s or 0.0),
            expected_s=progress.expected_s + (cost_s if measured_s is not None else 0.0),
        )
        self._publish(progress)

    def _publish(self, progress: SweepProgress) -> None:
        if self._client.status == "running":
            with contextlib.suppress(*LOST):  # the next look at the workers says what is lost
                self._client.log_event(SWEEPS, msgspec.to_builtins(progress))

    def outcomes(self, tasks: Iterable[Task], count: int, notify: Notify) -> Generator[Outcome]:
        """Yield each task with its measurement, its chunks or its failure as it finishes.

        Files are exported in a thread meanwhile, and before anything is measured where a worker is on this machine.
        Raises `UnavailableError` when the scheduler is lost.
        """
        events: queue.Queue[Task | BaseException | tuple[Task, str, Future]] = queue.Queue()
        threading.Thread(target=_exported, args=(tasks, events), daemon=True).start()
        waiting: defaultdict[str, deque[Task]] = defaultdict(deque)
        submitted: dict[str, tuple[Task, Future]] = {}
        finished = exported = 0
        try:
            while finished < count:
                event = self._next(events, submitted)
                exported += isinstance(event, Task)
                done: list[Outcome] = []
                match event:
                    case Task(artifact=CellError() as error):
                        done = [(event, error)]
                        self._finish(event, None)
                    case Task():
                        waiting[_device(event)].append(event)
                    case BaseException():
                        raise event
                    case (task, key, future):
                        del submitted[key]
                        ended = self._ended(self._topic(task), _run_of(task), future)
                        if ended is None:
                            waiting[_device(task)].appendleft(task)
                        else:
                            done = [(task, cast("Reply", reply)) for reply in ended.replies]
                            self._finish(task, ended.seconds)
                    case _:  # nothing for a while
                        pass
                if exported == count or not self._beside:
                    self._submit(waiting, submitted, events, self._wait_s / count, notify)
                finished += bool(done)
                yield from done
        finally:
            if self._client.status == "running":
                self._client.cancel([future for _, future in submitted.values()])

    def _next(self, events: "queue.Queue[Any]", submitted: dict[str, tuple[Task, Future]]) -> Any:
        """Return the next event, or None after a while without one."""
        try:
            return events.get(timeout=POLL_S)
        except queue.Empty:
            if self._client.status != "running":
                raise self._gone(_run_of(task) for task, _ in submitted.values()) from None
            return None

    def _gone(self, runs: Iterable[str]) -> UnavailableError:
        names = " and ".join(sorted(set(runs))) or "the run"
        return UnavailableError(
            f"The scheduler {self._scheduler} is gone. Everything that was finished is saved: start it and the workers "
            f"again, and continue {names} with --resume."
        )

    def _submit(
        self,
        waiting: dict[str, deque[Task]],
        submitted: dict[str, tuple[Task, Future]],
        events: "queue.Queue[Any]",
        wait_s: float,
        notify: Notify,
    ) -> None:
        """Submit waiting tasks, `AHEAD` for each worker of their devices."""
        if not any(waiting.values()):
            return
        try:
            workers = Counter(device for offer in cluster.offers(self._client) for device in offer.devices)
        except LOST:
            raise self._gone(_run_of(task) for tasks in waiting.values() for task in tasks) from None
        busy = Counter(_device(task) for task, _ in submitted.values())
        for device, tasks in waiting.items():
            while tasks and busy[device] < AHEAD * workers[device]:
                task = tasks.popleft()
                busy[device] += 1
                notify(task.step, "timing")
                key, future = self._submitted(task, wait_s)
                submitted[key] = task, future
                future.add_done_callback(functools.partial(_put, events, task, key))

    def _submitted(self, task: Task, wait_s: float) -> tuple[str, Future]:
        artifact = task.artifact
        assert not isinstance(artifact, CellError)
        job, parcels = self._job(task, artifact, wait_s)
        return self._ordered(self._topic(task), _device(task), job, parcels)

    def _job(self, task: Task, artifact: Artifact, wait_s: float) -> "tuple[CellJob | CountJob, dict[str, Parcel]]":
        """Return the job of a task, and its files; the list of images is one of them, and not in the job."""
        export = self._files.add(Path(file_of(task.step, artifact)))
        if task.counting is None:
            return task.timing(artifact, wait_s), {"export": export}
        parcels = {"export": export, "images": self._image_list(task.counting.pictures)}
        machine = preflight.this_machine()  # the worker puts its own in its place
        return task.counted(replace(task.counting, pictures=()), artifact, machine), parcels

    def _ordered(
        self,
        topic: str,
        device: str,
        job: "CellJob | CountJob | BlockJob",
        parcels: "dict[str, Parcel]",
        address: str | None = None,
    ) -> tuple[str, Future]:
        """Submit a job to any worker of a device, or to the one at an address; return its key and its future."""
        order = remote.Order(topic=topic, job=job, parcels=parcels, client=self._files.address)
        key = f"{topic}-{secrets.token_hex(4)}"
        future = self._client.submit(
            remote.perform,
            msgspec.json.encode(order),
            key=key,
            pure=False,
            resources=cluster.resources(device),
            workers=None if address is None else [address],
            retries=0,
        )
        return key, future

    def block(self, job: BlockJob) -> BlockReply:
        """Return a block, measured by the worker that `seat_like` chose, or by one that came back in its place.

        Raises `UnavailableError` when the scheduler or all workers on that machine are lost.
        """
        assert self._seat is not None
        device, name = job.head.device, job.name.replace(" ", "_")
        parcels = {"head": self._files.add(Path(job.head.path))}
        if isinstance(job.base, BlockSide):
            parcels["base"] = self._files.add(Path(job.base.path))
        self._blocks += 1
        topic = f"{device.name}/{name}/block-{self._blocks}/{self._session}"
        run = f"the comparison of {job.name}"
        for _ in range(SEAT_TRIES):
            _, future = self._ordered(topic, device.name, job, parcels, self._seat.address)
            while not future.done():
                self._wait(run)
                if future.done() or self._is_there(self._seat.address, run):
                    continue
                future.cancel()  # its worker is lost: no other one may run it, so it would wait for ever
                break
            else:
                ended = self._ended(topic, run, future)
                if ended is not None:
                    (reply,) = ended.replies
                    assert isinstance(reply, CellError | BlockTimed | BlockFailed | OutOfReach)
                    return (
                        BlockFailed(reason=reply.reason, stage=reply.stage) if isinstance(reply, CellError) else reply
                    )
            starts = self._starts(topic)
            if len(starts) >= remote.MOST_STARTS:
                self._note_repeats(starts)
                error = remote.lost([start["worker"] for _, start in starts])
                return BlockFailed(reason=error.reason, stage=error.stage)
            self.seat_like(self._seat.device, self._seat.machine)
        raise UnavailableError(
            f"The workers of '{device.name}' on the machine of this comparison are lost again and again; continue it "
            f"with --resume once one stays."
        )

    def _wait(self, run: str) -> None:
        """Wait a moment; raise `UnavailableError` when the scheduler is lost."""
        machines.pause(BLOCK_POLL_S)
        if self._client.status != "running":
            raise self._gone([run])

    def _is_there(self, address: str, run: str) -> bool:
        """Return whether a worker is still connected."""
        try:
            return address in {offer.address for offer in cluster.offers(self._client)}
        except LOST:
            raise self._gone([run]) from None

    def _ended(self, topic: str, run: str, future: Future) -> remote.Done | None:
        """Return what became of a job; None where it has to be submitted again."""
        if future.status == "cancelled":
            raise self._gone([run])
        starts = self._starts(topic)
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker) and len(starts) < remote.MOST_STARTS:
            return None
        self._note_repeats(starts)
        if error is None:
            return _with_versions(msgspec.json.decode(future.result(), type=remote.Done))
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        failure = CellError(stage="timing", reason=reason)
        if isinstance(error, KilledWorker):
            failure = remote.lost([start["worker"] for _, start in starts])
        return remote.Done(replies=(failure,), seconds=0.0, tool="")

    def _topic(self, task: Task) -> str:
        """Return the name of a cell among all that a cluster ever measures."""
        cell = task.step.cell.label.replace(" ", "_")
        return f"{task.path.stem}/{_device(task)}/{cell}/{self._session}"

    def _starts(self, topic: str) -> list[tuple[float, dict[str, str]]]:
        """Return when a job was begun, and by which worker."""
        scheduler = cast("Any", self._client.scheduler)
        return list(self._synced(scheduler.events, topic=topic))

    def _note_repeats(self, starts: "list[tuple[float, dict[str, str]]]") -> None:
        times = [time for time, _ in starts]
        self.repeated += len(times) > 1
        self.repeated_s += max(times) - min(times) if times else 0.0


def _exported(tasks: Iterable[Task], events: "queue.Queue[Any]") -> None:
    """Put tasks into the queue as their files are exported, and what ends that."""
    try:
        for task in tasks:
            events.put(task)
    except BaseException as error:
        events.put(error)


def _put(events: "queue.Queue[Any]", task: Task, key: str, future: Future) -> None:
    events.put((task, key, future))


def _device(task: Task) -> str:
    return task.request.device.name


def _run_of(task: Task) -> str:
    return f"{task.path.stem} ({_device(task)})"


def _with_versions(done: remote.Done) -> remote.Done:
    """Return what became of a job, its figures with the version of a worker that has another one than this client."""
    if done.tool == fastvit_bench.__version__:
        return done
    replies = [
        msgspec.structs.replace(reply, tool=done.tool) if isinstance(reply, Measurement | CountEnd) else reply
        for reply in done.replies
    ]
    return msgspec.structs.replace(done, replies=tuple(replies))


def _seat(content: bytes) -> remote.Seat | remote.Refusal:
    """Decode a seat; one of a worker that takes other records is a refusal."""
    reply = msgspec.json.decode(content, type=remote.Seat | remote.Refusal)
    if isinstance(reply, remote.Seat) and reply.wire != remote.WIRE:
        own = fastvit_bench.__version__
        return remote.Refusal(reason=f"it has fastvit-bench {reply.tool}, which does not work with {own}")
    return reply


def _images(content: bytes) -> ImageFolder | remote.Refusal:
    return msgspec.json.decode(content, type=ImageFolder | remote.Refusal)


def _reasons(replies: Iterable[object]) -> str:
    """Return the reasons of refusals, in a sentence."""
    reasons = [reply.reason.rstrip(".") for reply in replies if isinstance(reply, remote.Refusal)]
    return "; ".join(reasons) or "none of them answers"
