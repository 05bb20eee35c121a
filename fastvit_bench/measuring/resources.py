"""Counters of memory and energy that the system keeps; a counter that is absent or unreadable gives None.

The resident set is the kernel's own peak. Energy is that of the processor packages, by RAPL, as Linux's powercap shows
it: everything that runs on them counts, and so does what they draw at rest.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
STATUS = Path("/proc/self/status")


def peak_resident_bytes(status: Path = STATUS) -> int | None:
    """Return the largest resident set of this process so far, in bytes; None where the system does not say.

    On Linux it is VmHWM. Its ``ru_maxrss`` also holds what the parent used before this program began.
    """
    if sys.platform == "linux":
        with suppress(OSError, ValueError, IndexError):
            for line in status.read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10
        return None
    with suppress(ImportError, OSError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
    return None


def package_energy_uj(root: Path = POWERCAP) -> dict[str, int] | None:
    """Return the energy counter of each processor package in microjoules; None where none can be read.

    One package without a readable counter leaves no figure at all: a part of the energy would be a wrong one.
    """
    counters: dict[str, int] = {}
    try:
        for package in _packages(root):
            counters[package.name] = int((package / "energy_uj").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return counters or None


def energy_between_mj(
    before: Mapping[str, int] | None, after: Mapping[str, int] | None, root: Path = POWERCAP
) -> float | None:
    """Return the millijoules between two readings of `package_energy_uj`; None where either is missing.

    A counter that began anew in between had reached its range.
    """
    if not before or not after or before.keys() != after.keys():
        return None
    total_uj = 0
    for name, begun in before.items():
        spent = after[name] - begun
        if spent < 0:
            try:
                spent += int((root / name / "max_energy_range_uj").read_text(encoding="ascii"))
            except (OSError, ValueError):
                return None
        if spent < 0:
            return None
        total_uj += spent
    return total_uj / 1e3


def _packages(root: Path) -> list[Path]:
    """Return the powercap folders of whole processor packages, which contain their cores and caches."""
    return [
        folder
        for folder in sorted(root.glob("intel-rapl:*"))  # AMD's processors have the same name there
        if (folder / "name").read_text(encoding="ascii").startswith("package")
    ]
