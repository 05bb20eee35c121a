"""Reader of performance reports that Xcode exports of a Core ML model on a device.

Apple does not document the format. The fields were learned from two public reports of 2026 (jsonVersion 1,
deviceResultVersion 4). A report also names its owner's device, its serial number and folders of their Mac, so only the
fields declared below are read.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import StoreError, UsageError, printable
from fastvit_bench.records import Placement, PlannedOperation, Record, Shape, Unit

KNOWN = {"jsonVersion": (1,), "deviceResultVersion": (4,)}  # supported versions of the format
REPORT = "report.json"  # inside the folder that Xcode exports
_SHOWN = 300  # characters of a reason in a message

# MLComputeUnits, by raw value, as the Core ML backend's option calls them
COMPUTE_UNITS = ("cpu-only", "cpu-and-gpu", "all", "cpu-and-ne")


class XcodeReport(Record, frozen=True):
    """The contents of a report on one model on one device, without anything that identifies the owner."""

    model: str  # name of the file, without folders and ending
    kind: str  # of model: ML Program, Neural Network
    function: str | None  # that was run, if the report names it
    size_bytes: int
    precision: str  # of computation, as Core ML calls it
    inputs: dict[str, str]  # name -> type and shape, as Core ML writes them
    shape: Shape | None  # of its only image, or of its only tensor of RGB images
    operations: dict[str, int]  # kind -> how many, as Core ML calls them
    metadata: dict[str, str]  # user-defined entries of the model
    product: str  # name of the device, such as iPhone 12 Pro
    os: str
    compute_units: str  # cpu-only, cpu-and-gpu, all, cpu-and-ne
    started: str  # UTC, ISO 8601: the earliest time in the report
    finished: str  # when the last prediction ended
    predict_ns: tuple[tuple[int, ...], ...]  # one entry per round, the cold first prediction of each included
    load_ns: tuple[int, ...]  # as many per round
    compile_ns: tuple[int, ...]
    loads: int  # how often the file was loaded in each round
    placement: Placement | None

    @property
    def digest(self) -> str:
        """Six hex digits over the times and their device: equal for two copies of a report in any order of keys."""
        import hashlib  # not at the top, because `--help` would wait for OpenSSL

        timed = (self.model, self.product, self.os, self.compute_units, self.started, self.predict_ns, self.load_ns)
        return hashlib.sha256(msgspec.json.encode(timed)).hexdigest()[:6]


# --- the format -------------------------------------------------------------------------------------------------------

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    """An object of the report; fields that are not declared are never read."""


class _DeviceInfo(_Wire, frozen=True):
    model_name: str
    os_name_and_version_without_build_number: str
    os_name_and_version_with_internal_build_number: str | None = None


class _ModelMetadata(_Wire, frozen=True):
    file_name: str
    raw_metadata: str  # JSON in a string: the metadata of the compiled model
    size: _Count = 0
    model_type: str = ""


class _Feature(_Wire, frozen=True):
    """An input of the model, its numbers as strings."""

    name: str
    type: str = ""
    formatted_type: str = ""
    shape: str = ""  # of a multi-array: "[1, 3, 256, 256]"
    height: str | int = ""  # of an image
    width: str | int = ""


class _Compiled(_Wire, frozen=True):
    """The metadata of the compiled model."""

    compute_precision: str = ""
    input_schema: tuple[_Feature, ...] = ()
    ml_program_operation_type_histogram: dict[str, _Count] = {}
    neural_network_layer_type_histogram: dict[str, _Count] = {}
    user_defined_metadata: dict[str, str] = {}


class _RunConfig(_Wire, frozen=True):
    experiment_iterations: _Positive
    prediction_count: _Positive
    load_count: _Count = 0
    function_name: str | None = None


class _Series(_Wire, frozen=True):
    samples: tuple[float, ...]  # seconds
    start_time: float  # seconds since 2001-01-01 UTC; of the last round
    num_operations: int | None = None


class _Cost(_Wire, frozen=True):
    weight: _Share


class _Usage(_Wire, frozen=True):
    """The planned and the possible devices of an operation, as enums: ``{"deviceType": {"gpu": {}}}``."""

    preferred: Any
    supported: tuple[Any, ...] | None = None
    all_support_states: tuple[Any, ...] = ()  # device, state, device, state: Swift's encoding of such a dictionary


class _Output(_Wire, frozen=True):
    name: str


class _Operation(_Wire, frozen=True):
    operator_name: str
    outputs: tuple[_Output, ...] = ()
    blocks: "tuple[_Block, ...]" = ()
    cost: _Cost | None = None
    device_usage: _Usage | None = None  # constants have none


class _Block(_Wire, frozen=True):
    operations: tuple[_Operation, ...]


class _Function(_Wire, frozen=True):
    block: _Block


class _Program(_Wire, frozen=True):
    functions: dict[str, _Function]


class _Associated(_Wire, frozen=True):
    """An enum's associated value."""

    value: _Program = msgspec.field(name="_0")


