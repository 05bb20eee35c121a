"""What is said of the machine is read from it, and a wrong device ends before anything is built."""

import msgspec
import pytest

from fastvit_bench.errors import UnavailableError
from fastvit_bench.measure import machine
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
