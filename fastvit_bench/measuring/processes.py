"""The runs of one figure, spread over several processes."""

from collections.abc import Callable, Sequence

import msgspec

from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import (
    CellError,
    Measurement,
    Method,
    TimingJob,
)

AGAIN = 3  # the most repetitions of the runs of one process


def timed(
    job: TimingJob,
    timeout_s: float,
    start: Callable[[], Worker] = Worker,
    again: Callable[[Measurement], bool] = lambda process: False,
) -> tuple[Measurement | CellError, float]:
    """Measure an artifact in fresh processes, as many as the method asks for; the first failure ends it.

    Returns the measurement or the failure, and the processor time in seconds that the processes used. Warm-up and timed
    runs are spread over the processes evenly, so that their sums stay those of the method. Where `again` returns True
    for a process's measurement, a fresh process repeats it, `AGAIN` times at most. Of the repetitions the one with the
    quickest reference counts.
    """
    method = job.method
    parts: list[Measurement] = []
    busy_s = 0.0

    def measured(part: TimingJob) -> Measurement | CellError:
        nonlocal busy_s
        with start() as worker:
            reply = worker.ask(part, timeout_s)
            busy_s += worker.busy_s()
        return reply

    for number in range(method.processes):
        share = msgspec.structs.replace(
            method,
            processes=1,
            warmup=_share(method.warmup, method.processes, number),
            runs=_share(method.runs, method.processes, number),
        )
        last = number == method.processes - 1
        part = msgspec.structs.replace(job, method=share, profile=job.profile and last)
        reply = measured(part)
        if isinstance(reply, CellError):
            return reply, busy_s
        latest = reply
        while reply.remeasured < AGAIN and again(latest):
            repeated = measured(part)
            if isinstance(repeated, CellError):
                break  # an earlier measurement is worth more than the failure
            latest = repeated
            quicker = min(
                reply, latest, key=lambda process: max((c.slower_ns for c in process.speed_checks), default=0)
            )
            reply = msgspec.structs.replace(quicker, remeasured=reply.remeasured + 1)
        parts.append(reply)
    return _merged(parts, method), busy_s


def _share(total: int, parts: int, number: int) -> int:
    """Return the runs of part `number` of so many `parts`; at least one unless `total` is 0."""
    share = total // parts + (number < total % parts)
    return max(share, 1) if total else 0


def _merged(parts: Sequence[Measurement], method: Method) -> Measurement:
    """Merge the measurements of several processes, each as a round; the state spans all of them."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return last
    steal = [part.state.steal_percent for part in parts if part.state.steal_percent is not None]
    periods = [part.state.quota_periods for part in parts if part.state.quota_periods is not None]
    state = msgspec.structs.replace(
        last.state,
        load_before=first.state.load_before,
        clock_mhz_before=first.state.clock_mhz_before,
        steal_percent=max(steal, default=None),
        quota_periods=sum(periods) if periods else None,
    )
    return msgspec.structs.replace(
        last,
        method=method,
        samples_ns=tuple(samples for part in parts for samples in part.samples_ns),
        load_ns=tuple(ns for part in parts for ns in part.load_ns),
        gpu=tuple(sample for part in parts for sample in part.gpu),
        usage=tuple(process for part in parts for process in part.usage),
        speed_checks=tuple(check for part in parts for check in part.speed_checks),
        parity=max((part.parity for part in parts if part.parity), key=lambda proof: proof.spent, default=None),
        state=state,
        remeasured=sum(part.remeasured for part in parts),
    )
