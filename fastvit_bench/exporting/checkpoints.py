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


HASHED = 4 << 30  # bytes of a weight file that is known by the hash of all of it, as in `network.checkpoint.loading`
_MOST_FILES = 100_000  # below the models folder, that a checkpoint is searched among


def weights_of(spec: ModelSpec, seed: int) -> Weights:
    """Return the identity of a model's weights: its checkpoint's hash, or the seed of random ones.

    Of a file with several networks it names the one that is meant. Raises `CheckpointError` for a file that is missing
    or holds none, and `ChecksumError` for one whose hash is not the configured one.
    """
    if spec.checkpoint is None:
        return Weights(origin="random", seed=seed, draw=DRAW)
    path = Path(spec.checkpoint)
    if holds_network(spec):
        from fastvit_bench.network import checkpoint as checkpoints

        weights = checkpoints.identify(path, variant=spec.variant, entry=spec.weights)
    else:
        try:
            weights = Weights(origin="checkpoint", sha256=files.file_sha256(path), file=path.name)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} does not exist; check the path; `fastvit-bench download` brings published checkpoints."
            ) from None
        except OSError as error:
            raise _unreadable(path, error) from None
    if spec.sha256 is not None and spec.sha256.lower() != weights.sha256:
        raise ChecksumError(
            f"{path} has the SHA-256 {weights.sha256}, but the configuration of '{spec.name}' says {spec.sha256}; "
            f"put the right file there, or correct the configuration."
        )
    return weights


def holds_network(spec: ModelSpec) -> bool:
    """Return whether a model's checkpoint is a weight file of a FastViT."""
    return spec.checkpoint is not None and registry.find(spec.variant).family == "fastvit"


def channels_of(spec: ModelSpec) -> int:
    """Return the channels of a model's images: those of its checkpoint's first convolution, else the declared ones."""
    if not holds_network(spec):
        return spec.channels
    from fastvit_bench.network import checkpoint as checkpoints

    assert spec.checkpoint is not None
    return checkpoints.survey(Path(spec.checkpoint), variant=spec.variant, entry=spec.weights).chosen.match.channels


def contents(spec: ModelSpec) -> str:
    """Return a line on where a model's network lies in its weight file, and what else the file holds; else ''."""
    if not holds_network(spec):
        return ""
    from fastvit_bench.network import checkpoint as checkpoints

    assert spec.checkpoint is not None
    return checkpoints.survey(Path(spec.checkpoint), variant=spec.variant, entry=spec.weights).remark


def find_checkpoint(weights: Weights, checkpoint: Path | None, models: Path, entry: str | None = None) -> Path:
    """Return the checkpoint file with the hash of `weights`: `checkpoint`, or without it a file below `models`.

    Raises `CheckpointError` if there is none, and where `entry` is another one than that of `weights`.
    """
    if entry is not None and entry != weights.entry:
        actual = f"from '{weights.entry}'" if weights.entry else "from a checkpoint with one network"
        raise CheckpointError(f"The file was exported {actual}, not from '{entry}'; correct --weights.")
    if checkpoint:
        try:
            if checkpoint.is_dir() or checkpoint.name.endswith(".index.json") or files.size_bytes(checkpoint) > HASHED:
                from fastvit_bench.network import checkpoint as checkpoints

                digest = checkpoints.identify(checkpoint, entry=weights.entry).sha256
            else:
                digest = files.file_sha256(checkpoint)
        except (OSError, ValueError) as error:  # ValueError for a NUL in the name
            raise _unreadable(checkpoint, error) from None
        if digest == weights.sha256:
            return checkpoint
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


def _unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    """Return the error for a checkpoint that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return CheckpointError(f"The checkpoint {path} cannot be read: {reason or error}.")


def check_checkpoint(spec: ModelSpec) -> None:
    """Raise `CheckpointError` or `ChecksumError` unless the model's checkpoint can be used; random weights always can.

    A sweep calls it before it begins, so that one wrong file is one message and not a failure of every cell.
    """
    if spec.checkpoint is not None and spec.variant != registry.ONNX:
        load_network(spec.checkpoint, spec.variant, spec.head, spec.sha256, spec.weights)


def answers_of(spec: ModelSpec, shape: Shape) -> tuple[Head, int]:
    """Return a model's head and number of classes: its checkpoint's, or the declared ones for random weights.

    An ONNX file is adopted for images of `shape`, which may take long, so call it in a process of its own.
    """
    if spec.checkpoint is None:
        return spec.head, spec.classes
    if spec.variant == registry.ONNX:
        from fastvit_bench.backends._onnx import external

        return Head.CLASSIFIER, external.classes(external.normalize_external_onnx(Path(spec.checkpoint), shape))
    network = load_network(spec.checkpoint, spec.variant, spec.head, spec.sha256, spec.weights)
    return network.head_kind, network.classes


def load_network(checkpoint: str, variant: str, head: Head, sha256: str | None, entry: str | None = None) -> "FastViT":
    """Load the network of a checkpoint that must be of a variant, and dense if a dense head was declared.

    `entry` chooses among several networks in the file.

    Raises `UsageError` for a variant of another family than FastViT, and what `network.checkpoint.load` raises.
    """
    from fastvit_bench.network import checkpoint as checkpoints

    if registry.find(variant).family != "fastvit":
        raise UsageError(f"Weight files are read of FastViT's variants only, and not of {variant}; leave it out.")
    expected = head if head is not Head.CLASSIFIER else None  # classifier is the default, so it may be undeclared
    return checkpoints.load(Path(checkpoint), variant=variant, head=expected, sha256=sha256, entry=entry).network


def describe(spec: ModelSpec, models: Path) -> ModelFacts:
    """Count a model's parameters and multiply-accumulates, and find its checkpoints, without computing outputs."""
    from fastvit_bench.network import cost, factory

    shape = Shape(batch=1, height=spec.resolution, width=spec.resolution, channels=spec.channels)
    networks = {
        level: factory.skeleton(spec.variant, spec.head, spec.classes, level, shape, pad=spec.pad) for level in Fuse
    }
    folder = models / spec.name
    names = sorted(path.name for suffix in ("*.pth.tar", "*.safetensors") for path in folder.glob(suffix))
    return ModelFacts(
        spec=spec,
        params={level: sum(p.numel() for p in network.parameters()) for level, network in networks.items()},
        gmacs=cost.count(networks[Fuse.FOLDED], shape).macs / 1e9,
        checkpoints=tuple(names),
        stored_bytes=files.stored_bytes(folder),
    )
