"""From weights to a proved file: load, fuse, export, compare, and only then give the file its name."""

import functools
import glob
import hashlib
import importlib.resources
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

import fastvit_bench
from fastvit_bench import backends, catalogue, files
from fastvit_bench.backends import HALF_WEIGHTS, INPUT, Images
from fastvit_bench.errors import (
    CheckpointError,
    ChecksumError,
    MismatchError,
    ParityError,
    UnavailableError,
    UsageError,
)
from fastvit_bench.records import (
    DRAW,
    Artifact,
    Device,
    ExportJob,
    Fuse,
    Fusing,
    HalfWeights,
    Head,
    ModelFacts,
    ModelSpec,
    Parity,
    Shape,
    Weights,
)

if TYPE_CHECKING:
    from fastvit_bench.backends import Session
    from fastvit_bench.measure.parity import Expected
    from fastvit_bench.network.cost import Cost
    from fastvit_bench.network.families import Reference
    from fastvit_bench.network.fastvit import FastViT


def weights_of(spec: ModelSpec, seed: int) -> Weights:
    """Identity of the numbers a model will have: its checkpoint's hash, or the seed of random ones.

    Raises `CheckpointError` for a file that is not there and `ChecksumError` for one that is not the configured one.
    """
    if spec.checkpoint is None:
        return Weights(origin="random", seed=seed, draw=DRAW)
    path = Path(spec.checkpoint)
    try:
        digest = files.file_sha256(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; check the path; `fastvit-bench download` brings published checkpoints."
        ) from None
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror}.") from None
    if spec.sha256 is not None and spec.sha256.lower() != digest:
        raise ChecksumError(
            f"{path} has the SHA-256 {digest}, but the configuration of '{spec.name}' says {spec.sha256}; "
            f"put the right file there, or correct the configuration."
        )
    return Weights(origin="checkpoint", sha256=digest, file=path.name)


def job(
    spec: ModelSpec,
    weights: Weights,
    shape: Shape,
    fused: Fuse,
    device: Device,
    *,
    folder: Path,
    path: Path | None = None,
    functions: tuple[Shape, ...] = (),
    labels: tuple[str, ...] = (),
) -> ExportJob:
    """What to export for a model on a device. Without `path` the file is named after its key, in `folder`/MODEL/.

    `functions` are all shapes of a file that takes several, `shape` first; `labels` are class names to put into it.
    """
    backend = backends.get(device.backend)
    options = backend.options(device)
    shaping = {name: str(options[name]) for name in backend.shaping if options[name] != ""}
    if labels:
        shaping["labels"] = hashlib.sha256("\n".join(labels).encode()).hexdigest()[:16]
    catalogue.require(spec.variant)
    toolchain = {"fastvit-bench": _own_version(), **backends.toolchain(backend)}
    if catalogue.find(spec.variant).family == "zoo":
        toolchain |= backends.versions(("timm",))
    asked = ExportJob(
        model=spec.name,
        variant=spec.variant,
        head=spec.head,
        classes=spec.classes,
        checkpoint=spec.checkpoint,
        weights=weights,
        backend=device.backend,
        precision=device.precision,
        shape=shape,
        fused=fused,
        device=msgspec.structs.replace(device, options=options),
        toolchain=toolchain,
        path="",
        options=shaping,
        functions=functions,
        labels=labels,
    )
    if path is None:
        name = spec.name.replace(":", "-")  # of networks of timm's, for file systems that mind
        parts = (name, shape.size, f"b{shape.batch}", device.precision, fused, asked.key)
        path = folder / name / ("_".join(parts) + backend.suffix)
    return msgspec.structs.replace(asked, path=str(path))


def expected_file(path: Path) -> Path:
    """The file beside an exported one with what the reference network makes of the fixed images."""
    return path.with_name(path.name + ".expected.npz")


def sidecar(path: Path) -> Path:
    """The JSON file beside an exported one that holds its `Artifact`."""
    return path.with_name(path.name + ".json")


def cached(asked: ExportJob) -> Artifact | None:
    """The artifact of an earlier export that is what `asked` would make, or None. Its file's hash is checked."""
    path = Path(asked.path)
    try:
        artifact = msgspec.json.decode(sidecar(path).read_bytes(), type=Artifact)
        digest = files.sha256(path)
    except (OSError, msgspec.MsgspecError):
        return None
    proved = artifact.parity is not None and artifact.parity.passed
    same = artifact.key == asked.key and artifact.sha256 == digest
    return artifact if proved and same and expected_file(path).is_file() else None


