"""The NVIDIA GPUs of this machine, queried from the driver's own library alone.

Toolkits cannot be queried: without a working driver some of them end the process. Only calls that every driver since
2014 has are made. The first failing call ends in one sentence that says why and what to do.
"""

import ctypes
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvit_bench.errors import MismatchError, UnavailableError
from fastvit_bench.records import Device

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
RELEASE = Path("/proc/driver/nvidia/version")  # where Linux's kernel module writes its release

_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
_WITHOUT_GPU = "export, fuse and report work without a GPU"
_UPDATE = "install a newer NVIDIA driver and restart"

# what these results of cuInit mean and the way out; 35 is the runtime's word for a driver that is too old
_CAUSES = {
    34: (
        "the library found is the CUDA toolkit's stub, not a driver",
        "take the toolkit's stubs folder out of LD_LIBRARY_PATH",
    ),
    35: ("the NVIDIA driver is too old", _UPDATE),
    802: ("the system's GPUs are not ready yet", "start nvidia-fabricmanager, and try again"),
    803: ("the driver's library and its kernel module are of different versions", "restart, or install one driver"),
    804: (
        "the CUDA compatibility library does not suit this GPU or its driver",
        "take it out of LD_LIBRARY_PATH, or " + _UPDATE,
    ),
    999: ("the driver does not answer", "reload the kernel module nvidia_uvm, or restart"),
}


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it."""

    name: str  # such as NVIDIA GeForce RTX 2080 Ti
    compute_capability: str  # such as 7.5
    uuid: str  # such as GPU-1b2c…; the same in NVML, whatever its order of the GPUs
    memory_mib: int
    index: int  # among those that this process sees


@dataclass(frozen=True)
class Driver:
    """A working driver, with at least one GPU."""

    version: str  # the release, such as 580.65.06; where only that can be read, CUDA's, such as "CUDA 13.0"
    cuda: str  # the newest CUDA it serves, such as 13.0
    gpus: tuple[Gpu, ...]


def probe(library: str | Path = LIBRARY, release: Path = RELEASE) -> Driver:
    """Query the driver in `library` for its GPUs; `release` is a file with the driver's release, if it exists.

    Creates no context on a GPU. Raises `UnavailableError` without a driver, without a working one, or without a visible
    GPU.
    """
    try:
        cuda = ctypes.CDLL(str(library))
    except OSError as error:
        raise UnavailableError(_unloadable(str(library), " ".join(str(error).split()))) from None
    try:
        _ask(cuda, "cuInit", 0)
        version = ctypes.c_int()
        _ask(cuda, "cuDriverGetVersion", ctypes.byref(version))
        count = ctypes.c_int()
        _ask(cuda, "cuDeviceGetCount", ctypes.byref(count))
        gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    except AttributeError as error:  # a call that the library does not have
        raise UnavailableError(
            f"No usable NVIDIA driver: {library} is no driver, or too old ({' '.join(str(error).split())}); {_UPDATE}."
        ) from None
    if not gpus:
        raise UnavailableError(_refused("cuDeviceGetCount", _NO_DEVICE, "CUDA_ERROR_NO_DEVICE"))
    newest = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Driver(version=_release(release) or f"CUDA {newest}", cuda=newest, gpus=gpus)


def choose(device: Device, gpus: Sequence[Gpu]) -> Gpu:
    """Return the GPU that a device profile means: its option ``gpu``, or, where that is -1, the first that fits.

    It fits when its name contains the profile's ``match`` in any case, and its compute capability is that of the option
    ``compute_capability``, if set. Raises `MismatchError` otherwise, with the list of GPUs.
    """
    index, capability = int(device.options.get("gpu", -1)), device.options.get("compute_capability")
    fitting = [gpu for gpu in gpus if _fits(gpu, device.match, capability)]
    chosen = [gpu for gpu in fitting if index < 0 or gpu.index == index]
    if chosen:
        return chosen[0]
    available = ", ".join(f"GPU {gpu.index} '{gpu.name}' ({gpu.compute_capability})" for gpu in gpus) or "no GPU"
    wanted = [f"'{device.match}'"] if device.match else []
    wanted += [f"compute capability {capability}"] if capability else []
    wanted += [f"GPU {index}"] if index >= 0 else []
    way = "run it there, declare a [device.*] for this GPU, or say --allow-device-mismatch to label it by its own name"
    if fitting:
        way = f"set its option gpu = {fitting[0].index}"
    elif index >= 0 and all(gpu.index != index for gpu in gpus):
        way = "correct its option gpu"
    raise MismatchError(
        f"Device '{device.name}' cannot run here: it is meant for {' with '.join(wanted) or 'a GPU'}, "
        f"and this machine has {available}; {way}."
    )


def _fits(gpu: Gpu, match: str | None, capability: object) -> bool:
    """Return whether a GPU's name and compute capability are those of a device profile."""
    named = match is None or match.lower() in gpu.name.lower()
    return named and (not capability or str(capability) == gpu.compute_capability)


