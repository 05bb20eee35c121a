"""What a device can do at best: measured once through its own toolkit, kept beside its runs, and found again."""

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from fastvit_bench import backends, files, sweep
from fastvit_bench.errors import NotComparableError, UnavailableError
from fastvit_bench.measure import machine as machines
from fastvit_bench.records import (
    BUSY_PERCENT,
    PROBES,
    Artifact,
    CellError,
    Device,
    Machine,
    Measurement,
    Method,
    Peak,
    Probe,
    ProbeJob,
    ProbeTime,
    ProbeTimed,
    ProbeTimingJob,
    Traffic,
    apart,
)
from fastvit_bench.report import peaks, store
from fastvit_bench.report.rows import Row
from fastvit_bench.worker import Worker

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
# At least so many: of a copy, two processes in a row were seen to agree on two thirds of what others reached.
LEAST = 4
PROCESSES = 8  # at most

ARRAY_BYTES = 192 << 20  # of a copy's input, and of its output, at least; more where caches are larger
T = TypeVar("T")

TIMEOUT_S = 600.0  # of one probe

Measure = Callable[[Device, Machine, Callable[[str], None]], Peak]


def of_rows(
    rows: Sequence[Row],
    profile: Device,
    folder: Path,
    *,
    again: bool = False,
    notify: Callable[[str], None] = lambda what: None,
    measured: Measure | None = None,
    name: str = "",
) -> tuple[Peak, ...]:
    """The peaks that rows of a device stand below; without rows, the one of its profile.

    `name` is what a person calls this machine.
    Measured, or with `again` measured anew, are those of rows that were made on this machine; of others, what is kept
    counts. Raises `UnavailableError` where the device is not here and nothing is kept of it, `NotComparableError` where
    no row has a peak, and as `gather` does.
    """
    held = peaks.load(folder)
    known = any(peaks.nearest(held, row.device, row.machine) for row in rows)
    try:
        device, machine = _here(profile, name)
    except UnavailableError:
        if again or not known:
            raise
        return held
    here = [row.device for row in rows if row.machine.is_same_as(machine)]
    here = [each for each in here if each.backend == device.backend] if rows else [device]
    if not here and not known:
        machines_seen = sorted({row.machine.accelerator or row.machine.processor for row in rows})
        raise NotComparableError(
            f"These figures were measured on another machine ({', '.join(machines_seen)}), and {folder / peaks.NAME} "
            f"holds no peak of it; run `fastvit-bench roofline` there and bring that file along."
        )
    return gather(here, machine, folder, again=again, notify=notify, measured=measured)


def _here(profile: Device, name: str) -> tuple[Device, Machine]:
    """The device with its options filled in, and this machine; `UnavailableError` where it cannot run here."""
    backend = backends.get(profile.backend)
    lacking = backend.missing()
    if lacking is None:
        profile = msgspec.structs.replace(profile, options=backend.options(profile))
        lacking = backend.absent(profile)
    if lacking is not None:
        raise UnavailableError(f"Device '{profile.name}' cannot run here, so its peak cannot be measured: {lacking}.")
    return sweep.preflight(profile, name=name)


def gather(
    devices: Iterable[Device],
    machine: Machine,
    folder: Path,
    *,
    again: bool = False,
    notify: Callable[[str], None] = lambda what: None,
    measured: Measure | None = None,
) -> tuple[Peak, ...]:
    """The peaks kept in a device's folder, with those of `devices` on this machine, which are measured where missing.

    With `again` they are measured in any case. Every peak is kept as soon as it is known. Raises `UnavailableError`
    where one cannot be measured, also because another process measures, `StoreError` where the folder cannot be read
    or written.
    """
    held = peaks.load(folder)
    for device in {msgspec.json.encode(each, order="sorted"): each for each in map(peaks.setting, devices)}.values():
        if not again and peaks.exact(held, device, machine) is not None:
            continue
        with store.lock(folder.parent, folder.name):  # a sweep would slow it down, and it a sweep
            found = (measured or measure)(device, machine, notify)
            held = peaks.replaced(held, found)
            peaks.save(held, folder)
    return held


