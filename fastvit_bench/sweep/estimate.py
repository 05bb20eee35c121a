"""Estimate how long a sweep takes, from its work and from earlier measurements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvit_bench.errors import StoreError
from fastvit_bench.records import Artifact, Device, Request
from fastvit_bench.store import runs as store_runs
from fastvit_bench.sweep.plan import Step

# multiply-accumulates per second for estimates before the first measurement; no figure depends on them. Of the GPU and
# of Core ML they follow from the paper's latencies of T8; others are those of one core of a server
_GUESSED_MACS_PER_S = {"tensorrt": 3e12, "tensorrt-rtx": 3e12, "coreml": 8e11}
_GUESSED_MACS_PER_CORE_S = 30e9

GUESSED_EXPORT_S = 5.0

_NEAR = 4.0  # a network with this many times the work of another says little of it
_RUNS_READ = 3  # of the newest runs of a device


@dataclass(frozen=True)
class RunTimes:
    """How long one run of a network takes on a device, as far as earlier measurements or a guess say."""

    guessed_macs_per_s: float
    measured: tuple[tuple[int, float], ...] = ()  # multiply-accumulates of a batch, and seconds of its run

    def seconds(self, macs: float) -> float:
        """Return the estimated seconds of one run with so many multiply-accumulates.

        The measurement of the most similar work decides, in proportion. A small network's rate says little of a large
        one, which is quicker for its work; then the guess stands if it is shorter.
        """
        guess_s = macs / self.guessed_macs_per_s
        if not self.measured or macs <= 0:
            return guess_s
        similar, run_s = min(self.measured, key=lambda entry: abs(math.log(macs / entry[0])))
        scaled_s = run_s * macs / similar
        return min(scaled_s, guess_s) if macs > _NEAR * similar else scaled_s


def run_times(device: Device, results: Path) -> RunTimes:
    """Return what the newest readable runs of a device say on how long its runs take."""
    return RunTimes(guessed_rate(device), tuple(_measured(results, device.name)))


def guessed_rate(device: Device) -> float:
    """Return the multiply-accumulates per second that a device is guessed to make."""
    per_core = _GUESSED_MACS_PER_CORE_S * int(device.options.get("threads", 1))
    return _GUESSED_MACS_PER_S.get(device.backend, per_core)


def _measured(results: Path, device: str) -> list[tuple[int, float]]:
    """Return the work and the seconds of a run of each cell in the newest runs of a device."""
    entries: list[tuple[int, float]] = []
    paths = [path for path in store_runs.all_runs(results) if path.parent.name == device]
    for path in paths[-_RUNS_READ:]:
        try:
            measurements = store_runs.read(path).measurements
        except StoreError:  # an estimate is no reason to refuse a sweep
            continue
        entries += [
            (entry.artifact.macs, entry.median_ms / 1e3)
            for entry in measurements
            if isinstance(entry.artifact, Artifact) and entry.artifact.macs
        ]
    return entries


def seconds(steps: Sequence[Step], request: Request, times: RunTimes) -> float:
    """Return the estimated duration of the steps in seconds."""
    method = request.method
    runs = (method.warmup + method.runs) * method.rounds
    loading_s = 0.7 * method.processes + (0.3 * (method.rounds - 1) if method.loading == "per-round" else 0.0)
    timing_s = sum(times.seconds(step.macs) * runs + loading_s for step in steps)
    return timing_s + sum(export_seconds(step, times) for step in steps)


def export_seconds(step: Step, times: RunTimes) -> float:
    """Return the estimated seconds of a step's export and proof; 0 for what is exported already."""
    return 0.0 if step.cached is not None else GUESSED_EXPORT_S + 20 * times.seconds(step.macs)


def outline(request: Request, steps: Sequence[Step], times: RunTimes) -> str:
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
        f"{runs} runs each{spread} · about {duration(seconds(steps, request, times))}"
    )


def duration(seconds: float) -> str:
    """Return a duration as text, rounded as an estimate deserves: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
