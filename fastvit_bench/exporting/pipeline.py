"""Export a network: load, fuse, write, prove, and only then give the file its name."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench import backends, files
from fastvit_bench.backends import HALF_WEIGHTS, INPUT, Images, _sidecars
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import (
    CheckpointError,
    ChecksumError,
    FastViTBenchError,
    MismatchError,
    ParityError,
    UnavailableError,
    UsageError,
)
from fastvit_bench.exporting import calibration, quantised
from fastvit_bench.exporting.checkpoints import channels_of, find_checkpoint, load_network
from fastvit_bench.exporting.checkpoints import contents as checkpoint_contents
from fastvit_bench.exporting.metadata import (
    asked_for,
    is_own,
    metadata_entries,
    metadata_path,
    own_version,
    read_artifact,
    reference_outputs_path,
)
from fastvit_bench.exporting.preparation import resolve
from fastvit_bench.network import registry
from fastvit_bench.records import (
    CALIBRATED,
    DRAW,
    Artifact,
    CalibrationImages,
    Device,
    EngineBuilt,
    ExportJob,
    Fuse,
    Gelu,
    HalfWeights,
    Head,
    ModelSpec,
    Parity,
    Quantisation,
    Shape,
    Tune,
    Weights,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.backends import Batch, QuantisedFile, Session, Subject
    from fastvit_bench.exporting.tuning import Instruments
    from fastvit_bench.exporting.verification import ReferenceOutputs
    from fastvit_bench.network.cost import Cost
    from fastvit_bench.network.factory import Reference


# long: names every field of the job
def job(
    spec: ModelSpec,
    weights: Weights,
    shape: Shape,
    fused: Fuse | None,
    device: Device,
    *,
    folder: Path,
    path: Path | None = None,
    functions: tuple[Shape, ...] = (),
    labels: tuple[str, ...] = (),
    force: bool = False,
    seed: int = 0,
    tune: Tune | None = None,
) -> ExportJob:
    """Return the job that exports a model for a device; without `path`, to ``folder/MODEL/`` under a name with its key.

    `functions` are all shapes of a file that takes several, `shape` first. `labels` are class names to put into it.
    `seed` draws the calibration images of a device in INT8, and `tune` says how its choices are searched. Raises
    `UsageError` for INT8 without such images.
    """
    backend = backends.get(device.backend)
    options = backend.options(device)
    images = calibration.choose(spec, shape, device, seed) if device.precision in CALIBRATED else None
    shaping = {**backends.shaping_options(backend, options), **_beside_options(labels, images, tune)}
    registry.require(spec.variant)
    channels, stride = channels_of(spec), registry.find(spec.variant).stride
    shape, *functions_ = (msgspec.structs.replace(entry, channels=channels) for entry in (shape, *functions))
    toolchain = _toolchain(spec, device, backend)
    asked = ExportJob(
        model=spec.name,
        variant=spec.variant,
        head=spec.head,
        classes=spec.classes,
        checkpoint=spec.checkpoint,
        contents=checkpoint_contents(spec),
        preparation=resolve(spec).preparation,
        weights=weights,
        backend=device.backend,
        precision=device.precision,
        shape=shape,
        fused=None if spec.variant == registry.ONNX else fused,
        device=msgspec.structs.replace(device, options=options),
        toolchain=toolchain,
        path="",
        options=shaping,
        functions=tuple(functions_),
        gelu=spec.gelu,
        pad=spec.pad and any(side % stride for entry in (shape, *functions) for side in (entry.height, entry.width)),
        normalize=spec.normalize,
        labels=labels,
        calibration=images,
        tune=tune,
        force=force,
    )
    if path is None:
        name = spec.name.replace(":", "-")  # in names of timm's networks, which some file systems refuse
        parts = (name, shape.size, f"b{shape.batch}", device.precision, asked.fused, asked.key)
        path = folder / name / ("_".join(filter(None, parts)) + backend.suffix)
    return msgspec.structs.replace(asked, path=str(path))


def _beside_options(labels: tuple[str, ...], images: CalibrationImages | None, tune: Tune | None) -> dict[str, str]:
    """Return what shapes a file beside the options of its backend, as text."""
    shaping: dict[str, str] = {}
    if labels:
        shaping["labels"] = hashlib.sha256("\n".join(labels).encode()).hexdigest()[:16]
    if images is not None:
        shaping["calibration"] = f"{images.chosen.images} images, {images.chosen.digest[:16]}"
    if tune is not None:
        shaping["tune"] = f"{tune.goal} within {tune.budget_s:g} s"
    return shaping


def _toolchain(spec: ModelSpec, device: Device, backend: backends.Backend) -> dict[str, str]:
    """Return the versions of all packages that affect the file of a model for a device."""
    toolchain = {"fastvit-bench": own_version(), **backends.toolchain(backend)}
    if registry.find(spec.variant).family == "timm":
        toolchain |= backends.versions(("timm",))
    if device.precision == "int8":
        toolchain |= backends.versions(("onnxruntime",))
    if _is_rounded(device.precision, backend):
        assert backend.rounder is not None
        backends.require(backend.name, device)
        toolchain |= backends.versions(backend.rounder.PACKAGES)
    return toolchain


def _is_rounded(precision: str, backend: backends.Backend) -> bool:
    """Return whether files of a precision are proved against a rounded network, and not against that in float64."""
    return backend.rounder is not None and precision in backend.rounder.PRECISIONS


def cached(asked: ExportJob) -> Artifact | None:
    """Return the artifact of an earlier export by an equal job, or None; its file's hash is checked."""
    path = Path(asked.path)
    try:
        artifact = read_artifact(path)
        digest = files.sha256(path)
    except (OSError, UsageError):
        return None
    proved = artifact.parity is not None and artifact.parity.passed
    same = artifact.key == asked.key and artifact.sha256 == digest
    return artifact if proved and same and reference_outputs_path(path).is_file() else None


