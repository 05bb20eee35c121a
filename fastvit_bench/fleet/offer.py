"""The worker that offers this machine's devices to a scheduler, under Dask's nanny."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Nanny
from distributed.security import Security

from fastvit_bench import config, files
from fastvit_bench.errors import UnavailableError
from fastvit_bench.fleet import images, machine_lock, remote

AGAIN_S = 5.0  # between two attempts to reach a scheduler that is gone

# sampling the threads and measuring the memory disturb what is timed
_QUIET = {"distributed.worker.profile.enabled": False, "distributed.worker.memory.monitor-interval": "5s"}


@dataclass(frozen=True)
class WorkerOptions:
    """The settings of a worker: where it connects and listens, and what it offers."""

    scheduler: str
    devices: Sequence[str]
    host: str | None  # to listen on; None leaves it to Dask
    name: str | None = None
    apart: bool = False  # whether several devices may be busy at once
    machine: str = ""  # a person's name for it
    cache: Path | None = None
    locks: Path | None = None  # folder of the machine's lock
    data: Path | None = None  # folder of images
    dashboard: str | None = None

    @property
    def resources(self) -> dict[str, float]:
        """Resources as Dask has them: one of each device, and one machine unless devices are apart."""
        offered: dict[str, float] = {remote.device_resource(device): 1 for device in self.devices}
        shared = {remote.MACHINE: float(len(self.devices)), remote.APART: 1} if self.apart else {remote.MACHINE: 1}
        return {**offered, **shared}

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of the worker's process."""
        chosen = {
            config.MACHINE_VARIABLE: self.machine,
            files.CACHE_VARIABLE: self.cache,
            machine_lock.LOCKS_VARIABLE: self.locks,
            images.DATA_VARIABLE: self.data,
        }
        return {name: str(value) for name, value in chosen.items() if value}


def serve(options: WorkerOptions) -> None:
    """Offer the devices until the process is ended; a scheduler that goes away is waited for.

    Raises `UnavailableError` for a scheduler that cannot be reached at the start.
    """
    asyncio.run(_serve(options))


async def _serve(options: WorkerOptions) -> None:
    first = True
    while True:
        try:
            # threads: one for each cell that may run, and one for questions meanwhile
            nanny: Any = Nanny(
                options.scheduler,
                nthreads=(len(options.devices) if options.apart else 1) + 1,
                name=options.name,
                resources=options.resources,
                host=options.host,
                memory_limit="0",  # what measures is a child of the worker, and not limited
                security=Security(),
                env={**os.environ, **options.environment},
                config=_QUIET,
                death_timeout=None if not first else 15,
                dashboard_address=options.dashboard,
                dashboard=options.dashboard is not None,
            )
            async with nanny:
                first = False
                await nanny.finished()
        except (OSError, TimeoutError, RuntimeError, TypeError) as error:
            if first:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UnavailableError(f"The scheduler {options.scheduler} cannot be reached: {reason}.") from error
        logging.getLogger("distributed.nanny").warning("scheduler %s is gone; trying again", options.scheduler)
        await asyncio.sleep(AGAIN_S)
