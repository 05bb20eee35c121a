"""Check that a device can run on this machine before anything is exported or measured."""

import re
from typing import Literal

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import MismatchError, UnavailableError
from fastvit_bench.measuring import machine as machines
from fastvit_bench.records import Device, Machine


def this_machine(name: str = "") -> Machine:
    """Return the record of this machine, without any accelerator; `name` is what a person calls it."""
    return machines.collect(name=name)


def preflight(
    device: Device, mismatch: Literal["refuse", "rename"] = "refuse", name: str = ""
) -> tuple[Device, Machine]:
    """Return the device with every option filled in, and the record of this machine.

    Raises `UnavailableError` unless files can run on the device; nothing is built to find out. Hardware that the
    device's profile does not match raises `MismatchError`. With `mismatch="rename"` it gives the device its own name
    instead. `name` is what a person calls the machine.
    """
    backend = backends.get(device.backend)
    device = msgspec.structs.replace(device, options=backend.options(device))
    backends.require(device.backend, device)
    absent = backend.device_unavailable_reason(device)
    if absent:
        raise UnavailableError(f"Device '{device.name}' cannot run here: {absent}.")
    try:
        machine = machines.collect(backend.detect_hardware(device), device, name)
        machines.check(device, machine)
    except MismatchError:
        if mismatch == "refuse":
            raise
        unmatched = msgspec.structs.replace(device, match=None)
        if "compute_capability" in device.options:
            unmatched = msgspec.structs.replace(unmatched, options={**device.options, "compute_capability": ""})
        hardware = backend.detect_hardware(unmatched)
        machine = machines.collect(hardware, unmatched, name)
        options = dict(unmatched.options)
        if hardware and hardware.compute_capability:
            options["compute_capability"] = hardware.compute_capability
        label = re.sub(r"[^a-z0-9]+", "-", (machine.accelerator or machine.processor).lower()).strip("-")
        device = msgspec.structs.replace(unmatched, name=label, options=options)
    return device, machine


def unavailable_reason(device: Device, processor: str) -> str | None:
    """Return why a device cannot run on this machine, or None; loads no toolkit to find out.

    `processor` is the name of this machine's, which devices without other hardware are matched with.
    """
    reason = backends.unavailable_reason(device.backend)
    if reason:
        return reason
    backend = backends.get(device.backend)
    device = msgspec.structs.replace(device, options=backend.options(device))
    absent = backend.device_unavailable_reason(device)
    # a device on a cable is asked for its name only when it is used
    if absent or device.options.get("location") == "connected":
        return absent
    try:
        hardware = backend.detect_hardware(device)
    except UnavailableError as error:
        return str(error).rstrip(".")
    return machines.mismatch(device, hardware.name if hardware else processor)