def export(asked: ExportJob, instruments: "Instruments | None" = None) -> Artifact:
    """Export a network, prove the file against it, and return the artifact whose side-car was written.

    No file bears the final name before the proof. A file that fails it is kept as ``*.rejected`` and raises
    `ParityError`; any other failure leaves no file. Raises `CheckpointError` for weights that cannot be used and
    `UsageError` for a job that is impossible or a path that must not be written. Where the job says `force`, files that
    this tool did not write are replaced too; the job's input never is. A job with `tune` needs `instruments`.
    """
    backend = backends.get(asked.backend)
    path = Path(asked.path)
    check_job(asked)
    source = _source(asked, backend, instruments)
    asked = source.asked
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.temporary_folder(path.parent) as folder:
            draft = folder / f"{path.name.removesuffix(backend.suffix)}{backend.suffix}"
            written = source.write(draft, metadata_entries(asked, source.price))
            wanted, proofs = _proved(source, draft)
            proof = max(proofs.values(), key=lambda parity: (not parity.passed, parity.spent))
            artifact = _artifact(source, backend, draft, proofs, proof)
            if written is not None:
                quantisation = quantised.record(written, asked, source.reference, draft)
                artifact = msgspec.structs.replace(artifact, quantisation=quantisation)
            final = path.with_name(artifact.path)
            _publish(artifact, draft, final, wanted.of(asked.shape) if proof.passed else None)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    if not proof.passed:
        raise ParityError(
            f"{path.name} does not compute what the network computes: {proof.reason}. It was kept as {final}."
        )
    return artifact


def check_job(asked: ExportJob) -> None:
    """Raise `UsageError` for what the backend or the network lacks, and for a path that must not be written."""
    backend, path = backends.get(asked.backend), Path(asked.path)
    if asked.precision not in backend.precisions:
        raise UsageError(
            f"The {backend.name} backend exports {' or '.join(backend.precisions)}, not {asked.precision}; "
            f"change the precision of device '{asked.device.name}'."
        )
    _check_sizes(asked)
    if not files.is_part(path.name):
        raise UsageError(f"'{path.name}' cannot be the name of an exported file; name another one with -o.")
    inputs = _inputs(asked)
    own = asked.key in path.name  # this tool's, even if its side-car was never finished
    force = asked.force or own
    for target in (path, _rejected(path)):
        _check_target(target, backend, inputs, force=force, own=own)
        files.check_output(metadata_path(target), inputs=inputs, force=force, own=_is_artifact)
    _check_reference_outputs(reference_outputs_path(path), inputs, force=force)
    if (refused := files.refusal(path.parent)) is not None:
        raise UsageError(f"{path} cannot be written: {refused}.")


