"""The executor that has cells measured by the workers of a Dask cluster."""

import functools
import queue
import secrets
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import msgspec
from distributed import Client, KilledWorker
from distributed import Future as DaskFuture
from distributed.security import Security
from distributed.utils import get_ip

from fastvit_bench.errors import UnavailableError
from fastvit_bench.fleet import cluster, remote
from fastvit_bench.fleet.transfer import FileServer
from fastvit_bench.measuring import machine as machines
from fastvit_bench.records import CellError, Device, Measurement
from fastvit_bench.sweep import preflight
from fastvit_bench.sweep.executor import Notify, Outcome, Task

Future: TypeAlias = "DaskFuture[bytes]"

AHEAD = 2  # cells submitted per worker: one that runs, and one that waits beside it, so that no worker idles
ABSENT_S = 15  # that a device may be missing when a sweep begins: a lost worker is back by then
SEAT_S = 60  # that a worker may take to look for a device
SEAT_TRIES = 5
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
        """End the listener."""
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
            replies = self._asked(device)
            if replies:  # else all workers were lost meanwhile, and come back under other addresses
                break
        seats = [reply for reply in replies if isinstance(reply, remote.Seat)]
        if not seats:
            reasons = "; ".join(reply.reason.rstrip(".") for reply in replies if isinstance(reply, remote.Refusal))
            raise UnavailableError(f"No worker can run device '{device.name}': {reasons or 'none of them answers'}.")
        host = preflight.this_machine().host
        self._beside = self._beside or any(seat.machine.host == host for seat in seats)
        if not seats:
            raise UnavailableError("; ".join(reply.reason for reply in replies if isinstance(reply, remote.Refusal)))
        return seats

    def _asked(self, device: Device) -> list[remote.Seat | remote.Refusal]:
        """Return what each worker that offers a device says of it, but for those that are lost meanwhile."""
        content = msgspec.json.encode(device)
        futures = {
            offer.address: self._client.submit(
                remote.take_seat, content, pure=False, workers=[offer.address], key=f"seat-{secrets.token_hex(8)}"
            )
            for offer in self._fitting(device.name)
        }
        replies = [self._seat(address, future) for address, future in futures.items()]
        return [reply for reply in replies if reply is not None]

    def _seat(self, address: str, future: Future) -> remote.Seat | remote.Refusal | None:
        """Return what a worker says of a device; None where the worker is lost, or silent."""
        for _ in range(SEAT_S):
            try:
                return msgspec.json.decode(future.result(timeout=1), type=remote.Seat | remote.Refusal)
            except TimeoutError:
                if address not in {offer.address for offer in cluster.offers(self._client)}:
                    break
            except (KilledWorker, CancelledError):
                break
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

    def outcomes(self, tasks: Iterable[Task], count: int, notify: Notify) -> Generator[Outcome]:
        """Yield each task with its measurement or failure as it finishes.

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
                outcome: Outcome | None = None
                match event:
                    case Task(artifact=CellError() as error):
                        outcome = event, error
                    case Task():
                        waiting[_device(event)].append(event)
                    case BaseException():
                        raise event
                    case (task, key, future):
                        del submitted[key]
                        reply = self._reply(task, key, future)
                        if reply is None:
                            waiting[_device(task)].appendleft(task)
                        else:
                            outcome = task, reply
                    case _:  # nothing for a while
                        pass
                if exported == count or not self._beside:
                    self._submit(waiting, submitted, events, self._wait_s / count, notify)
                if outcome is not None:
                    finished += 1
                    yield outcome
        finally:
            if self._client.status == "running":
                self._client.cancel([future for _, future in submitted.values()])

    def _next(self, events: "queue.Queue[Any]", submitted: dict[str, tuple[Task, Future]]) -> Any:
        """Return the next event, or None after a while without one."""
        try:
            return events.get(timeout=POLL_S)
        except queue.Empty:
            if self._client.status != "running":
                raise self._gone([task for task, _ in submitted.values()]) from None
            return None

    def _gone(self, tasks: Iterable[Task]) -> UnavailableError:
        runs = " and ".join(sorted({f"{task.path.stem} ({_device(task)})" for task in tasks})) or "the run"
        return UnavailableError(
            f"The scheduler {self._scheduler} is gone. Every finished size is saved: start it and the workers "
            f"again, and continue {runs} with --resume."
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
        except (OSError, RuntimeError, TimeoutError, CancelledError, AttributeError):  # between two connections
            raise self._gone([task for tasks in waiting.values() for task in tasks]) from None
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
        assert not isinstance(task.artifact, CellError)
        job = task.job(task.artifact, wait_s)
        order = remote.CellOrder(
            topic=self._topic(task),
            job=job,
            manifest=self._files.add(Path(job.export.path)),
            client=self._files.address,
        )
        key = f"{self._topic(task)}-{secrets.token_hex(4)}"
        future = self._client.submit(
            remote.measure_cell,
            msgspec.json.encode(order),
            key=key,
            pure=False,
            resources=cluster.resources(_device(task)),
            retries=0,
        )
        return key, future

    def _reply(self, task: Task, key: str, future: Future) -> Measurement | CellError | None:
        """Return what became of a cell; None where it has to be submitted again."""
        if future.status == "cancelled":
            raise self._gone([task])
        starts: list[tuple[float, dict[str, str]]] = self._starts(task)
        if future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker) and len(starts) < remote.MOST_STARTS:
                return None
            self._note_repeats(starts)
            if isinstance(error, KilledWorker):
                return remote.lost([start["worker"] for _, start in starts])
            return CellError(stage="timing", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        self._note_repeats(starts)
        return msgspec.json.decode(future.result(), type=Measurement | CellError)

    def _topic(self, task: Task) -> str:
        """Return the name of a cell among all that a cluster ever measures."""
        cell = task.step.cell.label.replace(" ", "_")
        return f"{task.path.stem}/{_device(task)}/{cell}/{self._session}"

    def _starts(self, task: Task) -> list[tuple[float, dict[str, str]]]:
        """Return when a cell was begun, and by which worker."""
        scheduler = cast("Any", self._client.scheduler)
        return list(self._synced(scheduler.events, topic=self._topic(task)))

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
