"""Fuse a checkpoint, check it exactly, and write it as a file."""

from pathlib import Path

from fastvit_bench import files
from fastvit_bench.errors import ParityError
from fastvit_bench.records import Fuse, Fusing, Shape

EXACT = 1e-9  # largest relative difference, in float64, that the fusing algebra may make


def fuse_file(checkpoint: Path, output: Path, *, weights: str | None = None, force: bool = False) -> Fusing:
    """Fuse a weight file and save it in the published fused layout; return counts and differences.

    `weights` chooses among several networks in the file. The saved file is loaded again and compared too. Raises
    `ParityError` if the algebra is not exact; then nothing is written. Raises `CheckpointError` and `UsageError` as
    `network.checkpoint` does, and `UsageError` for an output that is the checkpoint itself or, without `force`, any
    file that this function did not write.
    """
    from fastvit_bench.exporting import verification
    from fastvit_bench.network import checkpoint as checkpoints
    from fastvit_bench.network import reparam

    checkpoints.check_target(output)
    files.check_output(output, inputs=[checkpoint], force=force, own=checkpoints.is_saved)
    loaded = checkpoints.load(checkpoint, entry=weights)
    reference = loaded.network.double()
    shape = Shape(batch=1, height=256, width=256, channels=reference.variant.channels_in)
    networks = {level: reparam.at_level(reference, level) for level in Fuse}
    differences = {level: verification.difference(reference, network, shape) for level, network in networks.items()}
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
        saved_difference=verification.difference(reference, saved, shape),
    )
