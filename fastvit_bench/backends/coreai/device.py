"""A session on a Mac's own Core AI, which specialises an asset for a processor and is called from Python.

Written against the signatures of coreai-core 1.0.0b3. Nothing here has run on a Mac yet.
"""

import asyncio
import importlib
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends import INPUT, Images, Session
from fastvit_bench.backends._text import first_line
from fastvit_bench.backends.coreai import interpreter
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Device, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMPUTE_UNITS = ("default", "cpu-only", "gpu", "neural-engine")  # option compute_units; the first is the default
FIRST_MACOS = 27

INTERPRETER_ONLY = (
    "Core AI computes on this machine by Apple's reference interpreter, which proves a file and says nothing about its "
    f"speed; time the file on a Mac with macOS {FIRST_MACOS} or later"
)


def unavailable_reason() -> str | None:
    """Return why assets cannot be timed on this machine and the remedy; None on a Mac whose system has Core AI."""
    if sys.platform != "darwin" or int(platform.mac_ver()[0].partition(".")[0] or 0) < FIRST_MACOS:
        return INTERPRETER_ONLY
    return None


@contextmanager
def opened(path: Path, device: Device) -> "Generator[SpecialisedSession]":
    """Load an asset on the device's processor. Raises `UnavailableError` where Core AI refuses."""
    if reason := unavailable_reason():
        raise UnavailableError(f"{reason}.")
    interpreter.require_readable(path)
    loop = asyncio.new_event_loop()
    try:
        try:
            session = loop.run_until_complete(_loaded(path, str(device.options["compute_units"]), loop))
        except Exception as error:  # the runtime raises many kinds
            raise UnavailableError(f"Core AI cannot load {path.name}: {first_line(error)}.") from error
        yield session
    finally:
        loop.close()


async def _loaded(path: Path, units: str, loop: asyncio.AbstractEventLoop) -> "SpecialisedSession":
    """Return a session on an asset that was specialised for a processor."""
    model = await _runtime().AIModel.load(path, specialization_options=_specialization(units))
    return SpecialisedSession(path, model.load_function(interpreter.MAIN), loop)


def _runtime() -> Any:
    """Return Apple's runtime, which has no types where the extra is not installed."""
    return importlib.import_module("coreai.runtime")


def _specialization(units: str) -> Any:
    """Return Core AI's options for a choice of `COMPUTE_UNITS`."""
    runtime = _runtime()
    options = runtime.SpecializationOptions
    if units == "default":
        return options.default()
    if units == "cpu-only":
        return options.cpu_only()
    kinds: Any = runtime.ComputeUnitKind  # exists on macOS only
    return options.from_preferred_compute_unit_kind({"gpu": kinds.gpu, "neural-engine": kinds.neural_engine}[units]())


class SpecialisedSession(Session):
    """A session on Core AI; one run is one call from Python, which copies the outputs too."""

    window = Window.END_TO_END

    def __init__(self, path: Path, function: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._path, self._function, self._loop = path, function, loop
        descriptor = function.desc.input_descriptor(INPUT)
        self._shape, self._dtype = [int(size) for size in descriptor.shape], str(descriptor.dtype)
        self.images = Images.PIXELS if self._dtype == "uint8" else Images.TENSOR
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def set_input(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Bring a batch to Core AI. Raises `UsageError` for a batch of another shape."""
        import numpy as np

        interpreter.require_shape(images, self._shape, self._path)
        self._inputs = {INPUT: _runtime().NDArray(np.ascontiguousarray(images, self._dtype))}

    def run(self) -> None:
        """Run the program once, to its end."""
        self._outputs = self._loop.run_until_complete(self._function(self._inputs))

    def wait(self) -> None:
        """Return at once: `run` has waited already."""

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return copies of the outputs of the last run, by name."""
        import numpy as np

        return {name: np.array(value.numpy(), order="C") for name, value in self._outputs.items()}
