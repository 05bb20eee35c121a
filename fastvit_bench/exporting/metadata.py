"""Write and read the metadata of exported files, and name the files beside them."""

import functools
import hashlib
import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import fastvit_bench
from fastvit_bench import backends, files
from fastvit_bench.backends import _sidecars
from fastvit_bench.backends._text import printable
from fastvit_bench.errors import UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import (
    Artifact,
    Device,
    ExportJob,
    Fuse,
    Gelu,
    Head,
    Preparation,
    Shape,
    Weights,
)

if TYPE_CHECKING:
    from fastvit_bench.network.cost import Cost


def reference_outputs_path(path: Path) -> Path:
    """Return the path of the file beside an exported one that holds the reference outputs for the fixed images."""
    return path.with_name(path.name + ".expected.npz")


def metadata_path(path: Path) -> Path:
    """Return the path of the JSON file beside an exported one that holds its `Artifact`."""
    return path.with_name(path.name + ".json")


def read_artifact(path: Path) -> Artifact:
    """Return the artifact in the side-car of the exported file at `path`, whose content is not looked at.

    The name in it becomes that of the file, since both may be renamed together. Raises `UsageError`, in one sentence,
    where there is no side-car, for one that is damaged, and for one that describes a file elsewhere or of an
    impossible size.
    """
    notes = metadata_path(path)
    try:
        artifact = _sidecars.read(notes, Artifact)
    except FileNotFoundError:
        raise UsageError(f"{path} has no {notes.name} beside it, which says what it is; export it again.") from None
    if not files.is_part(artifact.path):
        raise UsageError(f"{notes} describes the file '{artifact.path}' elsewhere; export it again.")
    try:
        require_plausible((artifact.shape, *artifact.functions), artifact.classes)
    except ValueError as error:
        raise UsageError(f"{notes} is not what fastvit-bench writes: {error}; export it again.") from None
    return msgspec.structs.replace(artifact, path=path.name)


# Most that an exported file may be for. A file or side-car that claims more is a stranger's or damaged, and memory
# would be taken for what it claims.
LARGEST_BATCH, MOST_PIXELS = 65_536, 2**31  # images; pixels of all images of a batch
MOST_CLASSES, MOST_SHAPES, MOST_CHANNELS = 10_000_000, 100, 1024


def require_plausible(shapes: Sequence[Shape], classes: int = 0) -> None:
    """Raise `ValueError` for shapes and numbers of classes that no exported file has."""
    if len(shapes) > MOST_SHAPES:
        raise ValueError(f"it has {len(shapes)} shapes, and at most {MOST_SHAPES} are possible")
    if not 0 <= classes <= MOST_CLASSES:
        raise ValueError(f"it has {classes} classes, and at most {MOST_CLASSES} are possible")
    for shape in shapes:
        sides = (shape.height, shape.width)
        if not (min(sides) >= 1 and max(sides) <= registry.LARGEST_SIDE and 1 <= shape.batch <= LARGEST_BATCH):
            raise ValueError(f"images of {shape.size} pixels in batches of {shape.batch} are impossible")
        if not 1 <= shape.channels <= MOST_CHANNELS:
            raise ValueError(f"images of {shape.channels} channels are impossible")
        if shape.batch * shape.height * shape.width > MOST_PIXELS:
            raise ValueError(f"batches of {shape.batch} images of {shape.size} pixels are too large")


def at_size(artifact: Artifact, shape: Shape) -> Artifact:
    """Return the artifact of a file of several sizes at one of them, with that shape's multiply-accumulates.

    Raises `UsageError` for an artifact, perhaps known from a report only, whose network this version does not know.
    """
    from fastvit_bench.network import cost, factory

    try:
        if artifact.level is None:
            raise UsageError(f"'{artifact.variant}' is a file of the user's")
        layout = backends.get(artifact.backend).layout(artifact)
        asked = (artifact.variant, artifact.head, artifact.classes, artifact.level)
        network = factory.skeleton(*asked, shape, layout, pad=artifact.pad)
    except (KeyError, UsageError) as error:
        raise UsageError(
            f"The metadata of {artifact.model} names settings that this version does not know: {error}."
        ) from None
    return msgspec.structs.replace(artifact, shape=shape, macs=cost.count(network, shape).macs)


_PREFIX = "fastvit_bench."  # of the keys of metadata


