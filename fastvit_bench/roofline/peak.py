"""Peak rates of a device: measured once through its own toolkit, stored beside its runs, and loaded again."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from fastvit_bench import backends, files
from fastvit_bench.errors import NotComparableError, UnavailableError
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.records import (
    BUSY_PERCENT,
    MICROBENCHMARKS_VERSION,
    Artifact,
    CellError,
    Device,
    DevicePeak,
    Machine,
    Measurement,
    Method,
    Microbenchmark,
    MicrobenchmarkJob,
    MicrobenchmarkTime,
    MicrobenchmarkTimed,
    MicrobenchmarkTimingJob,
    Traffic,
    spread_ratio,
)
from fastvit_bench.render.rows import Row
from fastvit_bench.store import peaks, runs
from fastvit_bench.sweep import preflight

# kind, width, side and depth, by rising work; the last three are for GPUs. No layer is so small that starting it
# counts, and a run on a processor takes milliseconds, so that a set of them fits between two disturbances.
LADDER = (
    ("pointwise", 128, 32, 16),  # 0.27 GMAC
    ("pointwise", 256, 32, 8),
    ("spatial", 128, 32, 4),
    ("spatial", 256, 16, 4),
    ("product", 512, 32, 2),
    ("pointwise", 512, 32, 4),
    ("product", 1024, 32, 2),  # 2.1 GMAC
    ("pointwise", 2048, 64, 2),
    ("pointwise", 4096, 64, 2),
    ("product", 4096, 64, 2),  # 137 GMAC
)
LONGEST_S = 0.05  # of a run, by the best rate so far; larger probes are left out
FINALISTS = 3  # arithmetic probes that are timed again; the others are timed once
AGREED = 1.03  # a probe is timed in one process after the other until the two quickest differ by less
LEAST = 4  # processes: two in a row have agreed on two thirds of the rate of a copy that others reached
PROCESSES = 8  # at most

ARRAY_BYTES = 192 << 20  # of a copy's input, and of its output, at least; more where caches are larger
T = TypeVar("T")

TIMEOUT_S = 600.0  # of one probe

Measure = Callable[[Device, Machine, Callable[[str], None]], DevicePeak]


def of_rows(
    rows: Sequence[Row],
    profile: Device,
    folder: Path,
    *,
    again: bool = False,
    notify: Callable[[str], None] = lambda what: None,
    measured: Measure | None = None,
    name: str = "",
) -> tuple[DevicePeak, ...]:
    """Return the peaks that rows of a device refer to; without rows, the one of its profile.

    `name` is the name that a person gave this machine. The peaks of rows that were measured on this machine are
    measured where missing, or again with `again`. Those of rows from other machines must be stored.

    Raises `UnavailableError` where the device is not available and has no stored peak, `NotComparableError` where no
    row has a peak, and what `gather` raises.
    """
    stored = peaks.load(folder)
    known = any(peaks.nearest(stored, row.device, row.machine) for row in rows)
    try:
        device, machine = _local_device(profile, name)
    except UnavailableError:
        if again or not known:
            raise
        return stored
    local_devices = [row.device for row in rows if row.machine.is_same_as(machine)]
    local_devices = [local for local in local_devices if local.backend == device.backend] if rows else [device]
    if not local_devices and not known:
        machine_names = sorted({row.machine.accelerator or row.machine.processor for row in rows})
        raise NotComparableError(
            f"These figures were measured on another machine ({', '.join(machine_names)}), and {folder / peaks.NAME} "
            f"holds no peak of it; run `fastvit-bench roofline` there and bring that file along."
        )
    return gather(local_devices, machine, folder, again=again, notify=notify, measured=measured)


def _local_device(profile: Device, name: str) -> tuple[Device, Machine]:
    """Return the device with its options filled in, and this machine; raises `UnavailableError` if it cannot run."""
    backend = backends.get(profile.backend)
    lacking = backend.unavailable_reason()
    if lacking is None:
        profile = msgspec.structs.replace(profile, options=backend.options(profile))
        lacking = backend.device_unavailable_reason(profile)
    if lacking is not None:
        raise UnavailableError(f"Device '{profile.name}' cannot run here, so its peak cannot be measured: {lacking}.")
    return preflight.preflight(profile, name=name)


def gather(
    devices: Iterable[Device],
    machine: Machine,
    folder: Path,
    *,
    again: bool = False,
    notify: Callable[[str], None] = lambda what: None,
    measured: Measure | None = None,
) -> tuple[DevicePeak, ...]:
    """Return the peaks stored in a device's folder, with those of `devices` on this machine, measured where missing.

    With `again` they are measured in any case. Every peak is stored as soon as it is known. Raises `UnavailableError`
    where one cannot be measured, also because another process measures, `StoreError` where the folder cannot be read
    or written.
    """
    stored = peaks.load(folder)
    settings = {msgspec.json.encode(setting, order="sorted"): setting for setting in map(peaks.setting, devices)}
    for device in settings.values():
        if not again and peaks.exact(stored, device, machine) is not None:
            continue
        with runs.lock(folder.parent, folder.name):  # a sweep would slow it down, and it a sweep
            peak = (measured or measure)(device, machine, notify)
            stored = peaks.replaced(stored, peak)
            peaks.save(stored, folder)
    return stored


def measure(
    device: Device,
    machine: Machine,
    notify: Callable[[str], None] = lambda what: None,
    *,
    ladder: Sequence[tuple[str, int, int, int]] = LADDER,
    array_bytes: int | None = None,
    processes: int = PROCESSES,
) -> DevicePeak:
    """Time the probes on a device, each in processes of its own, until the two quickest agree and nobody else was busy.

    An arithmetic probe that fails is left out as long as another one works. Raises `UnavailableError` otherwise, with
    the reason.
    """
    method, watch = _method(device), machines.Between(0.0)
    side = _side(array_bytes or _array_bytes(machine))
    copy = _probe("copy", 3, side, 1, "fp32" if "fp32" in backends.get(device.backend).precisions else device.precision)
    with files.temporary_folder() as folder, Worker() as writer:
        timer = _ProbeTimer(device, method, folder, writer, notify)
        _climb(timer, ladder)
        timer.time(copy, 1)
        arithmetic = [result for result in timer.results() if result.probe != copy]
        best = sorted(arithmetic, key=lambda result: -result.per_s)[:FINALISTS]
        for number in range(2, processes + 1):
            for probe in (*(result.probe for result in best), copy):
                # where others take a processor all the time, two processes agree on half of what it can do
                others = watch.readings(timer.busy_s()).others_percent or 0.0
                busy = machine.accelerator is None and others > BUSY_PERCENT
                times_ns = [timed.best_ns for timed in timer.times[probe]]
                if number <= LEAST or busy or spread_ratio(times_ns) > AGREED:
                    timer.time(probe, number)
        own_s = timer.busy_s()
    results = timer.results()
    (copied, *_) = timer.times[copy]
    return DevicePeak(
        probes=MICROBENCHMARKS_VERSION,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        machine=machine,
        method=method,
        window=copied.window,
        clock=copied.clock,
        arithmetic=tuple(result for result in results if result.probe != copy),
        memory=next(result for result in results if result.probe == copy),
        others_percent=watch.readings(own_s).others_percent,
    )


@dataclass
class _ProbeTimer:
    """The times of a device's probes, each in a process of its own, and the processor time that they took."""

    device: Device
    method: Method
    folder: Path  # of the probes' files
    writer: Worker
    notify: Callable[[str], None]
    times: dict[Microbenchmark, list[MicrobenchmarkTimed]] = field(default_factory=dict)
    written: dict[Microbenchmark, str] = field(default_factory=dict)  # paths
    timed_s: float = 0.0  # processor time of the timing processes

    def time(self, probe: Microbenchmark, number: int) -> None:
        """Time a probe in a new process, its `number`th; raises `UnavailableError` where that fails."""
        self.notify(f"{probe.label}, {probe.precision}{f', again ({number})' if number > 1 else ''}")
        if probe not in self.written:
            suffix = backends.get(self.device.backend).suffix
            path = str(self.folder / f"probe{len(self.written)}{suffix}")
            _require(self.writer.ask(MicrobenchmarkJob(probe=probe, device=self.device, path=path), TIMEOUT_S), probe)
            self.written[probe] = path
        with Worker() as worker:
            path = self.written[probe]
            job = MicrobenchmarkTimingJob(probe=probe, device=self.device, path=path, method=self.method)
            reply = worker.ask(job, TIMEOUT_S)
            self.timed_s += worker.busy_s()
        timed = _require(reply, probe)
        self.times.setdefault(probe, []).append(timed)

    def busy_s(self) -> float:
        """Return the processor time in seconds of all processes so far."""
        return self.timed_s + self.writer.busy_s()

    def results(self) -> list[MicrobenchmarkTime]:
        """Return the best time of each probe in each of its processes."""
        return [
            MicrobenchmarkTime(probe=probe, best_ns=tuple(timed.best_ns for timed in processes))
            for probe, processes in self.times.items()
        ]