def _ask(cuda: ctypes.CDLL, call: str, *arguments: Any) -> None:
    """Make one call. Raises `UnavailableError` where it fails, `AttributeError` where the library lacks it."""
    code = int(getattr(cuda, call)(*arguments))
    if code:
        raise UnavailableError(_refused(call, code, _error_name(cuda, code)))


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    """Query the driver for one GPU. Raises as `_ask` does."""
    handle = ctypes.c_int()
    _ask(cuda, "cuDeviceGet", ctypes.byref(handle), index)
    name = ctypes.create_string_buffer(256)
    _ask(cuda, "cuDeviceGetName", name, len(name), handle)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _ask(cuda, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, handle)
    _ask(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, handle)
    memory = ctypes.c_size_t()
    _ask(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    text = name.value.decode(errors="replace")
    return Gpu(
        name=text,
        compute_capability=f"{major.value}.{minor.value}",
        uuid=_uuid(cuda, handle, "MIG" if " MIG " in text else "GPU"),
        memory_mib=memory.value >> 20,
        index=index,
    )


def _uuid(cuda: ctypes.CDLL, handle: ctypes.c_int, kind: str) -> str:
    """Return a GPU's UUID as nvidia-smi writes it.

    The second version of the call supports slices of a GPU; older drivers have only the first.
    """
    raw = ctypes.create_string_buffer(16)
    call = "cuDeviceGetUuid_v2" if hasattr(cuda, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    _ask(cuda, call, raw, handle)
    digits = raw.raw.hex()
    return "-".join((kind, digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _error_name(cuda: ctypes.CDLL, code: int) -> str:
    """Return the driver's name of an error code; empty where it has none."""
    text = ctypes.c_char_p()
    try:
        cuda.cuGetErrorName(code, ctypes.byref(text))
    except AttributeError:
        return ""
    return (text.value or b"").decode(errors="replace")


def _unloadable(library: str, detail: str) -> str:
    """Return the message for a driver library that cannot be loaded."""
    absent = "no such file" in detail.lower() or "could not find" in detail.lower()  # Linux's words, Windows'
    if absent or sys.platform == "darwin":
        return (
            f"No NVIDIA driver: {library} was not found; "
            f"run this on a machine with one, or install it ({_WITHOUT_GPU})."
        )
    return f"No usable NVIDIA driver: {library} cannot be loaded ({detail}); install the driver again ({_WITHOUT_GPU})."


def _refused(call: str, code: int, name: str) -> str:
    """Return the message for a call that failed, with its likely cause and remedy."""
    answer = f"{call} says {code}{' ' if name else ''}{name}"
    if code == _NO_DEVICE:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            cause, way = f"CUDA_VISIBLE_DEVICES is '{visible}'", "correct or unset it"
        else:
            cause = "the driver is there and shows none"
            way = "check nvidia-smi, and in a container that it is given a GPU (docker run --gpus all)"
        return f"No NVIDIA GPU: {cause} ({answer}); {way}."
    cause, way = _CAUSES.get(code, ("the driver fails", "check nvidia-smi and the system's log"))
    return f"No usable NVIDIA driver: {cause} ({answer}); {way}."


def _release(file: Path) -> str | None:
    """Return the driver's release from the kernel module's file, such as ``580.65.06``; None where it has none.

    The line reads ``NVRM version: NVIDIA UNIX … Kernel Module  580.65.06  Release Build …``.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text, re.MULTILINE)
    return match[1] if match else None
