"""A stand-in for the processes that measure: it takes a known time, and logs when. Dask workers load it as a preload.

The variables STANDIN_S and STANDIN_LOG are the seconds of a cell, and the folder of the logs.
"""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastvit_bench.accuracy import contents
from fastvit_bench.records import AccuracyChunk, EvaluationJob, MachineState, Measurement, TimingJob, Window


class StandIn:
    """In place of `measuring.worker.Worker`; sleeps in the worker's own process."""

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def busy_s(self) -> float:
        return 0.0

    def ask(self, job: object, timeout_s: float) -> Any:
        assert isinstance(job, TimingJob)
        cell = f"{job.device.name} {job.artifact.model} {job.artifact.shape.size}"
        _log(cell, "begin")
        if job.artifact.shape.width == int(os.environ.get("STANDIN_DEADLY", "0")):
            os._exit(1)
        time.sleep(float(os.environ["STANDIN_S"]))
        _log(cell, "end")
        return Measurement(
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            device=job.device,
            artifact=job.artifact,
            method=job.method,
            window=Window.COMPUTE,
            clock="a stand-in's",
            samples_ns=((1_000_000,) * job.method.runs,),
            machine=job.machine,
            state=MachineState(),
            parity=job.artifact.parity,
        )

    def evaluate(self, job: EvaluationJob, timeout_s: float) -> Iterator[AccuracyChunk]:
        """Count every image as right, once its content is read."""
        cell = f"{job.export.device.name} {job.artifact.model} {job.artifact.shape.size}"
        _log(cell, "begin")
        time.sleep(float(os.environ["STANDIN_S"]))
        total = len(job.pictures)
        for first in range(job.first, total, 2):
            after = min(first + 2, total)
            digest = contents.digests_after(Path(job.folder), job.pictures, {after}, 1)[after]
            yield AccuracyChunk(
                artifact=job.artifact.sha256 or "",
                how="a stand-in",
                first=first,
                pictures=after - first,
                top1=after - first,
                top5=after - first,
                overflowed=0,
                unreadable=(),
                contents=digest,
            )
        _log(cell, "end")


def _log(cell: str, event: str) -> None:
    with Path(os.environ["STANDIN_LOG"], f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps({"cell": cell, "event": event, "at": time.time()}) + "\n")


def dask_setup(worker: Any) -> None:
    """Have a Dask worker measure with stand-ins."""
    from fastvit_bench.fleet import remote

    remote.start = StandIn  # pyright: ignore[reportAttributeAccessIssue]