class _Structure(_Wire, frozen=True):
    program: _Associated | None = None  # a Neural Network has layers instead, which are not read


class _Results(_Wire, frozen=True):
    perf_run_config: _RunConfig
    predict: _Series
    load: _Series | None = None
    compile: _Series | None = None
    model_structure: _Structure | None = None


class _Document(_Wire, frozen=True):
    device_info: _DeviceInfo
    model_metadata: _ModelMetadata
    compute_unit: Annotated[int, msgspec.Meta(ge=0, le=len(COMPUTE_UNITS) - 1)]
    device_results: _Results


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> XcodeReport:
    """Read a report: the folder that Xcode exports (``.mlperf``, older ``.mlperfreport``), or the JSON file in it.

    Raises `StoreError` for a file that is no such report or incomplete, `UsageError` for a report of a simulator.
    """
    try:
        path = _file(path)
        data = files.read_bytes(path)
    except OSError as error:
        raise StoreError(f"The report {path} cannot be read: {error.strerror or error}.") from None
    try:
        content: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(path, f"it is cut off or not JSON ({printable(str(error))})") from None
    if not isinstance(content, dict):
        raise _refusal(path, "it is not a JSON object")
    try:
        return _understood(path, cast(dict[str, Any], content))
    except RecursionError:
        raise _refusal(path, "it is nested too deeply") from None


def _understood(path: Path, document: dict[str, Any]) -> XcodeReport:
    """Return the report that a document is; raises `RecursionError` for one that is nested too deeply."""
    _check_version(path, document)
    _check_device(path, document)
    if document.get("deviceResults") is None:
        raise StoreError(
            f"{path} holds no results of a device, only the model; run the report on a device in Xcode's Performance "
            f"tab and export it when it is done."
        )
    owner = [text for key, text in document["deviceInfo"].items() if key in _OWNERS and isinstance(text, str)]
    # a new device is called by its product, which identifies nobody
    owner = [text for text in owner if len(text) >= 4 and text not in str(document["deviceInfo"].get("modelName"))]
    return _report(path, _converted(path, document, _Document), owner)


def _file(path: Path) -> Path:
    """Return the JSON file of a report, which is a folder or the file itself.

    Raises `StoreError` if it does not exist.
    """
    if path.is_dir():
        reports = [path / REPORT] if (path / REPORT).is_file() else sorted(path.glob("[!.]*.json"))
        if len(reports) != 1:
            raise StoreError(f"The folder {path} holds no {REPORT}; name a report as Xcode exported it.")
        return reports[0]
    if not path.exists():
        raise StoreError(f"There is no report {path}; Xcode's Performance tab exports one (.mlperf).")
    return path