def metadata_entries(asked: ExportJob, price: "Cost") -> dict[str, str]:
    """Return the metadata of a file to be written, from which it can be identified without its side-car."""
    facts = {
        "version": fastvit_bench.__version__,
        "model": asked.model,
        "variant": asked.variant,
        "head": asked.head,
        "classes": str(asked.classes),
        "fused": asked.fused,
        "precision": asked.precision,
        "resolution": asked.shape.size,
        "batch": str(asked.shape.batch),
        "channels": str(asked.shape.channels) if asked.shape.channels != 3 else "",
        "gelu": asked.gelu if asked.gelu != "erf" else "",
        "pad": "zeros, right and below" if asked.pad else "",
        "normalize": "L2" if asked.normalize else "",
        "weights": asked.weights.origin,
        "checkpoint_sha256": asked.weights.sha256 or "",
        "checkpoint_file": asked.weights.file or "",
        "checkpoint_entry": asked.weights.entry or "",
        "checkpoint_contents": asked.contents,
        "seed": "" if asked.weights.seed is None else str(asked.weights.seed),
        "draw": str(asked.weights.draw) if asked.weights.draw > 1 else "",
        "toolchain": _compact(asked.toolchain),
        "options": _compact(asked.options) if asked.options else "",
        "preparation": _compact(asked.preparation) if asked.preparation else "",
        "functions": " ".join(shape.size for shape in asked.functions),
        "labels": "\n".join(asked.labels),
        "params": str(price.params),
        "macs": str(price.macs),
        "key": asked.key,
    }
    return {_PREFIX + name: str(value) for name, value in facts.items() if value}


def _compact(value: object) -> str:
    """Return a value as JSON with sorted keys."""
    return msgspec.json.encode(value, order="sorted").decode()


def recognise(metadata: Mapping[str, str], backend: str, models: Path) -> Artifact | None:
    """Return the artifact that a file's `metadata` describes, or None if this tool did not write the file.

    A side-car with the file's key in the `models` folder is preferred. Without one, the artifact has no hash and no
    proof.
    """
    described = _described(metadata, backend)
    if described is None:
        return None
    for notes in sorted(models.glob(f"*/*{backends.get(backend).suffix}.json")):
        try:
            noted = read_artifact(notes.with_suffix(""))
        except UsageError:
            continue
        if noted.key == metadata[_PREFIX + "key"]:
            return noted
    return described


def is_own(metadata: Mapping[str, str]) -> bool:
    """Return whether a file's metadata has the keys that this tool writes."""
    return {_PREFIX + name for name in ("key", "model", "variant")} <= metadata.keys()