def build(asked: ExportJob) -> Artifact:
    """Export a network and prove the file against it; returns the artifact whose side-car was written.

    Nothing bears the final name before the proof: a file that fails it stays beside as ``*.rejected`` and raises
    `ParityError`; any other failure leaves nothing behind. `CheckpointError`, `UsageError` as their names say.
    """
    from fastvit_bench.measure import parity

    backend = backends.get(asked.backend)
    if asked.precision not in backend.precisions:
        raise UsageError(
            f"The {backend.name} backend exports {' or '.join(backend.precisions)}, not {asked.precision}; "
            f"change the precision of device '{asked.device.name}'."
        )
    path = Path(asked.path)
    # a file that is named after its key is ours, even if its side-car was never finished
    if path.exists() and not sidecar(path).is_file() and asked.key not in path.name:
        raise UsageError(
            f"{path} exists and was not written by fastvit-bench: no {sidecar(path).name} lies beside it. "
            f"Remove it, or name another place with -o."
        )
    if (refused := files.refusal(path.parent)) is not None:
        raise UsageError(f"{path} cannot be written: {refused}.")
    source = _source(asked, backend)
    asked = source.asked
    draft = path.with_name(f".{path.name}.{os.getpid()}{backend.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_up(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        source.write(draft, _metadata(asked, source.price))
        proofs = _prove(source.wanted, draft, asked)
        proof = max(proofs.values(), key=lambda each: (not each.passed, each.spent))
        artifact = Artifact(
            model=asked.model,
            variant=asked.variant,
            head=asked.head,
            classes=asked.classes,
            backend=asked.backend,
            precision=asked.precision,
            shape=asked.shape,
            fused=asked.fused,
            weights=asked.weights,
            toolchain=asked.toolchain,
            path=path.name if proof.passed else path.name + ".rejected",
            sha256=files.sha256(draft),
            size_bytes=files.size_bytes(draft),
            params=source.price.params,
            macs=source.price.macs,
            parity=proof,
            proofs=proofs if len(proofs) > 1 else {},
            options=asked.options,
            functions=asked.functions,
            operations=backend.operations(draft),
            half_weights=_half_weights(backend.metadata(draft)),
            traffic=backend.traffic(draft, asked.shape),
        )
        final = path.with_name(artifact.path)
        notes, outputs = draft.with_suffix(".json"), draft.with_suffix(".npz")
        try:
            notes.write_bytes(msgspec.json.format(msgspec.json.encode(artifact), indent=2) + b"\n")
            if proof.passed:
                with outputs.open("wb") as file:
                    parity.save(source.wanted.of(asked.shape), file)
                outputs.replace(expected_file(final))
            files.put(draft, final)
            notes.replace(sidecar(final))
        finally:
            notes.unlink(missing_ok=True)
            outputs.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        files.remove(draft)
    if not proof.passed:
        raise ParityError(
            f"{path.name} does not compute what the network computes: {proof.reason}. It was kept as {final}."
        )
    return artifact


def _half_weights(metadata: Mapping[str, str]) -> HalfWeights | None:
    noted = metadata.get(HALF_WEIGHTS)
    return msgspec.json.decode(noted, type=HalfWeights) if noted else None


class Wanted:
    """The outputs that a file must have for the fixed images, computed once for each shape and form of them."""

    def __init__(self, compute: "Callable[[Shape, Images], Expected]") -> None:
        self._compute = compute
        self._found: dict[tuple[Shape, Images], Expected] = {}

    def outputs(self, shape: Shape, form: Images) -> "Expected":
        """For images of that shape in that form."""
        if (shape, form) not in self._found:
            self._found[shape, form] = self._compute(shape, form)
        return self._found[shape, form]

    def of(self, shape: Shape) -> "Expected":
        """Those asked for first for that shape: a file has one form."""
        return next(found for (each, _), found in self._found.items() if each == shape)


@dataclass(frozen=True)
class _Source:
    """What a file is made from."""

    asked: ExportJob  # with what only the network itself tells
    price: "Cost"
    wanted: Wanted
    write: Callable[[Path, dict[str, str]], None]  # to a path, with metadata


def _source(asked: ExportJob, backend: backends.Backend) -> _Source:
    return _from_file(asked, backend) if asked.variant == catalogue.ONNX else _from_network(asked, backend)


def _from_network(asked: ExportJob, backend: backends.Backend) -> _Source:
    from fastvit_bench.measure import parity
    from fastvit_bench.network import cost, families

    # only networks with tables of positions depend on the size, and the others are not made anew for each
    shape = asked.shape if catalogue.find(asked.variant).sized else None
    reference = _reference(asked.checkpoint, asked.weights, asked.variant, asked.head, asked.classes, shape)
    if asked.fused is Fuse.NONE and reference.form == "fused":
        raise UsageError(
            f"{asked.checkpoint} holds the fused form, whose branches are gone; export it with --fuse fused or folded."
        )
    asked = msgspec.structs.replace(asked, head=reference.head, classes=reference.classes)
    network = families.at_level(asked.variant, reference, asked.fused, backend.layout(asked.options))
    return _Source(
        asked,
        cost.count(network, asked.shape),
        Wanted(lambda shape, form: parity.expected(reference, shape, form)),
        lambda path, metadata: backend.export(network, asked, path, metadata),
    )


def _from_file(asked: ExportJob, backend: backends.Backend) -> _Source:
    """Of an ONNX file that was given: what it must compute is what its operators compute one by one."""
    from fastvit_bench.backends import _given, _onnx, _traffic
    from fastvit_bench.measure import parity
    from fastvit_bench.network.cost import Cost

    assert asked.checkpoint is not None
    given = Path(asked.checkpoint)
    if not backend.adopts or asked.precision != "fp32":
        raise UsageError(
            f"{given.name} is an ONNX file, which ONNX Runtime runs as it is; device '{asked.device.name}' takes "
            f"{backend.target} files in {asked.precision}."
        )
    model = _given.adopted(given, asked.shape)

    def outputs(shape: Shape, form: Images) -> "Expected":
        name, how = given.name, f"operators of {given.name} one by one in ONNX Runtime, {INPUT} from N(0, 1)"
        with _onnx.unoptimised(name, model.SerializeToString(), backends.available_cores()) as session:
            return parity.expected_of(session, shape, how)

    counted = _traffic.of(_given.copy(model), asked.shape, given.name)
    return _Source(
        msgspec.structs.replace(asked, head=Head.CLASSIFIER, classes=_given.classes(model)),
        Cost(params=counted.params, macs=counted.macs),
        Wanted(outputs),
        lambda path, metadata: _given.write(model, path, metadata),
    )


def _prove(wanted: Wanted, path: Path, asked: ExportJob) -> dict[str, Parity]:
    """The proof of everything in a file, by what was looked at."""
    found: dict[str, Parity] = {}
    for look in backends.get(asked.backend).proofs(path, asked):
        with look.session as session:
            known = wanted.outputs(look.shape, session.images)
            found[look.name] = _compare(known, session, asked, look.how, look.subject)
    return found


def _compare(
    known: "Expected", session: "Session", made: ExportJob | Artifact, how: str, subject: Literal["file", "hardware"]
) -> Parity:
    from fastvit_bench.measure import parity

    compress, random = made.options.get("compress", "none"), made.weights.origin == "random"
    return parity.prove(known, session, made.precision, how=how, compress=compress, random=random, subject=subject)


def check(session: "Session", path: Path, made: ExportJob | Artifact, how: str) -> Parity:
    """Compare what a session of a proved file computes on its device with the reference outputs kept beside it.

    Raises `ParityError` where it is something else; `UsageError` where no such outputs are there.
    """
    from fastvit_bench.measure import parity

    found = _compare(parity.load(expected_file(path)), session, made, how, "hardware")
    if not found.passed:
        raise ParityError(f"{how} computes something else than the network: {found.reason}.")
    return found


def build_engine(asked: ExportJob) -> Parity | None:
    """Build the engine of a proved file, and compare what it computes; None where it cannot be run on this machine.

    For a process of its own, which native code may end. Raises what `backends.Engines.build` does, `ParityError` for
    an engine that computes something else, and `UsageError` where the disk refuses.
    """
    backend, path = backends.get(asked.backend), Path(asked.path)
    assert backend.engines is not None
    try:
        backend.engines.build(path, asked.device)
        if backend.absent(asked.device):
            return None
        try:
            hardware = backend.identify(asked.device)
        except MismatchError:  # built ahead of time, for another GPU than the one here
            return None
        with backend.open(path, asked.device) as session:
            found = check(session, path, asked, f"the engine on {hardware.name if hardware else 'this machine'}")
        backend.engines.note(path, asked.device, found)
    except OSError as error:
        raise UsageError(f"The engine of {path} cannot be written: {error.strerror or error}.") from error
    return found


def verify(path: Path, checkpoint: Path | None, models: Path) -> dict[str, Parity]:
    """Prove a file that this tool exported once more, as it lies on the disk; by what was looked at.

    What it is, is read from the file itself. The reference is the network of `checkpoint`, which must be the one it was
    made from; without, the checkpoint of that hash in the `models` folder, or the same random weights. Raises
    `ChecksumError` for a file that is damaged or is not the one its side-car describes, and `CheckpointError` where the
    weights are not to be found; a proof that fails is returned like one that does not.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist; `fastvit-bench export` writes such files.")
    try:
        asked = asked_for(path, backends.of_file(path))
    except UnavailableError as error:  # a file that cannot even be read computes nothing
        raise ChecksumError(str(error)) from error
    weights = asked.weights
    if weights.origin == "checkpoint":
        found = _checkpoint_of(weights, checkpoint, models)
        asked = msgspec.structs.replace(asked, checkpoint=str(found))
    elif checkpoint is not None:
        raise UsageError(f"{path} was made from random weights (seed {weights.seed}); leave the checkpoint out.")
    elif weights.draw != DRAW:
        raise CheckpointError(
            f"{path} was made from random weights as another version of fastvit-bench draws them; export it again."
        )
    try:
        noted = msgspec.json.decode(sidecar(path).read_bytes(), type=Artifact)
    except FileNotFoundError:
        pass  # the file went on its own way; what it says of itself is enough
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{sidecar(path)} cannot be read: {error}.") from None
    else:
        if noted.sha256 != files.sha256(path):
            raise ChecksumError(f"{path} is not the file that {sidecar(path).name} describes; export it again.")
    return _prove(_source(asked, backends.get(asked.backend)).wanted, path, asked)


def _checkpoint_of(weights: Weights, given: Path | None, models: Path) -> Path:
    """The checkpoint file with the hash of `weights`."""
    candidates = [given] if given else [path for path in models.rglob(weights.file or "") if path.is_file()]
    for path in candidates:
        try:
            if files.file_sha256(path) == weights.sha256:
                return path
        except OSError as error:
            raise CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror}.") from None
    if given:
        raise CheckpointError(f"{given} is not the checkpoint the file was made from, {weights.label}.")
    raise CheckpointError(
        f"The checkpoint {weights.label} is not in {models}/; name it with --checkpoint, so that there is something "
        f"to compare with."
    )


def _sweep_up(path: Path) -> None:
    """Remove what killed processes left of this file; a draft's name ends in the number of its process."""
    import psutil

    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        owner = draft.name.removeprefix(f".{path.name}.").split(".")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            files.remove(draft)


def check_checkpoint(spec: ModelSpec) -> None:
    """Raise `CheckpointError` or `ChecksumError` unless the model's checkpoint can be used; random weights always can.

    A sweep asks before it begins, so that one wrong file is one sentence and not a failure of every cell.
    """
    if spec.checkpoint is not None and spec.variant != catalogue.ONNX:
        _loaded(spec.checkpoint, spec.variant, spec.head, spec.sha256)


def answers_of(spec: ModelSpec) -> tuple[Head, int]:
    """What a model ends in, and its number of classes: as its checkpoint tells, or as declared for random weights."""
    if spec.checkpoint is None:
        return spec.head, spec.classes
    if spec.variant == catalogue.ONNX:
        from fastvit_bench.backends import _given

        shape = Shape(batch=1, height=spec.resolution, width=spec.resolution)
        return Head.CLASSIFIER, _given.classes(_given.adopted(Path(spec.checkpoint), shape))
    network = _loaded(spec.checkpoint, spec.variant, spec.head, spec.sha256)
    return network.head_kind, network.classes


def _loaded(checkpoint: str, variant: str, head: Head, sha256: str | None) -> "FastViT":
    """The network of a checkpoint that must be of a variant, and dense where a dense one was declared."""
    from fastvit_bench.network import checkpoint as checkpoints

    if catalogue.find(variant).family != "fastvit":
        raise UsageError(f"Weight files are read of FastViT's variants only, and not of {variant}; leave it out.")
    expected = head if head is not Head.CLASSIFIER else None  # a classifier is what no setting at all means
    return checkpoints.load(Path(checkpoint), variant=variant, head=expected, sha256=sha256).network


EXACT = 1e-9  # largest relative difference, in float64, that the fusing algebra may make


def fuse_file(checkpoint: Path, output: Path) -> Fusing:
    """Fuse a weight file and save it in the published fused layout; returns what was done and how exact it is.

    The saved file is loaded again and compared too. Raises `ParityError` where the algebra is not exact, and then
    nothing is written; `CheckpointError` and `UsageError` as `network.checkpoint` does.
    """
    from fastvit_bench.measure import parity
    from fastvit_bench.network import checkpoint as checkpoints
    from fastvit_bench.network import reparam

    loaded = checkpoints.load(checkpoint)
    reference = loaded.network.double()
    shape = Shape(batch=1, height=256, width=256)
    networks = {level: reparam.at_level(reference, level) for level in Fuse}
    differences = {level: parity.difference(reference, network, shape) for level, network in networks.items()}
    worst = max(differences.values())
    if not worst < EXACT:
        raise ParityError(f"Fusing {checkpoint} changes its outputs by {worst:.1e}, more than {EXACT:.0e} allows.")
    checkpoints.save(reparam.fuse(reference), output, source=loaded.weights)
    saved = checkpoints.load(output, variant=loaded.variant).network.double()
    return Fusing(
        variant=loaded.variant,
        head=loaded.head,
        classes=loaded.classes,
        form=loaded.form,
        kinds=dict(reparam.inventory(reference)),
        params={level: sum(p.numel() for p in network.parameters()) for level, network in networks.items()},
        norms={level: reparam.count_norms(network) for level, network in networks.items()},
        differences=differences,
        saved_difference=parity.difference(reference, saved, shape),
    )


def describe(spec: ModelSpec, models: Path) -> ModelFacts:
    """Count a model's parameters and multiply-accumulates, and look for its checkpoints; nothing is computed."""
    from fastvit_bench.network import cost, families

    shape = Shape(batch=1, height=spec.resolution, width=spec.resolution)
    size = (spec.resolution, spec.resolution)
    networks = {level: families.skeleton(spec.variant, spec.head, spec.classes, level, size) for level in Fuse}
    folder = models / spec.name
    files = sorted(path.name for suffix in ("*.pth.tar", "*.safetensors") for path in folder.glob(suffix))
    return ModelFacts(
        spec=spec,
        params={level: sum(p.numel() for p in network.parameters()) for level, network in networks.items()},
        gmacs=cost.count(networks[Fuse.FOLDED], shape).macs / 1e9,
        checkpoints=tuple(files),
    )


def at_size(made: Artifact, shape: Shape) -> Artifact:
    """A file of several sizes, as it is where it runs at one of them: with that shape and its multiply-accumulates.

    Raises `UsageError` where the artifact, which may be known from a report only, is of no network that is known here.
    """
    from fastvit_bench.network import cost, families

    try:
        layout = backends.get(made.backend).layout(made.options)
        size = (shape.height, shape.width)
        network = families.skeleton(made.variant, made.head, made.classes, made.fused, size, layout)
    except (KeyError, UsageError) as error:
        raise UsageError(f"{made.model} says that it is made in a way that is not known here: {error}.") from None
    return msgspec.structs.replace(made, shape=shape, macs=cost.count(network, shape).macs)


@functools.lru_cache(maxsize=1)
def _reference(
    checkpoint: str | None, weights: Weights, variant: str, head: Head, classes: int, shape: Shape | None
) -> "Reference":
    """The network in float64 as its weights come; kept for the next size of the same model."""
    from fastvit_bench.network import families

    if checkpoint is not None:
        return families.of(_loaded(checkpoint, variant, head, weights.sha256))
    assert weights.seed is not None
    return families.random(variant, head, classes, weights.seed, shape or Shape(batch=1, height=256, width=256))


_PREFIX = "fastvit_bench."  # of what a file says of itself


def _metadata(asked: ExportJob, price: "Cost") -> dict[str, str]:
    """What the file says of itself: enough to know it again, wherever it turns up."""
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
        "weights": asked.weights.origin,
        "checkpoint_sha256": asked.weights.sha256 or "",
        "checkpoint_file": asked.weights.file or "",
        "seed": "" if asked.weights.seed is None else str(asked.weights.seed),
        "draw": str(asked.weights.draw) if asked.weights.draw > 1 else "",
        "toolchain": _compact(asked.toolchain),
        "options": _compact(asked.options) if asked.options else "",
        "functions": " ".join(shape.size for shape in asked.functions),
        "labels": "\n".join(asked.labels),
        "params": str(price.params),
        "macs": str(price.macs),
        "key": asked.key,
    }
    return {_PREFIX + name: str(value) for name, value in facts.items() if value}