def _climb(timer: _ProbeTimer, ladder: Sequence[tuple[str, int, int, int]]) -> None:
    """Time each arithmetic probe once, but for those that would take too long; raise where none works."""
    reason: UnavailableError | None = None
    for rung in ladder:
        probe = _probe(*rung, timer.device.precision)
        rate = max((result.per_s for result in timer.results()), default=0.0)
        if rate and probe.macs / rate > LONGEST_S:
            continue
        try:
            timer.time(probe, 1)
        except UnavailableError as error:
            reason = error
    if not timer.times:
        raise reason or UnavailableError(f"Nothing was timed on '{timer.device.name}'.")


def _require(reply: T | CellError, probe: Microbenchmark) -> T:
    """Return a probe's reply; raise `UnavailableError` where it failed."""
    if isinstance(reply, CellError):
        raise UnavailableError(f"The probe of {probe.label} failed: {reply.reason.rstrip('.')}.")
    return reply


def _probe(kind: str, width: int, side: int, depth: int, precision: str) -> Microbenchmark:
    fields = {"kind": kind, "width": width, "side": side, "depth": depth, "precision": precision}
    return msgspec.convert(fields, Microbenchmark)


def _method(device: Device) -> Method:
    """Return the method of a probe: sets of a few runs, longer for a GPU, which warms up as for every figure."""
    settling = backends.get(device.backend).warmup_policy(device)
    if settling:
        return msgspec.convert({"warmup": 2, "runs": 20, "rounds": 5, **settling}, Method)
    return Method(warmup=2, runs=5, rounds=20)


