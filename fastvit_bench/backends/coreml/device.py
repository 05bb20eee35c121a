"""Core ML on this Mac: what times a package there, and where Core ML plans to run its operations.

Written against the signatures of coremltools 9.0, which tests compare with the installed package, and driven with
stand-ins for Apple's native code. Not yet run on Apple hardware.
"""

import importlib
import importlib.util
import platform
import warnings
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends import Hardware, Images, Session
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


def absent(device: Device) -> str | None:
    """Why packages cannot be run on the device from here, and the way out, or None. Does not import coremltools."""
    if platform.system() != "Darwin":
        return APPLE_ONLY.format(device.name)
    folder = toolkit_folder()
    if folder is None or not any(folder.glob("libcoremlpython*")):
        return (
            "coremltools is installed without the native library that calls Core ML; "
            "use Python 3.11 to 3.13 and run: pip install --force-reinstall coremltools"
        )
    if _connected(device):
        from fastvit_bench.backends.coreml import remote

        return remote.absent(folder)
    return None


def identify(device: Device) -> Hardware | None:
    """The iPhone or iPad on the cable; None for this Mac. `UnavailableError` where it is not there."""
    if not _connected(device):
        return None
    from fastvit_bench.backends.coreml import remote

    return remote.identify(device)


def open(path: Path, device: Device) -> AbstractContextManager[Session]:  # noqa: A001 - as the contract calls it
    """Load a package where the device's ``location`` says; a package of several functions runs its default one.

    Raises `UnavailableError` where Core ML, the package or the device is not there, `UsageError` for options that
    cannot be met.
    """
    if _connected(device):
        from fastvit_bench.backends.coreml import remote

        return remote.open(path, device)
    return _opened(path, device)


def require(device: Device) -> None:
    """Raise `UnavailableError` where packages cannot be run on the device from here."""
    reason = absent(device)
    if reason:
        raise UnavailableError(f"Device '{device.name}' cannot run here: {reason}.")


def toolkit_folder() -> Path | None:
    """Where coremltools is installed."""
    spec = importlib.util.find_spec("coremltools")
    return Path(spec.origin).parent if spec and spec.origin else None


def _connected(device: Device) -> bool:
    return device.options["location"] == "connected"


# --- the session ------------------------------------------------------------------------------------------------------


class LocalSession(Session):
    """A package that Core ML loaded on this Mac."""

    def __init__(self, path: Path, device: Device) -> None:
        native = device.options["window"] == "prediction"
        self.window = Window.PREDICTION if native else Window.END_TO_END
        self.clock = CLOCK if native else None
        self._device = device.name
        self._function = default_function(path)
        self.images = Images.PIXELS if self._function.takes[0].kind == "image" else Images.TENSOR
        self._model: Any = _load(path, str(device.options["compute_units"]))
        self.load_ns = told_ns(self._model.load_duration_in_nano_seconds)
        self._input: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def feed(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Keep a batch in the form coremltools takes; `UsageError` for one the package does not take."""
        import numpy as np

        feature = self._function.takes[0]
        batch: Any = fitting(feature, images)
        if feature.kind == "image":
            batch = _picture(batch)
        elif batch.dtype == np.float16:
            batch = batch.astype(np.float32)  # coremltools hands over no other; here, so that it is not timed
        self._input = {feature.name: batch}

    def run(self) -> None:
        """One prediction; the call returns when it is done."""
        try:
            self._outputs = self._model.predict(self._input)
        except MemoryError:
            raise
        except Exception as error:  # coremltools raises `Exception` itself, its native code RuntimeError
            raise UnavailableError(f"Core ML cannot run the package: {first_line(error)}.") from error

    def wait(self) -> None:
        """Nothing is left to wait for."""

    def elapsed_ns(self) -> int:
        """Nanoseconds of the last prediction, conversions from and to Python left out."""
        told = told_ns(self._model.last_predict_duration_in_nano_seconds)
        if not told:
            raise UnavailableError(
                "Core ML did not tell how long the prediction took; to read the stopwatch instead, set "
                f'window = "end-to-end" in the options of [device.{self._device}] in benchmark.toml.'
            )
        return told[0]

    def fetch(self) -> "dict[str, NDArray[np.floating]]":
        """Copies of the outputs, as `arrays` makes them."""
        return arrays(self._function, self._outputs)

    def placement(self) -> Placement | None:
        """The plan of the package as it was compiled; None before macOS 14.4, or where Core ML makes none.

        Whatever goes wrong with a plan, the measurement that comes before it is not lost for it.
        """
        try:
            plans = importlib.import_module("coremltools.models.compute_plan")
            plan = plans.MLComputePlan.load_from_path(
                self._model.get_compiled_model_path(), compute_units=self._model.compute_unit
            )
            return placed(plan, self._function.name)
        except Exception:  # RuntimeError of the native code for the most part, which tells no kinds apart
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
    """A `coremltools.models.MLModel` that Core ML accepted."""
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
            remarks = [str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)]
            said = " ".join(remarks[-1].rpartition("message was: ")[2].split()) if remarks else first_line(error)
            raise UnavailableError(f"Core ML cannot load {path.name}: {said.rstrip('.')}.") from error
    return model


def _picture(pixels: "NDArray[np.uint8]") -> Any:
    """Pixels (1, H, W, 3) as the image object that coremltools insists on."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnavailableError(
            "coremltools takes images as Pillow's objects, and Pillow is not installed; run: pip install pillow"
        ) from error
    return Image.fromarray(pixels[0])


# --- what both ways of running have in common -------------------------------------------------------------------------

_NUMPY = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "int32": "int32"}


def default_function(path: Path) -> "Function":
    """The function of a package that is run; `UnavailableError` for what is no package or is damaged."""
    from fastvit_bench.backends.coreml import program

    package = program.read(path)
    return package.functions[package.default]


def fitting(feature: "Feature", images: "NDArray[np.float32] | NDArray[np.uint8]") -> "NDArray[Any]":
    """The batch in the input's declared numbers, contiguous; `UsageError` where its shape or kind is another."""
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
    """Copies of the outputs in the order the package names them.

    Of a classifier its probabilities, in the alphabetical order of the class names, because Core ML's dictionary has
    none of its own; the most probable name is left out.
    """
    import numpy as np

    found: dict[str, NDArray[np.floating]] = {}
    for feature in function.gives:
        value = outputs[feature.name]
        if isinstance(value, dict):
            found[feature.name] = np.array([value[name] for name in sorted(value)], np.float64)
        elif not isinstance(value, str):
            found[feature.name] = np.array(value)
    return found


def told_ns(duration: Any) -> tuple[int, ...]:
    """A duration in nanoseconds that coremltools told; nothing where it told none."""
    return (int(duration),) if duration else ()


def placed(plan: Any, function: str) -> Placement | None:
    """A `coremltools.models.compute_plan.MLComputePlan` as a record; None where it is not about an ML Program.

    Operations stand in program order, those of nested blocks after the one they belong to. Constants have no place and
    are left out.
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
                supported=tuple(_unit(each) for each in usage.supported_compute_devices),
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


def first_line(error: BaseException | str) -> str:
    """What an exception says, in one line without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
