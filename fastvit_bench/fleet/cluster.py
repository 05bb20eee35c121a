"""The connection to a scheduler: who may speak in plaintext, and what the workers of the cluster offer."""

import contextlib
import ipaddress
import logging
from collections import Counter
from collections.abc import Generator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import dask.config
import msgspec
from dask.utils import parse_timedelta
from distributed import Client
from distributed.security import Security

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.fleet.remote import APART, MACHINE, device_resource
from fastvit_bench.records import Record

LOOPBACK = "127.0.0.1"
CONNECT_S = 10.0  # unless Dask's configuration says less


def listen_address(scheduler: str, plaintext: str | None, host: str | None = None) -> str | None:
    """Return the address to listen on; None leaves the choice to Dask, which then takes TLS.

    Raises `UsageError` for what is no scheduler's address, for TLS without certificates, and for a scheduler on another
    machine without TLS, unless an address for `plaintext` was chosen.
    """
    parts = urlsplit(scheduler)
    if parts.scheme not in {"tcp", "tls"} or not parts.hostname or not parts.port:
        raise UsageError(f"'{scheduler}' is no scheduler's address; write tls://HOST:PORT or tcp://HOST:PORT.")
    if parts.scheme == "tls":
        if plaintext is not None:
            raise UsageError(f"{scheduler} takes TLS; --plaintext is for tcp:// alone.")
        if not dask.config.get("distributed.comm.tls.ca-file", None):
            raise UsageError(
                f"{scheduler} takes certificates; name them in Dask's configuration, such as "
                f"DASK_DISTRIBUTED__COMM__TLS__CA_FILE (docs/guides/fleet.md)."
            )
        return host
    if plaintext is not None:
        return plaintext
    if not _is_loopback(parts.hostname):
        raise UsageError(
            f"{scheduler} is on another machine and takes no TLS. Use tls://, or accept that anybody on the network "
            f"can read and run everything with --plaintext ADDRESS, an address of this machine."
        )
    return LOOPBACK


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def connect(scheduler: str) -> "Generator[Client]":
    """Yield a client of a scheduler. Raises `UnavailableError` for one that cannot be reached or refuses it."""
    for name in logging.root.manager.loggerDict:  # Dask gives several of its loggers a level of their own
        if name.partition(".")[0] in {"distributed", "tornado"}:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised
    timeout_s = min(CONNECT_S, parse_timedelta(dask.config.get("distributed.comm.timeouts.connect")))
    try:
        client = Client(scheduler, security=Security(), timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnavailableError(f"The scheduler {scheduler} cannot be reached: {reason.rstrip('.')}.") from error
    try:
        yield client
    finally:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            client.close(timeout=2)


SWEEPS = "fastvit-bench-sweeps"  # topic of the events on how far sweeps are
LOST = (OSError, RuntimeError, TimeoutError, CancelledError, AttributeError)  # raised between two connections


class SweepProgress(Record, frozen=True):
    """An event: how far a sweep is on one device, and what its client expects of the rest."""

    run: str
    device: str
    session: str  # of the client
    cells: int
    finished: int
    left_s: float  # estimated device time of the cells that remain
    measured_s: float  # device time of the finished cells
    expected_s: float  # estimated device time of the same
    ended: bool = False

    @property
    def remaining_s(self) -> float:
        """The device time of the cells that remain, as the finished ones correct it."""
        return self.left_s * (self.measured_s / self.expected_s if self.measured_s and self.expected_s else 1.0)


@dataclass(frozen=True)
class SweepOnDevice:
    """A sweep of some client on one device."""

    progress: SweepProgress
    workers: int  # that offer the device now
    silent_s: float  # since the client's last event; one that is killed says no more

    @property
    def seconds(self) -> float | None:
        """The time that remains if no other sweep wants the device; None where nobody offers it."""
        return self.progress.remaining_s / self.workers if self.workers else None


def sweeps(client: Client) -> list[SweepOnDevice]:
    """Return the sweeps that have not ended, in the order of their first events."""
    scheduler: Any = client.scheduler
    events: Any = client.sync(scheduler.events, topic=SWEEPS)
    newest: dict[tuple[str, str, str], tuple[float, SweepProgress]] = {}
    for at, message in events:
        with contextlib.suppress(msgspec.ValidationError):  # of a client of another version
            progress = msgspec.convert(message, SweepProgress)
            newest[progress.run, progress.device, progress.session] = at, progress
    workers = Counter(device for offer in offers(client) for device in offer.devices)
    read_at = datetime.now(UTC).timestamp()
    return [
        SweepOnDevice(progress, workers[progress.device], max(0.0, read_at - at))
        for at, progress in newest.values()
        if not progress.ended
    ]


@dataclass(frozen=True)
class Offer:
    """A worker of the cluster, and what it offers and does."""

    name: str
    address: str
    devices: tuple[str, ...]
    apart: bool  # whether its devices may be busy at once
    tasks: tuple[str, ...]  # keys of what it runs, and of what waits for it
    running: int  # of them


def offers(client: Client) -> list[Offer]:
    """Return the workers of a cluster that offer devices, by name."""
    info: dict[str, Any] = client.scheduler_info(n_workers=-1)
    tasks: Any = client.processing()
    prefix = device_resource("")
    workers = [
        Offer(
            name=str(worker["name"]),
            address=address,
            devices=tuple(sorted(name.removeprefix(prefix) for name in worker["resources"] if name.startswith(prefix))),
            apart=APART in worker["resources"],
            tasks=tuple(str(key) for key in tasks.get(address, ())),
            running=int(worker.get("metrics", {}).get("executing", 0)),
        )
        for address, worker in info["workers"].items()
    ]
    return sorted((offer for offer in workers if offer.devices), key=lambda offer: offer.name)


def resources(device: str) -> dict[str, float]:
    """Return what a cell on a device needs: the device, and a place on its machine."""
    return {device_resource(device): 1, MACHINE: 1}
