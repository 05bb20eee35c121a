"""Estimate how long a sweep takes, from its work and from earlier rates."""

from collections.abc import Sequence
from pathlib import Path

from fastvit_bench.errors import StoreError
from fastvit_bench.records import Artifact, Request
from fastvit_bench.store import runs as store_runs
from fastvit_bench.sweep.plan import Step

# multiply-accumulates per second of one core, for estimates before the first measurement; no figure depends on it
GUESSED_MACS_PER_CORE_S = 30e9

GUESSED_EXPORT_S = 5.0


def seconds(steps: Sequence[Step], request: Request, macs_per_s: float | None) -> float:
    """Return the estimated duration of the steps in seconds.

    `macs_per_s` is the rate of earlier measurements on this device; None takes a guess per thread.
    """
    threads = steps[0].job.device.options.get("threads", 1) if steps else 1
    rate = macs_per_s or GUESSED_MACS_PER_CORE_S * int(threads)
    method = request.method
    runs = (method.warmup + method.runs) * method.rounds
    loading = 0.7 * method.processes + (0.3 * (method.rounds - 1) if method.loading == "per-round" else 0.0)
    timing = sum(step.macs * runs / rate + loading for step in steps)
    exporting = sum(GUESSED_EXPORT_S + 20 * step.macs / rate for step in steps if step.cached is None)
    return timing + exporting


def outline(request: Request, steps: Sequence[Step], macs_per_s: float | None) -> str:
    """Return the plan in one line: ``6 cells · 2 exported already · 4 to export · about 3 min``."""
    ready = sum(step.cached is not None for step in steps)
    cells = f"{len(steps)} cell{'s' * (len(steps) != 1)}"
    method = request.method
    runs = f"{method.warmup} + {method.runs}"
    if method.rounds > 1:
        runs = f"{method.rounds} x ({runs})"
    spread = ""
    if method.processes > 1:
        spread = f" in {method.processes} processes"
    return (
        f"{request.device.name}: {cells} · {ready} exported already · {len(steps) - ready} to export · "
        f"{runs} runs each{spread} · about {duration(seconds(steps, request, macs_per_s))}"
    )


def duration(seconds: float) -> str:
    """Return a duration as text, rounded as an estimate deserves: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def measured_rate(results: Path, device: str) -> float | None:
    """Return the multiply-accumulates per second that the newest readable run of a device ended with.

    None where the device has no such run.
    """
    for path in reversed(store_runs.all_runs(results)):
        if path.parent.name != device:
            continue
        try:
            measurements = store_runs.read(path).measurements
        except StoreError:  # an estimate is no reason to refuse a sweep
            continue
        exported = [measurement for measurement in measurements if isinstance(measurement.artifact, Artifact)]
        if exported:
            assert isinstance(exported[-1].artifact, Artifact)
            return exported[-1].artifact.macs / exported[-1].median_ms * 1e3
    return None