def _refusal(path: Path, what: str) -> StoreError:
    what = printable(what[:_SHOWN]) + ("…" if len(what) > _SHOWN else "")  # it may quote the file
    return StoreError(f"{path} is no performance report that can be imported: {what}; export it from Xcode again.")


def _check_version(path: Path, document: dict[str, Any]) -> None:
    for key, known in KNOWN.items():
        if key not in document:
            raise _refusal(path, f"the key {key} is missing")
        if document[key] not in known or isinstance(document[key], bool):
            version, versions = printable(str(document[key]))[:40], " or ".join(map(str, known))
            raise StoreError(
                f"{path} has {key} {version}, and this version of fastvit-bench reads {versions}: a newer one may know "
                f"it, or export the report from an Xcode that writes {versions}."
            )


_OWNERS = {"displayName", "deviceID", "serialNumber"}  # free text of the owner


def _check_device(path: Path, document: dict[str, Any]) -> None:
    """Raise `UsageError` for a simulator, which runs on the Mac's own processor."""
    info: Any = document.get("deviceInfo")
    if not isinstance(info, dict):
        raise _refusal(path, "the key deviceInfo is missing, or no object")
    for key, value in cast(dict[str, Any], info).items():
        if key in _OWNERS:
            continue
        flagged = "simulator" in key.casefold() and value not in (False, None, 0, "")
        if flagged or "simulator" in str(value).casefold():
            raise UsageError(
                f"{path} was made on a simulator, whose times say nothing of a device; run the report on a real one."
            )


