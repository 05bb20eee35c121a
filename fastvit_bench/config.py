"""Read ``benchmark.toml`` and the values of command-line options into typed settings."""

import fnmatch
import functools
import math
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import ConfigError, UsageError
from fastvit_bench.network import registry
from fastvit_bench.network.registry import LARGEST_SIDE, STRIDE, check_size
from fastvit_bench.records import MOST_CALIBRATION_IMAGES, PROCESSES, Device, Method, ModelSpec, Record, Shape
from fastvit_bench.records.preparation import PREPARATION_FIELDS, preparation_fault
from fastvit_bench.records.study import Study

FILE_NAME = "benchmark.toml"
MACHINE_VARIABLE = "FASTVIT_BENCH_MACHINE"  # environment variable in which CI names its machines
LONGEST_NAME = 64  # characters
LONGEST_S = 1e6  # seconds of any limit of time: eleven days
_LARGEST = 2**53  # of whole numbers whose bounds are not known; no float holds larger ones exactly

# largest value of a key of whole numbers
_MOST = {
    "batch": 65536,
    "calibration_images": MOST_CALIBRATION_IMAGES,
    "classes": 10**6,
    "channels": 1024,
    "resolution": LARGEST_SIDE,
    "runs": 10**6,
    "rounds": 10**4,
    "processes": 1000,
    "warmup": 10**6,
}

# names of models, devices and studies are parts of paths
_NAME = re.compile(r"\w[\w.+-]*")
_DEVICE_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)  # as `store.runs` demands of a folder


class Sweep(Record, frozen=True):
    """``[sweep]``: models, sizes and time limit if the command line names none."""

    models: tuple[str, ...]  # names or globs of models
    grid: tuple[int, ...]  # pixels, for square images; `--res A..B` takes those within, and both ends
    timeout_s: float = 3600  # longest time for one export or one measurement, in seconds


class Gate(Record, frozen=True):
    """``[gate]``: the cells that `gate` compares, and its thresholds for failing."""

    models: tuple[str, ...] = ()  # globs; empty: those of [sweep]
    grid: tuple[int, ...] = ()  # pixels; empty: that of [sweep]
    max_regression: str = "5%"  # slowdown of one cell that fails
    max_pooled_regression: str = ""  # of all cells together; empty: half of max_regression
    max_time: str = "20m"  # afterwards, cells that are not decided are inconclusive
    alpha: float = 0.01  # chance, at most, that an unchanged tree is called regressed
    beta: float = 0.05  # chance, at most, that a regressed cell is called passed
    stored_extra: str = "10%"  # added to both margins if the baseline was measured on another day


class MachineSettings(Record, frozen=True):
    """``[machine]``: the user's name for the machine."""

    name: str = ""  # such as "lab-1"; empty: machines are distinguished by their hardware


class Download(Record, frozen=True):
    """``[download]``: the address of published checkpoints."""

    base: str = "https://docs-assets.developer.apple.com/ml-research/models/fastvit"  # address of the folder


class Paths(Record, frozen=True):
    """``[paths]``: folders, relative to the working directory."""

    models: str = "models"  # checkpoints and exported files
    results: str = "results"  # run files, studies and comparisons


