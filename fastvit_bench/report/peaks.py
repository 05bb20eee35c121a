"""Peaks of a device: kept in a file beside its runs, by machine and setting, and found again for a figure."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from fastvit_bench import backends
from fastvit_bench.records import PROBES, Device, Machine, Peak
from fastvit_bench.store import documents

NAME = "peak.json"  # in the folder of a device's results

# options that do not change what a device can do at best: they say what a file takes, and what is timed with it
_INDIFFERENT = ("dynamic", "transfers")


def setting(device: Device) -> Device:
    """What of a device decides its peak, as a device: equal for all that share one."""
    options = {name: value for name, value in device.options.items() if name not in _INDIFFERENT}
    return msgspec.structs.replace(device, batch=1, match=None, options=options)


def exact(held: Iterable[Peak], device: Device, machine: Machine) -> Peak | None:
    """The peak of that setting on that machine with all its versions, by this version's probes; None without one."""
    return next(
        (
            peak
            for peak in held
            if peak.probes == PROBES
            and setting(peak.device) == setting(device)
            and not peak.machine.differences(machine, backends.figure_packages(device))
        ),
        None,
    )


def nearest(held: Sequence[Peak], device: Device, machine: Machine) -> Peak | None:
    """The exact peak, else the newest of that setting on that hardware, whose versions may be others; None without."""
    fitting = [peak for peak in held if setting(peak.device) == setting(device) and peak.machine.is_same_as(machine)]
    return exact(fitting, device, machine) or max(fitting, key=lambda peak: peak.finished, default=None)


def replaced(held: Sequence[Peak], found: Peak) -> tuple[Peak, ...]:
    """The peaks with a new one, in the place of any of the same setting and machine."""
    others = [
        peak
        for peak in held
        if setting(peak.device) != setting(found.device)
        or peak.machine.differences(found.machine, backends.figure_packages(found.device))
    ]
    return (*others, found)


def load(folder: Path) -> tuple[Peak, ...]:
    """The peaks kept in a device's folder; raises `StoreError` for a file that cannot be read."""
    path = folder / NAME
    return documents.read(path, documents.PEAKS) if path.exists() else ()


def save(held: Sequence[Peak], folder: Path) -> Path:
    """Keep peaks in a device's folder, in the place of all earlier ones; raises `StoreError` where the disk refuses."""
    path = folder / NAME
    documents.write(path, documents.encoded(held), "peaks")
    return path
