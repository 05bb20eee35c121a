"""Records of a GPU: its identity, and its clocks, power and temperature during timing."""

from collections.abc import Sequence

from fastvit_bench.records.spec import Record


class GpuIdentity(Record, frozen=True):
    """The NVIDIA GPU that an engine is built for; for one in another machine, the compute capability alone."""

    compute_capability: str  # such as 7.5
    name: str = ""
    uuid: str = ""
    memory_mib: int = 0
    driver: str = ""  # version; a change needs no rebuild, but makes figures incomparable


class GpuState(Record, frozen=True):
    """One reading of a GPU through NVML; None where a value could not be read."""

    sm_mhz: int | None = None  # clock of the multiprocessors
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None  # the enforced limit
    throttle: tuple[str, ...] | None = None  # reasons for the current clocks, such as "power cap"
    utilisation_percent: int | None = None  # share of recent time in which any process, including this one, ran kernels
    other_processes: int | None = None  # on the GPU, besides this one
    other_memory_mib: int | None = None  # memory of those processes, as far as reported
    own_memory_mib: int | None = None  # memory of this process on the GPU
    energy_mj: int | None = None  # the GPU's counter since its driver was loaded
    persistence: bool | None = None  # whether the driver stays loaded when nothing uses it
    application_sm_mhz: int | None = None  # application clocks, set by someone and not by this tool
    application_memory_mhz: int | None = None
    max_sm_mhz: int | None = None
    max_memory_mhz: int | None = None


_HEAT = ("heat (software)", "heat (hardware)")


_POWER = ("power cap", "power brake")


def gpu_warnings(looks: Sequence[GpuState], spread_percent: float = 5.0) -> list[str]:
    """Return reasons to distrust figures, from GPU readings taken between the timed runs.

    Readings of an idle GPU say nothing about its clocks under load, so they are left out of the clock spread. That
    spread may be at most `spread_percent` of the highest clock.
    """
    warnings: list[str] = []
    if not looks:
        return warnings
    for words, how in ((_HEAT, "by heat"), (_POWER, "to keep its power limit"), (("hardware slowdown",), "by itself")):
        count = sum(any(word in words for word in look.throttle or ()) for look in looks)
        if count:
            warnings.append(f"the GPU slowed down {how} in {count} of {len(looks)} looks{_readings(looks, words)}")
    busy = [look for look in looks if "idle" not in (look.throttle or ())]
    for name, clocks in (
        ("SM", [look.sm_mhz for look in busy]),
        ("memory", [look.memory_mhz for look in busy]),
    ):
        known = [clock for clock in clocks if clock]
        if known and (spread := 100 * (1 - min(known) / max(known))) > spread_percent:
            warnings.append(f"{name} clock varied by {spread:.0f} %: {min(known)} to {max(known)} MHz")
    others = max((look.other_processes or 0 for look in looks), default=0)
    if others:
        memory_mib = max((look.other_memory_mib or 0 for look in looks), default=0)
        memory = f", holding {memory_mib} MiB" if memory_mib else ""
        warnings.append(f"{others} other process{'es' if others > 1 else ''} on the GPU{memory}")
    return warnings


def _readings(looks: Sequence[GpuState], words: tuple[str, ...]) -> str:
    """Return the readings that explain a cause of throttling: the highest temperature, or the power limit."""
    if words is _HEAT:
        hottest = max((look.temperature_c or 0 for look in looks), default=0)
        return f", at up to {hottest} °C" if hottest else ""
    limits = [look.power_limit_w for look in looks if look.power_limit_w]
    return f", of {max(limits):.0f} W" if words is _POWER and limits else ""
