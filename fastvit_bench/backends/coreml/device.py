"""Core ML on this Mac: sessions that time a package, and the compute units that Core ML plans for its operations.

Written against the signatures of coremltools 9.0, which tests compare with the installed package. Tests drive it with
stand-ins for Apple's native code; it has not yet run on Apple hardware.
"""

import importlib
import importlib.util
import platform
import warnings
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench import install
from fastvit_bench.backends import Hardware, Images, Session
from fastvit_bench.backends._text import first_line
from fastvit_bench.backends.coreml import APPLE_ONLY
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, Placement, PlannedOperation, Unit, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvit_bench.backends.coreml.program import Feature, Function

# option compute_units -> member of coremltools.ComputeUnit
COMPUTE_UNITS = {"all": "ALL", "cpu-only": "CPU_ONLY", "cpu-and-gpu": "CPU_AND_GPU", "cpu-and-ne": "CPU_AND_NE"}

CLOCK = "Core ML (mach_absolute_time)"  # what coremltools' native code reads around Core ML's prediction


def device_unavailable_reason(device: Device) -> str | None:
    """Return why packages cannot be run on the device from here, and the remedy, or None.

    Does not import coremltools.
    """
    if platform.system() != "Darwin":
        return APPLE_ONLY.format(device.name)
    folder = toolkit_folder()
    if folder is None or not any(folder.glob("libcoremlpython*")):
        return (
            "coremltools is installed without the native library that calls Core ML; "
            f"use Python 3.11 to 3.13 and run: {install.pip('install', '--force-reinstall', 'coremltools')}"
        )
    if _connected(device):
        from fastvit_bench.backends.coreml import remote

        return remote.device_unavailable_reason(folder)
    return None


def detect_hardware(device: Device) -> Hardware | None:
    """Return the iPhone or iPad on the cable, or None for this Mac.

    Raises `UnavailableError` where the iPhone or iPad is not connected.
    """
    if not _connected(device):
        return None
    from fastvit_bench.backends.coreml import remote

    return remote.detect_hardware(device)


def open(path: Path, device: Device) -> AbstractContextManager[Session]:  # noqa: A001 - named by the interface
    """Load a package where the device's ``location`` says; a package of several functions runs its default one.

    Raises `UnavailableError` where Core ML, the package or the device is missing, `UsageError` for options that cannot
    be met.
    """
    if _connected(device):
        from fastvit_bench.backends.coreml import remote

        return remote.open(path, device)
    return _opened(path, device)


def require(device: Device) -> None:
    """Raise `UnavailableError` where packages cannot be run on the device from here."""
    reason = device_unavailable_reason(device)
    if reason:
        raise UnavailableError(f"Device '{device.name}' cannot run here: {reason}.")


def toolkit_folder() -> Path | None:
    """Return the folder in which coremltools is installed, or None."""
    spec = importlib.util.find_spec("coremltools")
    return Path(spec.origin).parent if spec and spec.origin else None


def _connected(device: Device) -> bool:
    return device.options["location"] == "connected"


# --- the session ------------------------------------------------------------------------------------------------------


class LocalSession(Session):
    """A session on a package that Core ML loaded on this Mac."""

    def __init__(self, path: Path, device: Device) -> None:
        native = device.options["window"] == "prediction"
        self.window = Window.PREDICTION if native else Window.END_TO_END
        self.clock = CLOCK if native else None
        self._device = device.name
        self._function = default_function(path)
        self.images = Images.PIXELS if self._function.takes[0].kind == "image" else Images.TENSOR
        self._model: Any = _load(path, str(device.options["compute_units"]))
        self.load_ns = reported_ns(self._model.load_duration_in_nano_seconds)
        self._input: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def set_input(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Store a batch in the form coremltools takes.

        Raises `UsageError` for a batch that the package does not take.
        """
        import numpy as np

        feature = self._function.takes[0]
        batch: Any = fitting(feature, images)
        if feature.kind == "image":
            batch = _picture(batch)
        elif batch.dtype == np.float16:
            batch = batch.astype(np.float32)  # the only type coremltools passes on; here, so that it is not timed
        self._input = {feature.name: batch}

    def run(self) -> None:
        """Run one prediction; return when it is done."""
        try:
            self._outputs = self._model.predict(self._input)
        except MemoryError:
            raise
        except Exception as error:  # coremltools raises `Exception` itself, its native code RuntimeError
            raise UnavailableError(f"Core ML cannot run the package: {first_line(error)}.") from error

    def wait(self) -> None:
        """Return at once: `run` has waited already."""

    def elapsed_ns(self) -> int:
        """Return the nanoseconds of the last prediction, without conversions from and to Python.

        Raises `UnavailableError` where Core ML did not report them.
        """
        durations = reported_ns(self._model.last_predict_duration_in_nano_seconds)
        if not durations:
            raise UnavailableError(
                "Core ML did not report how long the prediction took; to read the stopwatch instead, set "
                f'window = "end-to-end" in the options of [device.{self._device}] in benchmark.toml.'
            )
        return durations[0]

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return copies of the outputs, as `arrays` makes them."""
        return arrays(self._function, self._outputs)

    def placement(self) -> Placement | None:
        """Return the plan of the compiled package, or None before macOS 14.4 and where Core ML makes none.

        A plan that fails must not lose the measurement before it, so every error gives None.
        """
        try:
            plans = importlib.import_module("coremltools.models.compute_plan")
            plan = plans.MLComputePlan.load_from_path(
                self._model.get_compiled_model_path(), compute_units=self._model.compute_unit
            )
            return placed(plan, self._function.name)
        except Exception:  # mostly RuntimeError of the native code, for any cause
            return None

    def close(self) -> None:
        """Let Core ML unload the package and delete what it compiled, before the next one is loaded."""
        self._model, self._input, self._outputs = None, {}, {}


@contextmanager
def _opened(path: Path, device: Device) -> Generator[LocalSession]:
    require(device)
    session = LocalSession(path, device)
    try:
        yield session
    finally:
        session.close()


def _load(path: Path, units: str) -> Any:
    """Return a `coremltools.models.MLModel` that Core ML accepted.

    Raises `UnavailableError`, with Core ML's own reason, for a package that it refuses.
    """
    from fastvit_bench.backends.coreml import program

    ct = program.toolkit()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, COMPUTE_UNITS[units]))
            # the constructor only warns where Core ML refuses the package; this raises
            model.get_compiled_model_path()
        except MemoryError:
            raise
        except Exception as error:
            remarks = [str(remark.message) for remark in caught if issubclass(remark.category, RuntimeWarning)]
            reason = " ".join(remarks[-1].rpartition("message was: ")[2].split()) if remarks else first_line(error)
            raise UnavailableError(f"Core ML cannot load {path.name}: {reason.rstrip('.')}.") from error
    return model


