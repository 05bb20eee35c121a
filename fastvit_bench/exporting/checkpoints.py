"""Load a checkpoint for a model, and describe what it holds."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench import files
from fastvit_bench.errors import CheckpointError, ChecksumError, UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import DRAW, Fuse, Head, ModelFacts, ModelSpec, Shape, Weights

if TYPE_CHECKING:
    from fastvit_bench.network.fastvit import FastViT


_MOST_FILES = 100_000  # below the models folder, that a checkpoint is searched among


def weights_of(spec: ModelSpec, seed: int) -> Weights:
    """Return the identity of a model's weights: its checkpoint's hash, or the seed of random ones.

    Raises `CheckpointError` for a missing file and `ChecksumError` for one whose hash is not the configured one.
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
        raise _unreadable(path, error) from None
    if spec.sha256 is not None and spec.sha256.lower() != digest:
        raise ChecksumError(
            f"{path} has the SHA-256 {digest}, but the configuration of '{spec.name}' says {spec.sha256}; "
            f"put the right file there, or correct the configuration."
        )
    return Weights(origin="checkpoint", sha256=digest, file=path.name)


def find_checkpoint(weights: Weights, checkpoint: Path | None, models: Path) -> Path:
    """Return the checkpoint file with the hash of `weights`: `checkpoint`, or without it a file below `models`.

    Raises `CheckpointError` if there is none.
    """
    if checkpoint:
        try:
            if files.file_sha256(checkpoint) == weights.sha256:
                return checkpoint
        except OSError as error:
            raise _unreadable(checkpoint, error) from None
        raise CheckpointError(f"{checkpoint} is not the checkpoint the file was made from, {weights.label}.")
    for path in _named(weights.file or "", models):
        with suppress(OSError):  # one that cannot be read is not the one, for all that is known
            if files.file_sha256(path) == weights.sha256:
                return path
    raise CheckpointError(
        f"The checkpoint {weights.label} is not in {models}/; name it with --checkpoint, so that there is "
        f"something to compare with."
    )


def _named(name: str, folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that have a name; it comes from a file, so nothing in it has a meaning.

    Raises `CheckpointError` where there are more than `_MOST_FILES`.
    """
    count = 0
    for place, _, names in os.walk(folder):
        count += len(names)
        if count > _MOST_FILES:
            raise CheckpointError(
                f"{folder}/ holds more than {_MOST_FILES} files; name the checkpoint with --checkpoint."
            )
        if files.is_part(name) and name in names:
            yield Path(place, name)


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a checkpoint that cannot be read."""
    return CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror or error}.")


def check_checkpoint(spec: ModelSpec) -> None:
    """Raise `CheckpointError` or `ChecksumError` unless the model's checkpoint can be used; random weights always can.

    A sweep calls it before it begins, so that one wrong file is one message and not a failure of every cell.
    """
    if spec.checkpoint is not None and spec.variant != registry.ONNX:
        load_network(spec.checkpoint, spec.variant, spec.head, spec.sha256)


def answers_of(spec: ModelSpec, shape: Shape) -> tuple[Head, int]:
    """Return a model's head and number of classes: its checkpoint's, or the declared ones for random weights.

    An ONNX file is adopted for images of `shape`, which may take long, so call it in a process of its own.
    """
    if spec.checkpoint is None:
        return spec.head, spec.classes
    if spec.variant == registry.ONNX:
        from fastvit_bench.backends._onnx import external

        return Head.CLASSIFIER, external.classes(external.normalize_external_onnx(Path(spec.checkpoint), shape))
    network = load_network(spec.checkpoint, spec.variant, spec.head, spec.sha256)
    return network.head_kind, network.classes


def load_network(checkpoint: str, variant: str, head: Head, sha256: str | None) -> "FastViT":
    """Load the network of a checkpoint that must be of a variant, and dense if a dense head was declared.

    Raises `UsageError` for a variant of another family than FastViT, and what `network.checkpoint.load` raises.
    """
    from fastvit_bench.network import checkpoint as checkpoints

    if registry.find(variant).family != "fastvit":
        raise UsageError(f"Weight files are read of FastViT's variants only, and not of {variant}; leave it out.")
    expected = head if head is not Head.CLASSIFIER else None  # classifier is the default, so it may be undeclared
    return checkpoints.load(Path(checkpoint), variant=variant, head=expected, sha256=sha256).network


def describe(spec: ModelSpec, models: Path) -> ModelFacts:
    """Count a model's parameters and multiply-accumulates, and find its checkpoints, without computing outputs."""
    from fastvit_bench.network import cost, factory

    shape = Shape(batch=1, height=spec.resolution, width=spec.resolution)
    size = (spec.resolution, spec.resolution)
    networks = {level: factory.skeleton(spec.variant, spec.head, spec.classes, level, size) for level in Fuse}
    folder = models / spec.name
    names = sorted(path.name for suffix in ("*.pth.tar", "*.safetensors") for path in folder.glob(suffix))
    return ModelFacts(
        spec=spec,
        params={level: sum(p.numel() for p in network.parameters()) for level, network in networks.items()},
        gmacs=cost.count(networks[Fuse.FOLDED], shape).macs / 1e9,
        checkpoints=tuple(names),
        stored_bytes=files.stored_bytes(folder),
    )
