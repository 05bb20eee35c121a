"""Engines of TensorRT and TensorRT-RTX: built from strongly typed ONNX, stored beside it, refused on another machine.

The two are separate products with one Python interface, so all functions take the imported module. An engine is
machine code for one GPU and one version, and loading one runs its code. So only files with this tool's side-car are
loaded, and only where toolkit, version, system and card are those they were built for.
"""

import hashlib
import math
import platform
import re
import sys
from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from fastvit_bench import files
from fastvit_bench.backends import INPUT, Hardware, Session, VerificationRun, _sidecars, available_cores
from fastvit_bench.backends._nvidia import gpu
from fastvit_bench.backends._nvidia.cuda.monitor import Monitor
from fastvit_bench.backends._nvidia.cuda.timing import EventSession
from fastvit_bench.backends._onnx import export as onnx_export
from fastvit_bench.backends._onnx import model
from fastvit_bench.backends._onnx import quantise as onnx_quantise
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends._onnx.backend import OnnxFileBackend, image_input, image_std
from fastvit_bench.backends._onnx.model import block_of
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import ChecksumError, FastViTBenchError, UnavailableError, UsageError
from fastvit_bench.records import (
    Device,
    Engine,
    ExportJob,
    ExportSpec,
    GpuIdentity,
    GraphVariant,
    LayerTime,
    Parity,
    Shape,
    TimingCache,
)

if TYPE_CHECKING:
    from torch import nn

    from fastvit_bench.backends import Batch

MIB = 2**20
PROFILE = "profile"  # the setting with the shapes an engine takes; engines without it take one


@dataclass(frozen=True)
class EngineTarget:
    """The toolkit, version and card that an engine is built for."""

    toolkit: str
    version: str
    card: GpuIdentity

    @property
    def system(self) -> str:
        """The operating system and processor architecture, which an engine is bound to as well."""
        return f"{sys.platform} {platform.machine()}".lower()


# --- names and side-cars ----------------------------------------------------------------------------------------------


def key(onnx_sha256: str, target: EngineTarget, settings: dict[str, str]) -> str:
    """Return sixteen hex digits over everything that determines an engine; the driver does not."""
    card = target.card
    decisive = (
        onnx_sha256,
        target.toolkit,
        target.version,
        target.system,
        (card.name, card.uuid, card.compute_capability),
        settings,
    )
    return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()[:16]


def metadata_path(engine: Path) -> Path:
    """Return the path of the JSON side-car beside an engine, which holds its `Engine`."""
    return engine.with_name(engine.name + ".json")


def read_metadata(engine: Path) -> Engine:
    """Read the side-car of an engine. Raises `UnavailableError` where there is no engine yet.

    Raises `UsageError` for an engine without one: only engines that this tool built are loaded.
    """
    if not files.exists(engine):
        raise UnavailableError(f"{engine} does not exist yet; export the network here, with the same options.")
    try:
        return _sidecars.read(metadata_path(engine), Engine)
    except FileNotFoundError:
        raise UsageError(
            f"{engine} was not built by fastvit-bench: there is no {metadata_path(engine).name} beside it, and "
            f"loading an engine runs its code; export the network here instead."
        ) from None
    except UsageError as error:
        raise UsageError(f"{str(error).rstrip('.')}; export the network again.") from None


def require(engine: Path, target: EngineTarget, onnx_sha256: str, settings: dict[str, str]) -> Engine:
    """Return the side-car of an engine that may be loaded on `target`, without loading the engine.

    Raises `UsageError` for one this tool did not build. Raises `UnavailableError` for one of another target, another
    file or other settings. Raises `ChecksumError` for one that is truncated or was changed.
    """
    known = read_metadata(engine)
    wrong = misplaced(known, target)
    if wrong:
        raise UnavailableError(f"{engine.name} does not belong here: {wrong}; export the network again here.")
    if known.onnx_sha256 != onnx_sha256 or known.settings != settings:
        source = "another ONNX file" if known.onnx_sha256 != onnx_sha256 else "other settings"
        raise UnavailableError(f"{engine.name} was built from {source}; export the network again.")
    try:
        size = engine.stat().st_size
        if size != known.size_bytes:
            raise ChecksumError(
                f"{engine.name} is truncated or was changed: it has {size} bytes, and {known.size_bytes} were built; "
                f"export the network again."
            )
        if files.file_sha256(engine) != known.sha256:
            raise ChecksumError(f"{engine.name} was changed: its content is not what was built; export again.")
    except OSError as error:
        raise UnavailableError(f"{engine} cannot be read: {error.strerror}; export the network again.") from None
    return known


