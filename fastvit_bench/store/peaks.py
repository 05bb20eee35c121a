"""Peaks of a device: stored in a file beside its runs, and looked up by machine and setting."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from fastvit_bench import backends, files
from fastvit_bench.records import MICROBENCHMARKS_VERSION, Device, DevicePeak, Machine
from fastvit_bench.store import documents

NAME = "peak.json"  # in the folder of a device's results

# options that do not change the peak: they decide what input a file takes, and what is timed with it
_INDIFFERENT = ("dynamic", "transfers")


def setting(device: Device) -> Device:
    """Return the device reduced to what decides its peak: equal for all devices that share one."""
    options = {name: value for name, value in device.options.items() if name not in _INDIFFERENT}
    return msgspec.structs.replace(device, batch=1, match=None, options=options)


def exact(peaks: Iterable[DevicePeak], device: Device, machine: Machine) -> DevicePeak | None:
    """Return the peak of that setting on that machine, or None.

    The versions of the machine's packages must be equal, and the probes those of this version.
    """
    return next(
        (
            peak
            for peak in peaks
            if peak.probes == MICROBENCHMARKS_VERSION
            and setting(peak.device) == setting(device)
            and not peak.machine.differences(machine, backends.figure_packages(device))
        ),
        None,
    )


def nearest(peaks: Sequence[DevicePeak], device: Device, machine: Machine) -> DevicePeak | None:
    """Return the `exact` peak, else the newest of that setting on that hardware, of any versions; None without one."""
    fitting = [peak for peak in peaks if setting(peak.device) == setting(device) and peak.machine.is_same_as(machine)]
    return exact(fitting, device, machine) or max(fitting, key=lambda peak: peak.finished, default=None)


def replaced(peaks: Sequence[DevicePeak], measured: DevicePeak) -> tuple[DevicePeak, ...]:
    """Return the peaks with a newly measured one, which takes the place of any of the same setting and machine."""
    remaining = [
        peak
        for peak in peaks
        if setting(peak.device) != setting(measured.device)
        or peak.machine.differences(measured.machine, backends.figure_packages(measured.device))
    ]
    return (*remaining, measured)


def load(folder: Path) -> tuple[DevicePeak, ...]:
    """Return the peaks stored in a device's folder; raises `StoreError` for a file that cannot be read."""
    path = folder / NAME
    return documents.read(path, documents.PEAKS) if files.exists(path) else ()


def save(peaks: Sequence[DevicePeak], folder: Path) -> Path:
    """Write peaks to a device's folder in place of all earlier ones, and return the path.

    Raises `StoreError` where the disk refuses.
    """
    path = folder / NAME
    documents.write(path, documents.encoded(peaks), documents.PEAKS.name)
    return path