class Config(Record, frozen=True):
    """All settings of ``benchmark.toml``."""

    path: str
    models: dict[str, ModelSpec]
    devices: dict[str, Device]
    method: Method
    sweep: Sweep
    gate: Gate
    download: Download
    paths: Paths
    studies: dict[str, Study] = msgspec.field(default_factory=dict[str, Study])
    machine: MachineSettings = MachineSettings()

    def machine_name(self, name: str | None = None) -> str:
        """Return the user's name for this machine: `name`, else the environment's, else that of ``[machine]``, or "".

        Raises `UsageError` for a name of several lines or too many characters.
        """
        name = (os.environ.get(MACHINE_VARIABLE) or self.machine.name if name is None else name).strip()
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise UsageError(f"A machine's name is one line of at most {LONGEST_NAME} characters; shorten {name!r}.")
        return name

    def device(self, name: str) -> Device:
        """Return the device profile of a name; the `UsageError` for an unknown one lists the known ones."""
        if name not in self.devices:
            raise UsageError(f"There is no device '{name}' in {self.path}. {_choices(name, self.devices)}")
        return self.devices[name]

    def study(self, name: str) -> Study:
        """Return the study of a name; the `UsageError` for an unknown one lists the known ones."""
        if name not in self.studies:
            raise UsageError(f"There is no study '{name}' in {self.path}. {_choices(name, self.studies)}")
        return self.studies[name]

    def select(self, patterns: Sequence[str]) -> list[ModelSpec]:
        """Return the models that `patterns` name, in the file's order; a pattern may be a glob such as ``fastvit_s*``.

        Without patterns, these are the models of ``[sweep]``. A pattern that fits no model of the file may name a
        network of the catalogue, such as ``cmt_s`` or ``timm:convnext_tiny``, or an ONNX file. Such models come last.
        Raises `UsageError` for a pattern that fits nothing.
        """
        chosen: set[str] = set()
        undeclared: dict[str, ModelSpec] = {}
        for pattern in patterns or self.sweep.models:
            matches = fnmatch.filter(self.models, pattern)
            if not matches:
                undeclared[pattern] = self._undeclared(pattern)
            chosen.update(matches)
        return [spec for name, spec in self.models.items() if name in chosen] + list(undeclared.values())

    def _undeclared(self, name: str) -> ModelSpec:
        """Return a model that the file does not declare: an ONNX file or a network of the catalogue."""
        if name.endswith(f".{registry.ONNX}"):
            path = Path(name)
            if not files.exists(path) or not path.is_file():
                raise UsageError(f"There is no file {name}; name an ONNX file, or a model.")
            if not files.is_part(path.stem):
                raise UsageError(f"The file {name} gives the model a name that no folder can have; rename the file.")
            return ModelSpec(name=Path(name).stem, variant=registry.ONNX, checkpoint=name)
        if not registry.known(name):
            known = {*self.models, *registry.names()}
            raise UsageError(
                f"There is no model '{name}' in {self.path}, nor a network of that name. {_choices(name, known)}"
            )
        if not _is_name("model", name):
            raise UsageError(f"There is no network '{name[:80]}': a name has letters, digits, '-', '_', '.' and '+'.")
        entry = registry.find(name)
        return ModelSpec(name=name, variant=name, resolution=entry.resolution, head=entry.head, classes=entry.outputs)


def load(path: Path | None, *, backends: Collection[str]) -> Config:
    """Read a configuration; without `path`, ``benchmark.toml`` of the working directory, else the packaged one.

    A file of one's own is laid over the packaged one (see `_over`), so it holds only what differs. `backends` are the
    names that a device may have as its backend. Raises `ConfigError` with file, line and key.
    """
    if path is None:
        local = Path(FILE_NAME)
        path = local if files.exists(local) else files.find(FILE_NAME)
    try:
        text = files.read_text(path, encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"The configuration file {path} cannot be read: {reason}.") from None
    try:
        return _Reader(path, text).config(_over(tomllib.loads(text), _packaged()), backends)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: its values are nested too deeply.") from None
    except ValueError:  # of a number of thousands of digits
        raise ConfigError(f"{path} is not valid TOML: a number in it has too many digits.") from None


@functools.cache
def _packaged() -> dict[str, Any]:
    """Return the tables of the packaged file."""
    return tomllib.loads(files.read_text(files.find(FILE_NAME)))


# kind of tables with names -> the key that says what one is
_NAMED = {"model": "variant", "device": "backend", "study": "rows"}


