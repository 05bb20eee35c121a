"""Engines of TensorRT and TensorRT-RTX: built from strongly typed ONNX, kept beside it, refused elsewhere.

The two are products of their own with one Python interface, so everything here takes the imported module. An engine is
machine code for one GPU and one version, and loading one runs what is in it: only files with this tool's side-car are
loaded, and only where toolkit, version, system and card are those they were built for.
"""

import hashlib
import math
import os
import platform
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
from fastvit_bench.backends import INPUT, Hardware, Proving, Session, _gpu, _onnx, available_cores
from fastvit_bench.backends._onnx_file import OnnxFileBackend
from fastvit_bench.cuda.monitor import Monitor
from fastvit_bench.cuda.timing import EventSession
from fastvit_bench.errors import ChecksumError, FastViTBenchError, UnavailableError, UsageError
from fastvit_bench.records import (
    Card,
    Device,
    Engine,
    ExportJob,
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
class Place:
    """What an engine belongs to."""

    toolkit: str
    version: str
    card: Card

    @property
    def system(self) -> str:
        """Engines do not travel between systems either."""
        return f"{sys.platform} {platform.machine()}".lower()


# --- names and side-cars ----------------------------------------------------------------------------------------------


def key(onnx_sha256: str, place: Place, settings: dict[str, str]) -> str:
    """Sixteen hex digits over everything that decides what an engine is; the driver does not."""
    own = place.card
    decisive = (
        onnx_sha256,
        place.toolkit,
        place.version,
        place.system,
        (own.name, own.uuid, own.compute_capability),
        settings,
    )
    return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()[:16]


def sidecar(engine: Path) -> Path:
    """The JSON file beside an engine that holds its `Engine`."""
    return engine.with_name(engine.name + ".json")


def notes(engine: Path) -> Engine:
    """What stands beside an engine. `UnavailableError` where there is no engine yet.

    `UsageError` for one without: only engines that this tool built are loaded.
    """
    if not engine.exists():
        raise UnavailableError(f"{engine} does not exist yet; export the network here, with the same options.")
    try:
        return msgspec.json.decode(sidecar(engine).read_bytes(), type=Engine)
    except FileNotFoundError:
        raise UsageError(
            f"{engine} was not built by fastvit-bench: no {sidecar(engine).name} lies beside it, and loading an engine "
            f"runs what is in it; export the network here instead."
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{sidecar(engine)} cannot be read: {error}; export the network again.") from None


def require(engine: Path, place: Place, onnx_sha256: str, settings: dict[str, str]) -> Engine:
    """The notes of an engine that may be loaded at `place`; nothing of the file is loaded for that.

    `UsageError` for one that is not ours, `UnavailableError` for one that belongs elsewhere or was built from another
    file or otherwise, `ChecksumError` for one that is truncated or was changed.
    """
    known = notes(engine)
    wrong = misplaced(known, place)
    if wrong:
        raise UnavailableError(f"{engine.name} does not belong here: {wrong}; export the network again here.")
    if known.onnx_sha256 != onnx_sha256 or known.settings != settings:
        what = "another ONNX file" if known.onnx_sha256 != onnx_sha256 else "other settings"
        raise UnavailableError(f"{engine.name} was built from {what}; export the network again.")
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


def misplaced(known: Engine | TimingCache, place: Place) -> str | None:
    """In which respect a file belongs elsewhere, or None. Of a timing cache, the driver counts too."""
    theirs, ours = known.card, place.card
    pairs = [
        ("toolkit", known.toolkit, place.toolkit),
        (f"version of {place.toolkit}", known.version, place.version),
        ("system", known.platform, place.system),
        ("compute capability", theirs.compute_capability, ours.compute_capability),
        ("GPU", theirs.name, ours.name),
        ("GPU", theirs.uuid, ours.uuid),
    ]
    if isinstance(known, TimingCache):
        pairs.append(("driver", theirs.driver, ours.driver))
    return next((f"its {what} is {was or 'any'}, here it is {here}" for what, was, here in pairs if was != here), None)


def settle(engine: Path, proved: Engine) -> None:
    """Write an engine's side-car anew, such as with the parity of what it computed."""
    draft = sidecar(engine).with_name(f".{sidecar(engine).name}.{os.getpid()}")
    try:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(proved), indent=2) + b"\n")
        draft.replace(sidecar(engine))
    finally:
        draft.unlink(missing_ok=True)


