"""Command `fuse`: save a checkpoint in the published fused layout."""

from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ForceOption, WeightsOption


def fuse(
    checkpoint: Annotated[Path, typer.Argument(help="Weight file of a FastViT network.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.pth.tar or .safetensors).")],
    weights: WeightsOption = None,
    force: ForceOption = False,
) -> None:
    """Save a checkpoint in the published fused layout.

    Its train-time branches are fused. The checkpoint itself is never replaced. Prints the number of fused parts by
    kind, and how far the fused and the folded network's outputs are from the checkpoint's own.

    \b
    fastvit-bench fuse fastvit_t8.pth.tar -o fused.pth.tar
    fastvit-bench fuse fastvit_t8.pth.tar -o fused.safetensors
    """
    from fastvit_bench.exporting import fuse_file
    from fastvit_bench.network import checkpoint as surveys
    from fastvit_bench.render import listing

    console = _output.stderr()
    report = fuse_file.fuse_file(checkpoint, output, weights=weights, force=force)
    if remark := surveys.survey(checkpoint, entry=weights).remark:
        _output.say(f"{checkpoint}: {remark}")
    console.print(listing.fusing(report, console.width))
    typer.echo(output)