def measure(
    device: Device,
    machine: Machine,
    notify: Callable[[str], None] = lambda what: None,
    *,
    ladder: Sequence[tuple[str, int, int, int]] = LADDER,
    array_bytes: int | None = None,
    processes: int = PROCESSES,
) -> Peak:
    """Time the probes on a device, each in processes of its own, until the two quickest agree and nobody else was busy.

    An arithmetic probe that fails is left out as long as another one works. Raises `UnavailableError` otherwise, with
    the reason.
    """
    method = _method(device)
    watch, own_s = machines.Between(0.0), 0.0
    times: dict[Probe, list[ProbeTimed]] = {}
    side = _side(array_bytes or _array_bytes(machine))
    copy = _probe("copy", 3, side, 1, "fp32" if "fp32" in backends.get(device.backend).precisions else device.precision)
    with tempfile.TemporaryDirectory(prefix="fastvit-bench-") as name, Worker() as writer:
        written: dict[Probe, str] = {}

        def time(probe: Probe, number: int) -> None:
            nonlocal own_s
            notify(f"{probe.label}, {probe.precision}{f', again ({number})' if number > 1 else ''}")
            if probe not in written:
                suffix = backends.get(device.backend).suffix
                path = str(Path(name, f"probe{len(written)}{suffix}"))
                _require(writer.ask(ProbeJob(probe=probe, device=device, path=path), TIMEOUT_S), probe)
                written[probe] = path
            with Worker() as timer:
                job = ProbeTimingJob(probe=probe, device=device, path=written[probe], method=method)
                reply = timer.ask(job, TIMEOUT_S)
                own_s += timer.busy_s()
            timed = _require(reply, probe)
            times.setdefault(probe, []).append(timed)

        reason: UnavailableError | None = None
        for rung in ladder:
            probe = _probe(*rung, device.precision)
            rate = max((each.per_s for each in _told(times)), default=0.0)
            if rate and probe.macs / rate > LONGEST_S:
                continue
            try:
                time(probe, 1)
            except UnavailableError as error:
                reason = error
        if not times:
            raise reason or UnavailableError(f"Nothing was timed on '{device.name}'.")
        time(copy, 1)
        best = sorted((each for each in _told(times) if each.probe != copy), key=lambda each: -each.per_s)[:FINALISTS]
        for number in range(2, processes + 1):
            for probe in (*(each.probe for each in best), copy):
                # where others take a processor all the time, two processes agree on half of what it can do
                others = watch.readings(own_s + writer.busy_s()).others_percent or 0.0
                busy = machine.accelerator is None and others > BUSY_PERCENT
                if number <= LEAST or busy or apart([each.best_ns for each in times[probe]]) > AGREED:
                    time(probe, number)
        own_s += writer.busy_s()
    told = _told(times)
    (seen, *_) = times[copy]
    return Peak(
        probes=PROBES,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        machine=machine,
        method=method,
        window=seen.window,
        clock=seen.clock,
        arithmetic=tuple(each for each in told if each.probe != copy),
        memory=next(each for each in told if each.probe == copy),
        others_percent=watch.readings(own_s).others_percent,
    )


def _require(reply: T | CellError, probe: Probe) -> T:
    """Return what a probe answered; raise `UnavailableError` where it failed."""
    if isinstance(reply, CellError):
        raise UnavailableError(f"The probe of {probe.label} failed: {reply.reason.rstrip('.')}.")
    return reply


def _told(times: dict[Probe, list[ProbeTimed]]) -> list[ProbeTime]:
    return [ProbeTime(probe=probe, best_ns=tuple(each.best_ns for each in found)) for probe, found in times.items()]


def _probe(kind: str, width: int, side: int, depth: int, precision: str) -> Probe:
    told = {"kind": kind, "width": width, "side": side, "depth": depth, "precision": precision}
    return msgspec.convert(told, Probe)


def _method(device: Device) -> Method:
    """Sets of a few runs, of which the quickest counts; a GPU, which warms up as for every figure, has longer sets."""
    settling = backends.get(device.backend).settling(device)
    if settling:
        return msgspec.convert({"warmup": 2, "runs": 20, "rounds": 5, **settling}, Method)
    return Method(warmup=2, runs=5, rounds=20)


def _array_bytes(machine: Machine) -> int:
    """Four times the last-level cache where that is told, but no more than a sixteenth of the memory."""
    most = (machine.memory_mib or 1 << 20) << 20 >> 4
    return min(max(ARRAY_BYTES, 4 * machines.last_level_cache_bytes()), most)


def _side(array_bytes: int) -> int:
    """Pixels of a square image of float32 numbers that takes at least so many bytes."""
    return 32 * math.ceil(math.sqrt(array_bytes / 12) / 32)


# --- what the timed files hold ----------------------------------------------------------------------------------------


def traffic(measurements: Iterable[Measurement], models: Path) -> dict[str, Traffic]:
    """What the files computed and moved, by their SHA-256: as their side-cars said, else counted on the files.

    A file that no longer lies in `models`, or cannot be counted, is left out.
    """
    found: dict[str, Traffic] = {}
    for made in (each.artifact for each in measurements):
        if not isinstance(made, Artifact) or made.sha256 is None or made.sha256 in found:
            continue
        told = made.traffic or _counted(made, models / made.model / made.path)
        if told is not None:
            found[made.sha256] = told
    return found


def _counted(made: Artifact, path: Path) -> Traffic | None:
    try:
        if not path.exists() or files.sha256(path) != made.sha256:
            return None
        return backends.get(made.backend).traffic(path, made.shape)
    except (OSError, UnavailableError):
        return None