# --- building ---------------------------------------------------------------------------------------------------------


@dataclass
class Messages:
    """What a toolkit said during one build, in the order it said it."""

    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])

    def first(self) -> str:
        """The first error as part of a sentence."""
        text = " ".join(self.errors[0].split()) if self.errors else "it did not say why"
        return text[:300].rstrip(". ")


_LISTENERS: dict[str, Any] = {}  # a process has one logger per toolkit: later ones are ignored by its library


def listen(trt: Any) -> tuple[Any, Messages]:
    """The toolkit's logger, and where it writes from now on."""
    found = Messages()
    if trt.__name__ not in _LISTENERS:
        severity = trt.ILogger.Severity

        class Listener(trt.ILogger):
            """Keeps errors and warnings, and nothing of what goes well."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.messages = found

            def log(self, level: Any, text: str) -> None:
                """Called by the library, from its own threads too."""
                if level in (severity.INTERNAL_ERROR, severity.ERROR):
                    self.messages.errors.append(text)
                elif level == severity.WARNING:
                    self.messages.warnings.append(text)

        _LISTENERS[trt.__name__] = Listener()
    logger = _LISTENERS[trt.__name__]
    logger.messages = found
    return logger, found


def build(
    trt: Any,
    onnx: Path,
    engine: Path,
    place: Place,
    settings: dict[str, str],
    *,
    onnx_name: str,
    cache: Path | None = None,
    capability: Any = None,
) -> Engine:
    """Build `engine` from a strongly typed file, with its side-car; a failure leaves nothing behind.

    `settings` are ``optimization_level``, ``workspace_mib`` (0: as much as the toolkit likes) and, of a file that takes
    several shapes, ``profile``: the least, the best and the largest, such as 1x3x32x32..1x3x64x64..1x3x96x96. `cache`
    is where kernel timings are kept from build to build, `capability` the toolkit's name of the GPU to build for, where
    it is not the one in this machine. `UnavailableError` where parser or builder refuse the file, `ChecksumError` and
    `UnavailableError` for a timing cache as `timings` says, `OSError` where the disk does.
    """
    content = onnx.read_bytes()
    logger, said = listen(trt)
    # strongly typed is the only kind TensorRT 11 knows, and 10.12 is asked for it; 11 ignores the flag
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    builder = trt.Builder(logger)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        found = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise UnavailableError(
            f"{_product(place)} cannot parse {onnx_name}: {(found or [said.first()])[0]}; "
            f"export with another version of it, and report the file's operator if none takes it."
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = int(settings["optimization_level"])
    # on by default, and neither FP32 nor FP16: a file's types are its arithmetic
    config.clear_flag(trt.BuilderFlag.TF32)
    if PROFILE in settings:
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *(tuple(map(int, shape.split("x"))) for shape in settings[PROFILE].split("..")))
        if config.add_optimization_profile(profile) < 0:
            raise UnavailableError(f"{_product(place)} refuses the shapes {settings[PROFILE]}: {said.first()}.")
    if int(settings["workspace_mib"]):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings["workspace_mib"]) * MIB)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    before = timings(cache, place) if cache else None
    # without ignore_mismatch: what the toolkit itself finds foreign is an error, not a slower build
    if cache and not config.set_timing_cache(config.create_timing_cache(before or b""), False):
        raise UnavailableError(f"{_product(place)} refuses the timing cache {cache.name}: {said.first()}; remove it.")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnavailableError(
            f"{_product(place)} cannot build an engine of {onnx_name} for compute capability "
            f"{place.card.compute_capability}: {said.first()}."
        )
    made = Engine(
        toolkit=place.toolkit,
        version=place.version,
        platform=place.system,
        card=place.card,
        onnx=onnx_name,
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        settings=settings,
        inputs=dict(_described(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=dict(_described(network.get_output(i)) for i in range(network.num_outputs)),
        layers=_layers(network),
        sha256=hashlib.sha256(plan).hexdigest(),
        size_bytes=memoryview(plan).nbytes,
        timing_cache=hashlib.sha256(before).hexdigest() if before else None,
        warnings=tuple(dict.fromkeys(" ".join(text.split()) for text in said.warnings)),
    )
    if cache:
        _keep_timings(cache, place, bytes(config.get_timing_cache().serialize()))
    _put(engine, plan)
    settle(engine, made)
    return made


def _product(place: Place) -> str:
    return f"{ {'tensorrt': 'TensorRT', 'tensorrt-rtx': 'TensorRT-RTX'}[place.toolkit] } {place.version}"


def _parser_error(error: Any) -> str:
    """One of the parser's errors as part of a sentence: the node and what is wrong with it."""
    text = " ".join(str(error.desc()).split())[:300].rstrip(". ")
    node = f"{error.node_operator()} {error.node_name()}".strip()
    return f"{node}: {text}" if node else text