def _picture(pixels: "NDArray[np.uint8]") -> Any:
    """Return pixels (1, H, W, 3) as the Pillow image that coremltools insists on."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnavailableError(
            f"coremltools takes images as Pillow's objects, and Pillow is not installed; "
            f"run: {install.packages('pillow')}"
        ) from error
    return Image.fromarray(pixels[0])


# --- shared by local and remote sessions ------------------------------------------------------------------------------

_NUMPY = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "int32": "int32"}


def default_function(path: Path) -> "Function":
    """Return the function of a package that is run.

    Raises `UnavailableError` for a path that is no package, and for a damaged one.
    """
    from fastvit_bench.backends.coreml import program

    package = program.read(path)
    return package.functions[package.default]


def fitting(feature: "Feature", images: "NDArray[np.float32] | NDArray[np.uint8]") -> "NDArray[Any]":
    """Return the batch in the input's declared element type, contiguous.

    Raises `UsageError` for a batch of another shape or kind.
    """
    import numpy as np

    image = feature.kind == "image"
    wanted = [1, *feature.shape, 3] if image else list(feature.shape)
    if list(images.shape) != wanted or (images.dtype == np.uint8) != image:
        kind = "8-bit pixels" if image else "numbers"
        raise UsageError(
            f"The package takes {kind} {wanted} as {feature.name}, not {images.dtype} {list(images.shape)}."
        )
    return np.ascontiguousarray(images, "uint8" if image else _NUMPY.get(feature.dtype, "float32"))


def arrays(function: "Function", outputs: dict[str, Any]) -> "dict[str, NDArray[np.floating]]":
    """Return copies of the outputs in the order the package names them.

    A classifier's probabilities are in the alphabetical order of the class names, because Core ML's dictionary has none
    of its own. The name of the most probable class is left out.
    """
    import numpy as np

    copies: dict[str, NDArray[np.floating]] = {}
    for feature in function.gives:
        value = outputs[feature.name]
        if isinstance(value, dict):
            copies[feature.name] = np.array([value[name] for name in sorted(value)], np.float64)
        elif not isinstance(value, str):
            copies[feature.name] = np.array(value)
    return copies


def reported_ns(duration: Any) -> tuple[int, ...]:
    """Return a duration that coremltools reported, in nanoseconds; an empty tuple where it reported none."""
    return (int(duration),) if duration else ()


def placed(plan: Any, function: str) -> Placement | None:
    """Return a `coremltools.models.compute_plan.MLComputePlan` as a record, or None where it plans no ML Program.

    Operations are in program order, those of nested blocks after the one they belong to. Constants are left out,
    because they are not assigned to a compute unit.
    """
    program = plan.model_structure.program
    if program is None:
        return None
    # of a package of several functions, Core ML may plan the one that it loaded under a name of its own
    main = program.functions.get(function) or next(iter(program.functions.values()))
    planned: list[PlannedOperation] = []
    for operation in _walk(main.block):
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:
            continue
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        planned.append(
            PlannedOperation(
                kind=operation.operator_name,
                output=operation.outputs[0].name if operation.outputs else "",
                unit=_unit(usage.preferred_compute_device),
                supported=tuple(_unit(supported) for supported in usage.supported_compute_devices),
                cost=None if cost is None else float(cost.weight),
            )
        )
    return Placement(operations=tuple(planned))


def _walk(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from _walk(nested)


def _unit(device: Any) -> Unit:
    devices = importlib.import_module("coremltools.models.compute_device")
    kinds = {
        Unit.NEURAL_ENGINE: devices.MLNeuralEngineComputeDevice,
        Unit.GPU: devices.MLGPUComputeDevice,
        Unit.CPU: devices.MLCPUComputeDevice,
    }
    for unit, kind in kinds.items():
        if isinstance(device, kind):
            return unit
    raise ValueError(f"a compute device of an unknown kind: {type(device).__name__}")