def _described(metadata: Mapping[str, str], backend: str) -> Artifact | None:
    """Return the artifact that metadata describes, without path, hash and proof.

    Returns None for metadata without this tool's keys. Raises `UsageError` for values that this tool does not write.
    """
    if not is_own(metadata):
        return None
    facts = {name.removeprefix(_PREFIX): value for name, value in metadata.items() if name.startswith(_PREFIX)}
    try:
        for name in ("model", "variant", "precision"):
            if printable(facts[name]) != facts[name]:
                raise ValueError(f"its {name} is no text that can be shown")
        batch, channels = _number(facts["batch"]), _number(facts.get("channels", "3"))
        sizes = [_shape(size, batch, channels) for size in facts.get("functions", "").split()]
        require_plausible((_shape(facts["resolution"], batch, channels), *sizes), _number(facts["classes"], least=0))
        return Artifact(
            model=facts["model"],
            variant=facts["variant"],
            head=Head(facts["head"]),
            classes=_number(facts["classes"], least=0),
            backend=backend,
            precision=facts["precision"],
            shape=_shape(facts["resolution"], batch, channels),
            fused=None if facts["variant"] == registry.ONNX else Fuse(facts["fused"]),
            weights=msgspec.convert(
                {
                    "origin": facts["weights"],
                    "sha256": facts.get("checkpoint_sha256"),
                    "file": facts.get("checkpoint_file"),
                    "entry": facts.get("checkpoint_entry"),
                    "seed": _number(facts["seed"], least=0) if "seed" in facts else None,
                    "draw": _number(facts.get("draw", "1")),
                },
                Weights,
            ),
            toolchain=msgspec.json.decode(facts["toolchain"], type=dict[str, str]),
            path="",
            sha256=None,
            size_bytes=0,
            params=_number(facts["params"]),
            macs=_number(facts["macs"]),
            parity=None,
            options=msgspec.json.decode(facts.get("options", "{}"), type=dict[str, str]),
            functions=tuple(sizes),
            gelu=msgspec.convert(facts.get("gelu", "erf"), Gelu),
            pad="pad" in facts,
            normalize="normalize" in facts,
            contents=printable(facts.get("checkpoint_contents", "")),
            preparation=msgspec.json.decode(facts.get("preparation", "null"), type=Preparation | None),
        )
    except (KeyError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UsageError(
            f"The file's metadata is not what fastvit-bench writes ({type(error).__name__}: {printable(error)}); "
            f"it was changed, or written by another version."
        ) from None


def _shape(size: str, batch: int, channels: int) -> Shape:
    """Return the shape of a size such as ``256`` or ``384x512``, the inverse of `Shape.size`."""
    height, _, width = size.partition("x")
    return Shape(batch=batch, height=_number(height), width=_number(width or height), channels=channels)


def _number(text: str, least: int = 1) -> int:
    """Return a number of a file's metadata. Raises `ValueError` unless it is in `least` .. 2**53 - 1."""
    number = int(text)
    if not least <= number < 2**53:
        raise ValueError("a number is out of range")
    return number


def asked_for(path: Path, backend: backends.Backend) -> ExportJob:
    """Return the job that a file was exported by, from its metadata.

    Raises `UsageError` if this tool did not write the file, and for metadata that it does not write: they may be a
    stranger's, and memory is taken for what they say.
    """
    metadata = backend.metadata(path)
    known = _described(metadata, backend.name)
    if known is None:
        raise UsageError(f"{path} was not written by fastvit-bench: it does not say which network it holds.")
    try:
        _require_exportable(known, backend)
    except (ValueError, UsageError) as error:
        reason = printable(error).rstrip(".")
        raise UsageError(f"The metadata of {path} are not what fastvit-bench writes: {reason}.") from None
    bare = Device(
        name=backend.target,
        backend=backend.name,
        precision=known.precision,
        batch=known.shape.batch,
        options={name: value for name, value in known.options.items() if name in backend.export_options},
    )
    options = backend.options(bare)
    labels = metadata.get(_PREFIX + "labels", "")
    return ExportJob(
        model=known.model,
        variant=known.variant,
        head=known.head,
        classes=known.classes,
        checkpoint=None,
        weights=known.weights,
        backend=known.backend,
        precision=known.precision,
        shape=known.shape,
        fused=known.fused,
        device=msgspec.structs.replace(bare, options=options),
        toolchain=known.toolchain,
        path=str(path),
        options=backends.shaping_options(backend, options),
        functions=known.functions,
        preparation=known.preparation,
        gelu=known.gelu,
        pad=known.pad,
        normalize=known.normalize,
        labels=tuple(labels.split("\n")) if labels else (),
    )


def _require_exportable(known: Artifact, backend: backends.Backend) -> None:
    """Raise `ValueError` or `UsageError` unless this version could have exported what a file's metadata describe."""
    if known.precision not in backend.precisions:
        raise ValueError(f"the {backend.name} backend has {' and '.join(backend.precisions)}, not {known.precision}")
    weights = known.weights
    if weights.origin == "random" and weights.seed is None:
        raise ValueError("they have no seed of the random weights")
    if weights.origin == "checkpoint" and not (
        re.fullmatch("[0-9a-f]{64}", weights.sha256 or "") and printable(weights.file) == weights.file
    ):
        raise ValueError("they name no checkpoint by its file and its SHA-256")
    if not registry.known(known.variant):
        raise ValueError(f"there is no network '{known.variant}'")
    if known.variant == registry.ONNX and weights.origin == "random":
        raise ValueError("an ONNX file has no random weights")
    for shape in (known.shape, *known.functions):
        registry.check_size(shape.height, shape.width, 1 if known.pad else registry.find(known.variant).stride)


SHAPING_FOLDERS = ("network", "backends", "exporting")  # their code decides the content of an exported file


@functools.cache
def own_version() -> str:
    """Return this tool's version with a digest of the sources that decide the content of exported files.

    So an edited clone never reuses files of an earlier state.
    """
    digest = hashlib.sha256()
    for folder in SHAPING_FOLDERS:
        for source in _sources(importlib.resources.files(fastvit_bench).joinpath(folder)):
            digest.update(b"\0" + source.name.encode() + b"\0" + source.read_bytes())
    return f"{fastvit_bench.__version__}+{digest.hexdigest()[:8]}"


def _sources(folder: Traversable) -> Iterator[Traversable]:
    """Yield the Python files below a folder, sorted by name."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry
