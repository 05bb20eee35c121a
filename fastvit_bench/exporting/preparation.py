"""Decide how images are prepared for a model: by its settings, by files beside its weights, or as its network's own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from fastvit_bench import files
from fastvit_bench.backends._text import printable
from fastvit_bench.errors import ConfigError
from fastvit_bench.network import registry
from fastvit_bench.records import ExportSpec, ModelSpec, Preparation
from fastvit_bench.records.preparation import PREPARATION_FIELDS, preparation_fault

OWN = "the network's own"  # source of a value that nothing else declares


class ResolvedPreparation(NamedTuple):
    """A model's preparation, and the source of each of its values."""

    preparation: Preparation
    sources: dict[str, str]  # by field
    aside: str = ""  # a file beside the weights that is about another network, and not used

    @property
    def departures(self) -> dict[str, str]:
        """Return the sources of the values that are not the network's own."""
        return {name: source for name, source in self.sources.items() if source != OWN}


def resolve(spec: ModelSpec) -> ResolvedPreparation:
    """Return the preparation of a model's images.

    A value of ``[model.NAME]`` wins over a file beside the weights, and that over the network's own. Raises
    `ConfigError` for a file beside the weights that is about this network and cannot be used.
    """
    values = msgspec.structs.asdict(registry.find(spec.variant).preparation)
    sources = dict.fromkeys(PREPARATION_FIELDS, OWN)
    aside = ""
    if spec.checkpoint is not None:
        beside, aside = _beside(Path(spec.checkpoint), spec.variant)
        values |= beside.values
        sources |= dict.fromkeys(beside.values, beside.source)
    declared = {name: value for name in PREPARATION_FIELDS if (value := getattr(spec, name)) is not None}
    sources |= dict.fromkeys(declared, f"[model.{spec.name}]")
    return ResolvedPreparation(Preparation(**(values | declared)), sources, aside)


def differences(exported: ExportSpec, spec: ModelSpec) -> dict[str, tuple[Any, Any, str]]:
    """Return by field what a file was exported with, what `resolve` returns for the model, and the source of that.

    Equal values are left out. Raises as `resolve` does.
    """
    resolved, actual = resolve(spec), registry.preparation_of(exported)
    pairs = {name: (getattr(actual, name), getattr(resolved.preparation, name)) for name in PREPARATION_FIELDS}
    return {
        name: (value, expected, resolved.sources[name])
        for name, (value, expected) in pairs.items()
        if value != expected
    }


# --- files beside the weights -----------------------------------------------------------------------------------------


class _Declared(NamedTuple):
    """The values that a file declares, by field, and the network that it is about where it says so."""

    values: dict[str, Any]
    network: str | None = None
    source: str = ""  # path of the file


def _beside(checkpoint: Path, variant: str) -> tuple[_Declared, str]:
    """Return what the first of `READERS` beside a weight file declares of its network, and a file of another one."""
    aside = ""
    for name, read in READERS.items():
        path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / name
        if not files.exists(path):
            continue
        declared = _read(path, read)
        if not declared.values:
            continue
        if not _is_about(declared.network, variant):
            aside = aside or f"{path} is about {printable(declared.network)}, not {variant}, and was not used"
            continue
        return declared._replace(source=str(path)), aside
    return _Declared({}), aside


def _is_about(network: str | None, variant: str) -> bool:
    """Return whether a file about a network, by timm's name, is one about a variant."""
    if network is None or variant == registry.ONNX:
        return True
    bare = network.partition(".")[0]
    names = {variant.removeprefix(registry.TIMM), variant}
    return bare in (names | {"fastvit_mci3"} if variant == "fastvithd" else names)


def _read(path: Path, read: Callable[[Mapping[str, Any]], _Declared]) -> _Declared:
    """Read the values that a file declares. Raises `ConfigError` for a damaged file and impossible values."""
    try:
        document = msgspec.json.decode(files.read_bytes(path, files.DOCUMENT))
        declared = read(cast("Mapping[str, Any]", document) if isinstance(document, dict) else {})
        values = {name: _value(name, value) for name, value in declared.values.items()}
        return declared._replace(values=values)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ConfigError(
            f"{path} does not say how images are prepared: {printable(error).rstrip('.')}; correct it, or declare "
            f"mean, std, resize, interpolation and crop of the model in benchmark.toml and move the file away."
        ) from None


_KINDS = {field.name: field.type for field in msgspec.structs.fields(Preparation)}


