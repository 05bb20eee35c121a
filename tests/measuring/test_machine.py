"""What is said of the machine is read from it, and a wrong device ends before anything is built."""

import msgspec
import pytest

from fastvit_bench import backends
from fastvit_bench.backends import _cgroups
from fastvit_bench.errors import UnavailableError
from fastvit_bench.measuring import machine
from fastvit_bench.records import Device

CPU = Device(name="cpu", backend="onnxruntime")


def test_the_machine_is_described_without_naming_it() -> None:
    import platform

    here = machine.collect(device=CPU)
    assert here.processor
    assert here.cores >= 1
    assert here.memory_mib > 0
    assert here.packages["onnxruntime"]
    assert platform.node() not in msgspec.json.encode(here).decode()
    assert here == machine.collect(device=CPU)


def test_a_device_is_checked_against_the_hardware() -> None:
    here = msgspec.structs.replace(machine.collect(), processor="Some Processor 9000")
    machine.check(Device(name="any", backend="onnxruntime"), here)
    machine.check(Device(name="this", backend="onnxruntime", match="processor 9000"), here)
    with pytest.raises(UnavailableError, match="meant for 'RTX 2080 Ti', and this machine has 'Some Processor 9000'"):
        machine.check(Device(name="gpu", backend="onnxruntime", match="RTX 2080 Ti"), here)


def test_differences_name_both_values() -> None:
    here = machine.collect(device=CPU)
    there = msgspec.structs.replace(here, cores=here.cores + 1, packages={**here.packages, "onnxruntime": "1.0"})
    found = here.differences(there)
    assert found == [
        f"processors: {here.cores + 1} then, {here.cores} now",
        f"onnxruntime: 1.0 then, {here.packages['onnxruntime']} now",
    ]
    assert here.differences(here) == []


def test_the_watch_reads_before_and_after() -> None:
    state = machine.Watch().state()
    assert state.steal_percent is None or 0 <= state.steal_percent <= 100


def test_periods_of_the_quota_count_from_the_first_timed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading uses the quota up too, and is not timed."""
    count = {"group": 5}
    monkeypatch.setattr(_cgroups, "throttled", lambda: dict(count))
    watch = machine.Watch()
    count["group"] = 50  # while the file is loaded
    watch.begin_timing()
    count["group"] = 53
    watch.begin_timing()  # of another session
    assert watch.state().quota_periods == 3
    between = machine.Between(0.0)
    count["group"] = 60
    assert between.readings(0.0).quota_periods == 7


def test_without_a_quota_no_periods_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cgroups, "throttled", dict)
    assert machine.Watch().state().quota_periods is None
    assert machine.Between(0.0).readings(0.0).quota_periods is None


@pytest.mark.parametrize(
    ("quota", "recorded", "told"),
    [(0.5, 0.5, "0.5 of 2 processors"), (None, None, "2 cores"), (2.0, None, "2 cores"), (1.25, 1.25, "1.25 of 2")],
)
def test_the_quota_is_part_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, recorded: float | None, told: str
) -> None:
    monkeypatch.setattr(backends, "processors", lambda: 2)
    monkeypatch.setattr(_cgroups, "quota", lambda: quota)
    here = machine.collect(name="lab-1")
    assert (here.cores, here.quota, here.name) == (2, recorded, "lab-1")
    assert here.processors.startswith(told)