def _over(own: dict[str, Any], packaged: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of a file laid over packaged ones, key by key.

    A model, device or study of one's own that says what it is (by its ``variant``, ``backend`` or ``rows``) replaces
    one of the same name; another only changes keys of it. A file with models of its own sweeps and gates those unless
    it says otherwise, and gates the sizes that it sweeps. A glob of its [sweep] or [gate] means its own models.
    """
    result = dict(packaged)
    for kind, tables in own.items():
        if kind not in packaged or not isinstance(tables, dict):
            result[kind] = tables
        elif kind not in _NAMED:
            result[kind] = {**packaged[kind], **tables}
        else:
            result[kind] = {**packaged[kind], **tables}
            for name, table in cast("dict[str, Any]", tables).items():
                below = packaged[kind].get(name, {})
                if isinstance(table, dict) and _NAMED[kind] not in table:
                    result[kind][name] = {**below, **table}
    models = own.get("model") or ()
    for section in ("sweep", "gate"):
        patterns = own[section].get("models") if isinstance(own.get(section), dict) else None
        if isinstance(models, dict) and models and isinstance(patterns, list):
            result[section] = {**result[section], "models": _of_own(patterns, models)}
    says = {(kind, key) for kind, table in own.items() if isinstance(table, dict) for key in table}
    if isinstance(models, dict) and models and ("sweep", "models") not in says and isinstance(result["sweep"], dict):
        result["sweep"] = {**result["sweep"], "models": list(models)}
    for key, follows in (("models", models or ("sweep", "models") in says), ("grid", ("sweep", "grid") in says)):
        if follows and ("gate", key) not in says and isinstance(result["gate"], dict):
            result["gate"] = {**result["gate"], key: []}  # that of the sweep
    return result


def _of_own(patterns: list[Any], models: Iterable[str]) -> list[Any]:
    """Return patterns, each glob replaced by those of one's own models that it fits, if it fits any."""
    names: list[Any] = []
    for pattern in patterns:
        fit = fnmatch.filter(models, pattern) if isinstance(pattern, str) and set(pattern) & set("*?[") else []
        names += fit or [pattern]
    return list(dict.fromkeys(names))


def sizes(text: str, grid: Sequence[int], stride: int = STRIDE, remedy: str = "") -> list[tuple[int, int]]:
    """Return the image sizes (height, width) in pixels that a value of ``--res`` names.

    ``256`` · ``224,256`` · ``384x512`` (height x width) · ``224..1024`` (what of the grid lies within and the networks'
    `stride` divides, and both ends) · ``224..1024:160`` (steps from the first, and the last) · any of them joined by
    commas. Repeated sizes count once. Raises `UsageError` for any other text and for sizes that `stride` does not
    divide; `remedy` is what else helps there.
    """
    result: dict[tuple[int, int], None] = {}
    for part in text.split(","):
        for height, width in _sizes_of(part.strip(), grid, stride, remedy):
            check_size(height, width, stride, remedy)
            result[height, width] = None
    return list(result)


def _side(digits: str) -> int:
    """Return the pixels that digits name; more than `LARGEST_SIDE`, which is refused, for many digits."""
    return int(digits[:20])


def _sizes_of(part: str, grid: Sequence[int], stride: int, remedy: str) -> Iterable[tuple[int, int]]:
    """Return the sizes (height, width) of one part between commas."""
    if match := re.fullmatch(r"(\d+)x(\d+)", part, re.IGNORECASE | re.ASCII):
        return [(_side(match[1]), _side(match[2]))]
    if re.fullmatch(r"\d+", part, re.ASCII):
        return [(_side(part), _side(part))]
    match = re.fullmatch(r"(\d+)\.\.(\d+)(?::(\d+))?", part, re.ASCII)
    if match is None:
        raise UsageError(f"'{part[:80]}' is not a resolution. Write 256, 224,256, 384x512, 224..1024 or 224..1024:160.")
    low, high = _side(match[1]), _side(match[2])
    if low > high:
        raise UsageError(f"The range {low}..{high} ends before it begins; write {high}..{low}.")
    if match[3] is None:
        between = [size for size in sorted(grid) if low < size < high and size % stride == 0]
        return [(size, size) for size in dict.fromkeys([low, *between, high])]
    step = _side(match[3])
    if step == 0:
        raise UsageError(f"The range {low}..{high} has a step of 0; write a multiple of {stride} behind the colon.")
    check_size(low, high, stride, remedy)  # before a range of many impossible sizes is listed
    return [(size, size) for size in dict.fromkeys([*range(low, high, step), high])]


def share(text: str, *, zero: bool = False) -> float:
    """Return a share of a figure: 0.05 for ``5%`` or ``0.05``. Raises `UsageError` unless it is in 0..100 %.

    0 itself is allowed only with `zero`.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip(), re.ASCII)
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= value <= 1 or (value == 0 and not zero):
        hint = f" Write {text.strip()}% for per cent." if match and 1 < value <= 100 and not match[2] else ""
        bounds = "from 0 to 100%" if zero else "above 0 and up to 100%"
        raise UsageError(f"'{text[:80]}' is no share {bounds}; write 5% or 0.05.{hint}")
    return value


_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds(text: str, *, zero: bool = False) -> float:
    """Return the seconds of ``90``, ``90s``, ``20m`` or ``1.5h``. Raises `UsageError` for others; 0 needs `zero`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text.strip(), re.ASCII)
    value = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if value < 0 or not match or (value == 0 and not zero):
        raise UsageError(f"'{text[:80]}' is no length of time; write 90s, 20m or 1.5h.")
    if value > LONGEST_S:
        raise UsageError(f"'{text[:80]}' is longer than {LONGEST_S:.0f} seconds; write a shorter time, such as 20m.")
    return value