def _converted(path: Path, value: Any, kind: type[Any], inside: str = "") -> Any:
    """Convert a value to the declared type; raises `StoreError` with the path of the wrong key."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        # "Expected `int`, got `str` - at `$.predict.samples[...]`", "Object missing required field `samples`"
        what, _, where = str(error).partition(" - at `$")
        where = (inside + where.rstrip("`")).strip(".")
        missing = re.fullmatch(r"Object missing required field `(.*)`", what)
        if missing:
            raise _refusal(path, f"the key {f'{where}.{missing[1]}'.strip('.')} is missing") from None
        what = printable(what.replace("`", "'"))
        raise _refusal(path, f"{where}: {what}" if where else what) from None


def _report(path: Path, document: _Document, owner: Sequence[str]) -> XcodeReport:
    """Convert a report to a record; `owner` are texts that identify the owner of the device."""
    device, about, results = document.device_info, document.model_metadata, document.device_results
    product = printable(device.model_name)
    if not product:
        raise _refusal(path, "deviceInfo.modelName is empty")
    config, predict = results.perf_run_config, results.predict
    compiled = _compiled(path, about.raw_metadata, owner)
    placed, function = _placed(path, results)
    per_round = _per_round(path, config, predict)
    samples = _nanoseconds(path, "predict", predict)
    rounds = tuple(samples[at : at + per_round] for at in range(0, len(samples), per_round))
    loads = _nanoseconds(path, "load", results.load) if results.load else ()
    if loads and len(loads) != config.experiment_iterations * config.load_count:
        raise _refusal(
            path,
            f"deviceResults.load.samples holds {len(loads)} samples, where {config.experiment_iterations} rounds of "
            f"{config.load_count} make {config.experiment_iterations * config.load_count}",
        )
    series = {"predict": predict, "load": results.load, "compile": results.compile}
    times = [_moment(path, name, part) for name, part in series.items() if part]
    return XcodeReport(
        model=_file_name(about.file_name),
        kind=_unless_private(about.model_type),
        function=function,
        size_bytes=about.size,
        precision=_unless_private(compiled.compute_precision) or "unknown",
        inputs={
            _unless_private(feature.name): _unless_private(feature.formatted_type or feature.type)
            for feature in compiled.input_schema
        },
        shape=_shape(compiled.input_schema),
        operations={
            _unless_private(kind): count
            for kind, count in (
                compiled.ml_program_operation_type_histogram or compiled.neural_network_layer_type_histogram
            ).items()
        },
        metadata=compiled.user_defined_metadata,
        product=product,
        os=printable(
            device.os_name_and_version_with_internal_build_number or device.os_name_and_version_without_build_number
        ),
        compute_units=COMPUTE_UNITS[document.compute_unit],
        started=min(times).isoformat(timespec="seconds"),
        finished=(times[0] + timedelta(seconds=sum(rounds[-1]) / 1e9)).isoformat(timespec="seconds"),
        predict_ns=rounds,
        load_ns=loads,
        compile_ns=_nanoseconds(path, "compile", results.compile) if results.compile else (),
        loads=config.load_count,
        placement=placed,
    )


# --- times ------------------------------------------------------------------------------------------------------------


def _per_round(path: Path, config: _RunConfig, predict: _Series) -> int:
    """Return the number of predictions per round: the requested number, or the smaller number of the series."""
    rounds, asked = config.experiment_iterations, config.prediction_count
    samples = len(predict.samples)
    reported = predict.num_operations
    for count in (asked, reported if reported is not None and 0 < reported < asked else asked):
        if samples == rounds * count:
            if count < 2:
                raise _refusal(path, "every prediction in it is the cold first one of its round")
            return count
    raise _refusal(
        path,
        f"deviceResults.predict.samples holds {samples} samples, where {rounds} rounds of {asked} "
        f"make {rounds * asked}",
    )


_LONGEST_S = 1e6  # of one sample, and of all in a series; eleven days


def _nanoseconds(path: Path, name: str, series: _Series) -> tuple[int, ...]:
    for number, seconds in enumerate(series.samples):
        if not 0.5e-9 < seconds < _LONGEST_S:  # false for NaN too
            raise _refusal(path, f"deviceResults.{name}.samples[{number}] is {seconds:g} s, which is not a duration")
    if not sum(series.samples) < _LONGEST_S:
        raise _refusal(path, f"deviceResults.{name}.samples take {sum(series.samples):g} s together, which none do")
    return tuple(round(seconds * 1e9) for seconds in series.samples)


_EPOCH = datetime(2001, 1, 1, tzinfo=UTC)  # of CFAbsoluteTime
_LATEST_S = 1e10  # in the year 2317


def _moment(path: Path, name: str, series: _Series) -> datetime:
    if not 0 < series.start_time < _LATEST_S:
        raise _refusal(path, f"deviceResults.{name}.startTime is {series.start_time:g}, which is not a time")
    return _EPOCH + timedelta(seconds=series.start_time)


# --- the model --------------------------------------------------------------------------------------------------------


def _compiled(path: Path, text: str, owner: Sequence[str]) -> _Compiled:
    """Decode the metadata of the compiled model, without entries that name personal folders or the `owner`."""
    where = "modelMetadata.rawMetadata"
    try:
        content: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(path, f"{where} is not JSON ({printable(str(error))})") from None
    if isinstance(content, list):  # Core ML's compiler writes a list of models, and a report is of one
        models = cast(list[Any], content)
        if len(models) != 1:
            raise _refusal(path, f"{where} describes {len(models)} models instead of one")
        content = models[0]
    compiled: _Compiled = _converted(path, content, _Compiled, where)
    entries = {
        name: value
        for name, value in compiled.user_defined_metadata.items()
        if not _private(name + value) and not any(word in value for word in owner)
    }
    return msgspec.structs.replace(compiled, user_defined_metadata=entries)


def _private(text: str) -> bool:
    """Return whether a text names a file or a personal folder."""
    text = text.casefold().replace("\\", "/")
    return any(sign in text for sign in ("/users/", "/home/", "file:"))


def _unless_private(text: str) -> str:
    """Return the text on one line, empty if it is private."""
    return "" if _private(text) else printable(text)


def _file_name(text: str) -> str:
    """Return the name of a model file without folders and ending."""
    name = printable(text.replace("\\", "/").rstrip("/").rpartition("/")[2])
    for ending in (".mlpackage", ".mlmodelc", ".mlmodel"):
        name = name.removesuffix(ending)
    return name or "unnamed"


def _shape(inputs: tuple[_Feature, ...]) -> Shape | None:
    """Return the shape of the only input if it is an image or a tensor of RGB images, else None."""
    if len(inputs) != 1:
        return None
    (only,) = inputs
    match only.type, [*_numbers(only.shape)], [*_numbers(f"{only.height} {only.width}")]:
        case "Image", _, [height, width]:
            batch = 1
        case "MultiArray", [batch, 3, height, width], _:
            pass
        case "MultiArray", [batch, height, width, 3], _:
            pass
        case _:
            return None
    return Shape(batch=batch, height=height, width=width) if min(batch, height, width) > 0 else None


def _numbers(text: str) -> Iterator[int]:
    for word in text.strip("[] ").replace(",", " ").split():
        if not word.isdecimal() or len(word) > 9:
            return
        yield int(word)


# --- placement of the operations --------------------------------------------------------------------------------------

_UNITS = {"neuralEngine": Unit.NEURAL_ENGINE, "gpu": Unit.GPU, "cpu": Unit.CPU}


def _placed(path: Path, results: _Results) -> tuple[Placement | None, str | None]:
    """Return the plan of the function that was run, and the name of that function unless it is ``main``."""
    structure = results.model_structure
    functions = structure.program.value.functions if structure and structure.program else {}
    asked = results.perf_run_config.function_name
    name = asked if asked in functions else next(iter(functions)) if len(functions) == 1 else "main"
    if name not in functions:
        return None, None
    where = f"deviceResults.modelStructure.program._0.functions.{name}.block"
    operations = tuple(_planned(path, functions[name].block, where))
    return Placement(operations=operations) if operations else None, None if name == "main" else printable(name)


def _planned(path: Path, block: _Block, where: str) -> Iterator[PlannedOperation]:
    """Yield every operation with a plan in program order, nested blocks included."""
    for number, operation in enumerate(block.operations):
        key = f"{where}.operations[{number}]"
        usage, cost = operation.device_usage, operation.cost
        if usage is not None:
            yield PlannedOperation(
                kind=_unless_private(operation.operator_name),
                output=_unless_private(operation.outputs[0].name) if operation.outputs else "",
                unit=_unit(path, usage.preferred, f"{key}.deviceUsage.preferred"),
                supported=_supported(path, usage, f"{key}.deviceUsage"),
                cost=cost.weight if cost else None,
            )
        for at, inner in enumerate(operation.blocks):
            yield from _planned(path, inner, f"{key}.blocks[{at}]")


def _supported(path: Path, usage: _Usage, where: str) -> tuple[Unit, ...]:
    """Return the supported units in the order of `Unit`; the order in a report varies between operations."""
    if usage.supported is not None:
        devices = usage.supported
    else:
        pairs = zip(usage.all_support_states[::2], usage.all_support_states[1::2], strict=False)
        devices = tuple(device for device, state in pairs if _case(state) == "supported")
    supported = {_unit(path, device, f"{where}.supported") for device in devices}
    return tuple(unit for unit in Unit if unit in supported)


def _unit(path: Path, device: Any, where: str) -> Unit:
    name = _case(cast(dict[str, Any], device)["deviceType"] if _has(device, "deviceType") else device)
    if name not in _UNITS:
        raise _refusal(path, f"{where} names no compute device that is known ({', '.join(_UNITS)})")
    return _UNITS[name]


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in cast(dict[str, Any], value)


def _case(value: Any) -> str | None:
    """Return the case of an enum in Swift's encodings, ``{"cpu": {}}`` or ``"cpu"``; None for anything else."""
    if isinstance(value, dict):
        keys = list(cast(dict[str, Any], value))
        return keys[0] if len(keys) == 1 else None
    return value if isinstance(value, str) else None