def _described(tensor: Any) -> tuple[str, str]:
    return tensor.name, f"{tensor.dtype.name} {'x'.join(str(size) for size in tensor.shape)}"


def _layers(network: Any) -> dict[str, int]:
    counts = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    return dict(sorted(counts.items()))


def _put(path: Path, content: Any) -> None:
    """Write a file under its final name in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# --- timing caches ----------------------------------------------------------------------------------------------------


def timing_cache(folder: Path, place: Place) -> Path:
    """Where the kernel timings of a place are kept: the name follows from card, driver, version and system."""
    own = place.card
    decisive = (place.toolkit, place.version, place.system, own)
    digest = hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()[:8]
    name = "-".join("".join(sign if sign.isalnum() else " " for sign in own.name.lower()).split())
    return folder / f"{place.toolkit}_{name or own.compute_capability}_{digest}.timing"


def timings(cache: Path, place: Place) -> bytes | None:
    """The content of a timing cache; None where there is none yet.

    `UnavailableError` for one of another card, driver, version or system, `ChecksumError` for one that was changed.
    """
    try:
        content = cache.read_bytes()
        known = msgspec.json.decode(sidecar(cache).read_bytes(), type=TimingCache)
    except FileNotFoundError:
        return None  # without its side-car nobody knows whose it is, and it is only a cache
    except (OSError, msgspec.MsgspecError) as error:
        raise ChecksumError(f"The timing cache {cache} cannot be read: {error}; remove it.") from None
    wrong = misplaced(known, place)
    if wrong:
        raise UnavailableError(f"The timing cache {cache} does not belong here: {wrong}; remove it.")
    if hashlib.sha256(content).hexdigest() != known.sha256:
        raise ChecksumError(f"The timing cache {cache} is truncated or was changed; remove it.")
    return content


def _keep_timings(cache: Path, place: Place, content: bytes) -> None:
    known = TimingCache(
        toolkit=place.toolkit,
        version=place.version,
        platform=place.system,
        card=place.card,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    sidecar(cache).unlink(missing_ok=True)  # first, so that a build that is killed here leaves a cache nobody reads
    _put(cache, content)
    _put(sidecar(cache), msgspec.json.encode(known) + b"\n")


# --- running ----------------------------------------------------------------------------------------------------------


Shapes = dict[str, tuple[int, ...]]


class EngineSession(_gpu.BufferedSession):
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
    """Load an engine that `require` let pass, for input of `shape`, and give it memory on its GPU."""
    with _gpu.running(device) as running:
        logger, said = listen(trt)
        runtime: Any = trt.Runtime(logger)
        loaded: Any = runtime.deserialize_cuda_engine(engine.read_bytes())
        execution: Any = loaded.create_execution_context() if loaded else None
        if execution is None:
            raise UnavailableError(f"{engine.name} cannot be loaded: {said.first()}; export the network again here.")
        names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
        inputs = [name for name in names if loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if inputs != [INPUT] or not execution.set_input_shape(INPUT, shape.nchw):
            raise UnavailableError(
                f"{engine.name} does not take {INPUT} {list(shape.nchw)}: {said.first()}; export it here again."
            )
        types: dict[str, Any] = {name: trt.nptype(loaded.get_tensor_dtype(name)) for name in names}
        shapes: Shapes = {name: tuple(execution.get_tensor_shape(name)) for name in names}
        sizes = {name: math.prod(shapes[name]) * types[name]().itemsize for name in names}

        def enqueue(stream: int) -> None:
            if not execution.execute_async_v3(stream):
                raise UnavailableError(f"{engine.name} cannot be started: {said.first()}.")

        timer = EventSession(
            running.context,
            enqueue,
            {INPUT: sizes[INPUT]},
            {name: size for name, size in sizes.items() if name != INPUT},
            running.mode,
        )
        for name, pointer in timer.pointers.items():
            execution.set_tensor_address(name, pointer)
        found = EngineSession(timer, running.monitor, known, execution, types, shapes)
        try:
            yield found
        finally:  # in this order, and before the GPU is closed
            found.execution = execution = None
            loaded = runtime = None


def profiled(trt: Any, engine: Path, known: Engine, device: Device, images: "Batch", runs: int) -> list[LayerTime]:
    """Times of an engine's layers by the toolkit's own profiler, without a graph, in runs made for that alone."""
    plain = msgspec.structs.replace(device, options={**device.options, "graph": False, "transfers": False})
    shape = Shape(batch=images.shape[0], height=images.shape[2], width=images.shape[3])
    passes: list[Mapping[str, float]] = []

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by the library for every layer, after each run."""
            self.times[layer_name] = ms

    with session(trt, engine, known, plain, shape) as running:
        running.feed(images)
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
        raise UnavailableError(f"{engine.name}: the profiler of {known.toolkit} told no times; leave --profile out.")
    return [
        LayerTime(name=name, kind="", block=_onnx.block_of(name), median_ns=ns)
        for name, ns in _gpu.medians(passes).items()
    ]