def _value(name: str, value: Any) -> Any:
    """Return the value of a field in its type. Raises `ValueError` for one that it cannot have."""
    if name in ("mean", "std") and not isinstance(value, list):
        value = [value]
    if name in ("mean", "std") and len(value) == 1:  # of every channel
        value = value * 3
    try:
        value = msgspec.convert(value, _KINDS[name])
    except msgspec.ValidationError as error:
        raise ValueError(f"{name} is {str(value)[:80]} ({error})") from None
    if fault := preparation_fault(name, value):
        raise ValueError(fault)
    return value


def _timm(document: Mapping[str, Any]) -> _Declared:
    """Return what a timm model's ``config.json`` declares; nothing of a file of another library."""
    settings = document.get("pretrained_cfg", document)
    if not isinstance(settings, dict) or "architecture" not in {**document, **settings}:
        return _Declared({})
    settings = cast("dict[str, Any]", settings)
    values = _renamed(settings, {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_pct": "crop"})
    if (mode := settings.get("crop_mode")) is not None:
        values["resize"] = _one_of("crop_mode", mode, {"center": "shorter-side", "squash": "squash"})
    network = document.get("architecture", settings.get("architecture"))
    return _Declared(values, network if isinstance(network, str) else None)


def _open_clip(document: Mapping[str, Any]) -> _Declared:
    """Return what ``open_clip_config.json`` declares of the image half of a CLIP."""
    settings = document.get("preprocess_cfg")
    if not isinstance(settings, dict):
        return _Declared({})
    settings = cast("dict[str, Any]", settings)
    values = _renamed(settings, {"mean": "mean", "std": "std", "interpolation": "interpolation"})
    mode = settings.get("resize_mode", "shortest")
    values |= {"resize": _one_of("resize_mode", mode, {"shortest": "shorter-side", "squash": "squash"}), "crop": 1.0}
    network: Any = document
    for name in ("model_cfg", "vision_cfg", "timm_model_name"):
        network = network.get(name) if isinstance(network, dict) else None
    return _Declared(values, network if isinstance(network, str) else None)


_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


def _transformers(document: Mapping[str, Any]) -> _Declared:
    """Return what a ``preprocessor_config.json`` of transformers declares.

    LLaVA pads images before this, so that a shorter side in the file says nothing of how they are resized.
    """
    if "image_mean" not in document and "image_std" not in document:
        return _Declared({})
    values = _renamed(document, {"image_mean": "mean", "image_std": "std"})
    if document.get("do_normalize") is False:
        values |= {"mean": 0.0, "std": 1.0}
    if not abs(_number(document.get("rescale_factor", 1 / 255)) * 255 - 1) < 1e-3:
        raise ValueError(f"rescale_factor is {document['rescale_factor']}, and pixels are divided by 255 here")
    if (resample := document.get("resample")) is not None:
        values["interpolation"] = _one_of("resample", resample, _RESAMPLING)
    size, cut = _side(document.get("size")), _side(document.get("crop_size"))
    if isinstance(document.get("size"), dict) and "height" in document["size"]:
        values["resize"] = "squash"
    if size and cut and document.get("do_center_crop", True):
        values["crop"] = cut / size
    return _Declared(values)


# Files beside weights that say how images are prepared; the first that does so of the network counts.
READERS: dict[str, Callable[[Mapping[str, Any]], _Declared]] = {
    "config.json": _timm,
    "open_clip_config.json": _open_clip,
    "preprocessor_config.json": _transformers,
}


def _renamed(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of some settings under other names, without those that are missing."""
    return {name: settings[key] for key, name in names.items() if settings.get(key) is not None}


def _one_of(name: str, value: Any, known: Mapping[Any, str]) -> str:
    """Return this tool's word for a file's. Raises `ValueError` for one without."""
    if isinstance(value, (str, int)) and value in known:
        return known[value]
    raise ValueError(f"{name} is {str(value)[:80]}, and {' or '.join(map(str, known))} can be done here")


def _number(value: Any) -> float:
    """Return a number. Raises `ValueError` for anything else."""
    return msgspec.convert(value, float)


def _side(size: Any) -> float | None:
    """Return the pixels of a side, which transformers writes in three ways; None where there are none."""
    if isinstance(size, dict):
        sides = cast("dict[str, Any]", size)
        size = next((sides[name] for name in ("shortest_edge", "height") if name in sides), None)
    return None if size is None else _number(size)
