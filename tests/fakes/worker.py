"""A stand-in for a worker process of a comparison: it says times around a median and computes nothing."""

import functools
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

import builders

from fastvit_bench.measuring.jobs import Opened, OpenJob, Reply, Turned, TurnJob, WarmedUp, WarmUpJob
from fastvit_bench.records import CallPattern, Window
from fastvit_bench.records.comparison import Readings
from fastvit_bench.sweep.block import BlockJob, BlockReply, BlockSide, measure


def timed_by(start: Callable[[BlockSide], Any]) -> Callable[[BlockJob], BlockReply]:
    """What measures a block with processes that `start` makes."""
    return functools.partial(measure, start=start)


QUIET = Readings(load=0.1, others_percent=1.0, steal_percent=0.0)


class Side:
    """A process that says times around a median; one of them is asked at a time, as of a real one."""

    log: list[str] = []  # noqa: RUF012 - shared by all of a test on purpose

    def __init__(self, name: str, median_ms: float, noise: float = 0.003, **faults: Any) -> None:
        self.name, self.median_ms, self.noise, self.faults = name, median_ms, noise, faults
        self.draw = random.Random(f"{name} {len(Side.log)}")

    def __enter__(self) -> "Side":
        Side.log.append(f"start {self.name}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Side.log.append(f"end {self.name}")

    def busy_s(self) -> float:
        return 0.0

    def send(self, job: object) -> None:
        pass  # it answers when it is asked

    def receive(self, job: object, timeout_s: float) -> Reply:
        return self.ask(job, timeout_s)

    def stop(self) -> None:
        Side.log.append(f"stop {self.name}")

    def go_on(self) -> None:
        Side.log.append(f"go on {self.name}")

    def ask(self, job: object, timeout_s: float) -> Reply:
        match job:
            case OpenJob() if "open" in self.faults:
                return self.faults["open"]
            case WarmUpJob():
                return WarmedUp(run_ns=round(1e6 * self.median_ms))
            case OpenJob():
                return Opened(
                    window=self.faults.get("window", Window.COMPUTE),
                    clock="time.perf_counter_ns",
                    pacing=CallPattern.BACK_TO_BACK,
                    parity=builders.parity(),
                    python="3.11.7",
                    packages=self.faults.get("packages", {"onnxruntime": "1.23.0"}),
                )
            case TurnJob() if "turn" in self.faults:
                return self.faults["turn"]
            case TurnJob():
                Side.log.append(self.name)
                samples = tuple(self._sample() for _ in range(job.runs))
                return Turned(samples_ns=samples, gpu=self.faults.get("gpu"))
            case _:
                raise AssertionError(job)

    def _sample(self) -> int:
        return round(1e6 * self.median_ms * (1 + self.draw.gauss(0, self.noise)))