# --- what the two backends have in common -----------------------------------------------------------------------------

RANGES = {"optimization_level": (3, 0, 5), "workspace_mib": (0, 0, 2**20)}  # default, least, most


class EngineBackend(OnnxFileBackend):
    """A toolkit whose files are strongly typed ONNX, proved on the processor, with engines beside them."""

    precisions = ("fp16", "fp32")
    shaping: tuple[str, ...] = ("io", "dynamic")
    flags: tuple[str, ...] = ("io", "dynamic")

    @property
    def engines(self) -> Self:  # type: ignore[override]
        """Its own."""
        return self

    def identify(self, device: Device) -> Hardware | None:
        """The GPU, asked of the NVIDIA driver."""
        return _gpu.identify(device)

    def settling(self, device: Device) -> Mapping[str, float]:
        """As every GPU is warmed up."""
        return _gpu.SETTLING

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """The toolkit's own, and the binding's."""
        return (self.distribution, *_gpu.binding_packages(device))

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Those that shape the file, the builder's settings (`RANGES`), and a GPU's options.

        ``io`` is fp16 or fp32, by default the precision; ``dynamic`` the sizes a file takes, such as 224..1024, by
        default "" for one.
        """
        _gpu.only_known(device, {"io", "dynamic", *RANGES, *_gpu.NAMES})
        interface = device.options.get("io", device.precision)
        if interface not in {device.precision, "fp32"}:
            raise UsageError(
                f"Device '{device.name}': io = {interface!r} must be "
                f"{' or '.join(dict.fromkeys((device.precision, 'fp32')))}."
            )
        dynamic = device.options.get("dynamic", "")
        try:
            _onnx.sizes(str(dynamic))
        except UsageError as error:
            raise UsageError(f"Device '{device.name}': dynamic = {dynamic!r}: {error}") from None
        found = {"io": interface, "dynamic": str(dynamic), **_gpu.options(device)}
        for name, (default, least, most) in RANGES.items():
            value = device.options.get(name, default)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise UsageError(
                    f"Device '{device.name}': {name} = {value!r} must be a whole number from {least} to {most}."
                )
            found[name] = value
        return found

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write a strongly typed ONNX file of one shape, or of those that ``dynamic`` says; its engine is `build`'s."""
        self.require_precision(asked.precision)
        dynamic = _onnx.sizes(asked.options.get("dynamic", ""))
        _onnx.write(network, asked, path, metadata, interface=asked.options.get("io"), dynamic=dynamic)

    def proofs(self, path: Path, asked: ExportJob) -> Iterable[Proving]:
        """The ONNX file on this processor; one that takes several sizes in the smallest, the largest and its own."""
        dynamic = _onnx.sizes(asked.options.get("dynamic", ""))
        if dynamic is None:
            yield from super().proofs(path, asked)
            return
        for shape in dict.fromkeys(_profile(asked.shape, dynamic)):
            name = f"{shape.height}x{shape.width}"
            yield Proving(name, self.prover(asked), shape, _onnx.as_typed(path, available_cores()))

    @abstractmethod
    def engine(self, path: Path, device: Device) -> tuple[Path, Place]:
        """Where the engine of an exported file lies or would lie, and what it belongs to.

        `UnavailableError` where this machine cannot have one.
        """

    @abstractmethod
    def make(self, path: Path, engine: Path, place: Place, settings: dict[str, str]) -> Engine:
        """Build that engine."""

    @abstractmethod
    def lacking(self, device: Device) -> str | None:
        """Why no engine can be built here."""

    @abstractmethod
    def toolkit(self) -> Any:
        """The imported module. `UnavailableError` where it is not installed."""

    def build(self, path: Path, device: Device) -> None:
        """Build the engine of a proved file where there is none that fits; what does not fit is replaced."""
        engine, place = self.engine(path, device)
        settings = settings_of(path, device)
        try:
            require(engine, place, files.file_sha256(path), settings)
        except FastViTBenchError:
            if device.precision == "fp16":
                _onnx.require_strongly_typed(_onnx.read(path), path.name)
            sidecar(engine).unlink(missing_ok=True)  # first: an engine without it is not loaded
            try:
                self.make(path, engine, place, settings)
            except (FastViTBenchError, MemoryError, OSError):
                raise
            except Exception as error:  # the bindings raise RuntimeError and TypeError where the library gives up
                raise UnavailableError(
                    f"{self.product} {place.version} failed on {path.name}: {_onnx.first_line(error)}."
                ) from error

    def note(self, path: Path, device: Device, parity: Parity) -> None:
        """Into the side-car of the file's engine."""
        engine, _ = self.engine(path, device)
        settle(engine, msgspec.structs.replace(notes(engine), parity=parity))

    @contextmanager
    def open(self, path: Path, device: Device) -> Generator[Session]:
        """The file's engine on its GPU, after everything about it was checked."""
        engine, known = self._checked(path, device)
        with session(self.toolkit(), engine, known, device, _onnx.shape_of(path)) as found:
            yield found

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Of the engine's layers, by the toolkit's profiler; layers that were fused have one time."""
        engine, known = self._checked(path, device)
        return tuple(profiled(self.toolkit(), engine, known, device, images, runs))

    def unprofiled(self, device: Device) -> str | None:
        """None: every engine has a profiler."""
        return None

    def _checked(self, path: Path, device: Device) -> tuple[Path, Engine]:
        engine, place = self.engine(path, device)
        return engine, require(engine, place, files.file_sha256(path), settings_of(path, device))


def settings_of(path: Path, device: Device) -> dict[str, str]:
    """The builder's settings for a file on a device whose options are filled in."""
    found = {name: str(device.options[name]) for name in RANGES}
    dynamic = _onnx.sizes(str(device.options["dynamic"]))
    if dynamic:
        shapes = _profile(_onnx.shape_of(path), dynamic)
        found[PROFILE] = "..".join("x".join(map(str, shape.nchw)) for shape in shapes)
    return found


def _profile(own: Shape, dynamic: _onnx.Sizes) -> tuple[Shape, Shape, Shape]:
    """The least, the best and the largest shape of a file: the best is the one it was exported for."""
    least, most = (Shape(batch=own.batch, height=size, width=size) for size in dynamic)
    return least, own, most
