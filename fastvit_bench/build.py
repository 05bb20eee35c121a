"""From weights to a proved file: load, fuse, export, compare, and only then give the file its name."""

import functools
import glob
import hashlib
import importlib.resources
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import fastvit_bench
from fastvit_bench import backends
from fastvit_bench.digests import file_sha256
from fastvit_bench.errors import CheckpointError, ChecksumError, ParityError, UsageError
from fastvit_bench.records import (
    Artifact,
    Device,
    ExportJob,
    Fuse,
    Fusing,
    Head,
    ModelFacts,
    ModelSpec,
    Shape,
    Weights,
    artifact_key,
)
from fastvit_bench.variants import VARIANTS

if TYPE_CHECKING:
    from fastvit_bench.network.fastvit import FastViT


def weights_of(spec: ModelSpec, seed: int) -> Weights:
    """Identity of the numbers a model will have: its checkpoint's hash, or the seed of random ones.

    Raises `CheckpointError` for a file that is not there and `ChecksumError` for one that is not the configured one.
    """
    if spec.checkpoint is None:
        return Weights(origin="random", seed=seed)
    path = Path(spec.checkpoint)
    try:
        digest = file_sha256(path)
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
) -> ExportJob:
    """What to export for a model on a device. Without `path` the file is named after its key, in `folder`/MODEL/."""
    backend = backends.get(device.backend)
    toolchain = {"fastvit-bench": _own_version(), **backends.toolchain(backend)}
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
        device=msgspec.structs.replace(device, options=backend.options(device)),
        toolchain=toolchain,
        path="",
    )
    if path is None:
        parts = (spec.name, shape.size, f"b{shape.batch}", device.precision, fused, artifact_key(asked))
        path = folder / spec.name / ("_".join(parts) + backend.suffix)
    return msgspec.structs.replace(asked, path=str(path))


def sidecar(path: Path) -> Path:
    """The JSON file beside an exported one that holds its `Artifact`."""
    return path.with_name(path.name + ".json")


def cached(asked: ExportJob) -> Artifact | None:
    """The artifact of an earlier export that is what `asked` would make, or None. Its file's hash is checked."""
    path = Path(asked.path)
    try:
        artifact = msgspec.json.decode(sidecar(path).read_bytes(), type=Artifact)
        digest = file_sha256(path)
    except (OSError, msgspec.MsgspecError):
        return None
    same = artifact.key == artifact_key(asked) and artifact.sha256 == digest and artifact.parity.passed
    return artifact if same else None


def build(asked: ExportJob) -> Artifact:
    """Export a network and prove the file against it; returns the artifact whose side-car was written.

    Nothing bears the final name before the proof: a file that fails it stays beside as ``*.rejected`` and raises
    `ParityError`; any other failure leaves nothing behind. `CheckpointError`, `UsageError` as their names say.
    """
    from fastvit_bench.measure import parity
    from fastvit_bench.network import cost, reparam

    backend = backends.get(asked.backend)
    if asked.precision not in backend.precisions:
        raise UsageError(
            f"The {backend.name} backend exports {' or '.join(backend.precisions)}, not {asked.precision}; "
            f"change the precision of device '{asked.device.name}'."
        )
    reference = _reference(asked.checkpoint, asked.weights, asked.variant, asked.head, asked.classes)
    if asked.fused is Fuse.NONE and reference.form == "fused":
        raise UsageError(
            f"{asked.checkpoint} holds the fused form, whose branches are gone; export it with --fuse fused or folded."
        )
    network = reparam.at_level(reference, asked.fused)
    price = cost.count(network, asked.shape)
    path = Path(asked.path)
    draft = path.with_name(f".{path.name}.{os.getpid()}{backend.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_up(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        backend.export(network, asked.shape, asked.precision, draft, _metadata(asked))
        with backend.open(draft, asked.device) as session:
            proof = parity.prove(reference, session, asked.shape, asked.precision)
        content = draft.read_bytes()
        artifact = Artifact(
            model=asked.model,
            variant=asked.variant,
            head=reference.head_kind,
            classes=reference.classes,
            backend=asked.backend,
            precision=asked.precision,
            shape=asked.shape,
            fused=asked.fused,
            weights=asked.weights,
            toolchain=asked.toolchain,
            path=path.name if proof.passed else path.name + ".rejected",
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            params=price.params,
            macs=price.macs,
            parity=proof,
        )
        final = path.with_name(artifact.path)
        notes = draft.with_suffix(".json")
        try:
            notes.write_bytes(msgspec.json.format(msgspec.json.encode(artifact), indent=2) + b"\n")
            draft.replace(final)
            notes.replace(sidecar(final))
        finally:
            notes.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)
    if not proof.passed:
        raise ParityError(
            f"{path.name} does not compute what the network computes: {proof.reason}. It was kept as {final}."
        )
    return artifact


