"""Records of the measuring machine and its load, and the comparison of two machines."""

import math
from collections.abc import Iterable

from fastvit_bench.records.spec import Record


class Machine(Record, frozen=True):
    """The machine that produced a figure, as detected; None where a report does not say."""

    host: str  # a digest of the host name, which differs in every container; empty if unknown
    processor: str
    cores: int | None  # logical processors this process may run on
    memory_mib: int | None
    os: str
    python: str | None
    packages: dict[str, str]  # name -> version, of those that affect a figure of the backend
    accelerator: str | None = None
    driver: str | None = None
    quota: float | None = None  # processors whose time the process may use; None: no limit
    name: str = ""  # chosen by the user

    @property
    def processors(self) -> str:
        """Number of processors for the process: ``4 cores``, or ``0.5 of 2 processors``; empty if unknown."""
        unit = "core" if self.quota is None else "processor"
        return f"{self._count} {unit}{'s' * ((self.cores or 0) > 1)}" if self.cores else ""

    @property
    def _count(self) -> str:
        return f"{self.cores}" if self.quota is None else f"{self.quota:.3g} of {self.cores}"

    @property
    def hardware(self) -> tuple[object, ...]:
        """The facts that are equal for one machine under two names; memory counts only roughly."""
        return self.processor, self.cores, self.quota, self.memory_step, self.accelerator

    @property
    def memory_step(self) -> int | None:
        """Memory in steps of a factor of 1.4, because kernels reserve a varying part of it."""
        return round(2 * math.log2(self.memory_mib)) if self.memory_mib else None

    def is_same_as(self, machine: "Machine") -> bool:
        """Return whether both records describe one machine, by the names that users chose and by hardware."""
        return self._identity_differences(machine) == []

    def differences(self, before: "Machine", packages: Iterable[str] | None = None) -> list[str]:
        """Return ``fact: OLD then, NEW now`` for every fact that makes figures of two machines incomparable.

        `before` is the machine of the older figure. `packages` are those that count; None counts all that either has.
        The host name does not count, because every container has another one. Old records used one list of packages
        for every backend. A machine with packages besides those that count has such a record, and a package missing
        from it is unknown rather than different.
        """
        differences = self._identity_differences(before) + _system_differences(before.os, self.os)
        differences += _unequal("Python", before.python, self.python) + _unequal("driver", before.driver, self.driver)
        counted = self.packages.keys() | before.packages.keys() if packages is None else set(packages)
        for name in sorted(counted):
            sides = [(machine.packages.get(name), machine.packages.keys() <= counted) for machine in (before, self)]
            if all(version or complete for version, complete in sides):
                differences += _unequal(name, sides[0][0], sides[1][0])
        return differences

    def _identity_differences(self, before: "Machine") -> list[str]:
        """Return the facts by which `before` is a different machine: user's name, processor, memory, accelerator."""
        differences = _unequal("machine", before.name, self.name) if self.name and before.name else []
        differences += _unequal("processor", before.processor, self.processor)
        differences += _unequal("processors", before._count, self._count)
        sizes = before.memory_mib, self.memory_mib
        if sizes[0] and sizes[1] and max(sizes[0], sizes[1]) > MEMORY_RATIO * min(sizes[0], sizes[1]):
            differences += _unequal("memory", f"{sizes[0] / 1024:.1f} GiB", f"{sizes[1] / 1024:.1f} GiB")
        return differences + _unequal("accelerator", before.accelerator, self.accelerator)

    def hint(self, before: "Machine") -> str | None:
        """Return a note where host names differ and only hardware suggests one machine; None otherwise."""
        if self.host == before.host or not (self.host and before.host) or (self.name and self.name == before.name):
            return None
        return (
            f"host name: {before.host} then, {self.host} now (as digests); taken for one machine, because their "
            f"hardware is alike. Name your machines with --machine NAME to be certain."
        )


MEMORY_RATIO = 1.1  # two readings of one machine's memory may differ by this, because kernels reserve some of it


def _unequal(fact: str, before: str | None, after: str | None) -> list[str]:
    return [] if before == after else [f"{fact}: {before or 'none'} then, {after or 'none'} now"]


def _system_differences(before: str, after: str) -> list[str]:
    """Return the differences of two `Machine.os` values: the kernel's release alone, or the whole text."""
    parts = before.split(" "), after.split(" ")
    if all(len(words) == 3 for words in parts) and (parts[0][0], parts[0][2]) == (parts[1][0], parts[1][2]):
        return _unequal("kernel", parts[0][1], parts[1][1])
    return _unequal("operating system", before, after)


def by_name(machines: Iterable[Machine]) -> dict[tuple[object, ...], str]:
    """Return hardware -> name, for hardware whose machines have exactly one name chosen by a user.

    It joins figures from before a machine was named with later ones.
    """
    names: dict[tuple[object, ...], set[str]] = {}
    for machine in machines:
        names.setdefault(machine.hardware, set()).add(machine.name)
    return {hardware: max(chosen) for hardware, chosen in names.items() if len(chosen - {""}) == 1}


class MachineState(Record, frozen=True):
    """The machine's load and clock before the file was loaded and right after the timed runs; None: unknown."""

    load_before: float | None = None  # 1-minute load average
    load_after: float | None = None
    clock_mhz_before: float | None = None
    clock_mhz_after: float | None = None
    steal_percent: float | None = None  # processor time taken by the hypervisor meanwhile
    quota_periods: int | None = None  # periods in which the CPU quota ran out during the runs; None without a quota