def _check_sizes(asked: ExportJob) -> None:
    """Raise `UsageError` for a size of a job that its network does not take."""
    from fastvit_bench.backends._onnx import export as onnx_export

    entry = registry.find(asked.variant)
    stride = 1 if asked.pad else entry.stride
    if entry.family != "fastvit" and (asked.pad or asked.gelu != "erf" or asked.shape.channels != 3):
        raise UsageError(
            f"{asked.variant} takes RGB images of its own sizes, with its own GELU; channels, gelu and pad are for "
            "FastViT's networks."
        )
    if entry.family != "fastvit" and asked.normalize:
        raise UsageError(
            f"{asked.variant} has no embedding that --normalize could divide by its L2 norm; leave it out."
        )
    if asked.pad and asked.options.get("dynamic"):
        raise UsageError("A file of several sizes is not padded; leave --pad or --dynamic out.")
    if asked.options.get("input") == "image" and asked.shape.channels != 3:
        raise UsageError(
            f"An input of 8-bit pixels is RGB, and {asked.model} takes {asked.shape.channels} channels; "
            "give --input tensor."
        )
    if asked.calibration is not None:
        impossible = {
            "8-bit pixels as its input": asked.precision == "int8" and asked.options.get("input") == "image",
            "several batches": bool(asked.options.get("batches")),
            "several sizes": bool(asked.functions),
            "weights that are compressed besides": asked.options.get("compress", "none") != "none",
            "these channels": asked.shape.channels != 3,
        }
        if what := next((what for what, wrong in impossible.items() if wrong), None):
            raise UsageError(
                f"A file of 8 bits is calibrated on RGB images of one size and batch, so it cannot have {what}; export "
                "it in fp32 or fp16, or without."
            )
    for shape in (asked.shape, *asked.functions):
        registry.check_size(shape.height, shape.width, stride)
    for size in onnx_export.sizes(asked.options.get("dynamic", "")) or ():
        registry.check_size(size, size, stride)


def _inputs(asked: ExportJob) -> tuple[Path, ...]:
    """Return the files that a job reads."""
    if asked.checkpoint is None:
        return ()
    checkpoint = Path(asked.checkpoint)
    if asked.variant != registry.ONNX:
        return (checkpoint,)
    from fastvit_bench.backends._onnx import external

    return (checkpoint, *external.data_files(checkpoint))


def _check_target(target: Path, backend: backends.Backend, inputs: Iterable[Path], *, force: bool, own: bool) -> None:
    """Raise `UsageError` if an exported file would replace an input or, without `force`, a file of someone else's.

    A folder of someone else's is never replaced: it may hold anything. `own` says that the name is this tool's.
    """
    for source in inputs:
        with suppress(OSError, ValueError):
            if target.samefile(source) or target.resolve() in source.resolve().parents:
                raise UsageError(f"{target} is the file that is read, or holds it; name another output with -o.")
    if not files.exists(target):
        return
    if not target.is_file() and not target.is_dir():
        raise UsageError(f"{target} is no file that can be replaced, but a device, a pipe or a socket.")
    if own or (force and target.is_file()) or _is_own(target, backend):
        return
    if target.is_dir():
        raise UsageError(
            f"{target} holds files that were not written by fastvit-bench, or were changed since; name another place "
            "with -o, or remove it yourself."
        )
    raise UsageError(
        f"{target} exists and was not written by fastvit-bench; name another place with -o, or replace it with --force."
    )


def _is_own(path: Path, backend: backends.Backend) -> bool:
    """Return whether this tool wrote the file at a path, as its side-car or the file itself says."""
    with suppress(OSError, UsageError):
        if read_artifact(path).sha256 == files.sha256(path):
            return True
    if path.is_dir():  # beside what the metadata is of, it may hold files of someone else's
        return False
    try:
        return is_own(backend.metadata(path))
    except ChecksumError:  # one of this tool's that was changed since
        return True
    except (OSError, FastViTBenchError):
        return False


def _is_artifact(content: bytes) -> bool:
    """Return whether the content of a file is a side-car of this tool's."""
    try:
        _sidecars.decode(content, Artifact)
    except ValueError:
        return False
    return True


def _check_reference_outputs(path: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Raise `UsageError` if reference outputs would replace an input or, without `force`, a file of someone else's."""
    from fastvit_bench.exporting import verification

    force = force or (files.exists(path) and verification.is_own(path))
    files.check_output(path, inputs=inputs, force=force, own=lambda _: False)


def _rejected(path: Path) -> Path:
    """Return the path at which a file is kept that fails its proof."""
    return path.with_name(path.name + ".rejected")


def _artifact(
    source: "_Source", backend: backends.Backend, draft: Path, proofs: dict[str, Parity], proof: Parity
) -> Artifact:
    """Return the record of a written file, of which `proof` is the worst of the `proofs`."""
    asked = source.asked
    name = Path(asked.path).name
    return Artifact(
        model=asked.model,
        variant=asked.variant,
        head=asked.head,
        classes=asked.classes,
        contents=asked.contents,
        preparation=asked.preparation,
        backend=asked.backend,
        precision=asked.precision,
        shape=asked.shape,
        fused=asked.fused,
        gelu=asked.gelu,
        pad=asked.pad,
        normalize=asked.normalize,
        weights=asked.weights,
        toolchain=asked.toolchain,
        path=name if proof.passed else _rejected(Path(name)).name,
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
        quantisation=source.quantisation,
    )


def _publish(artifact: Artifact, draft: Path, final: Path, expected: "ReferenceOutputs | None") -> None:
    """Give a file its final name, and write its side-car and the reference outputs, if any, beside it."""
    from fastvit_bench.exporting import verification

    notes, outputs = metadata_path(draft), reference_outputs_path(draft)
    notes.write_bytes(msgspec.json.format(msgspec.json.encode(artifact), indent=2) + b"\n")
    if expected is not None:
        with outputs.open("wb") as file:
            verification.save(expected, file)
        outputs.replace(reference_outputs_path(final))
    files.put(draft, final)
    notes.replace(metadata_path(final))


def _half_weights(metadata: Mapping[str, str]) -> HalfWeights | None:
    """Return a file's record of its weights in float16, if it has one."""
    noted = metadata.get(HALF_WEIGHTS)
    return msgspec.json.decode(noted, type=HalfWeights) if noted else None


class ReferenceCache:
    """The outputs that a file must compute for the fixed images, cached by their shape and form."""

    def __init__(self, compute: "Callable[[Shape, Images], ReferenceOutputs]") -> None:
        self._compute = compute
        self._cache: dict[tuple[Shape, Images], ReferenceOutputs] = {}

    def outputs(self, shape: Shape, form: Images) -> "ReferenceOutputs":
        """Return the outputs for images of a shape in a form."""
        if (shape, form) not in self._cache:
            self._cache[shape, form] = self._compute(shape, form)
        return self._cache[shape, form]

    def of(self, shape: Shape) -> "ReferenceOutputs":
        """Return the first cached outputs of a shape; a file has one form of images."""
        return next(outputs for (cached_shape, _), outputs in self._cache.items() if cached_shape == shape)


@dataclass(frozen=True)
class _Source:
    """A network to export: its job, its cost, its reference outputs, and the function that writes it.

    The function takes a path and metadata, and returns what was done to a network that it quantised.
    """

    asked: ExportJob  # with the head and classes of the loaded network
    price: "Cost"
    wanted: ReferenceCache
    write: "Callable[[Path, dict[str, str]], QuantisedFile | None]"
    network: "nn.Module | None" = None  # at its fuse level
    reference: "Reference | None" = None
    quantisation: Quantisation | None = None  # where the network was rounded


def _source(asked: ExportJob, backend: backends.Backend, instruments: "Instruments | None" = None) -> _Source:
    """Load the network or the ONNX file of a job; `instruments` are for choices that are searched."""
    if asked.variant == registry.ONNX:
        return _from_file(asked, backend)
    return _from_network(asked, backend, instruments)


def reference_outputs_of(asked: ExportJob) -> "Callable[[Batch], NDArray[np.floating]]":
    """Return a function from a batch, as a session takes it, to the only output (N, …) of a job's reference network.

    It is the network in float64 as its weights come, before any fusing.
    """
    import torch

    from fastvit_bench.exporting import verification

    reference, how = _reference_of(asked), registry.preparation_of(asked)

    def outputs(batch: "Batch") -> "NDArray[np.floating]":
        with torch.no_grad():
            return reference.network(torch.from_numpy(verification.normalised(batch, how))).numpy()

    return outputs


def _reference_of(asked: ExportJob) -> "Reference":
    """Return the reference network of a job; only networks with position tables depend on its size."""
    shape = asked.shape if registry.find(asked.variant).sized else None
    shape = shape or Shape(batch=1, height=256, width=256, channels=asked.shape.channels)
    kind = (asked.variant, asked.head, asked.classes, asked.gelu, asked.pad, asked.normalize)
    return _reference(asked.checkpoint, asked.weights, shape, *kind)


def _from_network(asked: ExportJob, backend: backends.Backend, instruments: "Instruments | None") -> _Source:
    """Load the network of a job at its fuse level; the reference is the network as its weights come."""
    from fastvit_bench.exporting import fidelity, tuning, verification
    from fastvit_bench.network import cost, factory

    level = asked.fused
    assert level is not None
    reference = _reference_of(asked)
    if level is Fuse.NONE and reference.form == "fused":
        raise UsageError(
            f"{asked.checkpoint} holds the fused form, whose branches are gone; export it with --fuse fused or folded."
        )
    asked = msgspec.structs.replace(asked, head=reference.head, classes=reference.classes)
    how = registry.preparation_of(asked)
    network = factory.at_level(asked.variant, reference, level, backend.layout(asked))
    price = cost.count(network, asked.shape)
    if _is_rounded(asked.precision, backend):
        return _rounded(asked, backend, reference, network, price)

    def write(path: Path, metadata: dict[str, str]) -> "QuantisedFile | None":
        if asked.calibration is None:
            return backend.export(network, asked, path, metadata)
        images = calibration.prepared(asked.calibration)
        quantiser = backend.quantiser(network, asked, images)
        if asked.tune is None:
            return quantiser.write(path, metadata)
        assert instruments is not None
        known = fidelity.expected(reference, images[: fidelity.IMAGES])
        return tuning.write(quantiser, asked, known, path, metadata, instruments)

    return _Source(
        asked,
        price,
        ReferenceCache(lambda shape, form: verification.reference_outputs(reference, shape, form, how)),
        write,
        network,
        reference,
    )


def _from_file(asked: ExportJob, backend: backends.Backend) -> _Source:
    """Load the user's ONNX file of a job; the reference is the outputs of its operators run one by one."""
    from fastvit_bench.backends._onnx import external, traffic
    from fastvit_bench.backends._onnx import session as onnx_session
    from fastvit_bench.exporting import verification
    from fastvit_bench.network.cost import Cost

    assert asked.checkpoint is not None
    file = Path(asked.checkpoint)
    if not backend.accepts_external_onnx or asked.precision != "fp32":
        raise UsageError(
            f"{file.name} is an ONNX file, which ONNX Runtime runs as it is; device '{asked.device.name}' takes "
            f"{backend.target} files in {asked.precision}."
        )
    if asked.options.get("input") == "image":
        raise UsageError(f"{file.name} is run as it is, and takes tensors; leave its input at tensor.")
    model = external.normalize_external_onnx(file, asked.shape)

    def outputs(shape: Shape, form: Images) -> "ReferenceOutputs":
        name, how = file.name, f"operators of {file.name} one by one in ONNX Runtime, {INPUT} from N(0, 1)"
        with onnx_session.unoptimised(name, model.SerializeToString(), backends.available_cores()) as session:
            return verification.outputs_of(session, shape, how)

    counted = traffic.of(external.copy(model), asked.shape, file.name)
    return _Source(
        msgspec.structs.replace(asked, head=Head.CLASSIFIER, classes=external.classes(model)),
        Cost(params=counted.params, macs=counted.macs),
        ReferenceCache(outputs),
        lambda path, metadata: external.write(model, path, metadata),
    )


def _proved(source: _Source, path: Path) -> tuple[ReferenceCache, dict[str, Parity]]:
    """Prove a file; return what it must compute, and the proofs by name.

    A file in INT8 must compute what the network rounded to its grids computes, which has a proof of its own before it
    is rounded.
    """
    if source.asked.precision != "int8":
        return source.wanted, _prove(source.wanted, path, source.asked)
    assert source.network is not None
    proof, outputs = quantised.references(source.network, source.wanted.outputs, source.asked, path)
    wanted = ReferenceCache(lambda shape, form: outputs)
    wanted.outputs(source.asked.shape, outputs.form)
    return wanted, {"float graph": proof, **_prove(wanted, path, source.asked)}


def _rounded(
    asked: ExportJob, backend: backends.Backend, reference: "Reference", network: "nn.Module", price: "Cost"
) -> _Source:
    """Return the source of a file in 8 bits: a rounded network, which the file is proved against."""
    from fastvit_bench.exporting import fidelity, rounding, verification

    assert backend.rounder is not None
    images = calibration.prepared(asked.calibration) if asked.calibration else []
    rounded = backend.rounder.rounded(network, asked, images)
    how, std = registry.preparation_of(asked), backend.layout(asked).std
    fixed = verification.images(msgspec.structs.replace(asked.shape, batch=1))
    compared = images[: fidelity.IMAGES] or [batch[0].astype("float32") for batch in fixed]
    known = fidelity.expected(reference, compared)
    likeness = fidelity.compare(known, rounding.of_network(rounded.network, asked.shape, std))
    return _Source(
        asked,
        price,
        ReferenceCache(lambda shape, form: rounding.outputs(rounded.network, reference, shape, form, how, std)),
        lambda path, metadata: backend.export(rounded.network, asked, path, metadata),
        quantisation=msgspec.structs.replace(rounded.scheme, fidelity=likeness),
    )


def _prove(wanted: ReferenceCache, path: Path, asked: ExportJob) -> dict[str, Parity]:
    """Prove a file with every session that the backend opens for it; return the proofs by session name."""
    proofs: dict[str, Parity] = {}
    for look in backends.get(asked.backend).verification_sessions(path, asked):
        with look.session as session:
            known = wanted.outputs(look.shape, session.images)
            proofs[look.name] = _compare(known, session, asked, look.how, look.subject, look.precision)
    return proofs


def _compare(
    known: "ReferenceOutputs",
    session: "Session",
    exported: ExportJob | Artifact,
    how: str,
    subject: "Subject",
    precision: str | None = None,
) -> Parity:
    """Compare a session's outputs with reference outputs, by the limits of `precision`, if any, or the file's own."""
    from fastvit_bench.exporting import verification

    compress, random = exported.options.get("compress", "none"), exported.weights.origin == "random"
    return verification.prove(
        known, session, precision or exported.precision, how=how, compress=compress, random=random, subject=subject
    )


def check(session: "Session", path: Path, exported: ExportJob | Artifact, how: str) -> Parity:
    """Compare the outputs of a session of a proved file on its device with the reference outputs beside the file.

    `how` names what computes, for the message. Raises `ParityError` if they differ, and `UsageError` if there are no
    reference outputs.
    """
    from fastvit_bench.exporting import verification

    proof = _compare(verification.load(reference_outputs_path(path)), session, exported, how, "hardware")
    if not proof.passed:
        raise ParityError(f"{how} computes something else than the network: {proof.reason}.")
    return proof


def build_engine(asked: ExportJob) -> EngineBuilt:
    """Build the engine of a proved file and prove its outputs, without a proof if this machine cannot run it.

    Call it in a process of its own, because native code may end the process. Raises what `backends.Engines.build`
    raises, `ParityError` for an engine that computes something else, and `UsageError` if the disk refuses to write.
    """
    backend, path = backends.get(asked.backend), Path(asked.path)
    assert backend.engines is not None
    try:
        engine = str(backend.engines.build(path, asked.device))
        record = backend.engines.record(path, asked.device)
        built = EngineBuilt(path=engine, parity=None, integer=record.integer, floating=record.floating)
        if backend.device_unavailable_reason(asked.device):
            return built
        try:
            hardware = backend.detect_hardware(asked.device)
        except MismatchError:  # built ahead of time, for another GPU than this machine's
            return built
        with backend.open(path, asked.device) as session:
            proof = check(session, path, asked, f"the engine on {hardware.name if hardware else 'this machine'}")
        backend.engines.note(path, asked.device, proof)
    except OSError as error:
        raise UsageError(f"The engine of {path} cannot be written: {error.strerror or error}.") from error
    return msgspec.structs.replace(built, parity=proof)


def verify(path: Path, checkpoint: Path | None, models: Path, entry: str | None = None) -> dict[str, Parity]:
    """Prove an exported file again from its bytes on disk; return the proofs by session name.

    The job is read from the file's metadata. The reference is the network of `checkpoint`, which must be the one the
    file was exported from. Without it, the reference has the checkpoint of that hash in the `models` folder, or the
    same random weights. `entry`, where it is given, must be the one that was exported. A proof that fails is returned
    too. Raises `ChecksumError` for a file that is damaged or not the one its side-car describes, and `CheckpointError`
    if the weights are missing.
    """
    from fastvit_bench.exporting import verification

    if not files.exists(path):
        raise UsageError(f"{path} does not exist; `fastvit-bench export` writes such files.")
    try:
        asked = asked_for(path, backends.of_file(path))
    except UnavailableError as error:  # a file that cannot even be read computes nothing
        raise ChecksumError(str(error)) from error
    weights = asked.weights
    if weights.origin == "checkpoint":
        checkpoint = find_checkpoint(weights, checkpoint, models, entry)
        asked = msgspec.structs.replace(asked, checkpoint=str(checkpoint))
    elif checkpoint is not None:
        raise UsageError(f"{path} was made from random weights (seed {weights.seed}); leave the checkpoint out.")
    elif weights.draw != DRAW:
        raise CheckpointError(
            f"{path} was made from random weights as another version of fastvit-bench draws them; export it again."
        )
    _check_described(path)
    try:
        if asked.precision == "w8a8":  # its images are not here
            stored = verification.load(reference_outputs_path(path))
            return _prove(ReferenceCache(lambda shape, form: stored), path, asked)
        return _proved(_source(asked, backends.get(asked.backend)), path)[1]
    except FastViTBenchError:
        raise
    except MemoryError:
        raise UnavailableError(f"{path} cannot be proved: this machine has not enough memory for it.") from None
    except Exception as error:  # the file may be a stranger's, and the toolkits raise many kinds
        raise UnavailableError(f"{path} cannot be run: {first_line(error)}.") from error


def _check_described(path: Path) -> None:
    """Raise `ChecksumError` unless a file is the one that its side-car, if any, describes."""
    if not files.exists(metadata_path(path)):
        return  # the file was moved without its side-car; its metadata suffices
    recorded = read_artifact(path)
    try:
        digest = files.sha256(path)
    except OSError as error:
        raise ChecksumError(f"{path} cannot be read: {error.strerror or error}.") from None
    if recorded.sha256 != digest:
        raise ChecksumError(f"{path} is not the file that {metadata_path(path).name} describes; export it again.")


@functools.lru_cache(maxsize=1)
def _reference(
    checkpoint: str | None,
    weights: Weights,
    shape: Shape,
    variant: str,
    head: Head,
    classes: int,
    gelu: Gelu,
    pad: bool,
    normalize: bool,
) -> "Reference":
    """Build the network in float64 as its weights come; cached for the next size of the same model."""
    from fastvit_bench.network import factory

    if checkpoint is not None:
        network = load_network(checkpoint, variant, head, weights.sha256, weights.entry)
        return factory.of(network, gelu, pad=pad, normalize=normalize)
    assert weights.seed is not None
    return factory.random(variant, head, classes, weights.seed, shape, gelu, pad=pad, normalize=normalize)