def _compact(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def recognise(metadata: Mapping[str, str], backend: str, models: Path) -> Artifact | None:
    """The artifact that a file's own `metadata` speaks of, or None where this tool did not write it.

    Its side-car in the `models` folder is taken if it is there. Without, the artifact has no hash and no proof.
    """
    described = _described(metadata, backend)
    if described is None:
        return None
    for notes in sorted(models.glob(f"*/*{backends.get(backend).suffix}.json")):
        try:
            noted = msgspec.json.decode(notes.read_bytes(), type=Artifact)
        except (OSError, msgspec.MsgspecError):
            continue
        if noted.key == metadata[_PREFIX + "key"]:
            return noted
    return described


def _described(metadata: Mapping[str, str], backend: str) -> Artifact | None:
    facts = {name.removeprefix(_PREFIX): value for name, value in metadata.items() if name.startswith(_PREFIX)}
    if not {"key", "model", "variant"} <= facts.keys():
        return None
    try:
        batch = _whole(facts["batch"])
        sizes = [_shape(size, batch) for size in facts.get("functions", "").split()]
        return Artifact(
            model=facts["model"],
            variant=facts["variant"],
            head=Head(facts["head"]),
            classes=_whole(facts["classes"], least=0),
            backend=backend,
            precision=facts["precision"],
            shape=_shape(facts["resolution"], batch),
            fused=Fuse(facts["fused"]),
            weights=msgspec.convert(
                {
                    "origin": facts["weights"],
                    "sha256": facts.get("checkpoint_sha256"),
                    "file": facts.get("checkpoint_file"),
                    "seed": _whole(facts["seed"], least=0) if "seed" in facts else None,
                    "draw": _whole(facts.get("draw", "1")),
                },
                Weights,
            ),
            toolchain=msgspec.json.decode(facts["toolchain"], type=dict[str, str]),
            path="",
            sha256=None,
            size_bytes=0,
            params=_whole(facts["params"]),
            macs=_whole(facts["macs"]),
            parity=None,
            options=msgspec.json.decode(facts.get("options", "{}"), type=dict[str, str]),
            functions=tuple(sizes),
        )
    except (KeyError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise UsageError(
            f"The file's metadata is not what fastvit-bench writes ({type(error).__name__}: {error}); "
            f"it was changed, or written by another version."
        ) from None


def _shape(size: str, batch: int) -> Shape:
    """The inverse of `Shape.size`."""
    height, _, width = size.partition("x")
    return Shape(batch=batch, height=_whole(height), width=_whole(width or height))


def _whole(text: str, least: int = 1) -> int:
    """A number as files say it of themselves; `ValueError` for one that no file of ours could say."""
    number = int(text)
    if not least <= number < 2**53:
        raise ValueError("a number is out of range")
    return number


def asked_for(path: Path, backend: backends.Backend) -> ExportJob:
    """The job a file was made by, read from the file; `UsageError` where this tool did not write it."""
    metadata = backend.metadata(path)
    known = _described(metadata, backend.name)
    if known is None:
        raise UsageError(f"{path} was not written by fastvit-bench: it does not say which network it holds.")
    bare = Device(
        name=backend.target,
        backend=backend.name,
        precision=known.precision,
        batch=known.shape.batch,
        options={name: value for name, value in known.options.items() if name in backend.shaping},
    )
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
        device=msgspec.structs.replace(bare, options=backend.options(bare)),
        toolchain=known.toolchain,
        path=str(path),
        options=known.options,
        functions=known.functions,
        labels=tuple(labels.split("\n")) if labels else (),
    )


@functools.cache
def _own_version() -> str:
    """Version of this tool, and a digest of the sources that shape a file: an edited clone never reuses old files."""
    digest = hashlib.sha256()
    for room in ("network", "backends"):
        for source in _sources(importlib.resources.files(fastvit_bench).joinpath(room)):
            digest.update(source.read_bytes())
    return f"{fastvit_bench.__version__}+{digest.hexdigest()[:8]}"


def _sources(folder: Traversable) -> Iterator[Traversable]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry
