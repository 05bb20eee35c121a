"""Command `verify`: prove an exported file again."""

from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption, WeightsOption


def verify(
    path: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", "-c", help="Weight file that it was exported from. [default: searched in models/]"
        ),
    ] = None,
    weights: WeightsOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Prove an exported file again, as it is stored.

    It must compute what its network computes; the file itself names the network. Exit code 5: its outputs differ, or
    its content was changed.

    \b
    fastvit-bench verify t8.mlpackage
    fastvit-bench verify t8.onnx --checkpoint fastvit_t8.pth.tar
    """
    from fastvit_bench import backends, files, options
    from fastvit_bench.errors import ParityError
    from fastvit_bench.exporting import pipeline
    from fastvit_bench.render import listing

    backend = backends.of_file(path)
    backends.require(backend.name)
    models = Path(options.load(config_file).paths.models)
    with files.temporary_files_apart():
        proofs = pipeline.verify(path, checkpoint, models, weights)
    verbose = _output.verbose()
    for name, proof in proofs.items():
        what = str(path) if not name else f"{path} ({name})"
        _output.show(listing.proof(name, proof) if verbose else listing.proof(what, proof, verbose=False))
    failed = [proof for proof in proofs.values() if not proof.passed]
    if failed:
        raise ParityError(f"{path} does not compute what its network computes: {failed[0].reason}.")
    if verbose:
        quantised = proofs.keys() & {"INT8 file"}
        _output.show(f"{path}: {'quantised as its scheme says' if quantised else 'proved'}")