def _sweep_up(path: Path) -> None:
    """Remove what killed processes left of this file; a draft's name ends in the number of its process."""
    import psutil

    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        owner = draft.name.removeprefix(f".{path.name}.").split(".")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            draft.unlink(missing_ok=True)


def check_checkpoint(spec: ModelSpec) -> None:
    """Raise `CheckpointError` or `ChecksumError` unless the model's checkpoint can be used; random weights always can.

    A sweep asks before it begins, so that one wrong file is one sentence and not a failure of every cell.
    """
    if spec.checkpoint is not None:
        _loaded(spec.checkpoint, spec.variant, spec.head, spec.sha256)


def _loaded(checkpoint: str, variant: str, head: Head, sha256: str | None) -> "FastViT":
    """The network of a checkpoint that must be of a variant, and dense where a dense one was declared."""
    from fastvit_bench.network import checkpoint as files

    expected = head if head is Head.DENSE else None  # a classifier is what no setting at all means
    return files.load(Path(checkpoint), variant=variant, head=expected, sha256=sha256).network


EXACT = 1e-9  # largest relative difference, in float64, that the fusing algebra may make


def fuse_file(checkpoint: Path, output: Path) -> Fusing:
    """Fuse a weight file and save it in the published fused layout; returns what was done and how exact it is.

    The saved file is loaded again and compared too. Raises `ParityError` where the algebra is not exact, and then
    nothing is written; `CheckpointError` and `UsageError` as `network.checkpoint` does.
    """
    from fastvit_bench.measure import parity
    from fastvit_bench.network import checkpoint as files
    from fastvit_bench.network import reparam

    loaded = files.load(checkpoint)
    reference = loaded.network.double()
    shape = Shape(batch=1, height=256, width=256)
    networks = {level: reparam.at_level(reference, level) for level in Fuse}
    differences = {level: parity.difference(reference, network, shape) for level, network in networks.items()}
    worst = max(differences.values())
    if not worst < EXACT:
        raise ParityError(f"Fusing {checkpoint} changes its outputs by {worst:.1e}, more than {EXACT:.0e} allows.")
    files.save(reparam.fuse(reference), output, source=loaded.weights)
    saved = files.load(output, variant=loaded.variant).network.double()
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
    import torch

    from fastvit_bench.network import cost
    from fastvit_bench.network.fastvit import FastViT, Form
    from fastvit_bench.network.folded import FoldedFastViT

    variant, head, classes = VARIANTS[spec.variant], spec.head, spec.classes
    shape = Shape(batch=1, height=spec.resolution, width=spec.resolution)
    with torch.device("meta"):
        networks = {
            Fuse.NONE: FastViT(variant, head=head, classes=classes),
            Fuse.FUSED: FastViT(variant, head=head, classes=classes, form=Form.FUSED),
            Fuse.FOLDED: FoldedFastViT(variant, head=head, classes=classes),
        }
    folder = models / spec.name
    files = sorted(path.name for suffix in ("*.pth.tar", "*.safetensors") for path in folder.glob(suffix))
    return ModelFacts(
        spec=spec,
        params={level: sum(p.numel() for p in network.parameters()) for level, network in networks.items()},
        gmacs=cost.count(networks[Fuse.FOLDED], shape).macs / 1e9,
        checkpoints=tuple(files),
    )


@functools.lru_cache(maxsize=1)
def _reference(checkpoint: str | None, weights: Weights, variant: str, head: Head, classes: int) -> "FastViT":
    """The network in float64 as its weights come; kept for the next size of the same model."""
    from fastvit_bench.network import checkpoint as files

    if checkpoint is None:
        assert weights.seed is not None
        network, _ = files.randomised(variant, head, classes, weights.seed)
    else:
        network = _loaded(checkpoint, variant, head, weights.sha256)
    return network.double().eval()


def _metadata(asked: ExportJob) -> dict[str, str]:
    """What the file says of itself."""
    facts = {
        "version": fastvit_bench.__version__,
        "model": asked.model,
        "variant": asked.variant,
        "fused": asked.fused,
        "precision": asked.precision,
        "resolution": asked.shape.size,
        "batch": str(asked.shape.batch),
        "weights": asked.weights.origin,
        "checkpoint_sha256": asked.weights.sha256 or "",
        "checkpoint_file": asked.weights.file or "",
        "seed": "" if asked.weights.seed is None else str(asked.weights.seed),
    }
    return {f"fastvit_bench.{name}": str(value) for name, value in facts.items() if value}


@functools.cache
def _own_version() -> str:
    """Version of this tool, and a digest of the sources that shape a file: an edited clone never reuses old files."""
    package = importlib.resources.files(fastvit_bench)
    digest = hashlib.sha256()
    for room in ("network", "backends"):
        for source in sorted(package.joinpath(room).iterdir(), key=lambda entry: entry.name):
            if source.name.endswith(".py"):
                digest.update(source.read_bytes())
    return f"{fastvit_bench.__version__}+{digest.hexdigest()[:8]}"