_AGES = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


def age(text: str) -> float:
    """Return the seconds of an age such as ``12h``, ``30d`` or ``8w``. Raises `UsageError` for others."""
    match = re.fullmatch(r"(\d{1,6})\s*([hdw])", text.strip(), re.ASCII)
    if not match:
        raise UsageError(f"'{text[:80]}' is no age; write 12h, 30d or 8w.")
    return float(match[1]) * _AGES[match[2]]


def shapes(text: str, grid: Sequence[int], batch: int, stride: int = STRIDE, remedy: str = "") -> list[Shape]:
    """Return the input shapes of a batch at the sizes that a value of ``--res`` names (see `sizes`)."""
    return [Shape(batch=batch, height=height, width=width) for height, width in sizes(text, grid, stride, remedy)]


def stride(specs: Iterable[ModelSpec]) -> int:
    """Return the number of pixels of which image sides must be multiples for all models that do not pad them."""
    return max((1 if spec.pad else registry.find(spec.variant).stride for spec in specs), default=1)


def _is_name(kind: str, name: str) -> bool:
    """Return whether a name of a model, device or study can be part of a path; ``timm:NAME`` becomes ``timm-NAME``."""
    part = name.replace(registry.TIMM, registry.TIMM.replace(":", "-"), 1) if kind == "model" else name
    return files.is_part(part) and (_DEVICE_NAME if kind == "device" else _NAME).fullmatch(part) is not None


def _fault(value: object) -> str:
    """Return what is wrong with a value of any table, as a clause; empty if nothing is."""
    match value:
        case str() if "\0" in value:
            return "holds a NUL character"
        case float() if not math.isfinite(value):
            return f"holds {value}, which is no finite number"
        case int() if abs(value) > _LARGEST:
            return f"holds a number above {_LARGEST}"
        case list() | dict():
            items = cast("dict[str, object]", value).items() if isinstance(value, dict) else enumerate(value)
            return next((fault for name, inner in items if (fault := _fault(name) or _fault(inner))), "")
        case _:
            return ""


RecordT = TypeVar("RecordT", bound=Record)

# one table of benchmark.toml -> record; `model` and `device` hold one table per name
_TABLES: dict[str, type[Record]] = {
    "model": ModelSpec,
    "device": Device,
    "method": Method,
    "sweep": Sweep,
    "gate": Gate,
    "machine": MachineSettings,
    "download": Download,
    "paths": Paths,
    "study": Study,
}


# fields of a record that its table does not hold: the heading holds the name, and a protocol or the kind of device
# decides the others
_NOT_IN_TABLE = {"machine": (), "method": ("statistic", "trim", "loading", "warmup_ms", "steady", "duration_ms")}


def keys_not_in_table(kind: str) -> tuple[str, ...]:
    """Return the fields of a record that are not keys of its table in the file."""
    return _NOT_IN_TABLE.get(kind, ("name",))