def misplaced(known: Engine | TimingCache, target: EngineTarget) -> str | None:
    """Return how a file's target differs from `target`, or None. For a timing cache, the driver counts too."""
    card = known.card
    pairs = [
        ("toolkit", known.toolkit, target.toolkit),
        (f"version of {target.toolkit}", known.version, target.version),
        ("system", known.platform, target.system),
        ("compute capability", card.compute_capability, target.card.compute_capability),
        ("GPU", card.name, target.card.name),
        ("GPU", card.uuid, target.card.uuid),
    ]
    if isinstance(known, TimingCache):
        pairs.append(("driver", card.driver, target.card.driver))
    return next(
        (f"its {aspect} is {was or 'any'}, here it is {local}" for aspect, was, local in pairs if was != local), None
    )


def settle(engine: Path, proved: Engine) -> None:
    """Replace an engine's side-car, such as by one with the parity of its outputs."""
    files.write(metadata_path(engine), msgspec.json.format(msgspec.json.encode(proved), indent=2) + b"\n")


# --- building ---------------------------------------------------------------------------------------------------------


@dataclass
class BuilderMessages:
    """The errors and warnings a toolkit logged during one build, in order, and the layers of the engine."""

    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    layers: str = ""  # a line each, in the inspector's notation

    def first(self) -> str:
        """Return the first error as part of a sentence."""
        text = " ".join(self.errors[0].split()) if self.errors else "it did not say why"
        return text[:300].rstrip(". ")


_QUANTISE = "QUANTIZE"  # the parser's kind of layer
_LISTENERS: dict[str, Any] = {}  # a process has one logger per toolkit: later ones are ignored by its library


# a layer in the inspector's notation of one line: its kind, and its first input with the type of the values
_LAYER = re.compile(r"LayerType: (?P<kind>\w+), Inputs: \[ \{(?P<first>[^}]*)\}")
_MULTIPLYING = re.compile("conv|correlation|gemm|matrix|matmul|mha", re.IGNORECASE)  # in the kinds of such layers
_QUANTISED = re.compile(r"datatype: [^,]*int8", re.IGNORECASE)


def arithmetic(layers: str) -> tuple[dict[str, int], dict[str, int]]:
    """Count by kind an engine's layers that multiply INT8 values, and those that multiply wider ones.

    `layers` is the inspector's list, a line each. A layer's first input is what it multiplies.
    """
    integer, floating = Counter[str](), Counter[str]()
    for match in _LAYER.finditer(layers):
        if _MULTIPLYING.search(match["kind"]):
            (integer if _QUANTISED.search(match["first"]) else floating)[match["kind"]] += 1
    return dict(sorted(integer.items())), dict(sorted(floating.items()))


def _counted(record: Engine, layers: str) -> Engine:
    """Return a record with the counts of `arithmetic`."""
    integer, floating = arithmetic(layers)
    return msgspec.structs.replace(record, integer=integer, floating=floating)


def _inspected(trt: Any, logger: Any, plan: Any) -> str:
    """Return the inspector's list of the layers of an engine for this machine's GPU; empty if it cannot be loaded.

    One for another GPU never can be; TensorRT-RTX logs the same list while it builds.
    """
    runtime: Any = trt.Runtime(logger)
    loaded: Any = runtime.deserialize_cuda_engine(plan)
    if loaded is None:
        return ""
    return loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.ONELINE)