def _array_bytes(machine: Machine) -> int:
    """Return four times the last-level cache where its size is known, at most a sixteenth of the memory."""
    most = (machine.memory_mib or 1 << 20) << 20 >> 4
    return min(max(ARRAY_BYTES, 4 * machines.last_level_cache_bytes()), most)


def _side(array_bytes: int) -> int:
    """Return the side in pixels of a square float32 image, a multiple of 32, that takes at least so many bytes."""
    return 32 * math.ceil(math.sqrt(array_bytes / 12) / 32)


# --- traffic of the timed files ---------------------------------------------------------------------------------------


def traffic(measurements: Iterable[Measurement], models: Path) -> dict[str, Traffic]:
    """Return the computation and traffic of timed files by SHA-256, from their side-cars or counted on the files.

    A file that no longer exists in `models`, or cannot be counted, is left out.
    """
    by_digest: dict[str, Traffic] = {}
    for artifact in (measurement.artifact for measurement in measurements):
        if not isinstance(artifact, Artifact) or artifact.sha256 is None or artifact.sha256 in by_digest:
            continue
        counts = artifact.traffic
        if counts is None and files.is_part(artifact.model) and files.is_part(artifact.path):
            counts = _counted(artifact, models / artifact.model / artifact.path)
        if counts is not None:
            by_digest[artifact.sha256] = counts
    return by_digest


def _counted(artifact: Artifact, path: Path) -> Traffic | None:
    try:
        if not path.exists() or files.sha256(path) != artifact.sha256:
            return None
        return backends.get(artifact.backend).traffic(path, artifact.shape)
    except (OSError, UnavailableError):
        return None