class _Reader:
    """Converts a parsed document to a `Config`; raises `ConfigError` with the line of a mistake."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()

    def config(self, document: dict[str, Any], backends: Collection[str]) -> Config:
        """Convert all tables of a document, and check their values."""
        for name in document:
            if name not in _TABLES:
                raise self.error(f"unknown table [{name}]. {_choices(name, _TABLES)}", name, None)
        models = {name: self.table(ModelSpec, "model", name, table) for name, table in self.named(document, "model")}
        devices = {name: self.table(Device, "device", name, table) for name, table in self.named(document, "device")}
        config = Config(
            path=str(self.path),
            models=models,
            devices=devices,
            method=self.table(Method, "method", None, self.spread(document.get("method", {}))),
            sweep=self.table(Sweep, "sweep", None, document.get("sweep", {})),
            gate=self.table(Gate, "gate", None, document.get("gate", {})),
            download=self.table(Download, "download", None, document.get("download", {})),
            paths=self.table(Paths, "paths", None, document.get("paths", {})),
            machine=self.table(MachineSettings, "machine", None, document.get("machine", {})),
            studies={name: self.table(Study, "study", name, table) for name, table in self.named(document, "study")},
        )
        self.models(models)
        for name, device in devices.items():
            self.one_of(device.backend, backends, f"device.{name}", "backend")
            self.one_of(device.precision, ("fp32", "fp16", "bf16", "int8", "w8", "w8a8"), f"device.{name}", "precision")
            self.counts(f"device.{name}", batch=device.batch, calibration_images=device.calibration_images)
            if device.calibration is not None:
                folder = str(self.path.parent / device.calibration)
                devices[name] = msgspec.structs.replace(device, calibration=folder)
        method = config.method
        if method.warmup < 0:
            raise self.error(f"warmup = {method.warmup} is negative", "method", "warmup")
        self.counts("method", runs=method.runs, rounds=method.rounds, processes=method.processes)
        self.counts("method", warmup=method.warmup or 1)
        self.selections(config)
        if not 0 < config.sweep.timeout_s <= LONGEST_S:
            raise self.error(
                f"timeout_s = {config.sweep.timeout_s} must be above 0 and at most {LONGEST_S:.0f}",
                "sweep",
                "timeout_s",
            )
        self.gate(config.gate)
        for study in config.studies.values():
            self.study(study, models)
        return config

    def models(self, models: dict[str, ModelSpec]) -> None:
        """Check the models, and replace relative paths of checkpoints, which start from the file's folder, in place."""
        for name, spec in models.items():
            if spec.checkpoint is not None:
                models[name] = msgspec.structs.replace(spec, checkpoint=str(self.path.parent / spec.checkpoint))
            if not registry.known(spec.variant):
                self.one_of(spec.variant, registry.names(), f"model.{name}", "variant")
            self.counts(f"model.{name}", classes=spec.classes, channels=spec.channels, resolution=spec.resolution)
            for key in PREPARATION_FIELDS:
                if fault := preparation_fault(key, getattr(spec, key)):
                    raise self.error(fault, f"model.{name}", key)

    def selections(self, config: Config) -> None:
        """Check the models and sizes that ``[sweep]`` and ``[gate]`` select."""
        models = config.models
        for section, patterns in (("sweep", config.sweep.models), ("gate", config.gate.models)):
            for pattern in patterns:
                if not fnmatch.filter(models, pattern):
                    raise self.error(f"unknown model '{pattern}'. {_choices(pattern, models)}", section, "models")
        for section, grid in (("sweep", config.sweep.grid), ("gate", config.gate.grid)):
            for size in grid:
                try:
                    check_size(size, size)
                except UsageError as error:
                    raise self.error(str(error).rstrip("."), section, "grid") from None

    def spread(self, table: Any) -> Any:
        """Add the default number of processes to ``[method]``, because a record of a run without a number means one."""
        return {"processes": PROCESSES, **table} if isinstance(table, dict) else table

    def study(self, study: Study, models: Mapping[str, ModelSpec]) -> None:
        """Check the rows and sizes of a study."""
        section, named = f"study.{study.name}", set[tuple[str, str, int | None, str]]()
        for row in study.rows:
            what = f"row '{row.label}'"
            if not row.model and not row.note:
                raise self.error(f"{what} has neither a model nor a note that says why", section, "rows")
            undeclared = registry.known(row.model) or row.model.endswith(f".{registry.ONNX}")
            if row.model and row.model not in models and not undeclared:
                known = _choices(row.model, [*models, *registry.names()])
                raise self.error(f"{what}: unknown model '{row.model}'. {known}", section, "rows")
            if row.model and row.res is None and not study.grid:
                raise self.error(f"{what} has no res, and the study has no grid", section, "rows")
            if (key := (row.group, row.label, row.res, row.fuse)) in named:
                raise self.error(f"{what} is listed twice", section, "rows")
            named.add(key)
        for size in (*study.grid, *(row.res for row in study.rows if row.res is not None)):
            try:
                check_size(size, size, 1)
            except UsageError as error:
                raise self.error(str(error).rstrip("."), section, "rows") from None

    def gate(self, gate: Gate) -> None:
        """Check the thresholds of ``[gate]``."""
        for key, read in (
            ("max_regression", share),
            ("max_pooled_regression", share),
            ("max_time", seconds),
            ("stored_extra", share),
        ):
            text = getattr(gate, key)
            try:
                if text or key != "max_pooled_regression":
                    read(text)
            except UsageError as error:
                raise self.error(f"{key}: {str(error).rstrip('.')}", "gate", key) from None
        for key, value in (("alpha", gate.alpha), ("beta", gate.beta)):
            if not 0 < value < 0.5:
                raise self.error(f"{key} = {value} must be above 0 and below 0.5", "gate", key)

    def named(self, document: dict[str, Any], kind: str) -> list[tuple[str, Any]]:
        """Return names and tables of one kind, such as ``[model.NAME]``."""
        tables = document.get(kind, {})
        if not isinstance(tables, dict):
            raise self.error(f"'{kind}' must be tables of their own, [{kind}.NAME]", None, kind)
        named = cast("dict[str, Any]", tables)
        for name in named:
            if not _is_name(kind, name):
                raise self.error(
                    f"the name '{name[:80]}' cannot be a part of a path; use letters, digits, '-', '_', '.' and '+'",
                    f"{kind}.{name}",
                    None,
                )
        return list(named.items())

    def table(self, record: type[RecordT], kind: str, name: str | None, table: Any) -> RecordT:
        """Convert a table to its record."""
        section = kind if name is None else f"{kind}.{name}"
        if not isinstance(table, dict):
            raise self.error(f"[{section}] must be a table", kind, name)
        fields = [field for field in record.__struct_fields__ if field not in keys_not_in_table(kind)]
        for key in table:
            if key not in fields:
                raise self.error(f"unknown key '{key}'. {_choices(key, fields)}", section, key)
            if fault := _fault(table[key]):
                raise self.error(f"{key} {fault}; correct it", section, key)
        named = table if name is None else {**table, "name": name}
        try:
            return msgspec.convert(named, record)
        except msgspec.ValidationError as error:
            # "Expected `int`, got `str` - at `$.runs`" or "Object missing required field `grid`"
            what, _, where = str(error).partition(" - at `$.")
            if lacking := re.fullmatch(r"Object missing required field `(\w+)`", what):
                what = f"'{lacking[1]}' is required and missing; add a line `{lacking[1]} = …` to this table"
            key = re.split(r"[.\[`]", where)[0] if where else None
            subject = f"{key}: " if key else ""
            raise self.error(subject + what.replace("`", "'"), section, key) from None

    def one_of(self, value: str, allowed: Collection[str], section: str, key: str) -> None:
        """Raise `ConfigError` unless a value is among the allowed ones."""
        if value not in allowed:
            raise self.error(f"{key} = '{value}' is unknown. {_choices(value, allowed)}", section, key)

    def counts(self, section: str, **values: int) -> None:
        """Raise `ConfigError` unless all values are above 0 and at most what `_MOST` allows."""
        for key, value in values.items():
            if value <= 0:
                raise self.error(f"{key} = {value} must be above 0", section, key)
            if value > _MOST[key]:
                raise self.error(f"{key} = {value} must be at most {_MOST[key]}", section, key)

    def error(self, message: str, section: str | None, key: str | None) -> ConfigError:
        """Return an error with the file, the line and the section before its message."""
        where = f"{self.path}, line {self.line(section, key)}"
        if section:
            where += f", [{section}]"
        return ConfigError(f"{where}: {message.rstrip('.')}.")

    def line(self, section: str | None, key: str | None) -> int:
        """Return the number of the line that holds `key` of `section`, else the section's, else the first."""
        start = 0
        if section:
            kind, _, name = section.partition(".")
            named = rf"\s*\.\s*[\"']?{re.escape(name)}[\"']?" if name else ""
            header = re.compile(rf"\s*\[\[?\s*{re.escape(kind)}{named}\s*[\].]")
            start = next((i for i, line in enumerate(self.lines) if header.match(line)), 0)
        if key:
            assignment = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]")
            for i in range(start + 1 if section else 0, len(self.lines)):
                if section and self.lines[i].lstrip().startswith("["):
                    break
                if assignment.match(self.lines[i]):
                    return i + 1
        return start + 1


def _choices(word: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'x'? Known: …`` for an unknown word."""
    import difflib  # imported only for mistakes, since `--help` must be fast

    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."