def listen(trt: Any) -> tuple[Any, BuilderMessages]:
    """Return the toolkit's logger, and the messages it appends to from this call on."""
    messages = BuilderMessages()
    if trt.__name__ not in _LISTENERS:
        severity = trt.ILogger.Severity

        class Listener(trt.ILogger):
            """A logger that collects errors, warnings and layers, and drops other information."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.messages = messages

            def log(self, level: Any, text: str) -> None:
                """Collect one message; the library calls it from its own threads too."""
                if level in (severity.INTERNAL_ERROR, severity.ERROR):
                    self.messages.errors.append(text)
                elif level == severity.WARNING:
                    self.messages.warnings.append(text)
                elif _LAYER.search(text):
                    self.messages.layers += f"{text}\n"

        _LISTENERS[trt.__name__] = Listener()
    logger = _LISTENERS[trt.__name__]
    logger.messages = messages
    return logger, messages


def build(
    trt: Any,
    onnx: Path,
    engine: Path,
    target: EngineTarget,
    settings: dict[str, str],
    *,
    onnx_name: str,
    cache: Path | None = None,
    capability: Any = None,
) -> Engine:
    """Build `engine` from a strongly typed file, with its side-car; a failure leaves nothing behind.

    `settings` are ``optimization_level`` and ``workspace_mib`` (0: the toolkit's own limit). A file that takes several
    shapes has ``profile`` too: the least, the best and the largest, such as 1x3x32x32..1x3x64x64..1x3x96x96. `cache` is
    the file of kernel timings from earlier builds. `capability` is the toolkit's name of the GPU to build for, where it
    is not this machine's. Raises `UnavailableError` where parser or builder refuse the file, `ChecksumError` and
    `UnavailableError` for a timing cache as `timings` does, and `OSError` where the disk fails.
    """
    content = files.read_bytes(onnx, files.PROGRAM)
    logger, log = listen(trt)
    builder = trt.Builder(logger)
    # strongly typed is the only kind TensorRT 11 knows, and 10.12 is asked for it; 11 ignores the flag
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)  # owns the weights, so it must outlive the build
    _parse(parser, content, target, onnx_name, log)
    config = _configuration(trt, builder, target, settings, capability, log)
    before = timings(cache, target) if cache else None
    # without ignore_mismatch: a cache that the toolkit rejects is an error, not a slower build
    if cache and not config.set_timing_cache(config.create_timing_cache(before or b""), False):
        raise UnavailableError(f"{_product(target)} refuses the timing cache {cache.name}: {log.first()}; remove it.")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnavailableError(
            f"{_product(target)} cannot build an engine of {onnx_name} for compute capability "
            f"{target.card.compute_capability}: {log.first()}."
        )
    record = Engine(
        toolkit=target.toolkit,
        version=target.version,
        platform=target.system,
        card=target.card,
        onnx=onnx_name,
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        settings=settings,
        inputs=dict(_described(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=dict(_described(network.get_output(i)) for i in range(network.num_outputs)),
        layers=_layers(network),
        sha256=hashlib.sha256(plan).hexdigest(),
        size_bytes=memoryview(plan).nbytes,
        timing_cache=hashlib.sha256(before).hexdigest() if before else None,
        warnings=tuple(dict.fromkeys(" ".join(text.split()) for text in log.warnings)),
    )
    if _QUANTISE in record.layers:
        record = _counted(record, log.layers if capability is not None else _inspected(trt, logger, plan))
    if cache:
        _save_timings(cache, target, bytes(config.get_timing_cache().serialize()))
    files.write(engine, plan)
    settle(engine, record)
    return record


def _parse(parser: Any, content: bytes, target: EngineTarget, onnx_name: str, log: BuilderMessages) -> None:
    """Parse an ONNX file into the parser's network. Raises `UnavailableError` with the first error."""
    if not parser.parse(content):
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise UnavailableError(
            f"{_product(target)} cannot parse {onnx_name}: {(errors or [log.first()])[0]}; "
            f"export with another version of it, and report the file's operator if none takes it."
        )


def _configuration(
    trt: Any, builder: Any, target: EngineTarget, settings: dict[str, str], capability: Any, log: BuilderMessages
) -> Any:
    """Return the builder's configuration for `settings`. Raises `UnavailableError` for shapes it refuses."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = int(settings["optimization_level"])
    # on by default, and neither FP32 nor FP16: a file's types are its arithmetic
    config.clear_flag(trt.BuilderFlag.TF32)
    if PROFILE in settings:
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *(tuple(map(int, shape.split("x"))) for shape in settings[PROFILE].split("..")))
        if config.add_optimization_profile(profile) < 0:
            raise UnavailableError(f"{_product(target)} refuses the shapes {settings[PROFILE]}: {log.first()}.")
    if int(settings["workspace_mib"]):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings["workspace_mib"]) * MIB)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    return config


def _product(target: EngineTarget) -> str:
    """Return the toolkit's name and version, as messages show them."""
    return f"{ {'tensorrt': 'TensorRT', 'tensorrt-rtx': 'TensorRT-RTX'}[target.toolkit] } {target.version}"


def _parser_error(error: Any) -> str:
    """Format one of the parser's errors as part of a sentence: the node and its fault."""
    text = " ".join(str(error.desc()).split())[:300].rstrip(". ")
    node = f"{error.node_operator()} {error.node_name()}".strip()
    return f"{node}: {text}" if node else text


def _described(tensor: Any) -> tuple[str, str]:
    """Return a tensor's name, and its type and shape as text."""
    return tensor.name, f"{tensor.dtype.name} {'x'.join(str(size) for size in tensor.shape)}"


def _layers(network: Any) -> dict[str, int]:
    """Count the network's layers by kind, sorted by its name."""
    counts = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    return dict(sorted(counts.items()))


# --- timing caches ----------------------------------------------------------------------------------------------------


def timing_cache(folder: Path, target: EngineTarget) -> Path:
    """Return the path of a target's kernel timings: its name follows from card, driver, version and system."""
    card = target.card
    decisive = (target.toolkit, target.version, target.system, card)
    digest = hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()[:8]
    name = "-".join("".join(sign if sign.isalnum() else " " for sign in card.name.lower()).split())
    return folder / f"{target.toolkit}_{name or card.compute_capability}_{digest}.timing"


def timings(cache: Path, target: EngineTarget) -> bytes | None:
    """Return the content of a timing cache; None where there is none yet.

    Raises `UnavailableError` for one of another card, driver, version or system, and `ChecksumError` for one that was
    changed.
    """
    try:
        content = files.read_bytes(cache)
        known = _sidecars.read(metadata_path(cache), TimingCache)
    except FileNotFoundError:
        return None  # without its side-car its origin is unknown, and it is only a cache
    except OSError as error:
        raise ChecksumError(f"The timing cache {cache} cannot be read: {error.strerror or error}; remove it.") from None
    except UsageError as error:
        raise ChecksumError(f"Of a timing cache, {str(error).rstrip('.')}; remove both.") from None
    wrong = misplaced(known, target)
    if wrong:
        raise UnavailableError(f"The timing cache {cache} does not belong here: {wrong}; remove it.")
    if hashlib.sha256(content).hexdigest() != known.sha256:
        raise ChecksumError(f"The timing cache {cache} is truncated or was changed; remove it.")
    return content


def _save_timings(cache: Path, target: EngineTarget, content: bytes) -> None:
    """Write a timing cache with its side-car."""
    known = TimingCache(
        toolkit=target.toolkit,
        version=target.version,
        platform=target.system,
        card=target.card,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    # first, so that a build that is killed here leaves a cache that is never read
    metadata_path(cache).unlink(missing_ok=True)
    files.write(cache, content)
    files.write(metadata_path(cache), msgspec.json.encode(known) + b"\n")


# --- running ----------------------------------------------------------------------------------------------------------


Shapes = dict[str, tuple[int, ...]]


class EngineSession(gpu.BufferedSession):
    """An engine with buffers on its GPU."""

    def __init__(
        self,
        timer: EventSession,
        monitor: Monitor,
        engine: Engine,
        execution: Any,
        types: Mapping[str, Any],
        shapes: Shapes,
    ) -> None:
        super().__init__(timer, monitor, types, shapes)
        self.engine, self.execution = engine, execution


@contextmanager
def session(trt: Any, engine: Path, known: Engine, device: Device, shape: Shape) -> Generator[EngineSession]:
    """Load an engine that `require` accepted, for input of `shape`, and allocate its buffers on its GPU.

    Raises `UnavailableError` where it cannot be loaded or does not take that shape.
    """
    with gpu.running(device) as running:
        logger, log = listen(trt)
        runtime: Any = trt.Runtime(logger)
        loaded: Any = runtime.deserialize_cuda_engine(files.read_bytes(engine, known.size_bytes))
        execution: Any = loaded.create_execution_context() if loaded else None
        if execution is None:
            raise UnavailableError(f"{engine.name} cannot be loaded: {log.first()}; export the network again here.")
        names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
        inputs = [name for name in names if loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        types: dict[str, Any] = {name: trt.nptype(loaded.get_tensor_dtype(name)) for name in names}
        taken = shape.nhwc if INPUT in types and gpu.takes_pixels(types) else shape.nchw
        if inputs != [INPUT] or not execution.set_input_shape(INPUT, taken):
            raise UnavailableError(
                f"{engine.name} does not take {INPUT} {list(taken)}: {log.first()}; export it here again."
            )
        shapes: Shapes = {name: tuple(execution.get_tensor_shape(name)) for name in names}
        sizes = {name: math.prod(shapes[name]) * types[name]().itemsize for name in names}

        def enqueue(stream: int) -> None:
            if not execution.execute_async_v3(stream):
                raise UnavailableError(f"{engine.name} cannot be started: {log.first()}.")

        timer = EventSession(
            running.context,
            enqueue,
            {INPUT: sizes[INPUT]},
            {name: size for name, size in sizes.items() if name != INPUT},
            running.mode,
        )
        for name, pointer in timer.pointers.items():
            execution.set_tensor_address(name, pointer)
        loaded_session = EngineSession(timer, running.monitor, known, execution, types, shapes)
        try:
            yield loaded_session
        finally:  # in this order, and before the GPU is closed
            loaded_session.execution = execution = None
            loaded = runtime = None


def profiled(trt: Any, engine: Path, known: Engine, device: Device, images: "Batch", runs: int) -> list[LayerTime]:
    """Return the median times of an engine's layers by the toolkit's profiler, over `runs` runs without a graph.

    Raises `UnavailableError` where the profiler reports no times.
    """
    plain = msgspec.structs.replace(device, options={**device.options, "graph": False, "transfers": False})
    passes: list[Mapping[str, float]] = []

    class Profiler(trt.IProfiler):
        """A profiler that stores the milliseconds of every layer."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Record the time of one layer; the library calls it for every layer after each run."""
            self.times[layer_name] = ms

    with session(trt, engine, known, plain, _shape(images)) as running:
        running.set_input(images)
        for _ in range(runs):
            running.run()
            running.wait()
        profiler = Profiler()
        running.execution.profiler = profiler
        for _ in range(runs):
            profiler.times = {}
            running.run()
            running.wait()
            passes.append(profiler.times)
    if not passes[0]:
        raise UnavailableError(
            f"{engine.name}: the profiler of {known.toolkit} reported no times; leave --profile out."
        )
    return [
        LayerTime(name=name, kind="", block=block_of(name), median_ns=ns) for name, ns in gpu.medians(passes).items()
    ]


def _shape(images: "Batch") -> Shape:
    """Return the shape of a batch: of tensors (N, C, H, W), or of 8-bit pixels (N, H, W, 3)."""
    batch, first, second, last = images.shape
    if images.dtype.itemsize == 1:
        return Shape(batch=batch, height=first, width=second, channels=last)
    return Shape(batch=batch, height=second, width=last, channels=first)


# --- the base class of the two backends -------------------------------------------------------------------------------

_INTERFACES = {
    "fp16": ("fp16", "fp32"),
    "fp32": ("fp32",),
    "int8": ("fp16",),
}  # precision -> types of input and outputs
RANGES = {"optimization_level": (3, 0, 5), "workspace_mib": (0, 0, 2**20)}  # default, least, most


class EngineBackend(OnnxFileBackend):
    """A toolkit whose files are strongly typed ONNX, proved on the processor, with engines beside them."""

    precisions = ("fp16", "fp32", "int8")
    scheme = onnx_quantise.NVIDIA
    export_options: tuple[str, ...] = ("io", "dynamic", "input")
    flags: tuple[str, ...] = export_options

    @property
    def engines(self) -> Self:  # type: ignore[override]
        """The backend itself, which builds its engines."""
        return self

    def detect_hardware(self, device: Device) -> Hardware | None:
        """Return the GPU, as the NVIDIA driver reports it."""
        return gpu.detect_hardware(device)

    def warmup_policy(self, device: Device) -> Mapping[str, float]:
        """Return the warm-up of every GPU (`gpu.SETTLING`)."""
        return gpu.SETTLING

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Return the toolkit's distribution and the binding's."""
        return (self.distribution, *gpu.binding_packages(device))

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return the options that shape the file, the builder's settings (`RANGES`), and a GPU's options.

        ``io`` is fp16 or fp32, by default the precision, and fp16 for int8. ``dynamic`` is the range of sizes a file
        takes, such as 224..1024, by default "" for one size. ``input`` is there where it is an image; ``io`` is then
        of the outputs. Raises `UsageError` for unknown options and wrong values.
        """
        gpu.only_known(device, {"io", "dynamic", "input", *RANGES, *gpu.NAMES})
        interfaces = _INTERFACES[device.precision]
        interface = device.options.get("io", interfaces[0])
        if interface not in interfaces:
            raise UsageError(f"Device '{device.name}': io = {interface!r} must be {' or '.join(interfaces)}.")
        dynamic = device.options.get("dynamic", "")
        if dynamic and device.precision == "int8":
            raise UsageError(f"Device '{device.name}': a file in INT8 takes one size; leave `dynamic` out.")
        try:
            onnx_export.sizes(str(dynamic))
        except UsageError as error:
            raise UsageError(f"Device '{device.name}': dynamic = {dynamic!r}: {error}") from None
        options = {"io": interface, "dynamic": str(dynamic), **image_input(device), **gpu.options(device)}
        if dynamic and "input" in options:
            raise UsageError(
                f"Device '{device.name}': a file of several sizes takes tensors; leave its input at tensor, or name "
                "one size."
            )
        for name, (default, least, most) in RANGES.items():
            value = device.options.get(name, default)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise UsageError(
                    f"Device '{device.name}': {name} = {value!r} must be a whole number from {least} to {most}."
                )
            options[name] = value
        return options

    def layout(self, exported: ExportSpec) -> GraphVariant:
        """Return the form with one convolution per layer, as in the published export."""
        return GraphVariant(doubling="grouped", std=image_std(exported))

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write a strongly typed ONNX file of one shape or of the range ``dynamic``; `build` makes its engine."""
        self.require_precision(asked.precision)
        dynamic = onnx_export.sizes(asked.options.get("dynamic", ""))
        onnx_export.write(network, asked, path, metadata, interface=asked.options.get("io"), dynamic=dynamic)

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield the ONNX file on this processor; one for several sizes in the smallest, the largest and its own.

        One in INT8 is judged by its operators in float32, where nothing is rounded but by its Q/DQ nodes. It is also
        run as its types say, which is the nearest to an engine without a GPU.
        """
        if asked.precision == "int8":
            yield self.operators(path, asked)
            how = f"ONNX Runtime on this processor, every result rounded to float16, not {self.product}"
            typed = onnx_session.as_typed(path, available_cores())
            yield VerificationRun("FP16 between integers", how, asked.shape, typed, "hardware")
            return
        dynamic = onnx_export.sizes(asked.options.get("dynamic", ""))
        if dynamic is None:
            yield from super().verification_sessions(path, asked)
            return
        for shape in dict.fromkeys(_profile(asked.shape, dynamic)):
            name = f"{shape.height}x{shape.width}"
            yield VerificationRun(name, self.prover(asked), shape, onnx_session.as_typed(path, available_cores()))

    @abstractmethod
    def engine(self, path: Path, device: Device) -> tuple[Path, EngineTarget]:
        """Return the path of an exported file's engine, built or not, and its target.

        Raises `UnavailableError` where this machine cannot have one.
        """

    @abstractmethod
    def make(self, path: Path, engine: Path, target: EngineTarget, settings: dict[str, str]) -> Engine:
        """Build the engine of an exported file, and return its record."""

    @abstractmethod
    def lacking(self, device: Device) -> str | None:
        """Return why no engine can be built here and the remedy; None where one can."""

    @abstractmethod
    def toolkit(self) -> Any:
        """Return the imported module. Raises `UnavailableError` where it is not installed."""

    def build(self, path: Path, device: Device) -> Path:
        """Build the engine of a proved file unless one that fits exists, and return its path.

        One that does not fit is replaced.
        """
        engine, target = self.engine(path, device)
        settings = settings_of(path, device)
        try:
            require(engine, target, files.file_sha256(path), settings)
        except FastViTBenchError:
            if device.precision != "fp32":
                model.require_strongly_typed(model.read(path), path.name)
            metadata_path(engine).unlink(missing_ok=True)  # first: an engine without it is not loaded
            try:
                self.make(path, engine, target, settings)
            except (FastViTBenchError, MemoryError, OSError):
                raise
            except Exception as error:  # the bindings raise RuntimeError and TypeError where the library gives up
                raise UnavailableError(
                    f"{self.product} {target.version} failed on {path.name}: {first_line(error)}."
                ) from error
        return engine

    def record(self, path: Path, device: Device) -> Engine:
        """Return the side-car of the file's engine."""
        engine, _ = self.engine(path, device)
        return read_metadata(engine)

    def note(self, path: Path, device: Device, parity: Parity) -> None:
        """Record the parity in the side-car of the file's engine."""
        engine, _ = self.engine(path, device)
        settle(engine, msgspec.structs.replace(read_metadata(engine), parity=parity))

    @contextmanager
    def open(self, path: Path, device: Device) -> Generator[Session]:
        """Open the file's engine on its GPU, after `require` has accepted it."""
        engine, known = self._checked(path, device)
        with session(self.toolkit(), engine, known, device, model.shape_of(path)) as engine_session:
            yield engine_session

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Return the times of the engine's layers, by the toolkit's profiler; fused layers have one time."""
        engine, known = self._checked(path, device)
        return tuple(profiled(self.toolkit(), engine, known, device, images, runs))

    def unprofiled(self, device: Device) -> str | None:
        """Return None: every engine has a profiler."""
        return None

    def _checked(self, path: Path, device: Device) -> tuple[Path, Engine]:
        """Return the path and record of the file's engine. Raises as `require` does."""
        engine, target = self.engine(path, device)
        return engine, require(engine, target, files.file_sha256(path), settings_of(path, device))


def settings_of(path: Path, device: Device) -> dict[str, str]:
    """Return the builder's settings for a file on a device whose options are filled in."""
    settings = {name: str(device.options[name]) for name in RANGES}
    dynamic = onnx_export.sizes(str(device.options["dynamic"]))
    if dynamic:
        shapes = _profile(model.shape_of(path), dynamic)
        settings[PROFILE] = "..".join("x".join(map(str, shape.nchw)) for shape in shapes)
    return settings


def _profile(own: Shape, dynamic: onnx_export.Sizes) -> tuple[Shape, Shape, Shape]:
    """Return the least, the best and the largest shape of a file; it was exported for the best."""
    least, most = (Shape(batch=own.batch, height=size, width=size) for size in dynamic)
    return least, own, most
